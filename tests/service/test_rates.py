"""Rates of what workers have counted."""

from __future__ import annotations

from smtphooks.service.rates import Rates


def rates(*told: tuple[float, int], began: float = 0.0) -> Rates:
    """Rates of messages that were told at these times."""
    one = Rates(began, ["messages"])
    for now, messages in told:
        one.note(now, {"messages": messages, "else": 7})
    return one


def test_it_begins_at_0() -> None:
    assert rates(began=5).perSecond(5) == {"messages": 0}


def test_a_rate_is_what_has_happened_in_a_second() -> None:
    assert rates((1, 10), (2, 30), (4, 40)).perSecond(4) == {"messages": 10}


def test_what_happened_in_the_first_moment_is_not_taken_for_a_high_rate() -> None:
    assert rates((0.01, 10)).perSecond(0.01) == {"messages": 10}


def test_only_the_last_minute_counts() -> None:
    one = rates(*((second, 1000 if second <= 100 else 1000 + 60 * (second - 100)) for second in range(1, 161)))
    assert one.perSecond(160) == {"messages": 60}
    assert len(one._told) == 61


def test_a_rate_goes_down_when_nothing_is_told_any_more() -> None:
    assert rates((1, 10)).perSecond(10) == {"messages": 1}


def test_what_is_not_told_is_0() -> None:
    one = Rates(0, ["messages", "accepted"])
    one.note(1, {"messages": 3})
    assert one.perSecond(1) == {"messages": 3, "accepted": 0}
