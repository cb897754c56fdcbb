"""
Counts over all workers of this machine, by the generic cell rate algorithm.

In: a key, a cost, and limits.  Out: a verdict, as from C{MemoryCounts}, which this takes the place of where there are
workers.
This module knows no mail, no session and no reply.

How processes count together without a lock
===========================================

The arrival time of the algorithm, when all that was taken will have been given back, is the latest of the times that
follow from each moment at which something was taken: that moment, and the time for all units taken from there on.  That
is to say, with u(t) for all units taken until t, and I for the interval between two::

    arrival = max over t of (t + I * (u - u(t))) = (max over t of (t - I * u(t))) + I * u

So a column has two numbers of a key: an I{origin}, the largest t - I * u(t) that its process has seen, and the units
that its process has taken.  The arrival time is the latest origin of all columns, plus the time for all their units.
A process writes an origin only if all units have been given back; otherwise an earlier origin says as much.  Neither
number ever falls, and none depends on the order in which processes write: what they take at the same moment is never
lost and never counted twice, and every origin that was true when it was read stays true.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from twisted.logger import Logger

from smtphooks.layers.counts import WITHIN, Counts, Limit, MemoryCounts, Verdict, verdictOn
from smtphooks.sharedtable import RATES, Place, Table, currentTable

log: Logger = Logger()

_MOST = 2**63 - 1


def countsOfMachine() -> Counts:
    """Counts over all workers, where there are any; else those of this process."""
    table = currentTable()
    return MemoryCounts() if table is None else MachineCounts(table, table.numbered("rates"))


class MachineCounts:
    """
    Counts in the table that all workers of a machine share, kept when a worker is replaced, lost when all end.

    A cell is given up for another key when all its units have come back.  If a bucket of the table is full of keys that
    have not come so far, a further key is counted by this worker only, in L{MemoryCounts}: a flood from ever new
    addresses takes no more memory, and pushes out no client that is near its limit.

    @ivar local: what is counted by this worker only.
    """

    def __init__(self, table: Table, name: str, nanoseconds: Callable[[], int] = monotonic_ns) -> None:
        """
        @param name: what is limited, under the same name in all workers.
        @param nanoseconds: the clock, which all workers have in common.
        """
        self.local: MemoryCounts = MemoryCounts()
        self._hasLocal = False
        self._table = table
        self._name = name
        self._nanoseconds = nanoseconds
        self._counts: dict[tuple[Limit, ...], list[_Count]] = {}

    def check(self, key: str, cost: int, limits: tuple[Limit, ...]) -> Verdict:
        """See L{Counts.check}."""
        time, isOver = self._nanoseconds(), self._hasLocal
        counts = self._counts.get(limits) or self._countsFor(limits)
        for count in counts:
            if count.isOver(key, cost, time):
                isOver = True
        return self._verdict(key, cost, counts, time) if isOver else WITHIN

    def increment(self, key: str, cost: int, limits: tuple[Limit, ...], force: bool = False) -> Verdict:
        """See L{Counts.increment}."""
        time, isOver = self._nanoseconds(), self._hasLocal
        counts = self._counts.get(limits) or self._countsFor(limits)
        for count in counts:
            if count.isOver(key, cost, time):
                isOver = True
        verdict = self._verdict(key, cost, counts, time) if isOver else WITHIN
        if verdict.limit is None or force:
            for count in counts:
                if not count.take(cost):
                    self._takeHere(key, cost, count)
        return verdict

    def _verdict(self, key: str, cost: int, counts: list[_Count], time: int) -> Verdict:
        limits = tuple(count.limit for count in counts)
        verdict = verdictOn([count.arrival for count in counts], cost, limits, time)
        if self._hasLocal:
            verdicts = [verdict, *(self.local.check(key, cost, (limit,)) for limit in limits)]
            verdict = max(verdicts, key=lambda each: each.wait)
            self._hasLocal = len(self.local) > 0
        return verdict

    def _takeHere(self, key: str, cost: int, count: _Count) -> None:
        """Count by this worker only: there is no room in the table."""
        self._hasLocal = True
        self.local.increment(key, cost, (count.limit,), force=True)
        if count.cells.reportIsDue():
            log.warn("the table of all workers has no room for more rates: some count at one worker only")

    def _countsFor(self, limits: tuple[Limit, ...]) -> list[_Count]:
        # The same limit twice is one count.
        counts = [_Count(limit, self._table, self._name, self._nanoseconds) for limit in dict.fromkeys(limits)]
        self._counts[limits] = counts
        return counts


class _Count:
    """
    One limit.  First L{isOver} looks what there is, and then L{take} writes.

    Times are multiplied by the rate, so the interval between two units is whole, as in L{MemoryCounts}.  The words of a
    cell are the origin, in nanoseconds, the units, the rate and the interval.

    @ivar arrival: when what was asked for last will have been given back if it is taken.
    """

    def __init__(self, limit: Limit, table: Table, name: str, nanoseconds: Callable[[], int]) -> None:
        self.limit = limit
        self.cells = table.cells(RATES, f"{name} {limit.limit} {limit.period} {limit.burst}")
        self.arrival = 0
        self._rate = limit.limit
        self._interval = limit.period
        self._tolerance = limit.burst * limit.period
        self._words = table.words
        self._nanoseconds = nanoseconds
        self._origin = 0
        self._place: Place | None = None

    def isOver(self, key: str, cost: int, time: int) -> bool:
        """Whether so many units more exceed the limit now."""
        rate, interval, words = self._rate, self._interval, self._words
        place = self._place = self.cells.find(key)
        now = time * rate
        used = sum(place.readSecond(words)) * interval
        arrival = max(place.read(words)) * rate + used
        if arrival < now:
            # All have come back.  The origin is rounded down, so that a whole burst can be taken at once.
            self._origin, arrival = (now - used) // rate, now
        else:
            self._origin = 0
        self.arrival = arrival = arrival + cost * interval
        return arrival - now > self._tolerance

    def take(self, cost: int) -> bool:
        """Write down that these units are taken; False if there is no room."""
        place, words = self._place, self._words
        assert place is not None
        own = place.own
        if own < 0:
            own = self._claim(place)
            if own < 0:
                return False
        if self._origin:
            words[own] = self._origin
        try:
            words[own + 1] += cost
        except ValueError:
            words[own + 1] = _MOST
        return True

    def _claim(self, place: Place) -> int:
        """The cell of this process for a key that has none yet, -1 if there is no room."""
        own = self.cells.claim(place, self._isSpent).own
        if own >= 0:
            self._words[own + 2] = min(self._rate, _MOST)
            self._words[own + 3] = min(self._interval, _MOST)
        return own

    def _isSpent(self, cell: int) -> bool:
        """Whether all units of a key have come back, those that other workers have taken included."""
        words, same = self._words, self.cells.sameKey(cell)
        origin, used = max(words[each] for each in same), sum(words[each + 1] for each in same)
        rate, interval = words[cell + 2], words[cell + 3]
        return origin * rate + used * interval <= self._nanoseconds() * rate
