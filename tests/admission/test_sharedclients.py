"""Clients of all workers: the counts add up, limits hold over them, and what a dead worker had is not counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs

from smtphooks.admission import sharedclients
from smtphooks.admission.clients import Clients
from smtphooks.admission.sharedclients import SharedClients
from smtphooks.sharedtable import Table
from tests.workers import narrowTable, said, workers

HERE, THERE = "192.0.2.7", "2001:db8::/64"


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table.create(3)
    yield made
    os.close(made.fd)


def attached(table: Table, most: int = 0, mostPerNetwork: int = 0, name: str = "x") -> list[SharedClients]:
    """One for each column."""
    return [
        SharedClients(most, mostPerNetwork, Table.attach(table.fd, column), name) for column in range(table.columns)
    ]


def test_a_limit_on_connections_holds_over_all_workers(table: Table) -> None:
    one, other, third = attached(table, most=2)
    one.addConnection()
    other.addConnection()
    assert not third.areTooMany
    third.addConnection()
    assert one.areTooMany and other.areTooMany and third.areTooMany
    other.removeConnection()
    assert not one.areTooMany and not third.areTooMany


def test_a_limit_on_a_network_holds_over_all_workers(table: Table) -> None:
    one, other, third = attached(table, mostPerNetwork=2)
    one.addClient(HERE)
    other.addClient(HERE)
    assert [third.areTooManyOf(network) for network in (HERE, THERE, "")] == [True, False, False]
    one.removeClient(HERE)
    assert not third.areTooManyOf(HERE)


def test_clients_without_an_address_have_no_limit(table: Table) -> None:
    one, other, _ = attached(table, mostPerNetwork=1)
    for _ in range(3):
        one.addClient("")
    assert not one.areTooManyOf("") and not other.areTooManyOf("")
    one.removeClient("")


def test_fullness_is_that_of_all_workers(table: Table) -> None:
    one, other, third = attached(table, most=10)
    one.addConnection()
    other.addConnection()
    assert one.fullness == third.fullness == 0.2
    assert attached(table)[0].fullness == 0.0


def test_what_has_no_limit_is_not_told_to_others(table: Table) -> None:
    one = attached(table)[0]
    one.addConnection()
    one.addClient(HERE)
    assert not one.areTooMany and not one.areTooManyOf(HERE)
    assert (one.connections, one.networks) == (1, {HERE: 1})
    assert os.fstat(table.fd).st_blocks * 512 < 100_000


def test_limits_with_other_names_count_apart(table: Table) -> None:
    one, other = attached(table, 1, 1, "tcp:25")[0], attached(table, 1, 1, "tcp:26")[1]
    for _ in range(2):
        one.addConnection()
        one.addClient(HERE)
    assert one.areTooMany and not other.areTooMany and not other.areTooManyOf(HERE)


def test_the_clients_of_a_dead_worker_do_not_count(table: Table) -> None:
    one, other, _ = attached(table, 1, 1)
    for _ in range(2):
        one.addConnection()
        one.addClient(HERE)
    assert other.areTooMany and other.areTooManyOf(HERE)
    table.clear(0)
    assert not other.areTooMany and not other.areTooManyOf(HERE)
    again = attached(table, 1, 1)[0]
    again.addConnection()
    other.addConnection()
    assert other.areTooMany


def test_without_room_a_worker_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    table = narrowTable(monkeypatch, sharedclients, "LIVE")
    one, other, _ = attached(table, mostPerNetwork=2)
    with capturedLogs() as lines:
        for number in range(20):
            one.addClient(str(number))
            one.addClient(str(number))
            other.addClient(str(number))
    assert len(lines) == 2
    assert all(one.areTooManyOf(str(number)) for number in range(20))
    assert [other.areTooManyOf(str(number)) for number in range(20)] == [True] * 8 + [False] * 12
    # What a client that has left leaves free is there for another one.
    for _ in range(2):
        one.removeClient("3")
        one.removeClient("12")
    one.addClient("new")
    other.removeClient("3")
    other.addClient("new")
    assert one.areTooManyOf("new") and other.areTooManyOf("new")
    assert not one.areTooManyOf("3") and not one.areTooManyOf("12")
    os.close(table.fd)


networks = st.sampled_from([HERE, THERE, "", "192.0.2.8"])
events = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["come", "come", "go", "die"]), networks), max_size=60)


@given(events, st.integers(0, 4), st.integers(0, 3))
def test_workers_together_count_as_one_does(happening: list[tuple[int, str, str]], most: int, each: int) -> None:
    table = Table.create(3)
    shared = attached(table, most, each)
    here: list[Counter[str]] = [Counter() for _ in range(3)]
    model = Clients(most, each)
    for column, event, network in happening:
        if event == "come":
            shared[column].addConnection()
            shared[column].addClient(network)
            model.addConnection()
            model.addClient(network)
            here[column][network] += 1
        elif event == "go" and here[column][network]:
            shared[column].removeClient(network)
            shared[column].removeConnection()
            model.removeClient(network)
            model.removeConnection()
            here[column][network] -= 1
        elif event == "die":
            table.clear(column)
            shared[column] = attached(table, most, each)[column]
            for gone in here[column].elements():
                model.removeClient(gone)
                model.removeConnection()
            here[column].clear()
        for clients in shared:
            assert clients.areTooMany == model.areTooMany
            assert clients.fullness == model.fullness
            for one in (HERE, THERE, "", "192.0.2.8"):
                assert clients.areTooManyOf(one) == model.areTooManyOf(one)
    os.close(table.fd)


def test_counts_of_processes_add_up_and_those_of_a_killed_one_are_cleared(table: Table) -> None:
    program = """
clients = SharedClients(10**6, 10**6, table, "x")
for number in range(3000):
    clients.addConnection()
    clients.addClient(f"10.0.0.{number % 200}")
    if number % 3 == 2:
        clients.removeConnection()
        clients.removeClient(f"10.0.0.{number % 200}")
print("done", flush=True)
sys.stdin.readline()
"""
    with workers(table, program, 3) as running:
        for process in running:
            assert said(process) == "done"
        asking = SharedClients(6000, 0, table, "x")
        assert asking.fullness == 1.0
        running[1].kill()
        running[1].wait()
        table.clear(1)
        assert asking.fullness == pytest.approx(2 / 3)
    cells = table.cells(sharedclients.LIVE, "clients by network x")
    assert sum(sum(cells.find(f"10.0.0.{number}").read(table.words)) for number in range(200)) == 4000
