"""
Recording: the hooks that put what a server accepts into an inbox, around those that a user gives.

A message is recorded when its positive reply is given, and so never one that was refused.
This module knows neither threads nor sockets.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any

import attrs

from smtphooks.replies import Reply
from smtphooks.session import Session
from smtphooks.stream import MessageStream
from smtphooks.testing.messages import Inbox, ReceivedMessage, frozen, receivedMessage


async def takeAll(stream: MessageStream, session: Session) -> None:
    """The C{onData} of a server that was given none: it accepts every message."""
    async for _ in stream:
        pass


@attrs.define
class Received:
    """
    A message that has come and has no reply yet.

    @ivar session: as it was then, with the envelope.
    @ivar replies: how many replies it gets.
    """

    octets: bytes
    session: Session
    replies: int
    codes: list[int] = attrs.field(factory=list)

    def maybeAccepted(self) -> ReceivedMessage | None:
        """The message, with the recipients that were accepted; None if there are none."""
        envelope = self.session.envelope
        if len(self.codes) == len(envelope.rcptTo):  # or else hooks have changed the envelope
            recipients = zip(envelope.rcptTo, self.codes, strict=True)
            envelope.rcptTo = [recipient for recipient, code in recipients if code < 300]
        if min(self.codes) >= 300:
            return None
        return receivedMessage(self.octets, self.session)


@attrs.define
class Progress:
    """
    How far the message of a connection has come.

    @ivar received: the message that waits for its replies.
    @ivar replies: how many replies are due for a message that has ended, taken or not; 0 if none has.
    """

    chunks: list[bytes] = attrs.field(factory=list)
    received: Received | None = None
    replies: int = 0


class Recorder:
    """A layer that keeps what passes, and decides nothing."""

    State = Progress

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def filterData(self, stream: MessageStream, session: Session) -> AsyncGenerator[bytes, None]:
        """The octets as the client has sent them, before any other layer."""
        chunks: list[bytes] = []
        session.of(self).chunks = chunks
        async for chunk in stream:
            chunks.append(chunk)
            yield chunk

    def receiving(self, onData: Callable[..., Any], decide: Callable[[Any, Session], Any]) -> Callable[..., Any]:
        """
        An C{onData} hook that does as this one, and reads what it leaves.

        @param decide: what the hook answers is put through this in the end; it may raise.
        """

        async def receive(stream: MessageStream, session: Session) -> Any:
            progress: Progress = session.of(self)
            replies = len(session.envelope.rcptTo) if session.lmtp else 1
            progress.received, progress.replies = None, 0
            try:
                result = onData(stream, session)
                if inspect.isawaitable(result):
                    result = await result
                await stream.drain()
                result = decide(result, session)
                progress.received = Received(b"".join(progress.chunks), frozen(session), replies)
            finally:
                progress.replies, progress.chunks = replies, []
            return result

        return receive

    def replied(self, reply: Reply, session: Session) -> Callable[[], None] | None:
        """
        One of the replies that a message gets is made.

        @return: if that was the last of them and the message was accepted: puts it into the inbox.
        """
        progress: Progress = session.of(self)
        progress.replies = max(progress.replies - 1, 0)
        received = progress.received
        if received is not None:
            received.codes.append(reply.code)
            if not progress.replies:
                progress.received = None
                accepted = received.maybeAccepted()
                if accepted is not None:
                    return lambda: self._inbox.add(accepted)
        return None
