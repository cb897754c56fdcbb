"""A webhook on loopback that answers on command, and stores that post to it, whose clock stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.task import Clock

from smtphooks.session import Address, Envelope, Session
from smtphooks.stores import Webhook
from tests.layers.scanners import Message, Scanner, Talk

MESSAGE = b"Subject: hello\r\n\r\nHello.\r\n"
SECRET = "0123456789abcdef-secret"

# Only a test that fails waits so many seconds.
PATIENCE = 10

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"


def makeSession(*recipients: str, lmtp: bool = False, mailFrom: str = "sender@example.org", **args: Any) -> Session:
    """The session of a client that has sent an envelope."""
    return Session(
        localName="mx.example.com",
        lmtp=lmtp,
        openingCommand="LHLO" if lmtp else "EHLO",
        hostNameAppearsAs="client.example.org",
        clientHostname="host.example.org",
        remoteAddress="192.0.2.1",
        envelope=Envelope(Address(mailFrom, args=args), [*map(Address, recipients or ["user@example.com"])]),
    )


def answer(status: str, text: str | bytes = "", kind: str = "text/plain", **fields: str) -> bytes:
    """The octets of an answer."""
    body = text.encode() if isinstance(text, str) else text
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Request:
    """The octets of one request, parsed."""

    def __init__(self, octets: bytes) -> None:
        head, _, self.rest = octets.partition(b"\r\n\r\n")
        self.line, *lines = head.decode().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        self.fields = {name.lower(): value for name, value in pairs}
        assert len(self.fields) == len(pairs), lines

    @property
    def body(self) -> bytes:
        """The body, which must be whole."""
        if "content-length" in self.fields:
            assert len(self.rest) == int(self.fields["content-length"])
            return self.rest
        body, rest = b"", self.rest
        while True:
            size, _, rest = rest.partition(b"\r\n")
            octets = int(size, 16)
            chunk, rest = rest[:octets], rest[octets:]
            assert rest.startswith(b"\r\n") and len(chunk) == octets
            rest = rest[2:]
            if not octets:
                assert not rest
                return body
            body += chunk


class Post:
    """A message that a store posts."""

    def __init__(
        self, scanner: Scanner, message: Message | None = None, session: Session | None = None, **options: Any
    ) -> None:
        self.store = options.pop("store", None) or storeOf(scanner, **options)
        self.clock: Clock = self.store.clock
        self.session = session or makeSession()
        self.message = message or Message(MESSAGE)
        self._accepted: Deferred[Talk] = scanner.talk()
        self._talk: Talk | None = None
        self.result: Deferred[Any] = ensureDeferred(self.store.onData(self.message, self.session))

    async def has(self, *octets: bytes) -> Talk:
        """The connection, once the webhook has got these octets."""
        self._talk = talk = self._talk or await self._accepted.addTimeout(PATIENCE, reactor)
        await talk.has(*octets).addTimeout(PATIENCE, reactor)
        return talk

    async def answered(self, octets: bytes, after: bytes = LAST_CHUNK, closes: bool = False) -> Any:
        """Let the webhook answer after some octets; what comes of the message."""
        talk = await self.has(after)
        talk.answer(octets)
        if closes:
            assert talk.transport is not None
            talk.transport.loseConnection()
        return await self.result


_stores: list[Any] = []


def storeOf(scanner: Scanner, **options: Any) -> Any:
    """A store whose clock stands still."""
    store: Any = Webhook(options.pop("url", f"http://127.0.0.1:{scanner.port}/mail?box=1"), **options)
    store.clock = Clock()
    _stores.append(store)
    return store


@pytest_twisted.async_yield_fixture
async def webhook() -> AsyncIterator[Scanner]:
    """A webhook; when the test ends, and the stores have been stopped, none of its connections may be left."""
    webhook = await Scanner().listen()
    yield webhook
    while _stores:
        await maybeDeferred(_stores.pop().onStop, None)
    await webhook.stop()
