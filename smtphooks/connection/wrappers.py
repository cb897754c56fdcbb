"""
Wrapped transports: what Twisted's wrapping factories (C{twisted.protocols.policies}) do not pass on.

Such a wrapper hands octets on and the end of the connection, but not that a TLS handshake is done, nor that the client
has closed its sending side.  Without the former the protocol would wait for ever.
This module knows transports of Twisted and no SMTP.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import alsoProvides

_EVENTS = ("handshakeCompleted", "readConnectionLost", "writeConnectionLost")


def passOn(transport: Any, protocol: Any) -> None:
    """
    Have every wrapper between a protocol and its connection pass on what it is told.

    @param transport: the transport of the protocol.
    @param protocol: provides C{IHandshakeListener} and C{IHalfCloseableProtocol}.
    """
    # Twisted's TLS is a wrapper as well, and the one that tells.
    while isinstance(transport, ProtocolWrapper) and not isinstance(transport, TLSMemoryBIOProtocol):
        for event in _EVENTS:
            setattr(transport, event, getattr(protocol, event))
        alsoProvides(transport, IHandshakeListener, IHalfCloseableProtocol)
        transport = transport.transport


def isHandshakeDone(transport: Any) -> bool:
    """Has the client finished its side of the TLS handshake, so that what it says now is encrypted?"""
    handle = transport.getHandle()
    return isinstance(handle, SSL.Connection) and handle.get_peer_finished() is not None
