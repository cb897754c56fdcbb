"""
Direct writing: what the socket takes at once goes there at once.

Twisted's transports keep what is written until the reactor says that the socket is writable, which it nearly always is:
for each reply two changes of what the reactor watches and one more turn of it, for TLS a delayed call as well.  The
classes here write first, and leave to the transport what the socket does not take.
This module knows transports of Twisted and no SMTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import unix
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer


def direct(transport: Any) -> Any:
    """What to write to instead of a transport, which is itself where nothing better is known."""
    # No wrapper will do: that of TLS hands writeSomeData on to what it wraps, and would be passed by.
    if not isinstance(transport, Connection) or transport.TLS:
        return transport
    if not isinstance(transport, unix.Server):  # older versions of Twisted would ask even those
        # What is written twice in a row, as the last reply and the end of TLS are, must not wait for a delayed ACK.
        transport.setTcpNoDelay(True)
    return DirectTransport(transport, transport)


def startTLS(transport: Any, contextFactory: object) -> Any:
    """
    Begin TLS on what L{direct} gave; no producer is registered with it.

    @return: what to write to from here on.
    """
    if not isinstance(transport, DirectTransport):
        transport.startTLS(contextFactory)
        return transport
    connection = transport.connection
    isFull = transport.isFull
    if isFull:
        connection.unregisterProducer()
    connection.startTLS(contextFactory)
    tls: Any = connection.protocol
    tls.transport = below = DirectTransport(connection, tls.transport)
    if isFull:
        below.waitUntilWritten()
    return DirectTLS(tls)


class DirectTransport:
    """
    Writes to a TCP connection.

    @ivar connection: the owner of the socket.
    @ivar isFull: the transport holds octets that nothing may overtake.
    """

    __slots__ = ("_below", "_producer", "connection", "isFull")

    def __init__(self, connection: Connection, below: Any) -> None:
        """
        @param below: the transport, as it is below TLS if there is any.
        """
        self.connection: Connection = connection
        self._below = below
        self._producer: Any = None
        self.isFull: bool = False

    def write(self, octets: bytes) -> None:
        """C{ITransport}: write them, or as many as the socket takes, and leave the rest to the transport."""
        connection = self.connection
        if self.isFull or not connection.connected:
            self._below.write(octets)
            return
        try:
            sent = connection.socket.send(octets[: connection.SEND_LIMIT])
        except OSError:
            # The socket is full; or it is broken, which the transport will meet again and report.
            sent = 0
        if sent != len(octets):
            self._below.write(octets[sent:])
            self.waitUntilWritten()

    def loseConnection(self) -> None:
        """
        C{ITransport}: close the connection when all has been written.

        For that a transport of Twisted has the reactor watch once more whether the socket is writable, also where there
        is nothing to write.
        """
        connection = self.connection
        isBare = self._below is connection and connection.connected
        # Others may have written past this object.
        if not isBare or connection.dataBuffer or getattr(connection, "_tempDataLen", True):
            self._below.loseConnection()
            return
        connection.disconnecting = 1
        # A reactor that is stopped before the call tells those of their end that it watches, and no others.
        connection.startReading()
        reactor: Any = connection.reactor
        reactor.callLater(0, connection.connectionLost, connectionDone)

    def waitUntilWritten(self) -> None:
        """Let nothing overtake what the transport holds."""
        # Twisted asks a pull producer for more when all has been written; and once as it is registered.
        self._below.registerProducer(_Rest(self._written), False)
        self.isFull = True
        if self._producer is not None:
            self._producer.pauseProducing()

    def _written(self) -> None:
        if self.isFull:
            self.isFull = False
            self._below.unregisterProducer()
            if self._producer is not None:
                self._producer.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """C{IConsumer}: the producer is a push producer, which is paused whenever the socket is full."""
        assert streaming
        self._producer = producer
        if self.isFull:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """C{IConsumer}: no more will come."""
        self._producer = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


@implementer(IPullProducer)
class _Rest:
    """Stands for what was left to the transport."""

    __slots__ = ("resumeProducing",)

    def __init__(self, written: Callable[[], None]) -> None:
        self.resumeProducing = written

    def stopProducing(self) -> None:
        """The connection is gone, which the protocol is told as well."""


class DirectTLS:
    """Writes to TLS what Twisted would gather until its next turn."""

    __slots__ = ("_tls",)

    def __init__(self, tls: TLSMemoryBIOProtocol) -> None:
        self._tls = tls

    def write(self, octets: bytes) -> None:
        """C{ITransport}: encrypt and write them."""
        TLSMemoryBIOProtocol.write(self._tls, octets)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)
