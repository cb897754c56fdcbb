"""
The header of a message (RFC 5322 section 2.2): where it ends, its fields, and how fields are put in front of it.

In: octets, cut anywhere.  Out: offsets, an L{email.message.Message}, and the separator between two headers.
A line ends with CRLF, or with a bare LF where option C{bareNewline} lets that through.
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
# RFC 5322 section 2.2; old messages may have spaces before the colon (section 4.5).
_NAME_IF_ANY = re.compile(rb"(?:[!-9;-~]+[ \t]*)?")
# New fields may not have such spaces, nor lines of white space only (section 3.2.2), which some programs take for the
# end of the header.
_FIELDS = re.compile(rb"(?:[!-9;-~]+:[^\r\n]*\r\n(?:[ \t]+[^ \t\r\n][^\r\n]*\r\n)*)+")

_parser = BytesHeaderParser()


class HeaderEnd:
    """
    Searches octets that arrive in pieces for the empty line that ends the header, without scanning any piece twice.

    @ivar octets: the number of octets scanned.
    @ivar end: the length of the header in octets, its empty line included; None while that has not arrived.
    """

    __slots__ = ("_before", "end", "octets")

    def __init__(self) -> None:
        self.octets = 0
        self.end: int | None = None
        self._before = b"\n"  # the empty line may be the first

    def scan(self, data: bytes) -> None:
        """Search the next piece."""
        if self.end is None:
            seen = self._before + data
            found = _EMPTY_LINE_BEHIND_ANOTHER.search(seen)
            if found is not None:
                self.end = self.octets - len(self._before) + found.end()
            self._before = seen[-2:]
        self.octets += len(data)


def parseHeader(octets: bytes) -> Message:
    """
    The fields of a header.  Neither this nor reading the result raises anything, whatever the octets.
    """
    # The parser would end a line at a bare CR, and find fields that other programs do not find.
    header = _parser.parsebytes(_BARE_CR.sub(b" ", octets))
    # For the parser a line that is not a field ends the header, and the lines after it are a body, which is dropped.
    header.set_payload("")
    return header


def areFields(octets: bytes) -> bool:
    """Whether these are one or more whole header fields, each line of which ends with CRLF."""
    return _FIELDS.fullmatch(octets) is not None


def maybeSeparator(octets: bytes, more: bool) -> bytes | None:
    """
    The separator between header fields put in front of a message and the message, so that it cannot extend them.

    It is empty if the message begins with a field, or with the empty line that ends a header; else it is an empty line.

    @param octets: the first octets of the message.
    @param more: further octets may follow.
    @return: None if the separator depends on further octets.
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
