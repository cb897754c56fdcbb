"""Replies as a client sees them, and the transport that a server writes them to."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.protocol import Protocol
from zope.interface.verify import verifyObject

from smtphooks.testing.memory import MemoryTransport, ReceivedReply


@pytest.mark.parametrize(
    "lines, code, enhancedCode, texts",
    [
        (["250 2.1.0 Sender OK"], 250, "2.1.0", ("Sender OK",)),
        (["550-5.1.1 No", "550 5.1.1 such user"], 550, "5.1.1", ("No", "such user")),
        (["250-mx.test", "250 SIZE 1000"], 250, None, ("mx.test", "SIZE 1000")),
        (["354 2 or more lines"], 354, None, ("2 or more lines",)),
        (["250 5.1.1 is in the text"], 250, None, ("5.1.1 is in the text",)),
        (["250"], 250, None, ("",)),
    ],
)
def test_a_reply_is_a_text_with_its_parts(
    lines: list[str], code: int, enhancedCode: str | None, texts: tuple[str, ...]
) -> None:
    reply = ReceivedReply(*lines)
    assert (reply.code, reply.enhancedCode, reply.lines) == (code, enhancedCode, texts)
    assert reply == "\n".join(lines) and reply.text == "\n".join(texts)


class Server(Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.ends: list[Any] = []

    def dataReceived(self, data: bytes) -> None:
        self.read.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.ends.append(reason.type.__name__)


class Connected:
    def __init__(self, peer: str = "192.0.2.7") -> None:
        self.changes = 0
        self.transport = MemoryTransport(peer, self._change)
        self.server = Server()
        self.transport.connect(self.server)

    def _change(self) -> None:
        self.changes += 1


def test_it_provides_what_it_says() -> None:
    from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport

    for interface in (ITransport, IConsumer, IPushProducer):
        assert verifyObject(interface, Connected().transport)


def test_octets_arrive_as_from_a_socket_when_the_server_is_pumped() -> None:
    connected = Connected()
    connected.transport.send(b"a" * 65537)
    assert connected.server.read == []
    connected.transport.pump()
    assert [len(piece) for piece in connected.server.read] == [65536, 1]


def test_a_server_that_has_paused_the_client_reads_nothing() -> None:
    connected = Connected()
    connected.transport.pauseProducing()
    connected.transport.send(b"abc")
    connected.transport.pump()
    assert connected.server.read == []
    connected.transport.resumeProducing()
    assert connected.changes == 1
    connected.transport.pump()
    assert connected.server.read == [b"abc"]


def test_replies_are_taken_when_they_are_whole() -> None:
    connected = Connected()
    connected.transport.write(b"250-a\r\n250 b\r\n22")
    assert connected.transport.takeReplies() == ["250-a\n250 b"]
    connected.transport.writeSequence([b"0 c", b"\r\n"])
    assert connected.transport.takeReplies() == ["220 c"] == [connected.transport.last]
    assert connected.transport.takeReplies() == []


@pytest.mark.parametrize(
    "method, reason",
    [
        ("loseConnection", "ConnectionDone"),
        ("abortConnection", "ConnectionAborted"),
        ("stopProducing", "ConnectionDone"),
    ],
)
def test_the_server_learns_once_of_the_end(method: str, reason: str) -> None:
    connected = Connected()
    getattr(connected.transport, method)()
    connected.transport.abortConnection()
    assert connected.transport.isClosed and connected.server.ends == []
    connected.transport.send(b"too late")
    connected.transport.write(b"221 too late\r\n")
    for _ in range(2):
        connected.transport.pump()
    assert connected.server.ends == [reason] and connected.server.read == [] == connected.transport.takeReplies()


@pytest.mark.parametrize("peer, kind", [("198.51.100.1", IPv4Address), ("2001:db8::1", IPv6Address)])
def test_the_peer_has_the_address_that_was_asked_for(peer: str, kind: type) -> None:
    transport = Connected(peer).transport
    assert isinstance(transport.getPeer(), kind) and isinstance(transport.getHost(), kind)
    assert transport.getPeer().host == peer
