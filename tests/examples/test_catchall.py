"""examples/catchall.py: every message is taken and shown, and nothing in it is trusted."""

from __future__ import annotations

import json
import smtplib
from typing import Any

from tests.examples.conftest import Example, StartExample
from tests.real.programs import PATIENCE, requires, run
from tests.secrets import PASSWORD

pytestmark = requires("curl")


def start(startExample: StartExample, *arguments: object) -> tuple[Example, str]:
    """The example, and the URL of its page."""
    example = startExample("catchall.py", "--http", "tcp:0:interface=127.0.0.1", *arguments, ports=2)
    return example, f"http://127.0.0.1:{example.ports[1]}"


def get(url: str, *arguments: object) -> str:
    return run("curl", "-sS", "--fail-with-body", *arguments, url).stdout.decode()


def listed(url: str) -> Any:
    return json.loads(get(f"{url}/messages"))


def send(example: Example, subject: str, *recipients: str, sender: str = "app@example.org") -> None:
    with smtplib.SMTP("127.0.0.1", example.port, timeout=PATIENCE) as client:
        client.sendmail(sender, recipients, f"Subject: {subject}\r\n\r\n.\r\n<b>{subject}</b>\r\n")


def test_every_message_is_listed_and_shown(startExample: StartExample) -> None:
    example, url = start(startExample)
    send(example, "hello", "ann@example.org", "bob@anywhere.example")
    send(example, "=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "carl@example.org")
    first, second = listed(url)
    assert first == {
        "number": 1,
        "sender": "app@example.org",
        "recipients": ["ann@example.org", "bob@anywhere.example"],
        "user": None,
        "subject": "hello",
    }
    assert second["subject"] == "Grüße"
    page = get(url)
    assert page.index("Grüße") < page.index("hello")
    assert "ann@example.org, bob@anywhere.example" in page
    assert get(f"{url}/messages/1").replace("\r\n", "\n") == "Subject: hello\n\n.\n<b>hello</b>\n"


@requires("swaks")
def test_any_user_and_any_password_will_do(startExample: StartExample) -> None:
    example, url = start(startExample)
    server = ["swaks", "--server", f"127.0.0.1:{example.port}", "--to", "ann@example.org", "--auth"]
    run(*server, "--auth-user", "app", "--auth-password", PASSWORD)
    assert [message["user"] for message in listed(url)] == ["app"]


def test_nothing_of_a_message_runs_in_the_browser(startExample: StartExample) -> None:
    example, url = start(startExample)
    send(example, "<script>alert(1)</script>", '"<script>"@example.org', sender='"<script>"@example.net')
    page = get(url)
    assert "<script>" not in page and "&lt;script&gt;alert" in page
    head = get(f"{url}/messages/1", "-i").lower()
    assert "content-type: text/plain" in head and "x-content-type-options: nosniff" in head


def test_malformed_messages_are_caught_too(startExample: StartExample) -> None:
    example, url = start(startExample)
    send(example, "=?utf-8?q?=FF?= =?nonsense?b?!?=", "ann@example.org")
    with smtplib.SMTP("127.0.0.1", example.port, timeout=PATIENCE) as client:
        client.sendmail("", ["ann@example.org"], bytes(range(1, 256)))
    assert len(listed(url)) == 2
    get(url)


def test_only_the_last_messages_are_kept_and_all_can_be_forgotten(startExample: StartExample) -> None:
    example, url = start(startExample, "--keep", 2)
    for subject in ("one", "two", "three"):
        send(example, subject, "ann@example.org")
    assert [message["subject"] for message in listed(url)] == ["two", "three"]
    assert "no such message" in run("curl", "-sS", "-w", "%{http_code}", f"{url}/messages/1").stdout.decode()
    get(f"{url}/messages", "-X", "DELETE")
    assert listed(url) == []
    send(example, "four", "ann@example.org")
    assert [message["number"] for message in listed(url)] == [4]
