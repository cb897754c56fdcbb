"""
The results, as text for people and as JSON for programs.

Neither form identifies the machine.  This module measures nothing and compares nothing itself.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import compare
from benchmarks.compare import Summary
from benchmarks.peers import PEERS, SMTP_SINK, SMTPHOOKS
from benchmarks.rounds import BUSY, CPU, EMPTY, MEDIAN, MEMORY, RATE, SLOWEST, Record

# Servers are compared by the first of these figures that a record has.
_COMPARED = (CPU, MEDIAN, MEMORY, RATE)
_ALSO_SHOWN = {CPU: RATE, MEDIAN: SLOWEST, MEMORY: EMPTY, RATE: BUSY}


def comparedBy(record: Record) -> str:
    """The figure by which servers are compared for this workload."""
    present = next(iter(record.rounds[0].values()), {})
    return next((figure for figure in _COMPARED if figure in present), CPU)


def ratiosOf(record: Record, figure: str) -> dict[str, Summary]:
    """
    The ratio of each other label to the base, by label: a peer as base/peer, a variant of smtphooks as variant/base.

    Below 1 the first of the two needs less, or carries less if messages per second are compared.
    """
    base, found = record.workload.base, {}
    for label in record.rounds[0]:
        if label != base:
            values = compare.ratios(record.rounds, figure, *_pair(base, label))
            if values:
                found[label] = Summary.of(values)
    return found


def _pair(base: str, label: str) -> tuple[str, str]:
    isPeer = base.startswith(SMTPHOOKS.name) and not label.startswith(SMTPHOOKS.name)
    return (base, label) if isPeer else (label, base)


# --- text ---


def block(record: Record) -> str:
    """The table of one workload."""
    workload = record.workload
    lines = [f"{workload.title} ({workload.name}, {len(record.rounds)} rounds)"]
    if record.rounds and record.rounds[0]:
        lines += _figureLines(record, comparedBy(record))
    if workload.steps and record.rounds:
        grown = Summary.of(compare.growth(record.rounds, CPU, workload.steps))
        lines.append(f"    the cost of a unit grows by {_spread(grown)}")
    lines += [f"    {label} {why}" for label, why in record.skipped.items()]
    return "\n".join(lines) + "\n"


def _figureLines(record: Record, figure: str) -> Iterator[str]:
    also = _ALSO_SHOWN.get(figure)
    per = f"/{record.workload.unit}" if figure == CPU else ""
    yield f"    {'':32}{figure + per:>16}{f'{also:>14}' if also else ''}  ratio (middle half of the rounds)"
    found = ratiosOf(record, figure)
    for label in record.rounds[0]:
        line = f"    {label:32}{Summary.of(compare.absolute(record.rounds, figure, label)).median:16,.1f}"
        if also:
            line += f"{Summary.of(compare.absolute(record.rounds, also, label)).median:14,.0f}"
        if label in found:
            line += f"  {_spread(found[label])}  {' / '.join(_pair(record.workload.base, label))}"
        yield line


def _hasPeers(record: Record) -> bool:
    labels = [turn.label for turn in record.workload.turns]
    return record.workload.base == SMTPHOOKS.name and any(not label.startswith(SMTPHOOKS.name) for label in labels)


def _spread(summary: Summary) -> str:
    return f"{summary.median:.3f} ({summary.low:.3f}-{summary.high:.3f})"


def overview(records: Sequence[Record]) -> str:
    """A table of smtphooks relative to each peer: a line for each workload, a column for each peer."""
    shown = [record for record in records if record.rounds and _hasPeers(record)]
    if not shown:
        return ""
    labels: dict[str, None] = {}
    for record in shown:
        labels.update({label: None for label in record.rounds[0] if not label.startswith(SMTPHOOKS.name)})
    lines = [
        "smtphooks / peer: below 1.000 smtphooks needs less",
        f"{'':40}" + "".join(f"{each:>26}" for each in labels),
    ]
    for record in shown:
        figure = comparedBy(record)
        found = ratiosOf(record, figure)
        cells = (_spread(found[label]) if label in found else "-" for label in labels)
        lines.append(f"{record.workload.title:40}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines) + "\n"


# --- JSON ---


def machine() -> dict[str, str]:
    """Properties of the machine that figures depend on, and none that identify it."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """The versions of the servers that are installed."""
    return {peer.name: found for peer in (SMTPHOOKS, *PEERS) if (found := peer.version())}


def asJSON(records: Sequence[Record]) -> str:
    """Every figure of every round."""
    document = {
        "machine": machine(),
        "versions": versions(),
        "workloads": {record.workload.name: _workload(record) for record in records},
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _workload(record: Record) -> Mapping[str, Any]:
    found = ratiosOf(record, comparedBy(record)) if record.rounds else {}
    return {
        "title": record.workload.title,
        "unit": record.workload.unit,
        "skipped": record.skipped,
        "ratios": {" / ".join(_pair(record.workload.base, label)): asdict(each) for label, each in found.items()},
        "rounds": [
            {label: {name: round(value, 3) for name, value in figures.items()} for label, figures in each.items()}
            for each in record.rounds
        ],
    }


def asText(records: Sequence[Record]) -> str:
    """All tables, for a file."""
    # Postfix sends the load.
    present = {SMTPHOOKS.name, SMTP_SINK.name, *(turn.label for record in records for turn in record.workload.turns)}
    facts = [*machine().values(), *(found for name, found in versions().items() if name in present)]
    return "\n".join(["; ".join(facts), "", overview(records), *map(block, records)])
