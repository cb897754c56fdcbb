"""
What upstream has said, as results of C{onData}; and the message as it goes there.

In: replies, one for all recipients or one for each.  Out: for each recipient a text or a refusal.
Rule: of several results over SMTP the one counts with which no recipient loses the message: a temporary refusal, then
one for good, and a yes only where all are that.
This module knows no connection, and no options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from smtphooks.client.errors import errorOf
from smtphooks.client.reply import ReceivedReply
from smtphooks.replies import TOO_LARGE, SMTPError
from smtphooks.session import Address
from smtphooks.stream import MessageStream

Result: TypeAlias = str | SMTPError


class Content:
    """
    The octets of a message; it fails where the message is longer than it may be.

    @ivar hasBegun: octets have been asked for.
    """

    def __init__(self, stream: MessageStream) -> None:
        self.hasBegun: bool = False
        self._stream = stream

    def __aiter__(self) -> Content:
        return self

    async def __anext__(self) -> bytes:
        if not self.hasBegun:
            self.hasBegun = True
            self._stream.__aiter__()
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            if self._stream.sizeExceeded:
                raise TOO_LARGE.asError() from None
            raise


def textOf(reply: ReceivedReply) -> str:
    """The text of a reply, in one line that can be printed: a log is read in a terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(reply.lines)).strip()


def resultOf(reply: ReceivedReply) -> Result:
    """What the reply to a message says of it."""
    return textOf(reply) if 200 <= reply.code < 300 else errorOf(reply)


def resultsFor(results: Sequence[Result], refusals: Sequence[SMTPError | None], isEach: bool) -> list[Result]:
    """
    A result for each recipient.

    @param results: of those that were accepted, one for each if C{isEach}, else one for all.
    @param refusals: for each recipient, the refusal if it was not accepted.
    """
    rest = iter(results if isEach else [*results[:1]] * len(refusals))
    return [next(rest) if refusal is None else refusal for refusal in refusals]


def isInOrder(asked: Sequence[Address | None], recipients: Sequence[Address]) -> bool:
    """
    Are the recipients those of the RCPT commands, one by one?  A result for each is told in the order of these.

    One that another address has taken the place of still is; one that has moved, or that is gone, is not.
    """
    return len(asked) == len(recipients) and all(
        recipient == before or recipient not in asked for before, recipient in zip(asked, recipients, strict=True)
    )


def worst(results: Sequence[Result]) -> Result:
    """The one result for all recipients."""
    refusals = [result for result in results if isinstance(result, SMTPError)]
    temporary = [refusal for refusal in refusals if (refusal.responseCode or 451) < 500]
    first: Sequence[Result] = temporary or refusals or results
    return first[0]
