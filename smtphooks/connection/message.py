"""
The receiver: reads the messages of one connection off the wire and into C{onData}.

It is told what follows (a message, a chunk of one, octets of none) and answers when that has been read, and decided
where it is time to decide.  What the answer means is the dialogue's business, when to read the protocol's.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionAborted
from twisted.python.failure import Failure

from smtphooks.connection.calling import PendingAnswer
from smtphooks.connection.delivery import Delivery
from smtphooks.connection.runner import HOOK_TIMED_OUT, HookRunner
from smtphooks.dialogue.steps import DiscardChunk, ReceiveChunk, ReceiveMessage, Verdict
from smtphooks.options import Options
from smtphooks.replies import SMTPError
from smtphooks.stream import MessageStream
from smtphooks.syntax.wire import Wire, beforeBareNewline


class Receiver:
    """
    @ivar owesInput: it is the client's turn; if not, a hook has to take or to decide what was read.
    @ivar octets: how much has been read of the message, or of the chunk of none.
    """

    __slots__ = (
        "_answer",
        "_changed",
        "_conclusion",
        "_crashed",
        "_delivery",
        "_hangUp",
        "_isAsked",
        "_last",
        "_options",
        "_runner",
        "_wire",
        "octets",
        "owesInput",
    )

    def __init__(
        self,
        wire: Wire,
        runner: HookRunner,
        options: Options,
        answer: Callable[[Verdict | None], None],
        changed: Callable[[], None],
        hangUp: Callable[[SMTPError], None],
        crashed: Callable[[], None],
    ) -> None:
        """
        @param answer: called with the answer to what was asked for.
        @param changed: called when a hook has taken octets or has ended.
        @param hangUp: called if C{onData} wants the connection closed while nothing of its message is asked for.
        @param crashed: called, with the exception at hand, if one of these raised while a hook was heard.
        """
        self._wire = wire
        self._runner = runner
        self._options = options
        self._answer = answer
        self._changed = changed
        self._hangUp = hangUp
        self._crashed = crashed
        self._isAsked = False  # the dialogue waits for an answer
        self._delivery: Delivery | None = None
        self._conclusion: Callable[[Delivery], Verdict | None] | None = None  # answered when the delivery is decided
        self._last = True  # the message ends with what is being read
        self.owesInput = False
        self.octets = 0

    # --- what follows ---

    def message(self, step: ReceiveMessage) -> None:
        """A message that CRLF.CRLF ends."""
        self._isAsked = True
        self._wire.beginMessage()
        self._last = True
        self.owesInput = self._begin(step.recipients)

    def chunk(self, step: ReceiveChunk) -> None:
        """A chunk of a message."""
        self._isAsked = True
        self._wire.beginChunk(step.octets, step.first, step.binary)
        self._last = step.last
        if not step.first or self._begin(step.recipients):
            self._endOrGoOn()

    def discard(self, step: DiscardChunk) -> None:
        """A chunk of no message."""
        self.octets = 0
        self._isAsked = True
        self._wire.beginChunk(step.octets, first=True, binary=True)
        self._endOrGoOn()

    def abandon(self) -> None:
        """No more of the message at hand."""
        assert self._delivery is not None
        self.octets = 0
        self._isAsked = True
        self._delivery.cut(Failure(ConnectionAborted("the client abandoned the message")))
        self._conclude(lambda delivery: None)

    def cut(self, failure: Failure) -> None:
        """The connection is gone."""
        assert self._delivery is not None
        self._delivery.cut(failure)

    # --- what there is ---

    @property
    def hasMessage(self) -> bool:
        """A message has begun, and is not read and decided yet."""
        return self._delivery is not None

    def overdue(self) -> None:
        """C{onData} has taken too long; what it does from here on is of no interest."""
        delivery = self._delivery
        if delivery is not None and not delivery.decided:
            self._runner.overdue("onData")
            delivery.giveUp(HOOK_TIMED_OUT)
            self._concludeIfDecided()
            self._changed()

    @property
    def isBusy(self) -> bool:
        """C{onData} has not ended."""
        return self._delivery is not None and not self._delivery.decided

    @property
    def hasRoom(self) -> bool:
        """More of the message may be read."""
        return self._delivery is None or (stream := self._delivery.stream).buffered < stream.room

    @property
    def buffered(self) -> int:
        """Octets that wait for C{onData}."""
        return 0 if self._delivery is None else self._delivery.stream.buffered

    # --- reading ---

    def read(self) -> bool:
        """Pull once from the wire, if there is room.  False if there is nothing to pull."""
        data = self._wire.maybeMessage()
        if data is None:
            return False
        self.octets += len(data)
        if self._wire.messageEnded:
            self._ended(data)
        elif data and self._delivery is not None:
            self._hand(data, self._delivery)
        return True

    def _hand(self, data: bytes, delivery: Delivery) -> None:
        """Octets to the hook; what is wrong with them it learns where they stand, however they were cut."""
        if not self._wire.bareNewlineSeen:
            delivery.stream.receive(data)
            return
        before = beforeBareNewline(data)
        delivery.stream.receive(data[:before])
        delivery.refuseBareNewline()
        delivery.stream.receive(data[before:])

    def _endOrGoOn(self) -> None:
        self.owesInput = True
        if self._wire.messageEnded:
            self._ended(b"")

    def _ended(self, data: bytes) -> None:
        """What was asked for has been read; these are its last octets."""
        self.owesInput = False
        delivery = self._delivery
        if delivery is None:
            self._reply(None)
            return
        if self._last:
            data += self._wire.endOfChunks()
        if not self._last or self._wire.bareNewlineSeen:
            self._hand(data, delivery)
            data = b""
        if self._last:
            delivery.finish(data)  # with the last octets, so that the hook need not go on twice
        if self._last or delivery.failed or delivery.fault(self._options.rejectOversized):
            self._conclude(self._verdict)
        else:
            self._reply(None)

    def _reply(self, verdict: Verdict | None) -> None:
        self._isAsked = False
        self._answer(verdict)

    # --- the hook ---

    def _begin(self, recipients: int) -> bool:
        """Call C{onData}.  False if it has hung up at once."""
        self.octets = 0
        self.owesInput = False
        options, session = self._options, self._runner.session
        stream = MessageStream(options.size, options.rejectOversized, self._changed)
        self._delivery = delivery = Delivery(stream, recipients if options.lmtp else None)
        result = self._runner.ask("onData", (stream, session))
        if type(result) is PendingAnswer:
            delivery.hookRuns(result)
            result.then(self._decidedLater, delivery)
            return True
        self._decided(result, delivery)
        return not self._hangsUp(delivery)

    def _hangsUp(self, delivery: Delivery) -> bool:
        """Answer at once if C{onData} has hung up."""
        refusal = delivery.hangUp
        if refusal is None:
            return False
        self.owesInput = False
        if self._isAsked:
            self._conclude(self._verdict)
        else:
            self._delivery = None
            self._hangUp(refusal)
        return True

    def _decidedLater(self, result: object, delivery: Delivery) -> None:
        if delivery.decided:
            self._runner.late("onData", result)
            return
        try:
            self._decided(result, delivery)
            if not self._hangsUp(delivery):
                self._concludeIfDecided()
        except Exception:
            # Raised further, it would end up in a Deferred of the hook, and this connection would stand still.
            self._crashed()
        self._changed()

    def _decided(self, result: object, delivery: Delivery) -> None:
        if result is not None:
            result = self._runner.checked("onData", result)
        if isinstance(result, Failure):
            if delivery.isCut:
                self._runner.late("onData", result)
            elif delivery.fault(self._options.rejectOversized) and not result.check(SMTPError):
                # It fell over the end of a message that is refused anyway, and with a better reason.
                self._runner.late("onData", result)
                result = None
            else:
                result = self._runner.refusal("onData", result)
        delivery.decide(result)

    def _verdict(self, delivery: Delivery) -> Verdict:
        return Verdict(
            delivery.results(self._runner.fault),
            delivery.fault(self._options.rejectOversized),
            delivery.stream.byteLength,
        )

    def _conclude(self, conclusion: Callable[[Delivery], Verdict | None]) -> None:
        """Answer with the conclusion as soon as C{onData} has ended."""
        if self._delivery is not None:  # or else it has been decided already
            self._conclusion = conclusion
            self._concludeIfDecided()

    def _concludeIfDecided(self) -> None:
        delivery, conclusion = self._delivery, self._conclusion
        if delivery is not None and delivery.decided and conclusion is not None:
            self._delivery = self._conclusion = None
            self._reply(conclusion(delivery))
