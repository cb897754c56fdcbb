"""Listeners: how they start, stop and fail, what systemd is told, and what signals do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.testing import MemoryReactorClock

from smtphooks.errors import OptionWarning
from smtphooks.service import ending, listeners
from smtphooks.service.checking import Configuration, configure
from smtphooks.service.listeners import Listeners, ListenerService, StartError
from smtphooks.service.reading import defaultSettings, readSettings
from smtphooks.service.settings import ListenerSettings
from tests.certificates import Authority
from tests.support import Client

CONFIG = """
[options]
authOptional = true

[[listener]]
endpoint = "tcp:25"

[[listener]]
endpoint = "tcp:26"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def configured(*endpoints: str, **options: object) -> Configuration:
    """The default configuration with other listeners, which have these options."""
    own = [ListenerSettings(endpoint, endpoint, options) for endpoint in endpoints]
    return configure(attrs.evolve(defaultSettings(), listeners=own))


class Port:
    """A listening port that takes its time to stop."""

    def __init__(self, address: object) -> None:
        self._address = address
        self.stopped: Deferred[None] | None = None

    def getHost(self) -> object:
        return self._address

    def stopListening(self) -> Deferred[None]:
        self.stopped = Deferred()
        return self.stopped


class Endpoint:
    """An endpoint that takes its time to listen."""

    def __init__(self) -> None:
        self.listening: Deferred[Any] = Deferred()
        self.calls = 0

    def listen(self, factory: object) -> Deferred[Any]:
        self.calls += 1
        return self.listening


class Factory:
    """A factory that takes its time to close."""

    numPorts = 0

    def __init__(self) -> None:
        self.closed: Deferred[None] = Deferred()
        self.closing = False

    def close(self) -> Deferred[None]:
        self.closing = True
        return self.closed


class RunningReactor(MemoryReactorClock):
    """A reactor that is running already."""

    def __init__(self) -> None:
        super().__init__()
        self.hasStopped = False

    def callWhenRunning(self, function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    def stop(self) -> None:
        self.hasStopped = True


class TestListener:
    @pytest.fixture(autouse=True)
    def parts(self) -> None:
        self.endpoint = Endpoint()
        self.factory = Factory()
        self.reactor = RunningReactor()
        self.service = ListenerService(
            "tcp:0",
            self.endpoint,
            self.factory,
            self.reactor,  # type: ignore[arg-type]
        )

    @pytest.fixture
    def logged(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        lines: list[str] = []
        for level in ("info", "critical"):
            monkeypatch.setattr(listeners.log, level, lambda form, **event: lines.append(form.format(**event)))
        return lines

    @pytest.mark.parametrize(
        ("address", "written"),
        [
            (IPv4Address("TCP", "127.0.0.1", 1025), "127.0.0.1:1025"),
            (IPv6Address("TCP", "::1", 1025), "[::1]:1025"),
            (UNIXAddress("/run/sock"), "UNIXAddress('/run/sock')"),
        ],
    )
    def test_logs_where_it_listens(self, logged: list[str], address: object, written: str) -> None:
        self.service.privilegedStartService()
        assert logged == []
        self.endpoint.listening.callback(Port(address))
        assert logged == [f"listening on tcp:0 ({written})"]

    def test_listens_once_for_both_starts(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()
        assert self.endpoint.calls == 1

    def test_listens_when_started_without_privileges(self) -> None:
        self.service.startService()
        assert self.endpoint.calls == 1

    def test_stops_listening_before_it_closes_connections(self) -> None:
        port = Port(UNIXAddress(None))
        self.service.startService()
        self.endpoint.listening.callback(port)
        stopped = self.service.stopService()
        assert port.stopped is not None and not self.factory.closing
        port.stopped.callback(None)
        assert self.factory.closing and not stopped.called
        self.factory.closed.callback(None)
        assert stopped.called

    def test_can_be_stopped_before_it_listens(self, logged: list[str]) -> None:
        self.service.startService()
        self.service.stopService()
        assert self.factory.closing
        assert logged == [] and not self.reactor.hasStopped

    def test_can_be_stopped_without_a_start(self) -> None:
        self.service.stopService()
        assert self.factory.closing

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (CannotListenError("", 25, OSError(98, "Address already in use")), "Address already in use"),
            (CannotListenError("", 25, OSError("odd")), "CannotListenError: Couldn't listen on any:25: odd."),
            (OverflowError("too much"), "OverflowError: too much"),
        ],
    )
    def test_a_start_that_fails_logs_the_reason(self, logged: list[str], error: Exception, reason: str) -> None:
        self.endpoint.listening.errback(error)
        with pytest.raises(StartError) as caught:
            self.service.privilegedStartService()
        sentence = f"cannot listen on tcp:0: {reason}, free it or name another endpoint"
        assert logged == [sentence]
        assert caught.value.code == 1 and str(caught.value) == sentence

    def test_a_later_failure_ends_the_service(self, logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        ends: list[Callable[[], None]] = []
        monkeypatch.setattr(ending.atexit, "register", ends.append)
        self.service.startService()
        self.endpoint.listening.errback(OSError("late"))
        assert logged == ["cannot listen on tcp:0: OSError: late, free it or name another endpoint"]
        assert self.reactor.hasStopped
        (end,) = ends
        statuses: list[int] = []
        monkeypatch.setattr(ending.os, "_exit", statuses.append)
        monkeypatch.setattr(sys, "__stderr__", None)
        end()
        assert statuses == [1]


MODULE = """
from twisted.internet.defer import Deferred

calls = []
pending = {}

class Part:
    def __init__(self, name):
        self.name = name

    def _answer(self, what, service):
        calls.append((what, self.name, service))
        answer = pending.get((what, self.name))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def onStart(self, service):
        return self._answer("start", service)

    def onStop(self, service):
        return self._answer("stop", service)

    def onRcptTo(self, address, session): ...

class Store(Part):
    def onData(self, stream, session): ...
"""

LAYERS = """
[options]
authOptional = true
[[layer]]
use = "lifeapp:Part"
name = "one"
[[layer]]
use = "lifeapp:Store"
name = "store"
[[listener]]
endpoint = "tcp:25"
[[listener]]
endpoint = "tcp:26"
[[listener]]
endpoint = "tcp:27"
[[listener.layer]]
use = "lifeapp:Store"
name = "own"
"""


class TestLayers:
    """Objects of hooks that are started before listeners and stopped after them."""

    @pytest.fixture(autouse=True)
    def parts(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        (folder / "lifeapp.py").write_text(MODULE)
        (folder / "smtphooks.toml").write_text(LAYERS)
        self.told: list[str] = []
        self.lines: list[str] = []
        self.ends: list[Callable[[], None]] = []
        monkeypatch.setattr(listeners, "notify", self.told.append)
        monkeypatch.setattr(ending.atexit, "register", self.ends.append)
        for level in ("info", "warn", "critical"):
            monkeypatch.setattr(listeners.log, level, lambda form, **event: self.lines.append(form.format(**event)))
        self.reactor = RunningReactor()
        self.service = Listeners(configure(readSettings("smtphooks.toml")), self.reactor)
        self.module = sys.modules["lifeapp"]
        yield
        del sys.modules["lifeapp"]

    def pend(self, what: str, name: str) -> Deferred[None]:
        """What the call of a part waits for."""
        waiting: Deferred[None] = Deferred()
        self.module.pending[what, name] = waiting
        return waiting

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()

    @property
    def calls(self) -> list[str]:
        return [f"{what} {name}" for what, name, service in self.module.calls if service is self.service]

    @property
    def ports(self) -> list[int]:
        return [server[0] for server in self.reactor.tcpServers]

    def test_they_are_started_once_before_it_listens_and_stopped_last(self) -> None:
        self.service.privilegedStartService()
        assert (self.calls, self.ports) == (["start one", "start store", "start own"], [25, 26, 27])
        self.service.startService()
        assert len(self.module.calls) == len(self.ports) == 3
        closing = [Deferred() for _ in self.service]
        for listener, closed in zip(self.service, closing, strict=True):
            listener.factory.close = lambda closed=closed: closed
        stopped = self.service.stopService()
        for closed in closing:
            assert len(self.calls) == 3
            closed.callback(None)
        assert self.calls[3:] == ["stop own", "stop store", "stop one"]
        assert stopped.called and self.told == ["READY=1", "STOPPING=1"]

    def test_it_listens_when_all_have_started_and_is_ready_only_then(self) -> None:
        waiting = self.pend("start", "store")
        self.start()
        assert (self.calls, self.ports, self.told, self.lines) == (["start one", "start store"], [], [], [])
        waiting.callback(None)
        assert (self.calls[2:], self.ports, self.told) == (["start own"], [25, 26, 27], ["READY=1"])
        assert all(listener.running for listener in self.service)

    def test_what_starts_between_the_two_starts_of_twistd_listens_once(self) -> None:
        waiting = self.pend("start", "store")
        self.service.privilegedStartService()
        waiting.callback(None)
        assert self.ports == [25, 26, 27]
        self.service.startService()
        assert self.ports == [25, 26, 27]
        assert all(listener.running for listener in self.service)

    def test_one_that_fails_at_once_is_one_sentence_and_nothing_listens(self, folder: Path) -> None:
        self.module.pending["start", "own"] = OSError("no such\n host")
        with pytest.raises(StartError) as caught:
            self.service.privilegedStartService()
        line = MODULE[: MODULE.index("raise answer")].count("\n") + 1
        sentence = f"layer Store cannot start: OSError: no such host ({folder}/lifeapp.py, line {line})"
        assert (str(caught.value), caught.value.code, self.lines) == (sentence, 1, [sentence])
        assert self.calls[3:] == ["stop store", "stop one"]
        assert (self.ports, self.reactor.hasStopped, self.ends) == ([], False, [])

    def test_one_that_fails_later_ends_the_service(self) -> None:
        waiting = self.pend("start", "store")
        self.start()
        waiting.errback(OSError("late"))
        assert self.lines == ["layer Store cannot start: OSError: late"]
        assert (self.ports, self.reactor.hasStopped, len(self.ends)) == ([], True, 1)
        assert self.calls == ["start one", "start store", "stop one"]
        assert self.service.stopService().called
        assert len(self.calls) == 3

    def test_an_endpoint_that_fails_when_they_have_started_ends_the_service(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting = self.pend("start", "one")
        self.start()

        def listen(*arguments: object, **named: object) -> None:
            raise CannotListenError("", 25, OSError(98, "Address already in use"))

        monkeypatch.setattr(self.reactor, "listenTCP", listen)
        waiting.callback(None)
        assert self.lines == ["cannot listen on tcp:25: Address already in use, free it or name another endpoint"]
        assert (self.reactor.hasStopped, len(self.ends), self.told) == (True, 1, [])
        self.service.stopService()
        assert self.calls[3:] == ["stop own", "stop store", "stop one"]

    def test_an_endpoint_that_fails_at_once_has_them_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def listen(*arguments: object, **named: object) -> None:
            raise OSError("odd")

        monkeypatch.setattr(self.reactor, "listenTCP", listen)
        with pytest.raises(StartError, match="cannot listen on tcp:25"):
            self.service.privilegedStartService()
        assert self.calls[3:] == ["stop own", "stop store", "stop one"]

    def test_a_start_that_is_waited_for_is_cancelled_by_a_stop(self) -> None:
        waiting = self.pend("start", "store")
        self.start()
        assert self.service.stopService().called
        assert waiting.called
        assert self.calls == ["start one", "start store", "stop one"]
        assert (self.ports, self.lines, self.told) == ([], [], ["STOPPING=1"])
        assert (self.reactor.hasStopped, self.ends) == (False, [])

    def test_one_that_cannot_stop_does_not_keep_the_others_from_it(self) -> None:
        self.start()
        self.module.pending["stop", "store"] = OSError("odd")
        assert self.service.stopService().called
        assert self.calls[3:] == ["stop own", "stop store", "stop one"]


@pytest.mark.parametrize(
    ("endpoint", "isWarned"), [("tcp:25", True), ("tcp:25:interface=127.0.0.1", False), ("unix:sock", False)]
)
def test_a_listener_that_takes_mail_for_any_recipient_says_so_when_it_listens(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, isWarned: bool
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(listeners.log, "warn", lambda form, **event: lines.append(form.format(**event)))
    service = Listeners(configured(endpoint), RunningReactor())
    service.privilegedStartService()
    service.startService()
    assert [line.split(": no layer decides on recipients: ")[0] for line in lines] == [endpoint] * isWarned


class TestDrain:
    """The service that ends gently, and one that only refuses new clients."""

    @pytest.fixture(autouse=True)
    def parts(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        (folder / "lifeapp.py").write_text(MODULE)
        (folder / "smtphooks.toml").write_text(LAYERS)
        self.told: list[str] = []
        monkeypatch.setattr(listeners, "notify", self.told.append)
        self.reactor = RunningReactor()
        self.service = Listeners(configure(readSettings("smtphooks.toml")), self.reactor)
        self.module = sys.modules["lifeapp"]
        for listener in self.service:
            listener.factory.clock = self.reactor
        self.service.privilegedStartService()
        self.service.startService()
        for listener in self.service:
            listener.factory.doStart()  # a port in memory does not
        self.clients = [Client(listener.factory) for listener in self.service]
        yield
        del sys.modules["lifeapp"]

    @property
    def stopped(self) -> list[str]:
        return [name for what, name, _ in self.module.calls if what == "stop"]

    def drain(self) -> list[object]:
        ends: list[object] = []
        for listener in self.service:
            listener.factory.doStop()
        self.service.drain().addCallback(ends.append)
        return ends

    def lasts(self) -> list[str]:
        return [client.replies()[-1][:3] for client in self.clients if client.transport.value()]

    def test_it_stops_listening_and_lets_connections_end_and_then_stops_the_layers(self) -> None:
        assert self.service.isReady()
        ends = self.drain()
        assert not self.service.isReady()
        assert self.lasts() == ["220"] * 3
        self.reactor.pump([1] * 14)
        for client in self.clients:
            assert (self.stopped, ends) == ([], [])
            assert client.last("QUIT")[:3] == "221"
            client.finish()
        assert (self.stopped, ends, self.service.running) == (["own", "store", "one"], [None], 0)
        assert self.told == ["READY=1", "STOPPING=1"]
        assert self.reactor.getDelayedCalls() == []

    def test_after_half_of_close_timeout_idle_clients_get_421(self) -> None:
        ends = self.drain()
        self.lasts()
        self.reactor.pump([1] * 15)
        assert self.lasts() == ["421"] * 3
        for client in self.clients:
            client.finish()
        assert ends == [None]

    def test_a_stop_meanwhile_gives_them_421_at_once(self) -> None:
        ends = self.drain()
        self.lasts()
        waiting: Deferred[None] = Deferred()
        self.module.pending["stop", "own"] = waiting
        stopped: list[object] = []
        self.service.stopService().addCallback(stopped.append)
        assert self.lasts() == ["421"] * 3
        for client in self.clients:
            client.finish()
        assert (ends, stopped, self.stopped) == ([None], [], ["own"])
        waiting.callback(None)
        assert (len(stopped), self.stopped) == (1, ["own", "store", "one"])
        assert self.told == ["READY=1", "STOPPING=1"]
        assert self.reactor.getDelayedCalls() == []

    def test_a_stop_afterwards_has_nothing_more_to_do(self) -> None:
        self.drain()
        for client in self.clients:
            client.last("QUIT")
            client.finish()
        stopped: list[object] = []
        self.service.stopService().addCallback(stopped.append)
        assert len(stopped) == 1
        assert self.stopped == ["own", "store", "one"]

    def test_one_that_has_not_started_has_drained_at_once(self) -> None:
        service = Listeners(configure(readSettings("smtphooks.toml")), RunningReactor())
        ends: list[object] = []
        service.drain().addCallback(ends.append)
        assert ends == [None]

    def test_while_it_refuses_new_clients_it_is_not_ready_and_listens(self) -> None:
        self.lasts()
        self.service.refuse(True)
        assert not self.service.isReady()
        for listener in self.service:
            late = Client(listener.factory)
            assert late.replies() == ["421 4.3.2 Server is shutting down"]
            late.finish()
        assert all(client.last("NOOP")[:3] == "250" for client in self.clients)
        self.service.refuse(False)
        assert self.service.isReady()
        assert Client(self.service.services[0].factory).codes() == [220]


class TestReadiness:
    """Reports to the service manager."""

    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        told: list[str] = []
        monkeypatch.setattr(listeners, "notify", told.append)
        return told

    def service(self, monkeypatch: pytest.MonkeyPatch) -> tuple[Listeners, list[Endpoint]]:
        endpoints = [Endpoint(), Endpoint()]
        waiting = iter(endpoints)
        monkeypatch.setattr(listeners, "endpointOf", lambda listener, reactor: next(waiting))
        return Listeners(configured("tcp:25", "tcp:26"), RunningReactor()), endpoints

    def test_it_is_ready_when_the_last_listener_is(self, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        service, (one, other) = self.service(monkeypatch)
        service.privilegedStartService()
        service.startService()
        assert told == []
        other.listening.callback(Port(UNIXAddress(None)))
        assert told == []
        one.listening.callback(Port(UNIXAddress(None)))
        assert told == ["READY=1"]

    def test_it_is_not_ready_if_one_fails(self, told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ending.atexit, "register", lambda function: None)
        service, (one, other) = self.service(monkeypatch)
        service.privilegedStartService()
        service.startService()
        one.listening.callback(Port(UNIXAddress(None)))
        other.listening.errback(CannotListenError("", 25, OSError(98, "Address already in use")))
        assert told == []

    def test_it_reports_stopping_before_it_waits_for_anything(
        self, told: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service, (one, other) = self.service(monkeypatch)
        service.privilegedStartService()
        service.startService()
        for endpoint in (one, other):
            endpoint.listening.callback(Port(UNIXAddress(None)))
        stopped = service.stopService()
        assert told == ["READY=1", "STOPPING=1"]
        assert not stopped.called


class TestRereading:
    """Reloading certificates, as on SIGHUP."""

    @pytest.fixture
    def lines(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        lines: list[str] = []
        for level in ("info", "error"):
            monkeypatch.setattr(
                listeners.log,
                level,
                lambda form, _level=level, **event: lines.append(f"{_level}: {form.format(**event)}"),
            )
        return lines

    def service(self, folder: Path, more: str = "") -> Listeners:
        self.authority = Authority()
        self.authority.server("mx.example").writeTo(folder)
        (folder / "smtphooks.toml").write_text(CONFIG + more + "[tls]\nkey = 'server.key'\ncert = 'server.pem'\n")
        return Listeners(configure(readSettings("smtphooks.toml")), RunningReactor())

    def contexts(self, service: Listeners) -> list[Any]:
        return [listener.factory.server.secureContext._hosts for listener in service]

    def test_new_files_are_in_force_for_all_listeners(self, folder: Path, lines: list[str]) -> None:
        service = self.service(folder)
        before = self.contexts(service)
        self.authority.server("new.example").writeTo(folder)
        service.rereadCertificates()
        assert not set(before) & set(self.contexts(service))
        assert lines == ["info: keys and certificates have been read again at tcp:25, tcp:26"]

    def test_broken_files_leave_the_old_ones_in_force_and_are_logged_once(self, folder: Path, lines: list[str]) -> None:
        service = self.service(folder)
        before = self.contexts(service)
        (folder / "server.key").write_text("broken")
        service.rereadCertificates()
        assert before == self.contexts(service)
        assert lines == [
            "error: keys and certificates cannot be read again, the old ones stay in force at tcp:25, tcp:26: "
            f'smtphooks.toml: [tls]: option key is "{folder}/server.key" (no private key in it), it wants PEM text or '
            "the path of a PEM file that has one"
        ]

    def test_a_listener_with_broken_files_does_not_affect_others(self, folder: Path, lines: list[str]) -> None:
        pair = Authority().server("own.example")
        pair.writeTo(folder, "own")
        service = self.service(folder, "key = 'own.key'\ncert = 'own.pem'\n")
        first, second = self.contexts(service)
        (folder / "own.pem").unlink()
        service.rereadCertificates()
        assert self.contexts(service)[0] is not first and self.contexts(service)[1] is second
        assert [line.split(": ")[:2] for line in lines] == [
            ["info", "keys and certificates have been read again at tcp:25"],
            ["error", "keys and certificates cannot be read again, the old ones stay in force at tcp:26"],
        ]
        assert f'tcp:26: smtphooks.toml: listener 2 (tcp:26): option cert is "{folder}/own.pem"' in lines[1]

    def test_no_exception_of_a_reload_ends_the_service(
        self, folder: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = self.service(folder)

        def crash(**given: Any) -> None:
            raise RuntimeError("odd")

        for listener in service:
            monkeypatch.setattr(listener.factory, "updateSecureContext", crash)
        service.rereadCertificates()
        assert [line.rpartition("tcp:26: ")[2] for line in lines] == ["RuntimeError: odd"]


class SignalledReactor(RunningReactor):
    """A reactor that handles SIGTERM, as those of Twisted do."""

    def sigTerm(self, number: int, frame: object) -> None: ...

    def callFromThread(self, function: Callable[[], object]) -> None:
        function()


class TestSignals:
    @pytest.fixture(autouse=True)
    def handler(self) -> Iterator[None]:
        before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGHUP)]
        yield
        for number, handle in before:
            signal.signal(number, handle)

    def started(self, reactor: RunningReactor) -> Listeners:
        service = Listeners(configured("tcp:25"), reactor)
        service.privilegedStartService()
        service.startService()
        return service

    def test_it_listens_and_stops(self) -> None:
        reactor = RunningReactor()
        service = self.started(reactor)
        assert [server[0] for server in reactor.tcpServers] == [25]
        assert service.stopService().called

    def test_SIGTERM_stops_the_reactor_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reactor = SignalledReactor()
        signal.signal(signal.SIGTERM, reactor.sigTerm)
        self.started(reactor)
        assert not reactor.hasStopped
        signal.raise_signal(signal.SIGTERM)
        assert reactor.hasStopped

        def stop() -> None:
            raise ReactorNotRunning

        monkeypatch.setattr(reactor, "stop", stop)
        signal.raise_signal(signal.SIGTERM)

    def test_SIGHUP_has_certificates_read_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reactor = SignalledReactor()
        signal.signal(signal.SIGTERM, reactor.sigTerm)
        service = self.started(reactor)
        reread: list[str] = []
        for listener in service:
            monkeypatch.setattr(listener, "rereadCertificates", lambda: reread.append("again") or "")
        signal.raise_signal(signal.SIGHUP)
        assert reread == ["again"]

    def test_signals_of_a_reactor_without_handlers_are_left_alone(self) -> None:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
        self.started(SignalledReactor())
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


def test_a_listener_whose_seconds_can_only_be_milliseconds_says_so_when_it_listens(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(listeners.log, "warn", lambda form, **event: lines.append(form.format(**event)))
    service = Listeners(configured("unix:sock", closeTimeout=30000), RunningReactor())
    service.privilegedStartService()
    service.startService()
    assert lines == ["unix:sock: option closeTimeout is 30000 seconds, which is 8.33 hours, did you mean 30?"]
    assert not [each for each in recwarn if each.category is OptionWarning]
