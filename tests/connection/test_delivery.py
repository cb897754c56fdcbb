"""Delivery by itself: what the server makes of a message's end and of the answer of onData."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from smtphooks import MessageStream, SMTPError, replies
from smtphooks.connection.delivery import Delivery

pytestmark = pytest.mark.usefixtures("logged")

REFUSED = SMTPError("Mailbox full", 552)
TRY_LATER = SMTPError("Busy", 451)
LATER_BY_DEFAULT = SMTPError("Not now")
LATER_BY_ITS_ENHANCED_CODE = SMTPError("Not now", enhancedCode="4.2.0")
GONE_BY_ITS_ENHANCED_CODE = SMTPError("Gone", enhancedCode="5.1.1")
SAID_BY_THE_HOOK = (REFUSED, TRY_LATER, LATER_BY_DEFAULT, LATER_BY_ITS_ENHANCED_CODE, GONE_BY_ITS_ENHANCED_CODE)
LOST = "451 4.3.0"


def delivery(recipients: int | None = None, **given: Any) -> Delivery:
    return Delivery(MessageStream(**given), recipients)


def judged(result: object, recipients: int | None = None) -> tuple[list[Any], list[str]]:
    """What is said for each recipient (refusals that are not the hook's own as text), and what was reported."""
    reports: list[str] = []
    one = delivery(recipients)
    one.finish()
    one.decide(result)
    return [_asText(answer) for answer in one.results(reports.append)], reports


def _asText(answer: str | SMTPError | None) -> object:
    if not isinstance(answer, SMTPError) or answer in SAID_BY_THE_HOOK:
        return answer
    return f"{answer.responseCode} {answer.enhancedCode}"


@pytest.mark.parametrize("result", [None, "text", REFUSED])
def test_one_answer_counts_for_all(result: object) -> None:
    assert judged(result) == ([result], [])
    assert judged(result, 3) == ([result] * 3, [])


@pytest.mark.parametrize("result", [5, b"bytes", object()])
def test_an_answer_that_is_no_text_is_none(result: object) -> None:
    assert judged(result) == ([None], [])
    assert judged(result, 2) == ([None, None], [])


@pytest.mark.parametrize("result", [ValueError("x"), Failure(ValueError("x"))])
def test_an_exception_given_as_an_answer_is_no_success(result: object) -> None:
    answers, [report] = judged(result)
    assert answers == [LOST]
    assert "a refusal is an SMTPError" in report


def test_a_list_has_an_answer_for_each_recipient() -> None:
    assert judged(["one", None, REFUSED], 3) == (["one", None, REFUSED], [])
    assert judged(("one", None, REFUSED), 3) == (["one", None, REFUSED], [])


def test_a_short_list_leaves_the_rest_to_be_tried_again() -> None:
    assert judged(["one"], 3) == (["one", LOST, LOST], ["onData answered 1 results for 3 recipients"])
    assert judged([], 1) == ([LOST], ["onData answered 0 results for 1 recipients"])


def test_what_a_long_list_has_over_is_dropped() -> None:
    assert judged(["one", "two", REFUSED], 2) == (["one", "two"], ["onData answered 3 results for 2 recipients"])


@pytest.mark.parametrize(
    "entry", [True, False, 0, 250, (True, "text"), (False, Failure(ValueError())), ValueError("x"), b"text", ["x"]]
)
def test_an_entry_of_a_list_that_is_no_answer_is_no_success(entry: object) -> None:
    """As the pairs of a DeferredList are, or the exceptions that asyncio.gather returns."""
    answers, [report] = judged(["one", entry], 2)
    assert answers == ["one", LOST]
    assert repr(entry) in report
    answers, [report] = judged(["one", entry])
    assert answers == [LOST]
    assert repr(entry) in report


def test_a_refusal_wrapped_in_a_failure_is_that_refusal() -> None:
    assert judged(Failure(REFUSED)) == ([REFUSED], [])
    assert judged(["one", Failure(REFUSED)], 2) == (["one", REFUSED], [])
    assert judged(["one", Failure(REFUSED)]) == ([REFUSED], [])


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
    assert judged(results)[0] == [expected]


def test_the_answers_keep_their_number_whatever_the_hook_does_to_the_envelope() -> None:
    assert judged(None, 2)[0] == [None, None]


# --- faults that the server finds ---


@pytest.mark.parametrize("rejectOversized", [True, False])
def test_an_oversized_message_is_refused_if_it_is_to_be(rejectOversized: bool) -> None:
    one = delivery(size=3, cutOversized=rejectOversized)
    one.stream.receive(b"text")
    assert one.fault(rejectOversized) is (replies.TOO_LARGE if rejectOversized else None)


def test_a_bare_newline_fails_the_stream_once_and_outweighs_the_size() -> None:
    one = delivery(size=3)
    one.refuseBareNewline()
    one.stream.receive(b"text")
    one.refuseBareNewline()
    assert one.fault(True) is replies.BARE_NEWLINE


def test_a_refusal_counts_as_failure_and_nothing_else_does() -> None:
    for result, failed in [(REFUSED, True), (None, False), ("text", False), ([REFUSED], False)]:
        one = delivery()
        assert not one.failed
        one.decide(result)
        assert one.failed is failed


# --- a message that will never be whole ---


def test_a_hook_that_waits_for_something_else_is_cancelled() -> None:
    one, cancelled = delivery(), []
    hook: Deferred[None] = Deferred(cancelled.append)
    hook.addErrback(lambda failure: None)
    one.hookRuns(hook)
    one.cut(Failure(ConnectionLost()))
    assert (one.isCut, cancelled) == (True, [hook])


def test_a_hook_that_waits_for_its_message_learns_of_it_there() -> None:
    one, reasons = delivery(), []
    hook = Deferred.fromCoroutine(one.stream.read())
    hook.addErrback(lambda failure: reasons.append(failure.type))
    one.hookRuns(hook)
    one.cut(Failure(ConnectionLost()))
    assert reasons == [ConnectionLost]


def test_a_whole_message_cannot_be_cut() -> None:
    one, cancelled = delivery(), []
    one.hookRuns(Deferred(cancelled.append))
    one.finish()
    one.cut(Failure(ConnectionLost()))
    assert (one.isCut, cancelled) == (False, [])


def test_without_a_hook_there_is_nothing_to_cancel() -> None:
    one = delivery()
    one.decide(None)
    one.cut(Failure(ConnectionLost()))
    assert one.isCut
