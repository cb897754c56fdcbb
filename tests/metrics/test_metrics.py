"""Metrics: several factories in one scrape, each with its label."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from smtphooks.metrics import Metrics
from tests.metrics.scrape import scrape
from tests.support import HELLO, MAIL, Client, Mailbox, makeFactory


class TestObserve:
    def test_each_factory_has_its_own_label(self) -> None:
        metrics = Metrics()
        for name in ("tcp:25", "tcp:587"):
            metrics.observe(makeFactory(), name)
            Client(metrics._counts[name].factory).say(HELLO)
        Client(metrics._counts["tcp:587"].factory)
        assert scrape(metrics).of("smtphooks_connections_total", "listener") == {("tcp:25",): 1, ("tcp:587",): 2}

    def test_a_label_stands_for_one_factory(self) -> None:
        metrics = Metrics()
        metrics.observe(makeFactory(), "tcp:25")
        with pytest.raises(ValueError, match="'tcp:25'"):
            metrics.observe(makeFactory(), "tcp:25")

    def test_a_factory_is_observed_once(self) -> None:
        metrics, factory = Metrics(), makeFactory()
        metrics.observe(factory, "one")
        with pytest.raises(RuntimeError, match="observer already"):
            metrics.observe(factory, "two")
        assert list(metrics._counts) == ["one"]

    def test_connections_that_were_made_before_are_left_alone(self) -> None:
        factory, metrics = makeFactory(), Metrics()
        client = Client(factory)
        metrics.observe(factory, "tcp:25")
        client.say(HELLO)
        assert scrape(metrics).one("smtphooks_connections_total") == 0
        assert scrape(metrics).of("smtphooks_replies_total") == {}

    def test_a_hook_that_is_set_later_is_called_and_timed(self) -> None:
        def refuse(address: Any, session: Any) -> None: ...

        factory, metrics = makeFactory(), Metrics()
        metrics.observe(factory, "tcp:25")
        client = Client(factory)
        client.say(HELLO)
        factory.onMailFrom = refuse
        client.say(MAIL, "RSET")
        factory.onMailFrom = None
        client.say(MAIL)
        assert scrape(metrics).of("smtphooks_hook_seconds_count", "hook", "layer") == {("onMailFrom", ""): 1}


def test_openmetrics_takes_them_as_well() -> None:
    """Prometheus asks for this format, in which no name may stand for two metrics."""
    registry, metrics = CollectorRegistry(), Metrics()
    registry.register(metrics)
    metrics.observe(makeFactory(), "tcp:25")
    Client(metrics._counts["tcp:25"].factory).say(HELLO)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}


class TestReadiness:
    def test_a_factory_is_ready_while_it_listens(self) -> None:
        metrics, factory = Metrics(), makeFactory(onData=lambda stream, session: None)
        assert scrape(metrics).one("smtphooks_ready") == 0
        metrics.observe(factory, "tcp:25")
        assert not metrics.isReady()
        factory.doStart()
        assert metrics.isReady()
        assert scrape(metrics).one("smtphooks_ready") == 1
        factory.refuse()
        assert not metrics.isReady()
        factory.resume()
        assert metrics.isReady()
        factory.close()
        assert not metrics.isReady()
        factory.doStop()
        assert not metrics.isReady()

    def test_another_answer_may_be_set(self) -> None:
        metrics = Metrics()
        metrics.isReady = lambda: True
        assert scrape(metrics).one("smtphooks_ready") == 1


class Telling:
    def __init__(self, *values: float) -> None:
        self.values = values

    def onConnect(self, session: Any) -> None: ...

    def metricValues(self) -> Any:
        up, fallbacks = self.values
        yield "smtphooks_redis_up", ("counts", "a:1"), up
        yield "smtphooks_redis_fallbacks_total", ("counts",), fallbacks


class TestValuesOfLayers:
    def test_what_layers_tell_is_shown_once_for_each_of_them(self) -> None:
        metrics, first, second = Metrics(), Telling(1, 2), Telling(0, 3)
        shared = Telling(1, 7)
        shared.metricValues = first.metricValues  # type: ignore[method-assign] # as a layer hands on what its object tells
        metrics.observe(makeFactory(hooks=[first, second, Mailbox()]), "tcp:25")
        metrics.observe(makeFactory(hooks=[first, shared, Mailbox()]), "tcp:587")
        assert scrape(metrics).one("smtphooks_redis_up") == 0
        assert scrape(metrics).of("smtphooks_redis_fallbacks_total", "use") == {("counts",): 5}
