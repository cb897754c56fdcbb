"""What type checkers must accept: hooks and options in every valid form.  It is checked, and never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any

from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.names.client import Resolver
from twisted.python.failure import Failure
from typing_extensions import Unpack

from smtphooks import (
    Address,
    Auth,
    AuthResponse,
    Extension,
    Hooks,
    Layer,
    MessageStream,
    Options,
    Session,
    SMTPError,
    SMTPServerFactory,
    SMTPService,
    asyncioHook,
)
from smtphooks.hooktypes import ObjectOfHooks, OnData, OnRcptTo
from smtphooks.layer import GivenHooks
from smtphooks.layers import DNSLists, Greylist, RateLimit, Recipients
from smtphooks.optiontypes import FactoryOptions, HostOptions, ServerOptions, TLSOptions
from smtphooks.replies import Reply
from smtphooks.stores import Command, Discard, Maildir, Tee


class All(Hooks):
    """Each hook with the types that it is called with, and each kind of result."""

    def onConnect(self, session: Session) -> None: ...

    async def onSecure(self, transport: Any, session: Session) -> None:
        transport.getPeerCertificate()

    def onHelo(self, hostname: str, session: Session) -> Deferred[str | None]:
        return succeed(None)

    async def onAuth(self, auth: Auth, session: Session) -> AuthResponse:
        return AuthResponse(user=auth.username)

    def onMailFrom(self, address: Address, session: Session) -> str:
        return f"{address.address} is fine, {session.remoteAddress}"

    async def onRcptTo(self, address: Address, session: Session) -> str | None:
        if address.local == "nobody":
            raise SMTPError("No such user", responseCode=550)
        return None

    async def onData(self, stream: MessageStream, session: Session) -> str:
        return f"{len(await stream.read())} octets"

    async def onReset(self, session: Session) -> None: ...

    @inlineCallbacks
    def onVrfy(self, text: str, session: Session) -> Generator[Deferred[None], None, str]:
        yield succeed(None)
        return text

    def onClose(self, session: Session) -> Deferred[None]:
        return succeed(None)

    def onError(self, failure: Failure, session: Session | None) -> None: ...
    def onReply(self, verb: str, reply: Reply, session: Session) -> None: ...
    async def inspectData(self, stream: MessageStream, session: Session) -> None: ...

    async def filterData(self, stream: MessageStream, session: Session) -> AsyncIterator[bytes]:
        async for chunk in stream:
            yield chunk.upper()

    async def onStart(self, service: SMTPService) -> None: ...
    def onStop(self, service: SMTPService) -> None: ...


class Some(Hooks):
    """Some of them, with parameters named otherwise, and one more."""

    def onMailFrom(self, sender: Address, session: Session) -> SMTPError | None:
        return None

    def onRcptTo(self, recipient: Address, session: Session, strictly: bool = False) -> None: ...

    def onData(self, stream: MessageStream, session: Session) -> Deferred[Sequence[str | None]]:
        return succeed([None for _ in session.envelope.rcptTo])


class Duck:
    """No base class."""

    def onMailFrom(self, address: Address, session: Session) -> asyncio.Future[str | None]:
        return asyncio.get_running_loop().create_future()

    async def onData(self, stream: MessageStream, session: Session) -> list[str | SMTPError]:
        return ["queued" for _ in session.envelope.rcptTo]

    def andMore(self) -> int:
        return 1


class Static:
    @staticmethod
    async def onRcptTo(address: Address, session: Session) -> None: ...


class AsAttribute:
    def __init__(self, onData: OnData) -> None:
        self.onData = onData


async def onRcptTo(address: Address, session: Session) -> str | None:
    return None


@asyncioHook
async def onData(stream: MessageStream, session: Session) -> None:
    async with asyncio.Lock():
        await stream.read()


def onDataAtOnce(stream: object, session: object) -> None: ...


anything: Any = object()
realm: IRealm = anything
resolver: Resolver = anything
SMTPServerFactory()
SMTPServerFactory(All())
SMTPServerFactory(hooks=Some())
SMTPServerFactory(hooks=Duck())
SMTPServerFactory(hooks=Static())
SMTPServerFactory(hooks=AsAttribute(onData))
SMTPServerFactory(hooks=anything)
SMTPServerFactory(hooks=Layer(Duck()))
layers: list[ObjectOfHooks | Layer] = [
    RateLimit(limits=["9 messages per minute per client"]),
    Layer(Static(), "static"),
]
layers.append(Greylist(path="greylist.sqlite"))
layers.append(DNSLists(clients=["zen.example.org"], servers=["127.0.0.1"], resolver=resolver))
layers.append(Recipients(recipients=["user@example.org"]))
given: GivenHooks = [Static(), Layer(Duck()), Maildir("maildir")]
SMTPServerFactory(given)
SMTPServerFactory(hooks=[*layers, Layer(Duck(), unless=["authenticated"], hookTimeout=3, onFault="pass")])
SMTPServerFactory(hooks=(Static(), Maildir("maildir")), size=1024)
SMTPServerFactory(hooks=[Tee(Maildir("maildir"), Discard())])
SMTPServerFactory(hooks=Command(["cat"], concurrency=5))

factory = SMTPServerFactory(
    Static(),
    onMailFrom=lambda address, session: f"Hello {address.domain}",
    onData=onData,
    onAuth=None,
    onClose=print,
    authMethods=["PLAIN", "SCRAM-SHA-256"],
    disabledCommands={"VRFY"},
    extensions=(Extension("XEXAMPLE"),),
    portal=Portal(realm),
    resolver=resolver,
    socketTimeout=30,
    slowHook=0.1,
    size=26214400,
    useProxy=["10.0.0.0/8"],
    useXClient=True,
    bareNewline="reject",
    maxAllowedUnauthenticatedCommands=False,
    key=b"-----BEGIN PRIVATE KEY-----",
    cert="cert.pem",
    minVersion="TLSv1.3",
    maxVersion=None,
    sniOptions={"mx.example.org": {"key": "key.pem", "cert": "cert.pem"}},
)
factory.onRcptTo = onRcptTo
factory.onRcptTo = All().onRcptTo
factory.onData = onDataAtOnce
factory.onData = None
factory.updateSecureContext()
factory.updateSecureContext(key="key.pem", cert="cert.pem", ciphers="HIGH")
Options(size=3, useProxy=["10.0.0.0/8"], lmtp=True).socketTimeout.is_integer()


def handOn(hook: OnRcptTo, **options: Unpack[FactoryOptions]) -> SMTPServerFactory:
    return SMTPServerFactory(All(), **options)


handOn(onRcptTo, lmtp=True, onReset=lambda session: None)
host: HostOptions = {"key": "key.pem", "cert": "cert.pem"}
common: ServerOptions = {"size": 1000, "sniOptions": {"mx.example.org": host}}
tls: TLSOptions = {"key": "key.pem", "cert": "cert.pem"}
SMTPServerFactory(**common)
factory.updateSecureContext(**tls)
