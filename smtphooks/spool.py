"""
The spool: a message that is received whole and kept, in memory or on disk, and can be read any number of times.

In: the stream of a message.  Out: streams that begin with its first octet, also while the message still arrives; then
each of them gets what arrives at once, and the slowest sets the pace.
This module knows a stream only by what it can do, and neither sessions nor options.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks.awaiting import Signal
from smtphooks.consumer import ConsumerStopped
from smtphooks.disk import UnnamedFile, refusalFor
from smtphooks.pieces import Pieces
from smtphooks.replies import SMTPError

log: Logger = Logger()

# Octets that a reader gets at once of what came before.
_BLOCK = 65536

# Once there is a file, small chunks are collected up to this size, so that not each of them needs a call in a thread.
_GATHERED = 16384


class Stream(Protocol):
    """What a spool needs of a C{MessageStream}."""

    buffered: int
    room: int

    @property
    def isAwaited(self) -> bool: ...

    def append(self, data: bytes, isLast: bool = False) -> None: ...

    def fail(self, failure: Failure) -> None: ...

    def discard(self) -> None: ...

    def deliverTo(self, consumer: IConsumer) -> Deferred[None]: ...


S = TypeVar("S", bound=Stream)


class Spool(Generic[S]):
    """
    A message, received once and read any number of times.

    It must be closed.  A reader of a closed spool fails, unless it has read all.

    @ivar isFailing: L{receive} fails, or has failed.
    @ivar unaware: the streams whose readers did not await octets then, and so have not learnt it.
    """

    def __init__(self, memory: int, makeStream: Callable[..., S]) -> None:
        """
        @param memory: a message of more octets goes to a file, all of it.
        @param makeStream: C{MessageStream}, or a function with the same arguments.
        """
        self.isFailing: bool = False
        self.unaware: list[S] = []
        self._memory = memory
        self._store = _Store(memory)
        self._makeStream = makeStream
        self._readers: list[_Reader[S]] = []
        self._intake: _Intake | None = None  # while it receives
        self._isClosed = False

    @property
    def length(self) -> int:
        """The octets that have been received; when L{receive} has returned, the length of the message."""
        return self._store.length

    def open(self) -> S:
        """
        A stream that reads the message from its first octet.

        Nothing is received while a reader that has got all there is has no room, so one that is to read no more must
        be told C{discard()}.  One that was opened when octets had come already is waited for once it has caught up.

        @raise RuntimeError: if the spool was closed, or the message is truncated.
        """
        if self._isClosed:
            raise RuntimeError("a spool that was closed cannot be read")
        reader = _Reader(self._store, partial(self._makeStream, spoolMemory=self._memory), self._tookOctets)
        self._readers.append(reader)
        return reader.stream

    async def receive(self, stream: S) -> None:
        """
        Receive a message to its end, which is also that of the readers; its failure closes the spool.

        @raise SMTPError: 552 if the stream ended at option C{size}; 452 if the disk is full, 451 if it fails.
        @raise twisted.internet.error.ConnectionLost: if the client disconnected before the end of the message.
        @raise RuntimeError: if the stream has been read, the spool has received a message, or it was closed.
        """
        if self._intake is not None or self._store.isWhole or self._isClosed:
            raise RuntimeError("a spool receives one message")
        self._intake = intake = _Intake(self._store, self._hand, self._hasRoom)
        delivery: Deferred[None] | None = None
        try:
            delivery = stream.deliverTo(intake)
            await delivery
            self._store.isWhole = True
            self._hand(b"")
            await intake.finish()
        except BaseException as error:
            reason = intake.error
            self._fail(reason or error)
            if delivery is not None:
                delivery.addErrback(lambda failure: None)  # if this coroutine was closed, nobody waits for it
            if reason is not None and isinstance(error, ConsumerStopped):
                raise reason from reason.__cause__
            raise
        finally:
            self._intake = None

    def close(self) -> None:
        """Free its memory and its file."""
        if self._isClosed:
            return
        self._isClosed = True
        if self._intake is not None:
            self._intake.stop(RuntimeError("the spool was closed before the end of its message"))
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.stream.discard()
        self._store.close()

    def _fail(self, error: BaseException) -> None:
        self.isFailing = True
        if isinstance(error, Exception) and not isinstance(error, CancelledError):
            failure = Failure(error)
            for reader in tuple(self._readers):
                if not reader.stream.isAwaited:
                    self.unaware.append(reader.stream)
                reader.stream.fail(failure)
        self.close()

    def _hand(self, data: bytes) -> None:
        """Octets have arrived, or with none the end: hand them to each reader that had got all before."""
        end = self._store.length - len(data)
        for reader in tuple(self._readers):
            if reader.offset == end:
                reader.hand(data)

    def _hasRoom(self) -> bool:
        end = self._store.length
        return all(reader.stream.buffered < reader.stream.room for reader in self._readers if reader.offset == end)

    def _tookOctets(self) -> None:
        if self._intake is not None:
            self._intake.regulate()


class _Store:
    """
    Octets in their order: in memory, or the first of them in a file, and those that have just come in memory.

    @ivar length: how many there are.
    @ivar isWhole: there will be no more.
    """

    def __init__(self, memory: int) -> None:
        self.length = 0
        self.isWhole = False
        self._memory = memory
        self._held = Pieces()
        self._file: UnnamedFile | None = None

    def add(self, data: bytes) -> None:
        """Append octets."""
        self._held.add(data)
        self.length += len(data)

    @property
    def mustWrite(self) -> bool:
        """There is more in memory than may be, or the rest of a file."""
        if self._file is None:
            return self._held.octets > self._memory
        return self._held.octets > (0 if self.isWhole else _GATHERED)

    def write(self) -> Deferred[None]:
        """Move what is in memory to the file.  Fails with C{OSError}."""
        if self._file is None:
            self._file = UnnamedFile()
        data = self._held.join()
        # It can be read from memory until it is written.
        return self._file.write(data, self.length - len(data)).addCallback(lambda _: self._held.drop(len(data)))

    def read(self, offset: int) -> bytes | Deferred[bytes]:
        """Some octets from an offset on.  Fails with C{OSError}."""
        inFile = self.length - self._held.octets - offset
        if inFile <= 0:
            return self._held.join()[-inFile : _BLOCK - inFile]
        assert self._file is not None
        return self._file.read(min(inFile, _BLOCK), offset)

    def close(self) -> None:
        """Free all."""
        self._held.clear()
        if self._file is not None:
            self._file.close()


@implementer(IConsumer)
class _Intake:
    """
    The consumer through which a spool receives: it pauses its producer while the file is written, or a reader is full.

    @ivar error: why it has stopped, if it has.
    """

    def __init__(self, store: _Store, hand: Callable[[bytes], None], hasRoom: Callable[[], bool]) -> None:
        self.error: Exception | None = None
        self._store = store
        self._hand = hand
        self._hasRoom = hasRoom
        self._producer: Any = None
        self._isPaused = False
        self._isWriting = False
        self._written: Signal | None = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def write(self, data: bytes) -> None:
        self._store.add(data)
        self._hand(data)
        self.regulate()

    def regulate(self) -> None:
        """Write to the file if need be, and pause or resume the producer."""
        if self._producer is None:
            return
        if self._store.mustWrite and not self._isWriting:
            self._write()
        mustPause = self._isWriting or not self._hasRoom()
        if self._producer is not None and mustPause is not self._isPaused:
            self._isPaused = mustPause
            if mustPause:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()

    async def finish(self) -> None:
        """Wait until all is written that belongs into the file."""
        while self.error is None and (self._isWriting or self._store.mustWrite):
            self._written = Signal()
            if not self._isWriting:
                self._write()
            try:
                await self._written
            finally:
                self._written = None
        if self.error is not None:
            raise self.error

    def stop(self, error: Exception) -> None:
        """Receive no more."""
        self.error = self.error or error
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if self._written is not None:
            self._written.fire()

    def _write(self) -> None:
        self._isWriting = True
        self._store.write().addCallbacks(self._wrote, self._failed)

    def _wrote(self, _: object) -> None:
        self._isWriting = False
        if self._written is not None:
            self._written.fire()
        self.regulate()

    def _failed(self, failure: Failure) -> None:
        self._isWriting = False
        self.stop(_refusalFor(failure))


class _Reader(Generic[S]):
    """
    One reader: it takes what came before as it asks for it, and is handed what comes then.

    @ivar stream: what reads.
    @ivar offset: the octets that the stream has got.
    """

    def __init__(self, store: _Store, makeStream: Callable[..., S], tookOctets: Callable[[], None]) -> None:
        self.offset = 0
        self._store = store
        self._isReading = False
        self.stream = makeStream(wantsMore=tookOctets, asks=self._ask)

    def hand(self, data: bytes) -> None:
        """The next octets."""
        self.offset += len(data)
        self.stream.append(data, isLast=self._store.isWhole and self.offset == self._store.length)

    def _ask(self) -> None:
        if self._isReading or (self.offset == self._store.length and not self._store.isWhole):
            return
        found = self._store.read(self.offset)
        if isinstance(found, bytes):
            self.hand(found)
        else:
            self._isReading = True
            found.addCallbacks(self._came, self._failed)

    def _came(self, data: bytes) -> None:
        self._isReading = False
        self.hand(data)

    def _failed(self, failure: Failure) -> None:
        self.stream.fail(Failure(_refusalFor(failure)))


def _refusalFor(failure: Failure) -> Exception:
    """The error that an operation on the file becomes."""
    error = failure.value
    if not isinstance(error, OSError):
        return error if isinstance(error, Exception) else RuntimeError(str(error))
    log.error(
        "a message cannot be spooled in {folder}: {error}",
        folder=tempfile.tempdir or "the folder for temporary files",
        error=error,
    )
    refusal: SMTPError = refusalFor(error)
    refusal.__cause__ = error
    return refusal
