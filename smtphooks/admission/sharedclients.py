"""
Shared clients: how many are connected to all workers of this machine, and the limits on them.

In: what this worker counts.  Out: whether a limit is reached over all workers.  Each worker writes its own counts into
its column of the shared table, and adds up what all columns have; the column of a dead worker is cleared.
This module knows no connections, and not the reply to a client beyond a limit.
"""

from __future__ import annotations

from twisted.logger import Logger

from smtphooks.admission.clients import Clients
from smtphooks.sharedtable import LIVE, Cells, Table

_log = Logger()


class SharedClients(Clients):
    """
    Counts of the clients of this worker, with limits on those of all workers.

    What has no limit is not told to the others.  If the table has no room for a network, its clients at this worker
    count at this worker only.
    """

    def __init__(self, most: int, mostPerNetwork: int, table: Table, name: str) -> None:
        """
        @param name: what is limited, under the same name in all workers.
        """
        super().__init__(most, mostPerNetwork)
        self._words = table.words
        self._networks = table.cells(LIVE, f"clients by network {name}")
        self._all = table.cells(LIVE, f"clients {name}")

    @property
    def areTooMany(self) -> bool:
        """See L{Clients.areTooMany}."""
        return 0 < self.most < self._over(self._all, "", self.connections)

    @property
    def fullness(self) -> float:
        """See L{Clients.fullness}."""
        return self._over(self._all, "", self.connections) / self.most if self.most else 0.0

    def areTooManyOf(self, network: str) -> bool:
        """See L{Clients.areTooManyOf}."""
        if not self.mostPerNetwork or network == "":
            return False
        return self.mostPerNetwork <= self._over(self._networks, network, self.networks.get(network, 0))

    def addConnection(self) -> None:
        """See L{Clients.addConnection}."""
        super().addConnection()
        if self.most:
            self._tell(self._all, "", self.connections)

    def removeConnection(self) -> None:
        """See L{Clients.removeConnection}."""
        super().removeConnection()
        if self.most:
            self._tell(self._all, "", self.connections)

    def addClient(self, network: str) -> None:
        """See L{Clients.addClient}."""
        super().addClient(network)
        if self.mostPerNetwork and network:
            self._tell(self._networks, network, self.networks[network])

    def removeClient(self, network: str) -> None:
        """See L{Clients.removeClient}."""
        super().removeClient(network)
        if self.mostPerNetwork and network:
            self._tell(self._networks, network, self.networks.get(network, 0))

    def _over(self, cells: Cells, key: str, here: int) -> int:
        """The number over all workers."""
        place = cells.find(key)
        known = sum(place.read(self._words))
        return known if place.own >= 0 else known + here

    def _tell(self, cells: Cells, key: str, here: int) -> None:
        """Let the other workers know the number of this one."""
        place = cells.find(key)
        if place.own < 0:
            place = cells.claim(place, self._isSpent)
        if place.own >= 0:
            self._words[place.own] = here
        elif cells.reportIsDue():
            _log.warn("the table of all workers has no room for more clients: some count at one worker only")

    def _isSpent(self, cell: int) -> bool:
        return not self._words[cell]
