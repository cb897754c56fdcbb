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
from functools import partial
from time import monotonic_ns

import attrs
from twisted.logger import Logger

from smtphooks.layers.counts import WITHIN, Counts, Limit, MemoryCounts, Verdict, verdictOn
from smtphooks.sharedtable import RATES, Cells, Place, Table, currentTable

log: Logger = Logger()

_MOST = 2**63 - 1


def countsOfMachine() -> Counts:
    """Counts over all workers, where there are any; else those of this process."""
    table = currentTable()
    return MemoryCounts() if table is None else MachineCounts(table, table.numbered("rates"))


@attrs.define(eq=False)
class _Kept:
    """
    Where the units of a limit are kept.

    @ivar rate: C{Limit.limit}.  Times are multiplied by it, so the interval between two units is whole, as in
        L{MemoryCounts}; that is C{interval}.
    @ivar tolerance: the time of a burst.
    """

    limit: Limit
    rate: int
    interval: int
    tolerance: int
    cells: Cells


class MachineCounts:
    """
    Counts in the table that all workers of a machine share, kept when a worker is replaced, lost when all end.

    A cell is given up for another key when all its units have come back.  If a bucket of the table is full of keys that
    have not come so far, a further key is counted by this worker only, in L{MemoryCounts}: a flood from ever new
    addresses takes no more memory, and pushes out no client that is near its limit.

    The words of a cell are the origin, in nanoseconds, the units, and the rate and the interval of the limit.
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
        self._words = table.words
        self._nanoseconds = nanoseconds
        self._kept: dict[tuple[Limit, ...], list[_Kept]] = {}

    def check(self, key: str, cost: int, limits: tuple[Limit, ...]) -> Verdict:
        """See L{Counts.check}."""
        return self._ask(key, cost, limits, False, False)

    def increment(self, key: str, cost: int, limits: tuple[Limit, ...], force: bool = False) -> Verdict:
        """See L{Counts.increment}."""
        return self._ask(key, cost, limits, True, force)

    def _ask(self, key: str, cost: int, limits: tuple[Limit, ...], take: bool, force: bool) -> Verdict:
        time, words = self._nanoseconds(), self._words
        isOver, found, verdict = self._hasLocal, [], WITHIN
        for kept in self._kept.get(limits) or self._keptFor(limits):
            place = kept.cells.find(key)
            now = time * kept.rate
            used = sum(place.readSecond(words))
            arrival = max(place.read(words)) * kept.rate + used * kept.interval
            origin = 0
            if arrival < now:
                # Rounded down, so that a whole burst can be taken at once.
                arrival, origin = now, (now - used * kept.interval) // kept.rate
            arrival += cost * kept.interval
            if arrival - now > kept.tolerance:
                isOver = True
            found.append((kept, place, origin, arrival))
        if isOver:
            verdict = self._verdict(key, cost, limits, [arrival for *_, arrival in found], time)
        if take and (force or verdict.limit is None):
            for kept, place, origin, _ in found:
                if place.own < 0:
                    place = self._claim(kept, place)
                own = place.own
                if own < 0:
                    self._takeHere(key, cost, kept)
                    continue
                if origin:
                    words[own] = origin
                words[own + 1] = min(words[own + 1] + cost, _MOST)
        return verdict

    def _verdict(self, key: str, cost: int, limits: tuple[Limit, ...], arrivals: list[int], time: int) -> Verdict:
        verdict = verdictOn(arrivals, cost, limits, time)
        if self._hasLocal:
            verdicts = [verdict, *(self.local.check(key, cost, (limit,)) for limit in limits)]
            verdict = max(verdicts, key=lambda each: each.wait)
            self._hasLocal = len(self.local) > 0
        return verdict

    def _claim(self, kept: _Kept, place: Place) -> Place:
        place = kept.cells.claim(place, partial(self._isSpent, kept.cells))
        if place.own >= 0:
            self._words[place.own + 2] = min(kept.rate, _MOST)
            self._words[place.own + 3] = min(kept.interval, _MOST)
        return place

    def _takeHere(self, key: str, cost: int, kept: _Kept) -> None:
        """Count by this worker only: there is no room in the table."""
        self._hasLocal = True
        self.local.increment(key, cost, (kept.limit,), force=True)
        if kept.cells.reportIsDue():
            log.warn("the table of all workers has no room for more rates: some count at one worker only")

    def _keptFor(self, limits: tuple[Limit, ...]) -> list[_Kept]:
        made: list[_Kept] = []
        for limit in limits:
            name = f"{self._name} {limit.limit} {limit.period} {limit.burst}"
            cells = self._table.cells(RATES, name)
            made.append(_Kept(limit, limit.limit, limit.period, limit.burst * limit.period, cells))
        self._kept[limits] = made
        return made

    def _isSpent(self, cells: Cells, cell: int) -> bool:
        """Whether all units of a key have come back, those that other workers have taken included."""
        words, same = self._words, cells.sameKey(cell)
        origin, used = max(words[each] for each in same), sum(words[each + 1] for each in same)
        rate, interval = words[cell + 2], words[cell + 3]
        return origin * rate + used * interval <= self._nanoseconds() * rate
