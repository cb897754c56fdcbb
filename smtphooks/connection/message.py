"""
The message: read off the wire and into C{onData}, as a whole or chunk by chunk.

The dialogue says what follows: a message, a chunk of one, or a chunk to discard.  The answer to it is there when the
octets were read and, at the end of a message, C{onData} has decided; it waits here until it is pulled.
This module knows neither what an answer means nor when there is time to read.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.python.failure import Failure

from smtphooks.connection.delivery import Delivery
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.state import wakeNobody
from smtphooks.dialogue.steps import DiscardChunk, ReceiveChunk, ReceiveMessage, Verdict
from smtphooks.options import Options
from smtphooks.replies import SMTPError
from smtphooks.syntax.wire import Wire, beforeBareNewline


class Stage(Enum):
    """How far what the dialogue asked for has come."""

    __hash__: Any = object.__hash__  # that of Enum is Python code

    IDLE = "nothing is asked for"
    READING = "octets are missing"
    DECIDING = "onData must decide"
    ENDING = "onData must end; its answer does not matter"
    ANSWERED = "the answer is there"


# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every command.
_READING, _DECIDING, _ENDING, _ANSWERED = Stage.READING, Stage.DECIDING, Stage.ENDING, Stage.ANSWERED
_IDLE = Stage.IDLE


class MessageReceiver:
    """
    @ivar stage: how far what the dialogue asked for has come.
    @ivar delivery: the message that has begun and is neither decided nor abandoned, if any.
    @ivar octets: how many were read of the message, or of the chunk that is discarded.
    """

    __slots__ = (
        "_answer",
        "_isDiscarding",
        "_isLast",
        "_options",
        "_runner",
        "_wake",
        "_wire",
        "delivery",
        "octets",
        "stage",
    )

    def __init__(self, wire: Wire, runner: HookRunner, options: Options, wake: Callable[[], None]) -> None:
        """
        @param wake: called whenever C{onData} has read octets, or has ended.
        """
        self._wire = wire
        self._runner = runner
        self._options = options
        self._wake = wake
        self._isLast = True  # the message ends with what is being read
        self._isDiscarding = False  # what is being read belongs to no message
        self._answer: Verdict | None = None
        self.stage: Stage = _IDLE
        self.delivery: Delivery | None = None
        self.octets: int = 0

    # --- what the dialogue asks for ---

    def beginMessage(self, step: ReceiveMessage) -> None:
        """A message follows that CRLF.CRLF ends."""
        self._wire.beginMessage()
        self._isLast = True
        self.stage = _READING
        self._beginDelivery(step.recipients)

    def beginChunk(self, step: ReceiveChunk) -> None:
        """A chunk of a message follows."""
        self._wire.beginChunk(step.octets, step.first, step.binary)
        self._isLast = step.last
        self.stage = _READING
        if step.first:
            self._beginDelivery(step.recipients)
        if self._wire.messageEnded:
            self._endOfOctets(b"")

    def discardChunk(self, step: DiscardChunk) -> None:
        """A chunk follows that belongs to no message."""
        self.octets = 0
        self._isDiscarding = True
        self._wire.beginChunk(step.octets, first=True, binary=True)
        self.stage = _READING
        if self._wire.messageEnded:
            self._endOfOctets(b"")

    def abandon(self) -> None:
        """The client breaks off a message that it had begun with BDAT."""
        assert self.delivery is not None
        self.octets = 0
        self.stage = _ENDING
        self.delivery.cut(Failure(ConnectionAborted("the client abandoned the message")))

    def _beginDelivery(self, recipients: int) -> None:
        self.octets = 0
        self.delivery = delivery = Delivery(self._runner, self._options, recipients, self._wake)
        delivery.begin(self._wake)

    def letGo(self) -> None:
        """The last hook has ended: nobody is to be woken any more."""
        self._wake = wakeNobody

    # --- what comes of it ---

    def poll(self) -> bool:
        """Look whether C{onData} has decided.  True if the answer to what the dialogue asked for is there."""
        delivery = self.delivery
        if delivery is not None and delivery.poll():
            isHungUp = self.stage is _READING and not self._isDiscarding and delivery.hangUp is not None
            isVerdict = isHungUp or self.stage is _DECIDING
            if isVerdict or self.stage is _ENDING:
                # Before the verdict is made, for what the hook has answered may raise when it is looked at.
                self.delivery = None
                self.stage = _ANSWERED
                self._answer = delivery.verdict() if isVerdict else None
        return self.stage is _ANSWERED

    def takeAnswer(self) -> Verdict | None:
        """The answer for the dialogue: of a decided message the verdict, else None."""
        answer, self._answer = self._answer, None
        self.stage = _IDLE
        self._isDiscarding = False
        return answer

    def takeHangUp(self) -> SMTPError | None:
        """The refusal with which C{onData} wants the connection closed between two chunks of its message."""
        delivery = self.delivery
        if delivery is None or not delivery.poll() or delivery.hangUp is None:
            return None
        self.delivery = None
        return delivery.hangUp

    @property
    def isRunning(self) -> bool:
        """C{onData} has not ended."""
        return self.delivery is not None and not self.delivery.poll()

    @property
    def pendingHook(self) -> str | None:
        """What has yet to decide on the message, None if nothing has; unlike C{isRunning} it takes no answer."""
        return None if self.delivery is None or self.delivery.isDecided else self.delivery.slowest

    def nameOf(self, hook: object) -> str:
        """A hook's name, as L{HookRunner.nameOf} has it."""
        return self._runner.nameOf(hook)

    @property
    def hasRoom(self) -> bool:
        """More of the message may be read."""
        return self.delivery is None or (stream := self.delivery.stream).buffered < stream.room

    @property
    def buffered(self) -> int:
        """Octets that wait for C{onData}."""
        return 0 if self.delivery is None else self.delivery.stream.buffered

    def timeOut(self) -> None:
        """C{onData} has taken too long, to decide or to read."""
        if self.isRunning and self.delivery is not None:
            self.delivery.timeOut()

    def cut(self, failure: Failure) -> None:
        """The connection is gone."""
        if self.delivery is not None:
            self.delivery.cut(failure)

    # --- reading ---

    def read(self) -> bool:
        """Pull once from the wire.  False if there is nothing to pull, or no room for it."""
        data = self._wire.maybeMessage() if self.hasRoom else None
        if data is None:
            return False
        self.octets += len(data)
        if self._wire.messageEnded:
            self._endOfOctets(data)
        elif data and self.delivery is not None and not self._isDiscarding:
            self._hand(data, self.delivery)
        return True

    def _hand(self, data: bytes, delivery: Delivery) -> None:
        """Octets to the hook; a bare newline fails the stream where it stands, however the octets were cut."""
        if not self._wire.bareNewlineSeen:
            delivery.stream.append(data)
            return
        before = beforeBareNewline(data)
        delivery.stream.append(data[:before])
        if self.poll():
            return
        delivery.refuseBareNewline()
        delivery.stream.append(data[before:])

    def _endOfOctets(self, data: bytes) -> None:
        """What was asked for has been read; these are its last octets."""
        delivery = self.delivery
        if delivery is None or self._isDiscarding:
            self.stage = _ANSWERED
            return
        if self._isLast and self._wire.isInChunks:
            data += self._wire.endOfChunks()
        if not self._isLast or self._wire.bareNewlineSeen:
            self._hand(data, delivery)
            data = b""
        if self.stage is _ANSWERED:
            return  # onData hung up before the bare newline
        if self._isLast:
            self.stage = _DECIDING
            delivery.finish(data)  # with the last octets, so that the hook need not go on twice
        else:
            delivery.poll()
            # Unless it is decided already, the message goes on with its next chunk.
            self.stage = _DECIDING if delivery.isRefused or delivery.fault else _ANSWERED
