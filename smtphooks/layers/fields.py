"""
Changes to the header of a message: fields are removed, replaced and added, and no other octet is touched.

In: the octets of a header, and changes that a scanner asks for.  Out: the octets of the new header.  Values may hold
anything: none of them ends a field, begins another one, or ends the header.
This module knows no scanner and no stream.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from smtphooks.header import maybeSeparator

# RFC 5322 section 2.2, with the spaces before the colon of section 4.5; the lines behind the first one are folded.
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[^\n]*\n?(?:[ \t][^\n]*\n?)*")
_NAME = re.compile(r"[!-9;-~]+")

# RFC 5322 section 2.1.1, without CRLF.
_LINE_OCTETS = 998


def isFieldName(name: object) -> bool:
    """Is it the name of a field, that fits on a line?"""
    return isinstance(name, str) and len(name) <= 100 and _NAME.fullmatch(name) is not None


@attrs.frozen
class Addition:
    """
    A field to be added.

    @ivar position: how many fields come before it; if negative, it is counted from the end of the header, where -1 is
        behind the last field.
    """

    name: str
    value: str
    position: int = -1


@attrs.frozen
class HeaderChanges:
    """
    Changes to a header; it is as if they were made in the order in which they are listed here.

    @ivar removals: names of fields, each with which of them goes: 0 for all, 1 for the first one, -1 for the last one.
        All of them count the fields that the message came with.
    @ivar replacements: names and values: the first field of that name gets the value, and if there is none, a field is
        added.
    @ivar additions: fields to be added, one after the other.
    """

    removals: Sequence[tuple[str, int]] = ()
    replacements: Sequence[tuple[str, str]] = ()
    additions: Sequence[Addition] = ()

    def __bool__(self) -> bool:
        return bool(self.removals or self.replacements or self.additions)

    def appliedTo(self, header: bytes) -> bytes:
        """
        The new header.

        @param header: the header, its empty line included; without an empty line, the whole message.
        """
        fields, rest = _split(header)
        hadFields = bool(fields)
        gone = {index for name, which in self.removals for index in _indices(fields, name, which)}
        fields = [field for index, field in enumerate(fields) if index not in gone]
        for name, value in self.replacements:
            field = _Field(name.lower(), fieldOctets(name, value))
            found = _indices(fields, name, 1)
            if found:
                fields[found[0]] = field
            else:
                _insert(fields, field, -1)
        for addition in self.additions:
            _insert(
                fields, _Field(addition.name.lower(), fieldOctets(addition.name, addition.value)), addition.position
            )
        octets = b"".join(field.octets for field in fields)
        # Without a field before it, the first line of the message may look like the rest of one.
        separator = b"" if hadFields or not fields else maybeSeparator(rest, more=False) or b""
        return octets + separator + rest


@attrs.frozen
class _Field:
    name: str  # in lower case
    octets: bytes


def _split(header: bytes) -> tuple[list[_Field], bytes]:
    """The fields, and what follows them: an empty line, or a line that is no field."""
    fields, position = [], 0
    while found := _FIELD.match(header, position):
        fields.append(_Field(found[1].decode().lower(), found[0]))
        position = found.end()
    return fields, header[position:]


def _indices(fields: Sequence[_Field], name: str, which: int) -> Sequence[int]:
    """Where the fields of this name are, or only the one of them with this number."""
    indices = [index for index, field in enumerate(fields) if field.name == name.lower()]
    if which == 0:
        return indices
    number = which - 1 if which > 0 else len(indices) + which
    return indices[number : number + 1] if number >= 0 else ()


def _insert(fields: list[_Field], field: _Field, position: int) -> None:
    index = position if position >= 0 else max(0, len(fields) + 1 + position)
    before = fields[:index]
    if before and not before[-1].octets.endswith(b"\n"):  # The message ends within its header.
        fields[len(before) - 1] = attrs.evolve(before[-1], octets=before[-1].octets + b"\r\n")
    fields.insert(index, field)


def fieldOctets(name: str, value: str) -> bytes:
    """
    A field.

    Line ends in the value become folds, and lines that are too long are folded.
    """
    first, *others = [_clean(line).rstrip() for line in re.split(r"[\r\n]+", value)]
    lines = _folded(f"{name}: {first.lstrip()}".encode())
    for line in others:
        if line:
            lines += _folded((line if line[0] in " \t" else f"\t{line}").encode())
    return b"".join(line + b"\r\n" for line in lines)


def _clean(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else " " for c in line)


def _folded(line: bytes) -> list[bytes]:
    """Cut a line that is too long: where it has white space, or else anywhere."""
    lines = []
    while len(line) > _LINE_OCTETS:
        # No line may be of white space only (RFC 5322 section 3.2.2).
        start = len(line) - len(line.lstrip(b" \t")) + 1
        cut = max(line.rfind(b" ", start, _LINE_OCTETS), line.rfind(b"\t", start, _LINE_OCTETS))
        if cut < 0:
            cut = _LINE_OCTETS
            while line[cut] & 0xC0 == 0x80:  # never inside a UTF-8 sequence
                cut -= 1
            line = line[:cut] + b"\t" + line[cut:]
        lines.append(line[:cut])
        line = line[cut:]
    return [*lines, line]
