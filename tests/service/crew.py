"""Workers in memory, in the place of processes: what they are told is seen, and what they do is said by the test."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from smtphooks.service import workerpool
from smtphooks.service.overview import RATED
from smtphooks.service.program import Program
from smtphooks.service.rates import Rates
from smtphooks.service.sockets import ListeningSockets
from smtphooks.service.staffing import Staffing
from smtphooks.service.workerlines import Lines
from smtphooks.service.workerpool import WorkerPool
from smtphooks.service.workers import Place, Streams, Worker

NO_STREAMS = Streams(-1, -1, -1)


class StandIn(Worker):
    """A worker without a process."""

    def __init__(self, number: int, generation: int, column: int, since: float, table: Any, **more: Any) -> None:
        super().__init__(number, generation, column, 1000 + column, since, NO_STREAMS, Deferred(), table, **more)
        self.signals: list[int] = []
        self.sockets: list[int] = []

    def connect(self, reactor: Any, channel: Any, output: Lines, errors: Lines) -> None:
        self.channel = channel
        self.lastBeat = reactor.seconds()
        self.rates = Rates(self.since, RATED)
        channel.makeConnection(StringTransport())
        self.died.addCallback(self._died)

    def signal(self, number: int) -> None:
        if self.status is None:
            self.signals.append(number)

    def say(self, kind: str, **fields: object) -> None:
        """What it tells its supervisor."""
        self.channel.dataReceived(json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def end(self, status: int = 0) -> None:
        """It has ended, with a status as C{waitpid} gives it."""
        self.died.callback(status)

    def told(self) -> list[Any]:
        """What it has been told since the last look: the kind, and the one field if there is one."""
        transport: Any = self.channel.transport
        lines = [json.loads(line) for line in transport.value().splitlines()]
        transport.clear()
        return [(line.pop("kind"), *line.values()) for line in lines]


class RecordingTable:
    """A table that writes down which columns were cleared."""

    def __init__(self) -> None:
        self.fd = os.open(os.devnull, os.O_RDONLY)
        self.cleared: list[int] = []
        self.isClosed = False

    def clear(self, column: int) -> None:
        assert not self.isClosed
        self.cleared.append(column)

    def close(self) -> None:
        self.isClosed = True


@attrs.define
class Crew:
    """
    A pool with stand-ins for workers.

    @ivar started: all that were ever started, in order.
    @ivar failing: errors that the next starts end with.
    """

    clock: Clock
    pool: WorkerPool
    table: Any
    started: list[StandIn] = attrs.field(factory=list)
    failing: list[OSError] = attrs.field(factory=list)

    def start(
        self, reactor: Any, program: Program, place: Place, generation: int, sockets: object, table: Any
    ) -> StandIn:
        if self.failing:
            raise self.failing.pop(0)
        columns = {worker.column for worker in self.pool.workers if worker.table is table}
        assert place.column not in columns, "a column is given twice"
        assert self.table.cleared and self.table.cleared[-1] == place.column, "a column is not clear"
        worker = StandIn(place.number, generation, place.column, reactor.seconds(), table)
        self.started.append(worker)
        return worker

    @property
    def last(self) -> StandIn:
        return self.started[-1]

    def of(self, number: int) -> StandIn:
        """The one that was started last with this number."""
        return [worker for worker in self.started if worker.number == number][-1]

    def staffing(self, number: int = 2, sockets: int | None = None, **more: Any) -> Staffing:
        count = number if sockets is None else sockets
        tcp = ListeningSockets(["tcp"], 2, False, [*range(count)], listening=count)
        return Staffing(**{"number": number, "sockets": [tcp], "timeout": 30.0, "closeTimeout": 30.0, **more})

    def begin(self, number: int = 2, **more: Any) -> list[StandIn]:
        """The first generation, which is ready."""
        ready: list[Any] = []
        self.pool.first(self.staffing(number, **more)).addCallback(ready.append)
        for worker in self.started:
            worker.say("ready")
        assert ready == [None]
        return [*self.started]

    def beat(self, seconds: int, *workers: StandIn) -> None:
        """Let so many seconds pass, in each of which these workers beat."""
        for _ in range(seconds):
            for worker in workers:
                worker.say("beat", accepted=0, messages=0, processor=0.0)
            self.clock.advance(1)


def makeCrew(monkeypatch: pytest.MonkeyPatch, columns: int = 8) -> Iterator[Crew]:
    clock = Clock()
    table: Any = RecordingTable()
    pool = WorkerPool(clock, Program([], "."), lambda _: (Lines(lambda _: None), Lines(lambda _: None)))
    pool.useTable(table, columns)
    crew = Crew(clock, pool, table)
    monkeypatch.setattr(workerpool, "start", crew.start)
    yield crew
    if not table.isClosed:
        os.close(table.fd)
