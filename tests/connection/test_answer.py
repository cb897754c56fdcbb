"""What the answer of onData comes to: one result, or one for each recipient."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.python.failure import Failure

from smtphooks import SMTPError
from smtphooks.connection.answer import resultsOf

REFUSED = SMTPError("Mailbox full", 552)
TRY_LATER = SMTPError("Busy", 451)
LATER_BY_DEFAULT = SMTPError("Not now")
LATER_BY_ITS_ENHANCED_CODE = SMTPError("Not now", enhancedCode="4.2.0")
GONE_BY_ITS_ENHANCED_CODE = SMTPError("Gone", enhancedCode="5.1.1")
SAID_BY_THE_HOOK = (REFUSED, TRY_LATER, LATER_BY_DEFAULT, LATER_BY_ITS_ENHANCED_CODE, GONE_BY_ITS_ENHANCED_CODE)
LOST = "451 4.3.0"


def resulting(answer: object, recipients: int | None = None) -> tuple[list[Any], list[str]]:
    """What is said for each recipient (refusals that are not the hook's own as text), and what was reported."""
    reports: list[str] = []
    return [_asText(result) for result in resultsOf(answer, recipients, reports.append)], reports


def _asText(answer: str | SMTPError | None) -> object:
    if not isinstance(answer, SMTPError) or answer in SAID_BY_THE_HOOK:
        return answer
    return f"{answer.responseCode} {answer.enhancedCode}"


@pytest.mark.parametrize("result", [None, "text", REFUSED])
def test_one_answer_counts_for_all(result: object) -> None:
    assert resulting(result) == ([result], [])
    assert resulting(result, 3) == ([result] * 3, [])


@pytest.mark.parametrize("result", [5, b"bytes", object()])
def test_an_answer_that_is_no_text_is_none(result: object) -> None:
    assert resulting(result) == ([None], [])
    assert resulting(result, 2) == ([None, None], [])


@pytest.mark.parametrize("result", [ValueError("x"), Failure(ValueError("x"))])
def test_an_exception_given_as_an_answer_is_no_success(result: object) -> None:
    answers, [report] = resulting(result)
    assert answers == [LOST]
    assert "a refusal is an SMTPError" in report


def test_a_list_has_an_answer_for_each_recipient() -> None:
    assert resulting(["one", None, REFUSED], 3) == (["one", None, REFUSED], [])
    assert resulting(("one", None, REFUSED), 3) == (["one", None, REFUSED], [])


def test_a_short_list_leaves_the_rest_to_be_tried_again() -> None:
    assert resulting(["one"], 3) == (["one", LOST, LOST], ["onData answered 1 results for 3 recipients"])
    assert resulting([], 1) == ([LOST], ["onData answered 0 results for 1 recipients"])


def test_what_a_long_list_has_over_is_dropped() -> None:
    assert resulting(["one", "two", REFUSED], 2) == (["one", "two"], ["onData answered 3 results for 2 recipients"])


@pytest.mark.parametrize(
    "entry", [True, False, 0, 250, (True, "text"), (False, Failure(ValueError())), ValueError("x"), b"text", ["x"]]
)
def test_an_entry_of_a_list_that_is_no_answer_is_no_success(entry: object) -> None:
    """As the pairs of a DeferredList are, or the exceptions that asyncio.gather returns."""
    answers, [report] = resulting(["one", entry], 2)
    assert answers == ["one", LOST]
    assert repr(entry) in report
    answers, [report] = resulting(["one", entry])
    assert answers == [LOST]
    assert repr(entry) in report


def test_a_refusal_wrapped_in_a_failure_is_that_refusal() -> None:
    assert resulting(Failure(REFUSED)) == ([REFUSED], [])
    assert resulting(["one", Failure(REFUSED)], 2) == (["one", REFUSED], [])
    assert resulting(["one", Failure(REFUSED)]) == ([REFUSED], [])


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (["one", "two"], "one"),
        ([None, "two"], "two"),
        ([None, None], None),
        (["one", REFUSED], REFUSED),
        ([REFUSED, TRY_LATER], TRY_LATER),
        ([REFUSED, LATER_BY_DEFAULT, "one"], LATER_BY_DEFAULT),
        ([REFUSED, LATER_BY_ITS_ENHANCED_CODE, "one"], LATER_BY_ITS_ENHANCED_CODE),
        ([GONE_BY_ITS_ENHANCED_CODE, TRY_LATER, "one"], TRY_LATER),
        ([], LOST),
    ],
)
def test_smtp_has_one_reply_and_loses_no_copy(results: list[Any], expected: object) -> None:
    """A recipient that can be tried again is tried again, even at the price of a copy."""
    assert resulting(results)[0] == [expected]


def test_the_answers_keep_their_number_whatever_the_hook_does_to_the_envelope() -> None:
    assert resulting(None, 2)[0] == [None, None]
