"""Back-off: later each time, once for each number, and nothing is left behind."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from smtphooks.service.backoff import Backoff


class Tries:
    """What is tried, and when."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.backoff = Backoff(self.clock, self._try)
        self.made: list[tuple[float, int]] = []

    def _try(self, number: int) -> None:
        self.backoff.begin(number)
        self.made.append((self.clock.seconds(), number))


@pytest.fixture
def tries() -> Tries:
    return Tries()


def test_each_failure_in_a_row_is_tried_again_after_twice_as_long_but_a_minute_at_most(tries: Tries) -> None:
    delays = []
    for _ in range(2000):
        delays.append(tries.backoff.failed(1))
        tries.clock.advance(delays[-1])
    assert delays[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert {*delays[8:]} == {60}
    assert len(tries.made) == 2000


def test_numbers_fail_for_themselves(tries: Tries) -> None:
    assert [tries.backoff.failed(1), tries.backoff.failed(2), tries.backoff.failed(1)] == [1, 1, 2]
    tries.clock.advance(1)
    tries.clock.advance(1)
    assert tries.made == [(1, 2), (2, 1)]


def test_after_a_success_the_next_failure_is_the_first_one(tries: Tries) -> None:
    for _ in range(3):
        tries.backoff.failed(1)
        tries.backoff.failed(2)
    tries.backoff.succeeded(1)
    tries.backoff.succeeded(3)
    assert [tries.backoff.failed(1), tries.backoff.failed(2)] == [1, 8]
    tries.backoff.forget()
    assert [tries.backoff.failed(1), tries.backoff.failed(2)] == [1, 1]


def test_what_is_tried_now_is_not_tried_again_later(tries: Tries) -> None:
    tries.backoff.failed(1)
    tries.backoff.begin(1)
    tries.backoff.begin(1)
    assert tries.clock.getDelayedCalls() == []


def test_nothing_is_left_when_it_stops(tries: Tries) -> None:
    tries.backoff.failed(1)
    tries.backoff.failed(2)
    tries.backoff.stop()
    assert tries.clock.getDelayedCalls() == []
