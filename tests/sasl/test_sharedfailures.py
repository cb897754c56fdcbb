"""Failures over all workers: when a network is barred and for how long, and that they outlive a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from smtphooks.sasl import sharedfailures
from smtphooks.sasl.failures import AuthFailures
from smtphooks.sasl.sharedfailures import SharedAuthFailures
from smtphooks.sharedtable import Table
from tests.workers import PausedWords, narrowTable, said, workers

ADDRESS = "192.0.2.1"


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table.create(3)
    yield made
    os.close(made.fd)


def clockAt(seconds: float) -> Clock:
    clock = Clock()
    clock.rightNow = seconds  # type: ignore[assignment]
    return clock


def attached(table: Table, limit: int, clock: Clock | None = None, name: str = "x") -> list[SharedAuthFailures]:
    """One for each column."""
    clock = clock or clockAt(9000.0)
    return [
        SharedAuthFailures(limit, Table.attach(table.fd, column), name, lambda: round(clock.seconds() * 1e9))
        for column in range(table.columns)
    ]


def test_a_network_is_barred_by_what_all_workers_have_counted(table: Table) -> None:
    all = attached(table, 4)
    for number in (0, 1, 2):
        all[number].add(ADDRESS)
    assert not any(failures.isBarred(ADDRESS) for failures in all)
    all[0].add(ADDRESS)
    assert all[0].isBarred(ADDRESS) and all[1].isBarred(ADDRESS) and all[2].isBarred(ADDRESS)
    assert not all[1].isBarred("192.0.2.2")


def test_of_ipv6_all_of_a_network_are_barred(table: Table) -> None:
    one, other, third = attached(table, 2)
    one.add("2001:db8::1")
    other.add("2001:db8::2")
    assert third.isBarred("2001:db8::3") and not third.isBarred("2001:db8:0:1::1")


@pytest.mark.parametrize("address", ["", "/run/client.sock", "localhost"])
def test_only_IP_addresses_are_barred(table: Table, address: str) -> None:
    one, other, _ = attached(table, 1)
    one.add(address)
    assert not one.isBarred(address) and not other.isBarred(address)


def test_without_a_limit_nothing_is_counted(table: Table) -> None:
    one, other, _ = attached(table, 0)
    one.add(ADDRESS)
    assert not one.isBarred(ADDRESS) and not other.isBarred(ADDRESS)
    assert os.fstat(table.fd).st_blocks * 512 < 100_000


def test_other_names_and_other_limits_count_apart(table: Table) -> None:
    attached(table, 1, name="tcp:25")[0].add(ADDRESS)
    assert attached(table, 1, name="tcp:25")[1].isBarred(ADDRESS)
    assert not attached(table, 1, name="tcp:26")[1].isBarred(ADDRESS)
    assert not attached(table, 2, name="tcp:25")[1].isBarred(ADDRESS)


@pytest.mark.parametrize("begin", [9000.0, 9029.9, 12.0])
def test_a_failure_counts_for_ten_minutes_and_at_most_half_a_minute_more(table: Table, begin: float) -> None:
    clock = clockAt(begin)
    one, other, _ = attached(table, 1, clock)
    one.add(ADDRESS)
    clock.advance(600)
    assert one.isBarred(ADDRESS) and other.isBarred(ADDRESS)
    clock.advance(30.1)
    assert not one.isBarred(ADDRESS) and not other.isBarred(ADDRESS)


def test_failures_outlive_the_worker_that_has_counted_them(table: Table) -> None:
    clock = clockAt(9000.0)
    one, other, _ = attached(table, 3, clock)
    one.add(ADDRESS)
    one.add(ADDRESS)
    table.clear(0)
    again = attached(table, 3, clock)[0]
    again.add(ADDRESS)
    assert again.isBarred(ADDRESS) and other.isBarred(ADDRESS)


def test_a_limit_beyond_what_can_be_counted_bars_nobody(table: Table) -> None:
    one = attached(table, 10**30)[0]
    for _ in range(100):
        one.add(ADDRESS)
    assert not one.isBarred(ADDRESS)


def test_a_count_ends_at_the_largest_number(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharedfailures, "_MOST", 3)
    one, other, _ = attached(table, 3)
    for _ in range(100):
        one.add(ADDRESS)
    assert other.isBarred(ADDRESS)


def test_without_room_a_worker_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    table = narrowTable(monkeypatch, sharedfailures, "FAILURES")
    clock = clockAt(9000.0)
    one, other, _ = attached(table, 2, clock)
    addresses = [f"192.0.2.{number}" for number in range(12)]
    with capturedLogs() as lines:
        for address in addresses:
            one.add(address)
            one.add(address)
    assert len(lines) == 1
    assert all(one.isBarred(address) for address in addresses)
    assert [other.isBarred(address) for address in addresses] == [True] * 8 + [False] * 4
    # There is room again as soon as failures have expired.
    clock.advance(630)
    assert not any(one.isBarred(address) for address in addresses)
    for address in addresses[8:]:
        one.add(address)
        other.add(address)
    assert [one.isBarred(address) for address in addresses] == [False] * 8 + [True] * 4
    os.close(table.fd)


def test_a_cell_with_a_failure_that_counts_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    table = narrowTable(monkeypatch, sharedfailures, "FAILURES")
    clock = clockAt(9000.0)
    one, other, _ = attached(table, 1, clock)
    for number in range(8):
        one.add(f"192.0.2.{number}")
    clock.advance(600)
    for number in range(8, 16):
        one.add(f"192.0.2.{number}")
    assert all(other.isBarred(f"192.0.2.{number}") for number in range(8))
    os.close(table.fd)


events = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 0, 1, 29, 31, 250, 599, 601])), max_size=40)


@given(events, st.integers(1, 5), st.integers(0, 59))
def test_a_failure_counts_no_shorter_than_in_one_process_and_half_a_minute_longer_at_most(
    happening: list[tuple[int, int]], limit: int, begin: int
) -> None:
    clock = clockAt(9000.0 + begin)
    table = Table.create(3)
    all = attached(table, limit, clock)
    shortest = AuthFailures(limit, clock.seconds)
    times: list[float] = []
    for column, seconds in happening:
        clock.advance(seconds)
        all[column].add(ADDRESS)
        shortest.add(ADDRESS)
        times.append(clock.seconds())
        for failures in all:
            if shortest.isBarred(ADDRESS):
                assert failures.isBarred(ADDRESS)
            elif len([time for time in times if time > clock.seconds() - 630]) < limit:
                assert not failures.isBarred(ADDRESS)
    clock.advance(600)
    assert len({failures.isBarred(ADDRESS) for failures in all}) == 1
    os.close(table.fd)


@pytest.mark.parametrize("isKnown", [False, True])
def test_a_failure_that_another_worker_counts_at_any_moment_in_between_is_not_missed(isKnown: bool) -> None:
    for before in range(1, 99):
        table = Table.create(3)
        one, other, third = attached(table, 4 if isKnown else 2)
        if isKnown:
            one.add(ADDRESS)
            other.add(ADDRESS)
        paused = PausedWords(one._words, before, partial(other.add, ADDRESS))
        one._words = paused  # type: ignore[assignment]
        one.add(ADDRESS)
        assert third.isBarred(ADDRESS) or paused.before > 0
        os.close(table.fd)
        if paused.before > 0:
            break  # so many accesses there are not
    assert before > 4


def test_processes_that_count_at_once_bar_a_network_at_its_limit(table: Table) -> None:
    program = """
failures = SharedAuthFailures(600, table, "x")
other = SharedAuthFailures(601, table, "x")
for _ in range(200):
    failures.add("192.0.2.1")
    other.add("192.0.2.1")
print("done", flush=True)
sys.stdin.readline()
"""
    with workers(table, program, 3) as running:
        for process in running:
            assert said(process) == "done"
    assert SharedAuthFailures(600, table, "x").isBarred(ADDRESS)
    assert not SharedAuthFailures(601, table, "x").isBarred(ADDRESS)
