"""
Hangs: workers whose reactor gives no sign of life are ended, with the stacks of their threads in the log.

In: the workers, each with the time of its last beat.  Out: signals to those that hang.
Rule kept here: no worker is to blame for that the supervisor itself stood still, or that the clock was set.
This module does not replace a worker, and does not know what it does.
"""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from smtphooks.service.workers import Worker

_log = Logger()

# Seconds between two looks.
_LOOK = 1.0
# Seconds without a beat that say nothing, as a worker beats once a second.
_LEAST_SILENCE = 2.0
# Until its first beat a worker may take so many times as long, and so many seconds at least: it imports modules.
_START_FACTOR = 4
_LEAST_START = 30.0
# Seconds to write stacks in, before a worker that hangs is killed.
_LAST_WORDS = 3.0


def startTimeout(timeout: float) -> float:
    """
    Seconds that a process has to import modules and read files, 0 for no limit.

    @param timeout: seconds without a sign of life after which a worker is ended, 0 for no limit.
    """
    return max(timeout * _START_FACTOR, _LEAST_START) if timeout else 0.0


class HangWatch:
    """
    @ivar timeout: seconds without a sign of life after which a worker is ended, 0 for no limit.
    """

    def __init__(self, reactor: Any, workers: list[Worker]) -> None:
        """
        @param workers: all that there are, at any time.
        """
        self.timeout: float = 0.0
        self._reactor = reactor
        self._workers = workers
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._lastLook = 0.0

    def start(self, timeout: float) -> None:
        """Watch from now on."""
        self.timeout = timeout
        self._lastLook = self._reactor.seconds()
        self._looking.start(_LOOK, now=False)

    def stop(self) -> None:
        """Watch no more."""
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        now = self._reactor.seconds()
        late = now - self._lastLook - _LOOK
        self._lastLook = now
        for worker in self._workers:
            if abs(late) > _LOOK:
                # It may have beaten after that, and a beat before a clock that was set back lies ahead.
                worker.lastBeat = min(now, worker.lastBeat + max(0.0, late))
            patience = self.timeout if worker.hasBeaten else startTimeout(self.timeout)
            silence = now - worker.lastBeat
            if patience and silence > max(patience, _LEAST_SILENCE) and not worker.isHung and worker.status is None:
                self._end(worker, silence)

    def _end(self, worker: Worker, silence: float) -> None:
        worker.isHung = True
        _log.error(
            "worker {number} (pid {pid}) hangs: no sign of life for {silence:.0f} seconds, so it is ended;"
            " its stacks follow",
            number=worker.number,
            pid=worker.pid,
            silence=silence,
        )
        # C{faulthandler} writes the stacks, also while Python itself stands still.
        worker.signal(signal.SIGABRT)
        killing = self._reactor.callLater(_LAST_WORDS, worker.signal, signal.SIGKILL)
        worker.whenEnded().addCallback(lambda _: killing.cancel() if killing.active() else None)
