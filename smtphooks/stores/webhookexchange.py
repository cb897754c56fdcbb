"""
An exchange with a webhook: one POST whose body is a message, perhaps while that arrives, and the answer to it.

In: the message, and the fields of the request.  Out: the status of the answer and its short text.
Rules: a message that breaks off, or an exchange that ends early, aborts the connection, so that no part looks like a
whole body; an answer that comes before all was sent ends the sending, and is known to be such; whatever ends the
exchange, no producer or timer of it is left, and no connection that could not carry another request.
This module knows no envelope, no signature, and no reply of SMTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer

from smtphooks.awaiting import Waiting
from smtphooks.stores.webhookreplies import Answer, StaleConnection, WebhookFault
from smtphooks.stream import MessageStream

# Octets of an answer's body that may be the text of a reply.
_TEXT_OCTETS = 500

_ZEROS = bytes(65536)


class Stopwatch:
    """Seconds that the other side may take in all its turns together."""

    def __init__(self, clock: Any, seconds: float, expired: Callable[[], None]) -> None:
        """
        @param clock: a C{IReactorTime}.
        @param seconds: 0 for no limit.
        """
        self._clock = clock
        self._left = seconds
        self._isLimited = seconds > 0
        self._expired = expired
        self._call: Any = None
        self._since = 0.0

    def run(self) -> None:
        """It is the other side's turn."""
        if self._isLimited and self._call is None:
            self._since = self._clock.seconds()
            self._call = self._clock.callLater(self._left, self._expire)

    def hold(self) -> None:
        """It is not."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
            self._left = max(self._left - (self._clock.seconds() - self._since), 0)

    def _expire(self) -> None:
        self._call = None
        self._expired()


@attrs.frozen
class Limits:
    """
    Seconds that a webhook may take, 0 for no limit.

    @ivar connecting: to accept a connection; the look-up of its name counts.
    @ivar answering: to read and to answer; time in which the client of the message sends nothing does not count.
    @ivar clock: a C{IReactorTime}.
    """

    connecting: float
    answering: float
    clock: Any


async def exchange(
    request: Callable[[IBodyProducer], Deferred[IResponse]],
    stream: MessageStream,
    length: int | None,
    *,
    name: str,
    limits: Limits,
) -> Answer:
    """
    Send a message as the body of a request, and wait for the answer.

    @param request: makes the request with a body; L{Links <smtphooks.stores.webhooklinks.Links>} makes the connection.
    @param length: the octets of the stream, None if that is not known.
    @param name: what errors call the webhook.
    @raise WebhookFault: if there is no answer.
    @raise StaleConnection: if there is none because the webhook had closed a connection that had been idle.
    @raise Exception: of the stream, if that fails before there is an answer.
    """
    made = Exchange(stream, length, name, limits)
    try:
        made.begin(request)
        return await made.answered
    finally:
        made.close()


@implementer(IConsumer, IBodyProducer)
class Exchange:
    """
    The consumer of the stream, and the body of the request.

    @ivar answered: fires with the L{Answer}, or fails.
    @ivar isSending: the request has begun, and its body has not ended.
    """

    def __init__(self, stream: MessageStream, length: int | None, name: str, limits: Limits) -> None:
        self.answered: Waiting[Answer] = Waiting()
        self.isSending: bool = False
        self.length = UNKNOWN_LENGTH if length is None else length
        self._stream = stream
        self._name = name
        self._limits = limits
        self._connecting = Stopwatch(limits.clock, limits.connecting, self._cannotConnect)
        self._answering = Stopwatch(limits.clock, limits.answering, self._tooSlow)
        self._link: Any = None
        self._delivery: Deferred[None] | None = None
        self._request: Deferred[IResponse] | None = None
        self._source: Any = None  # the stream while it delivers
        self._target: Any = None  # what the body is written to
        self._produced: Deferred[None] = Deferred()
        self._isPaused = True  # until the request begins
        self._isRead = False  # the stream has ended
        self._isCut = False  # the answer came before
        self._isComplete = False  # the answer
        self._code: int | None = None
        self._octets = 0

    def begin(self, request: Callable[[IBodyProducer], Deferred[IResponse]]) -> None:
        """Make the request, and deliver the stream as soon as there is a connection."""
        # The delivery comes first, so that a client that leaves meanwhile is noticed.
        self._delivery = self._stream.deliverTo(self)
        self._delivery.addCallbacks(lambda _: self._sourceEnded(), self._fail)
        if self.answered.called:
            return
        self._connecting.run()
        self._request = request(self)
        self._request.addCallbacks(self._responded, self._failed)

    def close(self) -> None:
        """End the exchange, whether there is an answer or not."""
        self._connecting.hold()
        self._answering.hold()
        if not self.answered.called:
            self.answered.errback(CancelledError())
            self.answered.addErrback(lambda failure: None)
        for pending in (self._delivery, self._request):
            if pending is not None:  # cancelling one that has fired does nothing
                pending.cancel()
        link, self._link = self._link, None
        if link is not None:
            link.leave(self, isReusable=self._isComplete and not self._isCut)

    @property
    def hasUnsent(self) -> bool:
        """The body has not ended, or octets of it are still to be sent, more than a few."""
        # The transport tells of a pause until it has sent them, also after the last one was written.
        return self.isSending or (self._target is not None and self._isPaused)

    # --- what ends it ---

    def _fail(self, failure: Failure) -> None:
        if not self.answered.called:
            self.answered.errback(failure)

    def _fault(self, what: str) -> None:
        self._fail(Failure(WebhookFault(f"{self._name} {what}")))

    def _failed(self, failure: Failure) -> None:
        """There is no response."""
        cause = _causeOf(failure)
        if self._link is None:
            self._fault(f"cannot be reached: {cause}")
        elif self._link.isStale:
            self._fail(Failure(StaleConnection(f"{self._name} has closed an idle connection: {cause}")))
        else:
            self._fault(f"gives no answer: {cause}")

    def _cannotConnect(self) -> None:
        self._fault(f"cannot be reached: it accepted no connection within {self._limits.connecting:g} seconds")

    def _tooSlow(self) -> None:
        what = "has not read all" if self.isSending else "has not answered"
        self._fault(f"{what} within {self._limits.answering:g} seconds")

    # --- the stream writes to its consumer ---

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """C{IConsumer}: the stream will write."""
        self._source = producer
        producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """C{IConsumer}: the stream will write no more."""
        self._source = None

    def write(self, data: bytes) -> None:
        """C{IConsumer}: a chunk of the message."""
        if self.isSending:
            self._octets += len(data)
            self._target.write(data)

    def _sourceEnded(self) -> None:
        self._isRead = True
        if self.isSending:
            self._sent()

    def _sent(self) -> None:
        """Nothing more is to be sent, so the webhook is to answer."""
        self.isSending = False
        self._answering.run()
        self._produced.callback(None)

    # --- the HTTP client takes the body ---

    def connected(self, link: Any) -> None:
        """The request goes out on this connection."""
        self._link = link
        self._connecting.hold()

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """C{IBodyProducer}: write the body."""
        self._target = consumer
        self.isSending, self._isPaused = True, False
        if self._isRead:
            self._sent()
        else:
            self.resumeProducing()
        return self._produced

    def pauseProducing(self) -> None:
        """C{IBodyProducer}: the webhook does not read as fast as the client writes."""
        self._isPaused = True
        if self._source is not None:
            self._source.pauseProducing()
        if self.isSending:
            self._answering.run()

    def resumeProducing(self) -> None:
        """C{IBodyProducer}: the webhook reads on; now the client is to send."""
        self._isPaused = False
        if self.isSending:
            self._answering.hold()
            if self._source is not None:
                self._source.resumeProducing()

    def stopProducing(self) -> None:
        """C{IBodyProducer}: the connection is about to be lost."""
        if self._source is not None:
            self._source.pauseProducing()
        if self._target is not None and not self.answered.called:
            self._link.readOnceMore()

    # --- the answer ---

    def answersEarly(self) -> None:
        """An answer comes, and not all was sent; the link sends nothing any more."""
        self._isCut = True
        if self._source is not None:
            self._source.pauseProducing()
        if not self.isSending:
            return
        # Twisted's client hands out no response before it has the whole body, of the length that was announced.
        if isinstance(self.length, int):
            rest = self.length - self._octets
            while rest > 0:
                self._target.write(_ZEROS[:rest])
                rest -= len(_ZEROS)
        self._sent()

    def answersTooMuch(self, octets: int) -> None:
        """The answer is longer than any can be; its status counts if it is known."""
        if self._code is None:
            self._fault(f"answers more than {octets} octets")
        else:
            self._succeed(self._code, "")

    def _responded(self, response: IResponse) -> None:
        self._code = response.code
        response.deliverBody(_Text(response, self._answeredWith))

    def _answeredWith(self, code: int, text: str, octets: bytes, reason: Failure) -> None:
        if reason.check(ResponseDone, PotentialDataLoss) is None:
            self._fault("has closed the connection within its answer")
            return
        self._isComplete = True
        self._succeed(code, text, octets)

    def _succeed(self, code: int, text: str, octets: bytes = b"") -> None:
        if not self.answered.called:
            self.answered.callback(Answer(code, text, not self._isCut, octets))


class _Text(Protocol):
    """The body of an answer, of which no more is kept than may be the text of a reply."""

    def __init__(self, response: IResponse, ended: Callable[[int, str, bytes, Failure], None]) -> None:
        self._response = response
        self._ended = ended
        self._octets = b""

    def dataReceived(self, data: bytes) -> None:
        """A part of the body."""
        self._octets += data[: _TEXT_OCTETS + 1 - len(self._octets)]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body has ended, or is cut."""
        self._ended(self._response.code, self._text(), self._octets, reason)

    def _text(self) -> str:
        (kind,) = self._response.headers.getRawHeaders("Content-Type", [""])[:1]
        if kind.partition(";")[0].strip().lower() != "text/plain" or len(self._octets) > _TEXT_OCTETS:
            return ""
        try:
            text = " ".join(self._octets.decode().split())
        except UnicodeDecodeError:
            return ""
        return text if text.isprintable() else ""


def _causeOf(failure: Failure) -> str:
    """What has gone wrong, in a few words; Twisted's client wraps it, at times twice."""
    while reasons := getattr(failure.value, "reasons", None):
        failure = next((each for each in reasons if not each.check(CancelledError)), reasons[0])
    error = failure.value
    if isinstance(error, SSL.Error):
        reasons = [str(reason) for library, function, reason in (error.args[0] if error.args else ())]
        return ", ".join(["TLS fails", *reasons])
    if isinstance(error, VerificationError):
        return "TLS fails, its certificate is not for this host"
    return failure.getErrorMessage() or type(error).__name__
