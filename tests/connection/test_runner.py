"""What becomes of the answers of hooks, and of what hooks raise: the client's word, the log, and C{onError}."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs, eventAsText
from twisted.python.failure import Failure

from smtphooks import AuthResponse, Session, SMTPError, Unavailable
from smtphooks.connection.calling import PendingAnswer
from smtphooks.connection.coroutines import WRONG_REACTOR
from smtphooks.connection.runner import HookRunner
from smtphooks.hooks import HOOK_NAMES, HOOKS
from tests.conftest import Logged
from tests.support import Pending

pytestmark = pytest.mark.usefixtures("logged")

REFUSING = [name for name, hook in HOOKS.items() if hook.situation is not None]
TOLD = [name for name in HOOK_NAMES if name not in REFUSING]

CRASH = RuntimeError("crash")

# How a hook ends after its connection has.
EXPECTED = [CancelledError(), asyncio.CancelledError(), ConnectionLost(), SMTPError("No")]


class Group(Exception):
    """As an exception group (PEP 654), which Python has since 3.11; one that other code has made may be empty."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("group")
        self.exceptions = exceptions


class Wrapped(Exception):
    """As what Twisted's HTTP client makes of failures."""

    def __init__(self, *reasons: BaseException) -> None:
        super().__init__("wrapped")
        self.reasons = [Failure(reason) for reason in reasons]


class Harness:
    """
    A runner and its hooks, which are absent unless they are given.

    @ivar told: what C{onError} was told.
    """

    def __init__(self, **given: Any) -> None:
        self.hooks: Any = type("Hooks", (), dict.fromkeys(HOOK_NAMES))
        self.told: list[BaseException] = []
        self.hooks.onError = lambda failure, session: self.told.append(failure.value)
        self.session = Session("mx.test", id="s1", remoteAddress="192.0.2.7")
        self.runner = HookRunner(self.hooks, self.session, **given)


@pytest.fixture
def harness() -> Harness:
    return Harness()


def raiser(error: BaseException) -> Callable[..., Any]:
    def hook(*arguments: Any) -> None:
        raise error

    return hook


# --- calling ---


def test_an_absent_hook_answers_nothing(harness: Harness) -> None:
    assert harness.runner.ask("onHelo", ("client.test", harness.session)) is None


def test_a_hook_gets_the_arguments_and_gives_its_answer(harness: Harness) -> None:
    harness.hooks.onHelo = lambda *arguments: arguments
    assert harness.runner.ask("onHelo", ("client.test", harness.session)) == ("client.test", harness.session)


def test_a_hook_is_looked_up_for_each_event(harness: Harness) -> None:
    """A connection may set hooks of its own."""
    for text in ("one", "other"):
        harness.hooks.onHelo = lambda *arguments, text=text: text
        assert harness.runner.ask("onHelo", ()) == text


def test_the_handler_of_an_extension_stands_for_itself(harness: Harness) -> None:
    assert harness.runner.ask(lambda argument: f"{argument} noted", ("x",)) == "x noted"


def test_what_a_hook_raises_is_its_answer(harness: Harness) -> None:
    harness.hooks.onHelo = raiser(SMTPError("No"))
    answer = harness.runner.ask("onHelo", ())
    assert isinstance(answer, Failure) and answer.check(SMTPError)


def test_a_hook_that_waits_has_a_pending_answer(harness: Harness) -> None:
    harness.hooks.onHelo = pending = Pending()
    answer = harness.runner.ask("onHelo", ())
    assert isinstance(answer, PendingAnswer)
    pending.decide("text")
    assert answer.result == "text"


def test_hooks_run_in_the_context_of_their_connection() -> None:
    variable: ContextVar[str] = ContextVar("variable")
    context = copy_context()
    harness = Harness(context=context)
    harness.hooks.onConnect = lambda session: variable.set("of the connection")
    harness.hooks.onHelo = lambda *arguments: variable.get()
    harness.runner.ask("onConnect", (harness.session,))
    assert harness.runner.ask("onHelo", ()) == context[variable] == "of the connection"
    assert variable.get("not here") == "not here"


def test_a_hook_that_holds_the_reactor_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(slowHook=0.25)
    times = iter([10.0, 10.5])
    monkeypatch.setattr("smtphooks.connection.calling.perf_counter", lambda: next(times))
    harness.hooks.onHelo = lambda *arguments: None
    with capturedLogs() as events:
        harness.runner.ask("onHelo", ())
    assert [eventAsText(event, includeSystem=False, includeTimestamp=False) for event in events] == [
        "hook onHelo held the reactor for 500 ms, and all other connections with it [s1]"
    ]


def test_with_asyncio_hooks_a_coroutine_is_a_task() -> None:
    async def hook(*arguments: Any) -> bool:
        return asyncio.current_task() is not None

    async def main() -> Any:
        harness = Harness(asyncioHooks=True)
        harness.hooks.onHelo = hook
        answer = harness.runner.ask("onHelo", ())
        await asyncio.sleep(0.01)
        return answer.result

    assert asyncio.run(main()) is True


def test_a_canceller_that_raises_is_logged(harness: Harness, logged: Logged) -> None:
    waits: Deferred[None] = Deferred(raiser(RuntimeError("canceller")))
    harness.hooks.onHelo = lambda *arguments: waits
    answer = harness.runner.ask("onHelo", ())
    harness.runner.cancel("onHelo", answer)
    assert len(logged.takeFailures(RuntimeError)) == 1
    assert harness.told == []


# --- answers ---


@pytest.mark.parametrize("hook", REFUSING)
@pytest.mark.parametrize("answer", [None, "text", 0])
def test_an_answer_is_passed_on(hook: str, answer: object, harness: Harness) -> None:
    assert harness.runner.checked(hook, answer) is answer


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_False_is_a_fault_where_other_libraries_refuse_with_it(hook: str, harness: Harness) -> None:
    answer = harness.runner.checked(hook, False)
    mayBe = {"onConnect", "onSecure", "onAuth", "onReset", "onClose", "onError", "onReply"}
    assert (answer is False) if hook in mayBe else answer.check(TypeError)


def test_False_by_the_handler_of_an_extension_is_a_fault(harness: Harness) -> None:
    assert harness.runner.checked(lambda argument: False, False).check(TypeError)


@pytest.mark.parametrize("user", [SMTPError("No"), ValueError, Failure(SMTPError("No")), succeed("ann")])
def test_an_error_or_something_to_await_is_no_user(user: Any, harness: Harness) -> None:
    assert harness.runner.checked("onAuth", AuthResponse(user=user)).check(TypeError)
    if not isinstance(user, Failure):  # which is what a hook has raised
        assert harness.runner.checked("onAuth", user).check(TypeError)
    assert harness.runner.checked("onHelo", user) is user, "it is no user there"


def test_a_coroutine_is_no_user_and_is_closed(harness: Harness) -> None:
    async def coroutine() -> str:
        return "ann"

    user = coroutine()
    assert harness.runner.checked("onAuth", AuthResponse(user=user)).check(TypeError)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        user.send(None)


@pytest.mark.parametrize("answer", ["ann", 5, AuthResponse(user="ann"), AuthResponse(), None])
def test_any_other_user_is_passed_on(answer: object, harness: Harness) -> None:
    assert harness.runner.checked("onAuth", answer) is answer


def test_a_group_of_refusals_is_the_first_of_them(harness: Harness) -> None:
    first = SMTPError("first")
    group = Failure(Group(Group(first), SMTPError("second")))
    assert harness.runner.checked("onHelo", group).value is first


@pytest.mark.parametrize("error", [SMTPError("No"), CRASH, Group(CRASH), Group(SMTPError("No"), CRASH), Group()])
def test_any_other_failure_is_passed_on(error: Exception, harness: Harness) -> None:
    failure = Failure(error)
    assert harness.runner.checked("onHelo", failure) is failure


# --- failures ---


@pytest.mark.parametrize("hook", [*REFUSING, lambda argument: None])
def test_a_refusal_is_the_hooks_own_word(hook: object, harness: Harness) -> None:
    error = SMTPError("No", 550, "5.7.1")
    assert harness.runner.refusalFor(hook, Failure(error)) is error
    assert harness.told == []


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_of_a_fault_the_client_learns_nothing_the_log_all(hook: str, harness: Harness, logged: Logged) -> None:
    error = RuntimeError("secret path")
    refusal = harness.runner.refusalFor(hook, Failure(error))
    assert (refusal.responseCode, refusal.enhancedCode) == (451, "4.3.0")
    assert "secret" not in refusal.message
    (event,) = logged
    assert (event["hook"], event["session"], event["peer"], event["hint"]) == (hook, "s1", "192.0.2.7", "")
    assert logged.takeFailures(RuntimeError)[0].value is error
    assert harness.told == ([] if hook == "onError" else [error]), "onError is not told of itself"


def test_what_a_hook_needs_and_cannot_have_is_one_line_without_a_traceback(harness: Harness, logged: Logged) -> None:
    error = Unavailable("the database is down")
    assert harness.runner.refusalFor("onRcptTo", Failure(error)).responseCode == 451
    assert ["log_failure" in event for event in logged] == [False]
    assert logged.takeTexts() == ["hook onRcptTo cannot decide: the database is down [s1]"]
    assert harness.told == [error]


@pytest.mark.parametrize("hook", TOLD)
def test_a_hook_that_is_only_told_cannot_refuse(hook: str, harness: Harness, logged: Logged) -> None:
    assert harness.runner.refusalFor(hook, Failure(SMTPError("No"))).responseCode == 451
    assert len(logged.takeFailures(SMTPError)) == 1


def test_code_of_asyncio_without_its_loop_gets_a_hint(harness: Harness, logged: Logged) -> None:
    harness.runner.refusalFor("onHelo", Failure(RuntimeError("no running event loop")))
    assert [event["hint"] for event in logged] == [f" ({WRONG_REACTOR})"]
    logged.clear()


def test_an_on_error_that_crashes_is_logged_once(harness: Harness, logged: Logged) -> None:
    harness.hooks.onError = raiser(ValueError("in onError"))
    harness.runner.refusalFor("onHelo", Failure(RuntimeError("crash")))
    assert len(logged.takeFailures(RuntimeError)) == len(logged.takeFailures(ValueError)) == 1


# --- answers that come too late ---


@pytest.mark.parametrize(
    "result",
    [None, "text", *map(Failure, EXPECTED), Failure(Group(*EXPECTED)), Failure(Wrapped(CRASH, ConnectionLost()))],
)
def test_a_late_end_that_is_expected_is_not_logged(result: object, harness: Harness) -> None:
    harness.runner.logLate("onData", result)
    assert harness.told == []


@pytest.mark.parametrize("error", [CRASH, Group(CRASH, SMTPError("No")), Group(), Wrapped(CRASH)])
def test_any_other_late_failure_is_logged(error: Exception, harness: Harness, logged: Logged) -> None:
    harness.runner.logLate("onData", Failure(error))
    assert harness.told == [error]
    assert len(logged.takeFailures(type(error))) == 1


@pytest.mark.parametrize("error", [ConnectionLost(), SMTPError("No")])
def test_for_on_close_the_end_of_the_connection_is_no_excuse(
    error: Exception, harness: Harness, logged: Logged
) -> None:
    harness.runner.logLate("onClose", Failure(error))
    assert len(logged.takeFailures(type(error))) == 1


@pytest.mark.parametrize("error", [CancelledError(), asyncio.CancelledError()])
def test_an_on_close_that_was_cancelled_is_not_logged(error: BaseException, harness: Harness) -> None:
    harness.runner.logLate("onClose", Failure(error))
    assert harness.told == []


def test_a_hook_is_cancelled_quietly(harness: Harness) -> None:
    harness.hooks.onHelo = pending = Pending()
    harness.runner.cancel("onHelo", harness.runner.ask("onHelo", ()))
    assert (pending.cancelled, harness.told) == (1, [])


def test_what_a_cancelled_hook_still_raises_is_logged(harness: Harness, logged: Logged) -> None:
    waits: Deferred[None] = Deferred()
    cleanup: Deferred[None] = Deferred()

    async def hook(*arguments: Any) -> None:
        try:
            await waits
        finally:
            await cleanup

    harness.hooks.onHelo = hook
    harness.runner.cancel("onHelo", harness.runner.ask("onHelo", ()))
    assert harness.told == []
    cleanup.errback(CRASH)
    assert harness.told == [CRASH]
    assert len(logged.takeFailures(RuntimeError)) == 1


# --- hooks that are only told ---


def test_a_hook_that_is_told_is_not_waited_for_and_its_answer_ignored(harness: Harness) -> None:
    harness.hooks.onReset = pending = Pending()
    harness.runner.notify("onReset", harness.session)
    assert pending.calls == [(harness.session,)]
    pending.decide(False)
    assert harness.told == []


@pytest.mark.parametrize("error", [RuntimeError("crash"), SMTPError("No"), ConnectionLost()])
@pytest.mark.parametrize("isLate", [False, True])
def test_what_it_raises_is_logged(error: Exception, isLate: bool, harness: Harness, logged: Logged) -> None:
    pending = Pending()
    harness.hooks.onReset = pending if isLate else raiser(error)
    harness.runner.notify("onReset", harness.session)
    if isLate:
        assert harness.told == []
        pending.decide(error)
    assert harness.told == [error]
    assert len(logged.takeFailures(type(error))) == 1


@pytest.mark.parametrize("answer", [None, "text", False, Failure(CancelledError()), Failure(asyncio.CancelledError())])
def test_an_end_by_cancellation_is_no_failure(answer: object, harness: Harness) -> None:
    harness.runner.logFailure("onReset", answer)
    assert harness.told == []


# --- lines of the log ---


def test_a_hook_that_timed_out_is_a_warning(harness: Harness) -> None:
    with capturedLogs() as events:
        harness.runner.logTimedOut("onHelo")
    (event,) = events
    assert (event["log_level"].name, event["hook"], event["peer"]) == ("warn", "onHelo", "192.0.2.7")
    assert eventAsText(event, includeSystem=False, includeTimestamp=False) == "hook onHelo took too long [s1]"


def test_a_wrong_answer_is_an_error_with_its_text(harness: Harness, logged: Logged) -> None:
    harness.runner.logFault("onData answered {braces}")
    assert (logged[0]["session"], logged[0]["peer"]) == ("s1", "192.0.2.7")
    assert logged.takeTexts() == ["onData answered {braces} [s1]"]
