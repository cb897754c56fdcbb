"""MessageStream by itself: the ways to read it, its end, its failure, its limits."""

from __future__ import annotations

import tracemalloc
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

from smtphooks import ConsumerStopped, MessageStream, SMTPError
from smtphooks.header import maybeSeparator
from smtphooks.stream import ROOM
from tests.conftest import Logged
from tests.support import ENVELOPE, Pending, connect, cutUp

pytestmark = pytest.mark.usefixtures("logged")

LOST = Failure(ConnectionLost())


class Consumer:
    """
    A consumer that records its octets.

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
    """The results of a Deferred or a coroutine."""

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


def test_it_provides_its_interfaces() -> None:
    assert verifyObject(IBodyProducer, MessageStream())
    assert verifyObject(IPushProducer, MessageStream())
    assert MessageStream().length == UNKNOWN_LENGTH


@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_the_whole_message_whenever_it_begins(way: Way) -> None:
    pieces = [b"one", b"two", b"three"]
    for early in range(len(pieces) + 1):
        stream = MessageStream()
        for piece in pieces[:early]:
            stream.append(piece)
        result = Result(way(stream))
        for piece in pieces[early:]:
            stream.append(piece)
        assert result.isOpen
        stream.append(b"", isLast=True)
        assert result.values == [b"onetwothree"]
        assert (stream.byteLength, stream.buffered, stream.sizeExceeded) == (11, 0, False)


@pytest.mark.parametrize("way", WAYS)
def test_a_message_that_has_ended_can_still_be_read(way: Way) -> None:
    stream = MessageStream()
    stream.append(b"text")
    stream.append(b"", isLast=True)
    assert Result(way(stream)).values == [b"text"]


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_message_is_empty(way: Way) -> None:
    stream = MessageStream()
    result = Result(way(stream))
    stream.append(b"", isLast=True)
    assert result.values == [b""]


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
def test_a_stream_is_consumed_once(first: Way, second: Way) -> None:
    stream = MessageStream()
    stream.append(b"text")
    before = Result(first(stream))
    again = Result(second(stream))
    isIterated = first is second is iterate
    assert ("one reader at a time" if isIterated else "consumed once") in str(again.failures[0])
    stream.append(b"", isLast=True)
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
    stream.append(b"x")
    assert first.values == [b"x"]


def test_chunks_that_came_together_are_read_together() -> None:
    stream = MessageStream()
    iterator = aiter(stream)
    stream.append(b"a")
    stream.append(b"b")
    assert Result(anext(iterator)).values == [b"ab"]
    stream.append(b"")
    waiting = Result(anext(iterator))
    assert waiting.isOpen
    stream.append(b"", isLast=True)
    assert isinstance(waiting.failures[0], StopAsyncIteration)


def test_a_cancelled_reader_takes_nothing() -> None:
    stream = MessageStream()
    result = Result(stream.read())
    result.deferred.cancel()
    assert isinstance(result.failures[0], CancelledError)
    assert not stream.isAwaited
    stream.append(b"x")
    assert stream.buffered == 1


def test_read_is_awaited_only_while_it_waits() -> None:
    stream = MessageStream()
    assert not stream.isAwaited
    Result(stream.read())
    assert stream.isAwaited
    stream.append(b"", isLast=True)
    assert not stream.isAwaited


# --- an ordinary iterator ---


def test_a_stream_is_its_own_iterator() -> None:
    stream = MessageStream()
    assert aiter(stream) is stream
    assert aiter(stream) is stream


async def inThree(stream: MessageStream) -> list[bytes]:
    first = [await anext(stream)]
    async for chunk in stream:
        first.append(chunk)
        break
    return first + [chunk async for chunk in stream]


def test_a_second_loop_continues_where_the_first_stopped() -> None:
    stream = MessageStream()
    result = Result(inThree(stream))
    for piece in (b"a", b"b", b"c", b"d"):
        stream.append(piece)
    stream.append(b"", isLast=True)
    assert result.values == [[b"a", b"b", b"c", b"d"]]
    assert Result(iterate(stream)).values == [b""]


@pytest.mark.parametrize("way", [way for way in WAYS if way is not iterate])
def test_a_message_is_not_read_in_two_ways(way: Way) -> None:
    stream = MessageStream()
    stream.append(b"a")
    Result(anext(stream))
    assert "consumed once" in str(Result(way(stream)).failures[0])

    stream = MessageStream()
    Result(way(stream))
    stream.append(b"a")
    assert "consumed once" in str(Result(anext(stream)).failures[0])


def test_a_cancelled_reader_may_go_on() -> None:
    stream = MessageStream()
    Result(anext(stream)).deferred.cancel()
    stream.append(b"a")
    stream.append(b"", isLast=True)
    assert Result(iterate(stream)).values == [b"a"]


# --- read is bounded ---


@pytest.mark.parametrize("pieces", [[b"abcdefgh"], [b"abcd", b"e", b"fgh"], [b"abcde", b"fgh"]])
@pytest.mark.parametrize("ended", [True, False])
def test_a_message_over_the_limit_is_rejected(pieces: list[bytes], ended: bool) -> None:
    stream = MessageStream()
    result = Result(stream.read(limit=4))
    for piece in pieces:
        stream.append(piece)
    if ended:
        stream.append(b"", isLast=True)
    (refusal,) = result.failures
    assert isinstance(refusal, SMTPError)
    assert (refusal.responseCode, refusal.enhancedCode) == (552, "5.3.4")


@pytest.mark.parametrize("limit", [8, 9, 0, None])
def test_a_message_at_the_limit_is_read_and_zero_or_none_is_no_limit(limit: int | None) -> None:
    stream = MessageStream()
    result = Result(stream.read(limit))
    stream.append(b"abcde")
    stream.append(b"fgh", isLast=True)
    assert result.values == [b"abcdefgh"]


def test_read_takes_32_MiB_unless_it_is_told_otherwise() -> None:
    piece = bytes(65536)
    for more in (b"", b"x"):
        stream = MessageStream()
        result = Result(stream.read())
        for _ in range(512):
            stream.append(piece)
        stream.append(more, isLast=True)
        if more:
            assert isinstance(result.failures[0], SMTPError)
        else:
            assert len(result.values[0]) == 33554432


def memoryOf(deed: Callable[[], Any]) -> tuple[int, int]:
    """Octets allocated at the end, while the result is kept, and at the peak."""
    tracemalloc.start()
    try:
        kept = deed()
        assert kept is not None
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_small_pieces_cost_hardly_more_than_their_octets() -> None:
    def drip() -> Any:
        stream = MessageStream()
        result = Result(stream.read())
        for number in range(50000):
            stream.append(b"%d" % (number % 90 + 10))
        stream.append(b"", isLast=True)
        assert len(result.values[0]) == 100000
        return result

    assert memoryOf(drip)[1] < 500000


def test_collected_octets_over_the_limit_are_dropped() -> None:
    stream = MessageStream()
    result = Result(stream.read(limit=1000000))

    def flood() -> Any:
        for _ in range(11):
            stream.append(bytes(100000))
        assert result.failures  # their tracebacks hold the frame of read
        return result

    kept, most = memoryOf(flood)
    assert kept < 200000
    assert most < 1200000


def test_the_client_of_a_message_over_the_limit_gets_552_and_goes_on() -> None:
    client = connect(onData=lambda stream, session: stream.read(limit=1000))
    client.say(*ENVELOPE, "DATA")
    assert client.say(*["x" * 98] * 20, ".") == ["552 5.3.4 Message exceeds the fixed maximum size"]
    assert client.last(*ENVELOPE[1:], "DATA") == "354 End data with <CR><LF>.<CR><LF>"
    assert client.codes() == []
    assert client.last("text", ".").startswith("250 ")


# --- header ---

HEADER = b"Subject: one\r\nX-Two: 2\r\n\r\n"
MESSAGE = HEADER + b"text\r\n\r\nmore\r\n"


def feed(stream: MessageStream, pieces: list[bytes]) -> None:
    for piece in pieces:
        stream.append(piece)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("octets", [1, 5, 1000])
def test_the_header_leaves_the_message_whole(way: Way, early: bool, octets: int) -> None:
    async def both() -> Any:
        header = await stream.header()
        assert await stream.header() is header
        return header.items(), await way(stream)

    stream = MessageStream()
    pieces = [MESSAGE[i : i + octets] for i in range(0, len(MESSAGE), octets)]
    if early:
        feed(stream, pieces)
        stream.append(b"", isLast=True)
    result = Result(both())
    if not early:
        feed(stream, pieces)
        stream.append(b"", isLast=True)
    assert result.values == [([("Subject", "one"), ("X-Two", "2")], MESSAGE)]
    assert (stream.byteLength, stream.buffered, stream.sizeExceeded) == (len(MESSAGE), 0, False)


def test_the_header_is_returned_as_soon_as_its_empty_line_has_arrived() -> None:
    stream = MessageStream()
    result = Result(stream.header())
    assert stream.isAwaited
    stream.append(HEADER[:-1])
    assert (result.isOpen, stream.buffered) == (True, len(HEADER) - 1)
    stream.append(HEADER[-1:])
    assert result.values[0]["subject"] == "one"
    assert (stream.isAwaited, stream.buffered) == (False, len(HEADER))


@pytest.mark.parametrize("octets", [HEADER[:-2], HEADER[:-4], b"text", b""])
def test_a_message_without_an_empty_line_is_all_header(octets: bytes) -> None:
    stream = MessageStream()
    result = Result(stream.header())
    stream.append(octets, isLast=True)
    assert result.values[0]["subject"] == ("one" if octets.startswith(b"S") else None)
    assert Result(stream.read()).values == [octets]


def test_the_header_of_a_message_cut_at_its_size_is_all_of_it() -> None:
    stream = MessageStream(12)
    result = Result(stream.header())
    stream.append(MESSAGE)
    assert result.values[0].items() == [("Subject", "one")]
    assert stream.sizeExceeded
    stream.append(b"", isLast=True)
    assert Result(stream.read()).values == [MESSAGE[:12]]


@pytest.mark.parametrize("way", WAYS)
def test_the_header_comes_before_the_message_is_read(way: Way) -> None:
    stream = MessageStream()
    result = Result(way(stream))
    assert "before" in str(Result(stream.header()).failures[0])
    stream.append(b"", isLast=True)
    assert "before" in str(Result(stream.header()).failures[0])
    assert result.values == [b""]


@pytest.mark.parametrize("way", [*WAYS, lambda stream: stream.header()])
def test_while_the_header_is_awaited_no_other_reader_takes_it_away(way: Way) -> None:
    stream = MessageStream()
    result = Result(stream.header())
    stream.append(b"Subject: one\r\n")
    assert "one reader at a time" in str(Result(way(stream)).failures[0])
    stream.append(b"", isLast=True)
    assert result.values[0]["subject"] == "one"
    assert Result(stream.read()).values == [b"Subject: one\r\n"]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("end", [lambda stream: stream.fail(LOST), MessageStream.discard])
def test_a_truncated_header_fails(early: bool, end: Callable[[MessageStream], None]) -> None:
    stream = MessageStream()
    stream.append(b"Subject: on")
    result = None if early else Result(stream.header())
    end(stream)
    result = result or Result(stream.header())
    assert [type(failure) for failure in result.failures] in ([ConnectionLost], [RuntimeError])
    assert stream.buffered == 0
    stream.append(b"e\r\n\r\n")
    assert type(Result(stream.read()).failures[0]) is type(result.failures[0])


def test_a_cancelled_header_may_be_asked_for_again() -> None:
    stream = MessageStream()
    stream.append(b"Subject: one\r\n")
    result = Result(stream.header())
    result.deferred.cancel()
    assert isinstance(result.failures[0], CancelledError)
    assert (stream.isAwaited, stream.room) == (False, ROOM)
    stream.append(b"\r\n")
    assert Result(stream.header()).values[0]["subject"] == "one"


def headerOf(octets: int) -> bytes:
    """A header of this length in octets, its empty line included."""
    lines = [b"X: %s\r\n" % (b"x" * 993)] * (octets // 998 - 1)
    return b"".join(lines) + b"X: %s\r\n\r\n" % (b"x" * (octets - 998 * len(lines) - 7))


@pytest.mark.parametrize("cut", [1000, 65536, 262144, 300000])
def test_a_header_has_256_KiB_and_no_more(cut: int) -> None:
    for octets in (262144, 262145):
        message = headerOf(octets) + b"text"
        stream = MessageStream()
        result = Result(stream.header())
        feed(stream, [message[i : i + cut] for i in range(0, len(message), cut)])
        if octets == 262144:
            assert len(result.values[0].items()) == 262
        else:
            (refusal,) = result.failures
            assert isinstance(refusal, SMTPError)
            assert (refusal.responseCode, refusal.enhancedCode) == (552, "5.3.4")
        stream.append(b"", isLast=True)
        assert stream.room == ROOM
        assert Result(stream.read()).values == [message]


def test_a_client_that_drips_its_header_costs_little() -> None:
    octets = headerOf(60000)

    def drip() -> Any:
        stream = MessageStream()
        result = Result(stream.header())
        for start in range(0, len(octets), 2):
            stream.append(octets[start : start + 2])
        assert result.values
        return stream

    assert memoryOf(drip)[1] < 700000


def test_a_header_larger_than_the_room_arrives_and_then_the_client_waits() -> None:
    hook = Pending()

    async def onData(stream: MessageStream, session: object) -> str:
        await hook("early")
        header = await stream.header()
        await hook(header)
        return f"{len(await stream.read())} octets"

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    client.feed(headerOf(30000)[:20000])
    assert client.transport.producerState == "paused"
    hook.decide()
    client.feed(headerOf(30000)[20000:] + b"text\r\n")
    assert client.transport.producerState == "paused"
    assert hook.calls[1][0]["x"].startswith("xx")
    hook.decide()
    client.feed(b".\r\n")
    assert client.replies()[-1] == "250 2.0.0 30006 octets"


def test_a_header_may_arrive_in_several_chunks() -> None:
    async def onData(stream: MessageStream, session: object) -> str:
        header = await stream.header()
        return f"{header['subject']}, {len(await stream.read())} octets"

    client = connect(onData=onData)
    client.say(*ENVELOPE)
    client.feed(b"BDAT 11\r\n" + HEADER[:11])
    client.feed(b"BDAT %d LAST\r\n" % (len(MESSAGE) - 11) + MESSAGE[11:])
    assert client.replies()[-1] == f"250 2.0.0 one, {len(MESSAGE)} octets"


def test_the_client_of_a_header_that_is_too_large_gets_552_and_goes_on() -> None:
    async def onData(stream: MessageStream, session: object) -> str:
        return str((await stream.header())["subject"])

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    for _ in range(270):
        client.feed(b"X: " + b"x" * 995 + b"\r\n")
    assert client.last(".") == "552 5.3.4 Message header exceeds the fixed maximum size"
    assert client.last(*ENVELOPE[1:], "DATA", "Subject: a", ".") == "250 2.0.0 a"


# --- prepend ---

OURS = b"Received: from a\r\n\tby b; now\r\n"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("early", [0, 1, 1000])
@pytest.mark.parametrize("octets", [1, 3, 1000])
@pytest.mark.parametrize(
    ("message", "separator"),
    [
        (MESSAGE, b""),
        (b"\r\ntext\r\n", b""),
        (b"", b""),
        (b"Old : field\r\n", b""),
        (b" for <forged@example.org>\r\n", b"\r\n"),
        (b"\tfor <forged@example.org>\r\n", b"\r\n"),
        (b"Dear Ann\r\n", b"\r\n"),
        (b"x", b"\r\n"),
    ],
)
def test_fields_stand_in_front_of_the_message_however_it_comes(
    way: Way, early: int, octets: int, message: bytes, separator: bytes
) -> None:
    pieces = [message[i : i + octets] for i in range(0, len(message), octets)]
    stream = MessageStream(len(message))
    feed(stream, pieces[:early])
    stream.prepend(OURS)
    result = Result(way(stream))
    feed(stream, pieces[early:])
    stream.append(b"", isLast=True)
    assert result.values == [OURS + separator + message]
    assert (stream.byteLength, stream.buffered, stream.sizeExceeded) == (len(message), 0, False)


def test_the_last_fields_come_first() -> None:
    stream = MessageStream()
    stream.prepend(b"One: 1\r\n")
    stream.prepend(b"Two: 2\r\nThree: 3\r\n")
    stream.append(b"Four: 4\r\n", isLast=True)
    assert Result(stream.read()).values == [b"Two: 2\r\nThree: 3\r\nOne: 1\r\nFour: 4\r\n"]


def test_fields_are_read_before_the_client_has_sent_anything() -> None:
    stream = MessageStream()
    stream.prepend(OURS)
    assert Result(anext(stream)).values == [OURS]
    waiting = Result(anext(stream))
    stream.append(b"Subject")
    assert (waiting.isOpen, stream.buffered) == (True, 7)
    stream.append(b":")
    assert (waiting.values, stream.buffered) == ([b"Subject:"], 0)


@pytest.mark.parametrize("between", [b"", b"Subject: "])
def test_the_header_has_the_fields_in_front_of_it(between: bytes) -> None:
    async def both() -> Any:
        stream.prepend(b"One: 1\r\n")
        names = (await stream.header()).keys()
        stream.prepend(b"Two: 2\r\n")
        return names, (await stream.header()).keys(), await stream.read()

    stream = MessageStream()
    message = between + b"a message\r\n\r\nNot: a field\r\n"
    stream.append(message, isLast=True)
    theirs = ["Subject"] if between else []
    separator = b"" if between else b"\r\n"
    whole = b"Two: 2\r\nOne: 1\r\n" + separator + message
    assert Result(both()).values == [(["One", *theirs], ["Two", "One", *theirs], whole)]


@pytest.mark.parametrize("way", WAYS)
def test_fields_come_before_the_message_is_read(way: Way) -> None:
    stream = MessageStream()
    result = Result(way(stream))
    with pytest.raises(RuntimeError, match="before"):
        stream.prepend(OURS)
    stream.append(b"text", isLast=True)
    with pytest.raises(RuntimeError, match="before"):
        stream.prepend(OURS)
    assert result.values == [b"text"]


@pytest.mark.parametrize("octets", [b"", b"A: b", b"A: b\n", b" a\r\n", b"A: b\r\n\r\n", b"\r\n", b"text\r\n"])
def test_only_whole_fields_are_prepended(octets: bytes) -> None:
    stream = MessageStream()
    with pytest.raises(ValueError, match="whole header fields"):
        stream.prepend(octets)
    stream.append(b"text", isLast=True)
    assert Result(stream.read()).values == [b"text"]


@pytest.mark.parametrize("octets", ["A: b\r\n", bytearray(b"A: b\r\n"), None])
def test_only_bytes_are_prepended(octets: Any) -> None:
    with pytest.raises(TypeError, match="takes bytes"):
        MessageStream().prepend(octets)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", [lambda stream: stream.fail(LOST), MessageStream.discard])
@pytest.mark.parametrize("late", [True, False])
def test_a_truncated_message_drops_the_fields_as_well(
    way: Way, end: Callable[[MessageStream], None], late: bool
) -> None:
    stream = MessageStream()
    if late:
        end(stream)
    stream.prepend(OURS)
    stream.append(b"Sub")
    if not late:
        end(stream)
    result = Result(way(stream))
    assert result.failures
    assert stream.buffered == 0


def test_of_a_truncated_message_not_even_the_fields_are_read() -> None:
    stream = MessageStream()
    stream.prepend(OURS)
    stream.fail(LOST)
    assert isinstance(Result(anext(stream)).failures[0], ConnectionLost)


@pytest.mark.parametrize("end", [lambda stream: stream.fail(LOST), MessageStream.discard])
def test_a_message_truncated_before_its_separator_is_known_fails(end: Callable[[MessageStream], None]) -> None:
    stream = MessageStream()
    stream.prepend(OURS)
    assert Result(anext(stream)).values == [OURS]
    result = Result(anext(stream))
    stream.append(b"Subject")
    end(stream)
    stream.append(b"", isLast=True)
    assert [type(failure) for failure in result.failures] in ([ConnectionLost], [RuntimeError])
    assert stream.buffered == 0
    assert type(Result(anext(stream)).failures[0]) is type(result.failures[0])


def test_a_message_too_large_before_its_separator_is_known_ends() -> None:
    stream = MessageStream(7)
    stream.prepend(OURS)
    result = Result(stream.read())
    stream.append(b"Subject")
    assert result.isOpen
    stream.append(b": x")
    assert result.values == [OURS + b"\r\nSubject"]


def test_a_paused_consumer_gets_the_fields_and_the_message_when_it_resumes() -> None:
    stream = MessageStream()
    stream.prepend(OURS)
    stream.pauseProducing()
    consumer = Consumer()
    result = Result(stream.startProducing(consumer))  # type: ignore[arg-type]
    stream.append(b"Sub")
    assert (consumer.got, stream.buffered) == (b"", len(OURS) + 3)
    stream.resumeProducing()
    assert (consumer.got, stream.buffered) == (OURS, 3)
    stream.pauseProducing()
    stream.append(b"way")
    stream.append(b"", isLast=True)
    assert (consumer.got, stream.buffered) == (OURS, 8)
    stream.resumeProducing()
    assert (consumer.got, result.values) == (OURS + b"\r\nSubway", [None])


@given(
    st.lists(st.sampled_from([b"A", b":", b" ", b"\r\n", b"x" * 500]), max_size=8).map(b"".join),
    st.lists(st.integers(0, 10000), max_size=8),
    st.lists(st.sampled_from(["header", "prepend"]), max_size=4),
    st.sampled_from(WAYS),
    st.integers(0, 8),
)
def test_the_message_is_whole_after_any_fields(
    message: bytes, cuts: list[int], deeds: list[str], way: Way, early: int
) -> None:
    async def read() -> Any:
        for number, deed in enumerate(deeds):
            if deed == "header":
                await stream.header()
            else:
                stream.prepend(b"N: %d\r\n" % number)
        return await way(stream)

    stream = MessageStream()
    pieces = [piece for piece in cutUp(message, cuts) if piece]
    feed(stream, pieces[:early])
    result = Result(read())
    feed(stream, pieces[early:])
    assert stream.byteLength == len(message)
    stream.append(b"", isLast=True)
    prefix = b"".join(b"N: %d\r\n" % number for number in range(3, -1, -1) if deeds[number : number + 1] == ["prepend"])
    separator = maybeSeparator(message, more=False) if prefix else b""
    assert separator is not None
    assert result.values == [prefix + separator + message]
    assert stream.buffered == 0


def test_a_message_is_handed_on_with_its_received_field() -> None:
    async def onData(stream: MessageStream, session: Any) -> None:
        stream.prepend(session.receivedHeader().encode())
        got.append(await stream.read())

    got: list[bytes] = []
    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    assert client.last(" for <forged@example.org>", "", "text", ".").startswith("250 ")
    assert got[0].startswith(b"Received: from ")
    assert got[0].endswith(b"\r\n\r\n for <forged@example.org>\r\n\r\ntext\r\n")


# --- failure ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("before", [True, False])
def test_a_truncated_message_never_ends(way: Way, before: bool) -> None:
    stream = MessageStream()
    stream.append(b"half")
    if before:
        stream.fail(LOST)
    result = Result(way(stream))
    if not before:
        stream.fail(LOST)
    assert [type(failure) for failure in result.failures] == [ConnectionLost]
    assert stream.buffered == 0


def test_octets_after_a_failure_are_only_counted() -> None:
    stream = MessageStream()
    stream.fail(LOST)
    stream.append(b"more")
    stream.fail(Failure(ValueError()))
    stream.append(b"", isLast=True)
    assert (stream.byteLength, stream.buffered) == (4, 0)
    assert isinstance(Result(stream.read()).failures[0], ConnectionLost)


def test_a_failure_after_the_end_is_ignored() -> None:
    stream = MessageStream()
    stream.append(b"text")
    stream.append(b"", isLast=True)
    stream.fail(LOST)
    assert Result(stream.read()).values == [b"text"]


def test_a_failure_reaches_a_consumer_that_has_paused() -> None:
    stream = MessageStream()
    consumer = Consumer()
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.pauseProducing()
    stream.append(b"half")
    stream.fail(LOST)
    assert (consumer.got, consumer.unregistered) == (b"", 1)
    assert isinstance(result.failures[0], ConnectionLost)


# --- the hook has ended ---


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ended", [True, False])
def test_a_reader_that_outlives_its_hook_never_sees_a_whole_message(way: Way, ended: bool) -> None:
    """A hook may forget to await C{deliverTo}."""
    stream = MessageStream()
    result = None
    if not ended:
        result = Result(way(stream))
    stream.append(b"half")
    if ended:
        stream.append(b"", isLast=True)
    stream.discard()
    result = result or Result(way(stream))
    stream.append(b"more")
    stream.append(b"", isLast=True)
    assert "onData has ended" in str(result.failures[0])
    assert stream.buffered == 0


def test_a_slow_consumer_never_sees_a_whole_message_when_the_hook_has_ended() -> None:
    stream = MessageStream()
    consumer = Consumer()
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.pauseProducing()
    stream.append(b"text")
    stream.append(b"", isLast=True)
    stream.discard()
    stream.resumeProducing()
    assert consumer.got == b""
    assert "onData has ended" in str(result.failures[0])


def test_the_failure_of_a_delivery_that_is_not_awaited_is_logged(logged: Logged) -> None:
    stream = MessageStream()
    stream.deliverTo(Consumer())  # type: ignore[arg-type]
    stream.discard()
    assert len(logged.takeFailures(RuntimeError)) == 1


def test_a_message_that_was_read_may_be_discarded() -> None:
    stream = MessageStream()
    result = Result(stream.read())
    stream.append(b"text")
    stream.append(b"", isLast=True)
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
        stream.append(piece)
    if way in (WAYS[0], WAYS[1]):
        assert result.values == [b"abcde"]
    else:
        # The code behind a consumer would take it for the whole message.
        assert [failure.responseCode for failure in result.failures] == [552]
    stream.append(b"", isLast=True)
    assert (stream.byteLength, stream.sizeExceeded) == (8, True)


def test_a_message_of_exactly_the_size_does_not_exceed_it() -> None:
    stream = MessageStream(5)
    result = Result(stream.read())
    stream.append(b"abcde")
    assert result.isOpen
    stream.append(b"", isLast=True)
    assert (result.values, stream.sizeExceeded) == ([b"abcde"], False)


def test_an_oversized_message_may_be_passed_whole() -> None:
    stream = MessageStream(5, cutOversized=False)
    result = Result(stream.read())
    stream.append(b"abcdefgh")
    assert stream.sizeExceeded
    stream.append(b"", isLast=True)
    assert result.values == [b"abcdefgh"]


def test_the_size_is_counted_without_a_reader() -> None:
    stream = MessageStream(5)
    stream.discard()
    stream.append(b"abcdefgh")
    assert stream.sizeExceeded


# --- room and back-pressure ---


def test_it_has_room_until_16_KiB_are_buffered() -> None:
    stream = MessageStream()
    stream.append(b"x" * 16383)
    assert stream.buffered < ROOM
    stream.append(b"x")
    assert not stream.buffered < ROOM
    assert stream.buffered == 16384
    Result(stream.read())
    assert stream.buffered < ROOM


@pytest.mark.parametrize("way", WAYS)
def test_it_reports_when_there_is_room_again(way: Way) -> None:
    wanted: list[int] = []
    stream = MessageStream(wantsMore=lambda: wanted.append(stream.buffered))
    stream.append(b"x" * 20000)
    assert not wanted
    Result(way(stream))
    assert wanted == [0]


def test_a_consumer_that_pauses_gets_nothing_until_it_resumes() -> None:
    stream = MessageStream()
    consumer = Consumer(doing=stream.pauseProducing)
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    for piece in (b"a", b"b", b"c"):
        stream.append(piece)
    assert (consumer.chunks, stream.buffered) == ([b"a"], 2)
    stream.resumeProducing()
    assert consumer.chunks == [b"a", b"bc"]
    stream.append(b"", isLast=True)
    assert result.values == [None]
    stream.resumeProducing()


def test_the_end_waits_for_a_consumer_that_has_paused() -> None:
    stream = MessageStream()
    consumer = Consumer(doing=stream.pauseProducing)
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.append(b"a")
    stream.append(b"b")
    stream.append(b"", isLast=True)
    assert result.isOpen
    stream.resumeProducing()
    assert (consumer.got, result.values) == (b"ab", [None])


def test_a_consumer_that_stops_fails_the_delivery() -> None:
    stream = MessageStream()
    consumer = Consumer(doing=stream.stopProducing)
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.append(b"a")
    stream.append(b"b")
    stream.append(b"", isLast=True)
    assert isinstance(result.failures[0], ConsumerStopped)
    assert consumer.got == b"a"
    stream.stopProducing()


def test_a_body_that_is_stopped_never_fires() -> None:
    stream = MessageStream()
    consumer = Consumer(doing=stream.stopProducing)
    result = Result(stream.startProducing(consumer))  # type: ignore[arg-type]
    stream.append(b"a")
    stream.append(b"b")
    stream.append(b"", isLast=True)
    assert result.isOpen
    assert consumer.got == b"a"


def test_a_disconnected_consumer_fails_the_delivery() -> None:
    """A transport without a connection stops its producer at once, and discards all writes."""

    class Gone(Consumer):
        def registerProducer(self, producer: Any, streaming: bool) -> None:
            producer.stopProducing()

    stream = MessageStream()
    result = Result(stream.deliverTo(Gone()))  # type: ignore[arg-type]
    stream.append(b"text")
    stream.append(b"", isLast=True)
    assert isinstance(result.failures[0], ConsumerStopped)


def test_a_consumer_that_rejects_its_producer_is_an_error_and_is_not_unregistered() -> None:
    transport = StringTransport()
    transport.registerProducer(Consumer(), True)
    stream = MessageStream()
    with pytest.raises(RuntimeError, match="two producers"):
        stream.deliverTo(transport)
    stream.append(b"text")
    stream.discard()
    assert transport.producer is not None


@pytest.mark.parametrize("early", [True, False])
def test_a_consumer_that_crashes_fails_the_delivery_and_nothing_else(early: bool) -> None:
    def crash() -> None:
        raise OSError("disk full")

    stream = MessageStream()
    if early:
        stream.append(b"a")
    result = Result(stream.deliverTo(Consumer(doing=crash)))  # type: ignore[arg-type]
    stream.append(b"b")
    stream.append(b"", isLast=True)
    assert isinstance(result.failures[0], OSError)


def test_a_consumer_that_stops_and_crashes_fails_the_delivery_once(logged: Logged) -> None:
    stream = MessageStream()

    def crash() -> None:
        stream.stopProducing()
        raise OSError("disk full")

    result = Result(stream.deliverTo(Consumer(doing=crash)))  # type: ignore[arg-type]
    stream.append(b"a")
    assert isinstance(result.failures[0], ConsumerStopped)
    assert len(logged.takeFailures(OSError)) == 1


def test_a_cancelled_delivery_unregisters_the_producer() -> None:
    stream = MessageStream()
    consumer = Consumer()
    result = Result(stream.deliverTo(consumer))  # type: ignore[arg-type]
    stream.append(b"a")
    result.deferred.cancel()
    assert isinstance(result.failures[0], CancelledError)
    assert (consumer.unregistered, stream.isAwaited) == (1, False)
    stream.append(b"b")
    stream.append(b"", isLast=True)
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
    """The protocol adds octets within the call that reports room."""
    source = [b"%d " % number for number in range(200)]
    expected = b"".join(source)

    def more() -> None:
        if source:
            stream.append(source.pop(0))
        elif not done:
            done.append(True)
            stream.append(b"", isLast=True)

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
                stream.append(piece)
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
        stream.append(b"", isLast=True)
        stream.resumeProducing()
        assert (consumer.got, result.values) == (sent, [None])


def test_the_limit_can_be_raised_while_the_message_comes() -> None:
    stream = MessageStream(5)
    result = Result(stream.read())
    stream.append(b"abcde")
    stream.allow(2)
    stream.append(b"fg")
    assert (result.isOpen, stream.sizeExceeded) == (True, False)
    stream.append(b"h")
    assert (result.values, stream.sizeExceeded) == ([b"abcdefg"], True)


def test_a_stream_without_a_limit_has_none_afterwards() -> None:
    stream = MessageStream()
    stream.allow(2)
    stream.append(b"abc", isLast=True)
    assert (Result(stream.read()).values, stream.sizeExceeded) == ([b"abc"], False)


@pytest.mark.parametrize(("message", "separator"), [(b"Subject: x\r\n", 0), (b"Dear Ann\r\n", 2)])
def test_prepended_octets_are_counted_with_their_separator(message: bytes, separator: int) -> None:
    stream = MessageStream()
    assert stream.prepended == 0
    stream.prepend(OURS)
    stream.prepend(OURS)
    assert stream.prepended == 2 * len(OURS)
    stream.append(message, isLast=True)
    result = Result(stream.read())
    assert stream.prepended == 2 * len(OURS) + separator
    assert len(result.values[0]) == stream.prepended + len(message)


# --- asking for octets ---

# More than Python's limit of recursion, so that no way to read may go deeper with each chunk.
MANY = 3000


class Source:
    """
    Octets that come when they are asked for.

    @ivar early: so many chunks come within C{asks}, the others when C{push} is called.
    @ivar asked: how often they were asked for.
    """

    def __init__(
        self, chunks: list[bytes], early: int = MANY, end: Callable[[MessageStream], None] | None = None
    ) -> None:
        self.stream = MessageStream(asks=self.asks)
        self.chunks = list(chunks)
        self.early = early
        self.asked = 0
        self.end = end or (lambda stream: stream.append(b"", isLast=True))

    def asks(self) -> None:
        self.asked += 1
        if self.early > 0:
            self.early -= 1
            self.push()

    def push(self) -> None:
        if self.chunks:
            self.stream.append(self.chunks.pop(0))
        else:
            self.end(self.stream)


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_gets_what_it_asks_for_at_once(way: Way) -> None:
    source = Source([b"%d " % number for number in range(MANY - 1)])
    result = Result(way(source.stream))
    assert result.values == [b"".join(b"%d " % number for number in range(MANY - 1))]
    assert source.asked == MANY


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_asks_once_and_then_waits(way: Way) -> None:
    source = Source([b"a", b"b"], early=0)
    assert source.asked == 0
    result = Result(way(source.stream))
    for asked in (1, 2, 3):
        assert (result.isOpen, source.asked) == (True, asked)
        assert source.stream.isAwaited
        source.push()
    assert (result.values, source.asked) == ([b"ab"], 3)


@pytest.mark.parametrize("way", WAYS)
def test_octets_that_are_there_are_read_before_more_are_asked_for(way: Way) -> None:
    source = Source([], early=0)
    source.stream.append(b"all", isLast=True)
    assert (Result(way(source.stream)).values, source.asked) == ([b"all"], 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("end", [lambda stream: stream.fail(LOST), MessageStream.discard])
def test_a_message_may_be_cut_when_it_is_asked_for(way: Way, chunks: int, end: Callable[[MessageStream], None]) -> None:
    source = Source([b"half"] * chunks, end=end)
    result = Result(way(source.stream))
    assert [type(failure) for failure in result.failures] in ([ConnectionLost], [RuntimeError])
    assert source.asked == chunks + 1
    late = Result(way(source.stream))
    assert (len(late.failures), source.asked) == (1, chunks + 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("early", [0, 1, 3, MANY])
@pytest.mark.parametrize("message", [b"Subject: a\r\n\r\ntext", b"text"])
def test_header_and_fields_in_front_ask_for_what_they_need(way: Way, early: int, message: bytes) -> None:
    async def both() -> Any:
        header = await source.stream.header()
        source.stream.prepend(OURS)
        return header["subject"], await way(source.stream)

    source = Source([message[i : i + 1] for i in range(len(message))], early)
    result = Result(both())
    while result.isOpen:
        asked = source.asked
        source.push()
        assert source.asked > asked or not result.isOpen
    separator = b"" if b":" in message else b"\r\n"
    assert result.values == [("a" if b":" in message else None, OURS + separator + message)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("early", [0, MANY])
def test_the_separator_behind_fields_in_front_is_asked_for(way: Way, early: int) -> None:
    message = b"Subject: a\r\n"
    source = Source([message[i : i + 1] for i in range(len(message))], early)
    source.stream.prepend(OURS)
    result = Result(way(source.stream))
    for _ in range(0 if early else len(message) + 1):
        source.push()
    assert (result.values, source.asked) == ([OURS + message], len(message) + 1)


@pytest.mark.parametrize("early", [0, MANY])
def test_a_paused_consumer_does_not_ask(early: int) -> None:
    source = Source([b"a", b"b", b"c"], early)
    consumer = Consumer(lambda: source.stream.pauseProducing())
    result = Result(source.stream.deliverTo(consumer))  # type: ignore[arg-type]
    for asked in (1, 2, 3):
        if not early:
            assert source.asked == asked
            source.push()
        assert (consumer.got, source.asked) == (b"abc"[:asked], asked)
        source.stream.resumeProducing()
    if not early:
        source.push()
    assert (result.values, consumer.got, source.asked) == ([None], b"abc", 4)


def test_a_consumer_that_pauses_and_resumes_in_each_write_goes_no_deeper() -> None:
    def doing() -> None:
        source.stream.pauseProducing()
        source.stream.resumeProducing()

    source = Source([b"x"] * MANY, MANY + 1)
    consumer = Consumer(doing)
    result = Result(source.stream.deliverTo(consumer))  # type: ignore[arg-type]
    assert (result.values, len(consumer.got), source.asked) == ([None], MANY, MANY + 1)


def test_a_consumer_that_stops_asks_no_more() -> None:
    source = Source([b"a", b"b"])
    consumer = Consumer(lambda: source.stream.stopProducing())
    result = Result(source.stream.deliverTo(consumer))  # type: ignore[arg-type]
    assert isinstance(result.failures[0], ConsumerStopped)
    assert (consumer.got, source.asked) == (b"a", 1)


@pytest.mark.parametrize("way", WAYS)
def test_the_feeder_may_be_asked_while_it_feeds(way: Way) -> None:
    """A filter is asked for more within C{append}, and goes on when that has returned."""
    chunks = [b"%d " % number for number in range(MANY)]
    events: list[str] = []
    wanted: list[bool] = []

    def asks() -> None:
        wanted.append(True)
        events.append("asked")

    stream = MessageStream(asks=asks)
    result = Result(way(stream))
    for chunk in chunks:
        assert wanted.pop()
        events.append("begin")
        stream.append(chunk)
        events.append("end")
    stream.append(b"", isLast=True)
    assert result.values == [b"".join(chunks)]
    assert events == ["asked"] + ["begin", "asked", "end"] * MANY
