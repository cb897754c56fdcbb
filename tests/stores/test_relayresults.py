"""Replies of upstream as results: for each recipient one, and of several the one with which nothing is lost."""

from __future__ import annotations

import pytest

from smtphooks import Address, SMTPError
from smtphooks.client import ReceivedReply
from smtphooks.stores.relayresults import Result, isInOrder, resultOf, resultsFor, textOf, worst

NO, LATER = SMTPError("no", 550), SMTPError("later", 451)


@pytest.mark.parametrize(
    "results, expected",
    [
        (["a", "b"], "a"),
        (["a", NO], NO),
        (["a", LATER], LATER),
        ([NO, LATER, "a"], LATER),
        ([NO, NO], NO),
    ],
)
def test_a_temporary_refusal_is_the_worst(results: list[Result], expected: Result) -> None:
    assert worst(results) is expected


def test_recipients_that_were_not_accepted_have_no_reply() -> None:
    assert resultsFor(["a", "b"], [None, NO, None], isEach=True) == ["a", NO, "b"]
    assert resultsFor(["a"], [None, NO, None], isEach=False) == ["a", NO, "a"]


@pytest.mark.parametrize(
    "asked, recipients, expected",
    [
        ("abc", "abc", True),
        ("abca", "abca", True),
        ("abc", "axc", True),
        ("abc", "bc", False),
        ("abc", "cba", False),
        ("abc", "xab", False),
        ("abc", "abcx", False),
        ("", "", True),
    ],
)
def test_recipients_are_in_order_if_none_has_moved(asked: str, recipients: str, expected: bool) -> None:
    assert isInOrder([*map(Address, asked)], [*map(Address, recipients)]) is expected


def test_only_a_2xx_is_a_yes() -> None:
    assert resultOf(ReceivedReply("250 2.0.0 queued")) == "queued"
    assert resultOf(ReceivedReply("250-2.0.0 queued", "250 2.0.0 as 1")) == "queued as 1"
    for line, code in (("354 go", 451), ("421 bye", 451), ("550 5.1.1 no", 550), ("452 4.2.2 full", 452)):
        result = resultOf(ReceivedReply(line))
        assert isinstance(result, SMTPError)
        assert result.responseCode == code


def test_a_text_can_be_printed_whatever_upstream_says() -> None:
    """It is also in the log, which is read in a terminal."""
    assert textOf(ReceivedReply("250-2.0.0 a\x1b[31mb\rc\x00", "250 2.0.0 \x08d\u202ee")) == "a [31mb c   d e"
