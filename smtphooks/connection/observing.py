"""
Observing: the parts of a connection that tell an L{Observer} what happens, made by L{Observed}.

Each does what the plain part does, and tells of it whether or not the log shows it: an option such as C{logRefusals},
or a limit on lines, does not change what an observer is told.
This module knows neither what an observer counts nor where that is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, ClassVar

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from smtphooks.connection.eventlog import EventLog, LineLimits
from smtphooks.connection.message import MessageReceiver
from smtphooks.connection.observer import Observer
from smtphooks.connection.parts import Parts
from smtphooks.connection.replier import Replier
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.writer import ReplyWriter
from smtphooks.dialogue.steps import Challenge
from smtphooks.options import Options
from smtphooks.replies import Reply
from smtphooks.sasl.auth import Auth
from smtphooks.session import Envelope, Session
from smtphooks.syntax.wire import Wire


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
    # mypyc does not compile a class with a decorator, and super() of such a class finds none of its kind.

    __slots__ = ("_observer",)

    def __init__(self, transport: Any, resumed: Callable[[], None], observer: Observer) -> None:
        ReplyWriter.__init__(self, transport, resumed)
        self._observer = observer

    def put(self, octets: bytes) -> None:
        self._observer.sent(len(octets))
        ReplyWriter.put(self, octets)


class _Log(EventLog):
    """
    Tells an observer of all that the log is told.

    @ivar observer: that observer.
    @ivar isWholeSince: when the last octet of the message came, by C{perf_counter}; None if it has not.
    """

    __slots__ = ("_transacts", "isWholeSince", "observer")

    def __init__(self, session: Session, options: Options, limits: LineLimits, observer: Observer) -> None:
        super().__init__(session, options, limits)
        self.observer = observer
        self._transacts = False
        self.isWholeSince: float | None = None

    def messageEnded(self, verb: str, envelope: Envelope, octets: int, code: int) -> None:
        since, self.isWholeSince = self.isWholeSince, None
        self._transacts = False
        self.observer.messageEnded(
            octets, len(envelope.rcptTo), code, None if since is None else perf_counter() - since
        )
        super().messageEnded(verb, envelope, octets, code)

    def refusal(self, verb: str, reply: Reply, by: str, sender: str | None, recipient: str | None) -> None:
        self.observer.refused(by, verb)
        super().refusal(verb, reply, by, sender, recipient)

    def authentication(self, attempt: Auth, reply: Reply) -> None:
        self.observer.authenticated(attempt.method, reply.code)
        super().authentication(attempt, reply)

    def secured(self) -> None:
        tls = self._session.tlsOptions
        if tls is not None:
            self.observer.secured(tls.version)

    def connectionEnded(self) -> None:
        self.transacts(False)
        super().connectionEnded()

    def transacts(self, isWithin: bool) -> None:
        """The client is within a transaction, or not; if it was, that has ended without a message."""
        if self._transacts and not isWithin:
            self.observer.transactionAbandoned()
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
    __slots__ = ()

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
            # The attempt has been neither right nor wrong: the log has a refusal like others, and no result of AUTH.
            self._observedLog.observer.authenticated(attempt.method, reply.code)
        super().reply(reply, recipient, by)

    def _note(self, code: int) -> None:
        dialogue, log = self._dialogue, self._observedLog
        log.observer.replied(dialogue.knownVerb, code)
        # The dialogue is out of the transaction before the replies to its message, and messageEnded comes after them.
        if self.decided is None:
            log.transacts(dialogue.inTransaction)

    @property
    def _observedLog(self) -> _Log:
        log = self.log
        assert isinstance(log, _Log)
        return log


class Observed(Parts):
    """Makes parts that tell an observer."""

    __slots__ = ("_observer",)

    replier: ClassVar[type[Replier]] = _Replier

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def connectionMade(self) -> None:
        self._observer.connectionMade()

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
