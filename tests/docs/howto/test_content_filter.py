"""docs/howto/content-filter.rst: Postfix hands messages over and takes them back, before and after its queue."""

from __future__ import annotations

import os
import re
import smtplib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.real.mta.postfix import Postfix
from tests.real.programs import Maildir, Program, Service, eventually, freePort, requires, tcp

PAGE = "content-filter"
PROGRAM = b"Subject: hello\r\n\r\nThis program cannot be run in DOS mode\r\n"

pytestmark = [
    requires("postfix", "postqueue"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix"),
]


class Filtered(NamedTuple):
    """
    Postfix with a filter, and the last server for the mail of example.org.

    @ivar port: where clients send.
    """

    postfix: Postfix
    port: int
    maildir: Maildir


MakeFiltered = Callable[[str], Filtered]


@pytest.fixture
def makeFiltered(page: Page) -> Iterator[MakeFiltered]:
    """Start Postfix with a C{master.cf} of the page."""
    ending: list[Callable[[], object]] = []
    with tempfile.TemporaryDirectory(prefix="howto-") as path:
        folder = Path(path)
        # Postfix drops privileges, so its user must reach the folder.
        folder.chmod(0o755)

        def make(name: str) -> Filtered:
            port, back, last = freePort(), freePort(), freePort()
            if name == "front.cf":
                port = page.listen("front.toml", "tcp:25")
                page.change(name, "2526", back)
                page.change("front.toml", "2526", back)
            else:
                page.change(name, "10025", page.listen("filter.toml", "tcp:10025:interface=127.0.0.1"))
                page.change(name, "10026", back)
                page.change("filter.toml", "10026", back)
                page.change(name, "smtp inet", f"127.0.0.1:{port} inet")
            (page.folder / "last").mkdir()
            sink = Service(page.folder / "last", ["--listen", tcp(last), "--lmtp", "--maildir", "mail"], [tcp(last)])
            ending.append(sink.terminate)
            route = {"example.org": f"inet:127.0.0.1:{last}"}
            postfix = Postfix(folder, route, services=page.text(name))
            ending.append(postfix.stop)
            return Filtered(postfix, port, Maildir(page.folder / "last" / "mail"))

        yield make
        for end in reversed(ending):
            end()


def start(page: Page) -> Program:
    return page.start("smtphooks --config filter.toml")


@pytest.mark.parametrize("name", ["before.cf", "after.cf"])
def test_a_message_goes_through_the_filter_and_is_delivered(page: Page, makeFiltered: MakeFiltered, name: str) -> None:
    filtered = makeFiltered(name)
    page.change("filter.toml", "authOptional = true", "authOptional = true\ndebugPeers = true")
    service = start(page)
    message = "Subject: grüße\r\n\r\n.\r\ngrüße\r\n".encode()
    assert deliver(filtered.port, "ann@example.org", message=message, options=["BODY=8BITMIME"])[0] == 250
    (stored,) = filtered.maildir.waitFor(1)
    assert stored.content.endswith("\n\n.\ngrüße\n".encode())
    service.waitForLine("message from <sender@client.example> for <ann@example.org>", ", 250 after")
    service.waitForLine("XFORWARD ", "ADDR=127.0.0.1")


def test_before_the_queue_the_client_is_told_the_refusal(page: Page, makeFiltered: MakeFiltered) -> None:
    filtered = makeFiltered("before.cf")
    start(page)
    assert deliver(filtered.port, "ann@example.org", message=PROGRAM) == (554, b"5.6.0 No programs here")
    page.stop()
    assert deliver(filtered.port, "ann@example.org") == (451, b"4.3.0 Error: queue file write error")


def test_before_the_queue_a_refusal_of_the_second_listener_reaches_the_client(
    page: Page, makeFiltered: MakeFiltered
) -> None:
    page.change("before.cf", "permit_mynetworks,reject", "reject_unlisted_recipient,reject")
    filtered = makeFiltered("before.cf")
    start(page)
    code, text = deliver(filtered.port, "ann@example.org")
    assert code == 554 and b"Access denied" in text


def test_without_the_second_listener_nothing_is_acknowledged(page: Page, makeFiltered: MakeFiltered) -> None:
    filtered = makeFiltered("before.cf")
    nowhere = f'upstream = "127.0.0.1:{freePort()}"'
    page.change("filter.toml", re.findall("upstream = .*", page.text("filter.toml"))[0], nowhere)
    service = start(page)
    assert deliver(filtered.port, "ann@example.org")[0] == 451
    service.waitForLine(nowhere.split('"')[1], "cannot be reached")


def test_after_the_queue_a_refusal_is_bounced_and_a_lost_filter_delays(page: Page, makeFiltered: MakeFiltered) -> None:
    filtered = makeFiltered("after.cf")
    assert deliver(filtered.port, "ann@example.org")[0] == 250
    filtered.postfix.waitForLine("status=deferred", "Connection refused")
    start(page)
    filtered.postfix.flush()
    filtered.maildir.waitFor(1)
    assert deliver(filtered.port, "ann@example.org", message=PROGRAM)[0] == 250
    filtered.postfix.waitForLine("status=bounced", "No programs here")


def test_the_server_behind_learns_who_the_client_of_the_filter_was(page: Page, makeFiltered: MakeFiltered) -> None:
    filtered = makeFiltered("after.cf")
    start(page)
    assert deliver(filtered.port, "ann@example.org")[0] == 250
    filtered.postfix.waitForLine("orig_client=unknown[127.0.0.1]")


def test_in_front_of_a_server_it_is_told_refusals_and_clients(page: Page, makeFiltered: MakeFiltered) -> None:
    filtered = makeFiltered("front.cf")
    # Who the test is cannot be chosen, but for a proxy.
    page.change("front.toml", "authOptional = true", 'authOptional = true\nuseXClient = ["127.0.0.1"]')
    page.start("smtphooks --config front.toml")
    with smtplib.SMTP("127.0.0.1", filtered.port) as client:
        client.ehlo()
        assert client.docmd("XCLIENT", "ADDR=192.0.2.7 NAME=far.example")[0] == 220
        client.ehlo("far.example")
        assert client.mail("sender@far.example")[0] == 250
        assert client.rcpt("joe@example.net") == (454, b"4.7.1 <joe@example.net>: Relay access denied")
        assert client.rcpt("ann@example.org")[0] == 250
        code, text = client.data(b"Subject: hello\r\n\r\nhello\r\n")
    assert code == 250
    assert b"queued as" in text
    filtered.postfix.waitForLine("client=far.example[192.0.2.7]")
    (stored,) = filtered.maildir.waitFor(1)
    assert b"from far.example (far.example [192.0.2.7])" in stored.content
    assert deliver(filtered.port, "ann@example.org", message=PROGRAM)[0] == 554


@requires("swaks")
def test_the_command_of_the_page_delivers(page: Page, makeFiltered: MakeFiltered) -> None:
    filtered = makeFiltered("before.cf")
    start(page)
    assert page.run("swaks", **{"25": filtered.port})[0] == 0
    eventually(lambda: filtered.maildir.files(), "the message")
