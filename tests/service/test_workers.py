"""Workers as processes: real ones, their streams, and how they end."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from twisted.internet import process
from twisted.internet.defer import Deferred

from smtphooks.privatereactor import privateReactor
from smtphooks.service import workers
from smtphooks.service.channel import Channel
from smtphooks.service.program import Program
from smtphooks.service.sockets import open_
from smtphooks.service.workerlines import Lines
from smtphooks.service.workers import ENDED, READY, STARTING, Place, Streams, Worker, diedOf, placeOf, start
from smtphooks.sharedtable import Table
from tests.real.programs import PATIENCE

# What a worker begins with: the channel by which it hears and tells.
TOLD = """
import json, os, signal, socket, sys, time
place = json.loads(os.environ["SMTPHOOKS_WORKER"])
channel = socket.socket(fileno=place["channel"])
def tell(**fields):
    channel.sendall(json.dumps(fields).encode() + b"\\n")
def hear():
    return json.loads(channel.makefile().readline())
"""


class Script(Program):
    """A program of a few lines of Python."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", TOLD + self.flags[0]]


class Children:
    """Starts workers, and runs a reactor as long as something is waited for."""

    def __init__(self) -> None:
        self.reactor: Any = privateReactor()
        self.table = Table.create(2)
        self.heard: list[Any] = []
        self.output: list[bytes] = []
        self.errors: list[bytes] = []
        self.workers: list[Worker] = []

    def start(self, script: str, sockets: Any = (), *, connects: bool = True) -> Worker:
        worker = start(self.reactor, Script([script], "."), Place(7, 1, ()), 3, sockets, self.table)
        self.workers.append(worker)
        if connects:
            self.connect(worker)
        return worker

    def connect(self, worker: Worker) -> None:
        channel = Channel({"note": lambda **fields: self.heard.append(fields)})
        worker.connect(self.reactor, channel, Lines(self.output.append), Lines(self.errors.append))

    def until(self, isThere: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not isThere():
            assert time.monotonic() < deadline, (self.heard, self.output, self.errors)
            self.reactor.iterate(0.01)
            process.reapAllProcesses()  # type: ignore[no-untyped-call]

    def untilEnded(self, worker: Worker) -> None:
        self.until(lambda: worker.state == ENDED)

    def close(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
        self.until(lambda: all(worker.status is not None for worker in self.workers))
        for _ in range(3):
            self.reactor.iterate(0)
        os.close(self.table.fd)
        self.table.close()


@pytest.fixture
def children() -> Iterator[Children]:
    those = Children()
    yield those
    those.close()


def descriptors() -> set[str]:
    return {*os.listdir("/proc/self/fd")} if os.path.isdir("/proc/self/fd") else set()


# --- streams ---


def test_a_worker_hears_and_tells_and_its_lines_arrive_whole(children: Children) -> None:
    worker = children.start(
        "tell(kind='note', question=hear()['kind'])\n"
        "print('a line', flush=True); print('half', end='', flush=True)\n"
        "print('a stack', file=sys.stderr, flush=True)\n"
    )
    assert (worker.number, worker.column, worker.generation, worker.state) == (7, 1, 3, STARTING)
    worker.channel.tell("what")
    children.untilEnded(worker)
    assert children.heard == [{"question": "what"}]
    assert b"".join(children.output) == b"a line\nhalf\n"
    assert b"".join(children.errors) == b"a stack\n"
    assert worker.howItEnded == "has ended with status 0"


def test_a_worker_finds_its_sockets_and_the_table_and_nothing_else(children: Children, tmp_path: Any) -> None:
    tcp = open_("tcp:0:interface=127.0.0.1", 0, 2, [])
    unix = open_(f"unix:{tmp_path / 'lmtp'}", 1, 2, [])
    secret = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        worker = children.start(
            "there = {int(each) for each in os.listdir('/proc/self/fd')}\n"
            "names = [[str(socket.socket(fileno=number).getsockname()) for number in numbers]"
            " for _, _, numbers in place['sockets']]\n"
            "tell(kind='note', place=place, names=names, size=os.fstat(place['table']).st_size, there=sorted(there))\n",
            [tcp, unix],
        )
        children.untilEnded(worker)
    finally:
        os.close(secret)
        tcp.close()
        unix.close()
    (told,) = children.heard
    assert told["place"]["number"] == 7 and told["place"]["column"] == 1
    (family, isShared, numbers), (unixFamily, unixIsShared, unixNumbers) = told["place"]["sockets"]
    assert (family, isShared, unixFamily, unixIsShared) == (socket.AF_INET, False, socket.AF_UNIX, True)
    assert len({*told["names"][0]}) == 1 and told["names"][1] == [str(tmp_path / "lmtp")]
    assert told["size"] > 0
    own = {0, 1, 2, told["place"]["channel"], told["place"]["table"], *numbers, *unixNumbers}
    assert own <= {*told["there"]}
    assert len({*told["there"]} - own) <= 1  # that of the folder which it lists


def test_a_terminal_does_not_interrupt_a_worker_before_it_lets_it(children: Children) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {})
    worker = children.start(
        "tell(kind='note')\n"
        "hear()\n"
        "try: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})\n"
        "except KeyboardInterrupt: tell(kind='note', isInterrupted=True)\n"
    )
    assert signal.pthread_sigmask(signal.SIG_BLOCK, {}) == before
    worker.signal(signal.SIGINT)
    children.until(lambda: children.heard)
    worker.signal(signal.SIGINT)
    worker.channel.tell("go on")
    children.untilEnded(worker)
    assert children.heard == [{}, {"isInterrupted": True}]
    assert not children.errors


def test_what_it_wrote_last_is_read_before_it_counts_as_ended(children: Children) -> None:
    worker = children.start("", connects=False)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    children.connect(worker)
    seen: list[Any] = []
    worker.whenEnded().addCallback(lambda _: seen.append((worker.state, len(children.heard), len(children.output))))
    # Its end is known before the reactor has read anything.
    process.reapAllProcesses()  # type: ignore[no-untyped-call]
    assert seen == [(ENDED, 0, 0)]


def test_its_last_words_on_all_streams_are_read_when_its_end_is_known_first(children: Children) -> None:
    worker = children.start(
        "sys.stdout.write('out\\n' * 20000); sys.stdout.flush(); sys.stderr.write('err'); sys.stderr.flush()\n"
        "tell(kind='note', last='word')\n",
        connects=False,
    )
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    children.connect(worker)
    process.reapAllProcesses()  # type: ignore[no-untyped-call]
    assert worker.state == ENDED
    assert children.heard == [{"last": "word"}]
    assert b"".join(children.output) == b"out\n" * 20000
    assert b"".join(children.errors) == b"err\n"


def test_one_that_dies_with_what_it_was_told_unread_counts_as_ended(children: Children) -> None:
    # Its end of the channel is closed with octets in it, so that reading the other end fails (ECONNRESET).
    worker = children.start("signal.pause()")
    for _ in range(100):
        worker.channel.tell("metrics")
    children.reactor.iterate(0)
    worker.signal(signal.SIGKILL)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    process.reapAllProcesses()  # type: ignore[no-untyped-call]
    assert worker.state == ENDED
    assert worker.howItEnded == "was killed by SIGKILL"


def test_a_process_of_its_own_that_keeps_its_stdout_does_not_keep_it_alive(children: Children) -> None:
    worker = children.start(
        "pid = os.fork()\n"
        "if not pid:\n"
        "    while True:\n"
        "        os.write(1, b'y' * 4096 + b'\\n')\n"
        "tell(kind='note', pid=pid)\n"
        "os._exit(3)\n"
    )
    children.untilEnded(worker)
    assert worker.howItEnded == "has ended with status 3"
    (told,) = children.heard
    # It ends as what reads it is gone.
    children.until(lambda: not isAlive(told["pid"]))


def isAlive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


# --- the end ---


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_the_signal_that_killed_it_is_named(number: signal.Signals, children: Children) -> None:
    worker = children.start("tell(kind='note')\nsignal.pause()")
    children.until(lambda: children.heard)
    worker.signal(number)
    children.untilEnded(worker)
    assert worker.howItEnded == f"was killed by {number.name}"


def test_a_signal_without_a_name_has_its_number() -> None:
    worker = Worker(1, 1, 0, 1, 0.0, Streams(-1, -1, -1), Deferred())
    worker.status = 40
    assert worker.howItEnded == "was killed by signal 40"


def test_one_that_has_ended_gets_no_signal_as_another_process_may_have_its_number(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = children.start("")
    children.untilEnded(worker)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("sent"))
    worker.signal(signal.SIGKILL)
    assert worker.lastState == STARTING


def test_one_that_is_gone_and_not_yet_known_to_be_gets_a_signal_without_an_error(children: Children) -> None:
    worker = children.start("")
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    worker.signal(signal.SIGTERM)
    children.untilEnded(worker)


def test_it_is_told_which_sockets_to_serve_only_if_they_change(children: Children) -> None:
    worker = children.start("while True: tell(kind='note', serve=hear()['sockets'])")
    for sockets in ([0], [0], [0, 1]):
        worker.serve(sockets)
    worker.state = READY
    children.until(lambda: len(children.heard) == 1)
    assert worker.serving == [0, 1]
    worker.signal(signal.SIGKILL)
    children.untilEnded(worker)
    assert worker.lastState == READY


def test_nothing_is_left_open_when_it_has_ended(children: Children) -> None:
    children.until(lambda: True)
    before = descriptors()
    for _ in range(3):
        children.untilEnded(children.start("print('x')"))
    for _ in range(3):
        children.reactor.iterate(0)
    assert descriptors() <= before


# --- starts that fail ---


class NoProcess:
    """A reactor that has none."""

    def spawnProcess(self, *_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_start_that_fails_leaves_nothing_open(children: Children) -> None:
    before = descriptors()
    with pytest.raises(OSError):
        start(NoProcess(), Script([""], "."), Place(1, 0, ()), 1, [], children.table)
    assert descriptors() <= before


@pytest.mark.parametrize("which", range(10))
def test_a_start_without_enough_file_descriptors_fails_before_there_is_a_process(
    which: int, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those that it takes to connect the worker are counted as well: it would run on unheard.
    before = descriptors()
    made: list[int] = []

    def limited(make: Any) -> Any:
        def made_(*arguments: Any, **more: Any) -> Any:
            if len(made) == which:
                raise OSError(errno.EMFILE, "Too many open files")
            made.append(0)
            return make(*arguments, **more)

        return made_

    class Reactor:
        def spawnProcess(self, *_: object, **__: object) -> None:
            pytest.fail("started")

    with monkeypatch.context() as patching:
        patching.setattr(workers.socket, "socketpair", limited(socket.socketpair))
        patching.setattr(workers.os, "dup", limited(os.dup))
        patching.setattr(workers, "open", limited(open), raising=False)
        if which < 7:
            with pytest.raises(OSError):
                start(Reactor(), Script([""], "."), Place(1, 0, ()), 1, [], children.table)
    assert descriptors() <= before


# --- those of a program before ---


def test_the_end_of_a_process_that_a_program_before_had_started_is_known(children: Children) -> None:
    pid = os.fork()
    if not pid:
        os._exit(5)
    found: list[int] = []
    diedOf(pid).addCallback(found.append)
    children.until(lambda: found)
    assert os.waitstatus_to_exitcode(found[0]) == 5


def test_one_that_has_ended_before_is_known_at_once() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    found: list[int] = []
    diedOf(pid).addCallback(found.append)
    assert found == [0]


def test_one_that_is_no_child_counts_as_ended() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    found: list[int] = []
    diedOf(pid).addCallback(found.append)
    assert found == [0]


# --- the place of a worker ---


def test_the_place_of_a_worker_is_in_its_environment() -> None:
    place = Place(2, 5, [(socket.AF_INET, False, [5, 6])])
    assert placeOf({}) is None
    found = placeOf({"SMTPHOOKS_WORKER": json.dumps(attrs.asdict(place))})
    assert found == attrs.evolve(place, sockets=[[socket.AF_INET, False, [5, 6]]])


def test_what_a_supervisor_of_another_version_says_besides_does_not_matter() -> None:
    place = Place(2, 5, [(socket.AF_INET, False, [5, 6])])
    found = placeOf({"SMTPHOOKS_WORKER": json.dumps({**attrs.asdict(place), "colour": "blue"})})
    assert found is not None and found.number == 2
