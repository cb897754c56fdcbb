"""
The text log: the lines that twistd itself would write, octet for octet, for a fifth of its time.

A plain event, such as each of the event log, is formatted here: a time stamp once a second, and the text by
C{str.format_map}.  Every other event, with a failure, a call in its format or anything odd, is Twisted's to format.
This module knows neither SMTP nor the configuration, and no format of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from string import Formatter
from typing import Any

from twisted.logger import ILogObserver, LogEvent, formatEventAsClassicLogText, formatTime

from smtphooks.service.logfile import needsStdout, observerOf, observerOfWorker

# Flags of twistd for a log that is not this one: another observer, syslog, and the debugger, which means -n but leaves
# the log in the file of a daemon.
_NOT_OURS = ("logger", "syslog", "debug")


def textObserver(twistd: Mapping[str, Any], worker: int | None = None) -> ILogObserver | None:
    """
    An observer that writes what twistd would write, to the same place.

    @param twistd: the flags of twistd itself, or those of another program that runs the service.
    @param worker: the number of the worker that this process is, which writes to stdout, for its supervisor.
    @return: None if that program logs by itself, or if twistd shall make its observer itself, or refuse to.
    @raise ConfigError: if the log file cannot be opened.
    """
    if worker is not None:
        return None if twistd.get("logger") else observerOfWorker(partial(lineOfWorker, worker=worker))
    if "nodaemon" not in twistd or any(twistd.get(flag) for flag in _NOT_OURS) or needsStdout(twistd):
        return None
    return observerOf(twistd, lineOfText)


def lineOfWorker(event: LogEvent, worker: int) -> str | None:
    """
    An event as L{lineOfText} writes it, each line with the number of the worker.

    It stands in the bracket before the system, behind the time, and in a bracket of its own in further lines: lines of
    other workers may come between these.
    """
    line = lineOfText(event)
    # A time stamp has no space.
    return line and line.replace(" [", f" [worker {worker} ", 1).replace("\n\t", f"\n\t[worker {worker}] ")


def lineOfText(event: LogEvent) -> str | None:
    """An event as the line, or the lines, that C{formatEventAsClassicLogText} makes of it."""
    when = event.get("log_time")
    if type(when) is float and "log_system" not in event:
        second, fraction = divmod(when, 1)
        # Twisted rounds to microseconds, so the last one may belong to the next second.
        text = plainText(event) if fraction < 0.999999 else None
        if text:
            try:
                line = f"{_stamp(second)} [{event['log_namespace']}#{event['log_level'].name}] {text}"
            except Exception:  # no such field, or a time that is in no calendar
                pass
            else:
                return line.replace("\n", "\n\t") + "\n"
    return formatEventAsClassicLogText(event)


def plainText(event: LogEvent) -> str | None:
    """The text of an event without its time and its system, or None if only Twisted's C{eventAsText} can format it."""
    template = event.get("log_format")
    if "log_failure" in event or "log_flattened" in event or type(template) is not str or not _isPlain(template):
        return None
    try:
        return template.format_map(event)
    except BaseException:  # as Twisted does, which then writes what could not be formatted, and why
        return None


@lru_cache(maxsize=256)
def _isPlain(template: str) -> bool:
    """
    The format names whole fields only, which C{str.format_map} and Twisted format alike.

    Twisted can call C{{name()}} besides, and it finds attributes and items by ways of its own.
    """
    try:
        fields = list(Formatter().parse(template))
    except ValueError:
        return False
    return all(name is None or (name.isidentifier() and "{" not in str(spec)) for _, name, spec, _ in fields)


@lru_cache(maxsize=2)
def _stamp(second: float) -> str:
    """
    The time stamp of a whole second, for all moments within it: the offset to UTC changes at whole seconds.

    @raise Exception: for a time that no calendar has.
    """
    return formatTime(second)
