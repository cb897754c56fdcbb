"""
Gathering: the metrics of all workers, served by their supervisor at one endpoint.

At a scrape each worker is asked, and the last answer of one that does not answer in time stands in.
This module knows neither what is counted nor when workers start and end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.service.metering import Metering
from smtphooks.service.workers import READY, Worker

_log = Logger()

# Seconds that a worker has to answer; Prometheus waits for 10.
_TIMEOUT = 2.0


class Gathering:
    """
    The metrics of a supervisor, if the configuration asks for them.

    @ivar workers: all workers that there are.
    """

    def __init__(
        self,
        reactor: Any,
        workers: list[Worker],
        isReady: Callable[[], bool],
        numbers: Callable[[], Mapping[str, Mapping[str, float]]],
        ended: list[dict[str, Any]] | None,
    ) -> None:
        """
        @param isReady: what C{/readyz} says.
        @param numbers: those of the supervisor itself.
        @param ended: the counts of workers that had ended before this program replaced another one.
        """
        from smtphooks.metrics.merging import MergedMetrics

        self.workers: list[Worker] = workers
        self._reactor = reactor
        self._merged = MergedMetrics(ended)
        self._merged.isReady = isReady
        self._merged.ask = self._ask
        self._merged.numbers = numbers
        self._metering: Metering | None = None

    def serve(self, name: str, endpoint: IStreamServerEndpoint, failed: Callable[[Failure], object]) -> None:
        """
        Serve them at an endpoint.

        @param name: its description.
        @param failed: called with the failure if the endpoint fails later.
        @raise Exception: if it fails at once.
        """
        self._metering = Metering(name, endpoint, self._merged)
        self._metering.start(failed)

    def stop(self) -> Deferred[Any]:
        """Serve them no more, until they are served elsewhere."""
        metering, self._metering = self._metering, None
        return succeed(None) if metering is None else metering.stop()

    def ended(self) -> list[dict[str, Any]]:
        """The counts of workers that have ended."""
        return self._merged.ended()

    def take(self, worker: Worker, snapshot: list[dict[str, Any]]) -> None:
        """A worker has told what it has counted."""
        self._merged.update(worker, snapshot)

    def gone(self, worker: Worker) -> None:
        """A worker has ended; what it has counted stays."""
        self._merged.forget(worker)

    def _ask(self) -> Deferred[Any]:
        return DeferredList([self._askOne(worker) for worker in self.workers if worker.hasBeaten])

    def _askOne(self, worker: Worker) -> Deferred[Any]:
        answer = worker.channel.ask("metrics", _TIMEOUT, self._reactor)
        answer.addCallback(lambda fields: self.take(worker, fields["snapshot"]) if worker in self.workers else None)
        return answer.addErrback(self._missing, worker)

    @staticmethod
    def _missing(failure: Failure, worker: Worker) -> None:
        # A client that has left cancels the question.
        if worker.state == READY and not failure.check(CancelledError):
            reason = failure.getErrorMessage()
            _log.warn("worker {number} has told no metrics: {reason}", number=worker.number, reason=reason)
