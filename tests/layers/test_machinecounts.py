"""Counts over all workers: the algorithm against that of one process, races, and what there is room for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from smtphooks.layers import machinecounts
from smtphooks.layers.counts import Limit, MemoryCounts, Verdict
from smtphooks.layers.machinecounts import MachineCounts, countsOfMachine
from smtphooks.sharedtable import Table, useTable
from tests.workers import PausedWords, narrowTable, said, workers

KEY = "messages client 192.0.2.7"
TEN_A_MINUTE = Limit(10, 60, 10)
COLUMNS = 3


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table.create(COLUMNS)
    yield made
    os.close(made.fd)


def newClock() -> Clock:
    clock = Clock()
    clock.rightNow = 9000.0  # type: ignore[assignment]
    return clock


def attached(table: Table, clock: Clock | None = None, name: str = "x") -> list[MachineCounts]:
    """One for each column."""
    clock = clock or newClock()
    made = [
        MachineCounts(Table.attach(table.fd, column), name, lambda: round(clock.seconds() * 1e9))
        for column in range(table.columns)
    ]
    for counts in made:
        counts.local.clock = clock  # type: ignore[assignment]
    return made


def taken(made: MachineCounts, limit: Limit, most: int = 99, key: str = KEY) -> int:
    """How many single units are taken before the first refusal."""
    for number in range(most):
        if made.increment(key, 1, (limit,)).limit:
            return number
    return most


# --- the algorithm ---

limits = st.builds(Limit, st.integers(1, 50), st.sampled_from([1, 3, 7, 60, 3600]), st.integers(1, 60))
# Eighths of seconds are exact in floats as well.
events = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, COLUMNS - 1), st.integers(1, 8), st.sampled_from("+++!x")),
    max_size=60,
)


@given(st.lists(limits, min_size=1, max_size=3, unique=True), events)
def test_workers_together_take_what_one_would(of: list[Limit], happening: Any) -> None:
    clock = newClock()
    table = Table.create(COLUMNS)
    made, model = attached(table, clock), MemoryCounts()
    model.clock = clock  # type: ignore[assignment]
    for eighths, column, cost, event in happening:
        clock.advance(eighths / 8)
        if event == "x":  # a worker dies, and another one takes its place
            table.clear(column)
            made[column] = attached(table, clock)[column]
            continue
        wanted = model.check(KEY, cost, tuple(of))
        for counts in made:
            asked = counts.check(KEY, cost, tuple(of))
            assert asked.limit == wanted.limit
            assert asked.wait == pytest.approx(wanted.wait, abs=2e-9)
        model.increment(KEY, cost, tuple(of), event == "!")
        verdict = made[column].increment(KEY, cost, tuple(of), event == "!")
        assert verdict.limit == wanted.limit
    os.close(table.fd)


def test_a_burst_is_taken_at_once_and_then_units_come_back_without_drift(table: Table) -> None:
    clock = newClock()
    made = attached(table, clock)
    limit = Limit(7, 1, 3)  # a seventh of a second is no round number in any notation
    assert taken(made[0], limit) == 3
    total = 0
    for number in range(8000):
        clock.advance(1 / 8)
        total += taken(made[number % COLUMNS], limit)
    assert total == 7000
    clock.advance(1_000_000)
    assert taken(made[1], limit) == 3
    assert taken(made[2], limit) == 0


def test_what_is_refused_takes_nothing_and_so_does_a_check(table: Table) -> None:
    clock = newClock()
    one, other, _ = attached(table, clock)
    assert taken(one, TEN_A_MINUTE) == 10
    assert taken(other, TEN_A_MINUTE) == 0
    clock.advance(6)
    assert [other.check(KEY, 1, (TEN_A_MINUTE,)) for _ in range(5)] == [Verdict()] * 5
    assert taken(other, TEN_A_MINUTE) == 1


def test_what_is_larger_than_a_burst_waits_forever(table: Table) -> None:
    one = attached(table)[0]
    assert one.increment(KEY, 11, (TEN_A_MINUTE,)) == Verdict(TEN_A_MINUTE, inf)
    assert taken(one, TEN_A_MINUTE) == 10


def test_one_limit_of_several_that_refuses_has_nothing_taken_from_the_others(table: Table) -> None:
    one, other, _ = attached(table)
    both = (Limit(100, 60, 100), Limit(1, 60, 1))
    one.increment(KEY, 1, both)
    assert other.increment(KEY, 1, both) == Verdict(both[1], 60)
    assert taken(other, both[0], 200) == 99


def test_the_same_limit_twice_takes_a_unit_once(table: Table) -> None:
    one = attached(table)[0]
    for _ in range(10):
        assert one.increment(KEY, 1, (TEN_A_MINUTE, TEN_A_MINUTE)).limit is None
    assert one.check(KEY, 1, (TEN_A_MINUTE,)).limit == TEN_A_MINUTE


def test_other_names_keys_and_limits_count_apart(table: Table) -> None:
    one = attached(table)[0]
    assert taken(one, TEN_A_MINUTE) == 10
    for counts, key, limit in [
        (attached(table, name="y")[0], KEY, TEN_A_MINUTE),
        (one, "another", TEN_A_MINUTE),
        (one, KEY, Limit(10, 60, 20)),
        (one, KEY, Limit(10, 61, 10)),
    ]:
        assert counts.check(key, 1, (limit,)).limit is None
    assert one.check(KEY, 1, (Limit(10, 60, 10, "ten"),)).limit is not None


@pytest.mark.parametrize("limit", [Limit(10**30, 1, 10**30), Limit(1, 10**15, 10**30)])
def test_numbers_of_more_than_64_bits_harm_nobody(table: Table, limit: Limit) -> None:
    one, other, _ = attached(table)
    one.increment(KEY, 10**29, (limit,), force=True)
    one.increment(KEY, 10**29, (limit,), force=True)
    assert other.check(KEY, 1, (limit,)).limit is None
    assert one.increment(KEY, 1, (limit,)).limit is None


# --- races ---


@pytest.mark.parametrize("seconds", [None, 0, 30, 3600], ids=["unknown", "used", "nearly-idle", "idle"])
def test_what_another_worker_takes_at_any_moment_in_between_is_not_lost(seconds: float | None) -> None:
    for before in range(1, 99):
        table, clock = Table.create(COLUMNS), newClock()
        one, other, third = attached(table, clock)
        if seconds is not None:
            one.increment(KEY, 4, (TEN_A_MINUTE,))
            other.increment(KEY, 2, (TEN_A_MINUTE,))
            clock.advance(seconds)
        free = third.check(KEY, 10, (TEN_A_MINUTE,)).wait
        (count,) = one._countsFor((TEN_A_MINUTE,))
        paused = PausedWords(count._words, before, partial(other.increment, KEY, 3, (TEN_A_MINUTE,)))
        count._words = paused  # type: ignore[assignment]
        one.increment(KEY, 1, (TEN_A_MINUTE,))
        os.close(table.fd)
        if paused.before > 0:
            break  # so many accesses there are not
        # A unit comes back every 6 seconds.
        assert third.check(KEY, 10, (TEN_A_MINUTE,)).wait == pytest.approx(free + 4 * 6)
    assert before > 6


def test_processes_that_take_as_fast_as_they_can_keep_to_the_limit_and_lose_nothing(table: Table) -> None:
    program = """
counts = MachineCounts(table, "x")
taken = 0
while counts.increment("key", 1, (Limit(15000, 10**6, 15000),)).limit is None:
    taken += 1
for _ in range(2000):
    counts.increment("forced", 1, (Limit(15000, 10**6, 15000),), force=True)
print(taken, flush=True)
sys.stdin.readline()
"""
    limit = Limit(15000, 10**6, 15000)
    with workers(table, program, COLUMNS) as running:
        numbers = [int(said(process)) for process in running]
    # 67 seconds are a unit.  Each of the other processes may have seen the last one free.
    assert 15000 <= sum(numbers) <= 15000 + 1 + COLUMNS - 1
    asking = MachineCounts(table, "x")
    assert asking.check("forced", 9000, (limit,)).limit is None
    assert asking.check("forced", 9010, (limit,)).limit == limit
    wait = asking.check("key", 1, (limit,)).wait
    assert (sum(numbers) - 15000 - 1) * 66 < wait < (sum(numbers) - 15000 + 1) * 67


# --- room ---


def test_without_room_a_worker_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    table = narrowTable(monkeypatch, machinecounts, "RATES")
    clock = newClock()
    one, other, _ = attached(table, clock)
    with capturedLogs() as lines:
        assert [taken(one, TEN_A_MINUTE, key=f"key {number}") for number in range(12)] == [10] * 12
    assert len(lines) == 1
    assert [taken(one, TEN_A_MINUTE, key=f"key {number}") for number in range(12)] == [0] * 12
    assert [taken(other, TEN_A_MINUTE, 5, f"key {number}") for number in range(12)] == [0] * 8 + [5] * 4
    # There is room again when units have come back, and what was counted here is not forgotten then.
    clock.advance(6)
    assert [taken(one, TEN_A_MINUTE, key=f"key {number}") for number in range(12)] == [1] * 12
    clock.advance(60)
    assert [taken(one, TEN_A_MINUTE, 4, key=f"key {number}") for number in range(8, 12)] == [4] * 4
    assert [taken(other, TEN_A_MINUTE, key=f"key {number}") for number in range(8, 12)] == [6] * 4
    os.close(table.fd)


def test_a_flood_of_new_keys_takes_no_more_memory_and_frees_nobody_who_is_at_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = narrowTable(monkeypatch, machinecounts, "RATES")
    one, other, _ = attached(table)
    one.local = MemoryCounts(100)
    one.local.clock = newClock()  # type: ignore[assignment]
    assert taken(one, TEN_A_MINUTE, key="at its limit") == 10
    assert taken(one, TEN_A_MINUTE, 5, "half way") == 5
    for number in range(1000):
        assert one.increment(f"flood {number}", 1, (TEN_A_MINUTE,)).limit is None
    assert len(one.local) == 100
    for counts in (one, other):
        assert counts.check("at its limit", 1, (TEN_A_MINUTE,)).limit is not None
        assert counts.check("half way", 6, (TEN_A_MINUTE,)).limit is not None
    os.close(table.fd)


def test_a_cell_is_not_given_up_while_another_worker_has_units_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    table = narrowTable(monkeypatch, machinecounts, "RATES")
    clock = newClock()
    one, other, third = attached(table, clock)
    for number in range(8):
        one.increment(f"key {number}", 1, (TEN_A_MINUTE,))
        if number >= 4:
            other.increment(f"key {number}", 5, (TEN_A_MINUTE,))
    clock.advance(8)  # a unit is back after 6 seconds
    for number in range(8):
        one.increment(f"new {number}", 1, (TEN_A_MINUTE,))
    assert len(one.local) == 4
    waits = [third.check(f"key {number}", 10, (TEN_A_MINUTE,)).wait for number in range(8)]
    assert waits == [0] * 4 + [6 * 6 - 8] * 4
    os.close(table.fd)


def test_a_cell_is_not_given_up_while_what_another_worker_took_later_depends_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = narrowTable(monkeypatch, machinecounts, "RATES")
    clock = newClock()
    one, other, third = attached(table, clock)
    for number in range(8):
        one.increment(f"key {number}", 2, (TEN_A_MINUTE,))
    clock.advance(100)
    for number in range(8):
        other.increment(f"key {number}", 5, (TEN_A_MINUTE,))
    clock.advance(8)
    for number in range(8):
        one.increment(f"new {number}", 1, (TEN_A_MINUTE,))
    assert [third.check(f"key {number}", 10, (TEN_A_MINUTE,)).wait for number in range(8)] == [5 * 6 - 8] * 8
    os.close(table.fd)


# --- where it is used ---


def test_counts_are_those_of_the_machine_where_there_are_workers(table: Table) -> None:
    assert isinstance(countsOfMachine(), MemoryCounts)
    names = []
    for column in (0, 1):
        useTable(Table.attach(table.fd, column))
        try:
            both = [countsOfMachine(), countsOfMachine()]
        finally:
            useTable(None)
        assert all(isinstance(counts, MachineCounts) for counts in both)
        names.append(both)
    (first, second), (again, _) = names
    assert isinstance(first, MachineCounts) and isinstance(second, MachineCounts) and isinstance(again, MachineCounts)
    assert taken(first, Limit(10, 10**6, 10)) == 10
    assert taken(again, Limit(10, 10**6, 10)) == 0
    assert taken(second, Limit(10, 10**6, 10)) == 10
