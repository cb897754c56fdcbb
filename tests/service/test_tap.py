"""The twistd service: its flags, how it starts and ends, and that twistd says one sentence where it cannot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver

from smtphooks.service import tap
from smtphooks.service.reading import ConfigError, readSettings
from tests.certificates import Authority
from tests.real.programs import PATIENCE, ROOT, Maildir, Program

TWISTD = str(Path(sys.executable).parent / "twistd")
LOOPBACK = "tcp:0:interface=127.0.0.1"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def parsed(*arguments: str) -> tap.Options:
    """The flags."""
    options = tap.Options()
    options.parseOptions(list(arguments))
    return options


def refusal(*arguments: str) -> str:
    """The sentence for flags that are wrong."""
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert isinstance(caught.value.code, str)
    return caught.value.code


def endpointsOf(options: tap.Options) -> list[str]:
    return [listener.endpoint for listener in options.configuration.listeners]


CONFIG = """
hooks = "smtphooks.stores:Maildir"

[hooks-options]
path = "fromFile"

[options]
authOptional = true

[[listener]]
endpoint = "tcp:25"

[[listener]]
endpoint = "tcp:26"
lmtp = false
"""


@pytest.fixture
def config(folder: Path) -> str:
    """A configuration file."""
    (folder / "smtphooks.toml").write_text(CONFIG)
    return "smtphooks.toml"


class TestFlags:
    def test_without_flags_the_defaults_hold(self, folder: Path) -> None:
        options = parsed()
        assert endpointsOf(options) == ["tcp:2525:interface=127.0.0.1"]
        assert options.configuration.hooks.options == {"path": str(folder / "maildir")}
        assert options.configuration.listeners[0].factory.options.authOptional

    def test_listen_can_be_repeated(self) -> None:
        options = parsed("--listen", "tcp:25", "--listen", "tcp:26", "--lmtp")
        assert endpointsOf(options) == ["tcp:25", "tcp:26"]
        assert all(listener.factory.options.lmtp for listener in options.configuration.listeners)

    def test_the_file_is_read(self, config: str) -> None:
        options = parsed("--config", config)
        assert endpointsOf(options) == ["tcp:25", "tcp:26"]
        assert options.configuration.hooks.options == {"path": "fromFile"}

    def test_listen_wins_over_the_file(self, config: str) -> None:
        assert endpointsOf(parsed("--config", config, "--listen", "tcp:27")) == ["tcp:27"]

    def test_lmtp_wins_over_the_file(self, config: str) -> None:
        listeners = parsed("--config", config, "--lmtp").configuration.listeners
        assert [listener.factory.options.lmtp for listener in listeners] == [True, True]

    def test_maildir_wins_over_the_file(self, config: str, folder: Path) -> None:
        hooks = parsed("--config", config, "--maildir", "other").configuration.hooks
        assert hooks.options == {"path": str(folder / "other")}

    def test_hooks_win_over_the_file(self, config: str) -> None:
        options = parsed("--config", config, "--hooks", "tests.real.hooks:UnreadMessages")
        assert options.configuration.hooks.name == "tests.real.hooks:UnreadMessages"
        assert options.configuration.hooks.options == {}

    @pytest.mark.parametrize("flags", [["--hooks", "tests.real.hooks:UnreadMessages"], ["--maildir", "other"]])
    def test_both_win_over_those_of_a_listener(self, folder: Path, config: str, flags: list[str]) -> None:
        (folder / config).write_text(CONFIG + 'hooks = "nowhere:Hooks"\n')
        one, other = parsed("--config", config, *flags).configuration.listeners
        assert one.factory.onData.__self__ is other.factory.onData.__self__  # type: ignore[union-attr]

    def test_hooks_that_would_drop_every_message_are_refused(self, folder: Path) -> None:
        (folder / "dropping.py").write_text("class Hooks:\n    def onRcptTo(self, address, session): ...\n")
        assert refusal("--hooks", "dropping:Hooks") == (
            "smtphooks: the default listener (tcp:2525:interface=127.0.0.1): dropping:Hooks has no onData, so every"
            " message would be accepted and dropped, give it onData, or set discard = true in the configuration, above"
            " all tables or in the [[listener]]"
        )
        (folder / "smtphooks.toml").write_text("discard = true\n[options]\nauthOptional = true\n")
        parsed("--config", "smtphooks.toml", "--hooks", "dropping:Hooks")

    def test_an_endpoint_that_hides_clients_is_refused(self) -> None:
        assert refusal("--listen", "HAProxy:tcp:25").startswith(
            "smtphooks: --listen HAProxy:tcp:25: the endpoint haproxy: hides from smtphooks who its clients are, "
        )

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--listn", "x"], "unknown flag --listn, did you mean --listen? (twistd smtphooks --help lists all)"),
            (["--config"], "option --config requires argument (twistd smtphooks --help lists all)"),
            (["more"], "unknown argument more, there are only flags (twistd smtphooks --help lists all)"),
            (
                ["--config", "none"],
                "none: the configuration cannot be read (No such file or directory), check --config",
            ),
            (
                ["--hooks", "a:b", "--maildir", "c"],
                "--hooks and --maildir both say what to do with messages, leave one out",
            ),
            (["--log-format", "xml"], "--log-format is xml, write text or json"),
            (
                ["--check", "--listen", "tpc:25"],
                "--listen tpc:25: endpoint tpc:25 is none of Twisted's, write one such as tcp:25 or "
                "unix:/run/smtp.sock: ValueError: Unknown endpoint type: 'tpc'",
            ),
        ],
    )
    def test_what_is_wrong_has_its_sentence(self, arguments: list[str], sentence: str) -> None:
        assert refusal(*arguments) == f"smtphooks: {sentence}"


class TestAuthFlag:
    def options(self, *arguments: str) -> Any:
        return parsed(*arguments).configuration.listeners[0].factory.options

    def test_it_makes_a_portal_and_authentication_a_duty(self) -> None:
        options = self.options("--auth", "memory:joe:pencil")
        assert options.portal is not None
        assert not options.authOptional

    def test_it_can_be_repeated(self, folder: Path) -> None:
        (folder / "passwd").touch()
        auth = parsed("--auth", "memory:joe:pencil", "--auth", "file:passwd", "--auth", "unix").configuration.auth
        assert auth is not None
        assert auth.checkers == ["memory:joe:pencil", f"file:{folder}/passwd", "unix"]

    def test_it_wins_over_the_file_which_says_if_it_is_a_duty(self, folder: Path, config: str) -> None:
        (folder / config).write_text(CONFIG + '[auth]\ncheckers = ["memory:a:b"]\n')
        options = parsed("--config", config, "--auth", "memory:joe:pencil")
        assert options.configuration.auth is not None
        assert options.configuration.auth.checkers == ["memory:joe:pencil"]
        assert options.configuration.listeners[0].factory.options.authOptional

    def test_hooks_with_on_auth_exclude_it(self, folder: Path) -> None:
        (folder / "trusting.py").write_text("class Hooks:\n    def onAuth(self, auth, session): ...\n")
        assert refusal("--auth", "unix", "--hooks", "trusting:Hooks") == (
            "smtphooks: --auth has checkers and trusting:Hooks has onAuth, leave one of them out"
        )

    def test_a_wrong_one_has_its_sentence(self) -> None:
        said = refusal("--auth", "memry:joe:pencil")
        assert said.startswith("smtphooks: --auth: checker 1 is of no known kind, known are ")
        assert "memory" in said and "pencil" not in said

    @pytest.mark.parametrize("arguments", [["--help-auth"], ["--help-auth-type", "file"]])
    def test_help_lists_the_kinds_that_there_are(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
    ) -> None:
        monkeypatch.setattr(tap.Options, "authOutput", sys.stdout)
        with pytest.raises(SystemExit) as caught:
            parsed(*arguments)
        assert caught.value.code == 0
        assert "file" in capsys.readouterr().out


class TestCheck:
    def checked(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            parsed("--check", *arguments)
        assert caught.value.code == 0
        return capsys.readouterr().out

    def test_prints_what_can_be_read_back(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        printed = self.checked(capsys, "--listen", "tcp:25", "--lmtp")
        (folder / "printed.toml").write_text(printed)
        assert readSettings("printed.toml").options["lmtp"] is True
        assert self.checked(capsys, "--config", "printed.toml") == printed

    def test_prints_hooks_of_a_listener(self, capsys: pytest.CaptureFixture[str], folder: Path, config: str) -> None:
        own = 'hooks = "smtphooks.stores:Maildir"\ndiscard = false\n[listener.hooks-options]\npath = "own"\n'
        (folder / config).write_text(CONFIG + own)
        printed = self.checked(capsys, "--config", config)
        assert '\n[listener.hooks-options]\npath = "own"\n' in printed
        (folder / "printed.toml").write_text(printed)
        assert self.checked(capsys, "--config", "printed.toml") == printed

    def test_sockets_of_systemd_need_not_be_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "systemd:" in self.checked(capsys, "--listen", "systemd:domain=INET:index=0")

    def test_says_nothing_secret(self, capsys: pytest.CaptureFixture[str], config: str) -> None:
        key = Authority().server("mx.example")
        Path(config).write_text(f"{CONFIG}[tls]\nkey = '''\n{key.key}'''\ncert = '''\n{key.cert}'''\n")
        printed = self.checked(capsys, "--config", config, "--auth", "memory:joe:pencil", "--auth", "memory:a:b")
        assert "pencil" not in printed and "PRIVATE" not in printed
        assert '\n[auth]\ncheckers = ["(not shown)", "(not shown)"]\n' in printed
        assert '\nkey = "(not shown)"\n' in printed

    def test_listens_on_nothing(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.checked(capsys, "--listen", "unix:here")
        assert not list(folder.iterdir())


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
        self.service = tap.ListenerService(
            "tcp:0",
            self.endpoint,
            self.factory,
            self.reactor,  # type: ignore[arg-type]
        )

    @pytest.fixture
    def logged(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        lines: list[str] = []
        for level in ("info", "critical"):
            monkeypatch.setattr(tap.log, level, lambda form, **event: lines.append(form.format(**event)))
        return lines

    @pytest.mark.parametrize(
        ("address", "written"),
        [
            (IPv4Address("TCP", "127.0.0.1", 1025), "127.0.0.1:1025"),
            (IPv6Address("TCP", "::1", 1025), "[::1]:1025"),
            (UNIXAddress("/run/sock"), "UNIXAddress('/run/sock')"),
        ],
    )
    def test_says_where_it_listens(self, logged: list[str], address: object, written: str) -> None:
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
    def test_a_start_that_fails_says_why(self, logged: list[str], error: Exception, reason: str) -> None:
        self.endpoint.listening.errback(error)
        with pytest.raises(tap.StartError) as caught:
            self.service.privilegedStartService()
        sentence = f"cannot listen on tcp:0: {reason}, free it or name another endpoint"
        assert logged == [sentence]
        assert caught.value.code == 1 and str(caught.value) == sentence

    def test_a_later_failure_ends_the_service(self, logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        ends: list[Callable[[], None]] = []
        monkeypatch.setattr(tap.atexit, "register", ends.append)
        self.service.startService()
        self.endpoint.listening.errback(OSError("late"))
        assert logged == ["cannot listen on tcp:0: OSError: late, free it or name another endpoint"]
        assert self.reactor.hasStopped
        (end,) = ends
        statuses: list[int] = []
        monkeypatch.setattr(tap.os, "_exit", statuses.append)
        monkeypatch.setattr(sys, "__stderr__", None)
        end()
        assert statuses == [1]


class TestReadiness:
    """What a service manager is told."""

    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        told: list[str] = []
        monkeypatch.setattr(tap, "notify", told.append)
        return told

    def service(self, monkeypatch: pytest.MonkeyPatch) -> tuple[tap.Listeners, list[Endpoint]]:
        endpoints = [Endpoint(), Endpoint()]
        waiting = iter(endpoints)
        monkeypatch.setattr(tap, "_endpointOf", lambda listener, reactor: next(waiting))
        options = parsed("--listen", "tcp:25", "--listen", "tcp:26")
        return tap.Listeners(options.configuration, RunningReactor()), endpoints

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
        monkeypatch.setattr(tap.atexit, "register", lambda function: None)
        service, (one, other) = self.service(monkeypatch)
        service.privilegedStartService()
        service.startService()
        one.listening.callback(Port(UNIXAddress(None)))
        other.listening.errback(CannotListenError("", 25, OSError(98, "Address already in use")))
        assert told == []

    def test_it_says_that_it_stops_before_it_waits_for_anything(
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


class TestLogFormat:
    def application(self, *arguments: str) -> Any:
        """What twistd makes of these flags."""
        application = Application("smtphooks")
        tap.makeService(parsed(*arguments)).setServiceParent(application)
        return application

    def test_twistd_is_given_an_observer_for_JSON(self, capsys: pytest.CaptureFixture[str]) -> None:
        observer = self.application("--log-format=json").getComponent(ILogObserver)
        observer({"log_format": "{x}", "x": 1, "log_time": 0.0})
        assert json.loads(capsys.readouterr().out)["text"] == "1"

    @pytest.mark.parametrize("arguments", [[], ["--log-format=text"]])
    def test_or_else_its_own_is_in_use(self, arguments: list[str]) -> None:
        assert self.application(*arguments).getComponent(ILogObserver, None) is None


class TestRereading:
    """What SIGHUP does."""

    @pytest.fixture
    def lines(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        lines: list[str] = []
        for level in ("info", "error"):
            monkeypatch.setattr(
                tap.log, level, lambda form, _level=level, **event: lines.append(f"{_level}: {form.format(**event)}")
            )
        return lines

    def service(self, folder: Path, more: str = "") -> tap.Listeners:
        self.authority = Authority()
        self.authority.server("mx.example").writeTo(folder)
        (folder / "smtphooks.toml").write_text(CONFIG + more + "[tls]\nkey = 'server.key'\ncert = 'server.pem'\n")
        return tap.Listeners(parsed("--config", "smtphooks.toml").configuration, RunningReactor())

    def contexts(self, service: tap.Listeners) -> list[Any]:
        return [listener.factory.server.secureContext._hosts for listener in service]

    def test_new_files_are_in_force_for_all_listeners(self, folder: Path, lines: list[str]) -> None:
        service = self.service(folder)
        before = self.contexts(service)
        self.authority.server("new.example").writeTo(folder)
        service.rereadCertificates()
        assert not set(before) & set(self.contexts(service))
        assert lines == ["info: keys and certificates have been read again at tcp:25, tcp:26"]

    def test_broken_files_leave_the_old_ones_in_force_and_say_why_once(self, folder: Path, lines: list[str]) -> None:
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

    def test_a_listener_whose_files_are_broken_hinders_no_other(self, folder: Path, lines: list[str]) -> None:
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

    def test_nothing_that_comes_of_it_ends_the_service(
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


class TestService:
    @pytest.fixture(autouse=True)
    def handler(self) -> Iterator[None]:
        before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGHUP)]
        yield
        for number, handle in before:
            signal.signal(number, handle)

    def test_is_made_for_twistd(self) -> None:
        service = tap.makeService(parsed("--listen", "tcp:25", "--listen", "tcp:26"))
        assert [listener.endpointName for listener in service] == ["tcp:25", "tcp:26"]

    def test_a_bad_endpoint_has_its_sentence(self) -> None:
        with pytest.raises(SystemExit, match=r"^smtphooks: --listen tcp:x: endpoint tcp:x is none of Twisted's"):
            tap.makeService(parsed("--listen", "tcp:x"))

    @pytest.mark.parametrize("socket", ["index=0", "name=smtp"])
    def test_a_socket_of_systemd_that_is_not_there_has_its_sentence(self, socket: str) -> None:
        with pytest.raises(SystemExit) as caught:
            tap.makeService(parsed("--listen", f"systemd:domain=INET:{socket}"))
        assert caught.value.code == (
            f"smtphooks: --listen systemd:domain=INET:{socket}: systemd has handed over no socket for"
            f" systemd:domain=INET:{socket}, start a .socket unit"
        )

    def started(self, reactor: RunningReactor) -> tap.Listeners:
        service = tap.Listeners(parsed("--listen", "tcp:25").configuration, reactor)
        service.privilegedStartService()
        service.startService()
        return service

    def test_listens_and_stops(self) -> None:
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

    def test_signals_are_left_to_whom_they_belong(self) -> None:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
        self.started(SignalledReactor())
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


def test_an_error_of_many_lines_is_said_in_one() -> None:
    with pytest.raises(SystemExit) as caught, tap._oneSentence():
        raise ConfigError("one\ntwo")
    assert caught.value.code == "smtphooks: one two"


def environment(*folders: object) -> dict[str, str]:
    """Where twistd is to find the plugin of this source tree."""
    paths = [*map(str, folders), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def ran(*arguments: str, flags: Sequence[str] = ("-n",)) -> subprocess.CompletedProcess[str]:
    """A twistd that does not start, when it has ended; without flags of its own it is a daemon."""
    # A daemon's parent ends before it; but this pipe is only at its end once the daemon has let go of it too.
    ended, inherited = os.pipe()
    with open(ended, "rb") as lastOne:
        try:
            done = subprocess.run(
                [TWISTD, *flags, "smtphooks", *arguments],
                capture_output=True,
                text=True,
                env=environment(),
                timeout=PATIENCE,
                check=False,
                pass_fds=[inherited],
            )
        finally:
            os.close(inherited)
        assert lastOne.read() == b""
    assert "Traceback" not in done.stdout + done.stderr
    assert not Path("twistd.pid").exists()
    return done


def running(folder: Path, *arguments: str) -> Program:
    """A twistd that starts."""
    return Program([TWISTD, "-n", "smtphooks", *arguments], environment(folder), folder)


@pytest.fixture
def usedPort() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


class TestTwistd:
    def test_it_starts_and_ends(self, folder: Path) -> None:
        service = running(folder, "--listen", LOOPBACK)
        service.waitForLine("[smtphooks.service.tap#info] listening on tcp:0:interface=127.0.0.1 (127.0.0.1:")
        assert service.terminate() == 0
        assert "Traceback" not in service.output

    def test_it_keeps_mail(self, folder: Path) -> None:
        service = running(folder, "--listen", LOOPBACK)
        service.waitForLine("listening on")
        port = int(service.output.split("(127.0.0.1:")[1].split(")")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(
                b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n\r\nhi\r\n.\r\nQUIT\r\n"
            )
            while client.recv(4096):
                pass
        service.waitForLine("stored")
        assert service.terminate() == 0
        assert Maildir(folder / "maildir").message().content == b"\nhi\n"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--lsten", "tcp:25"], "smtphooks: unknown flag --lsten, did you mean --listen?"),
            (["--listen", "tcp:x"], "smtphooks: --listen tcp:x: endpoint tcp:x is none of Twisted's"),
            (["--hooks", "nowhere.at.all:Hooks"], "smtphooks: --hooks: module nowhere.at.all cannot be imported"),
            (["--hooks", "smtphooks:Hooks"], "smtphooks: --hooks: smtphooks:Hooks has no hook"),
            (["--config", "none.toml"], "smtphooks: none.toml: the configuration cannot be read"),
            (["--config", "."], "smtphooks: .: the configuration cannot be read (Is a directory)"),
            (["--config", "broken.toml"], "smtphooks: broken.toml: this is not TOML, correct it:"),
            (["--config", "wrong.toml"], "smtphooks: wrong.toml: [options]: unknown option sise, did you mean size?"),
            (["--maildir", "broken.toml"], "smtphooks: --maildir: calling smtphooks.stores:Maildir failed"),
        ],
    )
    def test_what_is_wrong_ends_it_with_one_sentence(self, folder: Path, arguments: list[str], sentence: str) -> None:
        (folder / "broken.toml").write_text("[[listener\n")
        (folder / "wrong.toml").write_text("[options]\nsise = 1\n")
        done = ran(*arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(sentence)

    def test_a_log_that_cannot_be_ends_it_with_one_sentence(self) -> None:
        done = ran("--log-format", "json", flags=["-n", "--syslog"])
        assert done.returncode == 1
        assert done.stderr == "smtphooks: --log-format=json and --syslog both say how to log, leave one out\n"

    def test_a_port_in_use_ends_it_with_one_sentence(self, usedPort: int) -> None:
        endpoint = f"tcp:{usedPort}:interface=127.0.0.1"
        done = ran("--listen", endpoint)
        assert done.returncode == 1
        (line,) = [line for line in done.stdout.splitlines() if endpoint in line]
        assert line.endswith(
            f"[smtphooks.service.tap#critical] cannot listen on {endpoint}: Address already in use, free it or name "
            "another endpoint"
        )
        assert done.stderr == ""

    def test_a_port_in_use_ends_the_daemon_too(self, usedPort: int) -> None:
        endpoint = f"tcp:{usedPort}:interface=127.0.0.1"
        done = ran("--listen", endpoint, flags=[])
        assert done.returncode == 1
        assert f"cannot listen on {endpoint}: Address already in use" in done.stderr
        assert "Traceback" not in Path("twistd.log").read_text()

    def test_an_endpoint_that_fails_later_ends_it(self, folder: Path) -> None:
        plugins = folder / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        (plugins / "late.py").write_text(LATE_ENDPOINT)
        service = running(folder, "--listen", "late:1")
        assert service.wait() == 1
        (line,) = [line for line in service.output.splitlines() if "#critical" in line]
        assert line.endswith("cannot listen on late:1: OSError: too late, free it or name another endpoint")
        assert "Traceback" not in service.output

    def test_check_prints_and_exits(self) -> None:
        done = ran("--check", "--listen", "tcp:25")
        assert done.returncode == 0
        assert done.stdout.endswith('\n[[listener]]\nendpoint = "tcp:25"\n')
        assert done.stderr == ""

    def test_hooks_are_found_in_the_working_folder(self, folder: Path) -> None:
        (folder / "mine.py").write_text("class Hooks:\n    def onData(self, stream, session): ...\n")
        service = Program(
            [TWISTD, "-n", "smtphooks", "--hooks", "mine:Hooks", "--listen", LOOPBACK], environment(), folder
        )
        service.waitForLine("listening on")
        assert service.terminate() == 0


LATE_ENDPOINT = """
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IStreamServerEndpoint)
class Endpoint:
    def __init__(self, reactor):
        self.reactor = reactor

    def listen(self, factory):
        return deferLater(self.reactor, 0, self.fail)

    def fail(self):
        raise OSError("too late")


@implementer(IPlugin, IStreamServerEndpointStringParser)
class Parser:
    prefix = "late"

    def parseStreamServer(self, reactor, *arguments):
        return Endpoint(reactor)


parser = Parser()
"""
