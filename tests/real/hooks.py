"""Hooks for the services of these tests, which import them by name."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from smtphooks import Address, Auth, AuthResponse, Hooks, MessageStream, Session, SMTPError, Spool
from smtphooks.stores.maildir import Maildir
from tests.secrets import PASSWORD, TOKEN

log = Logger()


class PickyMaildir(Maildir):
    """A Maildir that refuses one recipient."""

    def onRcptTo(self, address: Address, session: Session) -> None:
        if address.local == "nobody":
            raise SMTPError("No such user here", 550, "5.1.1")


class SlowMaildir(Maildir):
    """A Maildir whose every decision takes some time."""

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


class KnownUsers(Maildir):
    """A Maildir with one known user, ann, who may authenticate by any mechanism."""

    def onAuth(self, auth: Auth, session: Session) -> Any:
        if auth.username != "ann":
            return None
        if auth.method.startswith("SCRAM-"):
            return AuthResponse(user="ann", data=SCRAM_CREDENTIALS)
        if auth.method == "EXTERNAL":
            return auth.certificate.subject.rfc4514_string().removeprefix("CN=")
        if auth.accessToken is not None:
            known = auth.accessToken == TOKEN
            return AuthResponse(user="ann" if known else None, data={"status": "401", "schemes": "bearer"})
        return "ann" if auth.validatePassword(PASSWORD) else None

    def onMailFrom(self, address: Address, session: Session) -> str:
        return f"{session.user} may send"


class Witness(Maildir):
    """A Maildir that names the client of the session in the log and in replies."""

    def onHelo(self, hostname: str, session: Session) -> None:
        log.info("hello of {name} at {address}", name=hostname, address=session.remoteAddress)

    def onAuth(self, auth: Auth, session: Session) -> str | None:
        return auth.username if auth.method == "XCLIENT" and auth.username != "nobody" else None

    def onMailFrom(self, address: Address, session: Session) -> str:
        said = " ".join(f"{name}={value}" for name, value in session.xForward.items())
        return f"{session.user} at {session.remoteAddress} port {session.remotePort} {said}"

    def onRcptTo(self, address: Address, session: Session) -> None:
        log.info("forwarded {attributes}", attributes=json.dumps(session.xForward))


def scramCredentials(password: str) -> tuple[bytes, bytes, bytes, int]:
    """The stored credentials of a password (RFC 5802 section 3)."""
    salt, iterations = b"as random as it gets", 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    clientKey, serverKey = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    return salt, hashlib.sha256(clientKey).digest(), serverKey, iterations


SCRAM_CREDENTIALS = scramCredentials(PASSWORD)


class UnreadMessages(Hooks):
    """Accepts every message without reading it."""

    def onData(self, stream: MessageStream, session: Session) -> str:
        return "Taken unread"


class HeldMessages(Hooks):
    """Neither reads a message nor ends."""

    def onData(self, stream: MessageStream, session: Session) -> Deferred[None]:
        return Deferred()


class HalfReadMessages(Hooks):
    """Reads the first chunk of a message, and then neither reads on nor ends."""

    async def onData(self, stream: MessageStream, session: Session) -> None:
        async for _ in stream:
            log.info("one chunk was read")
            await Deferred()


class SlowlyReadMessages(Hooks):
    """Does nothing else for a while after each chunk of a message."""

    async def onData(self, stream: MessageStream, session: Session) -> str:
        octets = 0
        async for chunk in stream:
            octets += len(chunk)
            await deferLater(reactor, 0)
        return f"Counted {octets}"


class RewrittenMessages:
    """A layer that makes other octets of those that pass."""

    async def filterData(self, stream: MessageStream, session: Session) -> AsyncIterator[bytes]:
        stream.prepend(b"X-Rewritten: yes\r\n")
        async for chunk in stream:
            yield chunk.swapcase()


class InspectedMessages(RewrittenMessages):
    """A layer that reads a message before it rewrites it."""

    async def inspectData(self, stream: MessageStream, session: Session) -> None:
        async for _ in stream:
            await deferLater(reactor, 0)


class SpooledMessages(Hooks):
    """Reads every message twice while it arrives, and once more when it is there."""

    async def onData(self, stream: MessageStream, session: Session) -> str:
        async def count(reader: MessageStream) -> int:
            return sum([len(chunk) async for chunk in reader])

        spool = Spool(262144, MessageStream)
        counting = [ensureDeferred(count(spool.open())) for _ in range(2)]
        await spool.receive(stream)
        counts = [await each for each in counting] + [await count(spool.open())]
        spool.close()
        return f"Counted {counts}"
