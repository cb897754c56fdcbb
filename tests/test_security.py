"""SECURITY.rst: each promise names tests, and they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TEXT = (TESTS.parent / "SECURITY.rst").read_text()
NAMED = re.findall(r"``((?:\w+/)?test_\w+\.py)::(\w+)``", TEXT)
PROMISES = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^\S)", TEXT, re.DOTALL | re.MULTILINE)


def functionsIn(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_promise_names_a_test_that_exists(file: str, name: str) -> None:
    assert name in functionsIn(TESTS / file)


def test_each_invariant_of_the_design_is_promised_and_has_a_test() -> None:
    assert [int(number) for number, _ in PROMISES] == list(range(1, 11))
    assert all("::" in text for _, text in PROMISES)


def test_every_name_of_a_test_is_found() -> None:
    assert len(NAMED) == TEXT.count("::")
