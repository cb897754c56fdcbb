"""docs/options.rst: it has every option once, in order, and shows the defaults that are declared."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import attrs
import pytest
from docutils import nodes

from smtphooks.options import OPTION_NAMES, Options
from tests.pages import DOCS, parse, rowsOf

sys.path.append(str(DOCS / "_ext"))
from optiondocs import FIELDS, defaultOf, wantedOf

PAGE = DOCS / "options.rst"
ENTRIES = re.findall(r"^\.\. smtphooks-option:: (\w+)\n\n((?:   .*\n|\n)+)", PAGE.read_text(), re.MULTILINE)


def test_exactly_the_options_are_documented_in_order() -> None:
    assert [name for name, _ in ENTRIES] == list(OPTION_NAMES)
    assert re.findall(r"smtphooks-option::", PAGE.read_text()) == ["smtphooks-option::"] * len(ENTRIES)
    assert all(prose.strip() for _, prose in ENTRIES)


@pytest.mark.parametrize("name", FIELDS)
def test_default_that_the_page_shows_is_the_one_in_force(name: str) -> None:
    if name == "name":  # its default depends on the machine
        assert defaultOf(name) == "this host's name"
        return
    default = getattr(Options(name="localhost"), name)
    shown = list(default) if isinstance(default, tuple) else default
    assert repr(ast.literal_eval(defaultOf(name))) == repr(shown)


@pytest.mark.parametrize("name", FIELDS)
def test_what_an_option_wants_is_shown_in_words(name: str) -> None:
    assert not re.search(r"[{}]", wantedOf(name))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.rst")), ids=lambda page: page.name)
def test_no_other_page_shows_another_default(page: Path) -> None:
    document, _ = parse(page)
    for row in rowsOf(document, "Option"):
        head = [entry.astext() for entry in row[0].parent.parent.parent.next_node(nodes.thead).findall(nodes.entry)]
        if head[1:2] == ["Default"] and row[0].astext() in FIELDS:
            assert row[1].astext() == defaultOf(row[0].astext())


def optionsRead() -> set[str]:
    """Attributes that the package reads of anything named "…options", outside of the module that declares them."""
    read = set()
    for path in (DOCS.parent / "smtphooks").rglob("*.py"):
        if path.name != "options.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and re.search(r"options$", ast.unparse(node.value), re.IGNORECASE):
                    read.add(node.attr)
    return read


READ = optionsRead()


@pytest.mark.parametrize("name", attrs.fields_dict(Options))
def test_every_option_is_read(name: str) -> None:
    assert name in READ
