"""C{smtphooks status}: what is shown of the answer of a supervisor, which is another process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from smtphooks.command import asking
from smtphooks.command.status import Options, duration, shown
from tests.command.conftest import Run, Supervise
from tests.real.programs import PATIENCE
from tests.test_reactor import environment

WORKER: dict[str, Any] = {
    "number": 1,
    "generation": 1,
    "pid": 4712,
    "state": "ready",
    "seconds": 11520,
    "perSecond": {"accepted": 4.04, "messages": 3.9, "processor": 0.12},
    "connections": 12,
    "accepted": 900,
    "messages": 800,
    "processor": 30.5,
    "memory": 48 * 2**20,
    "waits": {"a command": 9, "onData of smtphooks.stores:Relay": 2, "a message": 1},
    "listeners": {"tcp:25": 12},
}
HANGING = {key: WORKER[key] for key in ("generation", "pid", "state", "seconds", "perSecond")}
STATUS: dict[str, Any] = {
    "version": "9.9",
    "pid": 4711,
    "state": "serving",
    "workers": [WORKER, {"number": 2, **HANGING}, {"number": 3, "state": "out of service"}],
    "listeners": {"tcp:25": 12, "tcp:587": 0},
}
SHOWN = """\
smtphooks 9.9, pid 4711: serving

worker   pid  state                since  connections  conn/s  msg/s  cpu  memory
     1  4712  ready           3 h 12 min           12     4.0    3.9  12%  48 MiB
        9 waiting for a command
        2 waiting for onData of smtphooks.stores:Relay
        1 waiting for a message
     2  4712  ready           3 h 12 min            ?     4.0    3.9  12%
     3        out of service

12 at tcp:25
0 at tcp:587
"""


def test_it_shows_workers_and_what_their_connections_wait_for(supervise: Supervise, run: Run) -> None:
    supervise(STATUS)
    done = run("status")
    assert (done.returncode, done.stdout, done.stderr) == (0, SHOWN, "")


def test_a_reader_that_has_seen_enough_sees_no_traceback(supervise: Supervise, tmp_path: Path) -> None:
    supervise(STATUS)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "smtphooks", "status"]
        done = subprocess.run(
            command,
            stdout=writing,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={**environment(), "RUNTIME_DIRECTORY": str(tmp_path)},
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_it_prints_the_answer_as_JSON(supervise: Supervise, run: Run) -> None:
    supervise(STATUS)
    done = run("status", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, STATUS)


@pytest.mark.parametrize(
    ("state", "code"), [("serving", 0), ("reloading", 0), ("starting", 3), ("draining", 3), ("stopping", 3)]
)
def test_the_exit_status_says_whether_new_clients_are_served(
    supervise: Supervise, run: Run, state: str, code: int
) -> None:
    supervise({**STATUS, "state": state})
    assert run("status").returncode == code


def test_of_many_things_that_are_waited_for_those_of_most_connections_are_shown() -> None:
    waits = {f"hook {number}": number for number in range(1, 10)}
    lines = shown({**STATUS, "workers": [{**WORKER, "waits": waits}]}).splitlines()
    assert [line.strip() for line in lines if "waiting" in line] == [
        *[f"{number} waiting for hook {number}" for number in range(9, 3, -1)],
        "6 waiting for something else",
    ]


def test_what_a_terminal_cannot_show_is_escaped(
    supervise: Supervise, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    supervise({**STATUS, "listeners": {"unix:/run/käse": 1}})
    assert run("status").stdout.endswith("1 at unix:/run/k\\xe4se\n")


def test_what_a_worker_says_does_not_control_the_terminal() -> None:
    assert "\x1b" not in shown({**STATUS, "workers": [{**WORKER, "waits": {"\x1b[2J": 1}}]})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h"), (-1, "0 s")],
)
def test_a_time_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- which supervisor ---


def test_it_asks_at_the_socket_that_is_given(supervise: Supervise, run: Run) -> None:
    supervise(STATUS, path="other.sock")
    assert run("status", "--control", "other.sock").returncode == 0


@pytest.mark.parametrize(
    ("text", "path"), [('control = "run.sock"\nworkers = "nonsense"', "etc/run.sock"), ("", "etc/smtphooks.control")]
)
def test_it_asks_at_the_socket_of_the_configuration(
    supervise: Supervise, run: Run, tmp_path: Path, text: str, path: str
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/mail.toml").write_text(text)
    supervise(STATUS, path=path)
    assert run("status", "--config", "etc/mail.toml").returncode == 0


def test_without_a_configuration_it_finds_that_of_the_sample_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell of an operator has no RUNTIME_DIRECTORY."""
    system = tmp_path / "run"
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(asking, "_SYSTEM", str(system))
    monkeypatch.chdir(tmp_path)
    assert Options().path == str(tmp_path / "smtphooks.control")
    system.touch()
    assert Options().path == str(system)
    (tmp_path / "smtphooks.control").touch()
    assert Options().path == str(tmp_path / "smtphooks.control")


# --- errors ---


def sentence(run: Run, *arguments: str) -> str:
    """The one sentence that it ends with."""
    done = run("status", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("smtphooks: ")
    return line.removeprefix("smtphooks: ")


def test_without_a_supervisor_the_sentence_says_what_to_check(run: Run, tmp_path: Path) -> None:
    assert sentence(run) == (
        f"no supervisor answers at {tmp_path}/smtphooks.control, start one with workers, or name its configuration with"
        " --config, or its socket with --control"
    )


def test_the_socket_of_a_dead_supervisor_answers_as_little(run: Run, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "smtphooks.control"))
    assert sentence(run).startswith("no supervisor answers at ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("control = [", "mail.toml is not TOML"),
        ("control = 5", "mail.toml: control is no text, correct it or give --control"),
        (f'control = "{"x" * 200}"', "is longer than 107 octets, set control"),
    ],
)
def test_what_is_wrong_with_the_configuration(run: Run, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "mail.toml").write_text(text)
    assert expected in sentence(run, "--config", "mail.toml")


def test_a_configuration_that_is_not_there(run: Run) -> None:
    assert sentence(run, "--config", "mail.toml") == (
        "--config mail.toml cannot be read (No such file or directory), name another"
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"", "has ended the connection, it may be restarting: ask again"),
        (b"220 mx.test\r\n", "is no supervisor of smtphooks"),
        (b'["x"]\n', "is no supervisor of smtphooks"),
    ],
)
def test_what_answers_otherwise(run: Run, tmp_path: Path, said: bytes, expected: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "smtphooks.control"))
        other.listen()
        done: list[str] = []
        thread = threading.Thread(target=lambda: done.append(sentence(run)))
        thread.start()
        connection, _ = other.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(said)
        thread.join()
    assert expected in done[0]


def test_a_flag_that_it_does_not_have(run: Run) -> None:
    assert sentence(run, "--jsn") == "unknown flag --jsn, did you mean --json? (smtphooks status --help lists all)"


def test_help_is_one_screen(run: Run) -> None:
    lines = run("status", "--help").stdout.splitlines()
    assert re.match(r"Usage: smtphooks status \[", lines[0])
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
