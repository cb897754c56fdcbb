"""Measuring: a hook is timed until its answer is there, and nothing else about it changes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from smtphooks import Layer, SMTPError, SMTPServerFactory
from smtphooks.connection.calling import HookCaller, PendingAnswer
from smtphooks.connection.measuring import MeasuredHooks, Timed
from tests.conftest import Logged
from tests.support import ENVELOPE, HELLO, Client, makeFactory

MESSAGE = ("DATA", "Subject: x", "", "text", ".")


class Times(list[tuple[str, str, bool]]):
    """An observer that notes the hooks that have ended, and whether by a fault."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def hookEnded(self, hook: str, layer: str, seconds: float, isFault: bool) -> None:
        self.seconds.append(seconds)
        self.append((hook, layer, isFault))

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def observe(**given: Any) -> tuple[Times, Client]:
    times, factory = Times(), makeFactory(**given)
    factory.observe(times)
    return times, Client(factory)


async def answering(value: Any) -> Any:
    return value


async def raising(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    "answer",
    [
        lambda: None,
        lambda: "a text",
        lambda: answering("a text"),
        lambda: succeed("a text"),
        lambda: ["a list"],
    ],
)
def test_an_answer_that_is_there_at_once_is_passed_on(answer: Callable[[], Any]) -> None:
    told: list[bool] = []
    plain = HookCaller().call("hook", answer, ())
    timed = HookCaller().call("hook", Timed("hook", answer, lambda seconds, isFault: told.append(isFault)), ())
    assert timed == plain
    assert told == [False]


@pytest.mark.parametrize(
    "hook",
    [
        lambda error: raising(error),
        lambda error: fail(error),
        lambda error: error,
        lambda error: [].append(next(_raise(error))),  # type: ignore[func-returns-value]
    ],
)
@pytest.mark.parametrize("error, isFault", [(SMTPError("No"), False), (ValueError("a bug"), True)])
def test_what_is_raised_is_passed_on_and_told(hook: Callable[..., Any], error: Exception, isFault: bool) -> None:
    told: list[bool] = []
    answer = HookCaller().call("hook", Timed("hook", hook, lambda seconds, isFault: told.append(isFault)), (error,))
    assert answer.value is error
    assert told == [isFault]


def _raise(error: Exception) -> Any:
    raise error
    yield


def test_a_hook_that_waits_is_timed_until_its_answer_is_there() -> None:
    told: list[bool] = []
    waiting: Deferred[str] = Deferred()
    answer = HookCaller().call("hook", Timed("hook", lambda: waiting, lambda *of: told.append(of[1])), ())
    assert type(answer) is PendingAnswer
    assert told == []
    waiting.callback("late")
    assert (answer.result, told) == ("late", [False])


def test_a_hook_that_is_cancelled_is_no_fault() -> None:
    told: list[bool] = []
    cancelled: list[object] = []
    waiting: Deferred[str] = Deferred(cancelled.append)
    answer = HookCaller().call("hook", Timed("hook", lambda: waiting, lambda *of: told.append(of[1])), ())
    answer.cancel()
    assert cancelled == [waiting]
    assert answer.result.check(CancelledError)
    assert told == [False]


def test_a_hook_that_does_not_end_when_it_is_cancelled_is_told_then_and_once() -> None:
    told: list[bool] = []
    waiting: Deferred[str] = Deferred()

    async def regardless() -> str | None:
        while True:
            try:
                return await waiting
            except CancelledError:
                await going

    going: Deferred[None] = Deferred()
    answer = HookCaller().call("hook", Timed("hook", regardless, lambda *of: told.append(of[1])), ())
    answer.cancel()
    assert not answer.isThere
    assert told == [False]
    going.errback(ValueError("late"))
    assert answer.isThere
    assert told == [False]


def test_the_time_is_that_which_passed() -> None:
    began = time.perf_counter()
    times, client = observe(onHelo=lambda hostname, session: None)
    client.say(HELLO)
    assert 0 <= times.seconds[0] <= time.perf_counter() - began


class Gate:
    def onRcptTo(self, address: Any, session: Any) -> None:
        raise SMTPError("No")


class Box:
    async def onRcptTo(self, address: Any, session: Any) -> None: ...

    async def filterData(self, stream: Any, session: Any) -> AsyncIterator[bytes]:
        async for octets in stream:
            yield octets.upper()

    async def inspectData(self, stream: Any, session: Any) -> None:
        await stream.read()

    async def onData(self, stream: Any, session: Any) -> str:
        return (await stream.read()).decode().split()[-1]  # type: ignore[no-any-return]


def test_a_hook_of_the_only_layer_has_the_name_of_the_layer() -> None:
    times, client = observe(hooks=Gate())
    client.say(*ENVELOPE)
    assert times == [("onRcptTo", "Gate", False)]


def test_a_hook_without_a_layer_has_no_name_of_one() -> None:
    times, client = observe(onRcptTo=lambda address, session: None)
    client.say(*ENVELOPE)
    assert times == [("onRcptTo", "", False)]


def test_the_layers_of_a_chain_are_timed_one_by_one_as_far_as_they_are_asked() -> None:
    times, client = observe(hooks=[Box(), Layer(Gate(), name="first"), Layer(Gate(), name="second")])
    client.say(*ENVELOPE)
    assert times == [("onRcptTo", "Box", False), ("onRcptTo", "first", False)]


def test_the_log_still_names_the_layer_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    refusers: list[str] = []

    class Refusals(Times):
        def refused(self, by: str, verb: str) -> None:
            refusers.append(by)

    class Other:
        def onMailFrom(self, address: Any, session: Any) -> None: ...

        def onData(self, stream: Any, session: Any) -> None: ...

    factory = makeFactory(hooks=[Gate(), Other()])
    factory.observe(Refusals())
    Client(factory).say(*ENVELOPE)
    assert refusers == ["onRcptTo of Gate"]


def test_what_a_message_goes_through_is_timed_and_does_what_it_did() -> None:
    times, client = observe(hooks=[Box()])
    assert client.last(*ENVELOPE, *MESSAGE) == "250 2.0.0 TEXT"
    assert sorted(times) == [(hook, "Box", False) for hook in ("filterData", "inspectData", "onData", "onRcptTo")]


def test_a_filter_that_fails_is_a_fault_of_its_own(logged: Logged) -> None:
    class Broken:
        async def filterData(self, stream: Any, session: Any) -> AsyncIterator[bytes]:
            async for octets in stream:
                yield octets
            raise ZeroDivisionError

    class Store:
        async def onData(self, stream: Any, session: Any) -> None:
            await stream.read()

    times, client = observe(hooks=[Broken(), Store()])
    assert client.last(*ENVELOPE, *MESSAGE).startswith("451")
    assert logged.takeFailures(ZeroDivisionError)
    assert sorted(times) == [("filterData", "Broken", True), ("onData", "Store", False)]


def test_a_filter_that_is_no_generator_is_named_as_before(logged: Logged) -> None:
    class Wrong:
        async def filterData(self, stream: Any, session: Any) -> None: ...

        async def onData(self, stream: Any, session: Any) -> None:
            await stream.read()

    _, client = observe(hooks=[Wrong()])
    assert client.last(*ENVELOPE, *MESSAGE).startswith("451")
    (failure,) = logged.takeFailures(TypeError)
    assert "filterData of Wrong answered" in failure.getErrorMessage()


def test_a_filter_that_is_not_read_to_its_end_is_told_as_well() -> None:
    class Refusing:
        async def onData(self, stream: Any, session: Any) -> None:
            await stream.more()
            raise SMTPError("No")

    class Passing:
        async def filterData(self, stream: Any, session: Any) -> AsyncIterator[bytes]:
            async for octets in stream:
                yield octets

    times, client = observe(hooks=[Passing(), Refusing()])
    client.say(*ENVELOPE, "DATA", "x" * 998)
    assert sorted(times) == [("filterData", "Passing", False), ("onData", "Refusing", False)]


def test_a_chain_that_crashes_has_its_hook_for_errors_timed_too(logged: Logged) -> None:
    class Crashing:
        async def onRcptTo(self, address: Any, session: Any) -> None:
            raise ZeroDivisionError

        def onError(self, failure: Any, session: Any) -> None: ...

    times, client = observe(hooks=[Box(), Crashing()])
    client.say(*ENVELOPE)
    assert logged.takeFailures(ZeroDivisionError)
    assert sorted(times) == [
        ("onError", "Crashing", False),
        ("onRcptTo", "Box", False),
        ("onRcptTo", "Crashing", True),
    ]


def test_a_method_of_the_factory_is_the_same_hook_at_each_look() -> None:
    class Factory(SMTPServerFactory):
        def onHelo(self, hostname: str, session: Any) -> None: ...  # type: ignore[override]

    measured = MeasuredHooks(Factory(authOptional=True), Times())
    assert measured.onHelo is measured.onHelo


def test_a_hook_is_looked_up_for_each_event() -> None:
    times, client = observe()
    client.say(HELLO)
    client.factory.onVrfy = lambda text, session: "first"
    assert client.say("VRFY x") == ["250 2.1.5 first"]
    client.factory.onVrfy = lambda text, session: "second"
    assert client.say("VRFY x") == ["250 2.1.5 second"]
    client.factory.onVrfy = None
    assert client.say("VRFY x")[0].startswith("252")
    assert times == [("onVrfy", "", False)] * 2


def test_everything_else_is_the_factorys_own() -> None:
    factory = makeFactory(hooks=Gate())
    measured = MeasuredHooks(factory, Times())
    assert measured.layers is factory.layers
    assert measured.passage is None
    assert measured.onRcptTo == factory.onRcptTo
    assert measured.onRcptTo is measured.onRcptTo
