"""onStart and onStop: in which order, how often, how long, and what becomes of their failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from smtphooks import Layer, SMTPError, SMTPServerFactory
from smtphooks.service.lifecycle import Lifecycle, StartFailed

SERVICE = object()


class Part:
    """An object of hooks that writes down what it is called."""

    def __init__(self, name: str, calls: list[str], onStart: Any = None, onStop: Any = None) -> None:
        self.name = name
        self.calls = calls
        self.answers = {"start": onStart, "stop": onStop}
        self.services: list[object] = []

    def __eq__(self, other: object) -> bool:
        """Objects of hooks need be neither hashable nor different from others."""
        return True

    __hash__ = None  # type: ignore[assignment]

    def _call(self, what: str, service: object) -> Any:
        self.calls.append(f"{what} {self.name}")
        self.services.append(service)
        answer = self.answers[what]
        return answer() if callable(answer) else answer

    def onConnect(self, session: Any) -> None: ...

    def onStart(self, service: object) -> Any:
        return self._call("start", service)

    def onStop(self, service: object) -> Any:
        return self._call("stop", service)


class Store:
    def onData(self, stream: Any, session: Any) -> None: ...


def raising(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events() -> Iterator[list[LogEvent]]:
    found: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"] == "smtphooks.service.lifecycle":
            found.append(event)

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def factoryOf(clock: Clock, *parts: object, **options: Any) -> SMTPServerFactory:
    layers = [Layer(part, name=getattr(part, "name", "store")) for part in parts]
    factory = SMTPServerFactory(hooks=[*layers, Store()], **options)
    factory.clock = clock
    return factory


class Life:
    """A lifecycle, and what has become of its start."""

    def __init__(self, *factories: SMTPServerFactory, service: object = SERVICE) -> None:
        self.lifecycle = Lifecycle(factories)
        self.service = service
        self.wentOn = 0
        self.failures: list[Failure] = []

    def start(self, goOn: Callable[[], object] = lambda: None) -> None:
        def went() -> None:
            self.wentOn += 1
            goOn()

        self.lifecycle.start(self.service, went, self.failures.append)

    def stop(self) -> list[Any]:
        results: list[Any] = []
        self.lifecycle.closing()
        self.lifecycle.stop(self.service).addBoth(results.append)
        return results


# --- order ---


def test_objects_are_started_in_the_order_of_layers_and_stopped_in_the_reverse(calls: list[str], clock: Clock) -> None:
    parts = [Part(name, calls) for name in "abc"]
    life = Life(factoryOf(clock, *parts))
    life.start()
    assert (calls, life.wentOn, life.lifecycle.isStarting) == (["start a", "start b", "start c"], 1, False)
    assert life.stop() == [None]
    assert calls[3:] == ["stop c", "stop b", "stop a"]
    assert all(part.services == [SERVICE, SERVICE] for part in parts)


def test_each_is_waited_for_before_the_next(calls: list[str], clock: Clock) -> None:
    starting: Deferred[None] = Deferred()
    stopping: Deferred[None] = Deferred()
    life = Life(factoryOf(clock, Part("a", calls), Part("b", calls, starting, stopping), Part("c", calls)))
    life.start()
    assert (calls, life.wentOn, life.lifecycle.isStarting) == (["start a", "start b"], 0, True)
    starting.callback(None)
    assert (calls[2:], life.wentOn, life.lifecycle.isStarting) == (["start c"], 1, False)
    stopped = life.stop()
    assert (calls[3:], stopped) == (["stop c", "stop b"], [])
    stopping.callback(None)
    assert (calls[5:], stopped) == (["stop a"], [None])


def test_coroutines_are_awaited(calls: list[str], clock: Clock) -> None:
    waits: list[Deferred[None]] = [Deferred(), Deferred()]

    async def wait(number: int) -> None:
        await waits[number]
        calls.append(f"waited {number}")

    life = Life(factoryOf(clock, Part("a", calls, lambda: wait(0), lambda: wait(1))))
    life.start()
    waits[0].callback(None)
    assert (calls, life.wentOn) == (["start a", "waited 0"], 1)
    stopped = life.stop()
    waits[1].callback(None)
    assert (calls[2:], stopped) == (["stop a", "waited 1"], [None])


def test_an_object_that_several_factories_and_layers_have_is_started_once(calls: list[str], clock: Clock) -> None:
    one, other = Part("a", calls), Part("b", calls)
    life = Life(factoryOf(clock, one, other, one), factoryOf(clock, other, one))
    life.start()
    life.stop()
    assert calls == ["start a", "start b", "stop b", "stop a"]


def test_an_object_that_several_services_have_is_stopped_with_the_last_of_them(calls: list[str], clock: Clock) -> None:
    part = Part("a", calls)
    one, other = Life(factoryOf(clock, part)), Life(factoryOf(clock, part), service="other")
    one.start()
    other.start()
    assert (calls, one.wentOn, other.wentOn) == (["start a"], 1, 1)
    assert one.stop() == [None]
    assert calls == ["start a"]
    assert other.stop() == [None]
    assert (calls, part.services) == (["start a", "stop a"], [SERVICE, "other"])


def test_services_wait_for_one_start(calls: list[str], clock: Clock) -> None:
    starting: Deferred[None] = Deferred()
    part = Part("a", calls, starting)
    one, other, third = (Life(factoryOf(clock, part)) for _ in range(3))
    for life in (one, other, third):
        life.start()
    third.stop()
    assert (calls, one.wentOn, other.wentOn) == (["start a"], 0, 0)
    starting.callback(None)
    assert (one.wentOn, other.wentOn, third.wentOn) == (1, 1, 0)
    one.stop()
    assert calls == ["start a"]
    other.stop()
    assert calls == ["start a", "stop a"]


def test_all_can_be_started_again(calls: list[str], clock: Clock) -> None:
    life = Life(factoryOf(clock, Part("a", calls)))
    for _ in range(2):
        life.start()
        life.stop()
    assert calls == ["start a", "stop a"] * 2
    assert life.wentOn == 2


def test_one_of_the_two_is_enough(clock: Clock) -> None:
    called: list[object] = []

    class Starting(Store):
        onStart = called.append

    class Stopping:
        onStop = called.append

        def onConnect(self, session: Any) -> None: ...

    factory = SMTPServerFactory(hooks=[Stopping(), Starting()])
    factory.clock = clock
    life = Life(factory)
    life.start()
    life.stop()
    assert called == [SERVICE, SERVICE]


def test_a_single_object_of_hooks_has_a_life_too(calls: list[str], clock: Clock) -> None:
    factory = SMTPServerFactory(hooks=Part("a", calls))
    life = Life(factory)
    life.start()
    assert calls == ["start a"]


# --- a start that fails ---


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (raising(OSError("no such host")), "OSError: no such host"),
        (raising(SMTPError("not today", 451)), "SMTPError: not today"),
        (lambda: ValueError("returned"), "ValueError: returned"),
        (raising(SystemExit(3)), "RuntimeError: it raised SystemExit(3)"),
    ],
)
def test_a_failure_that_is_known_at_once_is_raised_and_the_others_are_stopped(
    calls: list[str], clock: Clock, answer: Any, cause: str
) -> None:
    life = Life(factoryOf(clock, Part("a", calls), Part("b", calls), Part("c", calls, answer), Part("d", calls)))
    with pytest.raises(StartFailed) as caught:
        life.start()
    assert str(caught.value) == f"layer c cannot start: {cause}"
    assert caught.value.layer == "c"
    assert caught.value.__cause__ is not None and cause.startswith(type(caught.value.__cause__).__name__)
    assert calls == ["start a", "start b", "start c", "stop b", "stop a"]
    assert (life.wentOn, life.failures, life.lifecycle.isStarting) == (0, [], False)
    life.stop()
    assert len(calls) == 5


def test_a_later_failure_is_told_when_the_others_have_been_stopped(calls: list[str], clock: Clock) -> None:
    starting: Deferred[None] = Deferred()
    stopping: Deferred[None] = Deferred()
    life = Life(factoryOf(clock, Part("a", calls, None, stopping), Part("b", calls, starting)))
    life.start()
    starting.errback(OSError("late"))
    assert (calls, life.failures) == (["start a", "start b", "stop a"], [])
    assert life.lifecycle.isStarting
    stopping.callback(None)
    (failure,) = life.failures
    assert str(failure.value) == "layer b cannot start: OSError: late"
    assert (life.wentOn, life.lifecycle.isStarting) == (0, False)


def test_a_failure_at_once_is_told_later_if_a_stop_has_to_be_waited_for(calls: list[str], clock: Clock) -> None:
    stopping: Deferred[None] = Deferred()
    life = Life(factoryOf(clock, Part("a", calls, None, stopping), Part("b", calls, raising(OSError("now")))))
    life.start()
    assert life.failures == []
    stopping.callback(None)
    assert str(life.failures[0].value) == "layer b cannot start: OSError: now"


def test_a_start_that_fails_can_be_tried_again(calls: list[str], clock: Clock) -> None:
    part = Part("a", calls, raising(OSError("no")))
    life = Life(factoryOf(clock, part))
    for _ in range(2):
        with pytest.raises(StartFailed):
            life.start()
    part.answers["start"] = None
    life.start()
    assert (calls, life.wentOn) == (["start a"] * 3, 1)


def test_what_follows_may_fail_at_once(calls: list[str], clock: Clock) -> None:
    life = Life(factoryOf(clock, Part("a", calls)))
    with pytest.raises(OSError, match="port"):
        life.start(raising(OSError("port")))
    assert calls == ["start a", "stop a"]
    assert life.failures == []


def test_what_follows_may_fail_later(calls: list[str], clock: Clock) -> None:
    starting: Deferred[None] = Deferred()
    life = Life(factoryOf(clock, Part("a", calls, starting)))
    life.start(raising(OSError("port")))
    starting.callback(None)
    assert str(life.failures[0].value) == "port"
    life.stop()
    assert calls == ["start a", "stop a"]


# --- a stop while it starts ---


def test_a_pending_start_is_cancelled_and_nothing_follows(
    calls: list[str], clock: Clock, events: list[LogEvent]
) -> None:
    cancelled: list[object] = []
    life = Life(factoryOf(clock, Part("a", calls), Part("b", calls, Deferred(cancelled.append)), Part("c", calls)))
    life.start()
    assert life.stop() == [None]
    assert len(cancelled) == 1
    assert calls == ["start a", "start b", "stop a"]
    assert (life.wentOn, life.failures, life.lifecycle.isStarting, events) == (0, [], False, [])


def test_a_coroutine_that_goes_on_regardless_is_not_waited_for(calls: list[str], clock: Clock) -> None:
    waits: list[Deferred[None]] = [Deferred(), Deferred()]

    async def wait() -> None:
        try:
            await waits[0]
        except CancelledError:
            await waits[1]

    life = Life(factoryOf(clock, Part("a", calls, wait)))
    life.start()
    assert life.stop() == [None]
    waits[1].callback(None)
    assert waits[1].result is None  # and no failure of what comes after it
    assert (life.wentOn, life.failures) == (0, [])


# --- a stop that fails or hangs ---


def test_one_that_cannot_stop_is_logged_and_the_others_are_stopped(
    calls: list[str], clock: Clock, events: list[LogEvent]
) -> None:
    life = Life(factoryOf(clock, Part("a", calls), Part("b", calls, None, raising(OSError("odd"))), Part("c", calls)))
    life.start()
    assert life.stop() == [None]
    assert calls[3:] == ["stop c", "stop b", "stop a"]
    (event,) = events
    assert formatEvent(event) == "layer b cannot stop"
    assert str(event["log_failure"].value) == "odd"


@pytest.mark.parametrize(("closeTimeout", "patience"), [(30, 30), (0.5, 3)])
def test_they_have_the_time_of_closeTimeout_together_but_three_seconds_at_least(
    calls: list[str], clock: Clock, events: list[LogEvent], closeTimeout: float, patience: float
) -> None:
    parts = [Part("a", calls, None, Deferred()), Part("b", calls, None, Deferred())]
    life = Life(factoryOf(clock, *parts, closeTimeout=closeTimeout))
    life.start()
    stopped = life.stop()
    clock.advance(patience - 0.25)
    assert (calls[2:], stopped) == (["stop b"], [])
    clock.advance(0.25)
    assert calls[2:] == ["stop b", "stop a"]
    clock.advance(0)
    assert stopped == [None]
    assert [formatEvent(event) for event in events] == [f"layer {name} takes too long to stop" for name in "ba"]


def test_what_the_connections_have_taken_of_that_time_is_gone(calls: list[str], clock: Clock) -> None:
    life = Life(factoryOf(clock, Part("a", calls, None, Deferred()), closeTimeout=30))
    life.start()
    life.lifecycle.closing()
    clock.advance(20)
    stopped = life.lifecycle.stop(SERVICE)
    clock.advance(9)
    assert not stopped.called
    clock.advance(1)
    assert stopped.called


def test_without_closeTimeout_they_have_all_the_time(calls: list[str], clock: Clock) -> None:
    stopping: Deferred[None] = Deferred()
    life = Life(factoryOf(clock, Part("a", calls, None, stopping), closeTimeout=0), factoryOf(clock, closeTimeout=5))
    life.start()
    stopped = life.stop()
    assert (clock.getDelayedCalls(), stopped) == ([], [])
    stopping.callback(None)
    assert stopped == [None]


def test_nothing_is_left_to_time_when_all_have_stopped(calls: list[str], clock: Clock) -> None:
    life = Life(factoryOf(clock, Part("a", calls, None, lambda: succeed(None))))
    life.start()
    life.stop()
    assert clock.getDelayedCalls() == []
