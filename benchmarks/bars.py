"""
The bars: the maximum cost of smtphooks, relative to the cost of each peer on the same machine in the same rounds.

A new bar is one more line of the table.  This module compares measurements with bars, it measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from benchmarks import compare, measure
from benchmarks.compare import Summary
from benchmarks.peers import (
    AIOSMTPD,
    ALL_HOOKS,
    CANNED,
    FEW_IDLE,
    GO_SMTP,
    HASHING,
    MANY_IDLE,
    NO_HOOKS,
    SMTP_SERVER,
    SMTP_SINK,
    SMTPHOOKS,
    TWISTED_MAIL,
)
from benchmarks.rounds import CPU, MEMORY, RATE, Record
from benchmarks.workloads import WORKLOADS, Workload

ROUNDS = 9


@dataclass(frozen=True)
class Bar:
    """
    @ivar most: the maximum of the median.
    @ivar other: the label that C{label} is compared with; without it the figure itself counts.
    @ivar least: the minimum of the median.
    @ivar cores: the number of cores without which it says nothing.
    """

    workload: str
    figure: str
    label: str
    most: float
    other: str = ""
    least: float = 0.0
    cores: int = 1

    @property
    def limit(self) -> str:
        return f"at least {self.least:g}" if self.least else f"at most {self.most:g}"

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.label, self.other) if self.other else (self.label,)

    @property
    def floor(self) -> Bar:
        """The same bar for the least work of any server on Twisted, a lower bound for smtphooks."""
        return replace(self, label=CANNED.name)

    def __str__(self) -> str:
        return f"{self.workload}: {' / '.join(self.labels)}, {self.figure}"

    def measured(self, record: Record) -> list[float]:
        if self.other:
            return compare.ratios(record.rounds, self.figure, self.label, self.other)
        return compare.absolute(record.rounds, self.figure, self.label)


@dataclass(frozen=True)
class GrowthBar(Bar):
    """The maximum growth of the cost of a unit with the number of units."""

    def __str__(self) -> str:
        return f"{self.workload}: growth of the cost of a unit, {self.figure}"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(turn.label for workload in WORKLOADS if workload.name == self.workload for turn in workload.turns)

    def measured(self, record: Record) -> list[float]:
        return compare.growth(record.rounds, self.figure, record.workload.steps)


_PEERS = (AIOSMTPD, TWISTED_MAIL, SMTP_SERVER, GO_SMTP, SMTP_SINK)
# For smtphooks with the two hooks.  bun-smtp cannot be installed from a registry, so it is measured elsewhere; its bars
# are, in the order of the rows, 1.25, 0.9, 1.2 and 0.8.
_CPU_BESIDE_PEERS = {
    "1k": (0.28, 0.48, 1.0, 2.0, 2.3),
    "50k": (0.12, 0.22, 0.65, 0.5, 0.7),
    "recipients": (0.20, 0.42, 0.95, 2.0, 2.1),
    "connections": (0.36, 0.70, 0.45, 2.0, 2.1),
}
_ALL_HOOKS = 1.25
_IDLE_CONNECTION = 5 * 1024
_TWO_WORKERS = 1.7

BARS: tuple[Bar, ...] = (
    *(
        Bar(workload, CPU, SMTPHOOKS.name, most, peer.name)
        for workload, row in _CPU_BESIDE_PEERS.items()
        for peer, most in zip(_PEERS, row, strict=True)
    ),
    *(Bar(workload, CPU, ALL_HOOKS.name, _ALL_HOOKS, NO_HOOKS.name) for workload in _CPU_BESIDE_PEERS),
    Bar("idle", CPU, MANY_IDLE.name, 1.1, FEW_IDLE.name),
    Bar("memory", MEMORY, SMTPHOOKS.name, _IDLE_CONNECTION),
    GrowthBar("size", CPU, "", 1.25),
    GrowthBar("recipient-count", CPU, "", 1.25),
    Bar("workers", RATE, HASHING[2].name, inf, HASHING[1].name, least=_TWO_WORKERS, cores=2),
)


@dataclass(frozen=True)
class Verdict:
    """
    @ivar measured: None if it could not be measured.
    @ivar floor: the measurement of the least server on Twisted, if there is one.
    """

    bar: Bar
    measured: Summary | None
    why: str = ""
    floor: Summary | None = None

    @property
    def held(self) -> bool:
        return self.measured is not None and self.bar.least <= self.measured.median <= self.bar.most

    @property
    def isBehind(self) -> bool:
        """Whether it is not held, on a machine where it could be."""
        return not self.held and self.bar.cores <= len(measure.allCores())

    def __str__(self) -> str:
        state = "  held" if self.held else "BEHIND" if self.isBehind else "  skip"
        if self.measured is None:
            return f"{state}  {self.bar}: {self.why}"
        floor = f" ({CANNED.name}: {self.floor.median:.3g})" if self.floor else ""
        return f"{state}  {self.bar}: {self.measured.median:.5g}, {self.bar.limit}{floor}"


def verdictsOf(bars: Sequence[Bar], records: Mapping[str, Record]) -> list[Verdict]:
    """Compare each bar with the measurements; a bar without a measurement is not held."""
    verdicts = []
    for bar in bars:
        record = records.get(bar.workload)
        values = bar.measured(record) if record else []
        if record and values:
            floor = bar.floor.measured(record) if bar.label == SMTPHOOKS.name and bar.other else []
            verdicts.append(Verdict(bar, Summary.of(values), floor=Summary.of(floor) if floor else None))
        else:
            skipped = record.skipped if record else {}
            reasons = [f"{label} {skipped[label]}" for label in bar.labels if label in skipped]
            verdicts.append(Verdict(bar, None, "; ".join(reasons) or "it was not measured"))
    return verdicts


def neededFor(workloads: Sequence[Workload], bars: Sequence[Bar]) -> list[Workload]:
    """The workloads that the bars need, each with only the turns that they need."""
    wanted: dict[str, set[str]] = {}
    for bar in bars:
        wanted.setdefault(bar.workload, set()).update(bar.labels, bar.floor.labels)
    return [workload.only(sorted(wanted[workload.name])) for workload in workloads if workload.name in wanted]
