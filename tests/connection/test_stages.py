"""Stages: what a filter yields and when, and what becomes of code that still reads when the filter has ended."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from tests.connection.test_passage import REFUSED, begin, layer, passing, send
from tests.support import Mailbox, Pending, connect
from tests.test_stream import Consumer

pytestmark = pytest.mark.usefixtures("logged")


@pytest.mark.parametrize("further", [0, 1])
def test_a_chunk_without_octets_holds_nothing_up(further: int) -> None:
    pending, received = Pending(), []

    async def filterData(stream: Any, session: Any) -> Any:
        yield b""
        async for chunk in stream:
            yield chunk
            yield b""
            yield bytearray()
            yield chunk

    async def onData(stream: Any, session: Any) -> None:
        async for chunk in stream:
            received.append(chunk)
            await pending()

    client = connect(hooks=[layer(filterData=filterData), *[passing() for _ in range(further)], layer(onData=onData)])
    begin(client)
    client.feed(b"text\r\n.\r\n")
    while pending.undecided:
        pending.decide()
    assert received == [b"text\r\n"] * 2
    assert client.codes() == [250]


@pytest.mark.parametrize("isPaused", [True, False])
@pytest.mark.parametrize("isRefusing", [True, False])
def test_a_consumer_that_its_filter_has_left_never_takes_a_part_for_the_whole(isPaused: bool, isRefusing: bool) -> None:
    consumer = Consumer()
    ended: list[Any] = []

    async def filterData(stream: Any, session: Any) -> Any:
        stream.deliverTo(consumer).addBoth(ended.append)
        if isPaused:
            stream.pauseProducing()
        yield b"text\r\n"
        if isRefusing:
            raise REFUSED

    mailbox = Mailbox()
    client = connect(hooks=[passing(), layer(filterData=filterData), mailbox])
    begin(client, "one")
    client.say("two")
    assert client.last(".").startswith("550" if isRefusing else "250")
    assert mailbox == ([] if isRefusing else [b"text\r\n"])
    assert [type(end.value) for end in ended] == [RuntimeError]


def test_code_that_its_filter_has_left_fails_when_it_reads_on() -> None:
    ended: list[Any] = []
    decision: Deferred[None] = Deferred()

    async def filterData(stream: Any, session: Any) -> Any:
        async def read() -> None:
            await decision
            await anext(stream)

        await anext(stream)
        ensureDeferred(read()).addBoth(ended.append)
        yield b"text\r\n"

    mailbox = Mailbox()
    client = connect(hooks=[layer(filterData=filterData), mailbox])
    begin(client, "one")
    client.say("two")
    assert client.last(".").startswith("250")
    decision.callback(None)
    assert [type(end.value) for end in ended] == [RuntimeError]


def test_many_chunks_of_many_filters_need_no_depth() -> None:
    async def shredding(stream: Any, session: Any) -> Any:
        async for chunk in stream:
            for _ in range(20_000):
                yield chunk[:1]

    mailbox = Mailbox()
    client = connect(hooks=[layer(filterData=shredding), *[passing() for _ in range(20)], mailbox])
    assert send(client, "x").startswith("250")
    assert mailbox == [b"x" * 20_000]
