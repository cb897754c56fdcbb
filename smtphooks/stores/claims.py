"""
Claims: the octets of large messages in a store that receivers and consumers share, so that the queue has a reference
only (the "claim check" of message brokers).

In: a message that was spooled.  Out: a reference; and later, to whoever has that, the octets.
Rule: when L{Claims.keep} returns, the octets are durable, all of them, under a name that no other message has.
This module knows no queue and no session.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit

from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.awaiting import Waiting
from smtphooks.currentreactor import deferToThread
from smtphooks.disk import refusalFor
from smtphooks.errors import OptionError
from smtphooks.optionkinds import NotShown
from smtphooks.spool import Spool
from smtphooks.stores.s3 import S3Claims
from smtphooks.stream import MessageStream

log: Logger = Logger()

T = TypeVar("T")

_BLOCK = 65536
_SUFFIX = ".eml"


class Claims(Protocol):
    """Where the octets of large messages are kept."""

    async def keep(self, name: str, spool: Spool[MessageStream], digest: str) -> str:
        """
        Keep a message.

        @param name: unique to it.
        @param digest: SHA-256 of its octets, in hexadecimal digits.
        @return: the reference, a URI.
        @raise Exception: if it cannot be kept: C{Unavailable}, or an C{SMTPError} of class 4.
        """
        ...

    async def drop(self, reference: str) -> None:
        """
        Forget a message; none is missed that is not there.

        @raise Unavailable: if that fails.
        """
        ...

    def read(self, reference: str) -> AsyncIterator[bytes]:
        """
        The octets of a message.

        @raise Unavailable: if it cannot be read now.
        """
        ...


class FolderClaims:
    """
    A folder, on storage that all receivers and consumers see at the same path.

    @ivar path: its absolute path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """
        @raise OptionError: if there is no such folder, or nothing can be written to it.
        """
        self.path: str = os.path.abspath(os.fspath(path))
        if not (os.path.isdir(self.path) and os.access(self.path, os.W_OK | os.X_OK)):
            raise OptionError(
                "option claims is {!r}, it wants a folder that can be written to", path, options=["claims"]
            )

    def __repr__(self) -> str:
        return f"FolderClaims({self.path!r})"

    async def keep(self, name: str, spool: Spool[MessageStream], digest: str) -> str:
        """As L{Claims.keep}; the file is synced, and then the folder that it was given its name in."""
        final = os.path.join(self.path, quote(name, safe="") + _SUFFIX)
        # A consumer never sees a part of it, and who tidies up can tell it.
        temporary = os.path.join(self.path, f".{os.path.basename(final)}.part")
        file = _File()
        unwanted = [temporary]
        try:
            try:
                await file.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                async for chunk in spool.open():
                    await file.run(_writeAll, file.fd, chunk)
                await file.run(os.fsync, file.fd)
                unwanted.append(final)
                await file.run(_publish, temporary, final)
                unwanted.clear()
            finally:
                file.end(unwanted)
        except OSError as error:
            log.error("a message cannot be kept in {path}: {error}", path=self.path, error=error)
            raise refusalFor(error) from error
        return f"file://{quote(final)}"

    async def drop(self, reference: str) -> None:
        """As L{Claims.drop}."""
        with suppress(FileNotFoundError):
            await deferToThread(os.unlink, self._pathOf(reference))

    async def read(self, reference: str) -> AsyncIterator[bytes]:
        """As L{Claims.read}."""
        file = _File()
        try:
            await file.open(self._pathOf(reference), os.O_RDONLY)
            while chunk := await file.run(os.read, file.fd, _BLOCK):
                yield chunk
        finally:
            file.end()

    def _pathOf(self, reference: str) -> str:
        # Whoever can write to the queue must not have files removed elsewhere; and the folder may be mounted at
        # another place here.
        name = os.path.basename(unquote(urlsplit(reference).path))
        if not reference.startswith("file:") or not name.endswith(_SUFFIX) or name.startswith("."):
            raise ValueError(f"{reference!r} is no reference to a file")
        return os.path.join(self.path, name)


class _File:
    """
    A file whose operations run in threads, one at a time.

    Whoever waits for an operation may be cancelled, but a thread cannot be, and a descriptor that is closed under it
    may be that of another file or connection when it is used.  So the file is closed when none runs.

    @ivar fd: its descriptor, -1 while it is not open.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._isRunning = False
        self._isOver = False
        self._unwanted: Sequence[str] = ()

    def open(self, path: str, flags: int) -> Waiting[None]:
        """Open it; a new one is for the user of the server only."""
        return self.run(self._open, path, flags)

    def _open(self, path: str, flags: int) -> None:
        self.fd = os.open(path, flags, 0o600)

    def run(self, operation: Callable[..., T], *arguments: object) -> Waiting[T]:
        """Run this in a thread; cancelling the result ends the wait alone."""
        waiting: Waiting[T] = Waiting()
        self._isRunning = True

        def ended(result: T | Failure) -> None:
            self._isRunning = False
            if self._isOver:
                self._close()
            if not waiting.called:
                waiting.callback(result)

        deferToThread(operation, *arguments).addBoth(ended)
        return waiting

    def end(self, unwanted: Sequence[str] = ()) -> None:
        """
        It is wanted no more.

        @param unwanted: paths to remove, if this one was opened.
        """
        self._isOver, self._unwanted = True, unwanted
        if not self._isRunning:
            self._close()

    def _close(self) -> None:
        if self.fd >= 0:
            for path in self._unwanted:
                with suppress(OSError):
                    os.unlink(path)
            os.close(self.fd)
            self.fd = -1


def _writeAll(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _publish(temporary: str, final: str) -> None:
    os.rename(temporary, final)
    folder = os.open(os.path.dirname(final), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def claimsOf(value: Any) -> Any:
    """What option C{claims} means; other values unchanged, for the check to reject."""
    if isinstance(value, (str, os.PathLike)):
        return FolderClaims(value)
    if not isinstance(value, Mapping):
        return value
    try:
        return S3Claims(**value)
    except OptionError as error:
        raise (error.ofOption("claims") if error.options else error) from None


def isClaims(value: Any) -> bool:
    """Can it keep messages?"""
    return all(callable(getattr(value, method, None)) for method in ("keep", "drop", "read"))


def shownClaims(value: Any) -> Any:
    """A value for errors: a wrong one may hold a secret."""
    return value if value is None or isClaims(value) else NotShown(f"of type {type(value).__name__}")
