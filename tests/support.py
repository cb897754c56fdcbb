"""Helpers for tests of the server: a client in memory, hooks that decide on command, and octets cut into pieces."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from smtphooks import SMTPServerFactory
from smtphooks.connection.calling import HookCaller
from smtphooks.connection.connection import Connection
from smtphooks.connection.pump import Pump
from smtphooks.protocol import SMTPServerProtocol


class Transport(StringTransport):
    """
    A transport that records the calls of the protocol.

    @ivar writes: the octets of each write.
    @ivar flow: "stop" and "go" for each time the protocol paused and resumed reading.
    """

    def __init__(self, hostAddress: Any = None, peerAddress: Any = None) -> None:
        super().__init__(hostAddress, peerAddress or IPv4Address("TCP", "192.0.2.7", 50000))
        self.writes: list[bytes] = []
        self.flow: list[str] = []

    def write(self, data: bytes) -> None:
        assert not self.disconnecting, f"written after the end: {data!r}"
        self.writes.append(data)
        super().write(data)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        self.flow.append("stop")

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self.flow.append("go")


class Client:
    """A client that is connected to a server in memory."""

    def __init__(self, factory: SMTPServerFactory, transport: Transport | None = None) -> None:
        self.factory = factory
        self.transport = transport or Transport()
        self.protocol: SMTPServerProtocol = factory.buildProtocol(None)  # type: ignore[assignment, arg-type]
        self.protocol.makeConnection(self.transport)

    @property
    def session(self) -> Any:
        return self.protocol.session

    @property
    def pump(self) -> Pump:
        """The pump of the server's connection, for what cannot be seen from outside."""
        stage = self.protocol._stage
        assert isinstance(stage, Connection)
        return stage._pump

    @property
    def clock(self) -> Clock:
        clock = self.factory.clock
        assert isinstance(clock, Clock)
        return clock

    @property
    def isClosed(self) -> bool:
        """The server has closed the connection."""
        return self.transport.disconnecting

    def feed(self, data: bytes) -> None:
        """Octets arrive at the server."""
        assert self.transport.producerState == "producing", "the server does not read now"
        self.protocol.dataReceived(data)

    def replies(self) -> list[str]:
        """The reply lines that have come since the last call."""
        lines = self.transport.value().decode().split("\r\n")
        self.transport.clear()
        assert lines.pop() == "", "half a reply"
        return lines

    def codes(self) -> list[int]:
        """The codes of the replies that have come since the last call."""
        return [int(line[:3]) for line in self.replies() if line[3] == " "]

    def say(self, *lines: str) -> list[str]:
        """Send lines, and return the lines that came back."""
        self.feed("".join(line + "\r\n" for line in lines).encode())
        return self.replies()

    def last(self, *lines: str) -> str:
        """Send lines, and return the last line that came back."""
        return self.say(*lines)[-1]

    def halfClose(self) -> None:
        """The client closes its sending side."""
        self.protocol.readConnectionLost()

    def lose(self, reason: BaseException | None = None) -> None:
        """The connection is lost."""
        self.protocol.connectionLost(Failure(reason or ConnectionLost()))

    def finish(self) -> None:
        """The connection, which the server has closed, ends cleanly."""
        assert self.isClosed
        self.protocol.connectionLost(Failure(ConnectionDone()))


def makeFactory(**given: Any) -> SMTPServerFactory:
    """A factory with a C{Clock} of its own in the place of the reactor."""
    factory = SMTPServerFactory(**{"authOptional": True, "name": "mx.test", **given})
    factory.clock = Clock()  # type: ignore[assignment]
    return factory


def connect(**given: Any) -> Client:
    """A client of a new server, with options and hooks as the factory takes them."""
    return Client(makeFactory(**given))


HELLO = "EHLO client.test"
MAIL = "MAIL FROM:<sender@client.test>"
RCPT = "RCPT TO:<user@mx.test>"
ENVELOPE = (HELLO, MAIL, RCPT)
LMTP_ENVELOPE = ("LHLO client.test", MAIL, RCPT)

# For each hook that can refuse: the lines that lead to its call, and the code of a refusal that names none.
HOOKS: dict[str, tuple[tuple[str, ...], int]] = {
    "onConnect": ((), 554),
    "onHelo": ((HELLO,), 550),
    "onMailFrom": ((HELLO, MAIL), 550),
    "onRcptTo": (ENVELOPE, 550),
    "onData": ((*ENVELOPE, "DATA", "Subject: x", "", "text", "."), 450),
    "onVrfy": ((HELLO, "VRFY user"), 550),
}


class Pending:
    """
    A hook whose decisions are pending until the test makes them.

    @ivar calls: the arguments of each call.
    @ivar cancelled: how many pending decisions were cancelled.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.undecided: list[Deferred[Any]] = []
        self.cancelled = 0

    def __call__(self, *arguments: Any) -> Deferred[Any]:
        self.calls.append(arguments)
        decision: Deferred[Any] = Deferred(self._cancel)
        self.undecided.append(decision)
        return decision

    def _cancel(self, decision: Deferred[Any]) -> None:
        self.cancelled += 1
        self.undecided.remove(decision)

    def decide(self, result: Any = None) -> None:
        """Make the oldest pending decision; an exception is raised by the hook."""
        self.undecided.pop(0).callback(Failure(result) if isinstance(result, BaseException) else result)


class Diary(list[str]):
    """The names of hooks, in the order in which they were called."""

    def hook(self, name: str, result: Any = None) -> Callable[..., Any]:
        def note(*arguments: Any) -> Any:
            self.append(name)
            return result

        return note


class Mailbox(list[bytes]):
    """
    A hook C{onData} that keeps each message that came whole.

    @ivar lost: the exceptions that ended the others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[BaseException] = []

    async def onData(self, stream: Any, session: Any) -> None:
        try:
            message = await stream.read()
        except BaseException as reason:
            self.lost.append(reason)
            raise
        if not stream.sizeExceeded:
            self.append(message)


def tcpPair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection: the server's and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return listening.accept()[0], client


def reset(client: socket.socket) -> None:
    """Close the connection with RST instead of FIN, as if the client's host had crashed."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def cutUp(data: bytes, cuts: list[int]) -> list[bytes]:
    """The octets, cut into pieces."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def callHook(hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The result of a hook, as L{HookCaller} returns it."""
    return HookCaller().call(hook, hook, arguments)
