"""
The fields of a request to a webhook: what is told of a message, and the signature over it.

In: the session, and digests of the message.  Out: the names and values of HTTP fields.
Rules: a value is printable ASCII whatever a client has said, so that none begins another field; all fields together
stay below what HTTP servers take, so that recipients beyond that go with another request; what is left out is named.
This module knows no connection and no option.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from smtphooks.session import Session
from smtphooks.stores.description import describe
from smtphooks.stream import MessageStream

# Tomcat and Jetty take 8 KiB for the whole header of a request, nginx, Apache, gunicorn and aiohttp for each line.
# What other fields need is left.
_HEADER_OCTETS = 7000
_VERDICT_OCTETS = 2000

# What stays as it is where others are percent-encoded: the comma separates recipients.
_SAFE = "!$&'*+-./:;=?@[]^_`{|}~<>()"


class Part(NamedTuple):
    """
    What one request tells, which may be about a part of the recipients.

    @ivar recipients: their addresses.
    @ivar description: the JSON.
    @ivar fields: all fields, with that of the JSON.
    """

    recipients: list[str]
    description: str
    fields: dict[str, str]


def partsOf(session: Session) -> list[Part]:
    """What the requests tell of the current message: one, unless there are too many recipients for one."""
    described = describe(session)
    common = _fieldsOf(described)
    verdicts = _verdictsOf(described["verdicts"])
    fitting = _fitting(verdicts)
    common.update({f"Smtphooks-Verdict-{name}": verdicts[name] for name in fitting})
    described["verdicts"] = {name: json.loads(verdicts[name]) for name in fitting}
    described["verdictsLeftOut"] = [name for name in session.verdicts if name not in fitting]
    envelope = described["envelope"]
    recipients, parameters = envelope["rcptTo"], envelope["rcptParameters"]
    envelope["rcptTo"], envelope["rcptParameters"] = [], []
    room = _HEADER_OCTETS - len(_json(described)) - sum(len(f"{name}: {value}\r\n") for name, value in common.items())
    parts = []
    for start, end in _runs([_cost(*each) for each in zip(recipients, parameters, strict=True)], room):
        envelope["rcptTo"], envelope["rcptParameters"] = recipients[start:end], parameters[start:end]
        description = _json(described)
        told = ",".join(map(_encoded, envelope["rcptTo"]))
        fields = {**common, "Smtphooks-Rcpt-To": told, "Smtphooks-Description": description}
        parts.append(Part(recipients[start:end], description, fields))
    return parts


def _fieldsOf(described: dict[str, Any]) -> dict[str, str]:
    """The single fields, but for those of recipients and verdicts."""
    session = described["session"]
    told = {
        "Id": described["id"],
        "Mail-From": described["envelope"]["mailFrom"],
        "Client": session["remoteAddress"],
        "Client-Name": session["clientHostname"],
        "Helo": session["hostNameAppearsAs"],
        "Protocol": session["transmissionType"],
    }
    if session["user"] is not None:
        told["User"] = session["user"]
    fields = {f"Smtphooks-{name}": _encoded(value) for name, value in told.items()}
    return {"Content-Type": "message/rfc822", **fields}


def _encoded(value: str) -> str:
    return quote(value, safe=_SAFE, errors="replace")


def _json(value: object) -> str:
    """JSON of printable ASCII only, in one line."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=str)


def _verdictsOf(verdicts: dict[str, Any]) -> dict[str, str]:
    """The JSON of each verdict that has one and whose layer's name can be part of a field's."""
    found = {}
    for name, verdict in verdicts.items():
        try:
            text = _json(verdict)
        except (ValueError, TypeError, RecursionError):  # not a number, or a circle, in the summary of a user's layer
            continue
        if name.isascii():
            found[name] = text
    return found


def _fitting(verdicts: dict[str, str]) -> list[str]:
    """The verdicts that there is room for, shortest first."""
    fitting, octets = [], 0
    for name in sorted(verdicts, key=lambda name: len(verdicts[name])):
        octets += len(name) + len(verdicts[name])
        if octets <= _VERDICT_OCTETS:
            fitting.append(name)
    return fitting


def _cost(recipient: str, parameters: dict[str, Any]) -> int:
    """Octets that a recipient takes in both fields."""
    return len(_encoded(recipient)) + len(_json(recipient)) + len(_json(parameters)) + len(",,,")


def _runs(costs: list[int], room: int) -> Iterator[tuple[int, int]]:
    """Where to cut, so that each piece has room, or is of one alone."""
    start = octets = 0
    for index, cost in enumerate(costs):
        if index > start and octets + cost > room:
            yield start, index
            start = index
            octets = 0
        octets += cost
    yield start, len(costs)


class Digests(NamedTuple):
    """
    SHA-256 of a message that was received whole.

    @ivar body: in hexadecimal, of all that is sent.
    @ivar message: without the fields that we have put in front, which are others whenever a client tries again.
    """

    body: str
    message: str


async def digestsOf(stream: MessageStream, ours: int) -> Digests:
    """
    Digest a message.

    @param ours: octets in front that are ours.
    """
    body, message = hashlib.sha256(), hashlib.sha256()
    async for chunk in stream:
        body.update(chunk)
        message.update(chunk[ours:])
        ours = max(ours - len(chunk), 0)
    return Digests(body.hexdigest(), message.hexdigest())


def keyOf(sender: str, recipients: list[str], digests: Digests) -> str:
    """The idempotency key of a message: the same whenever it comes again from the same sender to these recipients."""
    return hashlib.sha256(_json([sender, sorted(recipients), digests.message]).encode()).hexdigest()


def signatureFields(secret: bytes, time: int, key: str, description: str, body: str) -> dict[str, str]:
    """
    The signature, HMAC with SHA-256, over four lines: the time, the key, the description and the digest of the body.

    @param time: seconds since 1970.
    @param body: the digest in hexadecimal.
    """
    signed = "\n".join([str(time), key, description, body])
    signature = hmac.new(secret, signed.encode(), "sha256").hexdigest()
    return {"Smtphooks-Timestamp": str(time), "Smtphooks-Signature": f"v1={signature}"}
