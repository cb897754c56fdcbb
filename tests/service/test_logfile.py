"""The place of the log: where twistd would write its own, rotated as twistd rotates it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.logger import ILogObserver, LogEvent, Logger, capturedLogs, eventAsText, globalLogPublisher
from twisted.names.dns import DNSDatagramProtocol
from twisted.python import log
from twisted.python.logfile import LogFile

from smtphooks.service.logfile import logPlace, needsStdout, observerOf, observerOfWorker
from smtphooks.service.settings import ConfigError
from tests.conftest import Logged
from tests.real.programs import ROOT


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


@pytest.mark.parametrize("make, others", [(partial(observerOf, {"nodaemon": True}), 3), (observerOfWorker, 2)])
@pytest_twisted.ensureDeferred
async def test_the_sockets_of_the_resolver_are_not_logged_but_others_are(
    make: Callable[[Callable[[LogEvent], str]], ILogObserver], others: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """It opens one for each query, and logs four lines about it; of ports the supervisor tells for all workers."""
    observer = make(lambda event: eventAsText(event, includeTimestamp=False) + "\n")
    net: Any = reactor
    globalLogPublisher.addObserver(observer)
    try:
        for protocol in (DNSDatagramProtocol(None), DatagramProtocol()):
            port = net.listenUDP(0, protocol, interface="127.0.0.1")
            await port.stopListening()
    finally:
        globalLogPublisher.removeObserver(observer)
    written = capsys.readouterr().out.splitlines()
    assert len(written) == others and not [line for line in written if "DNS" in line]


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


# --- lines of workers ---

# Not text, and with a line end that is no line's.
LINES = b"one \xff\r\ntwo\x00\x85\n"


def test_lines_of_workers_go_to_stdout_as_they_are_between_those_of_the_supervisor(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    observer = observerOf({"nodaemon": True}, lineOf)
    observer({"log_format": "before\n"})
    logPlace(observer)(LINES)
    observer({"log_format": "after\n"})
    assert capfdbinary.readouterr().out == b"before\n" + LINES + b"after\n"


def test_they_do_not_wait_in_a_buffer() -> None:
    program = (
        "import os; from smtphooks.service.logfile import logPlace, observerOf;"
        "logPlace(observerOf({}, str))(b'one\\n'); os._exit(0)"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run([sys.executable, "-c", program], env=buffered, capture_output=True, check=True, cwd=ROOT)
    assert ran.stdout == b"one\n"


def test_a_stdout_that_takes_only_text_gets_text(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = io.StringIO()
    monkeypatch.setattr(sys, "stdout", taken)
    logPlace(observerOf({}, lineOf))(b"one \xff\n")
    assert taken.getvalue() == "one \\xff\n"


def test_they_go_to_the_same_file_which_is_rotated_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted.internet.reactor.callFromThread", lambda function: function())
    path = tmp_path / "log"
    observer = observerOf({"logfile": str(path)}, lineOf)
    place = logPlace(observer)
    place(LINES)
    observer({"log_format": "after\n"})
    signal.raise_signal(signal.SIGUSR1)
    place(b"x" * 1_000_000 + b"\n")
    place(b"two\n")
    assert path.read_bytes() == b"two\n"
    assert (tmp_path / "log.2").read_bytes() == LINES + b"after\n"


def test_a_full_disk_ends_no_worker(tmp_path: Path, logged: Logged) -> None:
    """An error would be taken for one of the connection that the lines came from."""
    observer = observerOf({"logfile": str(tmp_path / "log")}, lineOf)

    class Full(LogFile):
        def write(self, data: object) -> None:
            raise OSError(28, "No space left on device")

    observer._outFile = Full("log", str(tmp_path))
    logPlace(observer)(LINES)
    assert len(logged.takeFailures(OSError)) == 1


@pytest.mark.parametrize("observer", [None, lambda event: None])
def test_where_twistd_or_another_program_logs_each_line_is_an_event(observer: Any) -> None:
    with capturedLogs() as events:
        logPlace(observer)(b"one \xff {x}\ntwo\n")
    assert [event["line"] for event in events] == ["one \\xff {x}", "two"]
    assert [eventAsText(event, includeTimestamp=False, includeSystem=False) for event in events] == [
        "one \\xff {x}",
        "two",
    ]


@pytest_twisted.ensureDeferred
async def test_a_worker_says_nothing_of_its_ports_and_all_that_hooks_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ports come and go with its siblings, of which the supervisor tells."""
    observer = observerOfWorker(lambda event: eventAsText(event, includeTimestamp=False) + "\n")
    net: Any = reactor
    globalLogPublisher.addObserver(observer)
    try:
        for listen in (
            lambda: net.listenTCP(0, Factory(), interface="127.0.0.1"),
            lambda: net.listenUNIX(str(tmp_path / "socket"), Factory()),
        ):
            port = listen()
            await port.stopListening()
        log.msg("import starting on monday")
        log.msg("(TCP Port of the proxy is Closed) again")
        Logger(namespace="twisted.internet.base").error("odd")
    finally:
        globalLogPublisher.removeObserver(observer)
    assert [line for line in capsys.readouterr().out.splitlines() if "ing factory <" not in line] == [
        "[-] import starting on monday",
        "[-] (TCP Port of the proxy is Closed) again",
        "[twisted.internet.base#error] odd",
    ]


def test_a_worker_stays_when_the_log_is_rotated(capsys: pytest.CaptureFixture[str]) -> None:
    """C{systemctl kill} sends the signal to all processes of a unit."""
    observer = observerOfWorker(lineOf)
    signal.raise_signal(signal.SIGUSR1)
    observer({"log_format": "one\n"})
    assert capsys.readouterr().out == "one\n"
    # A program that a worker starts does not ignore it.
    assert signal.getsignal(signal.SIGUSR1) not in (signal.SIG_IGN, signal.SIG_DFL)
