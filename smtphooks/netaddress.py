"""
Addresses of clients: IP addresses as text, and the paths of UNIX sockets that must not be taken for these.

One form for each thing that is written of an address, so that no two modules write it differently.
This module knows no connections and no options.
"""

from __future__ import annotations

import ipaddress

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def maybeIP(text: str) -> IPAddress | None:
    """The IP address that a text is; None if it is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def unmapped(address: IPAddress) -> IPAddress:
    """A client that comes by IPv4 to an IPv6 socket is the client that its IPv4 address says (RFC 4291, 2.5.5.2)."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def bracketed(address: str) -> str:
    """What stands in the place of a client's name in DNS where it has none."""
    return f"[{address}]" if address else ""


def addressLiteral(address: str) -> str:
    """An address as RFC 5321 section 4.1.3 writes it."""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def networkOf(address: str) -> str:
    """What counts as one client: an IPv4 address, and of IPv6 the /64 that one customer is given."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


def asPath(name: str) -> str:
    """The path of a UNIX socket, such that it does not begin like an IP address whatever a client has named it."""
    return f"./{name}" if name and not name.startswith(("/", ".")) else name
