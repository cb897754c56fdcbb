"""C{twistd smtphooks}: its flags, and the one sentence if it cannot start; some of it with a real twistd."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application
from twisted.logger import ILogObserver, LogLevel, formatEventAsClassicLogText

from smtphooks.service import program, tap
from smtphooks.service.reading import readSettings
from smtphooks.service.settings import ConfigError
from smtphooks.service.supervisor import Supervisor
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
    """The parsed flags."""
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
        assert options.configuration.layers[0].options == {"path": str(folder / "maildir")}
        assert options.configuration.listeners[0].factory.options.authOptional

    def test_listen_can_be_repeated(self) -> None:
        options = parsed("--listen", "tcp:25", "--listen", "tcp:26", "--lmtp")
        assert endpointsOf(options) == ["tcp:25", "tcp:26"]
        assert all(listener.factory.options.lmtp for listener in options.configuration.listeners)

    def test_the_file_is_read(self, config: str) -> None:
        options = parsed("--config", config)
        assert endpointsOf(options) == ["tcp:25", "tcp:26"]
        assert options.configuration.layers[0].options == {"path": "fromFile"}

    def test_listen_wins_over_the_file(self, config: str) -> None:
        assert endpointsOf(parsed("--config", config, "--listen", "tcp:27")) == ["tcp:27"]

    @pytest.mark.parametrize("flags", [["--hooks", "tests.real.hooks:UnreadMessages"], ["--maildir", "other"]])
    def test_both_win_over_all_layers_of_the_file(self, folder: Path, config: str, flags: list[str]) -> None:
        layers = '[[layer]]\nuse = "nowhere:Part"\n[[listener]]\nendpoint = "tcp:1"\n[[listener.layer]]\nuse = "a:B"\n'
        (folder / config).write_text("[options]\nauthOptional = true\n" + layers)
        (listener,) = parsed("--config", config, *flags).configuration.listeners
        (layer,) = listener.factory.layers
        assert layer.name in ("UnreadMessages", "Maildir")

    def test_lmtp_wins_over_the_file(self, config: str) -> None:
        listeners = parsed("--config", config, "--lmtp").configuration.listeners
        assert [listener.factory.options.lmtp for listener in listeners] == [True, True]

    def test_maildir_wins_over_the_file(self, config: str, folder: Path) -> None:
        (hooks,) = parsed("--config", config, "--maildir", "other").configuration.layers
        assert hooks.options == {"path": str(folder / "other")}

    def test_hooks_win_over_the_file(self, config: str) -> None:
        options = parsed("--config", config, "--hooks", "tests.real.hooks:UnreadMessages")
        (hooks,) = options.configuration.layers
        assert (hooks.name, hooks.options) == ("tests.real.hooks:UnreadMessages", {})

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
                "--listen tpc:25: endpoint tpc:25 is not one of Twisted's, write one such as tcp:25 or "
                "unix:/run/smtp.sock: ValueError: Unknown endpoint type: 'tpc'",
            ),
        ],
    )
    def test_what_is_wrong_has_its_sentence(self, arguments: list[str], sentence: str) -> None:
        assert refusal(*arguments) == f"smtphooks: {sentence}"


class TestAuthFlag:
    def options(self, *arguments: str) -> Any:
        return parsed(*arguments).configuration.listeners[0].factory.options

    def test_it_makes_a_portal_and_authentication_mandatory(self) -> None:
        options = self.options("--auth", "memory:joe:pencil")
        assert options.portal is not None
        assert not options.authOptional

    def test_it_can_be_repeated(self, folder: Path) -> None:
        (folder / "passwd").touch()
        auth = parsed("--auth", "memory:joe:pencil", "--auth", "file:passwd", "--auth", "unix").configuration.auth
        assert auth is not None
        assert auth.checkers == ["memory:joe:pencil", f"file:{folder}/passwd", "unix"]

    def test_it_wins_over_the_file_which_decides_whether_authentication_is_mandatory(
        self, folder: Path, config: str
    ) -> None:
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
    def test_help_lists_the_kinds_of_checkers(
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

    def test_prints_workers_of_the_flag_and_of_the_file(
        self, capsys: pytest.CaptureFixture[str], folder: Path, config: str
    ) -> None:
        assert 'workers = "auto"\nworkerTimeout = 30.0\n' in self.checked(capsys, "--workers", "auto")
        (folder / config).write_text("workers = 3\nworkerTimeout = 5\ncontrol = 'c'\n" + CONFIG)
        printed = self.checked(capsys, "--config", config, "--workers", "7")
        assert f'workers = 7\nworkerTimeout = 5.0\ncontrol = "{folder / "c"}"\n' in printed
        (folder / "printed.toml").write_text(printed)
        assert self.checked(capsys, "--config", "printed.toml") == printed

    def test_sockets_of_systemd_may_be_missing(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "systemd:" in self.checked(capsys, "--listen", "systemd:domain=INET:index=0")

    def test_prints_no_secret(self, capsys: pytest.CaptureFixture[str], config: str) -> None:
        key = Authority().server("mx.example")
        Path(config).write_text(f"{CONFIG}[tls]\nkey = '''\n{key.key}'''\ncert = '''\n{key.cert}'''\n")
        printed = self.checked(capsys, "--config", config, "--auth", "memory:joe:pencil", "--auth", "memory:a:b")
        assert "pencil" not in printed and "PRIVATE" not in printed
        assert '\n[auth]\ncheckers = ["(not shown)", "(not shown)"]\n' in printed
        assert '\nkey = "(not shown)"\n' in printed

    def test_listens_on_nothing(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.checked(capsys, "--listen", "unix:here")
        assert not list(folder.iterdir())


class Checked(program.Program):
    """Another process whose check finds nothing wrong."""

    def checkFirst(self) -> None:
        checks.append(self)


checks: list[Checked] = []


class TestWorkers:
    @pytest.fixture(autouse=True)
    def program(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(tap, "Program", Checked)
        monkeypatch.delenv("SMTPHOOKS_WORKER", raising=False)
        yield
        checks.clear()

    @pytest.mark.parametrize("value", ["0", "65", "-1", "two", "2.5", "", "²", "9" * 5000])
    def test_a_wrong_number_is_one_sentence(self, value: str) -> None:
        sentence = refusal("--workers", value)
        assert sentence.startswith("smtphooks: --workers is ")
        assert sentence.endswith(', it wants a number from 1 to 64, or "auto"')

    def test_a_supervisor_has_another_process_check_and_makes_no_configuration(self, folder: Path) -> None:
        options = parsed("--workers", "2", "--listen", LOOPBACK, "--lmtp", "--auth", "memory:joe:pencil")
        assert not hasattr(options, "configuration")
        assert checks == [options.program]
        assert options.program is not None
        assert options.program.flags == [
            *("--log-format", "text", "--listen", LOOPBACK, "--auth", "memory:joe:pencil", "--lmtp"),
        ]
        assert options.program.folder == str(folder)

    def test_one_worker_has_a_supervisor_and_no_key_has_none(self, folder: Path, config: str) -> None:
        assert parsed("--workers", "1").program is not None
        assert parsed("--config", config).program is None
        (folder / config).write_text("workers = 2\n" + CONFIG)
        program = parsed("--config", config, "--traceback").program
        assert program is not None
        assert program.flags == ["--config", config, "--log-format", "text", "--traceback"]

    def test_a_program_that_replaces_another_one_is_not_checked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SMTPHOOKS_SUPERVISOR", "99")
        assert parsed("--workers", "2").program is not None
        assert checks == []

    def test_a_supervisor_is_a_service_and_opens_nothing_yet(self, folder: Path) -> None:
        service = tap.makeService(parsed("--workers", "2", "--listen", LOOPBACK))
        assert isinstance(service, Supervisor)
        assert service.pool.workers == []
        assert list(folder.iterdir()) == []


class TestLogFormat:
    def application(self, *arguments: str, twistd: dict[str, object] | None = None) -> Any:
        """The application that twistd makes for these flags, and its own."""
        application, options = Application("smtphooks"), parsed(*arguments)
        options.parent = twistd
        tap.makeService(options).setServiceParent(application)
        return application

    def test_twistd_is_given_an_observer_for_JSON(self, capsys: pytest.CaptureFixture[str]) -> None:
        observer = self.application("--log-format=json").getComponent(ILogObserver)
        observer({"log_format": "{x}", "x": 1, "log_time": 0.0})
        assert json.loads(capsys.readouterr().out)["text"] == "1"

    @pytest.mark.parametrize("arguments", [[], ["--log-format=text"]])
    def test_otherwise_it_uses_its_own(self, arguments: list[str]) -> None:
        assert self.application(*arguments).getComponent(ILogObserver, None) is None

    @pytest.mark.parametrize("arguments", [[], ["--log-format=text"]])
    def test_it_is_given_one_for_text_that_writes_the_same(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str]
    ) -> None:
        event = {"log_format": "{x}\n", "x": 1, "log_time": 0.0, "log_level": LogLevel.info, "log_namespace": "here"}
        observer = self.application(*arguments, twistd={"nodaemon": True}).getComponent(ILogObserver)
        observer(event)
        assert capsys.readouterr().out == formatEventAsClassicLogText(event)

    @pytest.mark.parametrize("flag", ["logger", "syslog"])
    def test_it_is_given_none_if_it_is_asked_for_another_log(self, flag: str) -> None:
        assert self.application(twistd={"nodaemon": True, flag: True}).getComponent(ILogObserver, None) is None


class TestService:
    def test_is_made_for_twistd(self) -> None:
        service = tap.makeService(parsed("--listen", "tcp:25", "--listen", "tcp:26"))
        assert [listener.endpointName for listener in service] == ["tcp:25", "tcp:26"]

    def test_a_bad_endpoint_has_its_sentence(self) -> None:
        with pytest.raises(SystemExit, match=r"^smtphooks: --listen tcp:x: endpoint tcp:x is not one of Twisted's"):
            tap.makeService(parsed("--listen", "tcp:x"))

    @pytest.mark.parametrize("socket", ["index=0", "name=smtp"])
    def test_a_missing_socket_of_systemd_has_its_sentence(self, socket: str) -> None:
        with pytest.raises(SystemExit) as caught:
            tap.makeService(parsed("--listen", f"systemd:domain=INET:{socket}"))
        assert caught.value.code == (
            f"smtphooks: --listen systemd:domain=INET:{socket}: systemd has handed over no socket for"
            f" systemd:domain=INET:{socket}, start a .socket unit"
        )


def test_an_error_of_many_lines_is_printed_on_one() -> None:
    with pytest.raises(SystemExit) as caught, tap.oneSentence():
        raise ConfigError("one\ntwo")
    assert caught.value.code == "smtphooks: one two"


def environment(*folders: object) -> dict[str, str]:
    """The environment in which twistd finds the plugin of this source tree."""
    paths = [*map(str, folders), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def ran(*arguments: str, flags: Sequence[str] = ("-n",)) -> subprocess.CompletedProcess[str]:
    """Run a twistd that exits; with no flags of its own it is a daemon."""
    # The parent exits before the daemon; this pipe is closed only when the daemon has exited as well.
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
    """Start a twistd."""
    return Program([TWISTD, "-n", "smtphooks", *arguments], environment(folder), folder)


@pytest.fixture
def usedPort() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


class TestTwistd:
    def test_it_starts_and_ends(self, folder: Path) -> None:
        service = running(folder, "--listen", LOOPBACK)
        service.waitForLine("[smtphooks.service.listeners#info] listening on tcp:0:interface=127.0.0.1 (127.0.0.1:")
        assert service.terminate() == 0
        assert "Traceback" not in service.output

    def test_it_stores_mail(self, folder: Path) -> None:
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
            (["--listen", "tcp:x"], "smtphooks: --listen tcp:x: endpoint tcp:x is not one of Twisted's"),
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

    def test_flags_for_two_logs_end_it_with_one_sentence(self) -> None:
        done = ran("--log-format", "json", flags=["-n", "--syslog"])
        assert done.returncode == 1
        assert done.stderr == "smtphooks: --log-format=json and --syslog both say how to log, leave one out\n"

    def test_a_log_that_cannot_be_written_ends_it_with_one_sentence(self) -> None:
        done = ran(flags=["-n", "--logfile", "/nowhere/log"])
        assert done.returncode == 1
        assert done.stderr == (
            "smtphooks: --logfile /nowhere/log cannot be written (No such file or directory), name another\n"
        )

    def test_a_port_in_use_ends_it_with_one_sentence(self, usedPort: int) -> None:
        endpoint = f"tcp:{usedPort}:interface=127.0.0.1"
        done = ran("--listen", endpoint)
        assert done.returncode == 1
        (line,) = [line for line in done.stdout.splitlines() if endpoint in line]
        assert line.endswith(
            f"[smtphooks.service.listeners#critical] cannot listen on {endpoint}: Address already in use, free it or "
            "name another endpoint"
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

    def test_check_warns_of_milliseconds_and_of_nothing_beside_its_output(self, folder: Path) -> None:
        (folder / "smtphooks.toml").write_text("[options]\nauthOptional = true\nsocketTimeout = 60000\n")
        done = ran("--check", "--config", str(folder / "smtphooks.toml"))
        assert done.returncode == 0
        assert "option socketTimeout is 60000 seconds, which is 16.7 hours, did you mean 60?\n" in done.stdout
        assert done.stderr == ""

    def test_hooks_are_found_in_the_working_folder(self, folder: Path) -> None:
        (folder / "mine.py").write_text("class Hooks:\n    def onData(self, stream, session): ...\n")
        service = Program(
            [TWISTD, "-n", "smtphooks", "--hooks", "mine:Hooks", "--listen", LOOPBACK], environment(), folder
        )
        service.waitForLine("listening on")
        assert service.terminate() == 0


LIFE = """
import os

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

log = Logger()


class Part:
    def __init__(self, name, start="at once", stop="at once"):
        self.name, self.how = name, {"start": start, "stop": stop}

    async def _do(self, what):
        how = self.how[what]
        log.info("{what} {name}: {how}", what=what, name=self.name, how=how)
        if how == "waits":
            await deferLater(reactor, 0)
        if how == "hangs":
            # The service takes signals from then on.
            reactor.callWhenRunning(log.info, "{what} {name} is waited for", what=what, name=self.name)
            await Deferred()
        if how == "fails":
            raise OSError("no such database")
        log.info("done: {what} {name}", what=what, name=self.name)

    def onStart(self, service):
        return self._do("start")

    def onStop(self, service):
        return self._do("stop")

    def onRcptTo(self, address, session): ...


class Store(Part):
    def onData(self, stream, session):
        return "stored"
"""


class TestLifeUnderTwistd:
    """onStart and onStop of layers, with a real twistd."""

    def config(self, folder: Path, options: str = "", **parts: dict[str, str]) -> None:
        (folder / "lifeapp.py").write_text(LIFE)
        layers = "".join(
            f'[[layer]]\nuse = "lifeapp:{"Store" if name == "store" else "Part"}"\nname = "{name}"\n'
            + "".join(f'{what} = "{how}"\n' for what, how in answers.items())
            for name, answers in parts.items()
        )
        listener = f'[[listener]]\nendpoint = "{LOOPBACK}"\n'
        text = f"[options]\nauthOptional = true\n{options}{layers}{listener * 2}"
        (folder / "smtphooks.toml").write_text(text)

    def order(self, program: Program, *texts: str) -> None:
        """The log has these lines, in this order."""
        positions = [program.output.index(text) for text in texts]
        assert positions == sorted(positions), program.output

    def test_layers_are_started_before_it_listens_and_stopped_at_its_end(self, folder: Path) -> None:
        self.config(folder, one={"start": "waits", "stop": "waits"}, store={})
        service = running(folder, "--config", "smtphooks.toml")
        service.waitForLine("listening on")
        assert service.terminate() == 0
        self.order(
            service,
            "done: start one",
            "done: start store",
            "listening on",
            "received SIGTERM",
            "done: stop store",
            "done: stop one",
            "Server Shut Down.",
        )
        assert "Traceback" not in service.output

    @pytest.mark.parametrize("stop", ["at once", "waits"])
    def test_one_that_fails_ends_it_with_one_sentence(self, folder: Path, stop: str) -> None:
        self.config(folder, one={"stop": stop}, two={"start": "fails"}, store={})
        done = ran("--config", "smtphooks.toml")
        assert done.returncode == 1
        (line,) = [line for line in done.stdout.splitlines() if "#critical" in line]
        assert "layer Part cannot start: OSError: no such database (" in line
        assert line.endswith(f"{folder}/lifeapp.py, line 26)")
        assert "done: stop one" in done.stdout
        assert "start store" not in done.stdout and "listening on" not in done.stdout
        assert done.stderr == ""

    def test_one_that_fails_ends_the_daemon_too(self, folder: Path) -> None:
        self.config(folder, two={"start": "fails"}, store={})
        done = ran("--config", "smtphooks.toml", flags=[])
        assert done.returncode == 1
        assert "layer Part cannot start: OSError: no such database" in done.stderr
        assert "Traceback" not in Path("twistd.log").read_text()

    def test_one_that_fails_later_ends_it_with_one_sentence(self, folder: Path) -> None:
        (folder / "late.py").write_text(
            "from twisted.internet import reactor\nfrom twisted.internet.task import deferLater\n"
            "class Store:\n"
            "  async def onStart(self, service):\n    await deferLater(reactor, 0)\n    raise OSError('late')\n"
            "  def onData(self, stream, session): ...\n"
        )
        done = ran("--hooks", "late:Store", "--listen", LOOPBACK)
        assert done.returncode == 1
        (line,) = [line for line in done.stdout.splitlines() if "#critical" in line]
        assert line.endswith(f"layer Store cannot start: OSError: late ({folder}/late.py, line 6)")
        assert "listening on" not in done.stdout
        assert done.stderr == ""

    def test_SIGTERM_ends_it_while_one_is_waited_for(self, folder: Path) -> None:
        self.config(folder, one={}, two={"start": "hangs"}, store={})
        service = running(folder, "--config", "smtphooks.toml")
        service.waitForLine("start two is waited for")
        assert service.terminate() == 0
        assert "done: stop one" in service.output
        for text in ("stop two", "start store", "listening on", "#critical", "Traceback"):
            assert text not in service.output

    def test_one_that_does_not_stop_does_not_keep_it_alive(self, folder: Path) -> None:
        self.config(folder, "closeTimeout = 0.1\n", one={}, two={"stop": "hangs"}, store={})
        service = running(folder, "--config", "smtphooks.toml")
        service.waitForLine("listening on")
        assert service.terminate() == 0
        self.order(
            service, "done: stop store", "stop two: hangs", "layer Part takes too long to stop", "done: stop one"
        )

    def test_under_asyncios_reactor_its_loop_can_be_used(self, folder: Path) -> None:
        (folder / "loop.py").write_text(
            "import asyncio\nfrom smtphooks import asyncioHook\n"
            "class Store:\n"
            "  @asyncioHook\n"
            "  async def onStart(self, service):\n    await asyncio.wait_for(asyncio.sleep(0), 60)\n"
            "  async def onStop(self, service):\n    await asyncio.sleep(0)\n    print('all is over')\n"
            "  def onData(self, stream, session): ...\n"
        )
        arguments = ["-n", "--reactor=asyncio", "smtphooks", "--hooks", "loop:Store", "--listen", LOOPBACK]
        service = Program([TWISTD, *arguments], environment(folder), folder)
        service.waitForLine("listening on")
        assert service.terminate() == 0
        assert "all is over" in service.output
        assert "Traceback" not in service.output


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


def test_a_traceback_of_errors_that_cause_one_another_ends_and_shows_no_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        try:
            int("gehe" + "im")
        except ValueError as first:
            try:
                raise LookupError from first
            except LookupError as second:
                raise first from second
    except ValueError as error:
        tap.showTraceback(error)
    shown = capsys.readouterr().err
    assert [line for line in shown.splitlines() if line.startswith("Traceback of")] == [
        "Traceback of LookupError:",
        "Traceback of ValueError:",
    ]
    assert "geheim" not in shown
