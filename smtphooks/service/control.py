"""
The control socket: a UNIX socket on which a supervisor answers C{smtphooks status} and C{smtphooks drain}.

In: questions, as lines of a L{Channel}.  Out: what the supervisor answers.  Only the user that the supervisor runs as,
and root, may connect; the socket has mode 600 from the moment it is there.
This module knows neither workers nor what the commands show.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory

from smtphooks.service.channel import Channel
from smtphooks.service.settings import ConfigError, cause

_NAME = "smtphooks.control"

# Octets of a path that fit into C{sockaddr_un} (unix(7)), with the zero behind them.
_LONGEST = 107

# Seconds to wait for another supervisor to accept; the kernel does so for it unless its queue is full.
_PATIENCE = 5.0


class Supervising(Protocol):
    """What a supervisor can be asked; it refuses with a C{ChannelError}, whose sentence the operator sees."""

    def statusOf(self) -> Awaitable[dict[str, Any]]:
        """What all of it does just now."""

    def drain(self, number: int | None) -> Any:
        """Take a worker out of service, or refuse new clients at all of them."""

    def resume(self, number: int | None) -> Any:
        """Have a worker serve again, or all."""

    def reload(self) -> Any:
        """Read the configuration again."""


def controlPath(given: str | None, folder: str | None) -> str:
    """
    Where the control socket is.

    @param given: the key C{control} of the configuration.
    @param folder: that of the configuration file; None for the working folder.
    @raise ConfigError: if the path is too long for a socket.
    """
    # systemd gives several folders with colons between them.
    runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    path = os.path.abspath(os.path.join(folder or "", given or os.path.join(runtime, _NAME)))
    if len(os.fsencode(path)) > _LONGEST:
        raise ConfigError(f"the path of the control socket, {path}, is longer than {_LONGEST} octets, set control")
    return path


class Control:
    """The socket, and all who are connected to it."""

    def __init__(self, path: str, supervisor: Supervising, reactor: Any) -> None:
        """
        @param path: as L{controlPath} has it.
        """
        self._path = path
        self._supervisor = supervisor
        self._reactor = reactor
        self._port: IListeningPort | None = None

    def start(self) -> None:
        """
        Listen, in the place of a supervisor that has died.

        @raise ConfigError: if that cannot be, or another supervisor answers there.
        """
        before = os.umask(0o177)
        try:
            _removeStale(self._path)
            self._port = self._reactor.listenUNIX(self._path, _Factory(self._supervisor), mode=0o600)
        except (OSError, CannotListenError) as error:
            why = error.socketError if isinstance(error, CannotListenError) else error
            reason = getattr(why, "strerror", None) or cause(why)
            raise ConfigError(
                f"the control socket {self._path} cannot be made ({reason}), set control to another path"
            ) from error
        finally:
            os.umask(before)

    def stop(self) -> Deferred[Any]:
        """Remove the socket; fires when that is done."""
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)


class _Factory(Factory):
    noisy = False

    def __init__(self, supervisor: Supervising) -> None:
        self._supervisor = supervisor

    def logPrefix(self) -> str:
        """C{ILoggingContext}: what Twisted's line about the port calls it."""
        return "control socket"

    def buildProtocol(self, addr: object) -> Channel:
        supervisor = self._supervisor
        return Channel(
            {
                "status": supervisor.statusOf,
                "drain": lambda number=None: supervisor.drain(number),
                "resume": lambda number=None: supervisor.resume(number),
                "reload": supervisor.reload,
            }
        )


def _removeStale(path: str) -> None:
    """
    Remove the socket of a supervisor that has died.

    @raise ConfigError: if it lives, or if something else is there.
    @raise OSError: if it cannot be found out, or removed.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{path} is there and is no socket, set control to another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_PATIENCE)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise ConfigError(f"another supervisor answers at {path}, end it or set control to another path")
