"""Supervision: what a service manager is told, and a log that is read by machine."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogEvent, Logger, eventsFromJSONLogFile, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from smtphooks import supervision
from smtphooks.settings import ConfigError
from smtphooks.supervision import jsonObserver, notify

from .real.programs import PATIENCE


class Manager:
    """A service manager that is told something."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE)
        self._socket.bind(address)

    def heard(self) -> bytes:
        return self._socket.recv(4096)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Manager]]:
    """Make a manager, and the environment that names it."""
    managers: list[Manager] = []

    def make(bound: str, named: str) -> Manager:
        managers.append(Manager(bound))
        monkeypatch.setenv("NOTIFY_SOCKET", named)
        return managers[-1]

    yield make
    for each in managers:
        each.close()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What supervision has logged."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"] == "smtphooks.supervision":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


# --- readiness ---


def test_a_manager_is_told_by_a_datagram(
    manager: Callable[..., Manager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
    told = manager("notify", "notify")
    notify("READY=1")
    notify("STOPPING=1")
    assert [told.heard(), told.heard()] == [b"READY=1", b"STOPPING=1"]
    assert warnings == []


def test_its_address_may_be_abstract(manager: Callable[..., Manager]) -> None:
    name = f"smtphooks/{os.getpid()}"
    told = manager(f"\0{name}", f"@{name}")
    notify("READY=1")
    assert told.heard() == b"READY=1"


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> None:
    for address in (None, ""):
        if address is None:
            monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        else:
            monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setattr(supervision.socket, "socket", None)
        notify("READY=1")
        monkeypatch.undo()
    assert warnings == []


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody-listens-here", "x" * 200, "vsock:2:1"])
def test_a_manager_that_is_not_there_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str], address: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
    (line,) = warnings
    assert line.startswith("the service manager cannot be told READY=1: ")


def test_a_manager_that_does_not_listen_holds_nobody_up(
    manager: Callable[..., Manager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervision, "_PATIENCE", 0.01)
    manager("notify", "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", "notify")
    notify("READY=1")
    assert len(warnings) == 1


# --- JSON ---


@pytest.fixture
def rotation() -> Iterator[None]:
    """The signal is as it was when the test ends."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR1, before)


def logTo(observer: ILogObserver, text: str, **fields: object) -> None:
    Logger(namespace="smtphooks.test", observer=observer).info(text, **fields)


@pytest.mark.parametrize("twistd", [{"nodaemon": True}, {"nodaemon": True, "logfile": "-"}, {}])
def test_an_event_is_a_line(capsys: pytest.CaptureFixture[str], twistd: dict[str, Any]) -> None:
    observer = jsonObserver(twistd)
    logTo(observer, "one {peer}\n{code}", peer="\u00e4\ud800\x00", code=250)
    logTo(observer, "two", thing=object(), octets=b"\xff", number=float("nan"), table={1: {"x": (1,)}})
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["peer"], one["code"], one["log_namespace"]) == ("\u00e4\ud800\x00", 250, "smtphooks.test")
    assert one["text"] == "one \u00e4\ud800\x00\n250"
    assert two["text"] == "two"
    assert two["octets"] == "\xff"


def test_a_failure_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("odd")
    except RuntimeError:
        Logger(observer=jsonObserver({})).failure("hook {hook} crashed", Failure(), hook="onData")
    (event,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert event["hook"] == "onData"
    assert event["text"].startswith("hook onData crashed\nTraceback (most recent call last):\n")
    assert event["text"].rstrip().endswith("RuntimeError: odd")


def test_Twisted_can_read_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    logTo(jsonObserver({}), "one {peer}", peer="x")
    (event,) = eventsFromJSONLogFile(io.StringIO(capsys.readouterr().out))
    assert formatEvent(event) == "one x"


def test_the_event_itself_stays_as_it_was() -> None:
    event: LogEvent = {"log_format": "x", "log_time": 0.0}
    jsonObserver({})(event)
    assert "text" not in event


@pytest.mark.usefixtures("rotation")
@pytest.mark.parametrize(
    ("twistd", "name"), [({"logfile": "log.json", "nodaemon": True}, "log.json"), ({"nodaemon": False}, "twistd.log")]
)
def test_it_goes_where_twistd_would_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twistd: dict[str, Any], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    observer = jsonObserver(twistd)
    monkeypatch.chdir("/")
    logTo(observer, "one")
    logTo(observer, "two")
    lines = (tmp_path / name).read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one", "two"]


@pytest.mark.usefixtures("rotation")
def test_a_file_is_rotated_by_size_and_by_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As twistd does it with its own; and the signal would end a process that does not expect it."""
    monkeypatch.setattr("twisted.internet.reactor.callFromThread", lambda function: function())
    path = tmp_path / "log.json"
    observer = jsonObserver({"logfile": str(path)})
    logTo(observer, "one")
    signal.raise_signal(signal.SIGUSR1)
    logTo(observer, "x" * 1_000_000)
    logTo(observer, "two")
    assert json.loads(path.read_text())["text"] == "two"
    assert json.loads((tmp_path / "log.json.2").read_text())["text"] == "one"


def test_the_signal_is_left_to_whom_it_belongs(tmp_path: Path) -> None:
    mine: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: mine.append(1))
    try:
        jsonObserver({"logfile": str(tmp_path / "log")})
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert mine == [1]


@pytest.mark.parametrize(
    ("twistd", "sentence"),
    [
        ({"syslog": True}, "--log-format=json and --syslog both say how to log, leave one out"),
        ({"logger": len}, "--log-format=json and --logger both say how to log, leave one out"),
        ({"logfile": "-", "nodaemon": False}, "--log-format=json to stdout needs -n, a daemon has none"),
        (
            {"logfile": "/nowhere/log"},
            "--logfile /nowhere/log cannot be written (No such file or directory), name another",
        ),
    ],
)
def test_what_cannot_be_has_its_sentence(twistd: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        jsonObserver(twistd)
    assert str(caught.value) == sentence
