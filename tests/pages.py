"""The pages of the documentation, as their tests read them: blocks of code, each with its kind and name, and tables."""

from __future__ import annotations

import io
import re
import runpy
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles

if sys.version_info >= (3, 11):
    import tomllib as tomllib
else:
    pass

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


# --- What docutils must know of Sphinx to read a page by itself ---


class _Contents(Directive):
    """A directive of Sphinx: the name of an option, if it is of one, and the text below it."""

    optional_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = dict.fromkeys(("caption", "glob", "maxdepth", "hidden"), directives.unchanged)

    def run(self) -> list[nodes.Node]:
        found = nodes.container()
        if self.name != "toctree":
            self.state.nested_parse(self.content, self.content_offset, found)
        found["names"] = self.arguments
        return [found]


def _reference(name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()) -> Any:
    return [nodes.inline(raw, re.sub(r"\s*<[^>]*>$", "", text))], []


for _role in ("doc", "ref", "download"):
    roles.register_local_role(_role, _reference)
for _directive in ("toctree", "smtphooks-option", "smtphooks-states"):
    directives.register_directive(_directive, _Contents)


def parse(path: Path) -> tuple[nodes.document, str]:
    """A document, and the complaints of docutils about it."""
    complaints = io.StringIO()
    settings = {"warning_stream": complaints, "report_level": 1, "syntax_highlight": "none"}
    return publish_doctree(path.read_text(), str(path), settings_overrides=settings), complaints.getvalue()


def sectionsOf(page: Path | str) -> dict[str, nodes.section]:
    """The sections of a page below C{docs}, by title; the page itself is one."""
    document, _ = parse(DOCS / page)
    found = {section[0].astext(): section for section in document.findall(nodes.section)}
    return found or {document["title"]: document}


def rowsOf(node: nodes.Element, header: str) -> Iterator[list[nodes.entry]]:
    """The rows of all tables below the node whose first column has this header."""
    for table in node.findall(nodes.table):
        head, body = table.next_node(nodes.thead), table.next_node(nodes.tbody)
        if head is not None and head.next_node(nodes.entry).astext() == header:
            yield from ([*row] for row in body)


def literalsIn(node: nodes.Element) -> list[str]:
    return [literal.astext() for literal in node.findall(nodes.literal)]
