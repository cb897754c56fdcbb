"""What the exchange makes of the hooks: which step comes next, and when."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from smtphooks import SMTPError
from smtphooks.connection.driver import Exchange
from smtphooks.connection.runner import HookRunner
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
    """An exchange between a real dialogue and some hooks; what was resumed is kept."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = Hooks()
        for name, hook in hooks.items():
            setattr(self.hooks, name, hook)
        options = makeOptions({"name": "mx.test", "authOptional": True}, [])
        session = Session("mx.test")
        self.resumed: list[Step | None] = []
        self.dialogue = Dialogue(options, Extensions(builtInExtensions(options)), session)
        self.exchange = Exchange(self.dialogue, HookRunner(self.hooks, session), self.resumed.append)

    def say(self, line: bytes) -> Step | None:
        return self.exchange.tell(self.dialogue.receive, line)

    def greet(self) -> None:
        self.exchange.tell(self.dialogue.open)
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
    assert codeOf(harness.exchange.tell(harness.dialogue.open)) == 220
    assert codeOf(harness.say(b"EHLO client.test")) == 250


async def _text() -> str:
    return "by coroutine"


@pytest.mark.parametrize("answer", [lambda: "directly", _text])
def test_a_hook_that_knows_its_answer_at_once_makes_nobody_wait(answer: Any, harness: Harness) -> None:
    harness.hooks.onMailFrom = lambda address, session: answer()
    reply = harness.say(MAIL)
    assert isinstance(reply, Reply)
    assert reply.lines[0] in ("directly", "by coroutine")
    assert (harness.exchange.isWaiting, harness.resumed) == (False, [])


def test_a_hook_that_decides_later_resumes_with_the_step(harness: Harness) -> None:
    harness.hooks.onMailFrom = pending = Pending()
    assert harness.say(MAIL) is None
    assert harness.exchange.isWaiting
    pending.decide("later")
    assert not harness.exchange.isWaiting
    (step,) = harness.resumed
    assert codeOf(step) == 250


def test_all_hooks_that_a_command_asks_are_asked_one_after_the_other(harness: Harness) -> None:
    harness.hooks.onHelo, harness.hooks.onReset = Pending(), Pending()
    harness.say(MAIL)
    assert harness.say(b"EHLO again.test") is None
    assert (len(harness.hooks.onHelo.calls), len(harness.hooks.onReset.calls)) == (1, 0)
    harness.hooks.onHelo.decide()
    assert harness.resumed == [None]
    harness.hooks.onReset.decide()
    assert codeOf(harness.resumed[1]) == 250


def test_an_overdue_hook_is_cancelled_and_its_command_refused(harness: Harness) -> None:
    harness.hooks.onMailFrom = pending = Pending()
    harness.say(MAIL)
    with capturedLogs() as events:
        assert harness.exchange.overdue()
    assert (pending.cancelled, harness.resumed) == (1, [])
    assert codeOf(harness.exchange.refuse()) == 451
    assert [event["hook"] for event in events] == ["onMailFrom"]


def test_an_overdue_hook_that_only_learns_of_something_refuses_nothing(harness: Harness) -> None:
    harness.hooks.onReset = Pending()
    harness.say(MAIL)
    harness.say(b"RSET")
    assert harness.exchange.overdue()
    assert codeOf(harness.exchange.refuse()) == 250


def test_nothing_is_overdue_while_nobody_is_asked(harness: Harness) -> None:
    assert not harness.exchange.overdue()


def test_what_an_overdue_hook_still_does_is_of_interest_to_the_log_alone(harness: Harness, logged: Logged) -> None:
    never: Deferred[None] = Deferred()
    inTheEnd: Deferred[None] = Deferred()

    async def stubborn(address: Any, session: Any) -> None:
        try:
            await never
        except CancelledError:
            await inTheEnd

    harness.hooks.onMailFrom = stubborn
    harness.say(MAIL)
    harness.exchange.overdue()
    harness.exchange.refuse()
    inTheEnd.errback(RuntimeError("late"))
    assert harness.resumed == []
    assert len(logged.takeFailures(RuntimeError)) == 1


def test_when_it_is_over_nothing_is_said_and_no_hook_is_asked(harness: Harness) -> None:
    harness.hooks.onMailFrom = pending = Pending()
    harness.exchange.isOver = True
    assert harness.say(MAIL) is None
    assert (pending.calls, harness.exchange.isWaiting) == ([], False)


@pytest.mark.parametrize("result", [None, SMTPError("No"), RuntimeError("crash")])
def test_a_hook_within_which_it_is_over_has_no_say_any_more(result: Any, harness: Harness, logged: Logged) -> None:
    def hook(address: Any, session: Any) -> None:
        harness.exchange.isOver = True
        if result is not None:
            raise result

    harness.hooks.onMailFrom = hook
    assert harness.say(MAIL) is None
    assert len(logged.takeFailures(RuntimeError)) == isinstance(result, RuntimeError)


def test_it_may_be_over_with_what_on_error_does(harness: Harness, logged: Logged) -> None:
    def crash(address: Any, session: Any) -> None:
        raise RuntimeError("crash")

    def onError(failure: Any, session: Any) -> None:
        harness.exchange.isOver = True

    harness.hooks.onMailFrom, harness.hooks.onError = crash, onError
    assert harness.say(MAIL) is None
    assert logged.takeFailures(RuntimeError)


def test_a_crash_within_the_dialogue_is_a_refusal_that_closes(harness: Harness, logged: Logged) -> None:
    def crash(*arguments: Any) -> Step:
        raise RuntimeError("crash")

    reply = harness.exchange.tell(crash)
    assert isinstance(reply, Reply)
    assert (reply.code, reply.closes) == (451, True)
    assert logged.takeFailures(RuntimeError)


def test_on_close_is_waited_for_like_any_hook(harness: Harness) -> None:
    harness.hooks.onClose = pending = Pending()
    harness.exchange.end()
    ended: list[bool] = []
    harness.exchange.tellClosed(lambda: ended.append(True))
    assert harness.exchange.isWaiting
    assert harness.exchange.overdue()
    assert (pending.cancelled, harness.exchange.isWaiting) == (1, False)
    assert not ended


def test_it_is_told_when_on_close_has_ended(harness: Harness) -> None:
    harness.hooks.onClose = pending = Pending()
    ended: list[bool] = []
    harness.exchange.tellClosed(lambda: ended.append(True))
    assert not ended
    pending.decide()
    assert ended
    harness.hooks.onClose = None
    harness.exchange.tellClosed(lambda: ended.append(True))
    assert ended == [True, True]
