"""
Look-up: the client's name in DNS, which counts only if it leads back to the client's address.

In: an address.  Out: the confirmed host name, or the address in brackets; at once where it is known or not worth
asking, else within a time limit.
Rules kept here: no answer of DNS makes this fail, wait longer or remember more than it may, and no name leaves that
could mean more than a name in a log, a reply or a header field.
This module knows a Twisted resolver and a clock; it knows neither sessions nor what a name is good for.
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

# Types of records (RFC 1035 section 3.2.2, RFC 3596).  By number: twisted.names is only loaded where it is used.
_A, _PTR, _AAAA = 1, 12, 28

_MAX_REMEMBERED = 10_000
_SHORTEST, _LONGEST = 1.0, 86400.0  # seconds that a name is remembered, whatever its TTL
_FAILURE = 60.0  # and that there was none

# An address needs one name.  Some have dozens; the look-ups that confirm them cost time that the client waits for.
_MAX_NAMES = 3

# Twisted's resolver opens a socket for each query: a flood of new addresses must not use up the file descriptors.
_MAX_UNDERWAY = 256

_NAME_OCTETS = 253  # RFC 1035 section 2.3.4, without the length octets of the wire
# Letters, digits, hyphens (RFC 1123 section 2.1) and the underscore, which too many names of real hosts have.
_LABEL = re.compile("[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What ends in a number is an address to some reader or other: "127.1", "0x7f.1" (RFC 3696 section 2).
_NUMBER = re.compile("[0-9]+|0x[0-9a-f]*")


class _Known(NamedTuple):
    name: str
    until: float


class ReverseLookup:
    """
    Host names of clients, remembered for as long as DNS says.

    @param resolver: where to ask; None: the servers of C{/etc/resolv.conf}, through the resolver that
        C{twisted.names.client} makes on first use and keeps for the whole process.
    @param clock: tells the time.
    @param timeout: seconds that all the queries for one address may take together.
    """

    def __init__(self, resolver: IResolver | None, clock: IReactorTime, timeout: float = 1.5) -> None:
        self._resolver = resolver
        self._clock = clock
        self._timeout = timeout
        # When to ask again, as datagrams get lost, and when to give up; a resolver may take seconds in pieces.
        self._patience: Sequence[Any] = (timeout / 3, timeout * 2 / 3)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._underway: dict[str, list[Deferred[str]]] = {}

    def hostnameOf(self, address: str) -> str | Deferred[str]:
        """
        The name of a client.

        @param address: its IP address as text; anything else has no name.
        @return: the name, in lower case and without a dot at its end, or C{"[address]"}; a Deferred only if it has to
            be asked for.  It may be cancelled: that does not disturb others who wait for the same name.
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
        """The confirmed name and its TTL, or None."""
        if self._resolver is None:
            self._resolver = _defaultResolver()
        resolver, isIPv4 = self._resolver, isinstance(ip, ipaddress.IPv4Address)
        lookUpHost, kind = (resolver.lookupAddress, _A) if isIPv4 else (resolver.lookupIPV6Address, _AAAA)
        pointers = await _answers(resolver.lookupPointer(ip.reverse_pointer, self._patience))
        # An alias among them (RFC 2317) is passed over, but its TTL counts.
        names = [_hostname(record.payload.name.name) for record in pointers if record.type == _PTR]
        for name in dict.fromkeys(names[:_MAX_NAMES]):
            if name is None:
                continue
            try:
                hosts = await _answers(lookUpHost(name, self._patience))
            except CancelledError:
                raise  # the time is up
            except Exception as error:
                _log.debug("look-up of {name} for {peer} failed: {error!r}", name=name, peer=str(ip), error=error)
                continue
            if ip.packed in [record.payload.address for record in hosts if record.type == kind]:
                return name, float(min(record.ttl for record in [*pointers, *hosts]))
        return None

    def _failed(self, failure: Failure, address: str) -> None:
        # No name, no server, no time, no right to open a socket, or a resolver with a bug: a client without a name.
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
    """The first section of an answer; what authorities and helpful servers add to it proves nothing."""
    answers: Sequence[Any] = (await query)[0]
    return answers


def _askable(address: str) -> IPAddress | None:
    """The address that DNS may have a name for."""
    ip = maybeIP(address)
    if ip is None or "%" in address:  # a zone means something on this host alone
        return None
    ip = unmapped(ip)
    return None if ip.is_loopback or ip.is_link_local or ip.is_unspecified else ip


def _hostname(octets: bytes) -> str | None:
    """A name as DNS gives it, in lower case; None if it is not fit to be shown."""
    name = octets.decode("latin-1").lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _NAME_OCTETS or _NUMBER.fullmatch(labels[-1]):
        return None
    return name if all(_LABEL.fullmatch(label) for label in labels) else None


def _defaultResolver() -> IResolver:
    from twisted.names import client

    return client.getResolver()  # type: ignore[no-any-return]
