"""
Claims: the octets of large messages in a store that receivers and consumers share, so that the queue has a reference
only (the "claim check" of message brokers).

In: a message that was spooled.  Out: a reference; and later, to whoever has that, the octets.
Rule: when L{Claims.keep} returns, the octets are durable, all of them, under a name that no other message has.
This module knows no queue and no session.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from twisted.logger import Logger

from smtphooks.currentreactor import deferToThread
from smtphooks.disk import refusalFor
from smtphooks.errors import OptionError
from smtphooks.optionkinds import NotShown
from smtphooks.spool import Spool
from smtphooks.stores.s3 import S3Claims
from smtphooks.stream import MessageStream

log: Logger = Logger()

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
        try:
            fd = await deferToThread(os.open, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                try:
                    async for chunk in spool.open():
                        await deferToThread(_writeAll, fd, chunk)
                    await deferToThread(os.fsync, fd)
                finally:
                    os.close(fd)
                await deferToThread(_publish, temporary, final)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
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
        fd = await deferToThread(os.open, self._pathOf(reference), os.O_RDONLY)
        try:
            while chunk := await deferToThread(os.read, fd, _BLOCK):
                yield chunk
        finally:
            os.close(fd)

    def _pathOf(self, reference: str) -> str:
        # Whoever can write to the queue must not have files removed elsewhere; and the folder may be mounted at
        # another place here.
        name = os.path.basename(unquote(urlsplit(reference).path))
        if not reference.startswith("file:") or not name.endswith(_SUFFIX) or name.startswith("."):
            raise ValueError(f"{reference!r} is no reference to a file")
        return os.path.join(self.path, name)


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
    return S3Claims(**value) if isinstance(value, Mapping) else value


def isClaims(value: Any) -> bool:
    """Can it keep messages?"""
    return all(callable(getattr(value, method, None)) for method in ("keep", "drop", "read"))


def shownClaims(value: Any) -> Any:
    """A value for errors: a wrong one may hold a secret."""
    return value if value is None or isClaims(value) else NotShown(f"of type {type(value).__name__}")
