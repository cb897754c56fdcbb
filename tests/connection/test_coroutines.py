"""How a coroutine is run: as Twisted's own driver does, but for the Deferred that most do not need."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from smtphooks.awaiting import Signal
from smtphooks.connection.calling import PendingAnswer
from tests.support import callHook

pytestmark = pytest.mark.usefixtures("logged")


async def _answersAtOnce(pending: Deferred[str]) -> str:
    return "at once" + await succeed(".")


async def _crashesAtOnce(pending: Deferred[str]) -> str:
    raise KeyError("at once")


async def _waits(pending: Deferred[str]) -> str:
    return "then " + await pending


async def _waitsTwice(pending: Deferred[str]) -> str:
    first = await pending
    return first + await succeed("and") + await _waits(succeed("then"))


async def _crashesLater(pending: Deferred[str]) -> str:
    raise KeyError(await pending)


async def _cleansUp(pending: Deferred[str]) -> str:
    try:
        return await pending
    except (CancelledError, ValueError) as reason:
        return f"cleaned up after {type(reason).__name__}"


async def _isAwaitedInsideOut(pending: Deferred[str]) -> str:
    return await _cleansUp(pending)


class _Homemade:
    """An awaitable that hands its Deferred to whoever drives it and takes what is sent back."""

    def __init__(self, pending: Deferred[str]) -> None:
        self.pending = pending

    def __await__(self) -> Generator[Any, Any, str]:
        first = yield self.pending
        second = yield "sent back"
        return f"{first}, {second}"


async def _waitsForSomethingHomemade(pending: Deferred[str]) -> str:
    return await _Homemade(pending)


class _Reversed(_Homemade):
    def __await__(self) -> Generator[Any, Any, str]:
        first = yield "sent back"
        second = yield self.pending
        return f"{first}, {second}"


async def _beginsWithNoDeferred(pending: Deferred[str]) -> str:
    return await _Reversed(pending)


COROUTINES = [
    _answersAtOnce,
    _crashesAtOnce,
    _waits,
    _waitsTwice,
    _crashesLater,
    _cleansUp,
    _isAwaitedInsideOut,
    _waitsForSomethingHomemade,
    _beginsWithNoDeferred,
]
EVENTS: dict[str, Callable[[Deferred[str], Any], object]] = {
    "it fires": lambda pending, result: pending.callback("fired"),
    "it fails": lambda pending, result: pending.errback(ValueError("failed")),
    "the hook is cancelled": lambda pending, result: result.cancel(),
}


_NAMES = [coroutine.__name__ for coroutine in COROUTINES]


def _outcome(begin: Callable[..., Any], hook: Callable[..., Any], happen: Callable[..., object]) -> tuple[Any, Any]:
    """The answer of a hook, and what became of the Deferred that it waits for."""
    pending: Deferred[str] = Deferred()
    result = begin(hook, pending)
    if isinstance(result, PendingAnswer) or (isinstance(result, Deferred) and not result.called):
        happen(pending, result)
    outcome: list[Any] = []
    if isinstance(result, Deferred):
        result.addBoth(outcome.append)
    elif isinstance(result, PendingAnswer):
        result.whenThere(lambda: outcome.append(result.result))
    else:
        outcome.append(result)
    [answer] = outcome
    if isinstance(answer, Failure):
        answer = (answer.type, str(answer.value), [frame[0] for frame in answer.frames if frame[0] in _NAMES])
    return answer, pending.called


@pytest.mark.parametrize("happen", EVENTS.values(), ids=list(EVENTS))
@pytest.mark.parametrize("hook", COROUTINES)
def test_a_coroutine_ends_as_it_does_with_twisteds_own_driver(
    hook: Callable[..., Any], happen: Callable[..., object]
) -> None:
    ours = _outcome(lambda hook, pending: callHook(hook, (pending,)), hook, happen)
    twisteds = _outcome(lambda hook, pending: Deferred.fromCoroutine(hook(pending)), hook, happen)
    assert ours == twisteds


def test_a_coroutine_that_answers_at_once_needs_no_deferred() -> None:
    assert callHook(_answersAtOnce, (Deferred(),)) == "at once."


def test_the_traceback_of_a_coroutine_that_waited_leads_to_where_it_crashed() -> None:
    pending: Deferred[str] = Deferred()
    result = callHook(_crashesLater, (pending,))
    pending.callback("key")
    assert "raise KeyError(await pending)" in result.result.getTraceback()


def test_a_coroutine_keeps_its_context_and_leaves_that_of_others_alone() -> None:
    who: ContextVar[str] = ContextVar("who")
    who.set("caller")
    seen = []

    async def hook(name: str, pending: Deferred[None]) -> None:
        seen.append(who.get())
        who.set(name)
        await pending
        seen.append(who.get())

    first: Deferred[None] = Deferred()
    second: Deferred[None] = Deferred()
    callHook(hook, ("one", first))
    callHook(hook, ("two", second))
    assert who.get() == "caller"
    second.callback(None)
    first.callback(None)
    assert seen == ["caller", "caller", "two", "one"]


def test_a_coroutine_has_one_context_from_its_first_step_to_its_last() -> None:
    """What it sets before it waits it can take back afterwards, as contextvars have it: a token knows its context."""
    who: ContextVar[str] = ContextVar("who", default="nobody")
    seen = []

    async def hook(first: Deferred[None], second: Deferred[None]) -> None:
        token = who.set("set before")
        try:
            await first
            who.set("set between")
            await second
            seen.append(who.get())
        finally:
            who.reset(token)
        seen.append(who.get())

    first: Deferred[None] = Deferred()
    second: Deferred[None] = Deferred()
    result = callHook(hook, (first, second))
    first.callback(None)
    second.callback(None)
    assert result.result is None
    assert seen == ["set between", "nobody"]


def test_a_coroutine_that_is_forgotten_is_closed() -> None:
    ended = []

    async def hook(pending: Deferred[None]) -> None:
        try:
            await pending
        finally:
            ended.append(True)

    pending: Deferred[None] | None = Deferred()
    callHook(hook, (pending,))
    del pending
    gc.collect()
    assert ended


def test_a_coroutine_that_awaits_in_a_loop_needs_no_stack() -> None:
    """What is there at once, though it must be waited for, is no call within a call."""

    class Again:
        def __await__(self) -> Generator[Any, Any, int]:
            return (yield succeed(1))  # type: ignore[no-any-return]

    async def hook() -> int:
        return sum([await Again() for _ in range(5000)])

    assert callHook(hook, ()) == 5000


def test_what_cannot_be_waited_for_is_a_fault_of_the_coroutine_and_of_nothing_else() -> None:
    """Such as a future of asyncio that is not of asyncio, and raises; the Deferred before it keeps its result."""

    class Odd:
        _asyncio_future_blocking = True

        def done(self) -> bool:
            raise OSError("odd")

        def __await__(self) -> Generator[Any, Any, None]:
            yield self

    caught = []

    async def hook(pending: Deferred[str]) -> str:
        first = await pending
        try:
            await Odd()
        except OSError:
            caught.append(first)
        return first + await succeed(", and on")

    pending: Deferred[str] = Deferred()
    answer = callHook(hook, (pending,))
    pending.callback("fired")
    assert answer.result == "fired, and on"
    assert caught == ["fired"]
    assert pending.result == "fired"


# --- what a message is awaited with ---


async def _awaitsSignal(signal: Signal) -> str:
    try:
        await signal
    except CancelledError:
        return "cancelled"
    return "fired"


def test_a_coroutine_that_awaits_a_signal_is_resumed_by_it() -> None:
    signal = Signal()
    answer = callHook(_awaitsSignal, (signal,))
    assert not answer.isThere
    signal.fire()
    assert answer.result == "fired"


def test_a_coroutine_that_awaits_a_signal_can_be_cancelled() -> None:
    signal = Signal()
    answer = callHook(_awaitsSignal, (signal,))
    answer.cancel()
    assert answer.result == "cancelled"
    signal.fire()
    assert answer.result == "cancelled"


def test_a_signal_that_has_fired_is_not_waited_for() -> None:
    signal = Signal()
    signal.fire()
    assert callHook(_awaitsSignal, (signal,)) == "fired"
