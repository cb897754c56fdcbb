"""
What a channel of RabbitMQ has yet to confirm: each message that was published on it, by its number there.

In: what was published, returned, acknowledged and not acknowledged, in the order of the wire.  Out: the outcome of each
message, once.
Rule: an unroutable message is acknowledged like any other, after it was returned; between the two, others may be
acknowledged.  So a return is matched by the id of the message, and not by what comes next.
This module knows no connection and no clock, and serves one channel: numbers begin again with each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smtphooks.awaiting import Waiting
from smtphooks.hooks import Unavailable


class NotTaken(Unavailable):
    """The broker does not have the message, which is certain."""


class Publication:
    """
    A message that was published.

    @ivar id: the message id.
    @ivar outcome: fires with None when the broker has it; fails with L{Unavailable}.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self.outcome: Waiting[None] = Waiting(self._cancelled)
        self._hasEnded = False
        self._atEnd: Callable[[], object] | None = None

    def onEnd(self, do: Callable[[], object]) -> None:
        """Call this once the outcome is known, or nobody waits for it any more."""
        self._atEnd = do

    def settle(self, error: Exception | None) -> None:
        """The outcome is known, unless it was before."""
        if self._end():
            if error is None:
                self.outcome.callback(None)
            else:
                self.outcome.errback(error)

    def _cancelled(self, outcome: object) -> None:
        self._end()

    def _end(self) -> bool:
        """False if it has ended before."""
        if self._hasEnded:
            return False
        self._hasEnded = True
        if self._atEnd is not None:
            self._atEnd()
        return True


class Confirms:
    """The messages of one channel, from its first."""

    def __init__(self, name: str) -> None:
        """
        @param name: the broker, for errors.
        """
        self._name = name
        self._number = 0
        self._pending: dict[int, Publication] = {}
        self._ids: set[str] = set()
        self._returned: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, publication: Publication) -> None:
        """
        The next message was published.

        @raise ValueError: if one of the same id is not confirmed yet.
        """
        if publication.id in self._ids:
            raise ValueError(f"{publication.id} was published, and is not confirmed yet")
        self._ids.add(publication.id)
        # The broker counts what is published from 1, from confirm.select on.
        self._number += 1
        self._pending[self._number] = publication

    def returned(self, id: str, why: str) -> None:
        """The broker has sent a message back; its acknowledgement is still to come."""
        self._returned[id] = why

    def confirmed(self, tag: int, multiple: bool, isTaken: bool) -> None:
        """
        The broker acknowledges a message, or not; with C{multiple} all up to it.

        @param tag: the number of the message; with C{multiple} 0 means all.
        """
        if multiple:
            last = tag or self._number
            tags = [each for each in self._pending if each <= last]  # in the order in which they were published
        else:
            tags = [tag] if tag in self._pending else []
        for each in tags:
            publication = self._pending.pop(each)
            self._ids.discard(publication.id)
            publication.settle(self._maybeError(publication.id, isTaken))

    def _maybeError(self, id: str, isTaken: bool) -> Exception | None:
        why = self._returned.pop(id, None)
        if why is not None:
            return NotTaken(f"RabbitMQ at {self._name} has no queue for a message: {why}")
        return None if isTaken else NotTaken(f"RabbitMQ at {self._name} does not take a message")

    def fail(self, error: Exception) -> None:
        """Nothing more will be confirmed."""
        pending, self._pending = self._pending, {}
        for publication in pending.values():
            publication.settle(error)

    def giveUp(self, error: Exception) -> None:
        """Whoever waits is told that it failed; confirmations that come later are of no interest to anybody."""
        for publication in list(self._pending.values()):
            publication.settle(error)


def describeError(error: Any) -> str:
    """What pika or Twisted says about the end of a connection or a channel."""
    text = getattr(error, "reply_text", None) or str(error) or type(error).__name__
    return str(text)[:300]
