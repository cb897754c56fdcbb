"""
Lines of workers: what a worker writes to its stdout and stderr, on its way into the log of its supervisor.

Whole lines go on at once and as they are, so that lines of two workers never mix.  What has no line end yet waits, but
neither without bound nor beyond the end of its worker.
This module knows no process, and not where a log goes.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from smtphooks.service.logfile import textOf

# Octets of a line without an end that wait for it.  A traceback of Twisted's is a few thousand.
LINE_LIMIT = 1 << 20

_log = Logger()


class Lines:
    """
    Octets in, whole lines out.

    A line whose end does not come within C{LINE_LIMIT} is cut.  Each further piece begins with a tab, as further lines
    of an event do: text from a client could otherwise be taken for a line of the log.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """
        @param write: takes one or more whole lines.
        """
        self._write = write
        self._rest = bytearray()

    def feed(self, octets: bytes) -> None:
        """Take what has been read, wherever it is cut."""
        end = octets.rfind(b"\n") + 1
        whole, rest = octets[:end], octets[end:]
        if whole and self._rest:
            whole = bytes(self._rest) + whole
            self._rest.clear()
        if whole:
            self._write(whole)
        self._rest += rest
        while len(self._rest) >= LINE_LIMIT:
            self._write(bytes(self._rest[:LINE_LIMIT]) + b"\n")
            self._rest[:LINE_LIMIT] = b"\t"

    def end(self) -> None:
        """The worker has ended: half a line gets its line end."""
        if self._rest:
            self._write(bytes(self._rest) + b"\n")
            self._rest.clear()


def errorLines(worker: int) -> Lines:
    """
    Lines for the stderr of a worker, each of which is logged by its supervisor.

    These are the stack of a worker that hung, by C{faulthandler}, and the last words of Python.

    @param worker: its number.
    """

    def write(octets: bytes) -> None:
        for line in octets.splitlines():
            if line:
                _log.warn("worker {worker} says: {line}", worker=worker, line=textOf(line))

    return Lines(write)
