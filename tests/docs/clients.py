"""Clients in memory for the factories that pages make."""

from __future__ import annotations

from base64 import b64encode

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from smtphooks import SMTPServerFactory
from tests.support import Client, Transport


def clientOf(factory: SMTPServerFactory, address: str = "192.0.2.7", read: bool = True) -> Client:
    """A client that has been greeted, and has read that or not."""
    factory.clock = Clock()  # type: ignore[assignment]
    client = Client(factory, Transport(peerAddress=IPv4Address("TCP", address, 50000)))
    if read:
        client.replies()
    return client


def secureClientOf(factory: SMTPServerFactory) -> Client:
    """A client whose session says that it is over TLS."""
    client = clientOf(factory)
    client.session.secure = True
    client.say("EHLO client.test")
    return client


def plain(username: str, password: str) -> str:
    """AUTH PLAIN with an initial response."""
    return f"AUTH PLAIN {b64encode(f'{chr(0)}{username}{chr(0)}{password}'.encode()).decode()}"
