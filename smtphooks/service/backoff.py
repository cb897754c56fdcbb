"""
Back-off: what has failed is tried again after a while, which is longer each time it fails in a row.

In: the number of what has failed.  Out: a call of the reactor's that tries it, one for each number.
This module knows no worker, and not why something has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Seconds until the first try, which are twice as many after each failure, and the most.
_FIRST, _MOST = 1.0, 60.0


class Backoff:
    """Tries by number."""

    def __init__(self, reactor: Any, try_: Callable[[int], object]) -> None:
        """
        @param try_: called with the number when it is time; it calls L{begin}.
        """
        self._reactor = reactor
        self._try = try_
        self._delays: dict[int, float] = {}
        self._calls: dict[int, Any] = {}

    def failed(self, number: int) -> float:
        """Try it again later: in so many seconds."""
        self.begin(number)
        delay = self._delays[number] = min(_MOST, 2 * self._delays.get(number, _FIRST / 2))
        self._calls[number] = self._reactor.callLater(delay, self._try, number)
        return delay

    def begin(self, number: int) -> None:
        """It is tried now, and not later."""
        call = self._calls.pop(number, None)
        if call is not None and call.active():
            call.cancel()

    def succeeded(self, number: int) -> None:
        """It works; the next failure is the first one again."""
        self._delays.pop(number, None)

    def forget(self) -> None:
        """The next failure of each is the first one again."""
        self._delays.clear()

    def stop(self) -> None:
        """Try nothing any more."""
        for number in list(self._calls):
            self.begin(number)
