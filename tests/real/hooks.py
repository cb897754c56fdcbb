"""Hooks for the services of these tests; the service imports them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from smtphooks import Hooks, SMTPError
from smtphooks.maildir import MaildirHooks

if TYPE_CHECKING:
    from smtphooks import Address, MessageStream, Session


class PickyMaildir(MaildirHooks):
    """A Maildir for everybody but one."""

    def onRcptTo(self, address: Address, session: Session) -> None:
        if address.local == "nobody":
            raise SMTPError("No such user here", 550, "5.1.1")


class SlowMaildir(MaildirHooks):
    """A Maildir whose every answer takes a while."""

    def _wait(self) -> Deferred[None]:
        return deferLater(reactor, 0.05)

    def onMailFrom(self, address: Address, session: Session) -> Deferred[None]:
        return self._wait()

    def onRcptTo(self, address: Address, session: Session) -> Deferred[None]:
        return self._wait()

    async def onData(self, stream: MessageStream, session: Session) -> Any:
        await self._wait()
        result = await super().onData(stream, session)
        await self._wait()
        return result


class UnreadMessages(Hooks):
    """Every message is taken, and none of it is looked at."""

    def onData(self, stream: MessageStream, session: Session) -> str:
        return "Taken unread"


class HeldMessages(Hooks):
    """The message is neither read nor answered."""

    def onData(self, stream: MessageStream, session: Session) -> Deferred[None]:
        return Deferred()


class HalfReadMessages(Hooks):
    """The message is begun, and never read on nor answered."""

    async def onData(self, stream: MessageStream, session: Session) -> None:
        async for _ in stream:
            await Deferred()
