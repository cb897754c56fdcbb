"""
C{smtphooks status}: what a supervisor and its workers do just now.

Flags in, a table on stdout and an exit status out: 0 if new clients are served, 3 if they are not, 1 if no supervisor
answers.
This module knows how the answer of a supervisor is shown, and not how it comes about.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from twisted.python.usage import UsageError

from smtphooks.command import asking
from smtphooks.command.client import printable
from smtphooks.service.tap import explained, oneSentence

# States in which new clients are served.
_SERVES = ("serving", "reloading")
NOT_SERVING = 3

_HEADINGS = ("worker", "pid", "state", "since", "connections", "conn/s", "msg/s", "cpu", "memory")
# These are words, which stand at the left of their column.
_WORDS = (2,)

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

# How many things that connections wait for are shown of a worker.
_MOST_WAITS = 6


class Options(asking.Options):
    """The flags of C{smtphooks status}."""

    command = "smtphooks status"
    synopsis = "Usage: smtphooks status [--config FILE | --control PATH] [--json]"
    longdesc: str = (
        "Shows what the workers of a supervisor do.  The exit status is 0 if new clients are served, 3 if they are not,"
        " and 1 if no supervisor answers."
    )
    optFlags: list[list[str | None]] = [["json", None, "Print the answer as JSON."]]


def main(arguments: Sequence[str]) -> None:
    """
    Show it.

    @raise SystemExit: always; with a sentence if there is no answer.
    """
    options = Options()  # type: ignore[no-untyped-call]
    with oneSentence():
        try:
            options.parseOptions(arguments)  # type: ignore[no-untyped-call]
        except UsageError as error:
            raise UsageError(explained(options.command, options.synonyms, error)) from None
        status = asking.ask(options.path, "status")
    text = json.dumps(status, indent=2) if options["json"] else shown(status)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        # Who reads has seen enough, such as head.  Python would write once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0 if status.get("state") in _SERVES else NOT_SERVING)


def shown(status: Mapping[str, Any]) -> str:
    """The answer, for a reader."""
    workers = status.get("workers", [])
    rows = [_HEADINGS, *[_rowOf(worker) for worker in workers]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    heading, *others = [_aligned(row, widths) for row in rows]
    lines = [f"smtphooks {status.get('version', '')}, pid {status.get('pid')}: {status.get('state')}", "", heading]
    for line, worker in zip(others, workers, strict=True):
        lines += [line, *_waitsOf(worker.get("waits", {}))]
    lines += ["", *[f"{count} at {endpoint}" for endpoint, count in status.get("listeners", {}).items()]]
    return "\n".join(printable(line) for line in lines).rstrip()


def _rowOf(worker: Mapping[str, Any]) -> tuple[str, ...]:
    rates, memory = worker.get("perSecond", {}), worker.get("memory")
    seconds = worker.get("seconds")
    cpu = rates.get("processor")
    return (
        str(worker.get("number")),
        str(worker.get("pid", "")),
        str(worker.get("state")),
        "" if seconds is None else duration(seconds),
        # A worker that hangs does not say.
        str(worker.get("connections", "?" if "pid" in worker else "")),
        *(f"{rates[name]:.1f}" if name in rates else "" for name in ("accepted", "messages")),
        "" if cpu is None else f"{cpu:.0%}",
        "" if memory is None else f"{memory / 2**20:.0f} MiB",
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        text.ljust(width) if column in _WORDS else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _waitsOf(waits: Mapping[str, int]) -> list[str]:
    """A line for each thing that connections of a worker wait for, those with most connections first."""
    most = sorted(waits.items(), key=lambda item: -item[1])
    lines = [f"        {count} waiting for {what}" for what, count in most[:_MOST_WAITS]]
    more = sum(count for _, count in most[_MOST_WAITS:])
    return [*lines, f"        {more} waiting for something else"] if more else lines


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    left = int(max(0, seconds))
    for (size, unit), (smaller, next_) in pairwise(_UNITS):
        if left >= size:
            return f"{left // size} {unit} {left % size // smaller} {next_}"
    return f"{left} s"
