"""
The service that twistd runs: flags in, a service that listens and ends as it should out.

Whatever keeps it from starting ends the process with one sentence and status 1, before twistd shows a traceback or its
usage.  What a configuration may say is the business of C{smtphooks.config}.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from getopt import GetoptError
from typing import Any

import attrs
from twisted.application.service import MultiService
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from smtphooks.errors import OptionError, unknownName
from smtphooks.factory import SMTPServerFactory
from smtphooks.service.checkers import CREDENTIALS
from smtphooks.service.checking import Configuration, Listener, configure, describe
from smtphooks.service.reading import (
    DEFAULT_ENDPOINT,
    DEFAULT_MAILDIR,
    AuthSettings,
    ConfigError,
    HooksSettings,
    ListenerSettings,
    Settings,
    cause,
    defaultSettings,
    fileCheckers,
    maildirHooks,
    readSettings,
)
from smtphooks.service.service import SMTPService
from smtphooks.service.supervision import jsonObserver, notify

log = Logger()


class StartError(SystemExit, Exception):
    """
    The service cannot listen.

    It is both: for an Exception twistd removes its pid file and tells the process that waits for the daemon; with a
    SystemExit Python ends without a traceback.
    """

    # twistd shows a hundred octets of an error when it daemonizes, its full name first.
    __module__ = "smtphooks"

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = 1


@contextmanager
def _oneSentence() -> Iterator[None]:
    """End the process for a wrong configuration; twistd would show its whole usage, or a traceback."""
    try:
        yield
    except (ConfigError, UsageError) as error:
        sentence = " ".join(str(error).split())
        raise SystemExit(f"smtphooks: {sentence}") from None


class Options(UsageOptions, AuthOptionMixin):
    """
    The flags of C{twistd smtphooks}.

    @ivar configuration: what to run, once they are parsed.
    """

    synopsis = "[options]"
    longdesc = (
        f"An SMTP and LMTP server decided by lifecycle hooks.  Without options it listens on {DEFAULT_ENDPOINT}, takes"
        f" mail for anyone and stores it in the Maildir ./{DEFAULT_MAILDIR}.  Flags win over the configuration file."
    )
    optParameters = [
        ["config", None, None, "Read this TOML file."],
        ["hooks", None, None, "Use these hooks: package.module:Name."],
        ["maildir", None, None, "Store messages in this Maildir."],
        ["log-format", None, "text", "Write the log as text, or as json: one object a line."],
    ]
    supportedInterfaces = CREDENTIALS
    optFlags = [
        ["lmtp", None, "Speak LMTP on all listeners."],
        ["check", None, "Check the configuration, print all that is in force as TOML, and exit."],
    ]

    def __init__(self) -> None:
        UsageOptions.__init__(self)
        self.endpoints: list[str] = []
        self.checkers: list[str] = []
        self.configuration: Configuration

    def opt_listen(self, endpoint: str) -> None:
        """Listen on this Twisted endpoint, such as tcp:25; may be given several times."""
        self.endpoints.append(endpoint)

    def opt_auth(self, checker: str) -> None:
        """Ask this checker of Twisted's for users, such as file:passwd; may be given several times, see --help-auth."""
        self.checkers.append(checker)

    def parseArgs(self, *arguments: str) -> None:
        """There are none but flags."""
        if arguments:
            raise UsageError(f"unknown argument {arguments[0]}, there are only flags")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the flags, and load what they name."""
        with _oneSentence():
            try:
                UsageOptions.parseOptions(self, options)
            except UsageError as error:
                raise UsageError(self._explain(error)) from None

    def _explain(self, error: UsageError) -> str:
        sentence = str(error)
        unknown = error.__context__
        if isinstance(unknown, GetoptError) and "not recognized" in sentence:
            sentence = unknownName("flag", f"--{unknown.opt}", [f"--{name}" for name in self.synonyms])
        return f"{sentence} (twistd smtphooks --help lists all)"

    def postOptions(self) -> None:
        """Make the configuration; print it if that is all that is wanted."""
        if self["log-format"] not in ("text", "json"):
            raise ConfigError(f"--log-format is {self['log-format']}, write text or json")
        self.configuration = configure(self._settings())
        if self["check"]:
            self._check()

    def _settings(self) -> Settings:
        settings = defaultSettings() if self["config"] is None else readSettings(self["config"])
        if self["hooks"] is not None and self["maildir"] is not None:
            raise ConfigError("--hooks and --maildir both say what to do with messages, leave one out")
        if self["hooks"] is not None:
            settings = attrs.evolve(
                settings,
                hooks=HooksSettings(
                    "--hooks", self["hooks"], fix="correct it, or give it [hooks-options] in a --config"
                ),
            )
        if self["maildir"] is not None:
            settings = attrs.evolve(settings, hooks=maildirHooks("--maildir", self["maildir"]))
        if self["hooks"] is not None or self["maildir"] is not None:
            listeners = [attrs.evolve(listener, hooks=None) for listener in settings.listeners]
            settings = attrs.evolve(settings, listeners=listeners)
        if self.checkers:
            auth = fileCheckers(AuthSettings("--auth", self.checkers), os.getcwd())
            # Who names users wants no mail from others; a file says for itself.
            options = {} if self["config"] is None else settings.options
            settings = attrs.evolve(settings, auth=auth, options=options)
        if self.endpoints:
            listeners = [ListenerSettings(f"--listen {endpoint}", endpoint) for endpoint in self.endpoints]
            settings = attrs.evolve(settings, listeners=listeners)
        if self["lmtp"]:
            listeners = [
                attrs.evolve(listener, options={**listener.options, "lmtp": True}) for listener in settings.listeners
            ]
            settings = attrs.evolve(settings, listeners=listeners)
        return settings

    def _check(self) -> None:
        from twisted.internet import reactor

        for listener in self.configuration.listeners:
            # The sockets of systemd are there only when it starts the service.
            if not listener.endpoint.startswith("systemd:"):
                _endpointOf(listener, reactor)
        print(describe(self.configuration), end="")
        raise SystemExit(0)


def _endpointOf(listener: Listener, reactor: Any) -> IStreamServerEndpoint:
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, listener.endpoint)
        return endpoint
    except Exception as error:
        if listener.endpoint.startswith("systemd:") and isinstance(error, LookupError):
            raise ConfigError(
                f"{listener.where}: systemd has handed over no socket for {listener.endpoint}, start a .socket unit"
            ) from error
        raise ConfigError(
            f"{listener.where}: endpoint {listener.endpoint} is none of Twisted's, write one such as tcp:25 or"
            f" unix:/run/smtp.sock: {cause(error)}"
        ) from error


def makeService(options: Options) -> Listeners:
    """The service for these flags; called by twistd."""
    from twisted.internet import reactor

    with _oneSentence():
        # twistd itself may be run by another program, without flags of its own.
        observer = jsonObserver(options.parent or {}) if options["log-format"] == "json" else None
        return Listeners(options.configuration, reactor, observer)


class Listeners(MultiService):
    """All listeners of a configuration."""

    def __init__(self, configuration: Configuration, reactor: Any, observer: ILogObserver | None = None) -> None:
        """
        @param observer: what writes the log, None to leave it to twistd.
        """
        MultiService.__init__(self)
        self._reactor = reactor
        self._observer = observer
        for listener in configuration.listeners:
            endpoint = _endpointOf(listener, reactor)
            # addService alone would not tell it whose it is.
            service = ListenerService(listener.endpoint, endpoint, listener.factory, reactor, listener.explain)
            service.setServiceParent(self)  # type: ignore[no-untyped-call]

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd with its application, which is asked for an observer when the log begins."""
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)
        MultiService.setServiceParent(self, parent)

    def privilegedStartService(self) -> None:
        """Listen on everything, as twistd is still who it was started as."""
        # Before the listeners say that they listen, so that whoever waits for that can end the service.
        self._reactor.callWhenRunning(self._takeSignals)
        MultiService.privilegedStartService(self)

    def listens(self) -> None:
        """One more listener is ready; when all are, so is the service."""
        if all(listener.isListening for listener in self):
            notify("READY=1")

    def stopService(self) -> Any:
        """End everything as it should."""
        notify("STOPPING=1")
        return MultiService.stopService(self)

    def _takeSignals(self) -> None:
        """
        SIGTERM is how a service is asked to end, so its status is 0 then; twistd alone would die of the signal.

        SIGHUP is how it is asked to look at its files again.
        """
        # Where the reactor leaves signals to others, so do we.
        if signal.getsignal(signal.SIGTERM) == getattr(self._reactor, "sigTerm", None):
            signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self._terminate))
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.rereadCertificates))

    def rereadCertificates(self) -> None:
        """Have new handshakes use what the files of TLS hold now; where that is wrong, what they held before."""
        results: dict[str, list[str]] = {}
        for listener in self:
            results.setdefault(listener.rereadCertificates(), []).append(listener.endpointName)
        # Listeners have most files in common: what is wrong with one of these is said once.
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
        with suppress(ReactorNotRunning):  # it is closing already
            self._reactor.stop()


class ListenerService(SMTPService):
    """
    One listener.

    @ivar endpointName: its endpoint, as it was configured.
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
        @param explain: puts an error of options into words.
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
        """Read keys and certificates again; what is wrong with them, an empty text if all is well."""
        try:
            self.factory.updateSecureContext()
        except OptionError as error:
            return str(self._explain(error))
        except Exception as error:  # nothing that a file holds may harm a service that runs
            return cause(error)
        return ""

    def listens(self, port: IListeningPort) -> None:
        """C{SMTPService}"""
        self.reactor.callWhenRunning(self._sayListening, _written(port.getHost()))

    def _sayListening(self, address: str) -> None:
        log.info("listening on {endpoint} ({address})", endpoint=self.endpointName, address=address)
        self.isListening = True
        if self.parent is not None:
            self.parent.listens()

    def listeningFailed(self, failure: Failure) -> None:
        """An endpoint that took its time has failed: the service ends as if it had not started."""
        self._logFailure(failure.value)
        atexit.register(_exitWithFailure)
        self.reactor.stop()

    def _logFailure(self, error: BaseException | None) -> str:
        sentence = f"cannot listen on {self.endpointName}: {_reason(error)}, free it or name another endpoint"
        log.critical("{sentence}", sentence=sentence)
        return sentence


def _written(address: object) -> str:
    """An address as people write it."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    return str(address)


def _reason(error: BaseException | None) -> str:
    """Why one cannot listen, short enough for the hundred octets that twistd shows of it when it daemonizes."""
    if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError):
        return error.socketError.strerror or cause(error)
    return cause(error)


def _exitWithFailure() -> None:
    """End with status 1; by itself twistd ends with 0, or by a signal."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(1)
