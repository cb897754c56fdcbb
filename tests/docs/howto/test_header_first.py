"""docs/howto/header-first.rst: messages are sorted by their header, before their bodies have come."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.pages import define
from tests.real.programs import Client, requires
from tests.support import ENVELOPE, connect

PAGE = "header-first"


def count(page: Page, name: str) -> int:
    return len(list((page.folder / name / "new").glob("*")))


@requires("swaks")
def test_messages_are_sorted_by_a_field(page: Page) -> None:
    port = page.listen("sorting.toml", "tcp:2525")
    page.start("smtphooks --config sorting.toml")
    assert page.run("swaks", **{"2525": port})[0] == 0
    assert deliver(port, "ann@example.org", message=b"Message-ID: <x@y>\r\n\r\nhello\r\n")[0] == 250
    assert (count(page, "inbox"), count(page, "lists")) == (1, 1)
    assert deliver(port, "ann@example.org") == (554, b"5.6.0 Message-ID is missing")
    loop = b"Received: x\r\n" * 101 + b"Message-ID: <x@y>\r\n\r\nhello\r\n"
    assert deliver(port, "ann@example.org", message=loop) == (554, b"5.4.6 Too many hops")


@pytest.mark.parametrize("code", [554, 421])
def test_a_refusal_by_the_header_is_sent_after_the_message_but_421_at_once(page: Page, code: int) -> None:
    page.change("sorting.py", '"Message-ID is missing", 554, "5.6.0"', f'"Message-ID is missing", {code}')
    port = page.listen("sorting.toml", "tcp:2525")
    page.start("smtphooks --config sorting.toml")
    with Client(port) as client:
        client.envelope(b"ann@example.org")
        client.say(b"DATA", 354)
        client.socket.sendall(b"Subject: hello\r\n\r\nhello\r\n")
        if code == 554:
            client.socket.sendall(b".\r\n")
        client.reply(code)


def test_with_BDAT_a_refusal_is_sent_after_the_chunk(page: Page) -> None:
    port = page.listen("sorting.toml", "tcp:2525")
    page.start("smtphooks --config sorting.toml")
    with Client(port) as client:
        client.envelope(b"ann@example.org")
        header = b"Subject: hello\r\n\r\n"
        client.socket.sendall(b"BDAT %d\r\n%b" % (len(header), header))
        client.reply(554)


def test_subjects_are_decoded_in_the_log(page: Page) -> None:
    port = page.listen("subjects.toml", "tcp:2525")
    service = page.start("smtphooks --config subjects.toml")
    for subject in (b"=?utf-8?B?Z3LDvMOfZQ==?=", b"=?no-such?B?Z3LDvMOfZQ==?="):
        assert deliver(port, "ann@example.org", message=b"Subject: %b\r\n\r\nhello\r\n" % subject)[0] == 250
    service.waitForLine("'grüße'")
    service.waitForLine("'(cannot be decoded)'")


def test_a_message_need_not_have_any_field(page: Page) -> None:
    hooks: SimpleNamespace = define("howto/header-first.rst", "subjects.py", page.folder)

    class Lost:
        async def onData(self, stream: object, session: object) -> None:
            pass

    client = connect(hooks=[hooks.Subjects(), Lost()])
    assert client.last(*ENVELOPE, "DATA", "", "text", ".").startswith("250")
