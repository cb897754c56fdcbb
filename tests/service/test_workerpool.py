"""The pool: who is started, who serves what, and who is ended, with workers in memory and a clock of the test's."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.python.failure import Failure

from smtphooks.service.workerpool import WorkerPool
from smtphooks.service.workers import DRAINING, READY, STARTING, NeverReady
from tests.conftest import Logged
from tests.service.crew import Crew, StandIn, makeCrew

KILLED = int(signal.SIGKILL)
FAILED = 256  # status 1, as waitpid has it


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    yield from makeCrew(monkeypatch)


def stopped(pool: WorkerPool) -> list[object]:
    found: list[object] = []
    pool.stop().addCallback(found.append)
    return found


# --- the first generation ---


def test_it_is_ready_when_the_last_worker_is(crew: Crew) -> None:
    ready: list[Any] = []
    crew.pool.first(crew.staffing(2)).addCallback(ready.append)
    one, two = crew.started
    assert [(each.number, each.column) for each in crew.started] == [(1, 0), (2, 1)]
    two.say("ready")
    assert ready == [] and crew.pool.isServing
    assert two.told() == [("serve", [0, 1])]
    one.say("ready")
    assert ready == [None]
    assert (one.told(), two.told()) == ([("serve", [0])], [("serve", [1])])


def test_one_that_ends_before_it_is_ready_fails_the_start(crew: Crew, logged: Logged) -> None:
    failed: list[Failure] = []
    crew.pool.first(crew.staffing(2)).addErrback(failed.append)
    crew.of(2).say("ready")
    crew.of(1).end(FAILED)
    assert failed[0].check(NeverReady)
    assert failed[0].getErrorMessage() == "worker 1 has ended with status 1 before it was ready, see the log"
    assert logged.takeTexts() == ["worker 1 has ended with status 1 before it was ready"]
    assert len(crew.started) == 2


def test_where_no_process_is_to_be_had_those_that_were_started_are_killed(crew: Crew) -> None:
    start = crew.start

    def failing(*arguments: Any) -> StandIn:
        if crew.started:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return start(*arguments)

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr("smtphooks.service.workerpool.start", failing)
        with pytest.raises(OSError):
            crew.pool.first(crew.staffing(2))
    assert crew.last.signals == [signal.SIGKILL]


def test_one_that_was_ready_and_dies_while_others_start_is_replaced(crew: Crew) -> None:
    ready: list[Any] = []
    crew.pool.first(crew.staffing(2)).addCallback(ready.append)
    one, two = crew.started
    one.say("ready")
    one.end(KILLED)
    assert crew.last.number == 1 and crew.last is not one
    two.say("ready")
    assert ready == [None]


def test_a_worker_says_ready_once(crew: Crew) -> None:
    one, _ = crew.begin()
    one.told()
    one.say("ready")
    assert one.told() == []


# --- workers that die ---


def test_one_that_served_is_replaced_at_once_and_its_socket_is_served_meanwhile(crew: Crew) -> None:
    one, two = crew.begin()
    one.told(), two.told()
    one.end(KILLED)
    assert two.told() == [("serve", [0, 1])]
    assert (crew.last.number, crew.last.state, crew.last.generation) == (1, STARTING, one.generation)
    assert crew.pool.restarts == {"died": 1, "hung": 0}
    crew.last.say("ready")
    assert crew.last.told() == [("serve", [0])]
    assert two.told() == [("serve", [1])]
    assert crew.pool.workers == [two, crew.last]


def test_one_that_dies_while_it_starts_again_is_tried_later_each_time(crew: Crew, logged: Logged) -> None:
    _, two = crew.begin(timeout=0)
    crew.of(1).end(KILLED)
    waited = []
    for _ in range(8):
        count = len(crew.started)
        crew.last.end(FAILED)
        seconds = 0
        while len(crew.started) == count:
            crew.clock.advance(1)
            seconds += 1
        waited.append(seconds)
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60]
    assert logged.takeTexts()[-1] == (
        f"worker 1 (pid {crew.last.pid}) has ended with status 1 before it was ready, it is started again in 60 seconds"
    )
    crew.last.say("ready")
    crew.last.end(KILLED)
    crew.last.end(FAILED)
    assert "again in 1 seconds" in logged.takeTexts()[-1]
    assert two.state == READY


def test_where_no_process_is_to_be_had_it_is_tried_again(crew: Crew, logged: Logged) -> None:
    one, _ = crew.begin(timeout=0)
    crew.failing += [OSError(errno.EMFILE, "Too many open files")] * 2
    one.end(KILLED)
    assert len(crew.started) == 2
    crew.clock.advance(1)
    crew.clock.advance(1)
    assert len(crew.started) == 2
    crew.clock.advance(1)
    assert len(crew.started) == 3
    first, second = logged.takeTexts()
    assert first == "worker 1 cannot be started: [Errno 24] Too many open files; it is tried again in 1 seconds"
    assert second.endswith("in 2 seconds")


def test_one_that_ends_by_itself_is_replaced_as_well(crew: Crew) -> None:
    one, _ = crew.begin()
    one.end(0)
    assert crew.last.number == 1


# --- columns of the table ---


def test_the_column_of_one_that_has_ended_is_cleared(crew: Crew) -> None:
    one, _ = crew.begin()
    crew.table.cleared.clear()
    one.end(KILLED)
    assert crew.table.cleared == [0, 0]  # when it ended, and before its column was given away
    assert crew.last.column == 0


STEPS = st.lists(st.tuples(st.sampled_from(["die", "ready", "reload", "hold", "go on", "drained"]), st.integers(0, 3)))


@given(STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_column_is_given_twice_and_every_socket_is_served(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patching:
        for crew in makeCrew(patching, 12):
            crew.begin(3, timeout=0)
            for step, which in steps:
                play(crew, step, which)
                columns = [worker.column for worker in crew.pool.workers]
                assert len(columns) == len({*columns}) <= 12
                ready = [
                    each
                    for each in crew.pool.workers
                    if each.state == READY and each.generation == crew.pool.generation
                ]
                if ready:
                    served = [each.serving or [] for each in ready]
                    assert {number for each in served for number in each} == {0, 1, 2}
                    assert all(served)
            done = stopped(crew.pool)
            for worker in [*crew.pool.workers]:
                assert signal.SIGTERM in worker.signals  # type: ignore[attr-defined]
                worker.died.callback(0)
            assert done and crew.clock.getDelayedCalls() == []


def play(crew: Crew, step: str, which: int) -> None:
    """One thing that happens."""
    workers: list[Any] = [each for each in crew.pool.workers if (each.state == DRAINING) == (step == "drained")]
    if step in ("die", "drained") and workers:
        worker = workers[which % len(workers)]
        if worker.state != STARTING:  # what becomes of those is logged
            worker.end(KILLED)
    elif step == "ready":
        for worker in workers:
            worker.say("ready")
    elif step == "reload" and crew.pool.hasRoomFor(3) and len(crew.pool.heldBack) < 3:
        started, whenReady = crew.pool.start(crew.staffing(3))
        whenReady.addCallback(lambda _: crew.pool.switch(crew.staffing(3)))
        for worker in started:
            worker.say("ready")  # type: ignore[attr-defined]
    elif step == "hold" and len(crew.pool.heldBack | {which + 1}) < 3 and which < 3:
        crew.pool.holdBack(which + 1)
    elif step == "go on" and crew.pool.hasRoomFor(3):
        crew.pool.goOn(None if which == 3 else which + 1)


# --- workers that hang ---


def test_one_that_gives_no_sign_of_life_is_ended_with_its_stacks_in_the_log(crew: Crew, logged: Logged) -> None:
    one, two = crew.begin(timeout=5.0)
    crew.beat(1, one, two)
    crew.beat(4, two)
    assert one.signals == []
    crew.beat(1, two)
    assert one.signals == [signal.SIGABRT]
    assert logged.takeTexts() == [
        f"worker 1 (pid {one.pid}) hangs: no sign of life for 6 seconds, so it is ended; its stacks follow"
    ]
    crew.beat(2, two)
    assert one.signals == [signal.SIGABRT]
    crew.beat(1, two)
    assert one.signals == [signal.SIGABRT, signal.SIGKILL]
    one.end(KILLED)
    assert crew.pool.restarts == {"died": 0, "hung": 1}
    assert crew.last.number == 1 and crew.last is not one
    assert two.signals == []


def test_one_that_ends_after_its_stacks_is_not_killed(crew: Crew, logged: Logged) -> None:
    one, two = crew.begin(timeout=5.0)
    crew.beat(1, one, two)
    crew.beat(5, two)
    assert len(logged.takeTexts()) == 1
    one.end(int(signal.SIGABRT))
    assert len(crew.clock.getDelayedCalls()) == 1  # the next look
    crew.beat(4, two, crew.last)
    assert one.signals == [signal.SIGABRT]


@pytest.mark.parametrize("timeout, seconds", [(5.0, 30), (10.0, 40)])
def test_until_its_first_beat_it_may_take_four_times_as_long_or_half_a_minute(
    timeout: float, seconds: int, crew: Crew, logged: Logged
) -> None:
    crew.pool.first(crew.staffing(1, timeout=timeout))
    crew.beat(seconds)
    assert crew.last.signals == []
    crew.beat(1)
    assert crew.last.signals == [signal.SIGABRT]
    assert len(logged.takeTexts()) == 1


def test_without_a_limit_nobody_hangs(crew: Crew) -> None:
    one, two = crew.begin(timeout=0.0)
    crew.beat(1, one, two)
    crew.beat(100)
    assert one.signals == two.signals == []


# --- a new generation ---


def reloaded(crew: Crew, number: int = 2, **more: Any) -> list[StandIn]:
    """Workers of a new generation, which are not ready yet; they switch when they are."""
    staffing = crew.staffing(number, **more)
    workers: Any
    workers, whenReady = crew.pool.start(staffing)
    whenReady.addCallback(lambda _: crew.pool.switch(staffing))
    return list(workers)


def test_the_old_generation_serves_until_the_new_one_is_ready_and_drains_then(crew: Crew) -> None:
    old = crew.begin()
    for worker in old:
        worker.told()
    one, two = reloaded(crew)
    one.say("ready")
    assert (old[0].told(), old[1].told(), one.told()) == ([], [], [])
    two.say("ready")
    assert [worker.told() for worker in (one, two)] == [[("serve", [0])], [("serve", [1])]]
    assert [worker.told() for worker in old] == [[("drain",)], [("drain",)]]
    assert [worker.state for worker in old] == [DRAINING, DRAINING]
    assert all(worker.signals == [] for worker in crew.started)


def test_one_that_drains_and_ends_is_not_replaced(crew: Crew) -> None:
    old = crew.begin()
    for worker in reloaded(crew):
        worker.say("ready")
    for worker in old:
        worker.end(0)
    assert len(crew.started) == 4
    assert crew.pool.restarts == {"died": 0, "hung": 0}


def test_one_that_drains_and_does_not_end_is_killed_after_the_close_timeout_of_its_time(
    crew: Crew, logged: Logged
) -> None:
    old = crew.begin(timeout=0, closeTimeout=7.0)
    for worker in reloaded(crew, timeout=0, closeTimeout=100.0):
        worker.say("ready")
    crew.clock.advance(16)
    assert old[0].signals == []
    old[1].end(0)
    crew.clock.advance(1)
    assert (old[0].signals, old[1].signals) == ([signal.SIGKILL], [])
    assert logged.takeTexts() == [f"worker 1 (pid {old[0].pid}) does not end, it is killed"]


def test_without_a_close_timeout_one_that_drains_has_all_the_time(crew: Crew) -> None:
    old = crew.begin(timeout=0, closeTimeout=0.0)
    for worker in reloaded(crew, timeout=0, closeTimeout=0.0):
        worker.say("ready")
    crew.clock.advance(100_000)
    assert old[0].signals == old[1].signals == []


def test_one_of_a_new_generation_that_ends_before_it_is_ready_fails_it_and_the_old_one_goes_on(
    crew: Crew, logged: Logged
) -> None:
    old = crew.begin()
    workers, whenReady = crew.pool.start(crew.staffing())
    failed: list[Failure] = []
    whenReady.addErrback(failed.append)
    crew.of(1).say("ready")
    crew.of(2).end(FAILED)
    assert failed[0].check(NeverReady)
    logged.takeTexts()
    crew.pool.giveUp(workers)
    assert crew.of(1).signals == [signal.SIGKILL]
    crew.of(1).end(KILLED)
    assert crew.pool.workers == old
    assert len(crew.started) == 4
    old[0].end(KILLED)
    assert (crew.last.number, crew.last.generation) == (1, old[0].generation)


def test_those_that_are_given_up_while_they_start_are_not_reported(crew: Crew, logged: Logged) -> None:
    crew.begin()
    workers, whenReady = crew.pool.start(crew.staffing())
    whenReady.addErrback(lambda _: None)
    crew.pool.giveUp(workers)
    for worker in workers:
        worker.died.callback(KILLED)
    assert len(crew.pool.workers) == 2
    assert logged == []


def test_the_next_generation_is_not_mixed_with_one_that_was_given_up(crew: Crew) -> None:
    old = crew.begin()
    given, whenReady = crew.pool.start(crew.staffing())
    whenReady.addErrback(lambda _: None)
    crew.of(1).say("ready")
    crew.pool.giveUp(given)
    workers = reloaded(crew)
    for worker in workers:
        worker.say("ready")
    given[0].died.callback(KILLED)
    assert all(worker.state == READY for worker in workers)
    assert all(worker.state == DRAINING for worker in old)
    assert crew.last is workers[1]


def test_one_that_was_ready_and_died_while_its_generation_started_is_replaced_when_it_serves(crew: Crew) -> None:
    crew.begin()
    one, two = reloaded(crew)
    one.say("ready")
    one.end(KILLED)
    two.say("ready")
    assert two.told() == [("serve", [0, 1])]
    assert (crew.last.number, crew.last.generation) == (1, two.generation)


def test_one_of_the_old_generation_that_dies_during_a_reload_is_replaced(crew: Crew) -> None:
    old = crew.begin()
    one, two = reloaded(crew)
    old[0].end(KILLED)
    again = crew.last
    assert (again.number, again.generation) == (1, old[1].generation)
    one.say("ready"), two.say("ready")
    assert again.signals == [signal.SIGTERM]  # it has not even started
    assert again.state == DRAINING
    again.end(int(signal.SIGTERM))
    assert crew.last is again


def test_fewer_workers_serve_all_sockets_that_there_are(crew: Crew) -> None:
    crew.begin(3)
    (one,) = reloaded(crew, 1, sockets=3)
    one.say("ready")
    assert one.told() == [("serve", [0, 1, 2])]
    assert crew.pool.staffing.number == 1


def test_a_reload_waits_for_columns_and_does_not_take_that_of_one_that_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for crew in makeCrew(monkeypatch, 2):
        crew.begin(1)
        (new,) = reloaded(crew, 1)
        new.say("ready")
        assert not crew.pool.hasRoomFor(1)
        waiting = crew.pool.whenOneIsGone()
        room: list[bool] = []
        waiting.addCallback(lambda _, pool=crew.pool, found=room: found.append(pool.hasRoomFor(1)))
        new.end(KILLED)
        assert room == [False]


def test_one_that_finds_no_column_is_tried_again(monkeypatch: pytest.MonkeyPatch, logged: Logged) -> None:
    for crew in makeCrew(monkeypatch, 2):
        (old,) = crew.begin(1, timeout=0)
        (new,) = reloaded(crew, 1, timeout=0)
        new.say("ready")
        crew.pool.holdBack(1)
        crew.pool.goOn(1)
        assert "have all columns of the table" in logged.takeTexts()[0]
        old.end(0)
        crew.clock.advance(1)
        assert crew.last.column == 0


# --- the operator ---


def test_one_that_is_held_back_drains_and_another_one_serves_its_socket(crew: Crew) -> None:
    one, two = crew.begin()
    one.told(), two.told()
    crew.pool.holdBack(1)
    assert (one.told(), two.told()) == ([("drain",)], [("serve", [0, 1])])
    one.end(0)
    assert len(crew.started) == 2
    crew.pool.goOn(1)
    assert crew.last.number == 1
    crew.last.say("ready")
    assert (crew.last.told(), two.told()) == ([("serve", [0])], [("serve", [1])])


def test_one_that_is_held_back_twice_is_told_once(crew: Crew) -> None:
    one, _ = crew.begin()
    one.told()
    crew.pool.holdBack(1)
    crew.pool.holdBack(1)
    assert one.told() == [("drain",)]


def test_one_that_goes_on_while_it_drains_is_started_anew_beside_it(crew: Crew) -> None:
    one, _ = crew.begin()
    crew.pool.holdBack(1)
    crew.pool.goOn(1)
    assert crew.last.number == 1 and crew.last.column != one.column
    one.end(0)
    assert len(crew.started) == 3


def test_to_go_on_does_nothing_where_all_serve(crew: Crew) -> None:
    crew.begin()
    crew.pool.goOn(1)
    crew.pool.goOn(None)
    assert len(crew.started) == 2


def test_one_that_is_held_back_while_it_waits_for_its_next_start_is_not_started(crew: Crew, logged: Logged) -> None:
    crew.begin(timeout=0)
    crew.of(1).end(KILLED)
    crew.of(1).end(FAILED)
    logged.takeTexts()
    crew.pool.holdBack(1)
    crew.clock.advance(100)
    assert len(crew.started) == 3
    crew.pool.goOn(None)
    assert len(crew.started) == 4


def test_one_that_is_held_back_during_the_first_start_does_not_fail_it(crew: Crew) -> None:
    ready: list[Any] = []
    crew.pool.first(crew.staffing(2)).addCallback(ready.append)
    one, two = crew.started
    crew.pool.holdBack(1)
    assert one.signals == [signal.SIGTERM]
    one.end(int(signal.SIGTERM))
    two.say("ready")
    assert ready == [None]
    assert two.told() == [("serve", [0, 1])]


def test_one_that_is_held_back_during_a_reload_is_held_back_after_it(crew: Crew) -> None:
    crew.begin()
    one, two = reloaded(crew)
    crew.pool.holdBack(1)
    one.say("ready"), two.say("ready")
    assert (one.told(), two.told()) == ([("drain",)], [("serve", [0, 1])])
    one.end(0)
    assert crew.last is two


def test_one_that_goes_on_during_a_reload_is_there_after_it(crew: Crew) -> None:
    crew.begin()
    crew.pool.holdBack(1)
    (two,) = reloaded(crew)
    assert two.number == 2
    crew.pool.goOn(1)
    two.say("ready")
    assert (crew.last.number, crew.last.generation) == (1, two.generation)


def test_those_that_turn_clients_away_are_all_and_later_ones_too(crew: Crew) -> None:
    one, two = crew.begin()
    one.told(), two.told()
    crew.pool.refuse(True)
    assert one.told() == two.told() == [("refuse", True)]
    one.end(KILLED)
    crew.last.say("ready")
    assert ("refuse", True) in crew.last.told()
    crew.pool.goOn(None)
    assert ("refuse", False) in crew.last.told()
    assert not crew.pool.isRefusing


# --- the end ---


def test_all_are_told_to_end_and_killed_when_they_do_not(crew: Crew, logged: Logged) -> None:
    one, two = crew.begin(timeout=0, closeTimeout=5.0)
    done = stopped(crew.pool)
    assert one.signals == two.signals == [signal.SIGTERM]
    two.end(0)
    assert done == []
    crew.clock.advance(15)
    assert one.signals == [signal.SIGTERM, signal.SIGKILL]
    logged.takeTexts()
    one.end(KILLED)
    assert done == [None]
    assert len(crew.started) == 2


def test_nothing_is_left_behind(crew: Crew, logged: Logged) -> None:
    crew.begin(timeout=5.0)
    crew.of(1).end(KILLED)
    crew.of(1).end(FAILED)
    done = stopped(crew.pool)
    logged.takeTexts()
    crew.of(2).end(0)
    assert done == [None]
    assert crew.clock.getDelayedCalls() == []
    assert crew.table.isClosed
    with pytest.raises(OSError):
        os.fstat(crew.table.fd)


def test_a_start_that_is_stopped_fails_without_a_word(crew: Crew) -> None:
    failed: list[Failure] = []
    crew.pool.first(crew.staffing(2)).addErrback(failed.append)
    done = stopped(crew.pool)
    for worker in crew.started:
        worker.end(int(signal.SIGTERM))
    assert failed[0].check(NeverReady)
    assert done == [None]
    assert crew.clock.getDelayedCalls() == []


def test_nobody_is_started_or_told_to_serve_during_the_stop(crew: Crew) -> None:
    one, two = crew.begin()
    one.told(), two.told()
    stopped(crew.pool)
    crew.pool.goOn(1)
    one.end(0)
    crew.pool.goOn(1)
    assert two.told() == []
    two.end(0)
    assert len(crew.started) == 2


def test_a_pool_that_has_not_started_stops_at_once(crew: Crew) -> None:
    assert stopped(crew.pool) == [None]


# --- what they tell ---


def test_what_one_has_counted_is_passed_on_and_its_end_as_well(crew: Crew) -> None:
    heard: list[Any] = []
    crew.pool.onCounted = lambda worker, snapshot: heard.append((worker.number, snapshot))
    crew.pool.onGone = lambda worker: heard.append((worker.number, "gone"))
    one, _ = crew.begin()
    one.say("counted", snapshot=[{"name": "a"}])
    one.end(0)
    assert heard == [(1, [{"name": "a"}]), (1, "gone")]


# --- those of another program ---


def adopted(crew: Crew, *workers: StandIn, number: int = 2, **more: Any) -> None:
    crew.pool.takeOver(crew.staffing(number, **more), workers)


def adoptee(crew: Crew, number: int, column: int, state: str = READY, generation: int = 5) -> StandIn:
    return StandIn(number, generation, column, 0.0, crew.table, state=state, hasBeaten=state != STARTING)


def test_workers_of_a_program_before_go_on_and_a_missing_one_is_started(crew: Crew) -> None:
    two = adoptee(crew, 2, 3)
    adopted(crew, two)
    assert two.told() == [("serve", [0, 1])]
    assert (crew.last.number, crew.last.column, crew.last.generation) == (1, 0, 5)
    assert crew.pool.isServing


def test_those_that_have_ended_meanwhile_are_replaced_in_columns_of_their_own(crew: Crew) -> None:
    one, two, three = [adoptee(crew, number, number - 1) for number in (1, 2, 3)]
    one.died.callback(KILLED)
    two.died.callback(KILLED)
    adopted(crew, one, two, three, number=3)
    assert three.told()[-1] == ("serve", [0, 1, 2])
    assert [(each.number, each.column) for each in crew.started] == [(1, 0), (2, 1)]
    assert crew.pool.workers == [three, *crew.started]


def test_those_that_drain_are_killed_in_time_under_a_new_program_as_well(crew: Crew, logged: Logged) -> None:
    old = adoptee(crew, 1, 2, DRAINING, 4)
    adopted(crew, old, adoptee(crew, 1, 0), adoptee(crew, 2, 1), timeout=0)
    crew.clock.advance(40)
    assert old.signals == [signal.SIGKILL]
    logged.takeTexts()


def test_one_that_cannot_be_started_under_a_new_program_is_tried_again(crew: Crew, logged: Logged) -> None:
    crew.failing.append(OSError(errno.EAGAIN, "no"))
    adopted(crew, adoptee(crew, 2, 1), timeout=0)
    assert len(logged.takeTexts()) == 1
    crew.clock.advance(1)
    assert crew.last.number == 1
