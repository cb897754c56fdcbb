"""
The JSON log: each event as one line of JSON, for a log that a program reads (C{--log-format=json}).

The lines go where twistd would write its own log.
This module knows neither SMTP nor the configuration: the fields of an event are whatever the code that logs it gave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache, partial
from typing import Any

from twisted.logger import ILogObserver, LogEvent, eventAsText

from smtphooks.service.logfile import needsStdout, observerOf, observerOfWorker
from smtphooks.service.settings import ConfigError
from smtphooks.service.textlog import plainText

# Fields that twisted.python.log adds to its events; their content is in the text.
_LEGACY = ("message", "format", "system", "isError", "failure", "why")

# Fields that every line has.
_COMMON = ("time", "level", "namespace", "text")


def jsonObserver(twistd: Mapping[str, Any], worker: int | None = None) -> ILogObserver:
    """
    An observer that writes each event as a line of JSON, to the place where twistd would write its log.

    @param twistd: the flags of twistd itself.
    @param worker: the number of the worker that this process is, which writes to stdout, for its supervisor.
    @raise ConfigError: if these ask for another log, or if the log file cannot be opened.
    """
    for flag in ("logger", "syslog"):
        if twistd.get(flag):
            raise ConfigError(f"--log-format=json and --{flag} both say how to log, leave one out")
    if worker is not None:
        return observerOfWorker(partial(lineOfJSON, worker=worker))
    if needsStdout(twistd):
        raise ConfigError("--log-format=json to stdout needs -n, a daemon has none")
    return observerOf(twistd, lineOfJSON)


def lineOfJSON(event: LogEvent, worker: int | None = None) -> str:
    """
    An event as one line of JSON, whatever it holds: first the fields of every event, in a fixed order, then its own.

    It is not Twisted's own format (C{eventAsJSON}), which can be loaded again but takes several times the octets.

    @param worker: the number of the worker that logs it.
    """
    level = event.get("log_level")
    text = plainText(event)
    if text is None:
        # It has the traceback of a failure; the fields of the event do not.
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    namespace = event.get("log_namespace")
    line: dict[str, object] = {
        "time": _time(event.get("log_time")),
        "level": getattr(level, "name", level),
        "namespace": namespace,
    }
    if worker is not None:
        line["worker"] = worker
    line["text"] = text
    for name in _ownFields(tuple(event), namespace == "log_legacy"):
        line[name] = event[name]
    if worker is not None:  # an event has no other
        line["worker"] = worker
    try:
        return _encode(line) + "\n"
    except Exception:  # a value that JSON cannot represent; which one, and how much of it, is found one by one
        return "{" + ", ".join(f"{json.dumps(name)}: {_inJSON(value)}" for name, value in line.items()) + "}\n"


@lru_cache(maxsize=256)
def _ownFields(names: tuple[str, ...], isLegacy: bool) -> list[str]:
    """Of the fields of an event those that it does not share with others; events of a kind have the same."""
    ours = {*_COMMON, *(_LEGACY if isLegacy else ())}
    return [name for name in names if not name.startswith("log_") and name not in ours]


def _time(seconds: Any) -> str:
    """A time stamp of RFC 3339, in UTC."""
    try:
        if type(seconds) is float and seconds >= 0:
            second, fraction = divmod(seconds, 1)
            microseconds = round(fraction * 1_000_000)  # as datetime rounds
            if microseconds < 1_000_000:
                return f"{_second(second)}.{microseconds:06d}Z"
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):  # any code may log, with any time
        moment = datetime.now(timezone.utc)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


@lru_cache(maxsize=2)
def _second(second: float) -> str:
    return datetime.fromtimestamp(second, timezone.utc).replace(tzinfo=None).isoformat(timespec="seconds")


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


# json.dumps makes an encoder for each call that has arguments.
_encode = json.JSONEncoder(default=_text, allow_nan=False).encode
