"""
TLS on one connection: where it begins, whether its handshake is done, and what it has brought.

This module knows transports of Twisted and the session; it knows no command and no reply.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import ISSLTransport, ITLSTransport
from twisted.python.failure import Failure

from smtphooks.connection.wrappers import isHandshakeDone
from smtphooks.session import Session
from smtphooks.tls.failure import explainHandshakeFailure
from smtphooks.tls.peer import record


class Encryption:
    """
    @ivar beganBelow: the endpoint has begun TLS, as C{ssl:} does.
    @ivar isDone: the handshake that was begun last is done.
    """

    __slots__ = ("_transport", "beganBelow", "isDone")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.beganBelow: bool = ISSLTransport.providedBy(transport)
        self.isDone: bool = self.beganBelow and self.isHandshakeDone

    @property
    def isHandshakeDone(self) -> bool:
        """The client has finished its side of the handshake; a wrapper may not have passed this on."""
        return isHandshakeDone(self._transport)

    @property
    def canBegin(self) -> bool:
        """The transport can begin TLS."""
        return bool(ITLSTransport.providedBy(self._transport))

    def record(self, session: Session) -> None:
        """Let the session say what the handshake has brought."""
        record(self._transport.getHandle(), session)

    def explain(self, reason: Failure) -> str:
        """Why the handshake failed, for the log."""
        return explainHandshakeFailure(reason, self._transport.getHandle())
