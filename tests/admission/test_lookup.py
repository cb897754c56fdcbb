"""Reverse look-ups: confirmation, rejected names, the cache and the timeout."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IResolver
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.names import client, common, dns, server
from twisted.names.authority import FileAuthority
from twisted.names.error import DNSNameError, DNSServerError, DomainError
from zope.interface import implementer

from smtphooks.admission import lookup
from smtphooks.admission.lookup import ReverseLookup
from tests.conftest import Logged

pytestmark = pytest.mark.usefixtures("logged")

ADDRESS = "192.0.2.7"
POINTER = "7.2.0.192.in-addr.arpa"
NAME = "mx.example.org"


def pointer(name: str | bytes, ttl: int = 300) -> dns.RRHeader:
    return dns.RRHeader(POINTER, dns.PTR, dns.IN, ttl, dns.Record_PTR(name, ttl))


def host(address: str, ttl: int = 300) -> dns.RRHeader:
    if ":" in address:
        return dns.RRHeader(NAME, dns.AAAA, dns.IN, ttl, dns.Record_AAAA(address, ttl))
    return dns.RRHeader(NAME, dns.A, dns.IN, ttl, dns.Record_A(address, ttl))


def alias(name: str, ttl: int = 300) -> dns.RRHeader:
    return dns.RRHeader(NAME, dns.CNAME, dns.IN, ttl, dns.Record_CNAME(name, ttl))


@implementer(IResolver)
class Resolver(common.ResolverBase):
    """
    A resolver with prepared answers: a list of records, an exception, or a Deferred that the test fires.

    @ivar asked: the queries, in order.
    """

    def __init__(self, **known: Any) -> None:
        super().__init__()
        self.known: dict[tuple[str, int], Any] = {}
        self.asked: list[tuple[str, int]] = []

    def knows(self, name: str, kind: int, answer: Any) -> Resolver:
        self.known[name, kind] = answer
        return self

    def _lookup(self, name: bytes, cls: int, kind: int, timeout: Any) -> Deferred[Any]:
        assert timeout == (0.5, 1.0)
        question = name.decode(), kind
        self.asked.append(question)
        answer = self.known.get(question, DNSNameError("no such name"))
        if isinstance(answer, Deferred):
            return answer
        if isinstance(answer, Exception):
            return fail(answer)
        return succeed((answer, [], []))


def resolverFor(*names: str | bytes, address: str = ADDRESS) -> Resolver:
    """A resolver in which the address has these names, and NAME has the address."""
    return Resolver().knows(POINTER, dns.PTR, [pointer(name) for name in names]).knows(NAME, dns.A, [host(address)])


def lookupWith(resolver: IResolver) -> ReverseLookup:
    return ReverseLookup(resolver, Clock())


def clockOf(lookUp: ReverseLookup) -> Clock:
    clock = lookUp._clock
    assert isinstance(clock, Clock)
    return clock


class Waiting:
    """The results of a look-up in progress."""

    def __init__(self, result: str | Deferred[str]) -> None:
        assert isinstance(result, Deferred)
        self.deferred = result
        self.names: list[str] = []
        self.failures: list[BaseException] = []
        result.addCallbacks(self.names.append, lambda failure: self.failures.append(failure.value))


# --- queries ---


def test_name_that_leads_back_to_the_address_is_the_host_name() -> None:
    resolver = resolverFor(NAME)
    assert lookupWith(resolver).hostnameOf(ADDRESS) == NAME
    assert resolver.asked == [(POINTER, dns.PTR), (NAME, dns.A)]


def test_ipv6_address_is_confirmed_by_its_own_kind_of_record() -> None:
    resolver = Resolver()
    resolver.knows("7" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa", dns.PTR, [pointer(NAME)])
    resolver.knows(NAME, dns.AAAA, [host("2001:db8::8"), host("192.0.2.7"), host("2001:db8::7")])
    assert lookupWith(resolver).hostnameOf("2001:db8::7") == NAME
    assert resolver.asked[1] == (NAME, dns.AAAA)


def test_ipv4_address_within_ipv6_is_looked_up_as_ipv4() -> None:
    assert lookupWith(resolverFor(NAME)).hostnameOf("::ffff:192.0.2.7") == NAME


@pytest.mark.parametrize(
    "address, literal",
    [
        ("", ""),
        ("127.0.0.1", "[127.0.0.1]"),
        ("127.9.9.9", "[127.9.9.9]"),
        ("::1", "[::1]"),
        ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]"),
        ("0.0.0.0", "[0.0.0.0]"),
        ("::", "[::]"),
        ("169.254.1.1", "[169.254.1.1]"),
        ("fe80::1%eth0", "[fe80::1%eth0]"),
        ("2001:db8::1%eth0", "[2001:db8::1%eth0]"),
        ("/run/smtp.sock", "[/run/smtp.sock]"),
        ("192.0.2.256", "[192.0.2.256]"),
        ("mx.example.org", "[mx.example.org]"),
    ],
)
def test_an_address_without_a_possible_name_is_returned_at_once_without_a_query(address: str, literal: str) -> None:
    resolver = Resolver()
    lookUp = lookupWith(resolver)
    assert lookUp.hostnameOf(address) == literal
    assert not resolver.asked and not lookUp._known


# --- confirmation ---


def test_name_without_way_back_is_no_host_name() -> None:
    assert lookupWith(resolverFor(NAME, address="198.51.100.1")).hostnameOf(ADDRESS) == "[192.0.2.7]"


def test_one_of_the_first_names_is_enough_and_others_may_fail() -> None:
    resolver = resolverFor("a.example.org", "b.example.org", NAME)
    resolver.knows("a.example.org", dns.A, DNSServerError("out of order"))
    resolver.knows("b.example.org", dns.A, [])
    assert lookupWith(resolver).hostnameOf(ADDRESS) == NAME


def test_only_the_first_names_are_tried_and_each_once() -> None:
    resolver = resolverFor("a.example.org", "A.example.org", "b.example.org", NAME)
    assert lookupWith(resolver).hostnameOf(ADDRESS) == "[192.0.2.7]"
    assert resolver.asked[1:] == [("a.example.org", dns.A), ("b.example.org", dns.A)]


def test_aliases_are_followed_by_the_server() -> None:
    resolver = Resolver()
    resolver.knows(POINTER, dns.PTR, [alias("7.0-25.2.0.192.in-addr.arpa"), pointer(NAME)])
    resolver.knows(NAME, dns.A, [alias("mx1.example.org"), host(ADDRESS)])
    assert lookupWith(resolver).hostnameOf(ADDRESS) == NAME


@pytest.mark.parametrize("records", [[], [alias("elsewhere.example")], [host(ADDRESS)]])
def test_answer_without_a_pointer_means_no_name(records: list[dns.RRHeader]) -> None:
    assert lookupWith(Resolver().knows(POINTER, dns.PTR, records)).hostnameOf(ADDRESS) == "[192.0.2.7]"


@pytest.mark.parametrize(
    "error", [DomainError(), TimeoutError(), OSError("no sockets left"), ZeroDivisionError(), NotImplementedError()]
)
def test_resolver_that_fails_means_no_name_and_nothing_is_raised(error: Exception) -> None:
    assert lookupWith(Resolver().knows(POINTER, dns.PTR, error)).hostnameOf(ADDRESS) == "[192.0.2.7]"
    assert lookupWith(resolverFor(NAME).knows(NAME, dns.A, error)).hostnameOf(ADDRESS) == "[192.0.2.7]"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "text",
        (),
        ([SimpleNamespace(type=dns.PTR)], [], []),
        ([dns.RRHeader(POINTER, dns.PTR, payload=dns.UnknownRecord(b"x"))], [], []),
        ([SimpleNamespace(type=dns.PTR, payload=dns.Record_PTR(NAME), ttl="soon")], [], []),
    ],
)
def test_resolver_that_answers_nonsense_means_no_name(answer: Any) -> None:
    resolver = resolverFor(NAME).knows(POINTER, dns.PTR, succeed(answer))
    assert lookupWith(resolver).hostnameOf(ADDRESS) == "[192.0.2.7]"


def test_resolver_that_raises_at_once_means_no_name() -> None:
    assert lookupWith(object()).hostnameOf(ADDRESS) == "[192.0.2.7]"  # type: ignore[arg-type]


# --- hostile names ---


@pytest.mark.parametrize(
    "octets, name",
    [
        (b"MX.Example.ORG", "mx.example.org"),
        (b"mx.example.org.", "mx.example.org"),
        (b"localhost", "localhost"),
        (b"a_b.example.org", "a_b.example.org"),
        (b"192-0-2-7.static.example.org", "192-0-2-7.static.example.org"),
        (b"xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        (b"7.example.0xorg", "7.example.0xorg"),
        (b"a" * 63 + b".example", "a" * 63 + ".example"),
        ((b"a" * 49 + b".") * 5 + b"org", ("a" * 49 + ".") * 5 + "org"),
    ],
)
def test_host_name_is_shown_in_lower_case_and_without_dot_at_its_end(octets: bytes, name: str) -> None:
    resolver = resolverFor(octets).knows(name, dns.A, [host(ADDRESS)])
    assert lookupWith(resolver).hostnameOf(ADDRESS) == name


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b".",
        b"a..b",
        b"a b.example",
        b"a\r\nb.example",
        b"a\0.example",
        b"a\n",
        b"[192.0.2.1]",
        b"(a).example",
        b"a@b.example",
        b"a/b.example",
        b"*.example",
        b"m\xc3\xbcnchen.example",
        b"-a.example",
        b"a-.example",
        b"a" * 64 + b".example",
        b"a." * 127 + b"a",
        b"192.0.2.1",
        b"192.0.2.1.",
        b"127.1",
        b"0x7f.0x1",
        b"a.0x",
        b"2130706433",
        b"example.123",
    ],
)
def test_name_that_is_not_fit_to_be_shown_is_not_even_looked_up(octets: bytes) -> None:
    resolver = resolverFor(octets)
    assert lookupWith(resolver).hostnameOf(ADDRESS) == "[192.0.2.7]"
    assert resolver.asked == [(POINTER, dns.PTR)]


@given(st.binary(max_size=80))
def test_no_name_is_returned_that_could_be_more_than_a_name(octets: bytes) -> None:
    resolver = resolverFor(octets)
    resolver.known = _AnyHost(resolver.known)
    found = lookupWith(resolver).hostnameOf(ADDRESS)
    assert isinstance(found, str)
    assert found == "[192.0.2.7]" or set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class _AnyHost(dict[tuple[str, int], Any]):
    """Every name has the address."""

    def get(self, question: tuple[str, int], default: Any = None) -> Any:
        return super().get(question, [host(ADDRESS)] if question[1] == dns.A else default)


# --- timeout ---


def test_slow_resolver_is_cancelled_at_the_timeout_for_all_queries_together() -> None:
    cancelled: list[Any] = []
    pointers: Deferred[Any] = Deferred()
    hosts: Deferred[Any] = Deferred(cancelled.append)
    lookUp = lookupWith(resolverFor().knows(POINTER, dns.PTR, pointers).knows(NAME, dns.A, hosts))
    waiting = Waiting(lookUp.hostnameOf(ADDRESS))
    clockOf(lookUp).advance(1.25)
    pointers.callback(([pointer("a.example.org"), pointer(NAME)], [], []))
    clockOf(lookUp).advance(0.125)
    assert not waiting.names
    assert not cancelled
    clockOf(lookUp).advance(0.125)
    assert waiting.names == ["[192.0.2.7]"]
    assert cancelled == [hosts]
    assert not clockOf(lookUp).getDelayedCalls()
    assert lookUp.hostnameOf(ADDRESS) == "[192.0.2.7]"


def test_answer_in_time_leaves_no_timer() -> None:
    hosts: Deferred[Any] = Deferred()
    lookUp = lookupWith(resolverFor(NAME).knows(NAME, dns.A, hosts))
    waiting = Waiting(lookUp.hostnameOf(ADDRESS))
    hosts.callback(([host(ADDRESS)], [], []))
    assert waiting.names == [NAME]
    assert not clockOf(lookUp).getDelayedCalls()


def test_timeout_can_be_set() -> None:
    class Patient(Resolver):
        def _lookup(self, name: bytes, cls: int, kind: int, timeout: Any) -> Deferred[Any]:
            return super()._lookup(name, cls, kind, tuple(part / 2 for part in timeout))

    lookUp = ReverseLookup(Patient().knows(POINTER, dns.PTR, Deferred()), Clock(), 3.0)
    waiting = Waiting(lookUp.hostnameOf(ADDRESS))
    clockOf(lookUp).advance(2.875)
    assert not waiting.names
    clockOf(lookUp).advance(0.125)
    assert waiting.names == ["[192.0.2.7]"]


# --- concurrent look-ups ---


def test_concurrent_look_ups_of_an_address_share_one_query() -> None:
    pointers: Deferred[Any] = Deferred()
    resolver = resolverFor().knows(POINTER, dns.PTR, pointers)
    lookUp = lookupWith(resolver)
    waiting = [Waiting(lookUp.hostnameOf(ADDRESS)) for _ in range(3)]
    assert resolver.asked == [(POINTER, dns.PTR)]
    pointers.callback(([pointer(NAME)], [], []))
    assert [one.names for one in waiting] == [[NAME]] * 3
    assert lookUp.hostnameOf(ADDRESS) == NAME
    assert resolver.asked == [(POINTER, dns.PTR), (NAME, dns.A)]


def test_a_cancelled_look_up_does_not_affect_others_and_the_name_is_cached() -> None:
    pointers: Deferred[Any] = Deferred()
    lookUp = lookupWith(resolverFor().knows(POINTER, dns.PTR, pointers))
    first, second = (Waiting(lookUp.hostnameOf(ADDRESS)) for _ in range(2))
    first.deferred.cancel()
    assert isinstance(first.failures[0], CancelledError)
    pointers.callback(([pointer(NAME)], [], []))
    assert second.names == [NAME]
    assert not first.names


def test_a_look_up_within_the_callback_of_another_is_answered_at_once() -> None:
    pointers: Deferred[Any] = Deferred()
    lookUp = lookupWith(resolverFor().knows(POINTER, dns.PTR, pointers))
    again: list[Any] = []
    result = lookUp.hostnameOf(ADDRESS)
    assert isinstance(result, Deferred)
    result.addCallback(lambda name: again.append(lookUp.hostnameOf(ADDRESS)))
    pointers.callback(([pointer(NAME)], [], []))
    assert again == [NAME]


def test_flood_of_new_addresses_is_not_all_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_MAX_UNDERWAY", 2)
    pointers: Deferred[Any] = Deferred()
    resolver = resolverFor().knows(POINTER, dns.PTR, pointers).knows("8.2.0.192.in-addr.arpa", dns.PTR, Deferred())
    lookUp = lookupWith(resolver)
    first = Waiting(lookUp.hostnameOf(ADDRESS))
    Waiting(lookUp.hostnameOf("192.0.2.8"))
    assert lookUp.hostnameOf("192.0.2.9") == "[192.0.2.9]"
    same = Waiting(lookUp.hostnameOf(ADDRESS))
    pointers.callback(([pointer(NAME)], [], []))
    assert first.names == same.names == [NAME]
    assert lookUp.hostnameOf("192.0.2.9") == "[192.0.2.9]"
    assert len(resolver.asked) == 4  # it was not cached as nameless, but is looked up now


# --- cache ---


def remembers(resolver: Resolver, seconds: float) -> bool:
    lookUp = lookupWith(resolver)
    lookUp.hostnameOf(ADDRESS)
    asked = len(resolver.asked)
    clockOf(lookUp).advance(seconds)
    lookUp.hostnameOf(ADDRESS)
    return len(resolver.asked) == asked


@pytest.mark.parametrize(
    "pointers, hosts, seconds",
    [
        ([pointer(NAME, 300)], [host(ADDRESS, 200)], 200),
        ([pointer(NAME, 100)], [host(ADDRESS, 200)], 100),
        ([alias("x.example", 50), pointer(NAME, 100)], [host(ADDRESS, 200)], 50),
        ([pointer(NAME, 100)], [alias("y.example", 60), host(ADDRESS, 200)], 60),
        ([pointer(NAME, 0)], [host(ADDRESS, 200)], 1),
        ([pointer(NAME, 10**6)], [host(ADDRESS, 10**6)], 86400),
        ([], [], 60),
        ([pointer("[bad]", 5)], [], 60),
    ],
)
def test_a_name_is_cached_for_the_shortest_of_its_TTLs_and_a_failure_for_a_minute(
    pointers: Any, hosts: Any, seconds: float
) -> None:
    for after, remembered in ((seconds - 0.5, True), (seconds, False)):
        resolver = Resolver().knows(POINTER, dns.PTR, pointers).knows(NAME, dns.A, hosts)
        assert remembers(resolver, after) is remembered


def test_name_that_changed_is_learned_anew() -> None:
    resolver = resolverFor(NAME)
    lookUp = lookupWith(resolver)
    lookUp.hostnameOf(ADDRESS)
    resolver.knows(POINTER, dns.PTR, [])
    clockOf(lookUp).advance(299)
    assert lookUp.hostnameOf(ADDRESS) == NAME
    clockOf(lookUp).advance(1)
    assert lookUp.hostnameOf(ADDRESS) == "[192.0.2.7]"


def test_the_cache_is_bounded_and_evicts_the_least_recently_used_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookup, "_MAX_REMEMBERED", 3)
    resolver = Resolver()
    lookUp = lookupWith(resolver)
    for number in (1, 2, 3, 1, 4):
        lookUp.hostnameOf(f"192.0.2.{number}")
    assert len(resolver.asked) == 4
    for number in (4, 3, 1):
        lookUp.hostnameOf(f"192.0.2.{number}")
    assert len(resolver.asked) == 4
    lookUp.hostnameOf("192.0.2.2")
    assert len(resolver.asked) == 5
    assert len(lookUp._known) == 3


def test_ten_thousand_addresses_are_cached() -> None:
    assert lookup._MAX_REMEMBERED == 10_000


# --- Twisted's own resolver ---


def test_without_a_resolver_twisteds_is_made_on_first_use_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Resolver] = []

    def make() -> Resolver:
        made.append(resolverFor(NAME))
        return made[-1]

    monkeypatch.setattr(client, "theResolver", None)
    monkeypatch.setattr(client, "createResolver", make)
    lookUps = [ReverseLookup(None, Clock()) for _ in range(2)]
    assert lookUps[0].hostnameOf("127.0.0.1") == "[127.0.0.1]"
    assert not made
    for lookUp in lookUps:
        assert lookUp.hostnameOf(ADDRESS) == NAME
        assert lookUp.hostnameOf("192.0.2.8") == "[192.0.2.8]"
    assert len(made) == 1


def test_resolver_that_cannot_be_made_means_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Resolver:
        raise PermissionError("/etc/resolv.conf")

    monkeypatch.setattr(client, "theResolver", None)
    monkeypatch.setattr(client, "createResolver", make)
    assert ReverseLookup(None, Clock()).hostnameOf(ADDRESS) == "[192.0.2.7]"


class Zone(FileAuthority):
    """A zone in memory."""

    def __init__(self, origin: bytes, records: dict[bytes, list[Any]]) -> None:
        self.soa = (origin, dns.Record_SOA(origin, origin, minimum=30, expire=30))
        self.records = records
        super().__init__(None)


Listen = Callable[[DatagramProtocol], client.Resolver]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Serve DNS by a protocol; the result is a resolver that queries it."""
    ports = []

    def start(protocol: DatagramProtocol) -> client.Resolver:
        port = reactor.listenUDP(0, protocol, interface="127.0.0.1")  # type: ignore[attr-defined]
        ports.append(port)
        return client.Resolver(servers=[("127.0.0.1", port.getHost().port)])

    yield start
    for port in ports:
        pytest_twisted.blockon(port.stopListening())


@pytest_twisted.ensureDeferred
async def test_real_server_is_asked_over_UDP(listen: Listen) -> None:
    factory = server.DNSServerFactory(
        authorities=[
            Zone(b"2.0.192.in-addr.arpa", {POINTER.encode(): [dns.Record_PTR(b"MX.example.org", ttl=40)]}),
            Zone(
                b"example.org", {NAME.encode(): [dns.Record_A("198.51.100.1", ttl=50), dns.Record_A(ADDRESS, ttl=50)]}
            ),
        ]
    )
    factory.noisy = False
    lookUp = ReverseLookup(listen(dns.DNSDatagramProtocol(factory)), reactor, 20.0)
    waiting = lookUp.hostnameOf(ADDRESS)
    assert isinstance(waiting, Deferred)
    assert await waiting == NAME
    assert lookUp.hostnameOf(ADDRESS) == NAME
    nameless = lookUp.hostnameOf("192.0.2.8")
    assert isinstance(nameless, Deferred)
    assert await nameless == "[192.0.2.8]"


@pytest_twisted.ensureDeferred
async def test_a_silent_real_server_ends_in_the_timeout(listen: Listen, logged: Logged) -> None:
    lookUp = ReverseLookup(listen(DatagramProtocol()), reactor, 0.06)
    waiting = [lookUp.hostnameOf(ADDRESS) for _ in range(2)]
    for one in waiting:
        assert isinstance(one, Deferred)
        assert await one == "[192.0.2.7]"
    assert not logged


def test_numbers_of_record_types_are_those_of_twisted() -> None:
    assert (lookup._A, lookup._PTR, lookup._AAAA) == (dns.A, dns.PTR, dns.AAAA)
    assert dns.Record_A(ADDRESS).address == socket.inet_aton(ADDRESS)
