"""
The gate: stands between a server's protocol and its connection, and lets out each reply as it is told to.

The protocol writes replies in batches; the gate takes them apart and does with each what was announced for it: let it
pass, late or not at all, other octets instead, or the end of the connection.  What follows a reply that is late, such
as TLS or the end of the connection, waits with it.
It begins TLS itself, for Twisted's transports would have it run on the reactor of the process.
This module knows a reply only as octets, and neither sessions nor what a fault is for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IHandshakeListener, ITLSTransport
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer


def _nothing() -> None:
    """The default of C{Fate.given}."""


@attrs.frozen
class Fate:
    """
    What becomes of a reply.

    @ivar octets: these come in its place; None for its own.
    @ivar isLate: it waits, and all behind it.
    @ivar seconds: how long; None for ever.
    @ivar cuts: the connection is closed in its place.
    @ivar ends: the connection is closed behind it.
    @ivar given: called when the client is about to be sent the reply itself.
    """

    octets: bytes | None = None
    isLate: bool = False
    seconds: float | None = None
    cuts: bool = False
    ends: bool = False
    given: Callable[[], None] = _nothing


def splitReplies(octets: bytes) -> tuple[list[bytes], bytes]:
    """The replies in these octets that are whole, and the rest (RFC 5321 section 4.2.1)."""
    replies, begin, end = [], 0, 0
    for line in octets.splitlines(keepends=True):
        end += len(line)
        if line.endswith(b"\r\n") and line[3:4] != b"-":
            replies.append(octets[begin:end])
            begin = end
    return replies, octets[begin:]


@implementer(IHandshakeListener, IHalfCloseableProtocol, ITLSTransport)
class Gate(Protocol):
    """
    The protocol of a connection, and the transport of a server's protocol.

    @ivar server: that protocol.
    """

    transport: Any
    factory: GateFactory

    def __init__(self, server: Any) -> None:
        self.server = server
        self._socket: Any = None  # the transport below TLS
        self._isOver = False
        self._waiting: deque[Callable[[], None]] = deque()  # what is done when a late reply has gone out
        self._timer: IDelayedCall | None = None
        self._isHolding = False
        self._unfinished = b""
        self._replies: deque[bytes] = deque()
        self._fates: deque[Fate] = deque()
        self._cutsHandshake = False

    def __getattr__(self, name: str) -> Any:
        # Whatever else a protocol wants of its transport.
        return getattr(self.transport, name)

    # --- for the connection ---

    def connectionMade(self) -> None:
        """A client has connected."""
        self._socket = self.transport
        if isinstance(self._socket.getHost(), (IPv4Address, IPv6Address)):
            # Two writes in a row, as a reply and the end of TLS are, must not wait for a delayed ACK.
            self._socket.setTcpNoDelay(True)
        self.factory.gates.add(self)
        self.server.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        """Octets have arrived."""
        if self._cutsHandshake:
            self._cut()
        elif not self._isOver:
            self.server.dataReceived(data)

    def handshakeCompleted(self) -> None:
        """C{IHandshakeListener}"""
        if not self._isOver:
            self.server.handshakeCompleted()

    def readConnectionLost(self) -> None:
        """C{IHalfCloseableProtocol}: the client sends no more; one that still waits for a late reply has given up."""
        if self._isHolding:
            self._cut()
        elif not self._isOver:
            self.server.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """C{IHalfCloseableProtocol}"""
        self.server.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone; what was late does not matter any more."""
        self._finish()
        self.server.connectionLost(reason)
        self.factory.gates.discard(self)

    # --- for the server's protocol ---

    def announce(self, fate: Fate) -> None:
        """What is to become of the next reply for which nothing was announced; it may have been written already."""
        self._fates.append(fate)
        self._match()

    def write(self, data: bytes) -> None:
        """C{ITransport}: replies, whole or not."""
        replies, self._unfinished = splitReplies(self._unfinished + data)
        self._replies += replies
        self._match()

    def _match(self) -> None:
        while self._replies and self._fates:
            self._do(partial(self._reply, self._replies.popleft(), self._fates.popleft()))

    def startTLS(self, contextFactory: Any) -> None:
        """C{ITLSTransport}"""
        self._do(partial(self._beginTLS, contextFactory))

    def getHandle(self) -> Any:
        """C{ITCPTransport}: that of TLS; None without it, also when the connection and its socket are gone."""
        return self.transport.getHandle() if self.transport is not self._socket else None

    def loseConnection(self) -> None:
        """C{ITransport}"""
        # A server that turns a client away before it has a session announces nothing.
        rest = b"".join(self._replies)
        self._replies.clear()
        self._do(partial(self._close, rest))

    def abortConnection(self) -> None:
        """C{ITCPTransport}"""
        self._finish()
        self.transport.abortConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """C{IConsumer}: nothing; replies are few, and a client that reads none of them is no matter for a test."""

    def unregisterProducer(self) -> None:
        """C{IConsumer}"""

    # --- one after the other ---

    def _do(self, action: Callable[[], None]) -> None:
        if self._isHolding:
            self._waiting.append(action)
        elif not self._isOver:
            action()

    def _reply(self, octets: bytes, fate: Fate) -> None:
        if fate.cuts:
            self._cut()
        elif fate.isLate:
            self._hold(partial(self._reply, octets, attrs.evolve(fate, isLate=False)), fate.seconds)
        elif fate.octets is not None:
            self.transport.write(fate.octets)
        else:
            # First, so that what a reply means is so when the client has it.
            fate.given()
            self.transport.write(octets)
        if fate.ends:
            self._cut()

    def _hold(self, first: Callable[[], None], seconds: float | None) -> None:
        self._isHolding = True
        self._waiting.appendleft(first)
        if seconds is not None:
            self._timer = self.factory.reactor.callLater(seconds, self._goOn)

    def _goOn(self) -> None:
        self._isHolding, self._timer = False, None
        waiting, self._waiting = self._waiting, deque()
        for action in waiting:
            self._do(action)

    def _close(self, rest: bytes) -> None:
        if rest:
            self.transport.write(rest)
        self.transport.loseConnection()

    def _cut(self) -> None:
        """Close the connection below TLS; what was written before goes out."""
        self._finish()
        self._cutsHandshake = False
        self._socket.loseConnection()

    def _finish(self) -> None:
        self._isOver, self._isHolding = True, False
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- TLS ---

    def _beginTLS(self, contextFactory: Any) -> None:
        if self.factory.cutsHandshakes:
            self._cutsHandshake = True
            return
        tlsFactory = TLSMemoryBIOFactory(contextFactory, False, None, self.factory.reactor)  # type: ignore[arg-type]
        # As Twisted's transports begin TLS, but on the reactor at hand; without the buffer that needs a reactor.
        tls = TLSMemoryBIOProtocol(tlsFactory, self, False)
        self.transport = self._socket.protocol = tls
        tls.makeConnection(self._socket)


class GateFactory(ServerFactory):
    """
    Puts a L{Gate} in front of each protocol of a factory.

    @ivar wrapped: that factory.
    @ivar reactor: that of the connections.
    @ivar gates: of the connections that there are.
    @ivar cutsHandshakes: the connection is cut when the client has begun a TLS handshake.
    """

    noisy = False

    def __init__(self, factory: Any, reactor: Any, cutsHandshakes: bool) -> None:
        self.wrapped = factory
        self.reactor = reactor
        self.gates: set[Gate] = set()
        self.cutsHandshakes = cutsHandshakes

    def doStart(self) -> None:
        """A port begins to listen."""
        self.wrapped.doStart()

    def doStop(self) -> None:
        """A port has ended."""
        self.wrapped.doStop()

    def buildProtocol(self, addr: Any) -> Any:
        """A client connects."""
        gate = Gate(self.wrapped.buildProtocol(addr))
        gate.factory = self
        return gate

    def gateOf(self, session: Any) -> Gate | None:
        """The gate of the connection with this session; None if it is gone."""
        return next((gate for gate in self.gates if gate.server.session is session), None)
