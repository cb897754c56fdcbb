"""
Tables of the pages about moving, as their tests read them: rows of texts.

Pages for Sphinx have roles that docutils alone does not know, so the simple tables are cut by their borders.
This module knows no page.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from smtphooks.options import Options
from tests.pages import DOCS

_BORDER = re.compile(r"^=+( +=+)+$")


def rowsOf(page: Path | str, header: str) -> list[list[str]]:
    """The rows of the tables whose first column has this header; a cell of several lines is one text."""
    lines = (DOCS / page).read_text().splitlines()
    borders = [number for number, line in enumerate(lines) if _BORDER.match(line)]
    rows: list[list[str]] = []
    for top, middle, bottom in zip(borders[::3], borders[1::3], borders[2::3], strict=True):
        starts = [match.start() for match in re.finditer("=+", lines[top])]
        if _cells(lines[top + 1], starts)[0] != header:
            continue
        for line in lines[middle + 1 : bottom]:
            cells = _cells(line, starts)
            if cells[0]:
                rows.append(cells)
            else:
                rows[-1] = [f"{before} {more}".strip() for before, more in zip(rows[-1], cells, strict=True)]
    return rows


def _cells(line: str, starts: list[int]) -> list[str]:
    return [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]


def literals(text: str) -> list[str]:
    return re.findall(r"``(.+?)``", text)


def defaultOf(option: str) -> Any:
    value = getattr(Options(name="localhost"), option)
    return list(value) if isinstance(value, tuple) else value


def falseDefaults(rows: Iterable[list[str]], column: int) -> Mapping[str, str]:
    """
    The options of ours whose stated default is not the true one.

    @param rows: rows whose first cell is an option.
    @param column: the cell with the default, a Python literal; one without a literal is not looked at.
    """
    false = {}
    for row in rows:
        (name,) = literals(row[0])
        stated = literals(row[column])
        if stated and repr(ast.literal_eval(stated[0])) != repr(defaultOf(name)):
            false[name] = row[column]
    return false
