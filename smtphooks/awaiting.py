"""
Awaiting: a Deferred that coroutines of Twisted and of asyncio can wait for.

A task of asyncio understands only what asyncio made, and a coroutine that Twisted runs only Deferreds; a hook may be
either, and what it awaits is the same stream.
This module knows nothing of mail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Waiting(Deferred[T]):
    """A Deferred that can also be awaited in a task of asyncio; a task that is cancelled there cancels it."""

    def __await__(self) -> Generator[Any, Any, T]:
        loop = asyncio._get_running_loop()
        if loop is None or asyncio.current_task(loop) is None:
            return self.__iter__()  # which is what Deferred awaits with
        return _awaitFuture(self.asFuture(loop))


def _awaitFuture(future: asyncio.Future[T]) -> Generator[Any, Any, T]:
    if not future.done():
        future._asyncio_future_blocking = True
        if (yield future) is future:
            # A coroutine of Twisted's, resumed from within a task: what is no Deferred is sent straight back to it.
            yield from Deferred.fromFuture(future)
    return future.result()
