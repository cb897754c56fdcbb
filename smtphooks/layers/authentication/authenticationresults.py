"""
The header field Authentication-Results (RFC 8601): our own is written, and those that pretend to be ours are removed.

In: results, and a message as it streams.  Out: the message with our field on top.
Rules kept here: no value from the outside can end a field, a result or a quoted string; a field that names us is
removed even if it is malformed; no other octet of the message is changed.
This module knows no SPF, no DKIM, no DMARC and no session.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Container, Iterable, Sequence

import attrs
import authres

from smtphooks.header import HEADER_OCTETS, HeaderEnd, maybeSeparator
from smtphooks.layers.authentication.domains import maybeDomain
from smtphooks.replies import HEADER_TOO_LARGE
from smtphooks.stream import MessageStream

# What is replaced: all but printable ASCII, and the characters that have a meaning in this field.  Some readers of it
# look for a ";" without regard to quotes.
_NOT_IN_A_VALUE = re.compile(r'[^!-~]|[()<>,;"\\]')
# authres quotes nothing that has an "@", and in a mailbox only these characters need no quotes.
_NOT_IN_A_REASON = re.compile(r'[^ -~]|[()<>@;"\\]')
_NOT_IN_A_MAILBOX = re.compile(r"[^A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]")
_VALUE_OCTETS = 253
_REASON_OCTETS = 120

# A line, with the lines that continue it.
_FIELD = re.compile(rb"[^\n]*\n?(?:[ \t][^\n]*\n?)*")
# Where some readers see the beginning of another line (RFC 3030 lets a bare CR through, as option bareNewline may).
_BARE_CR = re.compile(rb"\r(?![ \t\n])")
# White space before the colon is obsolete (RFC 5322 section 4.5), and many programs still accept it.
_RESULTS = re.compile(rb"authentication-results\s*:", re.IGNORECASE)
# Comments may be in comments (RFC 5322 section 3.2.2).
_COMMENT = rb"\((?:[^()\\]|\\.)*\)"
for _level in range(4):
    _COMMENT = rb"\((?:[^()\\]|\\.|" + _COMMENT + rb")*\)"
_COMMENTS = re.compile(rb"(?:\s|" + _COMMENT + rb")*", re.DOTALL)
# A token or a quoted string (RFC 8601 section 2.2), or both mixed, as some readers take that too.
_AUTHSERV_ID = re.compile(rb'(?:"(?:[^"\\]|\\.)*"?|[^\s;("])*', re.DOTALL)
_QUOTES = re.compile(rb'["\\]')
_ENCODED_WORD = b"=?"
# Up to a control character, or one that a token cannot have (RFC 2045 section 5.1).
_WORD = re.compile(r'[^\0-\x1f\x7f()<>@,;:\\"/\[\]?=]*')


@attrs.frozen
class Result:
    """
    One result.

    @ivar method: such as C{"spf"}.
    @ivar result: such as C{"pass"}.
    @ivar properties: type, name and value of what was checked, such as C{("smtp", "mailfrom", "example.com")}; those
        with an empty value are left out.
    @ivar reason: why, for people; may be empty.
    """

    method: str
    result: str
    properties: Sequence[tuple[str, str, str]] = ()
    reason: str = ""

    def __str__(self) -> str:
        return str(
            authres.AuthenticationResult(
                self.method,
                result=self.result,
                reason=_NOT_IN_A_REASON.sub("?", self.reason[:_REASON_OCTETS]),
                properties=[
                    authres.AuthenticationResultProperty(kind, name, _value(value))
                    for kind, name, value in self.properties
                    if value
                ],
            )
        )


def _value(text: str) -> str:
    value = _NOT_IN_A_VALUE.sub("?", text[:_VALUE_OCTETS])
    return _NOT_IN_A_MAILBOX.sub("?", value) if "@" in value else value


def fieldOf(name: str, results: Iterable[Result]) -> bytes:
    """
    The field, CRLF at its end included.

    @param name: the authserv-id, who has found these results out.
    """
    lines = [f"Authentication-Results: {_value(name)}", *(map(str, results) if results else ["none"])]
    return (";\r\n\t".join(lines) + "\r\n").encode("ascii")


def withoutForged(header: bytes, names: Iterable[str]) -> bytes:
    """
    A header without those fields that one of these names seems to have written (RFC 8601 section 5), and without those
    of which nobody can tell who has: they begin with a comment without an end, with too many in one another, or with an
    encoded word, which has no place there but is decoded by some readers.

    @param header: its octets; the empty line at its end is kept.
    @param names: authserv-ids.
    """
    forged = {None, *map(_canonical, names)}
    return b"".join(field for field in _FIELD.findall(header) if not _isBy(forged, field))


def _isBy(names: Container[str | None], field: bytes) -> bool:
    lines = _BARE_CR.split(field)
    return any(_RESULTS.match(line) is not None and _maybeAuthservID(line) in names for line in lines)


def _maybeAuthservID(field: bytes) -> str | None:
    """Who wrote a field, None if nobody can tell."""
    start = _end(_COMMENTS.match(field, field.index(b":") + 1))
    octets = field[start : _end(_AUTHSERV_ID.match(field, start))]
    if field[start : start + 1] == b"(" or _ENCODED_WORD in octets:
        return None
    return _canonical(_QUOTES.sub(b"", octets).decode("utf-8", "replace"))


def _canonical(name: str) -> str:
    """An authserv-id as the most lenient reader compares it: as a domain name, without what cannot be part of one."""
    word = _WORD.match(name.strip())
    assert word is not None  # the pattern matches an empty text
    return maybeDomain(word[0]) or word[0].lower()


def _end(match: re.Match[bytes] | None) -> int:
    assert match is not None  # the pattern matches an empty text
    return match.end()


async def withField(stream: MessageStream, field: bytes, names: Iterable[str]) -> AsyncIterator[bytes]:
    """
    The message of a stream, with our field on top and without forged ones.

    @param field: our field, as L{fieldOf} makes it.
    @param names: as for L{withoutForged}.
    @raise SMTPError: 552, if the header is too large.
    """
    stream.prepend(field)  # so that it does not count for the size of the message
    octets, search = bytearray(), HeaderEnd()
    async for chunk in stream:
        search.scan(chunk)
        octets += chunk
        if search.end is not None or search.octets > HEADER_OCTETS + len(field):
            break
    end = len(octets) if search.end is None else search.end
    if end > HEADER_OCTETS + len(field):
        raise HEADER_TOO_LARGE.asError()
    # If the message begins with something else than a field, the stream has put an empty line in front, and the header
    # ends here.
    header = withoutForged(bytes(octets[len(field) : end]), names)
    yield field + (maybeSeparator(header, more=False) or b"") + header + octets[end:]
    del octets
    async for chunk in stream:
        yield chunk
