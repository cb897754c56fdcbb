"""Limits: each has its reply and its line in the log, holds exactly, and counts for each connection by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from smtphooks import AuthResponse, Extension, SMTPError, SMTPServerFactory
from tests.secrets import PASSWORD, WRONG_PASSWORD, encoded, plain
from tests.support import (
    ENVELOPE,
    HELLO,
    LMTP_ENVELOPE,
    MAIL,
    RCPT,
    Client,
    Diary,
    Mailbox,
    Pending,
    Transport,
    makeFactory,
)

pytestmark = pytest.mark.usefixtures("logged")

FULL = "421 4.7.0 Too many connections, try again later"
FULL_HERE = "421 4.7.0 Too many connections from your address, try again later"


# The events that every connection and every message has.
_SUMMARIES = ("connection of ", "message from ")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines that smtphooks has logged, without those of _SUMMARIES, and without the id of the session."""
    logged: list[str] = []

    def observe(event: LogEvent) -> None:
        text = formatEvent(event)
        if "by" in event:  # a refusal, whose text holds more than these tests need
            text = ": ".join(filter(None, (event["verb"], event["reply"])))
        if str(event.get("log_namespace")).startswith("smtphooks") and not text.startswith(_SUMMARIES):
            logged.append(text.rpartition(" [")[0] or text)

    globalLogPublisher.addObserver(observe)
    yield logged
    globalLogPublisher.removeObserver(observe)


def arrive(factory: SMTPServerFactory, peer: Any = "192.0.2.7") -> Client:
    """A client with this address."""
    if isinstance(peer, str):
        peer = (IPv6Address if ":" in peer else IPv4Address)("TCP", peer, 50000)
    return Client(factory, Transport(peerAddress=peer))


def isServed(client: Client) -> bool:
    return client.replies()[0].startswith("220 ")


# --- connections ---


def test_a_client_too_many_gets_421_before_any_hook(lines: list[str]) -> None:
    diary = Diary()
    names = ("onConnect", "onHelo", "onClose", "onError")
    factory = makeFactory(maxClients=2, **{name: diary.hook(name) for name in names})
    clients = [arrive(factory), arrive(factory)]
    assert all(isServed(client) for client in clients)
    diary.clear()
    late = arrive(factory, "198.51.100.1")
    assert late.replies() == [FULL]
    assert late.isClosed
    late.protocol.dataReceived(b"EHLO client\r\n")
    late.halfClose()
    late.finish()
    assert (late.replies(), diary) == ([], [])
    assert late.protocol.session is None
    assert lines == [f"refused 198.51.100.1: {FULL}"]
    assert len(factory.connections) == 2
    clients[0].lose()
    assert isServed(arrive(factory))
    assert arrive(factory).replies() == [FULL]


def test_a_connection_counts_until_its_last_hook_has_ended() -> None:
    onClose = Pending()
    factory = makeFactory(maxClients=1, onClose=onClose)
    arrive(factory).lose()
    late = arrive(factory)
    assert late.replies() == [FULL]
    late.finish()
    onClose.decide()
    assert isServed(arrive(factory))


@pytest.mark.parametrize("most", [1, 3])
def test_connections_are_limited_for_each_address_by_itself(most: int, lines: list[str]) -> None:
    factory = makeFactory(maxClientsPerAddress=most)
    clients = [arrive(factory) for _ in range(most)]
    assert all(isServed(client) for client in clients)
    late = arrive(factory)
    assert late.replies() == [FULL_HERE]
    assert lines == [f"refused 192.0.2.7: {FULL_HERE}"]
    late.finish()
    assert isServed(arrive(factory, "192.0.2.8"))
    assert arrive(factory).replies() == [FULL_HERE]
    clients.pop().lose()
    assert isServed(arrive(factory))


@pytest.mark.parametrize(
    ("one", "other", "isSame"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:0:ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_an_IPv6_network_counts_as_one_client(one: str, other: str, isSame: bool) -> None:
    factory = makeFactory(maxClientsPerAddress=1)
    arrive(factory, one)
    assert isServed(arrive(factory, other)) is not isSame


@pytest.mark.parametrize("peer", [UNIXAddress(None), object()])
def test_a_client_without_an_address_is_not_limited_by_address(peer: Any) -> None:
    factory = makeFactory(maxClientsPerAddress=1)
    clients = [arrive(factory, peer) for _ in range(3)]
    assert all(isServed(client) for client in clients)
    for client in clients:
        client.lose()
    assert not factory.clients.networks


@pytest.mark.parametrize("name", [b"/run/client", b"/run/a:b", b"\0x:y%z"])
def test_a_client_with_the_path_of_a_UNIX_socket_is_served_and_released(name: bytes) -> None:
    factory = makeFactory(maxClientsPerAddress=1)
    client = arrive(factory, UNIXAddress(name))
    assert isServed(client)
    client.lose()
    assert not factory.clients.networks


def test_an_address_is_released_whatever_a_hook_does_to_the_session() -> None:
    def onConnect(session: Any) -> None:
        session.remoteAddress = "203.0.113.9"

    factory = makeFactory(maxClientsPerAddress=1, onConnect=onConnect)
    for _ in range(3):
        client = arrive(factory)
        assert isServed(client)
        client.lose()
    assert not factory.clients.networks


@pytest.mark.parametrize("name", ["maxClients", "maxClientsPerAddress"])
def test_without_a_limit_any_number_is_served(name: str) -> None:
    factory = makeFactory(**{name: 0})
    assert all(isServed(arrive(factory)) for _ in range(100))


@pytest.mark.parametrize("given", [{"maxClients": 1}, {"maxClientsPerAddress": 1}])
def test_with_implicit_TLS_a_client_too_many_gets_no_reply(given: dict[str, Any]) -> None:
    """A reply in the clear would not be TLS."""
    factory = makeFactory(secured=True, **given)
    arrive(factory)
    factory.server.options = attrs.evolve(factory.options, secured=False, secure=True)
    late = arrive(factory)
    assert late.isClosed
    assert late.replies() == []


def test_a_refused_client_that_does_not_leave_is_cut_off() -> None:
    factory = makeFactory(maxClients=1, socketTimeout=5)
    client, late = arrive(factory), arrive(factory)
    client.clock.pump([1] * 4)
    client.say("NOOP")
    assert not late.transport.disconnected
    client.clock.pump([1] * 3)
    assert late.transport.disconnected
    late.finish()
    assert factory.connections == {client.protocol}


# --- commands ---


def begun(factory: SMTPServerFactory, *hello: str) -> Client:
    client = Client(factory)
    client.say(*(hello or (HELLO,)))
    return client


def until421(client: Client, line: str) -> int:
    """How many times a line can be sent before it gets 421."""
    for number in range(1001):
        if client.say(line)[-1].startswith("421 "):
            assert client.isClosed
            client.finish()
            return number
    raise AssertionError("the line never gets 421")


LIMITS = [
    ("maxUnrecognizedCommands", {}, "NOPE", "421 4.7.0 Too many unrecognized commands"),
    ("maxErrors", {}, "DATA", "DATA: 421 4.7.0 Too many errors"),
    (
        "maxAllowedUnauthenticatedCommands",
        {"authOptional": False},
        "NOOP",
        "NOOP: 421 4.7.0 Too many commands without authentication",
    ),
]


@pytest.mark.parametrize(("name", "given", "line", "says"), LIMITS, ids=[row[0] for row in LIMITS])
@pytest.mark.parametrize("most", [1, 2, 7])
def test_a_limit_on_commands_holds_exactly_and_for_each_connection(
    name: str, given: dict[str, Any], line: str, says: str, most: int, lines: list[str]
) -> None:
    diary = Diary()
    factory = makeFactory(**{name: most, "onClose": diary.hook("onClose")}, **given)
    one, other = begun(factory), begun(factory)
    assert until421(one, line) == most
    assert (lines[-1:], diary) == ([says], ["onClose"])
    assert len(lines) == 1 + (0 if line == "NOOP" else most)
    # Neither another connection nor a later one of the same client shares the count.
    assert until421(other, line) == most
    assert until421(begun(factory), line) == most


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"maxUnrecognizedCommands": 0, "maxErrors": 0}, "NOPE"),
        ({"maxErrors": 0}, "DATA"),
        ({"maxAllowedUnauthenticatedCommands": False, "authOptional": False}, "NOOP"),
        ({"maxAllowedUnauthenticatedCommands": 1}, "NOOP"),
        ({"maxJunkCommands": 0}, "\r\n".join(["NOOP"] * 11)),
        ({"maxTransactions": 0}, "MAIL FROM:<>\r\nRCPT TO:<a@mx.test>\r\nDATA\r\n."),
        ({"maxRecipients": 0}, f"{MAIL}\r\n{RCPT}\r\n{RCPT}\r\nRSET"),
    ],
)
def test_zero_or_False_means_no_limit(given: dict[str, Any], line: str) -> None:
    client = begun(makeFactory(**given))
    for _ in range(100):
        client.say(line)
    assert not client.isClosed


@pytest.mark.parametrize(
    ("line", "most"),
    [("NOPE", 10), ("DATA", 20), ("NOOP", 999)],
    ids=["maxUnrecognizedCommands", "maxErrors", "maxJunkCommands"],
)
def test_the_default_limits_hold(line: str, most: int) -> None:
    assert until421(begun(makeFactory()), line) == most


def test_commands_without_an_implementation_count_only_as_errors() -> None:
    assert (
        until421(begun(makeFactory(maxUnrecognizedCommands=1, maxErrors=5, disabledCommands=["VRFY"])), "EXPN x") == 5
    )
    assert (
        until421(begun(makeFactory(maxUnrecognizedCommands=1, maxErrors=5, disabledCommands=["VRFY"])), "VRFY x") == 5
    )


def test_commands_that_lead_to_authentication_are_not_counted() -> None:
    client = begun(
        makeFactory(authOptional=False, maxAllowedUnauthenticatedCommands=1, maxErrors=0, onAuth=lambda *_: None)
    )
    client.session.secure = True
    for _ in range(10):
        assert client.last(HELLO, "AUTH NTLM").startswith("504 ")
    assert client.last("NOOP").startswith("250 ")
    assert client.last("NOPE").startswith("421 ")


def test_an_authenticated_client_is_not_counted() -> None:
    client = begun(makeFactory(authOptional=False, maxAllowedUnauthenticatedCommands=1))
    client.session.user = "ann"
    assert client.last(*["NOOP"] * 50).startswith("250 ")


def test_a_pipelined_flood_ends_at_the_limit() -> None:
    client = begun(makeFactory(maxUnrecognizedCommands=3))
    client.feed(b"NOPE\r\n" * 100)
    assert client.codes() == [500, 500, 500, 421]
    assert client.protocol.buffered > 0, "commands after the last reply must not be read"


# --- authentication ---

GUESS = f"AUTH PLAIN {plain(password=WRONG_PASSWORD)}"
RIGHT = f"AUTH PLAIN {plain()}"
SUCCESS = "235 2.7.0 Authentication successful"
FAILURE = "535 5.7.8 Authentication credentials invalid"
BARRED = "421 4.7.0 Too many failed authentications from your address, try again later"


def checkPassword(auth: Any, session: Any) -> str | None:
    return auth.username if auth.validatePassword(PASSWORD) else None


def makeAuth(**given: Any) -> SMTPServerFactory:
    return makeFactory(
        **{"allowInsecureAuth": True, "onAuth": checkPassword, "authMethods": ["PLAIN", "LOGIN"], **given}
    )


def authenticate(factory: SMTPServerFactory, line: str = GUESS, peer: Any = "192.0.2.7", *before: str) -> str:
    """The reply to an AUTH on a connection of its own, after the delay of a failure."""
    client = arrive(factory, peer)
    client.say(HELLO, *before)
    said = client.say(line)
    if not said:
        client.clock.advance(1)
        said = client.replies()
    if said[-1].startswith("421 "):
        client.finish()
    else:
        client.lose()
    return said[-1]


def test_failed_authentications_of_an_address_are_counted_over_connections(lines: list[str]) -> None:
    asked: list[Any] = []
    factory = makeAuth(authFailuresPerAddress=3, onAuth=lambda auth, session: asked.append(auth))
    assert [authenticate(factory) for _ in range(5)] == [FAILURE] * 3 + [BARRED] * 2
    assert len(asked) == 3
    assert lines == [
        *[f'AUTH failed from 192.0.2.7 with PLAIN as "ann": {FAILURE}'] * 3,
        *[f"AUTH: {BARRED}"] * 2,
    ]
    assert authenticate(factory, peer="192.0.2.8") == FAILURE
    # A client that does not authenticate is served as before.
    assert Client(factory).last(*ENVELOPE).startswith("250 ")


def test_even_the_right_password_is_barred_at_the_limit(lines: list[str]) -> None:
    factory = makeAuth(authFailuresPerAddress=2)
    early = begun(factory)
    assert early.last(RIGHT) == SUCCESS
    authenticate(factory)
    assert authenticate(factory, RIGHT) == SUCCESS  # a success does not take back the failure before it
    authenticate(factory)
    for line in (RIGHT, "AUTH LOGIN", "AUTH NTLM", "AUTH"):
        assert authenticate(factory, line) == BARRED
    # An authenticated client stays authenticated.
    assert early.last(RIGHT) == "503 5.5.1 Already authenticated"
    assert early.last(MAIL).startswith("250 ")


def test_an_address_is_barred_for_ten_minutes() -> None:
    factory = makeAuth(authFailuresPerAddress=2)
    clock: Any = factory.clock
    authenticate(factory)
    clock.advance(300)
    authenticate(factory)
    assert authenticate(factory, RIGHT) == BARRED
    clock.advance(297)
    assert authenticate(factory, RIGHT) == BARRED
    clock.advance(1)
    assert authenticate(factory, RIGHT) == SUCCESS


def test_the_default_is_twenty_failures_and_zero_means_no_limit() -> None:
    factory = makeAuth()
    assert [authenticate(factory) for _ in range(21)] == [FAILURE] * 20 + [BARRED]
    factory = makeAuth(authFailuresPerAddress=0)
    assert {authenticate(factory) for _ in range(100)} == {FAILURE}


def test_failures_on_one_connection_are_counted_too() -> None:
    client = begun(makeAuth(authFailuresPerAddress=3))
    for _ in range(3):
        client.say(GUESS)
        client.clock.advance(16)
        assert client.replies() == [FAILURE]
    assert client.say(GUESS) == [BARRED]
    assert client.isClosed


def test_an_IPv6_network_of_64_bits_is_barred_as_one_client() -> None:
    factory = makeAuth(authFailuresPerAddress=2)
    assert authenticate(factory, peer="2001:db8::1") == authenticate(factory, peer="2001:db8::2") == FAILURE
    assert authenticate(factory, peer="2001:db8::3") == BARRED
    assert authenticate(factory, peer="2001:db8:0:1::1") == FAILURE


@pytest.mark.parametrize("peer", [UNIXAddress(None), UNIXAddress(b"/run/client"), UNIXAddress(b"/run/a:b"), object()])
def test_a_client_without_an_address_is_never_barred(peer: Any) -> None:
    factory = makeAuth(authFailuresPerAddress=1)
    assert {authenticate(factory, peer=peer) for _ in range(5)} == {FAILURE}


@pytest.mark.parametrize(
    ("answer", "line", "reply"),
    [
        (AuthResponse(responseCode=454), GUESS, "454"),
        (SMTPError("Later", 454), GUESS, "454"),
        ("ann", GUESS, "235"),
        (None, "AUTH PLAIN x", "501"),
        (None, f"AUTH PLAIN {encoded('ann')}", "501"),
        (None, f"AUTH PLAIN {plain('a' + chr(7))}", "501"),
        (None, "AUTH NTLM", "504"),
        (None, "AUTH LOGIN\r\n*", "501"),
    ],
    ids=repr,
)
def test_only_wrong_guesses_are_counted(answer: Any, line: str, reply: str) -> None:
    def onAuth(auth: Any, session: Any) -> Any:
        if isinstance(answer, SMTPError):
            raise answer
        return answer

    factory = makeAuth(authFailuresPerAddress=1, onAuth=onAuth)
    assert {authenticate(factory, line)[:3] for _ in range(3)} == {reply}


@pytest.mark.parametrize("answer", [AuthResponse(responseCode=550), SMTPError("No"), SMTPError("No", 501), False])
def test_every_permanent_refusal_by_the_hook_is_counted(answer: Any) -> None:
    def onAuth(auth: Any, session: Any) -> Any:
        if isinstance(answer, SMTPError):
            raise answer
        return answer

    factory = makeAuth(authFailuresPerAddress=1, onAuth=onAuth)
    assert authenticate(factory)[0] == "5"
    assert authenticate(factory) == BARRED


def test_an_exchange_that_began_before_the_last_failure_is_ended_too() -> None:
    asked: list[Any] = []
    factory = makeAuth(authFailuresPerAddress=2, onAuth=lambda auth, session: asked.append(auth), maxErrors=0)
    clients = [begun(factory) for _ in range(5)]
    for client in clients:
        assert client.last("AUTH LOGIN", encoded("ann"))[:3] == "334"
    said = [client.say(encoded(WRONG_PASSWORD)) for client in clients]
    assert said == [[], []] + [[BARRED]] * 3
    assert len(asked) == 2


def test_behind_XCLIENT_failures_count_for_the_client() -> None:
    factory = makeAuth(authFailuresPerAddress=1, useXClient=["192.0.2.7"])

    def through(address: str) -> str:
        return authenticate(factory, GUESS, "192.0.2.7", f"XCLIENT ADDR={address}", HELLO)

    assert through("203.0.113.5") == FAILURE
    assert through("203.0.113.5") == BARRED
    assert through("203.0.113.6") == FAILURE
    assert authenticate(factory, GUESS, "203.0.113.5") == BARRED
    # A LOGIN that is refused counts neither for the proxy nor for the client.
    assert {authenticate(factory, "XCLIENT LOGIN=nobody ADDR=203.0.113.7") for _ in range(3)} == {FAILURE}
    assert through("203.0.113.7") == FAILURE
    assert authenticate(factory, RIGHT) == SUCCESS


def test_factories_may_share_their_count_of_failures() -> None:
    one, other = makeAuth(authFailuresPerAddress=1), makeAuth(authFailuresPerAddress=1)
    other.authFailures = one.authFailures
    assert authenticate(one) == FAILURE
    assert authenticate(other) == BARRED


# --- junk commands ---

JUNK = "421 4.7.0 Too many commands without a message"


def trusted(*lines: str, **given: Any) -> Client:
    """A client that has sent these lines; it may use XCLIENT and XFORWARD, and has no other limit on its commands."""
    extension = Extension("XTRA", commands={"XTRA": lambda argument, session: None})
    options = {"maxErrors": 0, "maxUnrecognizedCommands": 0, "useXClient": True, "useXForward": True}
    client = Client(makeFactory(**options, extensions=[extension], **given))
    client.say(*lines)
    return client


@pytest.mark.parametrize(
    "line",
    [
        *("NOOP", "RSET", "VRFY x", "VRFY", "HELP", "HELO c", "EHLO c", "EHLO", "RSET x"),
        *("XCLIENT NAME=c", "XCLIENT", "XFORWARD NAME=c", "XFORWARD"),
        *("XTRA", "NOPE", "EXPN", "TURN", "LHLO c", "n\u00f6pe", ""),
    ],
)
def test_commands_without_progress_are_counted(line: str) -> None:
    client = trusted(HELLO, maxJunkCommands=3)
    assert JUNK not in client.say(line, line)
    assert client.say(line) == [JUNK]
    assert client.isClosed


@pytest.mark.parametrize("verb", ["VRFY", "MAIL", "STARTTLS"])
def test_disabled_commands_are_counted(verb: str) -> None:
    client = trusted(HELLO, maxJunkCommands=2, disabledCommands=[verb])
    assert client.say(verb, verb) == ["502 5.5.1 Command not implemented", JUNK]


def test_junk_commands_are_counted_for_each_connection_and_logged_at_the_limit(lines: list[str]) -> None:
    factory = makeFactory(maxJunkCommands=5)
    one, other = begun(factory), begun(factory)
    assert (until421(one, "NOOP"), until421(other, "NOOP")) == (4, 4)
    assert lines == [f"NOOP: {JUNK}"] * 2


def test_with_lmtp_LHLO_is_counted() -> None:
    assert trusted(lmtp=True, maxJunkCommands=1).say("LHLO c", "LHLO c")[-1] == JUNK


@pytest.mark.parametrize("line", ["MAIL", MAIL, "RCPT", RCPT, "DATA", "BDAT 0", "AUTH", "AUTH X", "STARTTLS x"])
def test_commands_of_a_transaction_are_not_counted(line: str) -> None:
    client = trusted(HELLO, maxJunkCommands=2)
    assert JUNK not in client.say(*[line] * 10)
    assert client.last("NOOP") == "250 2.0.0 OK"
    assert client.last("NOOP") == JUNK


@pytest.mark.parametrize("message", [("DATA", "text", "."), ("BDAT 2", "", "BDAT 0 LAST"), ("BDAT 2 LAST", "")])
@pytest.mark.parametrize("refusal", [None, SMTPError("no", 550)])
@pytest.mark.parametrize("lmtp", [False, True])
def test_a_message_accepted_or_not_resets_the_count(
    message: tuple[str, ...], refusal: SMTPError | None, lmtp: bool
) -> None:
    def onData(stream: Any, session: Any) -> None:
        if refusal is not None:
            raise refusal

    client = trusted(*(LMTP_ENVELOPE if lmtp else ENVELOPE), maxJunkCommands=3, onData=onData, lmtp=lmtp)
    for _ in range(5):
        assert client.last("NOOP", "NOOP") == "250 2.0.0 OK"
        assert JUNK not in client.say(*message, MAIL, RCPT)
    assert client.last("NOOP", "NOOP", "NOOP") == "250 2.0.0 OK"
    assert client.say("RSET", MAIL) == [JUNK]


def test_a_transaction_that_RSET_ends_does_not_reset_the_count() -> None:
    client = trusted(HELLO, maxJunkCommands=4)
    assert client.say(*[MAIL, RCPT, "RSET"] * 4)[-1] == JUNK


def test_XCLIENT_does_not_reset_the_count() -> None:
    client = trusted(HELLO, maxJunkCommands=4)
    assert client.say("XCLIENT NAME=c", HELLO)[-1].startswith("250 ")
    assert client.say("NOOP", "NOOP") == ["250 2.0.0 OK", JUNK]


# --- transactions ---


def test_a_recipient_too_many_is_452_and_the_transaction_goes_on(lines: list[str]) -> None:
    diary, mailbox = Diary(), Mailbox()
    factory = makeFactory(maxRecipients=2, onRcptTo=diary.hook("onRcptTo"), onData=mailbox.onData)
    client, other = begun(factory), begun(factory)
    client.say(MAIL)
    assert client.say(RCPT, RCPT, RCPT, RCPT)[2:] == ["452 4.5.3 Too many recipients"] * 2
    assert len(diary) == 2
    assert lines == ["RCPT: 452 4.5.3 Too many recipients"] * 2
    assert other.last(MAIL, RCPT, RCPT) == "250 2.1.5 Recipient OK"
    assert client.last("DATA", "text", ".") == "250 2.0.0 Message accepted"
    assert client.last(MAIL, RCPT, RCPT) == "250 2.1.5 Recipient OK"
    assert mailbox == [b"text\r\n"]


def test_a_refused_recipient_is_not_counted() -> None:
    def onRcptTo(address: Any, session: Any) -> None:
        if address.local == "no":
            raise SMTPError("no")

    client = begun(makeFactory(maxRecipients=1, onRcptTo=onRcptTo))
    client.say(MAIL)
    assert client.codes() == []
    assert [reply[:3] for reply in client.say("RCPT TO:<no@mx.test>", RCPT, RCPT)] == ["550", "250", "452"]


def test_recipients_too_many_count_as_no_errors_and_the_message_goes_to_the_others() -> None:
    """RFC 5321 section 4.5.3.1.10: the client will retry the refused recipients, so it must not be cut off."""
    delivered: list[list[str]] = []
    client = begun(makeFactory(maxRecipients=10, onData=lambda _, session: delivered.append(names(session))))
    recipients = [f"RCPT TO:<user{number}@mx.test>" for number in range(50)]
    client.feed("".join(f"{line}\r\n" for line in [MAIL, *recipients, "DATA"]).encode())
    assert client.codes() == [250] * 11 + [452] * 40 + [354]
    assert client.last("text", ".") == "250 2.0.0 Message accepted"
    assert delivered == [[f"user{number}" for number in range(10)]]
    assert client.pump.dialogue.context.counts.errors == 0


def names(session: Any) -> list[str]:
    return [address.local for address in session.envelope.rcptTo]


@pytest.mark.parametrize("errors", [0, 20])
def test_a_thousand_recipients_too_many_end_in_421(errors: int, lines: list[str]) -> None:
    client = begun(makeFactory(maxRecipients=1))
    client.say(*["DATA"] * errors)
    for _ in range(2):
        assert client.say(MAIL, RCPT, *[RCPT] * 1000)[2:] == ["452 4.5.3 Too many recipients"] * 1000
        client.say("RSET")
    client.say(MAIL, RCPT, *[RCPT] * 1000)
    client.clock.advance(1)  # because the log has a limit of lines a second
    lines.clear()
    assert client.say(RCPT, "NOOP") == ["421 4.5.3 Too many recipients"]
    assert client.isClosed
    assert lines == ["RCPT: 421 4.5.3 Too many recipients"]


@pytest.mark.parametrize("most", [1000, 10**6])
def test_the_octets_of_an_envelope_are_limited(most: int) -> None:
    client = begun(makeFactory(maxRecipients=most, hideDSN=False))
    long = f"RCPT TO:<{'l' * 200}@mx.test> ORCPT=rfc822;{'x' * 493}"
    fit = (512 * 1024 - len(MAIL) - 2) // (len(long) + 2)
    assert client.say(MAIL, *[long] * fit) == ["250 2.1.0 Sender OK", *["250 2.1.5 Recipient OK"] * fit]
    assert client.say(long, long) == ["452 4.5.3 Too many recipients"] * 2
    assert client.last("DATA", ".") == "250 2.0.0 Message accepted"
    assert client.last(MAIL, long) == "250 2.1.5 Recipient OK", "each envelope has a count of its own"


def test_without_a_limit_of_recipients_the_octets_of_an_envelope_are_not_limited() -> None:
    client = begun(makeFactory(maxRecipients=0, hideDSN=False))
    long = f"RCPT TO:<{'l' * 200}@mx.test> ORCPT=rfc822;{'x' * 493}"
    assert set(client.say(MAIL, *[long] * 1500)[1:]) == {"250 2.1.5 Recipient OK"}


def test_a_transaction_too_many_is_421(lines: list[str]) -> None:
    factory = makeFactory(maxTransactions=2)
    client, other = begun(factory), begun(factory)
    for _ in range(2):
        assert client.last(MAIL, RCPT, "DATA", ".").startswith("250 ")
    assert client.last(MAIL) == "421 4.7.0 Too many transactions on this connection"
    assert client.isClosed
    assert lines == ["MAIL: 421 4.7.0 Too many transactions on this connection"]
    assert other.last(MAIL).startswith("250 ")


TOO_LARGE = "552 5.3.4 Message exceeds the fixed maximum size"


@pytest.mark.parametrize("begin", ["DATA", "BDAT"])
@pytest.mark.parametrize("lmtp", [False, True])
def test_the_size_of_a_message_is_limited(begin: str, lmtp: bool, lines: list[str]) -> None:
    mailbox = Mailbox()
    factory = makeFactory(size=10, lmtp=lmtp, onData=mailbox.onData)
    hello, *envelope = LMTP_ENVELOPE if lmtp else ENVELOPE
    client, other = begun(factory, hello), begun(factory, hello)

    def send(client: Client, octets: int) -> str:
        client.say(*envelope)
        content = "x" * (octets - 2)
        return client.last("DATA", content, ".") if begin == "DATA" else client.last(f"BDAT {octets} LAST", content)

    assert send(client, 10).startswith("250 ")
    assert lines == []
    assert send(client, 11) == TOO_LARGE
    assert lines == [f"{begin}: {TOO_LARGE}"]
    assert send(other, 10).startswith("250 ")
    assert mailbox == [b"xxxxxxxx\r\n"] * 2


def test_a_declared_size_over_the_limit_is_refused_at_MAIL() -> None:
    client = begun(makeFactory(size=10))
    assert client.last(f"{MAIL} SIZE=10", "RSET").startswith("250 ")
    assert client.last(f"{MAIL} SIZE=11") == TOO_LARGE
    assert client.last(MAIL).startswith("250 ")


@pytest.mark.parametrize("feed", [1, 100000])
def test_the_length_of_a_command_is_limited(feed: int, lines: list[str]) -> None:
    client = begun(makeFactory(maxCommandLength=600))

    def say(octets: int) -> list[str]:
        data = b"NOOP " + b"x" * (octets - 7) + b"\r\n"
        for start in range(0, octets, feed):
            client.feed(data[start : start + feed])
        return client.replies()

    assert say(600) == ["250 2.0.0 OK"]
    assert lines == []
    for octets in (601, 5000, 70000):
        assert say(octets) == ["500 5.5.2 Line too long"]
    assert lines == ["500 5.5.2 Line too long"] * 3
    assert client.last("NOOP") == "250 2.0.0 OK"


# --- results of hooks ---


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("onHelo", [HELLO]),
        ("onMailFrom", [HELLO, MAIL]),
        ("onRcptTo", [*ENVELOPE]),
        ("onVrfy", [HELLO, "VRFY x"]),
    ],
)
@pytest.mark.parametrize("isLate", [True, False])
def test_False_from_a_hook_accepts_nothing(name: str, said: list[str], isLate: bool, logged: Any) -> None:
    errors: list[Failure] = []
    hook = Pending() if isLate else lambda *_: False
    client = Client(makeFactory(**{name: hook, "onError": lambda failure, session: errors.append(failure)}))
    client.feed("".join(f"{line}\r\n" for line in said).encode())
    if isinstance(hook, Pending):
        hook.decide(False)
    assert client.replies()[-1] == "451 4.3.0 Temporary server error, please try again later"
    (failure,) = logged.takeFailures(TypeError)
    assert [error.value for error in errors] == [failure.value]
    assert "False is no answer" in str(failure.value)
    assert not client.session.envelope.rcptTo


@pytest.mark.parametrize("answer", [0, "", [], None, True, object()])
def test_any_other_result_without_a_text_gives_the_standard_reply(answer: Any) -> None:
    hook: Callable[..., Any] = lambda *_: answer  # noqa: E731
    client = Client(makeFactory(onHelo=hook, onMailFrom=hook, onRcptTo=hook))
    assert client.last(*ENVELOPE) == "250 2.1.5 Recipient OK"
