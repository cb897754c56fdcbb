"""
The content of a message: octets as hooks have them in, octets for the wire out.

With DATA a leading dot is doubled (RFC 5321 section 4.5.2), however the octets are cut, and the end is a dot on a line
of its own; the CRLF before it belongs to the message if that has one.  A CR or LF without the other one is never sent:
a server that takes it for a line end would find commands of an attacker behind it.
This module knows no connection.
"""

from __future__ import annotations

import re

_BARE_CR = re.compile(rb"\r(?!\n)")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LINE_END = re.compile(rb"\r\n|\r|\n")


class DataEncoder:
    """
    The content of one message for DATA.

    @ivar is8bit: octets above 127 have been among it.
    """

    __slots__ = ("_atLineStart", "_endsWithCR", "is8bit")

    def __init__(self) -> None:
        self.is8bit: bool = False
        self._atLineStart = True
        self._endsWithCR = False

    def encode(self, octets: bytes) -> bytes:
        """The next octets of the message for the wire."""
        if not octets:
            return b""
        if not self.is8bit and not octets.isascii():
            self.is8bit = True
        if self._endsWithCR:
            octets = b"\r" + octets
        self._endsWithCR = octets.endswith(b"\r")
        if self._endsWithCR:
            octets = octets[:-1]
            if not octets:
                return b""
        if octets.count(b"\n") != octets.count(b"\r\n") or octets.count(b"\r") != octets.count(b"\r\n"):
            octets = _BARE_CR.sub(b" ", _BARE_LF.sub(b"\r\n", octets))
        stuffed = octets.replace(b"\r\n.", b"\r\n..")
        if self._atLineStart and octets.startswith(b"."):
            stuffed = b"." + stuffed
        self._atLineStart = octets.endswith(b"\r\n")
        return stuffed

    def finish(self) -> bytes:
        """What ends the message."""
        rest = b" " if self._endsWithCR else b""
        return rest + (b".\r\n" if self._atLineStart and not rest else b"\r\n.\r\n")


def withLineEnds(octets: bytes) -> bytes:
    """The line ends of a file, of whatever system, as those of a message: CRLF alone (RFC 5321 section 2.3.8)."""
    return _LINE_END.sub(b"\r\n", octets)
