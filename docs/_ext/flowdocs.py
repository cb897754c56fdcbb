"""
The directives C{smtphooks-flow} and C{smtphooks-folders}: what leads to which hook, and the way of the octets.

The first is drawn from the table of hooks and from what a dialogue asks for each command, the second from the folders
of the package: what their docstrings say, and what their modules import.
This module knows no hook and no folder by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from statedocs import path, picture, survey, text

import smtphooks
from smtphooks.hooktable import ARGUMENTS, FURTHER, HOOKS

PACKAGE = Path(smtphooks.__file__).parent
Row = tuple[str, ...]
# What a message goes through on its way to its hook.
STAGES = [name for name, arguments in FURTHER.items() if arguments[0] == "stream"]


def askersOf(hook: str) -> list[str]:
    """The events, such as commands, that ask a hook, in the order of the table of commands."""
    return [event for event, hooks in survey().asked.items() if hook in hooks and event != "BDAT LAST"]


def hookRows() -> list[Row]:
    """For each hook, in the order of a connection's life: what asks it, and the code of its refusal."""
    rows = []
    for name in ARGUMENTS:
        situation = HOOKS[name].situation if name in HOOKS else None
        if name in STAGES:
            asked = ", ".join(askersOf("onData"))
        else:
            asked = ", ".join(askersOf(name)).replace("connected", "a client connects") or "no command: see its page"
        code = (
            "as its page says" if name in FURTHER else "it cannot refuse" if situation is None else str(situation.code)
        )
        rows.append((f":doc:`/hooks/{name}`", asked, code))
    return rows


def importsOf(folder: Path) -> set[str]:
    """The folders of the package that the modules of a folder import."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("smtphooks."):
                found.add(str(node.module).split(".")[1])
            elif isinstance(node, ast.ImportFrom) and node.module == "smtphooks":
                found |= {alias.name for alias in node.names}
    return {name for name in found if (PACKAGE / name).is_dir()} - {folder.name}


def folderRows() -> list[Row]:
    """Each folder behind those that it imports, with the first sentence of what it is for."""
    found = {path.parent.name: path for path in sorted(PACKAGE.glob("*/__init__.py"))}
    rows: list[Row] = []
    done: set[str] = set()
    imports = {name: importsOf(file.parent) for name, file in found.items()}
    while len(done) < len(found):
        name = min(name for name in found if name not in done and imports[name] <= done)  # there is no circle
        done.add(name)
        said = ast.get_docstring(ast.parse(found[name].read_text(encoding="utf-8"))) or ""
        rows.append(
            (
                f"``{name}/``",
                re.sub(r"[A-Z]\{(.*?)\}", r"``\1``", " ".join(said.split("\n\n")[0].split())),
                ", ".join(sorted(imports[name])),
            )
        )
    return rows


def tableOf(header: Row, rows: Iterable[Row]) -> str:
    """A table as reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (header, *rows):
        lines += [f"   {'*' if number == 0 else ' '} - {cell}" for number, cell in enumerate(row)]
    return "\n".join(lines)


# --- Drawing ---


def flow() -> str:
    """On the left what a client does, on the right the hook that is asked; straight where it is a hook of its own."""
    height, gap, left, right, width = 30, 46, 10, 380, 150
    hooks = [name for name in HOOKS if askersOf(name)]
    top = {name: 10 + number * gap for number, name in enumerate(hooks)}
    drawn = []
    for name, y in top.items():
        own = [event for event in askersOf(name) if survey().asked[event][0] == name]
        situation = HOOKS[name].situation
        drawn += [
            _box(left, y, width, height, ", ".join(own).replace("connected", "a client connects")),
            _box(right, y, width, height, name),
            path(f"M{left + width},{y + 15} H{right}"),
            text(right + width + 10, y + 20, "start", f"or {situation.code}" if situation else ""),
        ]
        if name == "onData":
            drawn.append(text(left + width + 8, y + 10, "start", ", ".join(STAGES)))
        also = {other for event in own for other in survey().asked[event][1:]}
        drawn += [path(f"M{left + width},{y + 22} L{right},{top[other] + 8}") for other in hooks if other in also]
    return picture("What asks which hook", 600, 10 + len(hooks) * gap, drawn)


def folders() -> str:
    """Each folder below those that it imports, and lines only where no folder between them says it already."""
    rows = {re.sub("[`/]", "", name): {*filter(None, imports.split(", "))} for name, _, imports in folderRows()}
    rank: dict[str, int] = {}
    for name, imports in rows.items():  # each stands behind what it imports
        rank[name] = 1 + max((rank[other] for other in imports), default=-1)
    importers = {name: sum(name in imports for imports in rows.values()) for name in rows}
    place: dict[str, tuple[int, int]] = {}
    for number in range(1 + max(rank.values())):
        line = sorted((name for name in rows if rank[name] == number), key=lambda name: (-importers[name], name))
        place |= {name: (10 + 115 * column, 10 + 90 * number) for column, name in enumerate(line)}
    drawn = []
    for name, imports in rows.items():
        x, y = place[name]
        for other in sorted(imports - {far for near in imports for far in rows[near]}):
            drawn.append(path(f"M{x + 50},{y} L{place[other][0] + 50},{place[other][1] + 30}"))
    drawn += [_box(x, y, 100, 30, name) for name, (x, y) in place.items()]
    right, bottom = max(x for x, _ in place.values()), max(y for _, y in place.values())
    return picture("What each folder imports", right + 110, bottom + 45, drawn)


def _box(x: int, y: int, width: int, height: int, label: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" style="{PAPER}"/>' + text(
        x + width // 2, y + height // 2 + 4, "middle", label
    )


# Filled with what furo has behind the text, in light and in dark mode, so that a line behind a box does not cross it.
PAPER = "fill: var(--color-background-primary)"


class FlowDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        table = self.parse_text_to_nodes(tableOf(("Hook", "Asked for", "Its refusal"), hookRows()))
        return [nodes.raw("", flow(), format="html"), *table]


class FoldersDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        table = self.parse_text_to_nodes(tableOf(("Folder", "What it is for", "It imports"), folderRows()))
        return [nodes.raw("", folders(), format="html"), *table]


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("smtphooks-flow", FlowDirective)
    app.add_directive("smtphooks-folders", FoldersDirective)
    return {"parallel_read_safe": True}
