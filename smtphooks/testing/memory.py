"""
Memory in the place of a connection: the transport that a server writes to, and the replies that a client reads from it.

In: what the client sends, handed to the server as it would arrive from a socket, and not while the server has paused
the client.  Out: L{ReceivedReply} by L{ReceivedReply}.
This module knows neither commands nor hooks, and no reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks.client.reply import ReceivedReply, ReplyReader

# What a transport of Twisted reads at once.
_PIECE = 65536


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """
    The server's transport, and the client's end of it.

    @ivar isClosed: one of the two has closed the connection.
    @ivar last: the last reply that was taken, None before the first.
    """

    def __init__(self, peer: str, changed: Callable[[], object]) -> None:
        """
        @param peer: the IP address of the client.
        @param changed: called when the server has written, reads again, or has closed the connection.
        """
        self.isClosed: bool = False
        self.last: ReceivedReply | None = None
        self._peer = peer
        self._changed = changed
        self._protocol: Any = None
        self._replies = ReplyReader()
        self._unsent = b""
        self._isPaused = False
        self._isLost = False
        self._reason: Exception = ConnectionDone()

    # --- the client's end ---

    def connect(self, protocol: Any) -> None:
        """Connect the server."""
        self._protocol = protocol
        protocol.makeConnection(self)

    def send(self, octets: bytes) -> None:
        """Send octets, as soon as the server is L{pump}ed."""
        self._unsent += octets

    def pump(self) -> None:
        """Let the server read what was sent, as long as it wants to, and know of the end of the connection."""
        while self._unsent and not self._isPaused and not self.isClosed:
            piece, self._unsent = self._unsent[:_PIECE], self._unsent[_PIECE:]
            self._protocol.dataReceived(piece)
        if self.isClosed and not self._isLost:
            self._isLost = True
            self._protocol.connectionLost(Failure(self._reason))

    def takeReplies(self) -> list[ReceivedReply]:
        """The replies that have come since the last call."""
        replies = [*iter(self._replies.maybeReply, None)]
        if replies:
            self.last = replies[-1]
        return replies

    # --- the server's end ---

    def write(self, data: bytes) -> None:
        """C{ITransport}: the client reads them at once."""
        if not self.isClosed:
            self._replies.add(data)
            self._changed()

    def writeSequence(self, data: Any) -> None:
        """C{ITransport}: the client reads them at once."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """C{ITransport}: end the connection."""
        self._close(ConnectionDone())

    def abortConnection(self) -> None:
        """C{ITCPTransport}: end the connection by force."""
        self._close(ConnectionAborted())

    def _close(self, reason: Exception) -> None:
        if not self.isClosed:
            self.isClosed = True
            self._reason = reason
            self._changed()

    def pauseProducing(self) -> None:
        """C{IPushProducer}: the server reads no more for now."""
        self._isPaused = True

    def resumeProducing(self) -> None:
        """C{IPushProducer}: the server reads on."""
        self._isPaused = False
        self._changed()

    def stopProducing(self) -> None:
        """C{IPushProducer}: the server reads no more."""
        self.loseConnection()

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """C{IConsumer}: the client reads at once, so the producer is never paused."""

    def unregisterProducer(self) -> None:
        """C{IConsumer}: no more will be written."""

    def getPeer(self) -> Any:
        """C{ITransport}: the address of the client."""
        return _address(self._peer, 50000)

    def getHost(self) -> Any:
        """C{ITransport}: the address of the server."""
        return _address("2001:db8::25" if ":" in self._peer else "192.0.2.25", 25)

    def getHandle(self) -> None:
        """There is neither a socket nor TLS."""


def _address(host: str, port: int) -> IPv4Address | IPv6Address:
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)
