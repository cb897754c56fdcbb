"""Workers under twistd and systemd: root, the daemon, its files, its log, its signals, and all kinds of sockets."""

from __future__ import annotations

import os
import pwd
import re
import signal
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.real.programs import PATIENCE, ROOT, Certificates, Client, eventually, freePort, requires, tcp
from tests.real.test_life import _lowPort, events, manager, named
from tests.real.workers import TWISTD, Files, Supervised, childrenOf, deliver, environment, isWorker, isZombie, serving

__all__ = ["manager"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can read, with a short path."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


def ownerOf(pid: int) -> int:
    """The user that a process runs as."""
    (user,) = re.findall(r"^Uid:\t(\d+)\t", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(user)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be dropped")
class TestDroppingRoot:
    @pytest.fixture(autouse=True)
    def python(self) -> None:
        """A Python that the user can run, with what this one finds."""
        paths = os.pathsep.join([str(ROOT), *filter(os.path.isdir, sys.path)])
        self.variables = {"PYTHONPATH": paths}
        for python in (sys.executable, "/usr/bin/python3"):
            command = [python, "-c", "import smtphooks.service.tap, smtphooks.stores"]
            with suppress(OSError):
                done = subprocess.run(
                    command,
                    env=os.environ | self.variables,
                    cwd="/",
                    user="nobody",
                    extra_groups=[],
                    capture_output=True,
                    check=False,
                )
                if done.returncode == 0:
                    self.command = [python, TWISTD]
                    return
        pytest.skip("the user cannot use Python and this package")

    def test_all_processes_run_as_the_user_and_a_new_program_keeps_the_sockets(self, folder: Path) -> None:
        user = pwd.getpwnam("nobody")
        run = folder / "run"
        run.mkdir()
        os.chown(run, user.pw_uid, user.pw_gid)
        files = Files(folder)
        port = _lowPort()
        files.write(2, endpoints=[tcp(port)], top={"control": "run/control", "metrics": None})
        files.maildir.path.mkdir()
        os.chown(files.maildir.path, user.pw_uid, user.pw_gid)
        pidfile = run / "twistd.pid"
        flags = ["-n", f"--pidfile={pidfile}", "--uid=nobody", "--gid=nogroup", "smtphooks", "--config"]
        with Supervised(files, *flags, str(files.config), command=self.command, **self.variables) as service:
            service.waitUntilReady()
            for number in range(1, 3):
                assert {ownerOf(pid) for pid in (service.pid, *service.workers())} == {user.pw_uid}
                deliver(port)
                assert int(pidfile.read_text()) == service.pid
                os.kill(service.pid, signal.SIGUSR2)
                service.waitForLines(number, "new workers serve")
            assert service.terminate() == 0
            assert "Traceback" not in service.output

    def test_a_UNIX_socket_of_root_and_its_mode_stay_as_they_are(self, folder: Path) -> None:
        user = pwd.getpwnam("nobody")
        path = folder / "lmtp"
        files = Files(folder)
        top = {"metrics": None}
        files.write(2, endpoints=[f"unix:{path}:mode=660", tcp(port := freePort())], listener={"lmtp": True}, top=top)
        files.maildir.path.mkdir()
        os.chown(files.maildir.path, user.pw_uid, user.pw_gid)
        flags = ["-n", "--pidfile=", "--uid=nobody", "smtphooks", "--config", str(files.config)]
        with Supervised(files, *flags, command=self.command, **self.variables) as service:
            service.waitUntilReady()
            for number in range(1, 3):
                with smtplib.LMTP(str(path), timeout=PATIENCE) as client:
                    client.sendmail("a@here.example", ["b@there.example"], b"Subject: x\r\n\r\n")
                with smtplib.LMTP("127.0.0.1", port, timeout=PATIENCE) as client:
                    client.sendmail("a@here.example", ["b@there.example"], b"Subject: x\r\n\r\n")
                assert stat.S_IMODE(path.stat().st_mode) == 0o660
                os.kill(service.pid, signal.SIGHUP)
                service.waitForLines(number, "new workers serve")
            assert len(files.maildir.files()) == 4
            assert service.terminate() == 0
            assert "Traceback" not in service.output

    def test_a_key_that_the_user_cannot_read_is_one_sentence(self, folder: Path) -> None:
        certificates = Certificates(folder / "tls")
        key = Path(str(certificates.server["key"]))
        os.chmod(key, 0o600)
        files = Files(folder)
        files.write(2, hooks=TAKING, top={"metrics": None})
        with files.config.open("a") as file:
            file.write(f'[tls]\nkey = "{key}"\ncert = "{certificates.server["cert"]}"\n')
        flags = ["-n", "--pidfile=", "--uid=nobody", "smtphooks", "--config", str(files.config)]
        with Supervised(files, *flags, command=self.command, **self.variables) as service:
            assert service.wait() == 1
            assert service.lines(str(key), "Permission denied"), service.output
            assert "Traceback" not in service.output


TAKING = """
from smtphooks import Hooks

class Mail(Hooks):
    def onData(self, stream, session):
        return "taken"
"""


class TestADaemon:
    @pytest.fixture
    def files(self, tmp_path: Path) -> Files:
        files = Files(tmp_path)
        files.write(2)
        return files

    def test_keeps_its_files_and_its_pid_and_rotates_the_log_of_all(self, files: Files, tmp_path: Path) -> None:
        log, pidfile = tmp_path / "log", tmp_path / "the.pid"
        arguments = [TWISTD, f"--logfile={log}", f"--pidfile={pidfile}", "smtphooks", "--config", str(files.config)]
        started = subprocess.run(
            arguments, cwd=tmp_path, env=environment(), capture_output=True, timeout=PATIENCE, check=False
        )
        assert (started.returncode, started.stdout, started.stderr) == (0, b"", b"")
        eventually(lambda: log.exists() and "workers serve" in log.read_text(), "the service listens")
        pid = int(pidfile.read_text())
        try:
            for number in range(1, 3):
                deliver(files.port)
                eventually(lambda: "message from" in log.read_text(), "lines of workers are in the log")
                os.kill(pid, signal.SIGUSR1)
                eventually((tmp_path / f"log.{number}").exists, "the log is rotated")
                assert "worker" in (tmp_path / "log.1").read_text()
                os.kill(pid, signal.SIGUSR2)
                eventually(lambda: "new workers serve" in log.read_text(), "the program is replaced")
                assert int(pidfile.read_text()) == pid
            deliver(files.port)
        finally:
            workers = [each for each in childrenOf(pid) if isWorker(each)]
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: not pidfile.exists(), "the daemon ends")
        eventually(lambda: isZombie(pid) and all(map(isZombie, workers)), "all processes end")
        assert "Traceback" not in log.read_text()

    def test_lines_of_JSON_are_those_of_all_processes(self, files: Files) -> None:
        with Supervised(files, "--log-format=json", f"--config={files.config}") as service:
            service.waitUntilReady()
            deliver(files.port)
            assert service.terminate() == 0
            found = events(service.output)
            assert {event.get("worker") for event in found} >= {None}
            (message,) = [event for event in found if "recipientCount" in event]
            assert message["worker"] in (1, 2)

    def test_an_observer_of_the_operator_sees_lines_of_workers(self, files: Files, tmp_path: Path) -> None:
        (tmp_path / "observing.py").write_text(
            "import sys\n\ndef make():\n    def observe(event):\n        line = event.get('line', '')\n"
            "        print(event.get('log_format'), line, file=sys.__stdout__, flush=True)\n    return observe\n"
        )
        flags = ["-n", "--pidfile=", "--logger=observing.make", "smtphooks", f"--config={files.config}"]
        with Supervised(files, *flags, command=[TWISTD], folders=[tmp_path]) as service:
            service.waitForLine("workers serve")
            deliver(files.port)
            service.waitForLine("message from")
            assert service.terminate() == 0


class TestSockets:
    def test_the_path_of_a_UNIX_socket_stays_when_workers_come_and_go(self, folder: Path) -> None:
        path = folder / "lmtp"
        with serving(folder, endpoints=[f"unix:{path}"], listener={"lmtp": True}) as service:
            inode = path.stat().st_ino
            for _ in range(2):
                with smtplib.LMTP(str(path)) as client:
                    client.sendmail("a@here.example", ["b@there.example"], b"Subject: x\r\n\r\n")
                os.kill(service.workers()[0], signal.SIGKILL)
                with smtplib.LMTP(str(path)) as client:
                    client.sendmail("a@here.example", ["b@there.example"], b"Subject: x\r\n\r\n")
                service.waitForWorkers(2)
                service.reload()
                assert path.stat().st_ino == inode
            assert len(service.files.maildir.files()) == 4
            assert service.terminate() == 0
        assert not path.exists()

    def test_a_UNIX_socket_of_the_metrics_keeps_its_mode(self, folder: Path) -> None:
        path = folder / "metrics"
        with serving(folder, top={"metrics": f"unix:{path}:mode=600"}) as service:
            for _ in range(2):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(PATIENCE)
                    client.connect(str(path))
                    client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                    assert b" 200 " in client.recv(100)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                service.reload()

    def test_TLS_from_the_start_any_free_port_and_IPv6(self, tmp_path: Path) -> None:
        certificates = Certificates(tmp_path / "tls")
        port = freePort()
        key, cert = certificates.server["key"], certificates.server["cert"]
        secure = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={cert}"
        with serving(tmp_path, endpoints=[secure, "tcp6:0:interface=\\:\\:1"]) as service:
            context = ssl.create_default_context(cafile=certificates.authority)
            (free,) = [int(each) for each in re.findall(r"listening on tcp6.*\[::1\]:(\d+)\)", service.output)]
            for _ in range(2):
                with (
                    socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
                    context.wrap_socket(plain, server_hostname="mx.example") as encrypted,
                ):
                    assert encrypted.recv(100).startswith(b"220 ")
                with socket.create_connection(("::1", free), PATIENCE) as connection:
                    assert connection.recv(100).startswith(b"220 ")
                # The free port is the same after a reload.
                service.reload()
                service.waitForWorkers(2)


class TestSystemd:
    def test_it_hears_of_the_start_reloads_a_new_program_and_the_end(
        self, tmp_path: Path, manager: socket.socket
    ) -> None:
        files = Files(tmp_path)
        files.write(2)
        with Supervised(files, NOTIFY_SOCKET=named(manager)) as service:
            assert manager.recv(4096) == b"READY=1"
            assert "workers serve" in service.output or service.waitUntilReady()
            Client(files.port).close()
            os.kill(service.pid, signal.SIGHUP)
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(4096))
            assert manager.recv(4096) == b"READY=1"
            os.kill(service.pid, signal.SIGUSR2)
            said = [manager.recv(4096)]
            while said[-1] != b"READY=1":
                said.append(manager.recv(4096))
            assert all(each.startswith(b"RELOADING=1\nMONOTONIC_USEC=") for each in said[:-1])
            files.config.write_text("nothing = ")
            service.refuseReload()
            assert manager.recv(4096).startswith(b"RELOADING=1\n")
            assert manager.recv(4096) == b"READY=1"
            os.kill(service.pid, signal.SIGTERM)
            assert manager.recv(4096) == b"STOPPING=1"
            assert service.wait() == 0
            manager.setblocking(False)
            with suppress(BlockingIOError):  # workers do not speak to it
                raise AssertionError(manager.recv(4096))

    @requires("systemd-socket-activate")
    def test_a_socket_that_it_hands_over_is_shared_and_stays(self, tmp_path: Path) -> None:
        files = Files(tmp_path)
        files.write(2, endpoints=["systemd:domain=INET:index=0"])
        activate = ["systemd-socket-activate", "--fdname=smtp", "-l", f"127.0.0.1:{files.port}"]
        for name in ("PYTHONPATH", "PATH", "HOME"):
            activate += ["-E", name]
        with Supervised(files, before=activate) as service:
            service.waitForLine("Listening on")
            # It starts the program when the first client comes, which is served.
            with Client(files.port) as client:
                client.say(b"QUIT", 221)
            service.waitUntilReady()
            os.kill(service.pid, signal.SIGUSR2)
            service.waitForLine("new workers serve")
            deliver(files.port)
            for pid in service.waitForWorkers(2):
                os.kill(pid, signal.SIGKILL)
            deliver(files.port)
            service.waitForWorkers(2)
            assert service.terminate() == 0
            assert "Traceback" not in service.output
