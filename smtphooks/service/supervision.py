"""
Supervision: what a service manager is told, and how the log is written for one that reads it by machine.

systemd's protocol for readiness is one datagram (sd_notify(3)); where nobody asked for it, nothing happens.
This module knows neither SMTP nor what is configured.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, Logger, eventAsText
from twisted.python.logfile import LogFile

from smtphooks.service.reading import ConfigError

log = Logger()

# Seconds that a service manager may take to hear what it is told.
_PATIENCE = 1.0

# What Twisted's old log adds to its events; their text says it.
_LEGACY = ("message", "format", "system", "isError", "failure", "why")


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
        return FileLogObserver(sys.stdout, lineOfJSON)
    try:
        file = LogFile.fromFullPath(path)
    except OSError as error:
        raise ConfigError(f"--logfile {path} cannot be written ({error.strerror}), name another") from None
    _rotateBySignal(file)
    return FileLogObserver(file, lineOfJSON)


def lineOfJSON(event: LogEvent) -> str:
    """
    An event as one line of JSON, whatever is in it: what all events have, in a fixed order, then its own fields.

    Nothing of it is there to be read back by Twisted, which would need several times the octets.
    """
    level = event.get("log_level")
    line: dict[str, object] = {
        "time": _time(event.get("log_time")),
        "level": getattr(level, "name", level),
        "namespace": event.get("log_namespace"),
        # As people read it: the fields of a failure would lose its text and traceback.
        "text": eventAsText(event, includeTimestamp=False, includeSystem=False),
    }
    isLegacy = event.get("log_namespace") == "log_legacy"
    for name, value in event.items():
        if not name.startswith("log_") and not (isLegacy and name in _LEGACY):
            line.setdefault(name, value)
    return "{" + ", ".join(f"{json.dumps(name)}: {_inJSON(value)}" for name, value in line.items()) + "}\n"


def _time(seconds: Any) -> str:
    """RFC 3339."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):  # an event may have come from anywhere
        moment = datetime.now(timezone.utc)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _inJSON(value: object) -> str:
    """A value as JSON, and what JSON has no form for as text."""
    try:
        return json.dumps(value, default=_text, allow_nan=False)
    except Exception:  # NaN, a cycle, too deep, a key that is no text, an iterator that raises
        pass
    try:
        return json.dumps(_text(value))
    except Exception:
        return json.dumps(object.__repr__(value))


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _rotateBySignal(file: LogFile) -> None:
    """Do what twistd does for a log of its own, where nobody else has use for the signal."""
    from twisted.internet import reactor

    if signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL):
        signal.signal(signal.SIGUSR1, lambda *_: IReactorFromThreads(reactor).callFromThread(file.rotate))
