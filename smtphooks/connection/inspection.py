"""
The inspection: the stage of inspectors that look at one message at once, while it arrives.

In: the stream of the message, which is spooled.  Out: the same message, once all inspectors have agreed.
Rules kept here: a refusal by one of them counts at once, and the others are cancelled; where the message itself fails,
each of them learns it, by its stream or by being cancelled, and is waited for, as C{onData} would be.
This module knows neither what comes of a message nor how layers were configured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from smtphooks.awaiting import Signal
from smtphooks.connection.calling import PendingAnswer
from smtphooks.connection.chain import Link
from smtphooks.connection.patience import Patience, taken, wantsOctets
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.stages import Outlet
from smtphooks.options import Options
from smtphooks.replies import HOOK_TIMED_OUT, SMTPError
from smtphooks.spool import Spool
from smtphooks.stream import MessageStream

_SPOOL = "the spool of the message"


class Inspection:
    """
    The stage.  Each inspector has its own time limit.

    @ivar blamed: what the log calls the layer that refuses the message, if one does.
    """

    def __init__(
        self,
        links: Sequence[Link],
        source: MessageStream,
        outlet: Outlet,
        runner: HookRunner,
        options: Options,
        clock: IReactorTime,
    ) -> None:
        self.source = source
        self.outlet = outlet
        self.blamed: str = _SPOOL
        self._runner = runner
        self._clock = clock
        self._signal: Signal | None = None
        self._spool = Spool(options.spoolMemory, MessageStream)
        self._inspectors = [_Inspector(link, self._spool.open(), runner, self._wake) for link in links]

    @property
    def label(self) -> str:
        """The inspectors that have not answered."""
        pending = [inspector.link.label for inspector in self._inspectors if not inspector.isDone]
        return ", ".join(pending) or _SPOOL

    @property
    def isIdle(self) -> bool:
        """It waits for the client, or for the reader behind it to ask for octets."""
        return self.outlet.isIdle or (
            self.source.isAwaited and all(wantsOctets(each.stream) or each.isDone for each in self._inspectors)
        )

    async def run(self) -> None:
        """
        Have the message inspected, then pass it on.

        @raise Exception: the refusal of an inspector, and what the stream in front of them fails with.
        """
        outlet = self.outlet
        try:
            await self._inspect()
            message = self._spool.open()
            await outlet.demand()
            async for octets in message:
                outlet.put(octets)
                await outlet.demand()
            outlet.end()
        finally:
            for inspector in self._inspectors:
                inspector.abandon()
            self._spool.close()

    async def _inspect(self) -> None:
        for inspector in self._inspectors:
            inspector.begin(self._clock)
        received = self._runner.caller.call(_SPOOL, self._spool.receive, (self.source,))
        if type(received) is PendingAnswer:
            await self._received(received)
            received = received.result
        if isinstance(received, Failure):
            for inspector in self._inspectors:
                if inspector.stream in self._spool.unaware:
                    inspector.cancel()
        while not all(inspector.isDone for inspector in self._inspectors):
            self._judge()
            await self._woken()
        self._judge()
        if isinstance(received, Failure):
            received.raiseException()

    async def _received(self, pending: PendingAnswer) -> None:
        """Wait until the message has been received, or an inspector refuses it."""
        pending.whenThere(self._wake)
        try:
            while not pending.isThere:
                self._judge()
                await self._woken()
        except BaseException:
            pending.cancel()
            raise

    async def _woken(self) -> None:
        """Wait for something to happen."""
        self._signal = Signal()
        try:
            await self._signal
        finally:
            self._signal = None

    def _wake(self) -> None:
        if self._signal is not None:
            self._signal.fire()

    def _judge(self) -> None:
        """
        Look at what the inspectors that have ended have to say.

        @raise SMTPError: what the first of them refuses.
        """
        for inspector in self._inspectors:
            refusal = inspector.maybeRefusal(isMessageLost=self._spool.isFailing)
            if refusal is not None:
                self.blamed = inspector.link.label
                raise refusal


class _Inspector:
    """
    One inspector at work.

    @ivar stream: what it reads.
    """

    def __init__(self, link: Link, stream: MessageStream, runner: HookRunner, wake: Callable[[], object]) -> None:
        """
        @param wake: called when it has ended, unless that is at once.
        """
        self.link = link
        self.stream = stream
        self._runner = runner
        self._wake = wake
        self._answer: Any = None
        self._hasTimedOut = False
        self._patience: Patience | None = None

    def begin(self, clock: IReactorTime) -> None:
        """Call it."""
        link, stream = self.link, self.stream
        self._answer = answer = self._runner.caller.call(link.label, link.function, (stream, self._runner.session))
        if type(answer) is not PendingAnswer:
            self._end()
            return
        if link.timeout:
            self._patience = Patience(
                clock, link.timeout, lambda: wantsOctets(stream), lambda: taken(stream), self._timeOut
            )
        answer.whenThere(lambda: self._came(answer.result))

    def _came(self, answer: Any) -> None:
        self._answer = answer
        self._end()
        self._wake()

    def _timeOut(self) -> None:
        self._runner.logTimedOut(self.link.label)
        self._hasTimedOut = True
        self._leave(Failure(HOOK_TIMED_OUT.asError()))
        self._wake()

    def _leave(self, answer: Any) -> None:
        """Go on with this answer, and wait for its own no longer."""
        pending, self._answer = self._answer, answer
        self._runner.cancel(self.link.label, pending)
        self._end()

    def _end(self) -> None:
        if self._patience is not None:
            self._patience.stop()
        self.stream.discard()  # it does not set the pace of the others any more

    @property
    def isDone(self) -> bool:
        """It is not waited for."""
        return type(self._answer) is not PendingAnswer

    def cancel(self) -> None:
        """Its answer is of no use any more, but it is waited for."""
        if type(self._answer) is PendingAnswer:
            self._answer.cancel()

    def abandon(self) -> None:
        """Its answer is of no use any more, and it is not waited for."""
        if type(self._answer) is PendingAnswer:
            self._leave(None)

    def maybeRefusal(self, isMessageLost: bool) -> SMTPError | None:
        """
        Its refusal, once, if it has ended with one.

        @param isMessageLost: there is nothing to refuse, and it may have learnt that.
        """
        if not self.isDone:
            return None
        answer, self._answer = self._runner.checked(self.link.label, self._answer), None
        if not isinstance(answer, Failure):
            return None
        if isMessageLost:
            self._runner.logLate(self.link.label, answer)
            return None
        isFault = self._hasTimedOut or not answer.check(SMTPError)
        refusal = self._runner.refusalFor(self.link.label, answer)
        return None if isFault and self.link.mayFail else refusal
