"""
A delivery: one message on its way into C{onData}, and what came of it.

The protocol puts octets in and says when the message is whole or cut; C{onData} may end before, then, or long after.
This module knows neither the wire nor the dialogue, only what the latter wants to hear in the end: a L{Verdict}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.connection.calling import PendingAnswer
from smtphooks.hooks import SITUATIONS
from smtphooks.replies import Reply, SMTPError
from smtphooks.stream import MessageStream


class Delivery:
    """
    @ivar stream: what the hook reads.
    @ivar whole: the last octet of the message has been read; from here on the hook runs to its end, come what may.
    @ivar decided: the hook has ended (or there is none, and the message is read and dropped).
    @ivar isCut: the message will never be whole.
    """

    __slots__ = ("_fault", "_hook", "_recipients", "_result", "decided", "isCut", "stream", "whole")

    def __init__(self, stream: MessageStream, recipients: int | None = None) -> None:
        """
        @param recipients: with LMTP how many were accepted (hooks may change the envelope), else None.
        """
        self.stream = stream
        self._recipients = recipients
        self.whole = False
        self.decided = False
        self.isCut = False
        self._hook: PendingAnswer | None = None
        self._result: Any = None
        self._fault: Reply | None = None

    def hookRuns(self, hook: PendingAnswer) -> None:
        """C{onData} has yet to decide."""
        self._hook = hook

    def decide(self, result: object) -> None:
        """C{onData} has ended, with a result or an L{SMTPError}; what it did not read is of no interest any more."""
        self._hook = None
        self._result = result
        self.decided = True
        self.stream.discard()

    def giveUp(self, refusal: SMTPError) -> None:
        """Decide without the hook, and cancel it."""
        hook = self._hook
        self.decided = True
        if hook is not None:
            hook.cancel()  # before its stream fails, for that would be news to it
        self.decide(refusal)

    def refuseBareNewline(self) -> None:
        """The message holds one, and may not (invariant 3): the hook learns of it before it can take the message."""
        if self._fault is None:
            self._fault = replies.BARE_NEWLINE
            self.stream.fail(Failure(replies.BARE_NEWLINE.asError()))

    def finish(self, data: bytes = b"") -> None:
        """The message is whole, with these octets."""
        self.whole = True
        self.stream.finish(data)

    def cut(self, failure: Failure) -> None:
        """
        The message will never be whole.

        A hook that waits for its stream learns it there, and may clean up in peace; one that waits for anything else is
        cancelled.
        """
        if self.whole:
            return
        self.isCut = True
        isAwaited = self.stream.isAwaited
        self.stream.fail(failure)
        if self._hook is not None and not isAwaited:
            self._hook.cancel()

    def fault(self, rejectOversized: bool) -> Reply | None:
        """Why the server itself refuses the message, if it does."""
        if self._fault is None and rejectOversized and self.stream.sizeExceeded:
            return replies.TOO_LARGE
        return self._fault

    @property
    def failed(self) -> bool:
        """The hook has ended and refused the message."""
        return isinstance(self._result, SMTPError)

    @property
    def hangUp(self) -> SMTPError | None:
        """The refusal, if the hook wants the connection closed, and what is still to come of the message not read."""
        result = self._result
        return result if isinstance(result, SMTPError) and result.responseCode == 421 and not self.whole else None

    def results(self, report: Callable[[str], None]) -> tuple[str | SMTPError | None, ...]:
        """
        What the hook answered: of a whole message with LMTP a result for each recipient, else just one.

        @param report: told what is wrong with the answer.
        """
        recipients = self._recipients if self.whole else None
        if not isinstance(self._result, (list, tuple)):
            return (_result(self._result, report),) * (1 if recipients is None else recipients)
        results = [_entry(answer, report) for answer in self._result]
        if recipients is None and results:
            return (_worst(results),)
        recipients = recipients or 1
        if len(results) != recipients:
            report(f"onData answered {len(results)} results for {recipients} recipients")
        return tuple([*results, *[_LOST] * (recipients - len(results))][:recipients])


_LOST = replies.HOOK_FAILED.asError()


def _result(answer: Any, report: Callable[[str], None]) -> str | SMTPError | None:
    """The answer of a hook; an exception that is no refusal is a fault, and must not be taken for a success."""
    if isinstance(answer, Failure):
        answer = answer.value
    if isinstance(answer, (str, SMTPError)):
        return answer
    if isinstance(answer, BaseException):
        report(f"onData answered {answer!r}, a refusal is an SMTPError")
        return _LOST
    return None


def _entry(answer: object, report: Callable[[str], None]) -> str | SMTPError | None:
    """
    One of several answers.  Here nothing but an answer will do: the pairs of a DeferredList would all be successes.
    """
    if answer is None or isinstance(answer, (str, BaseException, Failure)):
        return _result(answer, report)
    report(f"onData answered {answer!r} for a recipient, it takes a text, None or an SMTPError")
    return _LOST


def _worst(results: list[str | SMTPError | None]) -> str | SMTPError | None:
    """SMTP has one reply for all recipients: if any failed, the client must try again rather than lose a copy."""
    refusals = [result for result in results if isinstance(result, SMTPError)]
    for refusal in refusals:
        if refusal.reply(SITUATIONS["onData"]).code < 500:
            return refusal
    return refusals[0] if refusals else next((result for result in results if result), None)
