"""
The flow: the client is stopped while what it has sent cannot be used yet, so that memory stays bounded (invariant 6).

While it is stopped because a hook does not take its message, the time that passes is the hook's and not the client's.
This module knows how much waits where, and neither commands nor replies.
"""

from __future__ import annotations

import errno
import select
from socket import SO_ERROR, SOL_SOCKET
from typing import Any

from smtphooks.connection.message import Receiver
from smtphooks.connection.patience import Patience
from smtphooks.connection.writer import ReplyWriter
from smtphooks.syntax.wire import Wire

# Octets that may wait behind an undecided hook before the client is stopped.
_AHEAD = 16384

# Octets that may wait for C{onData} while the client may still say something, between two chunks of its message: with
# what is read then (at most 64 KiB), less than 128 KiB in all.
_BEHIND = 61440

# What a router said of a packet that was lost on the way: TCP sends it again (RFC 5461 section 2).
_SOFT_ERRORS = frozenset({0, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EPROTO})


class Flow:
    """
    @ivar isStopped: the transport reads no more for now.
    """

    __slots__ = ("_patience", "_receiver", "_transport", "_wire", "_writer", "isStopped")

    def __init__(self, transport: Any, wire: Wire, receiver: Receiver, writer: ReplyWriter, patience: Patience) -> None:
        self._transport = transport
        self._wire = wire
        self._receiver = receiver
        self._writer = writer
        self._patience = patience
        self.isStopped = False

    @property
    def buffered(self) -> int:
        """Octets of the client that this connection holds, read from the network and not used yet."""
        return self._wire.buffered + self._receiver.buffered

    def adjust(self, *, isDecided: bool, mayCommand: bool) -> None:
        """
        Stop or start the client, and say whose the time is.

        @param isDecided: what the client sends can be used; no hook has to decide before.
        @param mayCommand: what the client sends next is a command.
        """
        receiver, patience = self._receiver, self._patience
        isFull = not receiver.hasRoom and (not mayCommand or receiver.buffered > _BEHIND)
        if not isDecided:
            self._stop(isFull or self._writer.isChoked or self.buffered >= _AHEAD)
            return
        if isFull:
            patience.hookIsSlow()
        elif patience.isHookSlow and mayCommand:
            patience.forChunk()
        elif patience.isHookSlow:
            patience.hookIsBack(receiver.octets)
        self._stop(isFull or self._writer.isChoked)

    def _stop(self, stop: bool) -> None:
        if stop is not self.isStopped:
            self.isStopped = stop
            if stop:
                self._transport.pauseProducing()
            else:
                self._transport.resumeProducing()

    def stop(self) -> None:
        """Whatever there is room for: no more is wanted."""
        self._stop(True)

    def start(self) -> None:
        """Whatever waits: the connection ends, and TLS does so only when the client has said so too."""
        self._stop(False)

    @property
    def isBroken(self) -> bool:
        """The client has gone; a transport that reads nothing does not notice it, so the socket is asked."""
        socket = getattr(self._transport, "socket", None)
        if socket is None:
            return False
        poll = select.poll()
        poll.register(socket, 0)  # what is asked for here is reported in any case
        event = sum(event for _, event in poll.poll(0))
        if event & select.POLLERR:
            return socket.getsockopt(SOL_SOCKET, SO_ERROR) not in _SOFT_ERRORS
        return event & select.POLLHUP != 0
