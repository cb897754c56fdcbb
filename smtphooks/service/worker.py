"""
The service of a worker: all listeners, on sockets that the supervisor has opened, and the channel to it.

The supervisor says which sockets to serve, and when to drain; this side tells when all listeners are ready, and beats
once a second as long as the reactor runs.  Without the supervisor a worker would serve on unseen, so it closes then.
This module knows neither how a supervisor decides nor any other worker.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger

from smtphooks.service.channel import Channel, Handler
from smtphooks.service.checking import Configuration, Listener
from smtphooks.service.ending import stopReactor
from smtphooks.service.listeners import Listeners
from smtphooks.service.metering import metricsOf
from smtphooks.service.ports import InheritedEndpoint
from smtphooks.service.status import statusOf, totalsOf
from smtphooks.service.workers import WORKER, Place, connect, placeOf
from smtphooks.sharedtable import Table, useTable

_log = Logger()

_STDERR = 2

# Seconds between two beats.
BEAT = 1.0


def takePlace() -> Place | None:
    """
    The place of this process as a worker, None if it is none.

    A worker counts in the table from here on: its configuration is made after that.
    """
    place = placeOf(os.environ)
    if place is not None:
        # Processes that hooks start are no workers.
        del os.environ[WORKER]
        # Fatal signals show the stacks; one of them is SIGABRT, by which the supervisor ends a worker that hangs.
        faulthandler.enable(_STDERR)
        try:
            useTable(Table.attach(place.table, place.column))
        except ValueError as error:
            # The supervisor is of another version until it is replaced as well; not to serve would be worse.
            _log.warn("worker {number} counts by itself: {error}", number=place.number, error=str(error))
        # Nor do they keep sockets open, whose ports would be taken when this service is gone.
        for descriptor in place.descriptors:
            os.set_inheritable(descriptor, False)
    return place


class WorkerService(MultiService):
    """
    The listeners, and the channel.

    @ivar speaks: this worker says what holds for all of them.
    """

    def __init__(
        self, configuration: Configuration, reactor: Any, place: Place, observer: ILogObserver | None = None
    ) -> None:
        MultiService.__init__(self)
        self.speaks: bool = place.number == 1
        self._reactor = reactor
        self._place = place
        self._observer = observer
        self._endpoints: list[InheritedEndpoint] = []
        self._listeners = Listeners(configuration, reactor, supervised=self)
        self._listeners.setServiceParent(self)
        self._metrics: Any = None
        if configuration.metrics is not None:
            factories = [(listener.endpoint, listener.factory) for listener in configuration.listeners]
            self._metrics = metricsOf(factories, self._listeners.isReady)
        handlers: dict[str, Handler] = {
            "serve": self._serve,
            "drain": self._drain,
            "refuse": self._refuse,
            "metrics": self._tellMetrics,
            "status": self._tellStatus,
        }
        self._channel = Channel(handlers, self._lost)
        self._beating = LoopingCall(self._beat)
        self._beating.clock = reactor

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with its application, from which it takes the observer when it starts logging."""
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)
        MultiService.setServiceParent(self, parent)

    def privilegedStartService(self) -> None:
        """Hear the supervisor, and start the layers."""
        # Not before the reactor runs, which is what a beat says.
        self._reactor.callWhenRunning(self._connect)
        MultiService.privilegedStartService(self)

    def _connect(self) -> None:
        # The supervisor has it blocked; now the reactor handles it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        connect(self._reactor, self._channel, self._place.channel)
        self._beating.start(BEAT)

    def endpointOf(self, number: int, listener: Listener) -> IStreamServerEndpoint:
        """The endpoint of a listener, on its inherited sockets."""
        family, isShared, descriptors = self._place.sockets[number]
        endpoint = InheritedEndpoint(self._reactor, listener.endpoint, family, isShared, descriptors)
        self._endpoints.append(endpoint)
        return endpoint

    def ready(self) -> None:
        """All listeners could serve; the supervisor says which sockets."""
        self._reactor.callWhenRunning(self._channel.tell, "ready")

    # --- what the supervisor says ---

    def _serve(self, sockets: list[int]) -> None:
        for endpoint in self._endpoints:
            try:
                endpoint.serve(sockets)
            except Exception:
                # The others are served all the same.
                _log.failure("clients of {endpoint} are not served", endpoint=endpoint.description)

    def _drain(self) -> None:
        drained = self._listeners.drain()
        self._closeSockets()
        _log.info("draining: no new connections, those that are there may finish")
        drained.addBoth(lambda _: stopReactor(self._reactor))

    def _closeSockets(self) -> None:
        """Leave the sockets to others: a port that is not served any more must not seem to be."""
        for endpoint in self._endpoints:
            endpoint.close()

    def _refuse(self, isRefusing: bool) -> None:
        self._listeners.refuse(isRefusing)

    def _lost(self) -> None:
        if self.running:
            _log.critical("the supervisor has ended, closing")
            stopReactor(self._reactor)

    # --- what it is told ---

    def _beat(self) -> None:
        self._channel.tell("beat", **totalsOf([*self._listeners]))

    def _tellStatus(self) -> dict[str, Any]:
        return statusOf([*self._listeners])

    def _tellMetrics(self) -> dict[str, Any]:
        if self._metrics is None:
            return {"snapshot": []}
        from smtphooks.metrics.snapshot import snapshot

        return {"snapshot": snapshot(self._metrics)}

    # --- the end ---

    def stopService(self) -> Any:
        """Stop listening, let transactions finish, and stop the layers; the last word is what was counted."""
        self._channel.tell("closing")
        stopped = MultiService.stopService(self).addBoth(self._sayLastWord)
        self._closeSockets()
        return stopped

    def _sayLastWord(self, result: Any) -> Any:
        if self._beating.running:
            self._beating.stop()
        self._channel.tell("counted", **self._tellMetrics())
        return self._channel.close().addCallback(lambda _: result)
