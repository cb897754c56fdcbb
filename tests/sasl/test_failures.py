"""Failures by network: what a network is, when it is barred and for how long, and how much memory that takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from smtphooks.netaddress import networkOf
from smtphooks.sasl import failures as counts
from smtphooks.sasl.failures import NOT_COUNTED, AuthFailures

ADDRESS = "192.0.2.1"


def fail(failures: AuthFailures, address: str, times: int) -> None:
    for _ in range(times):
        failures.add(address)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::", "2001:db8::/64"),
        ("2001:db8:0:1::", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("/run/x:y", "/run/x:y"),
    ],
)
def test_network_is_an_ipv4_address_or_an_ipv6_network_of_64_bits(address: str, network: str) -> None:
    assert networkOf(address) == network


@given(st.text())
def test_any_address_has_a_network_and_may_fail(address: str) -> None:
    assert isinstance(networkOf(address), str)
    failures = AuthFailures(1, lambda: 0)
    failures.add(address)
    assert failures.isBarred(address) is bool(failures._failures)


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_network_is_barred_once_it_has_failed_so_often(limit: int) -> None:
    failures = AuthFailures(limit, lambda: 0)
    fail(failures, ADDRESS, limit - 1)
    assert not failures.isBarred(ADDRESS)
    failures.add(ADDRESS)
    assert failures.isBarred(ADDRESS)
    assert not failures.isBarred("192.0.2.2")


def test_of_ipv6_all_of_a_network_are_barred() -> None:
    failures = AuthFailures(2, lambda: 0)
    failures.add("2001:db8::1")
    failures.add("2001:db8::2")
    assert failures.isBarred("2001:db8::3")
    assert not failures.isBarred("2001:db8:0:1::1")


def test_window_slides() -> None:
    clock = Clock()
    failures = AuthFailures(2, clock.seconds)
    failures.add(ADDRESS)
    clock.advance(400)
    failures.add(ADDRESS)
    clock.advance(199)
    assert failures.isBarred(ADDRESS)
    clock.advance(1)  # ten minutes since the first
    assert not failures.isBarred(ADDRESS)
    failures.add(ADDRESS)
    assert failures.isBarred(ADDRESS)
    clock.advance(400)  # since the second
    assert not failures.isBarred(ADDRESS)
    failures.add(ADDRESS)
    assert failures.isBarred(ADDRESS)


@pytest.mark.parametrize("address", ["", "/run/client.sock", "/run/a:b", "localhost", "192.0.2.1:25"])
def test_only_IP_addresses_are_barred(address: str) -> None:
    failures = AuthFailures(1, lambda: 0)
    fail(failures, address, 5)
    assert not failures.isBarred(address)


@pytest.mark.parametrize("failures", [AuthFailures(0, lambda: 0), NOT_COUNTED])
def test_without_a_limit_nothing_is_kept(failures: AuthFailures) -> None:
    fail(failures, ADDRESS, 100)
    assert not failures.isBarred(ADDRESS)
    assert failures._failures == {}


@pytest.mark.parametrize("limit", [1, 5, 10**30])
def test_network_has_no_more_times_than_the_limit(limit: int) -> None:
    clock = Clock()
    failures = AuthFailures(limit, clock.seconds)
    for _ in range(100):
        clock.advance(1)
        failures.add(ADDRESS)
    assert len(failures._failures[ADDRESS]) == min(limit, 100)
    # The oldest have been dropped, so the network is barred from the last on.
    clock.advance(599)
    assert failures.isBarred(ADDRESS) is (limit == 1)


def test_network_with_the_oldest_last_failure_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counts, "_MAX_NETWORKS", 3)
    failures = AuthFailures(2, lambda: 0)
    addresses = [f"192.0.2.{number}" for number in range(4)]
    for address in addresses[:3]:
        fail(failures, address, 2)
    failures.add(addresses[0])  # now the second is the one that has been quiet for longest
    fail(failures, addresses[3], 2)
    assert [failures.isBarred(address) for address in addresses] == [True, False, True, True]


def test_ten_thousand_networks_are_remembered() -> None:
    failures = AuthFailures(1, lambda: 0)
    for number in range(10050):
        failures.add(f"10.0.{number // 256}.{number % 256}")
    assert len(failures._failures) == 10000
    assert not failures.isBarred("10.0.0.49")
    assert failures.isBarred("10.0.0.50")


def test_what_no_longer_counts_is_not_kept() -> None:
    clock = Clock()
    failures = AuthFailures(20, clock.seconds)
    for number in range(5):
        failures.add(f"192.0.2.{number}")
    fail(failures, ADDRESS, 3)
    clock.advance(600)
    failures.add(ADDRESS)
    assert {network: list(times) for network, times in failures._failures.items()} == {ADDRESS: [600]}
