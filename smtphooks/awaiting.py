"""
Awaiting: Deferreds that coroutines can await under Twisted and in a task of asyncio, and a coroutine for whatever can
be awaited.

A task of asyncio can only await asyncio's futures, and a coroutine that Twisted runs only Deferreds.  A hook may run
as either, and awaits the same stream.
This module knows nothing of mail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Waiting(Deferred[T]):
    """A Deferred that a task of asyncio can await too; cancelling the task cancels the Deferred."""

    def __await__(self) -> Generator[Any, Any, T]:
        loop = asyncio._get_running_loop()
        if loop is None or asyncio.current_task(loop) is None:
            return self.__iter__()  # as Deferred.__await__ does
        return _awaitFuture(self.asFuture(loop))


class Signal(Waiting[None]):
    """
    Fires once, with None, for the one coroutine that awaits it.

    Whoever runs this coroutine may ask to be called directly, without the callbacks of a Deferred, which cost more than
    all that most hooks do with a message.

    @ivar resume: called in place of callbacks: with None, or with the L{Failure} to be thrown into the coroutine.
    """

    resume: Callable[[Any], object] | None = None
    called: bool
    result: Any

    def __await__(self) -> Generator[Any, Any, None]:
        if asyncio._get_running_loop() is not None:
            yield from super().__await__()
        while not self.called:
            yield self

    def fire(self) -> None:
        """The coroutine goes on; if it is a task of asyncio, later."""
        resume, self.resume = self.resume, None
        if resume is not None:
            self.called, self.result = True, None
            resume(None)
        elif not self.called:
            self.callback(None)

    def cancel(self) -> None:
        """The coroutine goes on with a L{CancelledError}."""
        resume, self.resume = self.resume, None
        if resume is None:
            super().cancel()
        else:
            self.called, self.result = True, None
            resume(Failure(CancelledError()))


async def coroutineOf(awaitable: Awaitable[T]) -> T:
    """A coroutine for something else that can be awaited."""
    return await awaitable


def _awaitFuture(future: asyncio.Future[T]) -> Generator[Any, Any, T]:
    if not future.done():
        future._asyncio_future_blocking = True
        if (yield future) is future:
            # Twisted runs this coroutine, resumed from within a task; it sends back any yielded value but a Deferred.
            yield from Deferred.fromFuture(future)
    return future.result()
