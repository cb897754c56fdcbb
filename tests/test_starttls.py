"""TLS on real sockets: STARTTLS resets the session, and no octet in the clear is read after it; failed handshakes."""

from __future__ import annotations

import functools
import gc
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock, deferLater
from twisted.logger import Logger, globalLogPublisher
from zope.interface import implementer

from smtphooks import Session, SMTPError, SMTPServerFactory
from smtphooks.errors import OptionError
from smtphooks.protocol import SMTPServerProtocol
from tests.certificates import Authority, Pair
from tests.conftest import Logged
from tests.real.programs import PATIENCE
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Diary, Mailbox, Pending, cutUp
from tests.test_tcp import BLOCK, BLOCKS, Flood, watch
from tests.tls.handshakes import clientContext

pytestmark = [pytest.mark.usefixtures("logged"), pytest.mark.filterwarnings("error::DeprecationWarning")]

AUTHORITY = Authority()
SERVER = AUTHORITY.server("mx.test")
OTHER = AUTHORITY.server("other.test")
ALICE = AUTHORITY.client("alice")
MALLORY = Authority("Foreign authority").client("mallory")

READY = b"220 2.0.0 Ready to start TLS\r\n"


# --- both sides ---


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """Begins TLS for a client.  Twisted's own class uses a form of certificates that pyOpenSSL has deprecated."""

    def __init__(self, context: SSL.Context, name: str = "mx.test") -> None:
        self._context = context
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_tlsext_host_name(self._name.encode())
        return connection


@implementer(IHandshakeListener)
class Talk(Protocol):
    """
    A client's side of a connection.

    @ivar received: the octets that have come and were not waited for yet.
    @ivar lost: fires when the connection is lost.
    @ivar secured: fires when the handshake has succeeded.
    """

    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[None] = Deferred()
        self.secured: Deferred[None] = Deferred()
        self._expected: tuple[Callable[[], int], Deferred[bytes]] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def _look(self) -> None:
        if self._expected is not None:
            end = self._expected[0]()
            if end:
                seen, self._expected = self._expected[1], None
                taken, self.received = self.received[:end], self.received[end:]
                seen.callback(taken)

    def until(self, expected: bytes) -> Deferred[bytes]:
        """Wait for these octets, and take everything up to their end."""
        return self._wait(lambda: self.received.find(expected) + len(expected) if expected in self.received else 0)

    def octets(self, count: int) -> Deferred[bytes]:
        """Wait for this many octets."""
        return self._wait(lambda: count if len(self.received) >= count else 0)

    def _wait(self, end: Callable[[], int]) -> Deferred[bytes]:
        seen: Deferred[bytes] = Deferred()
        self._expected = (end, seen)
        self._look()
        return seen

    def handshakeCompleted(self) -> None:
        self.secured.callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)

    def send(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]

    def say(self, *lines: str) -> None:
        self.send("".join(line + "\r\n" for line in lines).encode())

    def beginTLS(self, name: str = "mx.test", pair: Pair | None = None, trust: Authority = AUTHORITY) -> Deferred[None]:
        """Begin TLS, without STARTTLS."""
        self.transport.startTLS(ClientTLS(clientContext(pair, trust=trust), name))  # type: ignore[union-attr]
        return self.secured

    async def startTLS(self, **given: Any) -> None:
        """Send STARTTLS, and begin TLS."""
        await self.until(b"220 ")
        self.say("STARTTLS")
        await self.until(READY)
        await self.beginTLS(**given)


class Server:
    """
    A server on a real socket.

    @ivar diary: the hooks that were called.
    @ivar sessions: the sessions of connections that have ended.
    @ivar errors: the failures that C{onError} got.
    @ivar protocols: the protocols of all connections.
    @ivar heard: the octets that the newest of them received.
    """

    def __init__(self, **given: Any) -> None:
        self.diary = Diary()
        self.sessions: list[Session] = []
        self.errors: list[Any] = []
        self.protocols: list[SMTPServerProtocol] = []
        self.heard = bytearray()
        hooks = {name: self.diary.hook(name) for name in ("onHelo", "onMailFrom", "onRcptTo", "onReset", "onVrfy")}
        hooks |= {"onClose": self.sessions.append, "onError": lambda failure, session: self.errors.append(failure)}
        options = {"name": "mx.test", "authOptional": True, "key": SERVER.key, "cert": SERVER.cert}
        options |= {"onData": Mailbox().onData}
        self.factory = SMTPServerFactory(**{**options, **hooks, **given})
        self.factory.protocol = self._makeProtocol  # type: ignore[assignment, method-assign]
        self.port: Any = None

    def _makeProtocol(self) -> SMTPServerProtocol:
        def dataReceived(data: bytes) -> None:
            self.heard += data
            receive(data)

        self.heard = bytearray()
        self.protocols.append(SMTPServerProtocol())
        receive = self.protocols[-1].dataReceived
        self.protocols[-1].dataReceived = dataReceived  # type: ignore[method-assign]
        return self.protocols[-1]

    async def listen(self, description: str) -> None:
        self.port = await serverFromString(reactor, description).listen(self.factory)

    async def connect(self, description: str = "") -> Talk:
        description = description or f"tcp:127.0.0.1:{self.port.getHost().port}"
        return await connectProtocol(clientFromString(reactor, description), Talk())

    async def secureClient(self, **given: Any) -> Talk:
        """A client over TLS, implicit or by STARTTLS, as the options of the server demand."""
        client = await self.connect()
        if self.factory.options.secure:
            await client.beginTLS(**given)
            await client.until(b"220 mx.test ESMTP\r\n")
        else:
            await client.startTLS(**given)
        return client

    async def gone(self, count: int = 1) -> None:
        """Wait until this many connections have ended."""
        while len(self.sessions) < count or self.factory.connections:
            await deferLater(reactor, 0)

    async def hears(self, octets: int) -> None:
        """Wait until the newest connection has received this many octets."""
        while len(self.heard) < octets:
            await deferLater(reactor, 0)

    async def stop(self) -> None:
        await maybeDeferred(self.port.stopListening)
        for connection in list(self.factory.connections):
            connection.abort()
        if isinstance(self.factory.clock, Clock):
            self.factory.clock = None
        await self.factory.close()


@pytest.fixture
def serve() -> Iterator[Any]:
    """A function that starts servers; they are stopped when the test ends."""
    servers: list[Server] = []

    async def serve(description: str = "tcp:0:interface=127.0.0.1", **given: Any) -> Server:
        server = Server(**given)
        await server.listen(description)
        servers.append(server)
        return server

    yield serve
    for server in servers:
        pytest_twisted.blockon(Deferred.fromCoroutine(server.stop()).addTimeout(PATIENCE, reactor))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines that smtphooks logs, without the id of the session."""
    found: list[str] = []

    def observe(event: Any) -> None:
        if event["log_namespace"].startswith("smtphooks") and "messages" not in event:
            found.append(event["log_format"].format(**event).partition(" [")[0])
            if "handshake" in found[-1] and not {"session", "peer", "milliseconds"} <= set(event):
                found.append("without its fields")

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def eventually(test: Any) -> Any:
    """Run an C{async} test; it fails if what it awaits never comes."""

    @functools.wraps(test)
    async def run(*arguments: Any, **named: Any) -> None:
        await Deferred.fromCoroutine(test(*arguments, **named)).addTimeout(PATIENCE, reactor)

    return pytest_twisted.ensureDeferred(run)


inBothWays = pytest.mark.parametrize("secure", [False, True], ids=["STARTTLS", "implicit"])


# --- a dialogue over TLS ---


@eventually
@inBothWays
async def test_a_message_comes_over_TLS(serve: Any, secure: bool) -> None:
    mailbox = Mailbox()
    server = await serve(secure=secure, onData=mailbox.onData)
    client = await server.secureClient()
    client.say(*ENVELOPE, "DATA")
    await client.until(b"354 ")
    client.say("Subject: x", "", "..text", ".", "QUIT")
    await client.until(b"250 2.0.0 Message accepted\r\n221 2.0.0 Bye\r\n")
    await client.lost
    await server.gone()
    assert mailbox == [b"Subject: x\r\n\r\n.text\r\n"]
    (session,) = server.sessions
    assert session.secure and session.transmissionType == "ESMTPS"
    assert session.tlsOptions is not None
    assert session.tlsOptions.version == "TLSv1.3"
    assert session.tlsOptions.name == session.tlsOptions.standardName
    assert session.servername == "mx.test"


@eventually
async def test_LMTP_over_a_UNIX_socket_begins_TLS_too(serve: Any, tmp_path: Path) -> None:
    mailbox = Mailbox()
    path = tmp_path / "lmtp"
    server = await serve(f"unix:{path}:mode=660", lmtp=True, onData=mailbox.onData)
    client = await server.connect(f"unix:{path}")
    await client.startTLS()
    client.say("LHLO client.test", MAIL, RCPT, RCPT, "DATA", "text", ".", "QUIT")
    await client.until(b"250 2.0.0 Message accepted\r\n" * 2 + b"221 2.0.0 Bye\r\n")
    await client.lost
    await server.gone()
    assert mailbox == [b"text\r\n"]
    assert server.sessions[0].transmissionType == "LMTPS"


@eventually
@inBothWays
async def test_on_secure_gets_the_transport_and_the_session_with_what_TLS_has_shown(serve: Any, secure: bool) -> None:
    seen: list[Any] = []

    def onSecure(transport: Any, session: Session) -> None:
        certificate = transport.getPeerCertificate().to_cryptography().subject.rfc4514_string().removeprefix("CN=")
        seen.append((certificate, session.secure, session.servername, session.openingCommand))
        assert session.tlsOptions is not None
        seen.append((session.tlsOptions.version, session.peerIdentity, len(session.channelBinding or b"")))

    server = await serve(secure=secure, onSecure=onSecure, requestCert=True, ca=AUTHORITY.pem)
    client = await server.secureClient(pair=ALICE)
    client.say("NOOP")
    await client.until(b"250 2.0.0 OK\r\n")
    assert seen == [("alice", True, "mx.test", None), ("TLSv1.3", "alice", 32)]


@eventually
@inBothWays
async def test_a_refusal_by_on_secure_is_sent_over_TLS_and_closes(serve: Any, secure: bool) -> None:
    def onSecure(transport: Any, session: Session) -> None:
        raise SMTPError("Not with this cipher")

    server = await serve(secure=secure, onSecure=onSecure)
    client = await server.connect()
    if secure:
        await client.beginTLS()
    else:
        await client.startTLS()
        client.say(HELLO, MAIL)
    await client.lost
    await server.gone()
    assert client.received == b"554 5.7.5 Not with this cipher\r\n"
    assert server.diary == []


@eventually
@inBothWays
async def test_commands_wait_while_on_secure_is_undecided(serve: Any, secure: bool) -> None:
    onSecure = Pending()
    server = await serve(secure=secure, onSecure=onSecure)
    client = await server.connect()
    await (client.beginTLS() if secure else client.startTLS())
    client.say(*ENVELOPE)
    await server.hears(len("\r\n".join(ENVELOPE)) + 2)
    assert client.received == b"" and server.diary == []
    onSecure.decide()
    await client.until(b"250 2.1.5 ")
    assert server.diary == ["onHelo", "onMailFrom", "onRcptTo"]


@eventually
@inBothWays
async def test_a_client_that_leaves_while_on_secure_is_undecided_cancels_it(serve: Any, secure: bool) -> None:
    onSecure = Pending()
    server = await serve(secure=secure, onSecure=onSecure)
    client = await server.connect()
    await (client.beginTLS() if secure else client.startTLS())
    while not onSecure.calls:
        await deferLater(reactor, 0)
    client.transport.abortConnection()
    await server.gone()
    assert onSecure.cancelled == 1
    assert server.errors == []


DIALOGUES = {
    "pipelined": [*ENVELOPE, "DATA", "..", "text", ".", "NOOP", "QUIT"],
    "refused": [HELLO, RCPT, MAIL, MAIL, "DATA", "BDAT 3 LAST", "ab", "NOPE", "VRFY x", "HELP", "MAIL FROM:<>", "QUIT"],
    "chunks": [*ENVELOPE, "BDAT 6", "text", "BDAT 8 LAST", "...", "x", "RSET", MAIL + " BODY=BINARYMIME", "QUIT"],
    "tooLarge": [HELLO, MAIL + " SIZE=10001", MAIL, RCPT, "DATA", *["x" * 99] * 101, ".", "QUIT"],
    "bareNewlines": [*ENVELOPE, "DATA", "a\nb\rc", ".\n.", ".", "QUIT"],
    "longLines": [HELLO, "NOOP " + "x" * 20000, MAIL, "RCPT TO:<" + "x" * 600 + "@mx.test>", "QUIT"],
    "twoMessages": [*ENVELOPE, "DATA", "one", ".", MAIL, RCPT, RCPT, "DATA", "two", ".", "QUIT"],
    "cut": [*ENVELOPE, "DATA", "half a message"],
}


@eventually
@pytest.mark.parametrize("name", DIALOGUES)
async def test_a_dialogue_is_the_same_over_TLS_as_in_the_clear(serve: Any, name: str) -> None:
    data = "".join(line + "\r\n" for line in DIALOGUES[name]).encode()
    results = []
    for secure, hidden, cuts in itertools.product([False, True], [False, True], [[], [*range(0, 300, 7)]]):
        mailbox = Mailbox()
        server = await serve(secure=secure, hideSTARTTLS=hidden, size=10000, onData=mailbox.onData)
        if secure or not hidden:
            client = await server.secureClient()
        else:
            client = await server.connect()
            await client.until(b"220 mx.test ESMTP\r\n")
        for piece in cutUp(data, cuts):
            client.send(piece)
            await deferLater(reactor, 0)
        if name == "cut":
            await client.until(b"354 ")
            await server.hears(len(data))
            client.transport.abortConnection()
        await client.lost
        await server.gone()
        results.append((client.received, list(mailbox), list(server.diary), len(server.errors)))
    assert all(result == results[0] for result in results)


# --- STARTTLS resets the session ---


@eventually
async def test_the_session_begins_anew_with_STARTTLS(serve: Any) -> None:
    async def onSecure(transport: Any, session: Session) -> None:
        seen.append((session.openingCommand, session.hostNameAppearsAs, session.user, session.envelope.mailFrom))

    def onAuth(auth: Any, session: Session) -> str:
        session.state["kept"] = True
        ids.append(session.id)
        return "ann"

    seen: list[Any] = []
    ids: list[str] = []
    server = await serve(onAuth=onAuth, onSecure=onSecure, allowInsecureAuth=True)
    client = await server.connect()
    client.say(HELLO, "AUTH PLAIN AGFubgBwZW5jaWw=", MAIL, RCPT, "STARTTLS")
    await client.until(READY)
    assert server.diary == ["onHelo", "onMailFrom", "onRcptTo", "onReset"]
    await client.beginTLS()
    client.say(MAIL)
    await client.until(b"503 5.5.1 ")
    client.say(HELLO)
    greeting = await client.until(b"250 BINARYMIME\r\n")
    assert b"STARTTLS" not in greeting and b"AUTH PLAIN" in greeting
    client.say(RCPT)
    await client.until(b"503 5.5.1 ")
    client.say("AUTH PLAIN AGFubgBwZW5jaWw=", "STARTTLS", "QUIT")
    await client.until(b"235 ")
    await client.until(b"503 5.5.1 ")
    await server.gone()
    assert seen == [(None, "", None, None)]
    assert len(ids) == 2 and ids[0] == ids[1] == server.sessions[0].id
    assert server.sessions[0].state == {"kept": True}
    assert server.sessions[0].user == "ann"


@eventually
async def test_on_reset_is_not_called_by_STARTTLS_without_a_transaction(serve: Any) -> None:
    server = await serve()
    client = await server.connect()
    client.say(HELLO)
    await client.startTLS()
    assert server.diary == ["onHelo"]


# --- octets in the clear after STARTTLS are never read ---

INJECTED = "".join(f"{line}\r\n" for line in ["RSET", *ENVELOPE, "DATA", "injected", "."]).encode()


def isTLS(octets: bytes) -> bool:
    """Whether the octets are whole records of TLS, and nothing else."""
    while octets:
        if octets[0] not in (20, 21, 22, 23) or octets[1] != 3:
            return False
        octets = octets[5 + int.from_bytes(octets[3:5], "big") :]
    return True


@eventually
@pytest.mark.parametrize("command", ["STARTTLS", "starttls "])
async def test_nothing_behind_STARTTLS_is_processed_wherever_it_is_cut(
    serve: Any, command: str, lines: list[str]
) -> None:
    begin = f"{command}\r\n".encode()
    data = begin + INJECTED
    server = await serve()
    for number, cut in enumerate(range(1, len(data) + 1), 1):
        lines.clear()
        server.errors.clear()
        client = await server.connect()
        await client.until(b"220 mx.test ESMTP\r\n")
        server.heard.clear()
        client.send(data[:cut])
        await server.hears(cut)
        # A client that still writes when the server closes may never read the reply: TCP answers with RST.
        reply = await client.until(b"\r\n") if cut >= len(begin) else b""
        client.send(data[cut:])
        await client.lost
        if cut == len(begin):
            # After the 220 the server must send nothing but TLS.
            assert reply == READY and isTLS(client.received)
            assert len(lines) == 1 and lines[0].startswith("TLS handshake with 127.0.0.1 failed: the client did not")
            assert len(server.errors) == 1
        else:
            said = reply + client.received
            assert said.startswith(b"554 5.5.1 ") and said.count(b"\r\n") == 1
            # The log has ten lines a second for refusals of one address; earlier connections may have used them up.
            assert lines[0] == "commands behind STARTTLS in the clear"
            said = "127.0.0.1 refused by server: 554 5.5.1 Nothing may follow STARTTLS before TLS"
            assert lines[1:] in ([], [said])
        await server.gone(number)
        assert server.diary == []
        assert server.sessions[-1].secure is False and server.sessions[-1].openingCommand is None


@eventually
@pytest.mark.parametrize("behind", [b"\r\n", b"\n", b"\0", b"\x16\x03\x01", b"R", b"x" * 1000])
async def test_a_single_octet_behind_STARTTLS_is_refused(serve: Any, behind: bytes) -> None:
    """Even a ClientHello: a client must read the 220 before it sends one (RFC 3207 section 4)."""
    server = await serve()
    client = await server.connect()
    await client.until(b"220 mx.test ESMTP\r\n")
    client.send(b"STARTTLS\r\n" + behind)
    reply = await client.until(b"\r\n")
    assert reply.startswith(b"554 5.5.1 ")
    await client.lost
    await server.gone()
    assert client.received == b"" and server.diary == []


@eventually
@pytest.mark.parametrize("pieces", [1, 3, 10])
async def test_what_comes_in_the_clear_before_the_handshake_is_never_processed(serve: Any, pieces: int) -> None:
    server = await serve()
    client = await server.connect()
    await client.until(b"220 ")
    client.say("STARTTLS")
    await client.until(READY)
    step = -(-len(INJECTED) // pieces)
    for start in range(0, len(INJECTED), step):
        client.send(INJECTED[start : start + step])
        await deferLater(reactor, 0.002)
    await client.lost
    await server.gone()
    assert isTLS(client.received)
    assert server.diary == [] and len(server.errors) == 1
    assert server.heard == b"STARTTLS\r\n"


@eventually
async def test_what_comes_in_the_clear_within_the_handshake_is_never_processed(serve: Any) -> None:
    server = await serve(requestCert=True, ca=AUTHORITY.pem)
    for part in parts():
        client = await sendPart(server, SSL.TLS1_3_VERSION, *part)
        client.send(INJECTED * 200)
        client.transport.loseWriteConnection()
        await client.lost
        await server.gone(len(server.protocols))
        assert isTLS(client.received)
        assert server.diary == [] and server.heard == b"STARTTLS\r\n"


@eventually
async def test_the_server_says_nothing_in_the_clear_behind_its_reply(serve: Any) -> None:
    """Not even if the server shuts down, or the client times out, before the handshake begins."""
    clock = Clock()
    server = await serve(socketTimeout=10)
    server.factory.clock = clock
    client = await server.connect()
    await client.until(b"220 ")
    client.say("STARTTLS")
    await client.until(READY)
    for connection in list(server.factory.connections):
        connection.leave()
    clock.pump([1] * 12)
    await client.lost
    await server.gone()
    assert isTLS(client.received)


@eventually
@pytest.mark.parametrize("hook", ["onReset", "onHelo"])
async def test_STARTTLS_waits_for_the_hooks_before_it(serve: Any, hook: str) -> None:
    pending = Pending()
    server = await serve(**{hook: pending})
    client = await server.connect()
    await client.until(b"220 ")
    if hook == "onReset":
        client.say(*ENVELOPE)
        await client.until(b"250 2.1.5 ")
        client.say("STARTTLS")
    else:
        client.say(HELLO, "STARTTLS")
    while not pending.calls:
        await deferLater(reactor, 0)
    client.received = b""
    client.say("NOOP")
    while not server.heard.endswith(b"NOOP\r\n"):
        await deferLater(reactor, 0)
    assert client.received == b""
    pending.decide()
    await client.lost
    await server.gone()
    assert client.received.splitlines()[-1].startswith(b"554 5.5.1 ")


# --- handshakes that fail ---


class Handshake:
    """
    A client of TLS without a socket.

    @ivar isDone: the handshake has succeeded.
    """

    def __init__(self, version: int, pair: Pair | None = None) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        if pair is not None:
            context.use_certificate(pair.certificate)
            context.use_privatekey(pair.privateKey)
        self.connection = SSL.Connection(context, None)
        self.connection.set_connect_state()
        self.isDone = False

    def flight(self) -> bytes:
        """The octets that the client sends next."""
        try:
            self.connection.do_handshake()
            self.isDone = True
        except SSL.WantReadError:
            pass
        try:
            return self.connection.bio_read(1 << 16)
        except SSL.WantReadError:
            return b""

    def hear(self, octets: bytes) -> None:
        self.connection.bio_write(octets)


async def begin(server: Server) -> Talk:
    """A client that may begin its handshake: it has read the 220 to STARTTLS, unless TLS is implicit."""
    client = await server.connect()
    if not server.factory.options.secure:
        await client.until(b"220 ")
        client.say("STARTTLS")
        await client.until(READY)
    return client


async def flights(client: Talk, version: int = SSL.TLS1_3_VERSION, pair: Pair | None = None) -> AsyncIterator[bytes]:
    """The flights of a client in a handshake."""
    handshake = Handshake(version, pair)
    while True:
        flight = handshake.flight()
        if flight:
            yield flight
        if handshake.isDone:
            return
        handshake.hear(await client.octets(1) + client.received)
        client.received = b""


async def sendPart(server: Server, version: int, number: int, octets: slice) -> Talk | None:
    """A client that has sent its handshake up to this part of a flight; None if there is no such flight."""
    client = await begin(server)
    sent = 0
    async for flight in flights(client, version, ALICE):
        if sent == number:
            client.send(flight[octets])
            return client
        client.send(flight)
        sent += 1
    client.transport.abortConnection()
    return None


# Cuts are relative to the flights, because the length of a signature varies.
CUTS = [slice(end) for end in (0, 1, 4, 5, 6, *range(40, 240, 61), -100, -30, -2, -1)]


VERSIONS = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLSv1.2", "TLSv1.3"])


def parts() -> Iterator[tuple[int, slice]]:
    """Where to cut a handshake: at both ends of its flights, and at some places within."""
    # A client has two flights in every version of TLS.
    return itertools.product([0, 1], CUTS)


@eventually
@inBothWays
@VERSIONS
async def test_a_client_that_leaves_within_its_handshake_harms_no_other(
    serve: Any, secure: bool, version: int, lines: list[str]
) -> None:
    server = await serve(secure=secure, requestCert=True, ca=AUTHORITY.pem)
    for part in parts():
        lines.clear()
        server.errors.clear()
        client = await sendPart(server, version, *part)
        client.transport.loseConnection()
        await client.lost
        await server.gone(len(server.protocols))
        assert lines == ["TLS handshake with 127.0.0.1 failed: the client left within the handshake"], part
        assert len(server.errors) == 1
    assert await sendPart(server, version, 2, slice(None)) is None
    client = await server.secureClient(pair=ALICE)
    client.say(HELLO)
    await client.until(b"250 BINARYMIME\r\n")
    assert server.diary == ["onHelo"]


@eventually
@inBothWays
@VERSIONS
async def test_a_stalled_handshake_times_out(serve: Any, secure: bool, version: int, lines: list[str]) -> None:
    server = await serve(secure=secure, socketTimeout=10, requestCert=True, ca=AUTHORITY.pem)
    clock = server.factory.clock = Clock()
    for part in parts():
        lines.clear()
        server.errors.clear()
        client = await sendPart(server, version, *part)
        clock.pump([1] * 9)
        assert lines == [] and server.factory.connections
        clock.pump([1] * 3)
        await client.lost
        await server.gone(len(server.protocols))
        assert lines == ["TLS handshake with 127.0.0.1 failed: the client did not finish it in time"], part
        assert len(server.errors) == 1


@eventually
async def test_a_dripped_handshake_times_out(serve: Any) -> None:
    server = await serve(secure=True, socketTimeout=10)
    clock = server.factory.clock = Clock()
    client = await server.connect()
    for octet in Handshake(SSL.TLS1_3_VERSION).flight()[:12]:
        client.send(bytes([octet]))
        await deferLater(reactor, 0.001)
        clock.advance(1)
    await client.lost
    await server.gone()
    assert len(server.errors) == 1


@eventually
@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"EHLO client.test\r\n", "the client did not speak TLS (plain SMTP on a TLS port?) (wrong version number)"),
        (b"QUIT\r\n", "the client did not speak TLS (plain SMTP on a TLS port?) (wrong version number)"),
        (b"GET / HTTP/1.1\r\n\r\n", "the client spoke HTTP, not TLS (http request)"),
    ],
)
async def test_the_log_names_what_was_spoken_in_the_place_of_TLS(
    serve: Any, lines: list[str], sent: bytes, why: str
) -> None:
    server = await serve(secure=True)
    client = await server.connect()
    client.send(sent)
    await client.lost
    await server.gone()
    assert lines == [f"TLS handshake with 127.0.0.1 failed: {why}"]
    assert len(server.errors) == 1
    assert isTLS(client.received) and server.heard == b""


@eventually
async def test_the_log_names_TLS_on_a_port_that_begins_in_the_clear(serve: Any, lines: list[str]) -> None:
    server = await serve()
    client = await server.connect()
    client.beginTLS()
    await client.lost
    await server.gone()
    assert lines == [
        "the client spoke TLS on a port that begins in the clear",
        "127.0.0.1 refused by server: 500 5.5.2 Command not recognized",
    ]
    assert len(server.errors) == 1 and server.diary == []


@eventually
@inBothWays
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"pair": None}, "the client gave no certificate ("),
        ({"pair": MALLORY}, "the client's certificate is not accepted (unable to get issuer certificate locally"),
        ({"pair": ALICE, "trust": Authority("Another")}, "the client does not trust our certificate ("),
    ],
)
async def test_the_handshake_decides_over_trust(
    serve: Any, lines: list[str], secure: bool, given: dict[str, Any], why: str
) -> None:
    server = await serve(secure=secure, requestCert=True, ca=AUTHORITY.pem)
    client = await begin(server)
    client.beginTLS(**given)
    await client.lost
    await server.gone()
    (line,) = lines
    assert line.startswith(f"TLS handshake with 127.0.0.1 failed: {why}")
    assert len(server.errors) == 1 and server.diary == []


@eventually
@inBothWays
@pytest.mark.parametrize("pair", [None, MALLORY, ALICE], ids=["none", "mallory", "alice"])
async def test_without_reject_unauthorized_only_a_verified_certificate_is_an_identity(
    serve: Any, secure: bool, pair: Pair | None
) -> None:
    seen: list[Any] = []
    server = await serve(
        secure=secure,
        requestCert=True,
        rejectUnauthorized=False,
        ca=AUTHORITY.pem,
        onSecure=lambda transport, session: seen.append((transport.getPeerCertificate(), session.peerIdentity)),
    )
    client = await server.secureClient(pair=pair)
    client.say(HELLO)
    await client.until(b"250 BINARYMIME\r\n")
    ((certificate, identity),) = seen
    assert (certificate is None) is (pair is None)
    assert identity == ("alice" if pair is ALICE else None)


# --- certificates that are replaced ---


def nameOf(client: Talk) -> str:
    """The name in the server's certificate."""
    return client.transport.getPeerCertificate().to_cryptography().subject.rfc4514_string().removeprefix("CN=")  # type: ignore[union-attr, no-any-return]


@eventually
@inBothWays
async def test_new_handshakes_get_the_new_certificate_and_open_connections_go_on(serve: Any, secure: bool) -> None:
    mailbox = Mailbox()
    server = await serve(secure=secure, onData=mailbox.onData)
    old = await server.secureClient()
    waiting = await begin(server)
    server.factory.updateSecureContext(key=OTHER.key, cert=OTHER.cert)
    old.say(*ENVELOPE, "DATA", "text", ".")
    await old.until(b"250 2.0.0 Message accepted\r\n")
    new = await server.secureClient(name="other.test")
    assert (nameOf(old), nameOf(new)) == ("mx.test", "other.test")
    # A client that has read the 220 and not begun its handshake yet may get either certificate.
    await waiting.beginTLS(name="mx.test")
    assert len(server.factory.connections) == 3


@eventually
async def test_a_broken_new_certificate_leaves_the_old_one_in_force_and_ends_no_connection(
    serve: Any, tmp_path: Path
) -> None:
    files = SERVER.writeTo(tmp_path)
    server = await serve(secure=True, **files)
    old = await server.secureClient()
    Path(files["key"]).write_text(OTHER.key)
    with pytest.raises(OptionError, match="option key is"):
        server.factory.updateSecureContext()
    old.say("NOOP")
    await old.until(b"250 2.0.0 OK\r\n")
    assert nameOf(await server.secureClient()) == "mx.test"
    Path(files["cert"]).write_text(OTHER.cert)
    server.factory.updateSecureContext()
    assert nameOf(await server.secureClient(name="other.test")) == "other.test"


# --- objects, descriptors and memory ---


def alive() -> dict[str, int]:
    """How many objects of connections are left after a garbage collection."""
    # Until logging begins, Twisted keeps the last events, and with them the objects that logged them.
    for _ in range(1000):
        Logger().debug("push out the others")
    gc.collect()
    kinds = {SMTPServerProtocol: 0, Session: 0, SSL.Connection: 0, SSL.Context: 0, Talk: 0}
    for thing in gc.get_objects():
        for kind in kinds:
            if isinstance(thing, kind):
                kinds[kind] += 1
    return {kind.__name__: count for kind, count in kinds.items()}


@eventually
@inBothWays
async def test_a_thousand_handshakes_leave_nothing_alive(serve: Any, secure: bool) -> None:
    server = await serve(secure=secure, onClose=lambda session: None, onError=lambda failure, session: None)
    context = clientContext()

    async def once(number: int) -> None:
        client = await begin(server)
        if number % 3 == 2:
            client.send(b"\x16\x03\x01\x02\x00\x01" if number % 2 else b"no TLS at all\r\n")
            client.transport.loseWriteConnection()
        else:
            # One context for all clients: making one takes longer than a handshake.
            client.transport.startTLS(ClientTLS(context))
            await client.secured
            client.say("QUIT")
        await client.lost
        while server.factory.connections:
            await deferLater(reactor, 0)
        server.protocols.clear()

    for number in range(10):
        await once(number)
    before, files = alive(), len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        await once(number)
    assert len(os.listdir("/proc/self/fd")) <= files
    after = alive()
    # Objects that other tests left may have been collected meanwhile.
    assert all(after[kind] <= before[kind] for kind in after), (before, after)


@eventually
@inBothWays
async def test_a_slow_hook_stops_a_client_of_TLS_and_loses_nothing(serve: Any, secure: bool) -> None:
    most, octets = 0, 0

    async def onData(stream: Any, session: Any) -> None:
        nonlocal most, octets
        async for chunk in stream:
            most = max(most, watch(server) + len(chunk))
            octets += len(chunk)
            await deferLater(reactor, 0)

    server = await serve(secure=secure, onData=onData)
    client = await server.secureClient()
    client.say(*ENVELOPE, "DATA")
    await client.until(b"354 ")
    flood = Flood(client, BLOCK, BLOCKS)  # type: ignore[arg-type]
    await flood.done
    client.say(".", "QUIT")
    await client.until(b"250 2.0.0 Message accepted\r\n221 ")
    assert octets == len(BLOCK) * BLOCKS
    assert flood.pauses > 0
    assert most < 2 * 131072


@eventually
@inBothWays
async def test_a_client_of_TLS_that_reads_no_replies_is_stopped_and_loses_none(serve: Any, secure: bool) -> None:
    server = await serve(secure=secure, heloResponse="%s " + "x" * 400, maxJunkCommands=0)
    client = await server.secureClient()
    client.transport.pauseProducing()
    command, count = b"HELO client.test\r\n", 20000
    flood = Flood(client, command * 100, count // 100)  # type: ignore[arg-type]
    while not (flood.pauses and server.protocols[0]._stage._pump.pacing.isPaused):
        await deferLater(reactor, 0)
    assert watch(server) < 131072
    client.transport.resumeProducing()
    await flood.done
    client.say("QUIT")
    await client.lost
    assert client.received.count(b"250 ") == count
    assert client.received.endswith(b"221 2.0.0 Bye\r\n")


@eventually
@inBothWays
async def test_close_ends_TLS_connections_after_a_421(serve: Any, secure: bool, logged: Logged) -> None:
    server = await serve(secure=secure)
    idle = await server.secureClient()
    shaking = await begin(server)
    await server.port.stopListening()
    closed = server.factory.close()
    await idle.until(b"421 4.3.2 ")
    await idle.lost
    shaking.transport.abortConnection()
    await closed
