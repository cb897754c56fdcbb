"""Addresses of clients, each thing that is written of one in one form."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.netaddress import addressLiteral, asPath, bracketed, maybeIP, networkOf, unmapped


@pytest.mark.parametrize(
    ("address", "bracket", "literal", "network"),
    [
        ("192.0.2.7", "[192.0.2.7]", "[192.0.2.7]", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "[2001:db8:1:2:3::4]", "[IPv6:2001:db8:1:2:3::4]", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "[fe80::1%eth0]", "[IPv6:fe80::1%eth0]", "fe80::/64"),
    ],
)
def test_an_address_has_one_form_for_each_use(address: str, bracket: str, literal: str, network: str) -> None:
    assert (bracketed(address), addressLiteral(address), networkOf(address)) == (bracket, literal, network)


def test_a_client_without_an_address_has_no_brackets() -> None:
    assert bracketed("") == ""


def test_an_IPv4_address_that_IPv6_wraps_is_taken_out() -> None:
    assert unmapped(ipaddress.ip_address("::ffff:192.0.2.7")) == ipaddress.ip_address("192.0.2.7")
    for address in ("192.0.2.7", "2001:db8::1"):
        assert unmapped(ipaddress.ip_address(address)) == ipaddress.ip_address(address)


@given(st.text() | st.ip_addresses().map(str))
def test_a_path_is_never_an_address(name: str) -> None:
    assert maybeIP(asPath(name)) is None
    assert asPath(name).startswith(("/", ".")) or not name
    assert asPath(name).endswith(name)
