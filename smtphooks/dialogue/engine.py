"""
The dialogue: the state machine of SMTP and LMTP, one command at a time.

In: a line, or the answer to what was asked.  Out: a step, which is a reply, or a question without whose answer the
dialogue does not go on.  It never looks at anything beyond the command at hand, so replies are in command order
(invariant 1).  This module knows commands, session and replies; it knows no socket, no Deferred and no hook.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import GeneratorType
from typing import Any, cast

from smtphooks import replies
from smtphooks.dialogue import commands, transaction
from smtphooks.dialogue.authentication import AUTH_LINE_LENGTH
from smtphooks.dialogue.commands import COMMANDS
from smtphooks.dialogue.extensions import Extensions, isDisabled
from smtphooks.dialogue.steps import Ask, Question, Replies, State, Step, Task, Verdict
from smtphooks.dialogue.transaction import Tally
from smtphooks.hooks import SITUATIONS
from smtphooks.options import Options
from smtphooks.replies import COMMAND_SITUATION, PARAMETER_SITUATION, Reply, Situation, SMTPError
from smtphooks.sasl.failures import NOT_COUNTED, AuthFailures
from smtphooks.sasl.mechanisms import NO_MECHANISMS, Auth, Mechanisms
from smtphooks.session import Envelope, Session
from smtphooks.syntax.wire import LineFault

# RFC 5321 section 4.5.3.1.4: a command line has 512 octets, and more where extensions say so.
_COMMAND_LENGTH = 512

# What a client may say as often as it likes before it is authenticated: it leads there, or away.
_TOWARDS_AUTHENTICATION = frozenset({"HELO", "EHLO", "LHLO", "STARTTLS", "AUTH", "QUIT"})

# What the client may try again later (RFC 5321 section 4.5.3.1.10) is no error of it, and has a limit of its own.
_NO_ERRORS = (replies.TOO_MANY_RECIPIENTS, replies.TOO_MANY_REFUSED_RECIPIENTS)

# What stands before the address that a command is about.
_KEYWORDS = {"MAIL": "FROM", "RCPT": "TO"}

# What most hooks say of a message.
_TAKEN = (None,)

# The states of a transaction.
_WITHIN = frozenset({State.MAIL, State.RECIPIENTS, State.MESSAGE, State.CHUNKS})

_LINE_FAULTS = {LineFault.TOO_LONG: replies.LINE_TOO_LONG, LineFault.BARE_LINE_END: replies.BARE_LINE_END}


@lru_cache(maxsize=16)
def _greeting(*words: str) -> Reply:
    # The same for all clients of a server, so that its octets are made once.
    return Reply(220, " ".join(filter(None, words)))


class Dialogue:
    """
    The dialogue of one connection.

    @ivar state: where it stands; handlers change it.
    @ivar verb: the command at hand, in upper case.
    @ivar beginsWithTLS: a handshake comes before the greeting.
    @ivar junkCommands: how many have brought no message on since the last one.
    @ivar lineLength: octets of the command at hand, its line end included.
    @ivar lineLimit: octets that the next line may have.
    @ivar refuser: the hook that has refused the command at hand, or the handler of an extension; empty if it is the
        server that does.
    @ivar hasFailed: the AUTH at hand has failed, and that is known.
    @ivar subject: the sender or recipient that the command at hand is about.
    @ivar attempt: the last attempt of AUTH that onAuth was asked about.
    @ivar messages: how many transactions have come to a message.
    @ivar tally: what the dialogue itself knows of the transaction at hand.
    @ivar speaksUtf8: the client has asked for SMTPUTF8, so the reply at hand may leave ASCII (RFC 6531 section 3.7.4).
    """

    __slots__ = (
        "_commandLimit",
        "_isEnhanced",
        "_question",
        "_refusedByHook",
        "_task",
        "_unauthenticated",
        "_unrecognized",
        "attempt",
        "authenticationFailures",
        "beginsWithTLS",
        "errors",
        "extensions",
        "failuresByAddress",
        "flavour",
        "hasFailed",
        "junkCommands",
        "lineLength",
        "lineLimit",
        "mechanisms",
        "messages",
        "options",
        "refuser",
        "session",
        "speaksUtf8",
        "state",
        "subject",
        "tally",
        "verb",
    )

    def __init__(
        self,
        options: Options,
        extensions: Extensions,
        session: Session,
        mechanisms: Mechanisms = NO_MECHANISMS,
        failuresByAddress: AuthFailures = NOT_COUNTED,
    ) -> None:
        self.options = options
        self.extensions = extensions
        self.mechanisms = mechanisms
        self.failuresByAddress = failuresByAddress
        self.session = session
        self.flavour = commands.LMTP if options.lmtp else commands.SMTP
        self.state = State.CONNECTED
        self.verb = ""
        self.tally = Tally()
        self.errors = 0
        self.junkCommands = 0
        self.messages = 0
        self.lineLength = 0
        self._unrecognized = 0
        self._unauthenticated = 0
        self.authenticationFailures = 0
        self._commandLimit = options.maxCommandLength or _COMMAND_LENGTH + extensions.commandLength
        # What AUTH may say is longer than any other command, and which one comes is only known when it is read.
        self.lineLimit = max(self._commandLimit, AUTH_LINE_LENGTH if mechanisms else 0)
        self._task: Task | None = None
        self._question: Question | None = None  # the last that the task has asked of a hook, or the first of all
        self._isEnhanced = not options.hideENHANCEDSTATUSCODES
        self.speaksUtf8 = False
        self._refusedByHook = False
        self.refuser: str | Callable[..., Any] = ""
        self.attempt: Auth | None = None
        self.hasFailed = False
        self.subject: str | None = None

    # --- what the protocol calls ---

    def open(self, beginsWithTLS: bool = False) -> Step:
        """
        A client has connected.

        @param beginsWithTLS: whatever the options say; the endpoint has seen to it.
        """
        self.beginsWithTLS = self.options.secure or beginsWithTLS
        return self._handle(commands.connect, "")

    def receive(self, line: bytes | LineFault) -> Step:
        """A line has arrived; there must be no question open."""
        assert self._task is None, "the dialogue stands still until its question is answered"
        self._question = self.attempt = self.subject = None
        self.refuser = self.verb = ""
        self.hasFailed = False
        if self.speaksUtf8:
            self.speaksUtf8 = self.inTransaction  # it was this one that asked for it
        if not isinstance(line, bytes):
            return self._conclude(_LINE_FAULTS[line])
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return self._conclude(replies.NOT_PRINTABLE)
        if not text.isprintable():
            return self._conclude(replies.NOT_PRINTABLE)
        verb, _, argument = text.partition(" ")
        self.lineLength = len(line) + 2
        if self.lineLength > self._commandLimit and verb.upper() != "AUTH":
            return self._conclude(replies.LINE_TOO_LONG)
        # The upper case of some other letters is ASCII: what a filter before us let pass must not become a command.
        self.verb = verb.upper() if verb.isascii() else verb
        return self._command(argument.strip(" "))

    def answer(self, value: object) -> Step:
        """The open question has been answered."""
        assert self._task is not None, "no question is open"
        if type(value) is Verdict and value.results != _TAKEN:
            self._refusedByHook = any(isinstance(result, SMTPError) for result in value.results)
            self.refuser = "onData" if self._refusedByHook else ""
        return self._advance(self._task.send, value)

    def refuse(self, error: SMTPError) -> Step:
        """The open question has been answered with a refusal."""
        assert self._task is not None, "no question is open"
        self.refuser = self._question.hook if isinstance(self._question, Ask) else ""
        # A failed AUTH is the client's error, a recipient that a hook does not want is not.
        self._refusedByHook = self._situation is not SITUATIONS["onAuth"]
        return self._advance(self._task.throw, error)

    def close(self) -> None:
        """The connection is gone; an open question will never be answered."""
        if self._task is not None:
            self._task.close()
            self._task = None
        self.state = State.CLOSED

    def encode(self, reply: Reply) -> bytes:
        """The octets of a reply, as this client may get them."""
        return reply.encode(self._isEnhanced, self.speaksUtf8)

    @property
    def inTransaction(self) -> bool:
        """MAIL was accepted and the transaction has not ended; what the envelope says meanwhile is up to the hooks."""
        return self.state in _WITHIN

    def shows(self, verb: str) -> bool:
        """May the argument of this verb be shown in a log?  What an extension does with its own is not known."""
        return verb in self.flavour.commands

    def hasMechanism(self, name: str) -> bool:
        """Is this the name of a mechanism that this client could use?"""
        return self.mechanisms.find(name, self.session) is not None

    @property
    def knownVerb(self) -> str:
        """The command at hand; empty if there is none such, for what else a client says there may be a secret."""
        return self.verb if self.verb in COMMANDS or self.extensions.adds(self.verb) else ""

    # --- what the handlers of commands call ---

    def reset(self) -> None:
        """The transaction at hand, if any, is over."""
        if self.inTransaction:
            self.session.transaction += 1
            self.session.envelope = Envelope()
            self.tally = Tally()
        # Said of one message that may never have begun; it shall not be taken for that of the next.
        self.session.xForward = {}
        self.state = State.GREETED if self.session.openingCommand is None else State.IDENTIFIED

    def greeting(self) -> Reply:
        """RFC 5321 section 4.2: the host name, then what it speaks."""
        return _greeting(self.options.name, self.flavour.protocol, self.options.banner)

    def startAnew(self) -> None:
        """All that the client said before is forgotten, as TLS begins (RFC 3207 section 4.2)."""
        session = self.session
        session.openingCommand, session.hostNameAppearsAs, session.user = None, "", None
        if self.state is not State.CONNECTED:
            self.reset()

    def unrecognized(self) -> Reply:
        """The reply to a command that nobody knows."""
        self._unrecognized += 1
        limit = self.options.maxUnrecognizedCommands
        return replies.TOO_MANY_UNRECOGNIZED if limit and self._unrecognized > limit else replies.NOT_RECOGNIZED

    def verbs(self) -> list[str]:
        """The commands that this client may use."""
        verbs = [*filter(self._isOffered, self.flavour.commands), *self.extensions.verbs(self.session)]
        return [verb for verb in dict.fromkeys(verbs) if not isDisabled(verb, self.options, self.session)]

    # --- within ---

    def _isOffered(self, verb: str) -> bool:
        extension = COMMANDS[verb].extension
        return not extension or self.extensions.inForce(extension, self.session)

    def _command(self, argument: str) -> Step:
        verb, options = self.verb, self.options
        if not options.authOptional and self._isUnauthenticatedForTooLong():
            return self._conclude(replies.TOO_MANY_UNAUTHENTICATED)
        command = self.flavour.commands.get(verb)
        if command is not None and command.always:
            return self._handle(command.handle, argument)
        isMissing = isDisabled(verb, options, self.session)
        if (isMissing or command is None or command.junk) and self._isTooMuchJunk():
            return self._conclude(replies.TOO_MANY_JUNK_COMMANDS)
        if isMissing:
            return self._conclude(replies.NOT_IMPLEMENTED)
        if command is None:
            return self._handle(commands.extended, argument)
        refusal = command.refusals.get(self.state)
        if refusal is None and command.bare and argument:
            refusal = replies.NO_ARGUMENT_ALLOWED
        if refusal is None and command.encrypted and options.needsUpgrade and not self.session.secure:
            refusal = replies.STARTTLS_FIRST
        if refusal is None:
            return self._handle(command.handle, argument)
        if verb in _KEYWORDS:
            transaction.seeSubject(self, argument, _KEYWORDS[verb])
        return self._conclude(refusal)

    def _isTooMuchJunk(self) -> bool:
        """Count a command that brings no message on, as Postfix does (SMTPD_CMD_FLAG_LIMIT)."""
        self.junkCommands += 1
        limit = self.options.maxJunkCommands
        return limit > 0 and self.junkCommands > limit

    def _isUnauthenticatedForTooLong(self) -> bool:
        limit = self.options.maxAllowedUnauthenticatedCommands
        if limit is False or self.session.user is not None:
            return False
        if self.verb not in _TOWARDS_AUTHENTICATION:
            self._unauthenticated += 1
        return self._unauthenticated > limit

    def _handle(self, handle: commands.Handler, argument: str) -> Step:
        self._question = None
        try:
            result = handle(self, argument)
            if type(result) is GeneratorType:
                self._task = result
                self._question = next(result)
                return self._question
        except StopIteration as end:
            return self._conclude(end.value)
        except SMTPError as refusal:
            return self._conclude(refusal.reply(self._situation))
        return self._conclude(cast(Replies, result))

    def _advance(self, resume: Callable[[Any], Question], value: object) -> Step:
        """Let the task go on to its next question or its reply."""
        try:
            question = resume(value)
        except StopIteration as end:
            return self._conclude(end.value)
        except SMTPError as refusal:
            return self._conclude(refusal.reply(self._situation))
        if type(question) is Ask:
            self._question = question
        if self.refuser:
            self.refuser = ""  # The hook's refusal was not the end of it.
        return question

    @property
    def _situation(self) -> Situation:
        """Where a refusal happens now: in a hook, or else in the argument of the command."""
        if not isinstance(self._question, Ask):
            return PARAMETER_SITUATION
        return SITUATIONS.get(str(self._question.hook), COMMAND_SITUATION)

    def _conclude(self, answer: Replies) -> Replies:
        """The command at hand is done."""
        self._task = None
        if type(answer) is Reply and answer.code < 400 and not answer.closes:
            self._refusedByHook = False
            return answer
        return self._count(answer)

    def _count(self, answer: Replies) -> Replies:
        """Something was refused, or several things were answered; or it is the end."""
        given = (answer,) if isinstance(answer, Reply) else answer
        isError = not self._refusedByHook and answer not in _NO_ERRORS
        if isError and any(reply.code >= 400 for reply in given):
            self.errors += 1
            # The recipients of a message each have their reply whatever comes; the next error will be the last.
            if self.options.maxErrors and self.errors > self.options.maxErrors and len(given) == 1:
                answer = replies.TOO_MANY_ERRORS
                given = (answer,)
                self.refuser = ""
        self._refusedByHook = False
        for reply in given:
            if reply.code >= 400:
                self.session.error = reply.oneLine()
            if reply.closes:
                self.state = State.CLOSED
        return answer
