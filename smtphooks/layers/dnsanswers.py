"""
Answers of DNS lists: look-ups with one time limit, shared by those who ask the same, and kept for their TTL.

In: a name and the list that has it, or not.  Out: the codes and the text of a listing; a list that does not answer, or
not to us, or nonsense, has listed nothing, and is named in the log.
This module knows a Twisted resolver and a clock; it knows no session, and not what a listing means.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.logger import Logger
from twisted.names.error import (
    AuthoritativeDomainError,
    DNSNameError,
    DNSQueryRefusedError,
    DNSServerError,
    DomainError,
)
from twisted.python.failure import Failure

from smtphooks.layers.dnslist import Code, nameIn, shown, unreversed

log: Logger = Logger()

_A, _TXT = 1, 16  # RFC 1035 section 3.2.2, as numbers: Twisted's resolver is loaded only if it is used

_MAX_REMEMBERED = 10_000
_SHORTEST, _LONGEST = 1.0, 3600.0  # limits in seconds on the TTL of a listing
_NOT_LISTED = 60.0  # how long everything else is remembered

# Twisted's resolver opens a socket for each query: a flood of clients must not exhaust file descriptors.
_MAX_QUERIES = 256

_TEXT_CHARACTERS = 200
# Seconds between two lines of the log about the same trouble with the same list.
_REPORT_INTERVAL = 600.0


@attrs.frozen
class Answer:
    """
    What a list says.

    @ivar codes: of a listing, each the four octets of an address in 127.0.0.0/8; empty without one.
    @ivar text: why, or C{""}.
    @ivar isKnown: the list has answered as a list does.
    """

    codes: tuple[Code, ...] = ()
    text: str = ""
    isKnown: bool = True


_UNKNOWN = Answer(isKnown=False)


@attrs.define(eq=False)
class _Search:
    """A look-up in progress, and the Deferreds of those who wait for it."""

    waiting: list[Deferred[Answer]] = attrs.field(factory=list)
    running: Deferred[Any] | None = None


@attrs.define
class _Trouble:
    reportFrom: float = 0.0
    unreported: int = 0


class ListLookups:
    """
    Look-ups in lists.

    @param resolver: the resolver to query; None for that of C{twisted.names.client}, which reads C{/etc/resolv.conf} on
        first use and is shared by the whole process.
    @param servers: addresses and ports of DNS servers to query in its place.
    @param clock: measures TTLs and the time limit.
    @param timeout: seconds for all queries of one look-up together.
    """

    def __init__(
        self, resolver: IResolver | None, servers: Sequence[tuple[str, int]], clock: IReactorTime, timeout: float
    ) -> None:
        self._resolver = resolver
        self._servers = list(servers)
        self._clock = clock
        self._timeout = timeout
        # For the resolver: seconds until a query is sent again, as datagrams get lost, and then until it fails.
        self._timeouts = (timeout / 3, timeout * 2 / 3)
        self._known: OrderedDict[str, tuple[Answer, float]] = OrderedDict()
        self._underway: dict[str, _Search] = {}
        self._queries = DeferredSemaphore(_MAX_QUERIES)
        self._troubles: dict[tuple[str, str], _Trouble] = {}

    def lookUp(self, subject: str, zone: str, control: str | None, explain: bool = False) -> Deferred[Answer]:
        """
        What a list says.

        @param subject: a reversed address or a domain.
        @param control: what the list must not have: if it has that as well, it lists everything, and is ignored.
        @param explain: ask for the text of a listing, too.
        @return: never fails; cancelling it does not affect others who wait for the same.
        """
        name = nameIn(zone, subject)
        if name is None:
            return succeed(Answer())
        known = self._known.get(name)
        if known is not None and self._clock.seconds() < known[1]:
            self._known.move_to_end(name)
            return succeed(known[0])
        search = self._underway.get(name)
        if search is None:
            search = self._underway[name] = _Search()
            running = Deferred.fromCoroutine(self._search(name, zone, control, explain))
            running.addTimeout(self._timeout, self._clock)
            running.addErrback(self._failed)
            running.addCallback(self._conclude, name, search)
            search.running = running
            if name not in self._underway:
                return succeed(self._known[name][0])  # the resolver answered at once
        mine: Deferred[Answer] = Deferred(lambda mine: self._leave(name, search, mine))
        search.waiting.append(mine)
        return mine

    def stop(self) -> None:
        """Cancel all look-ups."""
        for search in list(self._underway.values()):
            for waiting in list(search.waiting):
                waiting.cancel()

    # --- one look-up ---

    async def _search(self, name: str, zone: str, control: str | None, explain: bool) -> tuple[Answer, float]:
        """An answer, and the seconds for which it is remembered."""
        try:
            records = await self._query(_A, name)
        except Exception as error:
            if _meansNoSuchName(error):
                return Answer(), _NOT_LISTED
            if name in self._underway:  # else the look-up was cancelled because everyone has left
                self.report(zone, _troubleOf(error))
            return _UNKNOWN, _NOT_LISTED
        addresses = [record for record in records if record.type == _A]
        codes = self._codesOf(zone, [tuple(record.payload.address) for record in addresses])
        if not codes:
            return (_UNKNOWN if addresses else Answer()), _NOT_LISTED
        text = ""
        try:
            # RFC 5782 section 7: a domain that is no list any more may answer for every name.
            if control is not None and (await self.lookUp(control, zone, None)).codes:
                self.report(zone, f"lists {unreversed(control)}, so it lists everything, and is ignored")
                return _UNKNOWN, _NOT_LISTED
            if explain:
                text = _textOf(await self._query(_TXT, name))
        except Exception as error:  # what the list has said holds without the text, also if time is up
            log.debug("no text for {name}: {error!r}", name=shown(zone), error=type(error))
        ttl = float(min(record.ttl for record in addresses))
        return Answer(codes, text), min(max(ttl, _SHORTEST), _LONGEST)

    async def _query(self, kind: int, name: str) -> Sequence[Any]:
        """The answer section of a response."""
        await self._queries.acquire()
        isCancelled = False
        try:
            if self._resolver is None:
                self._resolver = _resolverFor(self._servers)
            resolver: Any = self._resolver
            lookUp = resolver.lookupAddress if kind == _A else resolver.lookupText
            answers: Sequence[Any] = (await lookUp(name, self._timeouts))[0]
            return answers
        except CancelledError:
            isCancelled = True
            raise
        finally:
            if isCancelled:
                # Twisted's resolver closes the socket of a cancelled query in the next turn of the reactor; by then a
                # client may have sent a thousand commands, each with another name.
                self._clock.callLater(0, self._queries.release)
            else:
                self._queries.release()

    def _codesOf(self, zone: str, addresses: Sequence[Code]) -> tuple[Code, ...]:
        """The addresses that mean a listing."""
        codes = []
        for address in addresses:
            said = ".".join(map(str, address))
            if address[0] != 127:
                # A domain that was sold, or a resolver that answers for names that do not exist.
                self.report(zone, "answers with addresses outside 127.0.0.0/8, which is ignored", said)
            elif address[:3] == (127, 255, 255) or address == (127, 0, 0, 1):
                # A convention of lists: we ask too often, through a public resolver, or a name that it does not have.
                self.report(zone, "refuses to answer this server", said)
            else:
                codes.append(address)
        return tuple(codes)

    def _failed(self, failure: Failure) -> tuple[Answer, float]:
        if not failure.check(CancelledError, TimeoutError):
            log.failure("a look-up in a DNS list failed", failure)
        return _UNKNOWN, _NOT_LISTED

    def _conclude(self, found: tuple[Answer, float], name: str, search: _Search) -> None:
        if self._underway.get(name) is not search:
            return  # everyone has left
        del self._underway[name]
        answer, ttl = found
        self._known[name] = answer, self._clock.seconds() + ttl
        self._known.move_to_end(name)
        if len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)
        for waiting in list(search.waiting):
            if not waiting.called:
                waiting.callback(answer)

    def _leave(self, name: str, search: _Search, mine: Deferred[Answer]) -> None:
        search.waiting.remove(mine)
        if not search.waiting and self._underway.get(name) is search:
            del self._underway[name]
            if search.running is not None:
                search.running.cancel()

    # --- the log ---

    def report(self, zone: str, trouble: str, answer: str = "") -> None:
        """Log what is wrong with a list, now and then."""
        state = self._troubles.setdefault((zone, trouble), _Trouble())
        now = self._clock.seconds()
        if now < state.reportFrom:
            state.unreported += 1
            return
        log.warn(
            "DNS list {list} {trouble}" + (": {answer}" if answer else "") + ("{again}" if state.unreported else ""),
            list=shown(zone),
            trouble=trouble,
            answer=answer,
            again=f" ({state.unreported} times more since the last such line)",
        )
        state.reportFrom, state.unreported = now + _REPORT_INTERVAL, 0


def _meansNoSuchName(error: Exception) -> bool:
    return isinstance(error, (DNSNameError, AuthoritativeDomainError)) or type(error) is DomainError


def _troubleOf(error: Exception) -> str:
    """What an exception means, without the name that was looked up, which may hold a customer's key."""
    if isinstance(error, DNSServerError):
        return "answers SERVFAIL"
    if isinstance(error, DNSQueryRefusedError):
        return "answers REFUSED"
    if isinstance(error, (CancelledError, TimeoutError)):
        return "does not answer in time"
    return f"cannot be asked ({type(error).__name__})"


def _textOf(records: Sequence[Any]) -> str:
    """The first TXT record; one that is long enough has several strings (RFC 1035 section 3.3.14)."""
    for record in records:
        if record.type == _TXT:
            text = b"".join(record.payload.data).decode("utf-8", "replace")
            return text if len(text) <= _TEXT_CHARACTERS else text[: _TEXT_CHARACTERS - 1] + "…"
    return ""


def _resolverFor(servers: list[tuple[str, int]]) -> IResolver:
    from twisted.names import client

    if servers:
        return client.Resolver(servers=servers)
    return client.getResolver()  # type: ignore[no-any-return]
