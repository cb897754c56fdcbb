"""
The pool of workers: as many as are configured, all of one generation, and those of older ones that still drain.

In: what workers tell, and how they end.  Out: which of them serves which socket, and who is started or ended.
Rules kept here: a worker that dies is replaced, at once if it had served; one that gives no sign of life is ended; each
socket is served by some worker as long as one is ready; a column of the table is given away when it is cleared.
This module knows no configuration, no signal of the operator, and not what workers do.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.service.assignment import assigned
from smtphooks.service.channel import Channel, Handler
from smtphooks.service.program import Program
from smtphooks.service.sockets import ListeningSockets
from smtphooks.service.workerlines import Lines
from smtphooks.service.workers import DRAINING, READY, STARTING, Place, Worker, start
from smtphooks.sharedtable import Table

_log = Logger()

# Seconds between two looks for workers that hang.
_LOOK = 1.0
# Until its first beat a worker may take so many times as long: it imports modules, and reads files.
_START_FACTOR = 4
# Seconds to write stacks in, before a worker that hangs is killed.
_LAST_WORDS = 3.0
# Seconds until a worker that has not even started is replaced, the longest of them.
_LONGEST_DELAY = 60.0
# Seconds beyond closeTimeout that a worker has to end: its layers stop last.
_GRACE = 10.0


@attrs.frozen
class Staffing:
    """
    What a generation of workers is like.

    @ivar number: of workers.
    @ivar sockets: those of each listener.
    @ivar timeout: seconds without a sign of life after which a worker is ended, 0 for no limit.
    @ivar closeTimeout: seconds that a worker has to finish, 0 for no limit.
    """

    number: int
    sockets: Sequence[ListeningSockets]
    timeout: float
    closeTimeout: float


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
        self.onCounted: Callable[[Worker, list[dict[str, Any]]], object] = lambda *_: None
        self.staffing: Staffing
        self.table: Table
        self.columns: int = 0
        self._reactor = reactor
        self._program = program
        self._output = output
        self._isStopping = False
        self._isUp = False
        self._failures: dict[int, int] = {}  # starts in a row that have failed, by number
        self._waiting: dict[Worker, Deferred[None]] = {}  # for workers to be ready
        self._gone: list[Deferred[None]] = []
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._lastLook = 0.0

    def useTable(self, table: Table, columns: int) -> None:
        """Have workers count in this table."""
        self.table, self.columns = table, columns

    @property
    def isServing(self) -> bool:
        """Whether a worker serves."""
        return any(worker.state == READY for worker in self._current())

    # --- a generation ---

    def first(self, staffing: Staffing, adopted: Sequence[Worker] = ()) -> Deferred[None]:
        """
        Start the first generation, or take over workers that are running.

        @return: fires when all are ready; never if one of them ends before.
        """
        self.staffing = staffing
        self._isUp = bool(adopted)
        for worker in adopted:
            self.generation = max(self.generation, worker.generation)
            self._add(worker)
        self._lastLook = self._reactor.seconds()
        self._looking.start(_LOOK, now=False)
        if adopted:
            self._assign()
        missing = {*range(1, staffing.number + 1)} - {worker.number for worker in adopted} - self.heldBack
        started = [self._start(number, self.generation, staffing) for number in sorted(missing)]
        return self._whenReady(started).addCallback(self._up)

    def _up(self, _: object) -> None:
        self._isUp = True

    def hasRoomFor(self, number: int) -> bool:
        """Whether the table has columns for so many workers more."""
        return self.columns - len(self.workers) >= number

    def whenOneIsGone(self) -> Deferred[None]:
        """Fires when a worker has ended."""
        gone: Deferred[None] = Deferred()
        self._gone.append(gone)
        return gone

    def start(self, staffing: Staffing) -> tuple[list[Worker], Deferred[None]]:
        """
        Start a new generation beside that which serves.

        @return: the workers; and what fires when all are ready, or fails with the L{Worker} that has ended before.
        """
        started = [
            self._start(number, self.generation + 1, staffing)
            for number in range(1, staffing.number + 1)
            if number not in self.heldBack
        ]
        return started, self._whenReady(started)

    def switch(self, staffing: Staffing) -> None:
        """Have the new generation serve, and let the old ones drain."""
        self.generation += 1
        closeTimeout, self.staffing = self.staffing.closeTimeout, staffing
        self._failures.clear()
        self._assign()
        for worker in self.workers:
            if worker.generation < self.generation and worker.state != DRAINING:
                self._drain(worker, closeTimeout)

    def giveUp(self, workers: Iterable[Worker]) -> None:
        """End workers of a generation that does not come to serve."""
        for worker in workers:
            worker.signal(signal.SIGKILL)

    # --- the operator ---

    def holdBack(self, number: int) -> None:
        """Take a worker out of service; it drains, and none takes its place."""
        self.heldBack.add(number)
        for worker in self._current():
            if worker.number == number:
                self._drain(worker, self.staffing.closeTimeout)
        self._assign()

    def goOn(self, number: int | None) -> None:
        """Have a worker serve again, or all."""
        held = {*self.heldBack} if number is None else {number}
        self.heldBack -= held
        if number is None:
            self.refuse(False)
        for each in sorted(held):
            if each <= self.staffing.number and not any(
                worker.number == each and worker.state != DRAINING for worker in self._current()
            ):
                self._start(each, self.generation, self.staffing)

    def refuse(self, isRefusing: bool) -> None:
        """Have workers turn new clients away, or let them in again."""
        self.isRefusing = isRefusing
        for worker in self.workers:
            if worker.state != DRAINING:
                worker.channel.tell("refuse", isRefusing=isRefusing)

    def stop(self) -> Deferred[Any]:
        """End all workers as a single process ends on SIGTERM; fires when they are gone."""
        self._isStopping = True
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
            self._killAfter(worker, self.staffing.closeTimeout)
        gone = DeferredList([worker.whenEnded() for worker in self.workers])
        return gone.addBoth(lambda _: self._looking.stop() if self._looking.running else None)

    # --- one worker ---

    def _start(self, number: int, generation: int, staffing: Staffing) -> Worker:
        taken = {worker.column for worker in self.workers}
        column = next(column for column in range(self.columns) if column not in taken)
        self.table.clear(column)
        place = Place(number, column, ())
        worker = start(self._reactor, self._program, place, generation, staffing.sockets, self.table.fd)
        self._add(worker)
        return worker

    def _add(self, worker: Worker) -> None:
        handlers: dict[str, Handler] = {
            "ready": lambda: self._ready(worker),
            "beat": lambda **numbers: self._beat(worker, numbers),
            "counted": lambda snapshot: self._counted(worker, snapshot),
        }
        self.workers.append(worker)
        worker.whenEnded().addCallback(lambda _: self._ended(worker))
        worker.connect(self._reactor, Channel(handlers), *self._output(worker))

    def _ready(self, worker: Worker) -> None:
        if worker.state != STARTING:
            return
        worker.state = READY
        self._failures.pop(worker.number, None)
        if self.isRefusing:
            worker.channel.tell("refuse", isRefusing=True)
        waiting = self._waiting.pop(worker, None)
        if waiting is not None:
            waiting.callback(None)
        if worker.generation == self.generation:
            self._assign()

    def _beat(self, worker: Worker, numbers: dict[str, Any]) -> None:
        worker.lastBeat = self._reactor.seconds()
        worker.hasBeaten = True
        worker.rates.note(worker.lastBeat, numbers)

    def _counted(self, worker: Worker, snapshot: list[dict[str, Any]]) -> None:
        self.onCounted(worker, snapshot)

    def _ended(self, worker: Worker) -> None:
        self.workers.remove(worker)
        # What it had counted of its connections is not there any more; the next worker may get the column.
        self.table.clear(worker.column)
        self.onGone(worker)
        gone, self._gone = self._gone, []
        for each in gone:
            each.callback(None)
        waiting = self._waiting.pop(worker, None)
        if waiting is not None:
            _log.error("worker {number} {how} before it was ready", number=worker.number, how=worker.howItEnded)
            waiting.errback(NeverReady(worker))
            return
        if self._isStopping or worker.lastState == DRAINING or worker.generation != self.generation:
            return
        self._assign()
        self._replace(worker)

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
        failures = self._failures[number] = self._failures.get(number, 0) + 1
        delay = min(_LONGEST_DELAY, 2.0 ** (failures - 1))
        _log.error(
            "worker {number} (pid {pid}) {how} before it was ready, it is started again in {delay:g} seconds",
            number=number,
            pid=worker.pid,
            how=worker.howItEnded,
            delay=delay,
        )
        self._reactor.callLater(delay, self._startAgain, number)

    def _startAgain(self, number: int) -> None:
        isThere = any(worker.number == number and worker.state != DRAINING for worker in self._current())
        if self._isStopping or isThere or number in self.heldBack or number > self.staffing.number:
            return
        try:
            self._start(number, self.generation, self.staffing)
        except OSError as error:
            _log.error("worker {number} cannot be started: {error}", number=number, error=str(error))
            self._reactor.callLater(_LONGEST_DELAY, self._startAgain, number)

    def _drain(self, worker: Worker, closeTimeout: float) -> None:
        if worker.state == STARTING:
            worker.signal(signal.SIGTERM)
        worker.state = DRAINING
        worker.channel.tell("drain")
        self._killAfter(worker, closeTimeout)

    def _killAfter(self, worker: Worker, closeTimeout: float) -> None:
        """Kill a worker that has not ended when it should have."""
        if not closeTimeout:
            return
        call = self._reactor.callLater(closeTimeout + _GRACE, self._kill, worker)
        worker.whenEnded().addCallback(lambda _: call.cancel() if call.active() else None)

    def _kill(self, worker: Worker) -> None:
        _log.error("worker {number} (pid {pid}) does not end, it is killed", number=worker.number, pid=worker.pid)
        worker.signal(signal.SIGKILL)

    def _look(self) -> None:
        """End workers that give no sign of life."""
        now = self._reactor.seconds()
        # The supervisor itself may have stood still, or the clock may have been set: no worker is to blame for that.
        late = now - self._lastLook - _LOOK
        self._lastLook = now
        limit = self.staffing.timeout
        for worker in self.workers:
            if not -_LOOK < late < _LOOK:
                worker.lastBeat += late
            patience = limit if worker.hasBeaten else limit * _START_FACTOR
            silence = now - worker.lastBeat
            if limit and silence > patience and not worker.isHung and worker.status is None:
                worker.isHung = True
                _log.error(
                    "worker {number} (pid {pid}) hangs: no sign of life for {silence:.0f} seconds, so it is ended;"
                    " its stacks follow",
                    number=worker.number,
                    pid=worker.pid,
                    silence=silence,
                )
                worker.signal(signal.SIGABRT)
                self._reactor.callLater(_LAST_WORDS, worker.signal, signal.SIGKILL)

    # --- sockets ---

    def _current(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.generation == self.generation]

    def _assign(self) -> None:
        """Tell the workers which sockets to serve."""
        if self._isStopping:
            return
        ready = {worker.number: worker for worker in self._current() if worker.state == READY}
        sockets = max((len(each.descriptors) for each in self.staffing.sockets if not each.isShared), default=1)
        for number, serving in assigned(ready, self.staffing.number, sockets).items():
            ready[number].serve(serving)

    def _whenReady(self, workers: Sequence[Worker]) -> Deferred[None]:
        """Fires when all are ready, or fails with L{NeverReady}."""
        waiting: list[Deferred[Any]] = []
        for worker in workers:
            self._waiting[worker] = Deferred()
            waiting.append(self._waiting[worker])
        ready: Deferred[Any] = DeferredList(waiting, fireOnOneErrback=True, consumeErrors=True)
        return ready.addCallbacks(lambda _: None, _firstOf)


def _firstOf(failure: Failure) -> Failure:
    """The failure within that of a list."""
    error: Any = failure.value
    inner: Failure = error.subFailure
    return inner


class NeverReady(Exception):
    """
    A worker has ended before it was ready.

    @ivar worker: which.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(f"worker {worker.number} {worker.howItEnded} before it was ready, see the log")
        self.worker = worker
