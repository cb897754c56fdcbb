"""Whose turn it is, until when, and when the client is paused."""

from __future__ import annotations

import errno
import select
import socket
from typing import Any

import pytest

from smtphooks.connection.message import MessageReceiver
from smtphooks.connection.pacing import Pacing, Turn, hasRoom, turnOf
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.state import ConnectionState, Phase, Want
from smtphooks.dialogue.steps import ReceiveChunk, ReceiveMessage
from smtphooks.hooks import HOOK_NAMES
from smtphooks.options import makeOptions
from smtphooks.replies import START_MESSAGE
from smtphooks.session import Session
from smtphooks.syntax.wire import Wire
from tests.support import Pending, Transport, makeFactory, reset, tcpPair


class Parts:
    """The parts of a connection that say whose turn it is; the hook reads nothing unless told so."""

    def __init__(self) -> None:
        factory = makeFactory(socketTimeout=60, hookTimeout=300, dataTimeout=3600)
        self.live = factory.server.live
        hooks: Any = type("Hooks", (), dict.fromkeys(HOOK_NAMES))
        hooks.onData = staticmethod(Pending())
        self.transport = Transport()
        self.wire = Wire()
        self.state = ConnectionState()
        runner = HookRunner(hooks, Session("mx.test"))
        self.message = MessageReceiver(self.wire, runner, makeOptions({"name": "mx.test"}, []), lambda: None)
        self.pacing = Pacing(factory.options, self.live, self.transport)

    @property
    def turn(self) -> Turn:
        return turnOf(self.state, self.wire, self.message)

    def receiveChunk(self, octets: int) -> None:
        """All of a chunk waits for the hook."""
        self.pacing.messageBegins()
        self.state.want = Want.MESSAGE
        self.wire.feed(b"x" * octets)
        self.message.beginChunk(ReceiveChunk(octets, first=self.message.delivery is None, last=False))
        while self.message.read():
            continue


@pytest.fixture
def parts() -> Parts:
    return Parts()


# --- whose turn it is ---


@pytest.mark.parametrize(
    ("want", "turn"),
    [
        (Want.LINE, Turn.CLIENT),
        (Want.RESPONSE, Turn.CLIENT),
        (Want.HANDSHAKE, Turn.CLIENT),
        (Want.HOOK, Turn.HOOK),
        (Want.TIMER, Turn.TIMER),
    ],
)
def test_without_a_message_what_is_wanted_says_whose_turn_it_is(want: Want, turn: Turn, parts: Parts) -> None:
    parts.state.want = want
    assert parts.turn is turn


def test_within_a_message_it_is_the_clients_until_it_has_sent_it(parts: Parts) -> None:
    parts.state.want = Want.MESSAGE
    parts.message.beginMessage(ReceiveMessage(START_MESSAGE))
    assert parts.turn is Turn.MESSAGE
    parts.wire.feed(b"text\r\n.\r\n")
    while parts.message.read():
        continue
    assert parts.turn is Turn.HOOK


@pytest.mark.parametrize(("octets", "turn"), [(16383, Turn.MESSAGE), (16384, Turn.HOOK)])
def test_a_message_that_is_not_read_is_the_hooks(octets: int, turn: Turn, parts: Parts) -> None:
    parts.state.want = Want.MESSAGE
    parts.message.beginChunk(ReceiveChunk(octets + 1, first=True, last=False))
    parts.wire.feed(b"x" * octets)
    while parts.message.read():
        continue
    assert parts.turn is turn
    assert hasRoom(parts.state, parts.message) is (turn is Turn.MESSAGE)


@pytest.mark.parametrize(("octets", "turn"), [(61440, Turn.CHUNK), (61441, Turn.HOOK)])
def test_between_two_chunks_there_is_more_room_for_commands(octets: int, turn: Turn, parts: Parts) -> None:
    parts.receiveChunk(octets)
    parts.state.want = Want.LINE
    assert parts.turn is turn
    assert hasRoom(parts.state, parts.message) is (turn is Turn.CHUNK)


def test_as_it_closes_the_client_reads_its_last_reply(parts: Parts) -> None:
    parts.state.phase = Phase.CLOSING
    assert parts.turn is Turn.CLIENT
    parts.message.beginMessage(ReceiveMessage(START_MESSAGE))
    assert parts.turn is Turn.FAREWELL, "the rest of a message is not read"


@pytest.mark.parametrize("phase", [Phase.LOST, Phase.ENDED])
def test_when_the_transport_is_gone_only_hooks_are_left(phase: Phase, parts: Parts) -> None:
    parts.state.phase = phase
    assert parts.turn is Turn.HOOK


# --- until when ---


@pytest.mark.parametrize(
    ("turn", "seconds"), [(Turn.CLIENT, 60), (Turn.HOOK, 300), (Turn.CHUNK, 60), (Turn.MESSAGE, 60)]
)
def test_each_turn_has_its_time(turn: Turn, seconds: float, parts: Parts) -> None:
    parts.live.now = 5000
    parts.pacing.messageBegins()
    parts.pacing.turnTo(turn, isNew=True)
    assert parts.pacing.deadline == 5000 + seconds


def test_the_short_way_for_commands_is_the_same(parts: Parts) -> None:
    parts.live.now = 5000
    parts.pacing.clientsTurn()
    assert (parts.pacing.turn, parts.pacing.deadline) == (Turn.CLIENT, 5060)


def test_a_turn_that_goes_on_has_no_more_time(parts: Parts) -> None:
    parts.pacing.turnTo(Turn.CLIENT, isNew=True)
    parts.live.now += 10
    parts.pacing.turnTo(Turn.CLIENT, isNew=False)
    assert parts.pacing.deadline == 60
    parts.pacing.turnTo(Turn.CLIENT, isNew=True)
    assert parts.pacing.deadline == 70


def test_the_time_of_the_hook_is_not_the_clients(parts: Parts) -> None:
    parts.pacing.messageBegins()
    parts.pacing.turnTo(Turn.HOOK, isNew=True)
    parts.live.now += 3000
    parts.pacing.turnTo(Turn.MESSAGE, isNew=True, octets=70000)
    assert parts.pacing.deadline == parts.live.now + 60
    parts.live.now += 3550
    parts.pacing.turnTo(Turn.MESSAGE, isNew=True, octets=70000)
    assert parts.pacing.deadline == parts.live.now + 50, "and its own time is"


def test_a_message_must_come_at_some_rate(parts: Parts) -> None:
    parts.pacing.messageBegins()
    parts.live.now += 290
    parts.pacing.turnTo(Turn.MESSAGE, isNew=True, octets=100)
    assert parts.pacing.deadline == 5 * 60 + 10


def test_between_two_chunks_no_rate_is_asked_of_the_client(parts: Parts) -> None:
    parts.pacing.messageBegins()
    parts.live.now += 1000
    parts.pacing.turnTo(Turn.CHUNK, isNew=True)
    assert parts.pacing.deadline == parts.live.now + 60


def test_each_delay_is_waited_for_anew(parts: Parts) -> None:
    clock: Any = parts.live._clock()
    for _ in range(2):
        parts.pacing.delayClient(3)
        assert not parts.pacing.isTimerDue
        parts.pacing.turnTo(Turn.TIMER, isNew=True)
        assert parts.pacing.deadline == clock.seconds() + 3
        clock.advance(2.5)
        assert not parts.pacing.isTimerDue
        clock.advance(0.5)
        assert parts.pacing.isTimerDue


def test_behind_an_end_by_force_hooks_have_a_second(parts: Parts) -> None:
    parts.pacing.hurry()
    parts.pacing.turnTo(Turn.HOOK, isNew=True)
    assert parts.pacing.deadline == 1


# --- pausing ---


def test_the_transport_is_told_once(parts: Parts) -> None:
    for isPaused in (True, True, False, False):
        parts.pacing.pause(isPaused)
    assert parts.transport.flow == ["stop", "go"]


def test_a_client_that_is_there_is_not_broken(parts: Parts) -> None:
    assert not parts.pacing.isBroken  # no socket at all
    here, there = tcpPair()
    with here, there:
        parts.transport.socket = here  # type: ignore[attr-defined]
        assert not parts.pacing.isBroken
        there.sendall(b"x" * 1000)
        assert not parts.pacing.isBroken
        there.shutdown(socket.SHUT_WR)
        assert not parts.pacing.isBroken, "it may still read its replies"


def test_a_client_that_was_reset_is_broken(parts: Parts) -> None:
    here, there = tcpPair()
    with here:
        parts.transport.socket = here  # type: ignore[attr-defined]
        reset(there)
        assert parts.pacing.isBroken


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

    monkeypatch.setattr("smtphooks.connection.pacing.select.poll", Poll)
    with Reporting() as parts.transport.socket:  # type: ignore[attr-defined]
        assert not parts.pacing.isBroken
