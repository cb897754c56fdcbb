"""
Network addresses: reading them from text, and one written form for each use.

In: text from a socket, a proxy, a client or the operator.  Out: C{ipaddress} values, and text for the log, a reply or
a header field.  IPv4-mapped IPv6, brackets, tags and zones are handled here, so that no two modules do it differently.
This module knows no sockets, no DNS and no options.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_TAG = "IPv6:"  # RFC 5321 section 4.1.3


# --- reading ---


def maybeIP(text: str) -> IPAddress | None:
    """The IP address that the text is, a zone (C{"%eth0"}) included; None if it is something else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def maybeTaggedIP(text: str, *, tagOptional: bool = False) -> IPAddress | None:
    """
    The IP address of an address literal (RFC 5321 section 4.1.3), brackets removed: IPv6 has the tag C{IPv6:}.

    A zone is rejected, as it means nothing to another host.

    @param tagOptional: IPv6 without the tag is accepted, as Postfix accepts it with XCLIENT.
    @return: None if the text is no such address.
    """
    isTagged = text[: len(_TAG)].lower() == _TAG.lower()
    ip = maybeIP(text[len(_TAG) :] if isTagged else text)
    if ip is None or "%" in text or (isTagged and ip.version == 4):
        return None
    return ip if isTagged or tagOptional or ip.version == 4 else None


def unmapped(address: IPAddress) -> IPAddress:
    """An IPv4 client of an IPv6 socket (RFC 4291 section 2.5.5.2) under its IPv4 address; others unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def unmappedNetwork(network: IPNetwork) -> IPNetwork:
    """The IPv4 network that an IPv4-mapped one stands for; others unchanged."""
    mapped = unmapped(network.network_address)
    # The first address of a network that is larger than all of IPv4 is not a mapped one.
    return network if mapped.version == network.version else ipaddress.ip_network((int(mapped), network.prefixlen - 96))


def unmappedText(address: str) -> str:
    """L{unmapped} for text; text that is no IPv4-mapped address is returned as it is."""
    ip = maybeIP(address) if ":" in address else None
    mapped = None if ip is None else unmapped(ip)
    return address if mapped is ip else str(mapped)


@lru_cache(maxsize=4096)
def isPublic(address: str) -> bool:
    """Whether this is an address of the public Internet; the DNS of the Internet has no names for others (RFC 6303)."""
    ip = maybeIP(address)
    return ip is not None and ip.is_global


def networkOf(address: str) -> str:
    """The network that counts as one client: a single IPv4 address, or the IPv6 /64 that is assigned to one site."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


# --- writing ---


def canonical(address: IPAddress) -> str:
    """The text form of RFC 5952; before Python 3.13 C{str} does not follow its section 5, on IPv4-mapped addresses."""
    mapped = unmapped(address)
    return str(address) if mapped is address else f"::ffff:{mapped}"


def bracketed(address: str) -> str:
    """An address in the place of a host name, for a client without a name in DNS; C{""} without an address."""
    return f"[{address}]" if address else ""


def addressLiteral(address: str) -> str:
    """An address literal (RFC 5321 section 4.1.3)."""
    return f"[{_TAG}{address}]" if ":" in address else f"[{address}]"


def withPort(address: str, port: int) -> str:
    """An address and a port (RFC 5952 section 6)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def asPath(name: str) -> str:
    """The path of a UNIX socket, in a form that cannot be mistaken for an IP address whatever the client named it."""
    return f"./{name}" if name and not name.startswith(("/", ".")) else name
