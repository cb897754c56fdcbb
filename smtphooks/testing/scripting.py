"""
Scripting: makes the faults of a script happen, in the hooks of a factory and in its replies.

A refusal is raised where the command has a hook, so that the session is as after any refusal.  STARTTLS has none, and
must not begin TLS: it is disabled for the moment, and its reply replaced.  All other faults are of the reply alone.
This module knows neither threads nor octets but those of a reply that it makes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from smtphooks.factory import SMTPServerFactory
from smtphooks.replies import Reply, SMTPError
from smtphooks.session import Address, Session
from smtphooks.testing.faults import CONNECT, DATA, Drop, Fail, Faults, Garble, Stall
from smtphooks.testing.gate import Fate, Gate
from smtphooks.testing.messages import Inbox
from smtphooks.testing.recording import Recorder

_MESSAGE = frozenset({"DATA", "BDAT"})
# To go on: the message, or a step of AUTH, is yet to come.
_INTERIM = frozenset({334, 354})
# These have no hook that could refuse them.
_REFUSED_BY_REPLY = frozenset({"STARTTLS", "RSET", "NOOP", "HELP", "QUIT"})


def _errorOf(fault: Fail) -> SMTPError:
    return SMTPError(fault.text, responseCode=fault.code)


class _Disabled(list[str]):
    """The commands that are disabled for a session; STARTTLS is among them while the script has it fail."""

    def __init__(self, commands: Sequence[str], faults: Faults, talk: Talk) -> None:
        super().__init__(commands)
        self._faults = faults
        self._talk = talk

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        # EHLO is to advertise it all the same.
        if not self._talk.isHello and self._faults.isNext("STARTTLS", Fail):
            yield "STARTTLS"


@attrs.define
class Talk:
    """
    What the script has to know of a connection.

    @ivar gate: what its replies go through.
    @ivar isHello: EHLO is being decided.
    @ivar due: how many further replies to a message are those of the same fate.
    @ivar fault: of these.
    """

    gate: Gate | None = None
    isHello: bool = False
    due: int = 0
    fault: Drop | Stall | Garble | None = None


class Script:
    """
    Has a factory record what it accepts and follow a script.

    @ivar recorder: to be the first layer of the factory.
    """

    State = Talk

    def __init__(self, inbox: Inbox, faults: Faults, gateOf: Callable[[Session], Gate | None]) -> None:
        self.recorder: Recorder = Recorder(inbox)
        self._inbox = inbox
        self._faults = faults
        self._gateOf = gateOf

    def install(self, factory: SMTPServerFactory) -> None:
        """Put its hooks around those of a factory, which has an C{onData}."""
        assert factory.onData is not None
        disabled = factory.options.disabledCommands
        connect = self._failing(factory.onConnect, lambda session: CONNECT)

        def onConnect(session: Session) -> Any:
            session.disabledCommands = _Disabled(disabled, self._faults, session.of(self))
            return connect(session)

        hello = self._failing(factory.onHelo, lambda session: session.openingCommand or "")

        def onHelo(hostname: str, session: Session) -> Any:
            session.of(self).isHello = True
            return hello(hostname, session)

        factory.onConnect, factory.onHelo = onConnect, onHelo
        if factory.onAuth is not None:  # or else AUTH would be advertised
            factory.onAuth = self._failing(factory.onAuth, lambda session: "AUTH")
        factory.onMailFrom = self._failing(factory.onMailFrom, lambda session: "MAIL")
        factory.onRcptTo = self._failing(factory.onRcptTo, lambda session: "RCPT")
        factory.onVrfy = self._failing(factory.onVrfy, lambda session: "VRFY")
        factory.onData = self.recorder.receiving(factory.onData, self._decide)
        factory.onReply = self._observing(factory.onReply)

    # --- refusals by hooks ---

    def _failing(self, hook: Callable[..., Any] | None, verbOf: Callable[[Session], str]) -> Callable[..., Any]:
        """A hook that fails as the script wants it, or else does as this one."""

        def ask(*arguments: Any) -> Any:
            recipients = [argument.address for argument in arguments[:1] if isinstance(argument, Address)]
            fault = self._faults.maybeFail(verbOf(arguments[-1]), recipients)
            if fault is not None:
                raise _errorOf(fault)
            return None if hook is None else hook(*arguments)

        return ask

    def _decide(self, result: Any, session: Session) -> Any:
        """What becomes of a message that C{onData} took with this result."""
        recipients = [address.address for address in session.envelope.rcptTo]
        fault = self._faults.maybeFail(DATA, () if session.lmtp else recipients)
        if fault is not None:
            raise _errorOf(fault)
        if not session.lmtp:
            return result
        faults = [self._faults.maybeFailOnly(DATA, recipient) for recipient in recipients]
        if not any(faults):
            return result
        results = list(result) if isinstance(result, (list, tuple)) else [result] * len(faults)
        for index, own in enumerate(faults):
            if own is not None:
                results[index] = _errorOf(own)
        return results

    # --- what becomes of replies ---

    def _observing(self, observer: Callable[..., Any] | None) -> Callable[..., Any]:
        def onReply(verb: str, reply: Reply, session: Session) -> Any:
            self._announce(verb, reply, session)
            return None if observer is None else observer(verb, reply, session)

        return onReply

    def _announce(self, verb: str, reply: Reply, session: Session) -> None:
        talk: Talk = session.of(self)
        talk.isHello = False
        isGreeting = talk.gate is None
        if isGreeting:
            talk.gate = self._gateOf(session)
        if reply.code >= 400:
            self._inbox.addRefusal(f"{reply.oneLine()} (to {verb or 'no command'})")
        if talk.gate is not None:
            talk.gate.announce(self._fateOf(CONNECT if isGreeting else verb, reply, session, talk))

    def _fateOf(self, verb: str, reply: Reply, session: Session, talk: Talk) -> Fate:
        if verb in _MESSAGE:
            return self._fateInMessage(reply, session, talk)
        if reply.code in _INTERIM:
            return Fate()
        if verb in _REFUSED_BY_REPLY:
            refusal = self._faults.maybeFail(verb)
            if refusal is not None:
                code = refusal.code
                octets = f"{code} {code // 100}.0.0 {refusal.text}\r\n".encode("ascii", "replace")
                return Fate(octets, ends=code == 421)
        return _fateBy(self._faults.maybeOther(verb))

    def _fateInMessage(self, reply: Reply, session: Session, talk: Talk) -> Fate:
        replies = session.of(self.recorder).replies
        if reply.code in _INTERIM or (reply.code < 300 and not replies):
            return Fate()  # to DATA, or to a chunk that is not the last
        given = self.recorder.replied(reply, session)
        if talk.due:
            talk.due -= 1
            if isinstance(talk.fault, Garble):
                return Fate(b"")
            # What is dropped or late at the first of the replies is so at the others.
            return Fate() if given is None else Fate(given=given)
        talk.fault, talk.due = self._faults.maybeOther(DATA), max(replies - 1, 0)
        fate = _fateBy(talk.fault)
        return fate if given is None else attrs.evolve(fate, given=given)


def _fateBy(fault: Drop | Stall | Garble | None) -> Fate:
    if isinstance(fault, Drop):
        return Fate(cuts=True)
    if isinstance(fault, Stall):
        return Fate(isLate=True, seconds=fault.seconds)
    return Fate() if fault is None else Fate(fault.octets)
