"""
The domains of the authors of a message, from its From fields (RFC 5322 section 3.6.2, RFC 9989 section 5.3.1).

In: values of From fields, as written.  Out: domain names; or why there are none.
All that RFC 5322 and RFC 6854 allow is read, obsolete forms too, and names with a comma or an address in them without
quotes.  Anything else that is malformed is not guessed at, as the mail programs that show it guess differently.
This module knows no DNS and no policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from smtphooks.layers.authentication.domains import maybeDomain

_OCTETS = 16384

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<quoted>"(?:[^"\\]|\\.)*")
    | (?P<literal>\[[^\[\]\\]*\])
    | (?P<special>[<>@,;:().])
    | (?P<atom>[^ \t\r\n"\[\]\\<>@,;:().]+)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"(?:[^()\\]|\\.)+|[()]", re.DOTALL)


_AT, _COLON, _DOT = (("special", text) for text in "@:.")


class AuthorFault(Exception):
    """The From fields name no author that can be told; the text says why."""


def authorDomains(values: Iterable[bytes]) -> list[str]:
    """
    The domains of the authors, each of them once, in the order in which they are written.

    @param values: the values of all From fields; there should be one.
    @raise AuthorFault: if there is no From field, no address in it, or something that cannot be read.
    """
    fields = list(values)
    if sum(map(len, fields)) > _OCTETS:
        raise AuthorFault("From is too long")
    domains: dict[str, None] = {}
    for value in fields:
        # RFC 6532: UTF-8.  Other octets may be in names that are shown, and make a domain unreadable.
        for address in _addresses(list(_tokens(value.decode("utf-8", "replace")))):
            if _AT in address:
                domains[_domainOf(address)] = None
    if not domains:
        raise AuthorFault("there is no author in From")
    return list(domains)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each token, without white space and comments."""
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise AuthorFault("From is malformed")
        kind = str(token.lastgroup)
        place = token.end()
        if token[0] == "(":
            place = _endOfComment(text, place)
        elif kind != "space":
            yield kind, token[0]


def _endOfComment(text: str, place: int) -> int:
    """Where a comment ends, in which there may be others, from the octet behind its opening parenthesis."""
    depth = 1
    while depth:
        part = _COMMENT.match(text, place)
        if part is None:
            raise AuthorFault("From is malformed")
        depth += (part[0] == "(") - (part[0] == ")")
        place = part.end()
    return place


_Tokens = list[tuple[str, str]]


def _addresses(tokens: _Tokens) -> Iterator[_Tokens]:
    """
    The tokens of each address: what is between angle brackets, and before them or the colon of a group, where there
    should be a name only.
    """
    address: _Tokens = []
    name: _Tokens | None = None  # what stands before the angle bracket; None if there is none
    isOpen = False
    for token in [*tokens, ("special", ",")]:
        text = token[1] if token[0] == "special" else ""
        if isOpen:
            if text == "<":
                raise AuthorFault("From is malformed")
            isOpen = text != ">"
            if isOpen:
                address.append(token)
        elif text == "<":
            if name is not None:
                raise AuthorFault("From is malformed")
            name, address, isOpen = address, [], True
        elif text in (",", ";"):
            yield address
            yield name or []
            address, name = [], None
        elif text == ">" or name is not None:
            raise AuthorFault("From is malformed")
        elif text == ":":  # behind the name of a group
            yield address
            address = []
        else:
            address.append(token)
    if isOpen:
        raise AuthorFault("From is malformed")


def _domainOf(address: _Tokens) -> str:
    """The domain of an address, in front of which there may be a route (RFC 5322 section 4.4)."""
    route = [place for place, token in enumerate(address) if token == _COLON and address[0] == _AT]
    address = address[route[-1] + 1 :] if route else address
    marks = [place for place, token in enumerate(address) if token == _AT]
    if len(marks) != 1 or not marks[0]:
        raise AuthorFault("an address in From is malformed")
    parts = address[marks[0] + 1 :]
    # Atoms and dots take turns.
    isNext = all((token == _DOT) == bool(place % 2) for place, token in enumerate(parts))
    name = maybeDomain("".join(text for kind, text in parts if kind in ("atom", "special")))
    if not isNext or name is None or any(kind in ("quoted", "literal") for kind, _ in parts):
        raise AuthorFault("an address in From has no domain name")
    return name
