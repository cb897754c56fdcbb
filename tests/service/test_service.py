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
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from smtphooks import SMTPServerFactory, SMTPService
from tests.real.programs import ROOT, Maildir, Program, freePort, hidden
from tests.real.programs import Client as RealClient
from tests.support import ENVELOPE, Client, makeFactory
from tests.test_reference import FILES

CONTENT = b"Subject: hello\r\n\r\nhello\r\n"


class Port:
    """A listening port that takes its time to stop."""

    def __init__(self) -> None:
        self.stopped: Deferred[None] | None = None

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
    (event,) = events
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


# --- a .tac file ---


def test_a_transaction_finishes_though_twistd_is_asked_to_end(tmp_path: Path) -> None:
    port = freePort()
    tac = tmp_path / "mail.tac"
    tac.write_text(FILES["mail.tac"].replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1"))
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
