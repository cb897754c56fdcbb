"""
Metrics: the counts of factories, as Prometheus scrapes them.

L{Metrics} is a collector of C{prometheus_client}: it makes the metrics anew for each scrape, on the thread of the
reactor, and counts nothing itself.
This module knows no protocol, and not what a number means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import add
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from twisted.web.resource import IResource

from smtphooks._version import __version__
from smtphooks.factory import SMTPServerFactory
from smtphooks.metrics.counts import Counts
from smtphooks.metrics.families import COUNTER, FAMILIES, GAUGE, HISTOGRAM

_KINDS = {COUNTER: CounterMetricFamily, GAUGE: GaugeMetricFamily, HISTOGRAM: HistogramMetricFamily}


class Metrics(Collector):
    """
    The metrics of one factory, or of several.

    It must be asked on the reactor's thread, as L{resource} does.

    @ivar isReady: whether clients are served; by itself, whether all factories listen.  It may be replaced.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counts] = {}
        self.isReady: Callable[[], bool] = self._allListen

    def observe(self, factory: SMTPServerFactory, listener: str) -> None:
        """
        Count what the connections of a factory do, from the next that is made on.

        @param listener: the value of the label C{listener}.
        @raise ValueError: if another factory has this label.
        @raise RuntimeError: if the factory is observed already.
        """
        if listener in self._counts:
            raise ValueError(f"there is another factory with the label {listener!r}")
        counts = Counts(factory)
        factory.observe(counts)
        self._counts[listener] = counts

    def resource(self) -> IResource:
        """A resource of Twisted's web server: C{/metrics}, C{/healthz} and C{/readyz}."""
        # It imports the reactor, which must have been chosen by then.
        from smtphooks.metrics.site import resourceOf

        return resourceOf(self)

    def collect(self) -> Iterable[Metric]:
        """C{Collector}: all metrics, with the numbers of now."""
        families: dict[str, Any] = {
            family.name: _KINDS[family.kind](family.name, family.meaning, labels=family.labels)
            for family in FAMILIES.values()
        }
        families["smtphooks_build_info"].add_metric([__version__], 1)
        families["smtphooks_ready"].add_metric([], 1 if self.isReady() else 0)
        for listener, counts in self._counts.items():
            for name, values in counts.values():
                for labels, value in values.items():
                    families[name].add_metric([listener, *labels], value)
            for name, histograms in counts.histograms():
                for labels, histogram in histograms.items():
                    families[name].add_metric([listener, *labels], histogram.buckets(), histogram.sum)
        for (name, labels), value in _valuesOfLayers(counts.factory for counts in self._counts.values()).items():
            families[name].add_metric(labels, value)
        return families.values()

    def _allListen(self) -> bool:
        factories = [counts.factory for counts in self._counts.values()]
        return bool(factories) and all(
            factory.numPorts and not factory.isClosing and not factory.isRefusing for factory in factories
        )


def _valuesOfLayers(factories: Iterable[SMTPServerFactory]) -> dict[tuple[str, tuple[str, ...]], float]:
    """
    What layers say of themselves: an object of hooks may have a method C{metricValues}, which yields names of families,
    labels and values.

    Several objects may have the same labels: their counters are added, and of their gauges the least is shown.
    """
    asked = {}
    for layer in (layer for factory in factories for layer in factory.layers):
        ask = getattr(layer.hooks, "metricValues", None)
        if callable(ask):
            asked[id(getattr(ask, "__self__", layer.hooks))] = ask  # layers may share what they tell of
    values: dict[tuple[str, tuple[str, ...]], float] = {}
    for ask in asked.values():
        for name, labels, value in ask():
            merge = min if FAMILIES[name].kind == GAUGE else add
            values[name, labels] = merge(values[name, labels], value) if (name, labels) in values else value
    return values
