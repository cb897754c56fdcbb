"""Network addresses: what is read, what is rejected, and the one form for each use."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.netaddress import (
    IPAddress,
    addressLiteral,
    asPath,
    bracketed,
    canonical,
    isPublic,
    maybeIP,
    maybeTaggedIP,
    networkOf,
    unmapped,
    unmappedNetwork,
    unmappedText,
    withPort,
)

anyIP = st.ip_addresses() | st.ip_addresses(v=4).map(lambda ip: ipaddress.IPv6Address(f"::ffff:{ip}"))


@pytest.mark.parametrize(
    ("address", "bracket", "literal", "network", "port"),
    [
        ("192.0.2.7", "[192.0.2.7]", "[192.0.2.7]", "192.0.2.7", "192.0.2.7:25"),
        (
            "2001:db8:1:2:3::4",
            "[2001:db8:1:2:3::4]",
            "[IPv6:2001:db8:1:2:3::4]",
            "2001:db8:1:2::/64",
            "[2001:db8:1:2:3::4]:25",
        ),
        ("fe80::1%eth0", "[fe80::1%eth0]", "[IPv6:fe80::1%eth0]", "fe80::/64", "[fe80::1%eth0]:25"),
    ],
)
def test_an_address_has_one_form_for_each_use(
    address: str, bracket: str, literal: str, network: str, port: str
) -> None:
    assert (bracketed(address), addressLiteral(address), networkOf(address)) == (bracket, literal, network)
    assert withPort(address, 25) == port


def test_a_client_without_an_address_has_no_brackets() -> None:
    assert bracketed("") == ""


@pytest.mark.parametrize(
    "text", ["", "localhost", "192.0.2", "192.0.2.256", "01.2.3.4", "1.2.3.4/32", "::1::2", "/::1"]
)
def test_other_text_is_rejected(text: str) -> None:
    assert maybeIP(text) is None
    assert maybeTaggedIP(text, tagOptional=True) is None
    assert not isPublic(text)


def test_an_IPv4_mapped_address_becomes_IPv4() -> None:
    assert unmapped(ipaddress.ip_address("::ffff:192.0.2.7")) == ipaddress.ip_address("192.0.2.7")
    for address in ("192.0.2.7", "2001:db8::1"):
        assert unmapped(ipaddress.ip_address(address)) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7"),
        ("::192.0.2.7", "::192.0.2.7"),
        ("2001:DB8::1", "2001:DB8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("/run/::ffff:192.0.2.7", "/run/::ffff:192.0.2.7"),
        ("", ""),
    ],
)
def test_text_changes_only_if_it_is_an_IPv4_mapped_address(text: str, without: str) -> None:
    assert unmappedText(text) == without


@pytest.mark.parametrize(
    ("network", "without"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.1/128", "192.0.2.1/32"),
        ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ("::ffff:0.0.0.0/95", "::fffe:0:0/95"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_a_network_within_the_mapped_addresses_is_one_of_IPv4(network: str, without: str) -> None:
    assert unmappedNetwork(ipaddress.ip_network(network, strict=False)) == ipaddress.ip_network(without)


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("IPv6:2001:DB8::1", "2001:db8::1", "2001:db8::1"),
        ("ipV6:::ffff:192.0.2.7", "::ffff:c000:207", "::ffff:c000:207"),
        ("2001:db8::1", None, "2001:db8::1"),
        ("IPv6:192.0.2.7", None, None),
        ("IPv6:", None, None),
        ("IPv4:192.0.2.7", None, None),
        ("IPv6:fe80::1%eth0", None, None),
        ("fe80::1%eth0", None, None),
    ],
)
def test_IPv6_has_a_tag_which_a_proxy_may_omit(text: str, strict: str | None, lenient: str | None) -> None:
    for form, ip in ((strict, maybeTaggedIP(text)), (lenient, maybeTaggedIP(text, tagOptional=True))):
        assert ip == (None if form is None else ipaddress.ip_address(form))


@given(anyIP)
def test_an_address_literal_is_read_as_the_address_it_was_written_from(ip: IPAddress) -> None:
    assert maybeTaggedIP(addressLiteral(canonical(ip)).strip("[]")) == ip


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.4.4", True),
        ("2001:4860:4860::8844", True),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("127.0.0.1", False),
        ("fd00::1", False),
        ("::1", False),
        ("/run/socket", False),
        ("", False),
    ],
)
def test_private_addresses_and_paths_are_not_public(address: str, public: bool) -> None:
    assert isPublic(address) is public


@given(st.text() | st.ip_addresses().map(str))
def test_a_path_is_never_an_address(name: str) -> None:
    assert maybeIP(asPath(name)) is None
    assert asPath(name).startswith(("/", ".")) or not name
    assert asPath(name).endswith(name)
