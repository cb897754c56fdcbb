"""
One DNS list: how an operator writes it, what it is asked, and which of its answers count (RFC 5782).

In: a text such as C{"bl.example.org=127.0.0.2,127.0.0.4-7*2"}, an address or a domain, the addresses in an answer.
Out: names to look up, and whether an answer counts.
This module knows no resolver and no session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs
import idna

from smtphooks.errors import OptionError
from smtphooks.netaddress import IPAddress, unmapped

Code = tuple[int, ...]

# RFC 5782 section 5: what every list must have, and must not have.
TEST_ADDRESS, CONTROL_ADDRESS = "2.0.0.127", "1.0.0.127"
TEST_DOMAIN, CONTROL_DOMAIN = "test", "invalid"

_NAME_OCTETS = 253  # RFC 1035 section 2.3.4, without the length octets of the wire
_LABEL = re.compile("[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

_ENTRY = re.compile(r"(?P<zone>[^=*]+)(?:=(?P<codes>[^=*]+))?(?:\*(?P<score>-?[0-9]{1,6}))?")
_OCTETS = re.compile("([0-9]{1,3})(?:-([0-9]{1,3}))?")
_WANTS = 'it wants lists such as "zen.example.org", "bl.example.net=127.0.0.2,127.0.0.4-7" or "bl.example.net*2"'

# A label of this length is the key of a customer, in the name of a list that is paid for.
_KEY_CHARACTERS = 20


@attrs.frozen
class DNSList:
    """
    A list.

    @ivar zone: its domain.
    @ivar codes: the answers that count: for each octet of one the least and the most.  Without any, all count.
    @ivar score: what a listing adds; less than 0 speaks for the client.
    """

    zone: str
    codes: tuple[tuple[tuple[int, int], ...], ...] = ()
    score: int = 1

    def counts(self, answers: Iterable[Code]) -> bool:
        """Does one of these answers count?"""
        return any(not self.codes or any(_matches(answer, code) for code in self.codes) for answer in answers)

    @property
    def shown(self) -> str:
        """See L{shown}."""
        return shown(self.zone)


def parseList(option: str, text: str) -> DNSList:
    """
    A list as an operator writes it.

    @raise OptionError: if it is written otherwise.
    """
    found = _ENTRY.fullmatch("".join(text.split()))
    zone = None if found is None else domainOf(found["zone"])
    if found is None or zone is None:
        raise OptionError(f"option {option} has {{!r}}, {_WANTS}", text, options=[option])
    try:
        codes = tuple(map(_parseCode, found["codes"].split(","))) if found["codes"] else ()
    except ValueError:
        raise OptionError(
            f"option {option} has {{!r}}, its codes must be like 127.0.0.2, 127.0.0.4-7 or 127.0.0-255.1",
            text,
            options=[option],
        ) from None
    return DNSList(zone, codes, int(found["score"] or 1))


def _parseCode(text: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in text.split("."):
        found = _OCTETS.fullmatch(part)
        if found is None:
            raise ValueError
        least, most = int(found[1]), int(found[2] or found[1])
        if not least <= most <= 255:
            raise ValueError
        ranges.append((least, most))
    if len(ranges) != 4 or ranges[0] != (127, 127):
        raise ValueError
    return tuple(ranges)


def _matches(answer: Code, code: tuple[tuple[int, int], ...]) -> bool:
    return all(least <= octet <= most for octet, (least, most) in zip(answer, code, strict=True))


def shown(zone: str) -> str:
    """The domain of a list for replies and the log, without a customer's key."""
    return ".".join("…" if len(label) >= _KEY_CHARACTERS else label for label in zone.split("."))


def reversedAddress(ip: IPAddress) -> str:
    """An address as it stands before the domain of a list (RFC 5782 sections 2.1 and 2.4): octets or nibbles."""
    return unmapped(ip).reverse_pointer.rpartition(".")[0].rpartition(".")[0]


def unreversed(subject: str) -> str:
    """The IPv4 address that a reversed one stands for; a single label unchanged."""
    return ".".join(reversed(subject.split(".")))


def domainOf(text: str) -> str | None:
    """
    A domain as it stands before that of a list, in lower case and as A-labels.

    @return: None if the text is no domain: an address, a single word, or what DNS cannot have.
    """
    name = text.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except UnicodeError:
            return None
    labels = name.split(".")
    if len(labels) < 2 or len(name) > _NAME_OCTETS or labels[-1].isdigit():
        return None
    return name if all(map(_LABEL.fullmatch, labels)) else None


def nameIn(zone: str, subject: str) -> str | None:
    """The name to look up; None if it would be too long for DNS, so that it cannot be listed."""
    name = f"{subject}.{zone}"
    return name if len(name) <= _NAME_OCTETS else None
