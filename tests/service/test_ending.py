"""How the process of a service ends: with one sentence, and with a status that says whether it had served."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from twisted.internet.error import CannotListenError, ReactorNotRunning

from smtphooks.service.ending import (
    StartError,
    endWithFailure,
    logCannotListen,
    logListening,
    logStartFailed,
    stopReactor,
)
from smtphooks.service.lifecycle import StartFailed
from tests.conftest import Logged


class Reactor:
    """A reactor that runs, until it is stopped."""

    def __init__(self) -> None:
        self.stops = 0

    def callWhenRunning(self, function: Any, *arguments: Any) -> None:
        function(*arguments)

    def stop(self) -> None:
        if self.stops:
            raise ReactorNotRunning
        self.stops += 1


def test_the_process_can_be_ended_twice() -> None:
    reactor = Reactor()
    stopReactor(reactor)
    stopReactor(reactor)
    assert reactor.stops == 1


@pytest.mark.parametrize(
    "error, reason",
    [
        (CannotListenError(None, 25, OSError(98, "Address already in use")), "Address already in use"),
        (ValueError("no such\nthing"), "ValueError: no such thing"),
        (None, "NoneType: None"),
    ],
)
def test_that_it_cannot_listen_is_one_sentence(error: Any, reason: str, logged: Logged) -> None:
    sentence = logCannotListen("tcp:25", error)
    assert sentence == f"cannot listen on tcp:25: {reason}, free it or name another endpoint"
    assert logged.takeTexts() == [sentence]


def test_that_a_layer_cannot_start_is_one_sentence(logged: Logged) -> None:
    error = StartFailed("hooks 1 (mailapp:Mail)", OSError("no database"))
    error.__cause__ = OSError("no database")
    sentence = logStartFailed(error)
    assert sentence == "layer hooks 1 (mailapp:Mail) cannot start: OSError: no database"
    assert logged.takeTexts() == [sentence]


def test_an_error_of_the_start_is_caught_by_twistd_and_exits_without_a_traceback() -> None:
    error = StartError("cannot listen")
    assert isinstance(error, Exception) and isinstance(error, SystemExit)
    assert (str(error), error.code) == ("cannot listen", 1)
    assert f"{type(error).__module__}.{type(error).__qualname__}" == "smtphooks.StartError"


def test_where_it_listens_is_no_error(logged: Logged) -> None:
    logListening("tcp:25", "127.0.0.1:25")
    assert logged == []


def test_a_failure_after_the_start_ends_the_process_with_status_1() -> None:
    script = (
        "from smtphooks.service.ending import endWithFailure\n"
        "from tests.service.test_ending import Reactor\n"
        "reactor = Reactor()\n"
        "endWithFailure(reactor)\n"
        "print('stopped', reactor.stops)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "stopped 1\n", "")


def test_a_failure_stops_the_reactor_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", registered.append)
    reactor = Reactor()
    endWithFailure(reactor)
    assert reactor.stops == 1 and len(registered) == 1
