"""
The engine: the state machine of SMTP and LMTP, one command at a time.

In: a line, or the answer to what was asked.  Out: a step, which is a reply, or a question without whose answer the
dialogue does not go on.  It never looks at anything beyond the current command, so replies are in command order
(invariant 1).  This module knows the table of commands and the context that their handlers share; it knows no socket
and no Deferred, and hooks by their names only.
"""

from __future__ import annotations

from collections.abc import Callable
from types import GeneratorType
from typing import Any, cast

from smtphooks import replies
from smtphooks.dialogue import commands, transaction
from smtphooks.dialogue.authentication import AUTH_LINE_LENGTH
from smtphooks.dialogue.context import Context, Handler, refusalBy
from smtphooks.dialogue.extensions import Extensions, isDisabled
from smtphooks.dialogue.steps import Ask, Question, Replies, State, Step, Task, Verdict
from smtphooks.options import Options
from smtphooks.replies import Reply, SMTPError
from smtphooks.sasl.auth import Auth
from smtphooks.sasl.failures import NOT_COUNTED, AuthFailures
from smtphooks.sasl.mechanisms import NO_MECHANISMS, Mechanisms
from smtphooks.session import Session
from smtphooks.syntax.wire import LineFault

# RFC 5321 section 4.5.3.1.4: a command line has 512 octets, and more where extensions say so.
_COMMAND_LENGTH = 512

# The client may try again later (RFC 5321 section 4.5.3.1.10), so these are no errors; they have a limit of their own.
_NO_ERRORS = (replies.TOO_MANY_RECIPIENTS, replies.TOO_MANY_REFUSED_RECIPIENTS)

# The keyword before the address that a command is about.
_KEYWORDS = {"MAIL": "FROM", "RCPT": "TO"}

# What most hooks answer to a message.
_ACCEPTED = (None,)

_LINE_FAULTS = {LineFault.TOO_LONG: replies.LINE_TOO_LONG, LineFault.BARE_LINE_END: replies.BARE_LINE_END}


class Dialogue:
    """
    The dialogue of one connection.

    @ivar context: its state, which it shares with the handlers of commands.
    @ivar lineLimit: octets that the next line may have.
    """

    __slots__ = ("_asked", "_commandLimit", "_isEnhanced", "_refusedByHook", "_task", "context", "lineLimit")

    def __init__(
        self,
        options: Options,
        extensions: Extensions,
        session: Session,
        mechanisms: Mechanisms = NO_MECHANISMS,
        failuresByAddress: AuthFailures = NOT_COUNTED,
    ) -> None:
        flavour = commands.LMTP if options.lmtp else commands.SMTP
        self.context = Context(options, extensions, session, flavour, mechanisms, failuresByAddress)
        self._commandLimit = options.maxCommandLength or _COMMAND_LENGTH + extensions.commandLength
        # AUTH may have longer lines than any other command, and only the line says which command it is.
        self.lineLimit = max(self._commandLimit, AUTH_LINE_LENGTH if mechanisms else 0)
        self._isEnhanced = not options.hideENHANCEDSTATUSCODES
        self._task: Task | None = None
        self._asked: str | Callable[..., Any] = ""  # the hook that the current command has asked last
        self._refusedByHook = False

    # --- what happens to it ---

    def open(self, beginsWithTLS: bool = False) -> Step:
        """
        A client has connected.

        @param beginsWithTLS: whatever the options say, as the endpoint begins with a handshake.
        """
        context = self.context
        # Decided before any hook runs, as a hook may change the address of the session (invariant 8).
        context.extensions.trust(context.session.remoteAddress)
        isImplicit = beginsWithTLS or context.options.secure
        return self._handle(commands.connectOverTLS if isImplicit else commands.connect, "")

    def receiveLine(self, line: bytes | LineFault) -> Step:
        """A line has arrived; there must be no question open."""
        assert self._task is None, "the dialogue stands still until its question is answered"
        context = self.context
        command = context.command
        # One by one, as a new object for each line can be measured in messages per second.
        command.attempt = command.subject = None
        command.refuser = command.verb = ""
        command.hasFailed = False
        self._asked = ""
        if context.speaksUtf8:
            context.speaksUtf8 = context.inTransaction  # for it was this transaction that asked for it
        if not isinstance(line, bytes):
            return self._conclude(_LINE_FAULTS[line])
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return self._conclude(replies.NOT_PRINTABLE)
        if not text.isprintable():
            return self._conclude(replies.NOT_PRINTABLE)
        verb, _, argument = text.partition(" ")
        command.lineLength = len(line) + 2
        if command.lineLength > self._commandLimit and verb.upper() != "AUTH":
            return self._conclude(replies.LINE_TOO_LONG)
        # The upper case of some other letters is ASCII: what a filter before us let pass must not become a command.
        command.verb = verb = verb.upper() if verb.isascii() else verb
        return self._command(verb, argument.strip(" "))

    def answer(self, value: object) -> Step:
        """The open question has been answered."""
        assert self._task is not None, "no question is open"
        if type(value) is Verdict and value.results != _ACCEPTED:
            self._refusedByHook = any(isinstance(result, SMTPError) for result in value.results)
            self.context.command.refuser = "onData" if self._refusedByHook else ""
        return self._advance(self._task.send, value)

    def refuse(self, error: SMTPError) -> Step:
        """The open question has been answered with a refusal."""
        assert self._task is not None, "no question is open"
        self.context.command.refuser = self._asked
        # A failed AUTH counts as an error of the client, a recipient that a hook rejects does not.
        self._refusedByHook = self._asked != "onAuth"
        return self._advance(self._task.throw, error)

    def close(self) -> None:
        """The connection is gone; an open question will never be answered."""
        if self._task is not None:
            self._task.close()
            self._task = None
        self.context.state = State.CLOSED

    # --- what the connection asks of it ---

    def encode(self, reply: Reply) -> bytes:
        """The octets of a reply, as this client may get them."""
        return reply.encode(self._isEnhanced, self.context.speaksUtf8)

    def shows(self, verb: str) -> bool:
        """May the log show the argument of this verb?  An extension's may be a secret."""
        return verb in self.context.flavour.commands

    def hasMechanism(self, name: str) -> bool:
        """Is this the name of a mechanism that this client could use?"""
        return self.context.mechanisms.find(name, self.context.session) is not None

    @property
    def state(self) -> State:
        """Where the dialogue stands."""
        return self.context.state

    @property
    def inTransaction(self) -> bool:
        """MAIL was accepted and the transaction has not ended."""
        return self.context.inTransaction

    @property
    def verb(self) -> str:
        """The current command, in upper case."""
        return self.context.command.verb

    @property
    def knownVerb(self) -> str:
        """The current command; empty if the server does not know it, as the line may hold a secret."""
        isKnown = self.verb in commands.COMMANDS or self.context.extensions.adds(self.verb)
        return self.verb if isKnown else ""

    @property
    def subject(self) -> str | None:
        """The sender or recipient that the current command is about."""
        return self.context.command.subject

    @property
    def refuser(self) -> str | Callable[..., Any]:
        """The hook that has refused the current command, or the handler of an extension; empty for the server."""
        return self.context.command.refuser

    @property
    def attempt(self) -> Auth | None:
        """The last attempt of AUTH that C{onAuth} was asked about in the current command."""
        return self.context.command.attempt

    @property
    def hasFailed(self) -> bool:
        """The current command is an AUTH that has failed, which has been logged."""
        return self.context.command.hasFailed

    # --- within ---

    def _command(self, verb: str, argument: str) -> Step:
        """Decide by the table whether the command is allowed now."""
        context = self.context
        options = context.options
        if (
            not options.authOptional
            and context.session.user is None
            and context.counts.addUnauthenticated(options.maxAllowedUnauthenticatedCommands, verb)
        ):
            return self._conclude(replies.TOO_MANY_UNAUTHENTICATED)
        command = context.flavour.commands.get(verb)
        if command is not None and command.always:
            return self._handle(command.handle, argument)
        isMissing = isDisabled(verb, options, context.session)
        if (isMissing or command is None or command.junk) and context.counts.addJunk(options.maxJunkCommands):
            return self._conclude(replies.TOO_MANY_JUNK_COMMANDS)
        if isMissing:
            return self._conclude(replies.NOT_IMPLEMENTED)
        if command is None:
            return self._handle(commands.extended, argument)
        refusal = command.refusals.get(context.state)
        if refusal is None and command.bare and argument:
            refusal = replies.NO_ARGUMENT_ALLOWED
        if refusal is None and command.encrypted and options.needsUpgrade and not context.session.secure:
            refusal = replies.STARTTLS_FIRST
        if refusal is None:
            return self._handle(command.handle, argument)
        if verb in _KEYWORDS:
            transaction.noteSubject(context, argument, _KEYWORDS[verb])
        return self._conclude(refusal)

    def _handle(self, handle: Handler, argument: str) -> Step:
        """Let a handler go on to its first question or its reply."""
        try:
            result = handle(self.context, argument)
            if type(result) is GeneratorType:
                self._task = result
                question: Question = next(result)
                if type(question) is Ask:
                    self._asked = question.hook
                return question
        except StopIteration as end:
            return self._conclude(end.value)
        except SMTPError as error:
            return self._conclude(refusalBy(self._asked or "parameter", error))
        return self._conclude(cast(Replies, result))

    def _advance(self, resume: Callable[[Any], Question], value: object) -> Step:
        """Let the task go on to its next question or its reply."""
        try:
            question = resume(value)
        except StopIteration as end:
            return self._conclude(end.value)
        except SMTPError as error:
            return self._conclude(refusalBy(self._asked or "parameter", error))
        if type(question) is Ask:
            self._asked = question.hook
        command = self.context.command
        if command.refuser:
            command.refuser = ""  # The handler went on, so the reply will not be the hook's refusal.
        return question

    def _conclude(self, answer: Replies) -> Replies:
        """The current command is done."""
        self._task = None
        if type(answer) is Reply and answer.code < 400 and not answer.closes:
            self._refusedByHook = False
            return answer
        return self._count(answer)

    def _count(self, answer: Replies) -> Replies:
        """Count what the server itself refuses, and note what ends the connection."""
        context = self.context
        given = (answer,) if isinstance(answer, Reply) else answer
        isRefused = not self._refusedByHook and any(reply.code >= 400 for reply in given) and answer not in _NO_ERRORS
        # The recipients of a message each have their reply whatever comes; the next error will be the last.
        if isRefused and context.counts.addError(context.options.maxErrors) and len(given) == 1:
            answer = replies.TOO_MANY_ERRORS
            given = (answer,)
            context.command.refuser = ""
        self._refusedByHook = False
        for reply in given:
            if reply.code >= 400:
                context.session.error = reply.oneLine()
            if reply.closes:
                context.state = State.CLOSED
        return answer
