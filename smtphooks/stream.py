"""
The message stream: what C{onData} reads a message from.

The protocol puts octets in while fewer than L{ROOM} wait; the hook takes them out in one of four ways, at its own
pace.  A message cut short never looks like a whole one: the stream either ends or fails.
This module knows neither the wire nor the dialogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from smtphooks.replies import TOO_LARGE, SMTPError

# Octets that wait for the hook before the stream is full.  One pull from the wire (at most 64 KiB) may go
# over it, and what the wire holds (at most 64 KiB less that pull) comes on top: less than 128 KiB in all.
ROOM = 16384


class ConsumerStopped(Exception):
    """The consumer that L{MessageStream.deliverTo} wrote to asked for no more; the message was not delivered whole."""


@implementer(IBodyProducer, IPushProducer)
class MessageStream:
    """
    One message, consumed in exactly one of these ways:

      - C{async for chunk in stream};
      - C{await stream.read()}, for small messages;
      - C{stream.deliverTo(consumer)}, a Twisted C{IConsumer};
      - as an C{IBodyProducer}, as in C{treq.post(url, data=stream)}.

    Hidden dots have been removed, line ends are as option C{bareNewline} says, the terminator is not included.

    @ivar byteLength: octets of the message so far; exact when it has ended.
    @ivar sizeExceeded: the message has more octets than option C{size}; unless option C{rejectOversized} is off, the
        stream ended with the last that it may have.
    @ivar buffered: octets that wait for the hook.
    @ivar length: always unknown, for C{IBodyProducer}.
    """

    __slots__ = (
        "_chunks",
        "_consumer",
        "_cutOversized",
        "_delivered",
        "_discarding",
        "_ended",
        "_failure",
        "_paused",
        "_registered",
        "_size",
        "_taken",
        "_wanted",
        "_wantsMore",
        "buffered",
        "byteLength",
        "sizeExceeded",
    )

    length = UNKNOWN_LENGTH

    def __init__(self, size: int = 0, cutOversized: bool = True, wantsMore: Callable[[], None] = lambda: None) -> None:
        """
        @param size: octets that the message may have, 0 for no limit.
        @param cutOversized: end the stream there.
        @param wantsMore: called whenever the hook has taken octets.
        """
        self.byteLength = 0
        self.buffered = 0
        self.sizeExceeded = False
        self._size = size
        self._cutOversized = cutOversized
        self._wantsMore = wantsMore
        self._chunks: list[bytes] = []
        self._ended = False
        self._failure: Failure | None = None
        self._discarding = False
        self._taken = False  # one of the ways to consume has been chosen
        self._wanted: Deferred[None] | None = None  # fires when there is something new
        self._consumer: Any = None
        self._registered = False  # this producer was registered here, not by the consumer's owner
        self._delivered: Deferred[None] | None = None
        self._paused = False

    # --- the protocol's side ---

    @property
    def isAwaited(self) -> bool:
        """The hook waits for this stream, and so learns by it if the message ends or fails."""
        return self._wanted is not None or self._delivered is not None

    def receive(self, data: bytes) -> None:
        """Octets have arrived."""
        self._add(data)
        self._serve()

    def finish(self, data: bytes = b"") -> None:
        """The message is whole, with these octets."""
        self._add(data)
        self._ended = True
        self._serve()

    def _add(self, data: bytes) -> None:
        self.byteLength += len(data)
        self.sizeExceeded = 0 < self._size < self.byteLength
        if self._ended or self._discarding or self._failure:
            return
        if self.sizeExceeded and self._cutOversized:
            data = data[: self._size - self.byteLength]
            self._ended = True
        if data:
            self._chunks.append(data)
            self.buffered += len(data)

    def fail(self, failure: Failure) -> None:
        """The message will not become whole, or may not be used; what was not read yet is gone."""
        if self._ended or self._failure:
            return
        self._failure = failure
        self._drop()
        self._serve()

    def discard(self) -> None:
        """The hook has ended; who reads on regardless must not take what it has for a whole message."""
        if self._ended and not self._chunks:
            return
        self._discarding = True
        self._drop()
        self._serve()

    def _maybeFailure(self) -> Failure | None:
        if self._discarding and self._failure is None:
            self._failure = Failure(RuntimeError("onData has ended, and its message cannot be read any more"))
        return self._failure

    def _drop(self) -> None:
        self._chunks.clear()
        self.buffered = 0

    def _serve(self) -> None:
        """Give what there is to who waits for it."""
        if self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            wanted.callback(None)
        elif self._delivered is not None:
            self._deliver()

    # --- the hook's side ---

    def _choose(self) -> None:
        if self._taken:
            raise RuntimeError("a MessageStream can be consumed once, and this one is being or has been")
        self._taken = True

    def _take(self) -> bytes:
        """All octets that wait."""
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._drop()
        return data

    def __aiter__(self) -> MessageStream:
        self._choose()
        return self

    async def __anext__(self) -> bytes:
        while True:
            failure = self._maybeFailure()
            if failure is not None:
                failure.raiseException()
            if self._chunks:
                data = self._take()
                self._wantsMore()
                return data
            if self._ended:
                raise StopAsyncIteration
            if self._wanted is not None:
                raise RuntimeError("a MessageStream is read by one reader at a time")
            self._wanted = Deferred(self._forget)
            await self._wanted

    def _forget(self, wanted: Deferred[None]) -> None:
        self._wanted = None

    async def read(self) -> bytes:
        """
        The whole message; for small ones, since all of it is held in memory.

        @raise twisted.internet.error.ConnectionLost: if the client left before its end.
        @raise SMTPError: if the message has a bare CR or LF and option C{bareNewline} is C{"reject"}.
        """
        return b"".join([chunk async for chunk in self])

    def deliverTo(self, consumer: IConsumer) -> Deferred[None]:
        """
        Write the message to a consumer, no faster than it wants.

        @return: fires with None when all was written; fails as L{read} does, with L{ConsumerStopped}, and with
            L{SMTPError} if the message passed option C{size} and so was not written whole.
        """
        delivered = self._beginDelivery(consumer)
        self._registered = True
        try:
            # A consumer that is gone stops its producer within this call.
            consumer.registerProducer(self, True)
        except BaseException:
            self._endDelivery()
            raise
        self._deliver()
        return delivered

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write the message to a consumer with which this producer is registered already (C{IBodyProducer})."""
        delivered = self._beginDelivery(consumer)
        self._deliver()
        return delivered

    def _beginDelivery(self, consumer: IConsumer) -> Deferred[None]:
        self._choose()
        self._consumer = consumer
        self._delivered = Deferred(self._stopDelivery)
        return self._delivered

    def pauseProducing(self) -> None:
        """C{IPushProducer}: write no more for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """C{IPushProducer}: go on writing."""
        self._paused = False
        self._deliver()

    def stopProducing(self) -> None:
        """C{IPushProducer}: write no more at all."""
        delivered = self._endDelivery()
        # An IBodyProducer that was stopped never fires its Deferred.
        if delivered is not None and self._registered:
            delivered.errback(ConsumerStopped("the consumer of the message asked for no more"))

    def _stopDelivery(self, delivered: Deferred[None]) -> None:
        if self._registered:
            self._consumer.unregisterProducer()
        self._endDelivery()

    def _endDelivery(self) -> Deferred[None] | None:
        delivered, self._delivered = self._delivered, None
        self._consumer = None
        return delivered

    def _deliver(self) -> None:
        while self._delivered is not None and self._chunks and not self._paused:
            # In this order: what wantsMore brings is written by a call within it.
            try:
                self._consumer.write(self._take())
            except Exception:
                # A fault of the hook's, which may not harm who brings the octets.
                delivered = self._endDelivery()
                if delivered is not None:
                    delivered.errback(Failure())
                return
            self._wantsMore()
        failure = self._maybeFailure()
        if self._delivered is None or self._chunks or not (self._ended or failure):
            return
        if failure is None and self.sizeExceeded and self._cutOversized:
            # Whoever the consumer hands it on to cannot look at sizeExceeded, and must not take it for whole.
            failure = Failure(SMTPError(TOO_LARGE.lines[0], TOO_LARGE.code, TOO_LARGE.enhancedCode))
        consumer, delivered = self._consumer, self._endDelivery()
        if self._registered:
            consumer.unregisterProducer()
        assert delivered is not None
        delivered.callback(failure)
