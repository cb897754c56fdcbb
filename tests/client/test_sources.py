"""Contents of messages: octets, what yields them, and producers of Twisted, at the pace of the reader."""

from __future__ import annotations

import io
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Cooperator
from twisted.web.client import FileBodyProducer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from smtphooks.client.sources import Inlet, chunksOf
from smtphooks.replies import SMTPError
from smtphooks.stream import MessageStream
from tests.client.network import MESSAGE, ROUTE, Network, Outcome, Server, clientOf, nothingIsLeft
from tests.support import ENVELOPE, connect

pytestmark = pytest.mark.usefixtures("logged")


async def join(content: Any) -> bytes:
    return b"".join([chunk async for chunk in chunksOf(content)])


def outcomeOf(coroutine: Any) -> Outcome:
    return Network(Server()).start(coroutine)


async def pieces() -> Any:
    yield b"one"
    yield b""
    yield b"two"


@pytest.mark.parametrize("content", [b"octets", bytearray(b"octets"), memoryview(b"octets"), b"", b"x" * 200_000])
def test_octets_are_read_in_pieces(content: Any) -> None:
    assert outcomeOf(join(content)).value == bytes(content)


def test_what_yields_octets_is_read() -> None:
    assert outcomeOf(join(pieces())).value == b"onetwo"


@pytest.mark.parametrize("content", [None, "text", 5, [b"a"], iter([b"a"])])
def test_anything_else_is_a_TypeError(content: Any) -> None:
    with pytest.raises(TypeError, match="it wants bytes, what yields them, or a producer"):
        chunksOf(content)


class Producer:
    """
    A producer that writes when the test says so.

    @ivar calls: what it was told.
    """

    def __init__(self, isStreaming: bool = True, registers: bool = True) -> None:
        self.calls: list[str] = []
        self.isStreaming = isStreaming
        self.registers = registers
        self.ended: Deferred[None] = Deferred()
        self.left = [b"one", b"two", b"three"]
        self.consumer: Any = None

    def deliverTo(self, consumer: Any) -> Deferred[None]:
        self.consumer = consumer
        if self.registers:
            consumer.registerProducer(self, self.isStreaming)
        return self.ended

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        if not self.isStreaming:
            self.produce()

    def stopProducing(self) -> None:
        self.calls.append("stop")

    def produce(self) -> None:
        if self.left:
            self.consumer.write(self.left.pop(0))
        else:
            self.end()

    def end(self) -> None:
        self.consumer.unregisterProducer()
        self.ended.callback(None)


def test_a_push_producer_is_paused_while_nobody_asks() -> None:
    producer = Producer()
    inlet = Inlet(producer)
    first = outcomeOf(inlet.__anext__())
    assert first.isPending
    producer.produce()
    assert first.value == b"one"
    assert producer.calls == ["pause"]
    producer.produce()  # it may write all the same
    producer.produce()
    assert producer.calls == ["pause"]
    assert outcomeOf(inlet.__anext__()).value == b"twothree"
    last = outcomeOf(inlet.__anext__())
    assert producer.calls == ["pause", "resume"]
    producer.end()
    assert isinstance(last.error, StopAsyncIteration)


def test_a_pull_producer_is_pulled() -> None:
    producer = Producer(isStreaming=False)
    assert outcomeOf(join(producer)).value == b"onetwothree"
    assert producer.calls == ["resume"] * 4


def test_a_producer_that_does_not_register_is_read_as_well() -> None:
    producer = Producer(registers=False)
    outcome = outcomeOf(join(producer))
    producer.produce()
    producer.produce()
    producer.ended.callback(None)
    assert outcome.value == b"onetwo"


class Broken(Exception):
    pass


def test_what_ends_a_producer_early_is_raised_after_what_it_wrote() -> None:
    producer = Producer()
    inlet = Inlet(producer)
    outcome = outcomeOf(inlet.__anext__())
    producer.produce()
    producer.ended.errback(Broken())
    assert outcome.value == b"one"
    assert isinstance(outcomeOf(inlet.__anext__()).error, Broken)


def test_a_producer_that_cannot_begin_is_an_error() -> None:
    class Bad:
        def startProducing(self, consumer: Any) -> Any:
            raise Broken

    assert isinstance(outcomeOf(join(Bad())).error, Broken)


def test_one_who_stops_reading_stops_the_producer() -> None:
    producer = Producer()
    inlet = Inlet(producer)
    outcome = outcomeOf(inlet.__anext__())
    outcome.deferred.cancel()
    assert isinstance(outcome.error, CancelledError)
    inlet.stop()
    inlet.stop()
    assert producer.calls == ["stop"]
    producer.produce()
    Inlet(Producer()).stop()  # it has not begun


def test_a_producer_that_registers_when_it_is_too_late_is_stopped() -> None:
    producer = Producer(registers=False)
    inlet = Inlet(producer)
    outcomeOf(inlet.__anext__())
    inlet.stop()
    inlet.registerProducer(producer, True)
    assert producer.calls == ["stop"]


# --- as contents of messages ---


def test_a_body_producer_of_Twisted_is_a_content() -> None:
    network = Network(Server())
    client = clientOf(network)
    later = Cooperator(scheduler=lambda call: network.callLater(0, call))
    body = FileBodyProducer(io.BytesIO(MESSAGE * 10_000), later, readSize=4096)
    outcome = network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], body))
    assert outcome.value.isWhole
    assert network.servers[0].messages == [MESSAGE.replace(b"\r\n.", b"\r\n..") * 10_000]
    nothingIsLeft(network, client)


@implementer(IBodyProducer)
class Body(Producer):
    length = UNKNOWN_LENGTH

    def startProducing(self, consumer: Any) -> Deferred[None]:
        self.consumer = consumer
        return self.ended

    deliverTo = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Producer, Body])
def test_a_producer_is_stopped_when_the_message_cannot_go_on(kind: type[Producer]) -> None:
    producer = kind()
    if kind is Body:
        del producer.__class__.deliverTo
    network = Network(Server())
    client = clientOf(network)
    outcome = network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], producer))
    producer.consumer.write(b"begun\r\n")
    network.settle()
    network.lines[0].close()
    network.settle()
    producer.consumer.write(b"more\r\n")
    network.settle()
    assert "the connection is lost" in str(outcome.error)
    assert producer.calls[-1] == "stop"
    nothingIsLeft(network, client)


def test_a_message_that_the_server_is_receiving_is_a_content() -> None:
    network = Network(Server())
    client = clientOf(network)
    results: list[Any] = []

    async def onData(stream: Any, session: Any) -> None:
        results.append(await client.send(ROUTE, "a@b.test", ["c@d.test"], stream))

    receiving = connect(onData=onData)
    receiving.say(*ENVELOPE, "DATA")
    receiving.feed(b"Subject: x\r\n")
    network.settle()
    receiving.feed(b"\r\ntext\r\n.\r\n")
    network.settle()
    assert receiving.replies()[-1].startswith("250")
    assert results[0].isWhole
    assert network.servers[0].messages == [b"Subject: x\r\n\r\ntext\r\n"]
    nothingIsLeft(network, client)


def test_the_Deferred_of_a_producer_may_have_fired_at_once() -> None:
    class Whole:
        def deliverTo(self, consumer: Any) -> Any:
            consumer.write(b"whole")
            return succeed(None)

    assert outcomeOf(join(Whole())).value == b"whole"


def test_a_message_that_was_cut_at_option_size_is_no_whole_one() -> None:
    stream = MessageStream(size=10)
    stream.append(b"0123456789and more", isLast=True)
    outcome = outcomeOf(join(stream))
    assert isinstance(outcome.error, SMTPError)
    assert outcome.error.responseCode == 552


def test_a_message_is_read_whole() -> None:
    stream = MessageStream()
    stream.append(b"Subject: x\r\n\r\n")
    stream.append(b"text\r\n", isLast=True)
    assert outcomeOf(join(stream)).value == b"Subject: x\r\n\r\ntext\r\n"
