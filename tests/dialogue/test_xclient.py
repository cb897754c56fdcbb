"""XCLIENT and XFORWARD: which peers may use them, when, and what the session is afterwards (invariant 8)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address

from smtphooks import AuthResponse, Extension, OptionError, SMTPError
from smtphooks.dialogue.steps import Ask, State
from smtphooks.sasl.portal import UserNameRealm
from smtphooks.session import Session
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Client, Mailbox, Pending, Transport, makeFactory
from tests.talk import Talk

pytestmark = pytest.mark.usefixtures("logged")

PROXY, OTHER = "192.0.2.1", "192.0.2.9"  # where the client of a Talk comes from, and where it does not
BOTH = frozenset({"XCLIENT", "XFORWARD"})
GREETING = "220 mx.example.org ESMTP"
NOT_THERE = "502 5.5.1 Command not implemented"
NOT_NOW = "503 5.5.1 Bad sequence of commands"
OFFERED = {
    "XCLIENT": "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT",
    "XFORWARD": "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",
}
COMPLETE = (
    "XCLIENT NAME=spike.example ADDR=203.0.113.5 PORT=40000 PROTO=ESMTP HELO=spike DESTADDR=198.51.100.1 DESTPORT=25"
)
FORWARD = "XFORWARD NAME=spike.example ADDR=203.0.113.5 PORT=40000 PROTO=SMTP HELO=spike IDENT=12345 SOURCE=REMOTE"


def talkOf(*lines: str, trusted: frozenset[str] = BOTH, **given: Any) -> Talk:
    """
    A proxy that has said these lines.

    @param trusted: the commands that it is trusted with.
    """
    options = {
        "session": {"localAddress": "192.0.2.2", "localPort": 2525},
        "useXClient": [PROXY if "XCLIENT" in trusted else OTHER],
        "useXForward": [PROXY if "XFORWARD" in trusted else OTHER],
    }
    talk = Talk(**{**options, **given})
    for line in lines:
        assert talk.say(line)[0] == "2"
    return talk


def identity(session: Session) -> dict[str, Any]:
    """All attributes of the session but the last error."""
    whole = attrs.asdict(session, recurse=False)
    return {name: value for name, value in whole.items() if name != "error"}


# --- which peers ---


@pytest.mark.parametrize("verb", OFFERED)
@pytest.mark.parametrize("trusted", [frozenset(), BOTH - {"XCLIENT"}, BOTH - {"XFORWARD"}, BOTH], ids=sorted)
@pytest.mark.parametrize("lmtp", [False, True])
def test_command_is_offered_to_trusted_peers_alone(verb: str, trusted: frozenset[str], lmtp: bool) -> None:
    talk = talkOf(trusted=trusted, lmtp=lmtp)
    lines = [line[4:] for line in talk.say("LHLO proxy" if lmtp else HELLO).splitlines()]
    isOffered = verb in trusted
    assert (OFFERED[verb] in lines) is isOffered
    assert any(line.startswith(verb) for line in lines) is isOffered
    assert (verb in talk.say("HELP")) is isOffered
    before = identity(talk.session)
    reply = talk.say(f"{verb} ADDR=203.0.113.5")
    assert reply[:3] == ("502" if not isOffered else "220" if verb == "XCLIENT" else "250")
    if not isOffered:
        assert reply == NOT_THERE
        assert identity(talk.session) == before


@pytest.mark.parametrize("verb", OFFERED)
def test_command_that_is_disabled_is_not_there(verb: str) -> None:
    talk = talkOf(disabledCommands=[verb])
    assert verb not in talk.say(HELLO)
    assert talk.say(f"{verb} ADDR=203.0.113.5") == NOT_THERE


def test_client_behind_the_proxy_may_not_use_what_the_proxy_may() -> None:
    talk = talkOf(COMPLETE)
    reply = talk.say(HELLO)
    assert "XCLIENT" not in reply and "XFORWARD" not in reply
    before = identity(talk.session)
    for line in ("XCLIENT ADDR=198.51.100.77", "XCLIENT LOGIN=root", "XCLIENT NAME=x.example", FORWARD):
        assert talk.say(line) == NOT_THERE
    assert identity(talk.session) == before


@pytest.mark.parametrize("value", ["[UNAVAILABLE]", "[TEMPUNAVAIL]", PROXY])
def test_address_is_set_once_even_if_it_is_unknown(value: str) -> None:
    talk = talkOf(f"XCLIENT ADDR={value}")
    assert talk.say("XCLIENT ADDR=203.0.113.5") == NOT_THERE
    assert talk.session.remoteAddress == ("" if value[0] == "[" else PROXY)


def test_STARTTLS_does_not_restore_the_trust_in_the_proxy() -> None:
    talk = talkOf(COMPLETE, HELLO)
    talk.say("STARTTLS")
    assert talk.session.secure
    assert "XCLIENT" not in talk.say(HELLO)
    assert talk.say("XCLIENT ADDR=198.51.100.77") == NOT_THERE
    assert talk.session.remoteAddress == "203.0.113.5"


@pytest.mark.parametrize("hook", ["onConnect", "onHelo"])
@pytest.mark.parametrize("address", [PROXY, OTHER])
def test_hook_that_changes_the_address_of_the_session_changes_no_trust(hook: str, address: str) -> None:
    answers = {hook: lambda question: setattr(question.arguments[-1], "remoteAddress", address)}
    trusted = talkOf(HELLO, answers=answers)
    assert trusted.session.remoteAddress == address
    assert trusted.say("XCLIENT NAME=spike.example") == GREETING
    untrusted = talkOf(HELLO, answers=answers, trusted=frozenset())
    assert untrusted.session.remoteAddress == address
    for line in (COMPLETE, FORWARD):
        assert untrusted.say(line) == NOT_THERE


@pytest.mark.parametrize("change", [{"remoteAddress": PROXY}, {"xClient": {}}, {"remoteAddress": PROXY, "xClient": {}}])
def test_hook_cannot_make_the_client_behind_the_proxy_trusted(change: dict[str, Any]) -> None:
    talk = talkOf(COMPLETE)
    for name, value in change.items():
        setattr(talk.session, name, value)
    reply = talk.say(HELLO)
    assert "XCLIENT" not in reply and "XFORWARD" not in reply
    for line in (COMPLETE, FORWARD):
        assert talk.say(line) == NOT_THERE
    talk.say("STARTTLS")
    assert talk.say(COMPLETE) == NOT_THERE


@pytest.mark.parametrize("verb", OFFERED)
def test_extension_of_a_user_does_not_make_the_command_available(verb: str) -> None:
    own = Extension(verb, "ADDR", commands={verb: lambda argument, session: "mine"})
    talk = talkOf(HELLO, trusted=frozenset(), extensions=[own])
    assert talk.say(f"{verb} ADDR=203.0.113.5") == NOT_THERE


def test_HELP_names_the_commands_before_QUIT() -> None:
    assert talkOf().say("HELP").endswith(" HELP STARTTLS XCLIENT XFORWARD QUIT")


@pytest.mark.parametrize("trusted", [frozenset(), BOTH], ids=len)
def test_command_is_known_to_the_log_from_any_peer(trusted: frozenset[str]) -> None:
    talk = talkOf(trusted=trusted)
    for verb in OFFERED:
        talk.say(f"{verb} NAME=spike.example")
        assert talk.dialogue.knownVerb == verb
        assert talk.dialogue.shows(verb)


@pytest.mark.parametrize("trusted", [frozenset(), BOTH], ids=len)
@pytest.mark.parametrize("verb", OFFERED)
def test_command_counts_as_junk_from_any_peer(verb: str, trusted: frozenset[str]) -> None:
    talk = talkOf(trusted=trusted, maxJunkCommands=2)
    talk.sayAll(*[f"{verb} NAME=spike.example"] * 2)
    assert talk.say(f"{verb} NAME=spike.example") == "421 4.7.0 Too many commands without a message"


@pytest.mark.parametrize("option", ["useXClient", "useXForward"])
def test_list_of_peers_that_is_wrong_names_its_option(option: str) -> None:
    with pytest.raises(OptionError, match=f"option {option} is wrong: 'proxy.example' is neither an address"):
        makeFactory(**{option: ["proxy.example"]})


def test_attributes_may_come_in_several_commands_address_last() -> None:
    lines = ["NAME=spike.example HELO=spike", "LOGIN=ann", "PROTO=SMTP", "ADDR=203.0.113.5 PORT=1"]
    talk = talkOf(*[f"XCLIENT {line}" for line in lines], answers={"onAuth": "ann"})
    session = talk.session
    assert session.xClient == {
        "NAME": "spike.example",
        "HELO": "spike",
        "LOGIN": "ann",
        "PROTO": "SMTP",
        "ADDR": "203.0.113.5",
        "PORT": "1",
    }
    assert (session.clientHostname, session.hostNameAppearsAs, session.user) == ("spike.example", "spike", "ann")
    assert (session.remoteAddress, session.remotePort) == ("203.0.113.5", 1)


def test_user_of_an_earlier_command_is_forgotten_when_the_proxy_withdraws_it() -> None:
    talk = talkOf("XCLIENT LOGIN=ann", answers={"onAuth": "ann"})
    assert talk.session.user == "ann"
    talk.say("XCLIENT LOGIN=[UNAVAILABLE]")
    assert talk.session.user is None


def test_user_of_an_earlier_command_does_not_outlive_STARTTLS() -> None:
    talk = talkOf("XCLIENT LOGIN=ann", answers={"onAuth": "ann"})
    talk.sayAll("STARTTLS", "XCLIENT ADDR=203.0.113.5")
    assert talk.session.user is None


# --- when ---


@pytest.mark.parametrize("line", ["XCLIENT ADDR=203.0.113.5", "XCLIENT LOGIN=ann", FORWARD, "XFORWARD IDENT=1"])
@pytest.mark.parametrize("stairs", [(MAIL,), (MAIL, RCPT), (MAIL, RCPT, "BDAT 3")], ids=len)
def test_never_within_a_transaction(line: str, stairs: tuple[str, ...]) -> None:
    talk = talkOf(HELLO, *stairs)
    before, asked = identity(talk.session), len(talk.asked)
    assert talk.say(line) == NOT_NOW
    assert identity(talk.session) == before
    assert len(talk.asked) == asked


@pytest.mark.parametrize("before", [(), (HELLO,), (HELLO, MAIL, "RSET"), (HELLO, MAIL, RCPT, "DATA")], ids=len)
def test_session_starts_anew_with_a_greeting(before: tuple[str, ...]) -> None:
    talk = talkOf(banner="at your service")
    talk.sayAll("NOOP", *before)
    assert talk.say(COMPLETE) == GREETING + " at your service"
    assert talk.state is State.GREETED
    assert talk.session.openingCommand is None
    assert talk.say(MAIL).startswith("503 ")
    assert talk.say(HELLO).startswith("250-")


def test_user_is_forgotten_unless_the_proxy_names_one() -> None:
    talk = talkOf(session={"user": "proxy"})
    talk.say(COMPLETE)
    assert talk.session.user is None


# --- what becomes of the attributes ---


def test_session_is_that_of_the_client() -> None:
    talk = talkOf(COMPLETE)
    session = talk.session
    assert (session.remoteAddress, session.remotePort) == ("203.0.113.5", 40000)
    assert (session.localAddress, session.localPort) == ("198.51.100.1", 25)
    assert session.clientHostname == "spike.example"
    assert session.hostNameAppearsAs == "spike"
    assert session.xClient == {
        "NAME": "spike.example",
        "ADDR": "203.0.113.5",
        "PORT": "40000",
        "PROTO": "ESMTP",
        "HELO": "spike",
        "DESTADDR": "198.51.100.1",
        "DESTPORT": "25",
    }
    talk.sayAll(HELLO, MAIL, RCPT)
    received = " ".join(session.receivedHeader().split())
    assert received.startswith("Received: from spike (spike.example [203.0.113.5]) by mx.example.org with ESMTP id ")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ADDR=203.0.113.5", ("203.0.113.5", 0, "[203.0.113.5]")),
        ("ADDR=IPv6:2001:DB8:0::1", ("2001:db8::1", 0, "[2001:db8::1]")),
        ("ADDR=::ffff:203.0.113.5 PORT=5", ("203.0.113.5", 5, "[203.0.113.5]")),
        ("ADDR=203.0.113.5 NAME=[UNAVAILABLE]", ("203.0.113.5", 0, "[203.0.113.5]")),
        ("ADDR=203.0.113.5 NAME=[TEMPUNAVAIL]", ("203.0.113.5", 0, "[203.0.113.5]")),
        ("NAME=[tempunavail] ADDR=203.0.113.5 PORT=[UNAVAILABLE]", ("203.0.113.5", 0, "[203.0.113.5]")),
        ("ADDR=[UNAVAILABLE]", ("", 0, "")),
        ("ADDR=[UNAVAILABLE] NAME=spike.example", ("", 0, "spike.example")),
        ("NAME=spike.example", (PROXY, 50000, "spike.example")),
        ("NAME=[UNAVAILABLE]", (PROXY, 50000, f"[{PROXY}]")),
        ("NAME=[TEMPUNAVAIL]", (PROXY, 50000, f"[{PROXY}]")),
        ("PORT=7", (PROXY, 7, "proxy.example")),
        ("HELO=spike", (PROXY, 50000, "proxy.example")),
        ("xclient", None),
    ],
)
def test_address_port_and_name_are_what_is_known_of_them(line: str, expected: tuple[str, int, str] | None) -> None:
    talk = talkOf(session={"remotePort": 50000, "clientHostname": "proxy.example"})
    before = identity(talk.session)
    reply = talk.say(f"XCLIENT {line}")
    session = talk.session
    if expected is None:
        assert reply == "501 5.5.4 Syntax: attribute=value"
        assert identity(session) == before
        return
    assert reply == GREETING
    assert (session.remoteAddress, session.remotePort, session.clientHostname) == expected


def test_destination_without_a_port_has_none() -> None:
    session = talkOf("XCLIENT DESTADDR=198.51.100.1").session
    assert (session.localAddress, session.localPort) == ("198.51.100.1", 0)


def test_what_is_unknown_is_told_apart() -> None:
    session = talkOf("XCLIENT NAME=[TEMPUNAVAIL] ADDR=203.0.113.5 HELO=[UNAVAILABLE] PORT=0 DESTPORT=0").session
    assert session.xClient == {
        "NAME": "[TEMPUNAVAIL]",
        "ADDR": "203.0.113.5",
        "HELO": "",
        "PORT": "",
        "DESTPORT": "",
    }
    assert (session.remotePort, session.localPort, session.hostNameAppearsAs) == (0, 0, "")


def test_name_that_the_client_gave_wins_over_that_of_the_proxy() -> None:
    given: list[str] = []
    talk = talkOf(COMPLETE)
    talk.answers["onHelo"] = lambda question: given.append(question.arguments[0])
    talk.say("EHLO proxy.example")
    assert talk.session.hostNameAppearsAs == "spike"
    assert given == ["spike"]


@pytest.mark.parametrize("line", ["XCLIENT ADDR=203.0.113.5", "XCLIENT ADDR=203.0.113.5 HELO=[UNAVAILABLE]"])
def test_client_names_itself_where_the_proxy_does_not_know_its_name(line: str) -> None:
    talk = talkOf(line, HELLO)
    assert talk.session.hostNameAppearsAs == "client.test"


def test_later_hooks_see_the_client() -> None:
    addresses: list[str] = []
    talk = talkOf()
    for hook in ("onHelo", "onMailFrom", "onRcptTo", "onVrfy"):
        talk.answers[hook] = lambda question: addresses.append(question.arguments[1].remoteAddress)
    talk.sayAll(HELLO, COMPLETE, HELLO, MAIL, RCPT, "VRFY ann")
    assert addresses == [PROXY, *["203.0.113.5"] * 4]


# --- wholly or not at all ---


@pytest.mark.parametrize(
    "line",
    [
        "XCLIENT",
        "XCLIENT ADDR",
        "XCLIENT ADDR=",
        "XCLIENT ADDR=203.0.113.500",
        "XCLIENT ADDR=203.0.113.5 PORT=70000",
        "XCLIENT NAME=spike.example ADDR=203.0.113.5 COLOUR=red",
        "XCLIENT NAME=spike.example ADDR=203.0.113.5 ADDR=203.0.113.6",
        "XCLIENT ADDR=203.0.113.5 HELO=a+0D+0Ab",
        "XCLIENT ADDR=203.0.113.5 LOGIN=ann IDENT=x",
        "XCLIENT ADDR=203.0.113.5 PROTO=LMTP",
        "XFORWARD",
        "XFORWARD NAME=spike.example ADDR=203.0.113.5 PORT=x",
        "XFORWARD NAME=spike.example LOGIN=ann",
    ],
)
@pytest.mark.parametrize("stairs", [(), (HELLO,)], ids=len)
def test_bad_attribute_changes_nothing(line: str, stairs: tuple[str, ...]) -> None:
    talk = talkOf(*stairs, session={"user": "proxy"}, answers={"onAuth": "ann"})
    before, state = identity(talk.session), talk.state
    assert talk.say(line).startswith("501 5.5.4 ")
    assert identity(talk.session) == before
    assert talk.state is state
    assert "onAuth" not in talk.hooks()


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (None, "535 5.7.8 Authentication credentials invalid"),
        (False, "535 5.7.8 Authentication credentials invalid"),
        ({}, "535 5.7.8 Authentication credentials invalid"),
        (AuthResponse(user=False), "535 5.7.8 Authentication credentials invalid"),
        (AuthResponse(message="Who?"), "535 5.7.8 Who?"),
        (AuthResponse(responseCode=454), "454 4.7.0 Authentication credentials invalid"),
        (SMTPError("Ask again", 454), "454 4.7.0 Ask again"),
        (SMTPError("Never"), "535 5.7.8 Never"),
    ],
)
def test_refused_login_changes_nothing(answer: object, reply: str) -> None:
    talk = talkOf(HELLO, session={"user": "proxy"}, answers={"onAuth": answer})
    before = identity(talk.session)
    assert talk.say(COMPLETE + " LOGIN=ann") == reply
    assert identity(talk.session) == before
    assert talk.state is State.IDENTIFIED
    # A proxy guesses no passwords.
    assert talk.waits() == []


def test_login_is_decided_before_any_attribute_counts() -> None:
    talk = talkOf(HELLO)
    step = talk.dialogue.receiveLine(f"{COMPLETE} LOGIN=ann".encode())
    assert isinstance(step, Ask)
    auth, session = step.arguments
    assert (auth.method, auth.username, auth.password) == ("XCLIENT", "ann", None)
    assert not auth.validatePassword("")
    assert (session.remoteAddress, session.xClient, session.hostNameAppearsAs) == (PROXY, {}, "client.test")
    talk.dialogue.answer(AuthResponse(user={"name": "ann"}))
    assert session.user == {"name": "ann"}
    assert session.remoteAddress == "203.0.113.5"
    assert session.xClient["LOGIN"] == "ann"


def test_false_user_in_a_response_counts_as_in_AUTH() -> None:
    talk = talkOf(answers={"onAuth": AuthResponse(user={})}, authOptional=False)
    assert talk.say("XCLIENT LOGIN=ann") == GREETING
    assert talk.session.user == {}
    # A further XCLIENT does not take it away.
    assert talk.say("XCLIENT PORT=5") == GREETING
    assert talk.session.user == {}
    assert talk.sayAll(HELLO, MAIL) == "250 2.1.0 Sender OK"


def test_name_of_a_user_may_hold_any_letter() -> None:
    talk = talkOf(answers={"onAuth": lambda question: question.arguments[0].username})
    talk.say("XCLIENT LOGIN=J+C3+BCrgen+40x+20y ADDR=203.0.113.5")
    assert talk.session.user == "J\u00fcrgen@x y"
    assert "AUTH" not in talk.say(HELLO)
    assert talk.session.transmissionType == "ESMTPA"


@pytest.mark.parametrize("value", ["[UNAVAILABLE]", "[TEMPUNAVAIL]"])
def test_unknown_login_is_no_user(value: str) -> None:
    talk = talkOf(answers={"onAuth": "ann"})
    assert talk.say(f"XCLIENT LOGIN={value}") == GREETING
    assert "onAuth" not in talk.hooks()
    assert (talk.session.user, talk.session.xClient) == (None, {"LOGIN": ""})


def test_login_counts_where_authentication_is_asked() -> None:
    talk = talkOf(authOptional=False, answers={"onAuth": "ann"})
    talk.sayAll("XCLIENT ADDR=203.0.113.5 LOGIN=ann", HELLO)
    assert talk.say(MAIL).startswith("250 ")
    talk = talkOf("XCLIENT ADDR=203.0.113.5", HELLO, authOptional=False)
    assert talk.say(MAIL).startswith("530 ")


# --- XFORWARD ---


def test_attributes_are_there_for_the_transaction_that_follows() -> None:
    seen: list[dict[str, str]] = []
    talk = talkOf(HELLO)
    for hook in ("onMailFrom", "onRcptTo"):
        talk.answers[hook] = lambda question: seen.append(dict(question.arguments[1].xForward))
    assert talk.say(FORWARD) == "250 2.0.0 OK"
    expected = {
        "NAME": "spike.example",
        "ADDR": "203.0.113.5",
        "PORT": "40000",
        "PROTO": "SMTP",
        "HELO": "spike",
        "IDENT": "12345",
        "SOURCE": "REMOTE",
    }
    assert talk.session.xForward == expected
    talk.sayAll(MAIL, RCPT)
    assert seen == [expected, expected]
    assert talk.session.xForward == expected


def test_XFORWARD_does_not_change_the_session_itself() -> None:
    talk = talkOf(HELLO)
    before = identity(talk.session)
    talk.say(FORWARD)
    assert {**identity(talk.session), "xForward": {}} == before


def test_commands_of_one_transaction_add_up() -> None:
    talk = talkOf(HELLO, "XFORWARD NAME=[UNAVAILABLE] ADDR=203.0.113.5", "XFORWARD IDENT=1", "XFORWARD IDENT=2")
    assert talk.session.xForward == {"NAME": "", "ADDR": "203.0.113.5", "IDENT": "2"}


@pytest.mark.parametrize(
    "end",
    [
        (MAIL, RCPT, "DATA"),
        (MAIL, RCPT, "BDAT 3 LAST"),
        (MAIL, "RSET"),
        (MAIL, HELLO),
        ("RSET",),
        (HELLO,),
        ("STARTTLS",),
        ("XCLIENT NAME=x.example",),
    ],
    ids=" ".join,
)
def test_attributes_are_gone_when_the_transaction_ends_or_cannot_begin(end: tuple[str, ...]) -> None:
    talk = talkOf(HELLO, FORWARD)
    talk.sayAll(*end)
    assert talk.session.xForward == {}


def test_refused_message_takes_the_attributes_with_it() -> None:
    talk = talkOf(HELLO, FORWARD, answers={"message": SMTPError("no", 550)})
    talk.sayAll(MAIL, RCPT)
    assert talk.say("DATA").splitlines()[-1].startswith("550 ")
    assert talk.session.xForward == {}


# --- with transport and hooks ---


def come(peer: str = "10.0.0.1", **given: Any) -> Client:
    factory = makeFactory(**{"useXClient": ["10.0.0.1"], "useXForward": ["10.0.0.2"], **given})
    client = Client(factory, Transport(None, IPv4Address("TCP", peer, 50000)))
    client.replies()
    return client


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [("10.0.0.1", {"XCLIENT"}), ("10.0.0.2", {"XFORWARD"}), ("10.0.0.3", set()), ("192.0.2.7", set())],
)
def test_address_of_the_connection_decides(peer: str, trusted: set[str]) -> None:
    client = come(peer)
    lines = [line[4:] for line in client.say(HELLO)]
    assert {verb for verb in OFFERED if OFFERED[verb] in lines} == trusted
    for verb in OFFERED:
        assert (client.last(f"{verb} ADDR=203.0.113.5")[0] == "2") is (verb in trusted)


@pytest.mark.parametrize(("address", "trusted"), [("10.0.0.1", True), ("203.0.113.5", False)])
def test_behind_a_load_balancer_the_address_in_the_PROXY_header_decides(address: str, trusted: bool) -> None:
    client = come(useProxy=["10.0.0.1"])
    assert client.say(f"PROXY TCP4 {address} 198.51.100.1 4000 25")[0].startswith("220 ")
    assert (client.last("XCLIENT ADDR=198.51.100.77")[:3] == "220") is trusted
    assert client.session.remoteAddress == ("198.51.100.77" if trusted else address)


def test_whole_message_of_a_client_behind_the_proxy() -> None:
    mailbox, onRcptTo = Mailbox(), Pending()
    client = come(onData=mailbox.onData, onRcptTo=onRcptTo)
    # Nothing has to wait for the second greeting: there is one reply for each command.
    client.say("EHLO proxy.example", COMPLETE, *ENVELOPE, "DATA")
    ((_, session),) = onRcptTo.calls
    assert (session.remoteAddress, session.clientHostname) == ("203.0.113.5", "spike.example")
    onRcptTo.decide()
    assert client.last("text", ".") == "250 2.0.0 Message accepted"
    assert mailbox == [b"text\r\n"]


def test_slow_login_holds_the_dialogue() -> None:
    onAuth = Pending()
    client = come(onAuth=onAuth)
    assert client.say("XCLIENT ADDR=203.0.113.5 LOGIN=ann", HELLO) == []
    assert client.session.remoteAddress == "10.0.0.1"
    onAuth.decide("ann")
    assert client.codes() == [220, 250]
    assert (client.session.user, client.session.remoteAddress) == ("ann", "203.0.113.5")


def test_without_a_hook_no_login_is_accepted() -> None:
    client = come()
    assert client.last("XCLIENT ADDR=203.0.113.5 LOGIN=ann").startswith("535 ")
    assert client.session.remoteAddress == "10.0.0.1"


@pytest.mark.parametrize("password", ["secret", ""])
def test_portal_never_accepts_a_login_of_the_proxy(password: str) -> None:
    checker = InMemoryUsernamePasswordDatabaseDontUse(ann=password.encode())
    client = come(portal=Portal(UserNameRealm(), [checker]))
    assert client.last("XCLIENT ADDR=203.0.113.5 LOGIN=ann").startswith("535 ")
    assert client.session.user is None


def test_client_is_counted_where_its_connection_comes_from() -> None:
    client = come(maxClientsPerAddress=1)
    client.say(COMPLETE)
    assert dict(client.factory.clients.networks) == {"10.0.0.1": 1}
    client.lose()
    assert not client.factory.clients.networks
