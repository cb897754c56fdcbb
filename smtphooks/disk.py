"""
The disk: files without a name, for what is too large for the memory, and what a client is told when a disk fails.

All operations on such a file run in the reactor's thread pool.
This module knows no messages.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from twisted.internet.defer import Deferred

from smtphooks.currentreactor import deferToThread
from smtphooks.replies import SMTPError

T = TypeVar("T")

# No room for this user or this message: a temporary failure, as it may be stored later or on another server.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def refusalFor(error: OSError) -> SMTPError:
    """The refusal of a message that cannot be stored.  Its text is fixed: paths and causes go to the log."""
    if error.errno in _FULL:
        return SMTPError("Insufficient system storage, please try again later", 452, "4.3.1")
    return SMTPError("Message cannot be stored now, please try again later", 451, "4.3.0")


class UnnamedFile:
    """
    A file in the folder for temporary files that has no name, so that nothing is left of it whatever happens.

    It is made with the first octets, and closed when it is wanted no more and no operation runs, or with this object.
    """

    __slots__ = ("_fd", "_isClosed", "_running")

    def __init__(self) -> None:
        self._fd = -1
        self._running = 0
        self._isClosed = False

    def write(self, data: bytes, offset: int) -> Deferred[None]:
        """Write all octets at an offset; fails with C{OSError}."""
        return self._run(self._write, data, offset)

    def read(self, octets: int, offset: int) -> Deferred[bytes]:
        """Read up to so many octets, but one at least, of those that were written; fails with C{OSError}."""
        return self._run(self._read, octets, offset)

    def close(self) -> None:
        """The file is wanted no more."""
        self._isClosed = True
        self._maybeRelease()

    def _run(self, operation: Callable[..., T], *arguments: object) -> Deferred[T]:
        self._running += 1
        return deferToThread(operation, *arguments).addBoth(self._ended)

    def _ended(self, result: T) -> T:
        self._running -= 1
        self._maybeRelease()
        return result

    def _maybeRelease(self) -> None:
        # In a thread as well: to give back the room of a large file takes time.
        if self._isClosed and not self._running and self._fd >= 0:
            deferToThread(self._release)

    # --- in the pool ---

    def _write(self, data: bytes, offset: int) -> None:
        if self._fd < 0:
            # The duplicate, unlike the object, may be left to __del__ without a warning.
            with tempfile.TemporaryFile(buffering=0) as file:
                self._fd = os.dup(file.fileno())
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def _read(self, octets: int, offset: int) -> bytes:
        data = os.pread(self._fd, octets, offset)
        if not data:
            raise OSError(errno.EIO, "the file is shorter than what was written to it")
        return data

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        self._release()
