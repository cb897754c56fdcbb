"""Parts: a server that nobody observes has the plain ones."""

from __future__ import annotations

from smtphooks.connection.eventlog import EventLog
from smtphooks.connection.message import MessageReceiver
from smtphooks.connection.replier import Replier
from smtphooks.connection.writer import ReplyWriter
from smtphooks.syntax.wire import Wire
from tests.support import connect, makeFactory


def test_without_an_observer_each_part_is_the_plain_one() -> None:
    pump = connect().pump
    parts = (pump.wire, pump.writer, pump.message, pump.replier, pump.replier.log)
    assert [type(part) for part in parts] == [Wire, ReplyWriter, MessageReceiver, Replier, EventLog]


def test_without_an_observer_connections_look_for_hooks_at_the_factory_itself() -> None:
    factory = makeFactory()
    assert factory.server.hooks is factory
