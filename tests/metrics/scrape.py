"""A scrape, as tests read it: the text that Prometheus gets, parsed by its own parser."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from smtphooks import SMTPServerFactory
from smtphooks.metrics import Metrics

LISTENER = "tcp:25"


class Scrape:
    """
    The samples of a scrape.

    @ivar kinds: the kind of each metric, by its name as it is documented.
    """

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in families for sample in family.samples]
        self.kinds = {family.name + ("_total" if family.type == "counter" else ""): family.type for family in families}

    def of(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The values of a metric, all but zero, by these labels; others are added up."""
        values: dict[tuple[str, ...], float] = {}
        for sample in self.samples:
            if sample.name == name and sample.value:
                key = tuple(sample.labels[label] for label in labels)
                values[key] = values.get(key, 0) + sample.value
        return values

    def one(self, name: str) -> float:
        """The only value of a metric."""
        (value,) = [sample.value for sample in self.samples if sample.name == name]
        return value


def scrape(metrics: Metrics) -> Scrape:
    """What Prometheus would get now."""
    registry = CollectorRegistry()
    registry.register(metrics)
    return Scrape(generate_latest(registry).decode())


def observed(factory: SMTPServerFactory) -> Metrics:
    """The metrics of a factory."""
    metrics = Metrics()
    metrics.observe(factory, LISTENER)
    return metrics
