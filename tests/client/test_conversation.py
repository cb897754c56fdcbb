"""The conversation: who is told which reply, and what goes out when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.client.conversation import Conversation
from smtphooks.client.reply import NoReply, ReceivedReply
from tests.support import cutUp


class Talk:
    """
    A conversation.

    @ivar told: what each one who asked was told.
    """

    def __init__(self, pipelines: bool = False) -> None:
        self.conversation = Conversation()
        self.conversation.pipelines = pipelines
        self.told: list[tuple[str, int]] = []

    def ask(self, *lines: str) -> bytes:
        for line in lines:
            self.conversation.ask(line, line.encode(), 1, self._tell(line))
        return self.conversation.octetsToSend()

    def _tell(self, label: str):  # type: ignore[no-untyped-def]
        def tell(reply: ReceivedReply) -> None:
            self.told.append((label, reply.code))

        return tell

    def expect(self, label: str) -> None:
        self.conversation.expect(label, 1, self._tell(label))


def test_without_PIPELINING_a_command_goes_out_when_the_one_before_has_its_reply() -> None:
    talk = Talk()
    assert talk.ask("MAIL", "RCPT 1", "RCPT 2") == b"MAIL\r\n"
    talk.conversation.receive(b"250-a\r\n")
    assert talk.conversation.octetsToSend() == b""
    talk.conversation.receive(b"250 b\r\n")
    assert talk.conversation.octetsToSend() == b"RCPT 1\r\n"
    talk.conversation.receive(b"250 ok\r\n")
    assert talk.conversation.octetsToSend() == b"RCPT 2\r\n"
    assert talk.told == [("MAIL", 250), ("RCPT 1", 250)]


def test_with_PIPELINING_commands_go_out_at_once() -> None:
    assert Talk(pipelines=True).ask("MAIL", "RCPT 1", "RCPT 2", "DATA") == b"MAIL\r\nRCPT 1\r\nRCPT 2\r\nDATA\r\n"


@pytest.mark.parametrize(
    "last", ["EHLO x", "HELO x", "LHLO x", "DATA", "STARTTLS", "AUTH PLAIN x", "XCLIENT A=b", "QUIT"]
)
def test_nothing_follows_a_command_that_is_the_last_of_its_group(last: str) -> None:
    talk = Talk(pipelines=True)
    assert talk.ask("RSET", last.lower(), "MAIL") == f"RSET\r\n{last.lower()}\r\n".encode()
    talk.conversation.receive(b"250 ok\r\n")
    assert talk.conversation.octetsToSend() == b""
    talk.conversation.receive(b"250 ok\r\n")
    assert talk.conversation.octetsToSend() == b"MAIL\r\n"


def test_no_command_goes_out_within_a_message() -> None:
    talk = Talk(pipelines=True)
    talk.expect("the message")
    assert talk.ask("RSET") == b""
    talk.conversation.receive(b"250 ok\r\n")
    assert talk.conversation.octetsToSend() == b"RSET\r\n"


@given(st.lists(st.integers(200, 599), min_size=1, max_size=6), st.lists(st.integers(0)), st.booleans())
def test_replies_are_told_in_the_order_of_asking_whatever_the_cuts(
    codes: list[int], cuts: list[int], pipelines: bool
) -> None:
    talk = Talk(pipelines)
    talk.ask(*(f"RCPT {i}" for i in range(len(codes))))
    for piece in cutUp(b"".join(b"%d ok\r\n" % code for code in codes), cuts):
        while piece:
            # A server that does not pipeline answers what it has been asked, and no more.
            end = piece.find(b"\n") + 1 or len(piece)
            talk.conversation.receive(piece[:end])
            talk.conversation.octetsToSend()
            piece = piece[end:]
    assert talk.told == [(f"RCPT {i}", code) for i, code in enumerate(codes)]
    assert talk.conversation.isQuiet == (codes[-1] // 100 != 3)


@pytest.mark.parametrize("line", [b"MAIL\r\nRCPT", b"MAIL\n", b"MAIL\r", b"MAIL\0"])
def test_what_is_more_than_a_line_is_not_said(line: bytes) -> None:
    conversation = Conversation()
    with pytest.raises(ValueError, match="MAIL would be more than one line"):
        conversation.ask("MAIL", line, 1, print)
    assert conversation.octetsToSend() == b""


def test_a_reply_that_nobody_asked_for_is_the_last_that_is_read() -> None:
    talk = Talk()
    talk.ask("MAIL")
    talk.conversation.receive(b"250 ok\r\n421 bye\r\n250 ok\r\n")
    assert talk.told == [("MAIL", 250)]
    assert talk.conversation.unasked == "421 bye"
    assert not talk.conversation.isQuiet


def test_it_is_quiet_when_nothing_is_due_and_nothing_has_begun_to_arrive() -> None:
    talk = Talk()
    assert talk.conversation.isQuiet
    talk.ask("MAIL", "RCPT")
    assert not talk.conversation.isQuiet
    talk.conversation.receive(b"250 ok\r\n")
    assert not talk.conversation.isQuiet, "a command is held"
    talk.conversation.octetsToSend()
    talk.conversation.receive(b"250 ok\r\n")
    assert talk.conversation.isQuiet
    talk.conversation.receive(b"4")
    assert not talk.conversation.isQuiet
    assert talk.conversation.hasUnread


def test_it_is_not_quiet_while_the_server_waits_for_more() -> None:
    """What is said then is content, or a response, whatever it looks like."""
    for reply in (b"354 go on\r\n", b"334 \r\n"):
        talk = Talk()
        talk.ask("DATA")
        talk.conversation.receive(reply)
        assert not talk.conversation.isQuiet
        talk.expect("the message")
        talk.conversation.receive(b"250 taken\r\n")
        assert talk.conversation.isQuiet


def test_one_who_is_told_may_ask_at_once() -> None:
    conversation = Conversation()
    told = []

    def again(reply: ReceivedReply) -> None:
        told.append(reply.code)
        conversation.ask("RCPT", b"RCPT", 1, lambda reply: told.append(reply.code))
        assert conversation.octetsToSend() == b"RCPT\r\n"

    conversation.ask("MAIL", b"MAIL", 1, again)
    conversation.octetsToSend()
    conversation.receive(b"250 ok\r\n251 ok\r\n")
    assert told == [250, 251]


def test_what_is_no_reply_ends_it() -> None:
    talk = Talk()
    talk.ask("MAIL")
    with pytest.raises(NoReply):
        talk.conversation.receive(b"HTTP/1.0 400 Bad request\r\n")
    assert talk.told == []
