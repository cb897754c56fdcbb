"""
Deliver mail from a queue of RabbitMQ, where smtphooks.stores.RabbitMQ has put it, to a server of SMTP or LMTP.

    python queuedelivery.py amqp://127.0.0.1 127.0.0.1:10025
    python queuedelivery.py amqp://one,amqp://two /run/dovecot/lmtp --lmtp --claims /srv/claims

A message leaves the queue when the server has it for every recipient, or when another queue has it for those that are
left: for who was refused for now a queue whose messages come back after a while, each time later; for who was refused
for good, or too often, the queue "….parked", for somebody to look at.  Any number of these programs may run at once.  A
program or a broker that is lost in the middle makes a message be delivered twice, and none be lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import AsyncIterable, AsyncIterator
from functools import partial
from typing import Any

import pika  # type: ignore[import-untyped]
from pika.adapters.twisted_connection import TwistedProtocolConnection  # type: ignore[import-untyped]
from pika.exceptions import AMQPError  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred, DeferredList, DeferredLock, ensureDeferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionClosed
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import deferLater, react
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from smtphooks.client import ClientError, Route, SMTPClient, routeTo
from smtphooks.stores.claims import FolderClaims

log = Logger()

QUORUM = {"x-queue-type": "quorum"}

# What of MAIL was said about another hop than this one: the client here counts the octets itself.
NOT_HANDED_ON = ("SIZE", "AUTH")

# What of an envelope there is one of for each recipient.
LISTS = ("rcptTo", "rcptParameters")

# Seconds that a broker may take until messages come from it.
OPENING = 20


class Consumer:
    """
    Takes messages from the queue, one connection after the other.

    @ivar pauses: seconds after which a message comes back, for each attempt after the first.
    """

    def __init__(self, reactor: Any, route: Route, given: argparse.Namespace) -> None:
        self.reactor = reactor
        self.route = route
        self.urls = given.urls.split(",")
        self.queue = given.queue
        self.pauses = [int(pause) for pause in given.pauses.split(",")]
        self.parallel = given.parallel
        self.claims: Any = FolderClaims(given.claims) if given.claims else None
        self.client = SMTPClient(connections=given.parallel)
        self.publishing = DeferredLock()
        self.deliveries: set[Deferred[None]] = set()
        self.isStopping = False
        self.protocol: Any = None
        self.channel: Any = None
        self.consuming = ""

    # --- the broker ---

    async def run(self) -> None:
        while not self.isStopping:
            url = self.urls.pop(0)
            self.urls.append(url)
            parameters = pika.URLParameters(url)
            try:
                await self.consume(parameters)
            except Exception as error:
                if not self.isStopping:
                    log.warn("lost RabbitMQ at {host}: {error!r}", host=parameters.host, error=error)
                    await deferLater(self.reactor, 2)

    async def consume(self, parameters: Any) -> None:
        """Take messages until the connection ends, which raises."""
        endpoint: Any = HostnameEndpoint(self.reactor, parameters.host, parameters.port)
        if parameters.ssl_options is not None:
            endpoint = wrapClientTLS(optionsForClientTLS(parameters.host), endpoint)
        protocol: Any = TwistedProtocolConnection(parameters, custom_reactor=self.reactor)
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        await endpoint.connect(factory)
        try:
            messages = await ensureDeferred(self.subscribe(protocol)).addTimeout(OPENING, self.reactor)
            log.info("delivering from {queue} to {route}", queue=self.queue, route=str(self.route))
            while True:
                message = await messages.get()
                delivery = ensureDeferred(self.handle(protocol, self.channel, message))
                self.deliveries.add(delivery)
                delivery.addBoth(partial(self.forget, delivery))
        finally:
            # A queue that cannot be used, or is deleted, leaves the connection as it is.
            if not self.isStopping:
                protocol.transport.abortConnection()

    def forget(self, delivery: Deferred[None], result: object) -> None:
        self.deliveries.discard(delivery)

    async def subscribe(self, protocol: Any) -> Any:
        """The queue of pika in which messages come."""
        await protocol.ready
        self.protocol = protocol
        self.channel = channel = await protocol.channel()
        await self.declare(channel)
        await channel.confirm_delivery()
        await channel.basic_qos(prefetch_count=self.parallel)
        messages, self.consuming = await channel.basic_consume(self.queue)
        return messages

    async def declare(self, channel: Any) -> None:
        await channel.queue_declare(self.queue, durable=True, arguments=QUORUM)
        await channel.queue_declare(f"{self.queue}.parked", durable=True, arguments=QUORUM)
        for pause in self.pauses:
            arguments = {
                **QUORUM,
                "x-message-ttl": pause * 1000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.queue,
                # The broker keeps a message here until the queue has it; this needs the other.
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
            await channel.queue_declare(f"{self.queue}.retry.{pause}", durable=True, arguments=arguments)

    async def stop(self) -> None:
        """Take no more messages, and deliver those that were taken."""
        self.isStopping = True
        if self.consuming and self.channel.is_open:
            await self.channel.basic_cancel(self.consuming)
        await DeferredList(list(self.deliveries))
        await self.client.close()
        if self.protocol is not None and self.protocol.is_open:
            await self.protocol.close()

    # --- a message ---

    async def handle(self, protocol: Any, channel: Any, message: Any) -> None:
        _, method, properties, body = message
        try:
            left = await self.deliver(channel, properties, body)
            channel.basic_ack(method.delivery_tag)
        except Exception as error:
            if isinstance(error, (AMQPError, ConnectionClosed)):
                log.warn("{id} stays in the queue: {error!r}", id=properties.message_id, error=error)
            else:
                log.failure("{id} stays in the queue", id=properties.message_id)
            # When this connection is gone, the queue gives the message to whoever takes it next.
            protocol.transport.loseConnection()
            return
        if not left and "claim" in properties.headers:
            try:
                await self.claims.drop(properties.headers["claim"])
            except Exception as error:  # it is an orphan
                log.warn("{claim} is not removed: {error!r}", claim=properties.headers["claim"], error=error)

    async def deliver(self, channel: Any, properties: Any, body: bytes) -> bool:
        """Deliver a message; True if it is still in a queue, or its content is needed by another message."""
        headers = properties.headers or {}
        try:
            envelope, attempt = read(headers)
        except (LookupError, RecursionError, TypeError, ValueError) as error:  # no message of ours
            await self.publish(channel, "parked", properties, body, {"reason": repr(error)})
            return True
        try:
            refused = await self.send(envelope, self.contentOf(headers, body))
        except ClientError as error:
            refused = {i: (error.isPermanent, str(error)) for i in range(len(envelope["rcptTo"]))}
        except (LookupError, RecursionError, ValueError) as error:  # it is not its content, or not there
            await self.publish(channel, "parked", properties, body, {"reason": repr(error)})
            return True
        except Exception as error:
            # Whatever it is, like a disk that cannot be read: other messages are not held up, and this one is not tried
            # for ever.
            refused = {i: (False, repr(error)) for i in range(len(envelope["rcptTo"]))}
        final = attempt >= len(self.pauses)
        never = [i for i, (isPermanent, _) in refused.items() if isPermanent or final]
        later = [i for i in refused if i not in never]
        log.info(
            "{id}: {count} delivered, {later} refused for now, {never} parked {reasons}",
            id=properties.message_id,
            count=len(envelope["rcptTo"]) - len(refused),
            later=len(later),
            never=len(never),
            reasons=sorted({reason for _, reason in refused.values()}),
        )
        # Two messages with one claim: neither may remove it.
        isShared = bool(later and never) or "claim-shared" in headers
        for some, name in ((later, "" if final else f"retry.{self.pauses[attempt]}"), (never, "parked")):
            if some:
                part = {key: [envelope[key][i] for i in some] for key in ("rcptTo", "rcptParameters")}
                own = {"envelope": json.dumps({**envelope, **part}), "attempt": attempt + 1}
                own |= {"reason": refused[some[0]][1]} | ({"claim-shared": "yes"} if isShared else {})
                await self.publish(channel, name, properties, body, own)
        return bool(refused) or isShared

    async def send(self, envelope: Any, content: bytes | AsyncIterable[bytes]) -> dict[int, tuple[bool, str]]:
        """Who was refused, by number: for good or not, and why."""
        delivery = await self.client.send(
            self.route,
            envelope["mailFrom"],
            envelope["rcptTo"],
            content,
            mailArgs={name: value for name, value in envelope["mailParameters"].items() if name not in NOT_HANDED_ON},
            rcptArgs=envelope["rcptParameters"],
        )
        accepted = [i for i in range(len(envelope["rcptTo"])) if i not in delivery.refused]
        replies = delivery.replies if self.route.lmtp else list(delivery.replies) * len(accepted)
        told = {**delivery.refused, **dict(zip(accepted, replies, strict=True))}
        return {i: (reply.isPermanent, str(reply)) for i, reply in told.items() if reply.code >= 300}

    def contentOf(self, headers: Any, body: bytes) -> bytes | AsyncIterable[bytes]:
        if "claim" not in headers:
            return body
        if self.claims is None:
            raise ValueError("a message with a claim, and no --claims")
        return self.verified(self.claims.read(headers["claim"]), headers["claim-sha256"])

    async def verified(self, chunks: AsyncIterator[bytes], digest: str) -> AsyncIterator[bytes]:
        """The chunks; that they are not those that were kept is raised before the server has the end of the message."""
        seen = hashlib.sha256()
        async for chunk in chunks:
            seen.update(chunk)
            yield chunk
        if seen.hexdigest() != digest:
            raise ValueError("the content is not what was kept")

    async def publish(self, channel: Any, name: str, properties: Any, body: bytes, headers: dict[str, Any]) -> None:
        """Put a message into a queue, and wait until the broker has it."""
        # All headers are in one frame, and one that is larger than the broker takes would end the connection.  So what
        # it says of where a message was (x-death) stays away, and of a long reply the rest.
        own = {key: value[:500] if key == "reason" else value for key, value in headers.items()}
        kept = {key: value for key, value in (properties.headers or {}).items() if not key.startswith("x-")}
        copy = pika.BasicProperties(
            content_type=properties.content_type,
            message_id=properties.message_id,
            timestamp=properties.timestamp,
            delivery_mode=2,
            headers={**kept, **own},
        )
        # One at a time: pika gives a message that was returned to whichever is confirmed next.
        await self.publishing.run(
            channel.basic_publish, "", f"{self.queue}.{name}", body, properties=copy, mandatory=True
        )


def read(headers: Any) -> tuple[Any, int]:
    """
    The envelope of a message, and how often it was tried before.

    @raise LookupError: and others, if it is no message of smtphooks.stores.RabbitMQ.
    """
    envelope, attempt = json.loads(str(headers["envelope"])), headers.get("attempt", 0)
    if not (isinstance(envelope, dict) and all(isinstance(envelope[key], list) for key in LISTS)):
        raise ValueError("the envelope is not as smtphooks.stores.RabbitMQ makes it")
    addresses = [envelope["mailFrom"], *envelope["rcptTo"], headers.get("claim", "")]
    parameters = [envelope["mailParameters"], *envelope["rcptParameters"]]
    isOurs = (
        len(addresses) - 1 == len(parameters) > 1
        and all(isinstance(each, str) for each in addresses)
        and all(isinstance(each, dict) for each in parameters)
        and isinstance(attempt, int)
        and attempt >= 0
    )
    if not isOurs:
        raise ValueError("the envelope is not as smtphooks.stores.RabbitMQ makes it")
    return envelope, attempt


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description="Deliver mail from a queue of RabbitMQ.")
    parser.add_argument("urls", help="amqp://user:password@host:port/vhost of the nodes, with commas between them")
    parser.add_argument("target", help="host:port, or the path of a socket")
    parser.add_argument("--queue", default="smtphooks", help="(%(default)s)")
    parser.add_argument("--lmtp", action="store_true", help="the server speaks LMTP")
    parser.add_argument("--tls", default="opportunistic", choices=["none", "opportunistic", "required", "implicit"])
    parser.add_argument("--pauses", default="60,300,900,3600,14400", help="seconds between attempts (%(default)s)")
    parser.add_argument("--parallel", type=int, default=20, help="messages at once (%(default)s)")
    parser.add_argument("--claims", help="the folder of claims")
    given = parser.parse_args()
    observer: Any = textFileLogObserver(sys.stdout)  # type checkers do not know the interfaces of zope
    globalLogBeginner.beginLoggingTo([observer])
    consumer = Consumer(reactor, routeTo(given.target, lmtp=given.lmtp, tls=given.tls), given)
    # SIGTERM ends deliveries in progress first.
    reactor.addSystemEventTrigger("before", "shutdown", lambda: ensureDeferred(consumer.stop()))
    await consumer.run()
    await Deferred[None]()


if __name__ == "__main__":
    react(main)
