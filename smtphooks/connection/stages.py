"""
Stages: what stands between the client's message and C{onData}, each with a stream behind it.

A stage is one filter, or several inspectors that look at the same message at once.  It takes octets only when somebody
asks for them behind it, so what is held is bounded however many stages there are; and its stream ends only when all of
the message has been read, so nobody takes a part of it for the whole.
This module knows neither what comes of a message nor how layers were configured.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from smtphooks.awaiting import Signal
from smtphooks.connection.calling import PendingAnswer
from smtphooks.connection.chain import Link
from smtphooks.connection.runner import HOOK_TIMED_OUT, HookRunner
from smtphooks.options import Options
from smtphooks.replies import TOO_LARGE, SMTPError
from smtphooks.spool import Spool
from smtphooks.stream import MessageStream


class Outlet:
    """
    The stream behind a stage.

    @ivar stream: what the next stage, or C{onData}, reads.
    @ivar allowance: octets that fields in front of the message, of this stage and those before, have added to it.
    @ivar isIdle: the stage waits until somebody asks for octets.
    """

    def __init__(self, source: MessageStream, before: Outlet | None, options: Options) -> None:
        """
        @param source: what the stage reads.
        @param before: the outlet that this is the stream of; None for the client's.
        """
        self.stream = MessageStream(
            options.size, options.rejectOversized, spoolMemory=options.spoolMemory, asks=self._asked
        )
        self.allowance = 0
        self._source = source
        self._before = before
        self._isCut = options.rejectOversized
        self._isAsked = False
        self._isFree = self._isStopped = False
        self._signal: Signal | None = None

    @property
    def isIdle(self) -> bool:
        return self._signal is not None

    def _asked(self) -> None:
        self._isAsked = True
        if self._signal is not None:
            self._signal.fire()

    def free(self) -> None:
        """Nobody reads any more; what comes is dropped, so the stage may go on to its end."""
        self._isFree = True
        self.stream.discard()
        self._asked()

    def stop(self) -> None:
        """The stage is cancelled, which it would not notice while it puts octets, as what it waits for is over then."""
        self._isStopped = True

    async def demand(self) -> None:
        """
        Wait until somebody asks for octets.

        @raise CancelledError: if the stage was stopped.
        """
        while not (self._isAsked or self._isFree or self._isStopped):
            self._signal = Signal()
            try:
                await self._signal
            finally:
                self._signal = None
        if self._isStopped:
            raise CancelledError
        self._isAsked = False

    def put(self, octets: bytes) -> None:
        """
        Pass octets on.

        @raise SMTPError: 552, if they make the message larger than option C{size} allows.
        """
        self._allow()
        self.stream.append(octets)
        self._checkSize(self.stream)

    def _allow(self) -> None:
        """Fields put in front of the message do not count for option C{size} (as L{MessageStream.prepend} says)."""
        allowance = self._source.prepended + (0 if self._before is None else self._before.allowance)
        if allowance > self.allowance:
            self.stream.allow(allowance - self.allowance)
            self.allowance = allowance

    def end(self) -> None:
        """
        The message has come to its end.

        @raise SMTPError: 552, if it was cut at option C{size}.
        """
        self._checkSize(self._source)
        self.stream.append(b"", isLast=True)

    def _checkSize(self, stream: MessageStream) -> None:
        if stream.sizeExceeded and self._isCut:
            raise TOO_LARGE.asError()


class Patience:
    """
    Limits the time that a layer may spend on a message: not the time in which it waits for octets, and anew with every
    octet that it takes or gives.
    """

    def __init__(
        self,
        clock: IReactorTime,
        seconds: float,
        isIdle: Callable[[], bool],
        progress: Callable[[], object],
        expire: Callable[[], object],
    ) -> None:
        """
        @param progress: something that differs whenever the layer has taken or given octets.
        """
        self._clock = clock
        self._seconds = seconds
        self._isIdle = isIdle
        self._progress = progress
        self._expire = expire
        self._last = progress()
        self._since = clock.seconds()
        self._timer: IDelayedCall | None = clock.callLater(seconds / 4, self._look)

    def _look(self) -> None:
        now, progress = self._clock.seconds(), self._progress()
        self._timer = None
        if self._isIdle() or progress != self._last:
            self._last, self._since = progress, now
        elif now - self._since >= self._seconds:
            self._expire()
            return
        self._timer = self._clock.callLater(self._seconds / 4, self._look)

    def stop(self) -> None:
        """The layer has ended."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def taken(stream: MessageStream) -> int:
    """How many octets its reader has taken."""
    return stream.byteLength - stream.buffered


class Filter:
    """
    The stage of one filter.

    @ivar label: what the log calls it.
    @ivar blamed: what the log calls the layer that refuses the message, if one does.
    @ivar timeout: seconds that it may take, 0 for no limit.
    """

    def __init__(
        self, link: Link, source: MessageStream, outlet: Outlet, runner: HookRunner, isBehindInspectors: bool = False
    ) -> None:
        """
        @param isBehindInspectors: it begins when these have agreed; it may look at what its layer learnt from them.
        """
        self._isBehindInspectors = isBehindInspectors
        self.label = self.blamed = link.label
        self.timeout = link.timeout
        self.source = source
        self.outlet = outlet
        self._link = link
        self._runner = runner

    @property
    def isIdle(self) -> bool:
        """It waits, for octets or for somebody who asks for them."""
        return self.outlet.isIdle or self.source.isAwaited

    def progress(self) -> object:
        """Differs whenever it has taken or given octets."""
        return taken(self.source), self.outlet.stream.byteLength

    async def run(self) -> None:
        """
        Pass the message on.

        @raise Exception: what the filter raises, and what the stream in front of it fails with.
        """
        outlet, source = self.outlet, self.source
        await outlet.demand()
        if self._isBehindInspectors:
            await source.more()
        generator = _generatorOf(self._link.function(source, self._runner.session), self.label)
        try:
            async for octets in generator:
                outlet.put(_octetsOf(octets, self.label))
                await outlet.demand()
        finally:
            close = getattr(generator, "aclose", None)
            if close is not None:
                await close()
        # A filter may end early; but what it has not read may still be refused in front of it.
        await source.drain()
        source.discard()  # its spool, if the filter has made one
        outlet.end()


def _generatorOf(result: Any, label: str) -> AsyncIterator[Any]:
    if not hasattr(result, "__aiter__"):
        close = getattr(result, "close", None)
        if callable(close):
            close()  # or else Python warns that a coroutine was never awaited
        raise TypeError(f"{label} answered {result!r}, it wants an asynchronous generator: async def with yield")
    return result  # type: ignore[no-any-return]


def _octetsOf(octets: Any, label: str) -> bytes:
    if isinstance(octets, bytes):
        return octets
    if isinstance(octets, (bytearray, memoryview)):
        return bytes(octets)
    raise TypeError(f"{label} yielded {octets!r}, it wants bytes")


class _Inspector:
    """One inspector at work."""

    def __init__(self, link: Link, stream: MessageStream, runner: HookRunner) -> None:
        self.link = link
        self.stream = stream
        self._runner = runner
        self.answer: Any = None
        self.patience: Patience | None = None

    def begin(self, clock: IReactorTime, wake: Callable[[], object]) -> None:
        link, stream, caller = self.link, self.stream, self._runner.caller
        self.answer = caller.call(link.label, link.function, (stream, self._runner.session))
        if type(self.answer) is PendingAnswer:
            if link.timeout:
                self.patience = Patience(
                    clock, link.timeout, lambda: stream.isAwaited, lambda: taken(stream), lambda: self._timeOut(wake)
                )
            self.answer.whenThere(lambda: self._came(wake))
        else:
            self._end()

    def _came(self, wake: Callable[[], object]) -> None:
        if type(self.answer) is PendingAnswer:
            self.answer = self.answer.result
            self._end()
            wake()

    def _timeOut(self, wake: Callable[[], object]) -> None:
        self._runner.logTimedOut(self.link.label)
        pending, self.answer = self.answer, Failure(HOOK_TIMED_OUT)
        self._runner.cancel(self.link.label, pending)
        self._end()
        wake()

    def _end(self) -> None:
        if self.patience is not None:
            self.patience.stop()
        self.stream.discard()  # it does not set the pace of the others any more

    @property
    def isDone(self) -> bool:
        return type(self.answer) is not PendingAnswer

    def cancel(self) -> None:
        if type(self.answer) is PendingAnswer:
            pending, self.answer = self.answer, None
            self._runner.cancel(self.link.label, pending)
            self._end()

    def verdict(self, source: MessageStream) -> None:
        """
        See that it has agreed.

        @param source: the message that is inspected.
        @raise SMTPError: if it has not.
        """
        answer = self._runner.checked(self.link.label, self.answer)
        if not isinstance(answer, Failure):
            return
        if source.failure is not None and not answer.check(SMTPError):
            answer.raiseException()  # the message was cut, of which it was told
        isFault = answer.value is HOOK_TIMED_OUT or not answer.check(SMTPError)
        refusal = self._runner.refusalFor(self.link.label, answer)
        if not (isFault and self.link.mayFail):
            raise refusal


class Inspection:
    """
    The stage of inspectors that look at one message at once, while it arrives; it goes on when all have agreed.

    Each inspector has its own time limit.
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
        self._runner = runner
        self._clock = clock
        self.blamed = "the spool of the message"
        self._signal: Signal | None = None
        self._spool = Spool(options.spoolMemory, MessageStream)
        self._inspectors = [_Inspector(link, self._spool.open(), runner) for link in links]

    @property
    def label(self) -> str:
        """The inspectors that have not answered."""
        pending = [inspector.link.label for inspector in self._inspectors if not inspector.isDone]
        return ", ".join(pending) or "the spool of the message"

    @property
    def isIdle(self) -> bool:
        """It waits for the client, or for somebody who asks for octets."""
        return self.outlet.isIdle or (
            self.source.isAwaited and all(each.stream.isAwaited or each.isDone for each in self._inspectors)
        )

    def _wake(self) -> None:
        if self._signal is not None:
            self._signal.fire()

    async def run(self) -> None:
        """
        Have the message inspected, then pass it on.

        @raise Exception: the refusal of an inspector, and what the stream in front of them fails with.
        """
        try:
            await self._inspect()
            outlet = self.outlet
            async for octets in self._spool.open():
                await outlet.demand()
                outlet.put(octets)
            await outlet.demand()
            outlet.end()
        finally:
            for inspector in self._inspectors:
                inspector.cancel()
            self._spool.close()

    async def _inspect(self) -> None:
        caller = self._runner.caller
        for inspector in self._inspectors:
            inspector.begin(self._clock, self._wake)
        received = caller.call("the spool of a message", self._spool.receive, (self.source,))
        try:
            if type(received) is PendingAnswer:
                received.whenThere(self._wake)
            judged: set[_Inspector] = set()
            while True:
                for inspector in self._inspectors:
                    if inspector.isDone and inspector not in judged:
                        judged.add(inspector)
                        self.blamed = inspector.link.label
                        inspector.verdict(self.source)
                isReceived = type(received) is not PendingAnswer or received.isThere
                if isReceived and len(judged) == len(self._inspectors):
                    break
                self._signal = Signal()
                try:
                    await self._signal
                finally:
                    self._signal = None
        except BaseException:
            if type(received) is PendingAnswer:
                received.cancel()
            raise
        result = received.result if type(received) is PendingAnswer else received
        if isinstance(result, Failure):
            result.raiseException()
