"""
The attributes of XCLIENT and XFORWARD, by which a trusted proxy or filter describes its client.

In: the argument of a command.  Out: its attributes; or the refusal, an L{SMTPError}, which names the attribute.
Rules kept here: either all attributes are valid, or none is returned; what is returned holds no control character and
no character beyond ASCII (except in a login name), and an address is in its usual form.
This module knows syntax alone: not which peer is trusted, not the session, not what becomes of an attribute.

Postfix's C{XCLIENT_README} and C{XFORWARD_README} say what attributes mean.  Where the text is looser than Postfix's
code (XFORWARD's ADDR), this module follows the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from smtphooks.netaddress import maybeTaggedIP, unmapped
from smtphooks.replies import SMTPError
from smtphooks.syntax.grammar import maybeXtext

# Only for NAME does it matter why it is unknown: a look-up that may work later is no reason for a permanent refusal.
# The value of NAME is then this text, which cannot be a host name.
TEMPORARILY_UNKNOWN = "[TEMPUNAVAIL]"
_UNKNOWN = "[UNAVAILABLE]"

_VALUE_OCTETS = 255  # XFORWARD_README, note 1
_PROTOCOL_OCTETS = 64

_ATTRIBUTE_NAME = re.compile("[A-Za-z_]{1,32}")

_LABEL = re.compile("[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_VISIBLE = re.compile("[!-~]+")
_NUMBER = re.compile("0|[1-9][0-9]{0,4}")
_MAX_PORT = 65535


def _hostname(value: str) -> str | None:
    name = value.removesuffix(".")
    labels = name.split(".")
    # A name whose last label is a number is an address, or looks like one.
    if labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return name


def _visible(value: str) -> str | None:
    """
    A name that need not be in DNS: anything that HELO itself may hold.

    Characters with a meaning in header fields are accepted, as in HELO; C{Session.receivedHeader} neuters them.
    """
    return value if _VISIBLE.fullmatch(value) else None


def _protocol(value: str) -> str | None:
    return value.upper() if len(value) <= _PROTOCOL_OCTETS and _VISIBLE.fullmatch(value) else None


def _oneOf(*words: str) -> Callable[[str], str | None]:
    return lambda value: value.upper() if value.upper() in words else None


def _address(value: str) -> str | None:
    ip = maybeTaggedIP(value, tagOptional=True)
    return None if ip is None else str(unmapped(ip))


def _port(value: str) -> str | None:
    return value if _NUMBER.fullmatch(value) and int(value) <= _MAX_PORT else None


def _login(value: str) -> str | None:
    return value if value.isprintable() else None


# The order is that in the reply to EHLO.
_XCLIENT: Mapping[str, Callable[[str], str | None]] = {
    "NAME": _hostname,
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _oneOf("SMTP", "ESMTP"),
    "HELO": _visible,
    "LOGIN": _login,
    "DESTADDR": _address,
    "DESTPORT": _port,
}
_XFORWARD: Mapping[str, Callable[[str], str | None]] = {
    "NAME": _visible,
    "ADDR": _address,
    "PORT": _port,
    "PROTO": _protocol,
    "HELO": _visible,
    "IDENT": _visible,
    "SOURCE": _oneOf("LOCAL", "REMOTE"),
}

xClientKeywords: str = " ".join(_XCLIENT)
xForwardKeywords: str = " ".join(_XFORWARD)


def parseXClient(argument: str) -> dict[str, str | None]:
    """
    The attributes of XCLIENT: upper-case name to value, decoded; None where the proxy does not know it.

    C{NAME=[TEMPUNAVAIL]} is L{TEMPORARILY_UNKNOWN}: the look-up of the name failed for now.  Port 0, which Postfix
    sends for mail that did not come over TCP, is None as well.

    @raise SMTPError: 501 5.5.4, if any of it is wrong.
    """
    return _parse(argument, _XCLIENT)


def parseXForward(argument: str) -> dict[str, str | None]:
    """The attributes of XFORWARD, likewise; its names of hosts and protocols need not be those of SMTP."""
    return _parse(argument, _XFORWARD)


def _parse(argument: str, known: Mapping[str, Callable[[str], str | None]]) -> dict[str, str | None]:
    attributes: dict[str, str | None] = {}
    for part in argument.split(" "):
        if not part:
            continue
        name, equals, text = part.partition("=")
        if not equals or _ATTRIBUTE_NAME.fullmatch(name) is None:
            raise SMTPError("Syntax: attribute=value", 501, "5.5.4")
        name = name.upper()
        check = known.get(name)
        if check is None:
            raise SMTPError(f"Attribute {name} is unknown, known are {' '.join(known)}", 501, "5.5.4")
        if name in attributes:
            raise SMTPError(f"Attribute {name} given twice", 501, "5.5.4")
        attributes[name] = _value(name, text, check)
    if not attributes:
        raise SMTPError("Syntax: attribute=value", 501, "5.5.4")
    return attributes


def _value(name: str, text: str, check: Callable[[str], str | None]) -> str | None:
    decoded = _decode(text)
    if not decoded:
        raise SMTPError(f"Value of attribute {name} is empty or no xtext (RFC 3461 section 4)", 501, "5.5.4")
    word = decoded.upper()
    if word == TEMPORARILY_UNKNOWN and name == "NAME":
        return TEMPORARILY_UNKNOWN
    if word in (_UNKNOWN, TEMPORARILY_UNKNOWN):
        return None
    value = check(decoded) if len(decoded.encode()) <= _VALUE_OCTETS else None
    if value is None:
        raise SMTPError(f"Bad value of attribute {name}", 501, "5.5.4")
    return None if value == "0" and check is _port else value


def _decode(text: str) -> str | None:
    """The text that an xtext encodes, as UTF-8: a login name may have any character; None if it is malformed."""
    try:
        return (maybeXtext(text, lenient=True) or b"").decode()
    except UnicodeDecodeError:
        return None
