"""
A route: where a message goes, and how, with everything that makes one connection as good as another.

It is a value: a pool keeps connections by it, so what would make a connection another one has to be in it.
This module knows no connection.
"""

from __future__ import annotations

import platform
import re
from importlib.util import find_spec
from typing import Any

import attrs

from smtphooks.errors import OptionError
from smtphooks.netaddress import withPort
from smtphooks.optionkinds import isText, listOf, oneOf, option, pem, toUpper, within

NONE, OPPORTUNISTIC, REQUIRED, IMPLICIT = "none", "opportunistic", "required", "implicit"
_TLS = (NONE, OPPORTUNISTIC, REQUIRED, IMPLICIT)

MECHANISMS = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN", "XOAUTH2")

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")

_ATTRIBUTE_WANTS = "a list of pairs, the name of an attribute and its text"


def _isWord(value: Any) -> bool:
    return isText(value) and value.isprintable() and value != "" and " " not in value


def _isName(value: Any) -> bool:
    return _isWord(value) and value.isascii()


def _isCredential(value: Any) -> bool:
    # RFC 4616 and XOAUTH2 have NUL and SOH between their fields: neither is part of one.
    return isText(value) and value != "" and _CONTROLS.search(value) is None


def _isMechanism(value: Any) -> bool:
    return value in MECHANISMS


def _secret(value: Any) -> Any:
    return "(not shown)" if value is not None else None


def _isAttribute(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and all(map(isText, item)) and all(map(str.isprintable, item))


@attrs.frozen(kw_only=True)
class Route:
    """
    Where a message goes.

    @ivar host: the name or the address of the server.
    @ivar port: its port.
    @ivar path: the path of its UNIX socket, in place of both.
    @ivar lmtp: it speaks LMTP (RFC 2033).
    @ivar tls: C{"none"}; C{"opportunistic"}, STARTTLS where it is offered, with any certificate (RFC 7435);
        C{"required"}, STARTTLS and a certificate that is verified; C{"implicit"}, TLS from the first octet on
        (RFC 8314) and a certificate that is verified.
    @ivar verify: the certificate must be verified, or any will do.  None: as C{tls} says.
    @ivar ca: PEM, or the path of a file: trust only certificates that these have signed.  None: those that the system
        trusts.
    @ivar key: PEM, or the path of a file: the key of our own certificate; C{cert} that certificate.
    @ivar servername: the name that the certificate is verified for, and that is told with SNI.  None: C{host}.
    @ivar user: authenticate as this user, with C{password}; or with C{token}, an access token of OAuth 2.
    @ivar authMethods: the mechanisms that may be used, the first one that the server offers is; empty for all, those
        first that do not send the password.
    @ivar allowInsecureAuth: give the password to a server that it reaches in the clear; on loopback and over a UNIX
        socket it is given in any case.
    @ivar xClient: attributes that are told with XCLIENT before anything else.
    @ivar name: our own name for EHLO.
    @raise OptionError: for a wrong value.
    """

    host: str = option("", "a host name or an address", lambda value: value == "" or _isWord(value))
    port: int = option(25, "a port, from 1 to 65535", within(1, 65535))
    path: str | None = option(None, "the path of a UNIX socket", lambda value: isText(value) and value != "")
    lmtp: bool = option(False, "{true!r} or {false!r}", lambda value: isinstance(value, bool))
    tls: str = oneOf(OPPORTUNISTIC, '"none", "opportunistic", "required" or "implicit"', _TLS)
    verify: bool | None = option(None, "{true!r} or {false!r}", lambda value: isinstance(value, bool))
    ca: str | bytes | None = pem()
    key: str | bytes | None = pem()
    cert: str | bytes | None = pem()
    servername: str | None = option(None, "a host name", _isWord)
    user: str | None = option(None, "a text without control characters", _isCredential)
    password: str | None = option(None, "a text without control characters", _isCredential, show=_secret)
    token: str | None = option(None, "a text without control characters", _isCredential, show=_secret)
    authMethods: tuple[str, ...] = listOf((), f"a list of {', '.join(MECHANISMS)}", _isMechanism, toUpper)
    allowInsecureAuth: bool = option(False, "{true!r} or {false!r}", lambda value: isinstance(value, bool))
    xClient: tuple[tuple[str, str], ...] = listOf((), _ATTRIBUTE_WANTS, _isAttribute)
    name: str = option(platform.node, "a host name", _isName)

    def __attrs_post_init__(self) -> None:
        if bool(self.host) == (self.path is not None):
            raise OptionError("options host and path are both given or both missing, give one", options=["host"])
        secret = "password" if self.password is not None else "token" if self.token is not None else None
        if self.user is not None and secret is None:
            raise OptionError("option user is given without password or token, give one of them", options=["user"])
        if self.user is None and secret is not None:
            raise OptionError(f"option {secret} is given without user, give both", options=[secret])
        if "SCRAM-SHA-256" in self.authMethods and find_spec("scramp") is None:
            raise OptionError(
                "option authMethods has SCRAM-SHA-256, which needs a library that is not installed (scramp): install"
                " smtphooks[scram]",
                options=["authMethods"],
            )
        if (self.key is None) != (self.cert is None):
            raise OptionError("options key and cert are given one without the other", options=["key", "cert"])

    def __str__(self) -> str:
        return self.path if self.path is not None else withPort(self.host, self.port)

    @property
    def peer(self) -> tuple[str, int]:
        """What connections are counted by: the server, whatever is said to it."""
        return (self.path, 0) if self.path is not None else (self.host.lower(), self.port)

    @property
    def mustVerify(self) -> bool:
        """A certificate that cannot be verified ends the connection."""
        return self.tls in (REQUIRED, IMPLICIT) if self.verify is None else self.verify


def routeTo(target: str, **rest: Any) -> Route:
    """
    The route to C{"host:port"}, C{"[2001:db8::25]:24"}, C{"host"} or C{"/path/of/socket"}.

    @param rest: the other fields of the L{Route}.
    @raise OptionError: if it is none of these, or the rest does not fit.
    """
    if target.startswith("/"):
        return Route(path=target, **rest)
    host, colon, port = target.rpartition(":")
    if not colon or target.endswith("]"):
        host, port = target, "25"
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host and "/" not in host:
        raise OptionError("the server is {!r}, an IPv6 address stands in brackets", target, options=["upstream"])
    if (
        not _isWord(host)
        or "/" in host
        or not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536)
    ):
        raise OptionError(
            'the server is {!r}, it wants "host:port" or the path of a socket', target, options=["upstream"]
        )
    return Route(host=host, port=int(port), **rest)
