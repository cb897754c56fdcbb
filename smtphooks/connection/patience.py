"""
Patience: the time that a layer may spend on a message, where that is its own doing and not the client's.

In: a clock, and what tells whether the layer waits and whether it has gone on.  Out: one call, when its time is over.
This module knows no layer, and not what becomes of one whose time is over.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from smtphooks.stream import MessageStream


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


def wantsOctets(stream: MessageStream) -> bool:
    """Its reader waits for octets; a consumer that has paused does not."""
    return stream.isAwaited and not stream.isPaused
