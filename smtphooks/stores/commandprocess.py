"""
One run of a program that takes a message: its start under a guard, the message on its standard input, and its end.

In: the command line, the stream, and the time that is left for the message.  Out: how the program ended.
Rule: whatever happens before the program has the whole message kills it and all of its process group, as its standard
input must not end there.  The server holds the writing end of that input as the guard does, as either may be killed.
This module knows no envelope, and not what an exit status means.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall, IPullProducer
from twisted.internet.protocol import ProcessProtocol
from zope.interface import implementer

from smtphooks.awaiting import Waiting
from smtphooks.hooks import Unavailable
from smtphooks.replies import TOO_LARGE
from smtphooks.stores.sysexits import Outcome
from smtphooks.stream import MessageStream

_GUARD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "commandguard.py")

# Descriptors of the guard.
_INPUT, _OUTPUT, _ERRORS, _STATUS, _CONTROL, _THEIRS, _OURS = range(7)
_CHILD_FDS = {_INPUT: "w", _OUTPUT: "r", _ERRORS: "r", _STATUS: "r", _CONTROL: "w"}

# The first line of the guard, when it has passed the whole message on.
_PASSED = b"passed\n"

# What is kept of each output; the rest is read and dropped, so that the program is not held up.
_KEPT_OCTETS = 4096

# Seconds between the polite and the other end of a program that takes too long.
KILL_DELAY = 5.0

# Seconds for the rest of the output of a program that has ended.  Its children may hold the pipes for ever.
_OUTPUT_DELAY = 1.0


class Budget:
    """
    The time that programs have for one message; what they wait for the client does not count.

    @ivar left: seconds; None for no limit.
    """

    def __init__(self, seconds: float, clock: Any) -> None:
        self.left: float | None = seconds or None
        self._clock = clock

    async def spend(self, waiting: Waiting[None]) -> None:
        """
        Await something.

        @raise twisted.internet.defer.TimeoutError: when nothing is left.
        """
        begun = self._clock.seconds()
        timer = None if self.left is None else self._clock.callLater(self.left, _expire, waiting)
        try:
            await waiting
        finally:
            if self.left is not None:
                self.left = max(0.0, self.left - (self._clock.seconds() - begun))
            if timer is not None and timer.active():
                timer.cancel()


def _expire(waiting: Waiting[None]) -> None:
    if not waiting.called:
        waiting.errback(DeferredTimeout())


class _LineEnds:
    """The conversion of CRLF to LF, in octets that are cut anywhere."""

    def __init__(self, isWanted: bool) -> None:
        self._isWanted = isWanted
        self._held = b""

    def convert(self, data: bytes, isLast: bool = False) -> bytes:
        """What goes on of these octets."""
        if not self._isWanted:
            return data
        data = self._held + data
        # A CR at the end may be the first half of a CRLF.
        whole = data if isLast else data.removesuffix(b"\r")
        self._held = data[len(whole) :]
        return whole.replace(b"\r\n", b"\n")


@attrs.frozen
class Invocation:
    """
    What to run.

    @ivar program: its path.
    @ivar user: C{"UID:GID:GROUP,GROUP…"}, or C{""} for the user of the server.
    @ivar isBinary: the program gets the message with the line ends that it has, else with LF.
    """

    program: bytes
    argv: Sequence[bytes]
    environment: Mapping[bytes, bytes]
    directory: str
    user: str
    isBinary: bool


@implementer(IPullProducer)
class CommandProcess(ProcessProtocol):
    """
    A run of a program.

    As a pull producer it learns when the pipe has taken all that was written.

    @ivar isOver: the program has ended, or was never started.
    """

    transport: Any

    def __init__(self, name: str, clock: Any) -> None:
        """
        @param name: of the program, for errors.
        """
        self.isOver: bool = False
        self._name = name
        self._clock = clock
        self._received = dict.fromkeys((_OUTPUT, _ERRORS, _STATUS), b"")
        self._open = set(_CHILD_FDS)
        self._isDrained = False
        self._isWhole = False
        self._isAbandoned = False
        self._group = 0
        self._held: int | None = None
        self._waiting: Waiting[None] | None = None
        self._watchers: list[Waiting[None]] = []
        self._killing: IDelayedCall | None = None

    async def run(self, reactor: Any, what: Invocation, stream: MessageStream, budget: Budget) -> Outcome:
        """
        Run it to its end.

        @raise SMTPError: 552 for a message above the limit.
        @raise Unavailable: if it cannot be started or takes too long.
        @raise Exception: of the stream.
        """
        try:
            self._start(reactor, what)
        except OSError as error:  # too many processes, or files, or octets in arguments and environment
            self.isOver = True
            raise Unavailable(f"{self._name} cannot be run: {error.strerror}") from error
        try:
            return await self._run(stream, _LineEnds(not what.isBinary), budget)
        except BaseException as error:
            self.kill()
            if isinstance(error, DeferredTimeout):
                doing = "did not end" if self._isWhole else "did not read the message"
                raise Unavailable(f"{self._name} {doing} in time, and was killed") from None
            raise

    def _start(self, reactor: Any, what: Invocation) -> None:
        arguments = [sys.executable, "-I", "-S", _GUARD, what.directory, what.user, what.program, *what.argv]
        theirs, self._held = os.pipe()
        descriptors = {**_CHILD_FDS, _THEIRS: theirs, _OURS: self._held}
        try:
            reactor.spawnProcess(self, sys.executable, arguments, what.environment, childFDs=descriptors)
        except BaseException:
            self._letGo()
            raise
        finally:
            os.close(theirs)

    async def _run(self, stream: MessageStream, lines: _LineEnds, budget: Budget) -> Outcome:
        async for chunk in stream:
            await self._put(lines.convert(chunk), budget)
            if self.isOver:
                break
        else:
            if stream.sizeExceeded:
                raise TOO_LARGE.asError()
            await self._put(lines.convert(b"", isLast=True), budget)
            self._finish()
        while not self.isOver:
            await budget.spend(self._next())
        await self._restOfOutput()
        return Outcome(self._status(), self._received[_OUTPUT], self._received[_ERRORS])

    async def _put(self, data: bytes, budget: Budget) -> None:
        """Write octets, and wait until the pipe has taken them."""
        if data and not self.isOver:
            self._isDrained = False
            self.transport.write(data)
        while not (self._isDrained or self.isOver):
            await budget.spend(self._next())

    def _finish(self) -> None:
        """The pipe has taken the message."""
        self._isWhole = True
        self._tell(b"W")
        self._close()

    async def _restOfOutput(self) -> None:
        budget = Budget(_OUTPUT_DELAY, self._clock)
        with suppress(DeferredTimeout):
            while self._open & {_OUTPUT, _ERRORS}:
                await budget.spend(self._next())
        self._hangUp()

    def _status(self) -> str:
        """What the guard has said of the end of the program, C{""} if it did not come to that."""
        return self._received[_STATUS].removeprefix(_PASSED).decode(errors="replace").partition("\n")[0]

    def _next(self) -> Waiting[None]:
        """What fires with the next event."""
        self._waiting = Waiting()
        return self._waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    # --- its end by force ---

    def kill(self) -> None:
        """
        End it, with its process group.

        Without the whole message it gets no signal that it could take for a reason to store what it has.
        """
        self._isAbandoned = True
        if self.isOver:
            self._hangUp()
        elif self._isWhole:
            self._signal(signal.SIGTERM)
            self._killing = self._clock.callLater(KILL_DELAY, self._signal, signal.SIGKILL)
        else:
            self._signal(signal.SIGKILL)

    def killNow(self) -> None:
        """End it at once."""
        if not self.isOver:
            self._signal(signal.SIGKILL)

    def whenOver(self) -> Waiting[None]:
        """Fires when it has ended, however that came about."""
        waiting: Waiting[None] = Waiting()
        if self.isOver:
            waiting.callback(None)
        else:
            self._watchers.append(waiting)
        return waiting

    def _signal(self, number: signal.Signals) -> None:
        # The group may outlive the guard, and has its number until then.
        try:
            os.killpg(self._group, number)
        except (ProcessLookupError, PermissionError):
            # The guard has not yet begun, and does this itself then; or there is nobody any more.
            self._tell(b"K")

    def _tell(self, word: bytes) -> None:
        if _CONTROL in self._open:
            self.transport.writeToChild(_CONTROL, word)

    def _hangUp(self) -> None:
        self._close()
        for descriptor in (_OUTPUT, _ERRORS, _CONTROL):
            self.transport.closeChildFD(descriptor)

    def _close(self) -> None:
        self.transport.unregisterProducer()
        self.transport.closeStdin()

    def _letGo(self) -> None:
        """Close the program's input here."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    # --- events ---

    def connectionMade(self) -> None:
        self._group = self.transport.pid
        self.transport.registerProducer(self, False)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        room = _KEPT_OCTETS - len(self._received[childFD])
        self._received[childFD] += data[: max(0, room)]
        if childFD == _STATUS and self._received[_STATUS].startswith(_PASSED):
            self._letGo()

    def childConnectionLost(self, childFD: int) -> None:
        self._open.discard(childFD)
        if childFD == _STATUS:
            self._ended()
        elif childFD != _INPUT:
            self._wake()

    def _ended(self) -> None:
        # This end is not that of the process, which Twisted learns by a signal that some applications keep from it.
        self.isOver = True
        if self._held is not None or not self._status():
            # The program may still run, without its guard.  It is killed before its input ends.
            self._signal(signal.SIGKILL)
        self._letGo()
        killing, self._killing = self._killing, None
        if killing is not None and killing.active():
            killing.cancel()
        if self._isAbandoned:
            self._hangUp()
        self._wake()
        watchers, self._watchers = self._watchers, []
        for waiting in watchers:
            waiting.callback(None)

    def resumeProducing(self) -> None:
        self._isDrained = True
        self._wake()

    def stopProducing(self) -> None:
        """The guard does not read on: it is about to end."""
