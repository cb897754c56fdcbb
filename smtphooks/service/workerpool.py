"""
The pool of workers: as many as are configured, all of one generation, and those of older ones that still drain.

In: what workers tell, and how they end.  Out: which of them serves which socket, and who is started or ended.
Rules kept here: a worker that dies is replaced, at once if it had served; one that gives no sign of life is ended; each
socket is served by some worker as long as one is ready; a column of the table is given away when it is cleared.
This module knows no configuration, no signal of the operator, and not what workers do.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.service.assignment import assigned
from smtphooks.service.backoff import Backoff
from smtphooks.service.channel import Channel, Handler
from smtphooks.service.hangs import HangWatch
from smtphooks.service.program import Program
from smtphooks.service.staffing import Staffing
from smtphooks.service.workerlines import Lines
from smtphooks.service.workers import DRAINING, READY, STARTING, NeverReady, Place, Worker, start
from smtphooks.sharedtable import Table

_log = Logger()

# Seconds beyond closeTimeout that a worker has to end: its layers stop last.
_GRACE = 10.0


class WorkerPool:
    """
    @ivar workers: all processes that there are, of all generations.
    @ivar generation: of the workers that serve.
    @ivar heldBack: numbers of workers that the operator has taken out of service.
    @ivar isRefusing: workers turn new clients away, as the operator wants this machine to drain.
    @ivar restarts: how many workers have died, and how many were ended as they hung.
    @ivar onGone: called when a worker is gone.
    @ivar onCounted: called with what a worker that ends has counted.
    """

    def __init__(
        self,
        reactor: Any,
        program: Program,
        output: Callable[[Worker], tuple[Lines, Lines]],
    ) -> None:
        """
        @param output: for a worker what takes its standard output, and its standard error.
        """
        self.workers: list[Worker] = []
        self.generation: int = 0
        self.heldBack: set[int] = set()
        self.isRefusing: bool = False
        self.restarts: dict[str, int] = {"died": 0, "hung": 0}
        self.onGone: Callable[[Worker], object] = lambda _: None
        self.onCounted: Callable[[Worker, list[dict[str, Any]]], None] = lambda *_: None
        self.staffing: Staffing
        self.table: Table
        self.columns: int = 0
        self._lastGeneration = 0
        self._reactor = reactor
        self._program = program
        self._output = output
        self._isStopping = False
        self._backoff = Backoff(reactor, self._startAgain)
        self._waiting: dict[Worker, Deferred[None]] = {}  # for workers to be ready
        self._gone: list[Deferred[None]] = []
        self._hangs = HangWatch(reactor, self.workers)

    def useTable(self, table: Table, columns: int) -> None:
        """Have workers count in this table."""
        self.table, self.columns = table, columns

    def takeBackTable(self, table: Table, columns: int) -> None:
        """Have workers count in the table that they counted in before L{useTable}, if that is another one."""
        if table is not self.table:
            os.close(self.table.fd)  # workers that are still there, and clear a column, have the memory
            self.useTable(table, columns)

    @property
    def isServing(self) -> bool:
        """Whether a worker serves."""
        return bool(self.serving)

    @property
    def serving(self) -> set[int]:
        """The numbers of the workers that serve."""
        return {worker.number for worker in self._current() if worker.state == READY}

    # --- a generation ---

    def first(self, staffing: Staffing) -> Deferred[None]:
        """
        Start the first generation.

        @return: fires when all are ready, or fails with the L{NeverReady} of one that ends before.
        @raise OSError: if there is no process to be had.
        """
        self._begin(staffing)
        self.generation = self._lastGeneration + 1
        return self.start(staffing)[1]

    def takeOver(self, staffing: Staffing, workers: Sequence[Worker]) -> None:
        """Go on with workers that another program had started."""
        self.generation = self._lastGeneration = max([worker.generation for worker in workers], default=0)
        self._begin(staffing)
        # All of them before one that has ended is replaced, as each has its column, and may have to serve its socket.
        self.workers += workers
        for worker in sorted(workers, key=lambda each: bool(each.died.called)):
            self._connect(worker)
            if worker.state == DRAINING:
                self._killAfter(worker, staffing.closeTimeout)
        self._assign()
        self._startMissing()

    def _begin(self, staffing: Staffing) -> None:
        self.staffing = staffing
        self._hangs.start(staffing.timeout)

    def hasRoomFor(self, number: int) -> bool:
        """Whether the table has columns for so many workers more."""
        return self.columns - len(self._columnsTaken()) >= number

    def _columnsTaken(self) -> set[int]:
        return {worker.column for worker in self.workers if worker.table is self.table}

    def whenOneIsGone(self) -> Deferred[None]:
        """Fires when a worker has ended."""
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    def start(self, staffing: Staffing) -> tuple[list[Worker], Deferred[None]]:
        """
        Start a new generation beside that which serves.

        @return: the workers; and what fires when all are ready, or fails with the L{NeverReady} of one that has ended.
        @raise OSError: if there is no process to be had.
        """
        self._lastGeneration += 1
        started: list[Worker] = []
        try:
            for number in sorted({*range(1, staffing.number + 1)} - self.heldBack):
                started.append(self._start(number, self._lastGeneration, staffing))
        except OSError:
            self.giveUp(started)
            raise
        return started, self._whenReady(started)

    def switch(self, staffing: Staffing) -> None:
        """Have the new generation serve, and let the old ones drain."""
        self.generation = self._lastGeneration
        closeTimeout, self.staffing = self.staffing.closeTimeout, staffing
        self._hangs.timeout = staffing.timeout
        self._backoff.forget()
        for worker in self._current():
            if worker.number in self.heldBack:  # since it was started
                self._drain(worker, staffing.closeTimeout)
        self._assign()
        for worker in self.workers:
            if worker.generation < self.generation and worker.state != DRAINING:
                self._drain(worker, closeTimeout)
        # One that was ready may have died while others started.
        self._startMissing()

    def giveUp(self, workers: Iterable[Worker]) -> None:
        """End workers of a generation that does not come to serve."""
        for worker in workers:
            self._waiting.pop(worker, None)
            worker.signal(signal.SIGKILL)

    # --- the operator ---

    def holdBack(self, number: int) -> None:
        """Take a worker out of service; it drains, and none takes its place."""
        self.heldBack.add(number)
        for worker in self._current():
            if worker.number == number and worker.state != DRAINING:
                self._drain(worker, self.staffing.closeTimeout)
        self._assign()

    def goOn(self, number: int | None) -> None:
        """Have a worker serve again, or all."""
        held = {*self.heldBack} if number is None else {number}
        self.heldBack -= held
        if number is None:
            self.refuse(False)
        for each in sorted(held):
            self._startAgain(each)

    def refuse(self, isRefusing: bool) -> None:
        """Have workers turn new clients away, or let them in again."""
        self.isRefusing = isRefusing
        for worker in self.workers:
            if worker.state != DRAINING:
                worker.channel.tell("refuse", isRefusing=isRefusing)

    def stop(self) -> Deferred[Any]:
        """End all workers as a single process ends on SIGTERM; fires when they are gone."""
        self._isStopping = True
        self._backoff.stop()
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
            self._killAfter(worker, self.staffing.closeTimeout)
        gone = DeferredList([worker.whenEnded() for worker in self.workers])
        return gone.addBoth(self._stopped)

    def _stopped(self, _: object) -> None:
        self._hangs.stop()
        if self.columns:
            self.columns = 0
            os.close(self.table.fd)
            self.table.close()

    # --- one worker ---

    def _start(self, number: int, generation: int, staffing: Staffing) -> Worker:
        taken = self._columnsTaken()
        column = next((column for column in range(self.columns) if column not in taken), None)
        if column is None:
            raise OSError(errno.EAGAIN, "workers that drain have all columns of the table")
        self.table.clear(column)
        place = Place(number, column, ())
        worker = start(self._reactor, self._program, place, generation, staffing.sockets, self.table)
        self.workers.append(worker)
        self._connect(worker)
        return worker

    def _connect(self, worker: Worker) -> None:
        handlers: dict[str, Handler] = {
            "ready": lambda: self._ready(worker),
            "beat": lambda **numbers: self._beat(worker, numbers),
            "counted": lambda snapshot: self.onCounted(worker, snapshot),
            "closing": lambda: self._closing(worker),
        }
        worker.whenEnded().addCallback(lambda _: self._ended(worker))
        worker.connect(self._reactor, Channel(handlers), *self._output(worker))

    def _ready(self, worker: Worker) -> None:
        if worker.state != STARTING:
            return
        worker.state = READY
        self._backoff.succeeded(worker.number)
        if self.isRefusing:
            worker.channel.tell("refuse", isRefusing=True)
        waiting = self._waiting.pop(worker, None)
        if waiting is not None:
            waiting.callback(None)
        if worker.generation == self.generation:
            self._assign()

    def _closing(self, worker: Worker) -> None:
        """It ends by itself, as somebody has told it to, and does not accept clients while it does."""
        if worker.state == READY and worker.generation == self.generation and not self._isStopping:
            number, worker.state = worker.number, DRAINING
            _log.warn("worker {number} (pid {pid}) ends, another one takes its place", number=number, pid=worker.pid)
            self._killAfter(worker, self.staffing.closeTimeout)
            self._assign()
            self._startAgain(number)

    def _beat(self, worker: Worker, numbers: dict[str, Any]) -> None:
        worker.lastBeat = self._reactor.seconds()
        worker.hasBeaten = True
        worker.rates.note(worker.lastBeat, numbers)

    def _ended(self, worker: Worker) -> None:
        self.workers.remove(worker)
        # What it had counted of its connections is not there any more; the next worker may get the column.
        if worker.table is not None:
            worker.table.clear(worker.column)
        self.onGone(worker)
        waiting = self._waiting.pop(worker, None)
        if waiting is not None:
            if not self._isStopping:
                _log.error("worker {number} {how} before it was ready", number=worker.number, how=worker.howItEnded)
            waiting.errback(NeverReady(worker))
        elif not self._isStopping and worker.lastState != DRAINING and worker.generation == self.generation:
            self._assign()
            self._replace(worker)
        # After that, as a reload which waits for columns of the table would take that of the one that died.
        gone, self._gone = self._gone, []
        for each in gone:
            each.callback(None)

    def _replace(self, worker: Worker) -> None:
        self.restarts["hung" if worker.isHung else "died"] += 1
        number = worker.number
        if worker.lastState == READY:
            _log.warn(
                "worker {number} (pid {pid}) {how}, another one takes its place",
                number=number,
                pid=worker.pid,
                how=worker.howItEnded,
            )
            self._startAgain(number)
            return
        _log.error(
            "worker {number} (pid {pid}) {how} before it was ready, it is started again in {delay:g} seconds",
            number=number,
            pid=worker.pid,
            how=worker.howItEnded,
            delay=self._backoff.failed(number),
        )

    def _startMissing(self) -> None:
        for number in range(1, self.staffing.number + 1):
            self._startAgain(number)

    def _startAgain(self, number: int) -> None:
        """Start a worker, unless it is there already or is not wanted."""
        self._backoff.begin(number)
        isThere = any(worker.number == number and worker.state != DRAINING for worker in self._current())
        if self._isStopping or isThere or number in self.heldBack or number > self.staffing.number:
            return
        try:
            self._start(number, self.generation, self.staffing)
        except OSError as error:
            _log.error(
                "worker {number} cannot be started: {error}; it is tried again in {delay:g} seconds",
                number=number,
                error=str(error),
                delay=self._backoff.failed(number),
            )

    def _drain(self, worker: Worker, closeTimeout: float) -> None:
        if worker.state == STARTING:
            worker.signal(signal.SIGTERM)
        worker.state = DRAINING
        worker.channel.tell("drain")
        self._killAfter(worker, closeTimeout)
        waiting = self._waiting.pop(worker, None)
        if waiting is not None:  # nobody wants it to be ready any more
            waiting.callback(None)

    def _killAfter(self, worker: Worker, closeTimeout: float) -> None:
        """Kill a worker that has not ended when it should have."""
        if not closeTimeout:
            return
        call = self._reactor.callLater(closeTimeout + _GRACE, self._kill, worker)
        worker.whenEnded().addCallback(lambda _: call.cancel() if call.active() else None)

    def _kill(self, worker: Worker) -> None:
        _log.error("worker {number} (pid {pid}) does not end, it is killed", number=worker.number, pid=worker.pid)
        worker.signal(signal.SIGKILL)

    # --- sockets ---

    def _current(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.generation == self.generation]

    def _assign(self) -> None:
        """Tell the workers which sockets to serve."""
        if self._isStopping:
            return
        ready = {worker.number: worker for worker in self._current() if worker.state == READY}
        sockets = max((each.listening for each in self.staffing.sockets if not each.isShared), default=1)
        for number, serving in assigned(ready, self.staffing.number, sockets).items():
            ready[number].serve(serving)

    def _whenReady(self, workers: Sequence[Worker]) -> Deferred[None]:
        """Fires when all are ready, or fails with L{NeverReady}."""
        self._waiting.update((worker, Deferred()) for worker in workers)
        waiting: list[Deferred[Any]] = [self._waiting[worker] for worker in workers]
        ready: Deferred[Any] = DeferredList(waiting, fireOnOneErrback=True, consumeErrors=True)
        return ready.addCallbacks(lambda _: None, _firstOf)


def _firstOf(failure: Failure) -> Failure:
    """The failure within that of a list."""
    error: Any = failure.value
    inner: Failure = error.subFailure
    return inner
