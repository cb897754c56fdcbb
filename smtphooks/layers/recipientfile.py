"""
A file of recipients that is read again when it has changed.

In: the path of the file.  Out: the list in it, never older than a look-up two seconds ago.
Rule kept here: a file that is damaged, half written or gone changes nothing; the list that was read before stays in
force, and the log says what is wrong and in which line.
This module knows no session, and not what a recipient is refused with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from stat import S_ISREG

from twisted.logger import Logger

from smtphooks.layers.mailboxes import Listing, readListing

log: Logger = Logger()

_EVERY = 1.0  # seconds between two looks at the file
# A file that was written to less than this many seconds ago may still be half written.
_SETTLED = 1.0

# All of it is in memory, and is read while the server does nothing else.
_MOST_OCTETS = 64 * 2**20

_Identity = tuple[int, int, int]


class RecipientFile:
    """A file of recipients."""

    def __init__(self, path: str, within: frozenset[str] | None, seconds: Callable[[], float]) -> None:
        """
        @param within: the domains that the addresses in it may have; None for any.
        @param seconds: returns the time, in seconds since whenever.
        @raise OSError: if it cannot be read.
        @raise ValueError: if its content is malformed; the text names the line.
        """
        self._path = path
        self._within = within
        self._seconds = seconds
        self._lastLook: float | None = None
        self._lastProblem = ""
        self._identity, self._listing = self._read()

    def listing(self) -> Listing:
        """The list; the file is looked at if the last look is a second ago."""
        now = self._seconds()
        if self._lastLook is None or not 0 <= now - self._lastLook < _EVERY:
            self._lastLook = now
            self._look()
        return self._listing

    def _look(self) -> None:
        try:
            stat = os.stat(self._path)
            if _identityOf(stat) == self._identity or 0 <= time.time() - stat.st_mtime < _SETTLED:
                return
            self._identity, self._listing = self._read()
        except OSError as error:
            self._complain(f"it cannot be read, {error.strerror or error}: correct its name or its permissions")
        except ValueError as error:
            # It is read again when it has been corrected.
            self._identity = _identityOf(stat)
            self._complain(f"{error}: correct it")
        else:
            self._lastProblem = ""
            log.info("{path} has changed: {count} entries", path=self._path, count=len(self._listing.entries))

    def _complain(self, problem: str) -> None:
        if problem != self._lastProblem:
            self._lastProblem = problem
            log.error("{path} keeps its old content in force, for {problem}", path=self._path, problem=problem)

    def _read(self) -> tuple[_Identity, Listing]:
        with open(self._path, "rb", opener=_openAtOnce) as file:
            # The identity before the content: what is written meanwhile is another change.
            status = os.fstat(file.fileno())
            if not S_ISREG(status.st_mode):
                raise ValueError("it is no regular file")  # a pipe would be waited for, and a device may never end
            content = file.read(_MOST_OCTETS + 1)
            if len(content) > _MOST_OCTETS:
                raise ValueError(f"it is larger than {_MOST_OCTETS // 2**20} MiB, use a database")
            return _identityOf(status), readListing(content, self._within)


def _openAtOnce(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _identityOf(stat: os.stat_result) -> _Identity:
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
