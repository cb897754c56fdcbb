"""
The identity of a client for the server that a message goes on to: the attributes of XCLIENT and XFORWARD.

In: the session.  Out: names and values of attributes, as Postfix's C{XCLIENT_README} and C{XFORWARD_README} have them.
What a trusted proxy has said of the client by XFORWARD itself is what is told on.
This module knows no connection, and not how attributes are encoded.
"""

from __future__ import annotations

import ipaddress

from smtphooks.netaddress import bracketed, maybeIP, unmapped
from smtphooks.session import Session

UNKNOWN = "[UNAVAILABLE]"
TEMPORARILY_UNKNOWN = "[TEMPUNAVAIL]"


def xClientOf(session: Session) -> tuple[tuple[str, str], ...]:
    """
    The attributes of XCLIENT for the client of a session.

    All of them are there, as a server would take what is left out from the connection, whose client we are.
    """
    return (
        ("NAME", _nameOf(session)),
        ("ADDR", _address(session.remoteAddress)),
        ("PORT", _port(session.remotePort)),
        ("PROTO", "SMTP" if session.openingCommand == "HELO" else "ESMTP"),
        ("HELO", _text(session.hostNameAppearsAs)),
        ("LOGIN", UNKNOWN if session.user is None else _text(str(session.user))),
        ("DESTADDR", _address(session.localAddress)),
        ("DESTPORT", _port(session.localPort)),
    )


def xForwardOf(session: Session) -> dict[str, str]:
    """The attributes of XFORWARD for the current message; those that came by XFORWARD take precedence."""
    if session.xForward:
        return {name: value or UNKNOWN for name, value in session.xForward.items()}
    return {
        "NAME": _nameOf(session),
        "ADDR": _address(session.remoteAddress),
        "PORT": _port(session.remotePort),
        "PROTO": session.transmissionType,
        "HELO": _text(session.hostNameAppearsAs),
        "IDENT": f"{session.id}.{session.transaction}",
        "SOURCE": "REMOTE",
    }


def _nameOf(session: Session) -> str:
    """
    The name of the client in DNS.

    The look-up does not tell whether there is no name or no answer, and the latter must not cause a refusal for good.
    """
    name, address = session.clientHostname, session.remoteAddress
    if not name or name in (address, bracketed(address)):
        return UNKNOWN if maybeIP(address) is None else TEMPORARILY_UNKNOWN
    return _text(name)


def _address(text: str) -> str:
    ip = maybeIP(text)
    if ip is None:  # a UNIX socket, or what a proxy does not know
        return UNKNOWN
    ip = unmapped(ip)
    return f"IPV6:{ip}" if isinstance(ip, ipaddress.IPv6Address) else str(ip)


def _port(number: int) -> str:
    return str(number) if number else UNKNOWN


def _text(text: str) -> str:
    """A value; Postfix takes none of more than 255 octets."""
    return text if text and text.isprintable() and len(text.encode()) <= 255 else UNKNOWN
