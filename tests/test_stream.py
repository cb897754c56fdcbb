"""MessageStream by itself: the ways to consume it, its end, its failure, its bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import StringIOWithoutClosing, StringTransport
from twisted.protocols.ftp import FileConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface.verify import verifyObject

from smtphooks import ConsumerStopped, MessageStream
from smtphooks.stream import ROOM

from .conftest import Logged

pytestmark = pytest.mark.usefixtures("logged")

LOST = Failure(ConnectionLost())


class Consumer:
    """
    A consumer that writes down what it gets.

    @ivar doing: called at each write.
    """

    def __init__(self, doing: Callable[[], None] = lambda: None) -> None:
        self.chunks: list[bytes] = []
        self.producer: Any = None
        self.unregistered = 0
        self.doing = doing

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.unregistered += 1
        self.producer = None

    def write(self, data: bytes) -> None:
        self.chunks.append(data)
        self.doing()

    @property
    def got(self) -> bytes:
        return b"".join(self.chunks)


class Result:
    """What a Deferred or a coroutine has come to."""

    def __init__(self, waited: Any) -> None:
        self.values: list[Any] = []
        self.failures: list[BaseException] = []
        self.deferred: Deferred[Any] = waited if isinstance(waited, Deferred) else ensureDeferred(waited)
        self.deferred.addCallbacks(self.values.append, lambda failure: self.failures.append(failure.value))

    @property
    def isOpen(self) -> bool:
        return not self.values and not self.failures


async def iterate(stream: MessageStream) -> bytes:
    found = b""
    async for chunk in stream:
        assert chunk
        found += chunk
    return found


async def toConsumer(stream: MessageStream) -> bytes:
    consumer = Consumer()
    await stream.deliverTo(consumer)  # type: ignore[arg-type]
    assert consumer.unregistered == 1
    return consumer.got


async def asBody(stream: MessageStream) -> bytes:
    consumer = Consumer()
    await stream.startProducing(consumer)  # type: ignore[arg-type]
    assert consumer.unregistered == 0
    return consumer.got


async def toFile(stream: MessageStream) -> bytes:
    file = StringIOWithoutClosing()
    await stream.deliverTo(FileConsumer(file))
    return file.getvalue()


async def toTransport(stream: MessageStream) -> bytes:
    transport = StringTransport()
    await stream.deliverTo(transport)
    assert transport.producer is None
    return transport.value()


async def readAll(stream: MessageStream) -> bytes:
    return await stream.read()


WAYS = [iterate, readAll, toConsumer, asBody, toFile, toTransport]
Way = Callable[[MessageStream], Any]


def test_it_is_what_it_says_it_is() -> None:
    assert verifyObject(IBodyProducer, MessageStream())
    assert verifyObject(IPushProducer, MessageStream())
    assert MessageStream().length == UNKNOWN_LENGTH


@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_the_whole_message_whenever_it_begins(way: Way) -> None:
    pieces = [b"one", b"two", b"three"]
    for early in range(len(pieces) + 1):
        stream = MessageStream()
        for piece in pieces[:early]:
            stream.receive(piece)
        result = Result(way(stream))
        for piece in pieces[early:]:
            stream.receive(piece)
        assert result.isOpen
        stream.finish()
        assert result.values == [b"onetwothree"]
        assert (stream.byteLength, stream.buffered, stream.sizeExceeded) == (11, 0, False)


@pytest.mark.parametrize("way", WAYS)
def test_a_message_that_has_ended_can_still_be_read(way: Way) -> None:
    stream = MessageStream()
    stream.receive(b"text")
    stream.finish()
    assert Result(way(stream)).values == [b"text"]


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_message_is_empty(way: Way) -> None:
    stream = MessageStream()
    result = Result(way(stream))
    stream.finish()
    assert result.values == [b""]


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
def test_a_stream_is_consumed_once(first: Way, second: Way) -> None:
    stream = MessageStream()
    stream.receive(b"text")
    before = Result(first(stream))
    again = Result(second(stream))
    isIterated = first is second is iterate
    assert ("one reader at a time" if isIterated else "consumed once") in str(again.failures[0])
    stream.finish()
    assert before.values == [b"text"]
    late = Result(second(stream))
    if isIterated:
        assert late.values == [b""]
    else:
        assert "consumed once" in str(late.failures[0])


def test_the_second_consumer_is_not_even_registered() -> None:
    stream = MessageStream()
    Result(stream.read())
    consumer = Consumer()
    with pytest.raises(RuntimeError, match="consumed once"):
        stream.deliverTo(consumer)  # type: ignore[arg-type]
    assert consumer.producer is None


def test_one_reader_at_a_time() -> None:
    stream = MessageStream()
    iterator = aiter(stream)
    first = Result(anext(iterator))
    second = Result(anext(iterator))
    assert "one reader at a time" in str(second.failures[0])
    stream.receive(b"x")
    assert first.values == [b"x"]


def test_chunks_that_came_together_are_read_together() -> None:
    stream = MessageStream()
    iterator = aiter(stream)
    stream.receive(b"a")
    stream.receive(b"b")
    assert Result(anext(iterator)).values == [b"ab"]
    stream.receive(b"")
    waiting = Result(anext(iterator))
    assert waiting.isOpen
    stream.finish()
    assert isinstance(waiting.failures[0], StopAsyncIteration)


def test_a_reader_that_gave_up_takes_nothing() -> None:
    stream = MessageStream()
    result = Result(stream.read())
    result.deferred.cancel()
    assert isinstance(result.failures[0], CancelledError)
    assert not stream.isAwaited
    stream.receive(b"x")
    assert stream.buffered == 1


def test_read_is_awaited_only_while_it_waits() -> None:
    stream = MessageStream()
    assert not stream.isAwaited
    Result(stream.read())
    assert stream.isAwaited
    stream.finish()
    assert not stream.isAwaited


# --- failure ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [True, False])
def test_a_message_that_was_cut_never_ends(way: Way, before: bool) -> None:
    stream = MessageStream()
    stream.receive(b"half")
    if before:
        stream.fail(LOST)
    result = Result(way(stream))
    if not before:
        stream.fail(LOST)
    assert [type(failure) for failure in result.failures] == [ConnectionLost]
    assert stream.buffered == 0


def test_what_comes_behind_a_failure_is_only_counted() -> None:
    stream = MessageStream()
    stream.fail(LOST)
    stream.receive(b"more")
    stream.fail(Failure(ValueError()))
    stream.finish()
    assert (stream.byteLength, stream.buffered) == (4, 0)
    assert isinstance(Result(stream.read()).failures[0], ConnectionLost)


def test_a_failure_behind_the_end_is_none() -> None:
    stream = MessageStream()
    stream.receive(b"text")
    stream.finish()
    stream.fail(LOST)
    assert Result(stream.read()).values == [b"text"]


def test_a_failure_reaches_a_consumer_that_has_paused() -> None:
    stream = MessageStream()
    consumer = Consumer()
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.pauseProducing()
    stream.receive(b"half")
    stream.fail(LOST)
    assert (consumer.got, consumer.unregistered) == (b"", 1)
    assert isinstance(result.failures[0], ConnectionLost)


# --- the hook has ended ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ended", [True, False])
def test_who_reads_on_when_the_hook_has_ended_never_sees_a_whole_message(way: Way, ended: bool) -> None:
    """As a hook does that forgets to wait for C{deliverTo}."""
    stream = MessageStream()
    result = None
    if not ended:
        result = Result(way(stream))
    stream.receive(b"half")
    if ended:
        stream.finish()
    stream.discard()
    result = result or Result(way(stream))
    stream.receive(b"more")
    stream.finish()
    assert "onData has ended" in str(result.failures[0])
    assert stream.buffered == 0


def test_a_slow_consumer_never_sees_a_whole_message_when_the_hook_has_ended() -> None:
    stream = MessageStream()
    consumer = Consumer()
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.pauseProducing()
    stream.receive(b"text")
    stream.finish()
    stream.discard()
    stream.resumeProducing()
    assert consumer.got == b""
    assert "onData has ended" in str(result.failures[0])


def test_an_unwaited_delivery_is_logged(logged: Logged) -> None:
    stream = MessageStream()
    stream.deliverTo(Consumer())  # type: ignore[arg-type]
    stream.discard()
    assert len(logged.takeFailures(RuntimeError)) == 1


def test_a_message_that_was_read_may_be_discarded() -> None:
    stream = MessageStream()
    result = Result(stream.read())
    stream.receive(b"text")
    stream.finish()
    stream.discard()
    assert result.values == [b"text"]


# --- size ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "pieces", [[b"abcdefgh"], [b"abcde", b"fgh"], [b"a", b"bcdef", b"gh"], [b"abcdef", b"g", b"h"]]
)
def test_a_message_over_the_size_ends_early(way: Way, pieces: list[bytes]) -> None:
    stream = MessageStream(5)
    result = Result(way(stream))
    for piece in pieces:
        stream.receive(piece)
    if way in (WAYS[0], WAYS[1]):
        assert result.values == [b"abcde"]
    else:
        # Whom a consumer hands it on to would take it for whole.
        assert [failure.responseCode for failure in result.failures] == [552]
    stream.finish()
    assert (stream.byteLength, stream.sizeExceeded) == (8, True)


def test_a_message_of_the_very_size_is_not_over_it() -> None:
    stream = MessageStream(5)
    result = Result(stream.read())
    stream.receive(b"abcde")
    assert result.isOpen
    stream.finish()
    assert (result.values, stream.sizeExceeded) == ([b"abcde"], False)


def test_an_oversized_message_may_be_let_through() -> None:
    stream = MessageStream(5, cutOversized=False)
    result = Result(stream.read())
    stream.receive(b"abcdefgh")
    assert stream.sizeExceeded
    stream.finish()
    assert result.values == [b"abcdefgh"]


def test_the_size_counts_even_if_nobody_reads() -> None:
    stream = MessageStream(5)
    stream.discard()
    stream.receive(b"abcdefgh")
    assert stream.sizeExceeded


# --- room and back-pressure ---


def test_it_has_room_until_16_KiB_wait() -> None:
    stream = MessageStream()
    stream.receive(b"x" * 16383)
    assert stream.buffered < ROOM
    stream.receive(b"x")
    assert not stream.buffered < ROOM
    assert stream.buffered == 16384
    Result(stream.read())
    assert stream.buffered < ROOM


@pytest.mark.parametrize("way", WAYS)
def test_it_says_when_there_is_room_again(way: Way) -> None:
    wanted: list[int] = []
    stream = MessageStream(wantsMore=lambda: wanted.append(stream.buffered))
    stream.receive(b"x" * 20000)
    assert not wanted
    Result(way(stream))
    assert wanted == [0]


def test_a_consumer_that_pauses_gets_nothing_until_it_resumes() -> None:
    stream = MessageStream()
    consumer = Consumer(doing=stream.pauseProducing)
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    for piece in (b"a", b"b", b"c"):
        stream.receive(piece)
    assert (consumer.chunks, stream.buffered) == ([b"a"], 2)
    stream.resumeProducing()
    assert consumer.chunks == [b"a", b"bc"]
    stream.finish()
    assert result.values == [None]
    stream.resumeProducing()


def test_the_end_waits_for_a_consumer_that_has_paused() -> None:
    stream = MessageStream()
    consumer = Consumer(doing=stream.pauseProducing)
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.receive(b"a")
    stream.receive(b"b")
    stream.finish()
    assert result.isOpen
    stream.resumeProducing()
    assert (consumer.got, result.values) == (b"ab", [None])


def test_a_consumer_that_stops_fails_the_delivery() -> None:
    stream = MessageStream()
    consumer = Consumer(doing=stream.stopProducing)
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.receive(b"a")
    stream.receive(b"b")
    stream.finish()
    assert isinstance(result.failures[0], ConsumerStopped)
    assert consumer.got == b"a"
    stream.stopProducing()


def test_a_body_that_is_stopped_never_fires() -> None:
    stream = MessageStream()
    consumer = Consumer(doing=stream.stopProducing)
    result = Result(stream.startProducing(consumer))  # type: ignore[arg-type]
    stream.receive(b"a")
    stream.receive(b"b")
    stream.finish()
    assert result.isOpen
    assert consumer.got == b"a"


def test_a_consumer_that_is_gone_already_fails_the_delivery() -> None:
    """A transport without a connection stops its producer at once, and swallows what is written to it."""

    class Gone(Consumer):
        def registerProducer(self, producer: Any, streaming: bool) -> None:
            producer.stopProducing()

    stream = MessageStream()
    result = Result(stream.deliverTo(Gone()))  # type: ignore[arg-type]
    stream.receive(b"text")
    stream.finish()
    assert isinstance(result.failures[0], ConsumerStopped)


def test_a_consumer_that_takes_no_producer_is_an_error_and_is_left_alone() -> None:
    transport = StringTransport()
    transport.registerProducer(Consumer(), True)
    stream = MessageStream()
    with pytest.raises(RuntimeError, match="two producers"):
        stream.deliverTo(transport)
    stream.receive(b"text")
    stream.discard()
    assert transport.producer is not None


@pytest.mark.parametrize("early", [True, False])
def test_a_consumer_that_crashes_fails_the_delivery_and_nothing_else(early: bool) -> None:
    def crash() -> None:
        raise OSError("disk full")

    stream = MessageStream()
    if early:
        stream.receive(b"a")
    result = Result(stream.deliverTo(Consumer(doing=crash)))  # type: ignore[arg-type]
    stream.receive(b"b")
    stream.finish()
    assert isinstance(result.failures[0], OSError)


def test_a_consumer_that_stops_and_crashes_fails_the_delivery_once(logged: Logged) -> None:
    stream = MessageStream()

    def crash() -> None:
        stream.stopProducing()
        raise OSError("disk full")

    result = Result(stream.deliverTo(Consumer(doing=crash)))  # type: ignore[arg-type]
    stream.receive(b"a")
    assert isinstance(result.failures[0], ConsumerStopped)
    assert len(logged.takeFailures(OSError)) == 1


def test_a_delivery_that_is_cancelled_lets_go_of_the_consumer() -> None:
    stream = MessageStream()
    consumer = Consumer()
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.receive(b"a")
    result.deferred.cancel()
    assert isinstance(result.failures[0], CancelledError)
    assert (consumer.unregistered, stream.isAwaited) == (1, False)
    stream.receive(b"b")
    stream.finish()
    assert consumer.got == b"a"


def test_a_body_that_is_cancelled_leaves_the_registration_to_its_owner() -> None:
    stream = MessageStream()
    consumer = Consumer()
    result = Result(stream.startProducing(consumer))  # type: ignore[arg-type]
    result.deferred.cancel()
    assert isinstance(result.failures[0], CancelledError)
    assert consumer.unregistered == 0


@pytest.mark.parametrize("pauses", [0, 1, 2, 3])
def test_chunks_keep_their_order_when_taking_one_brings_the_next(pauses: int) -> None:
    """The protocol puts octets in from within the call that says that there is room."""
    source = [b"%d " % number for number in range(200)]
    expected = b"".join(source)

    def more() -> None:
        if source:
            stream.receive(source.pop(0))
        elif not done:
            done.append(True)
            stream.finish()

    def doing() -> None:
        if pauses and len(consumer.chunks) % pauses == 0:
            stream.pauseProducing()
            if pauses > 1:
                stream.resumeProducing()

    done: list[bool] = []
    stream = MessageStream(wantsMore=more)
    consumer = Consumer(doing=doing)
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    more()
    while result.isOpen:
        stream.resumeProducing()
    assert consumer.got == expected


@given(st.lists(st.sampled_from(["receive", "pause", "resume"]), max_size=40), st.booleans())
def test_whatever_a_consumer_does_it_gets_each_octet_once(deeds: list[str], cut: bool) -> None:
    stream = MessageStream()
    consumer = Consumer()
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    sent = b""
    for number, deed in enumerate(deeds):
        match deed:
            case "receive":
                piece = b"%d " % number
                sent += piece
                stream.receive(piece)
            case "pause":
                stream.pauseProducing()
            case "resume":
                stream.resumeProducing()
        assert sent.startswith(consumer.got)
        assert len(sent) == len(consumer.got) + stream.buffered == stream.byteLength
    if cut:
        stream.fail(LOST)
        assert result.failures
    else:
        stream.finish()
        stream.resumeProducing()
        assert (consumer.got, result.values) == (sent, [None])
