"""The chain: one hook of several layers, asked in order, where only an agreement of all accepts."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.logger import capturedLogs, eventAsText
from twisted.python.failure import Failure

from smtphooks import AuthResponse, Layer, SMTPError
from tests.conftest import Logged
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Client, Diary, Pending, connect

pytestmark = pytest.mark.usefixtures("logged")


class Store:
    """The delivery."""

    def onData(self, stream: Any, session: Any) -> None: ...


def layer(name: str = "Layer", **hooks: Callable[..., Any]) -> Any:
    """An object of hooks, whose class has this name."""
    return type(name, (), {hook: staticmethod(function) for hook, function in hooks.items()})()


def chained(hook: str, *functions: Callable[..., Any], **given: Any) -> Client:
    """A client of a server where each function is the hook of a layer A, B, C…"""
    layers = [layer(name, **{hook: function}) for name, function in zip("ABCDEF", functions, strict=False)]
    return connect(hooks=[*layers, Store()], **given)


# --- all are asked, in order ---


def test_every_layer_is_asked_in_order_and_the_last_text_is_the_reply() -> None:
    diary = Diary()
    client = chained("onRcptTo", diary.hook("A", "one"), diary.hook("B"), diary.hook("C", "three"), diary.hook("D"))
    assert client.last(*ENVELOPE) == "250 2.1.5 three"
    assert diary == ["A", "B", "C", "D"]


def test_a_refusal_ends_the_chain() -> None:
    diary = Diary()

    def refuse(*arguments: Any) -> None:
        raise SMTPError("not here", 550)

    client = chained("onRcptTo", diary.hook("A", "yes"), refuse, diary.hook("C", "yes"))
    assert client.last(*ENVELOPE) == "550 5.1.1 not here"
    assert diary == ["A"]


@pytest.mark.parametrize("yes", ["OK", None, True, 5, "accepted by the first"])
def test_no_yes_lets_anything_past_a_later_layer(yes: Any) -> None:
    def refuse(*arguments: Any) -> None:
        raise SMTPError("no", 550)

    client = chained("onRcptTo", lambda *arguments: yes, refuse)
    assert client.last(*ENVELOPE).startswith("550")


KINDS: dict[str, Callable[[Any], Any]] = {}


def kind(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    KINDS[make.__name__] = make
    return make


def said(result: Any) -> Any:
    if isinstance(result, BaseException):
        raise result
    return result


@kind
def plain(result: Any) -> Any:
    return lambda *arguments: said(result)


@kind
def coroutine(result: Any) -> Any:
    async def hook(*arguments: Any) -> Any:
        return said(result)

    return hook


@kind
def waitingCoroutine(result: Any) -> Any:
    async def hook(*arguments: Any) -> Any:
        await succeed(None)
        return said(result)

    return hook


@kind
def deferred(result: Any) -> Any:
    def hook(*arguments: Any) -> Any:
        answer: Deferred[Any] = Deferred()
        answer.addCallback(lambda _: said(result))
        answer.callback(None)
        return answer

    return hook


@kind
def generator(result: Any) -> Any:
    @inlineCallbacks
    def hook(*arguments: Any) -> Any:
        yield succeed(None)
        return said(result)

    return hook


@kind
def returned(result: Any) -> Any:
    return lambda *arguments: result


ANSWERS = [None, "text", SMTPError("no", 550), ValueError("crash"), False]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layers=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, len(ANSWERS) - 1)), min_size=2, max_size=6)
)
def test_the_first_that_does_not_agree_decides_however_the_layers_answer(
    layers: list[tuple[str, int]], logged: Logged
) -> None:
    asked: list[int] = []

    def hookOf(number: int, made: Any) -> Any:
        def hook(*arguments: Any) -> Any:
            asked.append(number)
            return made(*arguments)

        return hook

    hooks = [hookOf(number, KINDS[name](ANSWERS[answer])) for number, (name, answer) in enumerate(layers)]
    reply = chained("onRcptTo", *hooks).last(*ENVELOPE)
    answers = [ANSWERS[answer] for _, answer in layers]
    end = next((number for number, answer in enumerate(answers) if answer not in (None, "text")), None)
    assert asked == list(range(len(layers) if end is None else end + 1))
    if end is not None and not isinstance(answers[end], SMTPError):
        assert len(logged.takeFailures(TypeError if answers[end] is False else ValueError)) == 1
    if end is None:
        assert reply == ("250 2.1.5 text" if "text" in answers else "250 2.1.5 Recipient OK")
    else:
        assert reply.startswith("550 5.1.1 no" if isinstance(answers[end], SMTPError) else "451 4.3.0")


def test_a_pending_layer_holds_back_those_behind_it_and_the_replies() -> None:
    pending, diary = Pending(), Diary()
    client = chained("onRcptTo", diary.hook("A"), pending, diary.hook("C", "welcome"))
    assert client.codes() == [220]
    client.say(HELLO)
    assert client.say(MAIL, RCPT, "NOOP") == ["250 2.1.0 Sender OK"]
    assert diary == ["A"]
    pending.decide()
    assert diary == ["A", "C"]
    assert client.replies() == ["250 2.1.5 welcome", "250 2.0.0 OK"]


def test_several_layers_may_wait_one_after_the_other() -> None:
    first, second = Pending(), Pending()
    client = chained("onRcptTo", first, second)
    client.say(*ENVELOPE)
    first.decide("one")
    assert not client.replies()
    second.decide()
    assert client.replies() == ["250 2.1.5 one"]


def test_a_long_chain_of_layers_that_answer_at_once_needs_no_depth() -> None:
    layers = [layer(onRcptTo=waitingCoroutine(None)) for _ in range(3000)]
    assert connect(hooks=[*layers, Store()]).last(*ENVELOPE).startswith("250")


# --- onAuth ---

AUTH = "AUTH PLAIN AGFubgBwZW5jaWw="


@pytest.mark.parametrize(
    "answers, code, asked",
    [
        ((None, "ann"), 235, 2),
        (("ann", None), 235, 1),
        ((AuthResponse(user=None), "ann"), 535, 1),
        ((False, "ann"), 535, 1),
        (("", "ann"), 535, 1),
        ((None, None), 535, 2),
        ((SMTPError("no", 454), "ann"), 454, 1),
        ((ValueError("crash"), "ann"), 451, 1),
        ((None, AuthResponse(user="ann")), 235, 2),
    ],
)
@pytest.mark.parametrize("make", KINDS)
def test_the_first_layer_that_answers_something_decides_on_auth(
    make: str, answers: Any, code: int, asked: int, logged: Logged
) -> None:
    calls: list[int] = []

    def hookOf(made: Any) -> Any:
        def hook(*arguments: Any) -> Any:
            calls.append(1)
            return made(*arguments)

        return hook

    client = chained("onAuth", *[hookOf(KINDS[make](answer)) for answer in answers], allowInsecureAuth=True)
    client.say(HELLO)
    client.feed(f"{AUTH}\r\n".encode())
    client.clock.advance(10)
    assert client.codes() == [code]
    assert len(calls) == asked
    logged.takeFailures(ValueError)


# --- faults ---


def test_a_fault_names_the_layer_and_reaches_onError(logged: Logged) -> None:
    told: list[Any] = []
    client = connect(
        hooks=[
            layer(
                "First", onRcptTo=lambda *arguments: None, onError=lambda failure, session: told.append(failure.value)
            ),
            layer("Greylist", onRcptTo=plain(ValueError("database is gone"))),
            Store(),
        ]
    )
    with capturedLogs() as events:
        assert client.last(*ENVELOPE).startswith("451 4.3.0")
    assert any("hook onRcptTo of Greylist crashed" in eventAsText(event) for event in events)
    assert [str(error) for error in told] == ["database is gone"]
    assert len(logged.takeFailures(ValueError)) == 1


def test_a_hook_that_one_layer_has_is_its_own_method_and_its_fault_names_it(logged: Logged) -> None:
    class Recipients:
        def onRcptTo(self, address: Any, session: Any) -> None:
            raise ValueError("crash")

    recipients = Recipients()
    client = connect(hooks=[recipients, Store()])
    assert client.factory.onRcptTo == recipients.onRcptTo
    with capturedLogs() as events:
        client.last(*ENVELOPE)
    assert any("hook onRcptTo of Recipients crashed" in eventAsText(event) for event in events)
    logged.takeFailures(ValueError)


@pytest.mark.parametrize("make", KINDS)
def test_a_fault_of_a_layer_that_may_fail_passes_and_is_logged(make: str, logged: Logged) -> None:
    faulty = Layer(layer("Greylist", onRcptTo=KINDS[make](ValueError("crash"))), onFault="pass")
    client = connect(hooks=[layer(onRcptTo=plain("welcome")), faulty, Store()])
    assert client.last(*ENVELOPE) == "250 2.1.5 welcome"
    assert len(logged.takeFailures(ValueError)) == 1


@pytest.mark.parametrize("make", KINDS)
def test_a_refusal_of_a_layer_that_may_fail_refuses(make: str) -> None:
    refusing = Layer(layer(onRcptTo=KINDS[make](SMTPError("no", 550))), onFault="pass")
    assert connect(hooks=[refusing, Store()]).last(*ENVELOPE).startswith("550")


def test_the_refusal_in_the_log_names_the_layer() -> None:
    client = chained("onRcptTo", plain(None), plain(SMTPError("no", 550)))
    with capturedLogs() as events:
        client.last(*ENVELOPE)
    assert [event["by"] for event in events if event.get("verb") == "RCPT"] == ["onRcptTo of B"]


def test_layers_that_are_only_told_are_all_told_whatever_one_of_them_raises(logged: Logged) -> None:
    diary = Diary()
    client = chained(
        "onClose", plain(ValueError("crash")), diary.hook("B"), waitingCoroutine(SMTPError("no")), diary.hook("D")
    )
    client.lose()
    assert diary == ["B", "D"]
    assert len(logged.takeFailures(ValueError)) == 1
    assert len(logged.takeFailures(SMTPError)) == 1


def test_a_crash_of_onError_is_logged_once_and_tells_nobody(logged: Logged) -> None:
    diary = Diary()
    client = connect(
        hooks=[
            layer("A", onError=plain(ValueError("worse")), onRcptTo=plain(KeyError("crash"))),
            layer("B", onError=diary.hook("B")),
            Store(),
        ]
    )
    client.last(*ENVELOPE)
    assert diary == ["B"]
    assert len(logged.takeFailures(KeyError)) == len(logged.takeFailures(ValueError)) == 1


def test_onError_of_all_layers_is_told_of_what_went_wrong_before_there_was_a_session(logged: Logged) -> None:
    told: list[Any] = []

    async def note(failure: Any, session: Any) -> None:
        await succeed(None)
        told.append((failure.value, session))

    error = ValueError("no TLS here")
    client = chained("onError", note, plain(KeyError("crash")), note)
    client.factory.server.reportError(Failure(error))
    assert told == [(error, None), (error, None)]
    assert len(logged.takeFailures(KeyError)) == 1


def test_a_layer_that_holds_the_reactor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.9, 1.0, *[1.0] * 100])
    client = chained("onRcptTo", plain(None), plain(None), plain(None), slowHook=0.5)
    client.say(HELLO, MAIL)
    monkeypatch.setattr("smtphooks.connection.chain.perf_counter", lambda: next(ticks))
    ticks = iter([0.0, 0.1, 0.9, 1.0])
    chain: Any = client.factory.onRcptTo
    chain(None, client.session)
    assert chain.slowest == "onRcptTo of B"


# --- time ---


def test_a_layer_that_takes_longer_than_its_own_limit_is_cancelled_and_named() -> None:
    pending, diary = Pending(), Diary()
    slow = Layer(layer("DNSLists", onRcptTo=pending), hookTimeout=3)
    client = connect(hooks=[slow, layer("B", onRcptTo=diary.hook("B")), Store()])
    client.say(*ENVELOPE)
    client.clock.advance(2.9)
    assert not client.replies()
    with capturedLogs() as events:
        client.clock.advance(0.2)
    assert client.codes() == [451]
    assert (pending.cancelled, diary) == (1, [])
    assert any("hook onRcptTo of DNSLists took too long" in eventAsText(event) for event in events)


def test_a_layer_that_may_fail_is_passed_over_when_its_time_is_up() -> None:
    pending = Pending()
    slow = Layer(layer("DNSLists", onRcptTo=pending), hookTimeout=3, onFault="pass")
    client = connect(hooks=[slow, layer("B", onRcptTo=plain("welcome")), Store()])
    client.say(*ENVELOPE)
    client.clock.advance(3)
    assert client.replies()[-1] == "250 2.1.5 welcome"


def test_each_layer_has_its_own_time() -> None:
    first, second = Pending(), Pending()
    client = connect(
        hooks=[
            Layer(layer("A", onRcptTo=first), hookTimeout=3),
            Layer(layer("B", onRcptTo=second), hookTimeout=3),
            Store(),
        ]
    )
    client.say(*ENVELOPE)
    client.clock.advance(2)
    first.decide()
    client.clock.advance(2)
    assert not client.replies()
    second.decide("fine")
    assert client.replies() == ["250 2.1.5 fine"]
    assert all(call.func.__name__ != "_timeOut" for call in client.clock.getDelayedCalls())


def test_the_option_limits_the_chain_and_names_the_layer_that_is_waited_for() -> None:
    first, second = Pending(), Pending()
    client = chained("onRcptTo", first, second, hookTimeout=5)
    client.say(*ENVELOPE)
    first.decide()
    with capturedLogs() as events:
        client.clock.advance(6)
    assert client.codes() == [451]
    assert second.cancelled == 1
    assert any("hook onRcptTo of B took too long" in eventAsText(event) for event in events)


# --- cancellation and context ---


def test_a_lost_connection_cancels_the_layer_that_is_waited_for_and_asks_no_other() -> None:
    ended: list[str] = []

    async def clean(*arguments: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            ended.append("cancelled")
            # It may still answer; nobody listens.

    diary = Diary()
    client = connect(
        hooks=[layer("A", onRcptTo=clean, onClose=diary.hook("close")), layer("B", onRcptTo=diary.hook("B")), Store()]
    )
    client.say(*ENVELOPE)
    client.lose()
    assert (ended, diary) == (["cancelled"], ["close"])


def test_onClose_waits_until_a_cancelled_layer_has_ended() -> None:
    cleaning: Deferred[None] = Deferred()
    diary = Diary()

    async def clean(*arguments: Any) -> None:
        try:
            await Deferred()
        finally:
            await cleaning
            diary.append("cleaned")

    client = connect(
        hooks=[layer("A", onRcptTo=clean, onClose=diary.hook("close")), layer("B", onRcptTo=plain(None)), Store()]
    )
    client.say(*ENVELOPE)
    client.lose()
    assert diary == []
    cleaning.callback(None)
    assert diary == ["cleaned", "close"]


def test_a_layer_that_loses_its_own_connection_is_the_last_to_be_asked() -> None:
    first, third = Pending(), Pending()
    diary = Diary()
    client = chained("onRcptTo", first, lambda *arguments: client.lose(), third)
    client.factory.onClose = diary.hook("close")
    client.say(*ENVELOPE)
    first.decide()
    assert (third.calls, diary) == ([], ["close"])


def test_a_layer_that_loses_its_own_connection_and_waits_is_cancelled() -> None:
    first, second = Pending(), Pending()
    diary = Diary()

    def loseAndWait(*arguments: Any) -> Any:
        client.lose()
        return second(*arguments)

    client = chained("onRcptTo", first, loseAndWait, diary.hook("C"))
    client.factory.onClose = diary.hook("close")
    client.say(*ENVELOPE)
    first.decide()
    assert (second.cancelled, diary) == (1, ["close"])


def test_all_layers_of_a_connection_share_one_context() -> None:
    seen: list[str] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def write(*arguments: Any) -> None:
        variable.set("written")
        await succeed(None)

    client = connect(
        hooks=[
            layer("A", onHelo=write),
            layer("B", onHelo=lambda *arguments: seen.append(variable.get())),
            layer("C", onMailFrom=lambda *arguments: seen.append(variable.get())),
            Store(),
        ]
    )
    client.say(HELLO, MAIL)
    assert seen == ["written", "written"]
    assert variable.get() == "unset"


# --- conditions ---


def test_a_client_that_a_condition_exempts_is_not_refused_by_that_layer() -> None:
    refusing = layer(onRcptTo=plain(SMTPError("no", 550)))
    for unless, code in ((["192.0.2.0/24"], 250), (["198.51.100.0/24"], 550), (["authenticated"], 550)):
        assert connect(hooks=[Layer(refusing, unless=unless), Store()]).last(*ENVELOPE).startswith(str(code))


@pytest.mark.parametrize("before", [None, "text", "waiting"])
def test_conditions_hold_behind_a_layer_that_waits(before: Any) -> None:
    first = waitingCoroutine(None) if before == "waiting" else plain(before)
    refusing = Layer(layer(onRcptTo=plain(SMTPError("no", 550))), unless=["192.0.2.7"])
    client = connect(hooks=[layer(onRcptTo=first), refusing, Store()])
    assert client.last(*ENVELOPE).startswith("250")


def test_conditions_see_the_context_of_the_connection_behind_a_layer_that_waits() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    def condition(session: Any) -> bool:
        seen.append(variable.get())
        return False

    waiting = Pending()
    client = connect(
        hooks=[
            layer(onRcptTo=waiting, onHelo=lambda *arguments: variable.set("set") and None),
            Layer(layer(onRcptTo=plain(None)), unless=[condition]),
            Store(),
        ]
    )
    client.say(*ENVELOPE)
    waiting.decide()
    assert seen == ["set"]


@pytest.mark.parametrize("first", [plain(None), waitingCoroutine(None)])
def test_a_condition_that_crashes_exempts_nobody(first: Any, logged: Logged) -> None:
    def crash(session: Any) -> bool:
        raise ValueError("crash")

    client = connect(hooks=[layer(onRcptTo=first), Layer(layer(onRcptTo=plain(None)), unless=[crash]), Store()])
    assert client.last(*ENVELOPE).startswith("451")
    assert len(logged.takeFailures(ValueError)) == 1


def test_an_exempt_client_is_still_told_of() -> None:
    diary = Diary()
    told = layer(onClose=diary.hook("close"), onReset=diary.hook("reset"))
    client = connect(hooks=[Layer(told, unless=["192.0.2.7"]), Store()])
    client.say(HELLO, MAIL, "RSET")
    client.lose()
    assert diary == ["reset", "close"]
