"""
The writer: replies on their way to the client.

Replies of pipelined commands are gathered and written at once; when the client does not read them, no more are made.
This module knows octets and the transport, not what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from smtphooks.connection.direct import direct, startTLS
from smtphooks.connection.state import wakeNobody

# Octets gathered before they are written in any case.
_MOST = 16384


@implementer(IPushProducer)
class ReplyWriter:
    """
    @ivar unwritten: octets that have been gathered, and not been written yet.
    @ivar atEndOfTurn: calls a function at the end of the reactor's turn; None if the reactor does not tell when that is
        (only smtphooks' own does).
    @ivar isChoked: the client does not read, and the transport holds as much as it may.
    @ivar isClosed: nothing more is written.
    """

    __slots__ = ("_resumed", "_transport", "atEndOfTurn", "isChoked", "isClosed", "unwritten")

    isChoked: bool
    isClosed: bool

    def __init__(self, transport: Any, resumed: Callable[[], None]) -> None:
        """
        @param resumed: called when the client reads again.
        """
        self._transport = direct(transport)
        self.atEndOfTurn: Callable[[Callable[[], None]], None] | None = getattr(
            getattr(transport, "reactor", None), "atEndOfTurn", None
        )
        self._resumed = resumed
        self.unwritten: bytes = b""
        self.isChoked = self.isClosed = False
        self._transport.registerProducer(self, True)

    @property
    def gathered(self) -> int:
        """How many octets have not been written yet."""
        return len(self.unwritten)

    def put(self, octets: bytes) -> None:
        """Something to say; it may wait for more."""
        self.unwritten += octets
        if len(self.unwritten) > _MOST:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        octets = self.unwritten
        if octets:
            self.unwritten = b""
            self._transport.write(octets)

    def startTLS(self, contextFactory: object) -> None:
        """Write what has gathered, the last in the clear; then TLS begins."""
        self.flush()
        self._transport.unregisterProducer()
        self.isChoked = False
        self._transport = startTLS(self._transport, contextFactory)
        self._transport.registerProducer(self, True)

    def close(self) -> None:
        """Write what has gathered, and end the connection when the client has read it."""
        self.isClosed = True
        self.flush()
        # A transport waits for its producer to be done before it closes.
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def letGo(self) -> None:
        """The connection is over: nobody is to be woken, and the transport may still know its producer."""
        self._resumed = wakeNobody
        self._transport = None
        self.unwritten = b""

    def pauseProducing(self) -> None:
        """C{IPushProducer}: the client does not read its replies."""
        self.isChoked = True

    def resumeProducing(self) -> None:
        """C{IPushProducer}: it does again."""
        self.isChoked = False
        self._resumed()

    def stopProducing(self) -> None:
        """C{IPushProducer}: the connection goes away, which the protocol is told as well."""
