"""Relays for tests: a server with the store C{Relay}, servers upstream of it, and a client that says line by line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from smtphooks.stores import Relay
from smtphooks.testing import SMTPServerThread
from tests.real.programs import eventually
from tests.support import reset

SUBJECT = ("Subject: hello", "", ".text")


class Talk:
    """A client that says a line and hears the reply to it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")
        self.greeting = self.hear()

    def hear(self) -> str:
        """The last line of the next reply."""
        while True:
            line = self._file.readline().decode().rstrip("\r\n")
            if line[3:4] != "-":
                return line

    def tell(self, *lines: str | bytes) -> None:
        for line in lines:
            self._socket.sendall((line if isinstance(line, bytes) else line.encode()) + b"\r\n")

    def say(self, *lines: str | bytes) -> list[str]:
        """Say lines, each when the one before has its reply."""
        replies = []
        for line in lines:
            self.tell(line)
            replies.append(self.hear())
        return replies

    def last(self, *lines: str | bytes) -> str:
        return self.say(*lines)[-1]

    def begin(self, *recipients: str, mail: str = "", hello: str = "EHLO") -> list[str]:
        """Everything before the message."""
        recipients = recipients or ("ann@example.org",)
        lines = [f"RCPT TO:<{recipient}>" for recipient in recipients]
        return self.say(f"{hello} client.test", f"MAIL FROM:<sender@client.test>{mail}", *lines)

    def message(self, *lines: str | bytes) -> str:
        """A whole message; the reply to it."""
        start = self.last("DATA")
        if not start.startswith("354"):
            return start
        self.tell(*(lines or ("Subject: hello", "", "..text")), ".")
        return self.hear()

    def send(self, *recipients: str, mail: str = "", hello: str = "EHLO") -> str:
        self.begin(*recipients, mail=mail, hello=hello)
        return self.message()

    def reset(self) -> None:
        """The connection is lost; a server that has read FIN still answers."""
        self._file.close()
        reset(self._socket)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Relays:
    """
    Makes servers, which end with the test.

    @ivar relay: the store of the last L{front}.
    """

    relay: Relay

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def upstream(self, *hooks: Any, **options: Any) -> SMTPServerThread:
        """A server for the relay; it offers no STARTTLS unless told otherwise."""
        given = {"hideSTARTTLS": True, **options}
        return self._stack.enter_context(SMTPServerThread(*hooks, **given))

    def front(self, upstream: Any, *, before: Any = (), behind: Any = (), server: Any = None, **options: Any) -> Any:
        """A server with a relay to a server, or to whatever option C{upstream} takes."""
        target = at(upstream) if isinstance(upstream, SMTPServerThread) else upstream
        self.relay = Relay(target, **options)
        hooks = [*before, self.relay, *behind]
        return self._stack.enter_context(SMTPServerThread(hooks, **(server or {})))

    def cut(self, upstream: SMTPServerThread) -> None:
        """Cut all connections of the relay to a server, and wait until the relay knows."""
        gates, background = upstream._gates, upstream._background
        assert background is not None

        def cut() -> None:
            for connection in tuple(gates.wrapped.connections):
                connection.abort()

        background.reactor.callFromThread(cut)
        client = self.relay._client
        assert client is not None
        eventually(lambda: not client._pool._open, "the end of all connections to upstream")

    def client(self, server: SMTPServerThread) -> Talk:
        talk = Talk(server.port)
        self._stack.callback(talk.close)
        return talk

    def between(self, upstream: Any, **options: Any) -> Talk:
        """A client of a relay to a server."""
        return self.client(self.front(upstream, **options))


def at(upstream: SMTPServerThread) -> str:
    return f"127.0.0.1:{upstream.port}"


def freePort() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture
def relays() -> Iterator[Relays]:
    with ExitStack() as stack:
        yield Relays(stack)
