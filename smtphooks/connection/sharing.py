"""
Sharing: several hooks that wait for one Deferred, such as a look-up that is cached.

Twisted's Deferred has one consumer: a failure that it handled leaves None, which a second client would take for a yes;
and cancelling it cancels it for all.  A L{Waiter} leaves the result in place, and only the last waiter cancels.
This module knows neither hooks nor coroutines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, DebugInfo, Deferred
from twisted.python.failure import Failure

# The number of waiters is kept in the Deferred itself: a subclass may compare equal to others, or not be hashable.
_COUNT = "_smtphooksWaiters"


class Waiter:
    """Waits for a Deferred, once."""

    __slots__ = ("_fired", "_raised", "_shared")

    def __init__(self, shared: Deferred[Any]) -> None:
        self._shared = shared
        self._fired: Callable[[Any], object] | None = None
        self._raised: Callable[[Failure], object] | None = None

    def begin(self, fired: Callable[[Any], object], raised: Callable[[Failure], object]) -> None:
        """
        Wait.

        @param fired: called once: with what is in the Deferred, as soon as that is there, or with a L{CancelledError}.
        @param raised: called with what a canceller raised.
        """
        self._fired, self._raised = fired, raised
        attributes = vars(self._shared)
        attributes[_COUNT] = attributes.get(_COUNT, 0) + 1
        self._shared.addBoth(self._passOn)

    def cancel(self) -> None:
        """Wait no longer.  The last waiter cancels the Deferred, which may still take a while to fire."""
        raised = self._raised
        if raised is None:
            return
        if vars(self._shared)[_COUNT] == 1:
            try:
                self._shared.cancel()
                return
            except BaseException:
                # A canceller is code of others.  The Deferred that it belongs to may have fired, or will never do so.
                raised(Failure())
        self._fire(Failure(CancelledError()))

    def _passOn(self, result: Any) -> Any:
        if self._fired is not None:
            if isinstance(result, Failure):
                # Before the hook goes on, which may wait for the same Deferred once more.
                _markDealtWith(self._shared, result)
            self._fire(result)
        return result

    def _fire(self, result: Any) -> None:
        fired, self._fired, self._raised = self._fired, None, None
        if fired is None:
            return
        vars(self._shared)[_COUNT] -= 1
        fired(result)


def maybeDealtWith(deferred: Deferred[Any]) -> Failure | None:
    """The failure in this Deferred, if a L{Waiter} has passed it on already."""
    info: object = getattr(deferred, "_debugInfo", None)
    return info.failure if type(info) is _DealtWith and getattr(deferred, "result", None) is info.failure else None


class _DealtWith(DebugInfo):
    """
    Takes the place of Twisted's C{DebugInfo}, which logs a failure that no errback has handled.

    A waiter has passed this failure on; it stays in the Deferred for the next waiter, if there is one.
    """

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        self._another: Failure | None = None

    @property
    def failResult(self) -> Failure | None:
        return self._another

    @failResult.setter
    def failResult(self, failure: Failure | None) -> None:
        self._another = None if failure is self.failure else failure


def _markDealtWith(deferred: Deferred[Any], failure: Failure) -> None:
    """The attribute is private to Twisted; without it Twisted would log the failure, and nothing else would differ."""
    info = _DealtWith(failure)
    before = getattr(deferred, "_debugInfo", None)
    if before is not None:
        before.failResult = None
        info.creator, info.invoker = before.creator, before.invoker
    deferred._debugInfo = info
