"""Lines of workers: wherever the octets are cut, whole lines go on, in order and unchanged."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs, eventAsText

from smtphooks.service import workerlines
from smtphooks.service.logfile import logPlace, observerOf
from smtphooks.service.workerlines import LINE_LIMIT, Lines, errorLines
from tests.real.programs import PATIENCE, ROOT

# Many of them are empty, and many have a line end in the middle or none.
PIECES = st.lists(st.binary(max_size=4) | st.lists(st.sampled_from([b"\n", b"a", b"\xc3", b"\r"])).map(b"".join))


class Taken:
    """Lines, and what they have written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.lines = Lines(self.writes.append)


@given(PIECES)
def test_the_octets_are_the_same_however_they_are_cut(pieces: list[bytes]) -> None:
    taken = Taken()
    for piece in pieces:
        taken.lines.feed(piece)
    taken.lines.end()
    octets = b"".join(pieces)
    assert b"".join(taken.writes) == octets + (b"" if octets.endswith(b"\n") or not octets else b"\n")
    assert all(written.endswith(b"\n") for written in taken.writes)


@given(PIECES)
def test_a_whole_line_does_not_wait(pieces: list[bytes]) -> None:
    taken = Taken()
    octets = b""
    for piece in pieces:
        taken.lines.feed(piece)
        octets += piece
        assert b"".join(taken.writes) == octets[: octets.rfind(b"\n") + 1]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([b"a", b"a\n", b"\n", b"aa\na"]))))
def test_lines_of_two_workers_do_not_mix(pieces: list[tuple[bool, bytes]]) -> None:
    log: list[bytes] = []
    workers = {isFirst: Lines(log.append) for isFirst in (True, False)}
    for isFirst, piece in pieces:
        workers[isFirst].feed(piece if isFirst else piece.replace(b"a", b"b"))
    for lines in workers.values():
        lines.end()
    assert not [line for line in b"".join(log).split(b"\n") if b"a" in line and b"b" in line]


def test_the_end_of_a_worker_ends_its_half_line_once() -> None:
    taken = Taken()
    taken.lines.feed(b"one\nhal")
    taken.lines.end()
    taken.lines.end()
    assert taken.writes == [b"one\n", b"hal\n"]


@given(st.lists(st.integers(0, 40)))
def test_a_line_without_an_end_waits_only_up_to_a_bound(lengths: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workerlines, "LINE_LIMIT", 10)
        taken = Taken()
        for length in lengths:
            taken.lines.feed(b"x" * length)
            assert len(taken.lines._rest) < 10
        taken.lines.feed(b"\nnext\n")
    written = b"".join(taken.writes)
    assert written.replace(b"\n\t", b"") == b"x" * sum(lengths) + b"\nnext\n"
    assert all(len(line) <= 10 for line in written.splitlines())


def test_no_text_of_a_client_comes_to_the_begin_of_a_line_by_a_cut() -> None:
    """fail2ban takes what is there for an event."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workerlines, "LINE_LIMIT", 10)
        taken = Taken()
        for octet in b"0123456789[forged]12345[forged]\n":
            taken.lines.feed(bytes([octet]))
    assert [line[:1] for line in b"".join(taken.writes).splitlines()] == [b"0", b"\t", b"\t", b"\t"]


def test_a_traceback_of_twisted_is_far_below_the_bound() -> None:
    assert LINE_LIMIT == 1024 * 1024


def test_what_a_worker_says_on_its_stderr_is_logged_line_by_line() -> None:
    lines = errorLines(2)
    with capturedLogs() as events:
        lines.feed(b"Fatal {error}\n\nThread \xff")
        lines.end()
    texts = [eventAsText(event, includeTimestamp=False, includeSystem=False) for event in events]
    assert texts == ["worker 2 says: Fatal {error}", "worker 2 says: Thread \\xff"]
    assert {event["log_level"] for event in events} == {LogLevel.warn}
    assert {event["worker"] for event in events} == {2}


def test_the_stack_of_a_program_that_faulthandler_ends_is_in_the_log() -> None:
    """It writes to the descriptor itself, past all that Python has in the place of stderr."""
    program = "import faulthandler, os, signal; faulthandler.enable(); os.kill(os.getpid(), signal.SIGABRT)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, cwd=os.sep)
    lines = errorLines(1)
    with capturedLogs() as events:
        for octet in ran.stderr:
            lines.feed(bytes([octet]))
        lines.end()
    said = [event["line"] for event in events]
    assert said[0] == "Fatal Python error: Aborted"
    assert any("<module>" in line for line in said)


# A worker that logs, with further lines in each event, and then ends, or waits within a line until it is killed.
WORKER = """
import os, sys
from twisted.logger import Logger
from smtphooks.service.textlog import textObserver

number, isKilled = int(sys.argv[1]), sys.argv[2] == "True"
log = Logger(namespace="smtphooks.test", observer=textObserver({}, worker=number))
for step in range(300):
    log.info("event {step}\\n{rest}", step=step, rest="\\n".join(["x" * 200] * 3))
if isKilled:
    os.write(1, b"half a line")
    os.kill(os.getpid(), 9)
"""


def test_the_log_of_real_workers_has_whole_lines_of_each_even_if_one_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    before = signal.signal(signal.SIGUSR1, lambda *_: None)  # so that the file is not rotated by this process
    try:
        place = logPlace(observerOf({"logfile": str(path)}, lambda event: None))
    finally:
        signal.signal(signal.SIGUSR1, before)
    reading = {}
    for number in (1, 2):
        ours, theirs = socket.socketpair()
        arguments = [sys.executable, "-c", WORKER, str(number), str(number == 2)]
        worker = subprocess.Popen(arguments, stdout=theirs, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        theirs.close()
        reading[ours] = worker, Lines(place)
    while reading:
        for ours in select.select([*reading], [], [])[0]:
            worker, lines = reading[ours]
            octets = ours.recv(997)
            lines.feed(octets)
            if not octets:
                lines.end()
                del reading[ours]
                ours.close()
                assert worker.wait(PATIENCE) in (0, -9)
    log = path.read_text().splitlines()
    for number in (1, 2):
        own = [line for line in log if f"[worker {number}" in line]
        assert len(own) == 300 * 4
        first = [line.partition(" ")[2] for line in own if not line.startswith("\t")]
        assert first == [f"[worker {number} smtphooks.test#info] event {step}" for step in range(300)]
        assert {line for line in own if line.startswith("\t")} == {f"\t[worker {number}] {'x' * 200}"}
    assert [line for line in log if "[worker " not in line] == ["half a line"]
