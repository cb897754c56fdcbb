"""
Redis for tests: servers, replicas with Sentinels, and clusters, on ports and in folders of their own.

All of them end with the process that started them, whatever becomes of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real.programs import PATIENCE, Certificates, Program, eventually, freePort, requires, run, which
from tests.secrets import PASSWORD

needsRedis = requires("redis-server", "redis-cli", "setpriv")

MASTER = "shared"


class Redis:
    """
    A server.

    @ivar port: its port on 127.0.0.1.
    @ivar url: its URL.
    """

    def __init__(self, folder: Path, *arguments: str, tls: Certificates | None = None, password: str = "") -> None:
        """
        @param folder: keeps everything of the server; it must exist.
        @param arguments: further settings, as C{"--appendonly", "yes"}.
        @param tls: it listens with TLS, and not in the clear.
        """
        self._folder = folder
        self.port = freePort()
        self._arguments = ["--dir", str(folder), "--bind", "127.0.0.1", "--save", "", *arguments]
        self._cli: list[str] = []
        if tls is None:
            self._arguments += ["--port", str(self.port)]
        else:
            files = {"cert": tls.server["cert"], "key": tls.server["key"], "ca-cert": tls.authority}
            self._arguments += ["--port", "0", "--tls-port", str(self.port)]
            self._arguments += [word for name, path in files.items() for word in (f"--tls-{name}-file", path)]
            if "--tls-auth-clients" not in arguments:
                self._arguments += ["--tls-auth-clients", "no"]
            self._cli += ["--tls", "--cacert", tls.authority, "--cert", tls.client["cert"], "--key", tls.client["key"]]
        if password:
            self._arguments += ["--requirepass", password]
            self._cli += ["--no-auth-warning", "-a", password]
        secret = f":{password.replace(';', '%3B').replace('=', '%3D')}@" if password else ""
        self.url = f"redis{'s' if tls else ''}://{secret}localhost:{self.port}" if tls else (
            f"redis://{secret}127.0.0.1:{self.port}"
        )
        self._server: Program | None = None

    # --- Life ---

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        assert self._server is None, "the server runs already"
        guarded = [which("setpriv") or "setpriv", "--pdeathsig", "KILL", which("redis-server") or "redis-server"]
        self._server = Program([*guarded, *self._arguments], dict(os.environ), self._folder)
        try:
            self._server.waitForLine("Ready to accept connections")
        except AssertionError:
            self.close()
            raise

    def kill(self) -> None:
        """Send SIGKILL."""
        assert self._server is not None, "the server does not run"
        server, self._server = self._server, None
        server.kill()

    def pause(self) -> None:
        """Send SIGSTOP: its connections stay, and nothing comes of them."""
        assert self._server is not None, "the server does not run"
        os.kill(self._server.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after L{pause}."""
        assert self._server is not None, "the server does not run"
        os.kill(self._server.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, in whatever state it is."""
        if self._server is not None:
            self.kill()

    # --- Looking into it ---

    def cli(self, *arguments: object, status: int | None = 0) -> str:
        """What C{redis-cli} prints."""
        words = ["-h", "127.0.0.1", "-p", self.port, *self._cli, *arguments]
        return run("redis-cli", *words, status=status).stdout.decode().strip()

    def keys(self) -> list[str]:
        """All keys."""
        return sorted(self.cli("KEYS", "*").split("\n"))


class Sentinel(Redis):
    """A Sentinel that watches one master, and is alone enough for a failover."""

    def __init__(self, folder: Path, master: Redis, password: str = "") -> None:
        super().__init__(folder)
        config = folder / "sentinel.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1",
            f"sentinel down-after-milliseconds {MASTER} 500",
            f"sentinel failover-timeout {MASTER} 3000",
            *([f"sentinel auth-pass {MASTER} {password}"] if password else []),
        ]
        config.write_text("\n".join(lines) + "\n")
        self._arguments = [str(config), "--sentinel"]

    def start(self) -> None:
        """Start it, and wait until it knows the replica of its master."""
        guarded = [which("setpriv") or "setpriv", "--pdeathsig", "KILL", which("redis-server") or "redis-server"]
        self._server = Program([*guarded, *self._arguments], dict(os.environ), self._folder)
        self._server.waitForLine("+slave slave")


StartRedis = Callable[..., Redis]


@contextmanager
def redisServers(folder: Path) -> Iterator[StartRedis]:
    """Start servers, each with settings of its own; all end with the block."""
    started: list[Redis] = []

    def start(*arguments: str, tls: Certificates | None = None, password: str = "", of: type = Redis, **given: object):  # type: ignore[no-untyped-def]
        own = folder / f"redis{len(started)}"
        own.mkdir()
        server = Redis(own, *arguments, tls=tls, password=password) if of is Redis else of(own, **given)
        started.append(server)
        server.start()
        return server

    try:
        yield start
    finally:
        for server in started:
            server.close()


def clusterOf(start: StartRedis) -> list[Redis]:
    """Three nodes that have become a cluster."""
    nodes = [start("--cluster-enabled", "yes", "--cluster-node-timeout", "2000") for _ in range(3)]
    places = [f"127.0.0.1:{node.port}" for node in nodes]
    run("redis-cli", "--cluster", "create", *places, "--cluster-yes", seconds=2 * PATIENCE)
    for node in nodes:
        eventually(lambda node=node: "cluster_state:ok" in node.cli("CLUSTER", "INFO"), "the cluster is there")  # type: ignore[misc]
    return nodes


__all__ = ["PASSWORD"]
