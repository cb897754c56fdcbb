"""Counts: the algorithm against a plain model with exact fractions, and what is forgotten when."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from smtphooks.layers import counts
from smtphooks.layers.counts import Limit, MemoryCounts, Verdict

KEY = "messages client 192.0.2.7"
TEN_A_MINUTE = Limit(10, 60, 10)


def memory(maxKeys: int = 1000) -> tuple[MemoryCounts, Clock]:
    made = MemoryCounts(maxKeys)
    clock = Clock()
    clock.rightNow = 1_800_000_000.0  # the reactor's clock is that of the wall
    made.clock = clock  # type: ignore[assignment]
    return made, clock


def taken(made: MemoryCounts, limit: Limit, most: int, key: str = KEY) -> int:
    """How many single units are taken before the first refusal."""
    for number in range(most):
        if made.increment(key, 1, (limit,)).limit:
            return number
    return most


# --- the algorithm ---


class Model:
    """A bucket of tokens: what the algorithm must agree with, in exact fractions."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.rate = Fraction(limit.limit) / Fraction(limit.seconds)
        self.tokens = Fraction(limit.burst)

    def passes(self, seconds: Fraction) -> None:
        self.tokens = min(Fraction(self.limit.burst), self.tokens + seconds * self.rate)

    def wait(self, cost: int) -> Fraction:
        return max(Fraction(0), cost - self.tokens) / self.rate


limits = st.builds(Limit, st.integers(1, 50), st.sampled_from([1, 3, 7, 60, 3600]), st.integers(1, 60))
# Eighths of seconds are exact in floats as well.
events = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 8), st.booleans()), max_size=60)


@given(st.lists(limits, min_size=1, max_size=3, unique=True), events)
def test_it_takes_what_a_bucket_of_tokens_takes_from_all_limits_or_none(of: list[Limit], happening: Any) -> None:
    made, clock = memory()
    models = [Model(limit) for limit in of]
    for eighths, cost, force in happening:
        clock.advance(eighths / 8)
        for model in models:
            model.passes(Fraction(eighths, 8))
        waits = [model.wait(cost) if cost <= model.limit.burst else inf for model in models]
        asked = made.check(KEY, cost, tuple(of))
        verdict = made.increment(KEY, cost, tuple(of), force)
        assert asked == verdict
        assert (verdict.limit is None) == (max(waits) == 0)
        assert verdict.wait == pytest.approx(float(max(waits)), abs=2e-9)
        if verdict.limit is None or force:
            for model in models:
                model.tokens -= cost


@given(limits, events)
def test_no_window_has_more_than_the_limit_and_the_burst(limit: Limit, happening: Any) -> None:
    made, clock = memory()
    accepted: list[tuple[float, int]] = []
    for eighths, cost, _ in happening:
        clock.advance(eighths / 8)
        if made.increment(KEY, cost, (limit,)).limit is None:
            accepted.append((clock.seconds(), cost))
    for start, _ in accepted:
        window = sum(cost for time, cost in accepted if start <= time <= start + limit.seconds)
        assert window <= limit.limit + limit.burst


def test_a_burst_is_taken_at_once_and_then_units_come_back_without_drift() -> None:
    made, clock = memory()
    limit = Limit(7, 1, 3)  # a seventh of a second is no round number in any notation
    assert taken(made, limit, 99) == 3
    total = 0
    for _ in range(8000):
        clock.advance(1 / 8)
        total += taken(made, limit, 99)
    assert total == 7000
    clock.advance(1_000_000)
    assert taken(made, limit, 99) == 3


def test_what_is_refused_takes_nothing() -> None:
    made, clock = memory()
    assert taken(made, TEN_A_MINUTE, 50) == 10
    assert taken(made, TEN_A_MINUTE, 50) == 0
    clock.advance(6)
    assert taken(made, TEN_A_MINUTE, 50) == 1


def test_after_the_wait_it_is_taken_and_not_earlier() -> None:
    made, clock = memory()
    limit = Limit(7, 60, 7)
    made.increment(KEY, 7, (limit,))
    wait = made.check(KEY, 3, (limit,)).wait
    clock.advance(wait - 0.001)
    assert made.check(KEY, 3, (limit,)).limit == limit
    clock.advance(0.001001)
    assert made.increment(KEY, 3, (limit,)) == Verdict()


def test_the_limit_with_the_longest_wait_is_named() -> None:
    made, _ = memory()
    both = (Limit(1, 1, 1), Limit(1, 60, 1))
    made.increment(KEY, 1, both)
    assert made.check(KEY, 1, both) == Verdict(both[1], 60)


def test_what_is_larger_than_a_burst_waits_forever() -> None:
    made, _ = memory()
    assert made.increment(KEY, 11, (TEN_A_MINUTE,)) == Verdict(TEN_A_MINUTE, inf)
    assert len(made) == 0


def test_what_has_happened_already_is_counted_beyond_the_limit() -> None:
    made, clock = memory()
    for _ in range(12):
        made.increment(KEY, 1, (TEN_A_MINUTE,), force=True)
    assert made.check(KEY, 1, (TEN_A_MINUTE,)).wait == 18
    clock.advance(18)
    assert taken(made, TEN_A_MINUTE, 50) == 1


# --- the clock ---


def test_a_clock_that_jumps_back_locks_nobody_out_and_lets_nobody_pass() -> None:
    made, clock = memory()
    assert taken(made, TEN_A_MINUTE, 50) == 10
    clock.rightNow -= 86400
    assert made.check(KEY, 1, (TEN_A_MINUTE,)).wait == 6
    clock.advance(6)
    assert taken(made, TEN_A_MINUTE, 50) == 1


def test_the_clock_is_that_of_the_reactor_unless_given() -> None:
    made = MemoryCounts()
    assert taken(made, Limit(1, 86400, 1), 2) == 1
    assert made.clock is not None


# --- memory ---


def heapFits(made: MemoryCounts) -> bool:
    return sorted(key for _, key in made._forgettable) == sorted(made._arrivals)


def test_a_key_is_forgotten_when_all_of_it_has_come_back() -> None:
    made, clock = memory()
    for number in range(10):
        made.increment(f"key {number}", 1 + number % 2, (TEN_A_MINUTE,))
    clock.advance(6)
    made.increment("new", 1, (TEN_A_MINUTE,))
    assert len(made) == 6 and heapFits(made)
    clock.advance(6)
    made.increment("new", 1, (TEN_A_MINUTE,))
    assert len(made) == 1 and heapFits(made)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(1, 9)), max_size=80))
def test_each_key_has_one_place_among_those_that_can_be_forgotten(happening: list[tuple[int, int, int]]) -> None:
    made, clock = memory(8)
    for seconds, key, cost in happening:
        clock.advance(seconds)
        made.increment(f"key {key}", cost, (TEN_A_MINUTE,))
        assert len(made) <= 8 and heapFits(made)


def test_a_flood_of_new_keys_takes_no_more_memory_and_frees_nobody_who_is_at_a_limit() -> None:
    made, _ = memory(100)
    assert taken(made, TEN_A_MINUTE, 50, "at its limit") == 10
    assert taken(made, TEN_A_MINUTE, 5, "half way") == 5
    with capturedLogs() as lines:
        for number in range(2000):
            assert made.increment(f"flood {number}", 1, (TEN_A_MINUTE,)).limit is None
    assert len(made) == 100 and heapFits(made)
    assert taken(made, TEN_A_MINUTE, 50, "at its limit") == 0
    assert taken(made, TEN_A_MINUTE, 50, "half way") == 5
    assert [line["keys"] for line in lines] == [100]


def test_a_key_that_has_taken_more_since_it_came_is_not_forgotten_first() -> None:
    made, _ = memory(2)
    made.increment("first", 1, (TEN_A_MINUTE,))
    made.increment("second", 2, (TEN_A_MINUTE,))
    made.increment("first", 8, (TEN_A_MINUTE,))
    made.increment("third", 1, (TEN_A_MINUTE,))
    assert {key for key, _ in made._arrivals} == {"first", "third"}


def test_a_call_tidies_up_a_bounded_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "_TIDIED_AT_ONCE", 3)
    made, clock = memory()
    for number in range(10):
        made.increment(f"key {number}", 1, (TEN_A_MINUTE,))
    clock.advance(60)
    made.increment("new", 1, (TEN_A_MINUTE,))
    assert len(made) == 8


@pytest.mark.parametrize("change", [lambda limit: Limit(10, 60, 20), lambda limit: Limit(10, 61, 10)])
def test_a_key_under_other_limits_is_another_count(change: Callable[[Limit], Limit]) -> None:
    made, _ = memory()
    assert taken(made, TEN_A_MINUTE, 50) == 10
    assert made.check(KEY, 1, (change(TEN_A_MINUTE),)).limit is None


def test_the_name_of_a_limit_makes_no_difference() -> None:
    made, _ = memory()
    assert taken(made, TEN_A_MINUTE, 50) == 10
    assert made.check(KEY, 1, (Limit(10, 60, 10, "ten"),)).limit is not None
