"""
Writing to a consumer: the target of C{MessageStream.deliverTo}, which is the user's code.

An exception of the consumer fails the delivery, once, and does not propagate: it would crash the protocol, which calls
the writer when octets arrive.
This module knows neither messages nor streams.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.awaiting import Waiting

log: Logger = Logger()


class ConsumerStopped(Exception):
    """The consumer of C{MessageStream.deliverTo} has stopped the delivery before the end of the message."""


class ConsumerWriter:
    """
    One delivery to a consumer.

    @ivar isOpen: the consumer gets further octets.
    @ivar isBusy: for its owner: octets are being asked for and written.
    @ivar ended: fires with None when the delivery is complete, and fails if it is not; set while C{isOpen}.
    """

    __slots__ = ("_consumer", "_isRegistered", "ended", "isBusy", "isOpen")

    def __init__(self, consumer: IConsumer) -> None:
        self._consumer: Any = consumer
        self._isRegistered = False  # here, and not by the consumer's owner
        self.isOpen: bool = True
        self.isBusy: bool = False
        self.ended: Waiting[None] = Waiting(self._cancelled)

    def register(self, producer: Any) -> None:
        """Register a push producer; an exception of the consumer propagates to the caller."""
        self._isRegistered = True
        ended = self.ended
        try:
            # A consumer that is disconnected stops its producer within this call.
            self._consumer.registerProducer(producer, True)
        except BaseException:
            if self.isOpen:
                self._close()
            ended.addErrback(lambda failure: None)  # the caller gets the exception instead
            raise

    def write(self, data: bytes) -> None:
        """Write octets; a consumer that raises gets no further ones."""
        try:
            self._consumer.write(data)
        except BaseException:
            failure = Failure()
            if self.isOpen:
                self.endDelivery(failure)
            else:
                _logCrash(failure)

    def endDelivery(self, failure: Failure | None = None) -> None:
        """End the delivery, with a failure or because it is complete."""
        ended = self._close()
        result = self._unregister(failure)
        if not ended.called:  # as it is if unregistering has cancelled the delivery
            ended.callback(result)

    def abandon(self) -> None:
        """The hook has ended and the rest is dropped: the consumer must not take what it has got for the whole."""
        if self.isOpen:
            self.endDelivery(Failure(RuntimeError("the hook has ended before its message was delivered")))

    def stopDelivery(self, reason: Exception) -> None:
        """The consumer has asked for no further octets."""
        if self.isOpen:
            ended = self._close()
            # The Deferred of an IBodyProducer never fires after it was stopped.
            if self._isRegistered:
                ended.errback(reason)

    def _cancelled(self, ended: Deferred[None]) -> None:
        if self.isOpen:
            self._close()
            self._unregister(Failure(CancelledError()))

    def _close(self) -> Waiting[None]:
        """Write no further octets; the reference to the Deferred goes, so that an unhandled failure is logged now."""
        ended = self.ended
        del self.ended
        self.isOpen = False
        return ended

    def _unregister(self, failure: Failure | None) -> Failure | None:
        """
        Unregister the producer; a consumer may close its file then.

        @return: the failure; without one, the exception of the consumer, if any.
        """
        if self._isRegistered:
            try:
                self._consumer.unregisterProducer()
            except BaseException:
                crash = Failure()
                if failure is None:
                    return crash
                _logCrash(crash)
        return failure


def _logCrash(failure: Failure) -> None:
    """Log a crash of the consumer after its delivery has ended or failed."""
    log.failure("the consumer of a message crashed when its delivery had ended", failure)
