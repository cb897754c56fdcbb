"""
The commands: one table that says when each is allowed, and the handlers of those that stand outside a transaction.

A handler gets the dialogue and the argument of the command.  It returns a L{Reply}, or is a generator that yields what
it must know first and returns the reply: so it reads as RFC 5321 tells it.
This module knows neither octets nor transports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import attrs

from smtphooks import replies
from smtphooks.dialogue import authentication, transaction
from smtphooks.dialogue import xclient as proxied
from smtphooks.dialogue.steps import AbandonMessage, Ask, Replies, StartTLS, State, Task, Wait
from smtphooks.hooks import SITUATIONS
from smtphooks.optionkinds import fillHeloResponse
from smtphooks.replies import Reply, SMTPError
from smtphooks.syntax import grammar

if TYPE_CHECKING:
    from smtphooks.dialogue.engine import Dialogue

Handler: TypeAlias = "Callable[[Dialogue, str], Replies | Task]"


# The end of a request line, and the beginning of a field (RFC 9112 sections 3 and 5): a browser was led here, and what
# follows may be somebody's commands.
_REQUEST = re.compile(r" HTTP/\d(\.\d)?$", re.ASCII | re.IGNORECASE)
_FIELD = re.compile(r"[A-Z0-9-]+:")


def connect(dialogue: Dialogue, argument: str) -> Task:
    """The greeting (RFC 5321 section 3.1)."""
    if dialogue.beginsWithTLS:
        refused = yield from authentication.secure(dialogue, StartTLS(None))
        if refused:
            return refused
    if dialogue.options.greetDelay:
        hasTalked = yield Wait(dialogue.options.greetDelay)
        if hasTalked:
            # RFC 5321 section 4.3.1: a client waits for the greeting; what does not is mostly no mail server.
            return replies.EARLY_TALKER
    try:
        yield Ask("onConnect", (dialogue.session,))
    except SMTPError as refusal:
        return refusal.reply(SITUATIONS["onConnect"]).closing()
    dialogue.state = State.GREETED
    return dialogue.greeting()


def hello(dialogue: Dialogue, argument: str) -> Task:
    """HELO, EHLO (RFC 5321 section 4.1.1.1) and LHLO (RFC 2033 section 4.1)."""
    if not argument:
        return replies.HOSTNAME_WANTED
    session, options = dialogue.session, dialogue.options
    hostname = grammar.parseHostname(argument)
    before = session.openingCommand, session.hostNameAppearsAs
    # The hook may want to read them; a refusal leaves the session as it was (section 4.1.4).
    session.openingCommand = dialogue.verb
    session.hostNameAppearsAs = session.xClient.get("HELO") or hostname
    try:
        answer = yield Ask("onHelo", (session.hostNameAppearsAs, session))
    except SMTPError:
        session.openingCommand, session.hostNameAppearsAs = before
        raise
    yield from transaction.abandon(dialogue)
    text = answer if isinstance(answer, str) and answer else None
    if text is None:
        text = fillHeloResponse(options.heloResponse, options.name, session.clientHostname or hostname)
    if dialogue.verb == "HELO":
        return Reply(250, text)
    return Reply(250, [text, *dialogue.extensions.ehloLines(session)])


def noop(dialogue: Dialogue, argument: str) -> Reply:
    """RFC 5321 section 4.1.1.9: whatever follows is ignored."""
    return replies.OK


def vrfy(dialogue: Dialogue, argument: str) -> Task:
    """RFC 5321 section 4.1.1.6, and 3.5.3 for the answer that says nothing."""
    if not argument:
        return replies.VRFY_SYNTAX
    answer = yield Ask("onVrfy", (argument, dialogue.session))
    if isinstance(answer, str) and answer:
        return Reply(250, answer, "2.1.5")
    return replies.CANNOT_VERIFY


def help(dialogue: Dialogue, argument: str) -> Reply:
    """RFC 5321 section 4.1.1.8."""
    return Reply(214, f"Commands: {' '.join(dialogue.verbs())}", "2.0.0")


def quit(dialogue: Dialogue, argument: str) -> Task:
    """RFC 5321 section 4.1.1.10."""
    if dialogue.state is State.CHUNKS:
        yield AbandonMessage()
    return replies.BYE


def extended(dialogue: Dialogue, argument: str) -> Task:
    """A command that an extension adds, or none."""
    handler = dialogue.extensions.command(dialogue.verb, dialogue.session)
    if handler is None and _isHTTP(dialogue, argument):
        return replies.HTTP_REFUSED
    if handler is None:
        return replies.NOT_IMPLEMENTED if dialogue.verb in NOT_IMPLEMENTED else dialogue.unrecognized()
    answer = yield Ask(handler, (argument, dialogue.session))
    return replies.ok(answer, replies.OK)


def _isHTTP(dialogue: Dialogue, argument: str) -> bool:
    if _REQUEST.search(argument):
        return True
    # The request line may have been refused as too long, or as no text.  No browser says hello.
    return dialogue.state is State.GREETED and _FIELD.match(dialogue.verb) is not None


@attrs.frozen
class Command:
    """
    A row of the table.

    @ivar handle: makes the reply.
    @ivar refusals: in these states the command gets this reply instead.
    @ivar bare: it takes no argument.
    @ivar extension: the extension that brings it.
    @ivar encrypted: option C{needsUpgrade} asks for TLS before it (RFC 3207 section 4).
    @ivar always: its handler is called even where the command is disabled, for something follows that must be read.
    @ivar junk: it brings no message on, so option C{maxJunkCommands} counts it.
    """

    handle: Handler
    refusals: Mapping[State, Reply] = {}
    bare: bool = False
    extension: str = ""
    encrypted: bool = False
    always: bool = False
    junk: bool = False


# States MESSAGE and CLOSED stand nowhere: no command is read in them.
_CHUNKED = {State.CHUNKS: replies.NOT_WITHIN_CHUNKS}
_BEFORE_HELLO = {State.GREETED: replies.HELLO_FIRST}

COMMANDS = {
    "HELO": Command(hello, junk=True),
    "EHLO": Command(hello, junk=True),
    "LHLO": Command(hello, junk=True),
    "MAIL": Command(
        transaction.mail,
        {
            **_BEFORE_HELLO,
            State.MAIL: replies.NESTED_MAIL,
            State.RECIPIENTS: replies.NESTED_MAIL,
            State.CHUNKS: replies.NESTED_MAIL,
        },
        encrypted=True,
    ),
    "RCPT": Command(transaction.rcpt, {**_BEFORE_HELLO, State.IDENTIFIED: replies.MAIL_FIRST, **_CHUNKED}),
    "DATA": Command(transaction.data, {**_BEFORE_HELLO, State.IDENTIFIED: replies.RCPT_FIRST, **_CHUNKED}, bare=True),
    "BDAT": Command(transaction.bdat, extension="CHUNKING", always=True),
    "RSET": Command(transaction.rset, bare=True, junk=True),
    "NOOP": Command(noop, junk=True),
    "VRFY": Command(vrfy, junk=True),
    "HELP": Command(help, junk=True),
    # Not only after EHLO: there are clients that know what they want.
    "STARTTLS": Command(authentication.starttls, bare=True, extension="STARTTLS"),
    "AUTH": Command(authentication.auth, _BEFORE_HELLO, extension="AUTH", encrypted=True),
    "XCLIENT": Command(proxied.xClient, extension="XCLIENT", junk=True),
    "XFORWARD": Command(proxied.xForward, extension="XFORWARD", junk=True),
    "QUIT": Command(quit, bare=True),
}


@attrs.frozen
class Flavour:
    """
    What differs between SMTP and LMTP, chosen once for a connection.

    @ivar protocol: its name in the greeting.
    @ivar commands: the rows of the table that it has.
    @ivar noRecipients: the reply to a message without one: RFC 2033 section 4.2 leaves LMTP no choice.
    """

    protocol: str
    commands: Mapping[str, Command]
    noRecipients: Reply


def _without(*verbs: str) -> dict[str, Command]:
    return {verb: command for verb, command in COMMANDS.items() if verb not in verbs}


SMTP = Flavour("ESMTP", _without("LHLO"), replies.NO_RECIPIENTS)
LMTP = Flavour("LMTP", _without("HELO", "EHLO"), replies.RCPT_FIRST)

# RFC 5321 names them, smtphooks does not have them (section 4.2.4: 502, not 500).
NOT_IMPLEMENTED = frozenset({"EXPN", "TURN", "SEND", "SOML", "SAML"})
