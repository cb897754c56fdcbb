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
from contextlib import suppress
from typing import Any

import attrs
from twisted.internet.defer import Deferred, TimeoutError, inlineCallbacks
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from smtphooks.service.settings import ConfigError

# Of the service manager, which hears of the supervisor alone.
_OF_SYSTEMD = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")


# Seconds that the output of a check that has ended may take to be read.
_LAST_WORDS = 1.0


def killedBy(number: int) -> str:
    """How a process has ended that a signal has killed, in words."""
    names = {each.value: each.name for each in signal.Signals}
    return f"was killed by {names.get(number, f'signal {number}')}"


class _Check(ProcessProtocol):
    """
    A process that checks the configuration.

    @ivar ended: fires with what it wrote to its standard error, and its status: if a signal has killed it the negative
        number of that.  If this is cancelled, the process is killed.
    """

    transport: Any

    def __init__(self, reactor: Any) -> None:
        self.ended: Deferred[tuple[bytes, int]] = Deferred(self._kill)
        self.transport: Any
        self._reactor = reactor
        self._errors: list[bytes] = []
        self._closing: Any = None

    def connectionMade(self) -> None:
        self.transport.closeStdin()

    def errReceived(self, data: bytes) -> None:
        self._errors.append(data)

    def processExited(self, reason: Failure) -> None:
        # Processes that modules of hooks have started may keep its streams open, and would be waited for.
        self._closing = self._reactor.callLater(_LAST_WORDS, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        if self._closing.active():
            self._closing.cancel()
        how: Any = reason.value
        self.ended.callback((b"".join(self._errors), -how.signal if how.signal else how.exitCode))

    def _kill(self, _: object) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")


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
    def check(self, reactor: Any, timeout: float = 0.0) -> Generator[Deferred[Any], Any, None]:
        """
        Have another process check the configuration.

        @param timeout: seconds that it may take, 0 for no limit.
        @return: fires when it has found nothing wrong; if it is cancelled, the process is killed.
        @raise ConfigError: if something is wrong with it.
        """
        executable, *arguments = [*self.command, "--check"]
        check = _Check(reactor)
        try:
            reactor.spawnProcess(check, executable, [executable, *arguments], self.environment(), self.folder)
        except OSError as error:
            raise ConfigError(f"the check cannot be started: {error.strerror}") from error
        if timeout:
            check.ended.addTimeout(timeout, reactor)
        try:
            errors, status = yield check.ended
        except TimeoutError:
            raise ConfigError(f"the check has not ended within {timeout:g} seconds, and was killed") from None
        if status < 0:
            raise ConfigError(f"the check {killedBy(-status)}")
        if status:
            lines = errors.decode(errors="replace").strip().splitlines() or [
                f"the check has ended with status {status}"
            ]
            raise ConfigError(lines[-1].removeprefix("smtphooks: "))
