"""docs/examples.rst: it lists every example, and every command that it shows starts one."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES
from tests.pages import DOCS, blocksOf
from tests.real.programs import ROOT, Program

PAGE = "examples.rst"
FILES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_file())
COMMANDS = [line.removeprefix("$ ") for block in blocksOf(PAGE, "console") for line in block.text.splitlines()]
ANYWHERE = "tcp:0:interface=127.0.0.1"


def test_every_example_is_on_the_page_and_has_a_test() -> None:
    text = (DOCS / PAGE).read_text()
    assert sorted(re.findall(r"literalinclude:: \.\./examples/(\S+)", text)) == FILES
    assert {Path(name).stem for name in FILES} == {
        path.stem.removeprefix("test_") for path in (ROOT / "tests" / "examples").glob("test_*.py")
    }
    for name in FILES:
        assert f"``{name}``" in text
        assert any(f"examples/{name}" in command for command in COMMANDS)


# It takes from a queue, and listens nowhere: tests/docs/howto/test_queue.py runs its command.
LISTENING = [command for command in COMMANDS if "queuedelivery.py" not in command]


@pytest.mark.parametrize("command", LISTENING)
def test_a_command_of_the_page_works(command: str, tmp_path: Path) -> None:
    name, *arguments = shlex.split(command)
    # Free ports in place of the fixed ones, and standard input instead of a terminal.
    if name == "python" and "--add" not in arguments:
        arguments += ["--listen", ANYWHERE]
        arguments += ["--http", ANYWHERE] * any(file in command for file in ("catchall", "webapp"))
    (tmp_path / "examples").symlink_to(EXAMPLES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SMTP_ENDPOINT": ANYWHERE}
    program = Program([str(Path(sys.executable).parent / name), *arguments], environment, tmp_path)
    if "--add" in arguments:
        assert program.wait() == 0, program.output
    else:
        program.waitForLine("listening on")
        assert program.terminate() in (0, -15), program.output
    assert "Traceback" not in program.output
