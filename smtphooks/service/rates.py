"""
Rates: how much of something happens in a second, from totals that are told once a second or so.

In: totals, each with the time it was told at.  Out: rates over the last minute.
This module knows no clock, and not what is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

# Seconds that rates are taken over.
SPAN = 60.0


class Rates:
    """Rates of one worker; another worker has others, and begins at 0."""

    def __init__(self, now: float, names: Sequence[str]) -> None:
        """
        @param now: when counting began, in seconds.
        @param names: what is counted.
        """
        self._names = names
        self._told: deque[tuple[float, tuple[float, ...]]] = deque([(now, (0,) * len(names))])

    def note(self, now: float, totals: Mapping[str, float]) -> None:
        """
        So much has happened until now.

        @param totals: by name; others are ignored, and one that is missing is 0.
        """
        self._told.append((now, tuple(totals.get(name, 0) for name in self._names)))
        # The first one that is older than the span stays, as the span begins with it.
        while len(self._told) > 2 and self._told[1][0] <= now - SPAN:
            self._told.popleft()

    def perSecond(self, now: float) -> dict[str, float]:
        """The rates by name.  They go down when nothing is told any more."""
        began, before = self._told[0]
        _, last = self._told[-1]
        seconds = max(now - began, 1.0)
        return {name: max(0, end - start) / seconds for name, start, end in zip(self._names, before, last, strict=True)}
