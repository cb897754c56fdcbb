"""
Observing: the parts of a connection that tell an L{Observer} what happens, in the place of the plain ones.

Each of them does what its plain part does and tells of it, so that nothing is told twice or left out, whatever the log
shows: neither its limits nor its options are asked.
This module knows neither what an observer counts nor where that is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from smtphooks.connection.eventlog import EventLog, LineLimits
from smtphooks.connection.message import MessageReceiver
from smtphooks.connection.parts import Parts
from smtphooks.connection.replier import Replier
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.transcript import Transcript
from smtphooks.connection.writer import ReplyWriter
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.steps import Challenge
from smtphooks.options import Options
from smtphooks.replies import Reply
from smtphooks.sasl.auth import Auth
from smtphooks.session import Envelope, Session
from smtphooks.syntax.wire import Wire


class Observer(Protocol):
    """Is told, on the reactor's thread, what happens on the connections of a factory; it must not raise."""

    def connectionMade(self) -> None:
        """A client has connected."""

    def turnedAway(self, option: str) -> None:
        """A client is not let in, because of this option."""

    def received(self, octets: int) -> None:
        """Octets have come from a client, those of TLS itself not counted."""

    def sent(self, octets: int) -> None:
        """Octets go to a client, those of TLS itself not counted."""

    def replied(self, verb: str, code: int) -> None:
        """A reply; the verb is empty for a command that the server does not know, and where there was none."""

    def refused(self, by: str, verb: str) -> None:
        """A refusal, as the log has it: by a hook of this name, or by C{"server"}."""

    def authenticated(self, method: str, code: int) -> None:
        """An attempt to authenticate has come to its end, with a reply of this code."""

    def secured(self, version: str) -> None:
        """A TLS handshake is done; the version is such as C{"TLSv1.3"}."""

    def messageEnded(self, octets: int, recipients: int, code: int, seconds: float | None) -> None:
        """
        A message was accepted or refused, and its transaction has ended.

        @param code: of the reply, the worst of several; 0 if the client had left.
        @param seconds: from its last octet to the reply; None if it was refused before it was whole.
        """

    def transactionAbandoned(self) -> None:
        """A transaction has ended without a message."""

    def hookEnded(self, hook: str, layer: str, seconds: float, isFault: bool) -> None:
        """
        A hook has answered.

        @param layer: the name of the layer that has it, empty if none has.
        @param isFault: it has raised what is no refusal.
        """


class Observed(Parts):
    """Makes parts that tell an observer."""

    __slots__ = ("_observer",)

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def turnedAway(self, option: str) -> None:
        self._observer.turnedAway(option)

    def wire(self, options: Options) -> Wire:
        return _Wire(options.bareNewline, self._observer)

    def writer(self, transport: Any, resumed: Callable[[], None]) -> ReplyWriter:
        return _Writer(transport, resumed, self._observer)

    def log(self, session: Session, options: Options, lines: LineLimits) -> EventLog:
        return _Log(session, options, lines, self._observer)

    def message(
        self, wire: Wire, runner: HookRunner, options: Options, wake: Callable[[], None], log: EventLog
    ) -> MessageReceiver:
        assert isinstance(log, _Log)
        return _Message(wire, runner, options, wake, log)

    def replier(
        self,
        options: Options,
        dialogue: Dialogue,
        runner: HookRunner,
        writer: ReplyWriter,
        log: EventLog,
        transcript: Transcript | None,
    ) -> Replier:
        assert isinstance(log, _Log)
        return _Replier(options, dialogue, runner, writer, log, transcript, self._observer)


class _Wire(Wire):
    __slots__ = ("_observer",)

    def __init__(self, bareNewline: str, observer: Observer) -> None:
        super().__init__(bareNewline)
        self._observer = observer

    def feed(self, data: bytes) -> None:
        self._observer.received(len(data))
        super().feed(data)


@implementer(IPushProducer)
class _Writer(ReplyWriter):
    # A decorator keeps mypyc from compiling a class, which therefore knows no super() of another like it.

    __slots__ = ("_observer",)

    def __init__(self, transport: Any, resumed: Callable[[], None], observer: Observer) -> None:
        ReplyWriter.__init__(self, transport, resumed)
        self._observer = observer

    def put(self, octets: bytes) -> None:
        self._observer.sent(len(octets))
        ReplyWriter.put(self, octets)


class _Log(EventLog):
    """
    Tells of what the log is told.

    @ivar isWholeSince: when the last octet of the message came, by C{perf_counter}; None if it has not.
    """

    __slots__ = ("_observer", "_transacts", "isWholeSince")

    def __init__(self, session: Session, options: Options, limits: LineLimits, observer: Observer) -> None:
        super().__init__(session, options, limits)
        self._observer = observer
        self._transacts = False
        self.isWholeSince: float | None = None

    def messageEnded(self, verb: str, envelope: Envelope, octets: int, code: int) -> None:
        since, self.isWholeSince = self.isWholeSince, None
        self._transacts = False
        self._observer.messageEnded(
            octets, len(envelope.rcptTo), code, None if since is None else perf_counter() - since
        )
        super().messageEnded(verb, envelope, octets, code)

    def refusal(self, verb: str, reply: Reply, by: str, sender: str | None, recipient: str | None) -> None:
        self._observer.refused(by, verb)
        super().refusal(verb, reply, by, sender, recipient)

    def authentication(self, attempt: Auth, reply: Reply) -> None:
        self._observer.authenticated(attempt.method, reply.code)
        super().authentication(attempt, reply)

    def secured(self) -> None:
        tls = self._session.tlsOptions
        if tls is not None:
            self._observer.secured(tls.version)

    def connectionEnded(self) -> None:
        self.transacts(False)
        super().connectionEnded()

    def transacts(self, isWithin: bool) -> None:
        """The client is within a transaction, or not; if it was, that has ended without a message."""
        if self._transacts and not isWithin:
            self._observer.transactionAbandoned()
        self._transacts = isWithin


class _Message(MessageReceiver):
    __slots__ = ("_log",)

    def __init__(self, wire: Wire, runner: HookRunner, options: Options, wake: Callable[[], None], log: _Log) -> None:
        super().__init__(wire, runner, options, wake)
        self._log = log

    def _endOfOctets(self, data: bytes) -> None:
        if self._isLast and not self._isDiscarding:
            self._log.isWholeSince = perf_counter()
        super()._endOfOctets(data)


class _Replier(Replier):
    __slots__ = ("_observed", "_observer")

    def __init__(
        self,
        options: Options,
        dialogue: Dialogue,
        runner: HookRunner,
        writer: ReplyWriter,
        log: _Log,
        transcript: Transcript | None,
        observer: Observer,
    ) -> None:
        super().__init__(options, dialogue, runner, writer, log, transcript)
        self._observed = log
        self._observer = observer

    def put(self, reply: Reply) -> None:
        self._note(reply.code)
        super().put(reply)

    def challenge(self, step: Challenge) -> None:
        self._note(334)
        super().challenge(step)

    def reply(self, reply: Reply, recipient: str | None = "", by: str | None = None) -> None:
        self._note(reply.code)
        dialogue = self._dialogue
        attempt = dialogue.attempt
        if attempt is not None and 400 <= reply.code < 500 and by is None and not dialogue.hasFailed:
            # Nobody has said whether it was right; the log has it as a refusal like others.
            self._observer.authenticated(attempt.method, reply.code)
        super().reply(reply, recipient, by)

    def _note(self, code: int) -> None:
        dialogue = self._dialogue
        self._observer.replied(dialogue.knownVerb, code)
        # The replies to a message are made when its transaction has ended, and that of the message is yet to be told.
        if self.decided is None:
            self._observed.transacts(dialogue.inTransaction)
