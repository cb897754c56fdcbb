"""
The address of a Redis server, as a URL has it: where it listens, and who we are to it.

In: C{redis://user:password@host:port/db}, C{rediss://} for TLS, or C{unix://user:password@/path?db=0}.  Out: a value
that shows no password.
This module knows no connection and no command.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from smtphooks.netaddress import withPort
from smtphooks.optionkinds import NotShown

PORT, SENTINEL_PORT = 6379, 26379
_SCHEMES = ("redis", "rediss", "unix")


@attrs.frozen(repr=False)
class RedisAddress:
    """
    Where a server listens.

    @ivar host: its name or address; of servers behind Sentinels, the name that these have for them.
    @ivar path: the path of its UNIX socket, in place of host and port; C{""} otherwise.
    @ivar isSecure: TLS from the first octet, with a certificate for C{host}.
    @ivar user: C{""} for the user C{default}, who has a password alone.
    @ivar database: its number.
    """

    host: str
    port: int
    path: str = ""
    isSecure: bool = False
    user: str = ""
    password: str = ""
    database: int = 0

    def __str__(self) -> str:
        return self.path or withPort(self.host, self.port)

    def __repr__(self) -> str:
        return f"<RedisAddress {self}>"


def addressOf(url: str, port: int = PORT) -> RedisAddress:
    """
    The address that a URL has (https://www.iana.org/assignments/uri-schemes/prov/redis).

    @param port: the port where the URL names none.
    @raise ValueError: for anything else.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or parts.fragment or not url.isprintable() or " " in url:
        raise ValueError("no URL of Redis")
    isPath = parts.scheme == "unix"
    # Not parts.hostname, which is in lower case: names of servers behind Sentinels are told apart by case.
    place = parts.netloc.rpartition("@")[2]
    host = place.partition("]")[0][1:] if place.startswith("[") else place.partition(":")[0]
    query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    if isPath:
        hasPlace = not place and parts.path.startswith("/") and query.keys() <= {"db"}
        database = query.get("db", ["0"])[-1]
    else:
        hasPlace = bool(host) and not query and parts.port != 0
        database = parts.path.removeprefix("/") or "0"
    if not hasPlace or not (database.isascii() and database.isdigit()):
        raise ValueError("no URL of Redis")
    return RedisAddress(
        host="" if isPath else host,
        port=port if isPath or parts.port is None else parts.port,
        path=unquote(parts.path) if isPath else "",
        isSecure=parts.scheme == "rediss",
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=int(database),
    )


def isURL(value: Any) -> bool:
    """Is it the URL of a server?"""
    try:
        return isinstance(value, str) and addressOf(value) is not None
    except ValueError:
        return False


def areURLs(value: Any) -> bool:
    """Are these one or several URLs of servers?"""
    return isinstance(value, tuple) and bool(value) and all(map(isURL, value))


def asTuple(value: Any) -> Any:
    """One text or several as a tuple; other values unchanged, for the check to reject."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def shownURLs(value: Any) -> Any:
    """URLs for errors and logs, without passwords."""
    shown = tuple(map(_withoutPassword, value)) if isinstance(value, tuple) else (_withoutPassword(value),)
    return shown[0] if len(shown) == 1 else shown


def _withoutPassword(url: Any) -> Any:
    """What is no URL may be anything, and is described."""
    if not isURL(url):
        return NotShown("(no URL of Redis)" if isinstance(url, str) else f"(of type {type(url).__name__})")
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username}:(not shown)@{parts.netloc.rpartition('@')[2]}").geturl()
