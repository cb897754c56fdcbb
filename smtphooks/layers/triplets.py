"""
Triplets: what greylisting remembers, in SQLite: mails that were put off, and networks whose clients have come again.

In: a network, the digest of a mail, a time, and a cursor.  Out: the seconds for which the mail is still put off.
Rules kept here: each decision is one transaction, so that several processes can share one file; the file holds digests
and never an address; its rows are bounded, and no network can take more than its share of them.
This module knows no session, no thread and no reply.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from smtphooks.layers.database import DatabaseError

# Marks the file as ours: "smgl".
_APPLICATION_ID = 0x736D676C

_SCHEMA = (
    # A mail: who sends it to whom, from which network, and when it came first.
    "CREATE TABLE IF NOT EXISTS waiting"
    " (network TEXT, mail BLOB, first REAL NOT NULL, PRIMARY KEY (network, mail)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS waiting_first ON waiting (first)",
    # A network whose client has come again in time, and when it has sent its last mail.
    "CREATE TABLE IF NOT EXISTS known (network TEXT PRIMARY KEY, last REAL NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS known_last ON known (last)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
)

_TIDY_EVERY = 3600.0
# One network may have this part of the mails that wait, before its oldest make room for its new ones.
_SHARE = 50


@attrs.define(eq=False)
class Triplets:
    """
    The table, for one thread.

    @ivar delay: seconds for which a mail is put off.
    @ivar window: seconds after its first coming in which it may come again.
    @ivar remember: seconds after its last mail for which a network is known.
    @ivar maxRows: how many rows there may be, 0 for no limit: half of them for mails that wait, half for networks that
        are known, so that neither can leave no room for the other.
    """

    delay: float
    window: float
    remember: float
    maxRows: int
    _lastTidy: float | None = None
    _added: int = 0

    def decide(self, cursor: Any, network: str, mail: bytes, now: float) -> float:
        """
        Decide on a mail.

        @param now: the time in seconds; it may have been set back since the rows were written.
        @return: seconds until it may come again, 0 if it is not put off.
        """
        # A transaction that begins to read and then writes fails at once if another process has written meanwhile.
        cursor.execute("BEGIN IMMEDIATE")
        if self._isKnown(cursor, network, now):
            return 0.0
        cursor.execute("SELECT first FROM waiting WHERE network = ? AND mail = ?", (network, mail))
        row = cursor.fetchone()
        if row is None or not 0 <= now - row[0] <= self.window:
            self._add(cursor, network, mail, now)
            return self.delay
        left: float = row[0] + self.delay - now
        if left > 0:
            return left
        cursor.execute("INSERT OR REPLACE INTO known VALUES (?, ?)", (network, now))
        cursor.execute("DELETE FROM waiting WHERE network = ?", (network,))
        return 0.0

    def _isKnown(self, cursor: Any, network: str, now: float) -> bool:
        cursor.execute("SELECT last FROM known WHERE network = ?", (network,))
        row = cursor.fetchone()
        if row is None or now - row[0] > self.remember:
            return False
        cursor.execute("UPDATE known SET last = ? WHERE network = ?", (now, network))
        return True

    def _add(self, cursor: Any, network: str, mail: bytes, now: float) -> None:
        if self.maxRows:
            share = max(1, self._half // _SHARE)
            # All but the newest ones, so that there is room for another.
            cursor.execute(
                "DELETE FROM waiting WHERE network = ? AND mail IN"
                " (SELECT mail FROM waiting WHERE network = ? ORDER BY first DESC LIMIT -1 OFFSET ?)",
                (network, network, share - 1),
            )
        cursor.execute("INSERT OR REPLACE INTO waiting VALUES (?, ?, ?)", (network, mail, now))
        self._added += 1
        isDue = self._lastTidy is None or not 0 <= now - self._lastTidy < _TIDY_EVERY
        if isDue or (self.maxRows and self._added >= max(1, self.maxRows // 100)):
            self._tidy(cursor, now)

    def _tidy(self, cursor: Any, now: float) -> None:
        """Remove the rows that are out of date, and the oldest of those that are too many."""
        self._lastTidy, self._added = now, 0
        cursor.execute("DELETE FROM waiting WHERE first < ?", (now - self.window,))
        cursor.execute("DELETE FROM known WHERE last < ?", (now - self.remember,))
        if self.maxRows:
            cursor.execute(
                "DELETE FROM waiting WHERE (network, mail) IN"
                " (SELECT network, mail FROM waiting ORDER BY first DESC LIMIT -1 OFFSET ?)",
                (self._half,),
            )
            cursor.execute(
                "DELETE FROM known WHERE network IN (SELECT network FROM known ORDER BY last DESC LIMIT -1 OFFSET ?)",
                (self._half,),
            )

    @property
    def _half(self) -> int:
        return max(1, self.maxRows // 2)


def problemOf(path: str) -> str:
    """What can be known to be wrong with a file of triplets before it is opened, C{""} if nothing."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"{folder} is no folder"
    try:
        with open(path, "rb") as file:
            magic = file.read(16)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return f"{path} cannot be read, {getattr(error, 'strerror', None) or error}"
    if magic not in (b"", b"SQLite format 3\0"):
        return f"{path} is no SQLite file, move it away"
    return ""


def prepare(connection: Any) -> None:
    """
    Prepare a new connection, and make the tables that are missing.

    @raise DatabaseError: if the file is the database of another program.
    """
    with _alone(connection):
        isEmpty = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        if mark != _APPLICATION_ID and not isEmpty:
            raise DatabaseError("it is the database of another program")
        # Readers and the writer do not wait for each other, and a commit for no disk: a crash of the machine may lose
        # the last rows, so that a client is put off once more, but does not damage the file.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if mark != _APPLICATION_ID:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("COMMIT")


@contextmanager
def _alone(connection: Any) -> Iterator[None]:
    """
    Let no other process prepare the file meanwhile.

    SQLite does not wait for its lock where it changes the mode of the journal, but fails at once.
    """
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    folder = os.open(os.path.dirname(path) or os.curdir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def check(cursor: Any) -> None:
    """
    Look for damage in the file.

    @raise DatabaseError: if there is any.
    """
    problems: Sequence[Any] = cursor.execute("PRAGMA quick_check(1)").fetchone()
    if problems[0] != "ok":
        raise DatabaseError(f"it is damaged, move it away: {problems[0]}")
