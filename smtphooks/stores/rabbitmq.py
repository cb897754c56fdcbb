"""
The store C{RabbitMQ}: each message becomes one of a queue, and its client has a 250 when the broker has confirmed it.

In: the stream and the session of C{onData}.  Out: a persistent message with the envelope, the session and the verdicts
as headers; or, for a large one, its octets in a shared store and a reference to them in the queue.
Rule: whatever the broker has not confirmed is a 4xx, so a client tries again, and a message may be in the queue twice,
with the same idempotency key.
This module knows no AMQP: what can go wrong with a broker is known to the link.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
from twisted.logger import Logger

from smtphooks.client.tls import checkTLS
from smtphooks.currentreactor import currentReactor
from smtphooks.errors import OptionError
from smtphooks.hooks import Unavailable
from smtphooks.optionkinds import count, flag, option, pem, seconds, withOptions
from smtphooks.replies import TOO_LARGE
from smtphooks.session import Session
from smtphooks.spool import Spool
from smtphooks.stores.claims import Claims, claimsOf, isClaims, shownClaims
from smtphooks.stores.description import describe
from smtphooks.stores.rabbitmqaddress import NodeAddress, addressOf, isURL, withoutPassword
from smtphooks.stores.rabbitmqconfirms import NotTaken
from smtphooks.stores.rabbitmqlink import Link, Target, routeOf
from smtphooks.stores.rabbitmqmessage import Part, partsOf
from smtphooks.stores.rabbitmqpublisher import Publisher, Room
from smtphooks.stream import MessageStream

if TYPE_CHECKING:
    from pika import BasicProperties

log: Logger = Logger()

# Headers that say where the octets of a message are, at most.
_CLAIM_OCTETS = 4096


def _asTuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _shownURLs(value: Any) -> Any:
    shown = tuple(map(withoutPassword, value)) if isinstance(value, tuple) else (withoutPassword(value),)
    return shown[0] if len(shown) == 1 else shown


def _isName(value: Any) -> bool:
    return isinstance(value, str) and len(value.encode(errors="replace")) <= 255


@withOptions
class RabbitMQ:
    """
    A store that publishes every message to RabbitMQ, C{smtphooks.stores.RabbitMQ}.

    @ivar url: C{amqp://user:password@host:port/vhost} or C{amqps://}; a list for the nodes of a cluster.
    @ivar exchange: where messages are published; empty for the default exchange, which knows queues by name.
    @ivar routingKey: the name of the queue, or what the exchange routes by.
    @ivar declare: declare the queue C{routingKey} as a durable quorum queue, unless it is there.
    @ivar ca: what the certificates of nodes are verified by, PEM or the path of a file; None for what the system
        trusts.
    @ivar maxMessageSize: octets of a message that the broker takes, 0 for no limit: its C{max_message_size}.
    @ivar claims: where the octets of large messages are kept: the path of a folder, or a table for S3.
    @ivar claimAbove: octets of a message; those of a larger one are kept there, if C{claims} is given.
    @ivar connectTimeout: seconds that a node may take until it can be published to, 0 for no limit.
    @ivar confirmTimeout: seconds that it may take to confirm a message, 0 for no limit.
    @raise OptionError: for a wrong value.
    """

    url: tuple[str, ...] = option(
        attrs.NOTHING,
        '"amqp://host:port/vhost" or "amqps://…", with "user:password@" in front of host, or a list of these',
        lambda value: isinstance(value, tuple) and bool(value) and all(map(isURL, value)),
        converter=_asTuple,
        show=_shownURLs,
    )
    exchange: str = option("", "the name of an exchange, of 255 octets at most", _isName)
    routingKey: str = option("smtphooks", "a routing key, of 255 octets at most", _isName)
    declare: bool = flag(False)
    ca: str | bytes | None = pem()
    maxMessageSize: int = count(16777216, "octets")
    claims: Claims | None = option(
        None,
        "the path of a folder, or a table with url, region, accessKey and secretKey",
        isClaims,
        converter=claimsOf,
        show=shownClaims,
        isLayerPath=lambda text: True,
    )
    claimAbove: int = count(1048576, "octets")
    connectTimeout: float = seconds(10)
    confirmTimeout: float = seconds(30)
    clock: Any = attrs.field(default=None, init=False, repr=False)
    _publisher: Publisher | None = attrs.field(default=None, init=False, repr=False)
    _room: Room = attrs.field(factory=Room, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if importlib.util.find_spec("pika") is None:
            raise OptionError("RabbitMQ needs a library that is not installed (pika): install smtphooks[rabbitmq]")
        if self.declare and (self.exchange or not self.routingKey):
            raise OptionError(
                "option declare is for the queue that routingKey names in the default exchange", options=["declare"]
            )
        if self.ca is not None:
            nodes = [address for address in map(addressOf, self.url) if address.isSecure]
            if not nodes:
                raise OptionError("option ca is given, and no URL that begins with amqps:", options=["ca"])
            checkTLS(routeOf(nodes[0], self.ca))

    async def onStart(self, service: object) -> None:
        """Connect; that no node can be reached now is logged, and keeps nothing from starting."""
        self._working().start()

    async def onStop(self, service: object) -> None:
        """Close the connection."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()

    async def onData(self, stream: MessageStream, session: Session) -> str:
        """
        Publish the message.

        @return: the text of the reply, with the id of the message.
        @raise SMTPError: 552 for a message that the broker would not take.
        @raise Unavailable: if the broker has not confirmed it.
        """
        description = describe(session)
        received = session.receivedHeader().encode(errors="replace")
        stream.prepend(received)
        spool = await stream.spool()
        try:
            isTooLarge = 0 < self.maxMessageSize < spool.length
            if self.claims is not None and (isTooLarge or spool.length > self.claimAbove):
                await self._publishClaim(self.claims, spool, len(received), description)
            elif isTooLarge:
                raise TOO_LARGE.asError()
            else:
                await self._publishWhole(spool, len(received), description)
        finally:
            spool.close()
        log.info(
            "queued {id}: {octets} octets [{session}]",
            session=session.id,
            peer=session.remoteAddress,
            id=description["id"],
            octets=stream.byteLength,
        )
        return f"Queued as {description['id']}"

    def _working(self) -> Publisher:
        if self._publisher is None:
            clock = self.clock or currentReactor()
            target = Target(self.exchange, self.routingKey, self.declare, self.ca, self.confirmTimeout)

            def makeLink(address: NodeAddress) -> Link:
                return Link(address, target, clock)

            self._publisher = Publisher(list(map(addressOf, self.url)), makeLink, clock, self.connectTimeout)
        return self._publisher

    async def _publishWhole(self, spool: Spool[MessageStream], own: int, description: dict[str, Any]) -> None:
        octets = spool.length
        await self._room.take(octets)
        try:
            link = await self._working().link()
            body = b"".join([chunk async for chunk in spool.open()])
            digest = hashlib.sha256(memoryview(body)[own:]).digest()
            for part in partsOf(description, digest, link.headerOctets):
                await _confirmed(link, part, "message/rfc822", body)
        finally:
            self._room.give(octets)

    async def _publishClaim(
        self, claims: Claims, spool: Spool[MessageStream], own: int, description: dict[str, Any]
    ) -> None:
        link = await self._working().link()  # Before anything is kept that nobody would refer to.
        whole, message = hashlib.sha256(), hashlib.sha256()
        async for chunk in spool.open():
            whole.update(chunk)
            message.update(memoryview(chunk)[own:])
            own = max(0, own - len(chunk))
        for part in partsOf(description, message.digest(), link.headerOctets - _CLAIM_OCTETS):
            # One for each part: who has delivered it removes it.
            reference = await claims.keep(part.id, spool, whole.hexdigest())
            about = {"claim": reference, "claim-octets": str(spool.length), "claim-sha256": whole.hexdigest()}
            try:
                # Keeping may have taken long.
                link = await self._working().link()
                await _confirmed(link, part._replace(headers=part.headers | about), "message/external-body", b"")
            except NotTaken:
                with suppress(Unavailable):
                    await claims.drop(reference)
                raise


async def _confirmed(link: Link, part: Part, contentType: str, body: bytes) -> None:
    publication = link.publish(part.id, _properties(part, contentType), body)
    try:
        await publication.outcome
    finally:
        # If this coroutine was closed, nobody waits for it.
        publication.outcome.addErrback(lambda failure: None)


def _properties(part: Part, contentType: str) -> BasicProperties:
    from pika import BasicProperties

    headers: dict[str, Any] = dict(part.headers)
    return BasicProperties(
        content_type=contentType,
        message_id=part.id,
        timestamp=int(time.time()),
        delivery_mode=2,  # persistent
        headers=headers,
    )
