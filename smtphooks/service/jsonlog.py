"""
The JSON log: each event as one line of JSON, for a log that a program reads (C{--log-format=json}).

The lines go where twistd would write its own log, and a log file is rotated as twistd rotates it.
This module knows neither SMTP nor the configuration: the fields of an event are whatever the code that logs it gave.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, eventAsText
from twisted.python.logfile import LogFile

from smtphooks.service.reading import ConfigError

# Fields that twisted.python.log adds to its events; their content is in the text.
_LEGACY = ("message", "format", "system", "isError", "failure", "why")


def jsonObserver(twistd: Mapping[str, Any]) -> ILogObserver:
    """
    An observer that writes each event as a line of JSON, to the place where twistd would write its log.

    @param twistd: the flags of twistd itself.
    @raise ConfigError: if these ask for another log, or if the log file cannot be opened.
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
    An event as one line of JSON, whatever it holds: first the fields of every event, in a fixed order, then its own.

    It is not Twisted's own format (C{eventAsJSON}), which can be loaded again but takes several times the octets.
    """
    level = event.get("log_level")
    line: dict[str, object] = {
        "time": _time(event.get("log_time")),
        "level": getattr(level, "name", level),
        "namespace": event.get("log_namespace"),
        # The formatted text has the traceback of a failure; its fields do not.
        "text": eventAsText(event, includeTimestamp=False, includeSystem=False),
    }
    isLegacy = event.get("log_namespace") == "log_legacy"
    for name, value in event.items():
        if not name.startswith("log_") and not (isLegacy and name in _LEGACY):
            line.setdefault(name, value)
    return "{" + ", ".join(f"{json.dumps(name)}: {_inJSON(value)}" for name, value in line.items()) + "}\n"


def _time(seconds: Any) -> str:
    """A time stamp of RFC 3339, in UTC."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):  # any code may log, with any time
        moment = datetime.now(timezone.utc)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _inJSON(value: object) -> str:
    """A value as JSON; a value that JSON cannot represent as text."""
    try:
        return json.dumps(value, default=_text, allow_nan=False)
    except Exception:  # NaN, a cycle, too deep, a key that is not a string, an iterator that raises
        pass
    try:
        return json.dumps(_text(value))
    except Exception:
        return json.dumps(object.__repr__(value))


def _text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _rotateBySignal(file: LogFile) -> None:
    """Rotate the log on SIGUSR1, as twistd does with its own, unless the process has another handler."""
    from twisted.internet import reactor

    if signal.getsignal(signal.SIGUSR1) in (None, signal.SIG_DFL):
        signal.signal(signal.SIGUSR1, lambda *_: IReactorFromThreads(reactor).callFromThread(file.rotate))
