"""
The message stream: the object from which C{onData} reads a message.

The protocol puts octets in while there is L{room <MessageStream.room>}; the hook takes them out in one of four ways, at
its own pace.  A truncated message is never taken for a whole one: the stream either ends or fails.  Before it reads,
the hook may ask for the header, and put fields in front of it.
This module knows neither the wire nor the dialogue.
"""

from __future__ import annotations

from collections.abc import Callable
from email.message import Message

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from smtphooks.awaiting import Signal
from smtphooks.consumer import ConsumerStopped, ConsumerWriter
from smtphooks.header import checkedFields, maybeSeparator, parseHeader, receiveHeader
from smtphooks.pieces import Pieces
from smtphooks.replies import TOO_LARGE
from smtphooks.spool import Spool

# Octets that the stream buffers before it is full.  One pull from the wire (at most 64 KiB) may exceed it, and the
# wire buffers at most 64 KiB less that pull: together less than 128 KiB.
ROOM = 16384

_ONE_READER = "a MessageStream is read by one reader at a time"


@implementer(IBodyProducer, IPushProducer)
class MessageStream:
    """
    One message, consumed in exactly one of these ways:

      - C{async for chunk in stream};
      - C{await stream.read()}, for small messages;
      - C{stream.deliverTo(consumer)}, a Twisted C{IConsumer};
      - as an C{IBodyProducer}, as in C{treq.post(url, data=stream)}.

    Stuffed dots are removed, line ends are as option C{bareNewline} says, the final dot is not included.
    L{header} and L{prepend} must be called before.

    @ivar byteLength: octets of the message so far; its length when it has ended.
    @ivar sizeExceeded: the message passed option C{size}; unless C{rejectOversized} is off, the stream ended there.
    @ivar failure: why the message was cut or must not be used; None if that is not so.
    @ivar buffered: octets that the hook has not yet read.
    @ivar isPaused: a consumer takes no octets.
    @ivar room: the number of buffered octets at which the stream is full.
    """

    __slots__ = (
        *("_arrived", "_asks", "_chunks", "_consumer", "_cutOversized", "_ended", "_header", "_isCut", "_iterated"),
        *("_mustLook", "_prefix", "_size", "_spool", "_spoolMemory", "_taken", "_wanted", "_wantsMore"),
        *("buffered", "byteLength", "failure", "isPaused", "room", "sizeExceeded"),
    )

    buffered: int
    byteLength: int
    isPaused: bool
    sizeExceeded: bool

    length = UNKNOWN_LENGTH  # for IBodyProducer

    def __init__(
        self,
        size: int = 0,
        cutOversized: bool = True,
        wantsMore: Callable[[], None] = lambda: None,
        spoolMemory: int = 262144,
        asks: Callable[[], object] | None = None,
    ) -> None:
        """
        @param size: the maximum size of the message in octets, 0 for no limit.
        @param cutOversized: end the stream at that size.
        @param wantsMore: called whenever the hook has read octets.
        @param spoolMemory: L{spool} puts a message of more octets into a file.
        @param asks: called when a reader is about to wait for octets, or a consumer that is not paused has got all,
            perhaps within L{append}.  It may append octets, end or fail this stream, and must not raise.
        """
        self.byteLength = self.buffered = 0
        self.room: int = ROOM
        self.sizeExceeded = self._ended = self.isPaused = False
        self._size = size
        self._cutOversized = cutOversized
        self._wantsMore = wantsMore
        self._asks = asks
        self._spoolMemory = spoolMemory
        self._spool: Spool[MessageStream] | None = None
        self._chunks: list[bytes] = []  # for the reader
        self._arrived = self._chunks  # from the client; a list of its own until the separator after the prefix is known
        self._prefix = b""  # the hook's own header fields
        self._header: Message | None = None
        self.failure: Failure | None = None
        self._isCut = False  # failed or discarded: further octets are only counted
        self._mustLook: object = asks  # true if a reader that is about to wait must call _look: is cut, or has asks
        self._taken = self._iterated = False  # one of the ways to read has been chosen; and it is async for
        self._wanted: Signal | None = None  # the reader awaits it; set until the reader has resumed
        self._consumer: ConsumerWriter | None = None

    # --- the protocol's side ---

    @property
    def isAwaited(self) -> bool:
        """The hook awaits this stream, so the end or failure of the message resumes it."""
        return self._wanted is not None or (self._consumer is not None and self._consumer.isOpen)

    def append(self, data: bytes, isLast: bool = False) -> None:
        """Octets have arrived; the message may be complete with them."""
        self.byteLength += len(data)
        if self._size:
            self.sizeExceeded = self._size < self.byteLength
        if not (self._ended or self._isCut):
            if self.sizeExceeded and self._cutOversized:
                data = data[: self._size - self.byteLength]
                isLast = True
            if data:
                self._arrived.append(data)
                self.buffered += len(data)
        if isLast:
            self._ended = True
        self._serve()

    def allow(self, octets: int) -> None:
        """Let the message be larger by so many octets."""
        self._size += octets if self._size else 0

    def fail(self, failure: Failure) -> None:
        """The message is truncated or must not be used; drop the octets that were not read."""
        if self._ended or self.failure:
            return
        self.failure = failure
        self._drop()

    def discard(self) -> None:
        """The hook has ended; code that still reads must not take a part for the whole message."""
        if not self._ended or self._chunks:
            self._drop()
            if self._asks is not None:
                self._wantsMore()  # whoever feeds this reader may wait for it
        if self._spool is not None:
            self._spool.close()

    def _maybeFailure(self) -> Failure | None:
        if self._isCut and self.failure is None:
            self.failure = Failure(RuntimeError("onData has ended, and its message cannot be read any more"))
        return self.failure

    def _drop(self) -> None:
        self._isCut = self._mustLook = True
        self._chunks.clear()
        self._arrived.clear()
        self.buffered = 0
        self._serve()

    def _serve(self) -> None:
        """Resume the reader, or write to the consumer."""
        if self._arrived is not self._chunks:
            self._maybeJoin()
        if self._wanted is not None:
            self._wanted.fire()
        elif self._consumer is not None:
            self._deliver(self._consumer)

    def _maybeJoin(self) -> None:
        """Append the message to the hook's own fields, once the separator is known."""
        separator = maybeSeparator(b"".join(self._arrived), more=not self._ended)
        if separator is not None:
            self._chunks += [separator, *self._arrived] if separator else self._arrived
            self._prefix += separator
            self.buffered += len(separator)
            self._arrived = self._chunks

    # --- the hook's side, before it reads ---

    async def header(self) -> Message:
        """
        The header of the message, which can still be read from its first octet.

        @raise SMTPError: 552, if the header is larger than 256 KiB; and as L{read} does.
        @raise RuntimeError: if reading has begun.
        """
        self._mustBeUnread("header")
        if self._header is None:
            octets = await receiveHeader(self, self._chunks, self.more, self._wantsMore)
            self._header = parseHeader(octets, self._prefix)
        return self._header

    def prepend(self, octets: bytes) -> None:
        """
        Put header fields in front of the message, and of those prepended before.

        If the message does not begin with a field, an empty line separates it from them.  They count neither in
        C{byteLength} nor for option C{size}.

        @param octets: whole fields; each line ends with CRLF.
        @raise ValueError: for other octets.
        @raise RuntimeError: if reading has begun.
        """
        fields = checkedFields(octets, "prepend() takes")
        self._mustBeUnread("prepend")
        self._prefix = fields + self._prefix
        self._header = None

    @property
    def prepended(self) -> int:
        """Octets that L{prepend} has put in front; the empty line after them, if any, counts once it is known."""
        return len(self._prefix)

    def _mustBeUnread(self, method: str) -> None:
        if self._taken:
            raise RuntimeError(f"{method}() comes before a MessageStream is read, and this one is being or has been")

    # --- the hook's side: the four ways to read ---

    def _choose(self) -> None:
        if self._taken:
            raise RuntimeError("a MessageStream can be consumed once, and this one is being or has been")
        if self._wanted is not None:
            raise RuntimeError(_ONE_READER)
        self._taken = True
        if self._prefix and not self._isCut:
            self._chunks = [self._prefix]
            self.buffered += len(self._prefix)
            self._maybeJoin()

    def _take(self) -> bytes:
        """Take all buffered octets."""
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered -= len(data)
        return data

    async def more(self, held: int = 0) -> bool:
        """Wait for more than C{held} chunks; False if the stream has ended before."""
        while len(self._chunks) <= held:
            if self._look():
                continue
            if self._ended:
                return False
            self._wanted = Signal()
            try:
                await self._wanted
            finally:
                self._wanted = None
        return True

    def _look(self) -> bool:
        """Before a reader waits: raise what is wrong, and ask for octets; True if something has come of that."""
        failure = self._maybeFailure()
        if failure is not None:
            failure.raiseException()
        if self._wanted is not None:
            raise RuntimeError(_ONE_READER)
        return self._ask()

    def _ask(self) -> bool:
        if self._asks is None or self._ended or self._isCut:
            return False
        octets = self.byteLength
        self._asks()
        # Not all that has come is in _chunks, while the separator after the prefix is not known.
        return self.byteLength != octets or self._ended or self._isCut

    def __aiter__(self) -> MessageStream:
        """The stream itself: a second C{async for} continues where the first has stopped."""
        if not self._iterated:
            self._choose()
            self._iterated = True
        return self

    async def __anext__(self) -> bytes:
        if not self._iterated:
            self.__aiter__()
        while not self._chunks:  # as in more: awaiting that coroutine would double the cost
            if (self._mustLook or self._wanted is not None) and self._look():
                continue
            if self._ended:
                raise StopAsyncIteration
            self._wanted = Signal()
            try:
                await self._wanted
            finally:
                self._wanted = None
        data = self._take()
        self._wantsMore()
        return data

    async def drain(self) -> None:
        """Read what has not been read, whatever way the hook has read, and drop it; code that still reads fails."""
        if self._consumer is not None:
            self._consumer.abandon()
        self._taken = self._iterated = True
        async for _ in self:
            pass
        self._drop()

    async def read(self, limit: int | None = 33554432) -> bytes:
        """
        The whole message; for small ones, as all of it is held in memory.

        @param limit: its maximum size in octets; 0 or None for no limit.
        @raise twisted.internet.error.ConnectionLost: if the client disconnected before the end of the message.
        @raise SMTPError: 552 above the limit; 550 for a bare CR or LF if option C{bareNewline} is C{"reject"}.
        """
        self._choose()
        pieces = Pieces()
        while self._chunks or await self.more():
            pieces.add(self._take())
            if limit and pieces.octets > limit:
                pieces.clear()  # the traceback would keep them in memory
                raise TOO_LARGE.asError()
            self._wantsMore()
        return pieces.join()

    async def spool(self) -> Spool[MessageStream]:
        """
        The whole message, to be read any number of times until C{onData} has ended.

        @raise SMTPError: as L{Spool.receive} does; otherwise as L{read}.
        """
        self._mustBeUnread("spool")
        self._spool = spool = Spool(self._spoolMemory, MessageStream)
        await spool.receive(self)
        return spool

    def deliverTo(self, consumer: IConsumer) -> Deferred[None]:
        """
        Write the message to a consumer, which may pause this producer.

        @return: fires with None when the whole message is written; fails as L{read} does, with L{ConsumerStopped}, with
            an exception of the consumer, and with L{SMTPError} if the stream ended at option C{size}.
        """
        self._choose()
        self._consumer = writer = ConsumerWriter(consumer)
        ended = writer.ended
        writer.register(self)
        self._deliver(writer)
        return ended

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """C{IBodyProducer}: write the message to a consumer with which this producer is registered already."""
        self._choose()
        self._consumer = writer = ConsumerWriter(consumer)
        ended = writer.ended
        self._deliver(writer)
        return ended

    def pauseProducing(self) -> None:
        """C{IPushProducer}: stop writing for now."""
        self.isPaused = True

    def resumeProducing(self) -> None:
        """C{IPushProducer}: resume writing."""
        self.isPaused = False
        self._serve()

    def stopProducing(self) -> None:
        """C{IPushProducer}: stop writing for good."""
        if self._consumer is not None:
            self._consumer.stopDelivery(ConsumerStopped("the consumer of the message asked for no more"))

    def _deliver(self, consumer: ConsumerWriter) -> None:
        if consumer.isBusy:
            return
        # Octets that were asked for are written by this loop, not within append(): the stack would grow with them.
        consumer.isBusy = asks = self._asks is not None
        while consumer.isOpen and not self.isPaused and (self._chunks or (asks and self._ask())):
            if self._chunks:
                # wantsMore comes last: octets that arrive within that call are written within it.
                consumer.write(self._take())
                self._wantsMore()
        consumer.isBusy = False
        failure = self._maybeFailure()
        if not consumer.isOpen or self._chunks or not (self._ended or failure):
            return
        if failure is None and self.sizeExceeded and self._cutOversized:
            # Code behind the consumer cannot look at sizeExceeded, and must not take this for the whole message.
            failure = Failure(TOO_LARGE.asError())
        consumer.endDelivery(failure)
