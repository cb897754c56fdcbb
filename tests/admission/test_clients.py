"""Counts of clients: two limits, factories that share a count, and counts that return to zero."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred

from smtphooks import SMTPServerFactory
from smtphooks.admission.clients import Clients
from tests.support import Client, Pending, Transport, makeFactory

pytestmark = pytest.mark.usefixtures("logged")

FULL = "421 4.7.0 Too many connections, try again later"
FULL_HERE = "421 4.7.0 Too many connections from your address, try again later"


def arrive(factory: SMTPServerFactory, address: str = "192.0.2.7") -> Client:
    return Client(factory, Transport(peerAddress=IPv4Address("TCP", address, 50000)))


def isServed(client: Client) -> bool:
    return client.replies()[0].startswith("220 ")


def together(clients: Clients, *given: dict[str, Any]) -> list[SMTPServerFactory]:
    factories = [makeFactory(**options) for options in given]
    for factory in factories:
        factory.server.admission.countIn(clients)
    return factories


def test_without_limits_there_may_be_any_number() -> None:
    clients = Clients()
    for _ in range(1000):
        clients.addConnection()
        assert not clients.areTooManyOf("192.0.2.7")
        clients.addClient("192.0.2.7")
    assert not clients.areTooMany


@given(st.lists(st.sampled_from(["192.0.2.7", "2001:db8::/64", ""])))
def test_counts_return_to_zero(networks: list[str]) -> None:
    clients = Clients(1, 1)
    for network in networks:
        clients.addConnection()
        clients.addClient(network)
    for network in reversed(networks):
        clients.removeClient(network)
        clients.removeConnection()
    assert (clients.connections, clients.networks) == (0, {})


def test_a_shared_limit_holds_over_all_factories() -> None:
    clients = Clients(most=2)
    one, other = together(clients, {}, {})
    first, second = arrive(one), arrive(other)
    assert isServed(first) and isServed(second)
    for factory in (one, other):
        late = arrive(factory)
        assert late.replies() == [FULL]
        late.finish()
    first.lose()
    assert isServed(arrive(other))


def test_a_shared_limit_per_address_holds_over_all_factories() -> None:
    clients = Clients(mostPerNetwork=1)
    one, other = together(clients, {}, {})
    assert isServed(arrive(one))
    assert arrive(other).replies() == [FULL_HERE]
    assert isServed(arrive(other, "192.0.2.8"))


@pytest.mark.parametrize("option", ["maxClients", "maxClientsPerAddress"])
def test_a_factorys_own_limit_holds_in_addition_and_for_it_alone(option: str) -> None:
    one, other = together(Clients(3, 3), {option: 1}, {})
    assert isServed(arrive(one))
    late = arrive(one)
    assert late.replies()[0].startswith("421 ")
    late.finish()
    assert isServed(arrive(other)) and isServed(arrive(other))
    assert arrive(other).replies()[0].startswith("421 ")


def test_a_connection_is_counted_until_its_last_hook_has_ended() -> None:
    onClose = Pending()
    clients = Clients(most=1)
    one, other = together(clients, {"onClose": onClose}, {})
    arrive(one).lose()
    late = arrive(other)
    assert late.replies() == [FULL]
    late.finish()
    onClose.decide()
    assert isServed(arrive(other))


class Resolver:
    """A resolver that never answers."""

    def lookupPointer(self, name: str, timeout: object = None) -> Deferred[Any]:
        return Deferred()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"useProxy": True},
        {"disableReverseLookup": False, "resolver": Resolver()},
        {"maxClientsPerAddress": 1},
        {"maxClients": 1},
    ],
)
def test_no_count_is_left_behind_wherever_a_connection_ends(given: dict[str, Any]) -> None:
    """Before a PROXY header has arrived, during a look-up, after a rejection, or later."""
    clients = Clients()
    (factory,) = together(clients, given)
    for _ in range(2):
        held = [arrive(factory), arrive(factory)]
        assert clients.connections == factory.clients.connections == 2
        for client in held:
            client.lose()
        assert (clients.connections, clients.networks) == (0, {})
        assert (factory.clients.connections, factory.clients.networks) == (0, {})
