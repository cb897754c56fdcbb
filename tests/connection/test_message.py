"""The message on its way from the wire into onData: what is asked for, and when the answer is there."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from smtphooks import SMTPError
from smtphooks.connection.message import MessageReceiver, Stage
from smtphooks.connection.runner import HookRunner
from smtphooks.dialogue.steps import DiscardChunk, ReceiveChunk, ReceiveMessage
from smtphooks.options import makeOptions
from smtphooks.replies import START_MESSAGE
from smtphooks.session import Session
from smtphooks.syntax.wire import Wire
from tests.support import Mailbox, Pending, connect

pytestmark = pytest.mark.usefixtures("logged")


class Parts:
    """A receiver, its wire, and the hook that gets the message."""

    def __init__(self, onData: Any) -> None:
        hooks = type("Hooks", (), {"onData": staticmethod(onData), "onError": None})
        self.wire = Wire()
        self.woken = 0
        runner = HookRunner(hooks, Session("mx.test"))
        self.message = MessageReceiver(self.wire, runner, makeOptions({"name": "mx.test"}, []), self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def read(self) -> None:
        while self.message.stage is Stage.READING and self.message.read():
            continue


def test_a_message_is_answered_when_it_is_whole_and_decided() -> None:
    answer: Deferred[str] = Deferred()
    parts = Parts(lambda stream, session: answer)
    parts.message.beginMessage(ReceiveMessage(START_MESSAGE))
    parts.wire.feed(b"text\r\n")
    parts.read()
    assert (parts.message.poll(), parts.message.stage) == (False, Stage.READING)
    parts.wire.feed(b".\r\n")
    parts.read()
    assert (parts.message.poll(), parts.message.stage) == (False, Stage.DECIDING)
    answer.callback("queued")
    assert parts.woken
    assert parts.message.poll()
    verdict = parts.message.takeAnswer()
    assert verdict is not None
    assert (verdict.results, verdict.octets, parts.message.delivery) == (("queued",), 6, None)
    assert not parts.message.poll(), "it is taken once"


def test_a_chunk_that_is_not_the_last_is_answered_without_a_verdict() -> None:
    parts = Parts(lambda stream, session: Deferred())
    parts.message.beginChunk(ReceiveChunk(4, first=True, last=False))
    parts.wire.feed(b"text")
    parts.read()
    assert parts.message.poll()
    assert parts.message.takeAnswer() is None
    assert parts.message.delivery is not None


def test_a_message_is_refused_with_the_chunk_behind_which_its_hook_has_refused_it() -> None:
    def onData(stream: Any, session: Any) -> None:
        raise SMTPError("No")

    parts = Parts(onData)
    parts.message.beginChunk(ReceiveChunk(4, first=True, last=False))
    parts.wire.feed(b"text")
    parts.read()
    assert parts.message.poll()
    verdict = parts.message.takeAnswer()
    assert verdict is not None
    assert isinstance(verdict.results[0], SMTPError)


def test_an_abandoned_message_is_answered_when_its_hook_has_ended() -> None:
    answer: Deferred[None] = Deferred(lambda deferred: None)
    parts = Parts(lambda stream, session: answer)
    parts.message.beginChunk(ReceiveChunk(0, first=True, last=False))
    assert parts.message.poll()
    parts.message.takeAnswer()
    parts.message.abandon()
    assert parts.message.poll(), "it was cancelled"
    assert parts.message.takeAnswer() is None


def test_octets_of_no_message_are_counted_and_dropped() -> None:
    parts = Parts(lambda stream, session: None)
    parts.message.discardChunk(DiscardChunk(4))
    parts.wire.feed(b"text")
    parts.read()
    assert parts.message.poll()
    assert (parts.message.takeAnswer(), parts.message.octets) == (None, 4)


def test_octets_of_a_refused_chunk_are_no_part_of_the_message() -> None:
    mailbox = Mailbox()
    client = connect(onData=mailbox.onData)
    client.say("EHLO client.test", "MAIL FROM:<sender@client.test>", "RCPT TO:<user@mx.test>")
    client.feed(b"BDAT 5\r\nHello")
    client.session.disabledCommands = ["BDAT"]
    client.feed(b"BDAT 6\r\nhidden")
    client.session.disabledCommands = None
    client.feed(b"BDAT 6 LAST\r\n world")
    assert client.codes() == [250, 502, 250]
    assert mailbox == [b"Hello world"]


def test_421_while_a_refused_chunk_is_read_comes_behind_its_reply() -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say("EHLO client.test", "MAIL FROM:<sender@client.test>", "RCPT TO:<user@mx.test>")
    client.feed(b"BDAT 5\r\nHello")
    client.session.disabledCommands = ["BDAT"]
    client.feed(b"BDAT 12\r\nNOOP\r\n")
    onData.decide(SMTPError("Too busy", 421))
    client.feed(b"NOOP\r\n")
    assert client.codes() == [250, 502, 421]
    assert client.isClosed
