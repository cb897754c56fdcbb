"""
Messages that tell whether they are whole: each names itself, its length and its digest in its header.

In: an identity and a generator of random numbers.  Out: octets to send; and of octets that were found, whose they are
and whether every one of them is there.
This module knows no protocol, no server and no store.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
from typing import NamedTuple

LEAST, MOST = 100, 2 * 1024 * 1024

# Lines of 76 random characters, some of which begin with a dot, so that a dot that is lost or doubled shows.
_LINE = 78
_POOL = re.sub(
    rb"\r\nA", b"\r\n.", base64.encodebytes(random.Random("pool").randbytes(3 * MOST)).replace(b"\n", b"\r\n")
)
_OURS = re.compile(rb"^X-Chaos: (\S+)\r\nX-Octets: (\d+)\r\nX-Digest: (\w+)\r\n\r\n", re.MULTILINE)


class Found(NamedTuple):
    """
    Octets that are at the other side.

    @ivar identity: of the message; empty if the octets do not say it.
    @ivar isWhole: every octet of the message is there, and none besides them.
    """

    identity: str
    isWhole: bool


def compose(identity: str, chooser: random.Random, most: int = MOST) -> bytes:
    """A message of 100 octets to 2 MiB, of which small ones are the most frequent; no body is like another."""
    octets = int(LEAST * (most / LEAST) ** chooser.random() ** 1.5)
    first = _LINE * chooser.randrange((len(_POOL) - MOST) // _LINE)
    body = b"%b\r\n%b\r\n" % (identity.encode(), _POOL[first : first + octets].rstrip(b"\r\n"))
    header = b"Subject: chaos\r\nX-Chaos: %b\r\nX-Octets: %d\r\nX-Digest: %b\r\n\r\n"
    return header % (identity.encode(), len(body), _digest(body)) + body


def recognize(octets: bytes) -> Found:
    """Whose octets these are, which may have further header fields in front; line ends are CRLF."""
    ours = _OURS.search(octets)
    if ours is None:
        return Found("", False)
    identity, length, digest = ours.groups()
    body = octets[ours.end() :]
    return Found(identity.decode(), len(body) == int(length) and _digest(body) == digest)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
