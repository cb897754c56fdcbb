"""
Awaiting: a Deferred that coroutines can await under Twisted and in a task of asyncio.

A task of asyncio can only await asyncio's futures, and a coroutine that Twisted runs only Deferreds.  A hook may run
as either, and awaits the same stream.
This module knows nothing of mail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Waiting(Deferred[T]):
    """A Deferred that a task of asyncio can await too; cancelling the task cancels the Deferred."""

    def __await__(self) -> Generator[Any, Any, T]:
        loop = asyncio._get_running_loop()
        if loop is None or asyncio.current_task(loop) is None:
            return self.__iter__()  # as Deferred.__await__ does
        return _awaitFuture(self.asFuture(loop))


def _awaitFuture(future: asyncio.Future[T]) -> Generator[Any, Any, T]:
    if not future.done():
        future._asyncio_future_blocking = True
        if (yield future) is future:
            # Twisted runs this coroutine, resumed from within a task; it sends back any yielded value but a Deferred.
            yield from Deferred.fromFuture(future)
    return future.result()
