"""Arrival: which peers may name another client, what becomes of it, and the look-up of its name meanwhile."""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, LogLevel, eventAsText, globalLogPublisher
from twisted.names import dns
from twisted.names.client import getResolver

from smtphooks import SMTPError, SMTPServerFactory
from smtphooks.connection.arrival import Client as Arriving
from smtphooks.errors import OptionError
from smtphooks.syntax.proxyheader import ProxyError
from tests.admission.test_lookup import ADDRESS, NAME, POINTER, Resolver, host, pointer, resolverFor
from tests.certificates import Authority
from tests.support import ENVELOPE, HELLO, Client, Diary, Mailbox, Pending, Transport, cutUp, makeFactory
from tests.test_tcp import served
from tests.test_time import TLSTransport

pytestmark = pytest.mark.usefixtures("logged")

BALANCER, STRANGER = "10.0.0.1", "198.51.100.9"
HEADER = b"PROXY TCP4 203.0.113.5 198.51.100.1 40000 25\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BLOCK = SIGNATURE + b"\x21\x11\0\x0c" + bytes([203, 0, 113, 5, 198, 51, 100, 1]) + b"\x9c\x40\0\x19"
LOCAL = SIGNATURE + b"\x20\0\0\0"
HEADERS = pytest.mark.parametrize("header", [HEADER, BLOCK], ids=["v1", "v2"])

COMMANDS = b"EHLO client.test\r\nNOOP\r\n"
TOO_MANY = "421 4.7.0 Too many connections from your address, try again later"


def come(factory: SMTPServerFactory, peer: Any = BALANCER) -> Client:
    """A connection from this address."""
    address = IPv4Address("TCP", peer, 50000) if isinstance(peer, str) else peer
    return Client(factory, Transport(IPv4Address("TCP", "10.0.0.2", 2525), address))


def ends(client: Client) -> tuple[str, int, str, int, str]:
    """What its session says of both ends."""
    session = client.session
    return (
        session.remoteAddress,
        session.remotePort,
        session.localAddress,
        session.localPort,
        session.clientHostname,
    )


def wait(client: Client, seconds: int) -> None:
    client.clock.pump([1] * seconds)


OWN = (BALANCER, 50000, "10.0.0.2", 2525, f"[{BALANCER}]")
SAID = ("203.0.113.5", 40000, "198.51.100.1", 25, "[203.0.113.5]")


class Watched:
    """
    A server behind a balancer, all of whose hooks are watched.

    @ivar called: the hooks, in order.
    @ivar errors: the arguments of C{onError}.
    """

    def __init__(self, **given: Any) -> None:
        self.called = Diary()
        self.errors: list[tuple[Any, Any]] = []
        names = ["onConnect", "onHelo", "onClose", "onMailFrom", "onReset", "onVrfy"]
        hooks = {name: self.called.hook(name) for name in names}
        self.factory = makeFactory(onError=self._note, **hooks, **{"useProxy": ["10.0.0.0/8"], **given})

    def _note(self, *arguments: Any) -> None:
        self.errors.append(arguments)

    def come(self, peer: Any = BALANCER) -> Client:
        return come(self.factory, peer)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines of the log that are about who arrives."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"].startswith("smtphooks.connection.arrival") and event["log_level"] >= LogLevel.info:
            lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


# --- a header that is valid ---


@HEADERS
def test_client_is_the_one_that_the_header_names(header: bytes) -> None:
    server = Watched()
    client = server.come()
    assert (client.replies(), server.called) == ([], [])
    client.feed(header)
    assert client.codes() == [220]
    assert ends(client) == SAID
    assert server.called == ["onConnect"]
    client.lose()
    assert server.called == ["onConnect", "onClose"]
    assert not server.factory.connections
    assert server.errors == []


@given(st.sampled_from([HEADER, BLOCK]), st.lists(st.integers(0, 200), max_size=6))
def test_whatever_is_behind_the_header_belongs_to_the_client_however_it_is_cut(header: bytes, cuts: list[int]) -> None:
    client = Watched().come()
    for piece in cutUp(header + COMMANDS, cuts):
        client.feed(piece)
    assert client.codes() == [220, 250, 250]
    assert ends(client) == SAID


@HEADERS
def test_header_may_come_octet_by_octet(header: bytes) -> None:
    client = Watched().come()
    for octet in header:
        assert client.replies() == []
        client.feed(bytes([octet]))
    assert client.codes() == [220]
    assert ends(client) == SAID


def test_message_behind_the_header_in_one_segment_is_taken() -> None:
    mailbox = Mailbox()
    client = come(makeFactory(useProxy=True, onData=mailbox.onData))
    lines = [*ENVELOPE, "DATA", "text", ".", "QUIT"]
    client.feed(BLOCK + "".join(line + "\r\n" for line in lines).encode())
    assert client.codes() == [220, 250, 250, 250, 354, 250, 221]
    assert mailbox == [b"text\r\n"]


def test_who_talks_behind_the_header_and_before_the_greeting_talks_too_early() -> None:
    client = Watched(greetDelay=5).come()
    client.feed(HEADER + COMMANDS)
    assert client.replies() == ["554 5.5.1 You talked before my greeting"]
    assert client.isClosed


def test_client_that_is_refused_hears_so_whatever_it_has_sent_behind_the_header() -> None:
    def refuse(session: Any) -> None:
        raise SMTPError("Not you")

    client = come(makeFactory(useProxy=True, onConnect=refuse))
    client.feed(HEADER + COMMANDS)
    assert client.replies() == ["554 5.7.1 Not you"]
    assert client.isClosed


def test_client_that_was_there_before_new_ones_are_refused_is_let_in_though_its_header_is_late() -> None:
    """The old workers of a reload would otherwise turn away who has come just before."""
    factory = makeFactory(useProxy=True, closeTimeout=20)
    client = come(factory)
    factory.drain()
    client.feed(BLOCK)
    assert client.codes() == [220]
    late = come(factory)
    late.feed(BLOCK)
    assert (late.codes(), late.isClosed) == ([421], True)


def test_half_a_client_hello_behind_the_header_does_not_stop_the_time() -> None:
    class Shaking(TLSTransport):
        protocol = Mock()

    client = Client(makeFactory(useProxy=True, secure=True, socketTimeout=60), Shaking())
    client.feed(HEADER + b"\x16\x03")
    client.transport.protocol.dataReceived.assert_called_once_with(b"\x16\x03")
    wait(client, 62)
    assert client.transport.disconnected


@pytest.mark.parametrize(
    "header",
    [LOCAL, SIGNATURE + b"\x20\x11\0\x0c" + BLOCK[16:], b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x21\0\0\0"],
    ids=["LOCAL", "LOCAL with addresses", "UNKNOWN", "UNSPEC"],
)
def test_without_a_client_the_connection_keeps_its_own_addresses(header: bytes) -> None:
    server = Watched()
    client = server.come()
    client.feed(header + COMMANDS)
    assert client.codes() == [220, 250, 250]
    assert ends(client) == OWN
    assert server.called[0] == "onConnect"


def test_path_of_a_unix_socket_is_an_address_too() -> None:
    client = Watched().come()
    client.feed(SIGNATURE + b"\x21\x31\0\xd8" + b"/run/client".ljust(108, b"\0") + b"/run/smtp".ljust(108, b"\0"))
    assert ends(client) == ("/run/client", 0, "/run/smtp", 0, "[/run/client]")


# --- a header that is none ---

NO_HEADERS = [
    pytest.param(COMMANDS, id="commands"),
    pytest.param(b"\x16\x03\x01\0\xa5\x01", id="ClientHello"),
    pytest.param(b"PROXY TCP4 203.0.113.5 198.51.100.1 40000\r\n" + COMMANDS, id="v1 too short"),
    pytest.param(b"PROXY TCP4 203.0.113.256 198.51.100.1 1 25\r\n" + COMMANDS, id="v1 no address"),
    pytest.param(b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n" + COMMANDS, id="v1 too long"),
    pytest.param(SIGNATURE + b"\x31\x11\0\x0c" + BLOCK[16:] + COMMANDS, id="v2 version"),
    pytest.param(SIGNATURE + b"\x21\x11\0\x04" + BLOCK[16:] + COMMANDS, id="v2 too short"),
    pytest.param(SIGNATURE + b"\x21\x11\xff\xff" + BLOCK[16:] + COMMANDS, id="v2 too long"),
]


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("octets", NO_HEADERS)
def test_malformed_header_closes_the_connection_without_a_word(
    log: list[str], octets: bytes, step: int, secure: bool
) -> None:
    server = Watched(secure=secure)
    client = server.come()
    for start in range(0, len(octets), step):
        client.feed(octets[start : start + step])
    assert client.isClosed
    client.finish()
    assert client.transport.writes == []
    assert server.called == []
    ((failure, session),) = server.errors
    assert isinstance(failure.value, ProxyError)
    assert session is None
    assert not server.factory.connections
    assert not server.factory.clients.networks
    assert client.clock.getDelayedCalls() == []
    (line,) = log
    assert line.startswith(f"{BALANCER} sent no valid PROXY header: ")
    assert line.isprintable()


PARTS = [
    pytest.param(whole[:count], id=f"{count} of {len(whole)}") for whole in (HEADER, BLOCK) for count in (0, 5, 30)
]
# The last part of the other one is no part: 30 is more than BLOCK has.
PARTS = [part for part in PARTS if part.values[0] not in (HEADER, BLOCK)]


@pytest.mark.parametrize("part", PARTS)
def test_header_that_does_not_come_in_time_closes_the_connection_without_a_word(log: list[str], part: bytes) -> None:
    server = Watched(socketTimeout=10)
    client = server.come()
    # Dripped octets do not extend it.
    for index in range(10):
        client.feed(part[index : index + 1])
        assert not client.transport.disconnected
        wait(client, 1)
    client.feed(part[10:])
    wait(client, 1)
    assert client.transport.disconnected
    client.lose()
    assert client.transport.writes == []
    assert (server.called, server.errors) == ([], [])
    assert not server.factory.connections
    assert client.clock.getDelayedCalls() == []
    assert log == [f"no PROXY header from {BALANCER}, though option useProxy lists it"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
def test_who_goes_within_the_header_is_forgotten(log: list[str], part: bytes, half: bool) -> None:
    server = Watched()
    client = server.come()
    client.feed(part)
    if half:
        client.halfClose()
        client.finish()
    else:
        client.lose(ConnectionDone())
    assert client.transport.writes == []
    assert (server.called, server.errors) == ([], [])
    assert not server.factory.connections
    assert client.clock.getDelayedCalls() == []
    assert log == [f"no PROXY header from {BALANCER}, though option useProxy lists it"]


def test_server_that_ends_does_not_wait_for_a_header() -> None:
    server = Watched()
    client = server.come()
    closed: list[None] = []
    server.factory.close().addCallback(closed.append)
    assert client.transport.disconnected
    client.lose()
    assert closed == [None]


def test_client_that_only_stops_sending_behind_the_header_still_gets_its_replies() -> None:
    client = Watched().come()
    client.feed(HEADER + COMMANDS)
    client.halfClose()
    assert client.codes() == [220, 250, 250]
    assert client.isClosed


# --- who is believed ---


@pytest.mark.parametrize(
    ("listed", "peer"),
    [
        (True, STRANGER),
        (True, UNIXAddress(None)),
        (["10.0.0.1"], BALANCER),
        (["10.0.0.1"], IPv6Address("TCP", "::ffff:10.0.0.1", 5)),
        (["fe80::/10", "192.0.2.1"], IPv6Address("TCP", "fe80::1%eth0", 5)),
    ],
)
def test_listed_peer_is_believed(listed: Any, peer: Any) -> None:
    client = come(makeFactory(useProxy=listed), peer)
    assert client.replies() == []
    client.feed(HEADER)
    assert ends(client) == SAID


@pytest.mark.parametrize("listed", [False, [], ["10.0.0.1", "2001:db8:1::/48"]])
@pytest.mark.parametrize("peer", [STRANGER, UNIXAddress(None), IPv6Address("TCP", "2001:db8:2::1", 50000)])
def test_any_other_peer_gets_its_greeting_at_once_and_its_header_is_no_command(listed: Any, peer: Any) -> None:
    client = come(makeFactory(useProxy=listed), peer)
    assert client.codes() == [220]
    before = ends(client)
    client.feed(HEADER)
    assert client.replies() == ["500 5.5.2 Command not recognized"]
    client.feed(BLOCK)
    # The signature was chosen so that it ends a conversation with whom it is not meant for.
    assert client.codes() == [500, 500, 500, 221]
    assert ends(client) == before


def test_second_header_is_no_command() -> None:
    client = Watched().come()
    client.feed(HEADER + HEADER.replace(b"203.0.113.5", b"203.0.113.6"))
    assert client.codes() == [220, 500]
    assert ends(client) == SAID


@pytest.mark.parametrize("name", ["useProxy", "useXClient", "useXForward"])
def test_list_with_what_is_no_network_is_an_error_when_the_factory_is_made(name: str) -> None:
    with pytest.raises(OptionError, match=f"^option {name} is wrong: '10.0.0.1/8' is no network"):
        makeFactory(**{name: ["10.0.0.1/8"]})


# --- limits ---


def test_clients_of_a_header_are_counted_not_their_balancer() -> None:
    server = Watched(maxClientsPerAddress=1)
    first, again, other = (server.come() for _ in range(3))
    for client in (first, again):
        client.feed(HEADER)
    other.feed(HEADER.replace(b"203.0.113.5", b"203.0.113.6"))
    assert (first.codes(), again.replies(), other.codes()) == ([220], [TOO_MANY], [220])
    assert again.isClosed
    again.finish()
    first.lose()
    later = server.come()
    later.feed(BLOCK)
    assert later.codes() == [220]
    for client in (other, later):
        client.lose()
    assert server.called == ["onConnect", "onConnect", "onClose", "onConnect", "onClose", "onClose"]
    assert not server.factory.clients.networks


@pytest.mark.parametrize("isFirstNamed", [True, False])
def test_who_is_being_looked_up_is_counted_already(isFirstNamed: bool) -> None:
    answer: Deferred[Any] = Deferred()
    resolver = Resolver().knows(POINTER, dns.PTR, answer)
    factory = makeFactory(resolver=resolver, maxClientsPerAddress=1)
    first = come(factory, ADDRESS)
    second = come(factory, ADDRESS)
    assert second.replies() == [TOO_MANY]
    second.finish()
    if isFirstNamed:
        answer.callback(([], [], []))
        assert first.codes() == [220]
    first.lose()
    assert not factory.clients.networks
    assert not factory.connections


# --- the name in DNS ---


def test_name_is_known_before_on_connect() -> None:
    names: list[str] = []
    resolver = resolverFor(NAME)
    factory = makeFactory(resolver=resolver, onConnect=lambda session: names.append(session.clientHostname))
    client = come(factory, ADDRESS)
    assert names == [NAME]
    assert client.say(HELLO)[1] == f"250-mx.test Nice to meet you, {NAME}"
    assert client.transport.flow == []


def waiting(**given: Any) -> tuple[Client, Deferred[Any], Watched]:
    """A client that is being looked up, and the answer that is not there yet."""
    answer: Deferred[Any] = Deferred()
    resolver = Resolver().knows(POINTER, dns.PTR, answer).knows(NAME, dns.A, [host(ADDRESS)])
    server = Watched(resolver=resolver, **given)
    return server.come(ADDRESS), answer, server


def test_greeting_waits_for_the_answer() -> None:
    client, answer, server = waiting()
    assert (client.replies(), server.called) == ([], [])
    assert client.transport.flow == ["stop"]
    answer.callback(([pointer(NAME)], [], []))
    assert client.transport.flow == ["stop", "go"]
    assert client.codes() == [220]
    assert client.session.clientHostname == NAME


def test_greeting_waits_no_longer_than_one_and_a_half_seconds() -> None:
    client, _, _ = waiting()
    client.clock.advance(1.4)
    assert client.replies() == []
    client.clock.advance(0.1)
    assert client.codes() == [220]
    assert client.session.clientHostname == f"[{ADDRESS}]"
    assert client.transport.flow == ["stop", "go"]


ENDINGS: dict[str, Any] = {
    "abort": lambda client: client.protocol.abort(),
    "by force": lambda client: client.protocol.endByForce(),
    "close": lambda client: client.factory.close(),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_who_is_sent_away_while_looked_up_is_never_let_in(ending: str) -> None:
    client, answer, server = waiting()
    aborted: list[bool] = []
    # As over TCP, where connectionLost comes with the next turn of the reactor.
    client.transport.abortConnection = lambda: aborted.append(True)  # type: ignore[method-assign]
    ENDINGS[ending](client)
    answer.callback(([pointer(NAME)], [], []))
    assert (aborted, server.called, client.transport.writes) == ([True], [], [])
    client.lose()
    assert (server.called, client.factory.connections, client.factory.clients.networks) == ([], set(), {})


@pytest.mark.parametrize("socketTimeout", [1, 60])
def test_time_of_the_look_up_is_not_the_clients(socketTimeout: int) -> None:
    client, _, _ = waiting(socketTimeout=socketTimeout)
    client.clock.pump([0.5, 0.5, 0.5])
    assert not client.transport.disconnected
    assert client.codes() == [220]
    # And from the greeting on it is.
    wait(client, socketTimeout + 1)
    assert client.replies() == ["421 4.4.2 Timeout, closing connection"]


def test_look_up_behind_a_late_header_is_not_cut_short() -> None:
    answer: Deferred[Any] = Deferred()
    resolver = Resolver().knows("5.113.0.203.in-addr.arpa", dns.PTR, answer)
    client = Watched(resolver=resolver, socketTimeout=10).come()
    wait(client, 9)
    client.feed(HEADER)
    wait(client, 1)
    assert not client.transport.disconnected
    answer.callback(([], [], []))
    assert client.codes() == [220]


@pytest.mark.parametrize(
    "name",
    [b"evil\r\n250 mx", b"a b", b"a\0b", b"<script>", b"192.0.2.7", b"x" * 64, b"\xff\xfe", b"", b"(comment)", b"."],
)
def test_hostile_name_is_not_shown(name: bytes) -> None:
    client, answer, _ = waiting()
    answer.callback(([pointer(name)], [], []))
    assert client.codes() == [220]
    assert client.session.clientHostname == f"[{ADDRESS}]"
    assert client.say(HELLO)[0] == f"250-mx.test Nice to meet you, [{ADDRESS}]"


@pytest.mark.parametrize("close", ["client", "server"])
def test_client_that_leaves_meanwhile_never_had_a_session(close: str) -> None:
    client, answer, server = waiting()
    if close == "server":
        server.factory.close()
        assert client.transport.disconnected
    client.lose()
    assert not server.factory.connections
    assert not server.factory.clients.networks
    answer.callback(([pointer(NAME)], [], []))
    assert client.transport.writes == []
    assert (server.called, server.errors) == ([], [])
    assert client.clock.getDelayedCalls() == []


def test_what_arrives_meanwhile_is_kept() -> None:
    client, answer, _ = waiting()
    for octet in COMMANDS:
        # Already on its way when the transport was stopped.
        client.protocol.dataReceived(bytes([octet]))
    answer.callback(([], [], []))
    assert client.codes() == [220, 250, 250]


def test_what_has_arrived_meanwhile_is_not_held_any_longer_than_needed() -> None:
    client, answer, _ = waiting()
    client.protocol.dataReceived(COMMANDS)
    answer.callback(([], [], []))
    assert client.codes() == [220, 250, 250]
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, Arriving) and each.rest]


def test_octets_of_a_peer_without_a_valid_header_are_not_kept() -> None:
    """Its transport may take a while to close, above all if the peer does not read."""
    client = come(makeFactory(useProxy=True))
    client.feed(b"EHLO client.test\r\n")
    assert client.isClosed
    client.feed(COMMANDS)
    assert client.protocol._stage._client.rest == b""


def test_what_arrives_meanwhile_is_answered_even_if_nothing_follows() -> None:
    client, answer, _ = waiting()
    client.protocol.dataReceived(COMMANDS)
    client.halfClose()
    answer.callback(([], [], []))
    assert client.codes() == [220, 250, 250]
    assert client.isClosed


def test_what_is_behind_a_header_is_kept_during_the_look_up() -> None:
    answer: Deferred[Any] = Deferred()
    resolver = Resolver().knows("5.113.0.203.in-addr.arpa", dns.PTR, answer)
    client = Watched(resolver=resolver).come()
    client.feed(HEADER + COMMANDS)
    assert client.replies() == []
    answer.callback(([], [], []))
    assert client.codes() == [220, 250, 250]


def test_client_of_the_header_is_looked_up_not_its_balancer() -> None:
    resolver = Resolver().knows("5.113.0.203.in-addr.arpa", dns.PTR, [pointer(NAME)])
    resolver.knows(NAME, dns.A, [host("203.0.113.5")])
    client = Watched(resolver=resolver).come()
    assert resolver.asked == []
    client.feed(HEADER)
    assert client.session.clientHostname == NAME


@pytest.mark.parametrize(
    "peer",
    [
        "127.0.0.1",
        "127.8.8.8",
        IPv6Address("TCP", "::1", 5),
        IPv6Address("TCP", "::ffff:127.0.0.1", 5),
        UNIXAddress("/run/client"),
        UNIXAddress(None),
    ],
    ids=str,
)
def test_own_host_is_not_looked_up(peer: Any) -> None:
    resolver = Resolver()
    client = come(makeFactory(resolver=resolver), peer)
    assert client.codes() == [220]
    assert resolver.asked == []


def test_without_a_resolver_of_ones_own_only_addresses_of_the_internet_are_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver()
    monkeypatch.setattr("twisted.names.client.theResolver", resolver)
    assert getResolver() is resolver
    factory = makeFactory()
    for peer in ("10.1.2.3", "192.168.1.1", ADDRESS, "169.254.1.1", "100.64.0.1"):
        assert come(factory, peer).session.clientHostname == f"[{peer}]"
    for address in ("fd00::1", "fe80::1%eth0", "2001:db8::1"):
        assert come(factory, IPv6Address("TCP", address, 5)).session.clientHostname == f"[{address}]"
    assert resolver.asked == []
    come(factory, "8.8.4.4")
    assert resolver.asked == [("4.4.8.8.in-addr.arpa", dns.PTR)]


def test_look_up_can_be_disabled() -> None:
    resolver = resolverFor(NAME)
    client = come(makeFactory(resolver=resolver, disableReverseLookup=True), ADDRESS)
    assert client.session.clientHostname == f"[{ADDRESS}]"
    assert resolver.asked == []


def test_hook_is_not_asked_before_the_name_is_known() -> None:
    onConnect = Pending()
    answer: Deferred[Any] = Deferred()
    client = come(makeFactory(resolver=Resolver().knows(POINTER, dns.PTR, answer), onConnect=onConnect), ADDRESS)
    assert onConnect.calls == []
    answer.callback(([], [], []))
    ((session,),) = onConnect.calls
    assert session is client.session
    assert client.replies() == []
    onConnect.decide()
    assert client.codes() == [220]


# --- on a real socket ---

PAIR = Authority().server("mx.test")


def shakeHands(port: int, header: bytes, cut: int) -> bytes:
    """Begin TLS behind a header, with the first octets of TLS in the segment of its end; what the server says."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(header[:cut])
        pending = header[cut:]
        while not said.endswith(b"\n"):
            try:
                said += tls.read(1000) if tls.version() and pending == b"" else _handshake(tls)
            except ssl.SSLWantReadError:
                connection.sendall(pending + outgoing.read())
                pending = b""
                octets = connection.recv(65536)
                assert octets, "the server has left"
                incoming.write(octets)
    return said


def _handshake(tls: ssl.SSLObject) -> bytes:
    tls.do_handshake()
    return b""


@served
async def test_client_hello_in_the_segment_of_the_header_begins_TLS(serve: Any) -> None:
    sessions: list[Any] = []
    server = await serve(
        useProxy=["127.0.0.1"],
        secure=True,
        key=PAIR.key,
        cert=PAIR.cert,
        onConnect=sessions.append,
        onClose=None,
    )
    for header in (HEADER, BLOCK):
        for cut in (0, 1, len(header) - 1):
            said = await deferToThread(shakeHands, server.port.getHost().port, header, cut)
            assert said == b"220 mx.test ESMTP\r\n"
            session = sessions.pop()
            assert (session.remoteAddress, session.remotePort, session.secure) == ("203.0.113.5", 40000, True)


@served
async def test_header_on_a_real_socket_may_come_in_pieces(serve: Any) -> None:
    server = await serve(useProxy=["127.0.0.1"])
    for header in (HEADER, BLOCK):
        talk = await server.connect()
        for octet in header:
            talk.transport.write(bytes([octet]))
            await _turn()
        talk.transport.write(b"QUIT\r\n")
        await talk.until(b"221 2.0.0 Bye\r\n")
        await talk.lost
        server.ended = Deferred()
        server.factory.onClose = None


async def _turn() -> None:
    turned: Deferred[None] = Deferred()
    reactor.callLater(0, turned.callback, None)  # type: ignore[attr-defined]
    await turned


@served
async def test_peer_that_sends_no_header_is_closed_and_gets_nothing(serve: Any) -> None:
    server = await serve(useProxy=["127.0.0.1"])
    talk = await server.connect()
    talk.say(HELLO)
    await talk.lost
    assert talk.received == b""
    assert not server.ended.called


def test_the_path_of_a_unix_client_has_no_control_character() -> None:
    peer = UNIXAddress("/tmp/a\n2026-01-01 forged\x1b[2J")
    client = Client(makeFactory(), Transport(peerAddress=peer))
    assert client.session.remoteAddress == "/tmp/a?2026-01-01 forged?[2J"


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "2001:db8::1", "[2001:db8::1]", "127.0.0.1 with PLAIN", "::ffff:127.0.0.1"]
)
def test_a_unix_client_cannot_name_itself_like_an_address(name: str) -> None:
    """It binds its socket to any path, a relative one too."""
    options = {"useXClient": ["127.0.0.1", "2001:db8::/32"], "debugPeers": ["127.0.0.1"], "useProxy": ["127.0.0.1"]}
    client = Client(makeFactory(**options), Transport(peerAddress=UNIXAddress(name)))
    assert client.session.remoteAddress == f"./{name}"
    assert client.last("EHLO x", "XCLIENT ADDR=192.0.2.1").startswith("502 ")
