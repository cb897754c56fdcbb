"""Delivery by itself: when onData is heard, and what the server makes of a message's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from smtphooks import SMTPError, replies
from smtphooks.connection.delivery import Delivery
from smtphooks.connection.runner import HookRunner
from smtphooks.options import makeOptions
from smtphooks.session import Session
from tests.conftest import Logged
from tests.support import connect

pytestmark = pytest.mark.usefixtures("logged")

REFUSED = SMTPError("Mailbox full", 552)


def delivery(onData: Callable[..., Any] | None = None, recipients: int = 1, **given: Any) -> Delivery:
    """A message that onData was called for; what is given are options."""
    hooks = type("Hooks", (), {"onData": staticmethod(onData) if onData else None, "onError": None})
    runner = HookRunner(hooks, Session("mx.test"))
    one = Delivery(runner, makeOptions({"name": "mx.test", **given}, []), recipients, lambda: None)
    one.begin(lambda: None)
    return one


def test_without_a_hook_it_is_decided_at_once() -> None:
    one = delivery()
    assert one.poll()
    assert one.results() == (None,)


def test_the_answer_of_a_pending_hook_waits_until_it_is_pulled() -> None:
    answer: Deferred[str] = Deferred()
    woken: list[bool] = []
    hooks = type("Hooks", (), {"onData": staticmethod(lambda stream, session: answer)})
    one = Delivery(HookRunner(hooks, Session("mx.test")), makeOptions({"name": "mx.test"}, []), 1, lambda: None)
    one.begin(lambda: woken.append(True))
    assert not one.poll()
    answer.callback("queued")
    assert (woken, one.isDecided) == ([True], False)
    assert one.poll()
    assert one.results() == ("queued",)


def test_a_whole_message_has_a_result_for_each_recipient_with_lmtp_alone() -> None:
    for lmtp, results in ((True, ("text",) * 3), (False, ("text",))):
        one = delivery(lambda stream, session: "text", 3, lmtp=lmtp)
        one.finish()
        assert one.poll()
        assert one.results() == results


def test_the_results_keep_their_number_whatever_the_hook_does_to_the_envelope() -> None:
    one = delivery(lambda stream, session: session.envelope.rcptTo.append("x"), 2, lmtp=True)
    one.finish()
    assert one.poll()
    assert one.results() == (None, None)


def test_a_fault_in_an_answer_is_logged(logged: Logged) -> None:
    one = delivery(lambda stream, session: ["one", "two"], 3, lmtp=True)
    one.finish()
    assert one.poll()
    assert len(one.results()) == 3
    assert logged.takeTexts() == [f"onData answered 2 results for 3 recipients [{one._runner.session.id}]"]


# --- faults that the server finds ---


@pytest.mark.parametrize("rejectOversized", [True, False])
def test_an_oversized_message_is_refused_if_it_is_to_be(rejectOversized: bool) -> None:
    one = delivery(size=3, rejectOversized=rejectOversized)
    one.stream.append(b"text")
    assert one.fault is (replies.TOO_LARGE if rejectOversized else None)


def test_a_bare_newline_fails_the_stream_once_and_outweighs_the_size() -> None:
    one = delivery(size=3)
    one.refuseBareNewline()
    one.stream.append(b"text")
    one.refuseBareNewline()
    assert one.fault is replies.BARE_NEWLINE


def test_a_refusal_counts_as_one_and_nothing_else_does() -> None:
    def refuse(stream: Any, session: Any) -> None:
        raise REFUSED

    for hook, isRefused in [(refuse, True), (None, False), (lambda *_: "text", False), (lambda *_: [REFUSED], False)]:
        assert delivery(hook).isRefused is isRefused


def test_a_hook_that_times_out_is_cancelled_and_its_message_refused_for_now() -> None:
    cancelled: list[Any] = []
    one = delivery(lambda stream, session: Deferred(cancelled.append))
    one.timeOut()
    assert (len(cancelled), one.isDecided, one.isRefused) == (1, True, True)
    [result] = one.results()
    assert isinstance(result, SMTPError)
    assert result.responseCode == 451


# --- a message that will never be whole ---


def test_a_hook_that_waits_for_something_else_is_cancelled() -> None:
    cancelled: list[Any] = []
    one = delivery(lambda stream, session: Deferred(cancelled.append))
    one.cut(Failure(ConnectionLost()))
    assert len(cancelled) == 1


def test_a_hook_that_waits_for_its_message_learns_of_it_there() -> None:
    reasons: list[Any] = []

    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        except ConnectionLost as reason:
            reasons.append(type(reason))

    one = delivery(onData)
    one.cut(Failure(ConnectionLost()))
    assert reasons == [ConnectionLost]


def test_what_a_hook_raises_over_a_cut_message_is_no_fault_of_it() -> None:
    async def onData(stream: Any, session: Any) -> None:
        await stream.read()

    one = delivery(onData)
    one.cut(Failure(ConnectionLost()))
    assert one.poll()
    assert not one.isRefused


def test_a_whole_message_cannot_be_cut() -> None:
    cancelled: list[Any] = []
    one = delivery(lambda stream, session: Deferred(cancelled.append))
    one.finish()
    one.cut(Failure(ConnectionLost()))
    assert cancelled == []


def test_without_a_hook_there_is_nothing_to_cancel() -> None:
    one = delivery()
    one.cut(Failure(ConnectionLost()))
    assert one.isDecided


# --- a hook that fails over a message that the server rejects anyway ---


@pytest.mark.parametrize("begin", ["DATA", "BDAT 6 LAST"])
def test_a_crash_over_the_end_of_an_oversized_message_does_not_hide_that_it_is_too_large(
    begin: str, logged: Logged
) -> None:
    async def onData(stream: Any, session: Any) -> None:
        await stream.read()
        raise ValueError("half a message makes no sense")

    client = connect(size=3, onData=onData)
    client.say("EHLO client.test", "MAIL FROM:<sender@client.test>", "RCPT TO:<user@mx.test>")
    client.feed(begin.encode() + b"\r\ntext\r\n" + b".\r\n" * (begin == "DATA"))
    assert client.codes()[-1] == 552
    assert len(logged.takeFailures(ValueError)) == 1, "the operator learns of it nevertheless"


def test_a_refusal_of_an_oversized_message_is_the_hooks() -> None:
    async def onData(stream: Any, session: Any) -> None:
        await stream.read()
        raise SMTPError("Not from you", 554)

    client = connect(size=3, onData=onData)
    client.say("EHLO client.test", "MAIL FROM:<sender@client.test>", "RCPT TO:<user@mx.test>")
    assert client.say("DATA", "text", ".")[-1].startswith("554 ")
