"""
Listeners: the service that twistd runs, with one service in it for each listener of the configuration.

In: a checked configuration.  Out: sockets that listen, a log line for each, and the reports to systemd.  SIGTERM ends
the service, SIGHUP reloads certificates; a listener that cannot listen ends the process with one sentence and status 1.
This module knows neither flags nor configuration files.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from smtphooks.errors import OptionError
from smtphooks.factory import SMTPServerFactory
from smtphooks.netaddress import withPort
from smtphooks.service.checking import Configuration, Listener
from smtphooks.service.reading import ConfigError, cause
from smtphooks.service.service import SMTPService
from smtphooks.service.systemd import notify

log = Logger()


class StartError(SystemExit, Exception):
    """
    The service cannot listen.

    It has two bases: on an Exception twistd removes its pid file and tells the process that waits for the daemon; on a
    SystemExit Python exits without a traceback.
    """

    # When it daemonizes, twistd shows a hundred octets of an error, which begin with the full name of its class.
    __module__ = "smtphooks"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = 1


def endpointOf(listener: Listener, reactor: Any) -> IStreamServerEndpoint:
    """
    The endpoint of a listener; it does not listen yet.

    @raise ConfigError: if its description is wrong, or if systemd has not handed over the socket that it names.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, listener.endpoint)
        return endpoint
    except Exception as error:
        if listener.endpoint.startswith("systemd:") and isinstance(error, LookupError):
            raise ConfigError(
                f"{listener.where}: systemd has handed over no socket for {listener.endpoint}, start a .socket unit"
            ) from error
        raise ConfigError(
            f"{listener.where}: endpoint {listener.endpoint} is not one of Twisted's, write one such as tcp:25 or"
            f" unix:/run/smtp.sock: {cause(error)}"
        ) from error


class Listeners(MultiService):
    """
    All listeners of a configuration.

    It iterates over its L{ListenerService}s.
    """

    def __init__(self, configuration: Configuration, reactor: Any, observer: ILogObserver | None = None) -> None:
        """
        @param observer: writes the log; None for twistd's own.
        """
        MultiService.__init__(self)
        self._reactor = reactor
        self._observer = observer
        for listener in configuration.listeners:
            endpoint = endpointOf(listener, reactor)
            # addService alone would leave its parent attribute unset.
            service = ListenerService(listener.endpoint, endpoint, listener.factory, reactor, listener.explain)
            service.setServiceParent(self)  # type: ignore[no-untyped-call]

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with its application, from which it takes the observer when it starts logging."""
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)
        MultiService.setServiceParent(self, parent)

    def privilegedStartService(self) -> None:
        """Listen on all endpoints, with the privileges that twistd was started with."""
        # Before the listeners log that they listen: a program that waits for that line may send SIGTERM at once.
        self._reactor.callWhenRunning(self._takeSignals)
        MultiService.privilegedStartService(self)

    def listenerReady(self) -> None:
        """Called by a listener when clients can connect; the service is ready when all listeners are."""
        if all(listener.isListening for listener in self):
            notify("READY=1")

    def stopService(self) -> Any:
        """Stop listening, and let transactions in progress finish."""
        notify("STOPPING=1")
        return MultiService.stopService(self)

    def _takeSignals(self) -> None:
        """
        Handle SIGTERM: stop, with exit status 0; twistd by itself would end as killed by the signal.

        Handle SIGHUP: reload keys and certificates.
        """
        # A reactor that installs no signal handlers runs within another program, to which signals belong.
        if signal.getsignal(signal.SIGTERM) == getattr(self._reactor, "sigTerm", None):
            signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self._terminate))
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.rereadCertificates))

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
        with suppress(ReactorNotRunning):  # already stopping
            self._reactor.stop()


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
    ) -> None:
        """
        @param explain: makes a sentence of an error in its options.
        """
        super().__init__(endpoint, factory, reactor)
        self.endpointName = endpointName
        self._explain = explain
        self.isListening = False

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
        self.reactor.callWhenRunning(self._logListening, _addressText(port.getHost()))

    def _logListening(self, address: str) -> None:
        log.info("listening on {endpoint} ({address})", endpoint=self.endpointName, address=address)
        self.isListening = True
        if self.parent is not None:
            self.parent.listenerReady()

    def listeningFailed(self, failure: Failure) -> None:
        """The endpoint has failed after the start: the service ends as if it had not started."""
        self._logFailure(failure.value)
        atexit.register(_exitWithFailure)
        self.reactor.stop()

    def _logFailure(self, error: BaseException | None) -> str:
        sentence = f"cannot listen on {self.endpointName}: {_reason(error)}, free it or name another endpoint"
        log.critical("{sentence}", sentence=sentence)
        return sentence


def _addressText(address: object) -> str:
    return withPort(address.host, address.port) if isinstance(address, (IPv4Address, IPv6Address)) else str(address)


def _reason(error: BaseException | None) -> str:
    """Why listening failed, short enough for the hundred octets that twistd shows when it daemonizes."""
    if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError):
        return error.socketError.strerror or cause(error)
    return cause(error)


def _exitWithFailure() -> None:
    """Exit with status 1; twistd by itself would exit with 0, or be killed by a signal."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(1)
