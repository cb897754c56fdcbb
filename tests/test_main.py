"""The command C{smtphooks}, as a process: what it serves, prints and refuses."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import smtphooks
import twisted
from smtphooks.__main__ import Options
from tests.real.programs import PATIENCE, Client, Maildir, Program, eventually, freePort, hidden, tcp
from tests.test_reactor import environment

COMMAND = [sys.executable, "-m", "smtphooks"]
LOOPBACK = "tcp:0:interface=127.0.0.1"


def ran(folder: Path, *arguments: object, isTraced: bool = False) -> subprocess.CompletedProcess[str]:
    """The command, which must end by itself, and shows a traceback only where it is asked for one."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert isTraced or "Traceback" not in done.stdout + done.stderr
    return done


def printed(folder: Path, *arguments: object) -> str:
    """What the command prints; it must succeed, and leave nothing behind."""
    done = ran(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(folder.iterdir())
    return done.stdout


def failed(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, which must end by itself with status 1, and may show a traceback."""
    done = ran(folder, *arguments, isTraced=True)
    assert done.returncode == 1
    return done


def refusal(folder: Path, *arguments: object) -> str:
    """The one sentence by which the command refuses to start, on the standard error."""
    done = ran(folder, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command; a process that the test leaves running is killed."""
    programs: list[Program] = []

    def start(*arguments: object) -> Program:
        programs.append(Program([*COMMAND, *map(str, arguments)], environment(), tmp_path))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


def deliver(port: int) -> None:
    with Client(port) as client:
        client.envelope(b"user@mx.example")
        client.say(b"DATA", 354)
        client.socket.sendall(hidden(b"Subject: hello\r\n\r\nhello\r\n"))
        client.reply(250)
        client.say(b"QUIT", 221)


class TestServing:
    def test_it_stays_in_the_foreground_on_the_leaner_reactor(self, start: Start, tmp_path: Path) -> None:
        """The log goes to stdout, and no pid file is written."""
        port = freePort()
        service = start("--listen", tcp(port))
        service.waitForLine("reactor class: smtphooks.reactor.DirectReactor.")
        service.waitForLine("listening on")
        deliver(port)
        service.waitForLine("stored")
        assert [path.name for path in tmp_path.iterdir()] == ["maildir"]
        assert Maildir(tmp_path / "maildir").message().content == b"Subject: hello\n\nhello\n"
        assert service.terminate() == 0
        assert "Traceback" not in service.output

    def test_two_stores_of_a_file_in_another_folder_keep_a_message_twice(self, start: Start, tmp_path: Path) -> None:
        port = freePort()
        (tmp_path / "etc").mkdir()
        stores = "".join(f'{key} = {{use = "smtphooks.stores:Maildir", path = "{key}"}}\n' for key in "ab")
        (tmp_path / "etc" / "smtphooks.toml").write_text(
            f'[options]\nauthOptional = true\n[[layer]]\nuse = "smtphooks.stores:Tee"\n{stores}'
            f'[[listener]]\nendpoint = "{tcp(port)}"\n'
        )
        service = start("--config", "etc/smtphooks.toml")
        service.waitForLine("listening on")
        deliver(port)
        assert service.terminate() == 0
        for key in "ab":
            assert Maildir(tmp_path / "etc" / key).message().content == b"Subject: hello\n\nhello\n"
        assert [path.name for path in tmp_path.iterdir()] == ["etc"]

    def test_on_SIGTERM_a_transaction_may_finish(self, start: Start) -> None:
        """Then the process ends with status 0."""
        port = freePort()
        service = start("--listen", tcp(port))
        service.waitForLine("listening on")
        with Client(port) as client:
            client.envelope(b"user@mx.example")
            client.say(b"DATA", 354)
            os.kill(service.pid, signal.SIGTERM)
            service.waitForLine("received SIGTERM, closing")
            client.socket.sendall(hidden(b"late\r\n"))
            client.reply(250)
            client.reply(421)
        assert service.wait() == 0

    def test_SIGINT_ends_it_by_that_signal(self, start: Start) -> None:
        """As twistd, so that a shell knows."""
        service = start("--listen", LOOPBACK)
        service.waitForLine("listening on")
        os.kill(service.pid, signal.SIGINT)
        assert service.wait() == -signal.SIGINT

    @pytest.mark.parametrize("flag", [["-r", "asyncio"], ["--reactor=asyncio"]])
    def test_another_reactor_is_used_where_it_is_named(self, start: Start, flag: list[str]) -> None:
        port = freePort()
        service = start("--listen", tcp(port), *flag)
        service.waitForLine("reactor class: twisted.internet.asyncioreactor.AsyncioSelectorReactor.")
        service.waitForLine("listening on")
        deliver(port)
        assert service.terminate() == 0

    def test_hooks_may_import_the_reactor(self, start: Start, tmp_path: Path) -> None:
        """It is installed before their module is imported."""
        hooks = "from twisted.internet import reactor\nclass Hooks:\n    def onData(self, stream, session): ...\n"
        (tmp_path / "mine.py").write_text(hooks)
        service = start("--listen", LOOPBACK, "--hooks", "mine:Hooks")
        service.waitForLine("reactor class: smtphooks.reactor.DirectReactor.")
        service.waitForLine("listening on")
        assert service.terminate() == 0


class TestFlagsOfTwistd:
    def test_the_pid_file_is_there_as_long_as_the_process(self, start: Start, tmp_path: Path) -> None:
        """The umask holds for it; one of a process that has ended is replaced."""
        pidfile = tmp_path / "pid"
        ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        pidfile.write_bytes(ended.stdout)
        service = start("--listen", LOOPBACK, "--pidfile", pidfile, "--umask", "027")
        service.waitForLine("listening on")
        assert int(pidfile.read_text()) == service.pid
        assert Path(f"/proc/{service.pid}/status").read_text().count("Umask:\t0027")
        assert service.terminate() == 0
        assert not pidfile.exists()

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_a_log_file_is_rotated_by_SIGUSR1(self, start: Start, tmp_path: Path, form: str) -> None:
        """Nothing is then written to stdout."""
        log, old = tmp_path / "log", tmp_path / "log.1"
        service = start("--listen", LOOPBACK, "--logfile", log, "--log-format", form)
        eventually(lambda: log.exists() and "listening on" in log.read_text(), "the service listens")
        os.kill(service.pid, signal.SIGUSR1)
        eventually(old.exists, "the log is rotated")
        assert service.terminate() == 0
        assert "Server Shut Down." in log.read_text()
        assert log.read_text().startswith("{") is (form == "json")
        assert service.output == ""

    def test_a_log_observer_of_the_operator_is_used(self, start: Start, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "import sys, twisted.logger\n"
            "def make():\n"
            "    return twisted.logger.textFileLogObserver(sys.stdout, timeFormat='mine')\n"
        )
        service = start("--listen", LOOPBACK, "--logger", "mine.make")
        service.waitForLine("mine [", "listening on")
        assert service.terminate() == 0

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_root_is_dropped(self, start: Start) -> None:
        service = start("--listen", LOOPBACK, "--uid", "nobody", "--gid", "daemon")
        service.waitForLine("listening on")
        status = Path(f"/proc/{service.pid}/status").read_text()
        user, group = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("daemon").gr_gid
        assert f"Uid:\t{user}\t{user}\t" in status and f"Gid:\t{group}\t{group}\t" in status
        assert service.terminate() == 0


class TestPrinting:
    def test_version_is_one_line(self, tmp_path: Path) -> None:
        """It names what a report of a fault needs."""
        assert printed(tmp_path, "--version") == (
            f"smtphooks {smtphooks.__version__} (Twisted {twisted.__version__}, Python {platform.python_version()})\n"
        )

    def test_help_lists_all_flags_once(self, tmp_path: Path) -> None:
        """Those of the service and those of twistd's, in one list, which does not speak of twistd."""
        said = printed(tmp_path, "--help")
        assert said.startswith("Usage: smtphooks [flags] ")
        flags = said[said.index("configuration file.\n") :]
        more = {"help-auth", "help-auth-type", "help-reactors"}
        listed = re.findall(r"^  .*?--\S.*", flags, re.MULTILINE)
        named = [name for line in listed for name in re.findall(r"--([\w-]+)", line)]
        assert sorted(named) == sorted({long for name, long in Options().synonyms.items()})
        assert more <= {*named}
        assert "twistd" not in said
        letters = {name for name in Options().synonyms if len(name) == 1}
        assert {*re.findall(r"(?<!-)-(\w),", flags)} == letters

    def test_help_is_one_screen(self, tmp_path: Path) -> None:
        """Of 24 lines of 80 columns."""
        lines = printed(tmp_path, "--help").splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 80

    def test_check_prints_the_configuration(self, tmp_path: Path) -> None:
        said = printed(tmp_path, "--check", "--listen", "tcp:25")
        assert said.endswith('\n[[listener]]\nendpoint = "tcp:25"\n')

    def test_reactors_are_listed(self, tmp_path: Path) -> None:
        assert re.search(r"^ +smtphooks\t", printed(tmp_path, "--help-reactors"), re.MULTILINE)


class TestTraceback:
    HOOKS = "password = 'geheim'\ndef make():\n    raise ValueError(password)\n"

    def test_it_shows_the_lines_that_led_to_the_error(self, tmp_path: Path) -> None:
        """But no text of an error, which could have a password in it; the sentence follows."""
        (tmp_path / "mine.py").write_text(self.HOOKS)
        said = failed(tmp_path, "--traceback", "--hooks", "mine:make").stderr
        assert said.startswith("Traceback of ValueError:\n")
        assert 'mine.py", line 3, in make\n    raise ValueError(password)\n' in said
        assert said.splitlines()[-1].startswith("smtphooks: --hooks: calling mine:make failed")
        assert "geheim" not in said[: said.index("\nsmtphooks: ")]

    def test_without_it_there_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(self.HOOKS)
        assert "Traceback" not in failed(tmp_path, "--hooks", "mine:make").stderr

    def test_a_layer_that_cannot_start_has_one_as_well(self, tmp_path: Path) -> None:
        hooks = "class Hooks:\n    def onStart(self, service):\n        raise ValueError('x')\n    onData = None\n"
        (tmp_path / "mine.py").write_text(hooks.replace("onData = None", "def onData(self, stream, session): ..."))
        done = failed(tmp_path, "--traceback", "--listen", LOOPBACK, "--hooks", "mine:Hooks")
        assert 'mine.py", line 3, in onStart\n' in done.stdout  # the log has begun
        assert "layer Hooks cannot start: ValueError: x" in done.stdout


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--listn", "x"], "unknown flag --listn, did you mean --listen? (smtphooks --help lists all)"),
            (
                ["--pidfiles"],
                "unknown flag --pidfiles, did you mean --pidfile? (smtphooks --help lists all)",
            ),
            (["--config"], "option --config requires argument (smtphooks --help lists all)"),
            (["more"], "unknown argument more, there are only flags (smtphooks --help lists all)"),
            (
                ["--config", "none"],
                "none: the configuration cannot be read (No such file or directory), check --config",
            ),
            (
                ["-r", "nosuch"],
                "The specified reactor does not exist: 'nosuch'. See the list of available reactors with"
                " --help-reactors (smtphooks --help lists all)",
            ),
            (["--uid", "no such"], "--uid is no such, it wants a user of this system (smtphooks --help lists all)"),
            (["--gid", "no such"], "--gid is no such, it wants a group of this system (smtphooks --help lists all)"),
            (["--umask", "9"], "--umask is 9, it wants octal digits such as 027 (smtphooks --help lists all)"),
            (["--logger", "no.such"], "Logger 'no.such' could not be imported: 'no.such' does not name an object"),
            (
                ["--logger", "os.path", "--log-format=json"],
                "--log-format=json and --logger both say how to log, leave one out",
            ),
            (["--pidfile", "none/pid"], "--pidfile none/pid cannot be written, name another file"),
            (["--pidfile", "."], "--pidfile . cannot be checked (Is a directory), name another file"),
            (
                ["--pidfile", "/etc/hosts"],
                "--pidfile /etc/hosts has something else than a process id, name another file",
            ),
        ],
    )
    def test_what_is_wrong_ends_it_with_one_sentence(self, tmp_path: Path, arguments: list[str], sentence: str) -> None:
        """The sentence names the command that was run, and not twistd."""
        assert refusal(tmp_path, *arguments) == f"smtphooks: {sentence}"

    def test_a_log_file_that_cannot_be_opened(self, tmp_path: Path) -> None:
        assert refusal(tmp_path, "--logfile", "none/log") == (
            "smtphooks: --logfile none/log cannot be written (No such file or directory), name another"
        )

    def test_the_pid_file_of_a_process_that_runs(self, tmp_path: Path) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        assert refusal(tmp_path, "--pidfile", "pid") == (
            "smtphooks: --pidfile pid is that of a process that runs, end it or name another file"
        )

    def test_what_fails_once_the_log_has_begun_is_in_the_log(self, tmp_path: Path) -> None:
        """As a port in use is."""
        done = ran(tmp_path, "--chroot", "none")
        assert (done.returncode, done.stderr) == (1, "")
        assert "smtphooks: it cannot start (" in done.stdout.splitlines()[-1]

    def test_a_root_folder_without_Python_for_workers(self, tmp_path: Path) -> None:
        python = os.path.normpath(sys.executable)
        assert refusal(tmp_path, "--chroot", tmp_path, "--workers", 2) == (
            f"smtphooks: --chroot {tmp_path} has no {python}, by which workers are started, put Python and its modules"
            " there, or leave --chroot or workers out"
        )

    def test_a_port_in_use(self, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            endpoint = tcp(other.getsockname()[1])
            done = ran(tmp_path, "--listen", endpoint)
        assert done.returncode == 1
        assert f"cannot listen on {endpoint}: Address already in use" in done.stdout
