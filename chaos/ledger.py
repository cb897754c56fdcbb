"""
What clients were told at each attempt to send a copy of a message, what the other side has, and what follows of both.

In: replies and losses, as the clients see them, and what was found.  Out: counts, and a sentence for each copy that is
lost, half or was never answered.
Rule: a copy is one message for one recipient.  What had a 250 must be found whole at least once; what had not may be
found or not, but never in part.  A client may try several times, and is told something each time.
This module knows no sockets, no store and no faults.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from chaos.messages import Found


class Told(Enum):
    """What a client knows of a copy at the end of an attempt."""

    TAKEN = "250"
    LATER = "4xx"
    NEVER = "5xx"
    CUT = "cut"  # the server, or the network, ended the connection
    LEFT = "left"  # the client itself ended it, within the message
    SILENT = "silent"  # the client had no reply until its patience ended, which is a fault of the server


class Copy(NamedTuple):
    """A message for one recipient."""

    identity: str
    recipient: str


class Counts(NamedTuple):
    """
    The result of a cell.

    @ivar told: how many attempts had which end.
    @ivar found: how many copies are at the other side, at least once.
    @ivar again: how many are there besides, because a client or a store tried a second time.
    @ivar half: how many are there in part.
    @ivar lost: how many had a 250 and are not there.
    """

    told: Counter[Told]
    found: int
    again: int
    half: int
    lost: int

    @property
    def sent(self) -> int:
        return sum(self.told.values())

    @property
    def isGood(self) -> bool:
        return not (self.lost or self.half or self.told[Told.SILENT])


class Ledger:
    """Notes of all clients of a cell; they come from many threads."""

    def __init__(self) -> None:
        self._told: Counter[Told] = Counter()
        self._silent: list[Copy] = []
        self._promised: set[Copy] = set()
        self._found: Counter[Copy] = Counter()
        self._half: list[str] = []
        self._news = threading.Condition()

    @property
    def taken(self) -> int:
        """The number of copies that had a 250 so far."""
        with self._news:
            return len(self._promised)

    def tell(self, copy: Copy, told: Told) -> None:
        """Note what a client was told of a copy."""
        with self._news:
            assert copy not in self._promised, f"{copy} was sent again after its 250"
            self._told[told] += 1
            if told is Told.TAKEN:
                self._promised.add(copy)
                self._news.notify_all()
            elif told is Told.SILENT:
                self._silent.append(copy)

    def waitFor(self, taken: int, seconds: float) -> bool:
        """Wait until this many copies had a 250."""
        with self._news:
            return self._news.wait_for(lambda: len(self._promised) >= taken, seconds)

    def find(self, found: Found, recipients: Iterable[str]) -> None:
        """Note what is at the other side."""
        if not found.isWhole:
            self._half.append(found.identity)
            return
        for recipient in recipients:
            self._found[Copy(found.identity, recipient)] += 1

    def missing(self) -> list[Copy]:
        """The copies that had a 250 and have not been found."""
        with self._news:
            return sorted(copy for copy in self._promised if copy not in self._found)

    def counts(self) -> Counts:
        """The counts, once all clients have ended."""
        found = len(self._found)
        return Counts(self._told, found, self._found.total() - found, len(self._half), len(self.missing()))

    def complaints(self) -> list[str]:
        """A sentence for each copy that is not as promised, and for what was found of nobody."""
        return [
            *(f"{copy.identity} for {copy.recipient} had a 250 and is lost" for copy in self.missing()),
            *(f"{identity or 'what has no name'} is there in part" for identity in self._half),
            *(f"{copy.identity} for {copy.recipient} was never answered" for copy in self._silent),
        ]
