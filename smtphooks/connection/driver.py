"""
The exchange: between the dialogue, which has questions, and the hooks, which have the answers.

It tells the dialogue what has happened, asks the hooks that the dialogue wants to hear, one after the other, and ends
with what is to be done next.  A hook that is absent or knows its answer at once costs no Deferred.
This module knows neither the wire nor the transport, and not what a step is for.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.connection.calling import PendingAnswer
from smtphooks.connection.runner import HOOK_TIMED_OUT, TOLD, HookRunner
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.steps import Ask, Step


class Exchange:
    """
    @ivar isOver: nothing may be said any more; what a hook still answers is of interest to the log alone.
    """

    __slots__ = ("_asked", "_dialogue", "_question", "_resume", "_runner", "isOver")

    def __init__(self, dialogue: Dialogue, runner: HookRunner, resume: Callable[[Step | None], None]) -> None:
        """
        @param resume: called with what L{tell} would have returned, when a hook has decided later.
        """
        self._dialogue = dialogue
        self._runner = runner
        self._resume = resume
        self._question: PendingAnswer | None = None  # the hook that is waited for
        self._asked: object = None  # and which one it is
        self.isOver = False

    @property
    def isWaiting(self) -> bool:
        """A hook has yet to decide."""
        return self._question is not None

    def tell(self, tell: Callable[..., Step], *value: object) -> Step | None:
        """
        Tell the dialogue something, and ask the hooks that it wants to hear.

        @param tell: a method of the dialogue, to be called with the value.
        @return: what it wants next; None if a hook has yet to decide, or if it is over.
        """
        if self.isOver:
            return None
        try:
            step = tell(*value)
            while type(step) is Ask:
                result = self._runner.ask(step.hook, step.arguments)
                if type(result) is PendingAnswer:
                    self._question = result
                    self._asked = step.hook
                    result.then(self._answerLater, step, result)
                    return None
                if self.isOver:
                    self._runner.late(step.hook, result)
                    return None
                step = self._dialogue.answer(None) if result is None else self._answer(step, result)
        except Exception:
            # An extension runs within the dialogue, and may crash as a hook may; but there is no way on from there.
            self._runner.refusal("(in the dialogue)", Failure())
            step = replies.HOOK_FAILED.closing()
        return None if self.isOver else step

    def _answer(self, question: Ask, result: object) -> Step:
        """Tell the dialogue what a hook has decided."""
        result = self._runner.checked(question.hook, result)
        if not isinstance(result, Failure):
            return self._dialogue.answer(result)
        refusal = self._runner.refusal(question.hook, result)
        return self._dialogue.answer(None) if question.hook in TOLD else self._dialogue.refuse(refusal)

    def _answerLater(self, result: object, question: Ask, awaited: PendingAnswer) -> None:
        isOverdue = self._question is not awaited
        if not isOverdue:
            self._question = None
        if self.isOver or isOverdue:
            self._runner.late(question.hook, result)
        if not isOverdue:
            self._resume(self.tell(self._answer, question, result))

    def overdue(self) -> bool:
        """
        Wait no longer for the hook that has yet to decide; it is cancelled.

        @return: whether there was one; L{refuse} must follow unless it is over.
        """
        question, self._question = self._question, None
        if question is None:
            return False
        self._runner.overdue(self._asked)
        question.cancel()
        return True

    def refuse(self) -> Step | None:
        """Go on without the hook that was overdue; what is returned is as with L{tell}."""
        if self._asked in TOLD:
            return self.tell(self._dialogue.answer, None)
        return self.tell(self._dialogue.refuse, HOOK_TIMED_OUT)

    def end(self) -> None:
        """The connection is gone, and its dialogue."""
        self.isOver = True
        self._dialogue.close()

    def cancel(self) -> None:
        """Nobody needs the answer any more that a hook has yet to give."""
        if self._question is not None:
            self._question.cancel()

    def tellClosed(self, ended: Callable[[], object]) -> None:
        """
        Tell C{onClose}, the last of all hooks.

        @param ended: called when it has ended, unless it was overdue.
        """
        answer = self._runner.ask("onClose", (self._runner.session,))
        self._asked = "onClose"
        if type(answer) is PendingAnswer:
            self._question = answer
            answer.then(self._closed, ended)
        else:
            self._runner.told(answer, "onClose")
            ended()

    def _closed(self, answer: object, ended: Callable[[], object]) -> None:
        isOverdue = self._question is None
        self._question = None
        self._runner.told(answer, "onClose")
        if not isOverdue:
            ended()
