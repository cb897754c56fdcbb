"""
Where the content of a message comes from: octets, what yields them, or a producer of Twisted.

In: the content as a caller has it.  Out: an asynchronous iterator of octets, read at the pace of the server.
This module knows no connection, and not what is done with the octets.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Protocol

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks.awaiting import Waiting

_PIECE = 65536


class Producing(Protocol):
    """An C{IBodyProducer}, such as C{FileBodyProducer}."""

    def startProducing(self, consumer: Any) -> Any:
        """Write everything to a consumer; the Deferred fires then."""


class Delivering(Protocol):
    """An object that registers a producer with a consumer and has it write, such as a C{MessageStream}."""

    def deliverTo(self, consumer: Any) -> Any:
        """Write everything to a consumer; the Deferred fires then."""


Content = bytes | bytearray | memoryview | AsyncIterable[bytes] | Producing | Delivering
"""A message: lines that end with CRLF, whole or in pieces of any size."""


def chunksOf(content: Content) -> AsyncIterator[bytes]:
    """
    Read a content.

    @raise TypeError: if it is none.
    """
    if isinstance(content, (bytes, bytearray, memoryview)):
        return _piecesOf(bytes(content))
    # A MessageStream is an iterator as well, but one that ends at option size as if that were the end of the message.
    if hasattr(content, "deliverTo"):
        return Inlet(content)
    if isinstance(content, AsyncIterable):
        return content.__aiter__()
    if hasattr(content, "startProducing"):
        return Inlet(content)
    raise TypeError(f"the content is {type(content).__name__}: it wants bytes, what yields them, or a producer")


async def _piecesOf(content: bytes) -> AsyncIterator[bytes]:
    """A message that is there whole, in pieces between which others have their turn."""
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


@implementer(IConsumer)
class Inlet:
    """
    What a producer writes, as an iterator; it is paused while nobody asks for more.

    It begins with the first question.  Whoever does not read to the end calls L{stop}.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._producer: Any = None
        self._isStreaming = True
        self._hasBegun = False
        self._isOver = False
        self._isPaused = False
        self._failure: Failure | None = None
        self._pieces: list[bytes] = []
        self._arrived: Waiting[None] | None = None

    def __aiter__(self) -> Inlet:
        return self

    async def __anext__(self) -> bytes:
        if not self._hasBegun:
            self._begin()
        while not self._pieces:
            if self._failure is not None:
                self._failure.raiseException()
            if self._isOver:
                raise StopAsyncIteration
            arrived: Waiting[None] = Waiting()
            self._arrived = arrived
            self._resume()
            await arrived
        octets = b"".join(self._pieces)
        self._pieces.clear()
        return octets

    def stop(self) -> None:
        """No more is wanted."""
        if self._hasBegun and not self._isOver:
            self._isOver = True
            if self._producer is not None:
                self._producer.stopProducing()

    def _begin(self) -> None:
        self._hasBegun = True
        source = self._source
        if hasattr(source, "deliverTo"):
            ended = maybeDeferred(source.deliverTo, self)
        else:
            self._producer = source
            ended = maybeDeferred(source.startProducing, self)
        ended.addCallbacks(lambda _: self._ended(None), self._ended)

    def _ended(self, failure: Failure | None) -> None:
        if not self._isOver:
            self._isOver, self._failure = True, failure
        self._tell()

    def _resume(self) -> None:
        producer = self._producer
        if producer is None or not (self._isPaused or not self._isStreaming):
            return
        self._isPaused = False
        producer.resumeProducing()

    def _tell(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.called:
            arrived.callback(None)

    # --- IConsumer ---

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """C{IConsumer}."""
        self._producer, self._isStreaming = producer, streaming
        if self._isOver:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        """C{IConsumer}."""
        self._producer = None

    def write(self, data: bytes) -> None:
        """C{IConsumer}."""
        if self._isOver or not data:
            return
        self._pieces.append(data)
        if self._producer is not None and self._isStreaming and not self._isPaused:
            self._isPaused = True
            self._producer.pauseProducing()
        self._tell()
