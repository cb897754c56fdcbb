"""
The commands of a mail transaction: MAIL, RCPT, DATA, BDAT, RSET (RFC 5321 section 3.3, RFC 3030, RFC 2033).

A handler gets the context and the argument of the command, yields what it must know first and returns the reply.
The envelope holds what hooks accepted, and the sender that C{onMailFrom} is asked about.  Hooks may change it; what the
protocol itself depends on is in the C{Tally}.
This module knows neither octets nor transports; only the extensions know what parameters mean.
"""

from __future__ import annotations

import re
from collections.abc import Generator

from smtphooks import replies
from smtphooks.dialogue.context import Context, refusalBy
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


def mail(context: Context, argument: str) -> Task:
    """RFC 5321 section 4.1.1.2."""
    options, session = context.options, context.session
    if session.user is None and not options.authOptional:
        noteSubject(context, argument, "FROM")
        return Reply(530, options.authRequiredMessage, "5.7.0")
    if options.maxTransactions and context.counts.messages >= options.maxTransactions:
        noteSubject(context, argument, "FROM")
        return replies.TOO_MANY_TRANSACTIONS
    lenient = options.lenientAddressParsing
    parts = grammar.commonPath(argument, "FROM") or grammar.splitPath(argument, "FROM", lenient)
    if parts is None:
        return replies.MAIL_SYNTAX
    path, parameters = parts
    if not isinstance(path, str):
        context.command.subject = path[0]
    arguments = {}
    if parameters:
        arguments = context.extensions.mailArguments(grammar.parseParameters(parameters, utf8=True))
    utf8 = "SMTPUTF8" in arguments
    if isinstance(path, str):
        path = grammar.parseReversePath(path, utf8=utf8, lenient=lenient)
    context.command.subject = path[0]
    if parameters:
        _checkCharset(parameters, utf8)
    address = Address(*path, arguments)
    before = session.envelope
    session.envelope = Envelope(address)
    try:
        answer = yield Ask("onMailFrom", (address, session))
    except (SMTPError, GeneratorExit):  # GeneratorExit: the connection is gone, and onClose must see the old envelope.
        session.envelope = before
        raise
    context.tally.isBinary = arguments.get("BODY") == "BINARYMIME"
    context.tally.octets = context.command.lineLength
    context.speaksUtf8 = utf8
    context.state = _MAIL
    return replies.ok(answer, replies.SENDER_OK)


def rcpt(context: Context, argument: str) -> Task:
    """RFC 5321 section 4.1.1.3."""
    options, session, tally = context.options, context.session, context.tally
    if not tally.hasRoom(options.maxRecipients, context.command.lineLength):
        noteSubject(context, argument, "TO")
        return replies.TOO_MANY_REFUSED_RECIPIENTS if tally.addRefused() else replies.TOO_MANY_RECIPIENTS
    lenient = options.lenientAddressParsing
    parts = grammar.commonPath(argument, "TO") or grammar.splitPath(argument, "TO", lenient)
    if parts is None:
        return replies.RCPT_SYNTAX
    path, parameters = parts
    utf8 = context.speaksUtf8
    if isinstance(path, str):
        path = grammar.parseForwardPath(path, utf8=utf8, lenient=lenient)
    context.command.subject = path[0]
    arguments = {}
    if parameters:
        arguments = context.extensions.rcptArguments(grammar.parseParameters(parameters, utf8=True))
        _checkCharset(parameters, utf8)
    address = Address(*path, arguments)
    answer = yield Ask("onRcptTo", (address, session))
    session.envelope.rcptTo.append(address)
    tally.recipients += 1
    tally.octets += context.command.lineLength
    context.state = _RECIPIENTS
    return replies.ok(answer, replies.RECIPIENT_OK)


def noteSubject(context: Context, argument: str, keyword: str) -> None:
    """Note for the log the address in a command that is refused before it is parsed, if it has the common form."""
    parts = grammar.commonPath(argument, keyword)
    context.command.subject = None if parts is None else parts[0][0]


def _checkCharset(parameters: str, utf8: bool) -> None:
    # RFC 6531 section 3.4: values leave ASCII only in a transaction that SMTPUTF8 was asked for.
    if not utf8 and not parameters.isascii():
        raise SMTPError("Parameters outside of ASCII need SMTPUTF8", 501, "5.5.4")


def data(context: Context, argument: str) -> Task:
    """RFC 5321 section 4.1.1.4."""
    if context.state is _MAIL:
        return context.flavour.noRecipients
    tally = context.tally
    if tally.isBinary:
        return replies.BINARY_NEEDS_BDAT  # RFC 3030 section 3
    context.state = _MESSAGE
    verdict = yield ReceiveMessage(replies.START_MESSAGE, tally.recipients)
    return _finish(context, verdict)


def bdat(context: Context, argument: str) -> Task:
    """RFC 3030 section 2.  The octets are read even if the chunk is refused, or they would be taken for commands."""
    chunk = _CHUNK.fullmatch(argument)
    if chunk is None:
        return replies.BDAT_SYNTAX
    octets, last = int(chunk[1]), chunk[2] is not None
    refusal = _refusalOfChunks(context)
    if refusal is not None:
        yield DiscardChunk(octets)
        return refusal
    first = context.state is not _CHUNKS
    context.state = _CHUNKS
    tally = context.tally
    verdict = yield ReceiveChunk(octets, first, last, tally.recipients, tally.isBinary)
    if verdict is None:
        return Reply(250, f"{octets} octets received", "2.0.0")
    answers = _finish(context, verdict)
    # RFC 2033 section 4.3: only the last chunk has a reply for each recipient.
    return answers if last or isinstance(answers, Reply) else answers[0]


def _refusalOfChunks(context: Context) -> Reply | None:
    if not context.extensions.isInForce("CHUNKING"):
        return replies.NOT_IMPLEMENTED
    if context.state is _MAIL:
        return context.flavour.noRecipients
    if context.state not in (_RECIPIENTS, _CHUNKS):
        return replies.RCPT_FIRST
    return None


def _finish(context: Context, verdict: Verdict) -> Replies:
    """The replies to a whole message: with LMTP one for each recipient (RFC 2033 section 4.2), else just one."""
    answers = [_replyTo(result, verdict.fault) for result in verdict.results]
    context.reset()
    context.counts.junk = 0
    context.counts.messages += 1
    return answers[0] if len(answers) == 1 else tuple(answers)


def _replyTo(result: str | SMTPError | None, fault: Reply | None) -> Reply:
    if isinstance(result, SMTPError):
        return refusalBy("onData", result)
    return fault or replies.ok(result, replies.MESSAGE_OK)


def rset(context: Context, argument: str) -> Task:
    """RFC 5321 section 4.1.1.5."""
    yield from abandon(context)
    return replies.RESET


def abandon(context: Context) -> Generator[Question, object, None]:
    """End the current transaction, if any, without a message."""
    if context.state is _CHUNKS:
        yield AbandonMessage()
    if context.inTransaction:
        yield Ask("onReset", (context.session,))
    context.reset()
