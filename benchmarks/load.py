"""
The load: Postfix's C{smtp-source} for the plain dialogue, and a generator of our own for what it cannot send.

Ours runs a few connections in lock-step: it sends one step on all of them, then reads the replies of each.  The octets
to send are prepared in advance, and the code of every reply is checked.
This module knows a port and the commands to send there; it knows no server, and measures only the times of replies.
"""

from __future__ import annotations

import base64
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from benchmarks import measure

HOST = "127.0.0.1"
TIMEOUT = 60.0

Codes = tuple[int, ...]
# Octets that are sent in one piece, and the codes of the replies to them.
Step = tuple[bytes, Codes]

L = TypeVar("L", bound="Load")


class LoadError(Exception):
    """The server sent an unexpected reply, or closed the connection."""


class Load(Protocol):
    """
    One burst.

    @ivar count: messages or connections in it.
    """

    @property
    def count(self) -> int: ...

    def run(self, port: int) -> None: ...

    def scaled(self: L, scale: float) -> L: ...


@dataclass(frozen=True)
class SmtpSource:
    """
    A burst by C{smtp-source}, which waits for each reply.

    @ivar length: octets of each message.
    @ivar kept: whether a connection is kept for the next message.
    """

    count: int
    length: int
    recipients: int = 1
    kept: bool = True
    lmtp: bool = False
    sessions: int = 20

    def run(self, port: int) -> None:
        """@raise RuntimeError: C{smtp-source} may run on another core than that of the load."""
        numbers = {"-s": self.sessions, "-m": self.count, "-l": self.length, "-r": self.recipients}
        command = ["smtp-source", *(f"{option}{number}" for option, number in numbers.items())]
        command += ["-Mclient.example", "-fsender@client.example", "-trecipient@mx.example"]
        command += ["-d"] * self.kept + ["-L"] * self.lmtp + [f"inet:{HOST}:{port}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                measure.checkLoad(process.pid)
                _, errors = process.communicate(timeout=TIMEOUT)
            except BaseException:
                process.kill()
                raise
        if process.returncode or errors:
            raise LoadError(f"{' '.join(command)}: {errors.strip()}")

    def scaled(self, scale: float) -> SmtpSource:
        return replace(self, count=max(round(self.count * scale), self.sessions))


def smtpSourceMissing() -> bool:
    return shutil.which("smtp-source") is None


class Connection:
    """A client's connection, blocking."""

    def __init__(self, port: int, greeting: str = "EHLO") -> None:
        self._socket: socket.socket = socket.create_connection((HOST, port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._hello = f"{greeting} client.example\r\n".encode()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def expect(self, codes: Codes) -> list[bytes]:
        """The lines of the next replies, which must have these codes."""
        lines = []
        for code in codes:
            while True:
                lines.append(line := self._line())
                if line[3:4] != b"-":
                    break
            if line[:3] != b"%d" % code:
                raise LoadError(f"{line.decode(errors='replace')} came instead of {code}")
        return lines

    def _line(self) -> bytes:
        while b"\n" not in self._received:
            data = self._socket.recv(65536)
            if not data:
                raise LoadError("the server closed the connection")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.rstrip()

    def say(self, line: bytes, code: int) -> list[bytes]:
        self.send(line + b"\r\n")
        return self.expect((code,))

    def hello(self) -> frozenset[str]:
        """Send EHLO; the result is the keywords in the reply."""
        self.send(self._hello)
        return frozenset(line[4:].decode().partition(" ")[0] for line in self.expect((250,))[1:])

    def startTLS(self, context: ssl.SSLContext) -> None:
        self.say(b"STARTTLS", 220)
        self._socket = context.wrap_socket(self._socket)

    def close(self) -> None:
        self._socket.close()


def connections(port: int, count: int, greeting: str = "EHLO", atOnce: int = 100) -> list[Connection]:
    """Connections after the greeting and EHLO."""
    made: list[Connection] = []
    while len(made) < count:
        group = [Connection(port, greeting) for _ in range(min(atOnce, count - len(made)))]
        for connection in group:
            connection.expect((220,))
        for connection in group:
            connection.hello()
        made += group
    return made


def tlsContext() -> ssl.SSLContext:
    """A context for full handshakes, without resumption, that accepts a self-signed certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_ENVELOPE = [b"MAIL FROM:<sender@client.example>\r\n", b"RCPT TO:<recipient@mx.example>\r\n"]
_MESSAGE = b"Subject: benchmark\r\n\r\n" + (b"X" * 78 + b"\r\n") * 12 + b"X" * 38 + b"\r\n"  # 1 KB
_CREDENTIALS = base64.b64encode(b"\0user\0password")

# A message from a client that waits for every reply, from one that pipelines, and from one that uses CHUNKING.
SEQUENTIAL: tuple[Step, ...] = (
    (_ENVELOPE[0], (250,)),
    (_ENVELOPE[1], (250,)),
    (b"DATA\r\n", (354,)),
    (_MESSAGE + b".\r\n", (250,)),
)
PIPELINED: tuple[Step, ...] = ((b"".join([*_ENVELOPE, b"DATA\r\n"]), (250, 250, 354)), SEQUENTIAL[-1])
CHUNKED: tuple[Step, ...] = ((b"".join([*_ENVELOPE, b"BDAT %d LAST\r\n" % len(_MESSAGE), _MESSAGE]), (250, 250, 250)),)


def inStep(group: Sequence[Connection], steps: Sequence[Step]) -> None:
    for data, codes in steps:
        for connection in group:
            connection.send(data)
        for connection in group:
            connection.expect(codes)


@dataclass(frozen=True)
class Dialogue:
    """
    A burst of our own generator.

    @ivar steps: the steps of a message; empty if the connections themselves are the load.
    @ivar kept: whether a connection is kept for the next message.
    """

    count: int
    steps: tuple[Step, ...] = ()
    kept: bool = True
    tls: bool = False
    auth: bool = False
    sessions: int = 8

    def run(self, port: int) -> None:
        context = tlsContext()
        turns = self.count // self.sessions
        for _ in range(1 if self.kept else turns):
            group = connections(port, self.sessions)
            try:
                self._begin(group, context)
                for _ in range(turns if self.kept else 1):
                    inStep(group, self.steps)
                inStep(group, [(b"QUIT\r\n", (221,))])
            finally:
                for connection in group:
                    connection.close()

    def _begin(self, group: Sequence[Connection], context: ssl.SSLContext) -> None:
        for connection in group:
            if self.tls:
                connection.startTLS(context)
                connection.hello()
            if self.auth:
                connection.say(b"AUTH PLAIN " + _CREDENTIALS, 235)

    def scaled(self, scale: float) -> Dialogue:
        turns = max(round(self.count * scale / self.sessions), 1)
        return replace(self, count=turns * self.sessions)


def latencies(port: int, rate: float, seconds: float, sessions: int = 4) -> list[float]:
    """
    The time of each reply in seconds, at the same load for every server.

    @param rate: messages per second, evenly spaced, on one connection after the other.
    """
    group = connections(port, sessions)
    taken: list[float] = []
    try:
        begin = time.perf_counter()
        for number in range(int(rate * seconds)):
            # Sleeping keeps the load fixed.
            time.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            for data, codes in SEQUENTIAL:
                sent = time.perf_counter()
                group[number % sessions].send(data)
                group[number % sessions].expect(codes)
                taken.append(time.perf_counter() - sent)
        inStep(group, [(b"QUIT\r\n", (221,))])
    finally:
        for connection in group:
            connection.close()
    return taken
