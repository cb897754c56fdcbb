"""docs/howto/haproxy.rst: HAProxy accepts the configuration, and the client is known behind it."""

from __future__ import annotations

import os
import smtplib
import ssl
from collections.abc import Iterator

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.real.programs import PATIENCE, Maildir, Program, eventually, freePort, requires, which

PAGE = "haproxy"
CLIENT = "127.0.0.9"

pytestmark = requires("haproxy")


@pytest.fixture
def ports(page: Page) -> Iterator[dict[int, int]]:
    """Put free ports in the place of those of the page, and start HAProxy."""
    ports = {25: freePort(), 465: freePort(), 2526: freePort()}
    for port in (2525, 4650):
        ports[port] = page.listen("behind.toml", f"tcp:{port}")
        page.change("haproxy.cfg", f"127.0.0.1:{port}", f"127.0.0.1:{ports[port]}")
    page.change("haproxy.cfg", "127.0.0.1:2526", f"127.0.0.1:{ports[2526]}")
    for port in (25, 465):
        page.change("haproxy.cfg", f"bind :{port}\n", f"bind 127.0.0.1:{ports[port]}\n")
    page.change("haproxy.cfg", "inter 10s", "inter 200ms")
    text = "global\n    log stdout format raw local0 info\n" + page.text("haproxy.cfg")
    (page.folder / "haproxy.cfg").write_text(text.replace("mode tcp", "mode tcp\n    log global"))
    program = which("haproxy")
    assert program is not None
    haproxy = Program([program, "-db", *page.command("haproxy -f")[1:]], os.environ, page.folder)
    haproxy.waitForLine("Server smtp/one is DOWN")
    yield ports
    haproxy.kill()


def test_haproxy_finds_nothing_wrong(page: Page) -> None:
    status, said = page.run("haproxy -c")
    assert (status, said.strip()) == (0, "Configuration file is valid")


@requires("swaks")
def test_the_client_is_known_behind_the_balancer(page: Page, ports: dict[int, int]) -> None:
    service = page.start("smtphooks --config behind.toml")
    eventually(lambda: page.run("swaks", **{"25": ports[25]})[0] == 0, "a server that HAProxy finds alive")
    # All of 127.0.0.0/8 is this host, so the client can have another address than the balancer.
    assert deliver(ports[25], "ann@example.org", source_address=(CLIENT, 0))[0] == 250
    service.waitForLine(f"connection of {CLIENT} ended after")
    received = {message.received for message in Maildir(page.folder / "maildir").messages()}
    assert any(f"from client.example ([{CLIENT}])" in field for field in received)


def test_tls_passes_through(page: Page, ports: dict[int, int]) -> None:
    service = page.start("smtphooks --config behind.toml")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def connected() -> bool:
        try:
            place = {"context": context, "timeout": PATIENCE, "source_address": (CLIENT, 0)}
            with smtplib.SMTP_SSL("127.0.0.1", ports[465], **place) as client:  # type: ignore[arg-type]
                return client.ehlo()[0] == 250
        except (OSError, smtplib.SMTPServerDisconnected):
            return False

    eventually(connected, "a server that HAProxy finds alive")
    service.waitForLine(f"connection of {CLIENT} ended after")


@requires("swaks")
def test_a_server_that_drains_is_taken_out(page: Page, ports: dict[int, int]) -> None:
    service = page.serve(["--config", "behind.toml", "--workers", "1"])
    eventually(lambda: page.run("swaks", **{"25": ports[25]})[0] == 0, "a server that HAProxy finds alive")
    assert page.run("smtphooks drain") == (0, "new clients get 421, connections go on\n")
    eventually(lambda: page.run("swaks", **{"25": ports[25]})[0] != 0, "that HAProxy has noticed the drain")
    service.waitForLine("refused 127.0.0.1: 421 4.3.2 Server is shutting down")


def test_a_balancer_without_a_header_is_named_in_the_log(page: Page, ports: dict[int, int]) -> None:
    page.change("behind.toml", "name =", "socketTimeout = 1\nname =")
    service = page.start("smtphooks --config behind.toml")
    with pytest.raises(smtplib.SMTPServerDisconnected):
        deliver(ports[2525], "ann@example.org")
    service.waitForLine("no PROXY header from 127.0.0.1, though option useProxy lists it")


def test_only_a_listed_peer_is_believed(page: Page, ports: dict[int, int]) -> None:
    page.change("behind.toml", '["127.0.0.1"]', '["192.0.2.1"]')
    page.start("smtphooks --config behind.toml")
    with smtplib.SMTP("127.0.0.1", ports[2525], timeout=PATIENCE) as client:
        assert client.docmd("PROXY TCP4 192.0.2.7 192.0.2.8 50000 25")[0] == 500


@pytest.mark.parametrize("endpoint", ["haproxy:tcp:2525", "ssl:2525"])
def test_endpoints_that_would_hide_the_client_are_refused(page: Page, endpoint: str) -> None:
    page.change("behind.toml", '"tcp:2525"', f'"{endpoint}"')
    status, said = page.run("smtphooks --config behind.toml")
    assert status == 1 and "useProxy" in said
