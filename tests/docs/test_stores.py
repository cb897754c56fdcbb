"""docs/stores.rst: what it says of two stores and of none is so."""

from __future__ import annotations

from pathlib import Path

from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.task import deferLater

import smtphooks.stores
from tests.docs.clients import clientOf
from tests.pages import define, sectionsOf
from tests.support import ENVELOPE

PAGE = "stores.rst"


def test_every_store_has_a_section() -> None:
    assert sorted(title for title in sectionsOf(PAGE)) == sorted(smtphooks.stores.__all__)


@ensureDeferred
async def test_tee_keeps_a_message_twice(folder: Path) -> None:
    client = clientOf(define(PAGE, "stores.py", folder).kept)
    client.say(*ENVELOPE, "DATA")
    client.say("text", ".")
    while not (replies := client.replies()):
        await deferLater(reactor, 0)  # the Maildirs write in threads
    assert replies[0].startswith("250 ")
    assert [len([*(folder / name / "new").iterdir()]) for name in ("mail", "archive")] == [1, 1]


def test_discard_keeps_nothing(folder: Path) -> None:
    client = clientOf(define(PAGE, "stores.py", folder).dropped)
    assert client.last(*ENVELOPE, "DATA", "text", ".").startswith("250 ")
    assert [path.name for path in folder.iterdir()] == ["stores.py"]
