"""
What C{onData} answered, as the dialogue wants to hear it: one result, or with LMTP one for each recipient.

This module knows neither streams nor connections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.hooktable import SITUATIONS
from smtphooks.replies import SMTPError

Result = str | SMTPError | None

_LOST = replies.HOOK_FAILED.asError()


def resultsOf(answer: Any, recipients: int | None, report: Callable[[str], None]) -> tuple[Result, ...]:
    """
    The results of a message.

    @param recipients: how many results there must be; None for one that counts for all recipients.
    @param report: told what is wrong with the answer.
    """
    if not isinstance(answer, (list, tuple)):
        return (_resultOf(answer, report),) * (1 if recipients is None else recipients)
    results = [_entryOf(entry, report) for entry in answer]
    if recipients is None and results:
        return (_worst(results),)
    recipients = recipients or 1
    if len(results) != recipients:
        report(f"onData answered {len(results)} results for {recipients} recipients")
    return tuple([*results, *[_LOST] * (recipients - len(results))][:recipients])


def _resultOf(answer: Any, report: Callable[[str], None]) -> Result:
    """One answer; an exception that is no refusal is a fault, and must not be taken for a success."""
    if isinstance(answer, Failure):
        answer = answer.value
    if isinstance(answer, (str, SMTPError)):
        return answer
    if isinstance(answer, BaseException):
        report(f"onData answered {answer!r}, a refusal is an SMTPError")
        return _LOST
    return None


def _entryOf(answer: object, report: Callable[[str], None]) -> Result:
    """
    One of several answers.  Any other value is a fault here: the pairs of a DeferredList would all be successes.
    """
    if answer is None or isinstance(answer, (str, BaseException, Failure)):
        return _resultOf(answer, report)
    report(f"onData answered {answer!r} for a recipient, it takes a text, None or an SMTPError")
    return _LOST


def _worst(results: list[Result]) -> Result:
    """SMTP has one reply for all recipients: if any failed, the client must try again rather than lose a copy."""
    refusals = [result for result in results if isinstance(result, SMTPError)]
    for refusal in refusals:
        if refusal.asReply(SITUATIONS["onData"]).code < 500:
            return refusal
    return refusals[0] if refusals else next((result for result in results if result), None)
