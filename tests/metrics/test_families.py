"""Families: every metric is scraped with the kind, the labels and the help that are declared, and is documented."""

from __future__ import annotations

import re
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from smtphooks import Hooks
from smtphooks.metrics import Metrics
from smtphooks.metrics.families import FAMILIES, WORKER_FAMILIES
from tests.metrics.scrape import LISTENER, Scrape
from tests.pages import DOCS
from tests.real.programs import requires, run
from tests.support import ENVELOPE, Client, makeFactory

_ROW = re.compile(r"^ +\* - ``(smtphooks_\w+)``\n +- (\w+)\n +- (.*)\n +- (.+)$", re.MULTILINE)


def text() -> str:
    """A scrape with a sample of every metric."""
    factory = makeFactory(hooks=Hooking())
    metrics = Metrics()
    metrics.observe(factory, LISTENER)
    Client(factory).say(*ENVELOPE, "XYZZY", "DATA", "text", ".")
    counts = metrics._counts[LISTENER]
    counts.secured("TLSv1.3")
    counts.authenticated("PLAIN", 235)
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode()


class Hooking(Hooks):
    def onData(self, stream: Any, session: Any) -> None: ...

    def metricValues(self) -> list[tuple[str, tuple[str, ...], float]]:
        return [
            ("smtphooks_redis_up", ("counts", "127.0.0.1:6379"), 1),
            ("smtphooks_redis_fallbacks_total", ("counts",), 0),
        ]


def test_each_metric_has_samples_with_its_labels() -> None:
    scrape = Scrape(text())
    assert scrape.kinds == {family.name: family.kind for family in FAMILIES.values()}
    for family in FAMILIES.values():
        name = family.name + ("_count" if family.kind == "histogram" else "")
        labels = [tuple(sample.labels) for sample in scrape.samples if sample.name == name]
        assert labels, family.name
        assert {frozenset(each) for each in labels} == {frozenset(family.labels)}


def test_the_page_has_every_metric_with_its_kind_labels_and_meaning() -> None:
    rows = {
        name: (kind, tuple(re.findall(r"``(\w+)``", labels)), meaning)
        for name, kind, labels, meaning in _ROW.findall((DOCS / "metrics.rst").read_text())
    }
    families = [*FAMILIES.values(), *WORKER_FAMILIES.values()]
    declared = {family.name: (family.kind, family.labels, family.meaning) for family in families}
    assert rows == declared


@requires("promtool")
def test_prometheus_has_nothing_to_say_against_the_names() -> None:
    assert run("promtool", "check", "metrics", stdin=text().encode()).stdout == b""
