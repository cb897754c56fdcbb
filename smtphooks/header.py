"""
The header of a message (RFC 5322 section 2.2): where it ends, what it says, and what may stand in front of it.

In: octets, cut anywhere.  Out: offsets, an L{email.message.Message}, and the octets that keep two headers apart.
A line ends with CRLF or a bare LF, as option C{bareNewline} may let through.
This module knows neither streams nor sessions.
"""

from __future__ import annotations

import re
from email.message import Message
from email.parser import BytesHeaderParser

EMPTY_LINE = b"\r\n"

# RFC 5322 section 2.1.1: no line is longer, so a field has its colon within these octets.
_LINE_OCTETS = 998

_EMPTY_LINE_BEHIND_ANOTHER = re.compile(rb"\n\r?\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
# RFC 5322 section 2.2; section 4.5 has spaces before the colon in old messages.
_NAME_IF_ANY = re.compile(rb"(?:[!-9;-~]+[ \t]*)?")
# New fields have no such space, and no line of nothing but spaces (section 3.2.2), which some readers take for the end.
_FIELDS = re.compile(rb"(?:[!-9;-~]+:[^\r\n]*\r\n(?:[ \t]+[^ \t\r\n][^\r\n]*\r\n)*)+")

_parser = BytesHeaderParser()


class HeaderEnd:
    """
    Looks for the first empty line in octets that come piece by piece, each of which it looks at once.

    @ivar octets: how many have come.
    @ivar end: how many of them are the header, its empty line included; None while that has not come.
    """

    __slots__ = ("_before", "end", "octets")

    def __init__(self) -> None:
        self.octets = 0
        self.end: int | None = None
        self._before = b"\n"  # The empty line may be the first.

    def receive(self, data: bytes) -> None:
        """Octets have arrived."""
        if self.end is None:
            seen = self._before + data
            found = _EMPTY_LINE_BEHIND_ANOTHER.search(seen)
            if found is not None:
                self.end = self.octets - len(self._before) + found.end()
            self._before = seen[-2:]
        self.octets += len(data)


def parseHeader(octets: bytes) -> Message:
    """
    The fields of a header.  Whatever the octets, this raises nothing, and neither does looking at the result.
    """
    # The parser would end a line at a bare CR, and see fields that nobody else sees.
    header = _parser.parsebytes(_BARE_CR.sub(b" ", octets))
    # A line that is no field ends the header for the parser; what follows is no text that could be shown.
    header.set_payload("")
    return header


def areFields(octets: bytes) -> bool:
    """Whole header fields, one at least, each line of which ends with CRLF."""
    return _FIELDS.fullmatch(octets) is not None


def maybeSeparator(octets: bytes, more: bool) -> bytes | None:
    """
    What must stand between header fields of ours and a message, so that the message cannot extend them.

    Nothing, if the message begins with a field or with the empty line that ends a header; else an empty line.

    @param octets: the first of the message.
    @param more: others may follow.
    @return: None if that depends on those.
    """
    if octets.startswith((b"\r\n", b"\n")):
        return b""
    opening = octets[:_LINE_OCTETS]
    name = _NAME_IF_ANY.match(opening)
    assert name is not None
    end = name.end()
    if more and (end == len(opening) < _LINE_OCTETS or opening == b"\r"):
        return None
    return b"" if not opening or (end and opening[end : end + 1] == b":") else EMPTY_LINE
