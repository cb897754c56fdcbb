"""
Failed attempts to authenticate, counted by network over all connections.

In: addresses, as sessions have them.  Out: whether a network is barred.
This module knows neither sessions nor Twisted; its clock is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from smtphooks.netaddress import maybeIP, networkOf

# Seconds for which a failure counts, and how many networks are remembered.
_PERIOD = 600
_MAX_NETWORKS = 10000


class AuthFailures:
    """
    Failed attempts by network, so that a new connection gains nothing for guessing passwords.

    Memory is bounded: the network whose last failure is the oldest is forgotten first.
    """

    def __init__(self, limit: int, seconds: Callable[[], float]) -> None:
        """
        @param limit: failures that a network may have in ten minutes, 0 for no limit.
        @param seconds: the clock.
        """
        self._limit = limit
        self._seconds = seconds
        self._failures: dict[str, deque[float]] = {}  # times by network, in the order of the last failure

    def add(self, address: str) -> None:
        """Count a failure of a client with this address; only IP addresses count."""
        if not self._limit or maybeIP(address) is None:
            return
        network, now = networkOf(address), self._seconds()
        times = self._failures.pop(network, None) or deque()
        times.append(now)
        while times[0] <= now - _PERIOD or len(times) > self._limit:
            times.popleft()
        self._failures[network] = times
        self._forget(now)

    def isBarred(self, address: str) -> bool:
        """Has the network of this address failed too often to try again now?"""
        times = self._failures.get(networkOf(address))
        return times is not None and len(times) >= self._limit and times[0] > self._seconds() - _PERIOD

    def _forget(self, now: float) -> None:
        """Drop failures that have expired, and networks beyond the limit."""
        while True:
            network, times = next(iter(self._failures.items()))
            if len(self._failures) <= _MAX_NETWORKS and times[-1] > now - _PERIOD:
                return
            del self._failures[network]


NOT_COUNTED = AuthFailures(0, lambda: 0.0)
