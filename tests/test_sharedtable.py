"""The shared table: where keys are found, what is cleared, what there is no room for, and what other processes see."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from smtphooks import sharedtable
from smtphooks.sharedtable import FAILURES, LIVE, RATES, WAYS, Cells, Kind, Table, currentTable, useTable
from tests.workers import said, workers

KINDS = [LIVE, RATES, FAILURES]


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table.create(4)
    yield made
    os.close(made.fd)


def neverSpent(cell: int) -> bool:
    return False


def put(cells: Cells, key: str, value: int) -> bool:
    """Whether there was room."""
    place = cells.find(key)
    if place.own < 0:
        place = cells.claim(place, neverSpent)
    if place.own >= 0:
        cells.words[place.own] = value
    return place.own >= 0


def total(cells: Cells, key: str) -> int:
    return sum(cells.find(key).read(cells.words))


# --- making it ---


def test_there_is_none_without_workers() -> None:
    assert currentTable() is None


def test_a_worker_uses_one(table: Table) -> None:
    useTable(table)
    try:
        assert currentTable() is table
    finally:
        useTable(None)


def test_who_attaches_sees_what_others_have_written(table: Table) -> None:
    one, other = (Table.attach(table.fd, column).cells(LIVE, "x") for column in (0, 3))
    assert put(one, "key", 5) and total(other, "key") == 5
    assert put(other, "key", 7) and total(one, "key") == 12
    assert total(table.cells(LIVE, "x"), "key") == 12


def test_a_table_can_be_an_unlinked_file(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = Table.create(2)
    assert os.listdir(str(tmp_path)) == [] and os.fstat(made.fd).st_nlink == 0
    one, other = (Table.attach(made.fd, column).cells(LIVE, "x") for column in (0, 1))
    assert put(one, "key", 5) and total(other, "key") == 5
    os.close(made.fd)


def test_a_table_of_another_version_is_refused(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharedtable, "_VERSION", 2)
    with pytest.raises(ValueError, match="another version"):
        Table.attach(table.fd, 0)


def test_a_table_with_other_cells_is_refused(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharedtable, "_KINDS", (LIVE, RATES, Kind(words=23, read=1, buckets=1 << 11)))
    with pytest.raises(ValueError, match="another version"):
        Table.attach(table.fd, 0)


@pytest.mark.parametrize("content", [b"", b"smtphook", b"x" * 5000, bytes(5000)])
def test_what_is_no_table_is_refused(tmp_path: object, content: bytes) -> None:
    with open(f"{tmp_path}/file", "w+b") as file:
        file.write(content)
        file.flush()
        with pytest.raises(ValueError):
            Table.attach(file.fileno(), 0)


def test_a_table_of_another_size_is_refused(table: Table) -> None:
    os.ftruncate(table.fd, os.fstat(table.fd).st_size + 8)
    with pytest.raises(ValueError, match="another size"):
        Table.attach(table.fd, 0)


@pytest.mark.parametrize("column", [-1, 4])
def test_a_column_that_is_not_there_is_refused(table: Table, column: int) -> None:
    with pytest.raises(ValueError, match="no column"):
        Table.attach(table.fd, column)


@pytest.mark.parametrize("columns", [0, -1, 4097])
def test_a_table_has_a_sensible_number_of_columns(columns: int) -> None:
    with pytest.raises(ValueError):
        Table.create(columns)


def test_a_table_that_is_not_filled_takes_no_memory(table: Table) -> None:
    status = os.fstat(table.fd)
    assert status.st_size > 30_000_000 and status.st_blocks * 512 < 100_000


def test_memory_can_be_given_back(table: Table) -> None:
    other = Table.attach(table.fd, 0)
    other.close()
    with pytest.raises(ValueError):
        other.cells(LIVE, "x").find("key").read(other.words)


# --- keys ---


@pytest.mark.parametrize("kind", KINDS)
def test_keys_do_not_disturb_one_another(table: Table, kind: Kind) -> None:
    attached = [Table.attach(table.fd, column).cells(kind, "x") for column in range(4)]
    for number in range(3000):
        assert put(attached[number % 4], f"key {number // 2}", number + 1)
    # Each key has been written in two columns, each of which has some keys.
    for cells in attached:
        for number in range(1500):
            assert total(cells, f"key {number}") == (2 * number + 1) + (2 * number + 2)
        assert total(cells, "key") == 0


def test_every_use_has_keys_of_its_own(table: Table) -> None:
    mine = Table.attach(table.fd, 0)
    put(mine.cells(LIVE, "one"), "key", 5)
    assert total(mine.cells(LIVE, "other"), "key") == 0
    assert total(mine.cells(RATES, "one"), "key") == 0
    assert total(mine.cells(LIVE, "one"), "key") == 5


@pytest.mark.parametrize("key", ["", "ä" * 300, "\udcff", "a\0b"])
def test_a_key_is_any_text(table: Table, key: str) -> None:
    cells = Table.attach(table.fd, 0).cells(LIVE, "x")
    assert put(cells, key, 3) and total(cells, key) == 3


def test_two_tables_put_the_same_keys_into_other_buckets(table: Table) -> None:
    """So that no client can compute addresses that fill a bucket."""
    other = Table.create(4)
    starts = [[each.cells(LIVE, "x").find(str(number)).start for number in range(9)] for each in (table, other)]
    assert starts[0] != starts[1]
    os.close(other.fd)


def test_names_by_order_are_the_same_in_every_worker(table: Table) -> None:
    one, other = Table.attach(table.fd, 0), Table.attach(table.fd, 1)
    assert [one.numbered("x"), one.numbered("x")] == [other.numbered("x"), other.numbered("x")]


# --- room ---


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, table: Table) -> Cells:
    """Cells in a single bucket."""
    cells = Table.attach(table.fd, 0).cells(LIVE, "x")
    cells._kind = Kind(words=1, read=1, buckets=1)
    return cells


def test_a_full_bucket_keeps_what_it_has(narrow: Cells) -> None:
    assert [put(narrow, f"key {number}", number) for number in range(WAYS + 2)] == [True] * WAYS + [False] * 2
    assert [total(narrow, f"key {number}") for number in range(WAYS + 2)] == [*range(WAYS), 0, 0]


def test_a_spent_cell_is_given_up_for_another_key(narrow: Cells) -> None:
    for number in range(WAYS):
        put(narrow, f"key {number}", number)
    place = narrow.claim(narrow.find("new"), lambda cell: narrow.words[cell] == 3)
    assert place.own >= 0 and narrow.words[place.own] == 0
    assert narrow.find("key 3").own < 0
    assert [total(narrow, f"key {number}") for number in range(WAYS)] == [0, 1, 2, 0, 4, 5, 6, 7]


def test_other_columns_of_a_bucket_have_room_of_their_own(table: Table, narrow: Cells) -> None:
    for number in range(WAYS):
        put(narrow, f"key {number}", number)
    other = Table.attach(table.fd, 1).cells(LIVE, "x")
    other._kind = narrow._kind
    assert put(other, "new", 9) and total(narrow, "new") == 9


def test_the_cells_of_a_key_are_found_from_one_of_them(table: Table) -> None:
    attached = [Table.attach(table.fd, column).cells(RATES, "x") for column in range(4)]
    for cells in attached[1:]:
        put(cells, "key", 1)
        put(cells, f"another {cells}", 1)
    place = attached[2].find("key")
    assert len(place.cells) == 3 and attached[2].sameKey(place.own) == place.cells


def test_that_there_is_no_room_is_reported_once_an_hour(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(sharedtable, "monotonic", lambda: now[0])
    cells = table.cells(LIVE, "x")
    assert [cells.reportIsDue() for _ in range(3)] == [True, False, False]
    now[0] += 3600
    assert [cells.reportIsDue() for _ in range(3)] == [True, False, False]


def test_a_process_remembers_a_bounded_number_of_keys(table: Table) -> None:
    cells = Table.attach(table.fd, 0).cells(LIVE, "x")
    for number in range(5000):
        cells.find(str(number))
    assert len(cells._places) <= cells._most < 5000


# --- columns ---


def test_the_live_counts_of_a_column_are_cleared_and_nothing_else(table: Table) -> None:
    for column in (1, 2):
        mine = Table.attach(table.fd, column)
        for kind in KINDS:
            for number in range(100):
                put(mine.cells(kind, "x"), f"key {number}", column)
    table.clear(1)
    for number in range(100):
        assert [total(table.cells(kind, "x"), f"key {number}") for kind in KINDS] == [2, 3, 3]


def test_who_knew_a_cleared_cell_does_not_count_it_any_more(table: Table) -> None:
    one, other = (Table.attach(table.fd, column).cells(LIVE, "x") for column in (0, 1))
    put(one, "key", 5)
    assert total(other, "key") == 5
    table.clear(0)
    assert total(other, "key") == 0
    again = Table.attach(table.fd, 0).cells(LIVE, "x")
    assert put(again, "key", 1) and total(other, "key") == 1


def test_the_next_process_of_a_column_finds_its_cells(table: Table) -> None:
    put(Table.attach(table.fd, 0).cells(RATES, "x"), "key", 5)
    again = Table.attach(table.fd, 0).cells(RATES, "x")
    assert again.find("key").own >= 0
    put(again, "key", 6)
    assert total(again, "key") == 6


# --- processes ---


def test_processes_that_write_at_once_lose_nothing(table: Table) -> None:
    program = """
cells = table.cells(RATES, "x")
for number in range(20000):
    place = cells.find(f"key {number % 500}")
    if place.own < 0:
        place = cells.claim(place, lambda cell: False)
    table.words[place.own] += 1
print(sum(sum(cells.find(f"key {number}").read(table.words)) for number in range(500)))
sys.stdin.readline()
"""
    with workers(table, program, 4) as running:
        assert max(int(said(process)) for process in running) == 80000
    cells = table.cells(RATES, "x")
    assert [total(cells, f"key {number}") for number in range(500)] == [160] * 500


def test_no_process_sees_half_of_a_number(table: Table) -> None:
    program = """
cells = table.cells(LIVE, "x")
place = cells.claim(cells.find("key"), lambda cell: False)
words, own = table.words, place.own
print(own, flush=True)
while True:
    words[own] = -1
    words[own] = 0x0101010101010101
    words[own] = 0
"""
    with workers(table, program, 1) as (process,):
        own = int(said(process))
        whole, seen = {-1, 0x0101010101010101, 0}, set()
        while not seen >= whole:  # a busy machine may let the other process run later
            seen |= {table.words[own] for _ in range(500_000)}
    assert seen == whole


def test_a_process_that_is_killed_while_it_makes_cells_leaves_the_table_whole(table: Table) -> None:
    program = """
cells = table.cells(LIVE, "x")
print("writing", flush=True)
for number in range(10**9):
    key = f"key {number % 4096}"
    place = cells.find(key)
    if place.own < 0:
        place = cells.claim(place, lambda cell: True)
    table.words[place.own] = 1
"""
    for _ in range(3):
        with workers(table, program, 1) as (process,):
            said(process)
            while total(table.cells(LIVE, "x"), "key 4000") == 0:
                pass
        counts = [total(table.cells(LIVE, "x"), f"key {number}") for number in range(4096)]
        assert set(counts) <= {0, 1} and sum(counts) > 3000
        table.clear(0)
        assert not any(total(table.cells(LIVE, "x"), f"key {number}") for number in range(4096))
