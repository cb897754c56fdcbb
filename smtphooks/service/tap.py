"""
C{twistd smtphooks}: the flags, and the entry that twistd calls; the command C{smtphooks} adds to the flags.

Flags in, a checked configuration and then the service out.  A wrong configuration ends the process with one sentence
and status 1, before twistd shows a traceback or its usage.
This module does not check options (C{checking}), and neither listens nor handles signals (C{listeners}).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from getopt import GetoptError
from typing import Any

import attrs
from twisted.application.service import IService
from twisted.cred.strcred import AuthOptionMixin
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from smtphooks.errors import unknownName
from smtphooks.service.checkers import CREDENTIALS
from smtphooks.service.checking import Configuration, configure
from smtphooks.service.effective import describe
from smtphooks.service.handover import SUPERVISOR, takeHandOver
from smtphooks.service.jsonlog import jsonObserver
from smtphooks.service.listeners import Listeners, endpointOf, metricsEndpointOf
from smtphooks.service.program import Program
from smtphooks.service.reading import (
    DEFAULT_ENDPOINT,
    DEFAULT_MAILDIR,
    defaultSettings,
    fileCheckers,
    maildirHooks,
    readSettings,
)
from smtphooks.service.settings import (
    AuthSettings,
    ConfigError,
    HooksSettings,
    ListenerSettings,
    Settings,
    workersFrom,
)
from smtphooks.service.supervisor import Supervisor
from smtphooks.service.textlog import textObserver
from smtphooks.service.worker import WorkerService, takePlace
from smtphooks.service.workers import Place


@contextmanager
def oneSentence(isTraced: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """
    End the process with one sentence if the configuration is wrong; twistd would show its usage, or a traceback.

    @param isTraced: the operator wants to see where the error came from.
    """
    try:
        yield
    except (ConfigError, UsageError) as error:
        if isTraced():
            showTraceback(error)
        sentence = " ".join(str(error).split())
        raise SystemExit(f"smtphooks: {sentence}") from None
    except SystemExit as error:
        if isTraced() and error.__cause__ is not None:
            showTraceback(error)
        raise


def showTraceback(error: BaseException) -> None:
    """
    Print where an error came from, and what caused it, on the standard error.

    The texts of the errors are left out: they may hold passwords, and the sentence that follows is free of them.
    """
    chain = [error]
    # An error may be the cause of its own cause: "raise b from a", and then "raise a from b".
    while (cause := chain[0].__cause__ or chain[0].__context__) is not None and cause not in chain:
        chain.insert(0, cause)
    for each in chain:
        lines = traceback.format_tb(each.__traceback__)
        print(f"Traceback of {type(each).__name__}:\n{''.join(lines)}", end="", file=sys.stderr)


def explained(command: str, flags: Iterable[str], error: UsageError) -> str:
    """What is wrong with the flags of a command, with the nearest flag that there is."""
    sentence = str(error)
    unknown = error.__context__
    if isinstance(unknown, GetoptError) and "not recognized" in sentence:
        sentence = unknownName("flag", f"--{unknown.opt}", [f"--{name}" for name in flags])
    return f"{sentence} ({command} --help lists all)"


class Options(UsageOptions, AuthOptionMixin):
    """
    The flags of C{twistd smtphooks}.

    @cvar command: how this list of flags is shown.
    @ivar configuration: what the flags, and the file they name, ask for; set when they are parsed, but by a supervisor,
        whose workers make it.
    @ivar place: the place of this process as a worker, None if it is none.
    @ivar program: how workers are started, None without a supervisor.
    """

    command = "twistd smtphooks"
    synopsis = "[options]"
    longdesc: str = (
        f"An SMTP and LMTP server decided by lifecycle hooks.  Without options it listens on {DEFAULT_ENDPOINT}, takes"
        f" mail for anyone and stores it in the Maildir ./{DEFAULT_MAILDIR}.  Flags win over the configuration file."
    )
    optParameters: list[list[str | None]] = [
        ["config", None, None, "Read this TOML file."],
        ["hooks", None, None, "Use these hooks: package.module:Name."],
        ["maildir", None, None, "Store messages in this Maildir."],
        ["log-format", None, "text", "Write the log as text, or as json: one object a line."],
        ["workers", None, None, "Serve with this number of processes, or auto: one for each core."],
    ]
    supportedInterfaces: tuple[Any, ...] | None = CREDENTIALS
    optFlags: list[list[str | None]] = [
        ["lmtp", None, "Speak LMTP on all listeners."],
        ["check", None, "Check the configuration, print all that is in force as TOML, and exit."],
        ["traceback", None, "If the configuration is wrong, show the lines of Python that led there."],
    ]

    def __init__(self) -> None:
        UsageOptions.__init__(self)
        self.endpoints: list[str] = []
        self.checkers: list[str] = []
        self.place: Place | None = None
        self.program: Program | None = None
        self.configuration: Configuration

    def opt_listen(self, endpoint: str) -> None:
        """Listen on this Twisted endpoint, such as tcp:25; may be given several times."""
        self.endpoints.append(endpoint)

    def opt_auth(self, checker: str) -> None:
        """Ask this checker of Twisted's for users, such as file:passwd; may be given several times, see --help-auth."""
        self.checkers.append(checker)

    def parseArgs(self, *arguments: str) -> None:
        """Reject arguments that are not flags."""
        if arguments:
            raise UsageError(f"unknown argument {arguments[0]}, there are only flags")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the flags, and load what they name; exit if any of it is wrong."""
        with oneSentence(self.isTraced):
            try:
                UsageOptions.parseOptions(self, options)
            except UsageError as error:
                raise UsageError(explained(self.command, self.synonyms, error)) from None

    def isTraced(self) -> bool:
        """Has C{--traceback} been given?"""
        return bool(self["traceback"])

    def postOptions(self) -> None:
        """Make the configuration; with C{--check} print it and exit."""
        if self["log-format"] not in ("text", "json"):
            raise ConfigError(f"--log-format is {self['log-format']}, write text or json")
        settings = self.settings()
        self.place = takePlace()
        if settings.workers.number and self.place is None and not self["check"]:
            self._checkChroot()
            self.program = Program(self._flags(), os.getcwd())
            if SUPERVISOR not in os.environ:  # else the program before this one has checked it
                self.program.checkFirst()
            return
        self.configuration = configure(settings)
        if self["check"]:
            self._check()

    def _checkChroot(self) -> None:
        parent: Mapping[str, Any] = self.parent or {}
        chroot = self.get("chroot") or parent.get("chroot")
        if chroot and not os.path.exists(os.path.join(chroot, sys.executable.lstrip("/"))):
            raise ConfigError(
                f"--chroot {chroot} has no {sys.executable}, by which workers are started, put Python and its modules"
                " there, or leave --chroot or workers out"
            )

    def _flags(self) -> list[str]:
        """The flags of the service, for another process."""
        flags = [
            each
            for name in ("config", "hooks", "maildir", "log-format", "logger")
            if self.get(name) is not None
            for each in (f"--{name}", self[name])
        ]
        parent: Mapping[str, Any] = self.parent or {}
        reactor = self.get("reactor") or parent.get("reactor")
        if reactor is not None:
            flags += ["--reactor", reactor]
        flags += [each for endpoint in self.endpoints for each in ("--listen", endpoint)]
        flags += [each for checker in self.checkers for each in ("--auth", checker)]
        return flags + [f"--{name}" for name in ("lmtp", "traceback") if self[name]]

    def settings(self) -> Settings:
        """
        What the flags, and the file they name, say now.

        @raise ConfigError: if that is wrong.
        """
        settings = defaultSettings() if self["config"] is None else readSettings(self["config"])
        if self["hooks"] is not None and self["maildir"] is not None:
            raise ConfigError("--hooks and --maildir both say what to do with messages, leave one out")
        if self["hooks"] is not None:
            settings = attrs.evolve(
                settings,
                layers=[
                    HooksSettings("--hooks", self["hooks"], fix="correct it, or give it [hooks-options] in a --config")
                ],
            )
        if self["maildir"] is not None:
            settings = attrs.evolve(settings, layers=[maildirHooks("--maildir", self["maildir"])])
        if self["hooks"] is not None or self["maildir"] is not None:
            listeners = [attrs.evolve(listener, layers=None) for listener in settings.listeners]
            settings = attrs.evolve(settings, listeners=listeners)
        if self.checkers:
            auth = fileCheckers(AuthSettings("--auth", self.checkers), os.getcwd())
            # An operator who names users wants mail from them alone; with a file, the file decides.
            options = {} if self["config"] is None else settings.options
            settings = attrs.evolve(settings, auth=auth, options=options)
        if self["workers"] is not None:
            given = self["workers"]
            # Python makes no number of more than some thousand digits.
            number = int(given) if given.isascii() and given.isdecimal() and len(given) < 9 else given
            workers = attrs.evolve(settings.workers, workers=workersFrom("--workers", number))
            settings = attrs.evolve(settings, workers=workers)
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
            # Sockets that systemd hands over exist only in a process that it has started.
            if not listener.endpoint.startswith("systemd:"):
                endpointOf(listener, reactor)
        metricsEndpointOf(self.configuration, reactor)
        print(describe(self.configuration), end="")
        raise SystemExit(0)


def makeService(options: Options) -> IService:
    """The service for these flags, called by twistd."""
    from twisted.internet import reactor

    with oneSentence(options.isTraced):
        observerFor = jsonObserver if options["log-format"] == "json" else textObserver
        # Another program may have made these options, without those of twistd around them.
        twistd: Mapping[str, Any] = options.parent or {}
        if options.program is not None:
            handedOver = takeHandOver()
            return Supervisor(options.settings, options.program, reactor, twistd, observerFor(twistd), handedOver)
        if options.place is not None:
            place = options.place
            return WorkerService(options.configuration, reactor, place, observerFor(twistd, place.number))
        return Listeners(options.configuration, reactor, observerFor(twistd))
