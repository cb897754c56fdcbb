"""In other people's houses: endpoints that have begun TLS already, and wrapping factories between them and us."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import ISSLTransport, ITLSTransport
from twisted.internet.protocol import ServerFactory
from twisted.logger import capturedLogs
from twisted.protocols.policies import (
    ProtocolWrapper,
    ThrottlingFactory,
    TimeoutFactory,
    TrafficLoggingFactory,
    WrappingFactory,
)
from zope.interface import directlyProvides, implementer

from smtphooks import SMTPError
from smtphooks.admission.admission import Admission
from tests.conftest import Logged
from tests.support import ENVELOPE, HELLO, Client, Diary, Pending, Transport, makeFactory
from tests.test_starttls import SERVER, Server, eventually
from tests.test_starttls import lines as lines  # a fixture
from tests.test_starttls import serve as serve

pytestmark = pytest.mark.usefixtures("logged")


class QuietTraffic(TrafficLoggingFactory):  # type: ignore[type-arg]
    """Writes no files."""

    def open(self, name: str) -> io.StringIO:
        return io.StringIO()


class TwoOfThem(WrappingFactory):  # type: ignore[type-arg]
    """One wrapper in another."""

    def __init__(self, factory: ServerFactory) -> None:
        super().__init__(ThrottlingFactory(factory))


def traffic(factory: ServerFactory) -> ServerFactory:
    return QuietTraffic(factory, "/nowhere")


WRAPPERS: list[Callable[[Any], Any]] = [WrappingFactory, ThrottlingFactory, TimeoutFactory, traffic, TwoOfThem]


class WrappedServer(Server):
    """A server below a wrapping factory."""

    def __init__(self, wrap: Callable[[Any], Any] = lambda factory: factory, **given: Any) -> None:
        super().__init__(**given)
        self.wrapped = wrap(self.factory)

    async def listen(self, description: str) -> None:
        self.port = await serverFromString(reactor, description).listen(self.wrapped)


@pytest.fixture
def ssl(tmp_path: Path) -> str:
    """The endpoint with the certificate of the tests."""
    (tmp_path / "key.pem").write_text(SERVER.key)
    (tmp_path / "cert.pem").write_text(SERVER.cert)
    return f"ssl:0:interface=127.0.0.1:privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem"


async def serveWrapped(description: str, **given: Any) -> WrappedServer:
    server = WrappedServer(**given)
    await server.listen(description)
    return server


async def encrypted(server: Server, isImplicit: bool) -> Any:
    """A client that speaks TLS, in the way that the server wants it, and has said hello."""
    client = await server.connect()
    if isImplicit:
        await client.beginTLS()
        await client.until(b"220 mx.test ESMTP\r\n")
    else:
        await client.startTLS()
    client.say(HELLO)
    return client


# --- endpoints that have begun TLS ---


@pytest.mark.parametrize("secure", [False, True])
@eventually
async def test_an_ssl_endpoint_is_implicit_TLS(secure: bool, ssl: str) -> None:
    diary = Diary()
    secured = []

    def onSecure(transport: Any, session: Any) -> None:
        diary.append("onSecure")
        secured.append((session.tlsOptions.version, session.servername, transport.getPeerCertificate()))

    server = await serveWrapped(ssl, secure=secure, onSecure=onSecure, onConnect=diary.hook("onConnect"))
    try:
        client = await encrypted(server, isImplicit=True)
        said = await client.until(b"250 BINARYMIME\r\n")
        assert b"STARTTLS" not in said and b"AUTH" not in said
        client.say("STARTTLS", "MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>", "DATA")
        assert (await client.until(b"\r\n")).startswith(b"503 5.5.1 TLS is already in use")
        await client.until(b"354 ")
        [session] = [protocol.session for protocol in server.protocols]
        assert session.transmissionType == "ESMTPS"
        client.say("text", ".", "QUIT")
        await client.until(b"221 ")
        await client.lost
        await server.gone()
        assert diary == ["onSecure", "onConnect"]
        assert secured == [("TLSv1.3", "mx.test", None)]
    finally:
        await server.stop()


@eventually
async def test_a_refusal_of_on_secure_holds_on_an_ssl_endpoint(ssl: str) -> None:
    def onSecure(transport: Any, session: Any) -> None:
        raise SMTPError("Not with that cipher")

    connected = Diary()
    server = await serveWrapped(ssl, onSecure=onSecure, onConnect=connected.hook("onConnect"))
    try:
        client = await server.connect()
        await client.beginTLS()
        assert (await client.until(b"\r\n")).startswith(b"554 5.7.5 Not with that cipher")
        await client.lost
        await server.gone()
        assert connected == []
    finally:
        await server.stop()


@eventually
async def test_a_handshake_that_fails_on_an_ssl_endpoint_is_logged(ssl: str, lines: list[str]) -> None:
    server = await serveWrapped(ssl)
    try:
        client = await server.connect()
        client.say(HELLO)
        await client.lost
        await server.gone()
        [line] = [line for line in lines if "handshake" in line]
        assert line.startswith("TLS handshake with 127.0.0.1 failed: the client did not speak TLS")
        assert len(server.errors) == len(server.sessions) == 1
    finally:
        await server.stop()


@implementer(ITLSTransport)
class Secure(Transport):
    """A transport that was TLS when the connection was made; its handshake ends when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        directlyProvides(self, ISSLTransport)

    def getHandle(self) -> None: ...


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    """No session is told of a handshake that was only played."""
    record = "smtphooks.connection.encryption.record"
    monkeypatch.setattr(record, lambda handle, session: setattr(session, "secure", True))


@pytest.mark.usefixtures("played")
def test_a_handshake_answers_no_other_question() -> None:
    onSecure, onConnect = Pending(), Pending()
    client = Client(makeFactory(onSecure=onSecure, onConnect=onConnect), Secure())
    assert not onSecure.calls
    client.protocol.handshakeCompleted()
    assert (len(onSecure.calls), len(onConnect.calls)) == (1, 0)
    client.protocol.handshakeCompleted()
    assert not onConnect.calls
    onSecure.decide()
    client.protocol.handshakeCompleted()
    client.feed(b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n")
    assert (client.replies(), len(onConnect.calls)) == ([], 1)
    onConnect.decide(SMTPError("Not you"))
    assert client.replies() == ["554 5.7.1 Not you"]
    assert client.isClosed


@pytest.mark.usefixtures("played")
def test_a_client_too_many_hears_nothing_in_the_clear() -> None:
    factory = makeFactory(maxClients=1)
    Client(factory, Secure())
    second = Client(factory, Secure())
    assert (second.replies(), second.isClosed) == ([], True)


def test_what_is_said_in_the_clear_within_a_handshake_ends_the_connection(lines: list[str]) -> None:
    client = Client(makeFactory(), Secure())
    client.feed(b"EHLO client.test\r\n")
    assert client.transport.disconnected
    assert client.replies() == []
    assert [line for line in lines if "in the clear" in line]


def test_a_handshake_that_ends_while_the_client_is_looked_up_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "hostnameOf", lambda admission, address: Deferred())
    told: list[tuple[Any, ...]] = []
    client = Client(makeFactory(onError=lambda *error: told.append(error)), Secure())
    with capturedLogs() as events:
        client.lose()
    assert [event["peer"] for event in events if "handshake" in event["log_format"]] == ["192.0.2.7"]
    [(failure, session)] = told
    assert (failure.type, session) == (ConnectionLost, None)
    assert not client.factory.connections


@pytest.mark.usefixtures("played")
def test_octets_before_the_handshake_are_nothing_that_a_client_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Admission, "hostnameOf", lambda admission, address: Deferred())
    client = Client(makeFactory(), Secure())
    client.protocol.dataReceived(b"EHLO client.test\r\n")
    assert client.transport.disconnected


# --- wrapping factories ---


async def helloAndQuit(server: Server, isImplicit: bool) -> None:
    """A client that gets through EHLO over TLS, and leaves."""
    client = await encrypted(server, isImplicit=isImplicit)
    await client.until(b"250 BINARYMIME\r\n")
    client.say("QUIT")
    await client.lost
    await server.gone()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("wrap", WRAPPERS)
@eventually
async def test_TLS_begins_below_a_wrapping_factory(wrap: Callable[[Any], Any], secure: bool) -> None:
    server = await serveWrapped("tcp:0:interface=127.0.0.1", wrap=wrap, secure=secure)
    try:
        await helloAndQuit(server, isImplicit=secure)
        assert [session.transmissionType for session in server.sessions] == ["ESMTPS"]
    finally:
        await server.stop()


@pytest.mark.parametrize("wrap", WRAPPERS)
@eventually
async def test_an_ssl_endpoint_serves_a_wrapping_factory(wrap: Callable[[Any], Any], ssl: str) -> None:
    server = await serveWrapped(ssl, wrap=wrap)
    try:
        await helloAndQuit(server, isImplicit=True)
    finally:
        await server.stop()


@eventually
async def test_a_wrapper_that_is_none_of_twisteds_is_heard_by_its_first_octets() -> None:
    """It passes nothing on; but what comes through TLS has come behind the handshake."""

    class Mute(ProtocolWrapper):
        def __setattr__(self, name: str, value: Any) -> None:
            if name != "handshakeCompleted":
                super().__setattr__(name, value)

        @property
        def handshakeCompleted(self) -> Callable[[], None]:
            return lambda: None

    class Muting(WrappingFactory):  # type: ignore[type-arg]
        protocol = Mute

    server = await serveWrapped("tcp:0:interface=127.0.0.1", wrap=Muting)
    try:
        await helloAndQuit(server, isImplicit=False)
        assert [session.transmissionType for session in server.sessions] == ["ESMTPS"]
    finally:
        await server.stop()


@pytest.mark.parametrize("wrap", WRAPPERS)
@eventually
async def test_a_half_closed_client_gets_its_replies_through_a_wrapper(wrap: Callable[[Any], Any]) -> None:
    onVrfy = Pending()
    server = await serveWrapped("tcp:0:interface=127.0.0.1", wrap=wrap, onVrfy=onVrfy)
    try:
        client = await server.connect()
        client.say(HELLO, "VRFY x")
        client.transport.loseWriteConnection()
        await client.until(b"250 BINARYMIME\r\n")
        onVrfy.decide("found")
        await client.until(b"250 2.1.5 found\r\n")
        await client.lost
        await server.gone()
    finally:
        await server.stop()


# --- code of others that raises ---


class Breaking(Transport):
    """A transport that raises when it shall read again."""

    def resumeProducing(self) -> None:
        raise OSError("broken")


def test_a_transport_that_raises_ends_its_own_connection_only(logged: Logged) -> None:
    onVrfy = Pending()
    factory = makeFactory(onVrfy=onVrfy)
    victim, other = Client(factory, Breaking()), Client(factory)
    victim.feed(b"VRFY x\r\n" + b"NOOP\r\n" * 5000)
    assert victim.transport.producerState == "paused"
    onVrfy.decide()
    assert victim.transport.disconnected
    assert len(logged.takeFailures(OSError)) == 1
    victim.lose()
    assert factory.connections == {other.protocol}


def test_a_connection_that_raises_when_its_time_is_up_leaves_the_others_alone(logged: Logged) -> None:
    class Choked(Transport):
        def write(self, data: bytes) -> None:
            if data.startswith(b"421"):
                raise OSError("broken")
            super().write(data)

    factory = makeFactory()
    victims, other = [Client(factory, Choked()) for _ in range(2)], Client(factory)
    factory.clock.pump([1] * 62)  # type: ignore[union-attr]
    assert all(victim.transport.disconnected for victim in victims)
    assert other.replies()[-1] == "421 4.4.2 Timeout, closing connection"
    assert logged.takeFailures(OSError)
    for client in (*victims, other):
        client.lose()
    assert not factory.connections


def test_the_server_closes_though_a_connection_raises(logged: Logged) -> None:
    class Choked(Transport):
        def write(self, data: bytes) -> None:
            if data.startswith(b"421"):
                raise OSError("broken")
            super().write(data)

    factory = makeFactory()
    clients = [Client(factory, Choked()), Client(factory)]
    closed = factory.close()
    for client in clients:
        client.lose()
    assert closed.called
    assert logged.takeFailures(OSError)


class Stubborn(Transport):
    """A transport that nothing can be done with, once it has crashed."""

    def write(self, data: bytes) -> None:
        if data.startswith(b"421"):
            raise OSError("broken")
        super().write(data)

    def abortConnection(self) -> None:
        raise OSError("broken")

    def loseConnection(self) -> None:
        raise OSError("broken")


def test_a_connection_that_cannot_even_be_ended_is_forgotten(logged: Logged) -> None:
    diary = Diary()
    factory = makeFactory(onClose=diary.hook("onClose"))
    victim, other = Client(factory, Stubborn()), Client(factory)
    factory.clock.pump([1] * 62)  # type: ignore[union-attr]
    assert other.replies()[-1] == "421 4.4.2 Timeout, closing connection"
    assert (factory.connections, diary) == ({other.protocol}, ["onClose"])
    victim.lose()  # the transport says so after all
    other.lose()
    assert diary == ["onClose"] * 2
    assert logged.takeFailures(OSError)


def test_a_client_on_its_way_in_that_cannot_even_be_ended_counts_no_more(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: Deferred[str] = Deferred(lambda deferred: None)
    monkeypatch.setattr(Admission, "hostnameOf", lambda admission, address: names)
    factory = makeFactory()
    first, client = (Client(factory, Stubborn()) for _ in range(2))
    factory.close()
    for each in (first, client):
        each.lose()  # the transport says so after all
    assert not factory.connections
    assert (factory.clients.connections, dict(factory.clients.networks)) == (0, {})
    assert logged.takeFailures(OSError)


def test_a_connection_that_cannot_even_be_ended_counts_no_more_though_a_hook_runs(logged: Logged) -> None:
    onClose = Pending()
    factory = makeFactory(onClose=onClose, hookTimeout=0)
    Client(factory, Stubborn())
    factory.clock.pump([1] * 62)  # type: ignore[union-attr]
    assert (len(onClose.calls), factory.clients.connections) == (1, 0)
    onClose.decide()
    assert factory.clients.connections == 0
    assert logged.takeFailures(OSError)


def test_a_transport_that_raises_over_a_failed_handshake_does_not_keep_its_connection(logged: Logged) -> None:
    class Broken(Secure):
        def getHandle(self) -> None:
            if self.disconnected:
                raise OSError("broken")

    diary = Diary()
    client = Client(makeFactory(onClose=diary.hook("onClose"), hookTimeout=0), Broken())
    client.transport.abortConnection()
    client.lose()
    assert logged.takeFailures(OSError)
    assert diary == ["onClose"]
    assert not client.factory.connections


class NoProducers(Transport):
    def registerProducer(self, producer: Any, streaming: bool) -> None:
        raise OSError("broken")


def test_a_transport_that_takes_no_producer_ends_its_own_connection_only(logged: Logged) -> None:
    factory = makeFactory()
    other, victim = Client(factory), Client(factory, NoProducers())
    assert victim.transport.disconnected
    victim.lose()
    factory.clock.pump([1] * 62)  # type: ignore[union-attr]
    assert other.replies()[-1] == "421 4.4.2 Timeout, closing connection"
    other.lose()
    assert not factory.connections
    assert not factory.clients.networks
    assert logged.takeFailures(OSError)


def test_a_transport_that_raises_behind_the_look_up_is_let_go(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    names: Deferred[str] = Deferred()
    monkeypatch.setattr(Admission, "hostnameOf", lambda admission, address: names)
    client = Client(makeFactory(), Breaking())
    names.callback("client.test")
    assert client.isClosed
    client.finish()
    assert not client.factory.connections
    assert logged.takeFailures(OSError)


@pytest.mark.parametrize("method", ["pauseProducing", "write", "loseConnection"])
def test_a_transport_that_raises_before_the_client_is_known_is_let_go(
    method: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(transport: Transport, *arguments: object) -> None:
        if not isRaising:
            getattr(Transport, method)(transport, *arguments)
            return
        isRaising.clear()
        raise OSError("broken")

    monkeypatch.setattr(Admission, "hostnameOf", lambda admission, address: Deferred())
    factory = makeFactory(maxClients=1 if method != "pauseProducing" else 0)
    if method != "pauseProducing":
        Client(factory)
    isRaising = [True]
    client = Client(factory, type("Broken", (Transport,), {method: raises})())
    assert len(logged.takeFailures(OSError)) == 1
    assert client.transport.disconnected
    client.lose()
    assert client.protocol not in factory.connections
    assert factory.clients.connections == len(factory.connections)


def test_a_transport_that_raises_as_octets_come_is_let_go(logged: Logged) -> None:
    class Broken(Transport):
        def loseConnection(self) -> None:
            if self.isAborted:
                super().loseConnection()
            else:
                raise OSError("broken")

        isAborted = False

        def abortConnection(self) -> None:
            self.isAborted = True
            super().abortConnection()

    client = Client(makeFactory(useProxy=True), Broken())
    client.feed(b"EHLO is no PROXY header\r\n")
    assert len(logged.takeFailures(OSError)) == 1
    assert client.transport.disconnected
    client.lose()
    assert not client.factory.connections


@pytest.mark.parametrize("isDecided", [True, False])
def test_a_transport_that_raises_as_a_hook_reads_is_not_for_the_hook(isDecided: bool, logged: Logged) -> None:
    gate: Deferred[None] = Deferred()
    seen: list[str] = []

    async def onData(stream: Any, session: Any) -> None:
        await gate
        if isDecided:
            return
        try:
            async for _ in stream:
                seen.append("read")
        except ConnectionLost as reason:
            seen.append(type(reason).__name__)

    client = Client(makeFactory(onData=onData), Breaking())
    client.say(*ENVELOPE, "DATA")
    for _ in range(3):
        if client.transport.producerState == "producing":
            client.feed(b"x" * 20000)
    assert client.transport.producerState == "paused"
    gate.callback(None)
    assert client.transport.disconnected
    client.lose()
    assert seen == ([] if isDecided else ["read", "ConnectionLost"])
    assert not client.factory.connections
    assert len(logged.takeFailures(OSError)) == 1


@pytest.mark.usefixtures("played")
def test_a_handshake_that_is_done_already_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtphooks.connection.encryption.isHandshakeDone", lambda transport: True)
    client = Client(makeFactory(), Secure())
    assert client.replies() == ["220 mx.test ESMTP"]
    assert client.session.secure


@pytest.mark.usefixtures("played")
def test_a_client_too_many_is_no_failed_handshake(lines: list[str]) -> None:
    told = Diary()
    factory = makeFactory(maxClients=1, onError=told.hook("onError"))
    Client(factory, Secure())
    second = Client(factory, Secure())
    second.finish()
    assert not [line for line in lines if "handshake" in line]
    assert told == []


def test_clients_that_left_while_they_waited_are_not_kept() -> None:
    factory = makeFactory(greetDelay=30)
    stays = Client(factory)
    for _ in range(1000):
        Client(factory).lose()
    assert len(factory.server.live._wakes) < 10
    factory.clock.advance(30)  # type: ignore[union-attr]
    assert stays.replies() == ["220 mx.test ESMTP"]
