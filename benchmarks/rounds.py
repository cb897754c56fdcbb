"""
Rounds: a workload is measured in rounds; in each, every server has its turn, and a different one begins.

This module knows neither SMTP nor how figures are compared; its result is a L{Record}.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import quantiles

from benchmarks import load, measure
from benchmarks.peers import Peer
from benchmarks.running import Server, started
from benchmarks.workloads import Burst, Capacity, Job, Latency, Memory, Turn, Workload

# The figures of one turn, by name.
Figures = dict[str, float]

CPU = "CPU µs"
RATE = "per second"
# CPU time per time: 200 are two cores that are busy.
BUSY = "% of a core"
MEDIAN = "p50 µs"
SLOWEST = "p99 µs"
MEMORY = "octets"
EMPTY = "MB without"

# The first connections fill memory that the process has already allocated; only those after them are measured.
_FIRST_CONNECTIONS = 1000


@dataclass(frozen=True)
class Record:
    """
    @ivar rounds: for each round the figures of every label.
    @ivar skipped: the labels that were not measured, with the reason.
    """

    workload: Workload
    rounds: list[dict[str, Figures]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def play(workload: Workload, rounds: int, scale: float = 1.0) -> Record:
    """
    Measure a workload with those of its servers that are installed.

    @param scale: the fraction of each load that is used.
    """
    record = Record(workload)
    rounds = min(rounds, workload.most)
    turns = [turn for turn in workload.turns if not _isMissing(turn, record)]
    for first in range(rounds) if workload.fresh else [0]:
        with started({turn.peer: None for turn in turns}, workload.mode, scale) as servers:
            taking = [turn for turn in turns if _offers(servers[turn.peer], workload.needs, turn, record)]
            if not workload.fresh:
                _playRound(taking, servers, scale)  # The first burst is slower than later ones.
            for number in [first] if workload.fresh else range(rounds):
                record.rounds.append(_playRound(list(rotated(taking, number)), servers, scale))
    return record


def _isMissing(turn: Turn, record: Record) -> bool:
    missing = turn.peer.version() is None
    if missing:
        record.skipped[turn.label] = f"is not here: {turn.peer.hint}"
    elif turn.peer.cores > len(measure.allCores()):
        missing = True
        record.skipped[turn.label] = f"needs {turn.peer.cores} cores, and may use {len(measure.allCores())}"
    return missing


def _offers(server: Server, extension: str, turn: Turn, record: Record) -> bool:
    offered = not extension or extension in server.offers
    if not offered:
        record.skipped[turn.label] = f"does not offer {extension}"
    return offered


def rotated(turns: list[Turn], number: int) -> Iterator[Turn]:
    """The turns in the same order, beginning with the next one in each round."""
    for position in range(len(turns)):
        yield turns[(position + number) % len(turns)]


def _playRound(turns: list[Turn], servers: dict[Peer, Server], scale: float) -> dict[str, Figures]:
    return {turn.label: _take(turn, servers[turn.peer], scale) for turn in turns}


def _take(turn: Turn, server: Server, scale: float) -> Figures:
    figures = _measured(turn.job, server, scale)
    # Again, as under load a server may have started more threads and processes.
    measure.checkCores(server.pid, turn.peer.cores > 0)
    return figures


def _measured(job: Job, server: Server, scale: float) -> Figures:
    if isinstance(job, Burst):
        return _burst(job, server, scale)
    if isinstance(job, Capacity):
        return _capacity(job, server, scale)
    if isinstance(job, Latency):
        return _latency(job, server, scale)
    return _memory(job, server, scale)


def _burst(job: Burst, server: Server, scale: float) -> Figures:
    burst = job.load.scaled(scale)
    units = burst.count * job.each
    files = measure.openFiles(server.pid)
    before, began = measure.cpuTime(server.pid), time.perf_counter()
    burst.run(server.port)
    took = time.perf_counter() - began
    measure.awaitQuiet(server.pid, files)
    return {CPU: (measure.cpuTime(server.pid) - before) / 1000 / units, RATE: units / took}


def _capacity(job: Capacity, server: Server, scale: float) -> Figures:
    burst = job.load.scaled(scale)
    files = measure.openFiles(server.pid)
    before, began = measure.cpuTime(server.pid), time.perf_counter()
    burst.run(server.port)
    took = time.perf_counter() - began
    busy = (measure.cpuTime(server.pid) - before) / 1e9 / took
    measure.awaitQuiet(server.pid, files)
    return {RATE: burst.count / took, BUSY: 100 * busy}


def _latency(job: Latency, server: Server, scale: float) -> Figures:
    taken = load.latencies(server.port, job.rate, job.seconds * scale)
    hundredths = quantiles(taken, n=100)
    return {MEDIAN: hundredths[49] * 1e6, SLOWEST: hundredths[98] * 1e6}


def _memory(job: Memory, server: Server, scale: float) -> Figures:
    counts = [round(count * scale) for count in (_FIRST_CONNECTIONS, job.connections)]
    measure.awaitQuiet(server.pid, measure.openFiles(server.pid))
    empty, held = measure.memory(server.pid), []
    with ExitStack() as stack:
        for count in counts:
            for connection in load.connections(server.port, count):
                stack.callback(connection.close)
            measure.awaitQuiet(server.pid, measure.openFiles(server.pid))
            held.append(measure.memory(server.pid))
    return {MEMORY: (held[1] - held[0]) / counts[1], EMPTY: empty / 1e6}
