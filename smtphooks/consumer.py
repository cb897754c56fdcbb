"""
Writing to a consumer: the other end of C{MessageStream.deliverTo}, which is code of others.

Whatever it raises fails the delivery, once, and goes no further: the protocol brings octets from within these calls.
This module knows neither messages nor streams.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.awaiting import Waiting

log = Logger()


class ConsumerWriter:
    """
    @ivar isOpen: the consumer is to get more.
    @ivar ended: fires with None when it has got all, and fails with the reason why it has not; there while it is open.
    """

    __slots__ = ("_consumer", "_isRegistered", "ended", "isOpen")

    def __init__(self, consumer: IConsumer) -> None:
        self._consumer: Any = consumer
        self._isRegistered = False  # the producer was registered here, not by the consumer's owner
        self.isOpen = True
        self.ended: Waiting[None] = Waiting(self._cancelled)

    def register(self, producer: Any) -> None:
        """Register a push producer; what the consumer has against it is raised."""
        self._isRegistered = True
        ended = self.ended
        try:
            # A consumer that is gone stops its producer within this call.
            self._consumer.registerProducer(producer, True)
        except BaseException:
            if self.isOpen:
                self._close()
            ended.addErrback(lambda failure: None)  # The caller gets this exception in its place.
            raise

    def write(self, data: bytes) -> None:
        """Write this; if the consumer crashes it gets no more."""
        try:
            self._consumer.write(data)
        except BaseException:
            failure = Failure()
            if self.isOpen:
                self.end(failure)
            else:
                _logCrash(failure)

    def end(self, failure: Failure | None = None) -> None:
        """There is nothing more to be written, because of a failure or because all has been."""
        ended = self._close()
        result = self._unregister(failure)
        if not ended.called:  # which it is if letting go of the consumer has cancelled it
            ended.callback(result)

    def stop(self, reason: Exception) -> None:
        """The consumer wants no more."""
        if self.isOpen:
            ended = self._close()
            # An IBodyProducer that was stopped never fires its Deferred.
            if self._isRegistered:
                ended.errback(reason)

    def _cancelled(self, ended: Deferred[None]) -> None:
        if self.isOpen:
            self._close()
            self._unregister(Failure(CancelledError()))

    def _close(self) -> Waiting[None]:
        """Nothing more is written; and if no caller has kept the Deferred, its failure shall be logged now."""
        ended = self.ended
        del self.ended
        self.isOpen = False
        return ended

    def _unregister(self, failure: Failure | None) -> Failure | None:
        """
        Let go of the consumer, which closes its file there.

        @return: the failure; if there was none, what the consumer has raised, if anything.
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
    """The delivery has another reason to fail already."""
    log.failure("the consumer of a message crashed when its delivery had ended", failure)
