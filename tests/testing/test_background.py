"""The layers and stores of the package in a server for tests, whose reactor is not that of the process."""

from __future__ import annotations

import os
import smtplib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from smtphooks.layers import Recipients
from smtphooks.stores import Maildir
from smtphooks.testing import SMTPServerThread


def send(server: SMTPServerThread, recipient: str = "bob@example.org", text: str = "How are you?") -> None:
    with smtplib.SMTP(server.host, server.port, timeout=5) as client:
        client.sendmail("ann@example.org", recipient, f"Subject: Hello\r\n\r\n{text}\r\n")


@pytest.mark.parametrize("octets", [10, 100_000])
def test_a_maildir_stores_what_the_server_receives(tmp_path: Path, octets: int) -> None:
    before = set(threading.enumerate())
    hooks = [Recipients(recipients=["bob@example.org"]), Maildir(str(tmp_path / "mail"))]
    with SMTPServerThread(hooks=hooks) as server:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(server, "carl@example.org")
        send(server, text="\r\n".join("x" * 70 for _ in range(octets // 70)))
        assert len(server.messages) == 1
    assert len(os.listdir(tmp_path / "mail" / "new")) == 1
    assert set(threading.enumerate()) == before


def test_a_message_that_must_go_to_disk_before_it_is_read_arrives() -> None:
    class Whole:
        async def inspectData(self, stream: Any, session: Any) -> None:
            await stream.read()

    with SMTPServerThread(hooks=[Whole()], spoolMemory=65536) as server:
        send(server, text="\r\n".join("x" * 70 for _ in range(10_000)))
        assert len(server.messages[0].octets) > 700_000


def test_recipients_in_a_database_are_asked_for_by_one_server_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (address TEXT)")
        connection.execute("INSERT INTO users VALUES ('bob@example.org')")
    connection.close()
    hooks = [Recipients(domains=["example.org"], database=str(path), query="SELECT 1 FROM users WHERE address = ?")]
    for _ in range(2):
        with SMTPServerThread(hooks=hooks) as server:
            send(server)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                send(server, "carl@example.org")


def test_neither_needs_or_installs_the_reactor_of_the_process_or_keeps_it_from_ending(tmp_path: Path) -> None:
    program = (
        "import smtplib, sys\n"
        "from smtphooks.stores import Maildir\n"
        "from smtphooks.testing import SMTPServerThread\n"
        f"server = SMTPServerThread(hooks=Maildir({str(tmp_path / 'mail')!r})).start()\n"
        "with smtplib.SMTP(server.host, server.port, timeout=5) as client:\n"
        "    client.sendmail('a@example.org', 'b@example.org', 'Subject: x')\n"
        "assert 'twisted.internet.reactor' not in sys.modules\n"
        # It forgets to stop the server.
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
