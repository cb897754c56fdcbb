"""Snapshots: all that a scrape of one process shows, as JSON takes it."""

from __future__ import annotations

import json

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from smtphooks.metrics import Metrics
from smtphooks.metrics.merging import MergedMetrics
from smtphooks.metrics.site import _Taken
from smtphooks.metrics.snapshot import snapshot
from tests.metrics.scrape import observed
from tests.support import HELLO, Client, makeFactory


def test_it_has_every_sample_of_a_scrape() -> None:
    factory = makeFactory()
    metrics = observed(factory)
    Client(factory).say(HELLO)
    taken = {(name, *sorted(labels.items())) for family in snapshot(metrics) for name, labels, _ in family["samples"]}
    scraped = {
        (sample.name, *sorted(sample.labels.items()))
        for metric in _Taken([*metrics.collect()]).collect()
        for sample in metric.samples
    }
    assert taken == scraped
    assert ("process_open_fds",) in taken


def test_metrics_of_hooks_are_there_and_whatever_their_numbers_are_JSON_takes_them() -> None:
    gauge = Gauge("tests_of_snapshots", "A gauge of a hook.", unit="bytes")
    gauge.set(float("nan"))
    try:
        taken = {family["name"]: family for family in json.loads(json.dumps(snapshot(Metrics()), allow_nan=False))}
    finally:
        REGISTRY.unregister(gauge)
    assert taken["tests_of_snapshots_bytes"] == {
        "name": "tests_of_snapshots_bytes",
        "type": "gauge",
        "help": "A gauge of a hook.",
        "unit": "bytes",
        "samples": [["tests_of_snapshots_bytes", {}, "nan"]],
    }


def test_exemplars_are_left_out() -> None:
    """They say of one event where it was, and there is one for each sum."""
    registry = CollectorRegistry()
    Counter("mine", "Help.", registry=registry).inc(exemplar={"trace": "1"})
    merged = MergedMetrics()
    merged.update(1, snapshot(registry))
    assert all(sample.exemplar is None for metric in merged.merged() for sample in metric.samples)
