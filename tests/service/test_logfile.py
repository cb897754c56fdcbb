"""The place of the log: where twistd would write its own, rotated as twistd rotates it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import LogEvent, eventAsText, globalLogPublisher
from twisted.names.dns import DNSDatagramProtocol

from smtphooks.service.logfile import needsStdout, observerOf
from smtphooks.service.settings import ConfigError


@pytest.fixture(autouse=True)
def rotation() -> Iterator[None]:
    """Restore the handler of the signal after the test."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR1, before)


def lineOf(event: LogEvent) -> str | None:
    """The line of an event of these tests."""
    text: str | None = event["log_format"]
    return text


@pytest.mark.parametrize("twistd", [{"nodaemon": True}, {"nodaemon": True, "logfile": "-"}, {}])
def test_without_a_file_a_process_in_the_foreground_logs_to_stdout(
    capsys: pytest.CaptureFixture[str], twistd: dict[str, Any]
) -> None:
    """As twistd with -n does."""
    observerOf(twistd, lineOf)({"log_format": "one\n"})
    assert capsys.readouterr().out == "one\n"


@pytest.mark.parametrize(
    ("twistd", "name"), [({"logfile": "log", "nodaemon": True}, "log"), ({"nodaemon": False}, "twistd.log")]
)
def test_a_line_is_in_the_file_at_once_and_nothing_to_write_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twistd: dict[str, Any], name: str
) -> None:
    """An operator who follows the file sees each line; a later change of the working folder does not matter."""
    monkeypatch.chdir(tmp_path)
    observer = observerOf(twistd, lineOf)
    monkeypatch.chdir("/")
    for text in ("one\n", None, "\u00e9\n"):
        observer({"log_format": text})
    assert (tmp_path / name).read_text() == "one\n\u00e9\n"


@pytest_twisted.ensureDeferred
async def test_the_sockets_of_the_resolver_are_not_logged_but_others_are(capsys: pytest.CaptureFixture[str]) -> None:
    """It opens one for each query, and logs four lines about it."""
    observer = observerOf({"nodaemon": True}, lambda event: eventAsText(event, includeTimestamp=False) + "\n")
    net: Any = reactor
    globalLogPublisher.addObserver(observer)
    try:
        for protocol in (DNSDatagramProtocol(None), DatagramProtocol()):
            port = net.listenUDP(0, protocol, interface="127.0.0.1")
            await port.stopListening()
    finally:
        globalLogPublisher.removeObserver(observer)
    written = capsys.readouterr().out.splitlines()
    assert len(written) == 3 and not [line for line in written if "DNS" in line]


def test_a_file_is_continued_and_rotated_by_size_and_by_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a handler the signal would end the process."""
    monkeypatch.setattr("twisted.internet.reactor.callFromThread", lambda function: function())
    path = tmp_path / "log"
    path.write_text("before\n")
    observer = observerOf({"logfile": str(path)}, lineOf)
    observer({"log_format": "one\n"})
    signal.raise_signal(signal.SIGUSR1)
    observer({"log_format": "x" * 1_000_000})
    observer({"log_format": "two\n"})
    assert path.read_text() == "two\n"
    assert (tmp_path / "log.2").read_text() == "before\none\n"


def test_a_handler_that_the_process_has_for_the_signal_stays(tmp_path: Path) -> None:
    """As twistd leaves it."""
    mine: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: mine.append(1))
    observerOf({"logfile": str(tmp_path / "log")}, lineOf)
    signal.raise_signal(signal.SIGUSR1)
    assert mine == [1]


def test_a_file_that_cannot_be_written_has_its_sentence() -> None:
    """twistd by itself shows a traceback."""
    with pytest.raises(ConfigError) as caught:
        observerOf({"logfile": "/nowhere/log"}, lineOf)
    assert str(caught.value) == "--logfile /nowhere/log cannot be written (No such file or directory), name another"


@pytest.mark.parametrize(
    ("twistd", "needs"),
    [
        ({"logfile": "-", "nodaemon": False}, True),
        ({"logfile": "-", "nodaemon": True}, False),
        ({"nodaemon": 0}, False),
    ],
)
def test_a_daemon_has_no_stdout(twistd: dict[str, Any], needs: bool) -> None:
    """Only one that asks for it lacks it."""
    assert needsStdout(twistd) is needs
