"""The cluster of three machines: what is counted, and a short round of all that can happen to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from chaos.ledger import Counts, Told
from cluster.command import main
from cluster.daemons import isRepeatedIn
from cluster.eager import Asked, Rate, excessOf, most, rateOf
from cluster.events import EVENTS
from cluster.health import Health, Seen, parse
from cluster.run import Result, Span, misjudged, tables
from tests.real.programs import ROOT, Program

# What a run may take at most; only one that hangs takes as long.
PATIENCE = 300
COMMAND = [sys.executable, "-m", "cluster", "--short", "--seed", "1"]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}


# --- a client that sends more than it may ---

RATE = Rate(interval=0.5, burst=3)


def at(*seconds: float) -> list[Asked]:
    """Messages that were accepted at once, at these moments."""
    return [Asked(second, second, True) for second in seconds]


def test_a_limit_of_the_configuration_is_read() -> None:
    assert rateOf("120 messages per minute per client, burst 3") == RATE


def test_a_client_may_send_its_burst_and_then_what_comes_back() -> None:
    assert [most(RATE, seconds) for seconds in (0, 0.4, 0.5, 2.1)] == [3, 3, 4, 7]
    assert excessOf(at(0, 0, 0, 0.5, 1.0, 1.5), RATE) == 0
    assert excessOf(at(0, 0, 0, 0, 0.4), RATE) == 2


def test_what_is_too_much_in_a_part_of_the_time_shows_although_the_whole_has_room() -> None:
    assert excessOf(at(0, 10, 10, 10, 10, 20), RATE) == 1


def test_each_of_several_counts_allows_as_much() -> None:
    assert excessOf(at(0, 0, 0, 0, 0, 0), RATE, times=2) == 0
    assert excessOf(at(0, 0, 0, 0, 0, 0, 0), RATE, times=2) == 1


def test_the_server_may_have_decided_at_any_moment_between_question_and_answer() -> None:
    assert excessOf([Asked(0, 0.5, True), *at(0, 0, 0)], RATE) == 0
    assert excessOf([*at(0, 0, 0), Asked(0.1, 0.2, False)], RATE) == 0


def test_what_receivers_count_by_themselves_is_allowed_and_must_be_rare() -> None:
    accepted = at(0, 0, 0, 0)
    refused = [Asked(1, 1, False)] * 16
    (complaint,) = Span("before", 1, 1.0, accepted + refused, 0).complaints(RATE)
    assert complaint == "before: one client got 1 messages more than the limit allows"
    assert not list(Span("before", 1, 1.0, accepted + refused, 1).complaints(RATE))
    (complaint,) = Span("before", 1, 1.0, accepted + refused, 11).complaints(RATE)
    assert complaint == "before: receivers counted by themselves 11 times, though Redis was there"


def test_while_redis_is_away_each_count_allows_as_much_and_no_more() -> None:
    assert not list(Span("broken", 3, 1.0, at(*[0] * 9), 9).complaints(RATE))
    assert list(Span("broken", 3, 1.0, at(*[0] * 10), 10).complaints(RATE))


# --- what HAProxy says ---

STAT = """\
# pxname,svname,qcur,scur,status,check_status,
smtp,FRONTEND,,5,OPEN,,
smtp,one,0,3,UP,L7OK,
smtp,two,0,2,DOWN 1/2,* L4TOUT,
smtp,BACKEND,0,5,UP,,

"""


def test_the_servers_in_an_answer_of_haproxy_are_read() -> None:
    assert parse(STAT) == {"one": Seen("UP", "L7OK", 3), "two": Seen("DOWN", "L4TOUT", 2)}


def test_the_states_of_a_server_are_those_that_it_had_one_after_the_other() -> None:
    health = Health(Path("nowhere"))
    for state, check in (("UP", "L7OK"), ("UP", "L4CON"), ("DOWN", "L4CON"), ("DOWN", "L4TOUT"), ("UP", "L7OK")):
        health.note({"one": Seen(state, check, 0)})
    assert health.take() == {"one": ["UP", "DOWN (L4CON)", "UP"]}
    assert health.take() == {"one": ["UP"]}


def test_haproxy_must_find_dead_what_is_and_nothing_else() -> None:
    up, down = ["UP"], ["UP", "DOWN (L4CON)", "UP"]
    assert list(misjudged({"one": up, "two": down}, frozenset({"two"}))) == []
    assert list(misjudged({"one": down, "two": down}, frozenset({"two"}))) == [
        "HAProxy said of receiver one: UP, DOWN (L4CON), UP"
    ]
    assert list(misjudged({"one": up, "two": up}, frozenset({"two"}))) == ["HAProxy said of receiver two: UP"]
    assert list(misjudged({"two": down[:2]}, frozenset({"two"}))) == ["HAProxy said of receiver two: UP, DOWN (L4CON)"]


# --- what receivers say ---


def test_a_receiver_may_say_once_that_redis_is_away_until_it_is_back() -> None:
    away, back = "… Redis at 10.77.0.22:6379 is away: why", "… Redis at 10.77.0.22:6379 is back"
    assert not isRepeatedIn("\n".join(["begin", away, "else", back, back, away]))
    assert isRepeatedIn("\n".join([away, "else", away]))
    assert not isRepeatedIn("begin")


# --- the tables ---


def test_the_tables_have_the_counts_of_all_phases() -> None:
    counts = Counts(Counter({Told.TAKEN: 3, Told.CUT: 1}), found=4, again=2, half=0, lost=0)
    span = Span("broken", 3, 2.0, [*at(0, 1), Asked(1, 1, False)], 7)
    states = {"one": ["UP"], "two": ["UP", "DOWN (L4CON)", "UP"], "three": ["UP"]}
    result = Result("receiver killed", counts, RATE, [span], states, [])
    messages, limits, seen = (table.splitlines() for table in tables([result, result]).split("\n\n"))
    assert " ".join(messages[1].split()) == "phase sent 250 4xx 5xx cut left silent found twice half lost"
    assert " ".join(messages[3].split()) == "receiver killed 4 3 0 0 1 0 0 4 2 0 0"
    assert " ".join(messages[5].split()) == "all 8 6 0 0 2 0 0 8 4 0 0"
    assert " ".join(limits[3].split()) == "receiver killed broken 3 2 3 2 21 7"
    assert re.split(" {2,}", seen[3]) == ["receiver killed", "UP", "UP, DOWN (L4CON), UP", "UP"]


# --- the run ---


def test_where_namespaces_cannot_be_made_nothing_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], "not allowed") == 1
    assert capsys.readouterr().out == "skipped: no namespaces (not allowed)\n"


def test_nothing_is_lost_and_limits_hold_whatever_happens_to_the_machines(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment(tmp_path),
        timeout=PATIENCE,
        check=False,
    )
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip().removeprefix("skipped: "))
    assert done.returncode == 0, done.stdout
    for event in EVENTS:
        assert re.search(rf"^{event}: [1-9]\d* had a 250$", done.stdout, re.MULTILINE), done.stdout
    assert not list(tmp_path.iterdir())


def sessionOf(stat: Path) -> int:
    """The session of a process, from its C{/proc/PID/stat}; 0 if it has ended."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[3])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def test_nothing_is_left_when_the_run_is_interrupted(tmp_path: Path) -> None:
    run = Program(["setsid", *COMMAND], environment(tmp_path), ROOT)
    try:
        run.waitForLine("seed")
    except AssertionError:
        if run.output.startswith("skipped: "):
            pytest.skip(run.output.strip().removeprefix("skipped: "))
        raise
    # As the terminal does it: to all that run in the foreground.
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait() == 128 + signal.SIGINT
    assert not list(tmp_path.iterdir())
    assert not [stat for stat in Path("/proc").glob("[0-9]*/stat") if sessionOf(stat) == run.pid]
