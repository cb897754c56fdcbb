"""Trusted peers: a list of addresses and networks, and whether a peer is in it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.syntax.networks import TrustedPeers


def test_false_and_the_empty_list_trust_no_peer_and_true_every_peer() -> None:
    for address in ("192.0.2.1", "::1", "", "/run/socket"):
        assert not TrustedPeers(False).trusts(address)
        assert not TrustedPeers([]).trusts(address)
        assert TrustedPeers(True).trusts(address)


@pytest.mark.parametrize(
    "entry, address, trusted",
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "", False),
        ("192.0.2.1", "/run/192.0.2.1", False),
        ("192.0.2.1", "192.0.2.1 ", False),
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("10.0.0.0/255.0.0.0", "10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "::a01:203", False),
        ("0.0.0.0/0", "198.51.100.1", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("0.0.0.0/0", "/run/socket", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "198.51.100.1", False),
        ("2001:DB8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("::1", "::1", True),
        ("::1", "0.0.0.1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.2", False),
    ],
)
def test_peer_is_trusted_if_it_is_listed(entry: str, address: str, trusted: bool) -> None:
    assert TrustedPeers([entry]).trusts(address) is trusted
    assert TrustedPeers(("203.0.113.0/24", "2001:db8:1::/48", entry)).trusts(address) is trusted


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_trust_is_what_the_prefix_says(base: object, length: int, peer: object) -> None:
    host = ipaddress.ip_address(str(base))
    network = ipaddress.ip_network(f"{host}/{length % (host.max_prefixlen + 1)}", strict=False)
    expected = ipaddress.ip_address(str(peer)) in network
    mapped = getattr(network.network_address, "ipv4_mapped", None) or getattr(peer, "ipv4_mapped", None)
    if mapped is None:
        assert TrustedPeers([str(network)]).trusts(str(peer)) is expected


@pytest.mark.parametrize("value", [None, 1, 0, "10.0.0.0/8", b"10.0.0.0/8", 2.5])
def test_values_other_than_lists_are_rejected(value: object) -> None:
    with pytest.raises(ValueError, match="is not True, False or a list of addresses and networks") as caught:
        TrustedPeers(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "localhost",
        "10.0.0.0/33",
        "10.0.0.256",
        "10.0.0.0/8 ",
        "::1%lo",
        "fe80::%lo/10",
        "/8",
        10,
        True,
        None,
        b"::1",
    ],
)
def test_an_invalid_entry_is_named_in_the_error(entry: object) -> None:
    with pytest.raises(ValueError, match="neither an address such as") as caught:
        TrustedPeers(["192.0.2.1", entry])
    assert repr(entry) in str(caught.value)


def test_network_with_host_bits_is_rejected_with_the_fix() -> None:
    with pytest.raises(ValueError) as caught:
        TrustedPeers(["10.1.2.3/8"])
    assert str(caught.value) == (
        "'10.1.2.3/8' is no network, as 10.1.2.3 is a host within it: write 10.0.0.0/8 for all of it, "
        "or 10.1.2.3 for this one host"
    )
    with pytest.raises(ValueError, match=r"write 2001:db8::/32 for all of it, or 2001:db8::1 for"):
        TrustedPeers(["2001:db8::1/32"])
