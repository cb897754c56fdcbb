"""
The engine: the state machine of SMTP and LMTP, one command at a time.

In: a line, or the answer to what was asked.  Out: a step, which is a reply, or a question without whose answer the
dialogue does not go on.  It never looks at anything beyond the current command, so replies are in command order
(invariant 1).  This module knows the table of commands and the context that their handlers share; it knows no socket
and no Deferred, and hooks by their names only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smtphooks import replies
from smtphooks.dialogue import commands, transaction
from smtphooks.dialogue.authentication import AUTH_LINE_LENGTH
from smtphooks.dialogue.context import Argument, Command, Context, refusalBy
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

# What most hooks answer to a message.
_ACCEPTED = (None,)

_LINE_FAULTS = {LineFault.TOO_LONG: replies.LINE_TOO_LONG, LineFault.BARE_LINE_END: replies.BARE_LINE_END}


class Dialogue:
    """
    The dialogue of one connection.

    @ivar context: its state, which it shares with the handlers of commands.
    @ivar lineLimit: octets that the next line may have.
    """

    __slots__ = (
        "_asked",
        "_commandLimit",
        "_hooks",
        "_isEnhanced",
        "_isLimited",
        "_open",
        "_read",
        "_refusedByHook",
        "context",
        "lineLimit",
    )

    def __init__(
        self,
        options: Options,
        extensions: Extensions,
        session: Session,
        mechanisms: Mechanisms = NO_MECHANISMS,
        failuresByAddress: AuthFailures = NOT_COUNTED,
        hooks: object = None,
    ) -> None:
        """
        @param hooks: has every hook as an attribute, None for one that is absent, which is passed over; without it the
            dialogue asks for every hook.
        """
        flavour = commands.LMTP if options.lmtp else commands.SMTP
        self.context: Context = Context(options, extensions, session, flavour, mechanisms, failuresByAddress)
        self._commandLimit = options.maxCommandLength or _COMMAND_LENGTH + extensions.commandLength
        # AUTH may have longer lines than any other command, and only the line says which command it is.
        self.lineLimit: int = max(self._commandLimit, AUTH_LINE_LENGTH if mechanisms else 0)
        self._isEnhanced = not options.hideENHANCEDSTATUSCODES
        self._isLimited = not options.authOptional or bool(options.disabledCommands)
        self._hooks = hooks
        self._open: Command | Task | None = None  # the row, or the steps, of the command that is being decided
        self._read: Any = None  # what was read of it
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
        if isImplicit or context.options.greetDelay:
            return self._begin((commands.connectOverTLS if isImplicit else commands.connect)(context))
        row = commands.CONNECTION
        if self._isAbsent("onConnect"):
            return self._conclude(row.accept(context, None, None))
        self._open, self._read, self._asked = row, None, "onConnect"
        return Ask("onConnect", (context.session,))

    def receiveLine(self, line: bytes | LineFault) -> Step:
        """A line has arrived; there must be no question open."""
        assert self._open is None, "the dialogue stands still until its question is answered"
        context = self.context
        command = context.command
        # One by one, as a new object for each line can be measured in messages per second.
        command.verb = command.refuser = ""
        command.attempt = command.subject = None
        command.hasFailed = False
        if context.speaksUtf8:
            context.speaksUtf8 = context.inTransaction  # for it was this transaction that asked for it
        row = commands.EXTENDED
        argument: Any = None
        if isinstance(line, bytes):
            command.lineLength = length = len(line) + 2
            form = context.flavour.forms.get(line[:4].upper())
            if form is not None and length <= self._commandLimit:
                command.verb, pattern, row = form
                argument = pattern.fullmatch(line)
        if argument is None:
            row, argument = self._parse(line)
            if isinstance(argument, Reply):
                return self._conclude(argument)
        refusal = self._refusalOf(row, argument)
        if refusal is not None:
            if row.isAboutAddress:
                transaction.noteSubject(context, argument)
            return self._conclude(refusal)
        read = row.read
        if read is not None:
            try:
                argument = read(context, argument)
            except SMTPError as error:
                return self._conclude(refusalBy("parameter", error))
            if type(argument) is Reply:
                return self._conclude(argument)
        hook = row.hook
        if hook and (hook == "onData" or self._hooks is None or getattr(self._hooks, hook) is not None):
            self._open, self._read, self._asked = row, argument, hook
            return argument if hook == "onData" else Ask(hook, (argument, context.session))
        try:
            reply = row.accept(context, argument, None)
        except SMTPError as error:
            return self._conclude(refusalBy(hook or "parameter", error))
        return reply if type(reply) is Reply and reply.goesOn else self._conclude(reply)

    def answer(self, value: object) -> Step:
        """The open question has been answered."""
        row = self._open
        if not isinstance(row, Command):
            assert row is not None, "no question is open"
            return self._advance(row, row.send, value)
        self._open = None
        if type(value) is Verdict and value.results != _ACCEPTED:
            self._refusedByHook = any(isinstance(result, SMTPError) for result in value.results)
            self.context.command.refuser = "onData" if self._refusedByHook else ""
        try:
            reply = row.accept(self.context, self._read, value)
        except SMTPError as error:
            return self._conclude(refusalBy(self._asked, error))
        return reply if type(reply) is Reply and reply.goesOn else self._conclude(reply)

    def refuse(self, error: SMTPError) -> Step:
        """The open question has been answered with a refusal."""
        self.context.command.refuser = self._asked
        # A failed AUTH counts as an error of the client, a recipient that a hook rejects does not.
        self._refusedByHook = self._asked != "onAuth"
        row = self._open
        if not isinstance(row, Command):
            assert row is not None, "no question is open"
            return self._advance(row, row.throw, error)
        if row.withdraw is not None:
            row.withdraw(self.context)
        return self._conclude(refusalBy(self._asked, error))

    def close(self) -> None:
        """The connection is gone; an open question will never be answered."""
        current, self._open = self._open, None
        self.context.state = State.CLOSED
        if not isinstance(current, Command):
            if current is not None:
                current.close()
        elif current.withdraw is not None:
            current.withdraw(self.context)

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

    def _parse(self, line: bytes | LineFault) -> tuple[Command, str | Reply]:
        """
        Read the verb of a line that does not have the form of most clients.

        @return: the row of the command; and the argument, or the refusal of the line.
        """
        command = self.context.command
        command.verb = ""
        if not isinstance(line, bytes):
            return commands.EXTENDED, _LINE_FAULTS[line]
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return commands.EXTENDED, replies.NOT_PRINTABLE
        if not text.isprintable():
            return commands.EXTENDED, replies.NOT_PRINTABLE
        verb, _, argument = text.partition(" ")
        if command.lineLength > self._commandLimit and verb.upper() != "AUTH":
            return commands.EXTENDED, replies.LINE_TOO_LONG
        # The upper case of some other letters is ASCII: what a filter before us let pass must not become a command.
        command.verb = verb = verb.upper() if verb.isascii() else verb
        return self.context.flavour.commands.get(verb, commands.EXTENDED), argument.strip(" ")

    def _refusalOf(self, row: Command, argument: Argument) -> Reply | None:
        """Why the command is not allowed now, by the limits and the table."""
        context = self.context
        if row.junk or self._isLimited or context.session.disabledCommands is not None:
            refusal = self._limit(row)
            if refusal is not None:
                return refusal
        refusal = row.refusals.get(context.state)
        if refusal is not None:
            return refusal
        if row.bare and argument and isinstance(argument, str):
            return replies.NO_ARGUMENT_ALLOWED
        if row.encrypted and context.options.needsUpgrade and not context.session.secure:
            return replies.STARTTLS_FIRST
        return None

    def _limit(self, row: Command) -> Reply | None:
        """Count the command where options limit such commands, and see whether it is disabled."""
        context = self.context
        options, counts, verb = context.options, context.counts, context.command.verb
        if (
            not options.authOptional
            and context.session.user is None
            and counts.addUnauthenticated(options.maxAllowedUnauthenticatedCommands, verb)
        ):
            return replies.TOO_MANY_UNAUTHENTICATED
        if row.always:
            return None
        isMissing = isDisabled(verb, options, context.session)
        if (isMissing or row.junk) and counts.addJunk(options.maxJunkCommands):
            return replies.TOO_MANY_JUNK_COMMANDS
        return replies.NOT_IMPLEMENTED if isMissing else None

    def _isAbsent(self, hook: str | Callable[..., Any]) -> bool:
        return self._hooks is not None and isinstance(hook, str) and getattr(self._hooks, hook) is None

    def _begin(self, task: Task) -> Step:
        """Begin a command with several steps."""
        self._open = task
        self._asked = ""
        return self._advance(task, task.send, None)

    def _advance(self, task: Task, resume: Callable[[Any], Question], value: object) -> Step:
        """Let a command with several steps go on to its next question or its reply."""
        try:
            question = resume(value)
            while type(question) is Ask:
                self._asked = question.hook
                if not self._isAbsent(question.hook):
                    break
                question = task.send(None)
        except StopIteration as end:
            return self._conclude(end.value)
        except SMTPError as error:
            return self._conclude(refusalBy(self._asked or "parameter", error))
        self.context.command.refuser = ""  # The command goes on, so the reply will not be the hook's refusal.
        return question

    def _conclude(self, answer: Replies | Task) -> Step:
        """
        The current command is done, unless it has several steps: count what the server itself refuses, and note what
        ends the connection.
        """
        if not isinstance(answer, (Reply, tuple)):
            return self._begin(answer)
        self._open = None
        context = self.context
        if type(answer) is Reply and answer.code < 400:
            self._refusedByHook = False
            if answer.closes:
                context.state = State.CLOSED
            return answer
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
