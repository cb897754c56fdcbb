"""
A pool of connections, by routes: one that is quiet is used again, and no server has more of them than it may have.

Rules: a connection is used by one transaction at a time; one about which there is any doubt is closed.  A server that
has as many connections as it may have lets the next one wait for its turn, first come, first served.
This module knows no transaction, and not how a connection comes about.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred

from smtphooks.awaiting import Waiting
from smtphooks.client.connection import Connection
from smtphooks.client.errors import Unreachable
from smtphooks.client.place import Place, waitingFor
from smtphooks.client.route import Route
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.transcript import Transcript

Peer = tuple[str, int]


class _Turn:
    """
    One that waits for a connection.

    @ivar granted: what it was given: a connection that had been used, or the place for a new one.
    """

    def __init__(self, route: Route, isFresh: bool, cancelled: Callable[[_Turn], None]) -> None:
        self.route: Route = route
        self.isFresh: bool = isFresh
        self.granted: Connection | Place | None = None
        self.waiting: Waiting[None] = Waiting(lambda _: cancelled(self))


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
        self._open: dict[Peer, set[Place]] = {}
        self._turns: dict[Peer, deque[_Turn]] = {}
        self._isClosed = False
        self._closing: list[Waiting[None]] = []

    async def take(self, route: Route, isFresh: bool = False) -> tuple[Connection, bool]:
        """
        A connection on which a transaction may begin, and whether it has been used before.

        @param isFresh: none that has been used; whoever asks for that has had a turn already.
        @raise ClientError: if there is none.
        """
        self._mustBeOpen(route)
        turn = _Turn(route, isFresh, self._leave)
        turns = self._turns.setdefault(route.peer, deque())
        if isFresh:
            turns.appendleft(turn)
        else:
            turns.append(turn)
        self._serve(route.peer)
        granted = await self._granted(turn)
        if isinstance(granted, Connection):
            return granted, True
        # Twisted runs this, also where asyncio runs the rest: a step that comes a turn of the reactor later would find
        # a greeting that has not been asked for.
        opening = waitingFor(Deferred.fromCoroutine(granted.open()))
        try:
            return await opening, False
        except BaseException:
            opening.cancel()
            if granted.connection is not None and granted.connection.isUsable:
                self.give(granted.connection)
            raise

    def give(self, connection: Connection) -> None:
        """The transaction on it has ended."""
        if not connection.isUsable:
            connection.abort()
        elif self._isClosed or not self._idleTimeout:
            connection.quit()
        else:
            timer = self._reactorOf().callLater(self._idleTimeout, self._expire, connection)
            self._idle.setdefault(connection.route, []).append((connection, timer))
        self._serve(connection.route.peer)

    async def close(self) -> None:
        """
        Close all connections: those without a transaction at once, the others when theirs ends.

        If it is cancelled, these are cut.
        """
        self._isClosed = True
        for turn in [turn for turns in self._turns.values() for turn in turns]:
            self._leave(turn)
            turn.waiting.errback(self._closed(turn.route))
        for connection in [each for pairs in self._idle.values() for each, _ in pairs]:
            self._forget(connection)
            connection.quit()
        for place in [*self._places()]:
            if not place.isOpen:
                place.stop(self._closed(place.route))
        if self._open:
            waiting: Waiting[None] = Waiting(lambda _: self._cutAll())
            self._closing.append(waiting)
            await waiting

    # --- turns ---

    async def _granted(self, turn: _Turn) -> Connection | Place:
        seconds, timer = self.timeouts.turn, None
        if seconds and turn.granted is None:
            timer = self._reactorOf().callLater(seconds, self._giveUp, turn, seconds)
        try:
            await turn.waiting
            self._mustBeOpen(turn.route)
        except BaseException:
            self._leave(turn)
            self._giveBack(turn.granted)
            raise
        finally:
            if timer is not None and timer.active():
                timer.cancel()
        assert turn.granted is not None
        return turn.granted

    def _giveUp(self, turn: _Turn, seconds: float) -> None:
        self._leave(turn)
        text = f"{turn.route}: all {self._limit} connections have been busy for {seconds:g} seconds"
        turn.waiting.errback(Unreachable(text))

    def _leave(self, turn: _Turn) -> None:
        """It waits no longer."""
        peer = turn.route.peer
        turns = self._turns.get(peer)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._turns[peer]

    def _giveBack(self, granted: Connection | Place | None) -> None:
        if isinstance(granted, Connection):
            self.give(granted)
        elif granted is not None:
            self._free(granted)

    def _serve(self, peer: Peer) -> None:
        """Let those have their turn who can."""
        while peer in self._turns:
            turn = self._turns[peer][0]
            turn.granted = self._maybeGrant(turn)
            if turn.granted is None:
                return
            self._leave(turn)
            turn.waiting.callback(None)

    def _maybeGrant(self, turn: _Turn) -> Connection | Place | None:
        route = turn.route
        connection = None if turn.isFresh else self._takeIdle(route)
        if connection is not None:
            return connection
        if self._limit and len(self._open.get(route.peer, ())) >= self._limit:
            self._makeRoom(route.peer)
            return None
        place = Place(route, self.timeouts, self._reactorOf(), self._transcript, self._free)
        self._open.setdefault(route.peer, set()).add(place)
        return place

    def _makeRoom(self, peer: Peer) -> None:
        """Close a connection that is idle, unless another one is on its way out."""
        those = [place.connection for place in self._open[peer]]
        if any(each is not None and each.isLeaving for each in those):
            return
        idle = [each for pairs in self._idle.values() for each, _ in pairs if each.route.peer == peer]
        if idle:
            self._expire(idle[0])

    # --- idle connections ---

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

    # --- all connections ---

    def _places(self) -> Iterator[Place]:
        for those in self._open.values():
            yield from those

    def _free(self, place: Place) -> None:
        """Its connection is gone."""
        if place.connection is not None:
            self._forget(place.connection)
        peer = place.route.peer
        those = self._open.get(peer, set())
        those.discard(place)
        if not those:
            self._open.pop(peer, None)
        self._serve(peer)
        if not self._open:
            closing, self._closing = self._closing, []
            for waiting in closing:
                if not waiting.called:
                    waiting.callback(None)

    def _closed(self, route: Route) -> Unreachable:
        return Unreachable(f"the client of {route} is closed")

    def _mustBeOpen(self, route: Route) -> None:
        if self._isClosed:
            raise self._closed(route)

    def _cutAll(self) -> None:
        for place in [*self._places()]:
            place.stop(self._closed(place.route))
