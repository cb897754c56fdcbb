"""Ports on sockets that are open already: real ones, which a reactor of the test accepts from."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from smtphooks.privatereactor import privateReactor
from smtphooks.service.ports import InheritedEndpoint, Ports, SocketsReactor, hostOf
from smtphooks.service.service import SMTPService
from smtphooks.service.sockets import ListeningSockets, open_
from tests.support import Client, makeFactory

LOOPBACK = "tcp:0:interface=127.0.0.1"


class Greeter(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Greeting(Factory):
    """
    A factory that counts.

    @ivar stops: how often it was stopped, which it is when its last port is gone.
    @ivar built: how many connections it had.
    """

    noisy = False
    protocol = Greeter

    def __init__(self) -> None:
        self.stops = 0
        self.built = 0

    def buildProtocol(self, addr: Any) -> Any:
        self.built += 1
        return super().buildProtocol(addr)

    def stopFactory(self) -> None:
        self.stops += 1


class Loop:
    """A reactor that runs as long as the test waits for something."""

    def __init__(self) -> None:
        self.reactor: Any = privateReactor()

    def turn(self, times: int = 10) -> None:
        for _ in range(times):
            self.reactor.iterate(0)

    def answerOf(self, family: int, address: Any) -> bytes:
        """What a client is told, b"" if nobody accepts."""
        with socket.socket(family) as client:
            client.connect(address)
            client.setblocking(False)
            for _ in range(100):
                self.reactor.iterate(0.001)
                try:
                    return client.recv(100)
                except BlockingIOError:
                    pass
        return b""


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    one.turn()
    one.reactor.removeAll()


@pytest.fixture
def opened() -> Iterator[list[ListeningSockets]]:
    those: list[ListeningSockets] = []
    yield those
    for each in those:
        each.close()


def portsOf(loop: Loop, sockets: ListeningSockets, factory: Factory) -> Ports:
    return Ports(loop.reactor, sockets.family, sockets.descriptors, sockets.isShared, factory)


def addressOf(sockets: ListeningSockets) -> Any:
    host = sockets.getHost()
    return (host.host, host.port)


# --- any number of sockets ---


def test_it_accepts_from_the_sockets_that_it_serves_and_from_no_others(
    loop: Loop, opened: list[ListeningSockets]
) -> None:
    opened.append(open_(LOOPBACK, 0, 2, []))
    factory = Greeting()
    ports = portsOf(loop, opened[0], factory)
    assert loop.answerOf(socket.AF_INET, addressOf(opened[0])) == b""
    ports.serve([0, 1])
    for _ in range(8):
        assert loop.answerOf(socket.AF_INET, addressOf(opened[0])) == b"hello"
    ports.serve([])
    loop.turn()
    built = factory.built
    assert loop.answerOf(socket.AF_INET, addressOf(opened[0])) == b""
    assert (factory.built, factory.stops) == (built, 1)


@given(st.lists(st.sets(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=8))
def test_changing_sockets_never_leave_the_factory_without_a_port(served: list[set[int]]) -> None:
    events: list[str] = []

    class Port:
        def __init__(self, number: int) -> None:
            self.number = number

        def stopListening(self) -> None:
            there.remove(self.number)
            if not there:
                gaps.append(self.number)

    class Reactor:
        def adoptStreamPort(self, descriptor: int, family: int, factory: object) -> Port:
            events.append(f"adopt {descriptor}")
            there.append(descriptor - 100)
            return Port(descriptor - 100)

    there: list[int] = []
    gaps: list[int] = []
    ports = Ports(Reactor(), socket.AF_INET, [100 + number for number in range(7)], False, None)
    for numbers in served:
        ports.serve(sorted(numbers))
        assert sorted(there) == sorted(numbers)
        assert gaps == [], "the factory was without a port"
    assert len(events) >= len(served[0])


def test_numbers_of_sockets_that_it_does_not_have_are_left_out(loop: Loop, opened: list[ListeningSockets]) -> None:
    opened.append(open_(LOOPBACK, 0, 1, []))
    ports = portsOf(loop, opened[0], Greeting())
    ports.serve([0, 5])
    assert loop.answerOf(socket.AF_INET, addressOf(opened[0])) == b"hello"
    ports.stopListening()


def test_a_shared_socket_is_served_with_any_number(loop: Loop, opened: list[ListeningSockets], tmp_path: Path) -> None:
    opened.append(open_(f"unix:{tmp_path / 'lmtp'}", 0, 4, []))
    ports = portsOf(loop, opened[0], Greeting())
    for numbers in ([3], [0, 2]):
        ports.serve(numbers)
        assert loop.answerOf(socket.AF_UNIX, str(tmp_path / "lmtp")) == b"hello"
    ports.serve([])
    assert loop.answerOf(socket.AF_UNIX, str(tmp_path / "lmtp")) == b""


def test_what_waits_while_nobody_serves_is_served_later(loop: Loop, opened: list[ListeningSockets]) -> None:
    opened.append(open_(LOOPBACK, 0, 1, []))
    first, second = Greeting(), Greeting()
    ports = portsOf(loop, opened[0], first)
    ports.serve([0])
    ports.stopListening()
    loop.turn()
    with socket.create_connection(addressOf(opened[0])) as client:
        loop.turn()
        sibling = portsOf(loop, opened[0], second)
        sibling.serve([0])
        loop.turn()
        assert client.recv(100) == b"hello"
        sibling.stopListening()
    assert (first.built, second.built) == (0, 1)


def test_a_unix_socket_stays_when_it_is_served_no_more(
    loop: Loop, opened: list[ListeningSockets], tmp_path: Path
) -> None:
    path = tmp_path / "lmtp"
    opened.append(open_(f"unix:{path}", 0, 1, []))
    ports = portsOf(loop, opened[0], Greeting())
    ports.serve([0])
    ports.stopListening()
    loop.turn()
    assert sorted(os.listdir(tmp_path)) == ["lmtp", "lmtp.lock"]
    opened[0].close()
    assert os.listdir(tmp_path) == []


def test_what_is_served_after_the_end_is_not_served(loop: Loop, opened: list[ListeningSockets]) -> None:
    # A worker that ends may be told to serve the socket of another one that has ended just before.
    opened.append(open_(LOOPBACK, 0, 1, []))
    factory = Greeting()
    ports = portsOf(loop, opened[0], factory)
    ports.serve([0])
    ports.stopListening()
    ports.serve([0])
    assert loop.answerOf(socket.AF_INET, addressOf(opened[0])) == b""


def test_no_file_descriptor_is_left(loop: Loop, opened: list[ListeningSockets]) -> None:
    opened.append(open_(LOOPBACK, 0, 3, []))
    loop.turn()
    before = {*os.listdir("/proc/self/fd")} if os.path.isdir("/proc/self/fd") else set()
    ports = portsOf(loop, opened[0], Greeting())
    ports.serve([0, 1, 2])
    ports.serve([1])
    assert ports.getHost().port == opened[0].getHost().port
    ports.stopListening()
    loop.turn()
    after = {*os.listdir("/proc/self/fd")} if os.path.isdir("/proc/self/fd") else set()
    assert after <= before


def test_the_host_of_a_socket_is_that_of_its_family(opened: list[ListeningSockets], tmp_path: Path) -> None:
    opened += [open_(LOOPBACK, 0, 1, []), open_(f"unix:{tmp_path / 'lmtp'}", 0, 1, [])]
    assert isinstance(opened[0].getHost(), IPv4Address)
    assert hostOf(opened[1].family, opened[1].descriptors[0]) == UNIXAddress(str(tmp_path / "lmtp"))


# --- endpoints ---


def listened(endpoint: InheritedEndpoint, factory: Factory) -> Ports:
    found: list[Any] = []
    endpoint.listen(factory).addCallback(found.append)
    assert isinstance(found[0], Ports)
    return found[0]


def test_an_endpoint_listens_on_what_it_has_and_serves_when_it_is_told(
    loop: Loop, opened: list[ListeningSockets]
) -> None:
    opened.append(open_(LOOPBACK, 0, 2, []))
    sockets = opened[0]
    endpoint = InheritedEndpoint(loop.reactor, LOOPBACK, sockets.family, sockets.isShared, sockets.descriptors)
    endpoint.serve([0, 1])
    ports = listened(endpoint, Greeting())
    assert loop.answerOf(socket.AF_INET, addressOf(sockets)) == b""
    endpoint.serve([0, 1])
    assert loop.answerOf(socket.AF_INET, addressOf(sockets)) == b"hello"
    ports.stopListening()


def test_an_endpoint_can_serve_from_the_start(loop: Loop, opened: list[ListeningSockets]) -> None:
    opened.append(open_(LOOPBACK, 0, 1, []))
    sockets = opened[0]
    endpoint = InheritedEndpoint(loop.reactor, LOOPBACK, sockets.family, sockets.isShared, sockets.descriptors, [0])
    ports = listened(endpoint, Greeting())
    assert loop.answerOf(socket.AF_INET, addressOf(sockets)) == b"hello"
    ports.stopListening()


def test_the_socket_of_systemd_is_served_by_a_process_that_systemd_does_not_know(
    loop: Loop, opened: list[ListeningSockets]
) -> None:
    opened.append(open_(LOOPBACK, 0, 1, []))
    sockets = opened[0]
    description = "systemd:domain=INET:index=0"
    endpoint = InheritedEndpoint(loop.reactor, description, sockets.family, True, sockets.descriptors, [0])
    ports = listened(endpoint, Greeting())
    assert loop.answerOf(socket.AF_INET, addressOf(sockets)) == b"hello"
    ports.stopListening()


def test_a_stand_in_for_a_reactor_is_told_what_would_be_listened_on() -> None:
    told: list[Any] = []
    reactor = SocketsReactor(lambda *what: told.append(what))
    factory, context = Factory(), object()
    reactor.listenTCP(25, factory, interface="192.0.2.1")
    reactor.listenUNIX("/run/lmtp", factory, mode=0o660, wantPID=1)
    reactor.adoptStreamPort(3, socket.AF_INET, factory)
    reactor.listenSSL(465, None, context)
    assert told == [
        ("tcp", ("192.0.2.1", 25, 50), factory),
        ("unix", ("/run/lmtp", 50, 0o660, True), factory),
        ("adopted", (3, socket.AF_INET), factory),
        ("tcp", ("", 465, 50), None),
    ]


def test_a_stand_in_puts_TLS_around_the_factory(loop: Loop) -> None:
    from twisted.internet.ssl import CertificateOptions

    told: list[Any] = []
    reactor = SocketsReactor(lambda *what: told.append(what), loop.reactor)
    reactor.listenSSL(465, Factory(), CertificateOptions())
    assert isinstance(told[0][2], TLSMemoryBIOFactory)
    assert reactor.seconds == loop.reactor.seconds


class SlowPort:
    """A port that takes its time to stop, as those of Twisted do, and is counted by its factory until then."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self.stopped: Deferred[None] | None = None
        factory.doStart()

    def stopListening(self) -> Deferred[None]:
        self.stopped = Deferred()
        return self.stopped

    def stop(self) -> None:
        assert self.stopped is not None
        self._factory.doStop()
        self.stopped.callback(None)


class SlowReactor:
    """
    @ivar ports: those of each socket, the last of them.
    """

    def __init__(self) -> None:
        self.ports: dict[int, SlowPort] = {}

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> SlowPort:
        port = self.ports[descriptor] = SlowPort(factory)
        return port


@pytest.fixture
def reactor() -> SlowReactor:
    return SlowReactor()


@pytest.fixture
def factory() -> Any:
    return makeFactory(onData=lambda stream, session: None)


@pytest.fixture
def ports(reactor: SlowReactor, factory: Any) -> Ports:
    return Ports(reactor, socket.AF_INET, [10, 11, 12], False, factory)


def test_it_accepts_from_the_sockets_that_it_is_told_to(ports: Ports, reactor: SlowReactor) -> None:
    ports.serve([0, 2])
    assert sorted(reactor.ports) == [10, 12]
    ports.serve([2, 7])
    assert (reactor.ports[10].stopped is None, reactor.ports[12].stopped is None) == (False, True)


def test_it_has_stopped_when_no_port_is_left(ports: Ports, reactor: SlowReactor) -> None:
    ports.serve([0, 1])
    ports.serve([1])
    stopped: list[object] = []
    ports.stopListening().addCallback(stopped.append)
    reactor.ports[11].stop()
    assert stopped == []
    reactor.ports[10].stop()
    assert len(stopped) == 1


def test_without_a_port_it_has_stopped_at_once(ports: Ports) -> None:
    stopped: list[object] = []
    ports.stopListening().addCallback(stopped.append)
    assert len(stopped) == 1


@pytest.mark.parametrize("end", ["drain", "stopService"])
def test_a_service_on_such_ports_waits_for_its_connections(
    ports: Ports, reactor: SlowReactor, factory: Any, end: str
) -> None:
    class Endpoint:
        def listen(self, _: object) -> Any:
            return succeed(ports)

    ports.getHost = lambda: None  # type: ignore[method-assign]
    endpoint: Any = Endpoint()
    service = SMTPService(endpoint, factory)
    service.startService()
    ports.serve([0])
    client = Client(factory)
    ended: list[object] = []
    getattr(service, end)().addCallback(ended.append)
    reactor.ports[10].stop()
    assert ended == []
    client.lose()
    assert ended == [None]


# --- UNIX sockets belong to who opened them ---


def modeOf(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def backlogOf(path: Path) -> int:
    """How many connections may wait in a UNIX socket."""
    if which("ss") is None:
        pytest.skip("ss is not installed")
    lines = subprocess.run(["ss", "-xlH"], capture_output=True, text=True, check=True).stdout.splitlines()
    (line,) = [line for line in lines if str(path) in line.split()]
    return int(line.split()[3])


def test_a_unix_socket_keeps_its_mode_and_its_backlog(
    loop: Loop, opened: list[ListeningSockets], tmp_path: Path
) -> None:
    path = tmp_path / "lmtp"
    opened.append(open_(f"unix:{path}:mode=640:backlog=700", 0, 2, []))
    ports = portsOf(loop, opened[0], Greeting())
    ports.serve([0])
    assert loop.answerOf(socket.AF_UNIX, str(path)) == b"hello"
    assert modeOf(path) == 0o640
    assert backlogOf(path) == 700
    ports.stopListening()
    loop.turn()
    assert modeOf(path) == 0o640


def test_one_whose_path_is_gone_is_served_all_the_same(
    loop: Loop, opened: list[ListeningSockets], tmp_path: Path
) -> None:
    path = tmp_path / "lmtp"
    opened.append(open_(f"unix:{path}", 0, 2, []))
    moved = tmp_path / "moved"
    path.rename(moved)
    ports = portsOf(loop, opened[0], Greeting())
    ports.serve([0])
    assert loop.answerOf(socket.AF_UNIX, str(moved)) == b"hello"
    ports.stopListening()
    loop.turn()
    assert moved.exists()
