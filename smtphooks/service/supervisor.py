"""
The supervisor: a service that opens all sockets, and has workers serve them.

In: settings, and signals of the operator.  Out: a pool of workers, one log, one set of metrics, one answer to the service
manager.  SIGHUP and SIGUSR2 reload: a new generation of workers serves before the old one drains; SIGUSR2 replaces the
program of the supervisor before.  SIGTERM ends all of it.
Rule kept here: a configuration that is wrong, or whose workers do not come to serve, changes nothing.
This module knows no hooks, no connections, and not what workers do.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from smtphooks.service.handover import HandOver, replaceProgram
from smtphooks.service.listeners import (
    StartError,
    endWithFailure,
    logCannotListen,
    logListening,
    stopReactor,
)
from smtphooks.service.service import addressText
from smtphooks.service.settings import ConfigError, Settings, cause
from smtphooks.service.signals import takeSignals
from smtphooks.service.sockets import ListeningSockets, open_
from smtphooks.service.systemd import notify, reloading
from smtphooks.service.workerpool import NeverReady, Staffing, WorkerPool
from smtphooks.service.workers import Program, Worker
from smtphooks.sharedtable import Table

_log = Logger()

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
        self._readSettings = readSettings
        self._settings = readSettings()
        self._program = program
        self._reactor = reactor
        self._twistd = twistd
        self._observer = observer
        self._handedOver = handedOver
        self._sockets: list[ListeningSockets] = []
        self._wantsReload = False
        self.pool: WorkerPool = WorkerPool(reactor, program, self._outputsOf)

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
        known = self._handedOver.sockets if self._handedOver is not None else []
        if self._handedOver is not None:
            self._sockets = [known[place] for place in self._handedOver.listeners]
        else:
            try:
                self._sockets = _openAll(self._settings, known)
            except _CannotOpen as error:
                raise StartError(logCannotListen(error.endpoint, error.__cause__)) from error

    def startService(self) -> None:
        """Start the workers; twistd has dropped its privileges."""
        Service.startService(self)
        self._reactor.callWhenRunning(self._startWorkers)

    def _startWorkers(self) -> None:
        staffing = _staffingOf(self._settings, self._sockets)
        handedOver = self._handedOver
        if handedOver is None:
            self.pool.columns = _COLUMNS * staffing.number
            self.pool.table = Table.create(self.pool.columns)
            self.pool.first(staffing).addCallbacks(self._started, self._cannotStart)
            return
        self.pool.columns = handedOver.table[1]
        self.pool.table = Table.attach(handedOver.table[0], 0)
        self.pool.heldBack = {*handedOver.heldBack}
        self.pool.isRefusing = handedOver.isRefusing
        _log.info("the program has been replaced, {workers} workers go on", workers=len(handedOver.workers))
        self.pool.first(staffing, handedOver.workers)
        self.reload()

    def _started(self, _: object) -> None:
        for listener, sockets in zip(self._settings.listeners, self._sockets, strict=True):
            logListening(listener.endpoint, addressText(sockets.getHost()))
        _log.info("{number} workers serve", number=self._settings.workers.number)
        notify("READY=1")

    def _cannotStart(self, failure: Failure) -> None:
        if not self.running:
            return
        _log.critical("{sentence}", sentence=failure.getErrorMessage())
        endWithFailure(self._reactor)

    def _takeSignals(self) -> None:
        takeSignals(
            self._reactor,
            {
                signal.SIGTERM: self._terminate,
                signal.SIGHUP: self.reload,
                signal.SIGUSR2: self.upgrade,
            },
        )

    # --- the end ---

    def _terminate(self) -> None:
        _log.info("received SIGTERM, closing")
        stopReactor(self._reactor)

    def stopService(self) -> Deferred[Any]:
        """End all workers as they would end by themselves on SIGTERM, then close the sockets."""
        Service.stopService(self)
        notify("STOPPING=1")
        return self.pool.stop().addCallback(self._closeSockets)

    def _closeSockets(self, _: object) -> None:
        for sockets in self._sockets:
            sockets.close()

    # --- reloading ---

    def reload(self) -> None:
        """Read the configuration again, and replace all workers; during a reload, once more after it."""
        if self.isReloading:
            self._wantsReload = True
            return
        self.isReloading = True
        notify(reloading())
        _log.info("reloading the configuration")
        self._reload().addErrback(self._cannotReload).addCallback(self._reloaded)

    @inlineCallbacks
    def _reload(self) -> Any:
        settings = yield self._checked()
        while not self.pool.hasRoomFor(settings.workers.number):
            _log.info("workers of older generations still drain, the reload waits for them")
            yield self.pool.whenOneIsGone()
        known = [*self._sockets]
        try:
            sockets = _openAll(settings, known)
        except _CannotOpen as error:
            raise ConfigError(logCannotListen(error.endpoint, error.__cause__)) from error
        staffing = _staffingOf(settings, sockets)
        workers, whenReady = self.pool.start(staffing)
        try:
            yield whenReady
        except NeverReady as error:
            self.pool.giveUp(workers)
            _closeAll(sockets, known)
            raise ConfigError(str(error)) from error
        self._settings, self._sockets = settings, sockets
        self.pool.switch(staffing)
        _closeAll(known, sockets)
        for listener, each in zip(settings.listeners, sockets, strict=True):
            if each not in known:
                logListening(listener.endpoint, addressText(each.getHost()))
        _log.info("{number} new workers serve, those before them drain", number=settings.workers.number)

    def _cannotReload(self, failure: Failure) -> None:
        if failure.check(ConfigError):
            _log.error("all stays as it was: {sentence}", sentence=failure.getErrorMessage())
        else:
            _log.failure("all stays as it was, as the reload has failed", failure)

    def _reloaded(self, _: object) -> None:
        self.isReloading = False
        notify("READY=1")
        if self._wantsReload and self.running:
            self._wantsReload = False
            self.reload()

    @inlineCallbacks
    def _checked(self) -> Any:
        """
        The settings as they are now, when another process has found nothing wrong with them.

        @raise ConfigError: if there is something.
        """
        settings = self._readSettings()
        if not settings.workers.number:
            raise ConfigError(f"{settings.path}: workers is missing, to serve without workers restart the service")
        executable, *arguments = [*self._program.command, "--check"]
        _, errors, status = yield getProcessOutputAndValue(
            executable, arguments, self._program.environment(), self._program.folder, self._reactor
        )
        if status:
            lines = errors.decode(errors="replace").strip().splitlines() or [f"the check has ended with {status}"]
            raise ConfigError(lines[-1].removeprefix("smtphooks: "))
        return settings

    def upgrade(self) -> None:
        """Replace this program by the version that is installed now, and then reload."""
        if self.isReloading:
            self._wantsReload = True
            return
        self.isReloading = True
        notify(reloading())
        _log.info("replacing the program")
        self._checked().addCallback(self._replaceProgram).addErrback(self._cannotReload).addCallback(self._reloaded)

    def _replaceProgram(self, _: Settings) -> None:
        pool = self.pool
        places = [*range(len(self._sockets))]
        workers = [worker for worker in pool.workers if worker.status is None]
        handOver = HandOver(
            self._sockets, places, None, workers, (pool.table.fd, pool.columns), [*pool.heldBack], pool.isRefusing
        )
        try:
            replaceProgram(handOver, self._twistd, self._program.folder)
        except OSError as error:
            raise ConfigError(f"the program cannot be replaced: {cause(error)}") from error

    # --- the log ---

    def _outputsOf(self, worker: Worker) -> tuple[Callable[[bytes], object], Callable[[bytes], object]]:
        return (lambda data: os.write(1, data)), (lambda data: os.write(2, data))


class _CannotOpen(Exception):
    """
    The sockets of an endpoint cannot be opened; the cause is C{__cause__}.

    @ivar endpoint: its description.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.endpoint = endpoint


def _openAll(settings: Settings, known: Sequence[ListeningSockets]) -> list[ListeningSockets]:
    """
    The sockets of all listeners, those that are open already among them.

    @raise _CannotOpen: if some cannot be opened; no new one is open then.
    """
    opened: list[ListeningSockets] = []
    for position, listener in enumerate(settings.listeners):
        try:
            opened.append(open_(listener.endpoint, position, settings.workers.number, known))
        except Exception as error:
            _closeAll(opened, known)
            raise _CannotOpen(listener.endpoint) from error
    return opened


def _closeAll(sockets: Sequence[ListeningSockets], kept: Sequence[ListeningSockets]) -> None:
    """Close sockets, but for those that are needed on."""
    for each in sockets:
        if all(each is not one for one in kept):
            each.close()


def _staffingOf(settings: Settings, sockets: Sequence[ListeningSockets]) -> Staffing:
    each = [{**settings.options, **listener.options}.get("closeTimeout", 30.0) for listener in settings.listeners]
    closeTimeout = float(max(each)) if all(each) else 0.0
    return Staffing(settings.workers.number, sockets, settings.workers.timeout, closeTimeout)


def checkConfiguration(program: Program) -> None:
    """
    Have another process check the configuration, before anything is done with it.

    @raise SystemExit: if something is wrong with it; the process has said what.
    """
    import subprocess

    done = subprocess.run(
        [*program.command, "--check"],
        env=program.environment(),
        cwd=program.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
