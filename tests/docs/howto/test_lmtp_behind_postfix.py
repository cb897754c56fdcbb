"""docs/howto/lmtp-behind-postfix.rst: Postfix delivers as it says, and asks which recipients exist."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.real.mta.postfix import Postfix
from tests.real.programs import requires

PAGE = "lmtp-behind-postfix"

pytestmark = [
    requires("postfix", "postqueue"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix"),
]

_VERIFY = "verify unix - - n - 1 verify\n"


def settingsIn(text: str) -> dict[str, object]:
    """The settings of a part of main.cf."""
    return dict(line.split(" = ", 1) for line in text.replace(" =\n", " = \n").splitlines())


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="howto-") as path:
        # Postfix drops privileges, so its user must reach the folder.
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def postfix(page: Page, folder: Path) -> Iterator[Postfix]:
    """Postfix with the settings of the page, and the service behind it."""
    port = page.listen("lmtp.toml", "tcp:2424:interface=127.0.0.1")
    page.change("lmtp.toml", "/var/mail/example.org", page.folder / "mail")
    page.change("main.cf", "2424", port)
    (page.folder / "mail" / "bob" / "new").mkdir(parents=True)
    settings = {"transport_maps": "", **settingsIn(page.text("main.cf"))}
    started = Postfix(folder, {}, services=_VERIFY, **settings)
    yield started
    started.stop()


def mailOf(page: Page, user: str) -> int:
    return len(list((page.folder / "mail" / user / "new").glob("*")))


def test_a_full_mailbox_delays_the_mail_of_its_owner_alone(page: Page, postfix: Postfix) -> None:
    (page.folder / "mail" / "bob" / "new" / "large").write_bytes(b"x" * 1000)
    page.change("lmtp.toml", '[[layer]]\nuse = "mailboxes', '[[layer]]\nquota = 1000\nuse = "mailboxes')
    service = page.start("smtphooks --config lmtp.toml")
    assert deliver(postfix.port, "ann@example.org", "bob@example.org")[0] == 250
    postfix.waitForLine("to=<ann@example.org>", "status=sent (250 2.0.0 Delivered)")
    postfix.waitForLine("to=<bob@example.org>", "status=deferred", "452 4.2.2 Mailbox is full")
    service.waitForLine("message from <sender@client.example> for <ann@example.org>, <bob@example.org>")
    assert (mailOf(page, "ann"), mailOf(page, "bob")) == (1, 1)


def test_an_unknown_recipient_is_refused_by_postfix_itself(page: Page, postfix: Postfix) -> None:
    code, text = deliver(postfix.port, "ann@example.org")
    assert code == 450 and b"4.1.1" in text and b"unverified address" in text, "it cannot be asked"
    page.start("smtphooks --config lmtp.toml")
    code, text = deliver(postfix.port, "joe@example.org")
    assert code == 550 and b"user unknown" in text


@requires("swaks")
def test_the_command_of_the_page_delivers(page: Page, postfix: Postfix) -> None:
    page.start("smtphooks --config lmtp.toml")
    assert page.run("swaks", **{"25": postfix.port})[0] == 0
    postfix.waitUntilIdle()
    assert mailOf(page, "ann") == 1
