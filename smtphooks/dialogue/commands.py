"""
The commands: one table that says when each is allowed, how it is read, which hook decides and what acceptance does.

The functions of those that stand outside a transaction are here too.  Most commands are read, decided and answered in
one straight run; one with several steps is a generator, which yields what it must know first and returns the reply.
This module knows neither octets nor transports.
"""

from __future__ import annotations

import re
from functools import lru_cache

from smtphooks import replies
from smtphooks.dialogue import authentication, transaction, xclient
from smtphooks.dialogue.context import Argument, Command, Context, Flavour
from smtphooks.dialogue.steps import AbandonMessage, Ask, StartTLS, State, Task, Wait
from smtphooks.extension import Handler
from smtphooks.optionkinds import fillHeloResponse
from smtphooks.replies import Reply
from smtphooks.syntax import grammar

# The end of a request line, and the beginning of a field (RFC 9112 sections 3 and 5): a web page can make browsers send
# requests to this port, with commands of the attacker in the body.
_REQUEST = re.compile(r" HTTP/\d(\.\d)?$", re.ASCII | re.IGNORECASE)
_FIELD = re.compile(r"[A-Z0-9-]+:")


def greet(context: Context, argument: None, answer: object) -> Reply:
    """The greeting (RFC 5321 section 3.1)."""
    context.state = State.GREETED
    return context.greeting()


def connect(context: Context) -> Task:
    """The greeting where it does not come at once; elsewhere it is that of row L{CONNECTION}."""
    if context.options.greetDelay:
        hasTalked = yield Wait(context.options.greetDelay)
        if hasTalked:
            # RFC 5321 section 4.3.1: a client waits for the greeting; hardly any mail server does not.
            return replies.EARLY_TALKER
    answer = yield Ask("onConnect", (context.session,))
    return greet(context, None, answer)


def connectOverTLS(context: Context) -> Task:
    """The greeting on a port with implicit TLS (RFC 8314 section 3): the handshake comes first."""
    yield from authentication.secure(context, StartTLS(None))
    return (yield from connect(context))


def readHello(context: Context, argument: Argument) -> str | Reply:
    """HELO, EHLO (RFC 5321 section 4.1.1.1), LHLO (RFC 2033 section 4.1); the hook sees in the session what is said."""
    if not argument:
        return replies.HOSTNAME_WANTED
    hostname = grammar.parseHostname(argument) if isinstance(argument, str) else argument[1].decode()
    session, command = context.session, context.command
    command.before = session.openingCommand, session.hostNameAppearsAs
    session.openingCommand = command.verb
    session.hostNameAppearsAs = hostname = session.xClient.get("HELO") or hostname
    return hostname


def withdrawHello(context: Context) -> None:
    """A refusal leaves the session as it was (RFC 5321 section 4.1.4)."""
    session = context.session
    # A client that has left meanwhile was not refused: C{onClose} and the log are told what it has said.
    if context.state is not State.CLOSED:
        session.openingCommand, session.hostNameAppearsAs = context.command.before


def acceptHello(context: Context, hostname: str, answer: object) -> Reply | Task:
    """The client has said who it is; a transaction in progress ends (RFC 5321 section 4.1.4)."""
    if context.inTransaction:
        return _helloAgain(context, hostname, answer)
    context.reset()
    return _helloReply(context, hostname, answer)


def _helloAgain(context: Context, hostname: str, answer: object) -> Task:
    yield from transaction.abandon(context)
    return _helloReply(context, hostname, answer)


def _helloReply(context: Context, hostname: str, answer: object) -> Reply:
    options = context.options
    lines = () if context.command.verb == "HELO" else context.extensions.ehloLines()
    if isinstance(answer, str) and answer:
        return _hello(answer, *lines)
    text = fillHeloResponse(options.heloResponse, options.name, context.session.clientHostname or hostname)
    return _helloAsBefore(text, *lines)


def _hello(text: str, *lines: str) -> Reply:
    return _capabilities(*lines).behind(text) if lines else Reply(250, text)


# Many a client comes again, or several times at once.
_helloAsBefore = lru_cache(maxsize=256)(_hello)


@lru_cache(maxsize=64)
def _capabilities(*lines: str) -> Reply:
    # The same for most clients of a server, so that its octets are made once.
    return Reply(250, lines)


def noop(context: Context, argument: Argument, answer: None) -> Reply:
    """RFC 5321 section 4.1.1.9: whatever follows is ignored."""
    return replies.OK


def readVrfy(context: Context, argument: str) -> str | Reply:
    """RFC 5321 section 4.1.1.6."""
    return argument or replies.VRFY_SYNTAX


def acceptVrfy(context: Context, text: str, answer: object) -> Reply:
    """RFC 5321 section 3.5.3 for the reply 252."""
    if isinstance(answer, str) and answer:
        return Reply(250, answer, "2.1.5")
    return replies.CANNOT_VERIFY


def help(context: Context, argument: str, answer: None) -> Reply:
    """RFC 5321 section 4.1.1.8."""
    return Reply(214, f"Commands: {' '.join(context.verbs())}", "2.0.0")


def quit(context: Context, argument: Argument, answer: None) -> Reply | Task:
    """RFC 5321 section 4.1.1.10."""
    return _quitWithinChunks() if context.state is State.CHUNKS else replies.BYE


def _quitWithinChunks() -> Task:
    yield AbandonMessage()
    return replies.BYE


def extended(context: Context, argument: str, answer: None) -> Reply | Task:
    """A command that an extension adds, or that the server does not know."""
    verb = context.command.verb
    handler = context.extensions.command(verb)
    if handler is not None:
        return _ofExtension(context, handler, argument)
    if _isHTTP(context, argument):
        return replies.HTTP_REFUSED
    if verb in NOT_IMPLEMENTED:
        return replies.NOT_IMPLEMENTED
    isTooMany = context.counts.addUnrecognized(context.options.maxUnrecognizedCommands)
    return replies.TOO_MANY_UNRECOGNIZED if isTooMany else replies.NOT_RECOGNIZED


def _ofExtension(context: Context, handler: Handler, argument: str) -> Task:
    answer = yield Ask(handler, (argument, context.session))
    return replies.ok(answer, replies.OK)


def _isHTTP(context: Context, argument: str) -> bool:
    if _REQUEST.search(argument):
        return True
    # The request line may have been refused as too long, or as no text.  No browser says hello.
    return context.state is State.GREETED and _FIELD.match(context.command.verb) is not None


# States MESSAGE and CLOSED are in no row: no command is read in them.
_CHUNKED = {State.CHUNKS: replies.NOT_WITHIN_CHUNKS}
_BEFORE_HELLO = {State.GREETED: replies.HELLO_FIRST}

_HELLO = Command(acceptHello, readHello, "onHelo", withdrawHello, form=grammar.HELLO_LINE, junk=True)

COMMANDS = {
    "HELO": _HELLO,
    "EHLO": _HELLO,
    "LHLO": _HELLO,
    "MAIL": Command(
        transaction.acceptMail,
        transaction.readMail,
        "onMailFrom",
        transaction.withdrawMail,
        form=grammar.MAIL_LINE,
        isAboutAddress=True,
        refusals={
            **_BEFORE_HELLO,
            State.MAIL: replies.NESTED_MAIL,
            State.RECIPIENTS: replies.NESTED_MAIL,
            State.CHUNKS: replies.NESTED_MAIL,
        },
        encrypted=True,
    ),
    "RCPT": Command(
        transaction.acceptRcpt,
        transaction.readRcpt,
        "onRcptTo",
        form=grammar.RCPT_LINE,
        isAboutAddress=True,
        refusals={**_BEFORE_HELLO, State.IDENTIFIED: replies.MAIL_FIRST, **_CHUNKED},
    ),
    "DATA": Command(
        transaction.acceptData,
        transaction.readData,
        "onData",
        form=grammar.bareLine("DATA"),
        refusals={**_BEFORE_HELLO, State.IDENTIFIED: replies.RCPT_FIRST, **_CHUNKED},
        bare=True,
    ),
    "BDAT": Command(
        transaction.acceptBdat,
        transaction.readBdat,
        "onData",
        form=grammar.CHUNK_LINE,
        extension="CHUNKING",
        always=True,
    ),
    "RSET": Command(transaction.rset, form=grammar.bareLine("RSET"), bare=True, junk=True),
    "NOOP": Command(noop, form=grammar.bareLine("NOOP"), junk=True),
    "VRFY": Command(acceptVrfy, readVrfy, "onVrfy", junk=True),
    "HELP": Command(help, junk=True),
    # Before EHLO as well, as some clients do not look at what is advertised.
    "STARTTLS": Command(authentication.starttls, bare=True, extension="STARTTLS"),
    "AUTH": Command(authentication.auth, refusals=_BEFORE_HELLO, extension="AUTH", encrypted=True),
    **xclient.COMMANDS,
    "QUIT": Command(quit, form=grammar.bareLine("QUIT"), bare=True),
}

# A client has connected, which is no command, but is decided and answered as one.
CONNECTION = Command(greet, hook="onConnect")

# A command that is in no row: an extension's, or an unknown one.
EXTENDED = Command(extended, junk=True)


def _without(*verbs: str) -> dict[str, Command]:
    return {verb: command for verb, command in COMMANDS.items() if verb not in verbs}


SMTP = Flavour("ESMTP", _without("LHLO"), replies.NO_RECIPIENTS)
LMTP = Flavour("LMTP", _without("HELO", "EHLO"), replies.RCPT_FIRST)

# RFC 5321 names them, but smtphooks does not implement them (section 4.2.4: 502, not 500).
NOT_IMPLEMENTED = frozenset({"EXPN", "TURN", "SEND", "SOML", "SAML"})
