"""The service for tests with real clients, started and stopped as an operator does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.real.mta.contained import USER, running, skipUnlessPossible
from tests.real.mta.dovecot import Dovecot
from tests.real.mta.exim import Exim
from tests.real.mta.opensmtpd import OpenSMTPD
from tests.real.mta.postfix import PostfixServer
from tests.real.programs import HOOKS, Certificates, Maildir, Service, freePort, table, tcp, toml
from tests.real.rabbitmq import RabbitMQ, StartRabbitMQ, brokers
from tests.real.redis import Redis, StartRedis, redisServers
from tests.secrets import PASSWORD, secretsIn


class Running(NamedTuple):
    """
    A service that runs, and its port.

    @ivar port: the port of its only listener, or of the first one.
    """

    service: Service
    port: int


StartService = Callable[..., Running]


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    """The Maildir in which the service stores."""
    return Maildir(tmp_path / "maildir")


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority, and the certificates that it has signed."""
    return Certificates(tmp_path / "tls")


@pytest.fixture
def startService(tmp_path: Path, maildir: Maildir) -> Iterator[StartService]:
    """
    Start the service: by flags alone, or with a configuration file if hooks, a name or those of layers, or options are
    given.

    A service that the test leaves running is stopped at its end, and must then exit cleanly.
    """
    services: list[Service] = []

    def start(
        hooks: str | list[str] | None = None,
        *,
        lmtp: bool = False,
        endpoint: str | None = None,
        hooksOptions: dict[str, object] | None = None,
        options: dict[str, object] | None = None,
        tls: dict[str, object] | None = None,
        sni: dict[str, dict[str, object]] | None = None,
        checkers: list[str] | None = None,
        secure: bool = False,
    ) -> Running:
        port = freePort()
        endpoint = endpoint or tcp(port)
        if not (hooks or options or tls or checkers or secure):
            arguments = ["--listen", endpoint, "--maildir", str(maildir.path)]
            arguments += ["--lmtp"] * lmtp
        else:
            config = tmp_path / "smtphooks.toml"
            if hooks is None:
                hooks, hooksOptions = "PickyMaildir", {"path": maildir.path}
            names = f"{HOOKS}:{hooks}" if isinstance(hooks, str) else [f"{HOOKS}:{name}" for name in hooks]
            tables = [
                f"hooks = {toml(names)}\n",
                *([table("hooks-options", hooksOptions)] if hooksOptions else []),
                table("options", {"authOptional": True, **(options or {})}),
                table("tls", tls or {}),
                *[table(f'tls.sni."{name}"', own) for name, own in (sni or {}).items()],
                *[table("auth", {"checkers": checkers})] * (checkers is not None),
                table("[listener]", {"endpoint": endpoint, "lmtp": lmtp, "secure": secure}),
            ]
            config.write_text("\n".join(tables))
            arguments = ["--config", str(config)]
        service = Service(tmp_path, arguments, [endpoint])
        services.append(service)
        return Running(service, port)

    yield start
    statuses = [(service, service.terminate()) for service in services]
    for service, status in statuses:
        assert "Server Shut Down." in service.output
        assert status == 0, service.output
        # Passwords, tokens and SASL responses of the clients.
        assert not secretsIn(service.output), service.output


@pytest.fixture(scope="session")
def mailServers() -> Iterator[ExitStack]:
    """What stops the mail servers when all tests are done: starting them for each test would take too long."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def _dovecot(mailServers: ExitStack) -> Dovecot:
    skipUnlessPossible(Dovecot)
    return mailServers.enter_context(Dovecot({USER: PASSWORD}))


@pytest.fixture(scope="session")
def _postfixServer(mailServers: ExitStack, _dovecot: Dovecot) -> PostfixServer:
    skipUnlessPossible(PostfixServer)
    return mailServers.enter_context(PostfixServer(_dovecot.saslSocket))


@pytest.fixture(scope="session")
def _exim(mailServers: ExitStack) -> Exim:
    skipUnlessPossible(Exim)
    return mailServers.enter_context(Exim({USER: PASSWORD}))


@pytest.fixture(scope="session")
def _openSMTPD(mailServers: ExitStack) -> OpenSMTPD:
    skipUnlessPossible(OpenSMTPD)
    return mailServers.enter_context(OpenSMTPD({USER: PASSWORD}))


@pytest.fixture
def dovecot(_dovecot: Dovecot) -> Dovecot:
    """Dovecot over LMTP, without messages."""
    return running(_dovecot)


@pytest.fixture
def postfixServer(_postfixServer: PostfixServer, dovecot: Dovecot) -> PostfixServer:
    """Postfix as a server that asks Dovecot who may authenticate, without messages."""
    return running(_postfixServer)


@pytest.fixture
def exim(_exim: Exim) -> Exim:
    """Exim as a server, without messages."""
    return running(_exim)


@pytest.fixture
def openSMTPD(_openSMTPD: OpenSMTPD) -> OpenSMTPD:
    """OpenSMTPD as a server, without messages."""
    return running(_openSMTPD)


@pytest.fixture(scope="session")
def startRabbitMQ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRabbitMQ]:
    """Start brokers, each with settings of its own, which take seconds to start; all run until the tests end."""
    with brokers(tmp_path_factory.mktemp("rabbitmq")) as start:
        yield start


@pytest.fixture(scope="session")
def sharedRabbitMQ(startRabbitMQ: StartRabbitMQ) -> RabbitMQ:
    """The broker of all tests; each test has queues of its own in it."""
    return startRabbitMQ()


@pytest.fixture
def rabbitmq(sharedRabbitMQ: RabbitMQ) -> RabbitMQ:
    """The broker of all tests, which runs, whatever the test before has done to it."""
    sharedRabbitMQ.revive()
    return sharedRabbitMQ


@pytest.fixture
def startRedis(tmp_path: Path) -> Iterator[StartRedis]:
    """Start servers, each with settings of its own, which take a tenth of a second; they end with the test."""
    with redisServers(tmp_path) as start:
        yield start


@pytest.fixture
def redis(startRedis: StartRedis) -> Redis:
    """A server with no keys."""
    return startRedis()
