"""The pages of the documentation, as their tests read them: blocks of code, each with its kind and its name."""

from __future__ import annotations

import re
import runpy
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"

_BLOCK = re.compile(r"^( *)\.\. code-block:: *(\S+)\n((?:\1 +:\w[\w-]*:.*\n)*)\n?((?:\1 +.*\n|\n)+)", re.MULTILINE)
_NAME = re.compile(r":name: *(\S+)")


class Block(NamedTuple):
    """A block of code; its name, if it has one, is the name of a file."""

    kind: str
    name: str | None
    text: str


def blocksOf(page: Path | str, kind: str | None = None) -> list[Block]:
    """The blocks of a page below C{docs}, in order; of one kind, or all."""
    text = (DOCS / page).read_text()
    found = []
    for match in _BLOCK.finditer(text if text.endswith("\n") else text + "\n"):
        name = _NAME.search(match[3])
        found.append(Block(match[2], name and name[1], textwrap.dedent(match[4]).strip("\n") + "\n"))
    return [block for block in found if kind in (None, block.kind)]


def write(page: Path | str, folder: Path) -> None:
    """Write every named block of a page as the file that it shows."""
    for block in blocksOf(page):
        if block.name is not None:
            path = folder / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)


def define(page: Path | str, name: str, folder: Path) -> SimpleNamespace:
    """What a block of Python defines; all files of its page are in the folder."""
    write(page, folder)
    return SimpleNamespace(**runpy.run_path(str(folder / name)))
