"""
The place of the log: where twistd would write its own, a log file or stdout.

A log file is rotated as twistd rotates its own: by size, and on SIGUSR1.  The sockets of Twisted's resolver are not
logged: it opens one for each query, and four lines about each would hide all others.
This module knows the flags of twistd; what a line of the log looks like is its caller's.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import FileLogObserver, ILogObserver, LogEvent
from twisted.python.logfile import LogFile

from smtphooks.service.settings import ConfigError

# What a UDP port and its protocol log at their begin and their end.
_RESOLVER = re.compile(
    r"DNSDatagramProtocol starting on \d+|\(UDP Port \d+ Closed\)"
    r"|(?:Starting|Stopping) protocol <twisted\.names\.dns\.DNSDatagramProtocol "
)


def needsStdout(twistd: Mapping[str, Any]) -> bool:
    """
    These flags ask for a log to stdout, which a daemon does not have.

    @param twistd: the flags of twistd itself.
    """
    return twistd.get("logfile") == "-" and _isDaemon(twistd)


def observerOf(twistd: Mapping[str, Any], lineOf: Callable[[LogEvent], str | None]) -> ILogObserver:
    """
    An observer that writes to the place where twistd would write its log.

    @param twistd: the flags of twistd itself.
    @param lineOf: makes a line of an event, or None if there is nothing to write.
    @raise ConfigError: if the log file cannot be opened.
    """

    def lineToWrite(event: LogEvent) -> str | None:
        return None if _isOfResolver(event) else lineOf(event)

    path = twistd.get("logfile") or ("twistd.log" if _isDaemon(twistd) else "-")
    if path == "-":
        return FileLogObserver(sys.stdout, lineToWrite)
    try:
        file = LogFile.fromFullPath(path)
    except OSError as error:
        raise ConfigError(f"--logfile {path} cannot be written ({error.strerror}), name another") from None
    _rotateBySignal(file)
    return FileLogObserver(file, lineToWrite)


def _isOfResolver(event: LogEvent) -> bool:
    return event.get("log_namespace") == "log_legacy" and _RESOLVER.match(str(event.get("log_text"))) is not None


def _isDaemon(twistd: Mapping[str, Any]) -> bool:
    return not twistd.get("nodaemon", True)


def _rotateBySignal(file: LogFile) -> None:
    """Rotate the log on SIGUSR1, as twistd does with its own, unless the process has another handler."""
    from twisted.internet import reactor

    if signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL):
        signal.signal(signal.SIGUSR1, lambda *_: IReactorFromThreads(reactor).callFromThread(file.rotate))
