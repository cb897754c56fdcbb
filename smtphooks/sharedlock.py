"""
A shared lock: one worker of this machine has it at a time, so that one of them says what all have seen.

In: a name, the same one in every worker.  Out: whether this process has the lock of that name.  The kernel keeps it for
as long as the process lives, so the lock of a worker that dies is free, and nobody ever waits for one.
This module knows no log, and not what is said.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from hashlib import blake2b

from smtphooks.sharedtable import currentTable

# Octets of a digest that is an offset in a file, which has 63 bits.
_DIGEST = 7


class SharedLock:
    """
    A lock by its name.  Within a process all of the same name are one; without workers it is always free.

    It lies on an octet of the file of the shared table, far behind its end: a record lock of POSIX belongs to a
    process, and needs no octet that is there.
    """

    def __init__(self, name: str) -> None:
        self._table = currentTable()
        self._at = int.from_bytes(blake2b(name.encode(), digest_size=_DIGEST).digest(), "big")

    def acquire(self) -> bool:
        """Have it, unless another worker does: whether this one has it now."""
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        except OSError:
            return True  # the kernel has no room for locks: to say it twice is better than not at all
        return True

    def release(self) -> None:
        """Let another worker have it."""
        with suppress(OSError):
            self._lock(fcntl.LOCK_UN)

    def _lock(self, how: int) -> None:
        if self._table is not None:
            fcntl.lockf(self._table.fd, how, 1, self._at)
