"""
Answers: the replies that the client in memory waits for, to be awaited in asyncio or Twisted, or taken at once.

An L{Answer} is a Deferred that a task of asyncio can await as well.  It fails after a timeout, so that a hook that
never answers fails a test and does not hang it.
This module knows neither SMTP nor servers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.python.failure import Failure

from smtphooks.awaiting import Waiting

T = TypeVar("T")


class NoReply(Exception):
    """A command has no reply; the text says which command, and which hook has not answered."""


class Answer(Waiting[T]):
    """
    A result that is to come: C{await} it in a coroutine of asyncio or of Twisted, or use it as a Deferred.

    Without an event loop, and for hooks that answer at once, L{now} returns it.
    """

    def __init__(self, goOn: Callable[[], object], why: Callable[[], str]) -> None:
        """
        @param goOn: sees whether the answer can be given.
        @param why: says what has not been answered yet.
        """
        super().__init__()
        self._goOn = goOn
        self._why = why
        self._timer: Callable[[], object] | None = None
        self._isAwaited = False

    def addBoth(self, *arguments: Any, **named: Any) -> Any:
        """C{Deferred}: by this, or by C{addCallbacks}, an answer is awaited."""
        self._isAwaited = True
        return super().addBoth(*arguments, **named)

    def addCallbacks(self, *arguments: Any, **named: Any) -> Any:
        """C{Deferred}"""
        self._isAwaited = True
        return super().addCallbacks(*arguments, **named)

    def limit(self, seconds: float) -> None:
        """Fail after that many seconds, if an event loop runs; without one nothing can wait."""
        if not self.called:
            self._timer = maybeLater(seconds, lambda: self._timeOut(seconds))
            super().addBoth(self._settled)

    def _settled(self, result: Any) -> Any:
        self._stopTimer()
        return result

    def _stopTimer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer()

    def _timeOut(self, seconds: float) -> None:
        self._timer = None
        # A failure that nobody awaits would only be logged.
        if not self.called and self._isAwaited:
            self.errback(Failure(NoReply(f"{self._why()} (waited for {seconds:g} seconds)")))

    def give(self, result: T | Failure) -> None:
        """Give the answer, unless nobody waits for it any more."""
        if not self.called:
            self.callback(result)

    def now(self) -> T:
        """
        The answer, without waiting for it.

        @raise NoReply: if it is not there.
        """
        self._goOn()
        self._stopTimer()
        if not self.called:
            raise NoReply(self._why())
        result: Any = self.result
        if isinstance(result, Failure):
            self.addErrback(lambda failure: None)  # as it is raised here
            result.raiseException()
        return result  # type: ignore[no-any-return]


def maybeLater(seconds: float, function: Callable[[], object]) -> Callable[[], object] | None:
    """
    Call a function later, in the event loop that runs: that of asyncio, or Twisted's reactor.

    @return: cancels the call; None if neither runs.
    """
    try:
        return asyncio.get_running_loop().call_later(seconds, function).cancel
    except RuntimeError:
        pass
    # Not imported: an import would install a reactor.
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if reactor is None or not getattr(reactor, "running", False):
        return None
    call = reactor.callLater(seconds, function)
    return lambda: call.cancel() if call.active() else None
