"""
Calling: how a hook is called, and how one of three kinds is made of whatever it answers: a value, a L{Failure}, or a
L{PendingAnswer}.

Rules kept here: all hooks of a connection run in one C{contextvars} context; an exception that is returned counts as
raised; an awaitable that is returned is awaited, so that a forgotten C{await} is never a yes; whatever code of others
raises, it ends up in the answer and goes nowhere else (invariant 10).
This module knows neither sessions nor what an answer means.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from time import perf_counter
from types import CoroutineType
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from smtphooks.awaiting import Waiting

_NEVER = float("inf")

WRONG_REACTOR = (
    "a hook needs the event loop of asyncio, which this reactor does not run: before anything imports the reactor, call"
    " twisted.internet.asyncioreactor.install(), or start with twistd --reactor=asyncio"
)


class PendingAnswer:
    """
    The answer that a hook has yet to give.

    @ivar result: the answer, once it is there.
    @ivar isThere: it is.
    """

    __slots__ = ("_arguments", "_awaited", "_caller", "_hook", "_then", "isThere", "result")

    def __init__(self, caller: HookCaller, hook: object, awaited: Deferred[Any]) -> None:
        self._caller = caller
        self._hook = hook
        self._then: Callable[..., object] | None = None
        self._arguments: tuple[object, ...] = ()
        self.isThere = False
        self.result: Any = None
        self._await(awaited)

    def _await(self, awaited: Deferred[Any]) -> None:
        self._awaited = awaited
        awaited.addBoth(self._fired, awaited)

    def _fired(self, result: Any, awaited: Deferred[Any]) -> Any:
        """
        Something that the hook waited for has fired.

        @return: what stays in the Deferred, which the hook may return a second time.
        """
        answer = result
        if result is not None:
            answer = self._caller.settle(self._hook, result.deferred if type(result) is _Returned else result)
        if type(answer) is PendingAnswer:
            self._awaited = answer._awaited
            answer.then(self._answered)
        else:
            self._answered(answer)
        if isinstance(result, Failure):
            # Its failure has been dealt with; but a look-up that is remembered, and returned for the next client, must
            # not look like one that has succeeded, as it would with None in it.
            isNews = not isinstance(result.value, _ReturnedAgain)
            return _left(awaited, Failure(_ReturnedAgain(result.value)) if isNews else result)
        return result

    def _answered(self, answer: Any) -> None:
        self.result = answer
        self.isThere = True
        if self._then is not None:
            self._then(answer, *self._arguments)

    def then(self, then: Callable[..., object], *arguments: object) -> None:
        """Have this called with the answer, and with the arguments behind it."""
        self._then, self._arguments = then, arguments
        if self.isThere:
            then(self.result, *arguments)

    def cancel(self) -> None:
        """
        Tell the hook that no answer is needed any more.

        It may still take a while to end, or go on as if nothing was said.
        """
        try:
            self._awaited.cancel()
        except BaseException:
            # A canceller is code of others.  The Deferred that it belongs to would never fire.
            self._caller.crashed(self._hook, Failure())
            self._fire(self._awaited)

    def _fire(self, awaited: Deferred[Any]) -> None:
        while awaited.called and isinstance(awaited.result, Deferred):
            awaited = awaited.result
        if not awaited.called:
            awaited.errback(CancelledError())


class _ReturnedAgain(RuntimeError):
    """What a Deferred fails with whose failure has been dealt with."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__(f"a Deferred that had failed was returned a second time: {error!r}")


class _Returned:
    """
    A Deferred that a coroutine has returned after it had to wait.

    A Deferred cannot be fired with another one; and if Twisted waited for it, nothing would stay in it.
    """

    __slots__ = ("deferred",)

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.deferred = deferred


class HookCaller:
    """Calls the hooks of one connection."""

    __slots__ = ("_context", "_isForAsyncio", "_isInside", "_isSlow", "_slow", "crashed")

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
        @param crashed: told the hook whose Deferred has a canceller that raised, and what.
        @param context: that of the connection; None for a copy of the one at hand.
        """
        self._context = copy_context() if context is None else context
        self.crashed = crashed
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
                result = self.step(name, _callAndBegin, hook, arguments)
        except BaseException:
            # Even SystemExit, as a Deferred has it: a hook harms its own connection only (invariant 10).
            return Failure()
        if result is None or type(result) is str:
            return result
        return self.settle(name, result)

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
            while type(result) is CoroutineType:
                result = self._asTask(name, result) if self._isForAsyncio else self.step(name, _begin, result)
            if type(result) is _Begun:
                return self._pending(name, Deferred.fromCoroutine(self._goOn(name, result.coroutine, result.awaited)))
            if result is None or isinstance(result, (str, Failure)):
                return result
            if isinstance(result, BaseException):
                # "return callback(error)" is how other libraries refuse; it must not let anything pass.
                return Failure(result)
            if type(result) is AsyncioCoroutine:
                result = self._asTask(name, result.coroutine)
            elif asyncio.isfuture(result):
                result = Deferred.fromFuture(_checkedFuture(result))
            elif not isinstance(result, Deferred) and inspect.isawaitable(result):
                return self.settle(name, _await(result))
            if isinstance(result, Deferred):
                return self._pending(name, result)
            if isinstance(result, type) and issubclass(result, BaseException):
                raise TypeError(f"a hook answered the class {result.__name__}; to refuse, raise one of these")
            if inspect.isgenerator(result) or inspect.isasyncgen(result):
                # Nothing of such a hook has run: to take it for a success would lose the message.
                raise TypeError(f"a hook answered {result!r}; a generator needs inlineCallbacks, an async def no yield")
        except BaseException:
            return Failure()
        return result

    def _pending(self, name: object, awaited: Deferred[Any]) -> Any:
        answer = PendingAnswer(self, name, awaited)
        return answer.result if answer.isThere else answer

    def _goOn(self, name: object, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
        """
        The rest of a coroutine that has come to its first await: what C{yield from} does (PEP 380), from there, in the
        context of the connection, and with futures of asyncio in the place of Deferreds where there are any.
        """
        while True:
            resume: Callable[[Any], Any]
            try:
                # What the stream waits with is ours alone.
                value = yield awaited if type(awaited) is Waiting else _deferred(awaited)
            except GeneratorExit:
                coroutine.close()  # and not thrown into it: it may have been closed already
                raise
            except BaseException as error:
                resume, value = coroutine.throw, error
            else:
                resume = coroutine.send
            try:
                awaited = self.step(name, resume, value)
            except StopIteration as end:
                answer = end.value
                return _Returned(answer) if answer is not None and isinstance(answer, Deferred) else answer

    def _asTask(self, name: object, coroutine: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        loop = asyncio._get_running_loop()
        if loop is None:
            coroutine.close()
            raise RuntimeError(WRONG_REACTOR)
        steps = _Steps(self, name, coroutine)
        if sys.version_info >= (3, 11):
            return Deferred.fromFuture(loop.create_task(steps, context=self._context))
        return Deferred.fromFuture(self.step(name, loop.create_task, steps))  # pragma: no cover


class _Quiet:
    """In the place of Twisted's note that a Deferred has failed and no code has looked at it."""

    failResult: object = None


def _left(deferred: Deferred[Any], failure: Failure) -> Failure:
    """
    Leave a failure in a Deferred for the next who looks, and have Twisted not complain that there may be none.

    Without the attribute, which is Twisted's own, it would complain; nothing else would be different.
    """
    noted = getattr(deferred, "_debugInfo", None)
    if noted is not None:
        noted.failResult = None
    deferred._debugInfo = _Quiet()  # type: ignore[assignment]
    return failure


class _Tap:
    """
    A Deferred that fires as another does, and takes nothing out of it.

    Twisted would leave None in a Deferred that a coroutine has awaited; of a look-up that is remembered, and awaited
    for the next client, that would be an answer.
    """

    __slots__ = ("_fires", "_shared", "deferred")

    def __init__(self, shared: Deferred[Any]) -> None:
        self._shared = shared
        self.deferred = self._fires = Deferred[Any](self._cancel)
        self.deferred.addCallback(self._orRest)
        shared.addBoth(self._passOn)

    def _passOn(self, result: Any) -> Any:
        self._fires.callback(result)
        return _left(self._shared, result) if isinstance(result, Failure) else result

    def _cancel(self, deferred: Deferred[Any]) -> None:
        self._shared.cancel()
        if not self._fires.called:
            # It takes its time to end, or does not mind; until then the coroutine waits on.
            fires, self._fires = self._fires, Deferred(lambda rest: self._shared.cancel())
            fires.callback(self)

    def _orRest(self, result: Any) -> Any:
        return self._fires if result is self else result


class _Begun:
    """
    A coroutine that has to wait.

    Only then a Deferred is made for it: most hooks know their answer at once, and then it costs more than the hook.
    """

    __slots__ = ("awaited", "coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> None:
        self.coroutine = coroutine
        self.awaited = awaited


def _begin(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end or to its first wait."""
    try:
        return _Begun(coroutine, coroutine.send(None))
    except StopIteration as end:
        return end.value


def _callAndBegin(hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a hook, and begin the coroutine that it may be."""
    result = hook(*arguments)
    return _begin(result) if type(result) is CoroutineType else result


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


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _deferred(awaited: Any) -> Any:
    """A Deferred for what a coroutine waits for, of Twisted or of asyncio, for Twisted to wait for."""
    if isinstance(awaited, Deferred):
        return _Tap(awaited).deferred
    if asyncio.isfuture(awaited):
        return _ofFuture(awaited)
    loop = asyncio._get_running_loop()
    if awaited is None and loop is not None:
        # asyncio.sleep(0): let others run first.
        done: Deferred[None] = Deferred()
        loop.call_soon(lambda: None if done.called else done.callback(None))
        return done
    return awaited


def _ofFuture(future: asyncio.Future[Any]) -> Deferred[None]:
    """Fires when the future is done; what it has come to the coroutine asks for by itself."""

    def cancel(done: Deferred[None]) -> None:
        future.cancel()
        # What is written for asyncio cleans up at asyncio's own exception.
        done.errback(asyncio.CancelledError())

    done: Deferred[None] = Deferred(cancel)
    try:
        _checkedFuture(future)
    except RuntimeError:
        done.errback()
        return done
    # This is how a Task tells a future that it was awaited properly.
    future._asyncio_future_blocking = False
    future.add_done_callback(lambda _: None if done.called else done.callback(None))
    return done


def _checkedFuture(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    if not future.done() and future.get_loop() is not asyncio._get_running_loop():
        raise RuntimeError(WRONG_REACTOR)
    return future


class AsyncioCoroutine:
    """What a hook marked with L{asyncioHook} returns: a coroutine that has to run as a task of asyncio."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.coroutine.__await__()


Hook = TypeVar("Hook", bound=Callable[..., Coroutine[Any, Any, Any]])


def asyncioHook(hook: Hook) -> Hook:
    """
    Run an C{async def} hook as a task of asyncio, so that C{asyncio.timeout}, task groups and libraries such as aiohttp
    work in it.  It needs Twisted's asyncio reactor.
    """

    @functools.wraps(hook)
    def call(*arguments: Any, **named: Any) -> Any:
        result = hook(*arguments, **named)
        return AsyncioCoroutine(result) if type(result) is CoroutineType else result

    return call  # type: ignore[return-value]


def needsAsyncio(error: BaseException | None) -> bool:
    """Has code of asyncio been called where its loop does not run?"""
    return isinstance(error, RuntimeError) and "no running event loop" in str(error)
