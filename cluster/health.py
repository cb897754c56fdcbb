"""
What HAProxy thinks of the receivers: C{show stat} at its socket, several times a second.

In: the path of the socket.  Out: for each server the states that it had, one after the other, and how many sessions.
This module knows no mail and no machine.
"""

from __future__ import annotations

import csv
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_INTERVAL = 0.1
# How long to wait for a state: three machines may start at once.
_PATIENCE = 60.0
_BACKEND = "smtp"


class Seen(NamedTuple):
    """
    A server at one moment.

    @ivar state: C{"UP"}, C{"DOWN"}, and others of HAProxy's; without the progress towards another one.
    @ivar check: what the last health check came to, such as C{"L7OK"} or C{"L4TOUT"}.
    @ivar sessions: how many connections of clients it has.
    """

    state: str
    check: str
    sessions: int


class Health(threading.Thread):
    """Watches, from L{start} to L{stop}."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._stopping = threading.Event()
        self._news = threading.Condition()
        self._now: dict[str, Seen] = {}
        self._states: dict[str, list[str]] = {}

    def run(self) -> None:
        while not self._stopping.wait(_INTERVAL):
            with suppress(OSError):
                self.note(ask(self._path))

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def note(self, seen: Mapping[str, Seen]) -> None:
        """Note what HAProxy says now."""
        with self._news:
            self._now = dict(seen)
            for name, server in seen.items():
                states = self._states.setdefault(name, [])
                state = server.state if server.state == "UP" else f"{server.state} ({server.check})"
                # While it is down the reason may change, and says no more.
                if not states or states[-1].split()[0] != server.state:
                    states.append(state)
            self._news.notify_all()

    def waitFor(self, server: str, state: str) -> None:
        """Wait until a server is in this state."""
        self._wait(lambda: server in self._now and self._now[server].state == state, f"{server} is {state}")

    def waitUntilAllAreUp(self) -> None:
        self._wait(lambda: self._now and all(server.state == "UP" for server in self._now.values()), "all are UP")

    def waitUntilIdle(self, server: str) -> None:
        """Wait until a server has no session any more."""
        self._wait(lambda: self._now[server].sessions == 0, f"{server} has no session")

    def _wait(self, holds: Callable[[], object], what: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: bool(holds()), _PATIENCE), (
                f"HAProxy never said: {what}; it says {self._now}"
            )

    def take(self) -> dict[str, list[str]]:
        """The states that each server had since this was called before, the present one included."""
        with self._news:
            taken, self._states = self._states, {name: [states[-1]] for name, states in self._states.items()}
            return taken


def ask(path: Path) -> dict[str, Seen]:
    """
    What HAProxy says now.

    @raise OSError: if it does not.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(path))
        connection.sendall(b"show stat\n")
        with connection.makefile() as answer:
            return parse(answer.read())


def parse(answer: str) -> dict[str, Seen]:
    """The servers in an answer to C{show stat}."""
    rows = csv.DictReader(answer.removeprefix("# ").strip().splitlines())
    return {
        row["svname"]: Seen(row["status"].split()[0], row["check_status"].removeprefix("* "), int(row["scur"]))
        for row in rows
        if row["pxname"] == _BACKEND and row["svname"] not in ("FRONTEND", "BACKEND")
    }
