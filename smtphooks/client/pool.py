"""
A pool of connections, by routes: one that is quiet is used again, and no server has more of them than it may have.

Rules: a connection is used by one transaction at a time; one about which there is any doubt is closed.  A server that
has as many connections as it may have lets the next one wait for its turn.
This module knows no transaction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.protocol import Factory

from smtphooks.awaiting import Waiting
from smtphooks.client.connection import Connection, Transcript
from smtphooks.client.errors import Unreachable
from smtphooks.client.route import Route
from smtphooks.client.timeouts import Timeouts

_NO_LIMIT = 86400.0


class Pool:
    """
    The connections of a client.

    @ivar timeouts: of each connection.
    """

    def __init__(
        self,
        limit: int,
        idleTimeout: float,
        timeouts: Timeouts,
        reactorOf: Callable[[], Any],
        transcript: Transcript | None = None,
    ) -> None:
        """
        @param limit: the most connections to one server, whatever they are for; 0 for no limit.
        @param idleTimeout: seconds after which a connection without a transaction is closed.
        @param reactorOf: the reactor; asked when it is needed.
        """
        self.timeouts: Timeouts = timeouts
        self._limit = limit
        self._idleTimeout = idleTimeout
        self._reactorOf = reactorOf
        self._transcript = transcript
        self._idle: dict[Route, list[tuple[Connection, Any]]] = {}
        self._open: dict[tuple[str, int], set[object]] = {}
        self._turns: dict[tuple[str, int], deque[Waiting[None]]] = {}
        self._isClosed = False

    async def take(self, route: Route, isFresh: bool = False) -> tuple[Connection, bool]:
        """
        A connection on which a transaction may begin, and whether it has been used before.

        @param isFresh: none that has been used.
        @raise ClientError: if there is none.
        """
        while True:
            self._mustBeOpen(route)
            connection = None if isFresh else self._takeIdle(route)
            if connection is not None:
                return connection, True
            if self._hasRoom(route):
                return await self._connect(route), False
            await self._turn(route)

    def give(self, connection: Connection) -> None:
        """The transaction on it has ended."""
        route = connection.route
        if not connection.isUsable:
            connection.abort()
        elif self._isClosed or not self._idleTimeout:
            connection.quit()
        else:
            timer = self._reactorOf().callLater(self._idleTimeout, self._expire, connection)
            self._idle.setdefault(route, []).append((connection, timer))
        self._nextTurn(route.peer)

    async def close(self) -> None:
        """Close all connections: those without a transaction at once, the others when theirs ends."""
        self._isClosed = True
        for turns in self._turns.values():
            while turns:
                turns.popleft().callback(None)
        for connection in [each for pairs in self._idle.values() for each, _ in pairs]:
            self._forget(connection)
            connection.quit()
        rest = [each.closed for those in self._open.values() for each in those if isinstance(each, Connection)]
        if rest:
            await DeferredList([_whenFired(each) for each in rest])

    # --- inside ---

    def _mustBeOpen(self, route: Route) -> None:
        if self._isClosed:
            raise Unreachable(f"the client of {route} is closed")

    def _takeIdle(self, route: Route) -> Connection | None:
        while route in self._idle:
            connection, _ = self._idle[route][-1]  # the one that is the least likely to have gone stale
            self._forget(connection)
            if connection.isUsable:
                return connection
            connection.abort()
        return None

    def _forget(self, connection: Connection) -> None:
        """It is not idle any more."""
        pairs = self._idle.get(connection.route, [])
        for pair in [pair for pair in pairs if pair[0] is connection]:
            pairs.remove(pair)
            if pair[1].active():
                pair[1].cancel()
        if not pairs:
            self._idle.pop(connection.route, None)

    def _expire(self, connection: Connection) -> None:
        self._forget(connection)
        connection.quit()

    def _hasRoom(self, route: Route) -> bool:
        """May there be another connection to this server; if need be, in place of one that is idle?"""
        those = self._open.get(route.peer, set())
        if not self._limit or len(those) < self._limit:
            return True
        for connection in [each for pairs in self._idle.values() for each, _ in pairs if each in those]:
            self._forget(connection)
            those.discard(connection)  # it is on its way out
            connection.quit()
            return True
        return False

    async def _connect(self, route: Route) -> Connection:
        reactor, timeouts = self._reactorOf(), self.timeouts
        those = self._open.setdefault(route.peer, set())
        place = object()
        those.add(place)
        connection = Connection(route, timeouts, reactor, self._transcript)
        factory = Factory()
        factory.noisy = False
        factory.protocol = lambda: connection
        if route.path is not None:
            endpoint: Any = UNIXClientEndpoint(reactor, route.path, timeout=timeouts.connect or None)
        else:
            endpoint = HostnameEndpoint(reactor, route.host, route.port, timeout=timeouts.connect or _NO_LIMIT)
        try:
            try:
                await endpoint.connect(factory)
            except ConnectingCancelledError as error:
                raise CancelledError from error
            except Exception as error:
                if isinstance(error, CancelledError):
                    raise
                what = " ".join(str(error).split()) or type(error).__name__
                raise Unreachable(f"{route} cannot be reached: {what}") from error
            those.add(connection)
            connection.closed.addCallback(lambda _: self._isGone(connection))
            await connection.open()
        finally:
            those.discard(place)
            if connection not in those:
                self._nextTurn(route.peer)
        return connection

    def _isGone(self, connection: Connection) -> None:
        self._forget(connection)
        peer = connection.route.peer
        those = self._open.get(peer, set())
        those.discard(connection)
        if not those:
            self._open.pop(peer, None)
        self._nextTurn(peer)

    async def _turn(self, route: Route) -> None:
        """Wait until there may be room."""
        turns = self._turns.setdefault(route.peer, deque())
        seconds, reactor = self.timeouts.turn, self._reactorOf()

        def giveUp() -> None:
            turns.remove(turn)
            turn.errback(Unreachable(f"{route}: all {self._limit} connections are busy, for {seconds:g} seconds now"))

        turn: Waiting[None] = Waiting(lambda _: turns.remove(turn))
        turns.append(turn)
        timer = reactor.callLater(seconds, giveUp) if seconds else None
        try:
            await turn
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    def _nextTurn(self, peer: tuple[str, int]) -> None:
        turns = self._turns.get(peer)
        if turns:
            turns.popleft().callback(None)
        if not turns:
            self._turns.pop(peer, None)


def _whenFired(closed: Waiting[None]) -> Waiting[None]:
    """Fires with another Deferred, which others wait for too."""
    waiting: Waiting[None] = Waiting()
    closed.addCallback(lambda _: waiting.callback(None))
    return waiting
