"""
The wire: octets in; command lines and message octets out, one per pull.

The caller asks for what may come next (a line, a message, a chunk), which only the dialogue knows.  Octets are not
parsed before they are asked for, so pipelined input is never parsed in the wrong state.
Rules kept here: only CRLF.CRLF ends a message (invariant 3); stuffed dots are removed (RFC 5321 section 4.5.2); no
buffer grows beyond its limit; the cost is linear in the input, however it is cut.
This module knows neither commands nor replies nor Twisted.
"""

from __future__ import annotations

import re
from collections import deque
from enum import Enum

NORMALIZE = "normalize"
REJECT = "reject"
ACCEPT = "accept"

_END_OF_MESSAGE = b"\r\n.\r\n"
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
_BARE = re.compile(_BARE_LF.pattern + b"|" + _BARE_CR.pattern)

# Dots that are looked at one by one before CRLF-dot is searched for.
_FEW_DOTS = 8

# Octets of a message in one pull, which bounds what is buffered for a slow hook.  Normalizing may double them, so a
# piece with line ends to normalize is half as large.
_PIECE = 65536
_UNCLEAN_PIECE = 32768


def beforeBareNewline(octets: bytes) -> int:
    """The number of octets before the first bare CR or LF in a piece of a message, or all of them."""
    bare = _BARE.search(octets)
    return len(octets) if bare is None else bare.start()


def _isClean(octets: bytes) -> bool:
    """Whether there is no bare CR and no bare LF."""
    # If so, removing every CR and then putting one before every LF changes nothing.  Replacing single octets is three
    # times as fast as counting pairs.
    return octets.replace(b"\r", b"").replace(b"\n", b"\r\n") == octets


def _firstDotLine(octets: bytes, start: int) -> int:
    """
    The index of the first CRLF at or after C{start} that a dot follows, -1 without one.

    A search for one octet costs next to nothing compared to a search for three, and large messages are mostly base64,
    which has no dots.  So the first dots, those of the header, are looked at one by one; text has too many for that.
    """
    dot = start - 1
    for _ in range(_FEW_DOTS):
        dot = octets.find(b".", dot + 1)
        if dot < 0:
            return -1
        if octets.startswith(b"\r\n", max(dot - 2, start), dot):
            return dot - 2
    return octets.find(b"\r\n.", dot + 1)


class LineFault(Enum):
    """What is wrong with a line, which has been dropped up to its end."""

    TOO_LONG = "too long"
    BARE_LINE_END = "bare line end"


class Wire:
    """
    The receive buffer of one connection.

    @ivar isEmpty: every octet received has been parsed.
    @ivar messageEnded: the message or chunk asked for has been handed out whole.
    @ivar bareNewlineSeen: the message has a bare CR or LF (only looked for in "reject" mode).
    """

    __slots__ = (
        "_bareNewline",
        "_block",
        "_carry",
        "_chunkOctets",
        "_lineEnd",
        "_lineLost",
        "_partial",
        "_position",
        "_verbatim",
        "_waiting",
        "_waitingOctets",
        "bareNewlineSeen",
        "isEmpty",
        "messageEnded",
    )

    def __init__(self, bareNewline: str = NORMALIZE) -> None:
        self._bareNewline = bareNewline
        self._block = b""  # the block being parsed, from self._position on
        self._position = 0
        self._waiting: deque[bytes] | None = None  # the blocks after it; an empty deque takes 760 octets
        self._waitingOctets = 0
        self._partial = bytearray()  # the beginning of a line whose end has not arrived
        self._lineLost: LineFault | None = None  # what is wrong with that line
        self._carry = b""  # message octets whose meaning depends on the next octet
        self._lineEnd = b"\r\n"  # the line end that the message so far ends with, b"" if it ends within a line
        self._chunkOctets: int | None = None  # octets of a BDAT chunk still to come; None for DATA
        self._verbatim = False
        self.isEmpty: bool = True
        self.messageEnded: bool = True
        self.bareNewlineSeen: bool = False

    def feed(self, data: bytes) -> None:
        """Buffer octets from the network."""
        if self.isEmpty:
            self._block = data
            self._position = 0
            self.isEmpty = not data
        elif data:
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append(data)
            self._waitingOctets += len(data)

    @property
    def isInChunks(self) -> bool:
        """The message, or the last one, comes in chunks."""
        return self._chunkOctets is not None

    @property
    def buffered(self) -> int:
        """The number of octets received and not yet handed out."""
        return len(self._block) - self._position + self._waitingOctets + len(self._partial)

    def clear(self) -> int:
        """Drop all buffered octets, as STARTTLS must (RFC 3207 section 4.2); their number is the result."""
        octets = self.buffered
        self._block = b""
        self._position = 0
        self._waiting = None
        self._waitingOctets = 0
        self.isEmpty = True
        self._partial.clear()
        self._lineLost = None
        return octets

    def _next(self) -> None:
        """Go on to the next block, as this one is parsed."""
        self._position = 0
        if self._waiting:
            self._block = self._waiting.popleft()
            self._waitingOctets -= len(self._block)
        else:
            # An idle connection must not keep a large block alive.
            self._waiting = None
            self._block = b""
            self.isEmpty = True

    # --- lines ---

    def maybeLine(self, limit: int) -> bytes | LineFault | None:
        """
        The next line without its line end, None if that has not arrived, or what is wrong with the line.

        @param limit: the maximum length of a line in octets, CRLF included (RFC 5321 section 4.5.3.1.4).
        """
        while not self.isEmpty:
            block, start = self._block, self._position
            newline = block.find(b"\n", start)
            end = newline + 1 or len(block)
            if end < len(block):
                self._position = end
            else:
                self._next()
            if newline > start and not self._partial and end - start <= limit and block[newline - 1] == 13:
                # The common case: a whole line in one block.  (A dropped line leaves an octet in self._partial.)
                line = block[start : newline - 1]
                return line if self._bareNewline != REJECT or b"\r" not in line else LineFault.BARE_LINE_END
            if self._gather(block[start:end], limit) and newline >= 0:
                line = bytes(self._partial)
                self._partial.clear()
                return self._finish(self._withoutEnd(line))
        return None

    def _finish(self, line: bytes | LineFault) -> bytes | LineFault:
        fault, self._lineLost = self._lineLost, None
        return fault or line

    def _gather(self, piece: bytes, limit: int) -> bool:
        """Append to the partial line; the result is whether a newline at the end of the piece ends the line."""
        partial = self._partial
        before = partial[-1:] if len(piece) == 1 else piece[-2:-1]
        ends = before == b"\r" or self._bareNewline != REJECT
        if piece.endswith(b"\n") and not ends:
            self._lineLost = LineFault.BARE_LINE_END
        partial += piece
        if len(partial) > limit and self._lineLost is None:
            self._lineLost = LineFault.TOO_LONG
        if self._lineLost is not None:
            # Of a dropped line only its last octet is kept, which may be the CR before the next LF.
            del partial[:-1]
        return ends

    def _withoutEnd(self, line: bytes) -> bytes | LineFault:
        line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        if self._bareNewline == REJECT and b"\r" in line:
            return LineFault.BARE_LINE_END
        return line

    # --- messages ---

    def beginMessage(self) -> None:
        """A message follows that CRLF.CRLF ends (DATA)."""
        self._chunkOctets = None
        self.messageEnded = False
        self._verbatim = self._bareNewline == ACCEPT
        self._lineEnd = b"\r\n"
        self._carry = b""
        self.bareNewlineSeen = False

    def beginChunk(self, octets: int, first: bool, binary: bool) -> None:
        """
        A chunk of a message follows (BDAT, RFC 3030 section 2).

        @param octets: its length.
        @param first: it is the first chunk of its message.
        @param binary: the message is BINARYMIME, so its line ends are not normalized.
        """
        self._chunkOctets = octets
        self.messageEnded = octets == 0
        self._verbatim = binary or self._bareNewline == ACCEPT
        if first:
            self._carry = b""
            self.bareNewlineSeen = False

    def maybeMessage(self) -> bytes | None:
        """
        The next octets of the message, at most 64 KiB, and perhaps none; None if more must arrive first.

        Look at L{messageEnded} after each call.
        """
        if self.messageEnded or self.isEmpty:
            return None
        data = self._data() if self._chunkOctets is None else self._chunk(self._chunkOctets)
        if self._position >= len(self._block):
            self._next()
        return data

    def endOfChunks(self) -> bytes:
        """The octets held back of a message in chunks, to be asked for after the last chunk."""
        carry, self._carry = self._carry, b""
        return self._translate(carry) if carry else b""

    def _take(self, most: int) -> bytes:
        """The octets held back, and up to so many of the current block."""
        block, start = self._block, self._position
        piece = block if start == 0 and len(block) <= most else block[start : start + most]
        self._position = start + len(piece)
        if self._carry:
            piece = self._carry + piece
            self._carry = b""
        return piece

    def _giveBack(self, octets: int) -> None:
        """Leave this many of the octets just taken in the block."""
        self._position -= octets

    def _chunk(self, octets: int) -> bytes:
        start = self._position
        piece = self._take(min(octets, _PIECE - len(self._carry)))
        isClean = self._verbatim or _isClean(piece)
        if not isClean and len(piece) > _UNCLEAN_PIECE:
            self._giveBack(len(piece) - _UNCLEAN_PIECE)
            piece = piece[:_UNCLEAN_PIECE]
        self._chunkOctets = octets - (self._position - start)
        self.messageEnded = self._chunkOctets == 0
        if isClean:
            return piece
        if piece.endswith(b"\r"):
            piece, self._carry = piece[:-1], b"\r"
        return self._translate(piece)

    def _data(self) -> bytes:
        piece = self._take(_PIECE - len(self._carry))
        start = 0
        if self._lineEnd and piece.startswith(b"."):
            if self._lineEnd == b"\r\n":
                if piece == b"." or piece == b".\r":
                    self._carry = piece
                    return b""
                if piece.startswith(b".\r\n"):
                    self._giveBack(len(piece) - 3)
                    self.messageEnded = True
                    return b""
            start = 1
        dot = _firstDotLine(piece, start)
        end = piece.find(_END_OF_MESSAGE, dot) if dot >= 0 else -1
        content = piece[start : end + 2] if end >= 0 else piece[start:]
        # Only the message itself is checked: what is pipelined after it would be checked once for each message.
        isClean = self._verbatim or _isClean(content)
        if not isClean and len(content) > _UNCLEAN_PIECE:
            self._giveBack(len(piece) - start - _UNCLEAN_PIECE)
            content = self._holdBack(content[:_UNCLEAN_PIECE])
        elif end >= 0:
            self._position -= len(piece) - end - 5
            self.messageEnded = True
        else:
            content = self._holdBack(content)
        # Line ends come first: a dot after a bare LF is stuffed if that LF counts as a line end.
        translated = content if isClean else self._translate(content)
        if dot == end and translated is content:
            return content
        return translated.replace(b"\r\n.", b"\r\n")

    def _holdBack(self, content: bytes) -> bytes:
        """Hold back octets that may be the beginning of CRLF.CRLF, until more arrives."""
        tail = 0
        if content.endswith(b"\r\n."):
            tail = 1
        elif content.endswith(b"\r\n.\r"):
            tail = 2
        elif content.endswith(b"\r"):
            self._lineEnd = b""
            self._carry = b"\r"
            return content[:-1]
        if tail:
            self._carry = content[-tail:]
            content = content[:-tail]
        if content.endswith(b"\r\n"):
            self._lineEnd = b"\r\n"
        else:
            self._lineEnd = b"\n" if self._bareNewline == NORMALIZE and content.endswith(b"\n") else b""
        return content

    def _translate(self, content: bytes) -> bytes:
        """Apply "normalize" or "reject" to line ends; the content does not end within a CRLF."""
        if _isClean(content):
            return content
        if self._bareNewline == REJECT:
            self.bareNewlineSeen = True
            return content
        return _BARE_CR.sub(b" ", _BARE_LF.sub(b"\r\n", content))
