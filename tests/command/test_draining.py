"""C{smtphooks drain}: what it tells a supervisor, and when it ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command.conftest import Run, Supervise
from tests.real.programs import Program
from tests.test_reactor import environment


def status(state: str, *workers: tuple[int, str, int]) -> dict[str, Any]:
    entries = [{"number": number, "pid": 1, "state": each, "connections": n} for number, each, n in workers]
    return {"state": state, "workers": entries}


@pytest.mark.parametrize(
    ("arguments", "told", "said"),
    [
        ((), "drain None", "new clients get 421, connections go on"),
        (("2",), "drain 2", "worker 2 is out of service, its connections end within closeTimeout"),
        (("--resume",), "resume None", "new clients are served"),
        (("2", "--resume"), "resume 2", "worker 2 is in service"),
        (("--resume", "2", "--control", "smtphooks.control"), "resume 2", "worker 2 is in service"),
    ],
)
def test_it_tells_the_supervisor(
    supervise: Supervise, run: Run, arguments: tuple[str, ...], told: str, said: str
) -> None:
    supervisor = supervise(status("serving"))
    done = run("drain", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", "")
    assert supervisor.output == f"answers\n{told}\n"


def test_it_waits_until_the_machine_has_no_connections(supervise: Supervise, run: Run) -> None:
    supervise(
        status("draining", (1, "ready", 2), (2, "ready", 0)),
        status("draining", (1, "ready", 0), (2, "ready", 0)),
    )
    done = run("drain", "--wait")
    assert (done.returncode, done.stdout) == (0, "new clients get 421, connections go on\nno connection is left\n")


def test_it_waits_until_a_worker_has_ended(supervise: Supervise, run: Run) -> None:
    supervise(
        status("serving", (1, "ready", 2), (2, "draining", 0)),
        {
            "state": "serving",
            "workers": [{"number": 1, "pid": 1, "state": "ready"}, {"number": 2, "state": "out of service"}],
        },
    )
    done = run("drain", "2", "--wait")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "no connection is left")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the machine does not drain any more, it is serving"),
        (("1",), "worker 1 is in service again"),
    ],
)
def test_it_waits_no_longer_when_somebody_else_lets_it_go_on(
    supervise: Supervise, run: Run, arguments: tuple[str, ...], sentence: str
) -> None:
    supervise(status("serving", (1, "ready", 2)))
    done = run("drain", "--wait", *arguments)
    assert (done.returncode, done.stderr) == (1, f"smtphooks: {sentence}\n")


def test_an_interrupt_ends_the_waiting_and_not_the_drain(supervise: Supervise, tmp_path: Path) -> None:
    supervise(status("draining", (1, "ready", 2)))
    command = [sys.executable, "-m", "smtphooks", "drain", "--wait"]
    waiting = Program(command, environment(), tmp_path)
    waiting.waitForLine("new clients get 421")
    os.kill(waiting.pid, signal.SIGINT)
    assert waiting.wait() == 130
    assert "smtphooks: interrupted, it drains on" in waiting.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("7",), "there is no worker 7, they have the numbers 1 to 2"),
        (("two",), "two is no number of a worker, smtphooks status shows them (smtphooks drain --help lists all)"),
        (("0",), "0 is no number of a worker, smtphooks status shows them (smtphooks drain --help lists all)"),
        (
            ("--resume", "--wait"),
            "--resume has nothing to wait for, leave --wait out (smtphooks drain --help lists all)",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(
    supervise: Supervise, run: Run, arguments: tuple[str, ...], sentence: str
) -> None:
    supervise(status("serving"))
    done = run("drain", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"smtphooks: {sentence}\n")


def test_help_is_one_screen(run: Run) -> None:
    lines = run("drain", "--help").stdout.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
