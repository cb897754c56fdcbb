"""Mail sent from the command line, with swaks and netcat."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.real.conftest import StartService
from tests.real.programs import Maildir, hidden, joinLines, requires, run

CONTENT = b"Subject: from the command line\n\n.\n..two\nthe end\n"


def swaks(folder: Path, port: int, *arguments: object, status: int = 0) -> str:
    """Send the message, and return the dialogue."""
    data = folder / "message"
    data.write_bytes(CONTENT)
    fixed = [
        "--server",
        "127.0.0.1",
        "--port",
        port,
        "--from",
        "sender@here.example",
        "--helo",
        "client.example",
    ]
    return run("swaks", *fixed, "--data", f"@{data}", *arguments, status=status).stdout.decode()


def content(maildir: Maildir) -> list[bytes]:
    # swaks appends an empty line to the message.
    return [message.content.rstrip(b"\n") + b"\n" for message in maildir.messages()]


@requires("swaks")
def test_swaks_message_is_stored(startService: StartService, maildir: Maildir, tmp_path: Path) -> None:
    swaks(tmp_path, startService().port, "--to", "recipient@there.example")

    assert content(maildir) == [CONTENT]
    assert maildir.message().deliveredTo == ["recipient@there.example"]


@requires("swaks")
def test_swaks_over_lmtp_is_stored_once_per_recipient(
    startService: StartService, maildir: Maildir, tmp_path: Path
) -> None:
    port = startService(lmtp=True).port
    dialogue = swaks(tmp_path, port, "--protocol", "LMTP", "--to", "first@there.example,second@there.example")

    assert " -> LHLO client.example" in dialogue
    assert content(maildir) == [CONTENT, CONTENT]
    assert sorted(message.deliveredTo for message in maildir.messages()) == [
        ["first@there.example"],
        ["second@there.example"],
    ]


@requires("swaks")
@pytest.mark.parametrize("hooks", ["PickyMaildir", "SlowMaildir"])
def test_swaks_that_pipelines_is_answered_in_order(
    startService: StartService, maildir: Maildir, tmp_path: Path, hooks: str
) -> None:
    port = startService(hooks, hooksOptions={"path": maildir.path}).port
    recipients = "first@there.example,nobody@there.example,last@there.example"
    dialogue = swaks(tmp_path, port, "--pipeline", "--to", recipients)

    # The client sent all commands before it had any reply.
    commands, replies = dialogue.split(" -> DATA\n")
    assert commands.rpartition("<-")[2].count(" -> RCPT TO:") == 3
    refused = "550" if hooks == "PickyMaildir" else "250"
    codes = re.findall(r"^<\S+ +(\d{3}) ", replies, re.MULTILINE)
    assert codes == ["250", "250", refused, "250", "354", "250", "221"]
    assert content(maildir) == [CONTENT]
    assert ("nobody@there.example" in maildir.message().deliveredTo) == (refused == "250")


@requires("nc.openbsd")
@pytest.mark.parametrize("quit", [[b"QUIT"], []], ids=["quit", "noQuit"])
@pytest.mark.parametrize("slow", [False, True], ids=["fast", "slow"])
def test_client_that_only_stops_sending_still_gets_its_replies(
    startService: StartService, maildir: Maildir, slow: bool, quit: list[bytes]
) -> None:
    hooks = {"hooks": "SlowMaildir", "hooksOptions": {"path": maildir.path}} if slow else {}
    port = startService(**hooks).port
    commands = [
        b"EHLO client.example",
        b"MAIL FROM:<sender@here.example>",
        b"RCPT TO:<recipient@there.example>",
        b"DATA",
        hidden(CONTENT.replace(b"\n", b"\r\n")) + b"NOOP",
        *quit,
        b"",
    ]
    replies = run("nc.openbsd", "-N", "127.0.0.1", port, stdin=joinLines(commands)).stdout

    codes = re.findall(rb"^(\d{3}) ", replies, re.MULTILINE)
    assert codes == [b"220", b"250", b"250", b"250", b"354", b"250", b"250", *[b"221"] * len(quit)]
    assert content(maildir) == [CONTENT]


@requires("nc.openbsd")
def test_message_that_is_cut_short_is_not_stored(startService: StartService, maildir: Maildir) -> None:
    commands = [
        b"EHLO client.example",
        b"MAIL FROM:<sender@here.example>",
        b"RCPT TO:<recipient@there.example>",
        b"DATA",
        hidden(CONTENT.replace(b"\n", b"\r\n")).removesuffix(b"\r\n"),
    ]
    running = startService()
    replies = run("nc.openbsd", "-N", "127.0.0.1", running.port, stdin=joinLines(commands)).stdout

    assert re.findall(rb"^(\d{3}) ", replies, re.MULTILINE)[:5] == [b"220", b"250", b"250", b"250", b"354"]
    assert replies.splitlines()[-1].startswith((b"354", b"4"))
    running.service.terminate()
    assert maildir.files() == []
    assert maildir.isTidy()
