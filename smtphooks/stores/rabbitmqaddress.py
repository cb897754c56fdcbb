"""
The address of a RabbitMQ node, as a URL has it: where it listens, and who we are to it.

In: C{amqp://user:password@host:port/vhost}, or C{amqps://} for TLS.  Out: a value that shows no password.
This module knows no AMQP and no connection.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import attrs

from smtphooks.optionkinds import NotShown

_PORTS = {"amqp": 5672, "amqps": 5671}


@attrs.frozen(repr=False)
class NodeAddress:
    """
    Where a node of RabbitMQ listens.

    @ivar isSecure: TLS from the first octet, with a certificate for C{host}.
    """

    host: str
    port: int
    isSecure: bool
    user: str
    password: str
    virtualHost: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __repr__(self) -> str:
        return f"<NodeAddress {self}>"


def addressOf(url: str) -> NodeAddress:
    """
    The address that a URL has (https://www.rabbitmq.com/uri-spec.html); without a user it is that of a new broker,
    C{guest}, and without a virtual host C{/}.

    @raise ValueError: for anything else.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment or not url.isprintable():
        raise ValueError("no URL of a node")
    virtualHost = parts.path.removeprefix("/")
    if "/" in virtualHost:
        raise ValueError("a slash within a virtual host is written as %2F")
    user, password = parts.username, parts.password
    return NodeAddress(
        host=parts.hostname,
        port=_PORTS[parts.scheme] if parts.port is None else parts.port,
        isSecure=parts.scheme == "amqps",
        user="guest" if user is None else unquote(user),
        password=("guest" if user is None else "") if password is None else unquote(password),
        virtualHost=unquote(virtualHost) or "/",
    )


def isURL(value: Any) -> bool:
    """Is it the URL of a node?"""
    try:
        return isinstance(value, str) and addressOf(value).port > 0
    except ValueError:
        return False


def withoutPassword(url: Any) -> Any:
    """A URL for errors and logs; what is none may be anything, and is described."""
    if not isURL(url):
        return NotShown("(no URL of a node)" if isinstance(url, str) else f"(of type {type(url).__name__})")
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=f"{parts.username}:(not shown)@{parts.netloc.rpartition('@')[2]}").geturl()
