"""The pool: who gets which connection when, and that nothing is left of whatever was given up."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from smtphooks.client import Route, SMTPClient, Unreachable
from tests.client.network import MESSAGE, ROUTE, Network, Outcome, Server, clientOf, nothingIsLeft

pytestmark = pytest.mark.usefixtures("logged")

OTHER = attrs.evolve(ROUTE, name="other.test")


def begin(network: Network, client: SMTPClient, route: Route = ROUTE, sender: str = "a@b.test") -> Outcome:
    return network.run(client.begin(route, sender))


def end(network: Network, outcome: Outcome) -> None:
    outcome.value.abandon()
    network.settle()


# --- connections that are used again ---


def test_a_connection_is_used_again_by_the_same_route_only() -> None:
    network = Network(Server(), Server())
    client = clientOf(network)
    end(network, begin(network, client))
    end(network, begin(network, client))
    assert len(network.lines) == 1
    end(network, begin(network, client, OTHER))
    assert len(network.lines) == 2
    assert network.lines[1].server.heard[0] == "EHLO other.test"
    nothingIsLeft(network, client)


def test_transactions_at_the_same_time_have_connections_of_their_own() -> None:
    network = Network(Server(), Server())
    client = clientOf(network)
    begun = [begin(network, client) for _ in range(2)]
    assert len(network.lines) == 2
    for each in begun:
        end(network, each)
    assert len(network.open()) == 2
    begin(network, client)
    assert network.lines[1].server.heard[-1].startswith("MAIL"), "the one that was used last"
    client._pool._idle.clear()


def test_an_idle_connection_is_closed_in_time() -> None:
    network = Network(Server())
    client = clientOf(network, idleTimeout=30)
    end(network, begin(network, client))
    network.advance(29)
    network.settle()
    assert network.open()
    network.advance(1.1)
    network.settle()
    assert network.servers[0].heard[-1] == "QUIT"
    assert not network.open()
    nothingIsLeft(network, client)


def test_a_connection_is_not_kept_where_none_is_to_be() -> None:
    network = Network(Server())
    client = clientOf(network, idleTimeout=0)
    end(network, begin(network, client))
    assert not network.open()
    nothingIsLeft(network, client)


@pytest.mark.parametrize(
    "octets", [b"421 4.4.2 timeout\r\n", b"250 what\r\n", b"4", b"nonsense\r\n", b"421-4.4.2 half\r\n", None]
)
def test_a_server_that_says_anything_to_an_idle_connection_has_ended_it(octets: bytes | None) -> None:
    network = Network(Server(), Server())
    client = clientOf(network)
    end(network, begin(network, client))
    if octets is None:
        network.lines[0].close()
    else:
        network.lines[0].toClient(octets)
    network.settle()
    second = begin(network, client)
    assert len(network.lines) == 2
    assert network.lines[0].server.heard.count("MAIL FROM:<a@b.test>") == 1, "no second transaction on it"
    end(network, second)
    nothingIsLeft(network, client)


# --- connections that have gone stale ---


@pytest.mark.parametrize("reply", ["421 4.4.2 timeout", b"4"])
@pytest.mark.parametrize("isWhole", [False, True])
def test_a_stale_connection_is_replaced_once(reply: Any, isWhole: bool) -> None:
    """With a reply of 421, or the end of the connection, to MAIL."""
    servers = [Server(MAIL=["250 ok", reply]), Server()]
    network = Network(*servers)
    client = clientOf(network)
    end(network, begin(network, client))
    if isWhole:
        outcome = network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE))
    else:
        outcome = begin(network, client)
    if reply == b"4":
        network.lines[0].close()
        network.settle()
    assert outcome.value
    assert len(network.lines) == 2
    if not isWhole:
        end(network, outcome)
    nothingIsLeft(network, client)


@pytest.mark.parametrize("isWhole", [False, True])
def test_a_server_that_hangs_is_not_waited_for_twice(isWhole: bool) -> None:
    network = Network(Server(MAIL=["250 ok", None]), Server())
    client = clientOf(network)
    end(network, begin(network, client))
    sent = network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE)) if isWhole else begin(network, client)
    network.advance(13.1)
    network.settle()
    assert str(sent.error) == "/server has not answered MAIL within 13 seconds"
    assert len(network.lines) == 1
    nothingIsLeft(network, client)


def test_a_new_connection_is_not_replaced() -> None:
    servers = [Server(MAIL=["250 ok", "421 4.4.2 timeout"]), Server(MAIL="421 4.4.2 timeout"), Server()]
    network = Network(*servers)
    client = clientOf(network)
    end(network, begin(network, client))
    outcome = begin(network, client)
    assert str(outcome.error) == "/server refuses MAIL: 421 4.4.2 timeout"
    assert len(network.lines) == 2
    nothingIsLeft(network, client)


def test_a_server_that_takes_only_so_many_messages_of_a_connection_is_given_another_one() -> None:
    network = Network(Server(MAIL=["250 ok", "250 ok", "421 4.7.0 too many messages"]), Server())
    client = clientOf(network)
    outcomes = [network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE)) for _ in range(5)]
    assert all(outcome.value.isWhole for outcome in outcomes)
    assert len(network.lines) == 2
    nothingIsLeft(network, client)


def test_a_server_that_ends_the_connection_at_a_recipient_is_asked_again_by_a_whole_message() -> None:
    network = Network(Server(RCPT=["250 ok", "421 bye"]), Server())
    client = clientOf(network)
    network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE))
    outcome = network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE))
    assert outcome.value.isWhole
    assert len(network.lines) == 2
    nothingIsLeft(network, client)


# --- a limit for each server ---


def test_no_server_has_more_connections_than_it_may_have() -> None:
    network = Network(Server(), Server(), Server())
    client = clientOf(network, connections=2)
    begun = [begin(network, client, sender=f"{i}@b.test") for i in range(5)]
    assert [each.isPending for each in begun] == [False, False, True, True, True]
    for i in range(5):
        end(network, begun[i])
        assert [each.isPending for each in begun] == [False] * min(i + 3, 5) + [True] * max(2 - i, 0)
    assert len(network.lines) == 2
    nothingIsLeft(network, client)


def test_0_is_no_limit() -> None:
    network = Network(*(Server() for _ in range(50)))
    client = clientOf(network, connections=0)
    begun = [begin(network, client) for _ in range(50)]
    assert len(network.open()) == 50
    for each in begun:
        end(network, each)
    nothingIsLeft(network, client)


def test_first_come_first_served_and_nobody_overtakes() -> None:
    network = Network(Server())
    client = clientOf(network, connections=1)
    first = begin(network, client, sender="0@b.test")
    waiting = [begin(network, client, sender=f"{i}@b.test") for i in range(1, 4)]
    order: list[int] = []
    for i, outcome in enumerate(waiting, 1):
        outcome.deferred.addCallback(lambda transaction, i=i: (order.append(i), transaction)[1])
    # Whoever comes while the connection is being given back finds it taken.
    first.value.abandon()
    late = network.start(client.begin(ROUTE, "9@b.test"))
    network.settle()
    for outcome in waiting:
        end(network, outcome)
    assert order == [1, 2, 3]
    senders = [line for line in network.lines[0].server.heard if line.startswith("MAIL")]
    assert senders == [f"MAIL FROM:<{i}@b.test>" for i in (0, 1, 2, 3, 9)]
    end(network, late)
    nothingIsLeft(network, client)


def test_a_wait_for_a_turn_has_one_time_limit_whatever_happens_meanwhile() -> None:
    network = Network(Server())
    client = clientOf(network, connections=1)
    busy = begin(network, client)
    network.advance(10)
    early = begin(network, client)
    network.advance(10)
    late = begin(network, client)
    network.advance(6.9)
    network.settle()
    assert early.isPending
    network.advance(0.2)
    network.settle()
    assert str(early.error) == "/server: all 1 connections have been busy for 17 seconds"
    assert isinstance(early.error, Unreachable)
    assert late.isPending
    end(network, busy)
    end(network, late)
    nothingIsLeft(network, client)


def test_one_who_gives_up_waiting_leaves_the_others_their_turns() -> None:
    network = Network(Server())
    client = clientOf(network, connections=1)
    busy = begin(network, client)
    waiting = [begin(network, client) for _ in range(3)]
    waiting[0].deferred.cancel()
    waiting[1].deferred.cancel()
    network.settle()
    assert isinstance(waiting[0].error, CancelledError)
    end(network, busy)
    end(network, waiting[2])
    nothingIsLeft(network, client)


def test_an_idle_connection_of_another_route_makes_room_when_it_is_gone() -> None:
    network = Network(Server(), Server())
    client = clientOf(network, connections=1)
    end(network, begin(network, client))
    network.lines[0].server.replies["QUIT"] = None
    outcome = begin(network, client, OTHER)
    assert outcome.isPending, "the server still has a connection"
    assert network.lines[0].server.heard[-1] == "QUIT"
    network.advance(5.1)
    network.settle()
    end(network, outcome)
    assert [line.isOpen for line in network.lines] == [False, True]
    nothingIsLeft(network, client)


def test_one_who_waits_costs_one_idle_connection() -> None:
    network = Network(Server(QUIT=None), Server(QUIT=None), Server())
    client = clientOf(network, connections=2)
    for begun in [begin(network, client) for _ in range(2)]:
        end(network, begun)
    waiting = begin(network, client, OTHER)
    client._pool._serve(OTHER.peer)
    network.settle()
    assert [line.server.heard.count("QUIT") for line in network.lines] == [1, 0]
    network.advance(5.1)
    network.settle()
    end(network, waiting)
    nothingIsLeft(network, client)


def test_a_failed_attempt_is_the_turn_of_the_next() -> None:
    network = Network(Server())
    network.refuses = 1
    client = clientOf(network, connections=1)
    first, second = (network.start(client.begin(ROUTE, "a@b.test")) for _ in range(2))
    network.settle()
    assert isinstance(first.error, Unreachable)
    end(network, second)
    nothingIsLeft(network, client)


def test_a_lost_connection_is_the_turn_of_the_next() -> None:
    network = Network(Server(), Server())
    client = clientOf(network, connections=1)
    begin(network, client)
    waiting = begin(network, client)
    network.lines[0].close()
    network.settle()
    end(network, waiting)
    nothingIsLeft(network, client)


def test_a_stale_connection_at_the_limit_is_replaced_before_those_who_wait() -> None:
    network = Network(Server(MAIL=["250 ok", "421 bye"]), Server())
    client = clientOf(network, connections=1)
    end(network, begin(network, client))
    first = network.run(client.send(ROUTE, "first@b.test", ["c@d.test"], MESSAGE))
    assert first.value.isWhole
    nothingIsLeft(network, client)


def test_servers_that_cannot_be_reached_are_not_remembered() -> None:
    network = Network(Server())
    network.refuses = 100
    client = clientOf(network)
    for i in range(100):
        assert isinstance(begin(network, client, attrs.evolve(ROUTE, path=f"/{i}")).error, Unreachable)
    assert not client._pool._open
    assert not client._pool._turns
    nothingIsLeft(network, client)


# --- the end ---


def test_a_client_that_is_closed_says_goodbye_and_takes_no_more() -> None:
    network = Network(Server())
    client = clientOf(network)
    end(network, begin(network, client))
    closed = network.run(client.close())
    assert closed.value is None
    assert network.servers[0].heard[-1] == "QUIT"
    assert str(begin(network, client).error) == "the client of /server is closed"
    nothingIsLeft(network, client)


def test_a_transaction_may_end_before_its_client_is_closed() -> None:
    network = Network(Server())
    client = clientOf(network)
    begun = begin(network, client)
    closed = network.run(client.close())
    again = network.run(client.close())
    assert closed.isPending
    outcome = network.run(deliver(begun.value))
    assert [reply.code for reply in outcome.value] == [250]
    assert closed.value is None
    assert again.value is None
    assert not network.open()
    nothingIsLeft(network, client)


async def deliver(transaction: Any) -> Any:
    await transaction.rcpt("c@d.test")
    return await transaction.data(MESSAGE)


def test_whoever_waits_when_the_client_is_closed_is_told() -> None:
    network = Network(Server())
    client = clientOf(network, connections=1)
    busy = begin(network, client)
    waiting = begin(network, client)
    closed = network.run(client.close())
    assert str(waiting.error) == "the client of /server is closed"
    end(network, busy)
    assert closed.value is None
    nothingIsLeft(network, client)


@pytest.mark.parametrize("where", ["connecting", "greeting", "EHLO"])
def test_a_connection_that_is_being_made_is_given_up(where: str) -> None:
    network = Network(Server(**({} if where == "connecting" else {where: None})))
    network.hangs = where == "connecting"
    client = clientOf(network)
    begun = begin(network, client)
    assert begun.isPending
    closed = network.run(client.close())
    assert str(begun.error) == "the client of /server is closed"
    assert closed.value is None
    nothingIsLeft(network, client)


def test_a_close_that_is_cancelled_cuts_what_is_left() -> None:
    network = Network(Server(RCPT=None))
    client = clientOf(network)
    begun = begin(network, client)
    outcome = network.run(deliver(begun.value))
    closed = network.run(client.close())
    closed.deferred.cancel()
    network.settle()
    assert isinstance(closed.error, CancelledError)
    assert str(outcome.error) == "the client of /server is closed"
    assert not network.open()
    nothingIsLeft(network, client)


# --- cancelled at each step ---


@pytest.mark.parametrize("isUsed", [False, True])
def test_a_message_that_is_cancelled_at_any_step_leaves_nothing(isUsed: bool) -> None:
    for steps in range(200):
        servers = [Server(), Server()]
        network = Network(*servers)
        client = clientOf(network, connections=1)
        if isUsed:
            assert network.run(client.send(ROUTE, "first@b.test", ["c@d.test"], MESSAGE)).value
        outcome = network.start(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE))
        for _ in range(steps):
            if network._soon:
                network._soon.popleft()()
        outcome.deferred.cancel()
        network.settle()
        isCancelled = isinstance(outcome[0], Failure)
        if isCancelled:
            assert isinstance(outcome.error, CancelledError)
        else:
            assert outcome.value.isWhole
        # The next one has its turn.
        assert network.run(client.send(ROUTE, "next@b.test", ["c@d.test"], MESSAGE)).value.isWhole
        nothingIsLeft(network, client)
        if not isCancelled:
            break
    assert steps > 5


@pytest.mark.parametrize("isUsed", [False, True])
@pytest.mark.parametrize("mustWait", [False, True])
def test_a_task_of_asyncio_that_is_cancelled_at_any_step_leaves_nothing(isUsed: bool, mustWait: bool) -> None:
    """A task hears of a result later than it is there; what it was given meanwhile goes back."""
    for steps in range(60):
        if asyncio.run(cancelledAfter(steps, isUsed, mustWait)):
            break
    assert 3 < steps < 59


async def cancelledAfter(steps: int, isUsed: bool, mustWait: bool) -> bool:
    """Did it come to its end before?"""
    network = Network(*(Server() for _ in range(3)))
    client = clientOf(network, connections=1)
    if isUsed:
        await played(network, asyncio.create_task(client.send(ROUTE, "first@b.test", ["c@d.test"], MESSAGE)))
    busy = await played(network, asyncio.create_task(client.begin(ROUTE, "busy@b.test"))) if mustWait else None
    task = asyncio.create_task(client.send(ROUTE, "a@b.test", ["c@d.test"], MESSAGE))
    for step in range(steps):
        if step == 3 and busy is not None:
            busy.abandon()
        if network._soon:
            network._soon.popleft()()
        else:
            await asyncio.sleep(0)
    isOver = task.done()
    task.cancel()
    if busy is not None:
        busy.abandon()
    with contextlib.suppress(asyncio.CancelledError):
        assert (await played(network, task)).isWhole
    again = asyncio.create_task(client.send(ROUTE, "next@b.test", ["c@d.test"], MESSAGE))
    assert (await played(network, again)).isWhole
    await played(network, asyncio.create_task(client.close()))
    assert not client._pool._open
    assert not network.getDelayedCalls()
    return isOver


async def played(network: Network, task: Any) -> Any:
    """The result of a task, while the network does its part."""
    for _ in range(200):
        await asyncio.sleep(0)
        network.settle()
    assert task.done(), "it hangs"
    return await task
