"""Stages: what a filter yields and when, and what becomes of code that still reads when the filter has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred

from smtphooks import Layer
from tests.connection.test_passage import REFUSED, begin, layer, passing, send
from tests.support import ENVELOPE, Diary, Mailbox, Pending, connect, cutUp
from tests.test_spool import pooled
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


# --- any stages, and any order of events ---


async def reading(stream: Any, way: str, wait: Any) -> AsyncIterator[bytes]:
    """Reads a message in one of many ways, good and bad."""
    if way == "early":
        return
    if way == "refusing":
        raise REFUSED
    if way == "stuck":
        await wait()
    if way == "header":
        await stream.header()
    if way == "read":
        yield await stream.read(0)
    if way == "spool":
        async for chunk in (await stream.spool()).open():
            yield chunk
    if way == "deliver":
        consumer = Consumer()
        await stream.deliverTo(consumer)
        yield b"".join(consumer.chunks)
    if way in ("read", "spool", "deliver"):
        return
    try:
        async for chunk in stream:
            if way == "slow":
                await wait()
            yield chunk[:0]
            yield chunk
    except Exception:
        if way == "swallow":
            return
        if way == "cleanUp":
            await wait()
        raise
    if way == "late":
        await wait()
    if way == "refusingLate":
        raise REFUSED


WAYS = ["early", "refusing", "stuck", "header", "read", "spool", "deliver", "slow", "swallow", "cleanUp", "late"]
WAYS += ["refusingLate"]


class Stage:
    """
    A layer that filters, or inspects.

    @ivar hasAgreed: how it has ended; None if it has not, or was not asked.
    """

    def __init__(self, way: str, wait: Any) -> None:
        self.way = way
        self.wait = wait
        self.hasAgreed: bool | None = None

    async def follow(self, stream: Any) -> AsyncIterator[bytes]:
        self.hasAgreed = False
        chunks = reading(stream, self.way, self.wait)
        try:
            async for chunk in chunks:
                yield chunk
            self.hasAgreed = True
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]


class Filtering(Stage):
    async def filterData(self, stream: Any, session: Any) -> Any:
        chunks = self.follow(stream)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]


class Inspecting(Stage):
    async def inspectData(self, stream: Any, session: Any) -> None:
        async for _ in self.follow(stream):
            pass


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.lists(
        st.tuples(st.sampled_from([Filtering, Inspecting]), st.sampled_from(WAYS), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    delivery=st.sampled_from(WAYS),
    octets=st.integers(0, 60_000),
    cuts=st.lists(st.integers(0, 60_000), max_size=6),
    isLostAfter=st.none() | st.integers(0, 7),
    memory=st.sampled_from([0, 100, 1 << 20]),
    events=st.lists(st.integers(0, 3), max_size=30),
)
def test_a_store_has_the_whole_or_nothing_and_a_yes_is_that_of_all(
    kinds: list[Any],
    delivery: str,
    octets: int,
    cuts: list[int],
    isLostAfter: int | None,
    memory: int,
    events: list[int],
) -> None:
    pending, closed = Pending(), Diary()
    stored: list[bytes] = []

    async def onData(stream: Any, session: Any) -> None:
        octets = b"".join([chunk async for chunk in reading(stream, delivery, pending)])
        if delivery not in ("early", "swallow"):
            stored.append(octets)

    def happen() -> None:
        """Some of what has been waited for comes."""
        while events:
            event = events.pop()
            if event == 0 and pending.undecided:
                pending.decide()
            elif event == 1 and pool.waiting:
                pool.step()
            elif event == 2:
                client.clock.pump([1, 1, 1])
            else:
                return

    def settle() -> None:
        """All of it comes."""
        while pending.undecided or pool.waiting:
            pool.run()
            if pending.undecided:
                pending.decide()

    stages = [kind(way, pending) for kind, way, _ in kinds]
    layers = [Layer(stage, hookTimeout=5 * isTimed) for stage, (_, _, isTimed) in zip(stages, kinds, strict=True)]
    client = connect(hooks=[*layers, layer(onData=onData, onClose=closed.hook("close"))], spoolMemory=memory)
    message = (b"x" * 70 + b"\r\n") * (octets // 72)
    pieces = [*cutUp(message, cuts), b".\r\n"]
    with pooled() as pool:
        client.say(*ENVELOPE, "DATA")
        for number, piece in enumerate(pieces):
            if number == isLostAfter:
                break
            if client.transport.producerState != "producing":
                settle()
            client.feed(piece)
            happen()
        isWhole = isLostAfter is None or isLostAfter >= len(pieces)
        if isWhole:
            settle()
            [code] = client.codes()
            if code == 250:
                assert all(stage.hasAgreed for stage in stages)
        client.lose()
        happen()
        settle()
    assert closed == ["close"]
    assert client.clock.getDelayedCalls() == []
    if stored:
        assert isWhole
        assert all(stage.hasAgreed for stage in stages)
        if not any(stage.way == "early" for stage in stages if isinstance(stage, Filtering)):
            assert stored == [message]
