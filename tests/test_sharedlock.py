"""Shared locks: of several workers one has it, and the next one when that lets go or ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

import pytest

from smtphooks.sharedlock import SharedLock
from smtphooks.sharedtable import Table, useTable
from tests.workers import goOn, said, workers

# Says whether it has a lock, lets go of it or not, and then ends.
PROGRAM = """
from smtphooks.sharedlock import SharedLock
useTable(table)
lock = SharedLock("the one")
print(lock.acquire(), SharedLock("of another name").acquire(), flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table.create(4)
    yield made
    os.close(made.fd)


@pytest.fixture
def lock(table: Table) -> Iterator[SharedLock]:
    """A lock of this process, which stands for another worker."""
    useTable(table)
    yield SharedLock("the one")
    useTable(None)


def test_without_workers_it_is_always_free() -> None:
    lock = SharedLock("the one")
    assert lock.acquire() and lock.acquire() and SharedLock("the one").acquire()
    lock.release()
    assert lock.acquire()


def test_of_workers_that_want_it_at_once_one_has_it(table: Table) -> None:
    with workers(table, PROGRAM, 4) as those:
        found = [said(each).split()[0] for each in those]
    assert sorted(found) == ["False"] * 3 + ["True"]


def test_another_worker_can_have_it_when_it_is_released(table: Table, lock: SharedLock) -> None:
    with workers(table, PROGRAM, 1) as (other,):
        assert said(other) == "True True"
        assert not lock.acquire()
        goOn(other)
        assert said(other) == "released"
        assert lock.acquire()
        assert lock.acquire()


def test_that_of_a_worker_that_is_killed_is_free(table: Table, lock: SharedLock) -> None:
    with workers(table, PROGRAM, 1) as (other,):
        assert said(other) == "True True"
        assert not lock.acquire()
        other.kill()
        other.wait()
        assert lock.acquire()


def test_locks_of_different_names_are_different(table: Table, lock: SharedLock) -> None:
    assert lock.acquire()
    with workers(table, PROGRAM, 1) as (other,):
        assert said(other) == "False True"


def test_it_is_taken_for_free_if_there_can_be_no_locks(lock: SharedLock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", fail)
    assert lock.acquire()
    lock.release()
