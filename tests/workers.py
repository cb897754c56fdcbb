"""Workers for tests of what they share: processes that each have a column of a table, and begin at the same moment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import attrs
import pytest

from smtphooks import sharedtable
from smtphooks.sharedtable import Table

_BEGIN = """
import sys
from smtphooks.sharedtable import *
from smtphooks.admission.sharedclients import SharedClients
from smtphooks.layers.counts import Limit
from smtphooks.layers.machinecounts import MachineCounts
from smtphooks.sasl.sharedfailures import SharedAuthFailures
table = Table.attach(int(sys.argv[1]), int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def workers(table: Table, program: str, columns: int) -> Iterator[list[subprocess.Popen[str]]]:
    """
    Run a program with a C{table} in one process for each column, all of them at once.

    @param program: what it prints is read from C{stdout}; its C{stdin} is open until it is told to go on.
    """
    folder = os.path.dirname(os.path.dirname(sharedtable.__file__))
    command = [sys.executable, "-c", _BEGIN + program, str(table.fd)]
    running = [
        subprocess.Popen(
            [*command, str(column)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[table.fd],
            env={**os.environ, "PYTHONPATH": folder},
        )
        for column in range(columns)
    ]
    try:
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in running:
            goOn(process)
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def narrowTable(patch: pytest.MonkeyPatch, module: ModuleType, name: str, columns: int = 3) -> Table:
    """A table whose cells of one kind are all in one bucket, for a module that has the kind by this name."""
    kind = getattr(sharedtable, name)
    narrow = attrs.evolve(kind, buckets=1)
    patch.setattr(module, name, narrow)
    patch.setattr(sharedtable, "_KINDS", [narrow if each is kind else each for each in sharedtable._KINDS])
    return Table.create(columns)


def goOn(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


class PausedWords:
    """The words of a table; before the access of this number, reading or writing, a process does something else."""

    def __init__(self, words: memoryview, before: int, do: Callable[[], object]) -> None:
        self.words, self.before, self.do = words, before, do

    def __getitem__(self, index: Any) -> Any:
        self.access()
        return self.words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.access()
        self.words[index] = value

    def access(self) -> None:
        self.before -= 1
        if self.before == 0:
            self.do()
