"""
The passage: one message on its way through the stages of the layers into C{onData}, and what they answer together.

Rules kept here: the message is accepted only if every stage has come to its end without a failure and C{onData} has
agreed; a stage that fails makes the next reader fail; and where the client leaves, each of them learns it, by its
stream or by being cancelled.
This module knows neither the wire nor the dialogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from smtphooks.connection.calling import HookCaller, PendingAnswer
from smtphooks.connection.chain import Link
from smtphooks.connection.inspection import Inspection
from smtphooks.connection.patience import Patience, taken, wantsOctets
from smtphooks.connection.runner import HookRunner, isExpected
from smtphooks.connection.stages import Filter, Outlet
from smtphooks.options import Options
from smtphooks.replies import HOOK_TIMED_OUT, SMTPError
from smtphooks.stream import MessageStream


@attrs.frozen(eq=False)
class Passage:
    """
    What every message of a factory goes through.

    @ivar stages: a link for each filter, a list of links for inspectors that look at a message at once; in order.
    @ivar timeout: seconds that C{onData} may take, 0 for no limit but that of option C{hookTimeout}.
    """

    stages: Sequence[Link | Sequence[Link]]
    timeout: float
    clock: Callable[[], IReactorTime]


class Passing:
    """
    One message on this way; a L{Rest} waits for it.

    @ivar answer: what came of it, once that is there.
    """

    def __init__(self, passage: Passage, runner: HookRunner, options: Options, stream: MessageStream) -> None:
        """
        @param stream: the client's message.
        """
        self.answer: Any = None
        self._passage = passage
        self._runner = runner
        self._options = options
        self._client = self._stream = stream  # the latter is in the end what onData reads
        self._fired: Callable[[Any], object] | None = None
        self._failure: Failure | None = None  # of the first stage that failed
        self._blamed = ""  # that stage
        self._running: list[_Running] = []
        self._delivery: Any = None  # what onData answered, or will
        self._patience: Patience | None = None

    def goOn(self, caller: HookCaller) -> bool:
        """Begin; whether the answer is there."""
        caller.blamed = ("", "")
        self._makeStages()
        for running in self._running:
            running.begin(caller)
        passage, stream = self._passage, self._stream
        self._delivery = self._runner.ask("onData", (stream, self._runner.session))
        if type(self._delivery) is not PendingAnswer:
            self._conclude()
        else:
            self._delivery.whenThere(self._delivered)
            if passage.timeout:
                self._patience = Patience(
                    passage.clock(), passage.timeout, lambda: wantsOctets(stream), lambda: taken(stream), self._timeOut
                )
        if self._isOver:
            self.answer = self._together()
        return self._isOver

    def _makeStages(self) -> None:
        runner, options, clock = self._runner, self._options, self._passage.clock()
        outlet: Outlet | None = None
        for links in self._passage.stages:
            each = [links] if isinstance(links, Link) else links
            asked = [link for link in each if not self._isExempt(link, isinstance(links, Link))]
            if not asked:
                continue
            source, outlet = self._stream, Outlet(self._stream, outlet, options)
            stage: Filter | Inspection
            if isinstance(links, Link):
                isBehind = any(isinstance(running.stage, Inspection) for running in self._running)
                stage = Filter(links, source, outlet, runner, isBehind)
            else:
                stage = Inspection(asked, source, outlet, runner, options, clock)
            self._running.append(_Running(self, stage, runner, clock))
            self._stream = outlet.stream

    def _isExempt(self, link: Link, isFilter: bool) -> bool:
        runner = self._runner
        answer = False if link.exempts is None else runner.caller.call(link.label, link.exempts, (runner.session,))
        if not isinstance(answer, Failure):
            return bool(answer)
        refusal = runner.refusalFor(link.label, answer)
        if isFilter or not link.mayFail:
            runner.caller.blamed = ("onData", link.label)
            raise refusal
        return True

    def begin(self, fired: Callable[[Any], object], raised: Callable[[Failure], object]) -> None:
        """Have the answer told, once it is there."""
        self._fired = fired

    @property
    def slowest(self) -> str:
        """What holds the message up: the first that waits neither for octets nor for its reader to ask for them."""
        busy = (running.stage.label for running in self._running if not (running.isOver or running.stage.isIdle))
        return next(busy, self._runner.nameOf("onData"))

    @property
    def _isOver(self) -> bool:
        return type(self._delivery) is not PendingAnswer and all(running.isOver for running in self._running)

    # --- onData ---

    def _delivered(self) -> None:
        pending = self._delivery
        if type(pending) is PendingAnswer:
            self._delivery = pending.result
            self._conclude()
            self._tell()

    def _timeOut(self) -> None:
        self._runner.logTimedOut("onData")
        pending, self._delivery = self._delivery, Failure(HOOK_TIMED_OUT.asError())
        self._runner.cancel("onData", pending)
        self._conclude()
        self._tell()

    def _conclude(self) -> None:
        """C{onData} has ended.  What it accepts must still pass every stage to its end."""
        if self._patience is not None:
            self._patience.stop()
        self._stream.discard()
        if isinstance(self._delivery, Failure):
            self._leave(self._running)
        elif self._running:
            self._running[-1].stage.outlet.free()

    def _leave(self, stages: Sequence[_Running]) -> None:
        """Nothing reads what these make any more.  The last is cancelled first, before the stream it reads fails."""
        failure = self._client.failure
        for running in reversed(stages):
            running.leave(mayCleanUp=failure is not None and not failure.check(SMTPError))

    # --- stages ---

    def stageEnded(self, running: _Running, result: Any) -> None:
        """
        A stage has ended.

        @param result: a L{Failure} if it has failed.
        """
        if isinstance(result, Failure):
            if running.stage.outlet.isCancelled:
                self._runner.logLate(running.stage.label, result)
            else:
                self._stageFailed(running, result)
        self._tell()

    def _stageFailed(self, running: _Running, failure: Failure) -> None:
        isCut = isExpected(failure) and not failure.check(SMTPError)
        if not isCut:
            failure = Failure(self._runner.refusalFor(running.stage.label, failure))
        if self._failure is None:
            self._failure, self._blamed = failure, running.stage.blamed
        index = self._running.index(running)
        self._leave(self._running[:index])
        self._failBehind(index, failure, isCut)

    def _failBehind(self, index: int, failure: Failure, isCut: bool) -> None:
        """The next reader fails.  One that does not wait for octets would not learn that its message is cut."""
        stream = self._running[index].stage.outlet.stream
        isAwaited = stream.isAwaited
        stream.fail(failure)
        if isAwaited or not isCut:
            return
        if index + 1 < len(self._running):
            self._running[index + 1].cancel()
            self._failBehind(index + 1, failure, isCut)
        elif type(self._delivery) is PendingAnswer:
            self._delivery.cancel()

    # --- the end ---

    def _tell(self) -> None:
        fired = self._fired
        if fired is not None and self._isOver:
            self._fired = None
            self.answer = self._together()
            fired(self.answer)

    def _together(self) -> Any:
        """What a stage refused is refused, whatever C{onData} made of it."""
        answer, failure = self._delivery, self._failure
        if failure is None:
            return answer
        if isinstance(answer, Failure) and answer.value is not failure.value:
            self._runner.logLate("onData", answer)
        self._runner.caller.blamed = ("onData", self._blamed)
        return failure

    def cut(self, failure: Failure) -> None:
        """The message will never be whole, and the first that reads it does not wait for it."""
        if self._running:
            self._running[0].cancel()
            self._failBehind(0, failure, isCut=True)
        elif type(self._delivery) is PendingAnswer:
            self._delivery.cancel()

    def cancel(self) -> None:
        """The answer is of no use any more."""
        for running in self._running:
            running.cancel()
        if type(self._delivery) is PendingAnswer:
            self._delivery.cancel()
        for running in self._running:
            running.stage.outlet.stream.discard()  # One that goes on regardless would wait for octets for ever.


class _Running:
    """
    A stage at work.

    @ivar isOver: it has ended, or is not waited for.
    """

    def __init__(self, passing: Passing, stage: Filter | Inspection, runner: HookRunner, clock: IReactorTime) -> None:
        self.stage = stage
        self.isOver: bool = False
        self._passing = passing
        self._runner = runner
        self._clock = clock
        self._pending: PendingAnswer | None = None
        self._patience: Patience | None = None

    def begin(self, caller: HookCaller) -> None:
        stage = self.stage
        answer = caller.call(stage.label, stage.run, ())
        if type(answer) is not PendingAnswer:
            self._end(answer)
            return
        self._pending = answer
        answer.whenThere(lambda: self._end(answer.result))
        if isinstance(stage, Filter) and stage.timeout:
            self._patience = Patience(self._clock, stage.timeout, lambda: stage.isIdle, stage.progress, self._timeOut)

    def _end(self, result: Any) -> None:
        self._pending = None
        self.isOver = True
        if self._patience is not None:
            self._patience.stop()
        self._passing.stageEnded(self, result)

    def _timeOut(self) -> None:
        pending = self._pending
        if pending is not None:
            self._runner.logTimedOut(self.stage.label)
            self._runner.cancel(self.stage.label, pending)
            self._end(Failure(HOOK_TIMED_OUT.asError()))

    def cancel(self) -> None:
        """What comes of it does not matter any more; it may still take a while to end."""
        if self._pending is not None:
            self.stage.outlet.isCancelled = True
            self._pending.cancel()

    def leave(self, mayCleanUp: bool) -> None:
        """
        Nothing reads what it makes any more.

        @param mayCleanUp: it may have learnt that the message is cut, and is waited for, unless it waits to be asked.
        """
        if mayCleanUp and not self.stage.outlet.isIdle:
            self.stage.outlet.free()
        else:
            self.abandon()

    def abandon(self) -> None:
        """It is not waited for any more."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self.stage.outlet.isCancelled = self.isOver = True
            self._runner.cancel(self.stage.label, pending)
            self.stage.outlet.stream.discard()
            if self._patience is not None:
                self._patience.stop()
