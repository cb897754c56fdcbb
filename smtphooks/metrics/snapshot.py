"""
Snapshots: all metrics of one process as plain data, which a worker sends to its supervisor.

A snapshot is a list of families, each C{{"name", "type", "help", "unit", "samples"}}, and a sample is a list of its
name, its labels and its value.  JSON has no NaN and no infinity, so these are texts.  Timestamps and exemplars are left
out, as they mean nothing in a sum.
This module knows no factory, no other process, and not what a metric means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any, Protocol

from prometheus_client import REGISTRY, Metric

Snapshot = list[dict[str, Any]]


class Collected(Protocol):
    """What has metrics, such as L{Metrics<smtphooks.metrics.metrics.Metrics>}."""

    def collect(self) -> Iterable[Metric]: ...


def snapshot(metrics: Collected) -> Snapshot:
    """All that a scrape of this process would show, to be called on the reactor's thread."""
    return [familyOf(metric) for metric in withRegistered(list(metrics.collect()))]


def familyOf(metric: Metric) -> dict[str, Any]:
    """A metric as plain data."""
    return {
        "name": metric.name,
        "type": metric.type,
        "help": metric.documentation,
        "unit": metric.unit,
        "samples": [[sample.name, dict(sample.labels), _inJSON(sample.value)] for sample in metric.samples],
    }


def withRegistered(metrics: list[Metric]) -> Iterator[Metric]:
    """These metrics, and those that are registered with C{prometheus_client}."""
    yield from metrics
    names = {metric.name for metric in metrics}
    for metric in REGISTRY.collect():
        # An application may have registered the same metrics.
        if metric.name not in names:
            yield metric


def _inJSON(value: float) -> float | str:
    return value if isfinite(value) else str(value)
