"""
What the checks of a message's signatures and author need of it: its header fields, and hashes of its body.

In: octets of the message, cut anywhere, as they arrive.  Out: the fields as they were written, and digests.  The header
is kept, up to a limit; the body is not.
This module knows no signature, no DNS and no stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from smtphooks.header import HeaderEnd
from smtphooks.layers.authentication.bodyhash import BodyHash

# A header beyond these bounds is not looked at: what dkimpy does grows faster than the header.
HEADER_OCTETS = 262144
FIELDS = 1000

_BARE_CR = re.compile(rb"\r(?!\n)")
_LINE_END = re.compile(rb"\r?\n")
# RFC 5322 section 2.2; white space before the colon is obsolete (section 4.5), but mail programs accept it.
_NAME = re.compile(rb"([!-9;-~]+[ \t]*):")


class Field(NamedTuple):
    """
    A header field.

    @ivar key: its name, in lower case.
    @ivar name: its name as written.
    @ivar value: what follows the colon, with all its line ends, each CRLF.
    """

    key: bytes
    name: bytes
    value: bytes


def fieldsOf(header: bytes) -> list[Field]:
    """The fields of a header; lines that belong to no field are left out."""
    found: list[tuple[bytes, list[bytes]]] = []
    isField = False
    for line in _LINE_END.split(header):
        if line[:1] in (b" ", b"\t"):
            if isField:
                found[-1][1].append(line)
            continue
        name = _NAME.match(line)
        isField = name is not None
        if name is not None:
            found.append((name[1], [line[name.end() :]]))
    return [Field(name.rstrip().lower(), name, b"\r\n".join([*lines, b""])) for name, lines in found]


Wants = Callable[[Sequence[Field]], Iterable[tuple[str, int | None]]]


class MessageScan:
    """
    A message that passes by.

    @ivar fields: its header fields; empty while the header has not ended.
    @ivar fault: why the header was not looked at, None if it was.
    """

    def __init__(self, wants: Wants) -> None:
        """
        @param wants: gives, for the header fields, which hashes of the body are needed: pairs of the canonical form and
            the length that is covered, None for all of it.
        """
        self.fields: list[Field] = []
        self.fault: str | None = None
        self._wants = wants
        self._header: bytearray | None = bytearray()  # None when it has ended
        self._end = HeaderEnd()
        self._hashes: dict[str, BodyHash] = {}

    def feed(self, data: bytes) -> None:
        """Octets of the message have arrived."""
        if self._header is None:
            for body in self._hashes.values():
                body.feed(data)
            return
        self._end.scan(data)
        self._header += data
        end = len(self._header) if self._end.end is None else self._end.end
        if end > HEADER_OCTETS:
            self._header = None
            self.fault = f"the header has more than {HEADER_OCTETS} octets"
        elif self._end.end is not None:
            self._endHeader(end)

    def close(self) -> None:
        """The message has ended."""
        if self._header is not None:
            self._endHeader(len(self._header))
        for body in self._hashes.values():
            body.close()

    def _endHeader(self, end: int) -> None:
        assert self._header is not None
        header, body = bytes(self._header[:end]), bytes(self._header[end:])
        self._header = None
        if _BARE_CR.search(header):
            # RFC 3030 lets it through, as option bareNewline may.  Readers that end a line there see fields, perhaps
            # another From, which others do not see.
            self.fault = "the header has a bare CR"
            return
        fields = fieldsOf(header)
        if len(fields) > FIELDS:
            self.fault = f"the header has more than {FIELDS} fields"
            return
        self.fields = fields
        lengths: dict[str, list[int]] = {}
        for form, length in self._wants(fields):
            lengths.setdefault(form, []).extend([] if length is None else [length])
        self._hashes = {form: BodyHash(form, wanted) for form, wanted in lengths.items()}
        if body:
            self.feed(body)

    def bodyHash(self, form: str, length: int | None) -> bytes | None:
        """
        The SHA-256 of the body in a canonical form, or of its first octets.

        @return: None if the body is shorter, or if this hash was not wanted.
        """
        return self._hashes[form].digest(length) if form in self._hashes else None

    def bodyOctets(self, form: str) -> int:
        """The length of the body in a canonical form that was wanted."""
        return self._hashes[form].octets
