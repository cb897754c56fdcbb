"""The writer, on real sockets and without a reactor: what is not written at once waits until the test says so."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Server
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

from smtphooks.writer import ReplyWriter

REPLY = b"250 2.0.0 OK\r\n"
MUCH = REPLY * 500_000


class Reactor:
    """Remembers who waits to write."""

    def __init__(self) -> None:
        self.writers: set[Any] = set()

    def addReader(self, reader: object) -> None:
        """Nobody reads here."""

    removeReader = addReader

    def addWriter(self, writer: object) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: object) -> None:
        self.writers.discard(writer)


class Line:
    """A transport with a writer on this end of a socket, and a client on the other."""

    def __init__(self, wrap: Any = lambda transport: transport) -> None:
        self.client, here = socket.socketpair()
        self.client.setblocking(False)
        self.reactor = Reactor()
        self.transport = Server(here, Protocol(), ("client", 1), None, 1, self.reactor)  # type: ignore[arg-type]
        self.resumed = 0
        self.writer = ReplyWriter(wrap(self.transport), self._resume)

    def _resume(self) -> None:
        self.resumed += 1

    def say(self, octets: bytes) -> None:
        self.writer.put(octets)
        self.writer.flush()

    def arrived(self) -> bytes:
        """What the client can read now."""
        pieces = []
        while True:
            try:
                pieces.append(self.client.recv(1 << 20))
            except BlockingIOError:
                return b"".join(pieces)
            if not pieces[-1]:
                return b"".join(pieces)

    def turn(self) -> None:
        """One turn of the reactor, for who waits to write."""
        for writer in list(self.reactor.writers):
            if writer.doWrite():
                writer.socket.shutdown(socket.SHUT_WR)
                self.reactor.removeWriter(writer)

    def allArrived(self) -> bytes:
        """What the client reads until nobody waits to write any more."""
        pieces = [self.arrived()]
        while self.reactor.writers:
            self.turn()
            pieces.append(self.arrived())
        return b"".join(pieces)

    def end(self) -> None:
        self.client.close()
        self.transport.socket.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.end()


def test_a_reply_is_with_the_client_before_the_reactor_turns(line: Line) -> None:
    line.say(REPLY)
    assert line.arrived() == REPLY
    assert not line.reactor.writers


def test_replies_that_wait_for_each_other_are_written_at_once(line: Line) -> None:
    line.writer.put(b"250 one\r\n")
    line.writer.put(b"250 two\r\n")
    assert line.arrived() == b""
    line.writer.flush()
    assert line.arrived() == b"250 one\r\n250 two\r\n"


def test_a_full_socket_chokes_the_writer_until_all_is_written(line: Line) -> None:
    line.say(MUCH)
    assert line.writer.isChoked
    assert line.resumed == 0
    assert line.allArrived() == MUCH
    assert not line.writer.isChoked
    assert line.resumed == 1
    line.say(REPLY)
    assert line.arrived() == REPLY


def test_nothing_overtakes_what_a_full_socket_did_not_take(line: Line) -> None:
    line.say(MUCH)
    line.arrived()  # there is room in the socket again, but octets wait in the transport
    line.say(b"250 last\r\n")
    assert line.allArrived().endswith(REPLY + b"250 last\r\n")


def test_the_writer_chokes_as_often_as_the_socket_is_full(line: Line) -> None:
    for times in (1, 2, 3):
        line.say(MUCH)
        assert line.writer.isChoked
        assert line.allArrived() == MUCH
        assert line.resumed == times


@pytest.mark.parametrize("replies", [REPLY, MUCH], ids=["a reply", "more than the socket takes"])
def test_the_connection_ends_behind_the_last_reply(line: Line, replies: bytes) -> None:
    line.writer.put(replies)
    line.writer.close()
    assert line.allArrived() == replies
    assert line.transport.disconnecting
    assert line.client.recv(1) == b""


def test_a_client_that_has_gone_is_the_transport_s_to_find_out(line: Line) -> None:
    line.client.close()
    line.say(REPLY)
    assert line.writer.isChoked
    (waiting,) = line.reactor.writers
    assert isinstance(waiting.doWrite(), Exception)


def test_a_wrapper_that_passes_everything_on_is_not_passed_by() -> None:
    """As that of TLS does: what went past it to the socket would be in the clear."""
    written = []

    class Wrapper(ProtocolWrapper):
        def write(self, data: bytes) -> None:
            written.append(data)

    def wrap(transport: Server) -> Wrapper:
        wrapper = Wrapper(WrappingFactory(None), Protocol())  # type: ignore[arg-type]
        wrapper.transport = transport
        assert wrapper.writeSomeData == transport.writeSomeData
        return wrapper

    line = Line(wrap)
    line.say(REPLY)
    assert written == [REPLY]
    assert line.arrived() == b""
    line.end()


def test_a_transport_that_encrypts_is_not_passed_by() -> None:
    def encrypt(transport: Server) -> Server:
        transport.TLS = True
        transport.protocol = Encrypting()
        return transport

    class Encrypting(Protocol):
        def write(self, data: bytes) -> None:
            self.written = data

        def registerProducer(self, producer: object, streaming: bool) -> None:
            assert streaming

    line = Line(encrypt)
    line.say(REPLY)
    assert line.transport.protocol.written == REPLY  # type: ignore[attr-defined]
    assert line.arrived() == b""
    line.end()
