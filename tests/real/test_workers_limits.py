"""Limits of a service with workers: they hold over all of them, whichever worker the kernel gives a connection to."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.programs import PATIENCE, Client, eventually
from tests.real.workers import Supervised, serving

WORKERS = 3

# Counts of three workers that counted alone would let three times as many in, as connections spread over them.
RATED = """
from smtphooks import Hooks
from smtphooks.layers import RateLimit

class Mail(Hooks):
    def __init__(self):
        self.rate = RateLimit(limits=["6 messages per day per client"])

    async def onRcptTo(self, address, session):
        await self.rate.onRcptTo(address, session)

    async def onData(self, stream, session):
        async for chunk in stream:
            pass
"""


def greetings(service: Supervised, number: int, kept: ExitStack) -> Counter[str]:
    """The codes with which so many connections are greeted, one after the other; those that are let in are kept."""
    codes: Counter[str] = Counter()
    for _ in range(number):
        connection = socket.create_connection(("127.0.0.1", service.files.port), timeout=PATIENCE)
        kept.enter_context(connection)
        with connection.makefile("rb") as replies:
            codes[replies.readline()[:3].decode()] += 1
    return codes


@pytest.mark.parametrize("option", ["maxClients", "maxClientsPerAddress"])
def test_connections_of_all_workers_count_and_those_of_a_dead_one_do_not(tmp_path: Path, option: str) -> None:
    with serving(tmp_path, workers=WORKERS, **{option: 12}) as service, ExitStack() as kept:
        assert greetings(service, 30, kept) == {"220": 12, "421": 18}
        eventually(lambda: sum(each["connections"] for each in service.status()["workers"]) == 12, "connections")
        victim = max(service.status()["workers"], key=lambda worker: worker["connections"])
        os.kill(victim["pid"], signal.SIGKILL)
        service.waitForWorkers(WORKERS)
        eventually(lambda: victim["pid"] not in service.workers(), "the end of the worker")
        assert greetings(service, 30, kept)["220"] == victim["connections"]


def test_messages_count_over_all_workers_and_over_a_reload_and_a_death(tmp_path: Path) -> None:
    def accepted(number: int) -> int:
        """How many of so many messages are accepted, each on a connection of its own."""
        accepted = 0
        for _ in range(number):
            with Client(service.files.port) as client:
                client.say(b"MAIL FROM:<sender@here.example>", 250)
                client.socket.sendall(b"RCPT TO:<ann@there.example>\r\n")
                accepted += client.socket.recv(1000).startswith(b"250")
        return accepted

    with serving(tmp_path, workers=WORKERS, hooks=RATED) as service:
        assert accepted(4) == 4
        os.kill(service.ready()[0], signal.SIGKILL)
        service.waitForWorkers(WORKERS)
        service.reload()
        assert accepted(10) == 2


def test_failed_AUTH_counts_over_all_workers_and_outlives_them(tmp_path: Path) -> None:
    hooks = RATED + "    def onAuth(self, auth, session):\n        return False\n"
    options = {"allowInsecureAuth": True, "authFailuresPerAddress": 4}
    with serving(tmp_path, workers=WORKERS, hooks=hooks, **options) as service:

        def attempt() -> bytes:
            with Client(service.files.port) as client:
                client.socket.sendall(b"AUTH PLAIN AGFubgBndWVzcw==\r\n")
                return client.socket.recv(1000)[:3]

        assert [attempt() for _ in range(3)] == [b"535"] * 3
        for pid in service.ready():
            os.kill(pid, signal.SIGKILL)
        service.waitForWorkers(WORKERS)
        assert [attempt() for _ in range(4)] == [b"535", b"421", b"421", b"421"]
