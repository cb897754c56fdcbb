"""
A link to one node of RabbitMQ: one connection, one channel in confirm mode, any number of messages in flight.

In: messages.  Out: for each of them an outcome that is certain, or a failure within the time limit.
Rules: whatever is in doubt ends the link and fails all that it has not confirmed, and a link that has ended is never
used again, so no number of an old channel can be taken for one of a new channel.  pika is imported when a link is
opened, not before: its adapter imports the reactor.
This module knows neither mail nor other nodes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger

from smtphooks.client.route import Route
from smtphooks.client.tls import Encryption, encryptionFor
from smtphooks.currentreactor import currentReactor
from smtphooks.hooks import Unavailable
from smtphooks.stores.rabbitmqaddress import NodeAddress
from smtphooks.stores.rabbitmqconfirms import Confirms, NotTaken, Publication, describeError

if TYPE_CHECKING:
    from pika import BasicProperties

log: Logger = Logger()

# Seconds after which a connection without any octet is taken for dead, on both sides.
_HEARTBEAT = 20

# A broker that has run out of memory or disk still takes what it has read by then: seconds to hear of that.
_BLOCKED_SECONDS = 2.0

# Seconds that a broker may take to close the connection that we want to close.
_CLOSE_SECONDS = 5.0

# Octets of a frame that are no properties: those around every frame, and the fixed part of a content header.
_FRAME_OCTETS = 64


@attrs.frozen
class Target:
    """
    Where messages go within the broker.

    @ivar declare: declare the queue, and do not only look whether it is there.
    @ivar ca: what the certificates of nodes are verified by; None for what the system trusts.
    @ivar confirmTimeout: seconds that a node may take to confirm a message, 0 for no limit.
    """

    exchange: str
    routingKey: str
    declare: bool
    ca: str | bytes | None
    confirmTimeout: float


def routeOf(address: NodeAddress, ca: str | bytes | None) -> Route:
    """The way to a node, as far as its TLS is concerned."""
    return Route(host=address.host, port=address.port, tls="implicit", ca=ca)


@cache
def _protocolClass() -> Any:
    from pika.adapters.twisted_connection import TwistedProtocolConnection

    class Connection(TwistedProtocolConnection):  # type: ignore[misc]
        """
        pika's, which forgets why the broker has closed a connection when the transport has closed as well.

        @ivar cause: why it ended.
        """

        cause: Any = None

        def connectionLost(self, reason: Any = connectionDone) -> None:
            self.cause = self._impl._error or reason.value
            super().connectionLost(reason)

    return Connection


class Link:
    """
    @ivar lost: fires with the reason, a text, when the link has ended.
    @ivar isOpen: messages can be published.
    @ivar hasConfirmed: the broker has taken a message.
    @ivar headerOctets: the octets that the properties of a message may have.
    @ivar blocked: why the broker takes nothing now; None if it does.
    """

    def __init__(self, address: NodeAddress, target: Target, clock: Any) -> None:
        self.lost: Deferred[str] = Deferred()
        self.isOpen: bool = False
        self.hasConfirmed: bool = False
        self.headerOctets: int = 0
        self.blocked: str | None = None
        self._address = address
        self._target = target
        self._clock = clock
        self._confirms = Confirms(str(address))
        self._encryption: Encryption | None = None
        self._protocol: Any = None
        self._channel: Any = None
        self._patience: Any = None  # a timer while the broker is blocked and may still confirm
        self._hasEnded = False

    @property
    def _name(self) -> str:
        return f"RabbitMQ at {self._address}"

    # --- opening ---

    async def open(self) -> None:
        """
        Connect, open the channel, and see that there is somewhere for messages to go.

        @raise Unavailable: if that fails; nothing is left open then, nor if it is cancelled.
        """
        try:
            await self._connect()
            await self._openChannel()
        except Unavailable as error:
            self._end(str(error))
            raise
        except BaseException as error:
            fault = None if self._encryption is None else self._encryption.fault
            why = fault or describeError(getattr(self._protocol, "cause", None) or error)
            self._end(why)
            if not isinstance(error, Exception):  # the coroutine was closed
                raise
            raise Unavailable(f"{self._name} cannot be used: {why}") from error
        self.isOpen = True
        log.info("connected to RabbitMQ at {node}", node=str(self._address))

    async def _connect(self) -> None:
        from pika import ConnectionParameters, PlainCredentials

        address, reactor = self._address, currentReactor()
        parameters = ConnectionParameters(
            virtual_host=address.virtualHost,
            credentials=PlainCredentials(address.user, address.password),
            heartbeat=_HEARTBEAT,
            client_properties={"connection_name": "smtphooks"},
        )
        endpoint: Any = HostnameEndpoint(reactor, address.host, address.port)
        if address.isSecure:
            self._encryption = encryptionFor(routeOf(address, self._target.ca))
            endpoint = wrapClientTLS(self._encryption, endpoint)
        protocol = _protocolClass()(parameters, custom_reactor=reactor)
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        await endpoint.connect(factory)
        self._protocol = protocol
        if protocol.ready is not None:
            await protocol.ready
        closed = protocol.closed
        if closed is None:
            raise Unavailable(f"{self._name} has closed the connection")
        closed.addCallback(lambda reason: self._end(f"the connection was closed: {describeError(protocol.cause)}"))
        self._impl.add_on_connection_blocked_callback(self._becameBlocked)
        self._impl.add_on_connection_unblocked_callback(self._becameFree)
        self.headerOctets = self._impl.params.frame_max - _FRAME_OCTETS

    @property
    def _impl(self) -> Any:
        """pika's connection behind its Twisted protocol, which does not hand on that a connection is blocked."""
        return getattr(self._protocol, "_impl", None)

    async def _openChannel(self) -> None:
        self._channel = channel = await self._protocol.channel()
        channel.on_closed.addCallback(lambda reason: self._end(f"the channel was closed: {describeError(reason)}"))
        await self._findTarget(channel)
        channel.add_on_return_callback(self._returned)
        selected: Deferred[Any] = Deferred()
        # TwistedChannel.confirm_delivery would give a return to whatever message is acknowledged next.
        channel._channel.confirm_delivery(self._confirmed, selected.callback)
        if channel.is_closed:
            raise Unavailable(f"{self._name} has closed the channel")
        self.lost.addCallback(lambda why: self._endOpening(selected, why))
        await selected

    def _endOpening(self, selected: Deferred[Any], why: str) -> str:
        if not selected.called:
            selected.errback(Unavailable(f"{self._name} cannot be used: {why}"))
        return why

    async def _findTarget(self, channel: Any) -> None:
        target = self._target
        if target.exchange:
            await channel.exchange_declare(target.exchange, passive=True)
        elif target.declare:
            # "quorum" cannot be changed later, so a queue of another type is an error here: 406.
            arguments = {"x-queue-type": "quorum"}
            await channel.queue_declare(target.routingKey, durable=True, arguments=arguments)
        else:
            await channel.queue_declare(target.routingKey, passive=True)

    # --- publishing ---

    def publish(self, id: str, properties: BasicProperties, body: bytes) -> Publication:
        """
        Publish a message.

        @param id: the message id in the properties.
        @raise NotTaken: if the link is not open or blocked, or the message cannot be sent.
        """
        if self.blocked is not None:
            raise NotTaken(f"{self._name} takes nothing now: {self.blocked}")
        target = self._target
        publication = Publication(id)
        try:
            if not self.isOpen:
                raise NotTaken(f"{self._name} is lost")
            self._channel.basic_publish(target.exchange, target.routingKey, body, properties, mandatory=True)
        except NotTaken:
            raise
        except Exception as error:
            raise NotTaken(f"{self._name} cannot be told of a message: {describeError(error)}") from error
        self._confirms.add(publication)
        if target.confirmTimeout:
            timer = self._clock.callLater(target.confirmTimeout, self._timedOut)
            publication.onEnd(lambda: timer.active() and timer.cancel())
        return publication

    def _confirmed(self, frame: Any) -> None:
        from pika.spec import Basic

        method = frame.method
        isTaken = isinstance(method, Basic.Ack)
        self.hasConfirmed = self.hasConfirmed or isTaken
        self._confirms.confirmed(method.delivery_tag, method.multiple, isTaken)

    def _returned(self, message: Any) -> None:
        self._confirms.returned(message.properties.message_id, f"{message.method.reply_text}, option routingKey")

    def _timedOut(self) -> None:
        self._end(f"it has not confirmed a message within {self._target.confirmTimeout:g} seconds")

    # --- a broker that is out of memory or disk ---

    def _becameBlocked(self, connection: object, frame: Any) -> None:
        self.blocked = str(frame.method.reason)[:300] or "it is blocked"
        log.warn("RabbitMQ at {node} takes nothing now: {why}", node=str(self._address), why=self.blocked)
        self._relax()
        self._patience = self._clock.callLater(_BLOCKED_SECONDS, self._giveUp)

    def _giveUp(self) -> None:
        self._patience = None
        self._confirms.giveUp(Unavailable(f"{self._name} takes nothing now: {self.blocked}"))

    def _becameFree(self, connection: object, frame: object) -> None:
        self.blocked = None
        self._relax()
        log.info("RabbitMQ at {node} takes messages again", node=str(self._address))

    def _relax(self) -> None:
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()

    # --- the end ---

    def _end(self, why: str) -> None:
        if self._hasEnded:
            return
        self._hasEnded = True
        wasOpen, self.isOpen = self.isOpen, False
        self._relax()
        self._confirms.fail(Unavailable(f"{self._name}: {why}"))
        transport = getattr(self._protocol, "transport", None)
        if transport is not None:
            # A broker that hangs would not take what is still to be written.
            transport.abortConnection()
        if wasOpen:
            log.warn("lost RabbitMQ at {node}: {why}", node=str(self._address), why=why)
        self.lost.callback(why)

    async def close(self) -> None:
        """Close the connection; what was not confirmed fails."""
        if self._hasEnded or self._protocol is None:
            return
        self.isOpen = False
        ended: Deferred[None] = Deferred()
        self.lost.addCallback(lambda why: ended.callback(None))
        timer = self._clock.callLater(_CLOSE_SECONDS, self._end, "it does not close the connection")
        try:
            self._protocol.close()
            await ended
        finally:
            if timer.active():
                timer.cancel()
            self._end("the connection was closed")
