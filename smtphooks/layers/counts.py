"""
Counts: how often something has happened, and whether it may happen again, by the generic cell rate algorithm.

In: a key, a cost, and limits.  Out: a verdict, with the seconds to wait.
For each limit a count is one number, the "theoretical arrival time" of ITU-T I.371: when all that was taken will have
been given back.  Numbers are whole, so nothing drifts, however long a server runs.
This module knows no mail, no session and no reply.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable
from typing import Protocol

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from smtphooks.currentreactor import currentReactor

log: Logger = Logger()

_NANOSECONDS = 10**9

# How many keys one call tidies up at most: a call takes a bounded time however many keys there are.
_TIDIED_AT_ONCE = 16
# At the maximum of keys, seconds between two lines of the log.
_WARNING_INTERVAL = 3600


@attrs.frozen(order=True, cache_hash=True)
class Limit:
    """
    A limit: so many units at once, and then so many in so many seconds.

    In any window of C{seconds} no more than C{limit + burst} units are taken.

    @ivar limit: units that come back in C{seconds}, one after the other.
    @ivar burst: units that can be taken at once.
    @ivar name: for the log; two limits that differ only in their names are the same.
    @ivar period: C{seconds} in nanoseconds.
    """

    limit: int
    seconds: float
    burst: int
    name: str = attrs.field(default="", eq=False, order=False)
    period: int = attrs.field(init=False, eq=False, order=False, repr=False)

    @period.default
    def _period(self) -> int:
        return round(self.seconds * _NANOSECONDS)


@attrs.frozen
class Verdict:
    """
    Whether something may happen.

    @ivar limit: the limit that is exceeded, the one with the longest wait; None if none is.
    @ivar wait: seconds after which it may happen if nothing else does until then; infinite if the cost is larger than
        the burst.
    """

    limit: Limit | None = None
    wait: float = 0.0


WITHIN = Verdict()


class Counts(Protocol):
    """
    Where counts are kept: L{MemoryCounts}, or a store that several servers share, which answers with a Deferred.

    A key is a short text.  The same key always comes with the same limits, until the configuration changes.
    """

    def check(self, key: str, cost: int, limits: tuple[Limit, ...]) -> Verdict | Awaitable[Verdict]:
        """What L{increment} would say; it takes nothing."""

    def increment(
        self, key: str, cost: int, limits: tuple[Limit, ...], force: bool = False
    ) -> Verdict | Awaitable[Verdict]:
        """
        Take C{cost} units from all limits, or none from any if one of them would be exceeded.

        @param force: take them in any case, as it has already happened; what is exceeded has to be waited for later.
        """


class MemoryCounts:
    """
    Counts in memory, of this process alone, lost when it ends.

    A key is forgotten when all its units have come back.  At most C{maxKeys} are kept: beyond them a new key replaces
    the one that would be forgotten next, as it has taken the least.  So a flood from ever new addresses takes no more
    memory, and a client near its limit stays limited while keys are pushed out that have hardly taken anything.

    @ivar clock: measures time; None for the reactor.  If it jumps back, time stands still; if it jumps forward, units
        come back early.
    """

    clock: IReactorTime | None = None

    def __init__(self, maxKeys: int = 100_000) -> None:
        self._maxKeys = maxKeys
        # For each key and its limits the arrival time of each limit, in nanoseconds times Limit.limit: so the interval
        # between two units is whole, too.
        self._arrivals: dict[tuple[str, tuple[Limit, ...]], list[int]] = {}
        # A heap with an entry for each key: a time before which it is not forgotten.
        self._forgettable: list[tuple[int, tuple[str, tuple[Limit, ...]]]] = []
        self._now = 0  # nanoseconds, never going back
        self._reading: int | None = None
        self._nextWarning = 0

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._arrivals)

    def check(self, key: str, cost: int, limits: tuple[Limit, ...]) -> Verdict:
        """See L{Counts.check}."""
        now = self._time()
        return verdictOn(self._arrivalsAfter(key, cost, limits, now), cost, limits, now)

    def increment(self, key: str, cost: int, limits: tuple[Limit, ...], force: bool = False) -> Verdict:
        """See L{Counts.increment}."""
        now = self._time()
        arrivals = self._arrivalsAfter(key, cost, limits, now)
        verdict = verdictOn(arrivals, cost, limits, now)
        if verdict.limit is None or force:
            self._tidy(now)
            if (key, limits) not in self._arrivals:
                self._makeRoom(now)
                heapq.heappush(self._forgettable, (_latest(arrivals, limits), (key, limits)))
            self._arrivals[key, limits] = arrivals
        return verdict

    def _arrivalsAfter(self, key: str, cost: int, limits: tuple[Limit, ...], now: int) -> list[int]:
        before = self._arrivals.get((key, limits)) or [0] * len(limits)
        return [
            max(arrival, now * limit.limit) + cost * limit.period for arrival, limit in zip(before, limits, strict=True)
        ]

    def _time(self) -> int:
        clock = self.clock
        if clock is None:
            clock = self.clock = IReactorTime(currentReactor())
        # The reactor's clock is that of the wall, which may be set back: nobody must wait for it to catch up.
        # (As a product of floats, a time of today would be rounded to 256 nanoseconds.)
        numerator, denominator = clock.seconds().as_integer_ratio()
        reading = numerator * _NANOSECONDS // denominator
        if self._reading is not None and reading > self._reading:
            self._now += reading - self._reading
        self._reading = reading
        return self._now

    def _tidy(self, now: int) -> None:
        """Forget keys whose units have all come back."""
        for _ in range(_TIDIED_AT_ONCE):
            if not self._forgettable or self._forgettable[0][0] > now:
                break
            self._forgetOne(now)

    def _makeRoom(self, now: int) -> None:
        if len(self._arrivals) < self._maxKeys:
            return
        if now >= self._nextWarning:
            self._nextWarning = now + _WARNING_INTERVAL * _NANOSECONDS
            log.warn("{keys} counts of rate limits are kept, the most: the least used are forgotten", keys=len(self))
        for _ in range(_TIDIED_AT_ONCE):
            if self._forgetOne(self._forgettable[0][0]):
                return
        del self._arrivals[heapq.heappop(self._forgettable)[1]]

    def _forgetOne(self, time: int) -> bool:
        """Forget the first key of the heap if it may be forgotten at that time; else put it where it belongs now."""
        _, entry = self._forgettable[0]
        latest = _latest(self._arrivals[entry], entry[1])
        if latest > time:
            heapq.heapreplace(self._forgettable, (latest, entry))
            return False
        heapq.heappop(self._forgettable)
        del self._arrivals[entry]
        return True


def verdictOn(arrivals: list[int], cost: int, limits: tuple[Limit, ...], now: int) -> Verdict:
    """The verdict on what would lead to these arrival times."""
    worst = WITHIN
    for arrival, limit in zip(arrivals, limits, strict=True):
        excess = arrival - now * limit.limit - limit.burst * limit.period
        if excess > 0:
            nanoseconds = -(-excess // limit.limit)
            wait = nanoseconds / _NANOSECONDS if cost <= limit.burst else float("inf")
            if wait > worst.wait:
                worst = Verdict(limit, wait)
    return worst


def _latest(arrivals: list[int], limits: tuple[Limit, ...]) -> int:
    """The nanosecond in which all units have come back."""
    return max(-(-arrival // limit.limit) for arrival, limit in zip(arrivals, limits, strict=True))
