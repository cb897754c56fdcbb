"""
Sockets: those that the supervisor opens for its workers, and keeps while workers come and go.

In: descriptions of Twisted's endpoints.  Out: listening sockets, which nobody accepts from here.  On Linux each worker
has one of its own for each TCP endpoint (SO_REUSEPORT), and the kernel spreads connections over them; UNIX sockets, and
those that systemd hands over, are shared by all workers.  A socket that is closed loses the connections that wait in
its queue, so none is closed while its endpoint is configured.
This module knows no worker, no configuration and no protocol.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import attrs
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.python.lockfile import FilesystemLock

from smtphooks.service.endpoints import kindOf
from smtphooks.service.ports import SocketsReactor, hostOf

# Whether several sockets may listen on one port, with the kernel spreading connections over them.
_SPREADS = sys.platform == "linux"

# Connections that wait for a worker, at least: more than Twisted's 50, as they wait while a worker is replaced.
_LEAST_BACKLOG = 511


@attrs.define(eq=False)
class ListeningSockets:
    """
    The sockets of one endpoint.

    @ivar key: what they listen on; endpoints that differ in other respects alone have the same.
    @ivar family: C{AF_INET}, C{AF_INET6} or C{AF_UNIX}.
    @ivar isShared: there is one socket for all workers.
    @ivar descriptors: the file descriptors of the sockets.
    @ivar path: that of a UNIX socket which was made here; it is removed at the end.
    @ivar backlog: connections that may wait in each socket.
    @ivar listening: how many of the sockets listen, the first ones; on the others nobody waits yet.
    """

    key: list[Any]
    family: int
    isShared: bool
    descriptors: list[int]
    path: str | None = None
    backlog: int = _LEAST_BACKLOG
    listening: int = 1

    def grow(self, number: int) -> None:
        """
        Have that many sockets at least, unless they are shared; new ones do not listen before L{listen}.

        @raise OSError: if another one cannot be opened; those that are there stay.
        """
        while not self.isShared and len(self.descriptors) < number:
            with socket.socket(fileno=os.dup(self.descriptors[0])) as first:
                address = first.getsockname()
            self.descriptors.append(_bound(self.family, address, isSpread=True).detach())

    def listen(self) -> None:
        """
        Have all of them listen: from now on the kernel spreads connections over them.

        @raise OSError: if one cannot.
        """
        for descriptor in self.descriptors[self.listening :]:
            with socket.socket(fileno=os.dup(descriptor)) as bound:
                bound.listen(self.backlog)
            self.listening += 1

    def shrink(self) -> None:
        """Close those that do not listen, so that nothing is lost."""
        while len(self.descriptors) > self.listening:
            os.close(self.descriptors.pop())

    def close(self) -> None:
        """Close them; what waits in their queues is lost."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors, self.listening = [], 0
        if self.path is not None:
            with suppress(OSError):
                os.unlink(self.path)
            with suppress(OSError):
                os.unlink(f"{self.path}.lock")

    def getHost(self) -> Any:
        """The address, as C{IListeningPort.getHost} gives it."""
        return hostOf(self.family, self.descriptors[0])


def open_(description: str, position: int, number: int, known: Sequence[ListeningSockets]) -> ListeningSockets:
    """
    The sockets of an endpoint.

    @param description: that of a Twisted endpoint.
    @param position: that of the endpoint in the configuration: several may listen on any free port.
    @param number: how many sockets there shall be.
    @param known: those that are open already, of which the right ones are taken.
    @raise CannotListenError: if one cannot be opened.
    @raise Exception: if the description is wrong.
    """
    if kindOf(description) == "systemd":
        # A program that has replaced another one has its sockets, but nothing tells it any more which systemd gave.
        for sockets in known:
            if sockets.key == _keyOfSystemd(description):
                return sockets
        try:
            serverFromString(SocketsReactor(lambda *_: None), description)
        except LookupError as error:
            raise CannotListenError(None, None, OSError(errno.ENOENT, "systemd has handed over no socket")) from error
    opened: list[ListeningSockets] = []
    reactor = SocketsReactor(lambda *what: opened.append(_opened(known, description, position, *what)))
    failures: list[Any] = []
    serverFromString(reactor, description).listen(None).addErrback(failures.append)
    if failures:
        failures[0].raiseException()
    if not opened:
        raise CannotListenError(None, None, OSError(errno.ENOTSUP, "it has no socket that workers could share"))
    sockets = opened[0]
    isNew = all(sockets is not one for one in known)
    try:
        sockets.grow(number)
        if isNew:
            sockets.listen()
    except OSError as error:
        if isNew:
            sockets.close()
            raise CannotListenError(None, None, error) from error
        # Several workers serve the same then.
    return sockets


def _keyOfSystemd(description: str) -> list[Any]:
    return ["systemd", description]


def _opened(
    known: Sequence[ListeningSockets],
    description: str,
    position: int,
    kind: str,
    arguments: tuple[Any, ...],
    _: object,
) -> ListeningSockets:
    if kind == "tcp":
        interface, port, backlog = arguments
        key = [kind, interface, port, *([] if port else [position])]
    elif kind == "unix":
        key = [kind, os.fsdecode(arguments[0])]
    else:
        key = _keyOfSystemd(description)
    for sockets in known:
        if sockets.key == key:
            return sockets
    if kind == "tcp":
        return _openTCP(key, interface, port, max(backlog, _LEAST_BACKLOG))
    if kind == "unix":
        return _openUNIX(key, *arguments)
    descriptor, family = arguments
    return ListeningSockets(key, family, True, [os.dup(descriptor)])


def _openTCP(key: list[Any], interface: str, port: int, backlog: int) -> ListeningSockets:
    try:
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        flags = socket.AI_PASSIVE
        address = socket.getaddrinfo(interface or None, port, family, socket.SOCK_STREAM, flags=flags)[0][4]
        if port and _SPREADS:
            # SO_REUSEPORT lets a second supervisor of the same user take half of the connections without a word.
            with _bound(family, address, isSpread=False):
                pass
        with _bound(family, address, _SPREADS) as first:
            first.listen(backlog)
            return ListeningSockets(key, family, not _SPREADS, [first.detach()], backlog=backlog)
    except OSError as error:
        raise CannotListenError(interface, port, error) from error


def _bound(family: int, address: Any, isSpread: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if isSpread:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _openUNIX(key: list[Any], path: Any, backlog: int, mode: int, isLocked: bool) -> ListeningSockets:
    """As C{IReactorUNIX.listenUNIX} does, lock file included."""
    path = os.fsdecode(path)
    isAbstract = path.startswith("\0")
    lock = FilesystemLock(f"{path}.lock") if isLocked and not isAbstract else None
    try:
        if lock is not None:
            if not lock.lock():
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            if not lock.clean:
                with suppress(OSError):
                    if stat.S_ISSOCK(os.stat(path).st_mode):
                        os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.setblocking(False)
            listening.bind(path)
            if not isAbstract:
                os.chmod(path, mode)
            listening.listen(max(backlog, _LEAST_BACKLOG))
            return ListeningSockets(key, socket.AF_UNIX, True, [listening.detach()], None if isAbstract else path)
    except OSError as error:
        if lock is not None and lock.locked:
            lock.unlock()
        raise CannotListenError(None, path, error) from error
