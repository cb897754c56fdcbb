"""Gathering: a scrape asks all workers, and waits for none for ever."""

from __future__ import annotations

from typing import Any

from prometheus_client import Metric
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from smtphooks.service.channel import Channel
from smtphooks.service.gathering import Gathering
from smtphooks.service.workers import READY, STARTING


class Silent:
    """A worker that answers nothing by itself."""

    def __init__(self, number: int, state: str = READY) -> None:
        self.number = number
        self.state = state
        self.hasBeaten = state != STARTING
        self.channel = Channel({})
        self.channel.makeConnection(StringTransport())

    def answer(self, value: float) -> None:
        for question in [*self.channel._asked]:
            self.channel._answered(question, {"result": {"snapshot": family(value)}})


def family(value: float) -> list[dict[str, Any]]:
    samples = [["mine_total", {}, value]]
    return [{"name": "mine", "type": "counter", "help": "Help.", "unit": "", "samples": samples}]


class Scrapes:
    """Two workers, and scrapes of them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.workers: list[Any] = [Silent(1), Silent(2)]
        self.gathering = Gathering(self.clock, self.workers, lambda: True, dict, None)
        self.shown: list[dict[str, float]] = []

    def scrape(self) -> Deferred[list[Metric]]:
        collected = self.gathering._merged.collect()
        collected.addCallback(self._show)
        return collected

    def _show(self, metrics: list[Metric]) -> None:
        self.shown.append({sample.name: sample.value for metric in metrics for sample in metric.samples})

    @property
    def sums(self) -> list[float]:
        return [shown["mine_total"] for shown in self.shown]


def test_a_scrape_waits_for_all_workers_and_sums_what_they_say() -> None:
    scrapes = Scrapes()
    scrapes.scrape()
    scrapes.workers[0].answer(2)
    assert scrapes.shown == []
    scrapes.workers[1].answer(3)
    assert scrapes.sums == [5]


def test_the_last_answer_of_one_that_does_not_answer_in_time_stands_in() -> None:
    scrapes = Scrapes()
    scrapes.scrape()
    for each in scrapes.workers:
        each.answer(2)
    with capturedLogs() as events:
        scrapes.scrape()
        scrapes.workers[0].answer(10)
        scrapes.clock.advance(5)
    assert scrapes.sums == [4, 12]
    assert [event["number"] for event in events] == [2]


def test_one_that_starts_is_not_asked() -> None:
    scrapes = Scrapes()
    scrapes.workers[:] = [Silent(3, STARTING)]
    scrapes.scrape()
    assert len(scrapes.shown) == 1


def test_an_answer_that_comes_when_its_worker_has_ended_is_not_counted_twice() -> None:
    scrapes = Scrapes()
    first = scrapes.workers[0]
    scrapes.scrape()
    scrapes.gathering.take(first, family(2))
    scrapes.workers.remove(first)
    scrapes.gathering.gone(first)
    first.answer(2)
    scrapes.workers[0].answer(3)
    assert scrapes.sums == [5]


def test_a_client_that_leaves_is_no_fault_of_a_worker() -> None:
    scrapes = Scrapes()
    with capturedLogs() as events:
        scrapes.scrape().addErrback(lambda _: None).cancel()
        scrapes.clock.advance(5)
    assert events == []
    assert scrapes.workers[0].channel._asked == {}
