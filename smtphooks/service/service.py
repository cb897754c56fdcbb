"""
The service: an endpoint and a factory as one of Twisted's services, which stops as it should.

L{SMTPService} is for C{.tac} files, for C{MultiService}s, and for whatever else starts and stops services; the command
C{twistd smtphooks} is made of it too.
This module knows nothing of configurations, and nothing of what the factory makes of its clients.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.factory import SMTPServerFactory

_log = Logger()


class SMTPService(Service):
    """
    Listens while it runs; ends all connections as they should when it stops.

    @ivar endpoint: what to listen on: an endpoint, or the description of one (C{"tcp:25"}).
    @ivar factory: what serves the clients.
    """

    def __init__(self, endpoint: IStreamServerEndpoint | str, factory: SMTPServerFactory, reactor: Any = None) -> None:
        """
        @param reactor: for an endpoint that is described; None for the global one, which is looked up at the start.
        """
        self.endpoint = endpoint
        self.factory = factory
        self._reactor = reactor
        self._listening: Deferred[IListeningPort | None] | None = None

    @property
    def reactor(self) -> Any:
        """What it runs in."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    def privilegedStartService(self) -> None:
        """
        Listen, with the privileges of the start.

        @raise Exception: why that is not possible, if this is known at once; what comes later is logged.
        """
        Service.privilegedStartService(self)
        failures: list[Failure] = []
        listening: Deferred[Any] = maybeDeferred(self._endpointOf().listen, self.factory)
        started = False

        def failed(failure: Failure) -> None:
            if not started:
                failures.append(failure)
            elif self._listening is listening:  # or else it has been stopped meanwhile
                self.listeningFailed(failure)

        listening.addCallbacks(self._hold, failed)
        if failures:
            failures[0].raiseException()
        started, self._listening = True, listening

    def startService(self) -> None:
        """
        Listen, if that was not done yet with the privileges of the start.

        @raise Exception: as C{privilegedStartService} does.
        """
        if self._listening is None:
            self.privilegedStartService()
        Service.startService(self)

    def _hold(self, port: IListeningPort) -> IListeningPort:
        self.listens(port)
        return port

    def _endpointOf(self) -> IStreamServerEndpoint:
        if isinstance(self.endpoint, str):
            endpoint: IStreamServerEndpoint = serverFromString(self.reactor, self.endpoint)
            return endpoint
        return self.endpoint

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Stop listening, then end all connections as they should; fires when the last one is gone."""
        Service.stopService(self)
        listening, self._listening = self._listening, None
        isStuck = False
        if listening is not None:
            listening.cancel()
            port = yield listening
            if port is not None:
                try:
                    # What is no port, such as that of stdio:, has nothing to stop.
                    yield maybeDeferred(getattr(port, "stopListening", lambda: None))
                except Exception:  # the clients that are there end as they should nevertheless
                    _log.failure("cannot stop listening on {endpoint}", endpoint=self.endpoint)
                    isStuck = True
        # It may be listened with elsewhere, or again by now; a port that is stuck is counted for good.
        if isStuck or not self.factory.numPorts:
            yield self.factory.close()

    def listens(self, port: IListeningPort) -> None:
        """Clients can connect; for subclasses."""

    def listeningFailed(self, failure: Failure) -> None:
        """An endpoint that took its time has failed; for subclasses."""
        _log.failure("cannot listen on {endpoint}", failure=failure, endpoint=self.endpoint)
