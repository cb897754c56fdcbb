"""
Parts: what a connection consists of, as far as an observer changes it.

L{Parts} makes the plain parts.  A factory with an observer has other L{Parts}, in C{observing.py}, whose parts tell it
what happens; so the plain ones need not ask whether there is an observer, which would cost every command.
This module knows no observer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from smtphooks.connection.eventlog import EventLog, LineLimits
from smtphooks.connection.message import MessageReceiver
from smtphooks.connection.replier import Replier
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.writer import ReplyWriter
from smtphooks.options import Options
from smtphooks.session import Session
from smtphooks.syntax.wire import Wire


class Parts:
    """
    Makes the parts of each connection, and is told of connections that have none yet.

    @cvar replier: makes what the connection says, by a constructor like that of L{Replier}.
    """

    __slots__ = ()

    replier: ClassVar[type[Replier]] = Replier

    def connectionMade(self) -> None:
        """A client has connected."""

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
