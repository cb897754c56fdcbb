"""The store Webhook in a service, with real HTTP servers that take, refuse, hang and die, over TCP and TLS."""

from __future__ import annotations

import hashlib
import os
import signal
import smtplib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.programs import (
    PATIENCE,
    ROOT,
    Certificates,
    Client,
    Program,
    Service,
    eventually,
    freePort,
    reset,
    table,
    tcp,
)
from tests.secrets import TOKEN, secretsIn

SMALL = b"Subject: hello\r\n\r\nhello\r\n"
LINE = b"0123456789" * 7 + b"\r\n"
LARGE = b"Subject: large\r\n\r\n" + LINE * 80_000  # more than the buffers of all sockets hold


class Webhooks:
    """
    An HTTP server and a service that posts to it.

    @ivar http: the port of the former; C{port} that of the latter.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http, self.port = freePort(), freePort()
        self.server: Any = None
        self.service: Any = None

    def serve(self, kind: str, *arguments: str) -> None:
        """Start the HTTP server, and wait until it listens."""
        command = [sys.executable, "-m", "tests.real.webhookserver", kind, str(self.http), *arguments]
        self.server = Program(command, {**os.environ, "PYTHONPATH": str(ROOT)}, ROOT)
        eventually(self._listens, "the HTTP server")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.http)) == 0

    def start(
        self, path: str = "/mail", scheme: str = "http", lmtp: bool = False, size: int = 0, **options: Any
    ) -> None:
        """Start the service."""
        options = {"use": "smtphooks.stores:Webhook", "url": f"{scheme}://127.0.0.1:{self.http}{path}", **options}
        config = [
            table("options", {"authOptional": True, "size": size}),
            table("[listener]", {"endpoint": tcp(self.port), "lmtp": lmtp}),
            table("[listener.layer]", options),
        ]
        (self.folder / "smtphooks.toml").write_text("\n".join(config))
        self.service = Service(self.folder, ["--config", "smtphooks.toml"], [tcp(self.port)])

    def send(self, message: bytes = SMALL, *recipients: str, client: Callable[..., Any] = smtplib.SMTP) -> Any:
        """Send a message; the reply after it."""
        with client("127.0.0.1", self.port, timeout=PATIENCE) as connection:
            connection.ehlo("client.example")
            connection.mail("sender@client.example")
            for recipient in recipients or ["ann@example.org"]:
                assert connection.rcpt(recipient)[0] == 250
            return connection.data(message)

    def stop(self) -> None:
        if self.service is not None:
            assert self.service.terminate() == 0, self.service.output
            assert "factory" not in self.service.output
            assert "Traceback" not in self.service.output and "Unhandled" not in self.service.output
            assert not secretsIn(self.service.output)
        if self.server is not None:
            self.server.kill()


@pytest.fixture
def webhooks(tmp_path: Path) -> Iterator[Webhooks]:
    found = Webhooks(tmp_path)
    yield found
    found.stop()


def digestOf(message: bytes) -> bytes:
    return b"%d %s" % (len(message), hashlib.sha256(message).hexdigest().encode())


# --- messages arrive ---


@pytest.mark.parametrize(
    "kind, options",
    [
        ("aiohttp", {}),
        ("aiohttp", {"spool": True}),
        ("aiohttp", {"secret": "0123456789abcdef"}),
        ("klein", {}),
        ("flask", {"spool": True}),
    ],
    ids=["aiohttp", "aiohttp-spool", "aiohttp-secret", "klein", "flask-spool"],
)
def test_messages_arrive_whole(webhooks: Webhooks, kind: str, options: dict[str, Any]) -> None:
    pytest.importorskip(kind)
    webhooks.serve(kind)
    webhooks.start(recipientURL=f"http://127.0.0.1:{webhooks.http}/recipient", token=TOKEN, **options)
    for message in (SMALL, LARGE, SMALL):
        assert webhooks.send(message) == (250, b"2.0.0 " + digestOf(message))
    with smtplib.SMTP("127.0.0.1", webhooks.port) as client:
        client.helo()
        client.mail("sender@client.example")
        assert client.rcpt("ann@example.com") == (550, b"5.1.1 No such recipient")


def test_over_lmtp_each_recipient_has_a_reply(webhooks: Webhooks) -> None:
    webhooks.serve("aiohttp")
    webhooks.start(lmtp=True)
    with Client(webhooks.port, b"LHLO client.example") as client:
        client.envelope(b"ann@example.org", b"bob@example.org")
        client.say(b"DATA", 354)
        client.socket.sendall(SMALL + b".\r\n")
        assert [client.reply(250) for _ in range(2)] == [b"250 2.0.0 " + digestOf(SMALL) + b"\r\n"] * 2


def test_several_clients_at_once(webhooks: Webhooks) -> None:
    webhooks.serve("aiohttp")
    webhooks.start()
    messages = [SMALL + LINE * number for number in range(20)]
    replies: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda number=number: replies.update({number: webhooks.send(messages[number])}))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {number: (250, b"2.0.0 " + digestOf(messages[number])) for number in range(20)}


@pytest.mark.parametrize("options", [{}, {"spool": True}], ids=["", "spool"])
def test_a_server_that_refuses_before_it_has_read_all_is_understood(webhooks: Webhooks, options: Any) -> None:
    webhooks.serve("aiohttp")
    webhooks.start("/small", **options)
    for _ in range(5):
        assert webhooks.send(LARGE) == (552, b"5.3.4 At most 100 kB")
    assert webhooks.send(SMALL)[0] == 250


@pytest.mark.parametrize("options", [{}, {"spool": True}], ids=["", "spool"])
def test_a_server_that_refuses_and_resets_the_connection_is_understood(webhooks: Webhooks, options: Any) -> None:
    with socket.create_server(("127.0.0.1", webhooks.http)) as listening:
        threading.Thread(target=resetAll, args=[listening], daemon=True).start()
        webhooks.start(**options)
        for _ in range(25):
            assert webhooks.send(LARGE[:3_000_000]) == (552, b"5.3.4 big")


def resetAll(listening: socket.socket) -> None:
    """Refuse each request before all of it has come, and reset its connection."""
    while True:
        try:
            connection = listening.accept()[0]
        except OSError:
            return
        octets = 0
        while octets < 200_000:
            octets += len(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 413 No\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nbig")
        reset(connection)
        connection.close()


def test_a_message_above_the_limit_is_refused(webhooks: Webhooks) -> None:
    webhooks.serve("aiohttp")
    webhooks.start(size=1_000_000)
    assert webhooks.send(LARGE)[0] == 552
    assert webhooks.send(SMALL)[0] == 250


# --- servers that die, hang and come back ---


def test_a_server_that_is_killed_and_comes_back(webhooks: Webhooks) -> None:
    webhooks.serve("aiohttp")
    webhooks.start(breakerFailures=1, breakerPause=0.2)
    assert webhooks.send()[0] == 250
    webhooks.server.kill()
    assert webhooks.send()[0] == 451
    webhooks.service.waitForLine("has failed 1 times in a row")
    webhooks.serve("aiohttp")
    eventually(lambda: webhooks.send()[0] == 250, "the webhook is tried again")
    webhooks.service.waitForLine("is back")


@pytest.mark.parametrize("options", [{}, {"spool": True}], ids=["", "spool"])
def test_a_server_that_is_killed_within_a_message(webhooks: Webhooks, options: Any) -> None:
    webhooks.serve("aiohttp")
    webhooks.start(**options)
    with Client(webhooks.port) as client:
        client.envelope(b"ann@example.org")
        client.say(b"DATA", 354)
        client.socket.sendall(b"Subject: x\r\n\r\n" + LINE * 1000)
        webhooks.server.kill()
        client.socket.sendall(LINE * 1000 + b".\r\n")
        client.reply(451)


def test_a_server_that_hangs_is_left_after_the_timeout_and_comes_back(webhooks: Webhooks) -> None:
    webhooks.serve("aiohttp")
    webhooks.start(timeout=0.5)
    assert webhooks.send()[0] == 250
    os.kill(webhooks.server.pid, signal.SIGSTOP)
    assert webhooks.send(SMALL)[0] == 451
    webhooks.service.waitForLine("has not answered within 0.5 seconds")
    assert webhooks.send(LARGE)[0] == 451
    webhooks.service.waitForLine("has not read all within 0.5 seconds")
    os.kill(webhooks.server.pid, signal.SIGCONT)
    assert webhooks.send()[0] == 250


def test_a_client_that_is_reset_within_its_message_leaves_the_service_in_order(webhooks: Webhooks) -> None:
    webhooks.serve("aiohttp")
    webhooks.start()
    for _ in range(3):
        with Client(webhooks.port) as client:
            client.envelope(b"ann@example.org")
            client.say(b"DATA", 354)
            client.socket.sendall(b"Subject: x\r\n\r\n" + LINE * 1000)
            reset(client.socket)
    assert webhooks.send() == (250, b"2.0.0 " + digestOf(SMALL))


def test_a_message_is_finished_after_SIGTERM_and_connections_that_were_kept_hold_up_nothing(webhooks: Webhooks) -> None:
    webhooks.serve("aiohttp")
    webhooks.start()
    assert webhooks.send()[0] == 250
    with Client(webhooks.port) as client:
        client.envelope(b"ann@example.org")
        client.say(b"DATA", 354)
        os.kill(webhooks.service.pid, signal.SIGTERM)
        webhooks.service.waitForLine("received SIGTERM")
        client.socket.sendall(SMALL + b".\r\n")
        client.reply(250)
    os.kill(webhooks.server.pid, signal.SIGSTOP)
    assert webhooks.service.wait() == 0


# --- TLS ---


def test_the_server_is_verified(webhooks: Webhooks, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    webhooks.serve("aiohttp", certificates.server["cert"].removesuffix(".pem"))
    webhooks.start(scheme="https", ca=certificates.authority)
    for message in (SMALL, LARGE, SMALL):
        assert webhooks.send(message) == (250, b"2.0.0 " + digestOf(message))


def test_a_refusal_over_TLS_before_all_was_read_is_understood(webhooks: Webhooks, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    webhooks.serve("aiohttp", certificates.server["cert"].removesuffix(".pem"))
    webhooks.start("/small", "https", ca=certificates.authority)
    assert webhooks.send(LARGE) == (552, b"5.3.4 At most 100 kB")
    assert webhooks.send(SMALL)[0] == 250


def test_a_server_of_another_authority_gets_no_message(webhooks: Webhooks, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    webhooks.serve("aiohttp", certificates.server["cert"].removesuffix(".pem"))
    webhooks.start(scheme="https", ca=Certificates(tmp_path / "others").authority)
    assert webhooks.send()[0] == 451
    webhooks.service.waitForLine("cannot decide", "TLS fails, certificate verify failed")


def test_a_server_of_another_name_gets_no_message(webhooks: Webhooks, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    webhooks.serve("aiohttp", certificates.sni["mail.example.org"]["cert"].removesuffix(".pem"))
    webhooks.start(scheme="https", ca=certificates.authority)
    assert webhooks.send()[0] == 451
    webhooks.service.waitForLine("cannot decide", "TLS fails, its certificate is not for this host")


def test_a_server_without_TLS_gets_no_message(webhooks: Webhooks, tmp_path: Path) -> None:
    webhooks.serve("aiohttp")
    webhooks.start(scheme="https", ca=Certificates(tmp_path / "certificates").authority)
    assert webhooks.send()[0] == 451
    webhooks.service.waitForLine("cannot decide", "gives no answer")
