"""The control socket: who may connect, what is asked there, and what becomes of one that is left over."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from smtphooks.privatereactor import privateReactor
from smtphooks.service.channel import ChannelError
from smtphooks.service.control import Control, controlPath
from smtphooks.service.settings import ConfigError


class Supervisor:
    """Answers, and writes down what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def statusOf(self) -> dict[str, Any]:
        return {"state": "serving"}

    def drain(self, number: int | None) -> None:
        if number == 7:
            raise ChannelError("there is no worker 7")
        self.told.append(("drain", number))

    def resume(self, number: int | None) -> None:
        self.told.append(("resume", number))

    def reload(self) -> None:
        self.told.append("reload")


class Running:
    """A control socket on a reactor of its own, in a thread of its own."""

    def __init__(self, path: str) -> None:
        self.supervisor = Supervisor()
        self.reactor: Any = privateReactor()
        self.control = Control(path, self.supervisor, self.reactor)
        self._thread = threading.Thread(target=self.reactor.run, kwargs={"installSignalHandlers": False})

    def start(self) -> None:
        self.control.start()
        self._thread.start()

    def _call(self, function: Callable[[], Any]) -> None:
        done = threading.Event()

        def call() -> None:
            result = function()
            if isinstance(result, Deferred):
                result.addBoth(lambda _: done.set())
            else:
                done.set()

        self.reactor.callFromThread(call)
        assert done.wait(30)

    def stop(self) -> None:
        self._call(self.control.stop)
        self.reactor.callFromThread(self.reactor.crash)
        self._thread.join()


def ask(path: str, line: str) -> Any:
    """The answer to a line."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(path)
        asking.sendall(line.encode() + b"\n")
        return json.loads(asking.makefile().readline())


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return controlPath(None, None)


@pytest.fixture
def running(path: str) -> Any:
    one = Running(path)
    one.start()
    yield one
    one.stop()


def test_it_answers_what_it_is_asked(running: Running, path: str) -> None:
    assert ask(path, '{"kind": "status", "ask": 1}') == {"kind": "answer", "ask": 1, "result": {"state": "serving"}}
    ask(path, '{"kind": "drain", "ask": 1}')
    ask(path, '{"kind": "drain", "ask": 1, "number": 2}')
    ask(path, '{"kind": "resume", "ask": 1, "number": 2}')
    ask(path, '{"kind": "resume", "ask": 1, "number": null}')
    ask(path, '{"kind": "reload", "ask": 1}')
    assert running.supervisor.told == [("drain", None), ("drain", 2), ("resume", 2), ("resume", None), "reload"]


def test_what_the_supervisor_refuses_is_a_sentence(running: Running, path: str) -> None:
    answer = ask(path, '{"kind": "drain", "ask": 3, "number": 7}')
    assert answer == {"kind": "answer", "ask": 3, "error": "there is no worker 7"}


def test_only_its_own_user_may_connect_from_the_first_moment(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    modes: list[int] = []
    bind = socket.socket.bind

    def look(self: socket.socket, address: str) -> None:
        bind(self, address)
        modes.append(stat.S_IMODE(os.stat(path).st_mode))

    monkeypatch.setattr(socket.socket, "bind", look)
    before = os.umask(0o022)
    os.umask(before)
    running = Running(path)
    running.start()
    try:
        assert modes == [0o600]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert os.umask(before) == before
    finally:
        running.stop()


def test_it_is_removed_at_the_end(path: str) -> None:
    running = Running(path)
    running.start()
    running.stop()
    assert os.listdir() == []


def test_it_can_be_stopped_without_a_start(path: str) -> None:
    stopped: list[object] = []
    Control(path, Supervisor(), None).stop().addCallback(stopped.append)
    assert stopped == [None]


def test_that_of_a_dead_supervisor_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    running = Running(path)
    running.start()
    try:
        assert ask(path, '{"kind": "status", "ask": 1}')["result"] == {"state": "serving"}
    finally:
        running.stop()


def test_that_of_a_living_supervisor_is_left_alone(running: Running, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Running(path).start()
    assert str(caught.value) == f"another supervisor answers at {path}, end it or set control to another path"
    assert ask(path, '{"kind": "status", "ask": 1}')["result"] == {"state": "serving"}


def test_a_file_that_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(ConfigError, match="is there and is no socket, set control to another path"):
        Running(path).start()
    assert Path(path).read_text() == "mine"


def test_where_it_cannot_be_made_the_reason_is_a_sentence(tmp_path: Path) -> None:
    before = os.umask(0o027)
    path = str(tmp_path / "missing" / "control")
    with pytest.raises(ConfigError) as caught:
        Running(path).start()
    assert str(caught.value) == (
        f"the control socket {path} cannot be made (No such file or directory), set control to another path"
    )
    assert os.umask(before) == 0o027


# --- where it is ---


def test_the_key_counts_from_the_folder_of_the_file() -> None:
    assert controlPath("run/control", "/etc/smtphooks") == "/etc/smtphooks/run/control"
    assert controlPath("/run/control", "/etc/smtphooks") == "/run/control"


def test_without_a_key_it_is_in_the_runtime_directory_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/mail:/run/else")
    assert controlPath(None, "/etc/smtphooks") == "/run/mail/smtphooks.control"
    assert controlPath("control", "/etc/smtphooks") == "/etc/smtphooks/control"


def test_or_else_it_is_beside_the_file_or_in_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert controlPath(None, "/etc/smtphooks") == "/etc/smtphooks/smtphooks.control"
    assert controlPath(None, None) == str(tmp_path / "smtphooks.control")


def test_a_path_that_is_too_long_for_a_socket_is_an_error(tmp_path: Path) -> None:
    assert controlPath("/" + "x" * 106, None)
    with pytest.raises(ConfigError, match="is longer than 107 octets, set control"):
        controlPath("/" + "ü" * 54, None)
