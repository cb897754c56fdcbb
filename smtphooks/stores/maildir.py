"""
The Maildir store: hooks that keep each message as a file of a Maildir (https://cr.yp.to/proto/maildir.html).

In: the stream and the session of C{onData}.  Out: files in C{new/}, and the texts of the replies.
Rule: before C{onData} returns, the message is whole in C{new/}, and its file and that folder are synced; a delivery
that fails before leaves nothing there.  All disk operations run in the reactor's thread pool.
This module knows no commands, no transport and no options.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.currentreactor import deferToThread
from smtphooks.disk import refusalFor
from smtphooks.errors import OptionError
from smtphooks.header import maybeSeparator
from smtphooks.replies import TOO_LARGE, SMTPError
from smtphooks.session import Address, Session
from smtphooks.stream import MessageStream

log: Logger = Logger()

T = TypeVar("T")

# Small chunks are collected up to this size, so that a small message needs one call in a thread.  The stream buffers up
# to 112 KiB more; both together stay below the 128 KiB that a connection may buffer.
_GATHERED_OCTETS = 16 * 1024
_COPY_OCTETS = 64 * 1024

_deliveries = count(1)


def _pathOf(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise OptionError("option path is {!r}, it wants the path of a folder", path, options=["path"])
    return os.path.abspath(text)


@attrs.define(slots=False, eq=False, repr=False)
class Maildir:
    """
    Hooks that store every message in one Maildir, C{smtphooks.stores.Maildir}; in TOML C{smtphooks.stores:Maildir}.

    Each file begins with C{Return-Path}, C{Delivered-To} and C{Received}.  An empty line follows unless the message
    begins with a header field, so that it cannot extend these.  Over SMTP a message is one file, with a C{Delivered-To}
    for each distinct recipient; over LMTP it is one file for each RCPT, duplicates included, each with its own result.

    Lines end with LF, as is usual in a Maildir on UNIX: CRLF from the wire becomes LF.  A BINARYMIME message (RFC 3030)
    is stored unchanged, and the lines before it end with CRLF as its own do.

    The folder, its parents, and C{cur}, C{new} and C{tmp} in it are made with the first message, by the user that the
    server runs as by then, and for that user only.

    @ivar path: the Maildir's absolute path; a relative one is resolved when the object is made, against the current
        working folder.
    @raise OSError: if the path cannot be a Maildir; nothing is created yet.
    """

    # Below [hooks-options] a path is relative to the working folder, as that of --maildir is.
    path: str = attrs.field(
        converter=_pathOf,
        metadata={"wants": "the path of a folder", "isLayerPath": lambda text: True},
    )

    def __attrs_post_init__(self) -> None:
        # In this order: if tmp exists, new has been created and synced.
        self._folders = [os.path.join(self.path, name) for name in ("cur", "new", "tmp")]
        self._making = threading.Lock()
        for folder in self._folders:
            self._checkFolder(folder)

    def _checkFolder(self, folder: str) -> None:
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, f"No Maildir here, {folder} is not a folder", self.path)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"No Maildir here, {folder} is not writable", self.path)

    def makeFolders(self) -> None:
        """Create the folders that are missing; called in a thread."""
        if not all(map(os.path.isdir, self._folders)):
            with self._making:
                for folder in self._folders:
                    _makeFolder(folder)

    async def onData(self, stream: MessageStream, session: Session) -> str | list[str | SMTPError]:
        """
        Store the message.

        @return: the text of the reply; over LMTP a text or an L{SMTPError} for each recipient, in order.
        @raise SMTPError: 552 for a message above the limit, 452 for a full disk, 451 for other errors of the disk.
        """
        delivery = _Delivery(self, session)
        try:
            outcomes = await self._receive(stream, delivery)
        except BaseException as error:
            cleaning = delivery.abandon()
            # A coroutine that is cancelled or closed must end at once; the thread cleans up nevertheless.
            if isinstance(error, Exception) and not isinstance(error, CancelledError):
                await cleaning
            if isinstance(error, OSError):
                raise self._refusal(error, session) from error
            raise
        self._logStored([outcome for outcome in outcomes if isinstance(outcome, str)], stream, session)
        results = [
            f"Stored as {outcome}" if isinstance(outcome, str) else self._refusal(outcome, session)
            for outcome in outcomes
        ]
        if session.lmtp:
            return results
        (result,) = results
        if isinstance(result, SMTPError):
            raise result
        return result

    async def _receive(self, stream: MessageStream, delivery: _Delivery) -> list[str | OSError]:
        pieces: list[bytes] = []
        gathered = 0
        async for chunk in stream:
            pieces.append(chunk)
            gathered += len(chunk)
            if gathered > _GATHERED_OCTETS:
                await delivery.run(delivery.write, pieces)
                pieces, gathered = [], 0
        if stream.sizeExceeded:
            raise TOO_LARGE.asError()
        return await delivery.run(delivery.finish, pieces)

    def _logStored(self, names: list[str], stream: MessageStream, session: Session) -> None:
        if names:
            log.info(
                "stored {names}: {octets} octets [{session}]",
                session=session.id,
                peer=session.remoteAddress,
                names=", ".join(names),
                octets=stream.byteLength,
            )

    def _refusal(self, error: OSError, session: Session) -> SMTPError:
        log.error(
            "a message cannot be stored in {path}: {error} [{session}]",
            session=session.id,
            peer=session.remoteAddress,
            path=self.path,
            error=error,
        )
        return refusalFor(error)


class _Delivery:
    """
    The delivery of one message.

    C{run} and C{abandon} are called in the reactor's thread; C{write} and C{finish} in the pool, one call at a time:
    each C{run} is awaited, and C{abandon} waits for a call in progress.
    """

    def __init__(self, maildir: Maildir, session: Session) -> None:
        self._maildir = maildir
        self._session = session
        # The session may have another envelope by the time the thread runs.
        self._envelope = session.envelope
        # LMTP: a file for each RCPT.  SMTP: one file for all recipients, which None stands for.
        self._recipients: Sequence[Address | None] = self._envelope.rcptTo if session.lmtp else (None,)
        self._binary = self._envelope.bodyType == "binarymime"
        self._begun = False  # the separator has been written
        self._held = b""  # octets that cannot be written before the next ones are known
        self._file: _MessageFile | None = None
        self._bodyStart = 0
        self._ended: Deferred[None] | None = None
        self._abandoned = False

    def run(self, operation: Callable[[list[bytes]], T], pieces: list[bytes]) -> Deferred[T]:
        """
        Run this in a thread.  Cancelling the result ends only the wait: a thread cannot be stopped, and its file cannot
        be closed while it runs.
        """
        waiting: Deferred[T] = Deferred()
        ended: Deferred[None] = Deferred()

        def end(result: T | Failure) -> T | Failure:
            ended.callback(None)
            return result

        self._ended = ended
        deferToThread(operation, pieces).addBoth(end).chainDeferred(waiting)
        return waiting

    def abandon(self) -> Deferred[None]:
        """Remove all files, unless C{finish} has already moved the message to C{new/}."""
        self._abandoned = True
        if self._ended is None:  # nothing was written
            return succeed(None)
        return self._ended.addCallback(lambda _: deferToThread(self._discard))

    def write(self, pieces: list[bytes]) -> None:
        """Write a part of the message."""
        self._write(b"".join(pieces))

    def finish(self, pieces: list[bytes]) -> list[str | OSError]:
        """
        Write the rest of the message, and deliver it.

        @return: for each file its name, or the error.
        """
        source = self._write(b"".join(pieces), last=True)
        # If this fails, the content of copies would be undefined: it is a failure for every recipient.
        source.sync()
        if self._abandoned:
            return []
        deliveries = [self._deliver(source, i, recipient) for i, recipient in enumerate(self._recipients)]
        source.discard()
        return self._syncNew(deliveries)

    def _write(self, data: bytes, last: bool = False) -> _MessageFile:
        file = self._file
        if file is None:
            self._maildir.makeFolders()
            file = self._file = _MessageFile(self._maildir.path)
            self._bodyStart = file.write(self._header(self._recipients[0]))
        data, self._held = self._held + data, b""
        if not self._begun:
            separator = maybeSeparator(data, more=not last)
            if separator is None:
                self._held = data
                return file
            self._begun = True
            data = separator + data
        if not self._binary:
            # A CR at the end may be the first half of a CRLF.
            whole = data if last else data.removesuffix(b"\r")
            self._held = data[len(whole) :]
            data = whole.replace(b"\r\n", b"\n")
        file.write(data)
        return file

    def _header(self, recipient: Address | None) -> bytes:
        recipients = self._envelope.rcptTo if recipient is None else (recipient,)
        lines = [f"Return-Path: <{self._envelope.mailFrom}>\r\n"]
        lines += [f"Delivered-To: {address}\r\n" for address in dict.fromkeys(map(str, recipients))]
        header = "".join([*lines, self._session.receivedHeader(recipient)]).encode(errors="replace")
        return header if self._binary else header.replace(b"\r\n", b"\n")

    def _deliver(self, source: _MessageFile, index: int, recipient: Address | None) -> _MessageFile | OSError:
        """Deliver to one recipient: the file itself for the first, a copy for each other one."""
        try:
            if index == 0:
                source.publish()
                return source
            return self._deliverCopy(source, recipient)
        except OSError as error:
            return error

    def _deliverCopy(self, source: _MessageFile, recipient: Address | None) -> _MessageFile:
        copy = _MessageFile(self._maildir.path)
        try:
            copy.write(self._header(recipient))
            copy.append(source, self._bodyStart)
            copy.sync()
            copy.publish()
        finally:
            copy.discard()
        return copy

    def _syncNew(self, deliveries: list[_MessageFile | OSError]) -> list[str | OSError]:
        """Sync the folder C{new}, once for all files; if that fails, so does each of them."""
        try:
            _syncFolder(os.path.join(self._maildir.path, "new"))
        except OSError as error:
            for delivery in deliveries:
                if isinstance(delivery, _MessageFile):
                    delivery.withdraw()
            return [error if isinstance(delivery, _MessageFile) else delivery for delivery in deliveries]
        return [delivery.name if isinstance(delivery, _MessageFile) else delivery for delivery in deliveries]

    def _discard(self) -> None:
        if self._file is not None:
            self._file.discard()


class _MessageFile:
    """
    A file that is written in C{tmp/} and then linked into C{new/}.

    @ivar name: its name in both folders.
    """

    def __init__(self, path: str) -> None:
        self.name = _uniqueName()
        self._tmp = os.path.join(path, "tmp", self.name)
        self._new = os.path.join(path, "new", self.name)
        self._fd = os.open(self._tmp, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)

    def write(self, data: bytes) -> int:
        """Write all octets; returns their number."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        return len(data)

    def append(self, source: _MessageFile, offset: int) -> None:
        """Copy another file from an offset to its end."""
        while data := os.pread(source._fd, _COPY_OCTETS, offset):
            offset += self.write(data)

    def sync(self) -> None:
        """Sync the file to the disk."""
        os.fsync(self._fd)

    def publish(self) -> None:
        """Link it into C{new/}; unlike a rename, a link never replaces a file."""
        os.link(self._tmp, self._new)

    def withdraw(self) -> None:
        """Remove it from C{new/} again."""
        _remove(self._new)

    def discard(self) -> None:
        """Close it and remove it from C{tmp/}, once; it stays in C{new/} if it was published."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _remove(self._tmp)
            # The data has been synced, or is not wanted: an error of close() does not matter.
            with suppress(OSError):
                os.close(fd)


def _uniqueName() -> str:
    """A name that is unique over threads (Q), processes (P) and hosts; R is for hosts with the same name."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    host = socket.gethostname().replace("/", "\\057").replace(":", "\\072")
    return f"{seconds}.M{microseconds}P{os.getpid()}Q{next(_deliveries)}R{os.urandom(8).hex()}.{host}"


def _makeFolder(folder: str) -> None:
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        _makeFolder(parent)
    if not os.path.isdir(folder):
        with suppress(FileExistsError):  # another process has just created it
            os.mkdir(folder, 0o700)
        _syncFolder(parent)


def _syncFolder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    # A file that cannot be removed is harmless: no mail program reads tmp/, and a message that was rejected but stays
    # in new/ will be delivered twice, which is better than never.
    with suppress(OSError):
        os.unlink(path)
