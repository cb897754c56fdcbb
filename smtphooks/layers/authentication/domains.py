"""
Domain names as DKIM and DMARC compare them: in lower case, with A-labels (RFC 5890 section 2.3.2.1).

In: text from a header.  Out: such a name, or nothing if it cannot be one.
This module asks no DNS, and knows no message.
"""

from __future__ import annotations

import re

import idna

# RFC 1035 section 2.3.4; underscores are in names below which mail is signed.
_DOMAIN = re.compile(r"(?!.{254})(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")

_OCTETS = 255  # before conversion; what idna does grows faster than the name


def maybeDomain(text: str) -> str | None:
    """
    The domain name that a text means.

    @return: None if it is none: an empty label, a long one, characters that names of hosts do not have.
    """
    name = text.removesuffix(".")
    if not name.isascii():
        if len(name) > _OCTETS:
            return None
        try:
            # As mail programs that show U-labels do: upper case and full-width forms are mapped.
            name = idna.encode(name, uts46=True).decode("ascii")
        except (UnicodeError, ValueError):
            return None
    name = name.lower()
    return name if _DOMAIN.fullmatch(name) else None


def isSubdomain(name: str, domain: str) -> bool:
    """Whether a name is a domain, or below it."""
    return name == domain or name.endswith(f".{domain}")
