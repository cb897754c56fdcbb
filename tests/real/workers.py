"""
A service with workers: started as an operator does, seen through its log, its processes, its metrics and its socket.

The clients here never try again: what happens to each of their connections is counted.
This module knows no test.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.real.programs import PATIENCE, ROOT, Client, Maildir, Program, eventually, freePort, hidden, table, tcp, toml

TWISTD = str(Path(sys.executable).parent / "twistd")

# The tests of workers run longer, and with more of everything, with this variable: make workers.
IS_LONG = bool(os.environ.get("SMTPHOOKS_LONG"))


def environment(*folders: Path, **more: str) -> dict[str, str]:
    """
    The environment of a service.

    @param folders: where else it finds modules.
    """
    paths = [*map(str, folders), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


class Files:
    """
    The configuration of a service, and the module of its hooks beside it.

    @ivar port: that of its first listener.
    @ivar folder: where the files are.
    @ivar config: the configuration file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = freePort()
        self.metricsPort = freePort()
        self.config = folder / "smtphooks.toml"
        self.maildir = Maildir(folder / "maildir")

    def write(
        self,
        workers: int = 2,
        *,
        hooks: str | None = None,
        endpoints: Sequence[str] = (),
        top: Mapping[str, object | None] | None = None,
        listener: Mapping[str, object] | None = None,
        **options: object,
    ) -> None:
        """
        Write them.

        @param hooks: the source of a module with the class C{Mail}; None for a Maildir.
        @param endpoints: those of the listeners; none for the port.
        @param top: further keys at the top; None leaves a key out.
        @param listener: further keys of each listener.
        """
        if hooks is not None:
            (self.folder / "mailhooks.py").write_text(hooks)
        name, given = ("smtphooks.stores:Maildir", {"path": "maildir"}) if hooks is None else ("mailhooks:Mail", {})
        keys = {
            "workers": workers,
            "hooks": name,
            "metrics": tcp(self.metricsPort),
            **(top or {}),
        }
        tables = [
            "".join(f"{key} = {toml(value)}\n" for key, value in keys.items() if value is not None),
            table("hooks-options", given) if given else "",
            table("options", {"authOptional": True, **options}),
            *(table("[listener]", {"endpoint": each, **(listener or {})}) for each in endpoints or [tcp(self.port)]),
        ]
        # A reload must never find half a file.
        new = self.folder / "new.toml"
        new.write_text("\n".join(tables))
        new.rename(self.config)


def childrenOf(pid: int) -> list[int]:
    """The processes that this one has started, and that have not ended."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [int(each) for each in found if not isZombie(int(each))]


def isZombie(pid: int) -> bool:
    """Whether the process is gone, or has ended and nobody has asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def isWorker(pid: int) -> bool:
    """Whether a process has been started as a worker."""
    try:
        return b"SMTPHOOKS_WORKER=" in Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


_OF_CLIENT = re.compile(r"eventlog#info\]|maildir#info\] stored")


class Supervised(Program):
    """
    A service with workers.

    @ivar files: its configuration.
    """

    def __init__(
        self,
        files: Files,
        *arguments: str,
        command: Sequence[str] = (sys.executable, "-m", "smtphooks"),
        before: Sequence[str] = (),
        descriptors: Sequence[int] = (),
        folders: Sequence[Path] = (),
        **variables: str,
    ) -> None:
        """
        Start it; see L{waitUntilReady}.

        @param command: the program.
        @param before: a program that starts this one.
        @param folders: where it finds modules before all others.
        """
        self.files = files
        super().__init__(
            [*before, *command, *(arguments or ["--config", str(files.config)])],
            environment(*folders, **variables),
            files.folder,
            descriptors,
        )

    def __enter__(self) -> Supervised:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        workers = self.workers()
        if error is not None:
            print(self.story)
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.kill()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: all(map(isZombie, workers)), "workers without a supervisor end")

    def waitUntilReady(self) -> Supervised:
        """Wait until all workers serve."""
        self.waitForLine("workers serve")
        return self

    def waitForLines(self, count: int, *parts: str) -> list[str]:
        """Wait until so many lines have all of these parts; all lines that have them."""

        def found() -> list[str]:
            return [line for line in self._lines if all(part in line for part in parts)]

        with self._news:
            self._news.wait_for(lambda: self._ended or len(found()) >= count, PATIENCE)
            lines = found()
        assert len(lines) >= count, f"it has said {parts} {len(lines)} times, not {count}:\n{self.story}"
        return lines

    def lines(self, *parts: str) -> list[str]:
        """The lines so far with all of these parts."""
        return [line for line in self.output.splitlines() if all(part in line for part in parts)]

    @property
    def story(self) -> str:
        """The log without what was said of single messages and connections."""
        lines = self.output.splitlines(keepends=True)
        return "".join(line for line in lines if not _OF_CLIENT.search(line))

    def workers(self) -> list[int]:
        """The process ids of all workers."""
        return [pid for pid in childrenOf(self.pid) if isWorker(pid)]

    def status(self) -> dict[str, Any]:
        """What it answers to C{smtphooks status}."""
        return ask(self.files.folder / "smtphooks.control", "status")

    def ready(self) -> list[int]:
        """The process ids of workers that serve, the oldest first."""
        workers = [each for each in self.status()["workers"] if each["state"] == "ready"]
        return [each["pid"] for each in sorted(workers, key=lambda each: -each["seconds"])]

    def waitForWorkers(self, number: int) -> list[int]:
        """Wait until exactly so many processes are there, and all of them serve."""

        def isSo() -> bool:
            try:
                workers = self.status()["workers"]
            except OSError:
                return False
            return len(workers) == number and all(each["state"] == "ready" for each in workers)

        eventually(isSo, f"{number} workers")
        return self.workers()

    def metrics(self) -> dict[str, float]:
        """All numbers that it serves."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.files.metricsPort}/metrics", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        found = re.findall(r"^([a-z]\S*(?:\{[^}\n]*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def reload(self) -> None:
        """Send SIGHUP, and wait until the new workers serve."""
        count = len(self.lines("new workers serve"))
        os.kill(self.pid, signal.SIGHUP)
        self.waitForLines(count + 1, "new workers serve")

    def refuseReload(self) -> str:
        """Send SIGHUP, and wait until it says why nothing changes: what it says."""
        count = len(self.lines("cannot reload"))
        os.kill(self.pid, signal.SIGHUP)
        return self.waitForLines(count + 1, "cannot reload")[-1]


def ask(path: Path, kind: str, **fields: object) -> dict[str, Any]:
    """
    Ask a supervisor at its control socket.

    @raise OSError: if there is none.
    """
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(PATIENCE)
        asking.connect(str(path))
        asking.sendall(json.dumps({"kind": kind, "ask": 1, **fields}).encode() + b"\n")
        with asking.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise ConnectionError("no answer")
    answer: dict[str, Any] = json.loads(line)
    assert "error" not in answer, answer
    return answer["result"]  # type: ignore[no-any-return]


class Load:
    """
    Clients that never try again.

    @ivar acknowledged: the identities of all messages that got a 250.
    @ivar counts: of connections: C{made}, C{whole} ones that ended with 221, C{refused} by the kernel, C{unheard} that
        ended before the greeting, and C{cut} later.
    @ivar faults: what happened to those that were not whole.
    """

    def __init__(self, port: int, clients: int = 8, messages: int = 3, size: int = 500) -> None:
        """
        @param clients: how many there are at once.
        @param messages: how many each sends over one connection.
        """
        self._port = port
        self._clients = clients
        self._messages = messages
        self._body = b"x" * 76 + b"\r\n"
        self._lines = size // 76
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: list[str] = []
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self._clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE * 2)
            assert not thread.is_alive(), "a client waits for the server"

    def waitForMore(self, number: int) -> None:
        """Wait until so many more messages are acknowledged."""
        before = len(self.acknowledged)
        eventually(lambda: len(self.acknowledged) >= before + number, f"{number} more messages: {self.faults}")

    def _run(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            result = self._connect(f"{number}-{count}")
            with self._lock:
                self.counts[result] += 1
                self.counts["made"] += 1

    def _connect(self, name: str) -> str:
        at = "refused"
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as connection:
                at = "unheard"
                with connection.makefile("rb") as replies:
                    self._expect(replies, 220)
                    at = "cut"
                    self._say(connection, replies, b"EHLO client.example", 250)
                    for number in range(self._messages):
                        self._send(connection, replies, f"{name}-{number}")
                    self._say(connection, replies, b"QUIT", 221)
            return "whole"
        except (OSError, AssertionError) as error:
            self.faults.append(f"{at}: {error!r}")
            return at

    def _send(self, connection: socket.socket, replies: Any, identity: str) -> None:
        self._say(connection, replies, b"MAIL FROM:<sender@here.example>", 250)
        self._say(connection, replies, b"RCPT TO:<user@there.example>", 250)
        self._say(connection, replies, b"DATA", 354)
        content = b"X-ID: %b\r\n\r\n%b.\r\n" % (identity.encode(), self._body * self._lines)
        connection.sendall(content)
        self._expect(replies, 250)
        self.acknowledged.append(identity)

    def _say(self, connection: socket.socket, replies: Any, line: bytes, code: int) -> None:
        connection.sendall(line + b"\r\n")
        self._expect(replies, code)

    @staticmethod
    def _expect(replies: Any, code: int) -> None:
        for line in iter(replies.readline, b""):
            if line[3:4] != b"-":
                assert line.startswith(b"%d " % code), line
                return
        raise ConnectionError("the server has left")

    def checkStored(self, maildir: Maildir) -> None:
        """Every acknowledged message is in the Maildir."""
        missing = set(self.acknowledged) - storedIn(maildir).keys()
        assert not missing, f"{len(missing)} of {len(self.acknowledged)} are lost: {sorted(missing)[:5]}"


_IDENTITY = re.compile(rb"^X-ID: (\S+)$", re.MULTILINE)


def storedIn(maildir: Maildir) -> Counter[str]:
    """How often each message of a load is in a Maildir."""
    found: Counter[str] = Counter()
    for file in maildir.files():
        identity = _IDENTITY.search(file.read_bytes())
        if identity is not None:
            found[identity[1].decode()] += 1
    return found


def deliver(port: int, code: int = 250, recipient: bytes = b"user@there.example") -> None:
    """Send a message, which must get this code."""
    with Client(port) as client:
        client.envelope(recipient)
        client.say(b"DATA", 354)
        client.socket.sendall(hidden(b"Subject: workers\r\n\r\nand so on\r\n"))
        client.reply(code)
        client.say(b"QUIT", 221)


def isRefused(port: int) -> bool:
    """No process listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def serving(folder: Path, *arguments: str, workers: int = 2, **given: Any) -> Iterator[Supervised]:
    """A service with workers that runs, its files written."""
    files = Files(folder)
    files.write(workers, **given)
    with Supervised(files, *arguments) as service:
        yield service.waitUntilReady()
