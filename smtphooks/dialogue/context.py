"""
The context: what the handlers of commands read and change, and what they may call.

It holds what lasts from one command to the next (the state, the counts, what this client may use), and notes on the
current command.
This module knows no command by name: the handlers import it, and the engine imports the handlers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import attrs

from smtphooks.dialogue.extensions import ClientExtensions, Extensions, isDisabled
from smtphooks.dialogue.limits import Counts, Tally
from smtphooks.dialogue.steps import Replies, State, Task
from smtphooks.hooktable import SITUATIONS
from smtphooks.options import Options
from smtphooks.replies import COMMAND_SITUATION, PARAMETER_SITUATION, Reply, SMTPError
from smtphooks.sasl.auth import Auth
from smtphooks.sasl.failures import AuthFailures
from smtphooks.sasl.mechanisms import Mechanisms
from smtphooks.session import Envelope, Session

# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every command.
_CONNECTED, _GREETED, _IDENTIFIED = State.CONNECTED, State.GREETED, State.IDENTIFIED

# The states of a transaction.
_WITHIN = frozenset({State.MAIL, State.RECIPIENTS, State.MESSAGE, State.CHUNKS})


def refusalBy(hook: object, error: SMTPError) -> Reply:
    """
    The reply to a command that was refused.

    @param hook: the name of the hook that raised the error, or the handler of an extension's command; C{"parameter"}
        if no hook did, so that the argument of the command is at fault.
    """
    # A hook may raise the same refusal again and again.  Each time Python adds one more traceback to those that it has,
    # with all frames of the call, which would keep connections in memory that are over.
    error.with_traceback(None)
    return error.asReply(PARAMETER_SITUATION if hook == "parameter" else SITUATIONS.get(str(hook), COMMAND_SITUATION))


@lru_cache(maxsize=16)
def _greeting(*words: str) -> Reply:
    # The same for all clients of a server, so that its octets are made once.
    return Reply(220, " ".join(filter(None, words)))


class CurrentCommand:
    """
    The current command; the next line takes its place.

    @ivar verb: in upper case; empty if the line could not be read.
    @ivar lineLength: octets, the line end included.
    @ivar subject: the sender or recipient that it is about.
    @ivar hostname: what the client calls itself in it, whatever a proxy says.
    @ivar refuser: the hook that has refused it, or the handler of an extension; empty if the server itself has.
    @ivar before: what stood in the session before C{read} has shown a hook what the client asks for.
    @ivar attempt: the last attempt of AUTH that C{onAuth} was asked about.
    @ivar hasFailed: it is an AUTH that has failed, which has been counted and logged.
    """

    __slots__ = ("attempt", "before", "hasFailed", "hostname", "lineLength", "refuser", "subject", "verb")

    def __init__(self) -> None:
        self.verb: str = ""
        self.lineLength: int = 0
        self.subject: str | None = None
        self.hostname: str = ""
        self.refuser: str | Callable[..., Any] = ""
        self.before: Any = None
        self.attempt: Auth | None = None
        self.hasFailed: bool = False


class Context:
    """
    The state of one dialogue.

    @ivar extensions: as this client may use them.
    @ivar failuresByAddress: failed AUTH, over all connections.
    @ivar state: where the dialogue stands.
    @ivar command: the current command.
    @ivar counts: what the client has done so far.
    @ivar tally: what the dialogue itself knows of the current transaction.
    @ivar speaksUtf8: the client has asked for SMTPUTF8, so the next reply may leave ASCII (RFC 6531 section 3.7.4).
    """

    __slots__ = (
        "command",
        "counts",
        "extensions",
        "failuresByAddress",
        "flavour",
        "mechanisms",
        "options",
        "session",
        "speaksUtf8",
        "state",
        "tally",
    )

    def __init__(
        self,
        options: Options,
        extensions: Extensions,
        session: Session,
        flavour: Flavour,
        mechanisms: Mechanisms,
        failuresByAddress: AuthFailures,
    ) -> None:
        self.options: Options = options
        self.extensions: ClientExtensions = ClientExtensions(extensions, session)
        self.session: Session = session
        self.flavour: Flavour = flavour
        self.mechanisms: Mechanisms = mechanisms
        self.failuresByAddress: AuthFailures = failuresByAddress
        self.state: State = _CONNECTED
        self.command: CurrentCommand = CurrentCommand()
        self.counts: Counts = Counts()
        self.tally: Tally = Tally()
        self.speaksUtf8: bool = False

    @property
    def inTransaction(self) -> bool:
        """MAIL was accepted and the transaction has not ended; what the envelope says meanwhile is up to the hooks."""
        return self.state in _WITHIN

    def reset(self) -> None:
        """End the current transaction, if any."""
        if self.state in _WITHIN:
            self.session.transaction += 1
            self.session.envelope = Envelope()
            self.tally = Tally()
        # XFORWARD is about one message, even one that never began; the next must not inherit it.
        self.session.xForward = {}
        self.state = _GREETED if self.session.openingCommand is None else _IDENTIFIED

    def startAnew(self) -> None:
        """Forget all that the client has said, as TLS begins (RFC 3207 section 4.2)."""
        session = self.session
        session.openingCommand, session.hostNameAppearsAs, session.user = None, "", None
        if self.state is not State.CONNECTED:
            self.reset()

    def greeting(self) -> Reply:
        """RFC 5321 section 4.2: the host name, then what it speaks."""
        return _greeting(self.options.name, self.flavour.protocol, self.options.banner)

    def verbs(self) -> list[str]:
        """The commands that this client may use."""
        verbs = [*filter(self._isOffered, self.flavour.commands), *self.extensions.verbs()]
        return [verb for verb in dict.fromkeys(verbs) if not isDisabled(verb, self.options, self.session)]

    def _isOffered(self, verb: str) -> bool:
        extension = self.flavour.commands[verb].extension
        return not extension or self.extensions.isInForce(extension)


# A handler with several steps is a generator, which yields what it must know and returns the reply: so it reads as RFC
# 5321 tells it.  An SMTPError that a handler raises becomes the reply.
Line: TypeAlias = "re.Pattern[bytes]"
Argument: TypeAlias = "str | re.Match[bytes]"
Read: TypeAlias = Callable[["Context", Any], Any]
Accept: TypeAlias = Callable[["Context", Any, Any], "Replies | Task"]


@attrs.frozen
class Command:
    """
    A row of the table of commands: how it is read, which hook decides, what acceptance does.

    @ivar accept: makes the reply of what was read, and of the hook's answer.
    @ivar read: makes of the argument what the hook is asked about; a reply that it returns refuses the command.
    @ivar hook: the name of the hook that decides, empty if none does.  C{onData} decides when it has the message that
        follows, for which C{read} returns the step.
    @ivar withdraw: takes back what C{read} has shown to a hook, as that refuses or the connection is gone.
    @ivar form: the line as clients really send it, in octets; C{read} then gets its match in place of the argument.
    @ivar isAboutAddress: it has an address, which the log shows if it is refused.
    @ivar refusals: in these states the command gets this reply instead.
    @ivar bare: it takes no argument.
    @ivar extension: the extension that brings it.
    @ivar encrypted: option C{needsUpgrade} asks for TLS before it (RFC 3207 section 4).
    @ivar always: it is read even if the command is disabled, as it says what follows.
    @ivar junk: it brings no message on, so option C{maxJunkCommands} counts it.
    """

    accept: Accept
    read: Read | None = None
    hook: str = ""
    withdraw: Callable[[Context], None] | None = None
    form: Line | None = None
    isAboutAddress: bool = False
    refusals: Mapping[State, Reply] = {}
    bare: bool = False
    extension: str = ""
    encrypted: bool = False
    always: bool = False
    junk: bool = False


class Form(NamedTuple):
    """
    A row as it is found by the first four octets of a line.

    @ivar line: the C{form} of the row.
    """

    verb: str
    line: Line
    row: Command


@attrs.frozen
class Flavour:
    """
    What differs between SMTP and LMTP, chosen once for a connection.

    @ivar protocol: its name in the greeting.
    @ivar commands: the rows of the table that it has.
    @ivar noRecipients: the reply to a message without a recipient: RFC 2033 section 4.2 leaves LMTP no choice.
    @ivar forms: the rows with a C{form}, by their verb in octets.
    """

    protocol: str
    commands: Mapping[str, Command]
    noRecipients: Reply
    forms: Mapping[bytes, Form] = attrs.field(
        init=False, default=attrs.Factory(lambda flavour: _formsOf(flavour.commands), takes_self=True)
    )


def _formsOf(commands: Mapping[str, Command]) -> dict[bytes, Form]:
    found = ((verb, row.form, row) for verb, row in commands.items())
    return {verb.encode(): Form(verb, form, row) for verb, form, row in found if form is not None}
