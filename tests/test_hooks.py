"""Hooks: where they may be given, what they may return, and what happens to what they raise."""

from __future__ import annotations

import functools
import gc
import inspect
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from smtphooks import AuthResponse, Extension, Hooks, ISMTPHooks, SMTPError, SMTPServerFactory
from smtphooks.errors import OptionError
from smtphooks.hooks import FURTHER, HOOK_NAMES, SITUATIONS, HookAttributes, hookOf
from smtphooks.hooks import HOOKS as TABLE
from tests.conftest import Logged
from tests.support import (
    ENVELOPE,
    HELLO,
    HOOKS,
    LMTP_ENVELOPE,
    MAIL,
    RCPT,
    Client,
    Diary,
    Pending,
    connect,
    makeFactory,
)

pytestmark = pytest.mark.usefixtures("logged")

SECRET = "secret-of-the-hook"
CRASHED = "451 4.3.0 Temporary server error, please try again later"


# --- where hooks may be given ---


def test_hooks_given_as_options_are_called_in_the_order_of_a_connections_life() -> None:
    diary = Diary()
    client = connect(**{name: diary.hook(name) for name in HOOK_NAMES if name != "onReply"})
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


def test_on_data_set_later_gets_the_next_message() -> None:
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


def test_the_base_the_interface_and_the_factory_know_the_hooks_of_the_table_and_no_others() -> None:
    assert verifyObject(ISMTPHooks, Hooks())
    assert set(ISMTPHooks.names()) == {*HOOK_NAMES, *FURTHER}
    assert {name for name, method in vars(Hooks).items() if inspect.isfunction(method)} == {*HOOK_NAMES, *FURTHER}
    assert set(HookAttributes.__annotations__) == set(HOOK_NAMES)
    assert issubclass(SMTPServerFactory, HookAttributes)


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_the_base_the_interface_and_the_factory_agree_on_a_hook(name: str) -> None:
    arguments = TABLE[name].arguments
    assert TABLE[name].name == name
    assert ISMTPHooks[name].positional == arguments
    assert tuple(inspect.signature(getattr(Hooks(), name)).parameters) == arguments
    assert getattr(Hooks(), name)(*arguments) is None
    assert getattr(SMTPServerFactory, name) is None


@pytest.mark.parametrize("name", FURTHER)
def test_the_base_and_the_interface_agree_on_the_other_methods(name: str) -> None:
    assert ISMTPHooks[name].positional == FURTHER[name]
    assert tuple(inspect.signature(getattr(Hooks(), name)).parameters) == FURTHER[name]


def test_every_hook_that_can_refuse_is_tried_below() -> None:
    """By a client without TLS and AUTH; onSecure and onAuth have tests of their own."""
    assert {*HOOKS, "onSecure", "onAuth"} == set(SITUATIONS)


# --- what hooks may return ---


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
    """A client that has brought its server to call the hook, and all replies."""
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
    """Without inlineCallbacks nothing of the hook has run, and the message would be lost."""

    def forgotten(stream: Any, session: Any) -> Generator[Any, Any, Any]:
        yield stream.read()

    async def confused(stream: Any, session: Any) -> Any:
        yield await stream.read()

    for hook in (forgotten, confused):
        client = connect(onData=hook)
        assert client.last(*ENVELOPE, "DATA", ".") == CRASHED
        [failure] = logged.takeFailures(TypeError)
        assert "generator" in str(failure.value)


# --- errors that are returned, and results that are no answer ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [lambda error: error, Failure])
@pytest.mark.parametrize("name", HOOKS)
def test_a_returned_refusal_is_a_refusal(name: str, make: Callable[[Exception], Any], kind: Kind) -> None:
    """The hooks of other libraries say "return callback(error)"."""
    client, replies = reach(name, kind, lambda: make(SMTPError("Not here", 554)))
    assert replies[-1].startswith("554") and replies[-1].endswith("Not here")
    assert client.isClosed is (name == "onConnect")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [lambda error: error, Failure])
@pytest.mark.parametrize("name", HOOKS)
def test_any_other_returned_exception_is_a_crash(
    name: str, make: Callable[[Exception], Any], kind: Kind, logged: Logged
) -> None:
    told = Diary()
    _, replies = reach(name, kind, lambda: make(KeyError(SECRET)), onError=told.hook("told"))
    assert replies[-1] == CRASHED
    assert len(logged.takeFailures(KeyError)) == 1
    assert told == ["told"]


@pytest.mark.parametrize("name", ["onReset", "onClose", "onError"])
def test_an_exception_returned_from_a_hook_that_is_only_told_is_logged(name: str, logged: Logged) -> None:
    hooks = {"onVrfy": lambda *_: ValueError("x"), name: lambda *_: KeyError(SECRET)}
    client = connect(**hooks)
    assert client.say(HELLO, MAIL, "RSET", "VRFY x")[-2:] == ["250 2.0.0 Flushed", CRASHED]
    client.lose()
    assert len(logged.takeFailures(KeyError)) == 1
    assert logged.takeFailures(ValueError)


@pytest.mark.parametrize("error", [SMTPError("Invalid credentials", 535), ValueError(SECRET)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_returned_from_on_auth_is_no_login(kind: Kind, error: Exception, logged: Logged) -> None:
    clock = Clock()
    client = connect(allowInsecureAuth=True, onAuth=lambda *_: kind(clock, lambda: error))
    client.say(HELLO)
    client.feed(b"AUTH PLAIN AGFubgB3cm9uZw==\r\n")
    clock.advance(1)
    client.clock.advance(2)
    assert client.codes()[-1] in (535, 451)
    assert client.session.user is None
    assert len(logged.takeFailures(ValueError)) == isinstance(error, ValueError)


@pytest.mark.parametrize("name", HOOKS)
def test_a_forgotten_await_is_made_up_for(name: str) -> None:
    """A coroutine that a hook returns is awaited, however deep; the coroutine itself must not pass as a result."""

    async def inner() -> Any:
        raise SMTPError("Not here", 554)

    async def outer() -> Any:
        return inner()

    for decide in (lambda: inner(), lambda: outer(), lambda: SlowAwaitable(Deferred.fromCoroutine(inner()))):
        for kind in KINDS:
            _, replies = reach(name, kind, decide)
            assert replies[-1].endswith("Not here")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in HOOKS if name != "onConnect"])
def test_False_is_a_fault_where_a_text_is_the_answer(name: str, kind: Kind, logged: Logged) -> None:
    _, replies = reach(name, kind, lambda: False)
    assert replies[-1] == CRASHED
    assert len(logged.takeFailures(TypeError)) == 1


def test_False_is_no_fault_where_the_result_is_ignored_or_may_be_a_false_user() -> None:
    ignored = {"onConnect", "onSecure", "onReset", "onClose", "onError", "onReply"}
    assert {name for name in TABLE if TABLE[name].mayAnswerFalse} == {*ignored, "onAuth"}
    assert {name for name in TABLE if not TABLE[name].isResultUsed} == ignored
    client = connect(**dict.fromkeys(("onConnect", "onReset", "onClose"), lambda session: False))
    assert client.codes() == [220]
    assert client.last(HELLO, MAIL, "RSET") == "250 2.0.0 Flushed"
    client.lose()


@pytest.mark.parametrize("name", HOOKS)
def test_a_deferred_that_failed_is_no_yes_when_it_is_returned_again(name: str, logged: Logged) -> None:
    """A cached look-up: handling its failure has left None in it."""
    remembered: Deferred[None] = fail(SMTPError("Not here", 554))

    async def returned(*arguments: Any) -> Any:
        return remembered

    async def returnedLater(clock: Clock) -> Any:
        await deferLater(clock, 1)  # type: ignore[arg-type]
        return remembered

    _, replies = reach(name, plain, lambda: remembered)
    assert replies[-1].endswith("Not here")
    clock = Clock()
    for again in (lambda: remembered, returned, lambda: returnedLater(clock)):
        client, replies = reach(name, plain, again)
        clock.advance(1)
        assert (replies + client.replies())[-1] == CRASHED
        [failure] = logged.takeFailures(RuntimeError)
        assert "a second time: SMTPError('Not here')" in str(failure.value)


def test_a_deferred_that_succeeded_answers_the_same_when_it_is_returned_again() -> None:
    remembered = succeed("of a cache")
    for _ in range(2):
        _, replies = reach("onRcptTo", plain, lambda: remembered)
        assert replies[-1] == "250 2.1.5 of a cache"


@pytest.mark.parametrize("error", [SMTPError("Not here", 554), KeyError(SECRET)])
@pytest.mark.parametrize("name", HOOKS)
def test_a_deferred_that_failed_is_no_yes_when_it_is_awaited_again(name: str, error: Exception, logged: Logged) -> None:
    """A cached look-up: Twisted leaves None in a Deferred that a coroutine has awaited."""
    for isPending in (True, False):
        remembered: Deferred[None] = Deferred()
        if not isPending:
            remembered.errback(error)

        async def lookUp(remembered: Deferred[None] = remembered) -> None:
            await remembered

        clock = Clock()
        first, replies = reach(name, plain, lookUp)
        if isPending:
            remembered.errback(error)
            replies += first.replies()
        _, again = reach(name, slowCoroutine, lookUp)
        clock.advance(1)
        wanted = "Not here" if isinstance(error, SMTPError) else CRASHED
        assert (replies[-1][-len(wanted) :], again[-1][-len(wanted) :]) == (wanted, wanted)
    logged.takeFailures(KeyError)


def test_a_deferred_that_is_awaited_twice_gives_its_value_twice() -> None:
    remembered: Deferred[str] = Deferred()

    async def onRcptTo(address: Any, session: Any) -> str:
        return await remembered + " and " + await remembered

    client = connect(onRcptTo=onRcptTo)
    client.say(*ENVELOPE)
    remembered.callback("found")
    assert client.replies() == ["250 2.1.5 found and found"]
    assert client.last(RCPT) == "250 2.1.5 found and found"


# --- one look-up that several clients wait for ---


def _returns(shared: Deferred[Any]) -> Callable[..., Any]:
    return lambda address, session: shared


def _awaits(shared: Deferred[Any]) -> Callable[..., Any]:
    async def onRcptTo(address: Any, session: Any) -> Any:
        return await shared

    return onRcptTo


def _awaitsLater(shared: Deferred[Any]) -> Callable[..., Any]:
    async def onRcptTo(address: Any, session: Any) -> Any:
        await succeed(None)
        return shared

    return onRcptTo


WAYS = [_returns, _awaits, _awaitsLater]


def twoThatWait(first: Any, second: Any, shared: Deferred[Any]) -> tuple[Client, Client]:
    hooks = {"first": first(shared), "second": second(shared)}
    factory = makeFactory(onRcptTo=lambda address, session: hooks[address.local](address, session), hookTimeout=10)
    clients = Client(factory), Client(factory)
    for client, name in zip(clients, hooks, strict=True):
        client.say(HELLO, MAIL)
        client.clock.advance(5)
        client.feed(f"RCPT TO:<{name}@example.org>\r\n".encode())
    return clients


@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("first", WAYS)
def test_a_client_that_leaves_cancels_no_look_up_for_which_another_waits(first: Any, second: Any) -> None:
    cancelled: list[Any] = []
    shared: Deferred[str] = Deferred(cancelled.append)
    leaving, staying = twoThatWait(first, second, shared)
    leaving.lose()
    assert staying.replies() == []
    shared.callback("found")
    assert staying.replies() == ["250 2.1.5 found"]
    assert cancelled == []


def test_the_last_client_that_leaves_cancels_the_look_up() -> None:
    cancelled: list[Any] = []
    for way in WAYS:
        shared: Deferred[str] = Deferred(cancelled.append)
        for client in twoThatWait(_returns, way, shared):
            client.lose()
        assert cancelled.pop() is shared
    assert cancelled == []


def test_a_look_up_that_takes_too_long_for_one_client_goes_on_for_the_next() -> None:
    shared: Deferred[str] = Deferred()
    first, second = twoThatWait(_returns, _awaits, shared)
    first.clock.pump([1] * 7)
    assert first.replies()[0].startswith("451 ")
    assert second.replies() == []
    shared.callback("found")
    assert second.replies() == ["250 2.1.5 found"]


@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("first", WAYS)
def test_a_look_up_that_fails_refuses_all_clients_that_wait(first: Any, second: Any) -> None:
    shared: Deferred[str] = Deferred()
    clients = twoThatWait(first, second, shared)
    shared.errback(SMTPError("Not here", 553))
    assert [client.replies() for client in clients] == [["553 5.1.3 Not here"]] * 2


def test_commands_that_wait_their_turn_find_the_same_as_the_first() -> None:
    """The pipelined commands run within the call that fires the Deferred."""
    for result, reply in (("found", "250 2.1.5 found"), (SMTPError("Not here", 550), "550 5.1.1 Not here")):
        shared: Deferred[str] = Deferred()
        client = connect(onRcptTo=_awaits(shared))
        client.say(HELLO, MAIL)
        client.feed(f"{RCPT}\r\n".encode() * 3)
        shared.callback(result) if isinstance(result, str) else shared.errback(result)
        assert client.replies() == [reply] * 3


def test_an_answer_within_an_answer_is_cancelled_where_it_waits() -> None:
    waits: list[Deferred[None]] = []
    cancelled: list[Deferred[None]] = []

    def wait() -> Deferred[None]:
        waits.append(Deferred(cancelled.append))
        return waits[-1]

    async def third() -> None:
        await wait()

    async def second() -> Any:
        await wait()
        return third()

    async def onRcptTo(address: Any, session: Any) -> Any:
        await wait()
        return second()

    closed: list[Any] = []
    client = connect(onRcptTo=onRcptTo, onClose=closed.append)
    client.say(HELLO, MAIL, RCPT)
    waits[0].callback(None)
    waits[1].callback(None)
    client.lose()
    assert cancelled == [waits[2]]
    assert len(closed) == 1


def test_an_answer_that_came_late_leaves_nothing_to_the_garbage_collector() -> None:
    pending: list[Deferred[None]] = []
    used: list[ref[Deferred[None]]] = []

    def returned(address: Any, session: Any) -> Deferred[None]:
        pending.append(Deferred())
        used.append(ref(pending[-1]))
        return pending[-1]

    async def awaited(address: Any, session: Any) -> None:
        held: Deferred[None] = Deferred()
        used.append(ref(held))
        await returned(address, session)
        assert not held.called

    async def onData(stream: Any, session: Any) -> None:
        held: Deferred[None] = Deferred()
        used.append(ref(held))
        await stream.read()
        assert not held.called

    gc.disable()
    try:
        for onRcptTo in (returned, awaited):
            client = connect(onRcptTo=onRcptTo, onData=onData)
            client.say(HELLO, MAIL, RCPT)
            pending.pop().callback(None)
            client.feed(b"DATA\r\n.\r\n")
            assert client.codes() == [250, 354, 250]
        assert [reference() for reference in used] == [None] * 5
    finally:
        gc.enable()


def test_what_is_awaited_and_takes_its_time_to_be_cancelled_is_waited_for() -> None:
    ended: list[str] = []
    rest: Deferred[None] = Deferred()
    slow: Deferred[Any] = Deferred(lambda slow: slow.callback("cancelled"))
    slow.addCallback(lambda _: rest)

    async def onVrfy(text: str, session: Any) -> None:
        await slow
        ended.append("ended")

    client = connect(onVrfy=onVrfy, onClose=lambda session: ended.append("closed"))
    client.say(HELLO, "VRFY x")
    client.lose()
    assert ended == []
    rest.callback(None)
    assert ended == ["ended", "closed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOOKS)
def test_the_class_of_an_error_is_no_yes(name: str, kind: Kind, logged: Logged) -> None:
    _, replies = reach(name, kind, lambda: SMTPError)
    assert replies[-1] == CRASHED
    assert len(logged.takeFailures(TypeError)) == 1


async def nobody() -> None:
    return None


@pytest.mark.parametrize(
    "user", [nobody, lambda: succeed(None), lambda: SMTPError("No"), lambda: Failure(KeyError()), lambda: KeyError]
)
@pytest.mark.parametrize("isWrapped", [True, False])
def test_what_is_not_meant_as_a_user_is_not_logged_in(user: Callable[[], Any], isWrapped: bool, logged: Logged) -> None:
    def onAuth(auth: Any, session: Any) -> Any:
        return AuthResponse(user=user()) if isWrapped else [user()][0]

    client = connect(allowInsecureAuth=True, onAuth=onAuth)
    client.say(HELLO)
    client.feed(b"AUTH PLAIN AGFubgB3cm9uZw==\r\n")
    client.clock.advance(2)
    assert client.codes()[-1] in (451, 535)
    assert client.session.user is None
    logged.takeFailures(TypeError)
    logged.takeFailures(KeyError)


# --- one context for each connection ---


def test_all_hooks_of_a_connection_share_a_context_and_no_two_connections_do() -> None:
    mine: ContextVar[str] = ContextVar("mine", default="nobody's")
    seen: list[tuple[str, str]] = []
    clock = Clock()

    def plainHook(name: str) -> Callable[..., Any]:
        def hook(*arguments: Any) -> None:
            seen.append((name, mine.get()))
            mine.set(name)

        return hook

    def coroutine(name: str) -> Callable[..., Any]:
        async def hook(*arguments: Any) -> None:
            seen.append((name, mine.get()))
            await deferLater(clock, 1)  # type: ignore[arg-type]
            mine.set(name)

        return hook

    async def onData(stream: Any, session: Any) -> None:
        seen.append(("onData", mine.get()))
        async for _ in stream:
            mine.set("onData")

    factory = makeFactory(
        onConnect=plainHook("onConnect"),
        onHelo=coroutine("onHelo"),
        onMailFrom=plainHook("onMailFrom"),
        onRcptTo=coroutine("onRcptTo"),
        onData=onData,
        onClose=plainHook("onClose"),
    )
    first = Client(factory)
    first.feed("\r\n".join([*ENVELOPE, "DATA", ""]).encode())
    clock.pump([1, 1])
    second = Client(factory)  # while the first is within its message
    first.feed(b"text\r\n.\r\n")
    first.lose()
    second.lose()
    assert seen == [
        ("onConnect", "nobody's"),
        ("onHelo", "onConnect"),
        ("onMailFrom", "onHelo"),
        ("onRcptTo", "onMailFrom"),
        ("onData", "onRcptTo"),
        ("onConnect", "nobody's"),
        ("onClose", "onData"),
        ("onClose", "onConnect"),
    ]
    assert mine.get() == "nobody's"


def test_the_context_is_that_of_the_factory_and_not_of_the_moment() -> None:
    """Asyncio's reactor runs a delayed call in the context of the code that scheduled it last."""
    mine: ContextVar[str] = ContextVar("mine", default="nobody's")
    seen: list[str] = []
    factory = makeFactory(onConnect=lambda session: seen.append(mine.get()))
    copy_context().run(lambda: (mine.set("of another connection"), Client(factory)))
    assert seen == ["nobody's"]


# --- cancellers that raise ---


class Uncancellable(Exception):
    """Raised by cancellers."""


def raisingDeferred() -> Deferred[Any]:
    def cancel(deferred: Deferred[Any]) -> None:
        raise Uncancellable

    return Deferred(cancel)


@pytest.mark.parametrize("nest", [lambda d: d, lambda d: succeed(None).addCallback(lambda _: d)])
@pytest.mark.parametrize("name", HOOKS)
def test_a_canceller_that_raises_harms_its_own_connection_only(
    name: str, nest: Callable[[Any], Any], logged: Logged
) -> None:
    diary = Diary()
    factory = makeFactory(hookTimeout=5, **{name: lambda *_: nest(raisingDeferred()), "onClose": diary.hook("onClose")})
    victim, left = Client(factory), Client(factory)
    if name == "onConnect":
        other = None
    else:
        other = Client(factory)
    for client in (victim, left):
        if HOOKS[name][0]:
            client.feed("".join(line + "\r\n" for line in HOOKS[name][0]).encode())
    if name != "onData":
        left.lose()
        assert diary == ["onClose"]
    factory.clock.pump([1] * 7)  # type: ignore[union-attr]
    assert victim.codes()[-1] == 451
    assert logged.takeFailures(Uncancellable)
    if other is not None:
        other.say("NOOP")
        factory.clock.pump([1] * 70)  # type: ignore[union-attr]
        assert other.replies() == ["421 4.4.2 Timeout, closing connection"], "time-outs go on"
        other.lose()
    victim.lose()
    left.lose() if name == "onData" else None
    assert not factory.connections
    assert set(diary) == {"onClose"}


def test_a_canceller_of_on_close_that_raises_leaves_no_connection_behind(logged: Logged) -> None:
    client = connect(hookTimeout=5, onClose=lambda session: raisingDeferred())
    client.lose()
    client.clock.pump([1] * 8)
    assert logged.takeFailures(Uncancellable)
    assert not client.factory.connections


# --- mistyped hooks ---


def test_a_method_that_looks_like_a_hook_and_is_none_is_an_error() -> None:
    class Mistyped:
        def onRcptTo(self, address: Any, session: Any) -> None: ...
        def onDatta(self, stream: Any, session: Any) -> None: ...

    with pytest.raises(OptionError, match=r"onDatta, which is no hook, did you mean onData\?"):
        makeFactory(hooks=Mistyped())


def test_names_that_only_resemble_hooks_are_left_alone() -> None:
    class Fine:
        onTheHook = "no method"

        def onData(self, stream: Any, session: Any) -> None: ...
        def onStart(self, service: Any) -> None: ...
        def onStop(self, service: Any) -> None: ...
        def onReply(self, verb: str, reply: Any, session: Any) -> None: ...
        def filterData(self, stream: Any, session: Any) -> None: ...
        def once(self) -> None: ...
        def _onDatta(self) -> None: ...
        def online(self) -> None: ...

    makeFactory(hooks=Fine())


def test_a_hook_that_cannot_be_called_with_its_arguments_is_an_error() -> None:
    class Short:
        def onRcptTo(self, address: Any) -> None: ...

    wants = r"hook onRcptTo is .*\(address\), it is called as onRcptTo\(address, session\)"
    with pytest.raises(OptionError, match=wants):
        makeFactory(hooks=Short())
    with pytest.raises(OptionError, match=r"hook onData is .*, it is called as onData\(stream, session\)"):
        makeFactory(onData=lambda stream: None)
    with pytest.raises(OptionError, match="onClose"):
        makeFactory(onClose=lambda session, *, keyword: None)


def test_a_decorator_may_give_a_hook_further_arguments() -> None:
    def withDatabase(hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def call(self: Any, *arguments: Any) -> Any:
            return hook(self, "database", *arguments)

        return call

    class Decorated:
        @withDatabase
        def onRcptTo(self, database: str, address: Any, session: Any) -> str:
            return database

    assert Client(makeFactory(hooks=Decorated())).last(*ENVELOPE) == "250 2.1.5 database"


def test_an_object_whose_hooks_cannot_be_looked_at_is_an_error() -> None:
    class Raises:
        def onData(self, stream: Any, session: Any) -> None: ...

        @property
        def onRcptTo(self) -> Any:
            raise KeyError("database")

    with pytest.raises(OptionError, match="which raises KeyError"):
        makeFactory(hooks=Raises())


def test_the_nearest_of_all_names_is_named() -> None:
    for wrong, right in (("onStrat", "onStart"), ("onReplyy", "onReply"), ("onDatta", "onData")):
        mistyped = type("Mistyped", (), {"onData": lambda self, stream, session: None, wrong: lambda self: None})
        with pytest.raises(OptionError, match=f"did you mean {right}"):
            makeFactory(hooks=mistyped())


@pytest.mark.parametrize(
    "hook", [lambda *anything: None, lambda stream, session, more=1: None, lambda s, t: None, dict, print]
)
def test_a_hook_may_take_its_arguments_as_it_likes(hook: Callable[..., Any]) -> None:
    makeFactory(onData=hook)


# --- hooks that cannot refuse ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SMTPError(SECRET, 550), ValueError(SECRET)])
def test_a_crashing_on_reset_is_only_logged(kind: Kind, error: Exception, logged: Logged) -> None:
    clock = Clock()
    client = connect(onReset=lambda session: kind(clock, refusing(error)))
    client.feed("\r\n".join([*ENVELOPE, "RSET", "NOOP", ""]).encode())
    clock.advance(1)
    assert client.replies()[-2:] == ["250 2.0.0 Flushed", "250 2.0.0 OK"]
    assert len(logged.takeFailures(type(error))) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SMTPError(SECRET, 421), ValueError(SECRET)])
def test_a_crashing_on_close_is_only_logged(kind: Kind, error: Exception, logged: Logged) -> None:
    clock = Clock()
    client = connect(onClose=lambda session: kind(clock, refusing(error)))
    client.lose()
    clock.advance(1)
    assert not client.factory.connections
    assert len(logged.takeFailures(type(error))) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SMTPError(SECRET), KeyError(SECRET)])
def test_a_crashing_on_error_is_only_logged_and_not_told_of_itself(
    kind: Kind, error: Exception, logged: Logged
) -> None:
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


def test_the_dialogue_does_not_wait_for_on_error() -> None:
    onError = Pending()
    client = connect(onVrfy=lambda *_: "x", onError=onError, onHelo=lambda *_: fail(SMTPError("no")))
    assert client.last(HELLO) == "550 5.7.1 no"
    assert onError.calls == []


def test_on_error_is_told_of_crashes_in_hooks_that_are_only_told(logged: Logged) -> None:
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
    """Its validator runs within the dialogue, which cannot continue after that."""
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


@pytest.mark.parametrize("name", HOOKS)
def test_a_refusal_that_was_badly_made_refuses_all_the_same(name: str) -> None:
    class Mine(SMTPError):
        def __init__(self) -> None:
            """Forgets to call the base class."""

    code = HOOKS[name][1]
    for kind in KINDS:
        _, replies = reach(name, kind, refusing(Mine()))
        assert replies[-1].startswith(f"{code} ") and replies[-1].endswith("Refused")


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
