"""
The steps of a dialogue: where it stands, and what it wants before it can go on.

These values are all that the dialogue and the protocol say to each other beside lines and replies.  The protocol
answers every one but a reply with C{Dialogue.answer} or C{Dialogue.refuse}; until then the dialogue stands still.
This module knows nothing of how a step is done.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum
from typing import Any, TypeAlias

import attrs

from smtphooks.replies import Reply, SMTPError


class State(Enum):
    """Where a dialogue stands; named after what the client has achieved so far (RFC 5321 section 4.1.4)."""

    __hash__ = object.__hash__  # that of Enum is Python code, and every command is looked up by state

    CONNECTED = "connected"  # no greeting yet
    GREETED = "greeted"
    IDENTIFIED = "identified"  # HELO, EHLO or LHLO was accepted
    MAIL = "mail"  # a transaction has begun
    RECIPIENTS = "recipients"  # and has a recipient
    MESSAGE = "message"  # its message is being received or judged
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
    A message follows, ended by CRLF.CRLF; C{onData} gets it.  Answered with a L{Verdict} when both are done.

    @ivar reply: sent first.
    @ivar recipients: how many were accepted.
    """

    reply: Reply
    recipients: int = 1


@attrs.define
class ReceiveChunk:
    """
    So many octets of a message follow (RFC 3030); C{onData} gets them.

    Answered with None when they have been received, or with a L{Verdict} if the message is thereby decided.

    @ivar first: C{onData} has yet to be called.
    @ivar last: the message is whole with this chunk.
    @ivar recipients: how many were accepted.
    @ivar binary: the message is BINARYMIME, no line end of which is touched.
    """

    octets: int
    first: bool
    last: bool
    recipients: int = 1
    binary: bool = False


@attrs.define
class DiscardChunk:
    """So many octets follow that belong to no message.  Answered with None when they have been received."""

    octets: int


@attrs.define
class AbandonMessage:
    """The message begun with BDAT will not be finished.  Answered with None when its C{onData} has ended."""


@attrs.define
class Challenge:
    """
    The client must respond to a challenge of SASL (RFC 4954 section 4).  Answered with its line, or what is wrong with
    it.

    @ivar octets: the whole line to send; base64 is never wrapped.
    """

    octets: bytes


@attrs.define
class StartTLS:
    """
    TLS begins.  Answered with the transport when the handshake is done and the session says what came of it; refused if
    the client has already sent more in the clear.

    @ivar reply: sent first, the last in the clear; None where TLS begins without a word.
    """

    reply: Reply | None


@attrs.define
class Wait:
    """
    The client must wait for so many seconds.

    Answered with whether it has sent anything meanwhile; before the greeting, as soon as it has.
    """

    seconds: float


@attrs.define
class AuthFailed:
    """
    An attempt of AUTH has failed, which is to be logged before the client learns of it.  Answered with None, at once.

    @ivar reply: what the client will get, unless it is hidden by the mechanism.
    """

    reply: Reply


@attrs.define
class Verdict:
    """
    What became of a message.

    @ivar results: what C{onData} answered: with LMTP a text, None or L{SMTPError} per recipient, else just one of
        these.
    @ivar octets: its size.
    @ivar fault: the refusal by the server itself of a message that C{onData} may have taken.
    """

    results: tuple[str | SMTPError | None, ...]
    fault: Reply | None
    octets: int = 0


Question: TypeAlias = (
    Ask | ReceiveMessage | ReceiveChunk | DiscardChunk | AbandonMessage | Challenge | StartTLS | Wait | AuthFailed
)
Replies: TypeAlias = Reply | tuple[Reply, ...]
Step: TypeAlias = Question | Replies

# What a handler is while it has questions: it yields them and returns the replies.
Task: TypeAlias = Generator[Question, Any, Replies]
