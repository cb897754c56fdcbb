"""
The program: how other processes of this service are started, which check its configuration or serve.

It is this program once more, with the flags of the service and those of twistd that concern a worker.
This module knows no configuration, and not what these processes do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.utils import getProcessOutputAndValue

from smtphooks.service.settings import ConfigError

# Of the service manager, which hears of the supervisor alone.
_OF_SYSTEMD = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")


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
        _, errors, status = yield getProcessOutputAndValue(
            executable, arguments, self.environment(), self.folder, reactor
        )
        if status:
            lines = errors.decode(errors="replace").strip().splitlines() or [
                f"the check has ended with status {status}"
            ]
            raise ConfigError(lines[-1].removeprefix("smtphooks: "))
