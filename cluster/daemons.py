"""
What runs on the machines: three receivers, HAProxy in front of them, RabbitMQ behind, Redis beside.

In: the configuration files of the page C{docs/scale.rst}, as they stand.  Out: a cluster that takes mail.
This module knows no load and no fault.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from chaos.deliveries import Arrived
from chaos.load import Ports
from chaos.place import ofPython
from cluster.health import Health
from cluster.machines import Machine, Switch, connectOutside
from tests.pages import write
from tests.real.programs import PATIENCE, Program, eventually, requires, which
from tests.real.rabbitmq import RabbitMQ, needsRabbitMQ

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = "scale.rst"

# The addresses are those of the page.
_BALANCER, _BROKER, _REDIS = "10.77.0.1", "10.77.0.21", "10.77.0.22"
_RECEIVERS = {"one": "10.77.0.11", "two": "10.77.0.12", "three": "10.77.0.13"}
_DOOR = Ports(25, None, "192.0.2.25")
_SOCKET = Path("/run/haproxy/admin.sock")
_QUEUE = "mail"

# In the lines that receivers log.
_AWAY, _BACK = f"Redis at {_REDIS}:6379 is away: ", f"Redis at {_REDIS}:6379 is back"

_FALLBACKS = re.compile(r"^smtphooks_redis_fallbacks_total\{.*\} (\S+)$", re.MULTILINE)
# Of all workers together: 1 if none finds it away.
_UP = re.compile(r"^smtphooks_redis_up\{.*\} (\S+)$", re.MULTILINE)

# Clients of the load, and the one that sends as much as it can.
CLIENTS = [f"192.0.2.{number}" for number in range(101, 113)]
EAGER = "192.0.2.7"
RECIPIENTS = ("ann@example.org", "bob@example.org")

_NEEDED = (requires("haproxy", "redis-server", "redis-cli"), needsRabbitMQ)


def missing() -> str | None:
    """Which programs are not installed; None if all are."""
    reasons = [str(mark.kwargs["reason"]) for mark in _NEEDED if mark.args[0]]
    return "; ".join(reasons) or None


class Receiver:
    """
    A machine with smtphooks.

    @ivar machine: its cable can be pulled.
    """

    def __init__(self, name: str, folder: Path, switch: Switch, configuration: str) -> None:
        self.name = name
        self.machine = Machine(name, folder)
        switch.connect(self.machine, _RECEIVERS[name])
        self._path = self.machine.folder / "receiver.toml"
        self._path.write_text(configuration)
        self._programs: list[Program] = []

    def start(self) -> None:
        command = [sys.executable, "-m", "smtphooks", "--config", str(self._path)]
        self._programs.append(self.machine.boot(*command, environment=ofPython()))

    def order(self, *command: str) -> None:
        """Run a command of the operator's, such as C{smtphooks drain}."""
        given = [sys.executable, "-m", "smtphooks", *command, "--config", str(self._path)]
        done = subprocess.run(given, env=ofPython(), capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stderr

    def kill(self) -> None:
        """SIGKILL to all that runs on the machine."""
        self._programs[-1].kill()

    def fallbacks(self) -> int | None:
        """How often it has counted by itself, as Redis gave no answer in time; None if nobody answers."""
        found = self._numbers(_FALLBACKS)
        return sum(found) if found else None

    def _numbers(self, pattern: re.Pattern[str]) -> list[int]:
        """The numbers of a metric; none if nobody answers."""
        try:
            with urlopen(f"http://{_RECEIVERS[self.name]}:9125/metrics", timeout=PATIENCE) as page:
                return [round(float(number)) for number in pattern.findall(page.read().decode())]
        except OSError:
            return []

    @property
    def saysAway(self) -> bool:
        """Whether it has said that Redis is away, and not yet that it is back."""
        return saidIn(self._programs[-1].output)[-1:] == [_AWAY]

    def waitUntilRedisIsAway(self) -> None:
        """Wait until one of its workers says so."""
        eventually(lambda: self.saysAway, f"{self.name} says that Redis is away")

    def waitUntilRedisIsBack(self) -> None:
        """Wait until one of its workers says so, and it is so for all of them."""
        eventually(lambda: not self.saysAway, f"{self.name} says that Redis is back")
        eventually(lambda: set(self._numbers(_UP)) == {1}, f"Redis is back for all workers of {self.name}")

    def complaints(self) -> Iterator[str]:
        """A sentence if it has said that Redis is away, and then said so again."""
        if isRepeatedIn(self._programs[-1].output):
            yield f"receiver {self.name}: it has said again that Redis is away, and not yet that it is back"

    def close(self) -> None:
        for program in self._programs:
            program.kill()

    @property
    def output(self) -> str:
        """What it has logged since it was started first."""
        return "".join(program.output for program in self._programs)


def saidIn(output: str) -> list[str]:
    """What a log says of Redis, in order: that it is away, or that it is back."""
    return [said for line in output.splitlines() for said in (_AWAY, _BACK) if said in line]


def isRepeatedIn(output: str) -> bool:
    """Whether a log says that Redis is away, and then so again."""
    return (_AWAY, _AWAY) in pairwise(saidIn(output))


class Broker(RabbitMQ):
    """RabbitMQ with the configuration of the page."""

    def __init__(self, folder: Path, switch: Switch, configuration: str) -> None:
        self._machine = Machine("rabbitmq", folder)
        switch.connect(self._machine, _BROKER)
        super().__init__(self._machine.folder)
        (self._machine.folder / "rabbitmq.conf").write_text(configuration)
        self.port = 5672

    @property
    def _environment(self) -> dict[str, str]:
        return {**super()._environment, "RABBITMQ_LOGS": "-"}

    def _launch(self, *arguments: str) -> Program:
        return self._machine.run(*arguments, environment=self._environment)

    def prepare(self, url: str) -> None:
        """Start it, and declare the queue, so that it is on disk before mail comes."""
        self.url = url
        self.start()
        self.declare(_QUEUE)

    def arrived(self) -> Arrived:
        """The recipients and octets of all messages in the queue, which are removed."""
        for queued in self.take(_QUEUE):
            yield json.loads(queued.properties.headers["envelope"])["rcptTo"], queued.body


class Redis:
    """Redis, which keeps nothing on its disk."""

    def __init__(self, folder: Path, switch: Switch, configuration: str) -> None:
        self._machine = Machine("redis", folder)
        switch.connect(self._machine, _REDIS)
        (self._machine.folder / "redis.conf").write_text(configuration)
        self._program: Program | None = None

    def start(self) -> None:
        self._program = self._machine.run(which("redis-server") or "", "redis.conf", environment=os.environ)
        self._program.waitForLine("Ready to accept connections")

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._program:
            self._program.kill()

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay, new ones are accepted by the kernel, and no command is answered."""
        assert self._program
        os.kill(self._program.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._program
        os.kill(self._program.pid, signal.SIGCONT)


class Cluster:
    """
    All of it.

    @ivar door: where clients come.
    @ivar limit: that of L{RateLimit <smtphooks.layers.RateLimit>}, as the configuration has it.
    @ivar health: what HAProxy thinks of the receivers.
    """

    door = _DOOR

    def __init__(self, folder: Path) -> None:
        write(PAGE, folder)

        def file(name: str) -> str:
            return (folder / name).read_text()

        self._configuration = tomllib.loads(file("receiver.toml"))
        self.limit = str(self._layer("RateLimit")["limits"][0])
        switch = Switch()
        self._balancer = Machine("haproxy", folder)
        switch.connect(self._balancer, _BALANCER)
        connectOutside(self._balancer, self.door.host, [EAGER, *CLIENTS])
        (self._balancer.folder / "haproxy.cfg").write_text(file("haproxy.cfg"))
        self.broker = Broker(folder, switch, file("rabbitmq.conf"))
        self.redis = Redis(folder, switch, file("redis.conf"))
        self.receivers = [Receiver(name, folder, switch, file("receiver.toml")) for name in _RECEIVERS]
        self.health = Health(_SOCKET)
        self._haproxy: Program | None = None

    def _layer(self, name: str) -> Mapping[str, Any]:
        layers: list[Mapping[str, Any]] = self._configuration["layer"]
        (found,) = (layer for layer in layers if layer["use"].endswith(f":{name}"))
        return found

    def start(self) -> None:
        """Start all daemons, and wait until HAProxy finds all receivers alive."""
        self.redis.start()
        self.broker.prepare(str(self._layer("RabbitMQ")["url"]))
        for receiver in self.receivers:
            receiver.start()
        _SOCKET.parent.mkdir()
        self._haproxy = self._balancer.run(which("haproxy") or "", "-db", "-f", "haproxy.cfg", environment=os.environ)
        eventually(_SOCKET.exists, "the socket of HAProxy")
        self.health.start()
        self.health.waitUntilAllAreUp()

    def close(self) -> None:
        """Kill everything."""
        if self.health.is_alive():
            self.health.stop()
        if self._haproxy:
            self._haproxy.kill()
        for receiver in self.receivers:
            receiver.close()
        self.broker.close()
        self.redis.kill()
