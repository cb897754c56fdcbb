"""HAProxy in front: the addresses of its clients, TLS that passes through it, and its health checks."""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.conftest import Running, StartService
from tests.real.programs import PATIENCE, Certificates, Maildir, Program, eventually, freePort, requires, tcp, which

pytestmark = requires("haproxy")

# All of 127.0.0.0/8 is this host, so the client can have another address than the balancer.
CLIENT, BALANCER = "127.0.0.9", "127.0.0.1"
MESSAGE = b"Subject: balanced\r\n\r\n.\r\ntext\r\n"

inBothVersions = pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])

_CONFIG = """\
global
    log stdout format raw local0 info
defaults
    mode tcp
    log global
    option log-health-checks
    timeout connect 10s
    timeout client 30s
    timeout server 30s
frontend mail
    bind 127.0.0.1:{port}
    default_backend mx
backend mx
    {check}
    server one 127.0.0.1:{server} {flags}
"""


class Balancer(Program):
    """
    HAProxy in front of one server.

    @ivar port: where clients connect.
    @ivar server: the port on which that server must listen.
    """

    def __init__(self, folder: Path, flags: str, check: str = "") -> None:
        self.port, self.server = freePort(), freePort()
        config = folder / "haproxy.cfg"
        config.write_text(_CONFIG.format(port=self.port, server=self.server, flags=flags, check=check))
        program = which("haproxy")
        assert program is not None
        super().__init__([program, "-db", "-f", str(config)], os.environ, folder)


StartBalancer = Callable[..., Balancer]


@pytest.fixture
def startBalancer(tmp_path: Path) -> Iterator[StartBalancer]:
    """Start HAProxy, with flags for its line C{server}."""
    balancers: list[Balancer] = []

    def start(*arguments: str) -> Balancer:
        balancers.append(Balancer(tmp_path, *arguments))
        return balancers[-1]

    yield start
    for balancer in balancers:
        balancer.kill()


def serve(
    startService: StartService, maildir: Maildir, balancer: Balancer, secure: bool = False, **tls: object
) -> Running:
    return startService(
        "Witness",
        hooksOptions={"path": maildir.path},
        endpoint=tcp(balancer.server),
        options={"useProxy": [BALANCER]},
        tls=tls,
        secure=secure,
    )


def send(client: smtplib.SMTP) -> None:
    with client:
        client.ehlo("client.example")
        assert client.sendmail("sender@here.example", ["recipient@there.example"], MESSAGE) == {}


def isStored(maildir: Maildir, protocol: str) -> None:
    message = maildir.message()
    assert message.content == MESSAGE.replace(b"\r\n", b"\n")
    assert f"from client.example ([{CLIENT}])" in message.received
    assert f" with {protocol} id " in message.received


@inBothVersions
def test_client_is_the_one_that_connected_to_the_balancer(
    startService: StartService, startBalancer: StartBalancer, maildir: Maildir, version: str
) -> None:
    balancer = startBalancer(version)
    running = serve(startService, maildir, balancer)
    send(smtplib.SMTP("127.0.0.1", balancer.port, "client.example", PATIENCE, (CLIENT, 0)))

    isStored(maildir, "ESMTP")
    running.service.waitForLine(f"hello of client.example at {CLIENT}")


@inBothVersions
@pytest.mark.parametrize("way", ["STARTTLS", "implicit"])
def test_TLS_passes_through_behind_the_header(
    startService: StartService,
    startBalancer: StartBalancer,
    certificates: Certificates,
    maildir: Maildir,
    version: str,
    way: str,
) -> None:
    balancer = startBalancer(version)
    serve(startService, maildir, balancer, way == "implicit", **certificates.server)
    context = ssl.create_default_context(cafile=certificates.authority)
    place = ("127.0.0.1", balancer.port, "client.example")
    if way == "implicit":
        send(smtplib.SMTP_SSL(*place, timeout=PATIENCE, source_address=(CLIENT, 0), context=context))
    else:
        client = smtplib.SMTP(*place, PATIENCE, (CLIENT, 0))
        client.starttls(context=context)
        send(client)

    isStored(maildir, "ESMTPS")


@inBothVersions
@pytest.mark.parametrize("check", ["option smtpchk EHLO checker.example", ""], ids=["smtpchk", "connect"])
def test_health_check_finds_the_server_alive_and_comes_from_the_balancer(
    startService: StartService, startBalancer: StartBalancer, maildir: Maildir, version: str, check: str
) -> None:
    balancer = startBalancer(f"{version} check inter 200ms rise 2 fall 1", check)
    balancer.waitForLine("Server mx/one is DOWN")
    running = serve(startService, maildir, balancer)
    balancer.waitForLine("Server mx/one is UP")
    before = balancer.output.count("is DOWN")
    if check:
        # A health check comes from the address of the balancer itself.
        hello = f"hello of checker.example at {BALANCER}"
        eventually(lambda: running.service.output.count(hello) >= 5, "five checks")
    send(smtplib.SMTP("127.0.0.1", balancer.port, "client.example", PATIENCE, (CLIENT, 0)))
    assert maildir.message().received.startswith(f"Received: from client.example ([{CLIENT}])")
    assert balancer.output.count("is DOWN") == before
    assert "Traceback" not in running.service.output


def test_balancer_without_PROXY_headers_is_not_served(
    startService: StartService, startBalancer: StartBalancer, maildir: Maildir
) -> None:
    balancer = startBalancer("")
    running = startService(
        "Witness",
        hooksOptions={"path": maildir.path},
        endpoint=tcp(balancer.server),
        options={"useProxy": [BALANCER], "socketTimeout": 1},
    )
    with pytest.raises(smtplib.SMTPServerDisconnected):
        smtplib.SMTP("127.0.0.1", balancer.port, "client.example", PATIENCE)
    running.service.waitForLine(f"no PROXY header from {BALANCER}, though option useProxy lists it")
    assert "hello of" not in running.service.output
