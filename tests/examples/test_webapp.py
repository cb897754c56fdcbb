"""examples/webapp.py: what HTTP adds SMTP knows, and what SMTP stores HTTP lists."""

from __future__ import annotations

import json
import smtplib
from pathlib import Path
from typing import Any

import pytest

from tests.examples.conftest import Example, StartExample
from tests.real.programs import PATIENCE, Maildir, requires, run

pytestmark = requires("curl")

CONTENT = b"From: Bob\r\nSubject: hello\r\n\r\nhello\r\n"


def start(startExample: StartExample, maildir: Maildir) -> tuple[Example, str]:
    """The example, and the URL of its HTTP."""
    example = startExample("webapp.py", maildir.path, "--http", "tcp:0:interface=127.0.0.1", ports=2)
    return example, f"http://127.0.0.1:{example.ports[1]}"


def curl(url: str, *arguments: str) -> tuple[int, Any]:
    """The status, and the JSON of the answer."""
    body, _, status = run("curl", "-sS", "-w", "\n%{http_code}", *arguments, url).stdout.decode().rpartition("\n")
    return int(status), json.loads(body)


def codeOf(example: Example, recipient: str) -> int:
    """The reply to a message for a recipient, or to RCPT if that refuses."""
    with smtplib.SMTP("127.0.0.1", example.port, timeout=PATIENCE) as client:
        client.ehlo("client.example")
        client.mail("bob@example.net")
        code = client.rcpt(recipient)[0]
        return client.data(CONTENT)[0] if code == 250 else code


def test_a_recipient_that_is_added_over_HTTP_receives_mail_that_HTTP_lists(
    startExample: StartExample, maildir: Maildir
) -> None:
    example, url = start(startExample, maildir)
    assert codeOf(example, "ann@example.org") == 550
    assert curl(f"{url}/recipients", "-d", "address=Ann@Example.org") == (201, "ann@example.org")
    assert codeOf(example, "ANN@example.org") == 250
    assert codeOf(example, "eve@example.org") == 550
    assert curl(f"{url}/messages") == (
        200,
        [{"Delivered-To": "ANN@example.org", "From": "Bob", "Subject": "hello"}],
    )
    assert maildir.message().content.endswith(b"\n\nhello\n")


def test_recipients_and_messages_outlive_the_program(startExample: StartExample, maildir: Maildir) -> None:
    example, url = start(startExample, maildir)
    for local in ("ann", "bob"):
        curl(f"{url}/recipients", "-d", f"address={local}@example.org")
    assert codeOf(example, "bob@example.org") == 250
    assert example.terminate() == 0
    example, url = start(startExample, maildir)
    assert curl(f"{url}/recipients") == (200, ["ann@example.org", "bob@example.org"])
    assert codeOf(example, "bob@example.org") == 250
    assert len(curl(f"{url}/messages")[1]) == 2


@pytest.mark.parametrize("body", ["", "address=", "address=ann", "address=a@b%0Ac@d", "address=a%20b@c", "other=a@b"])
def test_what_is_no_address_is_not_added(startExample: StartExample, maildir: Maildir, body: str) -> None:
    _, url = start(startExample, maildir)
    assert curl(f"{url}/recipients", "-d", body)[0] == 400
    assert curl(f"{url}/recipients") == (200, [])


def test_a_message_that_cannot_be_stored_is_a_temporary_failure(
    startExample: StartExample, maildir: Maildir, tmp_path: Path
) -> None:
    example, url = start(startExample, maildir)
    curl(f"{url}/recipients", "-d", "address=ann@example.org")
    maildir.path.mkdir()
    (maildir.path / "tmp").write_text("not a folder")
    assert codeOf(example, "ann@example.org") == 451
    assert curl(f"{url}/messages") == (200, [])
