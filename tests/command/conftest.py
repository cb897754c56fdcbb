"""Supervisors for the commands that ask one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.programs import PATIENCE, Program
from tests.test_reactor import environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Supervise = Callable[..., Program]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Start a supervisor that gives these answers to C{status}, at the control socket of this folder or at another."""
    programs: list[Program] = []

    def supervise(*answers: dict[str, Any], path: str | Path = "smtphooks.control") -> Program:
        file = tmp_path / "answers.json"
        file.write_text(json.dumps(answers))
        command = [sys.executable, "-m", "tests.command.standin", str(path), str(file)]
        program = Program(command, environment(), tmp_path)
        programs.append(program)
        program.waitForLine("answers")
        return program

    yield supervise
    for program in programs:
        program.terminate()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in the folder of the test."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "smtphooks", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=PATIENCE, check=False
        )

    return run
