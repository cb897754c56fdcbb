"""
What a message is told to RabbitMQ with: its properties and headers, and messages for parts of the recipients where
those of all are too many for one.

In: the description of a message, and a digest of its octets.  Out: for each publication its id and its headers.
Rules: the headers of a message are in one frame, whose size the broker and we have agreed on; a larger one ends the
connection.  The idempotency key is the same whenever the same octets come for the same envelope again.
This module knows no connection, and not where the octets are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from smtphooks.replies import SMTPError

# Octets that the properties beside the headers may have: content type, message id, time stamp.
_OTHER_OCTETS = 1024


class Part(NamedTuple):
    """
    A message for the queue.

    @ivar id: unique to it.
    @ivar headers: all of them text.
    """

    id: str
    headers: dict[str, str]


def partsOf(description: Mapping[str, Any], digest: bytes, octets: int) -> list[Part]:
    """
    One message for all recipients, or several, each for some of them, if the headers of that one were too large.

    @param description: as L{describe} makes it.
    @param digest: of the octets of the message, without what this server has put in front of it.
    @param octets: what the properties of a message may have.
    @raise SMTPError: 552 if the headers are too large for one recipient alone.
    """
    rest = {name: _json(description[name]) for name in ("session", "verdicts")}
    envelopes = list(_split(description["envelope"], octets - _OTHER_OCTETS - _octetsOf(rest)))
    id = description["id"]
    ids = [id] if len(envelopes) == 1 else [f"{id}-{number}" for number, _ in enumerate(envelopes, 1)]
    return [
        Part(own, {"idempotency-key": _key(envelope, digest), "envelope": _json(envelope), **rest})
        for own, envelope in zip(ids, envelopes, strict=True)
    ]


def _split(envelope: Mapping[str, Any], octets: int) -> Iterator[Mapping[str, Any]]:
    if len(_json(envelope)) <= octets:
        yield envelope
        return
    count = len(envelope["rcptTo"])
    if count < 2:
        raise SMTPError("More is known of this message than can be handed on", 552, "5.3.4")
    for some in (slice(0, count // 2), slice(count // 2, count)):
        part = {name: envelope[name][some] for name in ("rcptTo", "rcptParameters")}
        yield from _split({**envelope, **part}, octets)


def _key(envelope: Mapping[str, Any], digest: bytes) -> str:
    return hashlib.sha256(json.dumps(envelope, sort_keys=True, default=str).encode() + b"\n" + digest).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, default=str, separators=(",", ":"))  # ASCII, so characters are octets


def _octetsOf(headers: Mapping[str, str]) -> int:
    # A name has its length in an octet before it, a value its kind and its length in five.
    return sum(len(name.encode()) + len(value.encode()) + 6 for name, value in headers.items())
