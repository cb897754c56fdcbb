"""When the flow stops the client, and whose time it is then."""

from __future__ import annotations

import errno
import select
import socket
from typing import Any

import pytest

from smtphooks.connection.flow import Flow
from smtphooks.connection.message import Receiver
from smtphooks.connection.patience import Patience
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.writer import ReplyWriter
from smtphooks.dialogue.steps import ReceiveChunk
from smtphooks.hooks import HOOK_NAMES
from smtphooks.options import makeOptions
from smtphooks.session import Session
from smtphooks.syntax.wire import Wire
from tests.support import Pending, Transport, makeFactory, reset, tcpPair


class Parts:
    """A flow between real parts; its hook takes nothing unless told so."""

    def __init__(self) -> None:
        self.factory = makeFactory(socketTimeout=60, hookTimeout=300, dataTimeout=3600)
        self.hooks: Any = type("Hooks", (), dict.fromkeys(HOOK_NAMES))
        self.hooks.onData = staticmethod(Pending())
        self.transport = Transport()
        self.wire = Wire()
        self.writer = ReplyWriter(self.transport, lambda: None)
        self.patience = Patience(self.factory)
        runner = HookRunner(self.hooks, Session("mx.test"))
        options = makeOptions({"name": "mx.test"}, [])
        noop = lambda *given: None  # noqa: E731
        self.receiver = Receiver(self.wire, runner, options, noop, noop, noop, noop)
        self.flow = Flow(self.transport, self.wire, self.receiver, self.writer, self.patience)

    def adjust(self, *, isDecided: bool = True, mayCommand: bool = False) -> None:
        self.flow.adjust(isDecided=isDecided, mayCommand=mayCommand)

    def receiveChunk(self, octets: int) -> None:
        """All of a chunk waits for the hook."""
        self.patience.messageBegins()
        self.wire.receive(b"x" * octets)
        self.receiver.chunk(ReceiveChunk(octets, first=not self.receiver.hasMessage, last=False))
        while self.receiver.read():
            continue


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.mark.parametrize(("octets", "isStopped"), [(16383, False), (16384, True)])
def test_a_client_that_talks_on_while_a_hook_decides_is_stopped(octets: int, isStopped: bool, parts: Parts) -> None:
    parts.wire.receive(b"x" * octets)
    parts.adjust(isDecided=False)
    assert parts.flow.isStopped is isStopped
    parts.adjust(mayCommand=True)
    assert not parts.flow.isStopped


def test_the_transport_is_told_once(parts: Parts) -> None:
    parts.writer.pauseProducing()
    for _ in range(3):
        parts.adjust(mayCommand=True)
    parts.writer.resumeProducing()
    for _ in range(3):
        parts.adjust(mayCommand=True)
    assert parts.transport.flow == ["stop", "go"]


@pytest.mark.parametrize(("octets", "isStopped"), [(16383, False), (16384, True)])
def test_a_client_whose_message_is_not_taken_is_stopped(octets: int, isStopped: bool, parts: Parts) -> None:
    parts.receiveChunk(octets)
    parts.adjust()
    assert (parts.flow.isStopped, parts.patience.isHookSlow) == (isStopped, isStopped)


@pytest.mark.parametrize(("octets", "isStopped"), [(61440, False), (61441, True)])
def test_between_two_chunks_it_may_still_say_something(octets: int, isStopped: bool, parts: Parts) -> None:
    parts.receiveChunk(octets)
    parts.adjust(mayCommand=True)
    assert (parts.flow.isStopped, parts.patience.isHookSlow) == (isStopped, isStopped)


def test_the_time_while_it_is_stopped_is_that_of_the_hook(parts: Parts) -> None:
    parts.receiveChunk(70000)
    parts.adjust()
    assert parts.patience.deadline == parts.factory.now + 300
    parts.factory.now += 200
    parts.receiver.overdue()  # the hook is given up, and takes whatever comes
    parts.adjust()
    assert not parts.patience.isHookSlow
    assert parts.patience.deadline == parts.factory.now + 60


def test_between_two_chunks_no_rate_is_asked_of_the_client(parts: Parts) -> None:
    parts.receiveChunk(70000)
    parts.factory.now += 1000  # after so long a message has to have come at some rate
    parts.adjust(mayCommand=True)
    parts.receiver.overdue()
    parts.receiver.octets = 0  # of the chunk that is to come
    parts.adjust(mayCommand=True)
    assert parts.patience.deadline == parts.factory.now + 60


def test_all_that_waits_anywhere_counts(parts: Parts) -> None:
    parts.receiveChunk(1000)
    parts.wire.receive(b"NOOP\r\n")
    assert parts.flow.buffered == 1006


def test_the_client_is_started_at_the_end_whatever_waits(parts: Parts) -> None:
    parts.writer.pauseProducing()
    parts.adjust()
    parts.flow.start()
    assert (parts.flow.isStopped, parts.transport.producerState) == (False, "producing")


def test_a_client_that_is_there_is_not_broken(parts: Parts) -> None:
    assert not parts.flow.isBroken  # no socket at all
    here, there = tcpPair()
    with here, there:
        parts.transport.socket = here  # type: ignore[attr-defined]
        assert not parts.flow.isBroken
        there.sendall(b"x" * 1000)
        assert not parts.flow.isBroken
        there.shutdown(socket.SHUT_WR)
        assert not parts.flow.isBroken, "it may still read its replies"


def test_a_client_that_was_reset_is_broken(parts: Parts) -> None:
    here, there = tcpPair()
    with here:
        parts.transport.socket = here  # type: ignore[attr-defined]
        reset(there)
        assert parts.flow.isBroken


class Reporting(socket.socket):
    """Has an error that TCP rides out, such as a router's word that the host is unreachable just now (RFC 5461)."""

    def getsockopt(self, *_: Any) -> Any:
        return errno.EHOSTUNREACH


@pytest.mark.parametrize("event", [0, select.POLLERR])
def test_an_error_that_tcp_rides_out_breaks_nothing(event: int, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poll:
        def register(self, *_: Any) -> None: ...

        def poll(self, timeout: int) -> list[tuple[int, int]]:
            return [(1, event)] if event else []

    monkeypatch.setattr("smtphooks.connection.flow.select.poll", Poll)
    with Reporting() as parts.transport.socket:  # type: ignore[attr-defined]
        assert not parts.flow.isBroken
