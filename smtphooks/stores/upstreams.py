"""
The servers that messages go on to: which of them a recipient belongs to, and in which order they are tried.

In: what an operator writes, C{"host:port"}, a list of several, or a table of them by domain.  Rule: a server that could
not be used is left out for some seconds while there is another; then one transaction finds out whether it is back.
Where none is left all are tried, so that leaving out never makes anything worse.
This module knows no session, and not what a transaction is.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import attrs
import idna
from twisted.logger import Logger

from smtphooks.client.errors import ClientError, Unreachable
from smtphooks.client.route import Route
from smtphooks.errors import OptionError, unknownName

log: Logger = Logger()

T = TypeVar("T")

DEFAULT = "*"

WANTS = (
    '"host:port", the path of a UNIX socket, a list of these or of tables with to, priority and weight, or a table of'
    ' domains, "*" for all others, with one of these each'
)

# RFC 5321 section 3.8; and where we have to authenticate or begin TLS first (RFC 4954 section 6, RFC 3207 section 4).
_OF_THE_CONNECTION = (421, 530)

_KEYS = ("to", "priority", "weight")


@attrs.define(eq=False)
class Upstream:
    """
    A server.

    @ivar route: how to reach it.
    @ivar priority: those with a lower one are tried first, as with MX.
    @ivar weight: how often it is the first among those of the same priority.
    @ivar downUntil: the time until which it is left out, None if it is not.
    """

    route: Route
    priority: int = 0
    weight: int = 1
    downUntil: float | None = None

    def isUp(self, now: float) -> bool:
        """May it be tried?"""
        return self.downUntil is None or self.downUntil <= now


@attrs.define(eq=False)
class Group:
    """Servers for the same recipients."""

    upstreams: Sequence[Upstream]

    def inOrder(self, now: float, chance: Callable[[], float] = random.random) -> list[Upstream]:
        """
        In which order they are to be tried.

        @param chance: returns a number from 0 to below 1.
        """
        # The greatest of these is that of each server as often as its weight says (Efraimidis and Spirakis, 2006).
        drawn = [(each.priority, -(chance() ** (1 / each.weight)), each) for each in self.upstreams]
        ordered = [each for _, _, each in sorted(drawn, key=lambda one: one[:2])]
        return [each for each in ordered if each.isUp(now)] or ordered


class Upstreams:
    """
    All servers of a relay.

    @ivar isSplit: it depends on the recipient which of them are meant.
    """

    def __init__(self, given: Any, routeOf: Callable[[str], Route], retryTime: float) -> None:
        """
        @param routeOf: makes the route to a server from its text.
        @param retryTime: seconds for which one that could not be used is left out.
        @raise OptionError: if that is not what option C{upstream} wants.
        """
        self._retryTime = retryTime
        table = given if isinstance(given, Mapping) and not _isOne(given) else {DEFAULT: given}
        if not table:
            raise _wrong(given)
        known: dict[Any, Group] = {}
        self._groups: dict[str, Group] = {}
        for domain, places in table.items():
            upstreams = [_upstreamOf(place, routeOf) for place in _listOf(places)]
            key = tuple((each.route, each.priority, each.weight) for each in upstreams)
            name = _domain(domain)
            if name in self._groups:
                raise OptionError("option upstream has the domain {!r} twice", name, options=["upstream"])
            # Domains with the same servers can share a transaction.
            self._groups[name] = known.setdefault(key, Group(upstreams))
        self.isSplit: bool = len(known) > 1 or DEFAULT not in self._groups

    @property
    def groups(self) -> list[Group]:
        """All groups, each once."""
        return list(dict.fromkeys(self._groups.values()))

    def maybeGroup(self, domain: str) -> Group | None:
        """The servers for the recipients of a domain, None if there are none."""
        domain = _canonical(domain)
        found = self._groups.get(domain)
        while found is None and domain:
            _, _, domain = domain.partition(".")
            found = self._groups.get(f".{domain}") if domain else None
        return found or self._groups.get(DEFAULT)

    async def firstOf(self, group: Group, clock: Any, attempt: Callable[[Upstream], Awaitable[T]]) -> T:
        """
        Try the servers of a group until one can be used.

        @raise ClientError: what the last one failed with; or what one that could be used has refused.
        """
        lost: ClientError = Unreachable("there is no server")
        for upstream in group.inOrder(clock.seconds()):
            if upstream.downUntil is not None:
                upstream.downUntil = clock.seconds() + self._retryTime  # meanwhile it is not for others to find out
            try:
                result = await attempt(upstream)
            except ClientError as error:
                if not isOfServer(error) or error.isOfIdentity:
                    self._isBack(upstream)
                    raise
                lost = error
                self._leaveOut(upstream, group, clock.seconds(), error)
            else:
                self._isBack(upstream)
                return result
        raise lost

    def _leaveOut(self, upstream: Upstream, group: Group, now: float, error: ClientError) -> None:
        if upstream.downUntil is None and len(group.upstreams) > 1:
            log.warn("{upstream} is left out while there are others: {error}", upstream=upstream.route, error=error)
        upstream.downUntil = now + self._retryTime

    def _isBack(self, upstream: Upstream) -> None:
        if upstream.downUntil is not None:
            upstream.downUntil = None
            log.info("{upstream} can be used again", upstream=upstream.route)


def isOfServer(error: ClientError) -> bool:
    """Is this about the server, or the way to it, and not about a message?"""
    isOfConnection = error.reply is not None and error.reply.code in _OF_THE_CONNECTION
    return isinstance(error, Unreachable) or error.isOpening or isOfConnection


def _wrong(given: object) -> OptionError:
    return OptionError(f"option upstream is {{!r}}, it wants {WANTS}", given, options=["upstream"])


def _isOne(given: Mapping[Any, Any]) -> bool:
    """A server with priority and weight, and no table of domains."""
    return "to" in given


def _listOf(places: Any) -> Iterable[Any]:
    if isinstance(places, (str, Mapping)):
        return [places]
    if isinstance(places, (list, tuple)) and places:
        return places
    raise _wrong(places)


def _domain(text: Any) -> str:
    if not isinstance(text, str) or not text.strip(".") or " " in text or not text.isprintable():
        raise _wrong({text: "…"})
    return _canonical(text)


def _canonical(domain: str) -> str:
    """A domain as it is compared: without regard to case, and with A-labels, as a client may write it either way."""
    domain = domain.lower().removesuffix(".")
    if domain.isascii():
        return domain
    # The name for all subdomains begins with a dot, which is no label.
    dot = "." if domain.startswith(".") else ""
    with suppress(idna.IDNAError):
        return dot + idna.encode(domain.removeprefix("."), uts46=True).decode()
    return domain


def _upstreamOf(place: Any, routeOf: Callable[[str], Route]) -> Upstream:
    table: Any = {"to": place} if isinstance(place, str) else place
    if not isinstance(table, Mapping) or not isinstance(table.get("to"), str):
        raise _wrong(place)
    for key in table:
        if key not in _KEYS:
            raise OptionError(f"option upstream: {unknownName('key', key, _KEYS)}", options=["upstream"])
    priority, weight = table.get("priority", 0), table.get("weight", 1)
    if not _isWhole(priority, 0) or not _isWhole(weight, 1):
        raise OptionError(
            "option upstream is {!r}, its priority is a whole number from 0, its weight one from 1",
            dict(table),
            options=["upstream"],
        )
    try:
        return Upstream(routeOf(table["to"]), priority, weight)
    except OptionError as error:
        if error.options == ("upstream",):
            raise error.ofOption("upstream") from None
        raise


def _isWhole(value: object, least: int) -> bool:
    return type(value) is int and least <= value <= 65535
