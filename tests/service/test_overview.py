"""The answer for all workers, also where one does not answer."""

from __future__ import annotations

import os
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from smtphooks import __version__
from smtphooks.service.channel import ChannelError
from smtphooks.service.overview import RATED, overviewOf
from smtphooks.service.rates import Rates

ANSWER = {"connections": 3, "accepted": 9, "messages": 8, "waits": {"a command": 3}, "listeners": {"tcp:25": 3}}


class Channel:
    """A channel whose other side answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Deferred[Any] = Deferred()

    def ask(self, kind: str, timeout: float, clock: Any) -> Deferred[Any]:
        self.asked.append(kind)
        return self.answer.addTimeout(timeout, clock)


@attrs.define
class Worker:
    number: int
    generation: int = 1
    state: str = "ready"
    since: float = 0.0
    rates: Rates = attrs.field(factory=lambda: Rates(0.0, RATED))
    channel: Any = attrs.field(factory=Channel)

    @property
    def pid(self) -> int:
        return 1000 + self.number


@pytest.fixture
def clock() -> Clock:
    return Clock()


def overview(clock: Clock, *workers: Worker, heldBack: tuple[int, ...] = ()) -> list[Any]:
    found: list[Any] = []
    overviewOf(workers, heldBack, clock).addCallback(found.append)
    return found


def test_all_workers_are_asked_and_stand_in_order_with_their_rates(clock: Clock) -> None:
    one, two = Worker(1), Worker(2, since=5.0)
    clock.advance(10)
    two.rates.note(10, {"accepted": 20, "messages": 10, "processor": 2.5})
    found = overview(clock, two, one)
    one.channel.answer.callback(ANSWER)
    assert found == []
    two.channel.answer.callback(ANSWER)
    (all,) = found
    assert (all["version"], all["pid"]) == (__version__, os.getpid())
    assert all["listeners"] == {"tcp:25": 6}
    assert [worker["number"] for worker in all["workers"]] == [1, 2]
    assert all["workers"][1] == {
        "number": 2,
        "generation": 1,
        "pid": 1002,
        "state": "ready",
        "seconds": 5,
        "perSecond": {"accepted": 2, "messages": 1, "processor": 0.25},
        **ANSWER,
    }
    assert one.channel.asked == ["status"]


def test_one_that_does_not_answer_is_there_without_its_numbers(clock: Clock) -> None:
    hangs, ends = Worker(1), Worker(2)
    found = overview(clock, hangs, ends)
    ends.channel.answer.errback(ChannelError("the other process has ended"))
    assert found == []
    clock.advance(2)
    (all,) = found
    assert [(worker["number"], worker.get("connections")) for worker in all["workers"]] == [(1, None), (2, None)]


def test_one_that_is_out_of_service_is_there_while_it_drains_and_afterwards(clock: Clock) -> None:
    draining = Worker(2, state="draining")
    found = overview(clock, draining, heldBack=(2, 3))
    draining.channel.answer.callback({"connections": 1})
    states = [(worker["number"], worker["state"]) for worker in found[0]["workers"]]
    assert states == [(2, "draining"), (3, "out of service")]


def test_one_that_starts_is_not_waited_for(clock: Clock) -> None:
    (all,) = overview(clock, Worker(1, state="starting"))
    assert [(worker["number"], worker["state"]) for worker in all["workers"]] == [(1, "starting")]
