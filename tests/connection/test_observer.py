"""The observer: what it raises is logged, and harms no connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.logger import capturedLogs

from smtphooks.connection.observer import Observer, guarded
from tests.conftest import Logged
from tests.secrets import PASSWORD, plain
from tests.support import ENVELOPE, MAIL, Client, Transport, makeFactory


class Faulty:
    """An observer that raises whatever it is told, and notes the events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, event: str) -> Callable[..., None]:
        def tell(*arguments: Any) -> None:
            self.events.append(event)
            raise LookupError(event)

        return tell


def codesWith(observer: Any) -> list[list[int]]:
    """The codes that two clients see, of which the second is one too many."""
    factory = makeFactory(
        onData=lambda stream, session: None,
        onAuth=lambda auth, session: auth.username,
        allowInsecureAuth=True,
        maxClientsPerAddress=1,
    )
    if observer is not None:
        factory.observe(observer)
    client, other = Client(factory), Client(factory, Transport())
    client.say("EHLO x", f"AUTH PLAIN {plain('ann', PASSWORD)}")
    client.say(*ENVELOPE, "DATA", "Subject: x", "", ".", MAIL, "RSET", "NONSENSE", "QUIT")
    client.finish()
    return [client.codes(), other.codes()]


def test_an_observer_that_raises_at_every_event_changes_no_reply(logged: Logged) -> None:
    observer = Faulty()
    assert codesWith(observer) == codesWith(None)
    assert {*observer.events} == {name for name in vars(Observer) if name[0] != "_"} - {"secured"}
    assert len(logged.takeFailures(LookupError)) == len({*observer.events})


@pytest.mark.parametrize("event", [name for name in vars(Observer) if name[0] != "_"])
def test_each_event_has_its_faults_logged_once_and_is_told_all_the_same(event: str, logged: Logged) -> None:
    observer = Faulty()
    guard = guarded(observer)
    with capturedLogs() as entries:
        getattr(guard, event)(1)
        getattr(guard, event)(2)
    assert observer.events == [event, event]
    assert len(logged.takeFailures(LookupError)) == 1
    assert [entry["event"] for entry in entries] == [event]
