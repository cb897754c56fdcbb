"""Which client may come in, as one factory decides."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from smtphooks import replies
from smtphooks.admission.admission import Admission
from smtphooks.admission.clients import Clients
from smtphooks.options import makeOptions
from smtphooks.syntax.networks import TrustedPeers


class Resolver:
    """A resolver that never answers; it writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def lookupPointer(self, name: str, *_: Any) -> Deferred[Any]:
        self.asked.append(name)
        return Deferred()

    lookupAddress = lookupIPV6Address = lookupPointer


def admission(**given: Any) -> Admission:
    clock: Any = Clock()
    return Admission(makeOptions({"name": "mx.test", **given}, []), lambda: clock, TrustedPeers(False))


def come(one: Admission, network: str) -> None:
    """A connection is made, and its client is known."""
    one.connectionBegins()
    one.clientComes(network)


def test_without_limits_any_number_of_clients_comes_in() -> None:
    one = admission()
    for _ in range(1000):
        come(one, "192.0.2.1")
    assert one.refusalOf("192.0.2.1") is None


def test_a_client_too_many_is_refused_until_one_goes() -> None:
    one = admission(maxClients=1)
    come(one, "192.0.2.1")
    one.connectionBegins()
    assert one.refusalOf("192.0.2.2") is replies.TOO_MANY_CLIENTS
    one.connectionEnds()
    one.connectionEnds()
    one.connectionBegins()
    assert one.refusalOf("192.0.2.2") is None


def test_a_client_too_many_of_one_network_is_refused_and_no_other() -> None:
    one = admission(maxClientsPerAddress=1)
    come(one, "192.0.2.1")
    one.connectionBegins()
    assert one.refusalOf("192.0.2.1") is replies.TOO_MANY_CLIENTS_HERE
    assert one.refusalOf("192.0.2.2") is None
    one.clientGoes("192.0.2.1")
    assert one.refusalOf("192.0.2.1") is None


def test_further_counts_have_limits_of_their_own() -> None:
    shared = Clients(1)
    one, other = admission(), admission()
    one.countIn(shared)
    other.countIn(shared)
    come(one, "192.0.2.1")
    other.connectionBegins()
    assert other.refusalOf("192.0.2.2") is replies.TOO_MANY_CLIENTS
    assert (one.clients.connections, other.clients.connections, shared.connections) == (1, 1, 2)


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "fe80::1", "/run/mail.sock", ""])
def test_without_a_resolver_of_ones_own_private_addresses_are_not_looked_up(address: str) -> None:
    assert admission().hostnameOf(address) == (f"[{address}]" if address else "")


def test_a_resolver_of_ones_own_is_asked_for_private_addresses_too() -> None:
    resolver = Resolver()
    assert isinstance(admission(resolver=resolver).hostnameOf("10.0.0.1"), Deferred)
    assert resolver.asked == ["1.0.0.10.in-addr.arpa"]


def test_nothing_is_looked_up_if_that_is_disabled() -> None:
    resolver = Resolver()
    one = admission(resolver=resolver, disableReverseLookup=True)
    assert (one.hostnameOf("192.0.2.1"), resolver.asked) == ("[192.0.2.1]", [])
