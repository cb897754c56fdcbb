"""
The Maildir store: hooks that keep each message as a file of a Maildir (https://cr.yp.to/proto/maildir.html).

In: the stream and the session of C{onData}.  Out: files in C{new/}, and the texts of the replies.
Rule: before C{onData} returns, the message is whole in C{new/}, and its file and that folder are synced; what
fails before leaves nothing there.  All work on disk is done by the reactor's thread pool.
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
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.header import maybeSeparator
from smtphooks.replies import TOO_LARGE, SMTPError

if TYPE_CHECKING:
    from smtphooks.session import Address, Session
    from smtphooks.stream import MessageStream

log = Logger()

T = TypeVar("T")

# Small chunks are gathered up to this size, so that a small message costs one visit to a thread.  The stream
# holds up to 112 KiB more, and both together stay under the 128 KiB that a connection may hold.
_GATHERED_OCTETS = 16 * 1024
_COPY_OCTETS = 64 * 1024

# The disk is full for this user or this message: another server, or a later time, may have room for it.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Fixed texts: the client learns nothing of paths and causes, the log does.
_NO_ROOM = "Insufficient system storage, please try again later"
_NOT_STORED = "Message cannot be stored now, please try again later"

_deliveries = count(1)


class Maildir:
    """
    Hooks that store every message in one Maildir.

    Each file begins with C{Return-Path}, C{Delivered-To} and C{Received}, and an empty line follows unless the message
    begins with a header field: what it begins with cannot extend these.  Over SMTP a message is one file,
    with a C{Delivered-To} for each distinct recipient; over LMTP it is one file for each RCPT, duplicates
    included, and each has a result of its own.

    Lines end with LF, as is usual in a Maildir on UNIX: CRLF from the wire becomes LF.  A BINARYMIME message
    (RFC 3030) is stored unchanged, and the lines before it end with CRLF as its own do.

    The folder, its parents, and C{cur}, C{new} and C{tmp} in it are made when a message comes and they are
    missing: by the user that the server runs as by then, and for that user only.

    @ivar path: the Maildir's absolute path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """
        @param path: the Maildir; a relative path is taken from the working folder of now.
        @raise OSError: if the path cannot be a Maildir; nothing is made yet.
        """
        self.path = os.path.abspath(path)
        # In this order: where tmp exists, new has been made, and synced.
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
        """Make what is missing of the Maildir; called in a thread."""
        if not all(map(os.path.isdir, self._folders)):
            with self._making:
                for folder in self._folders:
                    _makeFolder(folder)

    async def onData(self, stream: MessageStream, session: Session) -> str | list[str | SMTPError]:
        """
        Store the message.

        @return: the text of the reply; LMTP: one text or refusal for each recipient, in order.
        @raise SMTPError: 552 for a message above the limit, 452 for a full disk, 451 for its other faults.
        """
        delivery = _Delivery(self, session)
        try:
            outcomes = await self._receive(stream, delivery)
        except BaseException as error:
            cleaning = delivery.abandon()
            # Whoever cancels or closes this coroutine wants it to end now; the thread cleans up all the same.
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
        if error.errno in _FULL:
            return SMTPError(_NO_ROOM, 452, "4.3.1")
        return SMTPError(_NOT_STORED, 451, "4.3.0")


class _Delivery:
    """
    One message on its way to disk.

    C{run} and C{abandon} are called by the reactor; C{write} and C{finish} by threads, one call at a time:
    each C{run} is awaited, and C{abandon} waits for the call under way.
    """

    def __init__(self, maildir: Maildir, session: Session) -> None:
        self._maildir = maildir
        self._session = session
        # The envelope of now, as the session may have another one by the time a thread comes to it.
        self._envelope = session.envelope
        # LMTP: a file for each RCPT.  SMTP: one file, for nobody in particular.
        self._recipients: Sequence[Address | None] = self._envelope.rcptTo if session.lmtp else (None,)
        self._binary = self._envelope.bodyType == "binarymime"
        self._begun = False  # the message itself stands in the file
        self._held = b""  # octets that are written when it is clear how
        self._file: _MessageFile | None = None
        self._bodyStart = 0
        self._ended: Deferred[None] | None = None
        self._abandoned = False

    def run(self, operation: Callable[[list[bytes]], T], pieces: list[bytes]) -> Deferred[T]:
        """
        Do it in a thread.  Cancelling the result only ends the wait: a thread cannot be stopped, and until it
        is done its file cannot be closed.
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
        """Leave nothing behind, unless C{finish} is past the point where the message is in C{new/}."""
        self._abandoned = True
        if self._ended is None:  # and so nothing has begun
            return succeed(None)
        return self._ended.addCallback(lambda _: deferToThread(self._discard))

    def write(self, pieces: list[bytes]) -> None:
        """Write some of the message."""
        self._write(b"".join(pieces))

    def finish(self, pieces: list[bytes]) -> list[str | OSError]:
        """
        Write the last of the message, and deliver it.

        @return: for each delivery the name of its file, or why there is none.
        """
        source = self._write(b"".join(pieces), last=True)
        # If this fails nobody knows what a copy would read, so it is a failure for every recipient.
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
            # A CR at the end may be half of a CRLF.
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
        """One delivery: the message itself for the first recipient, a copy for each other one."""
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
        """Sync the folder C{new}, once for all deliveries; without that none of them counts."""
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
    A file that is written in C{tmp/} and then moved to C{new/}.

    @ivar name: its name in both.
    """

    def __init__(self, path: str) -> None:
        self.name = _uniqueName()
        self._tmp = os.path.join(path, "tmp", self.name)
        self._new = os.path.join(path, "new", self.name)
        self._fd = os.open(self._tmp, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)

    def write(self, data: bytes) -> int:
        """Write all of it; returns its length."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        return len(data)

    def append(self, source: _MessageFile, offset: int) -> None:
        """Copy the other file from there to its end."""
        while data := os.pread(source._fd, _COPY_OCTETS, offset):
            offset += self.write(data)

    def sync(self) -> None:
        """Have the disk hold what was written."""
        os.fsync(self._fd)

    def publish(self) -> None:
        """Show it in C{new/}; a link never replaces a file, as a rename would."""
        os.link(self._tmp, self._new)

    def withdraw(self) -> None:
        """Take it out of C{new/} again."""
        _remove(self._new)

    def discard(self) -> None:
        """Close it and remove it from C{tmp/}, once; what was published stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _remove(self._tmp)
            # What counts was synced; what a file system says now comes too late to matter.
            with suppress(OSError):
                os.close(fd)


def _uniqueName() -> str:
    """A name like no other over threads (Q), processes (P) and hosts; R is for hosts of the same name."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    host = socket.gethostname().replace("/", "\\057").replace(":", "\\072")
    return f"{seconds}.M{microseconds}P{os.getpid()}Q{next(_deliveries)}R{os.urandom(8).hex()}.{host}"


def _makeFolder(folder: str) -> None:
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        _makeFolder(parent)
    if not os.path.isdir(folder):
        with suppress(FileExistsError):  # made by another process just now
            os.mkdir(folder, 0o700)
        _syncFolder(parent)


def _syncFolder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    # What cannot be removed is harmless: nobody reads tmp/, and a message that was refused but stays in new/
    # will come twice, which is better than never.
    with suppress(OSError):
        os.unlink(path)
