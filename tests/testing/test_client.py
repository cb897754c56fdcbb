"""What a test says, and when replies to it are due."""

from __future__ import annotations

from email.message import EmailMessage

import pytest
from twisted.internet.defer import Deferred

from smtphooks import MessageStream, SMTPError
from smtphooks.testing import Dialogue, NoReply
from smtphooks.testing.client import onTheWire

ENVELOPE = ("EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>")


class Box:
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def onData(self, stream: MessageStream, session: object) -> None:
        self.messages.append(await stream.read())


@pytest.mark.parametrize(
    "content, octets",
    [
        (b"a\nb\r\nc\rd", b"a\r\nb\r\nc\r\nd\r\n.\r\n"),
        (b".a\n..b\nc.\n", b"..a\r\n...b\r\nc.\r\n.\r\n"),
        ("Subject: \u00e4\n", b"Subject: \xc3\xa4\r\n.\r\n"),
        (b"", b".\r\n"),
        (b"\n\n", b"\r\n\r\n.\r\n"),
    ],
)
def test_a_message_goes_onto_the_wire_with_its_line_ends_and_dots(content: bytes | str, octets: bytes) -> None:
    assert onTheWire(content) == octets


@pytest.mark.parametrize(
    "subject, octets", [("hello", b"Subject: hello"), ("gr\u00fcn", "Subject: gr\u00fcn".encode())]
)
def test_a_message_object_is_sent_as_it_would_be_by_smtplib(subject: str, octets: bytes) -> None:
    message = EmailMessage()
    message["Subject"] = subject
    message.set_content("text")
    sent = onTheWire(message)
    assert sent.startswith(f"Subject: {subject}\r\n".encode()) and sent.endswith(b"\r\n\r\ntext\r\n.\r\n")


@pytest.mark.parametrize(
    "content", [("Subject: x", "", "..y", "."), (b"Subject: x\r\n", b"\r\n..y\r", b"\n.\r", b"\n"), (b"x\r\n.\r\n",)]
)
def test_a_message_is_given_by_lines_or_by_octets_and_has_its_reply_at_its_end(content: tuple[str | bytes]) -> None:
    box = Box()
    replies = Dialogue(box).say(*ENVELOPE, "DATA", *content, "NOOP")
    assert [reply.code for reply in replies] == [250, 250, 250, 354, 250, 250]
    assert box.messages == [b"Subject: x\r\n\r\n.y\r\n" if len(content) > 1 else b"x\r\n"]


@pytest.mark.parametrize(
    "content", [(".",), (b".\r\n",), ("x", "."), (b"x", b"\r", b"\n", b".", b"\r", b"\n"), (b"x\r\n.", b"\r\n")]
)
def test_the_end_of_a_message_is_seen_however_it_is_cut(content: tuple[str | bytes]) -> None:
    """Or else the reply that a slow hook gives would be taken for that to the next command."""
    pending: Deferred[str] = Deferred()
    answer = Dialogue(onData=lambda stream, session: pending)(*ENVELOPE, "DATA", *content, "NOOP")
    with pytest.raises(NoReply, match="no reply to the message: hook onData has not answered"):
        answer.now()
    pending.callback("taken")
    assert [reply.text for reply in answer.now()][-2:] == ["taken", "OK"]


def test_a_message_may_be_begun_by_one_call_and_ended_by_another() -> None:
    box = Box()
    dialogue = Dialogue(box)
    assert dialogue.say(*ENVELOPE, "DATA")[-1].code == 354
    assert dialogue.say("one") == []
    assert [reply.code for reply in dialogue.say("two", ".")] == [250]
    assert box.messages == [b"one\r\ntwo\r\n"]


def test_a_chunk_has_its_reply_when_its_last_octet_is_sent() -> None:
    box = Box()
    dialogue = Dialogue(box)
    replies = dialogue.say(*ENVELOPE, "BDAT 4", b"a\r", b"\n.", "bdat 4", "\u00e4", "BDAT 0 LAST")
    assert [reply.code for reply in replies] == [250, 250, 250, 250, 250, 250]
    assert box.messages == ["a\r\n.\u00e4\r\n".encode()]


def test_a_chunk_that_is_refused_is_read_all_the_same() -> None:
    replies = Dialogue().say("EHLO x", "BDAT 3 LAST", b"abc", "NOOP")
    assert [reply.code for reply in replies] == [250, 503, 250]


def test_lmtp_has_a_reply_for_each_recipient() -> None:
    async def onData(stream: object, session: object) -> list[object]:
        return ["one", "two"]

    dialogue = Dialogue(onData=onData, lmtp=True)
    dialogue.say("LHLO x", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RCPT TO:<e@f>")
    assert [reply.text for reply in dialogue.send("x").now()] == ["one", "two"]
    replies = dialogue.say("MAIL FROM:<a@b>", "RCPT TO:<c@d>", "RCPT TO:<e@f>", "BDAT 2 LAST", b"hi", "NOOP")
    assert [reply.text for reply in replies][3:] == ["one", "two", "OK"]


def test_of_a_refused_message_the_refusal_is_returned_and_nothing_is_sent() -> None:
    dialogue = Dialogue()
    assert [reply.code for reply in dialogue.send("x").now()] == [503]
    assert dialogue.say("EHLO x")[0].code == 250


def test_a_message_that_the_server_refuses_before_its_end_ends_there() -> None:
    async def onData(stream: MessageStream, session: object) -> None:
        async for _ in stream:
            raise SMTPError("Go away", 421)

    dialogue = Dialogue(onData=onData)
    replies = dialogue.say(*ENVELOPE, "DATA", b"line\r\n" * 1000)
    assert [reply.code for reply in replies] == [250, 250, 250, 354, 421]
    assert dialogue.isClosed
    with pytest.raises(NoReply, match=r"NOOP was not sent: the connection is closed, the last reply was '421"):
        dialogue.say("NOOP")


@pytest.mark.parametrize(
    "said, error",
    [
        (("EHLO x\r\n",), "'EHLO x\\r\\n' is more than a line: each line is an argument, without its line end"),
        ((b"EHLO x",), "b'EHLO x' are octets, and no message has begun: a command is a str"),
        (("EHLO x", "BDAT 2", b"abc"), "3 octets were given, and only 2 are left of this BDAT"),
        ((1,), "1 is neither a line, a str, nor octets of a message; send() sends whole messages"),
    ],
)
def test_what_cannot_be_said_is_an_error_that_says_why(said: tuple[str | bytes], error: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        Dialogue().say(*said)
    assert str(raised.value) == error


def test_a_message_within_a_message_is_an_error() -> None:
    dialogue = Dialogue()
    dialogue.say(*ENVELOPE, "DATA")
    with pytest.raises(ValueError, match="a message has begun already"):
        dialogue.send("x").now()
