"""When replies go to the transport, and what the writer does where the client does not read them."""

from __future__ import annotations

from typing import Any

import pytest

from smtphooks.connection.writer import ReplyWriter
from tests.support import Transport

REPLY = b"250 2.0.0 OK\r\n"


class Observed(Transport):
    """
    A transport that records when its producer, TLS and its end come.

    @ivar log: what has happened, in order; of a write the octets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []

    def write(self, data: bytes) -> None:
        super().write(data)
        self.log.append(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        self.log.append("register")

    def unregisterProducer(self) -> None:
        super().unregisterProducer()
        self.log.append("unregister")

    def startTLS(self, contextFactory: object) -> None:
        self.log.append(contextFactory)

    def loseConnection(self) -> None:
        super().loseConnection()
        self.log.append("lose")


class Harness:
    """A writer on a transport; how often the client has begun to read again is counted."""

    def __init__(self) -> None:
        self.resumed = 0
        self.transport = Observed()
        self.writer = ReplyWriter(self.transport, self._resume)

    def _resume(self) -> None:
        self.resumed += 1


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_the_transport_can_pause_it(harness: Harness) -> None:
    assert (harness.transport.producer, harness.transport.streaming) == (harness.writer, True)


def test_what_is_put_waits_until_it_is_flushed_and_is_written_at_once(harness: Harness) -> None:
    harness.writer.put(REPLY)
    harness.writer.put(REPLY)
    assert (harness.transport.writes, harness.writer.gathered) == ([], 2 * len(REPLY))
    harness.writer.flush()
    assert (harness.transport.writes, harness.writer.gathered) == ([REPLY + REPLY], 0)


def test_nothing_is_written_where_nothing_has_gathered(harness: Harness) -> None:
    harness.writer.flush()
    harness.writer.put(REPLY)
    harness.writer.flush()
    harness.writer.flush()
    assert harness.transport.writes == [REPLY]


@pytest.mark.parametrize(("octets", "writes"), [(16384, 0), (16385, 1)])
def test_so_much_is_gathered_and_no_more(octets: int, writes: int, harness: Harness) -> None:
    harness.writer.put(REPLY)
    harness.writer.put(b"x" * (octets - len(REPLY)))
    assert len(harness.transport.writes) == writes
    assert harness.writer.gathered == (0 if writes else octets)


def test_it_is_choked_while_the_client_does_not_read(harness: Harness) -> None:
    assert not harness.writer.isChoked
    harness.writer.pauseProducing()
    assert (harness.writer.isChoked, harness.resumed) == (True, 0)
    harness.writer.resumeProducing()
    assert (harness.writer.isChoked, harness.resumed) == (False, 1)


def test_it_is_not_choked_any_more_when_it_says_so() -> None:
    seen: list[bool] = []
    writer = ReplyWriter(Transport(), lambda: seen.append(writer.isChoked))
    writer.pauseProducing()
    writer.resumeProducing()
    assert seen == [False]


def test_TLS_begins_behind_what_has_gathered(harness: Harness) -> None:
    """The reply to STARTTLS is the last in the clear."""
    context = object()
    harness.writer.put(REPLY)
    harness.writer.startTLS(context)
    assert harness.transport.log == ["register", REPLY, "unregister", context, "register"]
    harness.writer.put(b"220 \r\n")
    harness.writer.flush()
    assert harness.transport.writes == [REPLY, b"220 \r\n"]


def test_as_TLS_begins_it_is_not_choked(harness: Harness) -> None:
    """The new transport pauses it again if it has to."""
    harness.writer.pauseProducing()
    harness.writer.startTLS(object())
    assert (harness.writer.isChoked, harness.resumed) == (False, 0)


def test_it_closes_behind_what_has_gathered_and_is_no_producer_then(harness: Harness) -> None:
    harness.writer.put(REPLY)
    assert not harness.writer.isClosed
    harness.writer.close()
    assert harness.transport.log == ["register", REPLY, "unregister", "lose"]
    assert harness.writer.isClosed


def test_that_the_connection_goes_away_ends_nothing(harness: Harness) -> None:
    """The protocol is told as well, and ends everything there."""
    harness.writer.put(REPLY)
    harness.writer.stopProducing()
    assert (harness.writer.isClosed, harness.resumed, harness.transport.log) == (False, 0, ["register"])
