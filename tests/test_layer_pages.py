"""docs/layers.rst and docs/layers: they are well-formed, and what they say of layers is true."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

import smtphooks.layers
from smtphooks import Layer, Session, SMTPServerFactory
from smtphooks.replies import Reply
from tests.layers.pages import blocksOf
from tests.pages import parse, rowsOf
from tests.support import ENVELOPE, Client, Mailbox, connect

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "layers.rst"
PAGES = sorted(DOCS.glob("layers/*.rst"))
BLOCKS = dict(re.findall(r"^\.\. code-block:: python\n    :name: (\S+)\n\n((?:    .*\n|\n)+)", PAGE.read_text(), re.M))


def run(name: str, folder: Path) -> SimpleNamespace:
    """What a block of the page defines."""
    path = folder / name
    path.write_text("\n".join(line[4:] for line in BLOCKS[name].split("\n")))
    return SimpleNamespace(**runpy.run_path(str(path)))


@pytest.mark.parametrize("page", [PAGE, *PAGES], ids=lambda page: page.name)
def test_docutils_has_no_complaints(page: Path) -> None:
    _, complaints = parse(page)
    assert complaints == ""


def test_every_layer_has_a_page_that_the_list_names() -> None:
    text = PAGE.read_text()
    for name in smtphooks.layers.__all__:
        assert (DOCS / "layers" / f"{name.lower()}.rst").exists()
        assert f":doc:`{name} </layers/{name.lower()}>`" in text


@pytest.mark.parametrize("name", smtphooks.layers.__all__)
def test_a_page_documents_exactly_the_options(name: str) -> None:
    document, _ = parse(DOCS / "layers" / f"{name.lower()}.rst")
    fields = attrs.fields(getattr(smtphooks.layers, name))
    documented = [entries[0].astext() for entries in rowsOf(document, "Option")]
    assert sorted(documented) == sorted(field.alias for field in fields if field.init)


def test_the_arguments_of_Layer_are_documented_with_their_defaults() -> None:
    document, _ = parse(PAGE)
    rows = {entries[0].astext(): entries[1].astext() for entries in rowsOf(document, "Argument")}
    fields = {field.name: field for field in attrs.fields(Layer) if field.init and field.name != "hooks"}
    assert list(rows) == list(fields)
    for name, field in fields.items():
        assert name == "name" or rows[name] == repr(field.default).replace("'", '"')


def test_layered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    factory: SMTPServerFactory = run("layered.py", tmp_path).factory
    factory.clock = Clock()  # type: ignore[assignment]
    assert [layer.name for layer in factory.layers] == ["OnlyOurs", "Upper", "Counter", "Maildir"]
    client = Client(factory)
    assert client.last(*ENVELOPE) == "550 5.7.1 Relay access denied"
    assert factory.layers[2].hooks.replies == 4
    client.session.user = "ann"
    assert client.last("RCPT TO:<user@mx.test>").startswith("250")


def test_filters(tmp_path: Path) -> None:
    mailbox = Mailbox()
    connect(hooks=[run("filters.py", tmp_path).Tagged(), mailbox]).say(*ENVELOPE, "DATA", "Subject: x", ".")
    assert mailbox == [b"X-Arrived-By: ESMTP\r\nSubject: x\r\n"]


@pytest.mark.parametrize("text, code", [("text", "250"), ("MZ\x10 program", "250")])
def test_inspectors(tmp_path: Path, text: str, code: str) -> None:
    client = connect(hooks=[run("inspectors.py", tmp_path).NoExecutables(), Mailbox()])
    assert client.last(*ENVELOPE, "DATA", text, ".").startswith(code)
    client.say(*ENVELOPE, "DATA")
    client.feed(b"MZ\x90\r\n.\r\n")
    assert client.replies() == ["554 5.6.0 No programs here"]


def test_state(tmp_path: Path) -> None:
    layer: Any = run("state.py", tmp_path).Patience()
    session = Session()
    for code in (550, 250, 550):
        layer.onReply("RCPT", Reply(code, "x"), session)
    assert session.of(layer).unknown == session.of(type(layer)).unknown == 2


def test_spooled(tmp_path: Path) -> None:
    client = connect(onData=run("spooled.py", tmp_path).onData)
    assert client.last(*ENVELOPE, "DATA", "text", ".").startswith("250 2.0.0 6 octets, ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_an_example_for_each_way_of_configuration(page: Path) -> None:
    text = page.read_text()
    assert blocksOf(text, "toml")
    for block in blocksOf(text, "python"):
        compile(block, page.name, "exec")
    assert f'use = "smtphooks.layers:{page.read_text().splitlines()[0]}"' in text


def test_the_mx_of_the_page_is_short_and_asks_what_it_should(tmp_path: Path) -> None:
    """The tests with real programs run it."""
    block = re.search(r"    :name: mx\.toml\n\n((?:    .*\n|\n)+)", PAGE.read_text())
    assert block is not None
    text = textwrap.dedent(block[1])
    assert len([line for line in text.splitlines() if line]) <= 25
    (tmp_path / "mx.toml").write_text(text)
    (tmp_path / "recipients.txt").write_text("ann@example.org\n")
    command = [sys.executable, "-m", "smtphooks", "--config", str(tmp_path / "mx.toml"), "--check"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=DOCS.parent).stdout
    assert [line for line in said.splitlines() if line.startswith(("# on", "# inspect", "# filter", "# warn"))] == [
        "# onStart: DNSLists",
        "# onConnect: DNSLists",
        "# onMailFrom: SenderAuthentication",
        "# onRcptTo: Recipients, DNSLists",
        "# inspectData, all at once: SenderAuthentication, ClamAV (at most 60 s)",
        "# filterData: SenderAuthentication",
        "# onData: Maildir",
        "# onClose: DNSLists",
        "# onStop: SenderAuthentication, DNSLists, Recipients",
    ]
