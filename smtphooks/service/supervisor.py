"""
The supervisor: a service that opens all sockets, and has workers serve them.

In: settings, and signals of the operator.  Out: a pool of workers, one log, one set of metrics, and reports to systemd.
SIGHUP and SIGUSR2 reload: a new generation of workers serves before the old one drains; SIGUSR2 replaces the program
of the supervisor before.  SIGTERM ends all of it.
Rule kept here: a configuration that is wrong, or whose workers do not come to serve, changes nothing.
This module knows no hooks, no connections, and not what workers do.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred, succeed
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from smtphooks.service.control import Control, controlPath
from smtphooks.service.ending import (
    StartError,
    cannotListen,
    endWithFailure,
    logCannotListen,
    logListening,
    stopReactor,
)
from smtphooks.service.gathering import Gathering
from smtphooks.service.handover import HandOver, replaceProgram
from smtphooks.service.hangs import startTimeout
from smtphooks.service.logfile import logPlace
from smtphooks.service.opening import CannotOpen, Opened, openAll
from smtphooks.service.operator import Operator
from smtphooks.service.ports import InheritedEndpoint
from smtphooks.service.program import Program
from smtphooks.service.service import addressText
from smtphooks.service.settings import ConfigError, Settings, cause
from smtphooks.service.signals import takeSignals
from smtphooks.service.staffing import staffingOf
from smtphooks.service.systemd import notify, reloading
from smtphooks.service.workerlines import Lines, errorLines
from smtphooks.service.workerpool import WorkerPool
from smtphooks.service.workers import DRAINING, NOWHERE, READY, STARTING, NeverReady, Worker, cannotStart
from smtphooks.sharedtable import Table

_log = Logger()

# Seconds after which another reload does not wait any more for workers to become ready.
_PATIENCE = 10.0

# Columns of the table for each worker: beside those that serve, three generations may drain.
_COLUMNS = 4


class Supervisor(Service):
    """
    @ivar pool: the workers.
    @ivar isReloading: a reload is going on.
    """

    def __init__(
        self,
        readSettings: Callable[[], Settings],
        program: Program,
        reactor: Any,
        twistd: Mapping[str, Any],
        observer: ILogObserver | None = None,
        handedOver: HandOver | None = None,
    ) -> None:
        """
        @param readSettings: reads the configuration; it may raise L{ConfigError}.
        @param twistd: the flags of twistd itself.
        @param observer: writes the log; None for twistd's own.
        @param handedOver: what the program that was here before has given.
        """
        self.isReloading: bool = False
        self._hasStarted = False
        self._wanted: Callable[[Settings], Any] | None = None
        self._starting: list[Worker] = []
        self._reloads = {"done": 0, "refused": 0}
        self._readSettings = readSettings
        self._settings = readSettings()
        self._program = program
        self._reactor = reactor
        self._twistd = twistd
        self._observer = observer
        self._writeLines = logPlace(observer)
        self._handedOver = handedOver
        self._opened = Opened() if handedOver is None else handedOver.opened
        self.pool: WorkerPool = WorkerPool(reactor, program, self._outputsOf)
        self._checking: Deferred[None] = succeed(None)
        self._gathering: Gathering | None = None
        self._control: Control | None = None
        self._controlPath: str | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with its application, from which it takes the observer when it starts logging."""
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)
        Service.setServiceParent(self, parent)

    # --- the start ---

    def privilegedStartService(self) -> None:
        """
        Open all sockets, with the privileges that twistd was started with.

        @raise StartError: if one cannot be opened.
        """
        Service.privilegedStartService(self)
        self._reactor.callWhenRunning(self._takeSignals)
        if self._handedOver is None:
            try:
                self._opened = openAll(self._settings, Opened())
            except CannotOpen as error:
                raise StartError(logCannotListen(error.endpoint, error.__cause__)) from error

    def startService(self) -> None:
        """Start the workers; twistd has dropped its privileges."""
        Service.startService(self)
        self._reactor.callWhenRunning(lambda: maybeDeferred(self._startWorkers).addErrback(self._cannotStart))

    def _startWorkers(self) -> None:
        if not self.running:
            return
        staffing = staffingOf(self._settings, self._opened)
        handedOver, self._handedOver = self._handedOver, None
        self._serveMetrics(self._settings, [] if handedOver is None else handedOver.counted)
        self._listenForOperator(self._settings)
        if handedOver is None:
            self._makeTable(staffing.number)
            self.pool.first(staffing).addCallbacks(self._started, self._cannotStart)
            return
        self._adoptTable(handedOver)
        self.pool.heldBack, self.pool.isRefusing = {*handedOver.heldBack}, handedOver.isRefusing
        self.pool.restarts |= handedOver.numbers["restarts"]
        self._reloads |= handedOver.numbers["reloads"]
        self.pool.takeOver(staffing, handedOver.workers)
        self._hasStarted = True
        _log.info("the program has been replaced, {number} workers go on", number=len(handedOver.workers))
        self.reload()

    def _makeTable(self, workers: int) -> None:
        columns = _COLUMNS * workers
        self.pool.useTable(Table.create(columns), columns)

    def _adoptTable(self, handedOver: HandOver) -> None:
        descriptor, columns = handedOver.table
        try:
            self.pool.useTable(Table.attach(descriptor, None), columns)
            known = [worker for worker in handedOver.workers if worker.column != NOWHERE]
        except ValueError:  # that of another version, whose workers count in it on
            self._makeTable(max(1, len(handedOver.workers)))
            known = []
        for worker in handedOver.workers:
            worker.table, worker.column = (self.pool.table, worker.column) if worker in known else (None, NOWHERE)

    def _started(self, _: object) -> None:
        self._hasStarted = True
        for listener, sockets in zip(self._settings.listeners, self._opened.listeners, strict=True):
            logListening(listener.endpoint, addressText(sockets.getHost()))
        _log.info("{number} workers serve", number=self._settings.workers.number)
        notify("READY=1")
        self._reloadAgain()

    def _cannotStart(self, failure: Failure) -> None:
        if self.running:
            _log.critical("{sentence}", sentence=cannotStart(failure.value))
            endWithFailure(self._reactor)

    def _takeSignals(self) -> None:
        handlers = {signal.SIGTERM: self._terminate, signal.SIGHUP: self.reload, signal.SIGUSR2: self.upgrade}
        takeSignals(self._reactor, handlers)

    # --- the end ---

    def _terminate(self) -> None:
        _log.info("received SIGTERM, closing")
        stopReactor(self._reactor)

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Close the sockets, and end all workers as they would end by themselves on SIGTERM."""
        Service.stopService(self)
        notify("STOPPING=1")
        self._checking.cancel()
        self._opened.close(Opened())
        yield self.pool.stop()
        if self._control is not None:
            yield self._control.stop()
        if self._gathering is not None:
            yield self._gathering.stop()

    # --- reloading ---

    def reload(self) -> None:
        """Read the configuration again, and replace all workers; if that is going on, once more after it."""
        self._reloadBy(self._replaceWorkers)

    def upgrade(self) -> None:
        """Replace this program by the version that is installed now, which then reloads."""
        self._reloadBy(self._replaceProgram)

    def _reloadBy(self, replace: Callable[[Settings], Any]) -> None:
        if not self.running:
            return
        if self.isReloading or not self._hasStarted:
            # A new program reloads as well.
            if self._wanted != self._replaceProgram:
                self._wanted = replace
            self._giveUpLate()
            return
        self.isReloading = True
        notify(reloading())
        _log.info("reloading the configuration")
        self._checked().addCallback(replace).addCallbacks(self._hasReloaded, self._cannotReload).addBoth(self._reloaded)

    def _giveUpLate(self) -> None:
        """The operator asks again: workers that are not ready by now may wait for what never comes."""
        now = self._reactor.seconds()
        late = [each for each in self._starting if each.state == STARTING and now - each.since > _PATIENCE]
        for worker in late:
            _log.warn("worker {number} has not become ready, and is given up for another reload", number=worker.number)
            worker.signal(signal.SIGKILL)

    @inlineCallbacks
    def _checked(self) -> Generator[Deferred[Any], Any, Settings]:
        """
        The settings as they are now, if another process finds nothing wrong with them.

        @raise ConfigError: if there is something.
        """
        settings = self._readSettings()
        if not settings.workers.number:
            raise ConfigError(f"{settings.path}: workers is missing, restart the service to serve without workers")
        self._checkService(settings)
        # It imports modules and reads files, as a worker does until its first beat.
        self._checking = self._program.check(self._reactor, startTimeout(self.pool.staffing.timeout))
        yield self._checking
        self._checkService(settings)
        return settings

    def _checkService(self, settings: Settings) -> None:
        if not self.running:
            raise ConfigError("the service is ended")
        if self.pool.heldBack >= {*range(1, settings.workers.number + 1)}:
            raise ConfigError("all workers would be out of service, let one go on (smtphooks drain --resume)")

    @inlineCallbacks
    def _replaceWorkers(self, settings: Settings) -> Generator[Deferred[Any], Any, None]:
        isTooSmall = self.pool.columns < 2 * settings.workers.number
        while not isTooSmall and not self.pool.hasRoomFor(settings.workers.number):
            _log.info("the reload waits until workers of reloads before it have drained")
            yield self.pool.whenOneIsGone()
            self._checkService(settings)
        before = self._opened
        try:
            opened = openAll(settings, before)
        except CannotOpen as error:
            raise ConfigError(cannotListen(error.endpoint, error.__cause__)) from error
        staffing = staffingOf(settings, opened)
        table = self.pool.table, self.pool.columns
        try:
            if isTooSmall:
                self._makeTable(settings.workers.number)
            self._starting, whenReady = self.pool.start(staffing)
            yield whenReady
            self._checkService(settings)
            opened.listen()
        except (ConfigError, NeverReady, OSError) as error:
            self.pool.giveUp(self._starting)
            opened.close(before)
            # Or a worker that takes the place of another one would not count with its siblings.
            self.pool.takeBackTable(*table)
            raise ConfigError(str(error)) from error
        finally:
            self._starting = []
        self._settings, self._opened = settings, opened
        self.pool.switch(staffing)
        yield self._moveMetrics(settings)
        if self.running:
            self._listenForOperator(settings)
        before.close(opened)
        for listener, sockets in zip(settings.listeners, opened.listeners, strict=True):
            if all(sockets is not one for one in before.all):
                logListening(listener.endpoint, addressText(sockets.getHost()))

    def _replaceProgram(self, _: Settings) -> None:
        pool = self.pool
        counted = [] if self._gathering is None else self._gathering.ended()
        workers = [worker for worker in pool.workers if worker.status is None]
        table = pool.table.fd, pool.columns
        numbers = {"restarts": pool.restarts, "reloads": self._reloads}
        handOver = HandOver(self._opened, workers, table, [*pool.heldBack], pool.isRefusing, counted, numbers)
        try:
            replaceProgram(handOver, self._twistd, self._program.folder)
        except OSError as error:
            raise ConfigError(f"the program cannot be replaced: {cause(error)}") from error

    def _hasReloaded(self, _: object) -> None:
        self._reloads["done"] += 1
        _log.info("{number} new workers serve, those before them drain", number=self._settings.workers.number)

    def _cannotReload(self, failure: Failure) -> None:
        if not self.running:
            return  # it is ended while it starts workers
        self._reloads["refused"] += 1
        if failure.check(ConfigError):
            _log.error("cannot reload, all stays as it was: {sentence}", sentence=failure.getErrorMessage())
        else:
            _log.failure("cannot reload, all stays as it was", failure)

    def _reloaded(self, _: object) -> None:
        self.isReloading = False
        if self.running:
            notify("READY=1")
            self._reloadAgain()

    def _reloadAgain(self) -> None:
        """Do what was asked for meanwhile."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self._reloadBy(wanted)

    # --- the operator ---

    def _state(self) -> str:
        if self.pool.isRefusing:
            return "draining"
        if self.isReloading:
            return "reloading"
        return "serving" if self.pool.isServing else "starting"

    def _listenForOperator(self, settings: Settings) -> None:
        operator = Operator(self.pool, self._state, self.reload, self._reactor)
        try:
            path = controlPath(settings.workers.control, settings.folder or self._program.folder)
            if path == self._controlPath:
                return
            control = Control(path, operator, self._reactor)
            control.start()
        except ConfigError as error:
            # The service is more than what can be asked about it.
            what = "do not work" if self._controlPath is None else f"stay at {self._controlPath}"
            _log.error("smtphooks status and drain {what}: {sentence}", what=what, sentence=str(error))
            return
        if self._control is not None:
            self._control.stop()
        self._control, self._controlPath = control, path

    # --- metrics ---

    def isReady(self) -> bool:
        """Whether this machine serves new clients."""
        return bool(self.running) and not self.pool.isRefusing and self.pool.isServing

    def _numbers(self) -> dict[str, dict[str, float]]:
        states = [worker.state for worker in self.pool.workers]
        return {
            "smtphooks_workers": {state: float(states.count(state)) for state in (STARTING, READY, DRAINING)},
            "smtphooks_worker_restarts_total": {**self.pool.restarts},
            "smtphooks_reloads_total": {**self._reloads},
        }

    def _serveMetrics(self, settings: Settings, counted: list[dict[str, Any]] | None = None) -> None:
        if settings.metrics is None or not self._opened.metrics:
            return  # the program before this one may have served none: the reload to come opens them
        (sockets,) = self._opened.metrics
        endpoint = InheritedEndpoint(
            self._reactor, settings.metrics, sockets.family, sockets.isShared, sockets.descriptors, [0]
        )
        try:
            if self._gathering is None:
                self._gathering = Gathering(self._reactor, self.pool.workers, self.isReady, self._numbers, counted)
                self.pool.onGone = self._gathering.gone
                self.pool.onCounted = self._gathering.take
            self._gathering.serve(settings.metrics, endpoint, self._cannotServeMetrics)
        except Exception:
            self._cannotServeMetrics(Failure())

    @inlineCallbacks
    def _moveMetrics(self, settings: Settings) -> Generator[Deferred[Any], Any, None]:
        if self._gathering is not None:
            yield self._gathering.stop()
        if self.running:
            self._serveMetrics(settings)

    @staticmethod
    def _cannotServeMetrics(failure: Failure) -> None:
        _log.failure("metrics cannot be served", failure)

    # --- the log ---

    def _outputsOf(self, worker: Worker) -> tuple[Lines, Lines]:
        return Lines(self._writeLines), errorLines(worker.number)
