"""The registry of live connections: their one timer, and the end of all of them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from smtphooks.connection.registry import LiveConnections


class Summaries:
    """Stands for the lines of the log that wait for their second to end."""

    def __init__(self) -> None:
        self.hasMore = False
        self.calls: list[str] = []

    def flush(self) -> None:
        self.calls.append("flush")

    def report(self) -> None:
        self.calls.append("report")


class Connection:
    """A connection that writes down what it is told; it leaves when it is told to, unless it is busy."""

    messages = 0

    def __init__(self, live: LiveConnections, isBusy: bool = False, raises: bool = False) -> None:
        self.live = live
        self.isBusy = isBusy
        self.raises = raises
        self.calls: list[Any] = []
        live.add(self)
        self.calls.clear()  # the first of all connections is looked at as it is added

    def look(self, now: float) -> None:
        self.calls.append(now)
        if now:
            self._maybeRaise()

    def leave(self) -> None:
        self.calls.append("leave")
        self._maybeRaise()
        if not self.isBusy:
            self.live.remove(self)

    def endByForce(self) -> None:
        self.calls.append("endByForce")
        self._maybeRaise()
        self.live.remove(self)

    def crashed(self) -> None:
        self.calls.append("crashed")
        self.live.remove(self)

    def _maybeRaise(self) -> None:
        if self.raises:
            raise OSError("broken")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def live(clock: Clock) -> LiveConnections:
    one = LiveConnections(lambda: clock, Summaries())  # type: ignore[arg-type, return-value]
    one.startListening()
    return one


def test_any_number_of_connections_costs_one_delayed_call(live: LiveConnections, clock: Clock) -> None:
    for _ in range(100):
        live.wakeAt(5, Connection(live))
    assert len(clock.getDelayedCalls()) == 1


def test_each_connection_is_looked_at_once_a_second(live: LiveConnections, clock: Clock) -> None:
    one, other = Connection(live), Connection(live)
    clock.pump([0.5] * 6)
    assert one.calls == other.calls == [1, 2, 3]


def test_the_time_of_connections_is_never_behind(live: LiveConnections, clock: Clock) -> None:
    Connection(live)
    for _ in range(30):
        clock.advance(0.3)
        assert clock.seconds() <= live.now <= clock.seconds() + 1


def test_a_connection_is_looked_at_when_it_asked_for_it(live: LiveConnections, clock: Clock) -> None:
    one, other = Connection(live), Connection(live)
    live.wakeAt(0.25, one)
    clock.pump([0.25, 0.25])
    assert (one.calls, other.calls) == ([0.25], [])


def test_a_connection_that_has_gone_is_not_kept_for_what_it_asked_for(live: LiveConnections, clock: Clock) -> None:
    stays = Connection(live)
    for _ in range(50):
        gone = Connection(live)
        live.wakeAt(1000, gone)
        live.remove(gone)
    live.wakeAt(1000, stays)
    assert len(live._wakes) < 10


def test_what_one_connection_raises_harms_no_other(live: LiveConnections, clock: Clock) -> None:
    broken, other = Connection(live, raises=True), Connection(live)
    clock.advance(1)
    assert (broken.calls, other.calls) == ([1, "crashed"], [1])
    assert live.connections == {other}


def test_without_connections_no_timer_is_left(live: LiveConnections, clock: Clock) -> None:
    one = Connection(live)
    live.remove(one)
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("isListening", [True, False])
def test_summaries_are_waited_for_while_clients_can_connect(
    live: LiveConnections, clock: Clock, isListening: bool
) -> None:
    summaries: Any = live.summaries
    one = Connection(live)
    summaries.hasMore = True
    if not isListening:
        live.stopListening()
    live.remove(one)
    assert ("report" in summaries.calls) is not isListening
    assert len(clock.getDelayedCalls()) == 1
    summaries.hasMore = False
    clock.pump([1, 1])
    assert clock.getDelayedCalls() == []


# --- the end ---


def fired(live: LiveConnections, timeout: float = 30) -> list[None]:
    done: list[None] = []
    live.close(timeout).addCallback(done.append)
    return done


def test_without_connections_it_is_closed_at_once(live: LiveConnections) -> None:
    assert fired(live) == [None]


def test_it_is_closed_when_the_last_connection_has_gone(live: LiveConnections, clock: Clock) -> None:
    idle, busy = Connection(live), Connection(live, isBusy=True)
    done = fired(live)
    assert (idle.calls, busy.calls, done) == (["leave"], ["leave"], [])
    live.remove(busy)
    assert done == [None]
    assert clock.getDelayedCalls() == []


def test_what_takes_too_long_is_ended_by_force(live: LiveConnections, clock: Clock) -> None:
    busy = Connection(live, isBusy=True)
    done = fired(live, 2.5)
    clock.pump([1, 1])
    assert "endByForce" not in busy.calls
    clock.advance(0.5)
    assert busy.calls[-1] == "endByForce"
    assert done == [None]


def test_without_a_timeout_it_waits(live: LiveConnections, clock: Clock) -> None:
    busy = Connection(live, isBusy=True)
    done = fired(live, 0)
    clock.pump([60] * 5)
    assert ("endByForce" in busy.calls, done) == (False, [])


@pytest.mark.parametrize("when", ["leave", "endByForce"])
def test_a_connection_that_raises_as_it_is_ended_keeps_no_other(live: LiveConnections, clock: Clock, when: str) -> None:
    broken, other = Connection(live, isBusy=True), Connection(live, isBusy=True)
    broken.raises = when == "leave"
    done = fired(live, 1)
    broken.raises = True
    clock.advance(1)
    assert "crashed" in broken.calls
    assert "endByForce" in other.calls
    assert done == [None]


def test_closing_twice_is_closing_once(live: LiveConnections, clock: Clock) -> None:
    busy = Connection(live, isBusy=True)
    first, second = fired(live), fired(live)
    live.remove(busy)
    assert (first, second) == ([None], [None])


def test_a_connection_made_while_it_closes_is_waited_for(live: LiveConnections) -> None:
    busy = Connection(live, isBusy=True)
    done = fired(live)
    late = Connection(live, isBusy=True)
    live.remove(busy)
    assert done == []
    live.remove(late)
    assert done == [None]


def test_a_connection_made_since_it_listens_again_is_not_waited_for(live: LiveConnections) -> None:
    busy = Connection(live, isBusy=True)
    done = fired(live)
    live.startListening()
    assert not live.isClosing
    Connection(live, isBusy=True)
    live.remove(busy)
    assert done == [None]


def test_it_counts_all_connections_that_there_have_been(live: LiveConnections) -> None:
    live.remove(Connection(live))
    Connection(live)
    assert live.accepted == 2


# --- the drain ---


def drained(live: LiveConnections, timeout: float = 30) -> list[bool]:
    ends: list[bool] = []
    live.drain(timeout).addCallback(ends.append)
    return ends


def test_without_connections_it_has_drained_at_once(live: LiveConnections, clock: Clock) -> None:
    assert drained(live) == [True]
    assert live.isRefusing
    assert clock.getDelayedCalls() == []


def test_for_the_first_half_of_a_drain_connections_are_left_alone(live: LiveConnections, clock: Clock) -> None:
    one, other = Connection(live), Connection(live)
    ends = drained(live, 30)
    clock.pump([1] * 14)
    assert "leave" not in one.calls + other.calls
    live.remove(one)
    assert ends == []
    live.remove(other)
    assert ends == [True]
    assert clock.getDelayedCalls() == []


def test_in_the_second_half_of_a_drain_they_are_closed_and_at_its_end_by_force(
    live: LiveConnections, clock: Clock
) -> None:
    idle, busy = Connection(live), Connection(live, isBusy=True)
    ends = drained(live, 30)
    clock.pump([1] * 15)
    assert "leave" in idle.calls
    assert "leave" in busy.calls
    assert live.connections == {busy}
    clock.pump([1] * 14)
    assert "endByForce" not in busy.calls
    clock.advance(1)
    assert busy.calls[-1] == "endByForce"
    assert ends == [True]
    assert clock.getDelayedCalls() == []


def test_a_drain_without_a_limit_waits_for_the_clients(live: LiveConnections, clock: Clock) -> None:
    one = Connection(live)
    ends = drained(live, 0)
    clock.pump([60] * 100)
    assert ("leave" in one.calls, ends) == (False, [])
    live.remove(one)
    assert ends == [True]


def test_a_drain_is_resumed_in_its_first_half(live: LiveConnections, clock: Clock) -> None:
    one = Connection(live)
    ends = drained(live, 30)
    live.resume()
    assert (live.isRefusing, ends) == (False, [False])
    clock.pump([1] * 60)
    assert "leave" not in one.calls
    live.remove(one)
    assert ends == [False]


def test_a_drain_is_not_resumed_in_its_second_half(live: LiveConnections, clock: Clock) -> None:
    busy = Connection(live, isBusy=True)
    ends = drained(live, 30)
    clock.pump([1] * 15)
    live.resume()
    assert (live.isRefusing, live.isClosing, ends) == (True, True, [])
    live.remove(busy)
    assert ends == [True]


def test_draining_twice_is_draining_once(live: LiveConnections, clock: Clock) -> None:
    one = Connection(live)
    first = drained(live, 30)
    clock.pump([1] * 10)
    second = drained(live, 30)
    clock.pump([1] * 5)
    assert "leave" in one.calls
    assert (first, second) == ([True], [True])


def test_a_close_within_a_drain_does_not_wait_for_its_half(live: LiveConnections, clock: Clock) -> None:
    idle, busy = Connection(live), Connection(live, isBusy=True)
    ends = drained(live, 30)
    done = fired(live, 3)
    assert (idle.calls, busy.calls) == (["leave"], ["leave"])
    clock.pump([1] * 3)
    assert (busy.calls[-1], ends, done) == ("endByForce", [True], [None])
    assert clock.getDelayedCalls() == []


def test_a_close_without_a_limit_gets_none_from_a_drain(live: LiveConnections, clock: Clock) -> None:
    busy = Connection(live, isBusy=True)
    drained(live, 30)
    fired(live, 0)
    clock.pump([1] * 60)
    assert "endByForce" not in busy.calls


def test_a_drain_while_it_closes_waits_for_the_same_connections(live: LiveConnections, clock: Clock) -> None:
    busy = Connection(live, isBusy=True)
    done = fired(live, 3)
    ends = drained(live, 30)
    assert len(clock.getDelayedCalls()) == 2  # the look of each second, and the end by force
    live.remove(busy)
    assert (done, ends) == ([None], [True])


def test_a_connection_made_while_it_drains_is_waited_for(live: LiveConnections) -> None:
    one = Connection(live)
    ends = drained(live)
    late = Connection(live)
    live.remove(one)
    assert ends == []
    live.remove(late)
    assert ends == [True]


def test_what_is_refused_stays_so_when_it_begins_to_listen(clock: Clock) -> None:
    live = LiveConnections(lambda: clock, Summaries())  # type: ignore[arg-type, return-value]
    live.refuse()
    live.startListening()
    assert live.isRefusing
    live.resume()
    assert not live.isRefusing


def test_what_has_drained_and_closed_serves_again_when_it_listens_again(live: LiveConnections, clock: Clock) -> None:
    Connection(live)
    drained(live, 2)
    clock.advance(1)
    live.startListening()
    assert not live.isRefusing
