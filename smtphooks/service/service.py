"""
L{SMTPService}: an endpoint and a factory as a Twisted service, which lets transactions finish when it stops.

Objects of hooks that have C{onStart} or C{onStop} are started before it listens, and stopped after the last connection
has ended.
It is for C{.tac} files, for C{MultiService}s, and for any other code that starts and stops services; the listeners of
C{smtphooks} are a subclass of it.
This module knows no configuration, and nothing of the protocol that the factory speaks.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.factory import SMTPServerFactory
from smtphooks.netaddress import withPort
from smtphooks.service.lifecycle import Lifecycle, StartFailed

_log = Logger()


def addressText(address: object) -> str:
    """An address as a log shows it."""
    return withPort(address.host, address.port) if isinstance(address, (IPv4Address, IPv6Address)) else str(address)


class SMTPService(Service):
    """
    Listens while it runs; when it stops, it closes all connections with 421 and lets transactions in progress finish.

    @ivar endpoint: an endpoint, or the description of one (C{"tcp:25"}).
    @ivar factory: the factory for its connections.
    """

    def __init__(self, endpoint: IStreamServerEndpoint | str, factory: SMTPServerFactory, reactor: Any = None) -> None:
        """
        @param reactor: for the description of an endpoint; None for the global one, which is imported at the start.
        """
        self.endpoint = endpoint
        self.factory = factory
        self._reactor = reactor
        self._listening: Deferred[IListeningPort | None] | None = None
        self._lifecycle = Lifecycle([factory])

    @property
    def reactor(self) -> Any:
        """The reactor that it listens with."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return self._reactor

    def privilegedStartService(self) -> None:
        """
        Start the objects of hooks, then listen: with the privileges of the start, if C{onStart} has not to be awaited.

        @raise StartFailed: if C{onStart} fails at once; a later failure is logged.
        @raise Exception: if it cannot listen and that is known at once; a later failure is logged.
        """
        Service.privilegedStartService(self)
        self._lifecycle.start(self, self._listen, self._failedLate)

    def startService(self) -> None:
        """
        Start the objects of hooks and listen, unless C{privilegedStartService} has done so.

        @raise Exception: as C{privilegedStartService} does.
        """
        if self._listening is None and not self._lifecycle.isStarting:
            self.privilegedStartService()
        Service.startService(self)

    def _listen(self) -> None:
        failures: list[Failure] = []
        listening: Deferred[Any] = maybeDeferred(self._endpointOf().listen, self.factory)
        started = False

        def failed(failure: Failure) -> None:
            if not started:
                failures.append(failure)
            elif self._listening is listening:  # not if it was stopped meanwhile
                self.listeningFailed(failure)

        listening.addCallbacks(self._hold, failed)
        if failures:
            failures[0].raiseException()
        started, self._listening = True, listening

    def _failedLate(self, failure: Failure) -> None:
        if failure.check(StartFailed):
            _log.failure("it does not listen on {endpoint}", failure=failure, endpoint=self.endpoint)
        else:
            self.listeningFailed(failure)

    def _hold(self, port: IListeningPort) -> IListeningPort:
        self.listeningStarted(port)
        return port

    def _endpointOf(self) -> IStreamServerEndpoint:
        if isinstance(self.endpoint, str):
            endpoint: IStreamServerEndpoint = serverFromString(self.reactor, self.endpoint)
            return endpoint
        return self.endpoint

    @inlineCallbacks
    def drain(self) -> Generator[Deferred[Any], Any, None]:
        """
        Stop as L{stopService} does, but let connections end by themselves before, as L{SMTPServerFactory.drain} does.

        C{stopService} may be called meanwhile, and closes them at once.
        """
        self._lifecycle.closing()
        if (yield self._stopListening()):
            yield self.factory.drain()
        if self.running:
            Service.stopService(self)
            yield self._lifecycle.stop(self)

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """
        Stop listening, then close the factory; fires when the last connection is gone.

        By then the objects of hooks have been stopped as well.
        """
        Service.stopService(self)
        self._lifecycle.closing()
        if (yield self._stopListening()):
            yield self.factory.close()
        yield self._lifecycle.stop(self)

    @inlineCallbacks
    def _stopListening(self) -> Generator[Deferred[Any], Any, bool]:
        """Stop listening; whether the connections of the factory are to end with that."""
        listening, self._listening = self._listening, None
        isStuck = False
        if listening is not None:
            listening.cancel()
            port = yield listening
            if port is not None:
                try:
                    # The "port" of stdio: is a transport, which has nothing to stop.
                    yield maybeDeferred(getattr(port, "stopListening", lambda: None))
                except Exception:  # the clients that are connected may finish nevertheless
                    _log.failure("cannot stop listening on {endpoint}", endpoint=self.endpoint)
                    isStuck = True
        # The factory may have another port, or a new one by now; a port that cannot stop stays counted.
        return isStuck or not self.factory.numPorts

    def listeningStarted(self, port: IListeningPort) -> None:
        """Clients can connect: logs where, unless a subclass does something else."""
        address = addressText(port.getHost())
        _log.info("listening on {endpoint} ({address})", endpoint=self.endpoint, address=address)

    def listeningFailed(self, failure: Failure) -> None:
        """The endpoint has failed after the start; for subclasses."""
        _log.failure("cannot listen on {endpoint}", failure=failure, endpoint=self.endpoint)
