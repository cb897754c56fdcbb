"""
Programs that a test runs: the service as an operator starts it, clients, and the files that tests read afterwards.

All programs run on loopback.  Tests wait for their output or their files, never for a guessed time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import pytest

from tests.certificates import Authority

ROOT = Path(__file__).parents[2]
HOOKS = f"{__package__}.hooks"

# Mail programs are in /usr/sbin, which is not in every PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])

# How long to wait for a program; only a test that fails waits that long.
PATIENCE = 30.0


def which(name: str) -> str | None:
    """The path of a program; None if it is not installed."""
    return shutil.which(name, path=_PATH)


def requires(*names: str) -> pytest.MarkDecorator:
    """Skip the test if one of these programs is not installed."""
    missing = [name for name in names if which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def run(
    *arguments: object, stdin: bytes = b"", status: int | None = 0, seconds: float = PATIENCE
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, which must have this exit status (None: any)."""
    name, *rest = map(str, arguments)
    done = subprocess.run(
        [which(name) or name, *rest],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    assert status is None or done.returncode == status, f"{name}: {done.returncode}\n{done.stdout.decode()}"
    return done


def freePort() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until a condition outside of this process holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {what}"
        time.sleep(0.02)


class Program:
    """
    A process that runs beside the test.

    @ivar pid: its process id.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, descriptors: Sequence[int] = ()
    ) -> None:
        """
        @param descriptors: the file descriptors that the process inherits.
        """
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            pass_fds=descriptors,
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._heard(line.decode(errors="backslashreplace"))
        self._heard(None)

    def _heard(self, line: str | None) -> None:
        with self._news:
            if line is None:
                self._ended = True
            else:
                self._lines.append(line)
            self._news.notify_all()

    @property
    def output(self) -> str:
        """The output so far."""
        with self._news:
            return "".join(self._lines)

    def waitForLine(self, *parts: str) -> None:
        """Wait until the output has a line with all of these parts."""

        def decided() -> bool:
            return self._ended or said()

        def said() -> bool:
            return any(all(part in line for part in parts) for line in self._lines)

        with self._news:
            self._news.wait_for(decided, PATIENCE)
            found = said()
        assert found, f"it never said {parts}:\n{self.output}"

    @property
    def isRunning(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def terminate(self) -> int:
        """Send SIGTERM; the exit status."""
        if self._process.poll() is None:
            self._process.terminate()
        return self.wait()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait until the process ends; the exit status."""
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
            raise AssertionError(f"it does not end:\n{self.output}") from None
        self._reader.join(PATIENCE)
        return status


class Service(Program):
    """The service, by its command and on its own reactor; it listens once it is constructed."""

    def __init__(self, folder: Path, arguments: Sequence[str], endpoints: Sequence[str]) -> None:
        """
        @param arguments: the flags of the command.
        @param endpoints: the endpoints that the constructor waits for.
        """
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        super().__init__(
            [sys.executable, "-m", "smtphooks", *arguments],
            {**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            folder,
        )
        try:
            for endpoint in endpoints:
                self.waitForLine("listening on", endpoint)
        except AssertionError:
            self.kill()
            raise

    def memory(self, field: str) -> int:
        """A line of /proc/PID/status in octets: VmRSS, or VmHWM for its peak."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (kilobytes,) = re.findall(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kilobytes) * 1024

    def hangUp(self) -> None:
        """Send SIGHUP, which makes the service read its certificates again."""
        os.kill(self.pid, signal.SIGHUP)

    def forgetPeak(self) -> None:
        """Reset VmHWM."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


def tcp(port: int) -> str:
    """The endpoint of a port on loopback."""
    return f"tcp:{port}:interface=127.0.0.1"


class Stored(NamedTuple):
    """
    A file of a Maildir, parsed.

    @ivar received: the Received field, unfolded.
    @ivar content: the message as it was sent, with LF line ends.
    """

    returnPath: str
    deliveredTo: list[str]
    received: str
    content: bytes


_STORED = re.compile(
    rb"Return-Path: <(.*)>\n((?:Delivered-To: .*\n)*)(Received: .*\n(?:[ \t].*\n)*)((?s:.*))\Z",
)


class Maildir:
    """A Maildir that a service stores in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> list[Path]:
        """The files in C{new/}."""
        return list((self.path / "new").glob("*"))

    def messages(self) -> list[Stored]:
        """The messages in C{new/}, in no order."""
        return list(map(self._read, self.files()))

    def message(self) -> Stored:
        """The only message."""
        (message,) = self.messages()
        return message

    def _read(self, file: Path) -> Stored:
        parts = _STORED.match(file.read_bytes())
        assert parts is not None, file.read_bytes()[:1000]
        returnPath, deliveredTo, received, content = parts.groups()
        return Stored(
            returnPath.decode(),
            re.findall("Delivered-To: (.*)\n", deliveredTo.decode()),
            re.sub(r"\n\s+", " ", received.decode()).strip(),
            content,
        )

    def waitFor(self, count: int) -> list[Stored]:
        """The messages, once there are this many."""
        eventually(lambda: len(self.files()) >= count, f"{count} files in {self.path}/new")
        return self.messages()

    def isTidy(self) -> bool:
        """No file is left in C{tmp/}."""
        return not list((self.path / "tmp").glob("*"))


class Client:
    """A client that sends exactly the octets that a test gives."""

    def __init__(self, port: int, greeting: bytes = b"EHLO client.example") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self.socket.makefile("rb")
        try:
            self.reply(220)
            self.say(greeting, 250)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection without QUIT."""
        self._file.close()
        self.socket.close()

    def reply(self, code: int) -> bytes:
        """The next reply, which must have this code; raises ConnectionError if there is none."""
        lines = []
        for line in iter(self._file.readline, b""):
            lines.append(line)
            if line[3:4] != b"-" and line.endswith(b"\r\n"):
                assert line.startswith(b"%d " % code), lines
                return b"".join(lines)
        raise ConnectionError("the server has left")

    def say(self, line: bytes, code: int) -> bytes:
        """A command and the reply to it."""
        self.socket.sendall(line + b"\r\n")
        return self.reply(code)

    def envelope(self, *recipients: bytes) -> None:
        """Begin a transaction."""
        self.say(b"MAIL FROM:<sender@here.example>", 250)
        for recipient in recipients:
            self.say(b"RCPT TO:<%b>" % recipient, 250)


class Certificates:
    """
    Files with keys and certificates, all signed by one authority.

    @ivar authority: the path of its certificate.
    @ivar server: the options C{key} and C{cert} of mx.example.
    @ivar client: the options C{key} and C{cert} of the user ann.
    @ivar sni: the options C{key} and C{cert} of further names of the server.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._authority = Authority()
        (folder / "ca.pem").write_text(self._authority.pem)
        self.authority = str(folder / "ca.pem")
        self.renew()
        self.server = {"key": str(folder / "server.key"), "cert": str(folder / "server.pem")}
        self.client = self._authority.client("ann").writeTo(folder, "ann")
        self.sni = {"mail.example.org": self._authority.server("mail.example.org").writeTo(folder, "mail")}

    def renew(self) -> None:
        """Write another certificate for the server."""
        names = ["mx.example", "localhost", "127.0.0.1"]
        self._authority.issue("mx.example", names=names).writeTo(self._folder, "server")

    def damage(self) -> None:
        """Truncate the key of the server to a half."""
        key = self._folder / "server.key"
        key.write_bytes(key.read_bytes()[:100])

    def serialOf(self, port: int) -> bytes:
        """The serial number of the certificate that a server with implicit TLS shows."""
        pem = run("openssl", "s_client", "-connect", f"127.0.0.1:{port}").stdout
        return run("openssl", "x509", "-noout", "-serial", stdin=pem).stdout


def reset(connection: socket.socket) -> None:
    """Make a connection end with RST when it is closed, whatever data is still on its way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def hidden(content: bytes) -> bytes:
    """A message with CRLF line ends as DATA sends it: dot-stuffed, with the final dot."""
    return re.sub(rb"^\.", b"..", content, flags=re.MULTILINE) + b".\r\n"


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def table(name: str, values: Mapping[str, object]) -> str:
    """A table of TOML."""
    return "\n".join([f"[{name}]", *(f"{key} = {toml(value)}" for key, value in values.items()), ""])


def joinLines(lines: Sequence[bytes]) -> bytes:
    """Lines joined by CRLF; an empty last line ends the one before it."""
    return b"\r\n".join(lines)
