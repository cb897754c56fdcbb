"""Rspamd and ClamAV as an operator configures them, beside each other, with Debian's programs, also stopped or gone."""

from __future__ import annotations

import os
import signal
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.programs import PATIENCE, Maildir, Service, freePort, requires, table, tcp
from tests.real.test_clamav import VIRUSES, Clamd
from tests.real.test_rspamd import GTUBE, RspamdProgram, about

pytestmark = requires("clamd", "rspamd")


class Server:
    """A service with both layers in front of a Maildir, and the scanners that it asks."""

    def __init__(self, folder: Path, maildir: Maildir, onFault: str, timeout: int) -> None:
        for name in ("clamd", "rspamd"):
            (folder / name).mkdir()
        self.clamd, self.rspamd = Clamd(folder / "clamd"), RspamdProgram(folder / "rspamd")
        self._port = freePort()
        common = {"onFault": onFault, "timeout": timeout}
        layers = [
            {"use": "smtphooks.layers:Rspamd", "url": self.rspamd.url, **common},
            {"use": "smtphooks.layers:ClamAV", "endpoint": self.clamd.unix, **common},
            {"use": "smtphooks.stores:Maildir", "path": maildir.path},
        ]
        tables = [
            table("options", {"authOptional": True}),
            *[table("[layer]", layer) for layer in layers],
            table("[listener]", {"endpoint": tcp(self._port)}),
        ]
        config = folder / "smtphooks.toml"
        config.write_text("\n".join(tables))
        self.service = Service(folder, ["--config", str(config)], [tcp(self._port)])

    def send(self, message: bytes) -> int:
        """The code of the reply to a message."""
        with smtplib.SMTP("127.0.0.1", self._port, "client.example", PATIENCE) as client:
            client.ehlo()
            client.mail("a@client.example")
            client.rcpt("b@mx.example")
            return client.data(message)[0]

    def stop(self) -> None:
        self.service.terminate()
        self.clamd.kill()
        self.rspamd.terminate()  # which ends its workers as well


@pytest.fixture
def startServer(tmp_path: Path, maildir: Maildir) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(onFault: str = "tempfail", timeout: int = 60) -> Server:
        servers.append(Server(tmp_path, maildir, onFault, timeout))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def test_both_decide_on_every_message(startServer: Callable[..., Server], maildir: Maildir) -> None:
    server = startServer()
    virus = VIRUSES["Own.Text"]
    assert server.send(about(b"a virus") + virus) == 550
    assert server.send(about(b"spam")) == 554
    assert server.send(about(b"soft")) == 451
    assert server.send(about(b"GTUBE and a virus") + GTUBE + virus) in (550, 554)
    assert maildir.files() == []
    large = about(b"mark") + b"line\r\n" * 100_000  # too much for the memory of a spool
    assert server.send(large) == 250
    assert maildir.message().content == large.replace(b"mark\r\n", b"mark\r\nX-Spam: Yes\r\n").replace(b"\r\n", b"\n")
    server.service.waitForLine("clamd found Own.Text.UNOFFICIAL")
    server.service.waitForLine("rspamd: add header, score 25.00 of")
    assert "Traceback" not in server.service.output


@pytest.mark.parametrize("name", ["clamd", "rspamd"])
@pytest.mark.parametrize("isStopped", [True, False])
def test_no_message_passes_while_one_of_them_is_stopped_or_gone(
    startServer: Callable[..., Server], maildir: Maildir, name: str, isStopped: bool
) -> None:
    server = startServer(timeout=3)
    scanner: Clamd | RspamdProgram = getattr(server, name)
    pids = [scanner.pid] if name == "clamd" else workersOf(scanner.pid)
    if isStopped:
        sendAll(signal.SIGSTOP, pids)
    else:
        scanner.terminate()
    try:
        assert server.send(about(b"hello")) == 451
        assert server.send(about(b"large") + b"line\r\n" * 100_000) == 451
    finally:
        if isStopped:
            sendAll(signal.SIGCONT, pids)
    assert maildir.files() == []
    server.service.waitForLine("has not answered within 3 seconds" if isStopped else "cannot be reached")
    if isStopped:
        assert server.send(about(b"hello")) == 250
        assert maildir.message().content == about(b"hello").replace(b"\r\n", b"\n")


def sendAll(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, number)


def workersOf(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_messages_pass_without_them_if_the_operator_wants_that(
    startServer: Callable[..., Server], maildir: Maildir
) -> None:
    server = startServer(onFault="pass")
    server.clamd.terminate()
    assert server.send(about(b"mark") + VIRUSES["Own.Text"]) == 250
    (stored,) = maildir.messages()
    assert b"X-Spam: Yes\n" in stored.content
    server.rspamd.terminate()
    assert server.send(about(b"mark")) == 250
    assert about(b"mark").replace(b"\r\n", b"\n") in [stored.content for stored in maildir.messages()]
