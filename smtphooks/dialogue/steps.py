"""
The steps of a dialogue: where it stands, and what it wants before it can go on.

These values are all that the dialogue and the connection exchange beside lines and replies.  The connection answers
every question with C{Dialogue.answer} or C{Dialogue.refuse}; until then the dialogue stands still.
This module does not know how a step is done.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum
from typing import Any, TypeAlias

import attrs

from smtphooks import replies
from smtphooks.replies import Reply, SMTPError


class State(Enum):
    """Where a dialogue stands; named after what the client has achieved so far (RFC 5321 section 4.1.4)."""

    __hash__: Any = object.__hash__  # that of Enum is Python code, and every command is looked up by state

    CONNECTED = "connected"  # no greeting yet
    GREETED = "greeted"
    IDENTIFIED = "identified"  # HELO, EHLO or LHLO was accepted
    MAIL = "mail"  # a transaction has begun
    RECIPIENTS = "recipients"  # and has a recipient
    MESSAGE = "message"  # its message is being received, or C{onData} is pending
    CHUNKS = "chunks"  # a part of its message has come by BDAT, more is to come
    CLOSED = "closed"


@attrs.define
class Ask:
    """
    A hook must decide.

    Answered with its result, or refused with the L{SMTPError} it raised.

    @ivar hook: the name of the hook, or the handler of a command that an extension adds.
    @ivar arguments: what it is called with.
    """

    hook: str | Callable[..., Any]
    arguments: tuple[Any, ...]


@attrs.define
class ReceiveMessage:
    """
    A message follows, ended by CRLF.CRLF, for C{onData}.  Answered with a L{Verdict} when both have ended.

    @ivar reply: sent first.
    @ivar recipients: how many were accepted.
    """

    reply: Reply
    recipients: int = 1


@attrs.define
class ReceiveChunk:
    """
    A chunk of a message follows (RFC 3030), for C{onData}.

    Answered with None when it has been received, or with a L{Verdict} if that ends the message.

    @ivar octets: the size of the chunk.
    @ivar first: C{onData} has yet to be called.
    @ivar last: the message is complete with this chunk.
    @ivar recipients: how many were accepted.
    @ivar binary: the message is BINARYMIME, whose line ends are left as they are.
    """

    octets: int
    first: bool
    last: bool
    recipients: int = 1
    binary: bool = False


@attrs.define
class DiscardChunk:
    """
    A chunk follows that belongs to no message.  Answered with None when it has been received.

    @ivar octets: the size of the chunk.
    @ivar refusal: the reply when it has been received.
    """

    octets: int
    refusal: Reply = attrs.field(default=replies.RCPT_FIRST, eq=False)


@attrs.define
class AbandonMessage:
    """The client abandons the message that it began with BDAT.  Answered with None when its C{onData} has ended."""


@attrs.define
class Challenge:
    """
    The client must respond to a challenge of SASL (RFC 4954 section 4).  Answered with its line, or with the
    C{LineFault}.

    @ivar octets: the whole line to send; base64 is never wrapped.
    """

    octets: bytes


@attrs.define
class StartTLS:
    """
    TLS begins.  Answered with the transport when the handshake is done and the session has its outcome.

    @ivar reply: sent first, the last in the clear; None with implicit TLS.
    """

    reply: Reply | None


@attrs.define
class Wait:
    """
    The client must wait.

    Answered with whether it has sent anything meanwhile; before the greeting, as soon as it has.

    @ivar seconds: for how long.
    """

    seconds: float


@attrs.define
class AuthFailed:
    """
    An attempt of AUTH has failed, which must be logged before the client learns of it.  Answered with None, at once.

    @ivar reply: what the client will get, unless the mechanism hides it.
    """

    reply: Reply


@attrs.define
class Verdict:
    """
    The outcome of a message.

    @ivar results: what C{onData} answered: a text, None or an L{SMTPError}; with LMTP one of these per recipient.
    @ivar fault: the server's own refusal, which replaces the acceptance by C{onData}.
    @ivar octets: the size of the message.
    """

    results: tuple[str | SMTPError | None, ...]
    fault: Reply | None
    octets: int = 0


Question: TypeAlias = (
    Ask | ReceiveMessage | ReceiveChunk | DiscardChunk | AbandonMessage | Challenge | StartTLS | Wait | AuthFailed
)
Replies: TypeAlias = Reply | tuple[Reply, ...]
Step: TypeAlias = Question | Replies

# A handler with questions: it yields them and returns the replies.
Task: TypeAlias = Generator[Question, Any, Replies]
