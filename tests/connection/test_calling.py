"""How a hook is called, and what its answer comes to."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs

from smtphooks import SMTPError
from smtphooks.connection.calling import HookCaller, PendingAnswer
from smtphooks.hooks import asyncioHook
from tests.conftest import Logged
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, callHook, connect

pytestmark = pytest.mark.usefixtures("logged")


@pytest.mark.parametrize("result", [None, "text", 5])
def test_a_plain_value_needs_no_deferred(result: object) -> None:
    assert callHook(lambda: result, ()) is result


def test_a_deferred_keeps_its_result() -> None:
    """So that a look-up that is remembered gives the next client the same answer."""
    pending: Deferred[str] = Deferred()
    first, second = (callHook(lambda: pending, ()) for _ in range(2))
    assert type(first) is PendingAnswer
    pending.callback("text")
    assert first.result == second.result == callHook(lambda: pending, ()) == "text"


# --- asyncio ---
#
# Its loop runs here for as long as a test needs it, as it does below Twisted's asyncio reactor; that reactor is in
# docs/test_programs.py.


async def turns(number: int = 5) -> None:
    """Let the loop do what it has to do."""
    for _ in range(number):
        await asyncio.sleep(0)


def inLoop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test as a task of asyncio."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(test(**given))

    return run


def settled(answer: Any) -> Any:
    """The answer, which must be there."""
    if isinstance(answer, PendingAnswer):
        assert answer.isThere
        return answer.result
    return answer


@inLoop
async def test_a_future_that_is_returned_is_waited_for() -> None:
    future = asyncio.get_running_loop().create_future()
    answer = callHook(lambda: future, ())
    assert not answer.isThere
    future.set_result("text")
    await turns()
    assert answer.result == "text"


@inLoop
async def test_a_coroutine_may_await_a_future_and_sleep() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()

    async def hook() -> str:
        text = await first
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        try:
            await second
        except KeyError:
            text += "; then it failed"
        return str(text)

    answer = callHook(hook, ())
    first.set_result("the first fired")
    second.set_exception(KeyError())
    while not answer.isThere:
        await asyncio.sleep(0.001)
    assert answer.result == "the first fired; then it failed"


@inLoop
async def test_futures_and_deferreds_may_be_awaited_in_turn() -> None:
    future, deferred = asyncio.get_running_loop().create_future(), Deferred[str]()

    async def hook() -> str:
        return str(await future) + await deferred + str(await future)

    answer = callHook(hook, ())
    future.set_result("one ")
    await turns()
    assert not answer.isThere
    deferred.callback("two ")
    assert answer.result == "one two one "


@inLoop
async def test_a_cancelled_hook_cancels_the_future_that_it_awaits() -> None:
    future = asyncio.get_running_loop().create_future()
    seen = []

    async def hook() -> None:
        try:
            await future
        except asyncio.CancelledError:
            seen.append("cleaned up as asyncio does")
            raise

    answer = callHook(hook, ())
    answer.cancel()
    assert answer.result.check(asyncio.CancelledError)
    assert future.cancelled()
    assert seen == ["cleaned up as asyncio does"]
    await turns()


def test_without_the_loop_of_asyncio_the_fault_says_what_to_install() -> None:
    loop = asyncio.new_event_loop()
    future = loop.create_future()

    async def awaits() -> None:
        await future

    @asyncioHook
    async def marked() -> None:
        raise AssertionError("it must not begin")

    for hook in (awaits, marked, lambda: future):
        failure = settled(callHook(hook, ()))
        assert failure.check(RuntimeError)
        assert "asyncioreactor.install()" in str(failure.value)
    loop.close()


def test_what_asyncio_says_without_its_loop_is_explained_in_the_log(logged: Logged) -> None:
    async def onMailFrom(address: Any, session: Any) -> None:
        await asyncio.sleep(1)

    client = connect(onMailFrom=onMailFrom)
    assert client.last(HELLO, MAIL).startswith("451")
    [event] = logged
    assert "asyncioreactor.install()" in str(event["hint"])
    assert logged.takeFailures(RuntimeError)


@asyncioHook
async def usesTimeout(pending: asyncio.Future[str]) -> str:
    """C{asyncio.wait_for} wants a task around it."""
    assert asyncio.current_task() is not None
    return await asyncio.wait_for(pending, 10)


@inLoop
async def test_a_marked_hook_is_a_task() -> None:
    pending = asyncio.get_running_loop().create_future()
    answer = callHook(usesTimeout, (pending,))
    await turns()
    pending.set_result("text")
    await turns(10)
    assert answer.result == "text"


@inLoop
async def test_with_the_option_every_coroutine_is_a_task() -> None:
    pending = asyncio.get_running_loop().create_future()
    hook = usesTimeout.__wrapped__  # type: ignore[attr-defined]
    answer = HookCaller(asyncioHooks=True).call("hook", hook, (pending,))
    await turns()
    pending.set_result("text")
    await turns(10)
    assert answer.result == "text"


@inLoop
async def test_a_cancelled_task_may_clean_up_before_it_ends() -> None:
    pending = asyncio.get_running_loop().create_future()
    cleaned = asyncio.get_running_loop().create_future()

    @asyncioHook
    async def hook() -> None:
        try:
            await pending
        finally:
            await cleaned

    answer = callHook(hook, ())
    await turns()
    answer.cancel()
    await turns()
    assert pending.cancelled()
    assert not answer.isThere
    cleaned.set_result(None)
    await turns()
    assert answer.result.check(asyncio.CancelledError)


@inLoop
async def test_a_task_that_raises_or_returns_an_error_fails() -> None:
    @asyncioHook
    async def raises() -> None:
        raise KeyError

    @asyncioHook
    async def returns() -> Exception:
        return KeyError()

    answers = [callHook(hook, ()) for hook in (raises, returns)]
    await turns()
    assert all(answer.result.check(KeyError) for answer in answers)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks take no context before Python 3.11")
@inLoop
async def test_a_task_has_the_context_of_its_connection() -> None:
    mine: ContextVar[str] = ContextVar("mine", default="nobody's")
    caller = HookCaller()
    seen = []

    @asyncioHook
    async def hook() -> None:
        seen.append(mine.get())
        await asyncio.sleep(0)
        mine.set("set by a task")

    caller.call("plain", lambda: mine.set("set by a function") and None, ())
    caller.call("task", hook, ())
    await turns()
    caller.call("plain", lambda: seen.append(mine.get()), ())
    assert seen == ["set by a function", "set by a task"]
    assert mine.get() == "nobody's"


@inLoop
async def test_tasks_of_a_group_read_a_message() -> None:
    """The whole way: asyncio on the hook's side, the dialogue on the other."""

    @asyncioHook
    async def onData(stream: Any, session: Any) -> str:
        octets = await asyncio.wait_for(asyncio.ensure_future(stream.read()), 10)
        return f"{len(octets)} octets"

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    await turns()
    client.say("Subject: tasks", "", "text", ".")
    await turns(10)
    assert client.replies() == ["250 2.0.0 24 octets"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@inLoop
async def test_a_task_that_wants_to_end_the_process_ends_as_any_other_crash(error: BaseException) -> None:
    @asyncioHook
    async def hook() -> None:
        await asyncio.sleep(0)
        raise error

    answer = callHook(hook, ())
    await turns()
    assert answer.result.check(RuntimeError)
    assert repr(error) in str(answer.result.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no task groups before Python 3.11")
@inLoop
async def test_what_a_task_group_raises_is_taken_for_what_is_in_it() -> None:
    @asyncioHook
    async def onData(stream: Any, session: Any) -> None:
        async def decide() -> None:
            await stream.read()
            raise SMTPError("Not that", 554)

        async with asyncio.TaskGroup() as group:
            group.create_task(decide())

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    await turns()
    client.say("text", ".")
    await turns(10)
    assert client.replies() == ["554 5.6.0 Not that"]
    client.say(MAIL, RCPT, "DATA")
    await turns()
    client.lose()  # which is no crash, and so not logged
    await turns(10)
    assert not client.factory.connections


# --- hooks that hold the reactor ---


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which hooks are measured; hooks move it."""
    now = [0.0]
    monkeypatch.setattr("smtphooks.connection.calling.perf_counter", lambda: now[0])
    return now


def slowly(time: list[float], seconds: float) -> None:
    time[0] += seconds


@pytest.mark.parametrize(("seconds", "isNamed"), [(0.5, False), (0.75, True)])
def test_a_hook_that_holds_the_reactor_is_named(seconds: float, isNamed: bool, time: list[float]) -> None:
    def onMailFrom(address: Any, session: Any) -> None:
        slowly(time, seconds)

    client = connect(onMailFrom=onMailFrom)
    with capturedLogs() as events:
        client.say(HELLO, MAIL)
    named = [(event["hook"], event["milliseconds"], event["peer"]) for event in events if "hook" in event]
    assert named == ([("onMailFrom", 750, "192.0.2.7")] if isNamed else [])


def test_each_step_of_a_coroutine_counts_and_its_waits_do_not(time: list[float]) -> None:
    pending: Deferred[None] = Deferred()

    async def onMailFrom(address: Any, session: Any) -> None:
        slowly(time, 0.4)
        await pending
        slowly(time, 0.4)
        await succeed(None)
        slowly(time, 0.2)

    client = connect(onMailFrom=onMailFrom)
    with capturedLogs() as events:
        client.say(HELLO, MAIL)
        slowly(time, 100)
        pending.callback(None)
    assert [event["milliseconds"] for event in events if "hook" in event] == [600]


def test_a_slow_hook_that_raises_is_named_too(time: list[float], logged: Logged) -> None:
    def onMailFrom(address: Any, session: Any) -> None:
        slowly(time, 1)
        raise SMTPError("No")

    client = connect(onMailFrom=onMailFrom)
    with capturedLogs() as events:
        assert client.last(HELLO, MAIL).startswith("550")
    assert [event["milliseconds"] for event in events if "hook" in event] == [1000]


def test_with_slow_hook_0_none_is_named(time: list[float]) -> None:
    client = connect(slowHook=0, onMailFrom=lambda *_: slowly(time, 1000))
    with capturedLogs() as events:
        client.say(HELLO, MAIL)
    assert not [event for event in events if "hook" in event]


def test_the_steps_of_a_task_are_measured(time: list[float]) -> None:
    named: list[tuple[object, float]] = []

    @asyncioHook
    async def hook() -> None:
        slowly(time, 1)
        await asyncio.sleep(0)

    @inLoop
    async def run() -> None:
        HookCaller(0.5, isSlow=lambda *slow: named.append(slow)).call("onData", hook, ())
        await turns()

    run()
    assert named == [("onData", 1)]
