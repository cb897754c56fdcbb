"""The end of a service with workers, however it comes: nothing of it is left."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.real.programs import PATIENCE, Client, eventually, freePort, hidden, tcp
from tests.real.workers import IS_LONG, Files, Supervised, deliver, isRefused, isZombie, serving

IDLE = 10_000 if IS_LONG else 2_000

# Starts a program in a session of its own, as a terminal does.
SESSION = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"


def left(folder: Path) -> list[str]:
    """What a service has left in its folder: sockets, locks and files of process ids."""
    return [path.name for path in folder.iterdir() if path.is_socket() or path.suffix in (".lock", ".pid", ".control")]


def segments() -> set[str]:
    """Memory that outlives processes."""
    return set(os.listdir("/dev/shm"))


class TestSIGTERM:
    def test_idle_clients_get_421_at_once_and_a_transaction_finishes(self, tmp_path: Path) -> None:
        before = segments()
        with ExitStack() as stack:
            service = stack.enter_context(serving(tmp_path, endpoints=[tcp(port := freePort()), "unix:lmtp"]))
            workers = service.workers()
            idle = [stack.enter_context(Client(port)) for _ in range(6)]
            busy = stack.enter_context(Client(port))
            busy.envelope(b"user@there.example")
            busy.say(b"DATA", 354)
            os.kill(service.pid, signal.SIGTERM)
            for client in idle:
                client.reply(421)
            eventually(lambda: isRefused(port), "new clients are refused")
            busy.socket.sendall(hidden(b"Subject: last\r\n\r\n"))
            busy.reply(250)
            busy.reply(421)
            assert service.wait() == 0
            assert all(map(isZombie, workers))
            assert "Traceback" not in service.output
            assert "another one takes its place" not in service.output
        assert service.files.maildir.message().content == b"Subject: last\n\n"
        assert left(tmp_path) == []
        assert segments() <= before

    def test_of_all_processes_at_once_ends_them_as_well(self, tmp_path: Path) -> None:
        with serving(tmp_path) as service:
            workers = service.workers()
            for pid in (*workers, service.pid):
                os.kill(pid, signal.SIGTERM)
            assert service.wait() == 0
            assert all(map(isZombie, workers))
            assert "Traceback" not in service.output
        assert left(tmp_path) == []

    def test_while_it_starts_ends_it(self, tmp_path: Path) -> None:
        files = Files(tmp_path)
        files.write(2)
        with Supervised(files) as service:
            eventually(service.workers, "workers start")
            workers = service.workers()
            os.kill(service.pid, signal.SIGTERM)
            assert service.wait() in (0, -signal.SIGTERM)
            eventually(lambda: all(map(isZombie, workers)), "the workers end")
            assert "Traceback" not in service.output
        assert left(tmp_path) == []


@pytest.mark.parametrize("isReady", [True, False])
def test_a_terminal_that_interrupts_all_processes_ends_them(tmp_path: Path, isReady: bool) -> None:
    files = Files(tmp_path)
    files.write(2)
    with Supervised(files, before=[sys.executable, "-c", SESSION]) as service:
        if isReady:
            service.waitUntilReady()
        else:
            eventually(service.workers, "workers start")
        workers = service.workers()
        os.killpg(service.pid, signal.SIGINT)
        service.wait()
        eventually(lambda: all(map(isZombie, workers)), "the workers end")
        assert "Traceback" not in service.output
    assert left(tmp_path) == []


def test_without_their_supervisor_workers_finish_and_end_and_another_service_takes_their_place(tmp_path: Path) -> None:
    with serving(tmp_path, endpoints=[tcp(port := freePort()), "unix:lmtp"]) as service, Client(port) as busy:
        workers = service.workers()
        busy.envelope(b"user@there.example")
        busy.say(b"DATA", 354)
        service.kill()
        eventually(lambda: isRefused(port), "new clients are refused")
        busy.socket.sendall(hidden(b"Subject: last\r\n\r\n"))
        busy.reply(250)
        eventually(lambda: all(map(isZombie, workers)), "the workers end")
        assert service.files.maildir.message().content == b"Subject: last\n\n"
    # What a process leaves that is killed does not stop the next one.
    with Supervised(service.files) as next_:
        next_.waitUntilReady()
        deliver(port)
        assert next_.status()["pid"] == next_.pid
        assert next_.terminate() == 0
        assert "Traceback" not in next_.output
    assert left(tmp_path) == []


@contextmanager
def manyFiles(number: int) -> Iterator[None]:
    """Let this process, and those that it starts, have so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < number and os.geteuid() != 0:
        pytest.skip(f"not more than {hard} files can be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, max(number, hard)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections_are_spread_evenly(tmp_path: Path) -> None:
    # Less than the number of addresses times ports, of a whole network as on a real one.
    chooser = random.Random("addresses")
    options = {"maxClients": IDLE + 10, "maxClientsPerAddress": IDLE}
    with manyFiles(IDLE + 1000), ExitStack() as stack:
        service = stack.enter_context(serving(tmp_path, workers=2, **options))
        # Whoever answers has heard before which sockets are its own.
        assert len(service.status()["workers"]) == 2
        connections = []
        for _ in range(IDLE):
            address = f"127.0.{chooser.randrange(1, 250)}.{chooser.randrange(1, 250)}"
            connection = socket.create_connection(("127.0.0.1", service.files.port), PATIENCE, (address, 0))
            connections.append(stack.enter_context(connection))
        for connection in connections:
            assert connection.recv(100).startswith(b"220 ")
        counts = [worker["connections"] for worker in service.status()["workers"]]
        assert sum(counts) == IDLE
        mean = IDLE / 2
        assert all(0.9 * mean <= count <= 1.1 * mean for count in counts), counts
        (opened,) = [number for name, number in service.metrics().items() if name.startswith("smtphooks_open_conn")]
        assert opened == IDLE


# Hooks that start a process which goes on, and write what no log expects.
STARTING = """
import os
import subprocess
import sys
from smtphooks import Hooks

class Mail(Hooks):
    def onRcptTo(self, address, session):
        if address.local == "daemon":
            subprocess.Popen(["sleep", "20"], close_fds=False)
        elif address.local == "junk":
            os.write(1, bytes(range(256)) * 10 + b"\\n")
            os.write(2, bytes(range(255, -1, -1)) + b"\\n")
        elif address.local == "long":
            print("x" * 3_000_000, flush=True)
            print("y" * 3_000_000, file=sys.stderr, flush=True)
        print("junk is over", flush=True)

    def onData(self, stream, session):
        return "taken"
"""


def sleepsOf(pids: list[int]) -> list[int]:
    """Processes that hooks have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes() == b"sleep\x0020\x00" and int(
                (path / "stat").read_text().rpartition(")")[2].split()[1]
            ) in pids:
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


class TestWhatHooksDo:
    def test_a_process_that_they_start_keeps_nothing_open(self, tmp_path: Path) -> None:
        with serving(tmp_path, hooks=STARTING, workers=1) as service:
            (worker,) = service.workers()
            deliver(service.files.port, recipient=b"daemon@there.example")
            (daemon,) = sleepsOf([worker])
            try:
                os.kill(worker, signal.SIGKILL)
                service.waitForLine("was killed by SIGKILL, another one takes its place")
                assert worker not in service.waitForWorkers(1)
                deliver(service.files.port)
                assert not isZombie(daemon)
                names = [os.readlink(path) for path in Path(f"/proc/{daemon}/fd").iterdir()]
                assert len([name for name in names if name.startswith("socket:")]) <= 2  # stdout and stderr
                assert not [name for name in names if "memfd" in name]
                os.kill(service.pid, signal.SIGTERM)
                # The output of the service itself is not the daemon's.
                assert service.wait() == 0
                assert isRefused(service.files.port)
            finally:
                os.kill(daemon, signal.SIGKILL)

    @pytest.mark.parametrize("kind", [b"junk", b"long"])
    def test_what_they_write_comes_into_the_log_and_stops_nobody(self, tmp_path: Path, kind: bytes) -> None:
        with serving(tmp_path, hooks=STARTING) as service:
            for _ in range(3):
                deliver(service.files.port, recipient=kind + b"@there.example")
            service.waitForLines(3, "junk is over")
            deliver(service.files.port)
            assert "Traceback" not in service.output
            if kind == b"long":
                assert service.output.count("x") >= 9_000_000
                eventually(lambda: service.output.count("y") >= 9_000_000, "the standard error is read")
            service.reload()
            deliver(service.files.port)
            assert service.terminate() == 0
