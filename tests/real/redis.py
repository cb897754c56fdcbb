"""
Redis for tests: servers, replicas with Sentinels, and clusters, on ports and in folders of their own.

All of them end with the process that started them, whatever becomes of it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.real.programs import PATIENCE, Certificates, Program, eventually, freePort, requires, run, which

needsRedis = requires("redis-server", "redis-cli", "setpriv")

# The name of the master that Sentinels watch; its case counts.
MASTER = "Shared-1"


class Redis:
    """
    A server.

    @ivar port: its port on 127.0.0.1.
    @ivar url: its URL.
    """

    def __init__(self, folder: Path, *arguments: str, tls: Certificates | None = None, password: str = "") -> None:
        """
        @param folder: keeps everything of the server; it must exist.
        @param arguments: further settings, as C{"--appendonly", "yes"}; first the path of a file with settings, if any.
        @param tls: it listens with TLS, and not in the clear.
        """
        self._folder = folder
        self.port = freePort()
        self._isSentinel = "--sentinel" in arguments
        own = ["--dir", str(folder), "--bind", "127.0.0.1"]
        self._arguments = [*arguments, *own] if self._isSentinel else ["--save", "", *own, *arguments]
        self._cli: list[str] = []
        if tls is None:
            self._arguments += ["--port", str(self.port)]
        else:
            files = {"cert": tls.server["cert"], "key": tls.server["key"], "ca-cert": tls.authority}
            self._arguments += ["--port", "0", "--tls-port", str(self.port)]
            self._arguments += [word for name, path in files.items() for word in (f"--tls-{name}-file", path)]
            self._cli += ["--tls", "--cacert", tls.authority, "--cert", tls.client["cert"], "--key", tls.client["key"]]
        if password:
            self._arguments += ["--requirepass", password]
            self._cli += ["--no-auth-warning", "-a", password]
        secret = f":{quote(password, safe='')}@" if password else ""
        self.url = f"rediss://{secret}localhost:{self.port}" if tls else f"redis://{secret}127.0.0.1:{self.port}"
        self._server: Program | None = None

    # --- Life ---

    def start(self) -> None:
        """Start the server and wait until it takes connections; a Sentinel, until it knows a replica."""
        assert self._server is None, "the server runs already"
        guarded = [which("setpriv") or "setpriv", "--pdeathsig", "KILL", which("redis-server") or "redis-server"]
        self._server = Program([*guarded, *self._arguments], dict(os.environ), self._folder)
        try:
            self._server.waitForLine("+slave slave" if self._isSentinel else "Ready to accept connections")
        except AssertionError:
            self.close()
            raise

    @property
    def _running(self) -> Program:
        assert self._server is not None, "the server does not run"
        return self._server

    def waitForLine(self, *parts: str) -> None:
        """Wait until it has logged a line with all of these parts since its last start."""
        self._running.waitForLine(*parts)

    def kill(self) -> None:
        """Send SIGKILL."""
        server, self._server = self._running, None
        server.kill()

    def pause(self) -> None:
        """Send SIGSTOP: its connections stay, and nothing comes of them."""
        os.kill(self._running.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after L{pause}."""
        os.kill(self._running.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, in whatever state it is."""
        if self._server is not None:
            self.kill()

    # --- Looking into it ---

    def cli(self, *arguments: object) -> str:
        """What C{redis-cli} prints."""
        return run("redis-cli", "-h", "127.0.0.1", "-p", self.port, *self._cli, *arguments).stdout.decode().strip()

    def keys(self) -> list[str]:
        """All keys."""
        return sorted(filter(None, self.cli("KEYS", "*").split("\n")))


def sentinelSettings(folder: Path, master: Redis, password: str = "") -> list[str]:
    """The settings of a Sentinel that watches a master, and is alone enough for a failover."""
    config = folder / "sentinel.conf"
    lines = [
        f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1",
        f"sentinel down-after-milliseconds {MASTER} 500",
        f"sentinel failover-timeout {MASTER} 3000",
        *([f"sentinel auth-pass {MASTER} {password}"] if password else []),
    ]
    config.write_text("\n".join(lines) + "\n")
    return [str(config), "--sentinel"]


StartRedis = Callable[..., Redis]


@contextmanager
def redisServers(folder: Path) -> Iterator[StartRedis]:
    """Start servers, each with settings of its own; all end with the block."""
    started: list[Redis] = []

    def start(*arguments: str, tls: Certificates | None = None, password: str = "") -> Redis:
        own = folder / f"redis{len(started)}"
        own.mkdir()
        started.append(Redis(own, *arguments, tls=tls, password=password))
        started[-1].start()
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            server.close()


def clusterOf(start: StartRedis) -> list[Redis]:
    """Three nodes that have become a cluster."""
    settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port"]
    # The port that a node has for others is by itself 10000 above its own, which may be none.
    nodes = [start(*settings, str(freePort())) for _ in range(3)]
    places = [f"127.0.0.1:{node.port}" for node in nodes]
    run("redis-cli", "--cluster", "create", *places, "--cluster-yes", seconds=2 * PATIENCE)
    eventually(lambda: all("cluster_state:ok" in node.cli("CLUSTER", "INFO") for node in nodes), "the cluster is there")
    return nodes


class Caller:
    """A client that waits for each answer, for what is compared with Redis itself."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self._socket.makefile("rb")

    def call(self, *words: object) -> object:
        """The answer to a command; an error of Redis is an C{AssertionError}."""
        octets = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(octets) + b"".join(b"$%d\r\n%b\r\n" % (len(o), o) for o in octets))
        return self._answer()

    def _answer(self) -> object:
        line = self._file.readline().strip()
        kind, rest = line[:1], line[1:]
        assert kind != b"-", rest
        if kind == b"*":
            return [self._answer() for _ in range(int(rest))]
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        return int(rest) if kind == b":" else rest.decode()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()
