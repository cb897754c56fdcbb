"""What a service says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from smtphooks.service.listeners import ListenerService
from smtphooks.service.status import statusOf, totalsOf
from tests.support import ENVELOPE, Client, Pending, makeFactory


@pytest.fixture
def listeners() -> list[ListenerService]:
    endpoint: Any = None
    return [
        ListenerService(name, endpoint, makeFactory(onData=Pending()), MemoryReactorClock())
        for name in ("tcp:25", "tcp:587", "tcp:0", "tcp:0")
    ]


def numbers(status: dict[str, Any]) -> dict[str, Any]:
    """Without those of the process, which are not known beforehand."""
    assert status.pop("processor") > 0
    assert status.pop("memory", 2**20) >= 2**20
    return status


def test_without_connections_there_is_nothing_to_say(listeners: list[ListenerService]) -> None:
    assert numbers(statusOf(listeners)) == {
        "connections": 0,
        "accepted": 0,
        "messages": 0,
        "waits": {},
        "listeners": {"tcp:25": 0, "tcp:587": 0, "tcp:0": 0},
    }


def test_numbers_of_all_listeners_are_added_up(listeners: list[ListenerService]) -> None:
    clients = [Client(listener.factory) for listener in listeners]
    for client in clients[:3]:
        client.say(*ENVELOPE, "DATA", ".")
    clients[0].factory.onData.decide()  # type: ignore[union-attr]
    clients[1].lose()
    clients[1].factory.onData.decide()  # type: ignore[union-attr]
    assert numbers(totalsOf(listeners)) == {"connections": 3, "accepted": 4, "messages": 2}
    assert numbers(statusOf(listeners)) == {
        "connections": 3,
        "accepted": 4,
        "messages": 2,
        "waits": {"a command": 2, "onData": 1},
        "listeners": {"tcp:25": 1, "tcp:587": 0, "tcp:0": 2},
    }
