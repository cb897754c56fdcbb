"""
PROXY: the header by which a load balancer says who its client is, and which peers are believed when they say so.

In: octets, cut anyhow.  Out: the two ends of the client's own connection, and the octets behind the header; or
L{ProxyError}, as soon as no valid header can come any more.
Rules kept here: nothing is taken from half a header; no address or port leaves that is none; nothing else is raised,
whatever the octets; at most 4096 of them are held back.  Twisted's parsers read the header, but let much pass that is
none, so its form is checked before them and their addresses after them.
This module knows no transport: when to expect a header, for how long, and what becomes of the connection is not
decided here.

The specification is HAProxy's C{doc/proxy-protocol.txt}; sections are cited from it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.protocols.haproxy._exceptions import InvalidProxyHeader
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from smtphooks.errors import OptionError
from smtphooks.netaddress import asPath, unmapped

_V1_START = b"PROXY "
_V2_START = V2Parser.PREFIX

# Section 2.1: the longest line that makes sense, CRLF included.
_V1_OCTETS = 107
# The 16 bits of section 2.2 would allow 64 KiB.  Addresses need 232 octets at most, and the section says that a header
# is smaller than a TCP segment; the rest is room for TLVs that are skipped here (a client's certificate is the largest
# that proxies send).  nginx draws the line at the same place.
_V2_OCTETS = 4096
_V2_FIXED = 16

_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the high four bits, the command in the low ones
_UNIX = 3  # the last of the families
_STREAM, _DGRAM = 1, 2

# Section 2.1: one space between the fields, no heading zeroes, no sign.
_V1_PORT = rb"(?:0|[1-9][0-9]{0,4})"
_V1_LINE = re.compile(rb"PROXY TCP[46] [0-9A-Fa-f:.]+ [0-9A-Fa-f:.]+ " + _V1_PORT + b" " + _V1_PORT)
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)

_MAX_PORT = 65535


class ProxyError(Exception):
    """What came is no PROXY header; the text says why, for the log."""


class ProxyResult(NamedTuple):
    """
    What a PROXY header says.  The addresses are None where the connection's own hold: the proxy connected for itself
    (C{LOCAL}), or does not say for whom (C{UNKNOWN}, unspecified).

    @ivar remoteAddress: the client: an IP address in its usual form (IPv4 where IPv6 only wraps it), or the path of a
        UNIX socket, C{""} if it has none that can be shown.
    @ivar remotePort: its port, 0 without one.
    @ivar localAddress: what the client connected to.
    @ivar localPort: its port.
    @ivar rest: the octets behind the header.
    @ivar local: the proxy connected for itself, to see whether the server is alive.
    """

    remoteAddress: str | None
    remotePort: int
    localAddress: str | None
    localPort: int
    rest: bytes
    local: bool


class ProxyHeader:
    """One PROXY header, version 1 or 2, on its way in."""

    def __init__(self) -> None:
        self._octets = b""

    def receive(self, data: bytes) -> ProxyResult | None:
        """
        Take what has arrived.

        @return: None as long as the header is not whole; it is not to be called again afterwards.
        @raise ProxyError: if it will never be one.
        """
        self._octets += data
        octets = self._octets
        if octets.startswith(_V1_START):
            return self._receiveLine()
        if octets.startswith(_V2_START):
            return self._receiveBlock()
        if _V1_START.startswith(octets) or _V2_START.startswith(octets):
            return None
        raise ProxyError(f"no PROXY header: it begins with {octets[:16]!r}")

    def _receiveLine(self) -> ProxyResult | None:
        """Version 1 (section 2.1)."""
        octets = self._octets
        end = octets.find(b"\r\n", 0, _V1_OCTETS)
        if end < 0:
            if len(octets) >= _V1_OCTETS:
                raise ProxyError(f"PROXY header version 1 does not end within {_V1_OCTETS} octets")
            return None
        line, rest = octets[:end], octets[end + 2 :]
        if _V1_UNKNOWN.fullmatch(line) is not None:
            return _result(None, None, rest)
        if _V1_LINE.fullmatch(line) is None:
            raise ProxyError(f"PROXY header version 1 is malformed: {line!r}")
        info = V1Parser.parse(line)
        return _result(info.source, info.destination, rest)

    def _receiveBlock(self) -> ProxyResult | None:
        """Version 2 (section 2.2)."""
        octets = self._octets
        start = len(_V2_START)
        command, kind = octets[start : start + 1], octets[start + 1 : start + 2]
        if command and command[0] not in (_LOCAL, _PROXY):
            raise ProxyError(f"PROXY header version 2 has version and command 0x{command[0]:02x}")
        isLocal = command == bytes([_LOCAL])
        # The family of LOCAL is ignored, whatever it says.
        if kind and not isLocal and (kind[0] >> 4 > _UNIX or kind[0] & 0x0F > _DGRAM):
            raise ProxyError(f"PROXY header version 2 has family and protocol 0x{kind[0]:02x}")
        if len(octets) < _V2_FIXED:
            return None
        size = _V2_FIXED + int.from_bytes(octets[_V2_FIXED - 2 : _V2_FIXED], "big")
        if size > _V2_OCTETS:
            raise ProxyError(f"PROXY header version 2 has {size} octets, more than {_V2_OCTETS}")
        if len(octets) < size:
            return None
        header, rest = octets[:size], octets[size:]
        try:
            info = V2Parser.parse(header)
        except InvalidProxyHeader:
            raise ProxyError("PROXY header version 2 is too short for the addresses of its family") from None
        if kind[0] & 0x0F != _STREAM:
            # Nobody speaks SMTP over datagrams; what is not supported counts as unspecified (section 2.2).
            return _result(None, None, rest, isLocal)
        return _result(info.source, info.destination, rest, isLocal)


def _result(remote: object, local: object, rest: bytes, isLocal: bool = False) -> ProxyResult:
    return ProxyResult(*_addressAndPort(remote), *_addressAndPort(local), rest, isLocal)


def _addressAndPort(end: object) -> tuple[str | None, int]:
    """One end as Twisted's parsers give it, which checked nothing of it."""
    if isinstance(end, UNIXAddress):
        return _path(end.name or b""), 0
    if not isinstance(end, (IPv4Address, IPv6Address)):
        return None, 0
    try:
        # The class is that of the family that the header names: no IPv6 address passes as TCP4.
        isIPv4 = isinstance(end, IPv4Address)
        address = ipaddress.IPv4Address(end.host) if isIPv4 else ipaddress.IPv6Address(end.host)
    except ValueError:
        raise ProxyError(f"PROXY header has the address {end.host!r}") from None
    if end.port > _MAX_PORT:
        raise ProxyError(f"PROXY header has the port {end.port}")
    return str(unmapped(address)), end.port


def _path(octets: bytes) -> str:
    """The path of a UNIX socket; an abstract one, or one that cannot stand in a log, is like one without a name."""
    try:
        path = octets.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError:
        return ""
    return asPath(path) if path.isprintable() else ""


class TrustedPeers:
    """
    The peers whose word about the client is believed: what C{useProxy}, C{useXClient} and C{useXForward} say.

    @param value: False: nobody; True: everybody who can connect; or a list of addresses and networks.
    @raise OptionError: if it is none of these; the text is one sentence for whoever wrote it.
    """

    def __init__(self, value: object) -> None:
        self._everybody = value is True
        # By version and number of host bits: the network parts.  A look-up takes as long for a thousand networks of
        # one size as for one.
        self._networks: dict[tuple[int, int], set[int]] = {}
        if isinstance(value, bool):
            return
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise OptionError("{!r} is not {true!r}, {false!r} or a list of addresses and networks", value)
        for entry in value:
            network = _network(entry)
            hostBits = network.max_prefixlen - network.prefixlen
            numbers = self._networks.setdefault((network.version, hostBits), set())
            numbers.add(int(network.network_address) >> hostBits)

    def trusts(self, address: str) -> bool:
        """
        Whether this peer is believed.

        @param address: the peer's IP address as text; a UNIX socket's path or C{""} is only trusted with True.
        """
        if self._everybody or not self._networks:
            return self._everybody
        try:
            peer = unmapped(ipaddress.ip_address(address))
        except ValueError:
            return False
        number, version = int(peer), peer.version
        return any(
            version == ofVersion and number >> hostBits in numbers
            for (ofVersion, hostBits), numbers in self._networks.items()
        )


def _network(entry: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        # ip_network() would also take a number, and a zone ("%eth0") says nothing about who the peer is.
        if not isinstance(entry, str) or "%" in entry:
            raise ValueError
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise OptionError(
            "{!r} is neither an address such as 192.0.2.1 or 2001:db8::1 nor a network such as 10.0.0.0/8", entry
        ) from None
    host, slash, _ = entry.partition("/")
    if slash and ipaddress.ip_address(host) != network.network_address:
        raise OptionError(
            f"{{!r}} is no network, as {host} is a host within it: write {network} for all of it, "
            f"or {host} for this one host",
            entry,
        )
    mapped = unmapped(network.network_address)
    if mapped.version != network.version and network.prefixlen >= 96:
        return ipaddress.ip_network((int(mapped), network.prefixlen - 96))
    return network
