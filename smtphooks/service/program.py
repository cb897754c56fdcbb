"""
The program: how other processes of this service are started, which check its configuration or serve.

It is this program once more, with the flags of the service and those of twistd that concern a worker.
This module knows no configuration, and not what these processes do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

from smtphooks.service.settings import ConfigError

# Of the service manager, which hears of the supervisor alone.
_OF_SYSTEMD = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")


def killedBy(number: int) -> str:
    """How a process has ended that a signal has killed, in words."""
    names = {each.value: each.name for each in signal.Signals}
    return f"was killed by {names.get(number, f'signal {number}')}"


def _endOf(failure: Failure) -> tuple[bytes, bytes, int]:
    """What a process has written that a signal has killed, and the number of the signal, as a negative status."""
    ended: Any = failure.value
    output, errors, number = ended
    return output, errors, -number


@attrs.frozen
class Program:
    """
    @ivar flags: those of the service.
    @ivar folder: the working folder.
    """

    flags: Sequence[str]
    folder: str

    @property
    def command(self) -> list[str]:
        """The executable, and its arguments."""
        return [sys.executable, "-m", "smtphooks", *self.flags]

    @staticmethod
    def environment(**more: str) -> dict[str, str]:
        """The environment of this process without what is the supervisor's alone."""
        return {name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD} | more

    def checkFirst(self) -> None:
        """
        Have another process check the configuration, and wait for it; the reactor need not run.

        @raise SystemExit: if something is wrong with it; the process has said what.
        """
        done = subprocess.run(
            [*self.command, "--check"],
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode < 0:
            raise SystemExit(f"smtphooks: the check {killedBy(-done.returncode)}")
        if done.returncode:
            raise SystemExit(done.returncode)

    @inlineCallbacks
    def check(self, reactor: Any) -> Generator[Deferred[Any], Any, None]:
        """
        Have another process check the configuration.

        @return: fires when it has found nothing wrong.
        @raise ConfigError: if something is wrong with it.
        """
        executable, *arguments = [*self.command, "--check"]
        try:
            checking = getProcessOutputAndValue(executable, arguments, self.environment(), self.folder, reactor)
        except OSError as error:
            raise ConfigError(f"the check cannot be started: {error.strerror}") from error
        # It fails with a tuple, which is no exception that could be raised here.
        _, errors, status = yield checking.addErrback(_endOf)
        if status < 0:
            raise ConfigError(f"the check {killedBy(-status)}")
        if status:
            lines = errors.decode(errors="replace").strip().splitlines() or [
                f"the check has ended with status {status}"
            ]
            raise ConfigError(lines[-1].removeprefix("smtphooks: "))
