"""
Admission: who may come in, as one factory decides on it for all of its connections.

In: addresses of peers.  Out: whether a peer is a trusted proxy, the refusal of a client beyond a limit, the name of a
client in DNS.
This module knows no connection and no transport, and not what is done with a refusal.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from smtphooks import replies
from smtphooks.admission.clients import Clients
from smtphooks.admission.lookup import ReverseLookup
from smtphooks.admission.sharedclients import SharedClients
from smtphooks.netaddress import bracketed, isPublic
from smtphooks.options import Options
from smtphooks.replies import Reply
from smtphooks.sharedtable import Table
from smtphooks.syntax.networks import TrustedPeers


class Admission:
    """
    @ivar proxies: the peers that say with a PROXY header which client they speak for (option C{useProxy}).
    @ivar clients: how many clients this factory has, and may have; see L{countIn} for further counts.
    """

    def __init__(self, options: Options, clock: Callable[[], IReactorTime], proxies: TrustedPeers) -> None:
        """
        @param clock: the reactor; looked up when it is needed first.
        """
        self.proxies = proxies
        self.clients: Clients = Clients(options.maxClients, options.maxClientsPerAddress)
        self._counts = [self.clients]
        self._options = options
        self._clock = clock
        self._lookup: ReverseLookup | None = None

    def countIn(self, clients: Clients) -> None:
        """Count connections there too, and keep to its limits, from the first connection on."""
        self._counts.append(clients)

    def countOver(self, table: Table, name: str) -> None:
        """Hold the limits of this factory over all workers, where it has the same name; before the first connection."""
        limits = self.clients
        self._counts[0] = self.clients = SharedClients(limits.most, limits.mostPerNetwork, table, name)

    def refusalOf(self, network: str) -> Reply | None:
        """The refusal of one more client of that network, None if it can be served."""
        counts = self._counts
        for clients in counts:
            if clients.areTooMany:
                return replies.TOO_MANY_CLIENTS
        for clients in counts:
            if clients.areTooManyOf(network):
                return replies.TOO_MANY_CLIENTS_HERE
        return None

    def limitOf(self, refusal: Reply) -> str:
        """The option because of which a client was refused."""
        return "maxClients" if refusal is replies.TOO_MANY_CLIENTS else "maxClientsPerAddress"

    @property
    def fullness(self) -> float:
        """How much of the limits on connections is used up, 1 for all that they allow; 0 without a limit."""
        return max(clients.fullness for clients in self._counts)

    def connectionBegins(self) -> None:
        """A connection was made; its client is not known yet."""
        for clients in self._counts:
            clients.addConnection()

    def connectionEnds(self) -> None:
        """A connection has ended, its last hook included."""
        for clients in self._counts:
            clients.removeConnection()

    def clientComes(self, network: str) -> None:
        """A client of that network is let in, and counts from here on."""
        for clients in self._counts:
            clients.addClient(network)

    def clientGoes(self, network: str) -> None:
        """The transport of a client of that network is gone."""
        for clients in self._counts:
            clients.removeClient(network)

    def hostnameOf(self, address: str) -> str | Deferred[str]:
        """The name of a client in DNS, or its address in brackets."""
        options = self._options
        if options.disableReverseLookup or not address:
            return bracketed(address)
        if options.resolver is None and not isPublic(address):
            return bracketed(address)
        if self._lookup is None:
            self._lookup = ReverseLookup(options.resolver, self._clock())
        return self._lookup.hostnameOf(address)
