"""
The publisher: one link to whichever node of RabbitMQ can be used, opened again when it was lost.

In: the addresses of nodes, and messages.  Out: a link for who asks, or L{NotTaken} at once while none can be had.
Rules: a link is opened when one is asked for, so no timer waits for a broker that is down; after an attempt in which no
node could be used there is none for a while that doubles with each; the node that was lost last is tried last.
This module knows no AMQP and no mail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.awaiting import Waiting
from smtphooks.hooks import Unavailable
from smtphooks.stores.rabbitmqaddress import NodeAddress
from smtphooks.stores.rabbitmqconfirms import NotTaken
from smtphooks.stores.rabbitmqlink import Link

log: Logger = Logger()

# Seconds from a failed attempt to the next.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0

# Octets of messages that are in memory at once, on their way to the broker or not yet confirmed; one message may exceed
# it by itself.
ROOM_OCTETS = 64 * 1024 * 1024


class Publisher:
    """Keeps the link."""

    def __init__(
        self,
        addresses: Sequence[NodeAddress],
        makeLink: Callable[[NodeAddress], Link],
        clock: Any,
        connectTimeout: float,
    ) -> None:
        """
        @param connectTimeout: seconds that a node may take until its link is open, 0 for no limit.
        """
        self._addresses = list(addresses)
        self._makeLink = makeLink
        self._clock = clock
        self._connectTimeout = connectTimeout
        self._link: Link | None = None
        self._attempt: Deferred[None] | None = None
        self._waiters: list[Waiting[Link]] = []
        self._failures = 0
        self._nextAttempt = 0.0
        self._why = ""
        self._isClosed = False

    async def link(self) -> Link:
        """
        A link that is open and takes messages.

        @raise NotTaken: if there is none now.
        """
        link = self._link or await self._opened()
        if link.blocked is not None:
            raise NotTaken(f"RabbitMQ takes nothing now: {link.blocked}")
        return link

    async def _opened(self) -> Link:
        waiter: Waiting[Link] = Waiting()
        self._waiters.append(waiter)
        try:
            self._begin()
            return await waiter
        finally:
            with suppress(ValueError):
                self._waiters.remove(waiter)

    def start(self) -> None:
        """Open a link before anybody asks for one; that it fails is logged."""
        with suppress(Unavailable):
            self._begin()

    async def close(self) -> None:
        """Close the link; there will be no other."""
        self._isClosed = True
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _begin(self) -> None:
        """Begin an attempt, unless there is one."""
        if self._isClosed:
            raise NotTaken("the connection to RabbitMQ was closed")
        if self._attempt is not None:
            return
        pause = self._nextAttempt - self._clock.seconds()
        if pause > 0:
            raise NotTaken(f"{self._why}; next attempt in {pause:.0f} seconds")
        attempt: Deferred[None] = Deferred.fromCoroutine(self._open())
        if not attempt.called:
            self._attempt = attempt
        attempt.addBoth(self._attempted)

    def _attempted(self, result: Failure | None) -> None:
        self._attempt = None
        waiters, self._waiters = self._waiters, []
        if isinstance(result, Failure) and result.check(Unavailable) is None:
            log.failure("RabbitMQ cannot be used", result)
            self._why = "RabbitMQ cannot be used"
        for waiter in waiters:
            link = self._link
            if link is None:
                waiter.errback(NotTaken(self._why))
            else:
                waiter.callback(link)

    async def _open(self) -> None:
        """
        Open a link to the first node that can be used.

        @raise Unavailable: if none can.
        """
        reasons = []
        for address in list(self._addresses):
            if self._isClosed:
                break
            link = self._makeLink(address)
            try:
                await self._within(link, address)
            except Unavailable as error:
                log.warn("{error}", error=str(error))
                reasons.append(str(error))
                self._putLast(address)
                continue
            self._link = link
            link.lost.addCallback(self._lost, link, address, self._clock.seconds())
            return
        self._why = "; ".join(reasons) or "the connection to RabbitMQ was closed"
        self._pause()
        raise Unavailable(self._why)

    def _pause(self) -> None:
        self._nextAttempt = self._clock.seconds() + min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures += 1

    async def _within(self, link: Link, address: NodeAddress) -> None:
        opening: Deferred[None] = Deferred.fromCoroutine(link.open())
        if self._connectTimeout:

            def late(result: object, seconds: float) -> None:
                raise Unavailable(f"RabbitMQ at {address} cannot be used: no answer within {seconds:g} seconds")

            opening.addTimeout(self._connectTimeout, self._clock, late)
        await opening

    def _putLast(self, address: NodeAddress) -> None:
        self._addresses.remove(address)
        self._addresses.append(address)

    def _lost(self, why: str, link: Link, address: NodeAddress, since: float) -> None:
        if self._link is not link:
            return
        self._link = None
        self._putLast(address)
        if link.hasConfirmed or self._clock.seconds() - since >= _LONGEST_PAUSE:
            self._failures = 0
        else:
            # A broker that opens a link and then closes it, as it does where we may not publish, is not asked for
            # another with every message.
            self._why = f"RabbitMQ at {address}: {why}"
            self._pause()


class Room:
    """Room for the octets of messages; who finds none waits, in order."""

    def __init__(self, octets: int = ROOM_OCTETS) -> None:
        self._octets = octets
        self._taken = 0
        self._waiters: list[tuple[int, Waiting[None]]] = []
        self._served: set[Waiting[None]] = set()  # and not yet resumed: a task of asyncio goes on later

    async def take(self, octets: int) -> None:
        """Wait for room, which L{give} gives back."""
        if self._waiters or not self._fits(octets):
            waiter: Waiting[None] = Waiting(self._forget)
            self._waiters.append((octets, waiter))
            try:
                await waiter
            except BaseException:
                if waiter in self._served:
                    self.give(octets)
                self._forget(waiter)
                raise
            finally:
                self._served.discard(waiter)
        else:
            self._taken += octets

    def give(self, octets: int) -> None:
        """The octets are in memory no more."""
        self._taken -= octets
        self._serve()

    def _fits(self, octets: int) -> bool:
        return not self._taken or self._taken + octets <= self._octets

    def _serve(self) -> None:
        while self._waiters and self._fits(self._waiters[0][0]):
            octets, waiter = self._waiters.pop(0)
            self._taken += octets
            self._served.add(waiter)
            waiter.callback(None)

    def _forget(self, waiter: Deferred[None]) -> None:
        self._waiters = [each for each in self._waiters if each[1] is not waiter]
        self._serve()
