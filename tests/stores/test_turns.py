"""Turns: so many at the same time, and the others in their order."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import Clock

from smtphooks.stores.turns import Turns


def take(turns: Turns, clock: Clock, timeout: float = 10) -> Deferred[None]:
    return Deferred.fromCoroutine(turns.take(timeout, clock))


def failureOf(taken: Deferred[None]) -> Any:
    failures: list[Any] = []
    taken.addErrback(failures.append)
    return failures[0].type if failures else None


def test_a_place_that_is_left_goes_to_the_one_that_waits_longest() -> None:
    clock, turns = Clock(), Turns(2)
    taken = [take(turns, clock) for _ in range(5)]
    assert [each.called for each in taken] == [True, True, False, False, False]
    turns.leave()
    turns.leave()
    assert [each.called for each in taken] == [True, True, True, True, False]
    for _ in range(3):
        turns.leave()
    assert clock.getDelayedCalls() == []
    assert [take(turns, clock).called for _ in range(3)] == [True, True, False]


def test_one_that_waits_too_long_or_gives_up_takes_no_place() -> None:
    clock, turns = Clock(), Turns(1)
    take(turns, clock)
    late, cancelled = take(turns, clock), take(turns, clock, timeout=0)
    clock.advance(10)
    assert failureOf(late) is DeferredTimeout
    cancelled.cancel()
    assert failureOf(cancelled) is CancelledError
    waiting = turns.take(10, clock)
    waiting.send(None)
    waiting.close()
    assert clock.getDelayedCalls() == []
    turns.leave()
    assert take(turns, clock).called


def test_0_is_no_limit_of_places_or_time() -> None:
    clock = Clock()
    assert all(take(Turns(0), clock).called for _ in range(100))
    turns = Turns(1)
    taken = [take(turns, clock, timeout=0) for _ in range(2)]
    clock.advance(1e9)
    assert not taken[1].called


def test_one_whose_coroutine_is_closed_leaves_nothing_and_does_not_go_on() -> None:
    clock, turns = Clock(), Turns(1)
    take(turns, clock)
    task = turns.take(10, clock)
    gone: list[object] = []
    task.send(None).addBoth(gone.append)
    task.close()
    assert (clock.getDelayedCalls(), gone) == ([], [])
    waiting = take(turns, clock)
    turns.leave()
    assert waiting.called


def test_one_that_is_cancelled_before_it_goes_on_gives_its_place_back() -> None:
    # A task of asyncio goes on some time after that for which it waits has come.
    clock, turns = Clock(), Turns(1)
    take(turns, clock)
    task = turns.take(0, clock)
    given: list[object] = []
    task.send(None).addCallback(given.append)
    waiting = take(turns, clock)
    turns.leave()
    assert (given, waiting.called) == ([None], False)
    with pytest.raises(CancelledError):
        task.throw(CancelledError())
    assert waiting.called
