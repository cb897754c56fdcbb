"""A supervisor and its workers as they drain, by C{smtphooks drain} and by a reload, with real clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.programs import PATIENCE, Client, Service, eventually, freePort, tcp
from tests.test_reactor import environment

CONFIG = """
workers = {workers}
[options]
authOptional = true
closeTimeout = {closeTimeout}
[[listener]]
endpoint = "{endpoint}"
"""
MESSAGE = b"Subject: hello\r\n\r\nhello\r\n."


class Machine:
    """A supervisor."""

    def __init__(self, folder: Path, workers: int, closeTimeout: float) -> None:
        self.port = freePort()
        self._folder = folder
        text = CONFIG.format(workers=workers, closeTimeout=closeTimeout, endpoint=tcp(self.port))
        (folder / "mail.toml").write_text(text)
        self.service = Service(folder, ["--config", "mail.toml"], [tcp(self.port)])
        eventually(lambda: self.status()["state"] == "serving", "a machine that serves")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command for it."""
        return subprocess.run(
            [sys.executable, "-m", "smtphooks", *arguments, "--config", "mail.toml"],
            capture_output=True,
            text=True,
            cwd=self._folder,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        said = self.run("status", "--json").stdout
        return json.loads(said) if said else {"state": "", "workers": []}

    def worker(self, number: int) -> dict[str, Any]:
        """What the newest worker of this number does."""
        return [each for each in self.status()["workers"] if each["number"] == number][-1]

    def greeting(self) -> bytes:
        """The first line that a new client gets."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
            return client.makefile("rb").readline()


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    one = Machine(tmp_path, *request.param)
    yield one
    assert one.service.terminate() == 0, one.service.output


@pytest.mark.parametrize("machine", [(2, 600)], indirect=True)
def test_a_client_goes_on_after_a_reload_and_sends_more_messages(machine: Machine) -> None:
    with Client(machine.port) as client:
        client.envelope(b"ann@example.org")
        os.kill(machine.service.pid, signal.SIGHUP)
        machine.service.waitForLine("2 new workers serve, those before them drain")
        machine.service.waitForLine("draining: no new connections")
        draining = [each for each in machine.status()["workers"] if each["state"] == "draining"]
        assert sum(each.get("connections", 0) for each in draining) == 1
        for _ in range(3):
            client.say(b"DATA", 354)
            client.say(MESSAGE, 250)
            client.say(b"MAIL FROM:<sender@client.example>", 250)
            client.say(b"RCPT TO:<ann@example.org>", 250)
        client.say(b"QUIT", 221)
    eventually(lambda: len(machine.status()["workers"]) == 2, "that the worker has ended with its last client")


@pytest.mark.parametrize("machine", [(1, 10)], indirect=True)
def test_a_client_that_stays_after_a_reload_gets_421_in_the_second_half(machine: Machine) -> None:
    with Client(machine.port) as client:
        os.kill(machine.service.pid, signal.SIGHUP)
        machine.service.waitForLine("draining: no new connections")
        client.say(b"NOOP", 250)
        client.reply(421)


@pytest.mark.parametrize("machine", [(2, 600)], indirect=True)
def test_a_machine_drains_and_goes_on(machine: Machine) -> None:
    with Client(machine.port) as client:
        assert machine.run("drain").returncode == 0
        eventually(lambda: machine.greeting().startswith(b"421 "), "that new clients are refused")
        assert machine.run("status").returncode == 3
        client.say(b"NOOP", 250)
        assert machine.run("drain", "--resume").returncode == 0
        eventually(lambda: machine.greeting().startswith(b"220 "), "that new clients are served")
        assert machine.run("status").returncode == 0
        client.say(b"NOOP", 250)


@pytest.mark.parametrize("machine", [(2, 600)], indirect=True)
def test_a_worker_is_taken_out_of_service_and_put_back(machine: Machine) -> None:
    done = machine.run("drain", "2", "--wait")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no connection is left")
    assert machine.worker(2) == {"number": 2, "state": "out of service"}
    assert all(machine.greeting().startswith(b"220 ") for _ in range(20))
    assert machine.run("drain", "1").stderr.startswith("smtphooks: worker 1 is the last one in service")
    assert machine.run("drain", "--resume", "2").returncode == 0
    eventually(lambda: machine.worker(2)["state"] == "ready", "a worker that serves again")


@pytest.mark.parametrize("machine", [(1, 600)], indirect=True)
def test_status_tells_what_connections_wait_for_and_counts_messages(machine: Machine) -> None:
    with Client(machine.port) as idle, Client(machine.port) as busy:
        idle.say(b"NOOP", 250)
        busy.envelope(b"ann@example.org")
        busy.say(b"DATA", 354)
        worker = machine.worker(1)
        assert worker["waits"] == {"a command": 1, "a message": 1}
        assert worker["connections"] == 2
        before = worker["messages"]
        busy.say(MESSAGE, 250)
        assert machine.worker(1)["messages"] == before + 1
        eventually(lambda: machine.worker(1)["perSecond"]["messages"] > 0, "a rate of messages")
