"""examples/application.tac, run by twistd."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
from pathlib import Path

import pytest

from tests.examples.conftest import Example, StartExample
from tests.real.programs import Client, Maildir, requires, run

CONTENT = b"Subject: hello\r\n\r\nhello\r\n"


@pytest.fixture
def example(startExample: StartExample, maildir: Maildir) -> Example:
    """SMTP on a free port, LMTP on the UNIX socket C{lmtp.sock}."""
    environment = {"SMTP_ENDPOINT": "tcp:0:interface=127.0.0.1", "MAILDIR": str(maildir.path)}
    example = startExample("application.tac", ports=2, **environment)
    assert example.port != 2525
    return example


@requires("swaks")
def test_mail_for_the_domain_is_stored(example: Example, maildir: Maildir) -> None:
    server = ["swaks", "--server", f"127.0.0.1:{example.port}"]
    run(*server, "--to", "ann@example.org")
    assert b"550 5.7.1 We take no mail for that domain" in run(*server, "--to", "ann@example.net", status=24).stdout
    assert maildir.message().deliveredTo == ["ann@example.org"]


def test_LMTP_is_on_a_socket_of_the_same_application(example: Example, maildir: Maildir, tmp_path: Path) -> None:
    with smtplib.LMTP(f"{tmp_path}/lmtp.sock", 0) as client:
        refused = client.sendmail("bob@example.org", ["ann@example.org", "ann@example.net"], CONTENT)
    assert refused == {"ann@example.net": (550, b"5.7.1 We take no mail for that domain")}
    assert maildir.message().content == CONTENT.replace(b"\r\n", b"\n")


def test_a_disk_that_fails_is_a_temporary_failure(example: Example, maildir: Maildir) -> None:
    maildir.path.mkdir()
    (maildir.path / "new").write_text("not a folder")
    with smtplib.SMTP("127.0.0.1", example.port) as client, pytest.raises(smtplib.SMTPDataError) as caught:
        client.sendmail("bob@example.org", ["ann@example.org"], CONTENT)
    assert caught.value.smtp_code == 451


def test_twistd_stops_when_the_last_transaction_has_finished(
    example: Example, maildir: Maildir, tmp_path: Path
) -> None:
    with Client(example.port) as idle, Client(example.port) as client:
        client.envelope(b"ann@example.org")
        client.say(b"DATA", 354)
        os.kill(example.pid, signal.SIGTERM)
        idle.reply(421)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", example.port)).close()
        client.socket.sendall(CONTENT + b".\r\n")
        client.reply(250)
    assert example.wait() == example.cleanly
    assert len(maildir.files()) == 1
    assert not (tmp_path / "lmtp.sock").exists()
