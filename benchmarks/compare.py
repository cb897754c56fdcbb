"""
From figures to what can be said of them: ratios of the same round, their median and their spread.

Both servers of a ratio were measured within one round, so what slows the machine for a while slows both.
This module knows numbers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

# Of each round, the figures of every label.
Rounds = Sequence[Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Summary:
    """
    @ivar low: a quarter of the rounds is below.
    @ivar high: a quarter of the rounds is above.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """@raise ValueError: if there are none."""
        given = list(values)
        if not given:
            raise ValueError("nothing was measured")
        low, _, high = quantiles(given, n=4, method="inclusive") if len(given) > 1 else given * 3
        return cls(median(given), low, high)


def absolute(rounds: Rounds, figure: str, label: str) -> list[float]:
    """That figure in each round."""
    return [each[label][figure] for each in rounds if label in each]


def ratios(rounds: Rounds, figure: str, label: str, other: str) -> list[float]:
    """What the one needed in each round, in parts of what the other did."""
    return [each[label][figure] / each[other][figure] for each in rounds if label in each and other in each]


def growth(rounds: Rounds, figure: str, steps: Mapping[str, float]) -> list[float]:
    """
    How much dearer a unit becomes when there are more of them, in each round; 1 where the cost is linear.

    What is there without any unit is no part of it: each step's cost is the difference to the smallest amount.

    @param steps: the amounts by label, from the smallest on.
    """
    (least, amount), *more = steps.items()
    found = []
    for each in rounds:
        if all(label in each for label in steps):
            first, *later = ((each[label][figure] - each[least][figure]) / (steps[label] - amount) for label, _ in more)
            found.append(max(later) / first)
    return found
