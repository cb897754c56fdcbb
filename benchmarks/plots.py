"""
The figures as plots: SVG that is the same for the same figures.

This module draws the statistics of L{benchmarks.compare}, and needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import compare
from benchmarks.compare import Summary
from benchmarks.peers import SMTPHOOKS
from benchmarks.report import comparedBy
from benchmarks.rounds import CPU, MEDIAN, MEMORY, SLOWEST, Record

_OURS, _VARIANT, _THEIRS, _INK = "#17698a", "#8fbfd0", "#c3c8cd", "#30363b"
_COLUMNS = 3

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "smtphooks",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _THEIRS,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
)


def draw(records: Sequence[Record], folder: Path) -> None:
    """Write one file for each kind of figure that was measured."""
    measured = [record for record in records if record.rounds and record.rounds[0]]
    besidePeers = [
        each
        for each in measured
        if comparedBy(each) == CPU and each.workload.base == SMTPHOOKS.name and len(each.rounds[0]) > 1
    ]
    if besidePeers:
        _save(_grid(besidePeers), folder / "cpu.svg")
    for record in measured:
        if comparedBy(record) == MEDIAN:
            _save(_latency(record), folder / "latency.svg")
        if comparedBy(record) == MEMORY:
            _save(_memory(record), folder / "memory.svg")
    growing = [record for record in measured if record.workload.steps]
    if growing:
        _save(_scaling(growing), folder / "scaling.svg")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def _bars(axes: Axes, values: Mapping[str, Summary], pattern: str, rows: int) -> None:
    """
    Draw one bar for each label, the first on top, with its spread and its value.

    @param rows: the number of bars to leave room for, so that bars are equally wide in all panels.
    """
    for row, (label, each) in enumerate(values.items()):
        axes.barh(row, each.median, 0.68, color=_colour(label))
        axes.plot([each.low, each.high], [row, row], color=_INK, linewidth=1)
        axes.annotate(
            pattern.format(each.median),
            (max(each.median, each.high), row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(0, 1.18 * max(each.high for each in values.values()))
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)


def _colour(label: str) -> str:
    if label == SMTPHOOKS.name:
        return _OURS
    return _VARIANT if label.startswith(SMTPHOOKS.name) else _THEIRS


def _grid(records: Sequence[Record]) -> Figure:
    """CPU time of all servers, a panel for each workload."""
    columns = min(_COLUMNS, len(records))
    rows = -(-len(records) // columns)
    most = max(len(record.rounds[0]) for record in records)
    figure = Figure(figsize=(4.6 * columns, 0.25 * most * rows + 0.7 * rows + 0.4), layout="constrained")
    for position, record in enumerate(records, 1):
        axes = figure.add_subplot(rows, columns, position)
        relative = {
            label: Summary.of(compare.ratios(record.rounds, CPU, label, SMTPHOOKS.name)) for label in record.rounds[0]
        }
        _bars(axes, relative, "{:.2f}", most)
        axes.axvline(1, color=_OURS, linewidth=0.8, linestyle=":")
        axes.set_title(record.workload.title)
    figure.suptitle("CPU time, smtphooks = 1 (lower is better)", x=0.01, ha="left", fontsize=12)
    return figure


def _latency(record: Record) -> Figure:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for position, (name, title) in enumerate([(MEDIAN, "median"), (SLOWEST, "99th percentile")], 1):
        axes = figure.add_subplot(1, 2, position)
        _bars(axes, _absolute(record, name, 1), "{:.0f}", len(record.rounds[0]))
        axes.set_title(title)
        axes.set_xlabel("µs")
    figure.suptitle(f"{record.workload.title} (lower is better)".capitalize(), x=0.01, ha="left", fontsize=12)
    return figure


def _memory(record: Record) -> Figure:
    figure = Figure(figsize=(6.5, 2.8), layout="constrained")
    axes = figure.add_subplot()
    _bars(axes, _absolute(record, MEMORY, 1024), "{:.1f}", len(record.rounds[0]))
    axes.set_title("Memory per idle connection (lower is better)", fontsize=12)
    axes.set_xlabel("KiB")
    return figure


def _absolute(record: Record, name: str, unit: float) -> dict[str, Summary]:
    rounds = record.rounds
    return {label: Summary.of(value / unit for value in compare.absolute(rounds, name, label)) for label in rounds[0]}


def _scaling(records: Sequence[Record]) -> Figure:
    """The growth of the cost of a message, on logarithmic scales: a linear cost is a line of slope one."""
    figure = Figure(figsize=(4.6 * len(records), 3.4), layout="constrained")
    for position, record in enumerate(records, 1):
        axes = figure.add_subplot(1, len(records), position)
        amounts = list(record.workload.steps.values())
        costs = [Summary.of(compare.absolute(record.rounds, CPU, label)).median for label in record.workload.steps]
        axes.loglog(amounts, costs, color=_OURS, marker="o", linewidth=1.5)
        axes.set_xticks(amounts, list(record.workload.steps))
        axes.minorticks_off()
        axes.grid(color=_THEIRS, alpha=0.4, linewidth=0.5)
        axes.set_title(record.workload.title)
        axes.set_ylabel("µs of CPU per message")
    figure.suptitle("smtphooks under growing work", x=0.01, ha="left", fontsize=12)
    return figure
