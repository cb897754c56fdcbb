"""PROXY headers: read whole, cut anywhere, malformed, and compared with Twisted's parsers."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.protocols.haproxy._exceptions import InvalidProxyHeader
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from smtphooks.syntax.proxyheader import ProxyError, ProxyHeader, ProxyResult

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, UDP4, TCP6, UDP6, UNIX, UNIX_DATAGRAM = 0x11, 0x12, 0x21, 0x22, 0x31, 0x32

FOUR = struct.pack("!4s4sHH", b"\xc0\0\2\7", b"\xc6\x33\x64\1", 50000, 25)
SIX = struct.pack("!16s16sHH", *(socket.inet_pton(socket.AF_INET6, a) for a in ("2001:db8::7", "2001:db8::1")), 5, 25)
TLV = b"\x02\x00\x0bexample.org"


def block(kind: int = TCP4, payload: bytes = FOUR, command: int = PROXY) -> bytes:
    return SIGNATURE + bytes([command, kind]) + struct.pack("!H", len(payload)) + payload


def unix(source: bytes, destination: bytes = b"/run/smtp.sock") -> bytes:
    return block(UNIX, source.ljust(108, b"\0") + destination.ljust(108, b"\0"))


def read(octets: bytes) -> ProxyResult | None:
    return ProxyHeader().feed(octets)


def readInPieces(octets: bytes, cuts: list[int]) -> ProxyResult | None:
    header = ProxyHeader()
    ends = sorted(cut % (len(octets) + 1) for cut in cuts)
    pieces = [octets[start:end] for start, end in zip([0, *ends], [*ends, len(octets)], strict=True)]
    for number, piece in enumerate(pieces):
        result = header.feed(piece)
        if result is not None:
            return result._replace(rest=result.rest + b"".join(pieces[number + 1 :]))
    return None


def outcome(octets: bytes, cuts: list[int]) -> ProxyResult | str | None:
    try:
        return readInPieces(octets, cuts)
    except ProxyError:
        return "refused"


UNSPECIFIED = ProxyResult(None, 0, None, 0, b"", False)
VALID = {
    b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 25\r\n": ("192.0.2.7", 50000, "198.51.100.1", 25),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n": ("255.255.255.255", 65535, "255.255.255.255", 0),
    b"PROXY TCP6 2001:DB8::7 ::1 1 2\r\n": ("2001:db8::7", 1, "::1", 2),
    b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b"ffff:" * 7 + b"ffff",) * 2): (
        "ffff:" * 7 + "ffff",
        65535,
        "ffff:" * 7 + "ffff",
        65535,
    ),
    b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 1 2\r\n": ("192.0.2.7", 1, "198.51.100.1", 2),
    b"PROXY UNKNOWN\r\n": (None, 0, None, 0),
    b"PROXY UNKNOWN \r\n": (None, 0, None, 0),
    b"PROXY UNKNOWN \xff\n\0 whatever \r \n\r\n": (None, 0, None, 0),
    b"PROXY UNKNOWN %b %b 65535 65535\r\n" % ((b"ffff:" * 7 + b"ffff",) * 2): (None, 0, None, 0),
    block(): ("192.0.2.7", 50000, "198.51.100.1", 25),
    block(TCP4, FOUR + TLV): ("192.0.2.7", 50000, "198.51.100.1", 25),
    block(TCP4, FOUR + b"no TLV at all"): ("192.0.2.7", 50000, "198.51.100.1", 25),
    block(TCP4, FOUR.ljust(4080, b"\0")): ("192.0.2.7", 50000, "198.51.100.1", 25),
    block(TCP6, SIX): ("2001:db8::7", 5, "2001:db8::1", 25),
    block(TCP6, bytes(10) + b"\xff\xff" + b"\xc0\0\2\7" + SIX[16:]): ("192.0.2.7", 5, "2001:db8::1", 25),
    block(0, b""): (None, 0, None, 0),
    block(0, FOUR): (None, 0, None, 0),
    block(0x10, b""): (None, 0, None, 0),
    block(0x01, b""): (None, 0, None, 0),
    block(UDP4): (None, 0, None, 0),
    block(UDP6, SIX): (None, 0, None, 0),
    block(UNIX_DATAGRAM, bytes(216)): (None, 0, None, 0),
    unix(b"/tmp/client"): ("/tmp/client", 0, "/run/smtp.sock", 0),
    unix(b"/tmp/client\0left over"): ("/tmp/client", 0, "/run/smtp.sock", 0),
    unix(b"", b"x" * 108): ("", 0, "./" + "x" * 108, 0),
    unix(b"127.0.0.1"): ("./127.0.0.1", 0, "/run/smtp.sock", 0),
    unix(b"::1"): ("./::1", 0, "/run/smtp.sock", 0),
    unix(b"\0abstract"): ("", 0, "/run/smtp.sock", 0),
    unix(b"/tmp/\xff"): ("", 0, "/run/smtp.sock", 0),
    unix(b"/tmp/a\r\nb"): ("", 0, "/run/smtp.sock", 0),
}


@pytest.mark.parametrize("octets", VALID)
def test_valid_header_is_read_whole_and_byte_by_byte_and_leaves_the_rest(octets: bytes) -> None:
    expected = ProxyResult(*VALID[octets], b"", False)
    assert read(octets) == expected
    assert readInPieces(octets, list(range(len(octets)))) == expected
    assert read(octets + b"\r\nEHLO a\r\n") == expected._replace(rest=b"\r\nEHLO a\r\n")


@pytest.mark.parametrize("octets", VALID)
def test_incomplete_header_yields_nothing(octets: bytes) -> None:
    header = ProxyHeader()
    assert header.feed(b"") is None
    for position in range(len(octets) - 1):
        assert header.feed(octets[position : position + 1]) is None


@pytest.mark.parametrize("kind, payload", [(0, b""), (TCP4, FOUR), (TCP4, b"abc"), (0xFF, b""), (UNIX, TLV)])
def test_health_check_is_local_whatever_its_family_and_addresses(kind: int, payload: bytes) -> None:
    assert read(block(kind, payload, LOCAL) + b"QUIT") == UNSPECIFIED._replace(local=True, rest=b"QUIT")


INVALID_AT = {
    # What no header begins with, at the first octet that shows it
    b"E": 1,
    b"EHLO a\r\n": 1,
    b"\n": 1,
    b"\r\nQUIT": 3,
    b"PROXY\r\n": 6,
    b"PROXYTCP4 ": 6,
    b"proxy TCP4 ": 1,
    b"PROXIMATE": 5,
    SIGNATURE[:-1] + b"\r": 12,
    # Version 1
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n": 107,
    b"PROXY " + b"x" * 300: 107,
    b"PROXY \r\n": 8,
    b"PROXY UNKNOWNER\r\n": 17,
    b"PROXY unknown\r\n": 15,
    b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n": 32,
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n": 32,
    b"PROXY TCP4\r\n": 12,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n": 30,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n": 31,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n": 33,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 junk\r\n": 37,
    b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n": 33,
    b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n": 32,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\nEHLO a\r\n": 39,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n": 33,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n": 33,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n": 33,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1_0 2\r\n": 34,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n": 33,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n": 33,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 a 2\r\n": 32,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 \xb2 2\r\n": 32,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n": 36,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n": 36,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 100000\r\n": 37,
    b"PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\n": 34,
    b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n": 33,
    b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n": 30,
    b"PROXY TCP4 \xff 1.2.3.4 1 2\r\n": 26,
    b"PROXY TCP4 localhost 1.2.3.4 1 2\r\n": 34,
    b"PROXY TCP4 ::1 ::1 1 2\r\n": 24,
    b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n": 32,
    b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n": 31,
    b"PROXY TCP6 ::1::2 ::1 1 2\r\n": 27,
    b"PROXY TCP6 ::1 ::fffff 1 2\r\n": 28,
    # Version 2
    block(command=0x22): 13,
    block(command=0x11): 13,
    block(command=0x31): 13,
    block(0x41): 14,
    block(0x13): 14,
    block(0xFF): 14,
    block(TCP4, FOUR[:-1]): 27,
    block(TCP4, b""): 16,
    block(TCP6, FOUR): 28,
    block(UDP4, b""): 16,
    block(UNIX, bytes(215)): 231,
    block(TCP4, FOUR.ljust(4081, b"\0")): 16,
    block(0, bytes(65535), LOCAL): 16,
}


@pytest.mark.parametrize("octets", INVALID_AT)
def test_invalid_header_is_rejected_at_the_first_wrong_octet(octets: bytes) -> None:
    at = INVALID_AT[octets]
    with pytest.raises(ProxyError):
        read(octets)
    assert readInPieces(octets[: at - 1], list(range(at - 1))) is None
    with pytest.raises(ProxyError) as caught:
        readInPieces(octets[:at], list(range(at)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


anyHeader = st.one_of(
    st.binary(max_size=120),
    st.builds(lambda tail: b"PROXY " + tail, st.binary(max_size=120)),
    st.builds(
        lambda *fields: b"PROXY " + b" ".join(fields) + b"\r\nEHLO a\r\n",
        st.sampled_from([b"TCP4", b"TCP6", b"UNKNOWN", b"TCP"]),
        *[st.sampled_from([b"1.2.3.4", b"::1", b"::ffff:1.2.3.4", b"x", b"1.2.3.04", b""])] * 2,
        *[st.one_of(st.integers(-1, 70000).map(lambda n: b"%d" % n), st.sampled_from([b"", b"1 1", b"0x1"]))] * 2,
    ),
    st.builds(lambda tail: SIGNATURE + tail, st.binary(max_size=300)),
    st.builds(
        lambda command, kind, payload, tail: block(kind, payload, command) + tail,
        st.sampled_from([LOCAL, PROXY, 0x22]),
        st.sampled_from([0, TCP4, UDP4, TCP6, UDP6, UNIX, UNIX_DATAGRAM, 0x13, 0x41]),
        st.one_of(st.binary(max_size=300), st.binary(min_size=216, max_size=216)),
        st.binary(max_size=20),
    ),
)


@given(anyHeader, st.lists(st.integers(0, 400), max_size=8))
@example(block() + block(), [1])
def test_any_octets_cut_anywhere_give_the_same_and_nothing_else_is_raised(octets: bytes, cuts: list[int]) -> None:
    whole = outcome(octets, [])
    assert outcome(octets, cuts) == whole
    assert outcome(octets, list(range(len(octets)))) == whole
    if isinstance(whole, ProxyResult):
        assert octets.endswith(whole.rest)
        for address, port in (whole[:2], whole[2:4]):
            assert 0 <= port <= 65535
            assert address is None or address.isprintable()
            if port:
                assert address is not None
                assert str(ipaddress.ip_address(address)) == address


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535))
def test_both_versions_say_the_same(source: object, destination: object, sourcePort: int, destinationPort: int) -> None:
    ends = [ipaddress.ip_address(str(end)) for end in (source, destination)]
    if ends[0].version != ends[1].version:
        return
    family, kind = ("TCP4", TCP4) if ends[0].version == 4 else ("TCP6", TCP6)
    line = f"PROXY {family} {ends[0]} {ends[1]} {sourcePort} {destinationPort}\r\n".encode()
    payload = ends[0].packed + ends[1].packed + struct.pack("!HH", sourcePort, destinationPort)
    assert read(line) == read(block(kind, payload))


# --- compared with Twisted's parsers ---


def readByTwisted(octets: bytes) -> tuple[str | None, int, str | None, int, bytes] | None:
    """What Twisted's parsers read, in the form of a result; None if they reject it or wait for more."""
    try:
        info, rest = (V2Parser() if octets.startswith(SIGNATURE) else V1Parser()).feed(octets)
    except (InvalidProxyHeader, ValueError):  # ValueError: a port that is not a number
        return None
    if info is None:
        return None
    if octets.startswith(SIGNATURE) and octets[13] & 0x0F == UDP4 & 0x0F:
        return None, 0, None, 0, rest  # Twisted reads the addresses of datagrams; SMTP has no use for them.
    return *inOurForm(info.source), *inOurForm(info.destination), rest


def inOurForm(end: object) -> tuple[str | None, int]:
    if isinstance(end, UNIXAddress):
        name = (end.name or b"").partition(b"\0")[0].decode(errors="replace")
        isShown = name.isprintable() and "\ufffd" not in name
        return (name if name.startswith(("/", ".")) or not name else f"./{name}") if isShown else "", 0
    if not isinstance(end, (IPv4Address, IPv6Address)):
        return None, 0
    address = ipaddress.ip_address(end.host)
    return str(getattr(address, "ipv4_mapped", None) or address), end.port


@given(anyHeader)
def test_a_header_that_twisted_accepts_too_says_the_same(octets: bytes) -> None:
    ours = outcome(octets, [])
    if isinstance(ours, ProxyResult):
        assert readByTwisted(octets) in (ours[:5], None)


# Twisted rejects the one without a space after UNKNOWN.
@pytest.mark.parametrize("octets", [octets for octets in VALID if octets != b"PROXY UNKNOWN\r\n"])
def test_every_valid_header_says_the_same_to_twisted(octets: bytes) -> None:
    assert readByTwisted(octets + b"rest") == (*VALID[octets], b"rest")


@given(st.ip_addresses(v=6), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535), st.booleans())
def test_addresses_are_read_as_twisted_reads_them(
    six: ipaddress.IPv6Address, four: ipaddress.IPv4Address, sourcePort: int, destinationPort: int, isIPv4: bool
) -> None:
    family, kind = (b"TCP4", TCP4) if isIPv4 else (b"TCP6", TCP6)
    other = ipaddress.IPv4Address("192.0.2.1") if isIPv4 else ipaddress.IPv6Address(f"::ffff:{four}")
    source, destination = (four if isIPv4 else six), other
    texts = [str(end).encode() for end in (source, destination)]
    payload = source.packed + destination.packed + struct.pack("!HH", sourcePort, destinationPort)
    for octets in (
        b"PROXY %b %b %b %d %d\r\n" % (family, *texts, sourcePort, destinationPort),
        block(kind, payload),
    ):
        result = read(octets)
        assert result is not None
        assert result[:5] == readByTwisted(octets)
