"""
The commands: one table that says when each is allowed, and the handlers of those that stand outside a transaction.

A handler gets the context and the argument of the command, yields what it must know first and returns the reply.
This module knows neither octets nor transports.
"""

from __future__ import annotations

import re

from smtphooks import replies
from smtphooks.dialogue import authentication, transaction, xclient
from smtphooks.dialogue.context import Command, Context, Flavour
from smtphooks.dialogue.steps import AbandonMessage, Ask, StartTLS, State, Task, Wait
from smtphooks.optionkinds import fillHeloResponse
from smtphooks.replies import Reply, SMTPError
from smtphooks.syntax import grammar

# The end of a request line, and the beginning of a field (RFC 9112 sections 3 and 5): a web page can make browsers send
# requests to this port, with commands of the attacker in the body.
_REQUEST = re.compile(r" HTTP/\d(\.\d)?$", re.ASCII | re.IGNORECASE)
_FIELD = re.compile(r"[A-Z0-9-]+:")


def connect(context: Context, argument: str) -> Task:
    """The greeting (RFC 5321 section 3.1)."""
    if context.options.greetDelay:
        hasTalked = yield Wait(context.options.greetDelay)
        if hasTalked:
            # RFC 5321 section 4.3.1: a client waits for the greeting; hardly any mail server does not.
            return replies.EARLY_TALKER
    yield Ask("onConnect", (context.session,))
    context.state = State.GREETED
    return context.greeting()


def connectOverTLS(context: Context, argument: str) -> Task:
    """The greeting on a port with implicit TLS (RFC 8314 section 3): the handshake comes first."""
    yield from authentication.secure(context, StartTLS(None))
    return (yield from connect(context, argument))


def hello(context: Context, argument: str) -> Task:
    """HELO, EHLO (RFC 5321 section 4.1.1.1) and LHLO (RFC 2033 section 4.1)."""
    if not argument:
        return replies.HOSTNAME_WANTED
    session, options = context.session, context.options
    hostname = grammar.parseHostname(argument)
    before = session.openingCommand, session.hostNameAppearsAs
    # The hook may want to read them; a refusal leaves the session as it was (section 4.1.4).
    session.openingCommand = context.command.verb
    session.hostNameAppearsAs = session.xClient.get("HELO") or hostname
    try:
        answer = yield Ask("onHelo", (session.hostNameAppearsAs, session))
    except SMTPError:
        session.openingCommand, session.hostNameAppearsAs = before
        raise
    yield from transaction.abandon(context)
    text = answer if isinstance(answer, str) and answer else None
    if text is None:
        text = fillHeloResponse(options.heloResponse, options.name, session.clientHostname or hostname)
    if context.command.verb == "HELO":
        return Reply(250, text)
    return Reply(250, [text, *context.extensions.ehloLines()])


def noop(context: Context, argument: str) -> Reply:
    """RFC 5321 section 4.1.1.9: whatever follows is ignored."""
    return replies.OK


def vrfy(context: Context, argument: str) -> Task:
    """RFC 5321 section 4.1.1.6, and 3.5.3 for the reply 252."""
    if not argument:
        return replies.VRFY_SYNTAX
    answer = yield Ask("onVrfy", (argument, context.session))
    if isinstance(answer, str) and answer:
        return Reply(250, answer, "2.1.5")
    return replies.CANNOT_VERIFY


def help(context: Context, argument: str) -> Reply:
    """RFC 5321 section 4.1.1.8."""
    return Reply(214, f"Commands: {' '.join(context.verbs())}", "2.0.0")


def quit(context: Context, argument: str) -> Task:
    """RFC 5321 section 4.1.1.10."""
    if context.state is State.CHUNKS:
        yield AbandonMessage()
    return replies.BYE


def extended(context: Context, argument: str) -> Task:
    """A command that an extension adds, or that the server does not know."""
    verb = context.command.verb
    handler = context.extensions.command(verb)
    if handler is not None:
        answer = yield Ask(handler, (argument, context.session))
        return replies.ok(answer, replies.OK)
    if _isHTTP(context, argument):
        return replies.HTTP_REFUSED
    if verb in NOT_IMPLEMENTED:
        return replies.NOT_IMPLEMENTED
    isTooMany = context.counts.addUnrecognized(context.options.maxUnrecognizedCommands)
    return replies.TOO_MANY_UNRECOGNIZED if isTooMany else replies.NOT_RECOGNIZED


def _isHTTP(context: Context, argument: str) -> bool:
    if _REQUEST.search(argument):
        return True
    # The request line may have been refused as too long, or as no text.  No browser says hello.
    return context.state is State.GREETED and _FIELD.match(context.command.verb) is not None


# States MESSAGE and CLOSED are in no row: no command is read in them.
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
    # Before EHLO as well, as some clients do not look at what is advertised.
    "STARTTLS": Command(authentication.starttls, bare=True, extension="STARTTLS"),
    "AUTH": Command(authentication.auth, _BEFORE_HELLO, extension="AUTH", encrypted=True),
    **xclient.COMMANDS,
    "QUIT": Command(quit, bare=True),
}


def _without(*verbs: str) -> dict[str, Command]:
    return {verb: command for verb, command in COMMANDS.items() if verb not in verbs}


SMTP = Flavour("ESMTP", _without("LHLO"), replies.NO_RECIPIENTS)
LMTP = Flavour("LMTP", _without("HELO", "EHLO"), replies.RCPT_FIRST)

# RFC 5321 names them, but smtphooks does not implement them (section 4.2.4: 502, not 500).
NOT_IMPLEMENTED = frozenset({"EXPN", "TURN", "SEND", "SOML", "SAML"})
