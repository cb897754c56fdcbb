"""
The shared table: what an operation on the counts of all workers costs, C{python -m benchmarks.table}.

Out: nanoseconds for each operation, with so many columns that all have the key, while nothing else writes and while
other processes write the same key without pause.  That is the worst case: what is counted is found in every column.
This module knows no server; what a limit costs beside a message is too little to be seen in the other benchmarks.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Event
from time import perf_counter_ns

from smtphooks.admission.sharedclients import SharedClients
from smtphooks.layers.counts import Limit
from smtphooks.layers.machinecounts import MachineCounts
from smtphooks.sasl.sharedfailures import SharedAuthFailures
from smtphooks.sharedtable import Table

_COLUMNS = (1, 4, 8, 16)
_ROUNDS, _CALLS = 30, 500
_WRITERS = max((os.cpu_count() or 1) - 1, 1)

_MANY = 10**6
_LIMIT = (Limit(_MANY, 1, _MANY),)
_TWO = (*_LIMIT, Limit(_MANY, 60, _MANY))
_CLIENT = "192.0.2.1"
_KEY = f"messages client {_CLIENT}"


class Counts:
    """What a worker counts."""

    def __init__(self, fd: int, column: int) -> None:
        table = Table.attach(fd, column)
        self.clients = SharedClients(_MANY, _MANY, table, "all")
        self.failures = SharedAuthFailures(_MANY, table, "all")
        self.rates = MachineCounts(table, "rates")
        self.clients.addConnection()
        self.clients.addClient(_CLIENT)
        self.failures.add(_CLIENT)
        self.rates.increment(_KEY, 1, _LIMIT)
        self.rates.increment(_KEY, 1, _TWO)

    def operations(self) -> dict[str, Callable[[int], object]]:
        """Each takes a number that it has not been given before."""
        clients, failures, rates = self.clients, self.failures, self.rates
        return {
            "connections: one more": lambda _: clients.addConnection(),
            "connections: too many?": lambda _: clients.areTooMany,
            "clients of a network: one more": lambda _: clients.addClient(_CLIENT),
            "clients of a network: too many?": lambda _: clients.areTooManyOf(_CLIENT),
            "clients of a new network: too many?": lambda number: clients.areTooManyOf(f"new {number}"),
            "failed AUTH: is a network barred?": lambda _: failures.isBarred(_CLIENT),
            "failed AUTH: is a new network barred?": lambda number: failures.isBarred(f"new {number}"),
            "failed AUTH: one more": lambda _: failures.add(_CLIENT),
            "rate: check": lambda _: rates.check(_KEY, 1, _LIMIT),
            "rate: increment": lambda _: rates.increment(_KEY, 1, _LIMIT),
            "rate: increment under two limits": lambda _: rates.increment(_KEY, 1, _TWO),
            "rate: increment for a new client": lambda number: rates.increment(f"new {number}", 1, _LIMIT),
        }


def main() -> None:
    print(f"Python {sys.version.split()[0]}, nanoseconds an operation, the best of {_ROUNDS} rounds")
    print(f"{'columns':38}", *(f"{columns:7}" for columns in _COLUMNS))
    for writers in (0, _WRITERS):
        print(f"while {writers} other processes write" if writers else "alone")
        rows = [measured(columns, min(writers, columns - 1)) for columns in _COLUMNS]
        for name in rows[0]:
            print(f"  {name:36}", *(f"{row[name]:7}" for row in rows))


def measured(columns: int, writers: int) -> dict[str, int]:
    """
    What each operation costs.

    @param writers: how many of the other columns have processes that write.
    """
    table = Table.create(columns)
    others = [Counts(table.fd, column) for column in range(1 + writers, columns)]
    context = multiprocessing.get_context("fork")
    end = context.Event()
    processes = [context.Process(target=write, args=(table.fd, 1 + number, end)) for number in range(writers)]
    for process in processes:
        process.start()
    counts = Counts(table.fd, 0)
    costs = {name: cost(operation) for name, operation in counts.operations().items()}
    end.set()
    for process in processes:
        process.join()
    os.close(table.fd)
    assert len(others) + writers + 1 == columns
    return costs


def write(fd: int, column: int, end: Event) -> None:
    counts = Counts(fd, column)
    while not end.is_set():
        for _ in range(100):
            counts.clients.addConnection()
            counts.clients.addClient(_CLIENT)
            counts.failures.add(_CLIENT)
            counts.rates.increment(_KEY, 1, _LIMIT)


def cost(operation: Callable[[int], object]) -> int:
    """Nanoseconds of an operation, without those of calling anything."""
    rounds = range(_ROUNDS)
    return min(spent(operation, index) for index in rounds) - min(spent(lambda _: None, index) for index in rounds)


def spent(operation: Callable[[int], object], index: int) -> int:
    numbers = range(index * _CALLS, (index + 1) * _CALLS)
    begin = perf_counter_ns()
    for number in numbers:
        operation(number)
    return (perf_counter_ns() - begin) // _CALLS


if __name__ == "__main__":
    main()
