"""
The writer: replies on their way to the client.

Replies of pipelined commands are gathered and written at once; when the client does not read them, no more are made.
On plain TCP they go to the socket directly: to wait until the reactor says that it is writable, as it nearly always is,
costs more than all the rest of a command.
This module knows octets and the transport, not what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.tcp import Connection
from zope.interface import implementer

# Octets gathered before they are written in any case.
_MOST = 16384


@implementer(IPushProducer)
class ReplyWriter:
    """
    @ivar isChoked: the client does not read, and the transport holds as much as it may.
    """

    __slots__ = ("_gathered", "_isDirect", "_resumed", "_transport", "isChoked")

    def __init__(self, transport: Any, resumed: Callable[[], None]) -> None:
        """
        @param resumed: called when the client reads again.
        """
        self._transport = transport
        self._resumed = resumed
        self._gathered = b""
        self.isChoked = False
        # A wrapper, such as that of TLS, passes writeSomeData on to what it wraps, and is itself passed by.
        self._isDirect = isinstance(transport, Connection) and not transport.TLS
        if not self._isDirect:
            transport.registerProducer(self, True)

    @property
    def gathered(self) -> int:
        """How many octets have not been written yet."""
        return len(self._gathered)

    def put(self, octets: bytes) -> None:
        """Something to say; it may wait for more."""
        self._gathered += octets
        if len(self._gathered) > _MOST:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        octets = self._gathered
        if octets:
            self._gathered = b""
            if not self._isDirect or self.isChoked:
                self._transport.write(octets)
                return
            sent = self._transport.writeSomeData(octets)
            if sent != len(octets):
                # What is no number is an error, which the transport meets again and ends the connection for.
                self._choke(octets[sent:] if isinstance(sent, int) else octets)

    def _choke(self, octets: bytes) -> None:
        """Leave to the transport what the socket does not take."""
        self._transport.write(octets)
        # As a pull producer, to be told when all of it is written and nothing can be overtaken any more.
        self._transport.registerProducer(self, False)
        self.isChoked = True

    def startTLS(self, contextFactory: object) -> None:
        """Write what has gathered, the last in the clear; then TLS begins."""
        self.flush()
        if self._isDirect:
            self._isDirect = False
            self._letGo()
            self._transport.startTLS(contextFactory)
            self._transport.registerProducer(self, True)
        else:
            self._transport.startTLS(contextFactory)

    def close(self) -> None:
        """Write what has gathered, and end the connection when the client has read it."""
        self.flush()
        # A transport waits for its producer to be done before it closes.
        if self._isDirect:
            self._letGo()
        else:
            self._transport.unregisterProducer()
        self._transport.loseConnection()

    def _letGo(self) -> None:
        if self.isChoked:
            self.isChoked = False
            self._transport.unregisterProducer()

    def pauseProducing(self) -> None:
        """C{IPushProducer}: the client does not read its replies."""
        self.isChoked = True

    def resumeProducing(self) -> None:
        """C{IPushProducer}: it does again."""
        if not self.isChoked:
            return  # so a pull producer is greeted
        if self._isDirect:
            self._transport.unregisterProducer()
        self.isChoked = False
        self._resumed()

    def stopProducing(self) -> None:
        """C{IPushProducer}: the connection goes away, which the protocol is told as well."""
