"""
The bars: the maximum cost of smtphooks, relative to the cost of each peer on the same machine in the same rounds.

A new bar is one more line of the table.  This module compares measurements with bars, it measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks import compare
from benchmarks.compare import Summary
from benchmarks.peers import (
    AIOSMTPD,
    CANNED,
    FEW_IDLE,
    GO_SMTP,
    HOOKS,
    MANY_IDLE,
    SMTP_SERVER,
    SMTP_SINK,
    SMTPHOOKS,
    TWISTED_MAIL,
)
from benchmarks.rounds import CPU, MEMORY, Record
from benchmarks.workloads import WORKLOADS, Workload

ROUNDS = 9


@dataclass(frozen=True)
class Bar:
    """
    @ivar most: the maximum of the median.
    @ivar other: the label that C{label} is compared with; without it the figure itself counts.
    """

    workload: str
    figure: str
    label: str
    most: float
    other: str = ""

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
_CPU_BESIDE_PEERS = {
    "1k": (0.20, 0.30, 0.60, 1.6, 1.5),
    "50k": (0.10, 0.22, 0.55, 0.30, 0.45),
    "recipients": (0.20, 0.42, 0.80, 1.7, 2.0),
    "connections": (0.33, 0.55, 0.45, 1.6, 1.4),
}

BARS: tuple[Bar, ...] = (
    *(
        Bar(workload, CPU, SMTPHOOKS.name, most, peer.name)
        for workload, row in _CPU_BESIDE_PEERS.items()
        for peer, most in zip(_PEERS, row, strict=True)
    ),
    *(Bar(workload, CPU, HOOKS.name, 1.25, SMTPHOOKS.name) for workload in _CPU_BESIDE_PEERS),
    Bar("idle", CPU, MANY_IDLE.name, 1.1, FEW_IDLE.name),
    Bar("memory", MEMORY, SMTPHOOKS.name, 8192),
    GrowthBar("size", CPU, "", 1.25),
    GrowthBar("recipient-count", CPU, "", 1.25),
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
        return self.measured is not None and self.measured.median <= self.bar.most

    def __str__(self) -> str:
        state = "  held" if self.held else "BEHIND"
        if self.measured is None:
            return f"{state}  {self.bar}: {self.why}"
        floor = f" ({CANNED.name}: {self.floor.median:.3g})" if self.floor else ""
        return f"{state}  {self.bar}: {self.measured.median:.5g}, at most {self.bar.most:g}{floor}"


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
