"""docs/howto/adding-fields.rst: fields are put in front of messages, and forged ones removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Logged
from tests.docs.howto.conftest import Page
from tests.pages import define
from tests.real.programs import Maildir, requires
from tests.support import ENVELOPE, Mailbox, connect

PAGE = "adding-fields"
Sent = Callable[..., bytes]


@pytest.fixture
def sent(page: Page) -> Sent:
    """What layers of the page make of a message."""
    fields = define(f"howto/{PAGE}.rst", "fields.py", page.folder)
    counting = define(f"howto/{PAGE}.rst", "counting.py", page.folder)

    def send(names: list[str], *lines: str, bdat: bytes = b"") -> bytes:
        mailbox = Mailbox()
        layers: list[Any] = [getattr(counting if name == "Links" else fields, name)() for name in names]
        client = connect(hooks=[*layers, mailbox])
        if bdat:
            client.say(*ENVELOPE)
            client.feed(b"BDAT %d LAST\r\n%b" % (len(bdat), bdat))
            assert client.replies()[-1].startswith("250")
        else:
            assert client.last(*ENVELOPE, "DATA", *lines, ".").startswith("250")
        (message,) = mailbox
        return message

    return send


@requires("swaks")
def test_the_stored_message_begins_as_the_page_says(page: Page) -> None:
    port = page.listen("fields.toml", "tcp:2525")
    page.start("smtphooks --config fields.toml")
    assert page.run("swaks", **{"2525": port})[0] == 0
    (file,) = Maildir(page.folder / "maildir").files()
    names = [line.split(b":")[0] for line in file.read_bytes().splitlines() if line[:1].isupper() and b": " in line]
    assert names[:5] == [b"Return-Path", b"Delivered-To", b"Received", b"X-Client", b"X-Protocol"]
    assert b"X-Client: 127.0.0.1\nX-Protocol: ESMTP\n" in file.read_bytes()
    assert b"forged" not in file.read_bytes()


def test_forged_fields_are_removed_with_their_further_lines(sent: Sent) -> None:
    message = sent(["Untrusted"], "A: 1", "X-CLIENT: a", " b", "\tc", "B: 2", " 3", "", "X-Client: body")
    assert message == b"A: 1\r\nB: 2\r\n 3\r\n\r\nX-Client: body\r\n"
    assert sent(["Untrusted"], bdat=b"A: 1\r\nX-Client: a") == b"A: 1\r\n"
    assert sent(["Untrusted"], bdat=b"A: 1\r\nB: 2") == b"A: 1\r\nB: 2"
    assert sent(["Untrusted"], "", "X-Client: body") == b"\r\nX-Client: body\r\n"


def test_the_field_of_the_last_filter_stands_at_the_top(sent: Sent) -> None:
    message = sent(["Untrusted", "Client", "Received"], "X-Client: forged", "A: 1", "", "text")
    assert message.startswith(b"Received: from client.test ([192.0.2.7])")
    assert message.endswith(b"\r\nX-Client: 192.0.2.7\r\nX-Protocol: ESMTP\r\nA: 1\r\n\r\ntext\r\n")


def test_a_message_cannot_continue_the_fields_in_front(sent: Sent) -> None:
    assert sent(["Client"], " forged").endswith(b"X-Protocol: ESMTP\r\n\r\n forged\r\n")


def test_a_filter_writes_what_the_inspector_of_its_layer_has_found(sent: Sent) -> None:
    assert sent(["Links"], "A: 1", "", "https://a https://b") == b"X-Links: 2\r\nA: 1\r\n\r\nhttps://a https://b\r\n"


def test_a_field_that_is_none_is_a_fault(logged: Logged) -> None:
    async def onData(stream: Any, session: Any) -> None:
        stream.prepend(b"X-Text: a\r\nb")

    assert connect(onData=onData).last(*ENVELOPE, "DATA", "A: 1", ".").startswith("451 4.3.0")
    assert logged.takeFailures(ValueError)
