"""Rate limits: what counts when, for whom, and what the client and the operator are told."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from smtphooks import SMTPServerFactory
from smtphooks.errors import OptionError
from smtphooks.hooks import HOOK_NAMES, hookOf
from smtphooks.layers import RateLimit
from smtphooks.layers.counts import Limit, MemoryCounts, Verdict
from smtphooks.replies import Reply, SMTPError
from smtphooks.sasl.portal import UserNameRealm
from smtphooks.session import Address, Envelope, Session
from smtphooks.sharedtable import Table, useTable
from tests.conftest import Logged
from tests.support import Client, Mailbox, Transport, connect, makeFactory

SENDER = "Sender@Client.test"


def addressOf(text: str, args: dict[str, Any] | None = None) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(text, local, domain, args)


BOB, CAROL = addressOf("bob@mx.test"), addressOf("carol@mx.test")
REFUSED = Reply(535, "no")


def rateLimit(*limits: str, **options: Any) -> RateLimit:
    layer = RateLimit(limits=limits, **options)
    if isinstance(layer.counts, MemoryCounts):
        layer.counts.clock = Clock()  # type: ignore[assignment]
    return layer


def advance(layer: RateLimit, seconds: float) -> None:
    assert isinstance(layer.counts, MemoryCounts) and isinstance(layer.counts.clock, Clock)
    layer.counts.clock.advance(seconds)


def sessionFrom(client: str = "192.0.2.7", user: Any = None, sender: str = SENDER, **args: Any) -> Session:
    return Session(remoteAddress=client, user=user, envelope=Envelope(addressOf(sender, args=args)))


def answer(coroutine: Coroutine[Any, Any, None]) -> SMTPError | None:
    """The refusal of a hook that knows its answer at once; None if it refuses nothing."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    if result is None:
        return None
    assert isinstance(result.value, SMTPError), result
    return result.value


def code(coroutine: Coroutine[Any, Any, None]) -> int:
    refusal = answer(coroutine)
    return 250 if refusal is None else refusal.responseCode or 0


class Stream:
    """A message in chunks."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    async def __aiter__(self) -> Any:
        for chunk in self.chunks:
            yield chunk


async def pour(layer: RateLimit, session: Session, chunks: Sequence[bytes], out: list[bytes]) -> None:
    async for chunk in layer.filterData(Stream(*chunks), session):  # type: ignore[arg-type]
        out.append(chunk)


def octets(layer: RateLimit, session: Session, *chunks: bytes) -> int:
    return code(pour(layer, session, chunks, []))


# --- workers ---


def test_workers_count_together() -> None:
    table = Table.create(2)
    layers = []
    for column in (0, 1):
        useTable(Table.attach(table.fd, column))
        try:
            layers.append(
                [rateLimit("2 connections per day per client"), rateLimit("9 connections per day per client")]
            )
        finally:
            useTable(None)
    os.close(table.fd)
    (one, more), (other, _) = layers
    assert [code(layer.onConnect(sessionFrom())) for layer in (one, other, one, other)] == [250, 250, 421, 421]
    assert code(other.onConnect(sessionFrom("192.0.2.8"))) == 250
    assert code(more.onConnect(sessionFrom())) == 250


# --- options ---


@pytest.mark.parametrize(
    "text, what, per, limit",
    [
        ("100 messages per hour per client", "messages", "client", Limit(100, 3600, 100)),
        ("1 message per 10 seconds per sender", "messages", "sender", Limit(1, 10, 1)),
        ("50 recipients per 10 minutes per user, burst 20", "recipients", "user", Limit(50, 600, 20)),
        ("500_000_000 octets per day per recipient", "octets", "recipient", Limit(500_000_000, 86400, 500_000_000)),
        ("  20 auth failures\tper  2 days per client", "auth failures", "client", Limit(20, 172800, 20)),
        ("1 connection per second per client, burst 5", "connections", "client", Limit(1, 1, 5)),
    ],
)
def test_a_limit_is_a_sentence(text: str, what: str, per: str, limit: Limit) -> None:
    (known,) = rateLimit(text)._limits[what][per]
    assert known == limit
    assert known.name == " ".join(text.split())


@pytest.mark.parametrize(
    "limits, error",
    [
        ("100", "option limits is '100', it wants a list of texts"),
        ([100], "option limits is (100,), it wants a list of texts"),
        ([], 'option limits is empty, it wants "100 messages per hour per client" or'),
        (["fast"], "option limits has 'fast', it wants \"100 messages per hour per client\" or"),
        (["0 messages per hour per client"], "option limits has '0 messages per hour per client', it wants"),
        (["9 messages per fortnight per client"], "it wants"),
        (["9 messages per hour per client burst 7"], "it wants"),
        (["9 messages per 0 hours per client"], "it wants"),
        (
            ["9 connections per hour per sender"],
            "option limits has '9 connections per hour per sender', connections are counted per client",
        ),
        (["9 auth failures per hour per sender"], "auth failures are counted per client or per user"),
        (["9 recipients per hour per recipient"], "recipients are counted per client or per user or per sender"),
    ],
)
def test_a_wrong_limit_is_one_sentence(limits: Any, error: str) -> None:
    with pytest.raises(OptionError) as caught:
        RateLimit(limits=limits)
    assert error in str(caught.value)
    assert caught.value.options == ("limits",)


def test_counts_have_a_method_increment() -> None:
    with pytest.raises(OptionError, match="option counts is 5, it wants an object with methods check and increment"):
        RateLimit(limits=["9 messages per hour per client"], counts=5)


@pytest.mark.parametrize(
    "what, hooks",
    [
        ("connections", {"onConnect"}),
        ("messages", {"onRcptTo"}),
        ("recipients", {"onRcptTo"}),
        ("octets", {"onMailFrom", "onRcptTo", "filterData"}),
        ("auth failures", {"onAuth", "onReply"}),
    ],
)
def test_there_are_only_the_hooks_that_the_limits_need(what: str, hooks: set[str]) -> None:
    layer = rateLimit(f"9 {what} per hour per client")
    assert {name for name in (*HOOK_NAMES, "filterData") if callable(getattr(layer, name, None))} == hooks
    assert {name for name in HOOK_NAMES if hookOf(layer, name)} == hooks - {"filterData"}


# --- connections ---


def test_connections_of_one_client_are_limited() -> None:
    layer = rateLimit("2 connections per minute per client")
    assert [code(layer.onConnect(sessionFrom())) for _ in range(3)] == [250, 250, 421]
    assert code(layer.onConnect(sessionFrom("192.0.2.8"))) == 250
    advance(layer, 30)
    assert [code(layer.onConnect(sessionFrom())) for _ in range(2)] == [250, 421]


def test_of_ipv6_a_network_of_64_bits_is_one_client() -> None:
    layer = rateLimit("1 connection per minute per client")
    clients = ("2001:db8:1:2::1", "2001:db8:1:2:3::", "2001:db8:1:3::1")
    assert [code(layer.onConnect(sessionFrom(client))) for client in clients] == [250, 421, 250]


def test_a_client_without_an_address_is_not_limited() -> None:
    layer = rateLimit("1 connection per minute per client")
    assert [code(layer.onConnect(sessionFrom(""))) for _ in range(2)] == [250, 250]


def test_all_limits_of_one_kind_hold() -> None:
    layer = rateLimit("2 connections per second per client", "3 connections per hour per client")
    assert [code(layer.onConnect(sessionFrom())) for _ in range(3)] == [250, 250, 421]
    advance(layer, 1)
    assert [code(layer.onConnect(sessionFrom())) for _ in range(2)] == [250, 421]
    advance(layer, 60)
    assert code(layer.onConnect(sessionFrom())) == 421


# --- messages and recipients ---


def message(layer: RateLimit, session: Session, *recipients: Address) -> list[int]:
    session.envelope = Envelope(session.envelope.mailFrom)
    return [code(layer.onRcptTo(recipient, session)) for recipient in recipients]


def test_a_message_counts_with_its_first_recipient() -> None:
    layer = rateLimit("2 messages per hour per client")
    session = sessionFrom()
    assert message(layer, session, BOB, CAROL, BOB) == [250, 250, 250]
    assert message(layer, session) == []
    assert message(layer, session, BOB) == [250]
    assert message(layer, session, BOB, CAROL) == [450, 450]


def test_messages_of_one_client_are_counted_over_its_connections() -> None:
    layer = rateLimit("1 message per hour per client")
    assert message(layer, sessionFrom(), BOB) == [250]
    assert message(layer, sessionFrom(), BOB) == [450]
    assert message(layer, sessionFrom("192.0.2.8"), BOB) == [250]


def test_messages_are_counted_per_user_whatever_the_address() -> None:
    layer = rateLimit("1 message per hour per user")
    assert message(layer, sessionFrom(user="ann"), BOB) == [250]
    assert message(layer, sessionFrom("192.0.2.8", user="Ann"), BOB) == [450]
    assert message(layer, sessionFrom(user="ben"), BOB) == [250]
    assert message(layer, sessionFrom(), BOB) == message(layer, sessionFrom(), BOB) == [250]


def test_messages_are_counted_per_sender_whatever_its_case() -> None:
    layer = rateLimit("1 message per hour per sender")
    assert message(layer, sessionFrom(), BOB) == [250]
    assert message(layer, sessionFrom(sender=SENDER.lower()), BOB) == [450]
    assert message(layer, sessionFrom(sender="other@client.test"), BOB) == [250]


def test_the_null_reverse_path_has_no_limit_as_a_sender() -> None:
    layer = rateLimit("1 message per hour per sender")
    assert message(layer, sessionFrom(sender=""), BOB) == message(layer, sessionFrom(sender=""), BOB) == [250]


def test_messages_are_counted_per_recipient() -> None:
    layer = rateLimit("1 message per hour per recipient")
    assert message(layer, sessionFrom(), BOB, CAROL) == [250, 250]
    assert message(layer, sessionFrom("192.0.2.8"), addressOf("BOB@mx.test"), addressOf("dora@mx.test")) == [450, 250]


@pytest.mark.parametrize("per", ["client", "user", "sender"])
def test_recipients_are_counted(per: str) -> None:
    layer = rateLimit(f"3 recipients per minute per {per}")
    session = sessionFrom(user="ann")
    assert message(layer, session, BOB, CAROL) == [250, 250]
    assert message(layer, session, BOB, CAROL) == [250, 450]
    advance(layer, 20)
    assert message(layer, session, BOB, CAROL) == [250, 450]


def test_a_recipient_that_one_count_refuses_costs_nothing_elsewhere() -> None:
    layer = rateLimit("2 messages per hour per client", "1 message per minute per recipient")
    assert message(layer, sessionFrom(), BOB) == [250]
    for _ in range(5):
        assert message(layer, sessionFrom(), BOB) == [450]
    assert message(layer, sessionFrom(), CAROL) == [250]
    assert message(layer, sessionFrom(), addressOf("dora@mx.test")) == [450]


def test_a_message_whose_first_recipient_is_refused_counts_with_a_later_one() -> None:
    layer = rateLimit("2 messages per hour per client", "1 message per hour per recipient")
    assert message(layer, sessionFrom(), BOB) == [250]
    assert message(layer, sessionFrom(), BOB, CAROL) == [450, 250]
    assert message(layer, sessionFrom(), addressOf("dora@mx.test")) == [450]


# --- octets ---


def test_a_declared_size_is_checked_at_mail_and_not_charged() -> None:
    layer = rateLimit("1000 octets per hour per client")
    for _ in range(3):
        session = sessionFrom(SIZE="900")
        assert code(layer.onMailFrom(session.envelope.mailFrom, session)) == 250  # type: ignore[arg-type]
    assert octets(layer, sessionFrom(), b"x" * 600) == 250
    assert code(layer.onMailFrom(addressOf(SENDER, args={"SIZE": "900"}), session)) == 450
    assert code(layer.onMailFrom(addressOf(SENDER, args={"SIZE": "400"}), session)) == 250
    assert code(layer.onMailFrom(addressOf(SENDER), session)) == 250


def test_a_size_that_never_fits_is_refused_for_good() -> None:
    layer = rateLimit("1000 octets per hour per client, burst 500")
    refusal = answer(layer.onMailFrom(addressOf(SENDER, args={"SIZE": "501"}), sessionFrom()))
    assert refusal is not None and (refusal.responseCode, refusal.enhancedCode) == (552, "5.3.4")
    assert octets(layer, sessionFrom(), b"x" * 501) == 552


def test_a_declared_size_is_checked_for_a_recipient() -> None:
    layer = rateLimit("1000 octets per hour per recipient")
    session = sessionFrom()
    session.envelope.rcptTo = [BOB]
    assert octets(layer, session, b"x" * 600) == 250
    assert message(layer, sessionFrom(SIZE="500"), BOB, CAROL) == [450, 250]


def test_octets_are_charged_as_they_arrive_in_large_steps() -> None:
    layer = rateLimit("200_000 octets per hour per client")
    out: list[bytes] = []
    chunks = [b"x" * 30_000] * 9
    assert code(pour(layer, sessionFrom(), chunks, out)) == 552
    assert len(out) == 8
    assert layer.counts.check("octets client 192.0.2.7", 20_000, layer._limits["octets"]["client"]) == Verdict()


def test_octets_go_on_as_they_came() -> None:
    layer = rateLimit("200_000 octets per hour per client")
    out: list[bytes] = []
    chunks = [b"Subject: x\r\n", b"\r\n", b"text\r\n"]
    assert code(pour(layer, sessionFrom(), chunks, out)) == 250
    assert out == chunks


def test_octets_of_several_messages_add_up() -> None:
    layer = rateLimit("1000 octets per hour per client")
    assert [octets(layer, sessionFrom(), b"x" * 400) for _ in range(3)] == [250, 250, 450]
    advance(layer, 3600)
    assert octets(layer, sessionFrom(), b"x" * 1000) == 250


def test_octets_are_charged_once_for_each_recipient() -> None:
    layer = rateLimit("1000 octets per hour per recipient")
    session = sessionFrom()
    session.envelope.rcptTo = [BOB, CAROL, BOB]
    assert octets(layer, session, b"x" * 600) == 250
    session.envelope.rcptTo = [CAROL]
    assert octets(layer, session, b"x" * 600) == 450


@pytest.mark.parametrize("per", ["recipient", "sender"])
def test_no_other_spelling_of_an_address_is_another_address(per: str) -> None:
    spellings = [
        "ann@b\u00fccher.example",
        "ANN@B\u00dcCHER.example",
        '"ann"@xn--bcher-kva.example',
        '"a\\nn"@xn--bcher-kva.EXAMPLE',
    ]
    client = connect(hooks=[rateLimit(f"1 message per hour per {per}"), Mailbox()], authOptional=True)
    client.say("EHLO c.example")
    codes = []
    for each in spellings:
        sender, recipient = (each, "x@y.example") if per == "sender" else ("x@y.example", each)
        codes.append(client.say(f"MAIL FROM:<{sender}> SMTPUTF8", f"RCPT TO:<{recipient}>", "RSET")[1][:3])
    assert codes == ["250", "450", "450", "450"]


# --- failed authentications ---


def attempt(layer: RateLimit, session: Session, username: str = "ann", reply: Reply | None = REFUSED) -> int:
    result = code(layer.onAuth(SimpleNamespace(username=username), session))
    layer.onReply("AUTH", reply if result == 250 and reply else Reply(result, "text"), session)
    return result


def test_a_client_that_failed_too_often_is_refused() -> None:
    layer = rateLimit("2 auth failures per hour per client")
    assert [attempt(layer, sessionFrom(), name) for name in ("ann", "ben", "ann")] == [250, 250, 421]
    assert attempt(layer, sessionFrom("192.0.2.8")) == 250
    advance(layer, 1800)
    assert [attempt(layer, sessionFrom()) for _ in range(2)] == [250, 421]


class TestWhereUsersAreChecked:
    """The layer can only refuse; somebody else authenticates."""

    LIMIT = "2 auth failures per hour per client"
    WRONG, RIGHT = (f"AUTH PLAIN {b64encode(chr(0).encode() + pair).decode()}" for pair in (b"ann\0x", b"ann\0pencil"))

    def test_a_portal_is_asked_behind_it(self) -> None:
        portal = Portal(UserNameRealm(), [InMemoryUsernamePasswordDatabaseDontUse(ann=b"pencil")])
        client = connect(
            hooks=[rateLimit(self.LIMIT), Mailbox()], portal=portal, allowInsecureAuth=True, authMethods=["PLAIN"]
        )
        assert client.last("EHLO c.example", self.RIGHT).startswith("235")
        client = connect(
            hooks=[rateLimit(self.LIMIT), Mailbox()], portal=portal, allowInsecureAuth=True, authMethods=["PLAIN"]
        )
        client.say("EHLO c.example")
        said = []
        for _ in range(3):
            said += client.say(self.WRONG)
            client.clock.advance(60)  # the replies to failures are delayed
            said += client.replies()
        assert [line[:3] for line in said] == ["535", "535", "421"]

    def test_where_nobody_authenticates_AUTH_is_not_offered(self) -> None:
        client = connect(hooks=[rateLimit(self.LIMIT), Mailbox()], allowInsecureAuth=True, authOptional=True)
        assert client.factory.onAuth is None
        assert client.last("EHLO c.example", self.RIGHT).startswith("50")

    def test_a_layer_in_front_that_authenticates_is_an_error(self) -> None:
        class Users:
            def onAuth(self, auth: Any, session: Any) -> str:
                return "ann"

        with pytest.raises(OptionError, match="RateLimit can only refuse in onAuth and stands behind layer Users"):
            SMTPServerFactory(hooks=[Users(), rateLimit(self.LIMIT), Mailbox()])
        SMTPServerFactory(hooks=[rateLimit(self.LIMIT), Users(), Mailbox()])


def test_what_succeeds_or_fails_for_now_does_not_count() -> None:
    layer = rateLimit("1 auth failure per hour per client")
    for reply in (Reply(235, "yes"), Reply(454, "later")):
        assert [attempt(layer, sessionFrom(), reply=reply) for _ in range(3)] == [250] * 3


def test_a_refusal_with_a_challenge_counts_once() -> None:
    layer = rateLimit("2 auth failures per hour per client")
    session = sessionFrom()
    for _ in range(2):
        assert attempt(layer, session, reply=Reply(334, "")) == 250
        layer.onReply("AUTH", REFUSED, session)
        layer.onReply("AUTH", REFUSED, session)
    assert attempt(layer, session) == 421


def test_failures_are_counted_for_the_user_whom_the_client_named() -> None:
    layer = rateLimit("1 auth failure per hour per user")
    assert attempt(layer, sessionFrom(), "ann") == 250
    assert attempt(layer, sessionFrom("192.0.2.8"), "ANN") == 421
    assert attempt(layer, sessionFrom(), "ben") == 250
    assert attempt(layer, sessionFrom(), "") == attempt(layer, sessionFrom(), "") == 250


def test_parallel_failures_all_count() -> None:
    layer = rateLimit("2 auth failures per hour per client")
    sessions = [sessionFrom() for _ in range(5)]
    assert [code(layer.onAuth(SimpleNamespace(username="ann"), session)) for session in sessions] == [250] * 5
    for session in sessions:
        layer.onReply("AUTH", REFUSED, session)
    advance(layer, 3 * 1800)
    assert attempt(layer, sessionFrom()) == 421
    advance(layer, 1800)
    assert attempt(layer, sessionFrom()) == 250


@pytest.mark.parametrize("verb, reply", [("MAIL", REFUSED), ("AUTH", Reply(535, "no mechanism of that name"))])
def test_other_replies_do_not_count(verb: str, reply: Reply) -> None:
    layer = rateLimit("1 auth failure per hour per client")
    for _ in range(3):
        layer.onReply(verb, reply, sessionFrom())
    assert attempt(layer, sessionFrom()) == 250


# --- what is said ---


@pytest.mark.parametrize(
    "limit, call, text, enhancedCode",
    [
        (
            "1 connection per minute per client",
            lambda layer, session: layer.onConnect(session),
            "Too many connections from your address, try again in 60 seconds",
            "4.7.0",
        ),
        (
            "1 message per 2 minutes per sender",
            lambda layer, session: layer.onRcptTo(BOB, session),
            "Too many messages from this sender, try again in 2 minutes",
            "4.7.1",
        ),
        (
            "1 message per day per recipient",
            lambda layer, session: layer.onRcptTo(BOB, session),
            "Too many messages to this recipient, try again in 24 hours",
            "4.7.1",
        ),
        (
            "1 recipient per second per user",
            lambda layer, session: layer.onRcptTo(BOB, session),
            "Too many recipients from this user, try again in 1 second",
            "4.7.1",
        ),
    ],
)
def test_the_client_is_told_how_long_to_wait(
    limit: str, call: Callable[[Any, Session], Any], text: str, enhancedCode: str
) -> None:
    layer = rateLimit(limit)
    assert answer(call(layer, sessionFrom(user="ann"))) is None
    refusal = answer(call(layer, sessionFrom(user="ann")))
    assert refusal is not None and (refusal.message, refusal.enhancedCode) == (text, enhancedCode)


def test_the_operator_is_told_the_limit_and_the_client_and_no_mail_address() -> None:
    layer = rateLimit("1 message per  hour per sender")
    message(layer, sessionFrom(), BOB)
    with capturedLogs() as lines:
        session = sessionFrom("2001:db8::1")
        assert message(layer, session, BOB) == [450]
    (line,) = lines
    assert line["log_format"].format(**line) == (
        f"over the limit of 1 message per hour per sender: 2001:db8::/64 is told to wait 60 minutes [{session.id}]"
    )
    assert line["peer"] == "2001:db8::1"
    assert not any("client.test" in str(value).lower() for value in line.values())


# --- other stores of counts ---


class SharedCounts:
    """Counts somewhere else, so that answers come later."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.pending: list[Deferred[Verdict]] = []

    def check(self, key: str, cost: int, limits: tuple[Limit, ...]) -> Deferred[Verdict]:
        return succeed(Verdict())

    def increment(self, key: str, cost: int, limits: tuple[Limit, ...], force: bool = False) -> Deferred[Verdict]:
        self.asked.append((key, cost))
        self.pending.append(Deferred())
        return self.pending[-1]


def test_counts_may_be_kept_elsewhere() -> None:
    shared = SharedCounts()
    layer = rateLimit("1 message per hour per client", "9 recipients per hour per client", counts=shared)
    results: list[Any] = []
    Deferred.fromCoroutine(layer.onRcptTo(BOB, sessionFrom())).addBoth(results.append)
    shared.pending[0].callback(Verdict())
    assert not results
    shared.pending[1].callback(Verdict(Limit(1, 60, 1), 59.5))
    assert results[0].value.message == "Too many messages from your address, try again in 60 seconds"
    assert shared.asked == [("recipients client 192.0.2.7", 1), ("messages client 192.0.2.7", 1)]


def test_a_failure_that_cannot_be_counted_elsewhere_is_logged(logged: Logged) -> None:
    shared = SharedCounts()
    layer = rateLimit("9 auth failures per hour per client", counts=shared)
    assert attempt(layer, sessionFrom()) == 250
    shared.pending[0].errback(ConnectionError("gone"))
    assert len(logged.takeFailures(ConnectionError)) == 1


def test_a_store_that_fails_is_a_fault_of_the_layer() -> None:
    shared = SharedCounts()
    shared.increment = lambda *_: fail(ConnectionError("gone"))  # type: ignore[method-assign]
    results: list[Any] = []
    layer = rateLimit("9 connections per hour per client", counts=shared)
    Deferred.fromCoroutine(layer.onConnect(sessionFrom())).addErrback(results.append)
    assert results[0].check(ConnectionError)


def test_a_long_name_makes_no_long_key() -> None:
    shared = SharedCounts()
    layer = rateLimit("9 auth failures per hour per user", counts=shared)
    attempt(layer, sessionFrom(), "x" * 10_000)
    assert len(shared.asked[0][0]) == 256


# --- in a server ---


def test_it_works_in_a_server() -> None:
    factory = makeFactory(hooks=rateLimit("2 connections per minute per client", "1 message per minute per client"))
    client = Client(factory, Transport())
    client.replies()
    talk = client.say("EHLO client.test", "MAIL FROM:<a@b.test>", "RCPT TO:<bob@mx.test>", "RCPT TO:<c@mx.test>")
    assert [line[:3] for line in talk[-3:]] == ["250", "250", "250"]
    talk = client.say("RSET", "MAIL FROM:<a@b.test>", "RCPT TO:<bob@mx.test>")
    assert talk[-1] == "450 4.7.1 Too many messages from your address, try again in 60 seconds"
    Client(factory, Transport())
    third = Client(factory, Transport())
    assert third.replies() == ["421 4.7.0 Too many connections from your address, try again in 30 seconds"]
    assert third.isClosed
