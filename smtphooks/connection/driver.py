"""
The driver of hooks: between the dialogue, which has questions, and the hooks, which have the answers.

It advances the dialogue, asks the hooks that the dialogue names, one after the other, and ends with what is to be done
next.  A hook that is absent or knows its answer at once costs no Deferred; the answer of another waits here until it is
pulled with L{resume}.
This module knows neither the wire nor the transport, and not what a step is for.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.connection.calling import PendingAnswer
from smtphooks.connection.runner import TOLD, HookRunner
from smtphooks.connection.state import ConnectionState, Phase, wakeNobody
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.steps import Ask, Step

# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every command.
_OPEN = Phase.OPEN
_GONE = frozenset({Phase.LOST, Phase.ENDED})


class Driver:
    """
    @ivar hasCalledOnClose: C{onClose} has been called.
    """

    __slots__ = ("_dialogue", "_hasTimedOut", "_pending", "_question", "_runner", "_state", "_wake", "hasCalledOnClose")

    def __init__(
        self, dialogue: Dialogue, runner: HookRunner, state: ConnectionState, wake: Callable[[], None]
    ) -> None:
        """
        @param state: once the connection is not open any more, nothing is said and no hook is asked.
        @param wake: called when a pending hook has answered.
        """
        self._dialogue = dialogue
        self._runner = runner
        self._state = state
        self._wake = wake
        self._question: Ask | None = None  # the last that was asked of a pending hook
        self._pending: PendingAnswer | None = None
        self._hasTimedOut = False
        self.hasCalledOnClose: bool = False

    @property
    def isPending(self) -> bool:
        """A hook has yet to answer."""
        return self._pending is not None and not self._pending.isThere

    @property
    def pendingHook(self) -> object:
        """The hook that has yet to answer, None if there is none."""
        return self._question.hook if self._question is not None and self.isPending else None

    @property
    def hasAnswer(self) -> bool:
        """The hook that was pending has answered, or has timed out."""
        return self._hasTimedOut or (self._pending is not None and self._pending.isThere)

    def advance(self, take: Callable[..., Step], *value: object) -> Step | None:
        """
        Give the dialogue a line or an answer, and ask the hooks that it names.

        @param take: the method of the dialogue that takes the value.
        @return: the next step; None if a hook is pending, or if the connection is not open any more.
        """
        state = self._state
        if state.phase is not _OPEN:
            return None
        try:
            step = take(*value)
            while type(step) is Ask:
                result = self._runner.ask(step.hook, step.arguments)
                if type(result) is PendingAnswer:
                    self._wait(step, result)
                    return None
                if state.phase is not _OPEN:
                    self._runner.logLate(step.hook, result)
                    return None
                if result is None:
                    step = self._dialogue.answer(None)
                else:
                    step = self._answer(step, result)
                    result = None  # A failure knows this frame by its traceback, and must not be known by it.
        except Exception:
            # An extension runs within the dialogue, and may crash as a hook may; but there is no way on from there.
            self._runner.refusalFor("(in the dialogue)", Failure())
            step = replies.HOOK_FAILED.closing()
        return None if state.phase is not _OPEN else step

    def _wait(self, question: Ask, pending: PendingAnswer) -> None:
        self._question, self._pending = question, pending
        pending.whenThere(self._wake)
        if self._state.phase in _GONE:
            self.cancel()  # The hook has lost its own connection, and L{cancel} did not know of it.

    def _answer(self, question: Ask, result: object) -> Step:
        """Tell the dialogue what a hook has decided."""
        result = self._runner.checked(question.hook, result)
        if not isinstance(result, Failure):
            return self._dialogue.answer(result)
        refusal = self._runner.refusalFor(question.hook, result)
        return self._dialogue.answer(None) if question.hook in TOLD else self._dialogue.refuse(refusal)

    def resume(self) -> Step | None:
        """Go on with the answer of the hook that was pending; what is returned is as with L{advance}."""
        question, pending = self._question, self._pending
        assert question is not None
        self._question = self._pending = None
        if self._hasTimedOut:
            self._hasTimedOut = False
            if question.hook in TOLD:
                return self.advance(self._dialogue.answer, None)
            return self.advance(self._dialogue.refuse, replies.HOOK_TIMED_OUT.asError())
        assert pending is not None
        return self.advance(self._answer, question, pending.result)

    def timeOut(self) -> bool:
        """
        Wait no longer for the hook that is pending; it is cancelled.

        @return: whether there was one.
        """
        pending, self._pending = self._pending, None
        if pending is None or self._question is None:
            return False
        self._runner.logTimedOut(self._question.hook)
        self._hasTimedOut = True
        self._runner.cancel(self._question.hook, pending)
        return True

    # --- the end ---

    def cancel(self) -> None:
        """The answer of a pending hook is of no use any more."""
        if self._pending is not None:
            self._pending.cancel()

    def dropAnswer(self) -> None:
        """Log what a hook answered to a connection that is not open any more."""
        question, pending = self._question, self._pending
        if question is None or pending is None or not pending.isThere:
            return
        self._question = self._pending = None
        self._runner.logLate(question.hook, pending.result)

    def callOnClose(self) -> None:
        """Call C{onClose}, the last of all hooks."""
        self.hasCalledOnClose = True
        session = self._runner.session
        answer = self._runner.ask("onClose", (session,))
        if type(answer) is PendingAnswer:
            self._question, self._pending = Ask("onClose", (session,)), answer
            answer.whenThere(self._wake)
        else:
            self._runner.logFailure("onClose", answer)

    def letGo(self) -> None:
        """The last hook has ended: nobody is to be woken any more."""
        self._wake = wakeNobody
