"""
What a transport tells a client: where it leads, and why it has ended.

This module knows no connection.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.python.failure import Failure

from smtphooks.netaddress import maybeIP, unmapped

LOST = "the connection is lost"


def isLocal(address: Any) -> bool:
    """Does nothing that is said leave the machine?"""
    host = getattr(address, "host", None)
    ip = maybeIP(host) if host is not None else None
    return host is None or (ip is not None and unmapped(ip).is_loopback)


def causeOf(reason: Failure) -> str:
    """What ended a connection, in one line."""
    error: Any = reason.value
    details = getattr(error, "args", ())
    if isinstance(error, SSL.Error) and details and isinstance(details[0], list):
        return ", ".join(str(each[-1]) for each in details[0]) or LOST
    if isinstance(error, (ConnectionDone, ConnectionAborted)):
        return "the server has closed it" if isinstance(error, ConnectionDone) else "it was given up"
    return " ".join(str(error).split()) or type(error).__name__
