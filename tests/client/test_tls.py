"""TLS of the client on real sockets: which certificates it takes, and what a server learns that has a wrong one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from smtphooks import SMTPServerFactory
from smtphooks.client import ClientError, Refused, Route, SMTPClient, Timeouts, Transaction, Unreachable
from smtphooks.client.tls import Encryption
from smtphooks.testing.users import Users
from tests.certificates import DAY, Authority, Pair
from tests.client.network import MESSAGE
from tests.conftest import Logged
from tests.secrets import PASSWORD
from tests.support import Mailbox

pytestmark = pytest.mark.usefixtures("logged")

AUTHORITY, FOREIGN = Authority(), Authority("Foreign authority")
SOUND = AUTHORITY.server("mx.test")
OFFERS = b"250-mx.test\r\n250 STARTTLS\r\n"
READY = b"220 2.0.0 go\r\n"


class Heard(Mailbox):
    """
    The hooks of a server.

    @ivar hellos: how often a client has greeted.
    @ivar users: who has sent each message.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hellos = 0
        self.users: list[str] = []

    def onHelo(self, name: str, session: Any) -> None:
        self.hellos += 1

    async def onData(self, stream: Any, session: Any) -> None:
        self.users.append(session.user)
        await super().onData(stream, session)


class Served:
    """
    Servers on loopback, and a client of them.

    @ivar connections: how many there have been.
    """

    def __init__(self) -> None:
        self.ports: list[Any] = []
        self.factories: list[SMTPServerFactory] = []
        self.client = SMTPClient(timeouts=Timeouts(connect=10, greeting=10, command=10))
        self.connections = 0

    def smtp(self, pair: Pair, hooks: Any = None, **given: Any) -> int:
        self.heard = Heard()
        every = [*([] if hooks is None else hooks), self.heard]
        options = {"name": "mx.test", "key": pair.key, "cert": pair.cert, "authOptional": True, **given}
        self.factories.append(SMTPServerFactory(hooks=every, **options))
        return self.listen(self.factories[-1])

    def listen(self, factory: Any) -> int:
        build = factory.buildProtocol

        def count(address: Any) -> Any:
            self.connections += 1
            return build(address)

        factory.buildProtocol = count
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.ports.append(port)
        return int(port.getHost().port)

    async def close(self) -> None:
        await self.client.close()
        for port in self.ports:
            await port.stopListening()
        while any(factory.connections for factory in self.factories):
            await deferLater(reactor, 0, lambda: None)  # type: ignore[arg-type]


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


def route(port: int, **given: Any) -> Route:
    base = {"tls": "required", "ca": AUTHORITY.pem, "servername": "mx.test", "name": "client.test"}
    return Route(host="127.0.0.1", port=port, **{**base, **given})


async def send(served: Served, to: Route) -> Any:
    delivery = await served.client.send(to, "a@b.test", ["c@mx.test"], MESSAGE)
    assert delivery.isWhole
    return delivery


async def failing(awaitable: Awaitable[Any]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await awaitable
    return caught.value


def withoutNames() -> Pair:
    """A certificate of the trusted authority that has a common name, and no name that counts."""
    return AUTHORITY.issue("mx.test")


# --- certificates ---


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("tls", ["required", "implicit"])
async def test_a_sound_certificate_is_accepted(served: Served, tls: str) -> None:
    port = served.smtp(SOUND, secure=tls == "implicit")
    transaction: Transaction = await served.client.begin(route(port, tls=tls), "a@b.test")
    assert (transaction.isSecure, transaction.isVerified) == (True, True)
    await transaction.rcpt("c@mx.test")
    assert [reply.code for reply in await transaction.data(MESSAGE)] == [250]
    assert served.heard == [MESSAGE]


@pytest_twisted.ensureDeferred
async def test_an_address_may_be_what_the_certificate_is_for(served: Served) -> None:
    port = served.smtp(AUTHORITY.issue("x", names=["127.0.0.1"]))
    await send(served, route(port, servername=None))
    error = await failing(served.client.send(route(port, servername="127.0.0.2"), "a@b.test", ["c@mx.test"], MESSAGE))
    assert str(error).endswith("its certificate is not for 127.0.0.2")


BAD: dict[str, tuple[Callable[[], Pair], str]] = {
    "another name": (lambda: AUTHORITY.server("other.test"), "its certificate is not for mx.test"),
    "no name": (withoutNames, "its certificate is not for mx.test"),
    "an unknown authority": (
        lambda: FOREIGN.server("mx.test"),
        "its certificate is signed by no authority that is trusted here",
    ),
    "expired": (
        lambda: AUTHORITY.server("mx.test", begin=-3 * DAY, end=-DAY),
        "its certificate has expired",
    ),
    "not yet": (
        lambda: AUTHORITY.server("mx.test", begin=DAY, end=3 * DAY),
        "its certificate is not valid yet",
    ),
    "of a client": (
        lambda: AUTHORITY.issue("mx.test", names=["mx.test"], client=True),
        "its certificate is not for a server",
    ),
}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("tls", ["required", "implicit"])
@pytest.mark.parametrize("fault", BAD)
async def test_a_wrong_certificate_ends_the_connection_before_the_server_hears_a_word(
    served: Served, logged: Logged, tls: str, fault: str
) -> None:
    make, words = BAD[fault]
    auth = Users({"ann": PASSWORD})
    port = served.smtp(make(), [auth], secure=tls == "implicit", authOptional=False)
    given = route(port, tls=tls, user="ann", password=PASSWORD)
    error = await failing(served.client.send(given, "a@b.test", ["c@mx.test"], MESSAGE))
    assert isinstance(error, Unreachable)
    assert str(error) == f"127.0.0.1:{port}: TLS fails, {words}"
    assert not error.isPermanent
    assert served.heard.hellos == (0 if tls == "implicit" else 1), "the one in the clear"
    assert served.heard == []
    assert served.connections == 1, "it is not tried again, and not in the clear"
    logged.clear()


@pytest_twisted.ensureDeferred
async def test_without_an_authority_those_that_the_system_trusts_count(served: Served) -> None:
    port = served.smtp(SOUND)
    error = await failing(served.client.send(route(port, ca=None), "a@b.test", ["c@mx.test"], MESSAGE))
    assert "is signed by no authority that is trusted here" in str(error)


@pytest_twisted.ensureDeferred
async def test_opportunistic_TLS_takes_any_certificate_and_says_so(served: Served) -> None:
    for pair in (FOREIGN.server("other.test"), withoutNames()):
        port = served.smtp(pair)
        transaction = await served.client.begin(route(port, tls="opportunistic"), "a@b.test")
        assert (transaction.isSecure, transaction.isVerified) == (True, False)
        transaction.abandon()


@pytest_twisted.ensureDeferred
async def test_a_certificate_of_our_own_is_shown(served: Served, tmp_path: Path) -> None:
    ours = AUTHORITY.client("relay")
    files = ours.writeTo(tmp_path, "ours")
    for key, cert in ((ours.key, ours.cert), (files["key"], files["cert"])):
        port = served.smtp(SOUND, ca=AUTHORITY.pem, requestCert=True, rejectUnauthorized=True)
        await send(served, route(port, key=key, cert=cert))
        assert len(served.heard) == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "given",
    [
        {"ca": "/nowhere.pem"},
        {"ca": "-----BEGIN nothing"},
        {"key": SOUND.key, "cert": AUTHORITY.server("x").cert},
        {"key": "MIGHAgEAPRIVATE KEY" * 4, "cert": SOUND.cert},
    ],
)
async def test_files_that_cannot_be_used_are_an_error_and_show_no_key(served: Served, given: dict[str, str]) -> None:
    port = served.smtp(SOUND)
    error = await failing(served.client.send(route(port, **given), "a@b.test", ["c@mx.test"], MESSAGE))
    assert str(error).startswith(f"TLS to 127.0.0.1:{port} cannot begin: ")
    assert "PRIVATE KEY" not in str(error)


@pytest_twisted.ensureDeferred
async def test_a_password_is_given_over_TLS(served: Served) -> None:
    auth = Users({"ann": PASSWORD})
    port = served.smtp(SOUND, [auth], authOptional=False)
    await send(served, route(port, user="ann", password=PASSWORD))
    assert served.heard.users == ["ann"]


@pytest_twisted.ensureDeferred
async def test_a_server_may_greet_with_the_last_octets_of_the_handshake(served: Served) -> None:
    """With TLS 1.2 the server is the last to speak in a handshake."""
    port = served.smtp(SOUND, secure=True, maxVersion="TLSv1.2")
    for _ in range(5):
        client = SMTPClient()
        assert (await client.send(route(port, tls="implicit"), "a@b.test", ["c@mx.test"], MESSAGE)).isWhole
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_handshake_that_has_verified_nothing_is_not_believed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the library does: a certificate that was not looked at is not accepted."""
    port = served.smtp(SOUND)
    monkeypatch.setattr(Encryption, "_verify", lambda *arguments: True)
    error = await failing(served.client.send(route(port), "a@b.test", ["c@mx.test"], MESSAGE))
    assert str(error) == f"127.0.0.1:{port}: TLS fails, its certificate was not verified"
    assert served.heard.hellos == 1


# --- servers that go wrong within TLS ---


class Clear(Protocol):
    """
    A server that has no TLS, whatever it offers.

    @ivar heard: the octets that have come, of all connections.
    """

    heard: list[bytes]
    behind = b""
    answers = b""

    def connectionMade(self) -> None:
        self.transport.write(b"220 mx.test\r\n")  # type: ignore[union-attr]
        self._isTLS = False
        self._inData = False

    def dataReceived(self, data: bytes) -> None:
        self.heard.append(data)
        transport: Any = self.transport
        if self._isTLS:
            if self.answers:
                transport.write(self.answers)
            else:
                transport.loseConnection()
            return
        for line in data.split(b"\r\n"):
            verb = line.split(b" ")[0]
            if verb == b"STARTTLS":
                self._isTLS = True
                transport.write(READY + self.behind)
            elif verb == b".":
                self._inData = False
                transport.write(b"250 taken\r\n")
            elif self._inData or not verb:
                continue
            elif verb == b"DATA":
                self._inData = True
                transport.write(b"354 go\r\n")
            else:
                transport.write(OFFERS if verb == b"EHLO" else b"250 ok\r\n")


def clear(served: Served, behind: bytes = b"", answers: bytes = b"") -> tuple[int, list[bytes]]:
    kind = type("Clear_", (Clear,), {"heard": [], "behind": behind, "answers": answers})
    return served.listen(Factory.forProtocol(kind)), kind.heard  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("tls", ["opportunistic", "required"])
@pytest.mark.parametrize("behind", [b"250 injected\r\n", b"2", b"250-x\r\n"])
async def test_octets_behind_the_reply_to_STARTTLS_end_the_connection(served: Served, behind: bytes, tls: str) -> None:
    """RFC 3207 section 4.2, and the injection of responses."""
    port, heard = clear(served, behind)
    error = await failing(served.client.send(route(port, tls=tls), "a@b.test", ["c@mx.test"], MESSAGE))
    assert isinstance(error, Unreachable)
    assert b"".join(heard) == b"EHLO client.test\r\nSTARTTLS\r\n"
    assert served.connections == 1, "an attack is no reason to do without TLS"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The warnings of the client."""
    texts: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_namespace") == "smtphooks.client.place":
            texts.append(str(event["log_format"]).format(**event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("answers", [b"", b"500 what\r\n"])
async def test_opportunistic_TLS_that_fails_is_done_without_on_a_new_connection(
    served: Served, warnings: list[str], answers: bytes
) -> None:
    port, heard = clear(served, answers=answers)
    await send(served, route(port, tls="opportunistic"))
    assert served.connections == 2
    assert heard[-1].endswith(b"\r\n.\r\n")
    assert len(warnings) == 1
    assert warnings[0].startswith(f"127.0.0.1:{port}: TLS fails, ")
    assert warnings[0].endswith("; the next attempt does without TLS, which need not be")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("credentials", [{"password": PASSWORD}, {"token": PASSWORD}])
async def test_TLS_that_fails_is_not_done_without_where_there_are_credentials(
    served: Served, warnings: list[str], credentials: dict[str, str]
) -> None:
    port, heard = clear(served)
    given = route(port, tls="opportunistic", user="ann", allowInsecureAuth=True, **credentials)
    error = await failing(served.client.send(given, "a@b.test", ["c@mx.test"], MESSAGE))
    assert "TLS fails" in str(error)
    assert served.connections == 1
    assert not any(b"AUTH" in each for each in heard)
    assert warnings == []


@pytest_twisted.ensureDeferred
async def test_TLS_that_must_be_and_fails_is_not_done_without(served: Served, warnings: list[str]) -> None:
    port, heard = clear(served)
    error = await failing(served.client.send(route(port), "a@b.test", ["c@mx.test"], MESSAGE))
    assert "TLS fails" in str(error)
    assert served.connections == 1
    assert heard[0] == b"EHLO client.test\r\n"
    assert not any(b"MAIL" in each for each in heard)
    assert warnings == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_silent_within_TLS_has_a_time_limit(served: Served, warnings: list[str]) -> None:
    class Silent(Clear):
        heard: list[bytes] = []

        def dataReceived(self, data: bytes) -> None:
            if not self._isTLS:
                super().dataReceived(data)

    port = served.listen(Factory.forProtocol(Silent))
    served.client = SMTPClient(timeouts=Timeouts(connect=0.2))
    await send(served, route(port, tls="opportunistic"))
    assert served.connections == 2
    assert warnings[0].startswith(f"127.0.0.1:{port} has not begun TLS within 0.2 seconds; ")


@pytest_twisted.ensureDeferred
async def test_a_server_that_speaks_no_TLS_is_no_server_of_implicit_TLS(served: Served) -> None:
    port, heard = clear(served)
    error = await failing(served.client.send(route(port, tls="implicit"), "a@b.test", ["c@mx.test"], MESSAGE))
    assert str(error).startswith(f"127.0.0.1:{port}: TLS fails, ")
    assert b"EHLO" not in b"".join(heard)


@pytest_twisted.ensureDeferred
async def test_a_refused_STARTTLS_is_done_without_only_if_it_need_not_be(served: Served) -> None:
    class Refusing(Clear):
        heard: list[bytes] = []

        def dataReceived(self, data: bytes) -> None:
            if data.startswith(b"STARTTLS"):
                self.transport.write(b"454 4.7.0 not now\r\n")  # type: ignore[union-attr]
            else:
                super().dataReceived(data)

    port = served.listen(Factory.forProtocol(Refusing))
    await send(served, route(port, tls="opportunistic"))
    error = await failing(served.client.send(route(port), "a@b.test", ["c@mx.test"], MESSAGE))
    assert isinstance(error, Refused)


def test_a_certificate_without_a_name_that_counts_has_none() -> None:
    with pytest.raises(x509.ExtensionNotFound):
        withoutNames().certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
