"""
The mail transaction: MAIL, RCPT, DATA, BDAT, RSET (RFC 5321 section 3.3, RFC 3030, RFC 2033).

Of each command one function reads it and another one makes the reply when it is accepted; which hook decides in between
the table of commands says.  The envelope holds what hooks accepted, and the sender that C{onMailFrom} is asked about.
Hooks may change it; what the protocol itself depends on is in the C{Tally}.
This module knows neither octets nor transports; only the extensions know what parameters mean.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from smtphooks import replies
from smtphooks.dialogue.context import Argument, Context, refusalBy
from smtphooks.dialogue.limits import Tally
from smtphooks.dialogue.steps import (
    AbandonMessage,
    Ask,
    DiscardChunk,
    Question,
    ReceiveChunk,
    ReceiveMessage,
    Replies,
    State,
    Task,
    Verdict,
)
from smtphooks.replies import Reply, SMTPError
from smtphooks.session import Address, Envelope
from smtphooks.syntax import grammar

# RFC 3030 section 2: chunk-size is 1*DIGIT; twenty digits are more than any disk holds.
_CHUNK = re.compile(r"([0-9]{1,20})( +LAST)?", re.ASCII | re.IGNORECASE)


# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every command.
_MAIL, _RECIPIENTS, _MESSAGE, _CHUNKS = State.MAIL, State.RECIPIENTS, State.MESSAGE, State.CHUNKS


def readMail(context: Context, argument: Argument) -> Address | Reply:
    """RFC 5321 section 4.1.1.2; the hook sees in the session what the client asks for."""
    options, session = context.options, context.session
    lenient = options.lenientAddressParsing
    if session.user is None and not options.authOptional:
        noteSubject(context, argument)
        return Reply(530, options.authRequiredMessage, "5.7.0")
    if options.maxTransactions and context.counts.messages >= options.maxTransactions:
        noteSubject(context, argument)
        return replies.TOO_MANY_TRANSACTIONS
    parts = grammar.splitPath(argument, "FROM", lenient) if isinstance(argument, str) else grammar.commonPath(argument)
    if parts is None:
        return replies.MAIL_SYNTAX
    path, parameters = parts
    context.command.subject = path[0] if isinstance(path, tuple) else None
    arguments = {}
    if parameters:
        arguments = context.extensions.mailArguments(grammar.parseParameters(parameters, utf8=True))
    utf8 = "SMTPUTF8" in arguments
    if isinstance(path, str):
        path = grammar.parseReversePath(path, utf8=utf8, lenient=lenient)
        context.command.subject = path[0]
    if parameters:
        _checkCharset(parameters, utf8)
        # Noted before the hook is asked, as it may change the address.
        context.tally = Tally(isBinary=arguments.get("BODY") == "BINARYMIME", isUtf8=utf8)
    address = Address(*path, arguments)
    context.command.before = session.envelope
    session.envelope = Envelope(address)
    return address


def withdrawMail(context: Context) -> None:
    """The sender is refused: the envelope is the old one again."""
    context.session.envelope = context.command.before
    context.tally = Tally()


def acceptMail(context: Context, address: Address, answer: object) -> Reply:
    """A transaction has begun (RFC 5321 section 4.1.4)."""
    tally = context.tally
    tally.octets = context.command.lineLength
    context.speaksUtf8 = tally.isUtf8
    context.state = _MAIL
    return replies.SENDER_OK if answer is None else replies.ok(answer, replies.SENDER_OK)


def readRcpt(context: Context, argument: Argument) -> Address | Reply:
    """RFC 5321 section 4.1.1.3."""
    options, tally = context.options, context.tally
    if not tally.hasRoom(options.maxRecipients, context.command.lineLength):
        noteSubject(context, argument)
        return replies.TOO_MANY_REFUSED_RECIPIENTS if tally.addRefused() else replies.TOO_MANY_RECIPIENTS
    lenient = options.lenientAddressParsing
    parts = grammar.splitPath(argument, "TO", lenient) if isinstance(argument, str) else grammar.commonPath(argument)
    if parts is None:
        return replies.RCPT_SYNTAX
    path, parameters = parts
    context.command.subject = path[0] if isinstance(path, tuple) else None
    utf8 = context.speaksUtf8
    if isinstance(path, str):
        path = grammar.parseForwardPath(path, utf8=utf8, lenient=lenient)
        context.command.subject = path[0]
    arguments = {}
    if parameters:
        arguments = context.extensions.rcptArguments(grammar.parseParameters(parameters, utf8=True))
        _checkCharset(parameters, utf8)
    return Address(*path, arguments)


def acceptRcpt(context: Context, address: Address, answer: object) -> Reply:
    """The recipient is part of the transaction from here on."""
    tally = context.tally
    context.session.envelope.rcptTo.append(address)
    tally.recipients += 1
    tally.octets += context.command.lineLength
    context.state = _RECIPIENTS
    return replies.RECIPIENT_OK if answer is None else replies.ok(answer, replies.RECIPIENT_OK)


def noteSubject(context: Context, argument: Argument) -> None:
    """Note for the log the address in a command that is refused before it is read, where that takes no parsing."""
    if not isinstance(argument, str):
        context.command.subject = grammar.commonPath(argument)[0][0]


def _checkCharset(parameters: str, utf8: bool) -> None:
    # RFC 6531 section 3.4: values leave ASCII only in a transaction that SMTPUTF8 was asked for.
    if not utf8 and not parameters.isascii():
        raise SMTPError("Parameters outside of ASCII need SMTPUTF8", 501, "5.5.4")


def readData(context: Context, argument: Argument) -> ReceiveMessage | Reply:
    """RFC 5321 section 4.1.1.4."""
    if context.state is _MAIL:
        return context.flavour.noRecipients
    tally = context.tally
    if tally.isBinary:
        return replies.BINARY_NEEDS_BDAT  # RFC 3030 section 3
    context.state = _MESSAGE
    return ReceiveMessage(replies.START_MESSAGE, tally.recipients)


# What most hooks answer to a message.
_ACCEPTED = (None,)


def acceptData(context: Context, message: ReceiveMessage | ReceiveChunk, verdict: Verdict) -> Replies:
    """The message is decided: with LMTP there is a reply for each recipient (RFC 2033 section 4.2), else just one."""
    results, fault = verdict.results, verdict.fault
    context.reset()
    context.counts.junk = 0
    context.counts.messages += 1
    if results == _ACCEPTED and fault is None:
        return replies.MESSAGE_OK
    if len(results) == 1:
        return _replyTo(results[0], fault)
    return tuple([_replyTo(result, fault) for result in results])


def _replyTo(result: str | SMTPError | None, fault: Reply | None) -> Reply:
    if isinstance(result, SMTPError):
        return refusalBy("onData", result)
    return fault or replies.ok(result, replies.MESSAGE_OK)


def readBdat(context: Context, argument: Argument) -> ReceiveChunk | DiscardChunk | Reply:
    """RFC 3030 section 2.  The octets are read even if the chunk is refused, or they would be taken for commands."""
    chunk = _CHUNK.fullmatch(argument) if isinstance(argument, str) else argument
    if chunk is None:
        return replies.BDAT_SYNTAX
    octets, last = int(chunk[1]), chunk[2] is not None
    refusal = _refusalOfChunks(context)
    if refusal is not None:
        return DiscardChunk(octets, refusal)
    first = context.state is not _CHUNKS
    context.state = _CHUNKS
    tally = context.tally
    return ReceiveChunk(octets, first, last, tally.recipients, tally.isBinary)


def acceptBdat(context: Context, chunk: ReceiveChunk | DiscardChunk, verdict: Verdict | None) -> Replies:
    """The chunk has been read.  RFC 2033 section 4.3: only the last one has a reply for each recipient."""
    if isinstance(chunk, DiscardChunk):
        return chunk.refusal
    if verdict is None:
        return Reply(250, f"{chunk.octets} octets received", "2.0.0")
    answers = acceptData(context, chunk, verdict)
    return answers if chunk.last or isinstance(answers, Reply) else answers[0]


def _refusalOfChunks(context: Context) -> Reply | None:
    if not context.extensions.isInForce("CHUNKING"):
        return replies.NOT_IMPLEMENTED
    if context.state is _MAIL:
        return context.flavour.noRecipients
    if context.state not in (_RECIPIENTS, _CHUNKS):
        return replies.RCPT_FIRST
    return None


def rset(context: Context, argument: Argument, answer: None) -> Reply | Task:
    """RFC 5321 section 4.1.1.5."""
    if context.inTransaction:
        return _rset(context)
    context.reset()
    return replies.RESET


def _rset(context: Context) -> Task:
    yield from abandon(context)
    return replies.RESET


def abandon(context: Context) -> Generator[Question, object, None]:
    """End the current transaction, if any, without a message."""
    if context.state is _CHUNKS:
        yield AbandonMessage()
    if context.inTransaction:
        yield Ask("onReset", (context.session,))
    context.reset()
