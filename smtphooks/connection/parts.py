"""
Parts: what a connection is made of where somebody may want to be told of what it does.

Nobody is told by L{Parts} itself: it makes the plain parts, which know of no observer.  A server whose connections are
observed has other parts (C{observing}), so that one without an observer does not even ask whether there is one.
This module knows no observer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smtphooks.connection.eventlog import EventLog, LineLimits
from smtphooks.connection.message import MessageReceiver
from smtphooks.connection.replier import Replier
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.transcript import Transcript
from smtphooks.connection.writer import ReplyWriter
from smtphooks.dialogue.engine import Dialogue
from smtphooks.options import Options
from smtphooks.session import Session
from smtphooks.syntax.wire import Wire


class Parts:
    """Makes the parts of connections."""

    __slots__ = ()

    def turnedAway(self, option: str) -> None:
        """A client is not let in, because of this option."""

    def wire(self, options: Options) -> Wire:
        """The octets of the client."""
        return Wire(options.bareNewline)

    def writer(self, transport: Any, resumed: Callable[[], None]) -> ReplyWriter:
        """Replies on their way to the client."""
        return ReplyWriter(transport, resumed)

    def log(self, session: Session, options: Options, lines: LineLimits) -> EventLog:
        """What the connection has done so far."""
        return EventLog(session, options, lines)

    def message(
        self, wire: Wire, runner: HookRunner, options: Options, wake: Callable[[], None], log: EventLog
    ) -> MessageReceiver:
        """The message that is being received."""
        return MessageReceiver(wire, runner, options, wake)

    def replier(
        self,
        options: Options,
        dialogue: Dialogue,
        runner: HookRunner,
        writer: ReplyWriter,
        log: EventLog,
        transcript: Transcript | None,
    ) -> Replier:
        """What the server says."""
        return Replier(options, dialogue, runner, writer, log, transcript)
