"""
The registry of live connections: which there are, the timer that they share, how they drain, and how they are ended.

One look a second finds the connections whose deadline has passed, so a deadline is a number and costs nothing to set;
ten thousand connections cost one delayed call.
This module knows neither what a connection does nor what it waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Live(Protocol):
    """A connection, as the registry and its own stages know it."""

    @property
    def messages(self) -> int:
        """How many messages it has brought."""

    def look(self, now: float) -> None:
        """See whether the deadline has passed."""

    def leave(self) -> None:
        """End the connection as soon as no transaction is in progress."""

    def endByForce(self) -> None:
        """End the connection now."""

    def crashed(self) -> None:
        """One of these methods has raised: end the connection.  Nothing is raised here."""

    def ended(self) -> None:
        """The connection is over, its last hook included."""


class Summaries(Protocol):
    """Lines of the log that wait for their second to end."""

    @property
    def hasMore(self) -> bool:
        """A number has still to be logged."""

    def flush(self) -> object:
        """Log what is due."""

    def report(self) -> None:
        """Log all that there is."""


class LiveConnections:
    """
    @ivar connections: all of them, each from C{connectionMade} to the end of its last hook.
    @ivar now: the time by which deadlines are measured, in seconds; it moves once a second, and is never behind.
    @ivar isClosing: no new connection is served.
    @ivar isRefusing: new clients get 421 in place of a greeting; connections that are there go on.
    @ivar accepted: how many connections there have been.
    @ivar messages: how many messages those have brought that have ended.
    @ivar summaries: lines of the log that are written when their second is over.
    """

    def __init__(self, clock: Callable[[], IReactorTime], summaries: Summaries) -> None:
        """
        @param clock: the reactor; looked up when it is needed first.
        """
        self.connections: set[Any] = set()
        self.now: float = 0.0
        self.isClosing: bool = False
        self.isRefusing: bool = False
        self.accepted: int = 0
        self.messages: int = 0
        self._isListening = False
        self.summaries = summaries
        self._clock = clock
        self._tick: IDelayedCall | None = None
        self._nextLook = 0.0
        self._wakes: list[tuple[float, int, Live]] = []
        self._order = count()
        self._leaving: set[Live] = set()
        self._closed: list[Deferred[None]] = []
        self._timeout: IDelayedCall | None = None
        self._draining: set[Live] = set()
        self._drained: list[Deferred[bool]] = []
        self._halfTime: IDelayedCall | None = None

    def seconds(self) -> float:
        """The time of the clock, which C{now} follows once a second."""
        return self._clock().seconds()

    def startListening(self) -> None:
        """Clients can connect from here on."""
        self._isListening = True
        if self.isClosing:
            self.isClosing = self.isRefusing = False

    def stopListening(self) -> None:
        """The last port is closed."""
        self._isListening = False
        self._rest()

    def add(self, connection: Live) -> None:
        """A connection was made."""
        self.accepted += 1
        self.connections.add(connection)
        if self.isClosing:
            self._leaving.add(connection)
        if self._drained:
            self._draining.add(connection)
        if self._tick is None:
            self._nextLook = 0.0
            self._watch()

    def remove(self, connection: Live) -> None:
        """A connection has ended, its last hook included."""
        self.messages += connection.messages
        self.connections.discard(connection)
        self._leaving.discard(connection)
        if not self.connections and self._tick is not None:
            self._wakes.clear()
            self._rest()
        # A connection that was made since the factory listens again is not waited for.
        if self._closed and not self._leaving:
            self._allGone()
        self._draining.discard(connection)
        if self._drained and not self._draining:
            self._endDrain(isEmpty=True)

    # --- the timer ---

    def wakeAt(self, time: float, connection: Live) -> None:
        """Look at a connection at that time, and not up to a second later."""
        if len(self._wakes) > 2 * len(self.connections):
            # Most connections have left since, and would be kept in memory until then.
            self._wakes = [wake for wake in self._wakes if wake[2] in self.connections]
            heapify(self._wakes)
        heappush(self._wakes, (time, next(self._order), connection))
        if self._tick is not None and time < self._tick.getTime():
            self._tick.reset(max(0, time - self.seconds()))

    def _watch(self) -> None:
        """Look at all connections once a second, and at those that asked for it when they asked for it."""
        self._tick = None
        clock = self._clock()
        now = clock.seconds()
        if now >= self._nextLook:
            # By the time of the next look, or a connection made just before it would lose a second.
            self.now = self._nextLook = now + 1
            self.summaries.flush()
            for connection in list(self.connections):
                self._guard(connection, connection.look, now)
        while self._wakes and self._wakes[0][0] <= now:
            connection = heappop(self._wakes)[2]
            # It may have gone on by itself, or be gone.
            self._guard(connection, connection.look, now)
        if self.connections or self.summaries.hasMore:
            soonest = min(self._nextLook, self._wakes[0][0]) if self._wakes else self._nextLook
            self._tick = clock.callLater(soonest - now, self._watch)
        else:
            self._wakes.clear()

    def _rest(self) -> None:
        """Leave no timer behind without connections; but a number of refusals waits for its second to end."""
        if self.connections or self._tick is None:
            return
        if not self._isListening:
            self.summaries.report()
        if not self.summaries.hasMore:
            self._tick.cancel()
            self._tick = None

    @staticmethod
    def _guard(connection: Live, call: Callable[..., None], *arguments: object) -> None:
        """What one connection raises harms no other (invariant 10)."""
        try:
            call(*arguments)
        except Exception:
            connection.crashed()

    # --- the drain ---

    def refuse(self) -> None:
        """Give new clients 421, until L{resume} is called."""
        self.isRefusing = True

    def drain(self, timeout: float) -> Deferred[bool]:
        """
        Refuse new clients, and let the connections that are there end.

        For half of the time they go on, so that a client that is in the middle of its dialogue ends it by itself; then
        they are closed as L{close} does.

        @param timeout: seconds for both halves; 0 for no limit, which leaves the end to the clients.
        @return: fires with True when the last of them is gone, with False if L{resume} was called before.
        """
        drained: Deferred[bool] = Deferred()
        self.refuse()
        if not self._drained:
            self._draining = set(self.connections)
            if self._draining and timeout and not self.isClosing:
                self._halfTime = self._clock().callLater(timeout / 2, self._beginSecondHalf, timeout / 2)
        self._drained.append(drained)
        if not self._draining:
            self._endDrain(isEmpty=True)
        return drained

    def resume(self) -> None:
        """Serve new clients again.  The second half of a drain goes on, as connections are being closed."""
        if not self.isClosing:
            self.isRefusing = False
            self._endDrain(isEmpty=False)

    def _beginSecondHalf(self, seconds: float) -> None:
        self._halfTime = None
        self.close(seconds)

    def _endDrain(self, isEmpty: bool) -> None:
        self._stopHalfTime()
        drained, self._drained = self._drained, []
        self._draining.clear()
        for each in drained:
            each.callback(isEmpty)

    def _stopHalfTime(self) -> None:
        timer, self._halfTime = self._halfTime, None
        if timer is not None:
            timer.cancel()

    # --- the end ---

    def close(self, timeout: float) -> Deferred[None]:
        """
        End all connections.

        @param timeout: seconds that transactions in progress have; 0 for no limit.
        @return: fires with None when the last of them is gone and its hooks have ended.
        """
        gone: Deferred[None] = Deferred()
        self._stopHalfTime()
        self._closed.append(gone)
        self.isClosing = True
        self._leaving = set(self.connections)
        for connection in list(self.connections):
            self._guard(connection, connection.leave)
        if self._leaving and timeout and self._timeout is None:
            self._timeout = self._clock().callLater(timeout, self._endByForce)
        if not self._leaving:
            self._allGone()
        return gone

    def _endByForce(self) -> None:
        self._timeout = None
        for connection in list(self._leaving):
            self._guard(connection, connection.endByForce)

    def _allGone(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        closed, self._closed = self._closed, []
        for gone in closed:
            gone.callback(None)
