"""
The place of the log: where twistd would write its own, a log file or stdout.

A log file is rotated as twistd rotates its own: by size, and on SIGUSR1.  The sockets of Twisted's resolver are not
logged: it opens one for each query, and four lines about each would hide all others.
Lines that workers have written go to the place of their supervisor as they are.
This module knows the flags of twistd; what a line of the log looks like is its caller's.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.logfile import LogFile

from smtphooks.service.settings import ConfigError

_log = Logger()

# What a UDP port and its protocol log at their begin and their end.
_RESOLVER = re.compile(
    r"DNSDatagramProtocol starting on \d+|\(UDP Port \d+ Closed\)"
    r"|(?:Starting|Stopping) protocol <twisted\.names\.dns\.DNSDatagramProtocol "
)

# What a port logs when it begins to listen, and when it ends; those of a worker come and go with its siblings.
_PORT = re.compile(r"\S+ starting on (?:\d+|b?'.*'|b?\".*\")$|\((?:TCP|UNIX|TLS) Port .* Closed\)$")
_OF_PROCESS = ("twisted.scripts._twistd_unix.UnixAppLogger", "twisted.internet.base")


def needsStdout(twistd: Mapping[str, Any]) -> bool:
    """
    These flags ask for a log to stdout, which a daemon does not have.

    @param twistd: the flags of twistd itself.
    """
    return twistd.get("logfile") == "-" and _isDaemon(twistd)


class PlaceObserver(FileLogObserver):
    """An observer that also takes lines which another process has made."""

    def writeLines(self, octets: bytes) -> None:
        """Write whole lines as they are, between those of this process."""
        file = self._outFile if isinstance(self._outFile, LogFile) else getattr(self._outFile, "buffer", None)
        try:
            if file is None:  # a program has put something of its own in the place of stdout
                self._outFile.write(textOf(octets))
            else:
                file.write(octets)
            self._outFile.flush()
        except OSError:  # the worker is not to blame, and its next lines may find space on the disk again
            _log.failure("lines of workers cannot be written to the log")


def observerOf(twistd: Mapping[str, Any], lineOf: Callable[[LogEvent], str | None]) -> PlaceObserver:
    """
    An observer that writes to the place where twistd would write its log.

    @param twistd: the flags of twistd itself.
    @param lineOf: makes a line of an event, or None if there is nothing to write.
    @raise ConfigError: if the log file cannot be opened.
    """
    lineToWrite = _withoutResolver(lineOf)
    path = twistd.get("logfile") or ("twistd.log" if _isDaemon(twistd) else "-")
    if path == "-":
        return PlaceObserver(sys.stdout, lineToWrite)
    try:
        file = LogFile.fromFullPath(path)
    except OSError as error:
        raise ConfigError(f"--logfile {path} cannot be written ({error.strerror}), name another") from None
    _onRotationSignal(file.rotate)
    return PlaceObserver(file, lineToWrite)


def observerOfWorker(lineOf: Callable[[LogEvent], str | None]) -> ILogObserver:
    """
    An observer for a worker, which writes to stdout, from where its supervisor takes the lines to the place of the log.

    @param lineOf: makes a line of an event, or None if there is nothing to write.
    """
    # The supervisor has the file, but "systemctl kill" sends the signal to all processes of a unit.
    _onRotationSignal(lambda: None)
    lineToWrite = _withoutResolver(lineOf)
    return FileLogObserver(sys.stdout, lambda event: None if _isOfProcess(event) else lineToWrite(event))


def logPlace(observer: ILogObserver | None) -> Callable[[bytes], object]:
    """
    Where a supervisor puts the lines of its workers: the place where its own log goes.

    @param observer: that of the supervisor, or None if twistd or another program logs; then each line is an event.
    @return: takes whole lines.
    """
    return observer.writeLines if isinstance(observer, PlaceObserver) else _logLines


def textOf(octets: bytes) -> str:
    """What a worker has written, as text, whatever it is."""
    return octets.decode(errors="backslashreplace")


def _logLines(octets: bytes) -> None:
    for line in octets.splitlines():
        _log.info("{line}", line=textOf(line))


def _withoutResolver(lineOf: Callable[[LogEvent], str | None]) -> Callable[[LogEvent], str | None]:
    def lineToWrite(event: LogEvent) -> str | None:
        return None if _isOfResolver(event) else lineOf(event)

    return lineToWrite


def _isOfResolver(event: LogEvent) -> bool:
    return event.get("log_namespace") == "log_legacy" and _RESOLVER.match(str(event.get("log_text"))) is not None


def _isOfProcess(event: LogEvent) -> bool:
    """Whether Twisted tells of the process or of its ports, of which a supervisor tells for all workers."""
    if event.get("log_namespace") == "log_legacy":
        return _PORT.match(str(event.get("log_text"))) is not None
    return event.get("log_namespace") in _OF_PROCESS and event.get("log_level") is LogLevel.info


def _isDaemon(twistd: Mapping[str, Any]) -> bool:
    return not twistd.get("nodaemon", True)


def _onRotationSignal(rotate: Callable[[], object]) -> None:
    """Rotate the log on SIGUSR1, as twistd does with its own, unless the process has another handler."""
    from twisted.internet import reactor

    # A supervisor ignores it while it replaces its program, which begins with that.
    if signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGUSR1, lambda *_: IReactorFromThreads(reactor).callFromThread(rotate))
