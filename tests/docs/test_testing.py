"""docs/testing.rst: every test that it shows passes, with what runs it there, and its tables name all that there is."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from smtphooks.testing import Dialogue, ReceivedReply, SMTPServerThread
from smtphooks.testing.answer import Answer
from tests.pages import DOCS, blocksOf, write

PAGE = "testing.rst"
ROOT = DOCS.parent
BIN = Path(sys.executable).parent
PATIENCE = 120.0

IS_INSTALLED = any(point.value == "pytest_smtphooks" for point in importlib.metadata.entry_points(group="pytest11"))
PYTEST = [sys.executable, "-m", "pytest", *([] if IS_INSTALLED else ["-p", "pytest_smtphooks"]), "--strict-markers"]

# The tests of the page, with how many there are in each; trial and unittest run those that are theirs.
RUN_BY = {
    "test_app.py": (PYTEST, 1),
    "test_marks.py": (PYTEST, 2),
    "test_outbox.py": (PYTEST, 5),
    "test_tls.py": (PYTEST, 6),
    "test_myhooks.py": (PYTEST, 3),
    "test_slowhooks.py": (PYTEST, 1),
    "test_unittest.py": ([sys.executable], 1),
    "test_asyncio.py": ([sys.executable], 1),
    "test_trial.py": ([str(BIN / "trial")], 1),
}
SHOWN = {block.name for block in blocksOf(PAGE, "python")}


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_every_block_is_run() -> None:
    assert {*RUN_BY, "app.py", "outbox.py", "myhooks.py"} == SHOWN
    assert len(blocksOf(PAGE)) == len(SHOWN)


@pytest.mark.parametrize("name", RUN_BY)
def test_the_tests_of_the_page_pass(tmp_path: Path, name: str) -> None:
    write(PAGE, tmp_path)
    command, count = RUN_BY[name]
    said = run(tmp_path, *command, name if name != "test_trial.py" else "test_trial")
    assert re.search(rf"\b{count} passed|Ran {count} tests? in", said), said


def test_the_first_test_has_five_lines() -> None:
    (text,) = (block.text for block in blocksOf(PAGE) if block.name == "test_app.py")
    assert len([line for line in text.splitlines() if line]) == 5


# --- the tables ---

TABLES = (DOCS / PAGE).read_text().split(".. list-table:: ``")[1:]


def named(table: str) -> set[str]:
    """The names that the first column of a table has, without arguments."""
    cells = re.findall(r"^ +\* - (``.*)$", table, re.MULTILINE)
    texts = [text for cell in cells for text in re.findall(r"``(?:await )?([^`]+)``", cell)]
    return {re.sub(r"\(.*", "", text).removeprefix("dialogue.") for text in texts}


def public(kind: type) -> set[str]:
    """The public names of a class: its methods and properties, and the attributes that its docstring tells of."""
    attributes = set(re.findall(r"@ivar (\w+)", inspect.getdoc(kind) or ""))
    return {name for name in vars(kind) if not name.startswith("_")} | attributes


def arguments(kind: type) -> set[str]:
    """What the class itself takes by name."""
    parameters = inspect.signature(kind).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD} - {"hooks"}


def test_the_table_of_the_server_is_complete() -> None:
    assert named(TABLES[0]) == public(SMTPServerThread) | arguments(SMTPServerThread)


def test_the_table_of_the_dialogue_is_complete() -> None:
    ofReplies = public(ReceivedReply)
    assert named(TABLES[1]) == public(Dialogue) | arguments(Dialogue) | ofReplies | {"dialogue", "now"}
    assert "now" in public(Answer)


@pytest.mark.parametrize("kind, table", [(SMTPServerThread, TABLES[0]), (Dialogue, TABLES[1])])
def test_the_tables_show_the_arguments_as_they_are(kind: type, table: str) -> None:
    shown = " ".join(table.split("``")[0].split())
    assert shown.replace('"', "'") == kind.__name__ + _plain(inspect.signature(kind))
    for name, parameters in re.findall(r"``(?:await dialogue\.)?(\w+)(\(.*?\))``", table):
        function = getattr(kind, name, None) or getattr(Answer, name, None)
        if function is not None:
            assert parameters == _plain(inspect.signature(function), skip=1), name


def _plain(signature: inspect.Signature, skip: int = 0) -> str:
    parameters = list(signature.parameters.values())[skip:]
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(plain))
