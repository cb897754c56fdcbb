"""
The mechanisms of AUTH (RFC 4954), the client's side of each: a generator that yields responses and is sent challenges.

The first value is the initial response, None where the server speaks first.  A generator that returns is content with
what the server has said: with SCRAM that includes the proof that the server knows the password.
This module knows no connection, and not how responses travel.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Generator
from importlib.util import find_spec
from typing import Any

from smtphooks.client.route import Route

# Servers have from 4096 (RFC 7677 section 4) to some 600,000.
_MOST_ITERATIONS = 1_000_000
_COUNT = re.compile("[0-9]{1,7}")

Exchange = Generator["bytes | None", bytes, None]


class Unproven(Exception):
    """The server does not prove that it knows the password, or says what is no challenge of this mechanism."""


def _octets(text: str | None) -> bytes:
    """In UTF-8 (RFC 4616 section 2), and octets of a command line or an environment that are none as they are."""
    return str(text).encode("utf-8", "surrogateescape")


def _plain(route: Route) -> Exchange:
    """RFC 4616."""
    yield b"\0%b\0%b" % (_octets(route.user), _octets(route.password))


def _login(route: Route) -> Exchange:
    yield None
    yield _octets(route.user)
    yield _octets(route.password)


def _cramMD5(route: Route) -> Exchange:
    """RFC 2195 section 2."""
    challenge = yield None
    digest = hmac.new(_octets(route.password), challenge, "md5").hexdigest()
    yield b"%b %b" % (_octets(route.user), digest.encode())


def _xoauth2(route: Route) -> Exchange:
    """Google's and Microsoft's; the challenge that tells what is wrong is answered with nothing, and refused then."""
    yield f"user={route.user}\1auth=Bearer {route.token}\1\1".encode()
    yield b""


def _scram(route: Route) -> Exchange:
    """RFC 7677."""
    import scramp

    try:
        client: Any = scramp.ScramClient(["SCRAM-SHA-256"], route.user, route.password)
        challenge = yield client.get_client_first().encode()
        client.set_server_first(_affordable(challenge.decode()))
        challenge = yield client.get_client_final().encode()
        client.set_server_final(challenge.decode())
    except Exception as error:  # the library raises whatever its parser happens to
        raise Unproven(f"SCRAM-SHA-256 fails: {error}") from error
    yield b""


def _affordable(challenge: str) -> str:
    """The client does the work that the server names, and its reactor waits."""
    for field in challenge.split(","):
        if field.startswith("i=") and not (_COUNT.fullmatch(field[2:]) and 0 < int(field[2:]) <= _MOST_ITERATIONS):
            raise Unproven(f"the server wants {field[2:40]} iterations, at most {_MOST_ITERATIONS} are done")
    return challenge


# In the order in which they are tried: those first that do not hand the password to the server.
_WITH_PASSWORD: dict[str, Callable[[Route], Exchange]] = {
    "SCRAM-SHA-256": _scram,
    "CRAM-MD5": _cramMD5,
    "PLAIN": _plain,
    "LOGIN": _login,
}
_WITH_TOKEN: dict[str, Callable[[Route], Exchange]] = {"XOAUTH2": _xoauth2}

# A reader on the way learns nothing that can be used again.
_NEVER_IN_THE_CLEAR = frozenset({"PLAIN", "LOGIN", "XOAUTH2"})


def mechanismsFor(route: Route, isPrivate: bool) -> dict[str, Callable[[Route], Exchange]]:
    """
    The mechanisms that a route's credentials are good for, in the order of preference.

    @param isPrivate: what is said cannot be read on the way.
    """
    known = _WITH_TOKEN if route.token is not None else _WITH_PASSWORD
    wanted = route.authMethods or tuple(known)
    return {
        name: known[name]
        for name in wanted
        if name in known
        and (isPrivate or route.allowInsecureAuth or name not in _NEVER_IN_THE_CLEAR)
        and (name != "SCRAM-SHA-256" or find_spec("scramp") is not None)
    }
