"""
The commands of a mail transaction: MAIL, RCPT, DATA, BDAT, RSET (RFC 5321 section 3.3, RFC 3030, RFC 2033).

A handler gets the dialogue and the argument of the command.  It yields what it must know first and returns the reply.
The envelope holds what hooks accepted, and the sender that C{onMailFrom} is asked about.  Hooks may change it: what the
protocol itself depends on is in the L{Tally}.
This module knows neither octets nor transports; what parameters mean is known to the extensions alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from smtphooks import replies
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
from smtphooks.hooks import SITUATIONS
from smtphooks.replies import Reply, SMTPError
from smtphooks.session import Address, Envelope
from smtphooks.syntax import grammar

if TYPE_CHECKING:
    from collections.abc import Generator

    from smtphooks.dialogue.engine import Dialogue

# RFC 3030 section 2: chunk-size is 1*DIGIT; twenty of them are more than any disk holds.
_CHUNK = re.compile(r"([0-9]{1,20})( +LAST)?", re.ASCII | re.IGNORECASE)


# Where the number of recipients is limited, so is the memory that they take: octets of the MAIL and RCPT commands that
# were accepted.  A thousand recipients with the longest paths, or with usual ones and DSN parameters, have room in it.
_ENVELOPE_OCTETS = 512 * 1024

# RFC 5321 section 4.5.3.1.10: a client may send any number of recipients and try the refused ones again later.  As with
# Postfix (smtpd_recipient_overshoot_limit), so many more are refused before the client is.
_RECIPIENTS_REFUSED = 1000


@attrs.define
class Tally:
    """
    What the dialogue itself knows of the transaction at hand, whatever hooks do to the envelope.

    @ivar isBinary: the message is BINARYMIME.
    @ivar recipients: how many were accepted.
    @ivar refused: how many had no room.
    @ivar octets: of the MAIL and RCPT commands that were accepted.
    """

    isBinary: bool = False
    recipients: int = 0
    refused: int = 0
    octets: int = 0

    def hasRoom(self, most: int, octets: int) -> bool:
        """May a further recipient, of so many octets, be accepted where there may be so many?  0 is no limit."""
        return not most or (self.recipients < most and self.octets + octets <= _ENVELOPE_OCTETS)


def mail(dialogue: Dialogue, argument: str) -> Task:
    """RFC 5321 section 4.1.1.2."""
    options, session = dialogue.options, dialogue.session
    if session.user is None and not options.authOptional:
        seeSubject(dialogue, argument, "FROM")
        return Reply(530, options.authRequiredMessage, "5.7.0")
    if options.maxTransactions and dialogue.messages >= options.maxTransactions:
        seeSubject(dialogue, argument, "FROM")
        return replies.TOO_MANY_TRANSACTIONS
    lenient = options.lenientAddressParsing
    parts = grammar.commonPath(argument, "FROM") or grammar.splitPath(argument, "FROM", lenient)
    if parts is None:
        return replies.MAIL_SYNTAX
    path, parameters = parts
    if not isinstance(path, str):
        dialogue.subject = path[0]
    arguments = {}
    if parameters:
        arguments = dialogue.extensions.mailArguments(grammar.parseParameters(parameters, utf8=True), session)
    utf8 = "SMTPUTF8" in arguments
    if isinstance(path, str):
        path = grammar.parseReversePath(path, utf8=utf8, lenient=lenient)
    dialogue.subject = path[0]
    if parameters:
        _checkCharset(parameters, utf8)
    address = Address(*path, arguments)
    before = session.envelope
    session.envelope = Envelope(address)
    try:
        answer = yield Ask("onMailFrom", (address, session))
    except (SMTPError, GeneratorExit):  # The latter if the connection is gone: onClose sees the old envelope as well.
        session.envelope = before
        raise
    dialogue.tally.isBinary = arguments.get("BODY") == "BINARYMIME"
    dialogue.tally.octets = dialogue.lineLength
    dialogue.speaksUtf8 = utf8
    dialogue.state = State.MAIL
    return replies.ok(answer, replies.SENDER_OK)


def rcpt(dialogue: Dialogue, argument: str) -> Task:
    """RFC 5321 section 4.1.1.3."""
    options, session = dialogue.options, dialogue.session
    tally = dialogue.tally
    if not tally.hasRoom(options.maxRecipients, dialogue.lineLength):
        seeSubject(dialogue, argument, "TO")
        tally.refused += 1
        isEnough = tally.refused > _RECIPIENTS_REFUSED
        return replies.TOO_MANY_REFUSED_RECIPIENTS if isEnough else replies.TOO_MANY_RECIPIENTS
    lenient = options.lenientAddressParsing
    parts = grammar.commonPath(argument, "TO") or grammar.splitPath(argument, "TO", lenient)
    if parts is None:
        return replies.RCPT_SYNTAX
    path, parameters = parts
    utf8 = dialogue.speaksUtf8
    if isinstance(path, str):
        path = grammar.parseForwardPath(path, utf8=utf8, lenient=lenient)
    dialogue.subject = path[0]
    arguments = {}
    if parameters:
        arguments = dialogue.extensions.rcptArguments(grammar.parseParameters(parameters, utf8=True), session)
        _checkCharset(parameters, utf8)
    address = Address(*path, arguments)
    answer = yield Ask("onRcptTo", (address, session))
    session.envelope.rcptTo.append(address)
    tally.recipients += 1
    tally.octets += dialogue.lineLength
    dialogue.state = State.RECIPIENTS
    return replies.ok(answer, replies.RECIPIENT_OK)


def seeSubject(dialogue: Dialogue, argument: str, keyword: str) -> None:
    """Of a command that is refused unseen the log wants to know whom it was about, if that is easily said."""
    parts = grammar.commonPath(argument, keyword)
    dialogue.subject = None if parts is None else parts[0][0]


def _checkCharset(parameters: str, utf8: bool) -> None:
    # RFC 6531 section 3.4: values leave ASCII only in a transaction that SMTPUTF8 was asked for.
    if not utf8 and not parameters.isascii():
        raise SMTPError("Parameters outside of ASCII need SMTPUTF8", 501, "5.5.4")


def data(dialogue: Dialogue, argument: str) -> Task:
    """RFC 5321 section 4.1.1.4."""
    if dialogue.state is State.MAIL:
        return dialogue.flavour.noRecipients
    tally = dialogue.tally
    if tally.isBinary:
        return replies.BINARY_NEEDS_BDAT  # RFC 3030 section 3
    dialogue.state = State.MESSAGE
    verdict = yield ReceiveMessage(replies.START_MESSAGE, tally.recipients)
    return _judge(dialogue, verdict)


def bdat(dialogue: Dialogue, argument: str) -> Task:
    """RFC 3030 section 2.  The octets are read even where they are refused, or they would be taken for commands."""
    chunk = _CHUNK.fullmatch(argument)
    if chunk is None:
        return replies.BDAT_SYNTAX
    octets, last = int(chunk[1]), chunk[2] is not None
    refusal = _refusalOfChunks(dialogue)
    if refusal is not None:
        yield DiscardChunk(octets)
        return refusal
    first = dialogue.state is not State.CHUNKS
    dialogue.state = State.CHUNKS
    tally = dialogue.tally
    verdict = yield ReceiveChunk(octets, first, last, tally.recipients, tally.isBinary)
    if verdict is None:
        return Reply(250, f"{octets} octets received", "2.0.0")
    answers = _judge(dialogue, verdict)
    # RFC 2033 section 4.3: only the last chunk has a reply for each recipient.
    return answers if last or isinstance(answers, Reply) else answers[0]


def _refusalOfChunks(dialogue: Dialogue) -> Reply | None:
    if not dialogue.extensions.inForce("CHUNKING", dialogue.session):
        return replies.NOT_IMPLEMENTED
    if dialogue.state is State.MAIL:
        return dialogue.flavour.noRecipients
    if dialogue.state not in (State.RECIPIENTS, State.CHUNKS):
        return replies.RCPT_FIRST
    return None


def _judge(dialogue: Dialogue, verdict: Verdict) -> Replies:
    """The replies to a whole message: with LMTP one for each recipient (RFC 2033 section 4.2), else just one."""
    answers = [_judgeOne(result, verdict.fault) for result in verdict.results]
    dialogue.reset()
    dialogue.junkCommands = 0
    dialogue.messages += 1
    return answers[0] if len(answers) == 1 else tuple(answers)


def _judgeOne(result: str | SMTPError | None, fault: Reply | None) -> Reply:
    if isinstance(result, SMTPError):
        return result.reply(SITUATIONS["onData"])
    return fault or replies.ok(result, replies.MESSAGE_OK)


def rset(dialogue: Dialogue, argument: str) -> Task:
    """RFC 5321 section 4.1.1.5."""
    yield from abandon(dialogue)
    return replies.RESET


def abandon(dialogue: Dialogue) -> Generator[Question, object, None]:
    """End the transaction at hand, if there is one, without a message."""
    if dialogue.state is State.CHUNKS:
        yield AbandonMessage()
    if dialogue.inTransaction:
        yield Ask("onReset", (dialogue.session,))
    dialogue.reset()
