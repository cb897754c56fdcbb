"""
Networks: which peers an option trusts, as a list of addresses and networks.

In: the value of C{useProxy}, C{useXClient}, C{useXForward} or C{debugPeers}.  Out: whether a peer's address is in it;
or L{OptionError}, one sentence for the operator.
IPv4 peers of an IPv6 socket are compared by their IPv4 address.  A look-up takes as long for a thousand networks of one
size as for one.
This module knows no connection, and not what a peer is trusted with.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from smtphooks.errors import OptionError
from smtphooks.netaddress import IPNetwork, maybeIP, unmapped, unmappedNetwork


class TrustedPeers:
    """
    A set of peers.

    @param value: False: no peer; True: every peer that can connect; or a list of addresses and networks.
    @raise OptionError: for any other value; the option's name is still to be added.
    """

    def __init__(self, value: object) -> None:
        self._trustsAll = value is True
        # Network parts by version and number of host bits.
        self._networks: dict[tuple[int, int], set[int]] = {}
        if isinstance(value, bool):
            return
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise OptionError("{!r} is not {true!r}, {false!r} or a list of addresses and networks", value)
        for entry in value:
            network = _network(entry)
            hostBits = network.max_prefixlen - network.prefixlen
            numbers = self._networks.setdefault((network.version, hostBits), set())
            numbers.add(int(network.network_address) >> hostBits)

    def trusts(self, address: str) -> bool:
        """
        Whether this peer is trusted.

        @param address: the peer's IP address as text; the path of a UNIX socket and C{""} are trusted with True only.
        """
        if self._trustsAll or not self._networks:
            return self._trustsAll
        ip = maybeIP(address)
        if ip is None:
            return False
        peer = unmapped(ip)
        number, version = int(peer), peer.version
        return any(
            version == ofVersion and number >> hostBits in numbers
            for (ofVersion, hostBits), numbers in self._networks.items()
        )


def peersOf(option: str, value: object) -> TrustedPeers:
    """
    The peers that an option lists.

    @raise OptionError: if it lists none, of that option.
    """
    try:
        return TrustedPeers(value)
    except OptionError as error:
        raise error.ofOption(option) from None


def _network(entry: object) -> IPNetwork:
    try:
        # ip_network() would also accept a number; a zone ("%eth0") does not identify a peer.
        if not isinstance(entry, str) or "%" in entry:
            raise ValueError
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise OptionError(
            "{!r} is neither an address such as 192.0.2.1 or 2001:db8::1 nor a network such as 10.0.0.0/8", entry
        ) from None
    host, slash, _ = entry.partition("/")
    if slash and ipaddress.ip_address(host) != network.network_address:
        raise OptionError(
            f"{{!r}} is no network, as {host} is a host within it: write {network} for all of it, "
            f"or {host} for this one host",
            entry,
        )
    return unmappedNetwork(network)
