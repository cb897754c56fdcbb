"""The whole server over real sockets: TCP and UNIX, half-closed, aborted, and with sockets as consumers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, clientFromString, connectProtocol, serverFromString
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols.ftp import FileConsumer
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from smtphooks import SMTPError, SMTPServerFactory
from tests.conftest import Logged
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Mailbox, Pending

pytestmark = pytest.mark.usefixtures("logged")

# No test takes this long; a broken one must fail rather than wait for ever.
_HANGS = 30


class Talk(Protocol):
    """
    A client's side of a connection.

    @ivar received: the octets that have come and were not waited for yet.
    @ivar lost: fires when the connection is lost.
    """

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[None] = Deferred()
        self._expected: tuple[bytes, Deferred[None]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def _look(self) -> None:
        if self._expected is not None and self._expected[0] in self.received:
            expected, seen = self._expected
            self._expected = None
            self.received = self.received[self.received.index(expected) + len(expected) :]
            seen.callback(None)

    def until(self, expected: bytes) -> Deferred[None]:
        """Wait for these octets, and drop everything up to their end."""
        seen: Deferred[None] = Deferred()
        seen.addTimeout(_HANGS, reactor)  # type: ignore[arg-type]
        self._expected = (expected, seen)
        self._look()
        return seen

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)

    def say(self, *lines: str) -> None:
        self.transport.write("".join(line + "\r\n" for line in lines).encode())  # type: ignore[union-attr]


class Server:
    """
    A server on a real socket.

    @ivar ended: fires with the session when a connection has ended.
    """

    def __init__(self, **given: Any) -> None:
        self.ended: Deferred[Any] = Deferred()
        given.setdefault("onClose", self.ended.callback)
        self.factory = SMTPServerFactory(authOptional=True, name="mx.test", **given)
        self.port: Any = None

    async def listen(self, description: str = "tcp:0:interface=127.0.0.1") -> None:
        self.port = await serverFromString(reactor, description).listen(self.factory)

    async def connect(self) -> Talk:
        return await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port), Talk())

    async def stop(self) -> None:
        await maybeDeferred(self.port.stopListening)
        for connection in list(self.factory.connections):
            connection.abort()
        await self.factory.close()


def served(test: Callable[..., Any], **_: Any) -> Any:
    """Run a test with C{serve}, which starts servers; they are stopped when the test ends."""

    @pytest_twisted.ensureDeferred
    async def run(logged: Logged, tmp_path: Path) -> None:
        servers: list[Server] = []

        async def serve(description: str = "tcp:0:interface=127.0.0.1", **given: Any) -> Server:
            server = Server(**given)
            await server.listen(description)
            servers.append(server)
            return server

        try:
            wanted = {"serve": serve, "logged": logged, "tmp_path": tmp_path}
            names = test.__code__.co_varnames[: test.__code__.co_argcount]
            await test(**{name: wanted[name] for name in names})
        finally:
            for server in servers:
                await server.stop()

    run.__name__ = test.__name__
    return run


@served
async def test_a_message_comes_by_tcp(serve: Any) -> None:
    mailbox = Mailbox()
    server = await serve(onData=mailbox.onData)
    client = await server.connect()
    await client.until(b"220 mx.test ESMTP\r\n")
    client.say(*ENVELOPE, "DATA")
    await client.until(b"354 ")
    client.say("Subject: x", "", "..text", ".", "QUIT")
    await client.until(b"250 2.0.0 Message accepted\r\n221 2.0.0 Bye\r\n")
    await client.lost
    session = await server.ended
    assert mailbox == [b"Subject: x\r\n\r\n.text\r\n"]
    assert session.remoteAddress == session.localAddress == "127.0.0.1"
    assert session.localPort == server.port.getHost().port
    assert not server.factory.connections


@served
async def test_a_message_comes_by_a_unix_socket(serve: Any, tmp_path: Path) -> None:
    mailbox = Mailbox()
    path = tmp_path / "lmtp.sock"
    server = await serve(f"unix:{path}:mode=660", onData=mailbox.onData, lmtp=True)
    client = await connectProtocol(clientFromString(reactor, f"unix:{path}"), Talk())
    client.say("LHLO client.test", MAIL, RCPT, RCPT, "DATA", "text", ".", "QUIT")
    await client.until(b"250 2.0.0 Message accepted\r\n" * 2 + b"221 2.0.0 Bye\r\n")
    await client.lost
    session = await server.ended
    assert mailbox == [b"text\r\n"]
    assert (session.remoteAddress, session.localAddress) == ("", str(path))


@served
async def test_a_client_that_closes_its_sending_side_gets_all_replies(serve: Any) -> None:
    """As C{printf … | nc} does."""
    onMailFrom = Pending()
    mailbox = Mailbox()
    server = await serve(onMailFrom=onMailFrom, onData=mailbox.onData)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA", "text", ".", "NOOP")
    client.transport.loseWriteConnection()
    await client.until(b"250 BINARYMIME\r\n")
    while not server.factory.connections or not next(iter(server.factory.connections))._stage.state.inputEnded:
        await deferLater(reactor, 0)
    onMailFrom.decide()
    await client.until(b"250 2.0.0 Message accepted\r\n250 2.0.0 OK\r\n")
    await client.lost
    await server.ended
    assert mailbox == [b"text\r\n"]


@served
async def test_a_message_that_is_half_closed_is_cut(serve: Any) -> None:
    mailbox = Mailbox()
    server = await serve(onData=mailbox.onData)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA", "half")
    await client.until(b"354 ")
    client.transport.loseWriteConnection()
    await client.lost
    await server.ended
    assert mailbox == []
    assert [type(reason) for reason in mailbox.lost] == [ConnectionLost]


@served
async def test_a_client_that_aborts_within_a_message_cuts_it(serve: Any) -> None:
    mailbox = Mailbox()
    server = await serve(onData=mailbox.onData)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA", "half")
    await client.until(b"354 ")
    client.transport.abortConnection()
    await server.ended
    assert mailbox == []
    assert [type(reason) for reason in mailbox.lost] == [ConnectionLost]


@served
async def test_a_client_that_aborts_cancels_the_hook_that_it_waited_for(serve: Any) -> None:
    onRcptTo = Pending()
    server = await serve(onRcptTo=onRcptTo)
    client = await server.connect()
    client.say(*ENVELOPE)
    await client.until(b"Sender OK\r\n")
    client.transport.abortConnection()
    await server.ended
    assert onRcptTo.cancelled == 1


@served
async def test_the_refusal_of_a_connection_reaches_the_client(serve: Any) -> None:
    def onConnect(session: Any) -> None:
        raise SMTPError("Not you")

    server = await serve(onConnect=onConnect)
    client = await server.connect()
    await client.until(b"554 5.7.1 Not you\r\n")
    await client.lost
    await server.ended


@served
async def test_421_reaches_a_client_that_goes_on_talking(serve: Any) -> None:
    def onMailFrom(address: Any, session: Any) -> None:
        raise SMTPError("Enough", 421)

    server = await serve(onMailFrom=onMailFrom)
    client = await server.connect()
    client.say(*ENVELOPE, *["NOOP"] * 1000)
    await client.until(b"421 4.3.2 Enough\r\n")
    await server.ended


# --- back-pressure ---


@implementer(IPushProducer)
class Flood:
    """
    Writes a message as fast as the connection takes it.

    @ivar pauses: how often the connection paused it.
    """

    def __init__(self, talk: Talk, block: bytes, blocks: int) -> None:
        self.pauses = 0
        self._talk = talk
        self._block = block
        self._left = blocks
        self._paused = False
        self.done: Deferred[None] = Deferred()
        talk.transport.registerProducer(self, True)  # type: ignore[union-attr]
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self.pauses += 1
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self._left and not self._paused:
            self._left -= 1
            self._talk.transport.write(self._block)  # type: ignore[union-attr]
        if not self._left and not self.done.called:
            self._talk.transport.unregisterProducer()  # type: ignore[union-attr]
            self.done.callback(None)

    def stopProducing(self) -> None:
        self._left = 0


BLOCK = (b"x" * 998 + b"\r\n") * 64
BLOCKS = 256


def watch(server: Server) -> int:
    """The octets held for that connection of a server that holds the most."""
    most = 0
    for connection in server.factory.connections:
        most = max(most, connection.buffered)
    return most


@served
async def test_a_slow_hook_stops_the_client_and_loses_nothing(serve: Any) -> None:
    digest = hashlib.sha256()
    most = 0

    async def onData(stream: Any, session: Any) -> None:
        nonlocal most
        async for chunk in stream:
            most = max(most, watch(server) + len(chunk))
            digest.update(chunk)
            await deferLater(reactor, 0)

    server = await serve(onData=onData)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA")
    await client.until(b"354 ")
    flood = Flood(client, BLOCK, BLOCKS)
    await flood.done
    client.say(".", "QUIT")
    await client.until(b"250 2.0.0 Message accepted\r\n221 ")
    await server.ended
    assert digest.digest() == hashlib.sha256(BLOCK * BLOCKS).digest()
    assert flood.pauses > 0
    assert most < 2 * 131072


@served
async def test_a_hook_that_never_reads_stops_the_client_for_good(serve: Any) -> None:
    onData = Pending()
    server = await serve(onData=onData)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA")
    await client.until(b"354 ")
    flood = Flood(client, BLOCK, 500)
    while not (flood.pauses and next(iter(server.factory.connections))._stage._pump.pacing.isPaused):
        await deferLater(reactor, 0)
    assert watch(server) < 131072
    onData.decide(SMTPError("Not wanted", 554))
    await flood.done
    client.say(".")
    await client.until(b"554 5.6.0 Not wanted\r\n")
    client.transport.abortConnection()
    await server.ended


@served
async def test_a_client_that_reads_no_replies_is_stopped(serve: Any) -> None:
    server = await serve(maxJunkCommands=0)
    client = await server.connect()
    await client.until(b"220 ")
    client.transport.pauseProducing()
    flood = Flood(client, b"HELP\r\n" * 10000, 10000)
    while not (flood.pauses and next(iter(server.factory.connections))._stage._pump.pacing.isPaused):
        await deferLater(reactor, 0)
    assert watch(server) < 131072
    client.transport.resumeProducing()
    client.transport.abortConnection()
    await server.ended


# --- a message is passed on to another socket ---


class Upstream(Protocol):
    """A server that keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(b"".join(self.received))


@served
async def test_a_message_is_delivered_to_a_socket_at_its_own_pace(serve: Any) -> None:
    upstream = Upstream()
    port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(
        Factory.forProtocol(lambda: upstream)  # type: ignore[arg-type]
    )

    async def onData(stream: Any, session: Any) -> None:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        onward = await connectProtocol(endpoint, Protocol())
        await stream.deliverTo(onward.transport)
        onward.transport.loseConnection()

    server = await serve(onData=onData)
    client = await server.connect()
    client.say(*ENVELOPE, f"BDAT {len(BLOCK) * BLOCKS} LAST")
    flood = Flood(client, BLOCK, BLOCKS)
    await flood.done
    await client.until(b"250 2.0.0 Message accepted\r\n")
    assert await upstream.lost == BLOCK * BLOCKS
    client.transport.loseConnection()
    await server.ended
    await port.stopListening()


@served
async def test_a_socket_that_goes_away_fails_the_delivery(serve: Any, logged: Logged) -> None:
    class Rude(Upstream):
        def dataReceived(self, data: bytes) -> None:
            self.transport.abortConnection()  # type: ignore[union-attr]

    port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(
        Factory.forProtocol(Rude)  # type: ignore[arg-type]
    )

    async def onData(stream: Any, session: Any) -> None:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        onward = await connectProtocol(endpoint, Protocol())
        await stream.deliverTo(onward.transport)

    server = await serve(onData=onData)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA")
    await client.until(b"354 ")
    flood = Flood(client, BLOCK, BLOCKS)
    await flood.done
    client.say(".")
    await client.until(b"451 4.3.0 ")
    assert [str(failure.type.__name__) for failure in logged.takeFailures(Exception)] == ["ConsumerStopped"]
    client.transport.loseConnection()
    await server.ended
    await port.stopListening()


@served
async def test_a_message_is_delivered_to_a_file(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "message"
    server = await serve(onData=lambda stream, session: stream.deliverTo(FileConsumer(path.open("wb"))))
    client = await server.connect()
    client.say(*ENVELOPE, "DATA", "text", ".")
    await client.until(b"250 2.0.0 Message accepted\r\n")
    assert path.read_bytes() == b"text\r\n"


class Inbox(Resource):
    """A web server that keeps the bodies posted to it."""

    isLeaf = True

    def __init__(self, code: int = 200) -> None:
        super().__init__()
        self.code = code
        self.bodies: list[bytes] = []

    def render_POST(self, request: Any) -> bytes:
        self.bodies.append(request.content.read())
        request.setResponseCode(self.code)
        return b"kept"


class Web:
    """This web server on a real socket."""

    def __init__(self, inbox: Inbox) -> None:
        self.port = reactor.listenTCP(0, Site(inbox), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.port.getHost().port}/"

    async def post(self, stream: Any, session: Any) -> str:
        response = await treq.post(self.url, data=stream, persistent=False)
        text = await response.text()
        if response.code != 200:
            raise SMTPError("The store said no", 451)
        return f"The store said {text}"


@served
async def test_a_message_is_posted_with_treq(serve: Any) -> None:
    inbox = Inbox()
    web = Web(inbox)
    server = await serve(onData=web.post)
    client = await server.connect()
    bodies = [b"", b"text\r\n", BLOCK * 32]
    client.say(HELLO)
    for body in bodies:
        client.say(MAIL, RCPT, "DATA")
        await client.until(b"354 ")
        client.transport.write(body + b".\r\n")
        await client.until(b"250 2.0.0 The store said kept\r\n")
    assert inbox.bodies == bodies
    client.transport.loseConnection()
    await server.ended
    await web.port.stopListening()


@served
async def test_a_message_that_the_web_server_refuses_is_not_acknowledged(serve: Any) -> None:
    web = Web(Inbox(503))
    server = await serve(onData=web.post)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA", "text", ".")
    await client.until(b"451 4.3.0 The store said no\r\n")
    client.transport.loseConnection()
    await server.ended
    await web.port.stopListening()


@served
async def test_a_message_that_was_cut_is_never_posted_whole(serve: Any, logged: Logged) -> None:
    inbox = Inbox()
    web = Web(inbox)
    server = await serve(onData=web.post)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA")
    await client.until(b"354 ")
    flood = Flood(client, BLOCK, 20)
    await flood.done
    client.transport.abortConnection()
    await server.ended
    await web.port.stopListening()
    assert inbox.bodies == []
    logged.clear()  # treq wraps ConnectionLost in a failure of its own


@served
async def test_a_web_server_that_cannot_be_reached_is_a_451(serve: Any, logged: Logged) -> None:
    web = Web(Inbox())
    await web.port.stopListening()
    server = await serve(onData=web.post)
    client = await server.connect()
    client.say(*ENVELOPE, "DATA", "text", ".", "NOOP")
    await client.until(b"451 4.3.0 Temporary server error, please try again later\r\n250 2.0.0 OK\r\n")
    assert len(logged.takeFailures(Exception)) == 1


# --- close ---


@served
async def test_close_ends_idle_clients_at_once_and_waits_for_the_others(serve: Any) -> None:
    mailbox = Mailbox()
    server = await serve(onData=mailbox.onData, onClose=lambda session: None)
    idle, busy = await server.connect(), await server.connect()
    await idle.until(b"220 ")
    busy.say(*ENVELOPE)
    await busy.until(b"Recipient OK\r\n")
    await server.port.stopListening()
    closed = server.factory.close()
    await idle.until(b"421 4.3.2 Server is shutting down\r\n")
    await idle.lost
    assert not closed.called
    busy.say("DATA", "text", ".")
    await busy.until(b"250 2.0.0 Message accepted\r\n421 4.3.2 Server is shutting down\r\n")
    await busy.lost
    await closed
    assert mailbox == [b"text\r\n"]


@served
async def test_close_cuts_off_connections_that_do_not_finish_in_time(serve: Any) -> None:
    reasons: list[Any] = []

    async def onMailFrom(address: Any, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError as reason:
            reasons.append(reason)
            raise

    server = await serve(onMailFrom=onMailFrom, closeTimeout=0.01)
    client = await server.connect()
    client.say(HELLO, MAIL)
    await client.until(b"250 BINARYMIME\r\n")
    await server.port.stopListening()
    await server.factory.close()
    await client.lost
    assert len(reasons) == 1


@served
async def test_many_clients_are_served_at_once(serve: Any) -> None:
    mailbox = Mailbox()
    server = await serve(onData=mailbox.onData, onClose=lambda session: None)

    async def deliver(number: int) -> None:
        client = await server.connect()
        for message in range(5):
            client.say(*ENVELOPE, "DATA", f"{number}.{message}", ".")
            await client.until(b"250 2.0.0 Message accepted\r\n")
        client.say("QUIT")
        await client.lost

    for delivery in [ensureDeferred(deliver(number)) for number in range(30)]:
        await delivery
    assert sorted(mailbox) == sorted(f"{number}.{message}\r\n".encode() for number in range(30) for message in range(5))
