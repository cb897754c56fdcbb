"""
Direct writing, by the writer and on real sockets, without a reactor: what is not written at once waits until the test
says so.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from twisted.internet import unix
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Server
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure

from smtphooks.connection.direct import direct
from smtphooks.connection.writer import ReplyWriter
from tests.certificates import Authority
from tests.support import makeFactory

SERVER = Authority().server("mx.test")

REPLY = b"250 2.0.0 OK\r\n"
MUCH = REPLY * 500_000


class Reactor:
    """Remembers who waits to read or to write, and what is to be called in its next turn."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.calls: list[Callable[[], object]] = []

    def callLater(self, delay: float, call: Callable[..., object], *arguments: object) -> None:
        assert delay == 0
        self.calls.append(partial(call, *arguments))

    def addReader(self, reader: object) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.discard(reader)

    def addWriter(self, writer: object) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: object) -> None:
        self.writers.discard(writer)


class Line:
    """A transport with a writer on this end of a socket, and a client on the other."""

    def __init__(self, wrap: Any = lambda transport: transport) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = socket.create_connection(listening.getsockname())
            self.here, _ = listening.accept()
        self.client.setblocking(False)
        self.reactor = Reactor()
        self.transport = Server(self.here, Protocol(), ("client", 1), None, 1, self.reactor)  # type: ignore[arg-type]
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
        """One turn of the reactor."""
        calls, self.reactor.calls = self.reactor.calls, []
        for call in calls:
            call()
        for writer in list(self.reactor.writers):
            if writer.doWrite():
                writer.socket.shutdown(socket.SHUT_WR)
                self.reactor.removeWriter(writer)

    def allArrived(self) -> bytes:
        """What the client reads until nobody waits to write any more."""
        pieces = [self.arrived()]
        while self.reactor.writers or self.reactor.calls:
            self.turn()
            pieces.append(self.arrived())
        return b"".join(pieces)

    def end(self) -> None:
        self.client.close()
        self.here.close()


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


def test_a_socket_with_nothing_left_to_write_is_not_watched_for_its_end(line: Line) -> None:
    line.writer.put(REPLY)
    line.writer.close()
    assert not line.reactor.writers
    assert line.transport.connected
    line.turn()
    assert not line.transport.connected


@pytest.mark.parametrize("flow", ["resumeProducing", "pauseProducing"])
def test_a_reactor_that_stops_before_the_end_still_knows_the_connection(line: Line, flow: str) -> None:
    """Twisted tells those of their end that it watches, and so C{onClose} is called."""
    getattr(line.transport, flow)()
    line.writer.put(REPLY)
    line.writer.close()
    assert line.transport in line.reactor.readers | line.reactor.writers
    line.turn()
    assert not line.reactor.readers | line.reactor.writers


def test_what_was_written_past_the_writer_is_written_before_the_end(line: Line) -> None:
    line.transport.write(MUCH)
    line.writer.close()
    assert line.allArrived() == MUCH
    assert line.client.recv(1) == b""


@pytest.mark.parametrize("again", ["loseConnection", "abortConnection"])
def test_a_connection_ends_once_however_often_it_is_ended(line: Line, again: str) -> None:
    ends: list[Failure] = []
    line.transport.protocol.connectionLost = ends.append  # type: ignore[method-assign, assignment]
    line.writer.close()
    line.writer._transport.loseConnection()
    getattr(line.transport, again)()
    line.transport.resumeProducing()
    assert line.allArrived() == b""
    assert [failure.type for failure in ends] == [ConnectionDone]


def test_a_client_that_has_gone_is_the_transport_s_to_find_out(line: Line) -> None:
    line.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.client.close()
    line.say(REPLY)
    assert line.writer.isChoked
    (waiting,) = line.reactor.writers
    assert isinstance(waiting.doWrite(), Exception)


def test_a_reply_that_follows_another_waits_for_no_acknowledgement(line: Line) -> None:
    assert line.transport.getTcpNoDelay()


def test_a_unix_socket_is_written_to_directly_as_well() -> None:
    client, here = socket.socketpair()
    transport = unix.Server(here, Protocol(), None, None, 1, Reactor())  # type: ignore[arg-type]
    writer = ReplyWriter(transport, lambda: None)
    writer.put(REPLY)
    writer.flush()
    assert client.recv(100) == REPLY
    client.close()
    here.close()


def test_nothing_is_written_to_a_connection_that_is_gone(line: Line) -> None:
    line.transport.connectionLost(Failure(ConnectionDone()))
    line.say(REPLY)
    assert line.arrived() == b""


def test_a_wrapper_that_passes_everything_on_is_not_passed_by(line: Line) -> None:
    """As that of TLS does: what went past it to the socket would be in the clear."""
    wrapper = ProtocolWrapper(WrappingFactory(None), Protocol())  # type: ignore[arg-type]
    wrapper.transport = line.transport
    assert wrapper.writeSomeData == line.transport.writeSomeData
    assert direct(wrapper) is wrapper


def test_a_transport_that_encrypts_already_is_not_passed_by(line: Line) -> None:
    line.transport.TLS = True
    assert direct(line.transport) is line.transport


# --- TLS ---


class Secured:
    """A client's end of TLS, with no socket of its own: octets go in and out by hand."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    def shakeHands(self) -> None:
        for _ in range(10):
            self.incoming.write(self.line.arrived())
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                self.deliver()
                return
            self.deliver()
        raise AssertionError("the handshake does not end")

    def deliver(self) -> None:
        self.line.client.sendall(self.outgoing.read())
        self.line.transport.doRead()

    def arrived(self) -> bytes:
        """What the client can read now, in the clear."""
        self.incoming.write(self.line.arrived())
        pieces = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while piece := self.tls.read(1 << 20):
                pieces.append(piece)
        return b"".join(pieces)


@pytest.fixture
def context() -> Any:
    return makeFactory(key=SERVER.key, cert=SERVER.cert).server.secureContext


def test_over_tls_too_a_reply_is_with_the_client_before_the_reactor_turns(line: Line, context: Any) -> None:
    line.writer.startTLS(context)
    secured = Secured(line)
    secured.shakeHands()
    line.say(REPLY)
    assert not line.reactor.writers
    assert secured.arrived() == REPLY


def test_over_tls_a_full_socket_chokes_the_writer_and_nothing_is_overtaken(line: Line, context: Any) -> None:
    line.writer.startTLS(context)
    secured = Secured(line)
    secured.shakeHands()
    line.say(MUCH)
    assert line.writer.isChoked
    line.say(b"250 last\r\n")
    arrived = secured.arrived()
    while line.reactor.writers:
        line.turn()
        arrived += secured.arrived()
    assert arrived == MUCH + b"250 last\r\n"
    assert not line.writer.isChoked
    assert line.resumed == 1


def test_tls_that_begins_behind_a_full_socket_overtakes_nothing(line: Line, context: Any) -> None:
    line.say(MUCH)
    assert line.writer.isChoked
    line.writer.startTLS(context)
    assert line.writer.isChoked
    assert line.allArrived() == MUCH
    assert not line.writer.isChoked
    secured = Secured(line)
    secured.shakeHands()
    line.say(REPLY)
    assert secured.arrived() == REPLY


def test_over_tls_the_connection_ends_behind_the_last_reply(line: Line, context: Any) -> None:
    line.writer.startTLS(context)
    secured = Secured(line)
    secured.shakeHands()
    line.writer.put(REPLY)
    line.writer.close()
    assert secured.arrived() == REPLY
    assert secured.tls.read(1) == b""  # and not that more is to come
