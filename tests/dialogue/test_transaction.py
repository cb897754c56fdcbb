"""The commands of a mail transaction: what is written to the envelope and when, limits, verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from smtphooks import replies
from smtphooks.dialogue.steps import AbandonMessage, Ask, DiscardChunk, ReceiveChunk, State, Verdict
from smtphooks.replies import SMTPError
from smtphooks.session import Address, EnvelopeDSN
from tests.support import Client, Pending, connect
from tests.talk import MAIL, RCPT, Talk


def begun(*lines: str, lmtp: bool = False, answers: dict[Any, Any] | None = None, **options: Any) -> Talk:
    """A talk that is past hello and these lines."""
    talk = Talk(answers, lmtp=lmtp, **options)
    talk.sayAll("LHLO x" if lmtp else "EHLO x", *lines)
    return talk


# --- MAIL and RCPT ---


@pytest.mark.parametrize(
    "argument", ["", "FROM", "FROM <a@b>", "TO:<a@b>", "FROM:a@b", "FROM:", "FROM:<a@b>x", "<a@b>"]
)
def test_MAIL_of_another_form_is_refused(argument: str) -> None:
    talk = begun()
    assert talk.say(f"MAIL {argument}") == "501 5.5.4 Syntax: MAIL FROM:<address> [parameters]"
    assert "onMailFrom" not in talk.hooks()


@pytest.mark.parametrize("argument", ["", "TO", "TO <a@b>", "FROM:<a@b>", "TO:a@b", "TO:", "TO:<a@b>x", "<a@b>"])
def test_RCPT_of_another_form_is_refused(argument: str) -> None:
    talk = begun(MAIL)
    assert talk.say(f"RCPT {argument}") == "501 5.5.4 Syntax: RCPT TO:<address> [parameters]"
    assert "onRcptTo" not in talk.hooks()


def test_addresses_may_be_bare_where_the_option_is_lenient() -> None:
    talk = begun("MAIL FROM:ann@a.example SIZE=1", "RCPT TO:joe@b.example", lenientAddressParsing=True)
    assert talk.state is State.RECIPIENTS
    assert str(talk.session.envelope.mailFrom) == "ann@a.example"
    assert str(talk.session.envelope.rcptTo[0]) == "joe@b.example"


@pytest.mark.parametrize(
    "line, reply",
    [
        ("MAIL FROM:<nobody>", "501 5.1.7 "),
        ("MAIL FROM:<a@-b>", "501 5.1.7 "),
        ("RCPT TO:<>", "503 5.5.1 "),
    ],
)
def test_bad_address_is_refused_before_any_hook(line: str, reply: str) -> None:
    talk = begun()
    assert talk.say(line).startswith(reply)
    assert talk.hooks()[2:] == []


@pytest.mark.parametrize("path", ["<>", "<nobody>", "<a@b@c>"])
def test_bad_recipient_is_refused_before_any_hook(path: str) -> None:
    talk = begun(MAIL)
    assert talk.say(f"RCPT TO:{path}").startswith("501 5.1.3 ")
    assert "onRcptTo" not in talk.hooks()


PARAMETERS = "BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=x"
CANDIDATE = ("ann@a.example", [], "8bitmime", True, True, EnvelopeDSN("HDRS", "x"), "UTF8SMTPS")


def asked(session: Any) -> tuple[Any, ...]:
    """What MAIL asked for according to the envelope, and what follows from it."""
    envelope = session.envelope
    asked = (envelope.bodyType, envelope.smtpUtf8, envelope.requireTLS, envelope.dsn)
    return (str(envelope.mailFrom), list(envelope.rcptTo), *asked, session.transmissionType)


def test_envelope_says_what_MAIL_asks_for_while_its_hook_decides() -> None:
    talk = begun(secured=True, hideREQUIRETLS=False, hideDSN=False)
    seen: list[Any] = []
    talk.answers["onMailFrom"] = lambda question: seen.append((asked(talk.session), talk.dialogue.inTransaction))
    assert talk.say(f"{MAIL} {PARAMETERS}") == "250 2.1.0 Sender OK"
    assert seen == [(CANDIDATE, False)]
    assert asked(talk.session) == CANDIDATE


def test_recipient_is_in_the_envelope_once_it_is_accepted() -> None:
    talk = begun(MAIL)
    seen: list[Any] = []
    talk.answers["onRcptTo"] = lambda question: seen.append([str(each) for each in talk.session.envelope.rcptTo])
    talk.sayAll(RCPT, "RCPT TO:<jim@b.example>")
    assert seen == [[], ["joe@b.example"]]
    assert len(talk.session.envelope.rcptTo) == 2


def refuse(client: Client, onMailFrom: Pending) -> None:
    onMailFrom.decide(SMTPError("No"))
    assert client.codes() == [550]


def crash(client: Client, onMailFrom: Pending) -> None:
    onMailFrom.decide(ValueError())
    assert client.codes() == [451]


def timeOut(client: Client, onMailFrom: Pending) -> None:
    client.clock.pump([1] * 8)
    assert client.codes() == [451]


def leave(client: Client, onMailFrom: Pending) -> None:
    client.lose()


@pytest.mark.parametrize("end", [refuse, crash, timeOut, leave])
def test_envelope_is_the_old_one_again_unless_the_hook_accepts(
    end: Callable[[Client, Pending], None], logged: Any
) -> None:
    onMailFrom = Pending()
    closed: list[Any] = []
    client = connect(onMailFrom=onMailFrom, hookTimeout=5, onClose=lambda session: closed.append(session.envelope))
    client.say("EHLO x")
    before = client.session.envelope
    copy = attrs.evolve(before)
    client.say(f"{MAIL} SMTPUTF8")
    candidate = client.session.envelope
    assert (candidate.smtpUtf8, client.session.transmissionType) == (True, "UTF8SMTP")
    end(client, onMailFrom)
    assert client.session.envelope is before
    assert before == copy
    if end is leave:
        assert closed == [before]
        return
    assert (client.session.transmissionType, client.session.transaction) == ("ESMTP", 1)
    assert client.say(RCPT) == ["503 5.5.1 Need MAIL before RCPT"]
    if end is crash:
        assert len(logged.takeFailures(ValueError)) == 1


def test_closing_server_waits_for_the_hook_and_the_transaction() -> None:
    onMailFrom = Pending()
    client = connect(onMailFrom=onMailFrom)
    client.say("EHLO x", MAIL)
    client.factory.close()
    assert client.replies() == []
    onMailFrom.decide()
    assert client.codes() == [250]
    client.say(RCPT, "DATA", ".")
    assert client.isClosed


def test_closing_server_ends_where_the_hook_has_refused() -> None:
    onMailFrom = Pending()
    client = connect(onMailFrom=onMailFrom)
    client.say("EHLO x", MAIL)
    client.factory.close()
    onMailFrom.decide(SMTPError("No"))
    assert client.codes() == [550, 421]
    assert client.isClosed


# --- What hooks do to the envelope ---

DEEDS: dict[str, Callable[[Any], Any]] = {
    "append": lambda envelope: envelope.rcptTo.append(Address("copy@b.example")),
    "clear": lambda envelope: envelope.rcptTo.clear(),
    "no list": lambda envelope: setattr(envelope, "rcptTo", ()),
    "tuple": lambda envelope: setattr(envelope, "rcptTo", tuple(envelope.rcptTo)),
    "set": lambda envelope: setattr(envelope, "rcptTo", {"x@b.example", "y@b.example", "z@b.example"}),
    "iterator": lambda envelope: setattr(envelope, "rcptTo", iter(envelope.rcptTo)),
    "sender": lambda envelope: setattr(envelope, "mailFrom", "srs@mx.test"),
    "no sender": lambda envelope: setattr(envelope, "mailFrom", None),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
@pytest.mark.parametrize("name", ["onMailFrom", "onRcptTo", "onVrfy", "onData"])
@pytest.mark.parametrize("way", ["DATA", "BDAT"])
def test_with_LMTP_replies_are_those_of_the_accepted_recipients_whatever_hooks_do(
    name: str, deed: Callable[[Any], Any], way: str
) -> None:
    hooks: dict[str, Any] = {name: lambda *arguments: deed(arguments[-1].envelope)}
    client = connect(lmtp=True, maxRecipients=3, **hooks)
    client.say("LHLO x", MAIL)
    assert client.codes() == []
    said = client.say(RCPT, RCPT, "VRFY x", RCPT, RCPT)
    assert [reply[:3] for reply in said] == ["250", "250", "252", "250", "452"]
    message = ("DATA", "text", ".") if way == "DATA" else ("BDAT 6 LAST", "text")
    assert [reply[:3] for reply in client.say(*message, "NOOP")] == ["354"] * (way == "DATA") + ["250"] * 4
    assert not client.isClosed


@pytest.mark.parametrize("deed", [DEEDS["sender"], DEEDS["no sender"]])
def test_binary_message_stays_binary_whatever_hooks_do(deed: Callable[[Any], Any]) -> None:
    messages: list[bytes] = []

    async def onData(stream: Any, session: Any) -> None:
        messages.append(await stream.read())

    client = connect(onRcptTo=lambda address, session: deed(session.envelope), onData=onData)
    client.say("EHLO x", f"{MAIL} BODY=BINARYMIME", RCPT)
    assert client.last("DATA") == "503 5.5.1 A BINARYMIME message is sent with BDAT"
    client.feed(b"BDAT 4 LAST\r\na\nb\r")
    assert client.codes() == [250]
    assert messages == [b"a\nb\r"]


@pytest.mark.parametrize("isAsked", [False, True])
def test_what_the_client_asks_for_is_noted_before_a_hook_may_change_it(isAsked: bool) -> None:
    """The parameters are a dictionary, which the hook gets with the address."""

    def onMailFrom(address: Any, session: Any) -> None:
        address.args.clear() if isAsked else address.args.update(BODY="BINARYMIME", SMTPUTF8=True)

    asked = " BODY=BINARYMIME SMTPUTF8" if isAsked else " SIZE=1"
    client = connect(onMailFrom=onMailFrom, onRcptTo=lambda address, session: "größer")
    client.say("EHLO x", MAIL + asked)
    assert client.say(RCPT) == ["250 2.1.5 größer" if isAsked else "250 2.1.5 gr??er"]
    assert client.last("DATA")[:3] == ("503" if isAsked else "354")


def test_what_a_refused_MAIL_asks_for_is_forgotten() -> None:
    talk = begun(answers={"onMailFrom": SMTPError("No")})
    assert talk.say(f"{MAIL} BODY=BINARYMIME SMTPUTF8").startswith("550")
    talk.answers["onMailFrom"] = None
    talk.answers["onRcptTo"] = "größer"
    assert talk.sayAll(MAIL, RCPT) == "250 2.1.5 gr??er"
    assert talk.say("DATA").startswith("354")


def test_hook_gets_the_address_that_the_envelope_will_hold() -> None:
    talk = begun("MAIL FROM:<@relay.example:ann@a.example> SIZE=5", "RCPT TO:<joe@b.example>")
    (sender,) = [q.arguments[0] for q in talk.asked if isinstance(q, Ask) and q.hook == "onMailFrom"]
    assert (sender.address, sender.local, sender.domain) == ("ann@a.example", "ann", "a.example")
    assert talk.session.envelope.mailFrom is sender
    (recipient,) = [q.arguments[0] for q in talk.asked if isinstance(q, Ask) and q.hook == "onRcptTo"]
    assert talk.session.envelope.rcptTo == [recipient]


def test_refused_sender_leaves_no_transaction() -> None:
    talk = begun(answers={"onMailFrom": SMTPError("No")})
    assert talk.say(MAIL) == "550 5.7.1 No"
    assert talk.say(RCPT).startswith("503 ")
    talk.say("RSET")
    assert talk.session.transaction == 1
    assert "onReset" not in talk.hooks()


def test_duplicates_stay_in_the_envelope() -> None:
    talk = begun(MAIL, RCPT, "RCPT TO:<jim@b.example>", RCPT)
    assert [str(address) for address in talk.session.envelope.rcptTo] == [
        "joe@b.example",
        "jim@b.example",
        "joe@b.example",
    ]


@pytest.mark.parametrize(
    "user, authOptional, reply",
    [
        (None, False, "530 5.7.0 Authentication required"),
        (None, True, "250 2.1.0 Sender OK"),
        ("ann", False, "250 2.1.0 Sender OK"),
    ],
)
def test_MAIL_needs_a_user_unless_authentication_is_optional(user: str | None, authOptional: bool, reply: str) -> None:
    talk = begun(authOptional=authOptional)
    talk.session.user = user
    assert talk.say(MAIL) == reply


# --- Limits ---


def test_recipients_beyond_the_limit_are_refused_for_now_and_the_others_stand() -> None:
    talk = begun(MAIL, maxRecipients=2)
    talk.answers["onRcptTo"] = SMTPError("No")
    talk.say(RCPT)  # refused, and so not counted
    talk.answers.clear()
    assert talk.sayAll(RCPT, RCPT) == "250 2.1.5 Recipient OK"
    assert talk.say(RCPT) == "452 4.5.3 Too many recipients"
    assert talk.say("DATA").endswith("250 2.0.0 Message accepted")
    assert talk.sayAll(MAIL, RCPT) == "250 2.1.5 Recipient OK"


def test_transactions_beyond_the_limit_end_the_connection() -> None:
    talk = begun(MAIL, RCPT, "DATA", MAIL, RCPT, "BDAT 3 LAST", maxTransactions=2)
    assert talk.say("NOOP") == "250 2.0.0 OK"
    assert talk.say(MAIL) == "421 4.7.0 Too many transactions on this connection"
    assert talk.state is State.CLOSED


@pytest.mark.parametrize("end", ["RSET", "EHLO y"])
def test_what_ends_without_a_message_is_no_transaction_to_the_limit(end: str) -> None:
    talk = begun("RSET", MAIL, end, MAIL, RCPT, end, maxTransactions=1)
    assert talk.sayAll(MAIL, RCPT, "DATA").endswith("250 2.0.0 Message accepted")
    assert talk.say(MAIL) == "421 4.7.0 Too many transactions on this connection"


# --- Messages ---


@pytest.mark.parametrize("line", ["DATA", "BDAT 3 LAST"])
def test_message_ends_the_transaction_whatever_its_verdict(line: str) -> None:
    for result in ("ok", None, SMTPError("No")):
        talk = begun(MAIL, RCPT, answers={"message": result, "chunk": result})
        talk.say(line)
        assert talk.state is State.IDENTIFIED
        assert talk.session.transaction == 2
        assert "onReset" not in talk.hooks()


@pytest.mark.parametrize("line", ["DATA", "BDAT 3 LAST"])
@pytest.mark.parametrize(
    "result, fault, reply",
    [
        (None, None, "250 2.0.0 Message accepted"),
        ("", None, "250 2.0.0 Message accepted"),
        ("Queued", None, "250 2.0.0 Queued"),
        (SMTPError("No"), None, "450 4.3.0 No"),
        (SMTPError("No", 550), None, "550 5.7.1 No"),
        ("Queued", replies.TOO_LARGE, "552 5.3.4 Message exceeds the fixed maximum size"),
        (None, replies.BARE_NEWLINE, "550 5.6.11 Bare <CR> or <LF> in message, only <CR><LF> ends a line"),
        (SMTPError("Spam", 554), replies.TOO_LARGE, "554 5.6.0 Spam"),
    ],
    ids=repr,
)
def test_verdict_makes_the_reply(line: str, result: Any, fault: Any, reply: str) -> None:
    verdict = Verdict((result,), fault)
    talk = begun(MAIL, RCPT, answers={"message": verdict, "chunk": verdict})
    assert talk.say(line).splitlines()[-1] == reply


@pytest.mark.parametrize("line", ["DATA", "BDAT 3 LAST"])
def test_with_LMTP_every_recipient_has_its_reply(line: str) -> None:
    verdict = Verdict(("for Joe", SMTPError("Full", 452, "4.2.2"), None), None)
    talk = begun(MAIL, RCPT, "RCPT TO:<jim@b.example>", RCPT, lmtp=True, answers={"message": verdict, "chunk": verdict})
    assert talk.say(line).removeprefix("354 End data with <CR><LF>.<CR><LF>\n").splitlines() == [
        "250 2.0.0 for Joe",
        "452 4.2.2 Full",
        "250 2.0.0 Message accepted",
    ]


def test_with_LMTP_a_fault_strikes_all_recipients_that_the_hook_accepted() -> None:
    verdict = Verdict(("for Joe", SMTPError("Full", 452)), replies.TOO_LARGE)
    talk = begun(MAIL, RCPT, RCPT, lmtp=True, answers={"message": verdict})
    assert [line[:3] for line in talk.say("DATA").splitlines()] == ["354", "552", "452"]


def test_421_for_a_message_closes_behind_all_replies() -> None:
    verdict = Verdict((SMTPError("Go", 421), None), None)
    talk = begun(MAIL, RCPT, RCPT, lmtp=True, answers={"message": verdict})
    assert [line[:3] for line in talk.say("DATA").splitlines()] == ["354", "421", "250"]
    assert talk.state is State.CLOSED


# --- Chunks ---


@pytest.mark.parametrize("argument", ["", "x", "-1", "1.0", "5 FIRST", "5LAST", "LAST", "5 LAST 5", "1" * 21, "\u0665"])
def test_chunk_with_an_unreadable_length_ends_the_connection(argument: str) -> None:
    talk = begun(MAIL, RCPT)
    assert talk.say(f"BDAT {argument}") == "501 5.5.4 Syntax: BDAT size [LAST]"
    assert talk.state is State.CLOSED


@pytest.mark.parametrize("line, octets", [("BDAT 0", 0), ("bdat 007", 7), ("BDAT " + "9" * 20, 10**20 - 1)])
def test_length_of_a_chunk_is_twenty_digits_at_most(line: str, octets: int) -> None:
    talk = begun(MAIL, RCPT)
    assert talk.say(line) == f"250 2.0.0 {octets} octets received"
    assert talk.asked[-1] == ReceiveChunk(octets, first=True, last=False)


def test_only_the_first_chunk_is_first_and_only_the_last_is_last() -> None:
    talk = begun(MAIL, RCPT, "BDAT 1", "NOOP", "BDAT 2", "BDAT 3  last")
    assert [question for question in talk.asked if isinstance(question, ReceiveChunk)] == [
        ReceiveChunk(1, first=True, last=False),
        ReceiveChunk(2, first=False, last=False),
        ReceiveChunk(3, first=False, last=True),
    ]


@pytest.mark.parametrize("options", [{"hideCHUNKING": True}, {"disabledCommands": ["BDAT"]}])
def test_chunks_are_discarded_where_they_are_not_offered(options: dict[str, Any]) -> None:
    talk = begun(MAIL, RCPT, **options)
    assert talk.say("BDAT 100") == "502 5.5.1 Command not implemented"
    assert talk.asked[-1] == DiscardChunk(100)
    assert talk.state is State.RECIPIENTS
    assert talk.say("DATA").endswith("250 2.0.0 Message accepted")


@pytest.mark.parametrize("line, last", [("RSET", "250"), ("EHLO y", "250"), ("QUIT", "221")])
def test_abandoned_chunks_end_on_data_before_on_reset(line: str, last: str) -> None:
    talk = begun(MAIL, RCPT, "BDAT 1")
    seen: list[Any] = []
    talk.answers["onReset"] = lambda question: seen.append(talk.session.envelope.mailFrom)
    talk.asked.clear()
    assert talk.say(line).startswith(last)
    kinds = [question.hook if isinstance(question, Ask) else type(question) for question in talk.asked]
    if line == "QUIT":  # no reset, but an end: onClose follows
        assert kinds == [AbandonMessage]
        return
    assert kinds[-2:] == [AbandonMessage, "onReset"]
    # onReset still sees the envelope that is dropped.
    assert [str(address) for address in seen] == ["ann@a.example"]
    assert talk.session.envelope.mailFrom is None
    assert talk.session.transaction == 2


def test_binary_message_is_sent_in_chunks_only() -> None:
    talk = begun(f"{MAIL} BODY=BINARYMIME", RCPT)
    assert talk.say("DATA") == "503 5.5.1 A BINARYMIME message is sent with BDAT"
    assert talk.state is State.RECIPIENTS
    assert talk.say("BDAT 1 LAST") == "250 2.0.0 Message accepted"


@pytest.mark.parametrize("lmtp", [False, True])
def test_chunk_that_decides_the_message_has_one_reply(lmtp: bool) -> None:
    refusal = SMTPError("Enough", 550)
    verdict = Verdict((refusal,) * (2 if lmtp else 1), None)
    talk = begun(MAIL, RCPT, RCPT, lmtp=lmtp, answers={"chunk": verdict})
    assert talk.say("BDAT 1") == "550 5.7.1 Enough"
    assert talk.state is State.IDENTIFIED
    assert talk.say("BDAT 1 LAST") == "503 5.5.1 Need MAIL and RCPT before the message"
    assert talk.asked[-1] == DiscardChunk(1)
