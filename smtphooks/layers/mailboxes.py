"""
Mailboxes: one written form for all that name the same mailbox, and lists of mailboxes as operators write them.

In: an address of the envelope, an entry of a list, the text of a file.  Out: text to compare and to look up, or
C{ValueError} with what is wrong.
Rules kept here: a domain is written in lower case and in A-labels (RFC 5890), a local part without quotes and folded
in case, as Postfix compares it.  RFC 5321 section 2.4 lets the mailbox's own host, and only that, ignore its case.
This module knows no session, and not what a list is used for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import attrs
import idna

from smtphooks.netaddress import addressLiteral, canonical, maybeTaggedIP
from smtphooks.session import Address

POSTMASTER = "postmaster"

_QUOTED = re.compile(r'"((?:[^"\\\x00-\x1f\x7f]|\\[ -~])*)"')
_QUOTED_PAIR = re.compile(r"\\(.)")
# Dots may stand anywhere, as with option lenientAddressParsing.
_UNQUOTED = re.compile(r'[^\s\x00-\x1f\x7f"(),:;<>@\[\\\]]+')
_ENTRY = re.compile(rf"({_QUOTED.pattern}|[^@]*)@([^@]*)")
# With underscores, as with option lenientAddressParsing.
_LABEL = re.compile("[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_DOMAIN_OCTETS = 255  # RFC 5321 section 4.5.3.1.2

_ROUTE = re.compile("[@%!]")

# What most lines of a list look like; they are read in one step.
_COMMON = re.compile(r"[a-z0-9._+-]+@[a-z0-9]+(?:[.-][a-z0-9]+)+")
_COMMENT = re.compile(r"(?:\A|\s)#.*")


def canonicalLocal(local: str) -> str:
    """A local part without its quotes and in folded case; it may then hold any character."""
    quoted = _QUOTED.fullmatch(local)
    if quoted is not None:
        local = _QUOTED_PAIR.sub(r"\1", quoted[1])
    if local.isascii():
        return local.lower()
    # Folding can undo the composition of a character.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).casefold())


def hasRoute(local: str) -> bool:
    """
    May a local part name another host?

    C{victim%elsewhere.example} asks a server behind this one to relay, and that may trust this one; see Postfix's
    C{allow_untrusted_routing} and C{allow_percent_hack}.
    """
    return _ROUTE.search(local) is not None


def canonicalDomain(domain: str) -> str:
    """
    A domain in lower case and A-labels, or an address literal in its shortest form.

    @raise ValueError: if it is neither.
    """
    if domain.startswith("["):
        ip = maybeTaggedIP(domain[1:-1]) if domain.endswith("]") else None
        if ip is None:
            raise ValueError(f"{domain} is no address literal")
        return addressLiteral(canonical(ip)).lower()
    try:
        mapped = domain.lower() if domain.isascii() else idna.uts46_remap(domain, std3_rules=False)
        labels = [x if x.isascii() else idna.alabel(x).decode("ascii") for x in mapped.split(".")]
    except ValueError:  # the base class of idna's errors
        raise ValueError(f"{domain} is no domain") from None
    name = ".".join(labels)
    if len(name) > _DOMAIN_OCTETS or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{domain} is no domain" if domain else "its domain is missing")
    return name


def canonicalAddress(address: Address) -> str:
    """The address in the form in which it is compared; C{""} for the null reverse-path."""
    if not address.address:
        return ""
    try:
        domain = canonicalDomain(address.domain) if address.domain else ""
    except ValueError:
        domain = address.domain.lower()
    return f"{canonicalLocal(address.local)}@{domain}"


def parseEntry(text: str) -> tuple[str, str]:
    """
    An entry of a list: C{ann@example.org}, C{@example.org} for all of a domain, or a bare C{postmaster}.

    @return: the local part, C{""} for all of the domain, and the domain, in canonical form.
    @raise ValueError: for any other text.
    """
    if text.lower() == POSTMASTER:
        return POSTMASTER, ""
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text} is no address, write local-part@domain, or @domain for all of a domain")
    local, domain = match[1], match[3]
    if local and not match[2] and not _UNQUOTED.fullmatch(local):
        raise ValueError(f"{text} is no address, its local part is malformed")
    return canonicalLocal(local), canonicalDomain(domain)


@attrs.frozen
class Listing:
    """
    A list of mailboxes.

    @ivar entries: C{ann@example.org} for a mailbox, C{@example.org} for all of a domain, C{postmaster@} for the
        postmaster without a domain.
    @ivar domains: the domains of all entries.
    """

    entries: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()

    def has(self, local: str, domain: str) -> bool:
        """Is it listed, by itself or with all of its domain?  Both are in canonical form."""
        if f"{local}@{domain}" in self.entries:
            return True
        return f"@{domain}" in self.entries and not hasRoute(local)


def listingOf(texts: Iterable[str], within: frozenset[str] | None = None) -> Listing:
    """
    A list of entries.

    @param within: the domains that entries may have; None for any.
    @raise ValueError: for the first entry that is malformed or in another domain.
    """
    entries, domains = set(), set()
    for text in texts:
        if _COMMON.fullmatch(text):
            entry, domain = text, text[text.index("@") + 1 :]
        else:
            local, domain = parseEntry(text)
            entry = f"{local}@{domain}"
        if within is not None and domain and domain not in within:
            raise ValueError(f"{text} is in none of the domains that option domains lists")
        entries.add(entry)
        domains.add(domain)
    return Listing(frozenset(entries), frozenset(domains - {""}))


def readListing(octets: bytes, within: frozenset[str] | None = None) -> Listing:
    """
    The list in a file: UTF-8, one entry a line; empty lines do not count, nor what follows C{#} behind a space.

    @param within: the domains that entries may have; None for any.
    @raise ValueError: what is wrong, with its line.
    """
    number = 0

    def texts() -> Iterable[str]:
        nonlocal number
        for line in octets.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
            number += 1
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise ValueError("it is not written in UTF-8") from None
            text = text.strip() if text.lstrip().startswith('"') else _COMMENT.sub("", text).strip()
            if text:
                yield text

    try:
        listing = listingOf(texts(), within)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    if not listing.entries:
        # An editor or a script may just have truncated it.
        raise ValueError("it has no address")
    return listing
