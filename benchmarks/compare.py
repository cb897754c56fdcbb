"""
Statistics of figures: ratios within the same round, their median and their spread.

Both servers of a ratio are measured within one round, so a temporary load on the machine slows both.
This module knows numbers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

# For each round the figures, by label and name.
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
    """The figure of a label in each round."""
    return [each[label][figure] for each in rounds if label in each]


def ratios(rounds: Rounds, figure: str, label: str, other: str) -> list[float]:
    """The figure of a label relative to that of another, in each round."""
    return [each[label][figure] / each[other][figure] for each in rounds if label in each and other in each]


def growth(rounds: Rounds, figure: str, steps: Mapping[str, float]) -> list[float]:
    """
    The growth of the cost of a unit with the number of units, in each round; 1 if the cost is linear.

    The fixed cost is left out: the cost of each step is its difference to the step with the smallest amount.

    @param steps: the amounts by label, in ascending order.
    """
    (least, amount), *more = steps.items()
    found = []
    for each in rounds:
        if all(label in each for label in steps):
            first, *later = ((each[label][figure] - each[least][figure]) / (steps[label] - amount) for label, _ in more)
            found.append(max(later) / first)
    return found
