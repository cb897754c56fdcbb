"""The life of a service under twistd: signals, systemd, dropping root, and the log in text and in JSON."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.real.programs import (
    HOOKS,
    PATIENCE,
    ROOT,
    Client,
    Maildir,
    Program,
    eventually,
    freePort,
    hidden,
    table,
    tcp,
)

TWISTD = str(Path(sys.executable).parent / "twistd")
CONTENT = b"Subject: life\r\n\r\nand so on\r\n"

LEAVE = b"421 4.3.2 Server is shutting down\r\n"

Start = Callable[..., Program]


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start twistd with its own flags and those of smtphooks; a process that the test leaves running is killed."""
    programs: list[Program] = []

    def start(
        *arguments: object,
        twistd: Sequence[str] = (),
        before: Sequence[str] = (),
        descriptors: Sequence[int] = (),
        **variables: str,
    ) -> Program:
        flags = ["-n", "--pidfile=", *twistd]
        command = [*before, TWISTD, *flags, "smtphooks", *map(str, arguments)]
        programs.append(Program(command, environment(**variables), tmp_path, descriptors))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


def configured(folder: Path, port: int, hooks: str, **options: object) -> Path:
    """Write a configuration file."""
    config = folder / "smtphooks.toml"
    tables = [
        f'hooks = "{HOOKS}:{hooks}"\n',
        table("options", {"authOptional": True, **options}),
        table("[listener]", {"endpoint": tcp(port)}),
    ]
    config.write_text("\n".join(tables))
    return config


def ask(program: Program) -> None:
    """Send SIGTERM."""
    os.kill(program.pid, signal.SIGTERM)


def deliver(port: int, code: int = 250) -> None:
    """Send a message, which must get this code."""
    with Client(port) as client:
        client.envelope(b"user@mx.example")
        client.say(b"DATA", 354)
        client.socket.sendall(hidden(CONTENT))
        client.reply(code)
        client.say(b"QUIT", 221)


def isRefused(port: int) -> bool:
    """No process listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def events(text: str) -> list[dict[str, Any]]:
    """The events of a JSON log."""
    return list(map(json.loads, text.splitlines()))


# --- SIGTERM ---


class TestSIGTERM:
    def test_an_idle_client_gets_421_and_a_transaction_finishes(self, start: Start, tmp_path: Path) -> None:
        port = freePort()
        service = start("--listen", tcp(port), "--maildir", "maildir")
        service.waitForLine("listening on")
        with Client(port) as idle, Client(port) as busy:
            busy.envelope(b"user@mx.example")
            busy.say(b"DATA", 354)
            ask(service)
            assert idle.reply(421) == LEAVE
            assert idle.socket.recv(1) == b""
            eventually(lambda: isRefused(port), "the service stops listening")
            busy.socket.sendall(hidden(CONTENT))
            busy.reply(250)
            assert busy.reply(421) == LEAVE
        assert service.wait() == 0
        assert Maildir(tmp_path / "maildir").message().content == CONTENT.replace(b"\r\n", b"\n")

    def test_a_transaction_that_does_not_finish_is_ended_by_force(self, start: Start, tmp_path: Path) -> None:
        port = freePort()
        service = start("--config", configured(tmp_path, port, "UnreadMessages", closeTimeout=0.5))
        service.waitForLine("listening on")
        with Client(port) as client:
            client.envelope(b"user@mx.example")
            client.say(b"DATA", 354)
            ask(service)
            assert service.wait() == 0
            with pytest.raises(ConnectionError):
                client.reply(250)
        assert "connection of 127.0.0.1 ended by force" in service.output
        assert "Traceback" not in service.output

    @pytest.mark.parametrize("hasLeft", [False, True])
    def test_a_hook_that_hangs_behind_the_final_dot_does_not_keep_it_alive(
        self, start: Start, tmp_path: Path, hasLeft: bool
    ) -> None:
        port = freePort()
        service = start("--config", configured(tmp_path, port, "HeldMessages", closeTimeout=0.5))
        service.waitForLine("listening on")
        with Client(port) as client:
            client.envelope(b"user@mx.example")
            client.say(b"DATA", 354)
            client.socket.sendall(hidden(CONTENT))
            if hasLeft:
                client.close()
            ask(service)
            assert service.wait() == 0
        service.waitForLine("hook onData took too long")
        service.waitForLine("message from <sender@here.example>", ", 0 after ")
        assert "Traceback" not in service.output

    def test_asked_twice_it_ends_once(self, start: Start, tmp_path: Path) -> None:
        port = freePort()
        service = start("--listen", tcp(port))
        service.waitForLine("listening on")
        with Client(port) as client:
            client.envelope(b"user@mx.example")
            ask(service)
            service.waitForLine("received SIGTERM")
            ask(service)
            client.say(b"RSET", 250)
            client.reply(421)
        assert service.wait() == 0
        assert "Traceback" not in service.output


# --- systemd ---


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """The notification socket of a service manager, in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind("")  # the kernel picks a name
        yield manager


def named(manager: socket.socket) -> str:
    """The value of NOTIFY_SOCKET for a socket."""
    return "@" + manager.getsockname().removeprefix(b"\0").decode()


class TestReadiness:
    def test_READY_is_sent_when_all_listeners_listen_and_no_sooner(self, start: Start, manager: socket.socket) -> None:
        ports = [freePort(), freePort()]
        service = start(*[f"--listen={tcp(port)}" for port in ports], NOTIFY_SOCKET=named(manager))
        assert manager.recv(4096) == b"READY=1"
        for port in ports:
            Client(port).close()
        with Client(ports[0]) as client:
            client.envelope(b"user@mx.example")
            ask(service)
            # It is sent before the last transaction has ended.
            assert manager.recv(4096) == b"STOPPING=1"
            client.say(b"RSET", 250)
        assert service.wait() == 0

    def test_READY_is_not_sent_if_a_listener_fails(self, start: Start, manager: socket.socket) -> None:
        port = freePort()
        service = start("--listen", tcp(port), "--listen", tcp(port), NOTIFY_SOCKET=named(manager))
        assert service.wait() == 1
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            print(manager.recv(4096))

    def test_a_socket_may_have_a_path(self, start: Start) -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(PATIENCE)
            manager.bind(f"{folder}/notify")
            start("--listen", tcp(0), NOTIFY_SOCKET=f"{folder}/notify")
            assert manager.recv(4096) == b"READY=1"

    def test_an_unreachable_manager_does_no_harm(self, start: Start, tmp_path: Path) -> None:
        service = start("--listen", tcp(0), NOTIFY_SOCKET=str(tmp_path / "none"))
        service.waitForLine("the service manager cannot be told READY=1")
        assert service.terminate() == 0


# sd_listen_fds(3): LISTEN_PID names the process that has the listening socket as file descriptor 3.
ACTIVATION = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="smtp", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_socket_of_systemd_is_listened_on(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        # A client may connect before the service runs, which is the purpose of socket activation.
        early = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        service = start(
            "--listen=systemd:domain=INET:index=0",
            before=[sys.executable, "-c", ACTIVATION, str(listening.fileno())],
            descriptors=[listening.fileno()],
        )
        service.waitForLine("listening on systemd:domain=INET:index=0", f"127.0.0.1:{port}")
    with early, early.makefile("rb") as replies:
        assert replies.readline().startswith(b"220 ")
    deliver(port)
    assert service.terminate() == 0
    assert Maildir(tmp_path / "maildir").message().content == CONTENT.replace(b"\r\n", b"\n")


def test_a_unix_socket_of_systemd_keeps_its_mode_and_is_there_afterwards(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o660)
        listening.listen(300)
        service = start(
            "--lmtp",
            "--listen=systemd:domain=UNIX:index=0",
            before=[sys.executable, "-c", ACTIVATION, str(listening.fileno())],
            descriptors=[listening.fileno()],
        )
        service.waitForLine("listening on systemd:domain=UNIX:index=0", str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            assert client.recv(100).startswith(b"220 ")
        assert service.terminate() == 0
        # The next one that systemd starts listens on the same socket.
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


# --- root ---


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def _lowPort() -> int:
    """A port that only root may listen on."""
    for port in range(1023, 600, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("all ports are in use")


def _userAndGroup() -> tuple[str, str]:
    return "nobody", grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be dropped")
class TestDroppingRoot:
    @pytest.fixture(autouse=True)
    def reachable(self) -> None:
        """Skip the test if the user cannot read Python and this package."""
        user, _ = _userAndGroup()
        entry = pwd.getpwnam(user)
        try:
            subprocess.run(
                [sys.executable, "-c", "import smtphooks.service.tap"],
                env=environment(),
                cwd="/",
                user=entry.pw_uid,
                group=entry.pw_gid,
                extra_groups=[],
                capture_output=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            pytest.skip(f"{user} cannot use {sys.executable} and {ROOT}")

    def flags(self) -> list[str]:
        user, group = _userAndGroup()
        return [f"--uid={user}", f"--gid={group}"]

    def test_it_listens_as_root_and_stores_as_the_user(self, start: Start, open_folder: Path) -> None:
        user = pwd.getpwnam("nobody")
        path = open_folder / "mail"
        path.mkdir()
        os.chown(path, user.pw_uid, user.pw_gid)
        port = _lowPort()
        service = start("--listen", tcp(port), "--maildir", path / "maildir", twistd=self.flags())
        service.waitForLine("listening on")
        status = Path(f"/proc/{service.pid}/status").read_text()
        assert f"Uid:\t{user.pw_uid}\t{user.pw_uid}\t" in status
        deliver(port)
        maildir = Maildir(path / "maildir")
        assert maildir.message().content == CONTENT.replace(b"\r\n", b"\n")
        for made in (*maildir.files(), maildir.path, maildir.path / "new"):
            assert (made.stat().st_uid, made.stat().st_gid) == (user.pw_uid, user.pw_gid)
        assert service.terminate() == 0

    def test_a_maildir_that_the_user_cannot_write_is_451(self, start: Start, open_folder: Path) -> None:
        port = _lowPort()
        service = start("--listen", tcp(port), "--maildir", open_folder / "maildir", twistd=self.flags())
        service.waitForLine("listening on")
        deliver(port, 451)
        service.waitForLine("cannot be stored", "Permission denied")
        assert service.terminate() == 0

    @pytest.mark.parametrize("waits", [False, True])
    def test_a_layer_is_started_as_root_and_what_it_waits_for_comes_to_the_user(
        self, start: Start, open_folder: Path, waits: bool
    ) -> None:
        (open_folder / "lifeapp.py").write_text(LIFE.replace("WAITS", str(waits)))
        config = open_folder / "smtphooks.toml"
        listener = table("[listener]", {"endpoint": tcp(freePort())})
        config.write_text(f'hooks = "lifeapp:Store"\n[options]\nauthOptional = true\n{listener}')
        service = start("--config", config, twistd=self.flags())
        service.waitForLine("listening on")
        user = pwd.getpwnam("nobody").pw_uid
        service.waitForLine("started as 0")
        service.waitForLine(f"listens as {user if waits else 0}")
        assert service.terminate() == 0
        assert f"stopped as {user}" in service.output


# A hooks object that tells as whom it runs.
LIFE = """
import os
from twisted.internet import reactor
from twisted.internet.task import deferLater

class Store:
    async def onStart(self, service):
        print("started as", os.geteuid(), flush=True)
        if WAITS:
            await deferLater(reactor, 0)
        for listener in service:
            listener.endpoint = Endpoint(listener.endpoint)

    def onStop(self, service):
        print("stopped as", os.geteuid(), flush=True)

    def onData(self, stream, session): ...

class Endpoint:
    def __init__(self, endpoint):
        self.endpoint = endpoint

    def listen(self, factory):
        print("listens as", os.geteuid(), flush=True)
        return self.endpoint.listen(factory)
"""


# --- the log in text ---

# The line of a text log: the time with its offset to UTC, the namespace and level or the system, and the text.
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[([^]\n]+)\] (.+)")


def checkText(log: str) -> None:
    """As check does, for a log in text; each line is there once."""
    found = [LINE.fullmatch(line) for line in log.splitlines()]
    lines = [match.groups() for match in found if match is not None]
    assert len(lines) == len(found)
    assert len(lines) == len(set(lines))
    assert "starting up." in lines[0][1]
    assert lines[-1] == ("twisted.scripts._twistd_unix.UnixAppLogger#info", "Server Shut Down.")
    (message,) = [text for system, text in lines if text.startswith("message from ")]
    (connection,) = [text for system, text in lines if text.startswith("connection of ")]
    assert message[-22:] == connection[-22:]
    assert {system for system, text in lines if text in (message, connection)} == {"smtphooks.eventlog#info"}


class TestText:
    def test_to_stdout(self, start: Start) -> None:
        port = freePort()
        service = start("--listen", tcp(port), "--maildir", "maildir")
        service.waitForLine("listening on")
        deliver(port)
        assert service.terminate() == 0
        checkText(service.output)

    def test_to_a_file_that_a_signal_rotates(self, start: Start, tmp_path: Path) -> None:
        port = freePort()
        log = tmp_path / "log"
        service = start("--listen", tcp(port), "--maildir", "maildir", twistd=["--logfile", str(log)])
        eventually(lambda: log.exists() and "listening on" in log.read_text(), "the service listens")
        os.kill(service.pid, signal.SIGUSR1)
        old = tmp_path / "log.1"
        eventually(old.exists, "the log is rotated")
        deliver(port)
        assert service.terminate() == 0
        assert service.output == ""
        checkText(old.read_text() + log.read_text())


# --- JSON ---


def check(log: Sequence[Mapping[str, Any]]) -> None:
    """The log tells the life of a service that has accepted one message."""
    texts = [event["text"] for event in log]
    assert any(text.startswith("listening on ") for text in texts)
    assert texts[-1] == "Server Shut Down."
    (message,) = [event for event in log if "recipientCount" in event]
    (connection,) = [event for event in log if "commands" in event]
    assert message["session"] == connection["session"]
    assert (message["peer"], message["verb"], message["code"]) == ("127.0.0.1", "DATA", 250)
    assert message["namespace"] == connection["namespace"] == "smtphooks.eventlog"
    assert all(isinstance(event["milliseconds"], int) for event in (message, connection))


class TestJSON:
    def test_to_stdout(self, start: Start) -> None:
        port = freePort()
        service = start("--log-format=json", "--listen", tcp(port), "--maildir", "maildir")
        service.waitForLine("listening on")
        deliver(port)
        assert service.terminate() == 0
        check(events(service.output))

    def test_to_a_file_that_a_signal_rotates(self, start: Start, tmp_path: Path) -> None:
        port = freePort()
        log = tmp_path / "log.json"
        service = start(
            "--log-format=json", "--listen", tcp(port), "--maildir", "maildir", twistd=["--logfile", str(log)]
        )
        eventually(lambda: log.exists() and "listening on" in log.read_text(), "the service listens")
        os.kill(service.pid, signal.SIGUSR1)
        old = tmp_path / "log.json.1"
        eventually(old.exists, "the log is rotated")
        deliver(port)
        assert service.terminate() == 0
        assert service.output == ""
        check(events(old.read_text() + log.read_text()))

    def test_of_a_daemon(self, tmp_path: Path) -> None:
        port = freePort()
        arguments = [TWISTD, "smtphooks", "--log-format=json", "--listen", tcp(port), "--maildir", "maildir"]
        started = subprocess.run(
            arguments, cwd=tmp_path, env=environment(), capture_output=True, timeout=PATIENCE, check=False
        )
        assert (started.returncode, started.stdout, started.stderr) == (0, b"", b"")
        log, pidfile = tmp_path / "twistd.log", tmp_path / "twistd.pid"
        eventually(lambda: log.exists() and "listening on" in log.read_text(), "the service listens")
        try:
            deliver(port)
        finally:
            os.kill(int(pidfile.read_text()), signal.SIGTERM)
            eventually(lambda: not pidfile.exists(), "the daemon ends")
        check(events(log.read_text()))
