"""What the dialogue counts, and how much is too much."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtphooks.dialogue.limits import Counts, Tally

ADDERS: list[tuple[Callable[..., bool], str]] = [
    (Counts.addError, "errors"),
    (Counts.addJunk, "junk"),
    (Counts.addUnrecognized, "unrecognized"),
    (lambda counts, most: counts.addUnauthenticated(most, "MAIL"), "unauthenticated"),
]
eachCount = pytest.mark.parametrize(("add", "name"), ADDERS, ids=[name for _, name in ADDERS])


@eachCount
def test_one_more_than_the_limit_is_too_many(add: Callable[..., bool], name: str) -> None:
    counts = Counts()
    assert [add(counts, 2) for _ in range(4)] == [False, False, True, True]


@eachCount
@pytest.mark.parametrize("most", [0, False])
def test_zero_and_False_are_no_limit_but_it_is_counted(add: Callable[..., bool], name: str, most: int) -> None:
    counts = Counts()
    assert not any(add(counts, most) for _ in range(1000))
    assert getattr(counts, name) == 1000


@eachCount
def test_each_count_is_one_by_itself_and_of_one_client(add: Callable[..., bool], name: str) -> None:
    one, other = Counts(), Counts()
    add(one, 1)
    assert {each: getattr(one, each) for _, each in ADDERS if getattr(one, each)} == {name: 1}
    assert not any(getattr(other, each) for _, each in ADDERS)
    assert (one.messages, one.authFailures) == (other.messages, other.authFailures) == (0, 0)


@pytest.mark.parametrize("verb", ["HELO", "EHLO", "LHLO", "STARTTLS", "AUTH", "QUIT"])
def test_what_leads_to_authentication_or_to_the_end_is_not_counted(verb: str) -> None:
    counts = Counts()
    assert not any(counts.addUnauthenticated(1, verb) for _ in range(3))
    assert counts.unauthenticated == 0


@pytest.mark.parametrize("verb", ["MAIL", "NOOP", "RSET", "XCLIENT", "HALLO", ""])
def test_any_other_command_before_authentication_is_counted(verb: str) -> None:
    counts = Counts()
    assert [counts.addUnauthenticated(1, verb) for _ in range(2)] == [False, True]


@pytest.mark.parametrize(("recipients", "hasRoom"), [(0, True), (4, True), (5, False)])
def test_there_is_room_for_so_many_recipients(recipients: int, hasRoom: bool) -> None:
    assert Tally(recipients=recipients).hasRoom(5, 40) is hasRoom


@pytest.mark.parametrize(("octets", "hasRoom"), [(40, True), (41, False)])
def test_there_is_room_for_so_many_octets_of_commands(octets: int, hasRoom: bool) -> None:
    """A few recipients with long parameters take as much memory as many."""
    assert Tally(recipients=1, octets=512 * 1024 - 40).hasRoom(5, octets) is hasRoom


def test_without_a_limit_of_recipients_there_is_always_room() -> None:
    assert Tally(recipients=10**6, octets=10**9).hasRoom(0, 1000)


def test_a_question_about_room_counts_nothing() -> None:
    tally = Tally()
    tally.hasRoom(1, 40)
    assert tally == Tally()


def test_a_thousand_recipients_may_be_refused_for_lack_of_room() -> None:
    tally = Tally()
    assert not any(tally.addRefused() for _ in range(1000))
    assert tally.addRefused()
    assert (tally.refused, tally.recipients) == (1001, 0)
