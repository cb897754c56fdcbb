"""Writing to a consumer: any exception of it, in any method, fails the delivery once and does not propagate."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost
from twisted.protocols.ftp import FileConsumer
from twisted.python.failure import Failure

from smtphooks import ConsumerStopped, MessageStream
from smtphooks.consumer import ConsumerWriter
from tests.conftest import Logged
from tests.support import ENVELOPE, Client, connect
from tests.test_stream import Consumer, Result

pytestmark = pytest.mark.usefixtures("logged")


class Full(io.BytesIO):
    """A file on a full disk: writes are buffered, and fail when the file is closed."""

    def close(self) -> None:
        super().close()
        raise OSError(errno.ENOSPC, "No space left on device")


class Crash(BaseException):
    """A BaseException, as asyncio's CancelledError is."""


class Crashing(Consumer):
    """A consumer whose named method raises."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.method = method

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if method == self.method:
            raise Crash(method)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._called("registerProducer")

    def unregisterProducer(self) -> None:
        self._called("unregisterProducer")

    def write(self, data: bytes) -> None:
        self._called("write")


def deliver(stream: MessageStream, consumer: Any) -> Result:
    return Result(stream.deliverTo(consumer))


def test_a_file_on_a_full_disk_fails_the_delivery() -> None:
    stream = MessageStream()
    result = deliver(stream, FileConsumer(Full()))
    stream.append(b"text")
    stream.append(b"", isLast=True)
    assert [error.errno for error in result.failures] == [errno.ENOSPC]  # type: ignore[attr-defined]
    assert not stream.isAwaited


ENDS: dict[str, tuple[Callable[[MessageStream, Result], None], type[BaseException]]] = {
    "lost": (lambda stream, result: stream.fail(Failure(ConnectionLost())), ConnectionLost),
    "discarded": (lambda stream, result: stream.discard(), RuntimeError),
    "cancelled": (lambda stream, result: result.deferred.cancel(), CancelledError),
}


@pytest.mark.parametrize("way", ENDS)
def test_the_first_failure_wins_and_a_later_exception_of_the_consumer_is_logged(way: str, logged: Logged) -> None:
    end, expected = ENDS[way]
    stream = MessageStream()
    consumer = Crashing("unregisterProducer")
    result = deliver(stream, consumer)
    stream.append(b"half")
    end(stream, result)
    assert [type(error) for error in result.failures] == [expected]
    assert consumer.calls == ["registerProducer", "write", "unregisterProducer"]
    assert len(logged.takeFailures(Crash)) == 1
    assert not stream.isAwaited


def test_a_message_that_was_too_large_stays_too_large(logged: Logged) -> None:
    stream = MessageStream(2)
    result = deliver(stream, Crashing("unregisterProducer"))
    stream.append(b"text", isLast=True)
    assert [error.responseCode for error in result.failures] == [552]  # type: ignore[attr-defined]
    assert len(logged.takeFailures(Crash)) == 1


def test_a_consumer_that_crashes_is_unregistered() -> None:
    stream = MessageStream()
    consumer = Crashing("write")
    result = deliver(stream, consumer)
    stream.append(b"half")
    stream.append(b"more")
    stream.append(b"", isLast=True)
    assert [type(error) for error in result.failures] == [Crash]
    assert consumer.calls == ["registerProducer", "write", "unregisterProducer"]


def test_a_consumer_that_crashes_twice_fails_the_delivery_with_the_first(logged: Logged) -> None:
    class File(Full):
        def write(self, data: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

    stream = MessageStream()
    result = deliver(stream, FileConsumer(File()))
    stream.append(b"half")
    assert [error.errno for error in result.failures] == [errno.EIO]  # type: ignore[attr-defined]
    assert [failure.value.errno for failure in logged.takeFailures(OSError)] == [errno.ENOSPC]  # type: ignore[attr-defined]


def test_a_consumer_that_rejects_its_producer_gets_nothing() -> None:
    stream = MessageStream()
    consumer = Crashing("registerProducer")
    with pytest.raises(Crash):
        stream.deliverTo(consumer)  # type: ignore[arg-type]
    stream.append(b"text")
    stream.resumeProducing()
    stream.append(b"", isLast=True)
    assert consumer.calls == ["registerProducer"]
    assert not stream.isAwaited


def test_a_consumer_that_stops_its_producer_and_raises_fails_with_its_exception() -> None:
    class Gone(Consumer):
        def registerProducer(self, producer: Any, streaming: bool) -> None:
            producer.stopProducing()
            raise Crash

    stream = MessageStream()
    with pytest.raises(Crash):
        stream.deliverTo(Gone())  # type: ignore[arg-type]
    stream.discard()


def test_a_body_is_not_unregistered_when_its_consumer_crashes() -> None:
    stream = MessageStream()
    consumer = Crashing("write")
    result = Result(stream.startProducing(consumer))  # type: ignore[arg-type]
    stream.append(b"half")
    assert [type(error) for error in result.failures] == [Crash]
    assert consumer.calls == ["write"]


@pytest.mark.parametrize("ending", [True, False])
def test_a_consumer_that_unregisters_its_producer_itself_gets_the_rest(ending: bool) -> None:
    consumer = Consumer(doing=lambda: consumer.unregisterProducer())
    stream = MessageStream()
    result = deliver(stream, consumer)
    stream.append(b"a")
    if not ending:
        stream.append(b"b")
    stream.append(b"", isLast=True)
    assert (consumer.got, result.values) == (b"a" if ending else b"ab", [None])


@pytest.mark.parametrize("deed", ["stopProducing", "resumeProducing", "pauseProducing"])
@pytest.mark.parametrize("isCut", [True, False])
def test_calls_of_a_consumer_while_it_is_unregistered_change_nothing(deed: str, isCut: bool) -> None:
    class Restless(Consumer):
        def unregisterProducer(self) -> None:
            getattr(stream, deed)()
            super().unregisterProducer()

    stream = MessageStream()
    consumer = Restless()
    result = deliver(stream, consumer)
    stream.append(b"a")
    if isCut:
        stream.fail(Failure(ConnectionLost()))
        assert isinstance(result.failures[0], ConnectionLost)
    else:
        stream.append(b"", isLast=True)
        assert (consumer.got, result.values) == (b"a", [None])
    assert consumer.unregistered == 1


def test_a_consumer_may_cancel_its_delivery_while_it_is_unregistered() -> None:
    class Cancelling(Consumer):
        def unregisterProducer(self) -> None:
            super().unregisterProducer()
            result.deferred.cancel()

    stream = MessageStream()
    consumer = Cancelling()
    result = deliver(stream, consumer)
    stream.append(b"", isLast=True)
    assert isinstance(result.failures[0], CancelledError)
    assert consumer.unregistered == 1


@pytest.mark.parametrize("deed", ["cancel", "stop"])
def test_a_delivery_that_ends_within_a_write_gets_no_more(deed: str) -> None:
    stream = MessageStream()
    consumer = Consumer(doing=lambda: stream.stopProducing() if deed == "stop" else result.deferred.cancel())
    result = deliver(stream, consumer)
    stream.append(b"a")
    stream.append(b"b")
    stream.append(b"", isLast=True)
    assert consumer.got == b"a"
    assert [type(error) for error in result.failures] == [ConsumerStopped if deed == "stop" else CancelledError]


def test_a_writer_fires_once() -> None:
    consumer = Consumer()
    writer = ConsumerWriter(consumer)  # type: ignore[arg-type]
    result = Result(writer.ended)
    writer.write(b"a")
    writer.endDelivery()
    writer.stopDelivery(ValueError())
    assert (consumer.got, result.values) == (b"a", [None])


# --- with a client ---


def full(stream: MessageStream, session: object) -> Any:
    return stream.deliverTo(FileConsumer(Full()))


def served(client: Client) -> bool:
    """Whether the connection still serves the client."""
    return client.last("NOOP").startswith("250 ")


def test_the_client_of_a_full_disk_gets_451_and_goes_on(logged: Logged) -> None:
    client = connect(onData=full)
    client.say(*ENVELOPE, "DATA")
    assert client.last("text", ".").startswith("451 4.3.0 ")
    assert served(client)
    assert len(logged.takeFailures(OSError)) == 1


@pytest.mark.parametrize("way", ["lost", "factory"])
def test_a_connection_that_ends_within_a_message_for_a_full_disk_is_freed(way: str, logged: Logged) -> None:
    closed: list[object] = []
    client = connect(onData=full, onClose=closed.append)
    client.say(*ENVELOPE, "DATA")
    client.feed(b"half\r\n")
    if way == "factory":
        client.protocol.endByForce()
    client.lose()
    assert closed == [client.session]
    assert not client.factory.connections
    assert len(logged.takeFailures(OSError)) == 1


@pytest.mark.parametrize("method", ["registerProducer", "write", "unregisterProducer"])
def test_whatever_a_consumer_raises_the_client_gets_451(method: str, logged: Logged) -> None:
    client = connect(onData=lambda stream, session: stream.deliverTo(Crashing(method)))
    client.say(*ENVELOPE, "DATA")
    assert client.last("text", ".").startswith("451 4.3.0 ")
    assert served(client)
    assert len(logged.takeFailures(Crash)) == 1
