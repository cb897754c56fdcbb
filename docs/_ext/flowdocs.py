"""
The directives C{smtphooks-flow} and C{smtphooks-folders}: what leads to which hook, and the way of the octets.

The first is drawn from the table of commands and that of hooks, the second from the folders of the package: what their
docstrings say, and what their modules import.
This module knows no hook and no folder by name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import smtphooks
from smtphooks.dialogue.commands import COMMANDS, CONNECTION
from smtphooks.hooks import HOOKS

PACKAGE = Path(smtphooks.__file__).parent
Row = tuple[str, ...]


def hookRows() -> list[Row]:
    """For each hook, in the order of a connection's life: the commands that ask it, and the code of its refusal."""
    rows = []
    for name, hook in HOOKS.items():
        verbs = [verb for verb, command in COMMANDS.items() if command.hook == name]
        asked = ", ".join(verbs) or ("a client connects" if CONNECTION.hook == name else "see its page")
        code = "it cannot refuse" if hook.situation is None else str(hook.situation.code)
        rows.append((f":doc:`/hooks/{name}`", asked, code))
    return rows


def importsOf(folder: Path) -> set[str]:
    """The folders of the package that the modules of a folder import."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smtphooks."):
                found.add(str(node.module).split(".")[1])
            elif isinstance(node, ast.ImportFrom) and node.module == "smtphooks":
                found |= {alias.name for alias in node.names}
    return {name for name in found if (PACKAGE / name).is_dir()} - {folder.name}


def folderRows() -> list[Row]:
    """Each folder behind those that it imports, with the first sentence of what it is for."""
    folders = {path.parent.name: path for path in sorted(PACKAGE.glob("*/__init__.py"))}
    rows: list[Row] = []
    done: set[str] = set()
    imports = {name: importsOf(path.parent) for name, path in folders.items()}
    while len(done) < len(folders):
        name = min(name for name in folders if name not in done and imports[name] <= done)  # there is no circle
        done.add(name)
        text = ast.get_docstring(ast.parse(folders[name].read_text(encoding="utf-8"))) or ""
        rows.append((f"``{name}/``", " ".join(text.split("\n\n")[0].split()), ", ".join(sorted(imports[name]))))
    return rows


def tableOf(header: Row, rows: Iterable[Row]) -> str:
    """A table as reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (header, *rows):
        lines += [f"   {'*' if number == 0 else ' '} - {cell}" for number, cell in enumerate(row)]
    return "\n".join(lines)


class FlowDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(tableOf(("Hook", "Asked for", "Its refusal"), hookRows()))


class FoldersDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(tableOf(("Folder", "What it is for", "It imports"), folderRows()))


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("smtphooks-flow", FlowDirective)
    app.add_directive("smtphooks-folders", FoldersDirective)
    return {"parallel_read_safe": True}
