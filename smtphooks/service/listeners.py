"""
Listeners: the service that twistd runs, with one service in it for each listener of the configuration.

In: a checked configuration.  Out: sockets that listen, a log line for each, and the reports to systemd.  SIGTERM ends
the service, SIGHUP reloads certificates; a listener that cannot listen ends the process with one sentence and status 1.
This module knows neither flags nor configuration files.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Protocol

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import ILogObserver
from twisted.python.failure import Failure

from smtphooks.errors import OptionError
from smtphooks.factory import SMTPServerFactory
from smtphooks.service.checking import Configuration, Listener
from smtphooks.service.ending import (
    StartError,
    endWithFailure,
    log,
    logCannotListen,
    logListening,
    logStartFailed,
    stopReactor,
)
from smtphooks.service.endpoints import kindOf
from smtphooks.service.lifecycle import Lifecycle, StartFailed
from smtphooks.service.metering import Metering, metricsOf
from smtphooks.service.ports import SocketsReactor, adopt
from smtphooks.service.service import SMTPService, addressText
from smtphooks.service.settings import ConfigError, cause
from smtphooks.service.signals import takeSignals
from smtphooks.service.systemd import notify, reloading


def endpointOf(listener: Listener, reactor: Any) -> IStreamServerEndpoint:
    """
    The endpoint of a listener; it does not listen yet.

    @raise ConfigError: if its description is wrong, or if systemd has not handed over the socket that it names.
    """
    return _endpointOf(f"{listener.where}: endpoint", listener.where, listener.endpoint, reactor)


def metricsEndpointOf(configuration: Configuration, reactor: Any) -> IStreamServerEndpoint | None:
    """
    The endpoint where metrics are served, None if they are not; it does not listen yet.

    @raise ConfigError: as L{endpointOf} does.
    """
    if configuration.metrics is None:
        return None
    where = str(configuration.path)
    return _endpointOf(f"{where}: metrics", where, configuration.metrics, reactor)


def _endpointOf(what: str, where: str, description: str, reactor: Any) -> IStreamServerEndpoint:
    try:
        if kindOf(description) == "systemd":
            reactor = SocketsReactor(partial(_adopt, reactor), reactor)
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
        return endpoint
    except Exception as error:
        if description.startswith("systemd:") and isinstance(error, LookupError):
            raise ConfigError(
                f"{where}: systemd has handed over no socket for {description}, start a .socket unit"
            ) from error
        raise ConfigError(
            f"{what} {description} is not one of Twisted's, write one such as tcp:25 or"
            f" unix:/run/smtp.sock: {cause(error)}"
        ) from error


def _adopt(reactor: Any, _kind: object, socket: tuple[int, int], factory: Any) -> IListeningPort:
    return adopt(reactor, *socket, factory)


class Supervised(Protocol):
    """
    What a supervisor does in the place of one of its workers: it has the sockets, and tells the service manager.

    @ivar speaks: this worker says what holds for all of them.
    """

    speaks: bool

    def endpointOf(self, number: int, listener: Listener) -> IStreamServerEndpoint:
        """The endpoint of a listener, by its place in the configuration."""

    def ready(self) -> None:
        """All listeners listen."""


class Listeners(MultiService):
    """
    All listeners of a configuration.

    It iterates over its L{ListenerService}s.
    """

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        observer: ILogObserver | None = None,
        supervised: Supervised | None = None,
    ) -> None:
        """
        @param observer: writes the log; None for twistd's own.
        @param supervised: what a supervisor does in the place of this process; None if there is none.
        """
        MultiService.__init__(self)
        self._reactor = reactor
        self._observer = observer
        self._supervised = supervised
        for number, listener in enumerate(configuration.listeners):
            endpoint = endpointOf(listener, reactor) if supervised is None else supervised.endpointOf(number, listener)
            warnings = [*filter(None, [listener.warning]), *listener.doubts]
            if supervised is not None and not supervised.speaks:
                warnings = []
            service = ListenerService(
                listener.endpoint,
                endpoint,
                listener.factory,
                reactor,
                listener.explain,
                warnings,
                supervised is not None,
            )
            # addService alone would leave its parent attribute unset.
            service.setServiceParent(self)  # type: ignore[no-untyped-call]
        self._lifecycle = Lifecycle([listener.factory for listener in configuration.listeners])
        self._metering: Metering | None = None
        metricsEndpoint = None if supervised is not None else metricsEndpointOf(configuration, reactor)
        if metricsEndpoint is not None:
            factories = [(listener.endpoint, listener.factory) for listener in configuration.listeners]
            metrics = metricsOf(factories, self.isReady)
            self._metering = Metering(str(configuration.metrics), metricsEndpoint, metrics)

    def isReady(self) -> bool:
        """Whether clients are served at all listeners."""
        isServed = [listener.isListening and not listener.factory.isRefusing for listener in self]
        return bool(self.running) and all(isServed)

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with its application, from which it takes the observer when it starts logging."""
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)
        MultiService.setServiceParent(self, parent)

    def privilegedStartService(self) -> None:
        """
        Start the layers, then listen on all endpoints.

        That is with the privileges that twistd was started with, unless a layer has to be waited for.

        @raise StartError: if a layer or an endpoint fails at once; a later failure ends the process.
        """
        # Before the listeners log that they listen: a program that waits for that line may send SIGTERM at once.
        self._reactor.callWhenRunning(self._takeSignals)
        Service.privilegedStartService(self)
        if self._metering is not None:
            self._startMetering(self._metering)
        try:
            self._lifecycle.start(self, self._startListeners, self._failedLate)
        except StartFailed as error:
            raise StartError(logStartFailed(error)) from error

    def startService(self) -> None:
        """Called by twistd when it has dropped its privileges."""
        if self._lifecycle.isStarting:
            Service.startService(self)  # the listeners follow
        else:
            MultiService.startService(self)

    def _startListeners(self) -> None:
        for listener in self:
            if self.running:
                listener.startService()
            else:
                listener.privilegedStartService()

    def _startMetering(self, metering: Metering) -> None:
        def failed(failure: Failure) -> None:
            logCannotListen(metering.endpointName, failure.value)
            endWithFailure(self._reactor)

        try:
            metering.start(failed)
        except Exception as error:
            raise StartError(logCannotListen(metering.endpointName, error)) from error

    def _failedLate(self, failure: Failure) -> None:
        if isinstance(failure.value, StartFailed):
            logStartFailed(failure.value)
        endWithFailure(self._reactor)

    def listenerReady(self) -> None:
        """Called by a listener when clients can connect; the service is ready when all listeners are."""
        if all(listener.isListening for listener in self):
            if self._supervised is None:
                notify("READY=1")
            else:
                self._supervised.ready()

    def refuse(self, isRefusing: bool) -> None:
        """Refuse new clients with 421 while connections that are there go on; or serve new clients again."""
        for listener in self:
            (listener.factory.refuse if isRefusing else listener.factory.resume)()

    @inlineCallbacks
    def drain(self) -> Generator[Deferred[Any], Any, None]:
        """
        Stop as L{stopService} does, but let connections end by themselves before: for half of option C{closeTimeout}.

        C{stopService} may be called meanwhile, and closes them at once.

        @return: fires when the last connection is gone and the layers have been stopped.
        """
        self._lifecycle.closing()
        yield gatherResults([listener.drain() for listener in self])
        if self.running:
            notify("STOPPING=1")
            yield self._stop()

    def stopService(self) -> Any:
        """Stop listening, let transactions in progress finish, and stop the layers."""
        notify("STOPPING=1")
        self._lifecycle.closing()
        return self._stop()

    def _stop(self) -> Deferred[Any]:
        stopped: Deferred[Any] = MultiService.stopService(self).addCallback(lambda _: self._lifecycle.stop(self))
        # Last, as /readyz says until then that the service drains.
        return stopped if self._metering is None else stopped.addBoth(self._stopMetering, self._metering)

    @staticmethod
    def _stopMetering(result: Any, metering: Metering) -> Deferred[Any]:
        return metering.stop().addCallback(lambda _: result)

    def _takeSignals(self) -> None:
        """
        Handle SIGTERM: stop, with exit status 0; twistd by itself would end as killed by the signal.

        Handle SIGHUP: reload keys and certificates.  A worker leaves it to its supervisor.
        """
        if self._supervised is None:
            takeSignals(self._reactor, {signal.SIGTERM: self._terminate, signal.SIGHUP: self._reload})
        else:
            # Those that a terminal or an operator sends to all processes are for the supervisor.
            ignored = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
            takeSignals(self._reactor, {signal.SIGTERM: self._terminate, **dict.fromkeys(ignored)})

    def _reload(self) -> None:
        notify(reloading())
        self.rereadCertificates()
        notify("READY=1")

    def rereadCertificates(self) -> None:
        """Reload the files of keys and certificates for new handshakes; where they are wrong, keep the old ones."""
        results: dict[str, list[str]] = {}
        for listener in self:
            results.setdefault(listener.rereadCertificates(), []).append(listener.endpointName)
        # Listeners share most files: an error in one of these is logged once.
        for problem, endpoints in results.items():
            if problem:
                log.error(
                    "keys and certificates cannot be read again, the old ones stay in force at {endpoints}: {problem}",
                    endpoints=", ".join(endpoints),
                    problem=problem,
                )
            else:
                log.info("keys and certificates have been read again at {endpoints}", endpoints=", ".join(endpoints))

    def _terminate(self) -> None:
        log.info("received SIGTERM, closing")
        stopReactor(self._reactor)


class ListenerService(SMTPService):
    """
    The service of one listener.

    @ivar endpointName: the description of its endpoint, as configured.
    @ivar isListening: clients can connect.
    """

    def __init__(
        self,
        endpointName: str,
        endpoint: IStreamServerEndpoint,
        factory: SMTPServerFactory,
        reactor: Any,
        explain: Callable[[OptionError], object] = str,
        warnings: Sequence[str] = (),
        isSupervised: bool = False,
    ) -> None:
        """
        @param explain: makes a sentence of an error in its options.
        @param warnings: what the operator should know when it listens.
        @param isSupervised: a supervisor says that it listens.
        """
        super().__init__(endpoint, factory, reactor)
        self._lifecycle = Lifecycle([])  # that of all listeners is their parent's
        self.endpointName = endpointName
        self._explain = explain
        self._warnings = warnings
        self._isSupervised = isSupervised
        self.isListening: bool = False

    def privilegedStartService(self) -> None:
        """
        Listen.

        @raise StartError: if that fails at once.
        """
        try:
            super().privilegedStartService()
        except Exception as error:
            raise StartError(self._logFailure(error)) from error

    def rereadCertificates(self) -> str:
        """Reload keys and certificates; the result is a sentence on what is wrong with them, or C{""}."""
        try:
            self.factory.updateSecureContext()
        except OptionError as error:
            return str(self._explain(error))
        except Exception as error:  # no content of a file may end a running service
            return cause(error)
        return ""

    def listeningStarted(self, port: IListeningPort) -> None:
        """C{SMTPService}"""
        self.reactor.callWhenRunning(self._logListening, addressText(port.getHost()))

    def _logListening(self, address: str) -> None:
        if not self._isSupervised:
            logListening(self.endpointName, address)
        for warning in self._warnings:
            log.warn("{endpoint}: {warning}", endpoint=self.endpointName, warning=warning)
        self.isListening = True
        if self.parent is not None:
            self.parent.listenerReady()

    def listeningFailed(self, failure: Failure) -> None:
        """The endpoint has failed after the start: the service ends as if it had not started."""
        self._logFailure(failure.value)
        endWithFailure(self.reactor)

    def _logFailure(self, error: BaseException | None) -> str:
        return logCannotListen(self.endpointName, error)
