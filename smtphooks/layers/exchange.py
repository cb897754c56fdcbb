"""
An exchange with a scanner: one message goes over a connection of its own, and the answer comes back.

In: an endpoint, a message that arrives, and how the scanner wants it framed.  Out: the octets of the answer.  Rule: the
answer is read while the message is written, for a scanner may answer before it has read all, and close.  Whatever ends
the exchange, no connection, producer or timer of it is left.
This module knows no verdict, and no protocol of a scanner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer, IReactorTime, IReadDescriptor, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks.awaiting import Waiting
from smtphooks.hooks import Unavailable
from smtphooks.stream import MessageStream


class ScannerFault(Unavailable):
    """A scanner gives no verdict: it cannot be reached, does not answer in time, or answers something else."""


@attrs.frozen
class Request:
    """
    What is sent to a scanner, and what an answer is.

    @ivar opening: octets before the message.
    @ivar before: the octets before a chunk of the message, by the length of that chunk.
    @ivar behind: octets behind each chunk.
    @ivar closing: octets behind the message.
    @ivar octets: how many octets of the message are sent, 0 for all.
    @ivar answerEnd: octets that end the answer; if empty, it ends with the connection.
    @ivar answerOctets: the most octets that an answer may have.
    """

    opening: bytes
    before: Callable[[int], bytes]
    behind: bytes
    closing: bytes
    octets: int
    answerEnd: bytes
    answerOctets: int


class Answer(NamedTuple):
    """
    @ivar octets: without those that end it.
    @ivar isOnAll: the scanner answered after all had been sent, and not on a part of the message.
    """

    octets: bytes
    isOnAll: bool


async def ask(
    endpoint: IStreamClientEndpoint,
    request: Request,
    stream: MessageStream,
    *,
    scanner: str,
    timeout: float,
    clock: IReactorTime,
) -> Answer:
    """
    Send a message to a scanner, and wait for its answer.

    @param scanner: what errors call it.
    @param timeout: seconds, 0 for no limit, that the scanner may take to accept the connection, to read on, and to
        answer when all was sent.  Time in which the client sends nothing does not count.
    @raise ScannerFault: if there is no answer.
    @raise Exception: of the stream, if that fails before there is an answer.
    """
    exchange = _Exchange(request, scanner, timeout, clock)
    try:
        exchange.begin(endpoint, stream)
        return await exchange.answered
    finally:
        exchange.close()


@implementer(IConsumer, IPushProducer)
class _Exchange(Protocol):
    """
    One connection to a scanner: a consumer for the stream, and a producer for the transport.

    The transport has it as a producer until the end, so that it can read once more from a connection that breaks.

    @ivar answered: fires with the L{Answer}, or fails.
    """

    def __init__(self, request: Request, scanner: str, timeout: float, clock: IReactorTime) -> None:
        self.answered: Waiting[Answer] = Waiting()
        self._request = request
        self._scanner = scanner
        self._timeout = timeout
        self._clock = clock
        self._deadline: Any = None
        self._connecting: Deferred[Any] | None = None
        self._delivery: Deferred[None] | None = None
        self._source: Any = None  # the stream while it delivers
        self._isPaused = True  # until there is a connection
        self._octets = 0  # of the message, sent so far
        self._isSent = False  # all was sent
        self._answer = bytearray()

    def begin(self, endpoint: IStreamClientEndpoint, stream: MessageStream) -> None:
        """Connect, and deliver the stream as soon as there is a connection."""
        # The delivery comes first, so that a client that leaves meanwhile is noticed.
        self._delivery = stream.deliverTo(self)
        self._delivery.addCallbacks(lambda _: self._finish(), self._fail)
        self._await()
        factory = Factory()
        factory.noisy = False
        factory.protocol = lambda: self
        self._connecting = endpoint.connect(factory)
        self._connecting.addCallbacks(
            lambda _: self._connected(),
            lambda failure: self._fault(f"cannot be reached: {failure.getErrorMessage()}"),
        )

    def close(self) -> None:
        """End the exchange, whether there is an answer or not."""
        self._relax()
        if not self.answered.called:
            self.answered.errback(CancelledError())
            self.answered.addErrback(lambda failure: None)
        for pending in (self._delivery, self._connecting):
            if pending is not None:  # cancelling one that has fired does nothing
                pending.cancel()
        transport: Any = self.transport
        if transport is not None:
            # What is still to be written is of no use to anybody, and would keep the connection.
            transport.abortConnection()

    # --- what ends it ---

    def _succeed(self, octets: bytes) -> None:
        if not self.answered.called:
            self.answered.callback(Answer(octets, self._isSent))

    def _fail(self, failure: Failure) -> None:
        if not self.answered.called:
            self.answered.errback(failure)

    def _fault(self, what: str) -> None:
        self._fail(Failure(ScannerFault(f"{self._scanner} {what}")))

    # --- time ---

    def _await(self) -> None:
        """From now on it is the scanner's turn."""
        self._relax()
        if self._timeout:
            self._deadline = self._clock.callLater(self._timeout, self._timedOut)

    def _relax(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def _timedOut(self) -> None:
        self._deadline = None
        if self.transport is None:
            self._fault(f"cannot be reached: it accepted no connection within {self._timeout:g} seconds")
        elif self._isSent:
            self._fault(f"has not answered within {self._timeout:g} seconds")
        else:
            self._fault(f"has read nothing for {self._timeout:g} seconds")

    # --- the stream writes to its consumer ---

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """C{IConsumer}: the stream will write."""
        self._source = producer
        if self._isPaused:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """C{IConsumer}: the stream will write no more."""
        self._source = None

    def write(self, data: bytes) -> None:
        """C{IConsumer}: send a chunk, or as much of it as the scanner is to get."""
        if self._isSent:
            return
        request, transport = self._request, self.transport
        assert transport is not None
        if request.octets:
            data = data[: request.octets - self._octets]
        self._octets += len(data)
        transport.writeSequence([request.before(len(data)), data, request.behind])
        if self._octets == request.octets:
            self._finish()

    def _finish(self) -> None:
        """All was sent, or, if the message is empty, there is nothing to wait for until the scanner is connected."""
        if not self._isSent:
            self._isSent = True
            if self.transport is not None:
                self.transport.write(self._request.closing)
            self._await()

    # --- the transport tells its producer, and its protocol ---

    def _connected(self) -> None:
        transport: Any = self.transport
        transport.registerProducer(self, True)
        transport.write(self._request.opening)
        if self._isSent:  # The message is empty.
            transport.write(self._request.closing)
            self._await()
        self.resumeProducing()

    def pauseProducing(self) -> None:
        """C{IPushProducer}: the scanner does not read as fast as the client writes."""
        self._isPaused = True
        if self._source is not None:
            self._source.pauseProducing()
        self._await()

    def resumeProducing(self) -> None:
        """C{IPushProducer}: the scanner reads on."""
        self._isPaused = False
        if not self._isSent:  # Now the client is to send; if all was sent, the scanner is to answer.
            self._relax()
        if self._source is not None:
            self._source.resumeProducing()

    def stopProducing(self) -> None:
        """
        C{IPushProducer}: the connection is about to be lost.

        A write that fails ends a connection before Twisted has read what the scanner said before it closed.
        """
        if not self.answered.called and IReadDescriptor.providedBy(self.transport):
            self.transport.doRead()

    def dataReceived(self, data: bytes) -> None:
        """A part of the answer."""
        if self.answered.called:
            return
        request, answer = self._request, self._answer
        answer += data
        end = answer.find(request.answerEnd) if request.answerEnd else -1
        if end >= 0:
            self._succeed(bytes(answer[:end]))
        elif len(answer) > request.answerOctets:
            self._fault(f"answers more than {request.answerOctets} octets")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The scanner has closed the connection."""
        if not self._answer:
            self._fault("has closed the connection without an answer")
        elif self._request.answerEnd:
            self._fault(f"has closed the connection within its answer {bytes(self._answer[:200])!r}")
        else:
            self._succeed(bytes(self._answer))
