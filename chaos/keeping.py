"""
A folder of messages for what stands at the other side: an endpoint, a program, a store that lies.

In: the recipients and the octets of a message.  Out: a file that has all of it, once it is there; and all files again.
This module knows nothing of where messages come from; it imports no Twisted, as a program that runs for each message
must start soon.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence


def keep(folder: str, recipients: Sequence[str], octets: bytes) -> None:
    """
    Keep a message durably.

    @raise OSError: if it is not kept; nothing of it is seen then.
    """
    name = os.urandom(12).hex()
    hidden = os.path.join(folder, f".{name}")
    try:
        with open(hidden, "xb") as file:
            file.write(json.dumps(list(recipients)).encode() + b"\n")
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        os.rename(hidden, os.path.join(folder, name))
    except OSError:
        os.unlink(hidden)
        raise
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def takeAll(folder: str) -> Iterator[tuple[list[str], bytes]]:
    """The recipients and octets of all messages, which are removed."""
    for name in os.listdir(folder):
        if not name.startswith("."):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                recipients = json.loads(file.readline())
                yield recipients, file.read()
            os.unlink(path)
