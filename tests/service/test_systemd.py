"""Readiness: a datagram reports it to the service manager, and the service goes on if that fails."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from smtphooks.service import systemd
from smtphooks.service.systemd import notify
from tests.real.programs import PATIENCE


class Manager:
    """A service manager that receives reports."""

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
    """Make a manager, and set the environment variable to its address."""
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
    """The lines that the module logs."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"] == "smtphooks.service.systemd":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_a_manager_is_told_by_a_datagram(
    manager: Callable[..., Manager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket has a limit of about a hundred octets
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
        monkeypatch.setattr(systemd.socket, "socket", None)
        notify("READY=1")
        monkeypatch.undo()
    assert warnings == []


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody-listens-here", "x" * 200, "vsock:2:1"])
def test_a_manager_that_cannot_be_reached_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str], address: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
    (line,) = warnings
    assert line.startswith("the service manager cannot be told READY=1: ")


def test_a_manager_that_does_not_read_blocks_no_longer_than_the_timeout(
    manager: Callable[..., Manager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(systemd, "_TIMEOUT", 0.01)
    manager("notify", "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", "notify")
    notify("READY=1")
    assert len(warnings) == 1
