"""
RabbitMQ for tests: a broker of their own, on ports and in folders of its own, and what tests look up in its queues.

The broker and the port mapper of Erlang that it needs end with the process that started them, whatever becomes of it.
"""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pika

from tests.real.programs import Certificates, Program, eventually, freePort, requires, run, which
from tests.secrets import PASSWORD

# Debian's command in /usr/sbin changes to another user and folder; this is the broker's own.
_SCRIPTS = Path("/usr/lib/rabbitmq/bin")

USER = "mail"

needsRabbitMQ = requires("rabbitmq-server", "setpriv", "epmd")


class Queued(NamedTuple):
    """
    A message that was taken from a queue.

    @ivar properties: a C{pika.BasicProperties}.
    """

    body: bytes
    properties: Any
    routingKey: str


class RabbitMQ:
    """
    A broker.

    @ivar port: its port for AMQP on 127.0.0.1.
    @ivar tlsPort: the one for AMQP over TLS.
    @ivar url: the URL of its virtual host C{/}, with user and password.
    @ivar tlsUrl: the same over TLS, for the name localhost.
    @ivar authority: the path of the certificate that signed the broker's.
    """

    def __init__(self, folder: Path, settings: str = "") -> None:
        """
        @param folder: keeps everything of the broker; it must exist.
        @param settings: further lines of C{rabbitmq.conf}.
        """
        self._folder = folder
        self.port, self.tlsPort, self._distPort, self._epmdPort = (freePort() for _ in range(4))
        self._certificates = Certificates(folder / "tls")
        self.authority = self._certificates.authority
        user = f"{USER}:{quote(PASSWORD, safe='')}"
        self.url = f"amqp://{user}@127.0.0.1:{self.port}/"
        self.tlsUrl = f"amqps://{user}@localhost:{self.tlsPort}/"
        self._epmd: Program | None = None
        self._server: Program | None = None
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(
            f"""\
listeners.tcp.local = 127.0.0.1:{self.port}
listeners.ssl.local = 127.0.0.1:{self.tlsPort}
ssl_options.cacertfile = {self.authority}
ssl_options.certfile = {self._certificates.server["cert"]}
ssl_options.keyfile = {self._certificates.server["key"]}
default_user = {USER}
default_pass = {PASSWORD}
disk_free_limit.absolute = 1MB
log.file = false
log.console = true
log.console.level = info
{settings}
"""
        )

    @property
    def pid(self) -> int:
        """The process id of the broker."""
        assert self._server is not None, "the broker does not run"
        return self._server.pid

    @property
    def output(self) -> str:
        """What the broker has logged since its last start."""
        return "" if self._server is None else self._server.output

    @property
    def _environment(self) -> dict[str, str]:
        folder = self._folder
        return {
            **os.environ,
            "HOME": str(folder),  # the cookie
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmdPort),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_BYTES": "0",
            "RABBITMQ_ALLOW_INPUT": "1",  # The broker takes the place of the shell, so that its process is our child.
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distPort),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }

    # --- Life ---

    def start(self) -> None:
        """Start the broker, with the messages that it has, and wait until it listens."""
        assert self._server is None, "the broker runs already"
        if self._epmd is None:
            port = str(self._epmdPort)
            self._epmd = self._launch(which("epmd") or "epmd", "-port", port, "-address", "127.0.0.1")
        self._server = self._launch(str(_SCRIPTS / "rabbitmq-server"))
        try:
            self._server.waitForLine("Server startup complete")
        except AssertionError:
            self.close()
            raise

    def _launch(self, *arguments: str) -> Program:
        guarded = [which("setpriv") or "setpriv", "--pdeathsig", "KILL", *arguments]
        return Program(guarded, self._environment, self._folder)

    def stop(self) -> None:
        """Stop the broker as an operator does."""
        server, self._server = self._taken(), None
        server.terminate()

    def kill(self) -> None:
        """Send SIGKILL to the broker."""
        server, self._server = self._taken(), None
        server.kill()

    def _taken(self) -> Program:
        assert self._server is not None, "the broker does not run"
        return self._server

    def pause(self) -> None:
        """Send SIGSTOP: the broker's connections stay, and nothing comes of them."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the broker go on after L{pause}."""
        os.kill(self.pid, signal.SIGCONT)

    def revive(self) -> None:
        """Start the broker if it was stopped or killed, let it go on if it was paused."""
        if self._server is None:
            self.start()
        else:
            self.resume()

    def close(self) -> None:
        """End the broker and its port mapper, in whatever state they are."""
        for program in filter(None, (self._server, self._epmd)):
            program.kill()
        self._server = self._epmd = None

    def ctl(self, *arguments: str) -> str:
        """What C{rabbitmqctl} prints; it takes a second or two."""
        names = self._environment
        assignments = [f"{name}={names[name]}" for name in names if name.startswith(("RABBITMQ_", "ERL_", "HOME"))]
        return run("env", *assignments, str(_SCRIPTS / "rabbitmqctl"), "--quiet", *arguments).stdout.decode()

    # --- Queues ---

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of pika's blocking kind, over a connection of its own."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def declare(self, name: str, kind: str = "quorum", **arguments: object) -> None:
        """
        Declare a durable queue, which outlives L{kill} when this returns.

        RabbitMQ answers before the name of a quorum queue is on disk, which it saves every half second; a broker that
        is killed before has lost the queue's messages, those that it had confirmed included.

        @param arguments: of the queue, such as C{x_max_length} for C{x-max-length}.
        """
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        with self.channel() as channel:
            channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind, **table})
        if kind == "quorum":
            written = f"%2F_{name}".encode()
            (names,) = (self._folder / "mnesia").glob("*/quorum/*/names.dets")
            eventually(lambda: written in names.read_bytes(), f"the queue {name} is on disk")

    def delete(self, name: str) -> None:
        """Delete a queue."""
        with self.channel() as channel:
            channel.queue_delete(name)

    def purge(self, name: str) -> None:
        """Drop the messages of a queue."""
        with self.channel() as channel:
            channel.queue_purge(name)

    def count(self, name: str) -> int:
        """How many messages of a queue are ready to be taken."""
        with self.channel() as channel:
            number: int = channel.queue_declare(name, passive=True).method.message_count
            return number

    def publish(self, name: str, body: bytes, **properties: Any) -> None:
        """Put a persistent message into a queue, and wait for the confirmation."""
        with self.channel() as channel:
            channel.confirm_delivery()
            persistent = pika.BasicProperties(delivery_mode=2, **properties)
            channel.basic_publish("", name, body, persistent, mandatory=True)

    def take(self, name: str) -> list[Queued]:
        """Take all messages from a queue."""
        taken = []
        with self.channel() as channel:
            while True:
                method, properties, body = channel.basic_get(name, auto_ack=True)
                if method is None:
                    return taken
                taken.append(Queued(body, properties, method.routing_key))

    def waitFor(self, name: str, count: int) -> list[Queued]:
        """Take the messages of a queue once there are this many."""
        eventually(lambda: self.count(name) >= count, f"{count} messages in {name}")
        return self.take(name)

    def context(self) -> ssl.SSLContext:
        """What a client verifies the broker with."""
        return ssl.create_default_context(cafile=self.authority)


StartRabbitMQ = Callable[..., RabbitMQ]


@contextmanager
def brokers(folder: Path) -> Iterator[StartRabbitMQ]:
    """Start brokers, each with settings of its own; all end with the block."""
    started: list[RabbitMQ] = []

    def start(settings: str = "") -> RabbitMQ:
        own = folder / f"broker{len(started)}"
        own.mkdir()
        started.append(RabbitMQ(own, settings))
        started[-1].start()
        return started[-1]

    try:
        yield start
    finally:
        for broker in started:
            broker.close()
