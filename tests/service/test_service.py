"""SMTPService: it listens while it runs, reports why it cannot, and lets transactions finish when it stops."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application, IService, MultiService
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from smtphooks import SMTPServerFactory, SMTPService
from smtphooks.service.lifecycle import StartFailed
from tests.pages import write
from tests.real.programs import ROOT, Maildir, Program, freePort, hidden
from tests.real.programs import Client as RealClient
from tests.support import ENVELOPE, Client, makeFactory

CONTENT = b"Subject: hello\r\n\r\nhello\r\n"


class Port:
    """A listening port that takes its time to stop."""

    def __init__(self, address: object = None) -> None:
        self._address = address
        self.stopped: Deferred[None] | None = None

    def getHost(self) -> object:
        return self._address

    def stopListening(self) -> Deferred[None]:
        self.stopped = Deferred()
        return self.stopped


@implementer(IStreamServerEndpoint)
class Endpoint:
    """An endpoint that takes its time to listen."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.calls = 0

    def _cancel(self, listening: Deferred[Any]) -> None:
        self.cancelled += 1

    def listen(self, factory: object) -> Deferred[Any]:
        self.calls += 1
        self.listening: Deferred[Any] = Deferred(self._cancel)
        return self.listening


@implementer(IStreamServerEndpoint)
class FailingEndpoint:
    """An endpoint that fails at once, in one way or another."""

    def __init__(self, raises: bool) -> None:
        self._raises = raises

    def listen(self, factory: object) -> Deferred[Any]:
        error = CannotListenError("", 25, OSError("in use"))
        if self._raises:
            raise error
        failed: Deferred[Any] = Deferred()
        failed.errback(error)
        return failed


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    """The events that the service logs."""
    found: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"] == "smtphooks.service.service":
            found.append(event)

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def factory() -> SMTPServerFactory:
    return makeFactory(onData=lambda stream, session: "taken")


@pytest.fixture
def service(endpoint: Endpoint, factory: SMTPServerFactory) -> SMTPService:
    return SMTPService(endpoint, factory)


# --- start ---


@pytest.mark.parametrize(
    ("address", "written"),
    [(IPv6Address("TCP", "::1", 1025), "[::1]:1025"), (UNIXAddress("/run/sock"), "UNIXAddress('/run/sock')")],
)
def test_it_logs_where_it_listens(
    endpoint: Endpoint, factory: SMTPServerFactory, events: list[LogEvent], address: object, written: str
) -> None:
    service = SMTPService(endpoint, factory)
    service.startService()
    assert events == []
    endpoint.listening.callback(Port(address))
    assert [formatEvent(event) for event in events] == [f"listening on {endpoint!r} ({written})"]


def test_of_an_endpoint_that_is_a_description_the_description_is_logged(
    factory: SMTPServerFactory, events: list[LogEvent]
) -> None:
    service = SMTPService("tcp:2525", factory, MemoryReactorClock())
    service.startService()
    assert [formatEvent(event) for event in events] == ["listening on tcp:2525 (0.0.0.0:2525)"]


def test_it_is_one_of_Twisteds_services(service: SMTPService) -> None:
    assert IService.providedBy(service)
    parent = MultiService()
    service.setServiceParent(parent)  # type: ignore[no-untyped-call]
    assert list(parent) == [service]


def test_it_listens_once_for_both_starts(service: SMTPService, endpoint: Endpoint) -> None:
    service.privilegedStartService()
    assert (endpoint.calls, service.running) == (1, 0)
    service.startService()
    assert (endpoint.calls, service.running) == (1, 1)


def test_it_listens_without_a_privileged_start(service: SMTPService, endpoint: Endpoint) -> None:
    service.startService()
    assert endpoint.calls == 1


def test_an_endpoint_may_be_a_description(factory: SMTPServerFactory) -> None:
    reactor = MemoryReactorClock()
    SMTPService("tcp:25", factory, reactor).startService()
    assert [(server[0], server[1]) for server in reactor.tcpServers] == [(25, factory)]


def test_the_global_reactor_is_looked_up_when_it_starts(
    factory: SMTPServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = SMTPService("tcp:25", factory)
    reactor = MemoryReactorClock()
    monkeypatch.setattr("twisted.internet.reactor", reactor)
    service.startService()
    assert len(reactor.tcpServers) == 1


def test_a_wrong_description_is_an_error_at_the_start(factory: SMTPServerFactory) -> None:
    service = SMTPService("tpc:25", factory, MemoryReactorClock())
    with pytest.raises(ValueError, match="Unknown endpoint type"):
        service.startService()
    assert not service.running


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("start", ["privilegedStartService", "startService"])
def test_a_failure_that_is_known_at_once_is_raised(
    factory: SMTPServerFactory, events: list[LogEvent], start: str, raises: bool
) -> None:
    service = SMTPService(FailingEndpoint(raises), factory)
    with pytest.raises(CannotListenError):
        getattr(service, start)()
    assert not service.running
    service.endpoint = Endpoint()
    service.startService()
    assert (service.endpoint.calls, service.running, events) == (1, 1, [])


def test_a_later_failure_is_logged_with_its_cause(
    service: SMTPService, endpoint: Endpoint, events: list[LogEvent]
) -> None:
    service.startService()
    endpoint.listening.errback(OSError("late"))
    (event,) = events
    assert event["log_level"] is LogLevel.critical
    assert formatEvent(event).startswith("cannot listen on ")
    assert str(event["log_failure"].value) == "late"
    assert stop(service) == [None]


# --- stop ---


def stop(service: SMTPService) -> list[Any]:
    """Stop the service; the list gets the result."""
    results: list[Any] = []
    service.stopService().addCallback(results.append)
    return results


def test_it_stops_listening_then_ends_connections(
    service: SMTPService, endpoint: Endpoint, factory: SMTPServerFactory
) -> None:
    port = Port()
    service.startService()
    endpoint.listening.callback(port)
    idle, busy = Client(factory), Client(factory)
    busy.say(*ENVELOPE)
    idle.replies()
    stopped = stop(service)
    assert not service.running
    assert port.stopped is not None and not idle.isClosed
    port.stopped.callback(None)
    assert idle.replies() == ["421 4.3.2 Server is shutting down"]
    idle.finish()
    assert busy.say("DATA", "text", ".")[-1].startswith("421 ")
    assert stopped == []
    busy.finish()
    assert stopped == [None]


def test_connections_end_though_a_port_cannot_stop(
    service: SMTPService, endpoint: Endpoint, factory: SMTPServerFactory, events: list[LogEvent]
) -> None:
    port = Port()
    service.startService()
    endpoint.listening.callback(port)
    factory.doStart()  # as a listening port does
    client = Client(factory)
    stopped = stop(service)
    assert port.stopped is not None
    port.stopped.errback(OSError("odd"))
    assert client.isClosed
    client.finish()
    assert stopped == [None]
    _, event = events  # the first one tells where it listens
    assert str(event["log_failure"].value) == "odd"


def test_a_pending_listen_is_cancelled(service: SMTPService, endpoint: Endpoint, events: list[LogEvent]) -> None:
    service.startService()
    assert stop(service) == [None]
    assert (endpoint.cancelled, events) == (1, [])


def test_it_can_be_stopped_without_a_start(service: SMTPService) -> None:
    assert stop(service) == [None]


def test_it_can_be_started_again(service: SMTPService, endpoint: Endpoint, factory: SMTPServerFactory) -> None:
    for calls in (1, 2):
        port = Port()
        service.startService()
        factory.doStart()
        assert (endpoint.calls, service.running) == (calls, 1)
        endpoint.listening.callback(port)
        client = Client(factory)
        assert client.replies()[0].startswith("220 ")
        stopped = stop(service)
        assert port.stopped is not None
        factory.doStop()  # type: ignore[no-untyped-call]
        port.stopped.callback(None)
        client.finish()
        assert stopped == [None]


def test_a_factory_that_listens_elsewhere_goes_on(
    service: SMTPService, endpoint: Endpoint, factory: SMTPServerFactory
) -> None:
    factory.doStart()
    service.startService()
    factory.doStart()
    port = Port()
    endpoint.listening.callback(port)
    client = Client(factory)
    stopped = stop(service)
    factory.doStop()  # type: ignore[no-untyped-call]
    assert port.stopped is not None
    port.stopped.callback(None)
    assert stopped == [None]
    assert client.last("NOOP").startswith("250 ")
    client.lose()
    factory.doStop()  # type: ignore[no-untyped-call]


def test_a_drain_stops_listening_lets_connections_end_by_themselves_and_stops(
    service: SMTPService, endpoint: Endpoint, factory: SMTPServerFactory
) -> None:
    port = Port()
    service.startService()
    endpoint.listening.callback(port)
    client = Client(factory)
    client.replies()
    drained: list[None] = []
    service.drain().addCallback(drained.append)
    assert port.stopped is not None and not factory.isRefusing
    port.stopped.callback(None)
    assert (client.replies(), service.running) == ([], 1)
    assert client.say(*ENVELOPE, "DATA", "text", ".", "QUIT")[-1].startswith("221 ")
    client.finish()
    assert (drained, service.running) == ([None], 0)


def test_a_stop_within_a_drain_does_not_wait_for_it(
    service: SMTPService, endpoint: Endpoint, factory: SMTPServerFactory
) -> None:
    port = Port()
    service.startService()
    endpoint.listening.callback(port)
    client = Client(factory)
    drained: list[None] = []
    service.drain().addCallback(drained.append)
    assert port.stopped is not None
    port.stopped.callback(None)
    stopped = stop(service)
    assert client.isClosed
    client.finish()
    assert (drained, stopped) == ([None], [None])


def test_a_stop_within_a_drain_stops_objects_one_after_the_other(endpoint: Endpoint) -> None:
    calls: list[str] = []
    waiting: Deferred[None] = Deferred()

    class One:
        def onStop(self, service: object) -> None:
            calls.append("one")

        def onData(self, stream: object, session: object) -> None: ...

    class Other:
        def onStop(self, service: object) -> Deferred[None]:
            calls.append("other")
            return waiting

        def onRcptTo(self, address: object, session: object) -> None: ...

    service = SMTPService(endpoint, makeFactory(hooks=[One(), Other()]))
    service.startService()
    client = Client(service.factory)
    service.drain()
    stop(service)
    client.finish()
    assert calls == ["other"]
    waiting.callback(None)
    assert calls == ["other", "one"]


# --- objects of hooks that are started and stopped ---


class Resource:
    """An object of hooks that has something to open, and takes its time to do so."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.opened: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()

    def onStart(self, service: object) -> Deferred[None]:
        self.calls.append(("start", service))
        return self.opened

    def onStop(self, service: object) -> Deferred[None]:
        self.calls.append(("stop", service))
        return self.closed

    def onData(self, stream: object, session: object) -> None: ...


@pytest.fixture
def resource() -> Resource:
    return Resource()


@pytest.fixture
def opening(resource: Resource, endpoint: Endpoint) -> SMTPService:
    """A service with that object."""
    return SMTPService(endpoint, makeFactory(hooks=resource))


def test_it_listens_at_once_if_all_have_started_at_once(
    opening: SMTPService, resource: Resource, endpoint: Endpoint
) -> None:
    resource.opened.callback(None)
    opening.privilegedStartService()
    assert (resource.calls, endpoint.calls) == ([("start", opening)], 1)
    opening.startService()
    assert (len(resource.calls), endpoint.calls) == (1, 1)


@pytest.mark.parametrize("isPrivileged", [True, False])
def test_else_it_listens_when_they_have_started(
    opening: SMTPService, resource: Resource, endpoint: Endpoint, isPrivileged: bool
) -> None:
    if isPrivileged:
        opening.privilegedStartService()
    opening.startService()
    assert (resource.calls, endpoint.calls, opening.running) == ([("start", opening)], 0, 1)
    resource.opened.callback(None)
    assert endpoint.calls == 1
    opening.stopService()
    assert resource.calls[1:] == [("stop", opening)]


def test_they_are_stopped_after_the_last_connection(
    opening: SMTPService, resource: Resource, endpoint: Endpoint
) -> None:
    resource.opened.callback(None)
    opening.startService()
    opening.factory.doStart()
    port = Port()
    endpoint.listening.callback(port)
    client = Client(opening.factory)
    client.say(*ENVELOPE)
    stopped = stop(opening)
    assert port.stopped is not None
    opening.factory.doStop()  # type: ignore[no-untyped-call]
    port.stopped.callback(None)
    client.say("RSET")
    assert resource.calls == [("start", opening)]
    client.finish()
    assert (resource.calls[1:], stopped) == ([("stop", opening)], [])
    resource.closed.callback(None)
    assert stopped == [None]


def test_one_that_cannot_start_at_once_is_raised(
    opening: SMTPService, resource: Resource, endpoint: Endpoint, events: list[LogEvent]
) -> None:
    resource.opened.errback(OSError("no"))
    with pytest.raises(StartFailed, match="layer Resource cannot start: OSError: no"):
        opening.startService()
    assert (endpoint.calls, opening.running, events) == (0, 0, [])
    assert stop(opening) == [None]


def test_one_that_cannot_start_later_is_logged(
    opening: SMTPService, resource: Resource, endpoint: Endpoint, events: list[LogEvent]
) -> None:
    opening.startService()
    resource.opened.errback(OSError("late"))
    (event,) = events
    assert event["log_level"] is LogLevel.critical
    assert formatEvent(event).startswith("it does not listen on ")
    assert str(event["log_failure"].value) == "layer Resource cannot start: OSError: late"
    assert endpoint.calls == 0
    assert stop(opening) == [None]
    assert len(resource.calls) == 1


def test_an_endpoint_that_fails_when_they_have_started_is_logged(resource: Resource, events: list[LogEvent]) -> None:
    service = SMTPService(FailingEndpoint(raises=True), makeFactory(hooks=resource))
    service.startService()
    resource.opened.callback(None)
    (event,) = events
    assert formatEvent(event).startswith("cannot listen on ")
    assert resource.calls == [("start", service)]
    resource.closed.callback(None)
    assert stop(service) == [None]
    assert len(resource.calls) == 2


def test_an_endpoint_that_fails_at_once_has_them_stopped(resource: Resource) -> None:
    resource.opened.callback(None)
    resource.closed.callback(None)
    service = SMTPService(FailingEndpoint(raises=False), makeFactory(hooks=resource))
    with pytest.raises(CannotListenError):
        service.startService()
    assert [what for what, _ in resource.calls] == ["start", "stop"]


def test_a_start_that_is_waited_for_is_cancelled(
    opening: SMTPService, resource: Resource, endpoint: Endpoint, events: list[LogEvent]
) -> None:
    opening.privilegedStartService()
    opening.startService()
    assert stop(opening) == [None]
    assert resource.opened.called
    assert (endpoint.calls, len(resource.calls), events) == (0, 1, [])


def test_two_services_start_a_common_object_once(resource: Resource) -> None:
    resource.opened.callback(None)
    resource.closed.callback(None)
    services = [SMTPService(Endpoint(), makeFactory(hooks=[resource])) for _ in range(2)]
    for service in services:
        service.startService()
    assert resource.calls == [("start", services[0])]
    for service in services:
        service.stopService()
    assert resource.calls[1:] == [("stop", services[1])]


# --- a .tac file ---


def test_a_transaction_finishes_though_twistd_is_asked_to_end(tmp_path: Path) -> None:
    port = freePort()
    tac = tmp_path / "mail.tac"
    write("embedding.rst", tmp_path)
    tac.write_text(tac.read_text().replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    twistd = [str(Path(sys.executable).parent / "twistd"), "-ny", tac.name, "--pidfile="]
    program = Program(twistd, environment, tmp_path)
    try:
        program.waitForLine("starting on", str(port))
        with RealClient(port) as client:
            client.envelope(b"user@mx.example")
            client.say(b"DATA", 354)
            os.kill(program.pid, signal.SIGTERM)
            program.waitForLine("Received SIGTERM")
            client.socket.sendall(hidden(CONTENT))
            client.reply(250)
            client.reply(421)
        # Only the service of twistd smtphooks turns SIGTERM into status 0.
        assert program.wait() == -signal.SIGTERM
    finally:
        program.kill()
    assert "Traceback" not in program.output
    assert Maildir(tmp_path / "mail").message().content == CONTENT.replace(b"\r\n", b"\n")


def test_it_is_started_and_stopped_with_an_application(service: SMTPService, endpoint: Endpoint) -> None:
    application = Application("mail")
    service.setServiceParent(application)  # type: ignore[no-untyped-call]
    whole = IService(application)
    whole.privilegedStartService()
    whole.startService()
    assert (endpoint.calls, service.running) == (1, 1)
    whole.stopService()
    assert endpoint.cancelled == 1
