"""CONTRIBUTING.rst names places in the code: all of them are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import smtphooks
from tests.test_readme import ROOT

PACKAGE = Path(smtphooks.__file__).parent
TEXT = (ROOT / "CONTRIBUTING.rst").read_text()
# A file, and the name in it that follows, if one does.
PLACES = re.findall(r"``([\w/]+\.py)``(?:,\s+(?:the table\s+|the class\s+)?``([\w.]+)``)?", TEXT)


def namesIn(path: Path) -> set[str]:
    """What a module defines: functions, classes with their methods, and tables."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_it_names_places() -> None:
    assert len(PLACES) > 10
    assert sum(bool(name) for _, name in PLACES) > 6


@pytest.mark.parametrize(("file", "name"), sorted(set(PLACES)))
def test_a_place_that_it_names_is_there(file: str, name: str) -> None:
    path = ROOT / file if file.startswith("tests/") else PACKAGE / file
    assert path.is_file()
    assert not name or name in namesIn(path)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_it_names_every_folder(folder: str) -> None:
    assert f"{folder}/" in TEXT or f"``{folder}``" in TEXT
