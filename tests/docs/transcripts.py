"""
Dialogues as pages show them, held against a factory in memory.

A line that begins with C is what the client sends, one with S what it gets for it; a first line in parentheses has the
client's address, and TLS if the session is to be secure.  Of a reply of several lines that is not the point of a page
only the first is shown, with an ellipsis behind it.
"""

from __future__ import annotations

import re

from smtphooks import SMTPServerFactory
from tests.docs.clients import clientOf
from tests.support import Client

ELLIPSIS = " ..."


def converse(factory: SMTPServerFactory, lines: list[str]) -> list[str]:
    """Say what the client says of a dialogue; the whole dialogue, with what the server did say."""
    address, isSecure = "192.0.2.7", False
    lines = [line for line in lines if not line.startswith("S: ")]
    told = []
    if lines and lines[0].startswith("("):
        told.append(lines[0])
        address, isSecure = re.findall(r"[\d.]+", lines[0])[0], "TLS" in lines[0]
        lines = lines[1:]
    client = clientOf(factory, address, read=False)
    if isSecure:
        client.session.secure = True
    told += _heard(client, "")
    for line in lines:
        told.append(line.rstrip())
        client.feed(line.removeprefix("C:").removeprefix(" ").encode() + b"\r\n")
        told += _heard(client, line)
    if client.isClosed:
        client.finish()
    else:
        client.lose()
    return told


def _heard(client: Client, line: str) -> list[str]:
    replies = client.replies()
    for _ in range(20 if "AUTH" in line else 0):
        if not replies:  # the reply to a failed AUTH is delayed
            client.clock.advance(1)
            replies = client.replies()
    if line.startswith(("C: EHLO", "C: LHLO")):
        replies = [replies[0] + ELLIPSIS]
    return [f"S: {reply}" for reply in replies]
