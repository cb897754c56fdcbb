"""docs/stores.rst and docs/stores: every store has a page, and what the pages say is so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.task import deferLater

import smtphooks.stores
from smtphooks.stores import commandargv, sysexits
from tests.docs.clients import clientOf
from tests.pages import DOCS, blocksOf, define, literalsIn, parse, rowsOf
from tests.support import ENVELOPE, Client

STORES = smtphooks.stores.__all__


def pageOf(name: str) -> str:
    return f"stores/{name.lower()}.rst"


async def said(client: Client) -> list[str]:
    """The replies, when there are any: threads and processes take a while."""
    while not (replies := client.replies()):
        await deferLater(reactor, 0.01)  # type: ignore[arg-type]
    return replies


def test_every_store_has_a_page_and_every_page_a_store() -> None:
    assert {path.name for path in DOCS.glob("stores/*.rst")} == {f"{name.lower()}.rst" for name in STORES}
    for name in STORES:
        document, complaints = parse(DOCS / pageOf(name))
        assert (document["title"], complaints) == (name, "")


@pytest.mark.parametrize("name", STORES)
def test_a_page_documents_exactly_the_options_and_has_an_example_in_TOML(name: str) -> None:
    document, _ = parse(DOCS / pageOf(name))
    documented = [entries[0].astext() for entries in rowsOf(document, "Option")]
    assert sorted(documented) == sorted(inspect.signature(getattr(smtphooks.stores, name)).parameters)
    assert any(f'use = "smtphooks.stores:{name}"' in block.text for block in blocksOf(pageOf(name), "toml"))
    assert blocksOf(pageOf(name), "python")


@ensureDeferred
async def test_tee_keeps_a_message_twice(folder: Path) -> None:
    client = clientOf(define("stores/tee.rst", "stores.py", folder).kept)
    client.say(*ENVELOPE, "DATA")
    client.say("text", ".")
    assert (await said(client))[0].startswith("250 ")
    assert [len([*(folder / name / "new").iterdir()]) for name in ("mail", "archive")] == [1, 1]


@ensureDeferred
async def test_maildir_keeps_a_message(folder: Path) -> None:
    client = clientOf(define("stores/maildir.rst", "maildir.py", folder).factory)
    client.say(*ENVELOPE, "DATA")
    client.say("text", ".")
    assert (await said(client))[0].startswith("250 2.0.0 Stored as ")
    assert len([*(folder / "mail" / "new").iterdir()]) == 1


@pytest.mark.parametrize(
    "page, name, attribute", [("tee", "stores.py", "dropped"), ("discard", "discard.py", "factory")]
)
def test_discard_keeps_nothing(page: str, name: str, attribute: str, folder: Path) -> None:
    client = clientOf(getattr(define(f"stores/{page}.rst", name, folder), attribute))
    assert client.last(*ENVELOPE, "DATA", "text", ".") == "250 2.0.0 Message accepted"
    assert all(path.suffix in (".py", ".toml") for path in folder.iterdir())


@ensureDeferred
async def test_command_answers_what_its_program_says(folder: Path) -> None:
    client = clientOf(define("stores/command.rst", "command.py", folder).factory)
    client.say(*ENVELOPE, "DATA")
    client.say("text", ".")
    assert await said(client) == ["550 5.1.1 No mailbox for user@mx.test"]


def test_the_page_of_command_has_every_status_value_and_variable() -> None:
    text = (DOCS / "stores/command.rst").read_text()
    for status, (name, code, enhancedCode, _) in sysexits._REFUSALS.items():
        assert re.search(rf"\b{status}\s+``{name}``", text), name
        assert f"``{code} {enhancedCode}``" in text
    shown: Any = literalsIn(parse(DOCS / "stores/command.rst")[0])
    assert {f"${{{name}}}" for name in commandargv._VALUES} <= {*shown}
    assert {*commandargv._VARIABLES} <= {*re.findall(r"\w+", " ".join(shown))}
