"""Scanners on loopback that do on command what a real one does, or should not do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from smtphooks.stream import MessageStream

# Only a test that fails waits so many seconds.
_PATIENCE = 30


class Talk(Protocol):
    """
    One connection to a scanner.

    @ivar received: the octets that came.
    @ivar closed: fires when the connection has ended.
    """

    def __init__(self, scanner: Scanner) -> None:
        self.received = b""
        self.closed: Deferred[None] = Deferred()
        self._scanner = scanner
        self._waiting: list[tuple[Callable[[bytes], object], Deferred[None]]] = []

    def connectionMade(self) -> None:
        self._scanner.accepted(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        for waiting in list(self._waiting):
            if waiting[0](self.received):
                self._waiting.remove(waiting)
                waiting[1].callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)

    def has(self, *parts: bytes) -> Deferred[None]:
        """Fires when all of these octets have come."""
        arrived: Deferred[None] = Deferred()
        self._waiting.append((lambda received: all(part in received for part in parts), arrived))
        self.dataReceived(b"")
        return arrived

    def answer(self, octets: bytes) -> None:
        assert self.transport is not None
        self.transport.write(octets)


class Scanner(Factory):
    """
    A scanner that listens.

    @ivar port: its TCP port.
    @ivar talks: the connections that it has accepted.
    """

    noisy = False

    def __init__(self) -> None:
        self.talks: list[Talk] = []
        self._accepted: list[Deferred[Talk]] = []
        self._listening: Any = None
        self.port = 0

    def buildProtocol(self, address: object) -> Talk:
        return Talk(self)

    async def listen(self) -> Scanner:
        self._listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self)
        self.port = self._listening.getHost().port
        return self

    def accepted(self, talk: Talk) -> None:
        self.talks.append(talk)
        while self._accepted:
            self._accepted.pop().callback(talk)

    def talk(self) -> Deferred[Talk]:
        """The next connection."""
        accepted: Deferred[Talk] = Deferred()
        self._accepted.append(accepted)
        return accepted

    async def stop(self) -> None:
        """Stop listening, and wait until no connection is left; the scanner ends none of them."""
        await maybeDeferred(self._listening.stopListening)
        for talk in self.talks:
            await talk.closed.addTimeout(_PATIENCE, reactor)  # type: ignore[arg-type]


class Message(MessageStream):
    """
    A message that a test feeds.

    @ivar wanted: how often the reader has asked for more octets.
    """

    __slots__ = ("wanted",)

    def __init__(self, *chunks: bytes, isWhole: bool = True, size: int = 0) -> None:
        self.wanted = 0
        super().__init__(size=size, wantsMore=self._count)
        for chunk in chunks:
            self.append(chunk)
        if isWhole:
            self.append(b"", isLast=True)

    def end(self, data: bytes = b"") -> None:
        """The message is complete, with these octets."""
        self.append(data, isLast=True)

    def _count(self) -> None:
        self.wanted += 1


@pytest_twisted.async_yield_fixture
async def scanner() -> AsyncIterator[Scanner]:
    """A scanner; when the test ends, none of its connections may be left."""
    scanner = await Scanner().listen()
    yield scanner
    await scanner.stop()


def isTidy(message: MessageStream, clock: Clock) -> bool:
    """Nobody delivers the message any more, and no deadline runs."""
    return not message.isAwaited and not clock.getDelayedCalls()
