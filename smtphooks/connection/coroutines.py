"""
Coroutines: how an C{async def} hook is run, from one await to the next.

This does what C{yield from} does (PEP 380), as Twisted's own driver does, with three differences: a Deferred is waited
for with a L{Waiter}, a future of asyncio may stand where a Deferred may, and a L{Signal} needs no callbacks.
This module knows neither hooks nor what an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from smtphooks.awaiting import Signal
from smtphooks.connection.sharing import Waiter

WRONG_REACTOR = (
    "a hook needs the event loop of asyncio, which this reactor does not run: before anything imports the reactor, call"
    " twisted.internet.asyncioreactor.install(), or start with twistd --reactor=asyncio"
)

_NOT_YET = object()


class Stepper(Protocol):
    """How some of a hook is run."""

    def __call__(self, name: object, function: Callable[..., Any], *arguments: Any) -> Any: ...


def begin(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, for its answer, or to its first wait, for a L{Run}."""
    try:
        return Run(coroutine, coroutine.send(None))
    except StopIteration as end:
        return end.value


def callAndBegin(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function, and begin the coroutine that it may be."""
    result = function(*arguments)
    return begin(result) if type(result) is CoroutineType else result


class Run:
    """Runs a coroutine that has to wait to its end; most hooks know their answer at once, and need none."""

    __slots__ = ("_awaited", "_coroutine", "_fired", "_isBeginning", "_name", "_raised", "_result", "_step", "_wait")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> None:
        """
        @param awaited: what it waits for first.
        """
        self._coroutine = coroutine
        self._awaited = awaited
        self._wait: Waiter | Signal | None = None

    def begin(
        self, step: Stepper, name: object, fired: Callable[[Any], object], raised: Callable[[Failure], object]
    ) -> None:
        """
        Run on.

        @param step: how each step is run.
        @param name: what the log calls it.
        @param fired: called once: with what the coroutine returned, or with a L{Failure} for what it raised.
        @param raised: called with what the canceller of something that it waits for raised.
        """
        self._step, self._name, self._fired, self._raised = step, name, fired, raised
        result = self._await(self._awaited)
        self._awaited = None
        if result is not _NOT_YET:
            self._runOn(result)

    def cancel(self) -> None:
        """Cancel what it waits for.  It may still take a while to end, or go on as if nothing was said."""
        if self._wait is not None:
            self._wait.cancel()

    def _runOn(self, result: Any) -> None:
        """Run the coroutine to its end, or to something that is not there yet."""
        while result is not _NOT_YET:
            try:
                if isinstance(result, Failure):
                    awaited = self._step(self._name, result.throwExceptionIntoGenerator, self._coroutine)
                else:
                    awaited = self._step(self._name, self._coroutine.send, result)
            except StopIteration as end:
                answer = end.value
                break
            except BaseException:
                # Even SystemExit, as a Deferred has it.
                answer = Failure()
                break
            result = self._await(awaited)
        else:
            return
        self._wait = None
        self._fired(answer)

    def _await(self, awaited: Any) -> Any:
        """
        Wait for what the coroutine awaits.

        @return: what it came to, if that is there at once; a L{Failure} if it cannot be waited for.
        """
        if type(awaited) is Signal:  # one that has fired is not awaited
            awaited.resume = self._runOn
            self._wait = awaited
            return _NOT_YET
        try:
            deferred = _maybeDeferred(awaited)
            if deferred is None:
                return awaited  # What cannot be waited for is sent straight back, as Twisted does.
            wait = Waiter(deferred)
            self._wait, self._result = wait, _NOT_YET
            self._isBeginning = True
            wait.begin(self._came, self._raised)
        except BaseException:
            # What is awaited is code of others.  Raised further, this would end up in what was awaited before.
            return Failure()
        finally:
            self._isBeginning = False
        result, self._result = self._result, None
        return result

    def _came(self, result: Any) -> None:
        if self._isBeginning:
            self._result = result
        else:
            self._runOn(result)


def _maybeDeferred(awaited: Any) -> Deferred[Any] | None:
    """What a coroutine of Twisted or of asyncio waits for, as a Deferred."""
    if isinstance(awaited, Deferred):
        return awaited
    if asyncio.isfuture(awaited):
        return _ofFuture(awaited)
    loop = asyncio._get_running_loop()
    if awaited is None and loop is not None:
        # asyncio.sleep(0): let others run first.
        done: Deferred[None] = Deferred()
        loop.call_soon(lambda: None if done.called else done.callback(None))
        return done
    return None


def _ofFuture(future: asyncio.Future[Any]) -> Deferred[None]:
    """Fires when the future is done; what it has come to the coroutine asks for by itself."""

    def cancel(done: Deferred[None]) -> None:
        future.cancel()
        # What is written for asyncio cleans up at asyncio's own exception.
        done.errback(asyncio.CancelledError())

    done: Deferred[None] = Deferred(cancel)
    try:
        checkedFuture(future)
    except RuntimeError:
        done.errback()
        return done
    # This is how a Task tells a future that it was awaited properly.
    future._asyncio_future_blocking = False
    future.add_done_callback(lambda _: None if done.called else done.callback(None))
    return done


def checkedFuture(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """
    The future.

    @raise RuntimeError: it would never be done, for its loop does not run.
    """
    if not future.done() and future.get_loop() is not asyncio._get_running_loop():
        raise RuntimeError(WRONG_REACTOR)
    return future
