"""
A histogram of durations.

It is a list of numbers, as an observation must cost next to nothing; what Prometheus wants to see of it is made at a
scrape.  This module knows nothing of Prometheus but the form of its buckets.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

# Seconds: from a hook that answers at once to one that asks others.
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_EDGES = [*map(str, BOUNDS), "+Inf"]


class Histogram:
    """
    @ivar sum: of all durations, in seconds.
    """

    __slots__ = ("_counts", "sum")

    def __init__(self) -> None:
        self._counts = [0] * len(_EDGES)
        self.sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """How many durations were not above each edge."""
        return [(edge, float(count)) for edge, count in zip(_EDGES, accumulate(self._counts), strict=True)]
