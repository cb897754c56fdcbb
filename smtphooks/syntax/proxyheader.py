"""
PROXY: the header with which a load balancer announces its client.

In: octets, cut anywhere.  Out: the two ends of the client's own connection, and the octets after the header; or
L{ProxyError}, as soon as no valid header can follow.
Rules kept here: an incomplete header yields nothing; every address and port is validated; L{ProxyError} is the only
exception, whatever the octets; at most 4096 octets are buffered.
This module knows no transport and no timeout: which peers must send a header, and what happens to the connection, is
decided elsewhere.

The specification is HAProxy's C{doc/proxy-protocol.txt}; sections are cited from it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from smtphooks.netaddress import asPath, unmapped

_V1_START = b"PROXY "
_V2_START = b"\r\n\r\n\0\r\nQUIT\n"

# Section 2.1: the longest line that makes sense, CRLF included.
_V1_OCTETS = 107
# Section 2.2 has 16 bits for the length, and says that a header is smaller than a TCP segment.  Addresses take 232
# octets at most; the rest is room for TLVs, which are skipped; a client's certificate is the largest that proxies send.
# nginx has the same limit.
_V2_OCTETS = 4096
_V2_FIXED = 16

_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the high four bits, the command in the low ones
_INET, _INET6, _UNIX = 1, 2, 3
_STREAM, _DGRAM = 1, 2
# Octets of an address and of a port, by family.
_WIDTHS = {_INET: (4, 2), _INET6: (16, 2), _UNIX: (108, 0)}

# Section 2.1: one space between the fields, no leading zeroes, no sign.
_V1_ADDRESS = rb"([0-9A-Fa-f:.]+)"
_V1_PORT = rb"(0|[1-9][0-9]{0,4})"
_V1_LINE = re.compile(rb"PROXY TCP([46]) %b %b %b %b" % (_V1_ADDRESS, _V1_ADDRESS, _V1_PORT, _V1_PORT))
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)

_MAX_PORT = 65535


class ProxyError(Exception):
    """The octets are not a PROXY header; the text is the reason, for the log."""


class ProxyResult(NamedTuple):
    """
    What a PROXY header says.  The addresses are None where those of the connection itself hold: the proxy connected on
    its own behalf (C{LOCAL}), or does not know its client's (C{UNKNOWN}, unspecified).

    @ivar remoteAddress: the client: an IP address in canonical form, IPv4-mapped ones as IPv4, or the path of a UNIX
        socket, C{""} for one that is unnamed or not printable.
    @ivar remotePort: its port, 0 without one.
    @ivar localAddress: the address that the client connected to.
    @ivar localPort: its port.
    @ivar rest: the octets after the header.
    @ivar local: the proxy connected on its own behalf, which is a health check.
    """

    remoteAddress: str | None
    remotePort: int
    localAddress: str | None
    localPort: int
    rest: bytes
    local: bool


class ProxyHeader:
    """The parser of one PROXY header, version 1 or 2."""

    def __init__(self) -> None:
        self._octets = b""

    def feed(self, data: bytes) -> ProxyResult | None:
        """
        Parse these octets, after those before them.

        @return: None while the header is incomplete; after a result the parser is done.
        @raise ProxyError: if no valid header can follow.
        """
        self._octets += data
        octets = self._octets
        if octets.startswith(_V1_START):
            return self._maybeLine()
        if octets.startswith(_V2_START):
            return self._maybeBlock()
        if _V1_START.startswith(octets) or _V2_START.startswith(octets):
            return None
        raise ProxyError(f"no PROXY header: it begins with {octets[:16]!r}")

    def _maybeLine(self) -> ProxyResult | None:
        """Version 1 (section 2.1)."""
        octets = self._octets
        end = octets.find(b"\r\n", 0, _V1_OCTETS)
        if end < 0:
            if len(octets) >= _V1_OCTETS:
                raise ProxyError(f"PROXY header version 1 does not end within {_V1_OCTETS} octets")
            return None
        line, rest = octets[:end], octets[end + 2 :]
        if _V1_UNKNOWN.fullmatch(line) is not None:
            return _unspecified(rest)
        match = _V1_LINE.fullmatch(line)
        if match is None:
            raise ProxyError(f"PROXY header version 1 is malformed: {line!r}")
        family, source, destination, sourcePort, destinationPort = (field.decode("ascii") for field in match.groups())
        remote = _address(family, source), _port(sourcePort)
        local = _address(family, destination), _port(destinationPort)
        return ProxyResult(*remote, *local, rest, False)

    def _maybeBlock(self) -> ProxyResult | None:
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
        payload, rest = octets[_V2_FIXED:size], octets[size:]
        if isLocal:
            return _unspecified(rest, isLocal=True)
        return _ends(kind[0] >> 4, kind[0] & 0x0F, payload, rest)


def _unspecified(rest: bytes, isLocal: bool = False) -> ProxyResult:
    return ProxyResult(None, 0, None, 0, rest, isLocal)


def _address(family: str, text: str) -> str:
    """An address of version 1, which must be of the family that the header names."""
    try:
        return str(unmapped(ipaddress.IPv4Address(text) if family == "4" else ipaddress.IPv6Address(text)))
    except ValueError:
        raise ProxyError(f"PROXY header has the address {text!r}") from None


def _port(text: str) -> int:
    if int(text) > _MAX_PORT:
        raise ProxyError(f"PROXY header has the port {text}")
    return int(text)


def _ends(family: int, protocol: int, payload: bytes, rest: bytes) -> ProxyResult:
    """The addresses of version 2 (section 2.2): source, destination, and then the two ports."""
    if not (family and protocol):
        return _unspecified(rest)
    width, portWidth = _WIDTHS[family]
    ports = payload[2 * width : 2 * (width + portWidth)]
    if len(payload) < 2 * width or len(ports) < 2 * portWidth:
        raise ProxyError("PROXY header version 2 is too short for the addresses of its family")
    if protocol != _STREAM:
        # There is no SMTP over datagrams; a protocol that is not supported counts as unspecified (section 2.2).
        return _unspecified(rest)
    source, destination = payload[:width], payload[width : 2 * width]
    if family == _UNIX:
        return ProxyResult(_path(source), 0, _path(destination), 0, rest, False)
    remote, local = (str(unmapped(ipaddress.ip_address(packed))) for packed in (source, destination))
    return ProxyResult(remote, int.from_bytes(ports[:2], "big"), local, int.from_bytes(ports[2:], "big"), rest, False)


def _path(octets: bytes) -> str:
    """The path of a UNIX socket; C{""} for an abstract one, and for a path that must not go into a log."""
    try:
        path = octets.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError:
        return ""
    return asPath(path) if path.isprintable() else ""
