"""Awaiting: a task of asyncio and a coroutine that Twisted runs can both read a stream, in all ways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from smtphooks import ConsumerStopped, MessageStream
from smtphooks.awaiting import Signal, Waiting
from tests.test_stream import LOST, WAYS, Consumer, Result, iterate, toConsumer

pytestmark = pytest.mark.usefixtures("logged")

Way = Callable[[MessageStream], Coroutine[Any, Any, bytes]]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of asyncio; an error that no task has handled fails the test."""
    loop = asyncio.new_event_loop()
    wrong: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: wrong.append(context))
    yield loop
    loop.run_until_complete(settle())
    loop.close()
    assert not wrong


async def settle() -> None:
    """Run every task until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(loop: asyncio.AbstractEventLoop, test: Coroutine[Any, Any, None]) -> None:
    loop.run_until_complete(asyncio.wait_for(test, 10))


# --- a Deferred ---


@pytest.mark.parametrize("isEarly", [True, False])
def test_a_task_gets_its_value(loop: asyncio.AbstractEventLoop, isEarly: bool) -> None:
    async def test() -> None:
        waiting: Waiting[int] = Waiting()
        if isEarly:
            waiting.callback(7)
        else:
            loop.call_soon(waiting.callback, 7)
        assert await waiting == 7

    run(loop, test())


@pytest.mark.parametrize("isEarly", [True, False])
def test_a_task_gets_its_exception(loop: asyncio.AbstractEventLoop, isEarly: bool) -> None:
    async def test() -> None:
        waiting: Waiting[int] = Waiting()
        if isEarly:
            waiting.errback(ValueError("x"))
        else:
            loop.call_soon(waiting.errback, ValueError("x"))
        with pytest.raises(ValueError, match="x"):
            await waiting

    run(loop, test())


def test_a_task_that_is_cancelled_cancels_it(loop: asyncio.AbstractEventLoop) -> None:
    cancelled: list[object] = []

    async def test() -> None:
        waiting: Waiting[int] = Waiting(cancelled.append)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waitFor(waiting), 0.001)
        assert cancelled == [waiting]

    run(loop, test())


async def waitFor(waiting: Awaitable[int]) -> int:
    return await waiting


@pytest.mark.parametrize("result", [7, ValueError("x")])
def test_without_a_loop_it_is_a_deferred(result: object) -> None:
    waiting: Waiting[int] = Waiting()
    waited = Result(waitFor(waiting))
    if isinstance(result, Exception):
        waiting.errback(result)
        assert waited.failures == [result]
    else:
        waiting.callback(7)
        assert waited.values == [7]
    Result(waiting)


def test_within_a_loop_but_no_task_it_is_a_deferred(loop: asyncio.AbstractEventLoop) -> None:
    waiting: Waiting[int] = Waiting()
    results: list[Result] = []
    loop.call_soon(lambda: results.append(Result(waitFor(waiting))))
    run(loop, settle())
    waiting.callback(7)
    assert results[0].values == [7]


# --- a signal ---


def test_a_signal_calls_who_runs_its_coroutine_and_nothing_else() -> None:
    signal, coroutine, resumed = awaited()
    signal.resume = resumed.append
    signal.addBoth(resumed.append)
    signal.fire()
    assert resumed == [None]
    with pytest.raises(StopIteration):
        coroutine.send(None)
    signal.fire()
    assert resumed == [None]


def test_a_signal_that_is_cancelled_says_so_to_who_runs_its_coroutine() -> None:
    signal, coroutine, resumed = awaited()
    signal.resume = resumed.append
    signal.cancel()
    assert isinstance(resumed[0].value, CancelledError)
    with pytest.raises(CancelledError):
        resumed[0].throwExceptionIntoGenerator(coroutine)
    for _ in range(2):
        signal.cancel()
        signal.fire()
    assert len(resumed) == 1


def awaited() -> tuple[Signal, Any, list[Any]]:
    """A signal, the coroutine that awaits it, and a list for what it is resumed with."""
    signal = Signal()

    async def wait() -> None:
        await signal

    coroutine = wait()
    assert coroutine.send(None) is signal
    return signal, coroutine, []


@pytest.mark.parametrize("isCancelled", [False, True])
def test_without_one_who_asks_for_it_a_signal_is_a_deferred(isCancelled: bool) -> None:
    signal = Signal()
    waited = Result(waitFor(signal))  # type: ignore[arg-type]
    assert waited.isOpen
    if isCancelled:
        waited.deferred.cancel()
        assert isinstance(waited.failures[0], CancelledError)
    else:
        signal.fire()
        signal.fire()
        assert waited.values == [None]


def test_a_task_awaits_a_signal(loop: asyncio.AbstractEventLoop) -> None:
    async def test() -> None:
        signal = Signal()
        loop.call_soon(signal.fire)
        await signal
        signal.fire()

    run(loop, test())


@pytest.mark.parametrize("result", [7, ValueError("x"), None])
def test_a_coroutine_of_twisted_may_be_resumed_within_a_task(loop: asyncio.AbstractEventLoop, result: object) -> None:
    """As with a lock that the task releases: the current task is not the coroutine that awaits."""
    first: Deferred[None] = Deferred()
    second: Waiting[int] = Waiting()

    async def twisted() -> int:
        await first
        return await second

    async def test() -> None:
        waited = Result(twisted())
        first.callback(None)
        await settle()
        assert waited.isOpen
        if result is None:
            waited.deferred.cancel()
        elif isinstance(result, Exception):
            second.errback(result)
        else:
            second.callback(7)
        await settle()
        if result is None:
            assert isinstance(waited.failures[0], (CancelledError, asyncio.CancelledError))
            assert second.called
        else:
            assert [*waited.values, *waited.failures] == [result]

    run(loop, test())


# --- a stream ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("early", range(4))
def test_a_task_reads_a_message(loop: asyncio.AbstractEventLoop, way: Way, early: int) -> None:
    async def test() -> None:
        pieces = [b"one: 1\r\n", b"two", b"three"]
        stream = MessageStream()
        for piece in pieces[:early]:
            stream.append(piece)
        task = asyncio.ensure_future(way(stream))
        await settle()
        for piece in pieces[early:]:
            stream.append(piece)
            await settle()
        assert not task.done()
        stream.append(b"", isLast=True)
        assert await task == b"".join(pieces)

    run(loop, test())


@pytest.mark.parametrize("way", WAYS)
def test_octets_that_arrive_before_a_task_resumes_are_not_lost(loop: asyncio.AbstractEventLoop, way: Way) -> None:
    async def test() -> None:
        stream = MessageStream()
        task = asyncio.ensure_future(way(stream))
        await settle()
        stream.append(b"one")
        stream.append(b"two")
        stream.append(b"three", isLast=True)
        stream.fail(LOST)
        assert await task == b"onetwothree"

    run(loop, test())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isAwake", [True, False])
def test_a_task_gets_the_failure_of_a_truncated_message(
    loop: asyncio.AbstractEventLoop, way: Way, isAwake: bool
) -> None:
    async def test() -> None:
        stream = MessageStream()
        task = asyncio.ensure_future(way(stream))
        await settle()
        if isAwake:  # its Deferred has fired, but the task has not resumed
            stream.append(b"half")
        assert stream.isAwaited
        stream.fail(LOST)
        with pytest.raises(ConnectionLost):
            await task
        assert not stream.isAwaited
        assert stream.buffered == 0

    run(loop, test())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isAwake", [True, False])
def test_a_task_that_is_cancelled_reads_no_more(loop: asyncio.AbstractEventLoop, way: Way, isAwake: bool) -> None:
    async def test() -> None:
        stream = MessageStream()
        task = asyncio.ensure_future(way(stream))
        await settle()
        if isAwake:
            stream.append(b"half")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert not stream.isAwaited
        stream.append(b"more")
        stream.fail(LOST)
        await settle()

    run(loop, test())


def test_a_task_may_read_on_after_a_timeout(loop: asyncio.AbstractEventLoop) -> None:
    async def test() -> None:
        stream = MessageStream()
        for _ in range(2):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.header(), 0.001)
            stream.append(b"Subject: one\r\n")
        assert await anext(stream) == b"Subject: one\r\n" * 2
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.001)
        stream.append(b"text", isLast=True)
        assert await iterate(stream) == b"text"

    run(loop, test())


def test_a_task_waits_for_the_header(loop: asyncio.AbstractEventLoop) -> None:
    async def both(stream: MessageStream) -> tuple[Any, bytes]:
        stream.prepend(b"Zero: 0\r\n")
        return (await stream.header()).items(), await stream.read()

    async def test() -> None:
        stream = MessageStream()
        task = asyncio.ensure_future(both(stream))
        for piece in (b"Sub", b"ject: one\r\n\r", b"\ntext"):
            await settle()
            stream.append(piece)
        stream.append(b"", isLast=True)
        assert await task == (
            [("Zero", "0"), ("Subject", "one")],
            b"Zero: 0\r\nSubject: one\r\n\r\ntext",
        )

    run(loop, test())


def test_of_two_tasks_one_reads(loop: asyncio.AbstractEventLoop) -> None:
    async def test() -> None:
        stream = MessageStream()
        first = asyncio.ensure_future(iterate(stream))
        second = asyncio.ensure_future(iterate(stream))
        with pytest.raises(RuntimeError, match="one reader at a time"):
            await second
        stream.append(b"text", isLast=True)
        assert await first == b"text"

    run(loop, test())


@pytest.mark.parametrize("deed", ["stop", "crash"])
def test_a_task_gets_the_result_of_its_consumer(loop: asyncio.AbstractEventLoop, deed: str) -> None:
    async def test() -> None:
        stream = MessageStream()

        def doing() -> None:
            if deed == "stop":
                stream.stopProducing()
            else:
                raise OSError

        stream.append(b"text")
        with pytest.raises(ConsumerStopped if deed == "stop" else OSError):
            await stream.deliverTo(Consumer(doing))  # type: ignore[arg-type]

    run(loop, test())


def test_a_task_may_have_twisted_read_for_it(loop: asyncio.AbstractEventLoop) -> None:
    async def test() -> None:
        stream = MessageStream()
        reading = ensureDeferred(toConsumer(stream)).asFuture(loop)
        await settle()
        stream.append(b"text", isLast=True)
        assert await reading == b"text"
        stream = MessageStream()
        reading = ensureDeferred(iterate(stream)).asFuture(loop)
        for piece in (b"a", b"b"):
            await settle()
            stream.append(piece)
        stream.fail(Failure(ConnectionLost()))
        with pytest.raises(ConnectionLost):
            await reading

    run(loop, test())
