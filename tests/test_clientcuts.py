"""
A server that is cut after each octet of its replies: the client always ends with a definite result, and never with a
positive reply that was not complete.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost

from smtphooks.client import ClientError, Delivery, Route, SMTPClient
from tests.client.network import ESMTP, MESSAGE, ROUTE, Network, Server, clientOf, nothingIsLeft

pytestmark = pytest.mark.usefixtures("logged")

LMTP = Route(path="/server", name="client.test", tls="none", lmtp=True)
RECIPIENTS = ["c@d.test", "e@d.test"]
REFUSING = {"MAIL": "550 5.7.1 no"}, {"RCPT": "550 5.1.1 no"}, {"DATA": "451 4.3.0 no"}, {"message": "552 5.3.4 no"}

DIALOGUES: dict[str, tuple[Route, dict[str, Any], dict[str, Any]]] = {
    "pipelined": (ROUTE, {}, {}),
    "not pipelined": (ROUTE, {"extensions": ("SIZE", "8BITMIME")}, {}),
    "from before 1993": (ROUTE, {"EHLO": "502 what"}, {}),
    "LMTP, pipelined": (LMTP, {"lmtp": True}, {}),
    "LMTP, not pipelined": (LMTP, {"lmtp": True, "extensions": ("8BITMIME",)}, {}),
    "in chunks": (ROUTE, {}, {"mailArgs": {"BODY": "BINARYMIME"}}),
    "LMTP, in chunks": (LMTP, {"lmtp": True}, {"mailArgs": {"BODY": "BINARYMIME"}}),
    "one recipient refused": (ROUTE, {"RCPT": ["250 ok", "550-5.1.1 no", "250 x"]}, {}),
    **{f"{next(iter(each))} refused": (ROUTE, each, {}) for each in REFUSING},
    **{f"{next(iter(each))} refused, not pipelined": (ROUTE, {**each, "extensions": ()}, {}) for each in REFUSING},
}
DIALOGUES["one recipient refused"][1]["RCPT"] = ["250 ok", "550 5.1.1 no"]


def serverFor(name: str) -> Server:
    given = DIALOGUES[name][1]
    return Server(**{key: [*value] if isinstance(value, list) else value for key, value in given.items()})


def send(name: str, network: Network, client: SMTPClient, number: int = 0) -> Any:
    route, _, given = DIALOGUES[name]
    network_ = network.run(client.send(route, f"sender{number}@b.test", RECIPIENTS, content(), **given))
    for _ in range(20):
        if not network_.isPending:
            break
        network.advance(10)
        network.settle()
    return network_.either


async def content() -> AsyncIterator[bytes]:
    for start in range(0, len(MESSAGE), 10):
        yield MESSAGE[start : start + 10]


def octetsOf(name: str) -> tuple[int, list[int]]:
    """How many octets a server says in all until the message has its replies, and where those end."""
    server = serverFor(name)
    network = Network(server)
    client = clientOf(network)
    send(name, network, client)
    said = server.said
    return said, [end for label, end in server.ends if label == "message"]


def check(name: str, result: Any, complete: int) -> None:
    """
    What the client says is what it has heard.

    @param complete: how many replies to the message have come whole.
    """
    if isinstance(result, ClientError):
        assert str(result)
        return
    assert isinstance(result, Delivery)
    positive = [reply for reply in result.replies if reply.code < 300]
    assert len(positive) <= complete
    assert len(result.replies) in (0, 1, len(RECIPIENTS))


@pytest.mark.parametrize("cause", [ConnectionDone(), ConnectionLost("reset")], ids=["closed", "reset"])
@pytest.mark.parametrize("name", DIALOGUES)
def test_a_new_connection_that_is_cut_anywhere_is_a_definite_result(name: str, cause: Exception) -> None:
    total, ends = octetsOf(name)
    for octets in range(total + 1):
        server = serverFor(name)
        network = Network(server)
        network.budget, network.cause = octets, cause
        client = clientOf(network)
        result = send(name, network, client)
        check(name, result, sum(end <= octets for end in ends))
        if octets < total and not ends:
            assert isinstance(result, (ClientError, Delivery))
        assert len(network.lines) == 1, "a new connection is tried once"
        assert server.contents <= 1
        assert not network.open()
        nothingIsLeft(network, client)


@pytest.mark.parametrize(
    ("name", "isDripped"), [*((name, False) for name in DIALOGUES), ("pipelined", True), ("LMTP, in chunks", True)]
)
def test_a_used_connection_that_is_cut_anywhere_is_tried_again_once_and_never_within_the_message(
    name: str, isDripped: bool
) -> None:
    usual = serverFor(name)
    network = Network(usual)
    client = clientOf(network)
    send(name, network, client)
    first = usual.said
    send(name, network, client, 1)
    if len(network.lines) == 2:
        pytest.fail("the connection was not used again")
    second = usual.said - first
    for octets in range(second + 1):
        servers = [serverFor(name), serverFor(name)]
        network = Network(*servers)
        network.drips = isDripped
        network.budget = first + octets
        client = clientOf(network)
        send(name, network, client)
        network.budget = None
        begun = servers[0].contents
        result = send(name, network, client, 1)
        taken = [server for server in servers if any("sender1@" in line for line in server.heard)]
        started = servers[0].contents - begun + servers[1].contents
        assert started <= 1, "the message was begun twice"
        if len(network.lines) == 2 and servers[0].contents > begun:
            pytest.fail("tried again after the message had begun")
        assert len(network.lines) <= 2
        assert taken or isinstance(result, ClientError)
        check(name, result, sum(len(server.messages) for server in servers) * len(RECIPIENTS))
        nothingIsLeft(network, client)


@pytest.mark.parametrize("name", DIALOGUES)
def test_octets_that_arrive_alone_give_the_same_result(name: str) -> None:
    results = []
    for drips in (False, True):
        network = Network(serverFor(name))
        network.drips = drips
        client = clientOf(network)
        results.append(str(send(name, network, client)))
        nothingIsLeft(network, client)
    assert results[0] == results[1]


def test_a_recipient_whose_reply_was_cut_has_a_temporary_one_and_the_others_have_theirs() -> None:
    _, ends = octetsOf("LMTP, pipelined")
    assert len(ends) == 2
    for octets in range(ends[0], ends[1]):
        network = Network(serverFor("LMTP, pipelined"))
        network.budget = octets
        client = clientOf(network)
        result = send("LMTP, pipelined", network, client)
        assert [reply.code for reply in result.replies] == [250, 451]
        assert not result.isWhole
        nothingIsLeft(network, client)


def test_a_server_that_offers_everything_is_talked_to() -> None:
    assert "PIPELINING" in ESMTP
