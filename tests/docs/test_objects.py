"""docs/objects.rst: the attributes that it lists are there, all of them, and its code runs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

import smtphooks
from smtphooks import Address, Envelope, Extension, MessageStream, Session, SMTPServerFactory, Spool
from smtphooks.sasl.auth import Auth
from smtphooks.sasl.scram import ScramCredentials
from tests.docs.clients import clientOf, plain, secureClientOf
from tests.pages import DOCS, define, literalsIn, parse, rowsOf, sectionsOf
from tests.support import ENVELOPE

PAGE = "objects.rst"
SECTIONS = sectionsOf(PAGE)
PAGES = sorted([*DOCS.glob("*.rst"), *DOCS.glob("hooks/*.rst")])
LITERALS = [literal for page in PAGES for literal in literalsIn(parse(page)[0])]


@pytest.mark.parametrize("name", smtphooks.__all__)
def test_exported_name_is_mentioned(name: str) -> None:
    assert any(re.match(rf"{name}\b", literal) for literal in LITERALS)


@pytest.mark.parametrize("kind", [Session, Envelope, Address, MessageStream, Spool])
def test_documented_attributes_are_there(kind: type) -> None:
    documented = {entries[0].astext().removesuffix("()") for entries in rowsOf(SECTIONS[kind.__name__], "Attribute")}
    assert documented
    assert documented <= {*dir(kind), *(attrs.fields_dict(kind) if attrs.has(kind) else ())}


def test_attributes_of_the_session_are_all_documented() -> None:
    documented = {entries[0].astext() for entries in rowsOf(SECTIONS["Session"], "Attribute")}
    assert {name for name in attrs.fields_dict(Session) if not name.startswith("_")} <= documented


def test_documented_attributes_of_the_factory_are_there() -> None:
    factory = SMTPServerFactory()
    documented = [entries[0].astext() for entries in rowsOf(SECTIONS["The factory"], "Attribute")]
    assert documented
    for name in documented:
        assert hasattr(factory, name)


@pytest.mark.parametrize(
    "name", sorted({name for page in PAGES for name in re.findall(r"factory\.(\w+)\(", page.read_text())})
)
def test_documented_methods_of_the_factory_are_there(name: str) -> None:
    assert callable(getattr(SMTPServerFactory, name))


def test_all_arguments_of_an_extension_are_documented() -> None:
    documented = [entries[0].astext() for entries in rowsOf(SECTIONS["Extension"], "Argument")]
    assert documented == [field.name for field in attrs.fields(Extension)]


@pytest.mark.parametrize(
    ("hook", "reply"),
    [
        ("countLines", "250 2.0.0 2 lines"),
        ("measure", "250 2.0.0 9 octets"),
        ("store", "250 2.0.0 Stored 9 octets"),
        ("post", "250 2.0.0 Archived"),
    ],
)
def test_four_ways(folder: Path, monkeypatch: pytest.MonkeyPatch, hook: str, reply: str) -> None:
    posted: list[bytes] = []

    class Consumer:
        write = posted.append

    def post(url: str, data: MessageStream) -> Deferred[Any]:
        return data.startProducing(Consumer()).addCallback(lambda _: SimpleNamespace(code=201))

    monkeypatch.setattr("treq.post", post)
    onData = getattr(define(PAGE, "four_ways.py", folder), hook)
    client = clientOf(SMTPServerFactory(authOptional=True, onData=onData))
    client.say(*ENVELOPE, "DATA")
    assert client.last("one", "..x", ".") == reply
    if hook == "store":
        assert (folder / f"{client.session.id}.1").read_bytes() == b"one\r\n.x\r\n"
    assert b"".join(posted) == (b"one\r\n.x\r\n" if hook == "post" else b"")


@ensureDeferred
async def test_spooled(folder: Path) -> None:
    block = define(PAGE, "spooled.py", folder)
    factory = SMTPServerFactory(authOptional=True, onData=block.onData)
    block.BLOCKED.add(hashlib.sha256(b"known\r\n").hexdigest())
    client = clientOf(factory)
    client.say(*ENVELOPE, "DATA")
    assert client.last("known", ".") == "550 5.7.1 We know this message"
    client.say(*ENVELOPE[1:], "DATA")
    client.say("new", ".")
    while not (replies := client.replies()):
        await deferLater(reactor, 0)  # the Maildir writes in a thread
    assert replies[0].startswith("250 2.0.0 Stored as ")
    (file,) = (folder / "maildir" / "new").iterdir()
    assert file.read_bytes().endswith(b"\n\nnew\n")


def test_extension(folder: Path) -> None:
    factory = define(PAGE, "extension.py", folder).factory
    client = clientOf(factory)
    capabilities = client.say("EHLO client.test")
    assert "250-MT-PRIORITY" in capabilities
    assert capabilities[-1] == "250 XQUEUE LENGTH"
    mail = "MAIL FROM:<ann@client.test> MT-PRIORITY={}"
    assert client.last(mail.format("10")) == "501 5.5.4 MT-PRIORITY is a number from -9 to 9"
    assert client.last(mail.format("-4"), ENVELOPE[-1], "DATA", ".").startswith("250 ")
    assert client.last("XQUEUE -4") == "250 2.0.0 1 messages wait"
    stranger = clientOf(factory, "198.51.100.1")
    assert stranger.say("EHLO client.test")[-1] == "250 MT-PRIORITY"
    assert stranger.last("XQUEUE -4") == "500 5.5.2 Command not recognized"


def test_scram_credentials(folder: Path) -> None:
    pytest.importorskip("scramp")
    block = define(PAGE, "scram_credentials.py", folder)
    attempt = Auth(method="SCRAM-SHA-256", username="ann")
    response = block.onAuth(attempt, None)
    assert response.user == "ann"
    assert ScramCredentials(*response.data).iterations >= 4096
    assert block.onAuth(attrs.evolve(attempt, username="joe"), None) is None


def test_portal(folder: Path) -> None:
    (folder / "passwd").write_text("ann:correct horse\n")
    client = secureClientOf(define("options.rst", "portal.py", folder).factory)
    assert client.last(plain("ann", "correct horse")).startswith("235 ")
    assert client.session.user == "ann"
