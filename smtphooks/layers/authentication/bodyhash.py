"""
Hashes of a message's body for DKIM and ARC (RFC 6376 sections 3.4 and 3.7), computed while the body arrives.

In: octets of the body, cut anywhere.  Out: the SHA-256 of its canonical form, and of the beginnings of it that
signatures with C{l=} cover.  However long the body is, a few octets of it are kept.
This module knows no header, no signature and no DNS.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

SIMPLE, RELAXED = "simple", "relaxed"

_CRLF = b"\r\n"

_SPACES = re.compile(rb"  +")

# Empty lines that turn out not to be the last ones are hashed in blocks of so many.
_BLOCK = 32768


class BodyHash:
    """
    The hash of a body in one of the two canonical forms.

    @ivar octets: the length of the canonical form in octets, when the body is L{closed <close>}.
    """

    __slots__ = ("_digests", "_emptyLines", "_hash", "_held", "_isRelaxed", "_lengths", "octets")

    def __init__(self, canonicalization: str, lengths: Iterable[int] = ()) -> None:
        """
        @param canonicalization: C{"simple"} or C{"relaxed"}.
        @param lengths: octets of the beginnings of the canonical form whose hashes are wanted as well.
        """
        self.octets: int = 0
        self._isRelaxed = canonicalization == RELAXED
        self._hash = hashlib.sha256()
        self._held = b""  # the end of what arrived, if what it means depends on what follows: white space, a CR
        self._emptyLines = 0  # line ends that count only if more than line ends follows
        self._digests: dict[int | None, bytes] = {}
        self._lengths = sorted(set(lengths), reverse=True)
        self._note(b"")

    def feed(self, data: bytes) -> None:
        """Octets of the body have arrived."""
        data = self._held + data
        end = len(data) - data.endswith(b"\r")
        if self._isRelaxed:
            end = len(data[:end].rstrip(b" \t"))
            # However long a run of white space is, it becomes one space or, before a line end, nothing.
            tail = data[end:]
            self._held = (b" " if tail[:1] in (b" ", b"\t") else b"") + (b"\r" if tail.endswith(b"\r") else b"")
            # Replaced one after the other, as a pattern for white space before a line end would take quadratic time.
            self._write(_SPACES.sub(b" ", data[:end].replace(b"\t", b" ")).replace(b" \r\n", _CRLF))
        else:
            self._held = data[end:]
            self._write(data[:end])

    def close(self) -> None:
        """The body has ended."""
        self._write(self._held)
        self._held = b""
        # Both forms end with one line end, whatever the body ends with; but the relaxed form of an empty body is empty.
        if self.octets or not self._isRelaxed:
            self._note(_CRLF)
        self._digests[None] = self._hash.digest()

    def digest(self, length: int | None = None) -> bytes | None:
        """
        The hash of the canonical form, or of its first octets.

        @return: None if the canonical form is shorter.
        """
        return self._digests.get(length)

    def _write(self, data: bytes) -> None:
        """Hash octets of the canonical form, but keep back the line ends at their end."""
        end = len(data.rstrip(_CRLF))
        if data[end:] != _CRLF * ((len(data) - end) // 2):  # bare CR and LF are text
            end = len(data)
            while data.endswith(_CRLF, 0, end):
                end -= 2
        if end:
            while self._emptyLines:
                lines = min(self._emptyLines, _BLOCK)
                self._emptyLines -= lines
                self._note(_CRLF * lines)
            self._note(data[:end])
        self._emptyLines += (len(data) - end) // 2

    def _note(self, data: bytes) -> None:
        """Hash octets of the canonical form."""
        while self._lengths and self._lengths[-1] <= self.octets + len(data):
            length = self._lengths.pop()
            beginning = self._hash.copy()
            beginning.update(data[: length - self.octets])
            self._digests[length] = beginning.digest()
        self._hash.update(data)
        self.octets += len(data)
