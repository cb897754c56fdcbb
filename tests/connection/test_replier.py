"""What the server says, and what the event log, C{onError} and the transcript learn of it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from smtphooks import Auth, Session, SMTPError, replies
from smtphooks.connection.eventlog import EventLog, LineLimits
from smtphooks.connection.replier import Replier
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.transcript import Transcript
from smtphooks.connection.writer import ReplyWriter
from smtphooks.dialogue.builtin import builtInExtensions
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.extensions import Extensions
from smtphooks.dialogue.steps import Ask, Challenge
from smtphooks.hooks import HOOK_NAMES
from smtphooks.options import makeOptions
from smtphooks.replies import BROKEN_PROTOCOL, OK, Reply
from smtphooks.session import Address, Envelope
from smtphooks.syntax.networks import TrustedPeers
from tests.conftest import Logged
from tests.support import ENVELOPE, HELLO, LMTP_ENVELOPE, MAIL, RCPT, Transport, connect

pytestmark = pytest.mark.usefixtures("logged")

NO = Reply(550, "No", "5.7.1")
LATER = Reply(450, "Later", "4.2.0")
ANN, BOB = Address("ann@mx.test"), Address("bob@mx.test")


class Harness:
    """
    A replier with real parts; the hooks accept, and C{onError} writes down what it is told.

    @ivar told: what C{onError} was told.
    """

    def __init__(self, debugs: bool = False, **given: Any) -> None:
        options = makeOptions({"name": "mx.test", "authOptional": True, **given})
        self.session = Session("mx.test", options.lmtp, remoteAddress="192.0.2.7")
        self.dialogue = Dialogue(options, Extensions(builtInExtensions(options)), self.session)
        self.told: list[BaseException] = []
        hooks: Any = type("Hooks", (), dict.fromkeys(HOOK_NAMES))
        hooks.onError = lambda failure, session: self.told.append(failure.value)
        transcript = Transcript(self.session, TrustedPeers(True), lambda verb: True, lambda name: True)
        self.transport = Transport()
        self.writer = ReplyWriter(self.transport, lambda: None)
        self.replier = Replier(
            options,
            self.dialogue,
            HookRunner(hooks, self.session),
            self.writer,
            EventLog(self.session, options, LineLimits(Clock().seconds)),
            transcript if debugs else None,
        )
        self.dialogue.open()
        self.dialogue.answer(None)

    def lead(self, *lines: str) -> None:
        """Let the dialogue come to where it stands behind these lines; the hooks accept."""
        for line in lines:
            step = self.dialogue.receiveLine(line.encode())
            while isinstance(step, Ask):
                step = self.dialogue.answer(None)

    def refuse(self, line: str) -> Reply:
        """Let the hook of a command refuse it."""
        assert isinstance(self.dialogue.receiveLine(line.encode()), Ask)
        step = self.dialogue.refuse(SMTPError("No", 550, "5.7.1"))
        assert isinstance(step, Reply)
        return step

    def said(self) -> list[str]:
        """The lines that the client gets."""
        self.writer.flush()
        return self.transport.value().decode().splitlines()


@pytest.fixture
def harness() -> Harness:
    return Harness()


def refusals(events: Any) -> list[tuple[Any, ...]]:
    """What the event log says of refusals: verb, code, by, sender, recipient."""
    return [tuple(event[name] for name in ("verb", "code", "by", "sender", "recipient")) for event in events]


# --- octets ---


def test_replies_are_gathered_in_order(harness: Harness) -> None:
    harness.replier.put(OK)
    harness.replier.challenge(Challenge(b"334 \r\n"))
    harness.replier.reply(NO)
    assert harness.transport.writes == []
    assert harness.said() == ["250 2.0.0 OK", "334 ", "550 5.7.1 No"]


def test_a_reply_is_encoded_as_this_client_may_get_it() -> None:
    harness = Harness(hideENHANCEDSTATUSCODES=True)
    harness.replier.put(OK)
    harness.replier.reply(Reply(550, "Nö", "5.7.1"))
    assert harness.said() == ["250 OK", "550 N?"]


def test_the_transcript_shows_replies_but_no_challenge() -> None:
    harness = Harness(debugs=True, logRefusals=False)
    with capturedLogs() as events:
        harness.replier.put(OK)
        harness.replier.challenge(Challenge(b"334 c2VjcmV0\r\n"))
        harness.replier.reply(NO)
    assert [event["line"] for event in events] == ["250 2.0.0 OK", "334 (challenge)", "550 5.7.1 No"]


def test_the_code_is_that_of_the_last_reply(harness: Harness) -> None:
    assert harness.replier.code == 0
    for reply in (NO, OK):
        harness.replier.reply(reply)
        assert harness.replier.code == reply.code


# --- refusals ---


def test_an_acceptance_is_no_event(harness: Harness) -> None:
    with capturedLogs() as events:
        harness.replier.reply(OK)
        harness.replier.put(OK)
        harness.replier.challenge(Challenge(b"334 \r\n"))
    assert (events, harness.session.error, harness.replier.log.refusals) == ([], None, 0)


def test_a_refusal_by_the_server_is_an_event_with_its_verb(harness: Harness) -> None:
    harness.lead(HELLO, "NOOP")
    with capturedLogs() as events:
        harness.replier.reply(LATER)
    assert refusals(events) == [("NOOP", 450, "server", "", "")]
    assert harness.replier.log.refusals == 1


def test_an_unknown_verb_is_not_shown(harness: Harness) -> None:
    """It may be a password gone astray."""
    harness.lead(HELLO, "HALLO")
    with capturedLogs() as events:
        harness.replier.reply(NO)
    assert refusals(events) == [("", 550, "server", "", "")]


def test_a_refused_sender_is_named_as_the_sender(harness: Harness) -> None:
    harness.lead(HELLO)
    reply = harness.refuse(MAIL)
    with capturedLogs() as events:
        harness.replier.reply(reply)
    assert refusals(events) == [("MAIL", 550, "onMailFrom", "sender@client.test", "")]


def test_a_refused_recipient_is_named_with_the_sender(harness: Harness) -> None:
    harness.lead(HELLO, MAIL)
    reply = harness.refuse(RCPT)
    with capturedLogs() as events:
        harness.replier.reply(reply)
    assert refusals(events) == [("RCPT", 550, "onRcptTo", "sender@client.test", "user@mx.test")]


def test_a_refusal_from_elsewhere_is_by_what_made_it_and_the_error_of_the_session(harness: Harness) -> None:
    """The dialogue does not know of it."""
    harness.lead(HELLO, MAIL)
    with capturedLogs() as events:
        harness.replier.reply(replies.TIMED_OUT, by="server")
        harness.replier.reply(NO, "user@mx.test", "onSecure")
    assert refusals(events) == [
        ("", 421, "server", "sender@client.test", ""),
        ("", 550, "onSecure", "sender@client.test", "user@mx.test"),
    ]
    assert harness.session.error == "550 5.7.1 No"


def test_a_refusal_from_the_dialogue_is_the_error_of_the_session_already(harness: Harness) -> None:
    harness.session.error = "as the dialogue says"
    harness.replier.reply(NO)
    assert harness.session.error == "as the dialogue says"


def test_a_failed_AUTH_is_no_event_twice(harness: Harness) -> None:
    harness.lead("AUTH PLAIN")
    harness.dialogue.context.command.hasFailed = True
    with capturedLogs() as events:
        harness.replier.reply(replies.TOO_MANY_ERRORS)
        harness.replier.reply(Reply(535, "No", "5.7.8"))
    assert [event["code"] for event in events] == [421], "which is not the result of AUTH"


def test_a_successful_AUTH_is_an_event(harness: Harness) -> None:
    harness.dialogue.context.command.attempt = Auth(method="PLAIN", username="ann")
    with capturedLogs() as events:
        harness.replier.reply(Reply(235, "Welcome", "2.7.0"))
    assert [(event["verb"], event["code"], event["method"], event["user"]) for event in events] == [
        ("AUTH", 235, "PLAIN", "ann")
    ]


def test_without_an_attempt_235_is_no_event(harness: Harness) -> None:
    with capturedLogs() as events:
        harness.replier.reply(Reply(235, "Welcome", "2.7.0"))
    assert events == []


# --- messages ---


@pytest.mark.parametrize(
    ("reply", "by"), [(NO, "onData"), (replies.TOO_LARGE, "server"), (replies.BARE_NEWLINE, "server")]
)
def test_a_fault_of_a_message_is_the_servers_whatever_the_hook_said(reply: Reply, by: str, harness: Harness) -> None:
    harness.lead(HELLO, "DATA")
    harness.dialogue.context.command.refuser = "onData"
    harness.replier.decided = Envelope(Address("sender@client.test"), [ANN])
    with capturedLogs() as events:
        harness.replier.reply(reply)
    assert refusals(events) == [("DATA", reply.code, by, "sender@client.test", "")]


def lmtp(*recipients: Address) -> Harness:
    """A message for these has been decided by LMTP."""
    harness = Harness(lmtp=True)
    harness.lead("LHLO client.test", "DATA")
    harness.replier.decided = Envelope(Address("sender@client.test"), [*recipients])
    return harness


@pytest.mark.parametrize(("recipients", "named"), [([ANN], "ann@mx.test"), ([ANN, BOB], "")])
def test_with_LMTP_the_only_recipient_of_a_refused_message_is_named(recipients: list[Address], named: str) -> None:
    harness = lmtp(*recipients)
    with capturedLogs() as events:
        harness.replier.reply(NO)
    assert [event["recipient"] for event in events] == [named]


def test_each_recipient_has_a_reply_and_the_worst_code_counts() -> None:
    harness = lmtp(ANN, BOB, ANN)
    with capturedLogs() as events:
        assert not harness.replier.replyToEach((OK, NO, LATER))
    assert harness.said() == ["250 2.0.0 OK", "550 5.7.1 No", "450 4.2.0 Later"]
    assert [(event["code"], event["recipient"]) for event in events] == [(550, "bob@mx.test"), (450, "ann@mx.test")]
    assert (harness.replier.code, harness.replier.log.refusals) == (550, 2)


@pytest.mark.parametrize("left", [(ANN, BOB, ANN), (ANN,), ()])
def test_recipients_are_not_named_where_a_hook_has_changed_them(left: tuple[Address, ...]) -> None:
    harness = lmtp(*left)
    with capturedLogs() as events:
        harness.replier.replyToEach((NO, OK))
        harness.replier.replyToEach((OK, NO))
    assert refusals(events) == [("DATA", 550, "server", "sender@client.test", "")] * 2


@pytest.mark.parametrize("all", [(NO.closing(), OK), (OK, NO.closing())])
def test_one_reply_that_closes_is_enough(all: tuple[Reply, ...]) -> None:
    assert lmtp(ANN, BOB).replier.replyToEach(all)


def test_a_breach_is_reported_once_however_many_recipients_there_are() -> None:
    harness = lmtp(ANN, BOB, ANN)
    harness.replier.replyToEach((replies.BARE_NEWLINE,) * 3)
    assert [str(error) for error in harness.told] == [" ".join(replies.BARE_NEWLINE.lines)]
    harness.replier.replyToEach((replies.BARE_NEWLINE, OK, OK))
    assert len(harness.told) == 2


# --- the envelope ---


def test_replies_are_about_the_decided_message_or_the_transaction(harness: Harness) -> None:
    """The dialogue has begun a new envelope by the time its replies are written."""
    assert harness.replier.envelope is harness.session.envelope
    harness.replier.decided = decided = Envelope(ANN)
    assert harness.replier.envelope is decided


@pytest.mark.parametrize("isDecided", [False, True])
def test_an_envelope_of_a_hook_may_be_anything(isDecided: bool, harness: Harness) -> None:
    odd: Any = "no envelope"
    if isDecided:
        harness.replier.decided = odd
    else:
        harness.session.envelope = odd
    assert harness.replier.envelope == Envelope()
    harness.replier.reply(NO)


# --- onError ---


@pytest.mark.parametrize("reply", sorted(BROKEN_PROTOCOL, key=str))
def test_a_breach_of_the_protocol_is_reported(reply: Reply, harness: Harness) -> None:
    harness.replier.reply(reply)
    (error,) = harness.told
    assert isinstance(error, SMTPError)
    assert (error.responseCode, error.enhancedCode) == (reply.code, reply.enhancedCode)


def test_any_other_refusal_is_not(harness: Harness) -> None:
    harness.replier.reply(NO)
    harness.replier.reply(replies.TIMED_OUT)
    assert harness.told == []


def test_what_no_hook_has_raised_is_given_to_on_error_and_not_logged(harness: Harness) -> None:
    error = ConnectionError("gone")
    with capturedLogs() as events:
        harness.replier.reportError(Failure(error))
    assert (harness.told, events) == ([error], [])


# --- observers ---


def test_an_observer_is_told_of_every_reply_with_its_command() -> None:
    seen: list[tuple[str, int]] = []
    client = connect(onReply=lambda verb, reply, session: seen.append((verb, reply.code)), onVrfy=lambda *a: "found")
    client.say(*ENVELOPE, "BOGUS", "VRFY x", "NOOP", "DATA", "x", ".", "QUIT")
    assert seen == [
        *(("", 220), ("EHLO", 250), ("MAIL", 250), ("RCPT", 250), ("", 500), ("VRFY", 250), ("NOOP", 250)),
        *(("DATA", 354), ("DATA", 250), ("QUIT", 221)),
    ]


def test_an_observer_is_told_of_refusals_by_layers_before_it_and_of_each_recipient_with_lmtp() -> None:
    seen: list[tuple[str, int, str]] = []

    class Refusing:
        def onData(self, stream: Any, session: Any) -> list[Any]:
            return ["stored", SMTPError("full", 552)]

    class Observer:
        def onReply(self, verb: str, reply: Any, session: Any) -> None:
            seen.append((verb, reply.code, reply.lines[0]))

    client = connect(hooks=[Refusing(), Observer()], lmtp=True)
    client.say(*LMTP_ENVELOPE, RCPT)
    del seen[:]
    client.say("DATA", "x", ".")
    assert seen == [("DATA", 354, seen[0][2]), ("DATA", 250, "stored"), ("DATA", 552, "full")]


def test_an_observer_sees_that_there_was_a_challenge_and_not_what_it_says() -> None:
    seen: list[Any] = []
    client = connect(
        onReply=lambda verb, reply, session: seen.append((verb, reply.code, reply.lines)),
        onAuth=lambda auth, session: "ann",
        allowInsecureAuth=True,
    )
    client.say(HELLO, "AUTH LOGIN")
    assert seen[-1] == ("AUTH", 334, ("",))


@pytest.mark.parametrize("isLate", [False, True])
def test_an_observer_that_raises_is_logged_and_changes_nothing(isLate: bool, logged: Logged) -> None:
    def crash(*arguments: Any) -> Any:
        if isLate:
            return fail(SMTPError("no", 550))
        raise SMTPError("no", 550)

    client = connect(onReply=crash)
    assert client.codes() == [220]
    assert client.last(HELLO, MAIL, RCPT).startswith("250")
    assert len(logged.takeFailures(SMTPError)) == 4


def test_the_verb_of_an_unknown_command_is_hidden_from_observers() -> None:
    """It may be a password that was typed too early."""
    seen: list[str] = []
    client = connect(onReply=lambda verb, reply, session: seen.append(verb))
    client.say("pencil")
    assert seen == ["", ""]
