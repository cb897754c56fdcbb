"""
The header of a message (RFC 5322 section 2.2): where it ends, its fields, and how fields are put in front of it.

In: octets, cut anywhere.  Out: the octets of a header, an L{email.message.Message}, and the separator between two
headers.
A line ends with CRLF, or with a bare LF where option C{bareNewline} lets that through.
This module knows neither streams nor sessions.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Protocol

from smtphooks.replies import HEADER_TOO_LARGE

EMPTY_LINE = b"\r\n"

# The limit on a header, in octets.
HEADER_OCTETS = 262144

# Pieces that are collected before they are joined: a bytes object has some 50 octets of overhead, even for two octets.
_PIECES = 1024

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
        self.octets: int = 0
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


class Buffer(Protocol):
    """Where a message arrives: so many octets wait there, and there is room for so many."""

    buffered: int
    room: int


async def receiveHeader(
    buffer: Buffer, chunks: list[bytes], more: Callable[[int], Awaitable[bool]], wantsMore: Callable[[], None]
) -> bytes:
    """
    Wait for the header of a message.

    @param buffer: has room for the largest header meanwhile.
    @param chunks: the octets of the message as they arrive; they stay there, but are joined.
    @param more: waits for more than so many chunks; False if the message has ended before.
    @param wantsMore: called if there was no room before.
    @return: the header as the client sent it; without an empty line the whole message.
    @raise SMTPError: 552, if it is larger than L{HEADER_OCTETS}.
    """
    search, searched, room = HeaderEnd(), 0, buffer.room
    buffer.room = HEADER_OCTETS + 1
    try:
        if buffer.buffered >= room:
            wantsMore()
        while search.end is None and search.octets <= HEADER_OCTETS and await more(searched):
            for chunk in chunks[searched:]:
                search.scan(chunk)
            if len(chunks) > _PIECES:
                chunks[:] = [b"".join(chunks)]
            searched = len(chunks)
    finally:
        buffer.room = room
    if (search.end or search.octets) > HEADER_OCTETS:
        raise HEADER_TOO_LARGE.asError()
    if len(chunks) > 1:
        chunks[:] = [b"".join(chunks)]
    return chunks[0][: search.end] if chunks else b""


def parseHeader(octets: bytes, prefix: bytes = b"") -> Message:
    """
    The fields of a header.  Neither this nor reading the result raises anything, whatever the octets.

    @param prefix: fields that are put in front of the message.
    """
    if prefix:
        # If the separator is an empty line, all of the message is body.
        octets = prefix + (maybeSeparator(octets, more=False) or octets)
    # The parser would end a line at a bare CR, and find fields that other programs do not find.
    header = _parser.parsebytes(_BARE_CR.sub(b" ", octets))
    # For the parser a line that is not a field ends the header, and the lines after it are a body, which is dropped.
    header.set_payload("")
    return header


def areFields(octets: bytes) -> bool:
    """Whether these are one or more whole header fields, each line of which ends with CRLF."""
    return _FIELDS.fullmatch(octets) is not None


def checkedFields(octets: bytes, taking: str) -> bytes:
    """
    These octets, if they are one or more whole header fields, each line of which ends with CRLF.

    @param taking: begins the error, such as C{"prepend() takes"}.
    @raise TypeError: if they are not bytes.
    @raise ValueError: if they are anything else.
    """
    if not isinstance(octets, bytes):
        raise TypeError(f"{taking} bytes, not {octets!r}")
    if not areFields(octets):
        raise ValueError(f"{taking} whole header fields whose lines end with CRLF, not {octets!r}")
    return octets


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
