"""
Supervision: what a service manager is told, and how the log is written for one that reads it by machine.

systemd's protocol for readiness is one datagram (sd_notify(3)); where nobody asked for it, nothing happens.
This module knows neither SMTP nor what is configured.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, Logger, eventAsJSON, eventAsText
from twisted.python.logfile import LogFile

from smtphooks.settings import ConfigError

log = Logger()

# Seconds that a service manager may take to hear what it is told.
_PATIENCE = 1.0


def notify(state: str) -> None:
    """
    Tell the service manager, if there is one, such as C{"READY=1"} or C{"STOPPING=1"}.

    That it cannot be told is logged and harms nobody.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract one, unix(7)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            told.settimeout(_PATIENCE)
            told.connect(address)
            told.sendall(state.encode())
    except OSError as error:
        log.warn("the service manager cannot be told {state}: {error}", state=state, error=str(error))


def jsonObserver(twistd: Mapping[str, Any]) -> ILogObserver:
    """
    An observer that writes each event as a line of JSON, to where twistd would write its log.

    @param twistd: the flags of twistd itself.
    @raise ConfigError: if they want something else, or if there is no such place.
    """
    for flag in ("logger", "syslog"):
        if twistd.get(flag):
            raise ConfigError(f"--log-format=json and --{flag} both say how to log, leave one out")
    isDaemon = not twistd.get("nodaemon", True)
    path = twistd.get("logfile") or ("twistd.log" if isDaemon else "-")
    if path == "-" and isDaemon:
        raise ConfigError("--log-format=json to stdout needs -n, a daemon has none")
    if path == "-":
        return FileLogObserver(sys.stdout, _line)
    try:
        file = LogFile.fromFullPath(path)
    except OSError as error:
        raise ConfigError(f"--logfile {path} cannot be written ({error.strerror}), name another") from None
    _rotateBySignal(file)
    return FileLogObserver(file, _line)


def _line(event: LogEvent) -> str:
    """An event as Twisted writes it in JSON, and as people read it: a failure would lose its text and traceback."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    return eventAsJSON({**event, "text": text}) + "\n"


def _rotateBySignal(file: LogFile) -> None:
    """Do what twistd does for a log of its own, where nobody else has use for the signal."""
    from twisted.internet import reactor

    if signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL):
        signal.signal(signal.SIGUSR1, lambda *_: IReactorFromThreads(reactor).callFromThread(file.rotate))
