"""The ports of a worker: which sockets are accepted from, and when no port is left."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from smtphooks.service.ports import Ports
from smtphooks.service.service import SMTPService
from tests.support import Client, makeFactory


class Port:
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


class Reactor:
    """
    @ivar ports: those of each socket, the last of them.
    """

    def __init__(self) -> None:
        self.ports: dict[int, Port] = {}

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> Port:
        port = self.ports[descriptor] = Port(factory)
        return port


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def factory() -> Any:
    return makeFactory(onData=lambda stream, session: None)


@pytest.fixture
def ports(reactor: Reactor, factory: Any) -> Ports:
    return Ports(reactor, socket.AF_INET, [10, 11, 12], False, factory)


def test_it_accepts_from_the_sockets_that_it_is_told_to(ports: Ports, reactor: Reactor) -> None:
    ports.serve([0, 2])
    assert sorted(reactor.ports) == [10, 12]
    ports.serve([2, 7])
    assert (reactor.ports[10].stopped is None, reactor.ports[12].stopped is None) == (False, True)


def test_it_has_stopped_when_no_port_is_left(ports: Ports, reactor: Reactor) -> None:
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
    ports: Ports, reactor: Reactor, factory: Any, end: str
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
