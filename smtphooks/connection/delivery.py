"""
A delivery: one message on its way into C{onData}, and what came of it.

Octets go in, then the news that the message is whole or cut; C{onData} may end before, then, or long after.
This module knows neither the wire nor the dialogue, but for the L{Verdict} that it makes for the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.connection.answer import Result, resultsOf
from smtphooks.connection.calling import PendingAnswer, Rest
from smtphooks.connection.passage import Passing
from smtphooks.connection.runner import HookRunner
from smtphooks.dialogue.steps import Verdict
from smtphooks.options import Options
from smtphooks.replies import Reply, SMTPError
from smtphooks.stream import MessageStream

# What most hooks answer.
_ACCEPTED = (None,)


class Delivery:
    """
    @ivar stream: what the hook reads.
    @ivar isWhole: the last octet of the message was read; from here on the hook runs to its end, come what may.
    @ivar isDecided: the hook has ended (or there is none, and the message is read and dropped).
    """

    __slots__ = (
        "_answer",
        "_fault",
        "_isCut",
        "_options",
        "_passing",
        "_pending",
        "_recipients",
        "_runner",
        "isDecided",
        "isWhole",
        "stream",
    )

    def __init__(self, runner: HookRunner, options: Options, recipients: int, wake: Callable[[], None]) -> None:
        """
        @param recipients: how many were accepted; hooks may change the envelope.
        @param wake: called whenever C{onData} has read octets, or has ended.
        """
        self.stream: MessageStream = MessageStream(options.size, options.rejectOversized, wake, options.spoolMemory)
        self.isWhole: bool = False
        self.isDecided: bool = False
        self._runner = runner
        self._options = options
        self._recipients = recipients if options.lmtp else None
        self._isCut = False
        self._pending: PendingAnswer | None = None
        self._passing: Passing | None = None
        self._answer: Any = None
        self._fault: Reply | None = None

    def begin(self, wake: Callable[[], None]) -> None:
        """Call C{onData}."""
        runner = self._runner
        if runner.passage is None:
            answer = runner.ask("onData", (self.stream, runner.session))
        else:
            self._passing = passing = Passing(runner.passage, runner, self._options, self.stream)
            answer = runner.caller.settle("onData", Rest(passing))
        if type(answer) is PendingAnswer:
            self._pending = answer
            answer.whenThere(wake)
        else:
            self._decide(answer)

    def poll(self) -> bool:
        """Take the answer of C{onData} if it is there.  True if the delivery is decided."""
        pending = self._pending
        if pending is not None and pending.isThere:
            self._pending = None
            self._decide(pending.result)
        return self.isDecided

    def _decide(self, answer: Any) -> None:
        """C{onData} has ended; the octets that it did not read are dropped."""
        if answer is not None:
            answer = self._checked(self._runner.checked("onData", answer))
        self._answer = answer
        self.isDecided = True
        self.stream.discard()

    def _checked(self, answer: Any) -> Any:
        if not isinstance(answer, Failure):
            return answer
        if not self._isCut and (self.fault is None or answer.check(SMTPError)):
            return self._runner.refusalFor("onData", answer)
        # The message was cut, so there is no reply, or the server rejects it anyway, with a better reason.
        self._runner.logLate("onData", answer)
        return answer if self._isCut else None

    @property
    def slowest(self) -> str:
        """What holds the message up: C{onData}, or the label of what stands in front of it."""
        return "onData" if self._passing is None else self._passing.slowest

    def timeOut(self) -> None:
        """Decide without the hook, and cancel it."""
        pending, self._pending = self._pending, None
        slowest = self.slowest
        self._runner.logTimedOut(slowest)
        if pending is not None:
            self._runner.cancel("onData", pending)  # before its stream fails, for that would be news to it
        if self._passing is not None:
            self._runner.caller.blamed = ("onData", slowest)
        self._answer = replies.HOOK_TIMED_OUT.asError()
        self.isDecided = True
        self.stream.discard()

    def refuseBareNewline(self) -> None:
        """The message is rejected for a bare newline: the hook learns of it before it can accept the message."""
        if self._fault is None:
            self._fault = replies.BARE_NEWLINE
            self.stream.fail(Failure(replies.BARE_NEWLINE.asError()))

    def finish(self, data: bytes = b"") -> None:
        """The message is whole, with these octets."""
        self.isWhole = True
        self.stream.append(data, isLast=True)

    def cut(self, failure: Failure) -> None:
        """
        The message will never be whole.

        A hook that waits for its stream learns it there, and may clean up in peace; one that waits for anything else is
        cancelled.
        """
        if self.isWhole:
            return
        self._isCut = True
        isAwaited = self.stream.isAwaited
        self.stream.fail(failure)
        if self._pending is None or isAwaited:
            return
        if self._passing is None:
            self._pending.cancel()
        else:
            self._passing.cut(failure)

    @property
    def fault(self) -> Reply | None:
        """Why the server itself rejects the message, if it does."""
        if self._fault is None and self._options.rejectOversized and self.stream.sizeExceeded:
            return replies.TOO_LARGE
        return self._fault

    @property
    def isRefused(self) -> bool:
        """The hook has ended and refused the message."""
        return isinstance(self._answer, SMTPError)

    @property
    def hangUp(self) -> SMTPError | None:
        """The refusal, if the hook wants the connection closed, and the rest of the message not read."""
        answer = self._answer
        return answer if isinstance(answer, SMTPError) and answer.responseCode == 421 and not self.isWhole else None

    def results(self) -> tuple[Result, ...]:
        """What the hook answered: of a whole message with LMTP a result for each recipient, else just one."""
        return resultsOf(self._answer, self._recipients if self.isWhole else None, self._runner.logFault)

    def verdict(self) -> Verdict:
        """What became of the message."""
        results = _ACCEPTED if self._answer is None and self._recipients is None else self.results()
        return Verdict(results, self.fault, self.stream.byteLength)
