"""The layer DNSLists: what is asked when, who is refused, and whole runs against a real DNS server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.names.error import DNSQueryRefusedError, DNSServerError

from smtphooks.errors import OptionError
from smtphooks.hooks import HOOK_NAMES, hookOf
from smtphooks.layers import DNSLists
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Envelope, Session
from tests.layers.nameserver import Lists, Serve, serve
from tests.support import HELLO, MAIL, RCPT, Client, Transport, makeFactory

__all__ = ["serve"]

pytestmark = pytest.mark.usefixtures("logged")

CLIENT, REVERSED = "8.8.4.7", "7.4.8.8"
CLIENT6 = "2600:1f00::7"
BL, DBL, WL = "bl.example.org", "dbl.example.org", "wl.example.org"
BOB = Address("bob@mx.test", "bob", "mx.test")
SENDER = Address("ann@sender.example", "ann", "sender.example")


class Dialogue:
    """A client whose hooks are called one after the other."""

    def __init__(self, lists: Lists, address: str = CLIENT, **options: Any) -> None:
        self.lists = lists
        self.layer = DNSLists(resolver=lists, **options)
        self.clock = self.layer.clock = Clock()
        self.session = Session(remoteAddress=address, envelope=Envelope(SENDER))

    def says(self, hook: str, *arguments: Any) -> None:
        """An event for which the layer may have a hook."""
        call = hookOf(self.layer, hook)
        if call is not None:
            assert call(*arguments, self.session) is None

    def begins(self, helo: str = "client.example", sender: Address = SENDER) -> Dialogue:
        self.says("onConnect")
        self.says("onHelo", helo)
        self.says("onMailFrom", sender)
        return self

    def rcpt(self, recipient: Address = BOB) -> list[Any]:
        """The result of RCPT, once it is there: None, or an exception."""
        results: list[Any] = []
        self.asking = Deferred.fromCoroutine(self.layer.onRcptTo(recipient, self.session))
        self.asking.addCallbacks(results.append, lambda failure: results.append(failure.value))
        return results

    def refusal(self, recipient: Address = BOB) -> str | None:
        """The refusal of RCPT, which is known at once."""
        (result,) = self.rcpt(recipient)
        if result is None:
            return None
        assert isinstance(result, SMTPError), result
        assert (result.responseCode, result.enhancedCode) == (550, "5.7.1")
        return result.message


def listing(client: str = REVERSED, zone: str = BL, code: str = "127.0.0.2", **more: Any) -> Lists:
    return Lists().has(f"{client}.{zone}", code, **more)


# --- options ---


@pytest.mark.parametrize(
    "options, error",
    [
        ({}, "option clients is empty, and so are helos and senders: no list is asked"),
        ({"allow": [WL]}, "option clients is empty, and so are helos and senders: no list is asked"),
        ({"clients": BL}, f"option clients is '{BL}', it wants a list of DNS lists"),
        ({"clients": ["bl"]}, "option clients has 'bl', it wants lists such as"),
        ({"helos": [f"{BL}=1.2.3.4"]}, "option helos has 'bl.example.org=1.2.3.4', its codes must be"),
        ({"senders": ["*"]}, "option senders has '*', it wants lists"),
        ({"clients": [BL], "allow": ["x"]}, "option allow has 'x', it wants lists"),
        ({"clients": [BL], "threshold": 0}, "option threshold is 0, it wants a whole number from 1"),
        ({"clients": [BL], "timeout": 0}, "option timeout is 0, it wants a number of seconds, more than 0 and"),
        ({"clients": [BL], "servers": ["dns.example"]}, "option servers has 'dns.example', it wants addresses"),
        ({"clients": [BL], "servers": ["192.0.2.1:0"]}, "option servers has '192.0.2.1:0', it wants addresses"),
        ({"clients": [BL], "servers": ["[::1]:x"]}, "option servers has '[::1]:x', it wants addresses"),
        ({"clients": [BL], "resolver": 5}, "option resolver is 5, it wants a Twisted IResolver"),
        (
            {"clients": [BL], "servers": ["192.0.2.1"], "resolver": Lists()},
            "option servers cannot be given beside resolver",
        ),
        ({"helos": [f"{DBL}*-1"]}, "option helos has a list with a negative score, but a client can claim any name"),
        ({"senders": [f"{DBL}*-1"]}, "option senders has a list with a negative score"),
        ({"lists": [BL]}, "unknown option lists"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], error: str) -> None:
    with pytest.raises(OptionError) as caught:
        DNSLists(**options)
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    "text, server",
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_a_server_has_an_address_and_may_have_a_port(text: str, server: tuple[str, int]) -> None:
    assert DNSLists(clients=[BL], servers=[text])._servers == [server]


@pytest.mark.parametrize(
    "options, hooks",
    [
        ({"clients": [BL]}, {"onConnect"}),
        ({"helos": [DBL]}, {"onHelo"}),
        ({"senders": [DBL]}, {"onMailFrom"}),
        ({"senders": [DBL], "allow": [WL]}, {"onConnect", "onMailFrom"}),
    ],
)
def test_there_are_only_the_hooks_that_the_lists_need(options: dict[str, Any], hooks: set[str]) -> None:
    layer = DNSLists(**options)
    assert {name for name in HOOK_NAMES if hookOf(layer, name)} == hooks | {"onRcptTo", "onClose"}


# --- who is refused ---


def test_a_listed_client_is_refused_at_rcpt_with_the_reason_of_the_list() -> None:
    dialogue = Dialogue(listing(text="https://bl.example.org/8.8.4.7"), clients=[BL]).begins()
    assert dialogue.refusal() == "Client 8.8.4.7 is listed by bl.example.org: https://bl.example.org/8.8.4.7"


def test_a_client_that_is_not_listed_is_not_refused() -> None:
    assert Dialogue(Lists(), clients=[BL]).begins().refusal() is None


def test_an_ipv6_client_is_asked_for_by_nibbles() -> None:
    lists = Lists()
    Dialogue(lists, CLIENT6, clients=[BL]).begins()
    assert lists.asked == ["7" + ".0" * 23 + ".0.0.f.1.0.0.6.2." + BL]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.7", "192.168.1.1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.7", "", "./socket"]
)
def test_an_address_that_is_not_public_is_not_asked_for(address: str) -> None:
    lists = Lists()
    assert Dialogue(lists, address, clients=[BL], allow=[WL]).begins().refusal() is None
    assert not lists.asked


def test_an_ipv4_client_of_an_ipv6_socket_is_asked_for_as_such() -> None:
    assert Dialogue(listing(), f"::ffff:{CLIENT}", clients=[BL]).begins().refusal() is not None


def test_a_name_given_with_helo_is_asked_for() -> None:
    dialogue = Dialogue(listing("bad.example", DBL, text="botnet"), helos=[DBL]).begins("Bad.Example")
    assert dialogue.refusal() == "HELO name bad.example is listed by dbl.example.org: botnet"
    dialogue.says("onHelo", "good.example")
    assert dialogue.refusal() is None


def test_the_domain_of_a_sender_is_asked_for() -> None:
    dialogue = Dialogue(listing("sender.example", DBL), senders=[DBL]).begins()
    assert dialogue.refusal() == "Sender domain sender.example is listed by dbl.example.org"
    dialogue.says("onMailFrom", Address("ann@other.example", "ann", "other.example"))
    assert dialogue.refusal() is None


@pytest.mark.parametrize("name", ["[8.8.4.7]", "8.8.4.7", "localhost", "[IPv6:2600::7]", ""])
def test_what_is_no_domain_is_not_asked_for(name: str) -> None:
    # Some lists of domains answer for addresses with a code of their own, which must not be taken for a listing.
    lists = Lists()
    dialogue = Dialogue(lists, helos=[DBL], senders=[DBL]).begins(name, Address("", "", name))
    assert dialogue.refusal() is None and not lists.asked


def test_only_the_codes_that_are_named_count() -> None:
    lists = listing(code="127.0.0.10")
    assert Dialogue(lists, clients=[f"{BL}=127.0.0.2-9"]).begins().refusal() is None
    assert Dialogue(lists, clients=[f"{BL}=127.0.0.2-9,127.0.0.10"]).begins().refusal() is not None


def test_scores_add_up_to_the_threshold_over_all_that_is_asked() -> None:
    lists = listing(text="one").has(f"client.example.{DBL}", "127.0.1.2", text="two")
    options: dict[str, Any] = {"clients": [f"{BL}*2"], "helos": [DBL], "threshold": 3}
    assert Dialogue(lists, **options).begins("other.example").refusal() is None
    assert Dialogue(lists, **options).begins().refusal() == (
        "Client 8.8.4.7 is listed by bl.example.org: one; HELO name client.example is listed by dbl.example.org: two"
    )


def test_a_list_with_a_negative_score_speaks_for_the_client_and_is_not_named() -> None:
    lists = listing().has(f"{REVERSED}.{WL}", "127.0.0.2").has(f"sender.example.{DBL}", "127.0.1.2")
    options: dict[str, Any] = {"clients": [BL, f"{WL}*-1"], "senders": [DBL]}
    assert Dialogue(lists, clients=[BL, f"{WL}*-1"]).begins().refusal() is None
    refusal = Dialogue(lists, **options).begins().refusal()
    assert refusal is not None and WL not in refusal
    assert f"TXT {REVERSED}.{WL}" not in lists.asked


def test_a_client_in_an_allow_list_is_not_refused_whatever_else_lists_it() -> None:
    lists = listing().has(f"{REVERSED}.{WL}", "127.0.5.1").has(f"sender.example.{DBL}", "127.0.1.2")
    options: dict[str, Any] = {"clients": [f"{BL}*9"], "senders": [DBL]}
    assert Dialogue(lists, allow=[f"{WL}=127.0-255.0-255.1-3"], **options).begins().refusal() is None
    assert Dialogue(lists, allow=[f"{WL}=127.0-255.0-255.2-3"], **options).begins().refusal() is not None


def test_a_list_in_both_places_allows() -> None:
    assert Dialogue(listing(), clients=[BL], allow=[BL]).begins().refusal() is None


def test_a_name_that_the_client_chose_allows_nothing() -> None:
    lists = Lists().has(f"client.example.{WL}", "127.0.0.2")
    assert Dialogue(lists, helos=[WL], allow=[WL]).begins().refusal() is not None


def test_an_allow_list_that_lists_everything_allows_nothing() -> None:
    lists = listing().has(f"{REVERSED}.{WL}", "127.0.0.2").has(f"1.0.0.127.{WL}", "127.0.0.2")
    with capturedLogs():
        assert Dialogue(lists, clients=[BL], allow=[WL]).begins().refusal() is not None


def test_one_list_may_count_differently_by_code_and_is_named_once() -> None:
    lists = Lists().has(f"{REVERSED}.{BL}", "127.0.0.2", "127.0.0.10")
    dialogue = Dialogue(lists, clients=[f"{BL}=127.0.0.2*2", f"{BL}=127.0.0.10"], threshold=3).begins()
    assert dialogue.refusal() == "Client 8.8.4.7 is listed by bl.example.org"
    assert lists.asked.count(f"{REVERSED}.{BL}") == 1


@pytest.mark.parametrize("local", ["postmaster", "Postmaster", "abuse", "ABUSE"])
def test_a_client_that_is_listed_by_mistake_can_say_so(local: str) -> None:
    dialogue = Dialogue(listing(), clients=[BL]).begins()
    assert dialogue.refusal(Address(f"{local}@mx.test", local, "mx.test")) is None
    assert dialogue.refusal() is not None


def test_an_authenticated_user_is_not_refused() -> None:
    dialogue = Dialogue(listing(), clients=[BL]).begins()
    dialogue.session.user = "ann"
    assert dialogue.refusal() is None


@pytest.mark.parametrize(
    "answer", [DNSServerError("broken"), DNSQueryRefusedError("no"), ["127.255.255.254"], ["198.51.100.1"]]
)
def test_a_list_that_says_nothing_refuses_nothing(answer: Any) -> None:
    lists = Lists()
    if isinstance(answer, list):
        lists.has(f"{REVERSED}.{BL}", *answer)
    else:
        lists.known[f"{REVERSED}.{BL}"] = answer
    with capturedLogs() as lines:
        assert Dialogue(lists, clients=[BL]).begins().refusal() is None
    assert [line["list"] for line in lines if line["log_level"] is LogLevel.warn] == [BL]


def test_the_operator_is_told_the_lists_and_the_score() -> None:
    dialogue = Dialogue(listing(text="spam"), clients=[f"{BL}*7"]).begins()
    with capturedLogs() as lines:
        dialogue.refusal()
    (line,) = [line for line in lines if line["log_level"] is LogLevel.info]
    assert line["log_format"].format(**line) == (
        f"refused by DNS lists bl.example.org, with a score of 7 [{dialogue.session.id}]"
    )
    assert line["peer"] == CLIENT


# --- when ---


def test_all_lists_are_asked_at_once_and_nothing_waits_before_rcpt() -> None:
    lists = Lists()
    names = [f"{REVERSED}.{BL}", f"{REVERSED}.{WL}", f"client.example.{DBL}", f"sender.example.{DBL}"]
    pending = {name: lists.isSilentAbout(name) for name in names}
    dialogue = Dialogue(lists, clients=[BL], allow=[WL], helos=[DBL], senders=[DBL])
    dialogue.says("onConnect")
    assert sorted(lists.asked) == sorted(names[:2])
    dialogue.says("onHelo", "client.example")
    dialogue.says("onMailFrom", SENDER)
    assert sorted(lists.asked) == sorted(names)
    result = dialogue.rcpt()
    for name in names:
        assert not result
        pending[name].callback(([], [], []))
    assert result == [None]


def test_rcpt_waits_no_longer_than_the_time_limit() -> None:
    lists = listing()
    lists.isSilentAbout(f"{REVERSED}.slow.example.org")
    dialogue = Dialogue(lists, clients=["slow.example.org", BL], timeout=2.5).begins()
    dialogue.clock.advance(2)
    result = dialogue.rcpt()
    assert not result
    with capturedLogs():
        dialogue.clock.advance(0.5)
    assert result[0].message == "Client 8.8.4.7 is listed by bl.example.org"
    assert dialogue.refusal() is not None


def test_a_hook_that_is_cancelled_leaves_the_look_up_to_the_next_one() -> None:
    lists = Lists()
    pending = lists.isSilentAbout(f"{REVERSED}.{BL}")
    dialogue = Dialogue(lists, clients=[BL]).begins()
    first = dialogue.rcpt()
    dialogue.asking.cancel()
    assert isinstance(first[0], CancelledError)
    second = dialogue.rcpt()
    pending.callback((listing().known[f"{REVERSED}.{BL}"], [], []))
    assert isinstance(second[0], SMTPError)


def test_a_client_that_leaves_cancels_its_look_ups() -> None:
    lists = Lists()
    names = [f"{REVERSED}.{BL}", f"client.example.{DBL}", f"sender.example.{DBL}"]
    for name in names:
        lists.isSilentAbout(name)
    dialogue = Dialogue(lists, clients=[BL], helos=[DBL], senders=[DBL]).begins()
    dialogue.rcpt()
    dialogue.asking.cancel()
    dialogue.says("onClose")
    assert sorted(lists.cancelled) == sorted(names)
    dialogue.clock.advance(0)
    assert not dialogue.clock.getDelayedCalls()


def test_another_name_cancels_the_look_up_of_the_one_before() -> None:
    lists = Lists()
    for name in ("client.example", "sender.example"):
        lists.isSilentAbout(f"{name}.{DBL}")
    dialogue = Dialogue(lists, helos=[DBL], senders=[DBL]).begins()
    dialogue.begins("other.example", Address("x@other.example", "x", "other.example"))
    assert sorted(lists.cancelled) == [f"client.example.{DBL}", f"sender.example.{DBL}"]
    assert dialogue.refusal() is None


def test_a_client_named_by_a_proxy_later_is_asked_for_then() -> None:
    lists = listing("9.4.8.8")
    lists.isSilentAbout(f"{REVERSED}.{BL}")
    dialogue = Dialogue(lists, clients=[BL]).begins()
    dialogue.session.remoteAddress = "8.8.4.9"
    assert dialogue.refusal() == "Client 8.8.4.9 is listed by bl.example.org"
    assert lists.cancelled == [f"{REVERSED}.{BL}"]


def test_a_client_that_reconnects_is_not_asked_for_again() -> None:
    dialogue = Dialogue(listing(), clients=[BL])
    for _ in range(5):
        dialogue.session = Session(remoteAddress=CLIENT)
        assert dialogue.begins().refusal() is not None
        dialogue.says("onClose")
    assert dialogue.lists.asked.count(f"{REVERSED}.{BL}") == 1


# --- start and stop ---


def startedWith(lists: Lists, **options: Any) -> list[str]:
    dialogue = Dialogue(lists, **options)
    with capturedLogs() as lines:
        dialogue.layer.onStart(None)
        dialogue.clock.advance(4)
    return [line["log_format"].format(**line) for line in lines if line["log_level"] is LogLevel.warn]


def test_lists_with_the_entries_for_tests_are_not_named_at_the_start() -> None:
    lists = listing("2.0.0.127").has(f"test.{DBL}", "127.0.1.2").has(f"2.0.0.127.{WL}", "127.0.0.2")
    assert startedWith(lists, clients=[BL], helos=[DBL], senders=[DBL], allow=[WL]) == []


@pytest.mark.parametrize(
    "prepare, line",
    [
        (lambda lists: None, "lacks the entry for tests of RFC 5782 (127.0.0.2): has it been given up?"),
        (lambda lists: lists.isSilentAbout(f"2.0.0.127.{BL}"), "does not answer in time"),
        (
            lambda lists: lists.has(f"2.0.0.127.{BL}", "127.255.255.254"),
            "refuses to answer this server: 127.255.255.254",
        ),
        (
            lambda lists: lists.has(f"2.0.0.127.{BL}", "127.0.0.2").has(f"1.0.0.127.{BL}", "127.0.0.2"),
            "lists 127.0.0.1, so it lists everything, and is ignored",
        ),
        (
            lambda lists: lists.has(f"2.0.0.127.{BL}", "192.0.2.1").has(f"1.0.0.127.{BL}", "192.0.2.1"),
            "answers with addresses outside 127.0.0.0/8, which is ignored: 192.0.2.1",
        ),
    ],
)
def test_a_list_that_is_no_use_is_named_at_the_start(prepare: Callable[[Lists], Any], line: str) -> None:
    lists = Lists()
    prepare(lists)
    assert startedWith(lists, clients=[BL]) == [f"DNS list {BL} {line}"]


def test_a_list_of_domains_is_tested_with_a_domain() -> None:
    assert startedWith(Lists(), senders=[DBL]) == [
        f"DNS list {DBL} lacks the entry for tests of RFC 5782 (test): has it been given up?"
    ]


def test_stopping_cancels_look_ups_and_the_test_at_the_start() -> None:
    lists = Lists()
    lists.isSilentAbout(f"2.0.0.127.{BL}")
    lists.isSilentAbout(f"{REVERSED}.{BL}")
    dialogue = Dialogue(lists, clients=[BL]).begins()
    dialogue.layer.onStart(None)
    dialogue.layer.onStop(None)
    assert sorted(lists.cancelled) == [f"2.0.0.127.{BL}", f"{REVERSED}.{BL}"]
    dialogue.clock.advance(0)
    assert not dialogue.clock.getDelayedCalls()
    DNSLists(clients=[BL]).onStop(None)


# --- a server, and a real DNS server ---


def clientOf(layer: DNSLists) -> Client:
    factory = makeFactory(hooks=layer, disableReverseLookup=True)
    client = Client(factory, Transport(peerAddress=IPv4Address("TCP", CLIENT, 50000)))
    client.replies()
    return client


def test_it_works_in_a_server() -> None:
    layer = DNSLists(clients=[BL], resolver=listing(text="spam\r\n250 ok"))
    layer.clock = Clock()
    replies = clientOf(layer).say(HELLO, MAIL, RCPT, "RCPT TO:<abuse@mx.test>")
    assert [reply[:3] for reply in replies[-3:]] == ["250", "550", "250"]
    assert replies[-2] == "550 5.7.1 Client 8.8.4.7 is listed by bl.example.org: spam  250 ok"


async def refusalOver(serve: Serve, lists: Lists, **options: Any) -> str | None:
    layer = DNSLists(**{"clients": [BL], "servers": [serve(lists)], "timeout": 20, **options})
    session = Session(remoteAddress=CLIENT)
    layer.onConnect(session)
    try:
        await layer.onRcptTo(BOB, session)
    except SMTPError as refusal:
        return refusal.message
    finally:
        layer.onClose(session)
        layer.onStop(None)
    return None


@pytest_twisted.ensureDeferred
async def test_a_real_server_is_asked_over_udp(serve: Serve) -> None:
    lists = listing(text="spam source")
    assert await refusalOver(serve, lists) == "Client 8.8.4.7 is listed by bl.example.org: spam source"
    assert await refusalOver(serve, Lists()) is None


@pytest_twisted.ensureDeferred
async def test_a_text_beyond_the_size_of_a_datagram_comes_over_tcp(serve: Serve) -> None:
    refusal = await refusalOver(serve, listing(text="x" * 900))
    assert refusal == "Client 8.8.4.7 is listed by bl.example.org: " + "x" * 199 + "…"


@pytest.mark.parametrize("error", [DNSServerError("broken"), DNSQueryRefusedError("no")])
@pytest_twisted.ensureDeferred
async def test_a_real_server_that_fails_refuses_nothing(serve: Serve, error: Exception) -> None:
    lists = Lists()
    lists.known[f"{REVERSED}.{BL}"] = error
    with capturedLogs() as lines:
        assert await refusalOver(serve, lists) is None
    says = "SERVFAIL" if isinstance(error, DNSServerError) else "REFUSED"
    assert [line["trouble"] for line in lines if line["log_level"] is LogLevel.warn] == [f"answers {says}"]


@pytest_twisted.ensureDeferred
async def test_a_silent_real_server_ends_in_the_time_limit(serve: Serve) -> None:
    lists = Lists()
    lists.isSilentAbout(f"{REVERSED}.{BL}")
    with capturedLogs() as lines:
        assert await refusalOver(serve, lists, timeout=0.06) is None
    assert [line["trouble"] for line in lines if line["log_level"] is LogLevel.warn] == ["does not answer in time"]


@pytest_twisted.ensureDeferred
async def test_one_who_leaves_a_real_look_up_does_not_end_it_for_another(serve: Serve) -> None:
    layer = DNSLists(clients=[BL], servers=[serve(listing())], timeout=20)
    leaving, staying = Session(remoteAddress=CLIENT), Session(remoteAddress=CLIENT)
    for session in (leaving, staying):
        layer.onConnect(session)
    layer.onClose(leaving)
    with pytest.raises(SMTPError):
        await layer.onRcptTo(BOB, staying)
    assert layer.clock is reactor


def test_the_resolver_of_the_system_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.names import client

    monkeypatch.setattr(client, "theResolver", listing())
    dialogue = Dialogue(Lists(), clients=[BL])
    dialogue.layer.resolver = None
    assert dialogue.begins().refusal() is not None
