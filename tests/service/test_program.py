"""Other processes of this program: what they are given, and what becomes of their check."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import process
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from smtphooks.privatereactor import privateReactor
from smtphooks.service.program import Program
from smtphooks.service.settings import ConfigError
from tests.real.programs import PATIENCE


class Script(Program):
    """A program of a few lines of Python, in the place of this one."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.flags[0]]


class Checking:
    """Checks on a reactor of its own."""

    def __init__(self, folder: Path) -> None:
        self.reactor: Any = privateReactor()
        self.folder = str(folder)
        self.check: Deferred[Any] = Deferred()

    def begin(self, script: str, timeout: float = 0.0) -> list[Any]:
        found: list[Any] = []
        self.check = Script([script], self.folder).check(self.reactor, timeout).addBoth(found.append)
        return found

    def run(self, found: list[Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not found:
            assert time.monotonic() < deadline
            self.reactor.iterate(0.01)
            process.reapAllProcesses()  # type: ignore[no-untyped-call]
        return found[0]

    def reap(self) -> None:
        """Until no child is left that was started here."""
        deadline = time.monotonic() + PATIENCE
        while process.reapProcessHandlers:
            assert time.monotonic() < deadline
            self.reactor.iterate(0.01)
            process.reapAllProcesses()  # type: ignore[no-untyped-call]

    def refusal(self, script: str) -> str:
        failure = self.run(self.begin(script))
        assert isinstance(failure, Failure) and failure.check(ConfigError), failure
        return failure.getErrorMessage()


@pytest.fixture
def checking(tmp_path: Path) -> Iterator[Checking]:
    yield Checking(tmp_path)


def test_it_is_this_program_with_its_flags() -> None:
    assert Program(["--lmtp"], ".").command == [sys.executable, "-m", "smtphooks", "--lmtp"]


def test_what_is_the_supervisors_alone_is_in_no_other_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MINE", "2")
    monkeypatch.delenv("MORE", raising=False)
    environment = Program.environment(MORE="3")
    assert not {name for name in environment if name.startswith(("NOTIFY_", "LISTEN_", "WATCHDOG_"))}
    assert (environment["MINE"], environment["MORE"]) == ("2", "3")


def test_a_check_that_finds_nothing_wrong_says_nothing(checking: Checking) -> None:
    assert checking.run(checking.begin("print('[options]')")) is None


def test_what_the_check_finds_is_its_last_line(checking: Checking) -> None:
    script = "import sys; print('a warning', file=sys.stderr); sys.exit('smtphooks: file.toml: no')"
    assert checking.refusal(script) == "file.toml: no"


def test_a_check_that_says_nothing_has_a_status(checking: Checking) -> None:
    assert checking.refusal("import sys; sys.exit(3)") == "the check has ended with status 3"


def test_a_check_that_is_killed_is_a_sentence(checking: Checking) -> None:
    assert checking.refusal("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == (
        "the check was killed by SIGKILL"
    )


def test_a_check_runs_in_the_folder_of_the_program(checking: Checking) -> None:
    assert checking.refusal("import os, sys; sys.exit(os.getcwd())") == str(Path(checking.folder).resolve())


def test_a_check_that_has_ended_is_not_waited_for_though_its_children_keep_its_streams(checking: Checking) -> None:
    script = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
open("pid", "w").write(str(child.pid))
sys.exit(f"smtphooks: {child.pid}")
"""
    try:
        said = checking.refusal(script)
        assert said == (Path(checking.folder) / "pid").read_text()
    finally:
        os.kill(int((Path(checking.folder) / "pid").read_text()), signal.SIGKILL)


def test_a_check_that_hangs_is_killed(checking: Checking) -> None:
    found = checking.begin("import os, signal; open('pid', 'w').write(str(os.getpid())); signal.pause()", 2.0)
    failure = checking.run(found)
    assert failure.check(ConfigError)
    assert failure.getErrorMessage() == "the check has not ended within 2 seconds, and was killed"
    checking.reap()


def test_a_check_that_is_cancelled_is_killed(checking: Checking) -> None:
    found = checking.begin("import signal; signal.pause()")
    checking.check.cancel()
    assert checking.run(found).check(CancelledError)
    checking.reap()


def test_a_check_that_cannot_be_started_fails(checking: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(checking.reactor, "spawnProcess", refuse)
    failure = checking.run(checking.begin(""))
    assert failure.check(ConfigError)
    assert failure.getErrorMessage() == "the check cannot be started: Resource temporarily unavailable"


def test_the_first_check_ends_this_process_as_it_has_ended(tmp_path: Path) -> None:
    Script(["pass"], str(tmp_path)).checkFirst()
    with pytest.raises(SystemExit) as caught:
        Script(["import sys; sys.exit('smtphooks: no')"], str(tmp_path)).checkFirst()
    assert caught.value.code == 1


def test_the_first_check_shows_its_sentence_and_not_the_configuration(tmp_path: Path) -> None:
    script = (
        "from tests.service.test_program import Script\n"
        "Script([\"import sys; print('[options]'); sys.exit('smtphooks: no')\"], '.').checkFirst()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "smtphooks: no\n")


def test_a_first_check_that_is_killed_ends_this_process_with_a_failure(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        Script(["import os; os.kill(os.getpid(), 9)"], str(tmp_path)).checkFirst()
    assert caught.value.code == "smtphooks: the check was killed by SIGKILL"
