"""
Tables of the pages about moving, as their tests read them: rows of cells, and the defaults that they state.

This module knows no page.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes

from smtphooks.options import Options
from tests.pages import DOCS, literalsIn, parse
from tests.pages import rowsOf as entriesOf


class Cell(NamedTuple):
    """A cell of a table: its text without markup, and the literals in it."""

    text: str
    literals: list[str]

    @property
    def name(self) -> str:
        """The only literal, which is a name."""
        (name,) = self.literals
        return name


def rowsOf(page: Path | str, header: str) -> list[list[Cell]]:
    """The rows of the tables of a page whose first column has this header."""
    document, complaints = parse(DOCS / page)
    assert complaints == "", "a malformed table has no rows"

    def cellOf(entry: nodes.entry) -> Cell:
        return Cell(entry.astext().replace("\n", " "), [text.replace("\n", " ") for text in literalsIn(entry)])

    return [[cellOf(entry) for entry in row] for row in entriesOf(document, header)]


def defaultOf(option: str) -> Any:
    value = getattr(Options(name="localhost"), option)
    return list(value) if isinstance(value, tuple) else value


def falseDefaults(stated: Iterable[tuple[Cell, Cell]]) -> dict[str, str]:
    """
    The options of ours whose stated default is not the true one.

    @param stated: an option, and its default as a Python literal; one without a literal is not looked at.
    """
    return {
        option.name: default.text
        for option, default in stated
        if default.literals and repr(ast.literal_eval(default.literals[0])) != repr(defaultOf(option.name))
    }
