"""
Turns: so many may do something at the same time, and others wait for their turn, in their order and not for ever.

This module knows not what is done, and no mail.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import TimeoutError as DeferredTimeout

from smtphooks.awaiting import Waiting


def _expire(waiting: Waiting[None]) -> None:
    if not waiting.called:  # a task of asyncio may not have gone on yet
        waiting.errback(DeferredTimeout())


class Turns:
    """A number of places."""

    def __init__(self, places: int) -> None:
        """
        @param places: 0 for no limit.
        """
        self._places = places
        self._taken = 0
        self._queue: deque[Waiting[None]] = deque()
        self._given: set[Waiting[None]] = set()  # and not yet resumed: a task of asyncio goes on later

    async def take(self, timeout: float, clock: Any) -> None:
        """
        Wait for a place, which must be given back by L{leave}.

        @param timeout: seconds to wait, 0 for no limit.
        @raise twisted.internet.defer.TimeoutError: if there was none.
        """
        if not self._places or self._taken < self._places:
            self._taken += 1
            return
        waiting: Waiting[None] = Waiting()
        self._queue.append(waiting)
        timer = clock.callLater(timeout, _expire, waiting) if timeout else None
        try:
            await waiting
        except BaseException:
            if waiting in self._given:
                self.leave()
            if waiting in self._queue:
                self._queue.remove(waiting)
            raise
        finally:
            if timer is not None and timer.active():
                timer.cancel()
            self._given.discard(waiting)

    def leave(self, _: object = None) -> None:
        """Give a place back: to the one that waits longest, if there is one."""
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.called:
                self._given.add(waiting)
                waiting.callback(None)
                return
        self._taken -= 1
