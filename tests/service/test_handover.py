"""The hand-over: what one program gives to the next, and what stays as it was where there is no next one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from smtphooks.service import handover
from smtphooks.service.handover import HandOver, replaceProgram, takeHandOver
from smtphooks.service.opening import Opened
from smtphooks.service.sockets import ListeningSockets, open_
from smtphooks.service.workers import DRAINING, NOWHERE, STARTING, Streams, Worker
from smtphooks.sharedtable import Table

NUMBERS = {"restarts": {"died": 3, "hung": 1}, "reloads": {"done": 2, "refused": 0}}
SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Executed(BaseException):
    """The program has been replaced, as far as a test can have that."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was executed."""
    made: list[Any] = []

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        made.append((path, arguments, environment, [signal.getsignal(number) for number in SIGNALS], os.getcwd()))
        raise Executed

    monkeypatch.setattr(os, "execve", execve)
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    folder = os.getcwd()
    yield made
    os.chdir(folder)
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def given(tmp_path: Path) -> Iterator[HandOver]:
    """What a supervisor with two workers gives: their processes are gone."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    opened = [open_("tcp:0:interface=127.0.0.1", 0, 2, []), open_(f"unix:{tmp_path / 'lmtp'}", 1, 2, [])]
    pipes = [os.open(os.devnull, os.O_RDONLY) for _ in range(7)]
    those = [
        Worker(2, 4, 3, pid, 17.5, Streams(*pipes[:3]), Deferred(), state=DRAINING, serving=[0, 1]),
        Worker(1, 5, 0, pid, 18.5, Streams(*pipes[3:6]), Deferred(), state=STARTING),
    ]
    yield HandOver(Opened(opened[:1], opened[1:]), those, (pipes[6], 8), [2], True, [{"name": "counted"}], NUMBERS)
    for each in opened:
        each.close()
    for descriptor in pipes:
        os.close(descriptor)


def taken(monkeypatch: pytest.MonkeyPatch, text: str) -> HandOver:
    file = handover.newFile()
    os.write(file, text.encode())
    monkeypatch.setenv("SMTPHOOKS_SUPERVISOR", str(file))
    found = takeHandOver()
    assert found is not None
    with pytest.raises(OSError):
        os.fstat(file)
    return found


def test_what_is_given_is_what_is_taken(given: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    found = taken(monkeypatch, given.asJSON())
    assert [attrs.astuple(one) for one in found.opened.all] == [attrs.astuple(one) for one in given.opened.all]
    assert len(found.opened.metrics) == 1
    for ours, theirs in zip(found.workers, given.workers, strict=True):
        for name in ("number", "generation", "column", "pid", "since", "state", "serving", "streams"):
            assert getattr(ours, name) == getattr(theirs, name)
    assert [each.hasBeaten for each in found.workers] == [True, False]
    assert (found.table, found.heldBack) == ([*given.table], [2])
    assert (found.isRefusing, found.counted) == (True, [{"name": "counted"}])
    assert found.numbers == NUMBERS


def test_what_a_newer_program_gives_besides_does_not_matter(given: HandOver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One goes back to the version before as one came: with SIGUSR2."""
    fields = json.loads(given.asJSON())
    for each in (fields, fields["opened"]["listeners"][0], *fields["workers"]):
        each["colour"] = "blue"
    fields["opened"]["more"] = []
    found = taken(monkeypatch, json.dumps(fields))
    assert [worker.number for worker in found.workers] == [2, 1]


def test_one_that_counts_in_a_table_of_before_is_handed_over_without_a_column(given: HandOver) -> None:
    one, two = given.workers
    one.table, two.table = Table.create(8), Table.create(8)
    handOver = attrs.evolve(given, table=(two.table.fd, 8))
    assert [worker["column"] for worker in json.loads(handOver.asJSON())["workers"]] == [NOWHERE, 0]
    for table in (one.table, two.table):
        os.close(table.fd)
        table.close()


def test_no_process_that_is_started_later_has_what_was_handed_over(
    given: HandOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for descriptor in given.descriptors:
        os.set_inheritable(descriptor, True)
    found = taken(monkeypatch, given.asJSON())
    assert "SMTPHOOKS_SUPERVISOR" not in os.environ
    assert [os.get_inheritable(descriptor) for descriptor in found.descriptors] == [False] * 10


def test_without_a_program_before_there_is_nothing() -> None:
    assert takeHandOver() is None


def test_the_program_is_executed_with_its_arguments_in_its_folder(
    given: HandOver, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "smtphooks", "--workers", "2"])
    with pytest.raises(Executed):
        replaceProgram(given, {"nodaemon": True}, str(tmp_path))
    ((path, arguments, environment, handlers, folder),) = calls
    assert (path, arguments) == (sys.executable, [sys.executable, "-m", "smtphooks", "--workers", "2"])
    assert handlers == [signal.SIG_IGN] * 3
    assert folder == os.path.realpath(tmp_path)
    file = int(environment["SMTPHOOKS_SUPERVISOR"])
    assert all(os.get_inheritable(descriptor) for descriptor in (file, *given.descriptors))
    assert json.loads(os.pread(file, 1 << 20, 0)) == json.loads(given.asJSON())
    os.close(file)


def test_more_than_an_environment_can_hold_is_handed_over(
    given: HandOver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A real execve(2), of a program that says how much it was given.
    counted = [{"name": "x" * 1000} for _ in range(1000)]
    script = "import os; print(os.fstat(int(os.environ['SMTPHOOKS_SUPERVISOR'])).st_size)"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", script])
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.dup2(writing, 1)
            replaceProgram(attrs.evolve(given, counted=counted), {}, str(tmp_path))
        finally:
            os._exit(9)
    os.close(writing)
    with open(reading) as output:
        assert int(output.read()) > 1_000_000
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(
    "twistd, added",
    [
        ({"nodaemon": False, "logfile": "mail.log"}, ["--nodaemon"]),
        ({"nodaemon": False, "logfile": None}, ["--nodaemon", "--logfile", "twistd.log"]),
        ({"nodaemon": True, "logfile": None}, []),
    ],
)
def test_a_daemon_is_not_made_a_daemon_again(
    twistd: dict[str, Any],
    added: list[str],
    given: HandOver,
    calls: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-W", "error", "/usr/bin/twistd", "smtphooks", "--workers", "2"])
    with pytest.raises(Executed):
        replaceProgram(given, twistd, str(tmp_path))
    assert calls[0][1][1:] == ["-W", "error", "/usr/bin/twistd", *added, "smtphooks", "--workers", "2"]
    os.close(int(calls[0][2]["SMTPHOOKS_SUPERVISOR"]))


def test_the_pid_file_is_not_that_of_another_process(given: HandOver, calls: list[Any], tmp_path: Path) -> None:
    pidfile = tmp_path / "twistd.pid"
    pidfile.write_text(str(os.getpid()))
    with pytest.raises(Executed):
        replaceProgram(given, {"pidfile": str(pidfile)}, ".")
    assert not pidfile.exists()
    os.close(int(calls[0][2]["SMTPHOOKS_SUPERVISOR"]))


def test_a_pid_file_that_is_gone_already_does_not_matter(given: HandOver, calls: list[Any], tmp_path: Path) -> None:
    with pytest.raises(Executed):
        replaceProgram(given, {"pidfile": str(tmp_path / "twistd.pid")}, ".")
    os.close(int(calls[0][2]["SMTPHOOKS_SUPERVISOR"]))


def test_a_pid_file_that_cannot_be_removed_would_end_the_new_program(
    given: HandOver, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pidfile = tmp_path / "twistd.pid"
    pidfile.write_text(str(os.getpid()))

    def refuse(_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError):
        replaceProgram(given, {"pidfile": str(pidfile)}, ".")
    assert calls == []


def test_a_log_that_cannot_be_opened_would_end_the_new_program(
    given: HandOver, calls: list[Any], tmp_path: Path
) -> None:
    pidfile = tmp_path / "twistd.pid"
    pidfile.write_text(str(os.getpid()))
    with pytest.raises(OSError):
        replaceProgram(given, {"pidfile": str(pidfile), "logfile": "missing/log"}, str(tmp_path))
    assert (calls, pidfile.read_text()) == ([], str(os.getpid()))


def test_the_lines_of_the_log_stay(given: HandOver, calls: list[Any], tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a line\n")
    with pytest.raises(Executed):
        replaceProgram(given, {"logfile": "log"}, str(tmp_path))
    assert (tmp_path / "log").read_text() == "a line\n"
    os.close(int(calls[0][2]["SMTPHOOKS_SUPERVISOR"]))


@pytest.mark.parametrize("place", [{"syslog": True}, {"logger": "package.observer"}])
def test_a_log_that_is_no_file_needs_none(
    place: dict[str, Any], given: HandOver, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "/usr/bin/twistd", "smtphooks"])
    with pytest.raises(Executed):
        replaceProgram(given, {"nodaemon": False, **place}, str(tmp_path))
    assert not (tmp_path / "twistd.log").exists()
    os.close(int(calls[0][2]["SMTPHOOKS_SUPERVISOR"]))


def test_a_program_that_took_over_can_have_its_log_rotated(
    given: HandOver, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Signals that are ignored stay so over execve(2).
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    taken(monkeypatch, given.asJSON())
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize("what", ["program", "folder"])
def test_where_there_is_no_program_all_stays_as_it_was(
    what: str, given: HandOver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pidfile = tmp_path / "twistd.pid"
    pidfile.write_text(str(os.getpid()))
    before = [signal.getsignal(number) for number in SIGNALS]
    folder, descriptors = os.getcwd(), {*os.listdir("/proc/self/fd")}
    if what == "program":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        replaceProgram(given, {"pidfile": str(pidfile)}, str(tmp_path if what == "program" else tmp_path / "missing"))
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert os.getcwd() == folder
    assert {*os.listdir("/proc/self/fd")} == descriptors
    assert not any(os.get_inheritable(descriptor) for descriptor in given.descriptors)
    assert pidfile.read_text() == str(os.getpid())


def test_sockets_that_do_not_listen_yet_are_handed_over_as_such() -> None:
    sockets = ListeningSockets(["tcp"], 2, False, [7, 8], listening=1)
    text = HandOver(Opened([sockets]), [], (3, 4), [], False, [], NUMBERS).asJSON()
    assert json.loads(text)["opened"]["listeners"][0]["listening"] == 1
