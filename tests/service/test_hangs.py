"""Hangs: who is to blame for silence, and who is not."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from smtphooks.service.hangs import HangWatch
from tests.conftest import Logged
from tests.service.crew import RecordingTable, StandIn


class Watched:
    """One worker that is watched."""

    def __init__(self, timeout: float) -> None:
        self.clock = Clock()
        self.worker = StandIn(1, 1, 0, 0.0, RecordingTable(), hasBeaten=True)
        self.watch = HangWatch(self.clock, [self.worker])
        self.watch.start(timeout)

    def pass_(self, seconds: int, beats: bool = False) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            if beats:
                self.beat()

    def beat(self) -> None:
        self.worker.lastBeat = self.clock.seconds()


@pytest.fixture
def watched() -> Iterator[Watched]:
    one = Watched(5.0)
    yield one
    one.watch.stop()
    one.watch.stop()
    assert one.clock.getDelayedCalls() == []


def test_one_that_beats_is_left_alone(watched: Watched) -> None:
    watched.pass_(100, beats=True)
    assert watched.worker.signals == []


def test_silence_is_measured_from_the_last_beat(watched: Watched, logged: Logged) -> None:
    watched.pass_(3, beats=True)
    watched.pass_(5)
    assert watched.worker.signals == []
    watched.pass_(1)
    assert watched.worker.signals == [signal.SIGABRT]
    assert len(logged.takeTexts()) == 1
    watched.pass_(3)


def test_nobody_is_to_blame_if_the_supervisor_stood_still(watched: Watched, logged: Logged) -> None:
    watched.pass_(2, beats=True)
    watched.clock.advance(60)
    assert watched.worker.signals == []
    watched.pass_(4)
    assert watched.worker.signals == []
    watched.pass_(2)
    assert watched.worker.signals == [signal.SIGABRT]
    assert len(logged.takeTexts()) == 1
    watched.pass_(3)


def test_one_whose_beat_was_read_before_the_look_has_no_longer_for_it(watched: Watched, logged: Logged) -> None:
    # What it had sent while the supervisor stood still is read first; without care it might hang for another minute.
    watched.clock.rightNow += 60
    watched.beat()
    watched.clock.advance(0)
    watched.pass_(7)
    assert watched.worker.signals == [signal.SIGABRT]
    assert len(logged.takeTexts()) == 1
    watched.pass_(3)


@pytest.mark.parametrize("beatsAfter", [True, False])
def test_nobody_is_to_blame_for_a_clock_that_is_set_back(watched: Watched, beatsAfter: bool, logged: Logged) -> None:
    watched.pass_(10, beats=True)
    watched.clock.rightNow -= 8
    if beatsAfter:
        watched.beat()
    for call in watched.clock.getDelayedCalls():
        call.reset(0)
    watched.clock.advance(0)
    assert watched.worker.lastBeat == watched.clock.seconds()
    watched.pass_(20, beats=True)
    assert watched.worker.signals == []


def test_a_limit_below_two_beats_kills_none_that_beats(logged: Logged) -> None:
    watched = Watched(0.1)
    for _ in range(100):
        # The beat comes just after the look.
        watched.clock.advance(1)
        watched.worker.lastBeat = watched.clock.seconds() - 0.9
    assert watched.worker.signals == []
    watched.pass_(2)
    assert watched.worker.signals == [signal.SIGABRT]
    assert len(logged.takeTexts()) == 1
    watched.pass_(3)
    watched.watch.stop()


def test_one_that_has_ended_does_not_hang(watched: Watched) -> None:
    watched.worker.status = 0
    watched.pass_(100)
    assert watched.worker.signals == []


def test_a_limit_of_zero_is_none() -> None:
    watched = Watched(0.0)
    watched.pass_(1000)
    assert watched.worker.signals == []
    watched.watch.timeout = 5.0
    watched.beat()
    watched.pass_(5)
    assert watched.worker.signals == []
    watched.watch.stop()
