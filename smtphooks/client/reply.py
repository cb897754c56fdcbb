"""
Replies as a client reads them: octets in, L{ReceivedReply} by L{ReceivedReply} out, however the octets are cut.

Rule: whatever a server sends, no more of it is kept than a reply may have, and what is no reply ends the conversation.
This module knows no commands and no transport.
"""

from __future__ import annotations

import re

# RFC 5321 section 4.5.3.1.5 allows 512 octets for a line.  Servers exceed that, and none needs more than this.
_LINE_OCTETS = 8192
_REPLY_OCTETS = 256 * 1024

_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")
# RFC 5321 section 4.2: the text may be missing, and with it the space.
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)


class NoReply(Exception):
    """The server sends what is no reply of SMTP."""


class ReceivedReply(str):
    """
    A reply as the client sees it: a C{str} with all of its text, lines separated by C{"\\n"} if there are several.

    @ivar code: the reply code.
    @type code: C{int}
    @ivar enhancedCode: the enhanced code such as C{"5.1.1"}, None in a reply without one.
    @ivar lines: the text of each line, without the codes.
    @type lines: C{tuple} of C{str}
    """

    code: int
    enhancedCode: str | None
    lines: tuple[str, ...]

    def __new__(cls, *lines: str) -> ReceivedReply:
        """
        @param lines: as they were sent, C{"250-mx.test"}, without their line ends.
        """
        self = super().__new__(cls, "\n".join(lines))
        self.code = int(lines[0][:3])
        texts = [line[4:] for line in lines]
        found = _ENHANCED.match(texts[0])
        self.enhancedCode = found[1] if found is not None and found[1][0] == lines[0][0] else None
        if self.enhancedCode is not None:
            texts = [_withoutCode(text, self.enhancedCode) for text in texts]
        self.lines = tuple(texts)
        return self

    @property
    def text(self) -> str:
        """The text without the codes; lines are separated by C{"\\n"}."""
        return "\n".join(self.lines)

    @property
    def isPositive(self) -> bool:
        """It refuses nothing: 2xx, or 3xx, which asks for more (RFC 5321 section 4.2.1)."""
        return self.code < 400

    @property
    def isPermanent(self) -> bool:
        """It refuses for good: 5xx."""
        return self.code >= 500


def _withoutCode(text: str, enhancedCode: str) -> str:
    """The text without its enhanced code; RFC 2034 section 4 has it on each line."""
    found = _ENHANCED.match(text)
    return text[found.end() :] if found is not None and found[1] == enhancedCode else text


class ReplyReader:
    """
    Reads replies.

    The work is linear in the octets, however many lines they are and however they are cut.

    @ivar isEmpty: no octets of a reply that has not ended are kept.
    """

    __slots__ = ("_lines", "_octets", "_rest", "_searched", "_start")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._start = 0  # of what has not been taken
        self._searched = 0  # no line end before it
        self._lines: list[str] = []
        self._octets = 0

    @property
    def isEmpty(self) -> bool:
        return self._start == len(self._rest) and not self._lines

    def add(self, octets: bytes) -> None:
        """Octets have arrived."""
        self._rest += octets

    def maybeReply(self) -> ReceivedReply | None:
        """
        The next reply, None if it has not arrived whole.

        @raise NoReply: if what has arrived is none.
        """
        while True:
            end = self._rest.find(b"\n", self._searched)
            if (len(self._rest) if end < 0 else end) - self._start > _LINE_OCTETS:
                raise NoReply("a line of a reply is too long")
            if end < 0:
                del self._rest[: self._start]
                self._start, self._searched = 0, len(self._rest)
                return None
            line = bytes(self._rest[self._start : end])
            self._start = self._searched = end + 1
            if self._take(line.removesuffix(b"\r")):
                lines, self._lines, self._octets = self._lines, [], 0
                return ReceivedReply(*lines)

    def _take(self, line: bytes) -> bool:
        """Take a line; is it the last one of its reply?"""
        found = _LINE.fullmatch(line)
        text = line.decode("utf-8", "backslashreplace")
        if found is None:
            raise NoReply(f"{text[:80]!r} is no reply")
        if self._lines and self._lines[0][:3] != text[:3]:
            raise NoReply(f"the lines of a reply have the codes {self._lines[0][:3]} and {text[:3]}")
        self._octets += len(line)
        if self._octets > _REPLY_OCTETS:
            raise NoReply("a reply is too long")
        self._lines.append(text)
        return found[2] != b"-"
