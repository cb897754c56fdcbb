"""
Failed attempts to authenticate, counted by network over all connections of all workers of this machine.

In: addresses, as sessions have them.  Out: whether a network is barred.  A worker counts failures of a network in its
column of the shared table, by slots of half a minute.  Who counts one also looks whether the network is barred by what
all columns have, and writes down until when, so that asking is cheap.
This module knows no sessions, and not what becomes of a network that is barred.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from twisted.logger import Logger

from smtphooks.netaddress import maybeIP, networkOf
from smtphooks.sasl.failures import AuthFailures
from smtphooks.sharedtable import FAILURES, Table

_log = Logger()

_SECOND = 10**9
_PERIOD = 600 * _SECOND
_SLOT = 30 * _SECOND
# The slots of a cell: the current one, and those that ended less than a period ago.
_SLOTS = _PERIOD // _SLOT + 1
assert FAILURES.words == 1 + _SLOTS
# A word of a slot has the number of the slot since the machine started above the number of failures in it.
_BITS = 20
_MOST = (1 << _BITS) - 1


class SharedAuthFailures(AuthFailures):
    """
    Failed attempts by network, over all workers; they outlive the worker that has seen them.

    A failure counts for ten minutes and up to half a minute more.  If the table has no room for a network, its failures
    at this worker count at this worker only.

    The first word of a cell is the time, in nanoseconds, until which the network is barred as far as its writer knows.
    """

    def __init__(self, limit: int, table: Table, name: str, nanoseconds: Callable[[], int] = monotonic_ns) -> None:
        """
        @param name: what is limited, under the same name in all workers.
        @param nanoseconds: the clock, which all workers have in common.
        """
        super().__init__(limit, lambda: nanoseconds() / _SECOND)
        self._cells = table.cells(FAILURES, f"failures {limit} {name}")
        self._words = table.words
        self._nanoseconds = nanoseconds

    def add(self, address: str) -> None:
        """See L{AuthFailures.add}."""
        if not self._limit or maybeIP(address) is None:
            return
        words, now = self._words, self._nanoseconds()
        network = networkOf(address)
        place = self._cells.find(network)
        if place.own < 0:
            place = self._cells.claim(place, self._isSpent)
        if place.own < 0:
            super().add(address)
            if self._cells.reportIsDue():
                _log.warn("the table of all workers has no room for more failed AUTH: some count at one worker only")
            return
        slot = now // _SLOT
        word = place.own + 1 + slot % _SLOTS
        count = words[word] & _MOST if words[word] >> _BITS == slot else 0
        words[word] = slot << _BITS | min(count + 1, _MOST)
        # Counted first and added up afterwards, wherever there are cells by then: of several workers that do so at once
        # the last one sees all.
        words[place.own] = self._barredUntil(self._cells.find(network).cells, slot)

    def isBarred(self, address: str) -> bool:
        """See L{AuthFailures.isBarred}."""
        if not self._limit:
            return False
        until = max(self._cells.find(networkOf(address)).read(self._words))
        if until and until > self._nanoseconds():
            return True
        return bool(self._failures) and super().isBarred(address)

    def _barredUntil(self, cells: list[int], slot: int) -> int:
        """When so many failures will have expired that the network is below the limit; 0 if it is."""
        slots: list[int] = []
        for cell in cells:
            slots += self._words[cell + 1 : cell + 1 + _SLOTS].tolist()
        slots.sort(reverse=True)
        left = self._limit
        for word in slots:
            if word >> _BITS <= slot - _SLOTS:
                break
            left -= word & _MOST
            if left <= 0:
                return ((word >> _BITS) + 1) * _SLOT + _PERIOD
        return 0

    def _isSpent(self, cell: int) -> bool:
        """Whether the failures that this worker has counted in a cell have all expired."""
        newest = max(self._words[cell + 1 : cell + 1 + _SLOTS]) >> _BITS
        return newest <= self._nanoseconds() // _SLOT - _SLOTS
