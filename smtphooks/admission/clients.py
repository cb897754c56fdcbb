"""
Clients: how many are connected, in total and from each network, and the limits on both.

Each factory has a count of its own; several factories may also share one, with limits on all of them together.
This module knows no connections, and not the reply to a client beyond a limit.
"""

from __future__ import annotations


class Clients:
    """
    Counts of connected clients, and their limits.

    A connection is counted from its start to its end; a client is counted for its network as soon as its address is
    known, which behind a proxy is later.

    @ivar most: the limit on connections, 0 for none.
    @ivar mostPerNetwork: the limit on clients of one network, 0 for none.
    @ivar connections: the number of connections.
    @ivar networks: the number of clients of each network that has any.
    """

    def __init__(self, most: int = 0, mostPerNetwork: int = 0) -> None:
        self.most = most
        self.mostPerNetwork = mostPerNetwork
        self.connections: int = 0
        self.networks: dict[str, int] = {}

    @property
    def areTooMany(self) -> bool:
        """The limit on connections is exceeded; the connection of the client in question counts too."""
        return 0 < self.most < self.connections

    @property
    def fullness(self) -> float:
        """How much of the limit on connections is used up, 1 for all of it; 0 without a limit."""
        return self.connections / self.most if self.most else 0.0

    def areTooManyOf(self, network: str) -> bool:
        """The network has reached its limit; C{""}, for clients without an IP address, has no limit."""
        return 0 < self.mostPerNetwork <= self.networks.get(network, 0) and network != ""

    def addConnection(self) -> None:
        """A connection has been made."""
        self.connections += 1

    def removeConnection(self) -> None:
        """A connection has ended."""
        self.connections -= 1

    def addClient(self, network: str) -> None:
        """A client of this network is connected."""
        self.networks[network] = self.networks.get(network, 0) + 1

    def removeClient(self, network: str) -> None:
        """A client of this network has left."""
        clients = self.networks[network] - 1
        if clients:
            self.networks[network] = clients
        else:
            del self.networks[network]
