"""Hooks: where they may stand, what they may answer, and what becomes of what they raise."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, inlineCallbacks, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from smtphooks import Extension, Hooks, ISMTPHooks, SMTPError, SMTPServerFactory
from smtphooks.hooks import HOOK_NAMES, callHook, hookOf
from smtphooks.options import OptionError

from .conftest import Logged
from .support import ENVELOPE, HELLO, HOOKS, LMTP_ENVELOPE, MAIL, RCPT, Client, Diary, Pending, connect, makeFactory

pytestmark = pytest.mark.usefixtures("logged")

SECRET = "secret-of-the-hook"
CRASHED = "451 4.3.0 Temporary server error, please try again later"


# --- where hooks may stand ---


def test_hooks_given_as_options_are_called_in_the_order_of_a_connections_life() -> None:
    diary = Diary()
    client = connect(**{name: diary.hook(name) for name in HOOK_NAMES})
    client.say(*ENVELOPE, "RSET", "VRFY x", MAIL, RCPT, "DATA", ".", "QUIT")
    client.finish()
    assert diary == [
        *("onConnect", "onHelo", "onMailFrom", "onRcptTo", "onReset"),
        *("onVrfy", "onMailFrom", "onRcptTo", "onData", "onClose"),
    ]


def test_hooks_are_called_with_what_they_decide_on_and_the_session() -> None:
    calls: list[tuple[Any, ...]] = []
    hook: Callable[..., None] = lambda *arguments: calls.append(arguments)  # noqa: E731
    client = connect(onHelo=hook, onMailFrom=hook, onRcptTo=hook, onVrfy=hook)
    client.say(*ENVELOPE, "VRFY  Some One ")
    assert [(str(call[0]), call[1]) for call in calls] == [
        ("client.test", client.session),
        ("sender@client.test", client.session),
        ("user@mx.test", client.session),
        ("Some One", client.session),
    ]


def test_a_hook_set_later_is_asked_at_the_next_event_of_live_connections() -> None:
    client = connect()
    assert client.last(HELLO, MAIL, RCPT).startswith("250")
    client.factory.onRcptTo = lambda address, session: "second"
    assert client.last(RCPT) == "250 2.1.5 second"
    client.factory.onRcptTo = None
    assert client.last(RCPT) == "250 2.1.5 Recipient OK"


def test_onData_set_later_gets_the_next_message() -> None:
    client = connect()
    client.say(*ENVELOPE)
    client.factory.onData = lambda stream, session: "later"
    assert client.last("DATA", ".") == "250 2.0.0 later"


class Based(Hooks):
    def onMailFrom(self, address: Any, session: Any) -> str:
        return "based"


class Unbased:
    notAHook = "x"

    def onMailFrom(self, address: Any, session: Any) -> str:
        return "unbased"


class Static:
    @staticmethod
    def onMailFrom(address: Any, session: Any) -> str:
        return "static"


@pytest.mark.parametrize("kind", [Based, Unbased, Static])
def test_an_object_of_hooks_may_have_the_base_class_and_need_not(kind: Callable[[], object]) -> None:
    client = connect(hooks=kind())
    assert client.last(HELLO, MAIL) == f"250 2.1.0 {kind.__name__.lower()}"  # type: ignore[attr-defined]
    assert client.last(RCPT) == "250 2.1.5 Recipient OK"


def test_a_hook_named_as_an_option_wins_over_the_objects() -> None:
    client = connect(hooks=Based(), onMailFrom=lambda address, session: "named")
    assert client.last(HELLO, MAIL) == "250 2.1.0 named"


def test_two_factories_do_not_share_hooks() -> None:
    connect(onMailFrom=lambda address, session: "mine")
    assert connect().last(HELLO, MAIL) == "250 2.1.0 Sender OK"


@pytest.mark.parametrize("hooks", [Hooks(), object(), "myapp:Hooks", {}, 0, type("Empty", (Hooks,), {})()])
def test_an_object_without_any_hook_is_an_error(hooks: object) -> None:
    with pytest.raises(OptionError, match=r"option hooks is .*, it wants an object with a method such as onRcptTo"):
        makeFactory(hooks=hooks)


@pytest.mark.parametrize("hooks", [Based, Unbased])
def test_a_class_is_no_object_of_hooks(hooks: object) -> None:
    with pytest.raises(OptionError, match=r"option hooks is <class .*>, it wants an instance"):
        makeFactory(hooks=hooks)


def test_a_hook_that_cannot_be_called_is_an_error() -> None:
    with pytest.raises(OptionError, match="option onData is 'x', it wants something that can be called"):
        makeFactory(onData="x")


def test_a_misspelt_hook_is_an_error_that_names_the_right_one() -> None:
    with pytest.raises(OptionError, match="unknown option onRcpt, did you mean onRcptTo"):
        SMTPServerFactory(onRcpt=print)


def test_a_method_of_the_base_that_is_not_overridden_is_absent() -> None:
    assert [name for name in HOOK_NAMES if hookOf(Based(), name)] == ["onMailFrom"]
    assert hookOf(Unbased(), "notAHook") is None


def test_the_base_the_interface_and_the_factory_know_the_same_hooks() -> None:
    assert verifyObject(ISMTPHooks, Hooks())
    assert set(ISMTPHooks.names()) == set(HOOK_NAMES)
    base: Any = Hooks()
    for name, method in ISMTPHooks.namesAndDescriptions():
        assert getattr(base, name)(*method.positional) is None
        assert getattr(SMTPServerFactory, name) is None


# --- what hooks may answer ---


class SlowAwaitable:
    """Neither a coroutine nor a future."""

    def __init__(self, wait: Deferred[Any]) -> None:
        self._wait = wait

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait.__await__()


def plain(clock: Clock, decide: Callable[[], Any]) -> Any:
    return decide()


def firedDeferred(clock: Clock, decide: Callable[[], Any]) -> Deferred[Any]:
    return succeed(None).addCallback(lambda _: decide())


def laterDeferred(clock: Clock, decide: Callable[[], Any]) -> Deferred[Any]:
    return deferLater(clock, 1, decide)  # type: ignore[arg-type]


async def quickCoroutine(clock: Clock, decide: Callable[[], Any]) -> Any:
    return decide()


async def slowCoroutine(clock: Clock, decide: Callable[[], Any]) -> Any:
    await deferLater(clock, 1)  # type: ignore[arg-type]
    return decide()


@inlineCallbacks
def decorated(clock: Clock, decide: Callable[[], Any]) -> Generator[Any, Any, Any]:
    yield deferLater(clock, 1)  # type: ignore[arg-type]
    return decide()


def otherAwaitable(clock: Clock, decide: Callable[[], Any]) -> Awaitable[Any]:
    return SlowAwaitable(laterDeferred(clock, decide))


def nestedDeferred(clock: Clock, decide: Callable[[], Any]) -> Deferred[Any]:
    return succeed(None).addCallback(lambda _: laterDeferred(clock, decide))


KINDS = [
    *(plain, firedDeferred, laterDeferred, quickCoroutine),
    *(slowCoroutine, decorated, otherAwaitable, nestedDeferred),
]
Kind = Callable[[Clock, Callable[[], Any]], Any]


def refusing(error: BaseException) -> Callable[[], Any]:
    def decide() -> Any:
        raise error

    return decide


def reach(name: str, kind: Kind, decide: Callable[[], Any], **given: Any) -> tuple[Client, list[str]]:
    """A client whose server has called the hook, and all replies."""
    clock = Clock()
    factory = makeFactory(**{name: lambda *arguments: kind(clock, decide), **given})
    client = Client(factory)
    clock.advance(1)
    if HOOKS[name][0]:
        client.feed("".join(line + "\r\n" for line in HOOKS[name][0]).encode())
        clock.advance(1)
    return client, client.replies()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_may_answer_in_any_way(name: str, kind: Kind) -> None:
    client, replies = reach(name, kind, lambda: "words of the hook")
    assert not client.isClosed
    if name != "onConnect":
        assert "words of the hook" in "".join(replies)
    assert int(replies[-1][:3]) < 300


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOOKS)
def test_a_refusal_without_a_code_has_the_hooks_own(name: str, kind: Kind) -> None:
    client, replies = reach(name, kind, refusing(SMTPError("No, thank you")))
    assert replies[-1].startswith(f"{HOOKS[name][1]} ")
    assert replies[-1].endswith(" No, thank you")
    assert client.isClosed is (name == "onConnect")


@pytest.mark.parametrize("name", HOOKS)
def test_a_refusal_has_the_code_that_it_names(name: str) -> None:
    client, replies = reach(name, plain, refusing(SMTPError("Not now", 452, "4.2.2")))
    assert replies[-1] == "452 4.2.2 Not now"
    assert client.isClosed is (name == "onConnect")


@pytest.mark.parametrize("name", HOOKS)
def test_421_closes_after_the_reply(name: str) -> None:
    diary = Diary()
    client, replies = reach(name, slowCoroutine, refusing(SMTPError("Go away", 421)), onClose=diary.hook("onClose"))
    assert replies[-1].startswith("421 4.")
    assert client.isClosed
    client.protocol.dataReceived(b"NOOP\r\n")
    assert client.replies() == []
    client.finish()
    assert diary == ["onClose"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOOKS)
def test_a_crash_is_451_and_tells_the_client_nothing(name: str, kind: Kind, logged: Logged) -> None:
    told: list[tuple[Failure, Any]] = []
    crash = ValueError(SECRET)
    client, replies = reach(name, kind, refusing(crash), onError=lambda *arguments: told.append(arguments))
    assert replies[-1] == CRASHED
    assert SECRET not in "".join(replies)
    assert client.isClosed is (name == "onConnect")
    assert [(failure.value, session) for failure, session in told] == [(crash, client.session)]
    [event] = logged
    assert event["hook"] == name
    assert event["session"] == client.session.id
    [failure] = logged.takeFailures(ValueError)
    assert "decide" in failure.getTraceback()
    if not client.isClosed:
        assert client.last("NOOP") == "250 2.0.0 OK"


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("crash", [SystemExit(3), GeneratorExit()])
def test_a_hook_that_wants_to_end_the_process_ends_as_any_other_crash(
    name: str, crash: BaseException, logged: Logged
) -> None:
    client, replies = reach(name, plain, refusing(crash))
    assert replies[-1] == CRASHED
    assert len(logged.takeFailures(type(crash))) == 1
    assert client.isClosed is (name == "onConnect")


@pytest.mark.parametrize("result", [None, "", 1, True, b"bytes", object(), ["x"]])
@pytest.mark.parametrize("name", ["onMailFrom", "onRcptTo", "onHelo"])
def test_a_result_that_is_no_text_leaves_the_standing_text(name: str, result: object) -> None:
    _, replies = reach(name, plain, lambda: result)
    _, usual = reach(name, plain, lambda: None)
    assert replies == usual


def test_a_generator_is_a_crash_and_not_taken_for_success(logged: Logged) -> None:
    """Twisted's inlineCallbacks was forgotten: nothing of the hook has run, and the message would be lost."""

    def forgotten(stream: Any, session: Any) -> Generator[Any, Any, Any]:
        yield stream.read()

    async def confused(stream: Any, session: Any) -> Any:
        yield await stream.read()

    for hook in (forgotten, confused):
        client = connect(onData=hook)
        assert client.last(*ENVELOPE, "DATA", ".") == CRASHED
        [failure] = logged.takeFailures(TypeError)
        assert "generator" in str(failure.value)


@pytest.mark.parametrize("result", [None, "text", 5])
def test_a_plain_value_needs_no_deferred(result: object) -> None:
    assert callHook(lambda: result, ()) is result


def test_a_deferred_is_handed_on_as_it_is() -> None:
    pending: Deferred[None] = Deferred()
    assert callHook(lambda: pending, ()) is pending


def test_a_future_of_asyncio_is_waited_for() -> None:
    """As far as that goes without its reactor; below is a test with it."""
    loop = asyncio.new_event_loop()
    try:
        future = loop.create_future()
        result = callHook(lambda: future, ())
        assert isinstance(result, Deferred)
        future.set_result("text")
        loop.run_until_complete(asyncio.sleep(0))
        assert result.result == "text"  # type: ignore[attr-defined]
    finally:
        loop.close()


# --- a coroutine: as Deferred.fromCoroutine has it, but for the Deferred that is not needed ---


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


def _outcome(begin: Callable[..., Any], hook: Callable[..., Any], happen: Callable[..., object]) -> tuple[Any, Any]:
    """The answer of a hook, and what became of the Deferred that it waits for."""
    pending: Deferred[str] = Deferred()
    result = begin(hook, pending)
    if isinstance(result, Deferred) and not result.called:
        happen(pending, result)
    outcome: list[Any] = []
    if isinstance(result, Deferred):
        result.addBoth(outcome.append)
    else:
        outcome.append(result)
    [answer] = outcome
    if isinstance(answer, Failure):
        answer = (answer.type, str(answer.value), [frame[0] for frame in answer.frames if frame[0].startswith("_c")])
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
    failures: list[Failure] = []
    result.addErrback(failures.append)
    pending.callback("key")
    assert "raise KeyError(await pending)" in failures[0].getTraceback()


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


# --- hooks that are only told ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SMTPError(SECRET, 550), ValueError(SECRET)])
def test_a_crashing_onReset_is_only_logged(kind: Kind, error: Exception, logged: Logged) -> None:
    clock = Clock()
    client = connect(onReset=lambda session: kind(clock, refusing(error)))
    client.feed("\r\n".join([*ENVELOPE, "RSET", "NOOP", ""]).encode())
    clock.advance(1)
    assert client.replies()[-2:] == ["250 2.0.0 Flushed", "250 2.0.0 OK"]
    assert len(logged.takeFailures(type(error))) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SMTPError(SECRET, 421), ValueError(SECRET)])
def test_a_crashing_onClose_is_only_logged(kind: Kind, error: Exception, logged: Logged) -> None:
    clock = Clock()
    client = connect(onClose=lambda session: kind(clock, refusing(error)))
    client.lose()
    clock.advance(1)
    assert not client.factory.connections
    assert len(logged.takeFailures(type(error))) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SMTPError(SECRET), KeyError(SECRET)])
def test_a_crashing_onError_is_only_logged_and_not_told_of_itself(kind: Kind, error: Exception, logged: Logged) -> None:
    clock = Clock()
    told: list[Failure] = []

    def onError(failure: Failure, session: Any) -> Any:
        told.append(failure)
        return kind(clock, refusing(error))

    client = connect(onMailFrom=lambda *_: 1 / 0, onError=onError)
    assert client.last(HELLO, MAIL) == CRASHED
    clock.advance(1)
    assert [failure.type for failure in told] == [ZeroDivisionError]
    assert len(logged.takeFailures(ZeroDivisionError)) == 1
    assert len(logged.takeFailures(type(error))) == 1
    assert client.last("NOOP") == "250 2.0.0 OK"


def test_the_dialogue_does_not_wait_for_onError() -> None:
    onError = Pending()
    client = connect(onVrfy=lambda *_: "x", onError=onError, onHelo=lambda *_: fail(SMTPError("no")))
    assert client.last(HELLO) == "550 5.7.1 no"
    assert onError.calls == []


def test_onError_is_told_of_crashes_in_hooks_that_are_only_told(logged: Logged) -> None:
    told: list[str] = []
    client = connect(
        onReset=lambda session: 1 / 0,
        onClose=lambda session: {}["x"],
        onError=lambda failure, session: told.append(failure.type.__name__),
    )
    client.say(HELLO, MAIL, "RSET")
    client.lose()
    assert told == ["ZeroDivisionError", "KeyError"]
    assert len(logged.takeFailures(ZeroDivisionError) + logged.takeFailures(KeyError)) == 2


# --- commands that an extension adds ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_handler_of_an_extension_answers_as_a_hook_does(kind: Kind, logged: Logged) -> None:
    clock = Clock()

    def handler(argument: str, session: Any) -> Any:
        def decide() -> str:
            match argument:
                case "refuse":
                    raise SMTPError("Not for you")
                case "crash":
                    raise ValueError(SECRET)
                case _:
                    return f"{argument} for {session.hostNameAppearsAs}"

        return kind(clock, decide)

    client = connect(extensions=[Extension("XTRA", commands={"XTRA": handler})])
    client.say(HELLO)
    client.feed(b"xtra one  two\r\nXTRA refuse\r\nXTRA crash\r\nNOOP\r\n")
    clock.pump([1, 1, 1])
    assert client.replies() == [
        "250 2.0.0 one  two for client.test",
        "550 5.7.1 Not for you",
        CRASHED,
        "250 2.0.0 OK",
    ]
    [event] = logged
    assert "handler" in str(event["hook"])
    assert len(logged.takeFailures(ValueError)) == 1


def test_an_extension_that_crashes_within_the_dialogue_ends_with_451(logged: Logged) -> None:
    """Its validator runs within the dialogue, which cannot go on from there."""
    told = Pending()
    extension = Extension("XTRA", mailParameters={"XTRA": lambda value: int(value)})
    client = connect(extensions=[extension], onHelo=lambda *_: succeed(None), onError=told)
    client.say(HELLO)
    assert client.say("MAIL FROM:<> XTRA=" + SECRET, "NOOP") == [CRASHED]
    assert client.isClosed
    assert len(logged.takeFailures(ValueError)) == 1
    assert len(told.calls) == 1
    client.finish()
    assert not client.factory.connections


def test_an_extension_that_crashes_behind_a_slow_hook_does_not_hang(logged: Logged) -> None:
    onHelo = Pending()

    def parameters(session: Any) -> str:
        raise KeyError(SECRET)

    client = connect(extensions=[Extension("XTRA", parameters)], onHelo=onHelo)
    client.say(HELLO)
    onHelo.decide()
    assert client.replies() == [CRASHED]
    assert client.isClosed
    assert len(logged.takeFailures(KeyError)) == 1


def test_a_refusal_that_was_badly_made_does_not_hang(logged: Logged) -> None:
    class Mine(SMTPError):
        def __init__(self) -> None:
            """Forgets to call that of its base."""

    onMailFrom = Pending()
    client = connect(onMailFrom=onMailFrom)
    client.say(HELLO, MAIL)
    onMailFrom.decide(Mine())
    assert client.replies() == [CRASHED]
    assert client.isClosed
    assert len(logged.takeFailures(AttributeError)) == 1


# --- with the reactor of asyncio ---

ASYNCIO = """
import asyncio, json
from twisted.internet import asyncioreactor
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)
from twisted.internet import reactor
from smtphooks import SMTPError
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, connect

cancelled = []

async def slowly(result):
    await asyncio.sleep(0)
    if isinstance(result, Exception):
        raise result
    return result

def onMailFrom(address, session):
    future = loop.create_future()
    loop.call_soon(future.set_result, "from a future")
    return future

def onRcptTo(address, session):
    return asyncio.ensure_future(slowly(SMTPError("from a task", 551)))

def onVrfy(text, session):
    future = loop.create_future()
    future.add_done_callback(lambda future: cancelled.append(future.cancelled()))
    return future

def onHelo(hostname, session):
    done = loop.create_future()
    done.set_result("from a fired future")
    return done

client = connect(onHelo=onHelo, onMailFrom=onMailFrom, onRcptTo=onRcptTo, onVrfy=onVrfy,
                 onClose=lambda session: cancelled.append("closed"))

async def main():
    client.feed("".join(line + "\\r\\n" for line in [*ENVELOPE, "VRFY x"]).encode())
    for _ in range(20):
        await asyncio.sleep(0)
    client.lose()
    for _ in range(20):
        await asyncio.sleep(0)
    print(json.dumps([client.replies(), cancelled]))
    reactor.stop()

from twisted.logger import globalLogPublisher
globalLogPublisher.addObserver(lambda event: "log_failure" in event and print(event["log_failure"]))
reactor.callWhenRunning(lambda: loop.create_task(main()))
reactor.run()
"""


def test_with_the_reactor_of_asyncio_a_hook_may_return_its_futures() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ASYNCIO],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    replies, cancelled = json.loads(ran.stdout)
    assert replies[1] == "250-from a fired future"
    assert replies[-2:] == ["250 2.1.0 from a future", "551 5.1.6 from a task"]
    assert cancelled == [True, "closed"] or cancelled == ["closed", True]


# --- the message hook ---


def test_with_lmtp_one_answer_counts_for_every_recipient() -> None:
    client = connect(lmtp=True, onData=lambda stream, session: "kept")
    assert client.say(*LMTP_ENVELOPE, RCPT, "DATA", ".")[-2:] == ["250 2.0.0 kept"] * 2
