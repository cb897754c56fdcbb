"""
The opening of a connection: greeting, EHLO, STARTTLS, XCLIENT and AUTH, up to where a transaction may begin.

It is a generator: it yields what is to be done, a L{Say}, L{HEAR} or L{ENCRYPT}, is sent the reply, and returns what
the server offers.  Rule: nothing that the server has said in the clear is believed once there is TLS (RFC 3207
section 4.2).
This module knows no transport.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Generator
from typing import Any, NamedTuple

import attrs

from smtphooks.client.errors import NoMechanism, NotOffered, Refused, Unreachable
from smtphooks.client.mechanisms import Exchange, Unproven, mechanismsFor
from smtphooks.client.parameters import attributeLines
from smtphooks.client.reply import ReceivedReply
from smtphooks.client.route import IMPLICIT, OPPORTUNISTIC, REQUIRED, Route

# RFC 4954 section 4 for the line of AUTH.
_AUTH_OCTETS = 12288

# RFC 4954 sections 4 and 6: it does not know the mechanism, or wants a stronger one.  With 535 no other one would help,
# and a server may count attempts.
_WANTS_ANOTHER_MECHANISM = (504, 534)

_KEYWORD = re.compile("([A-Za-z0-9][A-Za-z0-9_-]*)(?:[ =]|\\Z)")


class Say(NamedTuple):
    """Say this line, and have the reply sent; a transcript has C{shown} in its place."""

    line: bytes
    label: str
    isSecret: bool = False

    @property
    def shown(self) -> str | None:
        """None for the line itself; of AUTH the mechanism, and of the responses to it nothing."""
        if not self.isSecret:
            return None
        return f"{self.label} …" if b" " in self.line else "…"


class Do(NamedTuple):
    """What else is to be done."""

    what: str


HEAR = Do("hear the greeting")
ENCRYPT = Do("begin TLS")

Step = Say | Do
Steps = Generator[Step, Any, Any]


@attrs.define
class Opened:
    """
    What is known of a server.

    @ivar isSecure: the connection is encrypted.
    @ivar isPrivate: what is said cannot be read on the way: it is encrypted, or leaves the machine at no time.
    @ivar avoidsTLS: TLS that is only taken because it is there has failed on the connection before this one.
    @ivar extensions: what it offers: upper-case keyword to parameters.
    """

    isSecure: bool = False
    isPrivate: bool = False
    avoidsTLS: bool = False
    extensions: dict[str, str] = attrs.field(factory=dict)


def opening(route: Route, opened: Opened) -> Steps:
    """
    Open a connection.

    @param opened: what is known of it; filled with what the server says.
    @raise ClientError: if that fails.
    """
    name = route.name
    if route.tls == IMPLICIT:
        yield ENCRYPT
        opened.isSecure = opened.isPrivate = True
    greeting = yield HEAR
    _mustBe(220, greeting, f"{route} does not want this connection")
    yield from _hello(route, opened, name)
    if route.tls == REQUIRED or (route.tls == OPPORTUNISTIC and not opened.avoidsTLS):
        yield from _encrypt(route, opened, name)
    if route.xClient:
        try:
            name = yield from _introduce(route, opened)
        except Refused as error:
            error.isOfIdentity = error.reply.code != 421
            raise
    if route.user is not None:
        yield from _authenticate(route, opened)


def _mustBe(code: int, reply: ReceivedReply, what: str) -> None:
    if reply.code != code:
        raise Refused(what, reply)


def _hello(route: Route, opened: Opened, name: str) -> Steps:
    verb = "LHLO" if route.lmtp else "EHLO"
    reply = yield Say(f"{verb} {name}".encode(), verb)
    if 500 <= reply.code <= 504 and not route.lmtp:  # RFC 5321 section 3.2: a server from before 1993
        opened.extensions = {}
        reply = yield Say(f"HELO {name}".encode(), "HELO")
        _mustBe(250, reply, f"{route} refuses EHLO and HELO, as a server of LMTP does")
        return
    isOfSMTP = 500 <= reply.code <= 504 and route.lmtp
    _mustBe(250, reply, f"{route} refuses {verb}" + (", as a server of SMTP does" if isOfSMTP else ""))
    opened.extensions = extensionsIn(reply)


def extensionsIn(reply: ReceivedReply) -> dict[str, str]:
    """What a reply to EHLO offers (RFC 5321 section 4.1.1.1)."""
    extensions: dict[str, str] = {}
    # The text of EHLO has no enhanced code, but may look as if it did.
    for line in str(reply).split("\n")[1:]:
        found = _KEYWORD.match(line, 4)
        if found is None:
            continue
        keyword, parameters = found[1].upper(), line[found.end() :].strip()
        # Some servers have a second line for old clients, AUTH=PLAIN beside AUTH PLAIN.
        known = extensions.get(keyword, "") if keyword == "AUTH" else ""
        extensions[keyword] = f"{known} {parameters}".strip()
    return extensions


def _encrypt(route: Route, opened: Opened, name: str) -> Steps:
    if "STARTTLS" in opened.extensions:
        reply = yield Say(b"STARTTLS", "STARTTLS")
        if reply.code == 220:
            yield ENCRYPT
            opened.isSecure = opened.isPrivate = True
            opened.extensions = {}
            yield from _hello(route, opened, name)
            return
        if route.tls == REQUIRED or reply.code == 421:
            raise Refused(f"{route} refuses STARTTLS", reply)
    if route.tls == REQUIRED:
        raise Unreachable(f"{route} does not offer STARTTLS, which must be")


def _introduce(route: Route, opened: Opened) -> Generator[Step, Any, str]:
    """Say who the client is (Postfix's XCLIENT_README), and greet as that client from then on."""
    if "XCLIENT" not in opened.extensions:
        raise NotOffered(f"{route} does not offer XCLIENT to this host, allow it there or leave it out", 451, "4.3.5")
    for line in attributeLines("XCLIENT", route.xClient, opened.extensions["XCLIENT"]):
        reply = yield Say(line, "XCLIENT")
        _mustBe(220, reply, f"{route} refuses XCLIENT")
    name = dict(route.xClient).get("HELO", "")
    if not name or name.startswith(("[UN", "[TEMP")) or " " in name or not name.isascii():
        name = route.name
    # The server behaves as if the client had just connected.
    yield from _hello(route, opened, name)
    return name


def _authenticate(route: Route, opened: Opened) -> Steps:
    offered = opened.extensions.get("AUTH", "").upper().split()
    able = mechanismsFor(route, opened.isPrivate)
    usable = [name for name in able if name in offered]
    if not usable:
        isInTheClear = any(name in offered for name in mechanismsFor(route, isPrivate=True))
        reason = ", and none that does not show a password in the clear" if isInTheClear else ""
        said = " ".join(offered) or "nothing"
        raise NoMechanism(
            f"{route} offers {said} for AUTH, and no mechanism for user {route.user}{reason}", isInTheClear
        )
    for mechanism in usable:
        try:
            reply = yield from _exchange(able[mechanism](route), mechanism)
        except Unproven as error:
            raise Unreachable(f"{route}: {error}") from error
        if reply.code == 235:
            return
        if reply.code not in _WANTS_ANOTHER_MECHANISM:
            break
    raise Refused(f"{route} refuses AUTH {mechanism} for user {route.user}", reply)


def _exchange(exchange: Exchange, mechanism: str) -> Generator[Step, Any, ReceivedReply]:
    response = next(exchange)
    line = f"AUTH {mechanism}".encode()
    initial = None if response is None else base64.b64encode(response) or b"="
    if initial is not None and len(line) + len(initial) + 3 <= _AUTH_OCTETS:
        line, initial = line + b" " + initial, None
    reply: ReceivedReply = yield Say(line, f"AUTH {mechanism}", isSecret=True)
    if initial is not None and reply.code == 334:
        reply = yield Say(initial, "AUTH", isSecret=True)
    try:
        while reply.code == 334:
            response = exchange.send(_challengeOf(reply))
            reply = yield Say(base64.b64encode(response or b""), "AUTH", isSecret=True)
    except StopIteration:
        yield Say(b"*", "AUTH")
        raise Unproven(f"AUTH {mechanism} does not end where it should") from None
    except Unproven:
        yield Say(b"*", "AUTH")
        raise
    if reply.code == 235 and mechanism.startswith("SCRAM"):
        _mustBeProven(exchange, mechanism)
    return reply


def _mustBeProven(exchange: Exchange, mechanism: str) -> None:
    """A server that says yes before it has proven itself may be anybody."""
    try:
        exchange.send(b"")
    except StopIteration:
        return
    except Unproven:
        pass
    raise Unproven(f"the server ends {mechanism} without a proof that it knows the password")


def _challengeOf(reply: ReceivedReply) -> bytes:
    try:
        return base64.b64decode(str(reply)[4:], validate=True)
    except (binascii.Error, ValueError):
        raise Unproven(f"{str(reply)[4:80]!r} is no challenge in base64") from None
