"""
The client's side of the dialogue: how what a test says is sent, and when the replies to it are due.

A command has its reply; the lines of a message have theirs when its end is sent, the octets of a chunk (RFC 3030) when
the last of them is.  In: lines and octets, whole messages.  Out: a generator that yields whenever replies are due.
This module knows no hook, no clock and no event loop.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from email.message import Message
from email.policy import SMTP, SMTPUTF8

from smtphooks.client.content import DataEncoder, withLineEnds
from smtphooks.client.reply import ReceivedReply
from smtphooks.testing.answer import NoReply
from smtphooks.testing.memory import MemoryTransport

Steps = Generator[str, list[ReceivedReply], list[ReceivedReply]]
"""Yields what the replies that it is sent are to; returns all replies."""

_CHUNK = re.compile(rb"BDAT ([0-9]{1,18})(?: LAST)?", re.IGNORECASE)
_END = b"\r\n.\r\n"


class Client:
    """
    What a test says, one thing after the other.

    @ivar isWithinAuth: a reply to AUTH, or to a response within it, is due.
    """

    def __init__(self, server: MemoryTransport) -> None:
        self.isWithinAuth: bool = False
        self._server = server
        self._label = ""
        self._isMessage = False
        self._tail = b""  # the last octets of the message, before which its end may begin
        self._chunk = 0  # octets of a chunk that are still to come

    def greeting(self) -> Steps:
        """Only wait for the greeting."""
        return (yield "the greeting")

    def commands(self, given: Iterable[str | bytes]) -> Steps:
        """
        Send commands, each when the one before has its reply.

        @param given: lines without line ends; octets of a message or of a chunk.
        """
        replies = []
        for item in given:
            replies += yield from self._say(item)
        return replies

    def message(self, content: bytes | str | Message) -> Steps:
        """
        Send a whole message with DATA.

        @return: the replies to its end; the refusal of DATA if there is one.
        """
        if self._isMessage or self._chunk:
            raise ValueError("a message has begun already")
        replies = yield from self._say("DATA")
        if replies[-1].code != 354:
            return replies
        return (yield from self._say(onTheWire(content)))

    def _say(self, item: str | bytes) -> Steps:
        octets = self._octetsOf(item)
        if self._server.isClosed:
            raise NoReply(f"{_show(item)} was not sent: the connection is closed, the last reply was {self._lastReply}")
        self._server.send(octets)
        if not self._isReplyDue(item, octets):
            # The server may refuse the rest of a message, and close the connection.
            self._server.pump()
            replies = self._server.takeReplies()
        else:
            replies = yield self._label
        if replies:
            self._isMessage = replies[-1].code == 354
            self.isWithinAuth = self.isWithinAuth and replies[-1].code == 334
            self._tail = b"\r\n"
        return replies

    @property
    def _lastReply(self) -> str:
        return repr(self._server.last and str(self._server.last))

    def _octetsOf(self, item: str | bytes) -> bytes:
        """What is sent; nothing has been sent if this raises."""
        isContent = self._isMessage or self._chunk > 0
        if not isinstance(item, (str, bytes)):
            raise TypeError(f"{item!r} is neither a line, a str, nor octets of a message; send() sends whole messages")
        if isinstance(item, bytes):
            if not isContent:
                raise ValueError(f"{item!r} are octets, and no message has begun: a command is a str")
            octets = item
        elif "\r" in item or "\n" in item:
            raise ValueError(f"{item!r} is more than a line: each line is an argument, without its line end")
        else:
            octets = item.encode() + b"\r\n"
        if self._chunk and len(octets) > self._chunk:
            raise ValueError(f"{len(octets)} octets were given, and only {self._chunk} are left of this BDAT")
        return octets

    def _isReplyDue(self, item: str | bytes, octets: bytes) -> bool:
        if self._chunk:
            self._chunk -= len(octets)
            return not self._chunk
        if self._isMessage:
            content = self._tail + octets
            self._tail = content[-4:]
            self._label = "the message"
            return _END in content
        self._label = "the response to AUTH" if self.isWithinAuth else _show(item)
        self.isWithinAuth = self.isWithinAuth or octets[:5].upper() == b"AUTH "
        chunk = _CHUNK.fullmatch(octets.rstrip())
        self._chunk = int(chunk[1]) if chunk else 0
        return not self._chunk


def onTheWire(content: bytes | str | Message) -> bytes:
    """A message as DATA has it, up to its end; a leading dot is doubled (RFC 5321 section 4.5.2)."""
    if isinstance(content, Message):
        isASCII = all(str(value).isascii() for value in content.values())
        content = content.as_bytes(policy=SMTP if isASCII else SMTPUTF8)
    elif isinstance(content, str):
        content = content.encode()
    encoder = DataEncoder()
    return encoder.encode(withLineEnds(content)) + encoder.finish()


def _show(item: str | bytes) -> str:
    """What was said, for the text of an error."""
    return item if isinstance(item, str) else f"{len(item)} octets"
