"""
Look-up: the client's host name in DNS, which must resolve back to the client's address.

In: an address.  Out: the confirmed host name, or the address in brackets: at once if it is cached or cannot be looked
up, else before a timeout.
Rules kept here: no answer of DNS makes a look-up fail, exceed its timeout or fill the cache beyond its size; no name is
returned that could be more than a name in a log, a reply or a header field.
This module knows a Twisted resolver and a clock; it knows neither sessions nor what a host name is used for.
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.netaddress import IPAddress, bracketed, maybeIP, unmapped

_log = Logger()

# Types of records (RFC 1035 section 3.2.2, RFC 3596), as numbers: twisted.names is loaded only if it is used.
_A, _PTR, _AAAA = 1, 12, 28

_MAX_REMEMBERED = 10_000
_SHORTEST, _LONGEST = 1.0, 86400.0  # limits in seconds on the TTL of a cached name
_FAILURE = 60.0  # the TTL of a failed look-up

# One name is enough.  Some addresses have dozens, and the client waits while they are confirmed.
_MAX_NAMES = 3

# Twisted's resolver opens a socket for each query: a flood of new addresses must not exhaust file descriptors.
_MAX_UNDERWAY = 256

_NAME_OCTETS = 253  # RFC 1035 section 2.3.4, without the length octets of the wire
# Letters, digits, hyphens (RFC 1123 section 2.1), and the underscore, which many real host names contain.
_LABEL = re.compile("[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# Some programs take a name whose last label is a number for an address: "127.1", "0x7f.1" (RFC 3696 section 2).
_NUMBER = re.compile("[0-9]+|0x[0-9a-f]*")


class _Known(NamedTuple):
    name: str
    until: float


class ReverseLookup:
    """
    Host names of clients, with a cache that follows their TTLs.

    @param resolver: the resolver to query; None for that of C{twisted.names.client}, which reads C{/etc/resolv.conf} on
        first use and is shared by the whole process.
    @param clock: measures TTLs and timeouts.
    @param timeout: seconds for all queries about one address together.
    """

    def __init__(self, resolver: IResolver | None, clock: IReactorTime, timeout: float = 1.5) -> None:
        self._resolver = resolver
        self._clock = clock
        self._timeout = timeout
        # For the resolver: seconds until a query is sent again, as datagrams get lost, and then until it fails.
        self._timeouts: Sequence[Any] = (timeout / 3, timeout * 2 / 3)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._underway: dict[str, list[Deferred[str]]] = {}

    def hostnameOf(self, address: str) -> str | Deferred[str]:
        """
        The host name of a client.

        @param address: its IP address as text; other text has no name.
        @return: the name, in lower case and without a trailing dot, or C{"[address]"}; a Deferred if DNS is queried.
            Cancelling that does not affect others for the same address.
        """
        known = self._known.get(address)
        if known is not None and self._clock.seconds() < known.until:
            self._known.move_to_end(address)
            return known.name
        waiting = self._underway.get(address)
        if waiting is None:
            ip = _askable(address)
            if ip is None or len(self._underway) >= _MAX_UNDERWAY:
                return bracketed(address)
            waiting = self._underway[address] = []
            search = Deferred.fromCoroutine(self._search(ip))
            search.addTimeout(self._timeout, self._clock)
            search.addErrback(self._failed, address)
            search.addCallback(self._conclude, address)
            if address not in self._underway:
                return self._known[address].name  # the resolver answered at once
        mine: Deferred[str] = Deferred()
        waiting.append(mine)
        return mine

    async def _search(self, ip: IPAddress) -> tuple[str, float] | None:
        """The confirmed name and its TTL; None without one."""
        if self._resolver is None:
            self._resolver = _defaultResolver()
        resolver, isIPv4 = self._resolver, isinstance(ip, ipaddress.IPv4Address)
        lookUpHost, kind = (resolver.lookupAddress, _A) if isIPv4 else (resolver.lookupIPV6Address, _AAAA)
        pointers = await _answers(resolver.lookupPointer(ip.reverse_pointer, self._timeouts))
        # A CNAME among the records (RFC 2317) is ignored, except for its TTL.
        names = [_hostname(record.payload.name.name) for record in pointers if record.type == _PTR]
        for name in dict.fromkeys(names[:_MAX_NAMES]):
            if name is None:
                continue
            try:
                hosts = await _answers(lookUpHost(name, self._timeouts))
            except CancelledError:
                raise  # the timeout
            except Exception as error:
                _log.debug("look-up of {name} for {peer} failed: {error!r}", name=name, peer=str(ip), error=error)
                continue
            if ip.packed in [record.payload.address for record in hosts if record.type == kind]:
                return name, float(min(record.ttl for record in [*pointers, *hosts]))
        return None

    def _failed(self, failure: Failure, address: str) -> None:
        # No such name, no answer, a timeout, a socket that cannot be opened, a bug in the resolver: all mean no name.
        _log.debug("look-up of {peer} failed: {error!r}", peer=address, error=failure.value)

    def _conclude(self, found: tuple[str, float] | None, address: str) -> None:
        name, ttl = found or (bracketed(address), _FAILURE)
        self._known[address] = _Known(name, self._clock.seconds() + min(max(ttl, _SHORTEST), _LONGEST))
        self._known.move_to_end(address)
        if len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
        for waiting in self._underway.pop(address):
            waiting.callback(name)


async def _answers(query: Deferred[Any]) -> Sequence[Any]:
    """The answer section of a response; records in the other sections confirm nothing."""
    answers: Sequence[Any] = (await query)[0]
    return answers


def _askable(address: str) -> IPAddress | None:
    """The address to look up; None if DNS cannot have a name for it."""
    ip = maybeIP(address)
    if ip is None or "%" in address:  # a zone means something on this host alone
        return None
    ip = unmapped(ip)
    return None if ip.is_loopback or ip.is_link_local or ip.is_unspecified else ip


def _hostname(octets: bytes) -> str | None:
    """A name from DNS, in lower case; None if it is not a valid host name."""
    name = octets.decode("latin-1").lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _NAME_OCTETS or _NUMBER.fullmatch(labels[-1]):
        return None
    return name if all(_LABEL.fullmatch(label) for label in labels) else None


def _defaultResolver() -> IResolver:
    from twisted.names import client

    return client.getResolver()  # type: ignore[no-any-return]
