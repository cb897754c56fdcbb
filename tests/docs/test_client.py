"""docs/client.rst: its programs run against real servers, and its tables are those of the code."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import attrs
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.task import deferLater

import smtphooks.client
from smtphooks.client import ClientError, Route, SMTPClient, Timeouts
from smtphooks.testing import SMTPServerThread
from tests.docs.clients import clientOf
from tests.pages import DOCS, define, literalsIn, parse, rowsOf, write
from tests.support import ENVELOPE

PAGE = "client.rst"
TEXT = (DOCS / PAGE).read_text()


def run(name: str, folder: Path, target: str) -> list[str]:
    """What a program of the page says."""
    write(PAGE, folder)
    done = subprocess.run(
        [sys.executable, name, target], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def rows(header: str) -> dict[str, str]:
    """The first two columns of the table whose first column has this header."""
    document, _ = parse(DOCS / PAGE)
    found: dict[str, str] = {}
    for row in rowsOf(document, header):
        for name in literalsIn(row[0]):
            found.setdefault(name, row[1].astext())
    return found


def test_a_message_is_sent_as_the_page_shows(folder: Path) -> None:
    with SMTPServerThread() as server:
        said = run("send.py", folder, f"{server.host}:{server.port}")
        assert said == ["the server says: 250 2.0.0 Message accepted"]
        assert f"    {said[0]}\n" in TEXT
        assert server.messages[0]["Subject"] == "Hello"
        server.fail("RCPT", 550)
        assert run("send.py", folder, f"{server.host}:{server.port}")[0].startswith("recipient 0 is refused: 550")
        server.fail("MAIL", 550)
        assert run("send.py", folder, f"{server.host}:{server.port}")[0].startswith("not sent: ")
    assert "cannot be reached" in run("send.py", folder, f"{server.host}:{server.port}")[0]


def test_a_transaction_asks_for_each_recipient(folder: Path) -> None:
    with SMTPServerThread() as server:
        server.fail("RCPT", 550, recipient="eve@example.com")
        said = run("transaction.py", folder, f"{server.host}:{server.port}")
        assert [line.partition(":")[0] for line in said] == ["bob@example.com", "eve@example.com", "message"]
        assert server.messages[0].octets.endswith(b"line 0\r\nline 1\r\nline 2\r\n")
        assert [str(address) for address in server.messages[0].envelope.rcptTo] == ["bob@example.com"]


def test_it_works_in_tasks_of_asyncio(folder: Path) -> None:
    with SMTPServerThread() as server:
        assert run("tasks.py", folder, f"{server.host}:{server.port}") == ["250 2.0.0 Message accepted"] * 3
        assert [message["Subject"] for message in server.messages] == ["From a task"] * 3


@ensureDeferred
async def test_a_hook_hands_on_what_the_next_server_says(folder: Path) -> None:
    page = define(PAGE, "forward.py", folder)
    with SMTPServerThread() as server:
        page.onData.__globals__["upstream"] = smtphooks.client.routeTo(f"{server.host}:{server.port}")
        server.fail("RCPT", 550, times=1)
        replies = []
        for _ in range(2):
            client = clientOf(page.factory)
            client.say(*ENVELOPE, "DATA")
            client.say("text", ".")
            while not (lines := client.replies()):
                await deferLater(reactor, 0)  # type: ignore[arg-type]
            replies += lines
            client.lose()
        assert [reply[:3] for reply in replies] == ["550", "250"]
        assert len(server.messages) == 1
        await page.onData.__globals__["client"].close()


def test_the_routes_are_as_they_are_shown(folder: Path) -> None:
    page = define(PAGE, "submission.py", folder)
    assert (page.submission.tls, page.submission.port, page.delivery.lmtp) == ("implicit", 465, True)


def test_the_fields_of_a_route_and_the_timeouts_are_those_of_the_code() -> None:
    fields, timeouts = {field.name for field in attrs.fields(Route)}, attrs.asdict(Timeouts())
    shown = rows("Field")
    assert set(shown) == fields | set(timeouts)
    assert {name: float(shown[name]) for name in timeouts} == timeouts
    assert shown["tls"] == f'"{attrs.fields(Route).tls.default}"'


def test_the_arguments_of_a_client_are_those_of_the_code() -> None:
    parameters = inspect.signature(SMTPClient).parameters.values()
    assert rows("Argument") == {
        each.name: "none" if each.default is None else f"{each.default:g}" for each in parameters
    }


def test_each_kind_of_error_and_of_TLS_is_listed() -> None:
    assert set(rows("Error")) == {kind.__name__ for kind in ClientError.__subclasses__()}
    assert set(rows("tls")) == {f'"{tls}"' for tls in ("none", "opportunistic", "required", "implicit")}


def test_the_attributes_of_a_delivery_are_there() -> None:
    assert set(rows("Attribute")) == {"refused", "replies", "isWhole"}
    assert all(hasattr(smtphooks.client.Delivery({}, []), name) for name in rows("Attribute"))
