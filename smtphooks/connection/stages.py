"""
Stages: what stands between the client's message and C{onData}, each with a stream behind it.

A stage is one filter, or several inspectors that look at the same message at once.  It takes octets only when the
reader behind it asks for them, so what is held is bounded however many stages there are; and its stream ends only when
all of the message has been read, so that a part of it is never taken for the whole.
This module knows neither what comes of a message nor how layers were configured.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.defer import CancelledError

from smtphooks.awaiting import Signal
from smtphooks.connection.chain import Link
from smtphooks.connection.patience import taken, wantsOctets
from smtphooks.connection.runner import HookRunner
from smtphooks.options import Options
from smtphooks.replies import TOO_LARGE
from smtphooks.stream import MessageStream


class Outlet:
    """
    The stream behind a stage.

    @ivar stream: what the next stage, or C{onData}, reads.
    @ivar allowance: octets that fields in front of the message, of this stage and those before, have added to it.
    @ivar isIdle: the stage waits for its reader to ask for octets.
    @ivar isCancelled: what comes out of the stage does not matter any more.
    """

    def __init__(self, source: MessageStream, before: Outlet | None, options: Options) -> None:
        """
        @param source: what the stage reads.
        @param before: the outlet that this is the stream of; None for the client's.
        """
        self.stream: MessageStream = MessageStream(
            options.size, options.rejectOversized, spoolMemory=options.spoolMemory, asks=self._asked
        )
        self.allowance: int = 0
        self.isCancelled = False
        self._source = source
        self._before = before
        self._isCut = options.rejectOversized
        self._isAsked = False
        self._isFree = False
        self._signal: Signal | None = None

    @property
    def isIdle(self) -> bool:
        return self._signal is not None

    def _asked(self) -> None:
        self._isAsked = True
        if self._signal is not None:
            self._signal.fire()

    def free(self) -> None:
        """There is no reader any more; what comes is dropped, so the stage may go on to its end."""
        self._isFree = True
        self.stream.discard()
        self._asked()

    async def demand(self) -> None:
        """
        Wait until the reader asks for octets.

        @raise CancelledError: if the stage was cancelled; it may have been while it passed octets on.
        """
        while not (self._isAsked or self._isFree or self.isCancelled):
            self._signal = Signal()
            try:
                await self._signal
            finally:
                self._signal = None
        if self.isCancelled:
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


class Filter:
    """
    The stage of one filter.

    @ivar label: what the log calls it.
    @ivar blamed: what the log calls the layer that refuses the message, if one does.
    @ivar timeout: seconds that it may take, 0 for no limit.
    """

    blamed: str
    label: str

    def __init__(
        self, link: Link, source: MessageStream, outlet: Outlet, runner: HookRunner, isBehindInspectors: bool = False
    ) -> None:
        """
        @param isBehindInspectors: it begins when these have agreed; it may look at what its layer learnt from them.
        """
        self._isBehindInspectors = isBehindInspectors
        self.label = self.blamed = link.label
        self.timeout: float = link.timeout
        self.source = source
        self.outlet = outlet
        self._link = link
        self._runner = runner

    @property
    def isIdle(self) -> bool:
        """It waits, for octets or for somebody who asks for them."""
        return self.outlet.isIdle or wantsOctets(self.source)

    def progress(self) -> object:
        """Differs whenever it has taken or given octets."""
        return taken(self.source), self.outlet.stream.byteLength

    async def run(self) -> None:
        """
        Pass the message on.

        @raise Exception: what the filter raises, and what the stream in front of it fails with.
        """
        outlet, source = self.outlet, self.source
        try:
            await outlet.demand()
            if self._isBehindInspectors:
                await source.more()
            await self._filter()
            if outlet.isCancelled:
                return  # the filter has gone on regardless
            # A filter may end early; but what it has not read may still be refused in front of it.
            await source.drain()
            outlet.end()
        finally:
            source.discard()

    async def _filter(self) -> None:
        outlet = self.outlet
        generator = _generatorOf(self._link.function(self.source, self._runner.session), self.label)
        try:
            async for octets in generator:
                data = _octetsOf(octets, self.label)
                if data:  # else the reader, which has asked, would not ask again
                    outlet.put(data)
                    await outlet.demand()
        finally:
            close = getattr(generator, "aclose", None)
            if close is not None:
                await close()


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
