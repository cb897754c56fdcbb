"""The connection as events of the transport, of hooks and of the reactor reach it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Logged
from tests.support import ENVELOPE, HELLO, MAIL, Client, Pending, Transport, connect, makeFactory


class Turns:
    """A reactor that tells when its turn ends; the turn ends when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def atEndOfTurn(self, call: Callable[[], object]) -> None:
        self.calls.append(call)

    def end(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Turning(Transport):
    """A transport of such a reactor."""

    def __init__(self, reactor: Turns) -> None:
        super().__init__()
        self.reactor = reactor


@pytest.fixture
def turns() -> Turns:
    return Turns()


def connected(turns: Turns, **given: Any) -> Client:
    """A client that has had its greeting."""
    client = Client(makeFactory(**given), Turning(turns))
    turns.end()
    assert client.codes() == [220]
    return client


def test_replies_are_written_when_the_turn_of_the_reactor_ends(turns: Turns) -> None:
    client = connected(turns)
    assert client.say(HELLO, MAIL) == []
    turns.end()
    assert client.codes() == [250, 250]
    turns.end()
    assert client.replies() == []


def test_the_reply_that_a_message_waits_for_is_written_at_the_end_of_the_turn_too(turns: Turns) -> None:
    client = connected(turns, onData=Pending())
    client.say(*ENVELOPE, "DATA")
    turns.end()
    assert client.codes()[-1] == 354


def test_without_turns_the_reply_that_a_message_waits_for_is_written_before_its_hook_is_called() -> None:
    """The hook may take its time, and the client sends nothing until that reply comes."""
    seen: list[bytes] = []
    client = connect(onData=lambda stream, session: seen.append(client.transport.value()))
    client.say(*ENVELOPE, "DATA")
    assert seen[0].endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n")


def test_the_last_reply_does_not_wait_for_the_turn_to_end(turns: Turns) -> None:
    client = connected(turns)
    client.say(HELLO)
    client.feed(b"QUIT\r\n")
    assert client.codes() == [250, 221]
    assert client.isClosed
    turns.end()
    assert client.replies() == []


def test_a_connection_that_is_lost_within_the_turn_is_not_written_to(turns: Turns) -> None:
    client = connected(turns)
    client.say(HELLO)
    client.lose()
    turns.end()
    assert not client.factory.connections


def test_a_client_that_does_not_read_is_paused_at_the_end_of_the_turn(turns: Turns) -> None:
    client = connected(turns)
    client.say(HELLO)
    write = client.transport.write

    def full(data: bytes) -> None:
        write(data)
        client.pump.writer.pauseProducing()

    client.transport.write = full  # type: ignore[method-assign]
    turns.end()
    assert client.transport.flow == ["stop"]


def test_a_transport_that_raises_at_the_end_of_the_turn_ends_its_own_connection(turns: Turns, logged: Logged) -> None:
    client, other = connected(turns), connected(turns)
    client.say(HELLO)
    other.say(HELLO)

    def broken(data: bytes) -> None:
        raise ValueError("broken")

    client.transport.write = broken  # type: ignore[method-assign]
    turns.end()
    assert len(logged.takeFailures(ValueError)) == 1
    assert client.transport.disconnected
    assert other.codes()[-1] == 250
