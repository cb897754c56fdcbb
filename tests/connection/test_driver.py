"""What the driver makes of the hooks: which step comes next, and when."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from smtphooks import SMTPError
from smtphooks.connection.driver import Driver
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.state import ConnectionState, Phase
from smtphooks.dialogue.builtin import builtInExtensions
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.extensions import Extensions
from smtphooks.dialogue.steps import Step
from smtphooks.options import makeOptions
from smtphooks.replies import Reply
from smtphooks.session import Session
from tests.conftest import Logged
from tests.support import Pending

pytestmark = pytest.mark.usefixtures("logged")


class Hooks:
    """Absent, all of them, until one is set."""

    onConnect: Any = None
    onHelo: Any = None
    onMailFrom: Any = None
    onRcptTo: Any = None
    onReset: Any = None
    onClose: Any = None
    onError: Any = None


class Harness:
    """A driver between a real dialogue and some hooks; how often it was woken is counted."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = Hooks()
        for name, hook in hooks.items():
            setattr(self.hooks, name, hook)
        options = makeOptions({"name": "mx.test", "authOptional": True}, [])
        session = Session("mx.test")
        self.woken = 0
        self.state = ConnectionState()
        self.dialogue = Dialogue(options, Extensions(builtInExtensions(options)), session)
        self.driver = Driver(self.dialogue, HookRunner(self.hooks, session), self.state, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def say(self, line: bytes) -> Step | None:
        return self.driver.advance(self.dialogue.receiveLine, line)

    def greet(self) -> None:
        self.driver.advance(self.dialogue.open)
        self.say(b"EHLO client.test")


def codeOf(step: Step | None) -> int:
    assert isinstance(step, Reply)
    return step.code


@pytest.fixture
def harness() -> Harness:
    one = Harness()
    one.greet()
    return one


MAIL = b"MAIL FROM:<sender@client.test>"


def test_absent_hooks_are_passed_over() -> None:
    harness = Harness()
    assert codeOf(harness.driver.advance(harness.dialogue.open)) == 220
    assert codeOf(harness.say(b"EHLO client.test")) == 250


async def _text() -> str:
    return "by coroutine"


@pytest.mark.parametrize("answer", [lambda: "directly", _text])
def test_a_hook_that_knows_its_answer_at_once_is_not_pending(answer: Any, harness: Harness) -> None:
    harness.hooks.onMailFrom = lambda address, session: answer()
    reply = harness.say(MAIL)
    assert isinstance(reply, Reply)
    assert reply.lines[0] in ("directly", "by coroutine")
    assert (harness.driver.isPending, harness.driver.hasAnswer, harness.woken) == (False, False, 0)


def test_the_answer_of_a_pending_hook_wakes_and_waits_until_it_is_pulled(harness: Harness) -> None:
    harness.hooks.onMailFrom = pending = Pending()
    assert harness.say(MAIL) is None
    assert (harness.driver.isPending, harness.driver.hasAnswer) == (True, False)
    pending.decide("later")
    assert (harness.driver.isPending, harness.driver.hasAnswer, harness.woken) == (False, True, 1)
    assert codeOf(harness.driver.resume()) == 250
    assert not harness.driver.hasAnswer


def test_all_hooks_that_a_command_asks_are_asked_one_after_the_other(harness: Harness) -> None:
    harness.hooks.onHelo, harness.hooks.onReset = Pending(), Pending()
    harness.say(MAIL)
    assert harness.say(b"EHLO again.test") is None
    assert (len(harness.hooks.onHelo.calls), len(harness.hooks.onReset.calls)) == (1, 0)
    harness.hooks.onHelo.decide()
    assert harness.driver.resume() is None
    harness.hooks.onReset.decide()
    assert codeOf(harness.driver.resume()) == 250


def test_a_hook_that_has_timed_out_is_cancelled_and_its_command_refused(harness: Harness) -> None:
    harness.hooks.onMailFrom = pending = Pending()
    harness.say(MAIL)
    with capturedLogs() as events:
        assert harness.driver.timeOut()
    assert (pending.cancelled, harness.driver.hasAnswer) == (1, True)
    assert codeOf(harness.driver.resume()) == 451
    assert [event["hook"] for event in events] == ["onMailFrom"]


def test_a_hook_that_is_only_told_refuses_nothing_by_timing_out(harness: Harness) -> None:
    harness.hooks.onReset = Pending()
    harness.say(MAIL)
    harness.say(b"RSET")
    assert harness.driver.timeOut()
    assert codeOf(harness.driver.resume()) == 250


def test_nothing_times_out_while_no_hook_is_pending(harness: Harness) -> None:
    assert not harness.driver.timeOut()


def test_what_a_hook_does_after_it_has_timed_out_is_only_logged(harness: Harness, logged: Logged) -> None:
    never: Deferred[None] = Deferred()
    inTheEnd: Deferred[None] = Deferred()

    async def stubborn(address: Any, session: Any) -> None:
        try:
            await never
        except CancelledError:
            await inTheEnd

    harness.hooks.onMailFrom = stubborn
    harness.say(MAIL)
    harness.driver.timeOut()
    harness.driver.resume()
    inTheEnd.errback(RuntimeError("late"))
    assert not harness.driver.hasAnswer
    assert len(logged.takeFailures(RuntimeError)) == 1


def test_when_the_connection_is_over_nothing_is_said_and_no_hook_is_asked(harness: Harness) -> None:
    harness.hooks.onMailFrom = pending = Pending()
    harness.state.phase = Phase.CLOSING
    assert harness.say(MAIL) is None
    assert (pending.calls, harness.driver.isPending) == ([], False)


@pytest.mark.parametrize("result", [None, SMTPError("No"), RuntimeError("crash")])
def test_a_hook_that_ends_its_connection_decides_nothing(result: Any, harness: Harness, logged: Logged) -> None:
    def hook(address: Any, session: Any) -> None:
        harness.state.phase = Phase.CLOSING
        if result is not None:
            raise result

    harness.hooks.onMailFrom = hook
    assert harness.say(MAIL) is None
    assert len(logged.takeFailures(RuntimeError)) == isinstance(result, RuntimeError)


def test_a_hook_that_ends_its_connection_and_then_waits_is_cancelled(harness: Harness) -> None:
    pending = Pending()

    def hook(*arguments: Any) -> Any:
        harness.state.phase = Phase.LOST
        return pending(*arguments)

    harness.hooks.onMailFrom = hook
    assert harness.say(MAIL) is None
    assert (pending.cancelled, harness.driver.isPending) == (1, False)


def test_a_hook_that_aborts_its_connection_and_then_waits_is_cancelled_once(harness: Harness) -> None:
    """It may take its time to clean up, and the loss of the connection is yet to come."""
    cleanup: Deferred[None] = Deferred()
    cancelled: list[str] = []

    async def hook(*arguments: Any) -> None:
        harness.state.phase = Phase.CLOSING
        try:
            await Deferred()
        except CancelledError:
            cancelled.append("hook")
            await cleanup
            cancelled.append("cleaned up")

    harness.hooks.onMailFrom = hook
    assert harness.say(MAIL) is None
    harness.state.phase = Phase.LOST
    harness.driver.cancel()
    assert (cancelled, harness.driver.isPending) == (["hook"], True)
    cleanup.callback(None)
    assert (cancelled, harness.driver.isPending) == (["hook", "cleaned up"], False)


def test_what_on_error_does_may_end_the_connection(harness: Harness, logged: Logged) -> None:
    def crash(address: Any, session: Any) -> None:
        raise RuntimeError("crash")

    def onError(failure: Any, session: Any) -> None:
        harness.state.phase = Phase.CLOSING

    harness.hooks.onMailFrom, harness.hooks.onError = crash, onError
    assert harness.say(MAIL) is None
    assert logged.takeFailures(RuntimeError)


def test_a_crash_within_the_dialogue_is_a_refusal_that_closes(harness: Harness, logged: Logged) -> None:
    def crash(*arguments: Any) -> Step:
        raise RuntimeError("crash")

    reply = harness.driver.advance(crash)
    assert isinstance(reply, Reply)
    assert (reply.code, reply.closes) == (451, True)
    assert logged.takeFailures(RuntimeError)


@pytest.mark.parametrize("phase", [Phase.CLOSING, Phase.LOST])
def test_a_crash_behind_the_end_is_logged(phase: Phase, harness: Harness, logged: Logged) -> None:
    harness.hooks.onMailFrom = pending = Pending()
    harness.say(MAIL)
    harness.state.phase = phase
    pending.decide(RuntimeError("late"))
    harness.driver.dropAnswer()
    assert (harness.driver.isPending, harness.driver.hasAnswer) == (False, False)
    assert len(logged.takeFailures(RuntimeError)) == 1


def test_on_close_is_waited_for_like_any_hook(harness: Harness) -> None:
    harness.hooks.onClose = pending = Pending()
    harness.state.phase = Phase.LOST
    harness.driver.callOnClose()
    assert (harness.driver.isPending, harness.driver.hasCalledOnClose) == (True, True)
    assert harness.driver.timeOut()
    assert (pending.cancelled, harness.driver.isPending) == (1, False)


def test_on_close_wakes_when_it_has_ended(harness: Harness) -> None:
    harness.hooks.onClose = pending = Pending()
    harness.state.phase = Phase.LOST
    harness.driver.callOnClose()
    assert harness.woken == 0
    pending.decide()
    assert (harness.woken, harness.driver.isPending) == (1, False)


def test_a_crash_of_on_close_is_logged(harness: Harness, logged: Logged) -> None:
    harness.hooks.onClose = pending = Pending()
    harness.state.phase = Phase.LOST
    harness.driver.callOnClose()
    pending.decide(RuntimeError("late"))
    harness.driver.dropAnswer()
    assert len(logged.takeFailures(RuntimeError)) == 1
