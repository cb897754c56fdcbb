"""
Clients: how many there are, in all and of each network, and how many there may be.

A factory counts its own; what several have in common counts those of all of them.
This module knows no connections, and not what is said to a client that is one too many.
"""

from __future__ import annotations

from collections import Counter


class Clients:
    """
    Live clients, and two limits.

    A connection counts from its beginning to its end; a client counts for its network as soon as it is known, which
    behind a proxy is later.

    @ivar most: how many connections there may be, 0 for any number.
    @ivar mostPerNetwork: how many clients of one network there may be, 0 for any number.
    @ivar connections: how many there are.
    @ivar networks: how many clients there are of each network that has any.
    """

    def __init__(self, most: int = 0, mostPerNetwork: int = 0) -> None:
        self.most = most
        self.mostPerNetwork = mostPerNetwork
        self.connections = 0
        self.networks: Counter[str] = Counter()

    @property
    def areTooMany(self) -> bool:
        """There are more connections than there may be, that of the client in question included."""
        return bool(self.most) and self.connections > self.most

    def areTooManyOf(self, network: str) -> bool:
        """There is no room for one more client of a network; what has no address is of none."""
        return bool(self.mostPerNetwork and network) and self.networks[network] >= self.mostPerNetwork

    def begin(self) -> None:
        """One more connection."""
        self.connections += 1

    def end(self) -> None:
        """One less."""
        self.connections -= 1

    def add(self, network: str) -> None:
        """One more client of a network."""
        self.networks[network] += 1

    def remove(self, network: str) -> None:
        """One less."""
        self.networks[network] -= 1
        if not self.networks[network]:
            del self.networks[network]
