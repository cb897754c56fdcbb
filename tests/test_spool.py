"""The spool: a message received once and read any number of times, with real files, also while it arrives."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import subprocess
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.threads import deferToThread

from smtphooks import MessageStream, SMTPError, Spool, disk
from smtphooks.stream import ROOM
from tests.conftest import Logged
from tests.support import ENVELOPE, connect, cutUp
from tests.test_awaiting import loop, run, settle  # noqa: F401
from tests.test_stream import LOST, MANY, WAYS, Consumer, Result, Source, iterate, readAll

pytestmark = pytest.mark.usefixtures("logged")

Way = Callable[[MessageStream], Coroutine[Any, Any, bytes]]

MESSAGE = bytes(range(256)) * 1200  # more than a block
MEMORY = [0, 100, 1 << 20]
BLOCK = 65536


class Pool:
    """
    The thread pool, for a test without a reactor: an operation runs when the test says so.

    @ivar names: of all operations so far.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.names: list[str] = []

    def defer(self, operation: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        ended: Deferred[Any] = Deferred()
        self.waiting.append((ended, operation, arguments))
        self.names.append(operation.__name__)
        return ended

    def step(self) -> None:
        """Run one operation."""
        ended, operation, arguments = self.waiting.pop(0)
        try:
            result = operation(*arguments)
        except Exception:
            ended.errback()
        else:
            ended.callback(result)

    def run(self) -> None:
        """Run operations until there are none."""
        while self.waiting:
            self.step()


@contextmanager
def pooled() -> Iterator[Pool]:
    pool = Pool()
    original, disk.deferToThread = disk.deferToThread, pool.defer  # type: ignore[assignment]
    try:
        yield pool
        pool.run()
    finally:
        disk.deferToThread = original


@pytest.fixture
def pool() -> Iterator[Pool]:
    with pooled() as pool:
        yield pool


@pytest.fixture
def descriptors() -> Iterator[Callable[[], int]]:
    """How many more files are open than when the test began; none may be left at its end."""
    gc.collect()
    tempfile.gettempdir()
    before = len(os.listdir("/proc/self/fd"))

    def more() -> int:
        return len(os.listdir("/proc/self/fd")) - before

    yield more
    assert more() == 0


def makeSpool(memory: int = 1 << 20) -> Spool[MessageStream]:
    return Spool(memory, MessageStream)


def received(pool: Pool, memory: int, message: bytes = MESSAGE) -> Spool[MessageStream]:
    """A spool that has received a message."""
    spool = makeSpool(memory)
    stream = MessageStream()
    result = Result(spool.receive(stream))
    for start in range(0, len(message), 50000):
        stream.append(message[start : start + 50000])
        pool.run()
    stream.append(b"", isLast=True)
    pool.run()
    assert result.values == [None]
    return spool


def readWith(pool: Pool, *waited: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of coroutines that need nothing but the pool."""
    results = [Result(each) for each in waited]
    pool.run()
    assert [result.failures for result in results] == [[]] * len(results)
    return [value for result in results for value in result.values]


# --- received, and read afterwards ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("octets", [0, 1, 100, 101, BLOCK, BLOCK + 1, len(MESSAGE)])
def test_it_is_read_in_every_way_as_often_as_one_likes(pool: Pool, way: Way, memory: int, octets: int) -> None:
    message = MESSAGE[:octets]
    spool = received(pool, memory, message)
    assert spool.length == octets
    for _ in range(3):
        assert readWith(pool, way(spool.open())) == [message]
    spool.close()


@pytest.mark.parametrize("memory", MEMORY)
def test_several_read_it_at_once_each_at_its_own_pace(pool: Pool, memory: int) -> None:
    spool = received(pool, memory)
    early = spool.open()
    first = Result(anext(early))
    pool.run()
    assert readWith(pool, *(way(spool.open()) for way in WAYS)) == [MESSAGE] * len(WAYS)
    assert readWith(pool, iterate(early)) == [MESSAGE[len(first.values[0]) :]]
    spool.close()


@pytest.mark.parametrize("memory", MEMORY)
def test_header_and_fields_in_front_are_those_of_one_reader(pool: Pool, memory: int) -> None:
    async def both(stream: MessageStream) -> Any:
        stream.prepend(b"Ours: 1\r\n")
        return (await stream.header()).items(), await stream.read()

    message = b"Subject: a\r\n\r\n" + MESSAGE
    spool = received(pool, memory, message)
    assert readWith(pool, both(spool.open()), readAll(spool.open())) == [
        ([("Ours", "1"), ("Subject", "a")], b"Ours: 1\r\n" + message),
        message,
    ]
    spool.close()


@pytest.mark.parametrize("memory", MEMORY)
def test_no_more_is_read_from_the_file_than_a_reader_takes(pool: Pool, memory: int) -> None:
    spool = received(pool, memory)
    stream = spool.open()
    consumer = Consumer(stream.pauseProducing)
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    while result.isOpen:
        pool.run()
        assert stream.buffered <= BLOCK
        stream.resumeProducing()
    assert consumer.got == MESSAGE
    assert max(map(len, consumer.chunks)) <= BLOCK
    spool.close()


@pytest.mark.parametrize(
    ("octets", "memory", "isStored"), [(0, 0, False), (1, 0, True), (9, 10, False), (10, 10, False), (11, 10, True)]
)
def test_a_message_over_the_memory_goes_to_the_file_whole(
    pool: Pool, descriptors: Callable[[], int], octets: int, memory: int, isStored: bool
) -> None:
    spool = makeSpool(memory)
    stream = MessageStream()
    result = Result(spool.receive(stream))
    for number in range(octets):
        stream.append(MESSAGE[number : number + 1])
        pool.run()
    stream.append(b"", isLast=True)
    pool.run()
    assert result.values == [None]
    assert descriptors() == isStored
    held = spool._store._held.octets
    assert held == (0 if isStored else octets)
    assert readWith(pool, spool.open().read()) == [MESSAGE[:octets]]
    spool.close()
    pool.run()


def test_a_consumer_that_resumes_while_the_file_is_read_gets_each_octet_once(pool: Pool) -> None:
    spool = received(pool, 0)
    stream = spool.open()
    consumer = Consumer()
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    while pool.waiting:
        stream.resumeProducing()
        assert len(pool.waiting) == 1
        pool.step()
    assert (result.values, consumer.got) == ([None], MESSAGE)
    spool.close()


@pytest.mark.parametrize("isWritten", [True, False])
def test_the_file_is_not_closed_while_a_thread_works_on_it(
    pool: Pool, descriptors: Callable[[], int], isWritten: bool
) -> None:
    spool = makeSpool(0)
    stream = MessageStream()
    result = Result(spool.receive(stream))
    stream.append(MESSAGE)
    pool.run()
    if isWritten:
        stream.append(b"", isLast=True)
        reading = [Result(anext(spool.open())) for _ in range(2)]
    else:
        stream.append(MESSAGE)
        reading = []
    running = len(pool.waiting)
    assert running == len(reading) or not isWritten
    spool.close()
    for left in reversed(range(running)):
        assert "_release" not in pool.names
        pool.step()
        assert descriptors() == 1
        assert len(pool.waiting) == (left or 1)
    pool.run()
    assert descriptors() == 0
    assert not result.isOpen


def test_small_chunks_do_not_each_need_a_thread(pool: Pool) -> None:
    spool = makeSpool(0)
    stream = MessageStream()
    result = Result(spool.receive(stream))
    for _ in range(4 * ROOM):
        stream.append(b"xy")
        pool.run()
    stream.append(b"", isLast=True)
    pool.run()
    assert result.values == [None]
    assert len(pool.names) < 12
    spool.close()


def test_the_file_has_no_name(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = received(pool, 0)
    assert pool.names
    assert not list(tmp_path.iterdir())
    spool.close()


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_the_reactor_thread_never_touches_the_file(
    descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    def spy(name: str) -> None:
        original = getattr(os, name)

        def spied(*arguments: Any) -> Any:
            threads.add(threading.current_thread())
            return original(*arguments)

        monkeypatch.setattr(os, name, spied)

    for name in ("pwrite", "pread", "dup", "close"):
        spy(name)
    closed: Deferred[None] = Deferred()
    release = disk.UnnamedFile._release

    def released(file: disk.UnnamedFile) -> None:
        from twisted.internet import reactor

        isOpen = file._fd >= 0
        release(file)
        if isOpen:
            reactor.callFromThread(closed.callback, None)  # type: ignore[attr-defined]

    monkeypatch.setattr(disk.UnnamedFile, "_release", released)
    stream = MessageStream()
    spool = makeSpool(0)
    receiving = ensureDeferred(spool.receive(stream))
    stream.append(MESSAGE, isLast=True)
    await receiving
    assert await spool.open().read() == MESSAGE
    assert descriptors() == 1
    spool.close()
    await closed
    assert threads
    assert threading.current_thread() not in threads


# --- read while it arrives ---


@pytest.mark.parametrize("memory", MEMORY)
def test_readers_get_each_chunk_itself_as_it_arrives(pool: Pool, memory: int) -> None:
    spool = makeSpool(memory)
    readers = [spool.open(), spool.open()]
    stream = MessageStream()
    result = Result(spool.receive(stream))
    for start in range(0, len(MESSAGE), 40000):
        chunk = MESSAGE[start : start + 40000]
        waiting = [Result(anext(reader)) for reader in readers]
        stream.append(chunk)
        for each in waiting:
            assert each.values[0] is chunk
        pool.run()
    waiting = [Result(anext(reader)) for reader in readers]
    stream.append(b"", isLast=True)
    assert [type(each.failures[0]) for each in waiting] == [StopAsyncIteration] * 2
    pool.run()
    assert result.values == [None]
    assert "_read" not in pool.names
    assert [(reader.byteLength, reader.sizeExceeded) for reader in readers] == [(len(MESSAGE), False)] * 2
    spool.close()


@pytest.mark.parametrize("ways", [[one, other] for one in WAYS for other in WAYS])
@pytest.mark.parametrize("memory", MEMORY)
def test_readers_follow_in_every_way(pool: Pool, ways: list[Way], memory: int) -> None:
    spool = makeSpool(memory)
    results = [Result(way(spool.open())) for way in ways]
    stream = MessageStream()
    receiving = Result(spool.receive(stream))
    for start in range(0, len(MESSAGE), 1000):
        stream.append(MESSAGE[start : start + 1000])
        pool.run()
    assert [each.isOpen for each in [*results, receiving]] == [True] * 3
    stream.append(b"", isLast=True)
    pool.run()
    assert [each.values for each in [*results, receiving]] == [[MESSAGE], [MESSAGE], [None]]
    spool.close()


def feedAll(pool: Pool, stream: MessageStream, octets: int = 10 * BLOCK) -> int:
    """Give a stream octets as long as it has room; how many it took."""
    taken = 0
    while stream.buffered < stream.room and taken < octets:
        stream.append(bytes(1024))
        taken += 1024
        pool.run()
    return taken


@pytest.mark.parametrize("memory", MEMORY)
def test_the_slowest_reader_sets_the_pace(pool: Pool, memory: int) -> None:
    spool = makeSpool(memory)
    slow, fast = spool.open(), spool.open()
    fastest = Result(fast.read())
    stream = MessageStream()
    Result(spool.receive(stream))
    assert feedAll(pool, stream) == 2 * ROOM
    assert (spool.length, slow.buffered, fast.byteLength) == (ROOM, ROOM, ROOM)
    for turns in (2, 3):
        assert len(Result(anext(slow)).values[0]) == ROOM
        feedAll(pool, stream)
        assert (spool.length, slow.buffered, stream.buffered) == (turns * ROOM, ROOM, ROOM)
    slow.discard()
    assert feedAll(pool, stream) == 10 * BLOCK
    assert slow.buffered == 0
    stream.append(b"", isLast=True)
    assert len(fastest.values[0]) == 11 * BLOCK
    spool.close()


@pytest.mark.parametrize("memory", MEMORY)
def test_a_paused_consumer_sets_the_pace_and_goes_on(pool: Pool, memory: int) -> None:
    spool = makeSpool(memory)
    slow = spool.open()
    consumer = Consumer(slow.pauseProducing)
    reading = Result(slow.deliverTo(consumer))  # type: ignore[arg-type]
    stream = MessageStream()
    receiving = Result(spool.receive(stream))
    fed = feedAll(pool, stream)
    assert fed < 4 * ROOM
    while len(consumer.got) < fed:
        slow.resumeProducing()
        pool.run()
    stream.append(b"", isLast=True)
    pool.run()
    assert (consumer.got, reading.values, receiving.values) == (bytes(fed), [None], [None])
    spool.close()


def test_a_reader_that_awaits_the_header_has_room_for_it(pool: Pool) -> None:
    spool = makeSpool()
    reader = spool.open()
    stream = MessageStream()
    Result(spool.receive(stream))
    header = b"X: %s\r\n" % (b"x" * 900) * 100
    stream.append(header[:ROOM])
    stream.append(header[ROOM:])
    assert spool.length == ROOM
    result = Result(reader.header())
    stream.append(b"\r\ntext")
    assert len(result.values[0].items()) == 100
    spool.close()


@pytest.mark.parametrize("memory", MEMORY)
def test_the_rest_is_received_without_readers(pool: Pool, memory: int) -> None:
    spool = makeSpool(memory)
    readers = [spool.open(), spool.open()]
    stream = MessageStream()
    receiving = Result(spool.receive(stream))
    stream.append(MESSAGE[:100])
    for reader in readers:
        reader.discard()
    for start in range(100, len(MESSAGE), 1000):
        stream.append(MESSAGE[start : start + 1000])
        pool.run()
    stream.append(b"", isLast=True)
    pool.run()
    assert receiving.values == [None]
    assert readWith(pool, spool.open().read()) == [MESSAGE]
    assert "onData has ended" in str(Result(readers[0].read()).failures[0])
    spool.close()


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("way", WAYS)
def test_a_reader_that_comes_late_catches_up(pool: Pool, memory: int, way: Way) -> None:
    spool = makeSpool(memory)
    stream = MessageStream()
    receiving = Result(spool.receive(stream))
    pieces = [MESSAGE[start : start + 30000] for start in range(0, len(MESSAGE), 30000)]
    results = []
    for piece in pieces:
        results.append(Result(way(spool.open())))
        stream.append(piece)
        pool.run()
    results.append(Result(way(spool.open())))
    stream.append(b"", isLast=True)
    pool.run()
    assert [result.values for result in results] == [[MESSAGE]] * (len(pieces) + 1)
    assert receiving.values == [None]
    spool.close()


@pytest.mark.parametrize("memory", MEMORY)
def test_a_reader_may_spool_in_turn_with_the_same_memory(pool: Pool, memory: int) -> None:
    async def inner() -> bytes:
        spool = await received(pool, memory).open().spool()
        assert (spool._store._file is not None) is (memory < len(MESSAGE))
        try:
            return await spool.open().read()
        finally:
            spool.close()

    assert readWith(pool, inner()) == [MESSAGE]


def test_a_reader_is_not_waited_for_before_it_has_caught_up(pool: Pool) -> None:
    spool = makeSpool()
    stream = MessageStream()
    receiving = Result(spool.receive(stream))
    stream.append(MESSAGE)
    late = spool.open()
    first = Result(anext(late))
    assert feedAll(pool, stream) == 10 * BLOCK
    stream.append(b"", isLast=True)
    assert receiving.values == [None]
    whole = MESSAGE + bytes(10 * BLOCK)
    assert readWith(pool, iterate(late)) == [whole[len(first.values[0]) :]]
    spool.close()


def test_the_octets_of_a_reader_that_has_not_caught_up_do_not_count(pool: Pool) -> None:
    spool = makeSpool()
    stream = MessageStream()
    Result(spool.receive(stream))
    stream.append(b"Subject: a\r\n\r\n" + MESSAGE)
    late = spool.open()
    assert Result(late.header()).values
    assert late.buffered >= late.room
    assert feedAll(pool, stream) == 10 * BLOCK
    spool.close()


def test_nothing_is_received_while_the_file_is_written(pool: Pool) -> None:
    spool = makeSpool(100)
    stream = MessageStream()
    Result(spool.receive(stream))
    stream.append(bytes(5000))
    stream.append(b"more")
    assert (len(pool.waiting), spool.length, stream.buffered) == (1, 5000, 4)
    pool.run()
    assert (spool.length, stream.buffered) == (5004, 0)
    spool.close()


def test_octets_that_are_being_written_can_be_read(pool: Pool) -> None:
    spool = makeSpool(100)
    stream = MessageStream()
    receiving = Result(spool.receive(stream))
    stream.append(MESSAGE)
    assert len(pool.waiting) == 1
    late = Result(spool.open().read())
    stream.append(b"", isLast=True)
    assert late.values == [MESSAGE]
    assert receiving.isOpen
    pool.run()
    assert receiving.values == [None]
    spool.close()


def test_readers_may_open_and_discard_others_as_octets_come(pool: Pool) -> None:
    def doing() -> None:
        if len(opened) < 20:
            opened.append(Result(spool.open().read()))
        elif not other.byteLength:
            other.discard()

    spool = makeSpool(1000)
    opened: list[Result] = []
    consumer = Consumer(doing)
    result = Result(spool.open().deliverTo(consumer))  # type: ignore[arg-type]
    other = spool.open()
    stream = MessageStream()
    receiving = Result(spool.receive(stream))
    for start in range(0, len(MESSAGE), 1000):
        stream.append(MESSAGE[start : start + 1000])
        if other.buffered:
            other.discard()
        pool.run()
    stream.append(b"", isLast=True)
    pool.run()
    assert (result.values, receiving.values, consumer.got) == ([None], [None], MESSAGE)
    assert [each.values for each in opened] == [[MESSAGE]] * 20
    spool.close()


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("early", [0, MANY + 1])
def test_a_stream_that_asks_for_its_octets_is_spooled(pool: Pool, memory: int, early: int) -> None:
    """Such as what a filter makes."""
    source = Source([b"%d " % number for number in range(MANY)], early)
    spool = makeSpool(memory)
    results = [Result(way(spool.open())) for way in WAYS]
    receiving = Result(spool.receive(source.stream))
    pool.run()
    for _ in range(0 if early else MANY + 1):
        source.push()
        pool.run()
    assert receiving.values == [None]
    expected = b"".join(b"%d " % number for number in range(MANY))
    assert [result.values for result in results] == [[expected]] * len(WAYS)
    assert readWith(pool, spool.open().read()) == [expected]
    spool.close()


# --- an end that is none ---

CUTS: dict[str, tuple[Callable[[MessageStream], None], type[BaseException]]] = {
    "lost": (lambda stream: stream.fail(LOST), ConnectionLost),
    "discarded": (MessageStream.discard, RuntimeError),
    "too large": (lambda stream: stream.append(bytes(400000)), SMTPError),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("isRunning", [True, False])
def test_a_message_that_is_cut_fails_receive_and_every_reader(
    pool: Pool, descriptors: Callable[[], int], way: Way, memory: int, cut: str, isRunning: bool
) -> None:
    end, expected = CUTS[cut]
    spool = makeSpool(memory)
    stream = MessageStream(400000)
    results = [Result(way(spool.open())), Result(spool.open().read()), Result(spool.receive(stream))]
    idle = spool.open()
    stream.append(MESSAGE[:90000])
    if isRunning:
        idle.discard()
        pool.run()
    end(stream)
    pool.run()
    stream.append(b"more")
    idle.discard()
    pool.run()
    assert [[type(failure) for failure in result.failures] for result in results] == [[expected]] * 3
    if expected is SMTPError:
        assert [result.failures[0].responseCode for result in results] == [552] * 3  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="closed"):
        spool.open()
    assert descriptors() == 0


def test_a_message_over_the_size_is_kept_where_the_hook_decides(pool: Pool) -> None:
    spool = makeSpool()
    stream = MessageStream(5, cutOversized=False)
    result = Result(spool.receive(stream))
    stream.append(b"abcdefgh", isLast=True)
    assert (result.values, stream.sizeExceeded) == ([None], True)
    reader = spool.open()
    assert (Result(reader.read()).values, reader.sizeExceeded) == ([b"abcdefgh"], False)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("at", ["start", "stream", "write", "reader", "end"])
@pytest.mark.parametrize("how", ["cancel", "close", "discard"])
def test_cancelled_or_closed_at_any_await_nothing_is_left(
    pool: Pool, descriptors: Callable[[], int], memory: int, at: str, how: str
) -> None:
    spool = makeSpool(memory)
    stream = MessageStream()
    reader = spool.open()
    reading = Result(reader.read()) if at != "reader" else None
    result = Result(spool.receive(stream))
    if at != "start":
        stream.append(MESSAGE)
    if at != "write":
        pool.run()
    if at == "end":
        stream.append(b"more", isLast=True)
    if result.isOpen:
        if how == "cancel":
            result.deferred.cancel()
        elif how == "discard" and at != "end":
            stream.discard()
        else:
            spool.close()
        kind = CancelledError if how == "cancel" else RuntimeError
        assert [type(failure) for failure in result.failures] == [kind]
    else:
        assert at == "end"
        assert memory == 1 << 20
    if at != "end":
        reading = reading or Result(reader.read())
        assert [type(failure) for failure in reading.failures] == [RuntimeError]
    stream.append(b"more")
    spool.close()
    pool.run()
    assert descriptors() == 0
    assert spool._store._held.octets == 0


def test_a_coroutine_that_is_closed_while_it_receives_leaves_nothing(
    pool: Pool, descriptors: Callable[[], int], logged: Logged
) -> None:
    spool = makeSpool(0)
    stream = MessageStream()
    receiving = spool.receive(stream)
    receiving.send(None)
    stream.append(MESSAGE)
    pool.run()
    assert descriptors() == 1
    receiving.close()
    del receiving
    gc.collect()
    stream.append(MESSAGE)
    pool.run()
    assert descriptors() == 0
    assert not logged


@pytest.mark.parametrize("memory", MEMORY)
def test_a_closed_spool_frees_all_and_fails_its_readers(
    pool: Pool, descriptors: Callable[[], int], memory: int
) -> None:
    spool = received(pool, memory)
    done, begun, unread = spool.open(), spool.open(), spool.open()
    whole = Result(done.read())
    first = Result(anext(begun))
    pool.run()
    assert whole.values == [MESSAGE]
    assert first.values
    reading = Result(anext(begun))  # the file may be just being read
    if memory == 1 << 20:
        assert reading.values
    spool.close()
    spool.close()
    pool.run()
    assert descriptors() == 0
    assert spool._store._held.octets == 0
    for result in (reading if reading.failures else Result(anext(begun)), Result(unread.read())):
        assert "onData has ended" in str(result.failures[0])
    assert "consumed once" in str(Result(done.read()).failures[0])
    with pytest.raises(RuntimeError, match="closed"):
        spool.open()


@pytest.mark.parametrize("isWritten", [True, False])
def test_a_spool_that_is_forgotten_closes_its_file(pool: Pool, descriptors: Callable[[], int], isWritten: bool) -> None:
    spool = makeSpool(0)
    stream = MessageStream()
    result = Result(spool.receive(stream))
    stream.append(MESSAGE)
    if isWritten:
        pool.run()
        stream.append(b"", isLast=True)
        pool.run()
        assert descriptors() == 1
        Result(anext(spool.open()))
    else:
        result.deferred.cancel()
    del spool, stream, result
    pool.run()
    pool.waiting.clear()
    gc.collect()
    assert descriptors() == 0


def test_a_spool_receives_one_message(pool: Pool) -> None:
    spool = received(pool, 1 << 20)
    again = Result(spool.receive(MessageStream()))
    assert "receives one message" in str(again.failures[0])
    assert readWith(pool, spool.open().read()) == [MESSAGE]
    spool.close()
    assert "receives one message" in str(Result(spool.receive(MessageStream())).failures[0])


@pytest.mark.parametrize("way", WAYS)
def test_a_message_that_was_read_is_not_spooled(way: Way) -> None:
    stream = MessageStream()
    Result(way(stream))
    assert "spool() comes before" in str(Result(stream.spool()).failures[0])
    stream.append(b"text", isLast=True)
    assert "consumed once" in str(Result(makeSpool().receive(stream)).failures[0])


# --- a disk that fails ---


def failuresOf(pool: Pool, chunks: int = 3) -> list[tuple[int | None, str | None]]:
    """Receive a message; the replies to what receiving and reading it has come to."""
    spool = makeSpool(0)
    stream = MessageStream()
    results = [Result(spool.open().read()), Result(spool.receive(stream))]
    for _ in range(chunks):
        stream.append(MESSAGE)
        pool.run()
    stream.append(b"", isLast=True)
    pool.run()
    found = []
    for result in results:
        (failure,) = result.failures
        assert isinstance(failure, SMTPError)
        assert isinstance(failure.__cause__, OSError)
        found.append((failure.responseCode, failure.enhancedCode))
    return found


def test_a_file_above_the_limit_for_files_is_452(pool: Pool, descriptors: Callable[[], int], logged: Logged) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        assert failuresOf(pool) == [(452, "4.3.1")] * 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (text,) = logged.takeTexts()
    assert f"a message cannot be spooled in {tempfile.gettempdir()}: [Errno 27] File too large" in text
    assert descriptors() == 0


@pytest.fixture
def smallDisk(tmp_path: Path) -> Iterator[Path]:
    """The path of a mounted file system of 512 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount program here")
    if result.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {result.stderr}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_452(
    pool: Pool,
    smallDisk: Path,
    monkeypatch: pytest.MonkeyPatch,
    descriptors: Callable[[], int],
    logged: Logged,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(smallDisk))
    assert failuresOf(pool) == [(452, "4.3.1")] * 2
    (text,) = logged.takeTexts()
    assert f"a message cannot be spooled in {smallDisk}: [Errno 28] No space left on device" in text
    assert descriptors() == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_the_error_of_the_disk_decides_on_the_reply(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, logged: Logged, code: int
) -> None:
    def pwrite(*arguments: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", pwrite)
    expected = (452, "4.3.1") if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else (451, "4.3.0")
    assert failuresOf(pool) == [expected] * 2
    assert len(logged.takeTexts()) == 1


def test_a_disk_that_fails_with_the_last_octets_fails_the_message(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, logged: Logged, descriptors: Callable[[], int]
) -> None:
    def pwrite(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    spool = makeSpool(100)
    stream = MessageStream()
    result = Result(spool.receive(stream))
    stream.append(MESSAGE)
    pool.run()
    monkeypatch.setattr(os, "pwrite", pwrite)
    stream.append(b"last", isLast=True)
    assert result.isOpen
    pool.run()
    assert result.failures[0].responseCode == 452  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="closed"):
        spool.open()
    logged.takeTexts()
    assert descriptors() == 0


def test_a_missing_folder_is_451(pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged: Logged) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert failuresOf(pool) == [(451, "4.3.0")] * 2
    (text,) = logged.takeTexts()
    assert "missing: [Errno 2] No such file or directory" in text


def test_a_write_that_is_cut_short_goes_on(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:1000], offset))
    monkeypatch.setattr(os, "pread", lambda fd, octets, offset: pread(fd, min(octets, 700), offset))
    spool = received(pool, 0)
    assert readWith(pool, spool.open().read()) == [MESSAGE]
    spool.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_cannot_be_read_is_451(pool: Pool, logged: Logged, way: Way) -> None:
    spool = received(pool, 0)
    file = spool._store._file
    assert file is not None
    os.ftruncate(file._fd, 70000)
    result = Result(way(spool.open()))
    pool.run()
    (failure,) = result.failures
    assert isinstance(failure, SMTPError)
    assert (failure.responseCode, failure.enhancedCode) == (451, "4.3.0")
    (text,) = logged.takeTexts()
    assert "shorter than what was written" in text
    spool.close()


# --- in a hook ---


def test_a_hook_reads_its_message_twice(pool: Pool, descriptors: Callable[[], int]) -> None:
    spools = []

    async def onData(stream: MessageStream, session: Any) -> str:
        stream.prepend(b"Ours: 1\r\n")
        spool = await stream.spool()
        spools.append(spool)
        first = await spool.open().read()
        assert first == await iterate(spool.open())
        return f"{spool.length} {len(first)} {stream.byteLength}"

    client = connect(onData=onData, spoolMemory=100)
    client.say(*ENVELOPE, "DATA")
    text = ["A: b", "", *["x" * 98] * 20, "."]
    assert client.say(*text) == []
    for _ in range(20):
        pool.step()
        if not pool.waiting:
            break
        assert descriptors() == 1
    assert client.last("NOOP").startswith("250 ")
    with pytest.raises(RuntimeError, match="closed"):
        spools[0].open()
    assert descriptors() == 0


@pytest.mark.parametrize("octets", [1000, 300000])
def test_a_message_is_spooled_in_memory_up_to_the_option(pool: Pool, octets: int) -> None:
    async def onData(stream: MessageStream, session: Any) -> str:
        return str((await stream.spool()).length)

    client = connect(onData=onData)
    client.say(*ENVELOPE)
    client.feed(b"BDAT %d LAST\r\n" % octets)
    for _ in range(0, octets, 1000):
        client.feed(bytes(1000))
        pool.run()
    assert client.replies() == [f"250 2.0.0 {octets}"]
    assert bool(pool.names) == (octets > 262144)


def test_the_reader_of_a_hook_that_has_ended_fails(pool: Pool) -> None:
    async def onData(stream: MessageStream, session: Any) -> None:
        spool = await stream.spool()
        reader = spool.open()
        await anext(reader)
        left.append(Result(reader.read()))
        left.append(Result(spool.open().deliverTo(consumer)))  # type: ignore[arg-type]

    left: list[Result] = []
    consumer = Consumer()
    client = connect(onData=onData, spoolMemory=0)
    client.say(*ENVELOPE)
    client.feed(b"BDAT 5 LAST\r\nabcde")
    pool.run()
    assert client.replies() == ["250 2.0.0 Message accepted"]
    assert "consumed once" in str(left[0].failures[0])
    assert "onData has ended" in str(left[1].failures[0])


def test_a_spool_that_a_hook_does_not_await_ends_with_it(pool: Pool, descriptors: Callable[[], int]) -> None:
    def onData(stream: MessageStream, session: Any) -> None:
        spooling.append(Result(stream.spool()))

    spooling: list[Result] = []
    client = connect(onData=onData, spoolMemory=0)
    client.say(*ENVELOPE, "DATA")
    assert client.last("text", ".").startswith("250 ")
    pool.run()
    assert "onData has ended" in str(spooling[0].failures[0])
    assert descriptors() == 0


@pytest.mark.parametrize("isWriting", [True, False])
def test_a_client_that_leaves_fails_the_spool(pool: Pool, descriptors: Callable[[], int], isWriting: bool) -> None:
    async def onData(stream: MessageStream, session: Any) -> None:
        try:
            await stream.spool()
        except BaseException as error:
            seen.append(error)
            raise

    seen: list[BaseException] = []
    client = connect(onData=onData, spoolMemory=0)
    client.say(*ENVELOPE, "DATA")
    client.say("text")
    if not isWriting:
        pool.run()
    client.lose()
    assert [type(error) for error in seen] == [ConnectionLost]
    pool.run()
    assert descriptors() == 0


def test_the_client_of_a_message_that_is_too_large_gets_552(pool: Pool) -> None:
    async def onData(stream: MessageStream, session: Any) -> None:
        await stream.spool()

    client = connect(onData=onData, size=1000)
    client.say(*ENVELOPE, "DATA")
    assert client.say(*["x" * 98] * 20, ".") == ["552 5.3.4 Message exceeds the fixed maximum size"]


def test_the_client_of_a_full_disk_gets_452_and_goes_on(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    async def onData(stream: MessageStream, session: Any) -> None:
        await stream.spool()

    def pwrite(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    client = connect(onData=onData, spoolMemory=0)
    client.say(*ENVELOPE, "DATA")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        client.say("text", ".")
        pool.run()
    assert client.replies() == ["452 4.3.1 Insufficient system storage, please try again later"]
    logged.takeTexts()
    client.say(*ENVELOPE[1:], "DATA")
    client.say("text", ".")
    pool.run()
    assert client.replies() == ["250 2.0.0 Message accepted"]


# --- asyncio ---


@pytest.mark.parametrize("memory", MEMORY)
def test_a_task_spools_and_reads(loop: asyncio.AbstractEventLoop, pool: Pool, memory: int) -> None:  # noqa: F811
    async def both(stream: MessageStream) -> Any:
        spool = await stream.spool()
        return await asyncio.gather(*(way(spool.open()) for way in WAYS))

    async def test() -> None:
        stream = MessageStream(spoolMemory=memory)
        task = asyncio.ensure_future(both(stream))
        for start in range(0, len(MESSAGE), 30000):
            await settle()
            stream.append(MESSAGE[start : start + 30000])
            pool.run()
        stream.append(b"", isLast=True)
        while not task.done():
            await settle()
            pool.run()
        assert await task == [MESSAGE] * len(WAYS)
        stream.discard()

    run(loop, test())


@pytest.mark.parametrize("isWriting", [True, False])
def test_a_task_that_is_cancelled_leaves_nothing(
    loop: asyncio.AbstractEventLoop,  # noqa: F811
    pool: Pool,
    descriptors: Callable[[], int],
    isWriting: bool,
) -> None:
    async def test() -> None:
        stream = MessageStream(spoolMemory=0)
        task = asyncio.ensure_future(stream.spool())
        await settle()
        stream.append(MESSAGE)
        if not isWriting:
            pool.run()
        stream.append(b"last", isLast=True)
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pool.run()
        assert descriptors() == 0

    run(loop, test())


def test_tasks_follow_while_it_arrives(loop: asyncio.AbstractEventLoop, pool: Pool) -> None:  # noqa: F811
    async def test() -> None:
        spool = makeSpool(100)
        stream = MessageStream()
        tasks = [asyncio.ensure_future(way(spool.open())) for way in WAYS]
        receiving = asyncio.ensure_future(spool.receive(stream))
        for start in range(0, len(MESSAGE), 30000):
            await settle()
            stream.append(MESSAGE[start : start + 30000])
            pool.run()
        stream.append(b"", isLast=True)
        await settle()
        pool.run()
        assert await asyncio.gather(*tasks) == [MESSAGE] * len(WAYS)
        await receiving
        spool.close()

    run(loop, test())


# --- any order of events ---


@given(
    st.integers(0, 40000),
    st.lists(st.integers(0, 1 << 20), max_size=12),
    st.integers(0, 3),
    st.lists(st.sampled_from(["feed", "feed", "read", "read", "open", "discard", "pool"]), max_size=60),
    st.lists(st.integers(0, 10), min_size=1, max_size=20),
    st.sampled_from([0, 10, 5000, 20000, 1 << 20]),
    st.sampled_from(["end", "lost", "close"]),
)
def test_every_reader_has_a_part_from_the_front_and_at_the_end_the_whole(
    octets: int, cuts: list[int], early: int, events: list[str], choices: list[int], memory: int, end: str
) -> None:
    """What each reader has got is always the beginning of the message, and no more is taken than fits."""

    def check() -> None:
        for reader, parts in readers:
            got = b"".join(part for result in parts for part in result.values)
            assert message.startswith(got)
            if reader in gone:
                continue
            assert len(got) + reader.buffered <= spool.length
            assert reader.buffered < ROOM + largest
            if reader in firsts and not end_:
                assert len(got) + reader.buffered == spool.length

    def begin() -> None:
        readers.append((spool.open(), []))

    def step(reader: MessageStream, parts: list[Result]) -> None:
        if not parts or not parts[-1].isOpen:
            parts.append(Result(anext(reader)))

    message = MESSAGE[:octets]
    pieces = [piece for piece in cutUp(message, cuts) if piece]
    largest = max([BLOCK, *map(len, pieces)])
    end_: list[bool] = []
    gone: list[MessageStream] = []
    readers: list[tuple[MessageStream, list[Result]]] = []
    with pooled() as pool:
        spool = makeSpool(memory)
        for _ in range(early):
            begin()
        firsts = [reader for reader, _ in readers]
        stream = MessageStream()
        receiving = Result(spool.receive(stream))
        for number, event in enumerate(events):
            choice = choices[number % len(choices)]
            if event == "feed" and pieces and stream.buffered < ROOM:
                stream.append(pieces.pop(0))
            elif event == "open":
                begin()
            elif event == "pool" and pool.waiting:
                pool.step()
            elif event == "read" and readers:
                step(*readers[choice % len(readers)])
            elif event == "discard" and readers and choice > 7:
                gone.append(readers[choice % len(readers)][0])
                gone[-1].discard()
            check()
        end_.append(True)
        if end == "lost":
            stream.fail(LOST)
        elif end == "close":
            spool.close()
        begun = 0
        while end == "end" and (pieces or receiving.isOpen or begun < 200):
            begun += 1
            assert begun < 2000
            if pieces and stream.buffered < ROOM:
                stream.append(pieces.pop(0))
            elif not pieces:
                stream.append(b"", isLast=True)
            for reader, parts in readers:
                if not (parts and parts[-1].failures):
                    step(reader, parts)
            pool.run()
            check()
        for reader, parts in readers:
            got = b"".join(part for result in parts for part in result.values)
            last = parts[-1] if parts and not parts[-1].values else Result(anext(reader))
            if reader not in gone:
                if end == "end":
                    assert got == message
                    assert isinstance(last.failures[0], StopAsyncIteration)
                else:
                    assert isinstance(last.failures[0], ConnectionLost if end == "lost" else RuntimeError)
        if end == "end":
            assert (receiving.values, spool.length) == ([None], len(message))
            assert readWith(pool, spool.open().read()) == [message]
            spool.close()
        else:
            assert len(receiving.failures) == 1


# --- memory ---


@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_a_large_message_is_never_in_memory(
    descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB through real threads, to a fast and a slow reader, and read again."""
    octets, block = 64 << 20, bytes(65536)
    released: list[Deferred[Any]] = []

    def noting(operation: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        ended = deferToThread(operation, *arguments)
        if operation.__name__ == "_release":
            released.append(ended)
        return ended

    monkeypatch.setattr(disk, "deferToThread", noting)

    async def count(stream: MessageStream, turns: int) -> int:
        found = 0
        async for chunk in stream:
            found += len(chunk)
            for _ in range(turns):
                await deferToThread(int)
        return found

    def feed() -> None:
        nonlocal fed
        if feeding:
            return  # from within append()
        feeding.append(True)
        while fed < octets and stream.buffered < stream.room:
            fed += len(block)
            stream.append(block, isLast=fed == octets)
        feeding.pop()

    fed = 0
    feeding: list[bool] = []
    stream = MessageStream(wantsMore=feed)
    spool = makeSpool(262144)
    tracemalloc.start()
    try:
        reading = [ensureDeferred(count(spool.open(), turns)) for turns in (0, 1)]
        receiving = ensureDeferred(spool.receive(stream))
        feed()
        results: Any = await DeferredList([*reading, receiving], fireOnOneErrback=True)
        assert [value for _, value in results] == [octets, octets, None]
        assert await count(spool.open(), 0) == octets
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    spool.close()
    # Not only until there is no _fd any more: to close the descriptor of so large a file takes a while.
    await released.pop()
    assert released == []
