"""examples/lmtpagent.py: Postfix delivers to the Maildirs of several recipients, each with a reply of its own."""

from __future__ import annotations

import os
import smtplib
import tempfile
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from tests.examples.conftest import StartExample
from tests.real.mta.postfix import Postfix
from tests.real.programs import Client, Maildir, freePort, requires

CONTENT = b"Subject: hello\r\n\r\n.\r\nhello\r\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the domains: ann has two folders, bob none."""
    for mailbox in ("ann/.lists", "ann/.lists.python", "bob"):
        (tmp_path / "vhosts" / "example.org" / mailbox).mkdir(parents=True)
    return tmp_path / "vhosts"


def new(root: Path, mailbox: str) -> list[Path]:
    return Maildir(root / "example.org" / mailbox).files()


def deliver(client: Client, *recipients: bytes) -> None:
    """Send the message, whose replies are then to be read."""
    client.envelope(*recipients)
    client.say(b"DATA", 354)
    client.socket.sendall(CONTENT.replace(b"\r\n.\r\n", b"\r\n..\r\n") + b".\r\n")


def start(startExample: StartExample, root: Path) -> Client:
    return Client(startExample("lmtpagent.py", root).port, b"LHLO client.example")


def test_each_recipient_has_a_file_of_its_own_in_the_folder_that_the_address_names(
    startExample: StartExample, root: Path
) -> None:
    addresses = [b"Ann@Example.ORG", b"ann+lists@example.org", b"ann+lists.python@example.org", b"bob@example.org"]
    mailboxes = ["ann", "ann/.lists", "ann/.lists.python", "bob"]
    with start(startExample, root) as client:
        deliver(client, *addresses)
        for _ in addresses:
            client.reply(250)
    for mailbox, address in zip(mailboxes, addresses, strict=True):
        stored = Maildir(root / "example.org" / mailbox).message()
        assert stored.deliveredTo == [address.decode()]
        assert stored.returnPath == "sender@here.example"
        assert f"for <{address.decode()}>" in stored.received
        assert stored.content == CONTENT.replace(b"\r\n", b"\n")


def test_mail_for_a_folder_that_is_not_there_is_in_the_inbox(startExample: StartExample, root: Path) -> None:
    with start(startExample, root) as client:
        deliver(client, b"bob+lists@example.org", b"bob+/ann@example.org", b"bob+@example.org")
        for _ in range(3):
            client.reply(250)
    assert len(new(root, "bob")) == 3
    assert sorted(path.name for path in (root / "example.org").iterdir()) == ["ann", "bob"]


@pytest.mark.parametrize("recipient", [b"eve@example.org", b"ann@example.net", b'"ann"@example.org'])
def test_an_address_without_a_mailbox_is_refused(startExample: StartExample, root: Path, recipient: bytes) -> None:
    with start(startExample, root) as client:
        client.say(b"MAIL FROM:<>", 250)
        client.socket.sendall(b"RCPT TO:<%b>\r\n" % recipient)
        assert client._file.readline().startswith(b"5")


def test_no_address_leads_out_of_the_folder_of_its_domain(startExample: StartExample, root: Path) -> None:
    (root / "postmaster").mkdir()
    with tempfile.TemporaryDirectory(prefix="x") as elsewhere, start(startExample, root) as client:
        client.say(b"MAIL FROM:<>", 250)
        client.say(b"RCPT TO:<%b@example.org>" % elsewhere.lower().encode(), 550)
        client.say(b"RCPT TO:<postmaster>", 550)


def test_a_mailbox_that_fails_fails_alone(startExample: StartExample, root: Path) -> None:
    (root / "example.org" / "ann" / "new").write_text("not a folder")
    with start(startExample, root) as client:
        deliver(client, b"ann@example.org", b"bob@example.org", b"ann+lists@example.org")
        client.reply(451)
        client.reply(250)
        client.reply(250)
    assert len(new(root, "bob")) == len(new(root, "ann/.lists")) == 1


@pytest.fixture
def startPostfix() -> Iterator[Callable[[int], Postfix]]:
    """Start a Postfix that delivers mail for example.org, and that to its senders, to a port."""
    started: list[Postfix] = []
    with tempfile.TemporaryDirectory(prefix="real-") as path:
        # Postfix drops privileges, so its user must reach the folder.
        Path(path).chmod(0o755)

        def start(port: int) -> Postfix:
            started.append(Postfix(Path(path), {"example.org": f"inet:127.0.0.1:{port}"}))
            return started[-1]

        yield start
        for postfix in started:
            postfix.stop()


@requires("postfix", "postqueue")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix")
class TestBehindPostfix:
    def test_a_recipient_that_is_refused_is_bounced_and_one_that_fails_is_tried_again(
        self, startExample: StartExample, startPostfix: Callable[[int], Postfix], root: Path
    ) -> None:
        blocked = root / "example.org" / "ann" / "new"
        blocked.write_text("not a folder")
        postfix = startPostfix(startExample("lmtpagent.py", root).port)
        recipients = ["ann@example.org", "eve@example.org", "ann+lists@example.org"]
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            assert client.sendmail("bob@example.org", recipients, CONTENT) == {}
        (bounce,) = Maildir(root / "example.org" / "bob").waitFor(1)
        (stored,) = Maildir(root / "example.org" / "ann" / ".lists").waitFor(1)
        postfix.waitForLine("to=<ann@example.org>", "status=deferred", "451 4.2.0 The mailbox cannot be written to now")
        assert stored.deliveredTo == ["ann+lists@example.org"]
        report = message_from_bytes(bounce.content, policy=policy.default).as_string()
        assert "Final-Recipient: rfc822; eve@example.org" in report and "ann@example.org" not in report

        blocked.unlink()
        postfix.flush()
        postfix.waitUntilIdle()
        assert len(new(root, "ann")) == len(new(root, "ann/.lists")) == len(new(root, "bob")) == 1

    def test_mail_waits_in_the_queue_while_the_agent_is_down(
        self, startExample: StartExample, startPostfix: Callable[[int], Postfix], root: Path
    ) -> None:
        port = freePort()
        postfix = startPostfix(port)
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            client.sendmail("bob@example.org", ["ann@example.org"], CONTENT)
        postfix.waitForLine("to=<ann@example.org>", "status=deferred", "refused")
        startExample("lmtpagent.py", root, port=port)
        postfix.flush()
        postfix.waitUntilIdle()
        assert len(new(root, "ann")) == 1
