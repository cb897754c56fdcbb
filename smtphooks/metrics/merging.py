"""
Merging: the snapshots of all workers as the metrics of one server.

What is counted is summed over the workers, and a worker that ends leaves its counts behind: Prometheus takes a number
that drops for one that began anew, and would count the rest of it again.  Gauges are those of the workers that run.
The sums are exact before they are rounded, as floats that are added in another order may drop by their last bit.
This module knows no process, and not how snapshots travel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from math import fsum, isfinite
from typing import Any, NamedTuple

import attrs
from prometheus_client import Metric
from twisted.internet.defer import Deferred, succeed
from twisted.web.resource import IResource

from smtphooks.metrics.families import COUNTER, FAMILIES, WORKER_FAMILIES, Family
from smtphooks.metrics.snapshot import Snapshot, familyOf

# What only grows, but for the times at which it began.
_COUNTED = ("counter", "histogram", "summary")

# Gauges that mean nothing as a sum.  A limit of descriptors is that of each process, a text is 1 in its label, and a
# server is up if it answers all workers.
_GAUGES: dict[str, Callable[[Sequence[float]], float]] = {
    "smtphooks_build_info": max,
    "smtphooks_connection_limit_used_ratio": max,
    "smtphooks_redis_up": min,
    "process_start_time_seconds": min,
    "process_max_fds": max,
    "python_info": max,
}

_READY = FAMILIES["smtphooks_ready"]

_Key = tuple[str, tuple[tuple[str, str], ...]]


class _Shape(NamedTuple):
    """
    What families must have in common to be merged; after a reload the hooks may make another metric of a name.

    @ivar edges: of a histogram those of its buckets, as counts below different edges have no sum.
    """

    name: str
    type: str
    edges: frozenset[str]


@attrs.frozen
class _Part:
    """
    A family of one worker, or of all those that have ended.

    @ivar samples: the values by name and labels; several of one sample are to be merged.
    """

    help: str
    unit: str
    samples: dict[_Key, list[float]]


_Parts = dict[_Shape, _Part]


class MergedMetrics:
    """
    The metrics of all workers, and those of their supervisor.

    @ivar isReady: whether clients are served; by itself, whether all workers that have answered say so.
    @ivar ask: called at a scrape, to have each worker's snapshot given to L{update}; what it returns fires when all
        have answered or the time is over, and the last snapshot of a worker stands in.
    @ivar numbers: the numbers of the supervisor, by the names of C{WORKER_FAMILIES} and the values of their label.
    All three may be replaced.
    """

    def __init__(self, ended: Snapshot | None = None) -> None:
        """
        @param ended: the counts of workers that had ended when another supervisor handed over, its L{ended}.
        """
        self._latest: dict[Hashable, _Parts] = {}
        self._ended: _Parts = _partsOf(ended or [])
        self.isReady: Callable[[], bool] = self._allReady
        self.ask: Callable[[], Deferred[Any]] = lambda: succeed(None)
        self.numbers: Callable[[], Mapping[str, Mapping[str, float]]] = dict

    def update(self, worker: Hashable, snapshot: Snapshot) -> None:
        """
        Take the snapshot of a worker in the place of its last one.

        @param worker: any key that is this process' alone until it is forgotten.
        """
        self._latest[worker] = _partsOf(snapshot)

    def forget(self, worker: Hashable) -> None:
        """The worker has ended: its counts stay, and its gauges go."""
        for shape, part in self._latest.pop(worker, {}).items():
            if shape.type not in _COUNTED:
                continue
            # The last shape of a name is the newest.
            before = self._ended.pop(shape, None)
            samples = {} if before is None else before.samples
            for key, values in part.samples.items():
                samples[key] = _condensed(shape, key[0], [*samples.get(key, ()), *values])
            self._ended[shape] = _Part(part.help, part.unit, samples)

    def ended(self) -> Snapshot:
        """The counts of workers that have ended, exactly, for a supervisor that takes over."""
        return [familyOf(_metric(shape, part, part.samples)) for shape, part in self._ended.items()]

    def collect(self) -> Deferred[list[Metric]]:
        """What a scrape shows, once the workers were asked."""
        return self.ask().addCallback(lambda _: self.merged())

    def resource(self) -> IResource:
        """A resource of Twisted's web server: C{/metrics}, C{/healthz} and C{/readyz}."""
        # It imports the reactor, which must have been chosen by then.
        from smtphooks.metrics.site import resourceOf

        # What is registered in the process of the supervisor is no worker's.
        return resourceOf(self, isWhole=True)

    def merged(self) -> list[Metric]:
        """What a scrape shows of what is known now."""
        names: set[str] = set()
        shown = []
        for metric in (*self._own(), *self._ofWorkers()):
            its = {metric.name, *(sample.name for sample in metric.samples)}
            its |= {f"{metric.name}_total"} if metric.type == COUNTER else set()
            # A name that stands for two metrics would break the scrape.
            if not its & names:
                names |= its
                shown.append(metric)
        return shown

    def _own(self) -> Iterator[Metric]:
        yield _ownMetric(_READY, [({}, self.isReady())])
        numbers = self.numbers()
        for family in WORKER_FAMILIES.values():
            values = {**dict.fromkeys(family.values, 0), **numbers.get(family.name, {})}
            (label,) = family.labels
            yield _ownMetric(family, [({label: value}, number) for value, number in values.items()])

    def _ofWorkers(self) -> Iterator[Metric]:
        found: dict[str, list[tuple[_Shape, _Part]]] = {}
        for parts in (*reversed(self._latest.values()), dict(reversed(self._ended.items()))):
            for shape, part in parts.items():
                found.setdefault(shape.name, []).append((shape, part))
        for those in found.values():
            # The newest worker's, but a histogram that has observed nothing has no edges.
            newest, first = next((each for each in those if each[1].samples), those[0])
            gathered: dict[_Key, list[float]] = {}
            for shape, part in those:
                if shape == newest:
                    for key, values in part.samples.items():
                        gathered.setdefault(key, []).extend(values)
            yield _metric(newest, first, {key: [_merged(newest, key[0], gathered[key])] for key in gathered})

    def _allReady(self) -> bool:
        of = [parts.get(_Shape(_READY.name, _READY.kind, frozenset())) for parts in self._latest.values()]
        return bool(of) and all(part is not None and all(map(min, part.samples.values())) for part in of)


def _partsOf(snapshot: Snapshot) -> _Parts:
    parts: _Parts = {}
    for family in snapshot:
        samples: dict[_Key, list[float]] = {}
        for name, labels, value in family["samples"]:
            samples.setdefault((name, tuple(sorted(labels.items()))), []).append(float(value))
        isHistogram = family["type"] in ("histogram", "gaugehistogram")
        edges = {labels["le"] for _, labels, _ in family["samples"] if isHistogram and "le" in labels}
        shape = _Shape(family["name"], family["type"], frozenset(edges))
        parts[shape] = _Part(family["help"], family["unit"], samples)
    return parts


def _metric(shape: _Shape, part: _Part, samples: Mapping[_Key, Sequence[float]]) -> Metric:
    metric = Metric(shape.name, part.help, shape.type, part.unit)
    for (name, labels), values in samples.items():
        for value in values:
            metric.add_sample(name, dict(labels), value)
    return metric


def _ownMetric(family: Family, values: Iterable[tuple[dict[str, str], float]]) -> Metric:
    metric = Metric(family.name.removesuffix("_total"), family.meaning, family.kind)
    for labels, value in values:
        metric.add_sample(family.name, labels, float(value))
    return metric


def _isSum(shape: _Shape, sample: str) -> bool:
    return shape.type in _COUNTED and not sample.endswith("_created")


def _merged(shape: _Shape, sample: str, values: Sequence[float]) -> float:
    """One value for those of all workers."""
    if _isSum(shape, sample):
        try:
            return fsum(values)
        except (OverflowError, ValueError):  # infinities
            return sum(values)
    if shape.type in _COUNTED:
        return min(values)
    if shape.type in ("info", "stateset"):
        return max(values)
    rule = _GAUGES.get(shape.name)
    return sum(values) if rule is None else rule(values)


def _condensed(shape: _Shape, sample: str, values: Sequence[float]) -> list[float]:
    """As few values as there can be that have the same merged value, together with any others."""
    merged = _merged(shape, sample, values)
    if not _isSum(shape, sample) or not isfinite(merged):
        return [merged]
    partials: list[float] = []
    for value in values:
        _addExactly(partials, value)
    return partials


def _addExactly(partials: list[float], value: float) -> None:
    """
    Add a value to a sum that is kept as floats which do not overlap.

    It is Shewchuk's algorithm ("Adaptive Precision Floating-Point Arithmetic", 1997), which C{math.fsum} uses as well.
    """
    rest = []
    for partial in partials:
        large, small = (value, partial) if abs(value) >= abs(partial) else (partial, value)
        value = large + small
        error = small - (value - large)
        if error:
            rest.append(error)
    partials[:] = [*rest, value]
