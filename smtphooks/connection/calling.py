"""
Calling: how a hook is called, and how whatever it answers becomes one of three: a value, a L{Failure}, or a
L{PendingAnswer}.

Rules kept here: all hooks of a connection run in one C{contextvars} context; an exception that is returned counts as
raised; an awaitable that is returned is awaited, so that a forgotten C{await} is never a yes; whatever code of others
raises, it ends up in the answer and goes nowhere else (invariant 10).
This module knows neither sessions nor what an answer means.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from time import perf_counter
from types import CoroutineType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from smtphooks.awaiting import coroutineOf
from smtphooks.connection.coroutines import WRONG_REACTOR, Run, begin, callAndBegin, checkedFuture
from smtphooks.connection.sharing import Waiter, maybeDealtWith
from smtphooks.hooks import AsyncioCoroutine

_NEVER = float("inf")


class Rest:
    """
    The answer of a hook that is made of several, where one of them has more to say than a text.

    @ivar wait: its C{goOn} is called with the L{HookCaller} and tells whether the answer is there, in C{answer};
        else it is waited for as for a L{Waiter}, with C{begin} and C{cancel}.  C{answer} is as L{HookCaller.settle}
        returns it.
    """

    __slots__ = ("wait",)

    def __init__(self, wait: Any) -> None:
        self.wait: Any = wait


class PendingAnswer:
    """
    The answer that a hook has yet to give.

    @ivar isThere: the hook has given it.
    @ivar result: the answer, once it is there.
    """

    __slots__ = ("_caller", "_hook", "_wait", "_wake", "isThere", "result")

    def __init__(self, caller: HookCaller, hook: object, wait: Any) -> None:
        """
        @param wait: a L{Waiter}, a L{Run}, or what a L{Rest} waits for.
        """
        self._caller = caller
        self._hook = hook
        self._wake: Callable[[], object] | None = None
        self.isThere: bool = False
        self.result: Any = None
        self._wait: Any = wait
        if isinstance(wait, Run):
            wait.begin(caller.step, hook, self._came, self._raised)
        else:
            wait.begin(self._came, self._raised)

    def _came(self, result: Any) -> None:
        """What the hook waited for is there; it may be something to wait for in turn."""
        answer = result if result is None else self._caller.settle(self._hook, result)
        if type(answer) is PendingAnswer:
            self._wait = answer
            answer.whenThere(lambda: self._came(answer.result))
            return
        self.result = answer
        self.isThere = True
        wake = self._wake
        # They all know this answer in turn; to let go of them here leaves no cycle to the garbage collector.
        self._wait = self._wake = None
        if wake is not None:
            wake()

    def _raised(self, failure: Failure) -> None:
        self._caller.crashed(self._hook, failure)

    def whenThere(self, wake: Callable[[], object]) -> None:
        """Have this called when the answer is there, in place of what was to be called before."""
        if self.isThere:
            wake()
        else:
            self._wake = wake

    def cancel(self) -> None:
        """
        Tell the hook that its answer is of no use any more.

        It may still take a while to end, or go on regardless.
        """
        if self._wait is not None:
            self._wait.cancel()


class HookCaller:
    """
    Calls the hooks of one connection.

    @ivar blamed: the name of a hook that is made of several, and which of them was last waited for, or has refused.
    """

    __slots__ = ("_context", "_isForAsyncio", "_isInside", "_isSlow", "_slow", "blamed", "crashed")

    def __init__(
        self,
        slowHook: float = 0,
        asyncioHooks: bool = False,
        isSlow: Callable[[object, float], object] = lambda hook, seconds: None,
        crashed: Callable[[object, Failure], object] = lambda hook, failure: None,
        context: Context | None = None,
    ) -> None:
        """
        @param slowHook: seconds that a step of a hook may take, 0 for no limit.
        @param asyncioHooks: every coroutine runs as a task of asyncio.
        @param isSlow: told the hook that has held the reactor for longer, and for how many seconds.
        @param crashed: told the hook that waits for a Deferred with a canceller that raised, and what that raised.
        @param context: that of the connection; None for a copy of the one at hand.
        """
        self._context = copy_context() if context is None else context
        self.crashed: Callable[[object, Failure], object] = crashed
        self.blamed: tuple[str, str] = ("", "")
        self._isInside = False
        self._slow = slowHook or _NEVER
        self._isForAsyncio = asyncioHooks
        self._isSlow = isSlow

    def call(self, name: object, hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """
        Call a hook.

        @param name: what the log calls it; a function stands for its own name.
        @return: its answer, a L{Failure} if it raised, or a L{PendingAnswer}.
        """
        try:
            if self._isForAsyncio:
                result = self.step(name, hook, *arguments)
            else:
                result = self.step(name, callAndBegin, hook, arguments)
        except BaseException:
            # Even SystemExit, as a Deferred has it: a hook harms its own connection only (invariant 10).
            return Failure()
        if result is None or type(result) is str:
            return result
        return self._pending(name, result) if type(result) is Run else self.settle(name, result)

    def step(self, name: object, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run some of a hook, in the context of the connection."""
        isInside = self._isInside
        self._isInside = True
        began = perf_counter()
        try:
            # What one hook does may lead to the next, within its call; and a context cannot be entered twice.
            return function(*arguments) if isInside else self._context.run(function, *arguments)
        finally:
            self._isInside = isInside
            seconds = perf_counter() - began
            if seconds > self._slow:
                self._isSlow(name, seconds)

    def taskStep(self, name: object, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run some of a hook that asyncio has entered the context for."""
        isInside = self._isInside
        self._isInside = True
        try:
            return self.step(name, function, *arguments)
        except (SystemExit, KeyboardInterrupt) as error:
            # A task would raise these once more, through the loop of asyncio, and so end the server.
            raise RuntimeError(f"a hook raised {error!r}") from error
        finally:
            self._isInside = isInside

    def settle(self, name: object, result: Any) -> Any:
        """What an answer comes to; what is returned is as with L{call}."""
        try:
            if type(result) is Rest:
                wait = result.wait
                # No local name is bound to the answer: a failure may know this frame by its traceback.
                return wait.answer if wait.goOn(self) else self._pending(name, wait)
            while type(result) is CoroutineType:
                result = self._asTask(name, result) if self._isForAsyncio else self.step(name, begin, result)
            if type(result) is Run:
                return self._pending(name, result)
            if result is None or isinstance(result, (str, Failure)):
                return result
            if isinstance(result, BaseException):
                # "return callback(error)" is how other libraries refuse; it must not let anything pass.
                return Failure(result)
            if type(result) is AsyncioCoroutine:
                result = self._asTask(name, result.coroutine)
            elif asyncio.isfuture(result):
                result = Deferred.fromFuture(checkedFuture(result))
            elif not isinstance(result, Deferred) and inspect.isawaitable(result):
                return self.settle(name, coroutineOf(result))
            if isinstance(result, Deferred):
                failure = maybeDealtWith(result)
                if failure is not None:
                    # A look-up that is remembered: with Twisted there would be None in it, which looks like success.
                    raise RuntimeError(f"a Deferred that had failed was returned a second time: {failure.value!r}")
                return self._pending(name, Waiter(result))
            if isinstance(result, type) and issubclass(result, BaseException):
                raise TypeError(f"a hook answered the class {result.__name__}; to refuse, raise one of these")
            if inspect.isgenerator(result) or inspect.isasyncgen(result):
                # Nothing of such a hook has run: to take it for a success would lose the message.
                raise TypeError(f"a hook answered {result!r}; a generator needs inlineCallbacks, an async def no yield")
        except BaseException:
            return Failure()
        return result

    def _pending(self, name: object, wait: Any) -> Any:
        answer = PendingAnswer(self, name, wait)
        return answer.result if answer.isThere else answer

    def _asTask(self, name: object, coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        loop = asyncio._get_running_loop()
        if loop is None:
            coroutine.close()
            raise RuntimeError(WRONG_REACTOR)
        steps = _Steps(self, name, coroutine)
        if sys.version_info >= (3, 11):
            return Deferred.fromFuture(loop.create_task(steps, context=self._context))
        return Deferred.fromFuture(self.step(name, loop.create_task, steps))  # pragma: no cover


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine for a task of asyncio, which has entered the context of the connection; each step is measured."""

    def __init__(self, caller: HookCaller, name: object, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._caller = caller
        self._name = name
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        return self._caller.taskStep(self._name, self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._caller.taskStep(self._name, self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()


def needsAsyncio(error: BaseException | None) -> bool:
    """Has code of asyncio been called where its loop does not run?"""
    return isinstance(error, RuntimeError) and "no running event loop" in str(error)
