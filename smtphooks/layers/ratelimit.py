"""
Rate limits: how many connections, messages, recipients, octets and failed authentications are taken from a client, a
user or a sender, or for a recipient.

In: what clients do, and limits as the operator writes them.  Out: temporary refusals that say how long to wait.
This module knows no clock and not how it is counted; see C{counts.py}.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from math import ceil, inf
from typing import Any, NamedTuple

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from smtphooks.awaiting import coroutineOf
from smtphooks.errors import OptionError
from smtphooks.layers.counts import Counts, Limit, Verdict
from smtphooks.layers.machinecounts import countsOfMachine
from smtphooks.layers.mailboxes import canonicalAddress
from smtphooks.netaddress import networkOf
from smtphooks.optionkinds import isText, listOf, objectWith, withOptions
from smtphooks.replies import Reply, SMTPError
from smtphooks.session import Address, Envelope, Session
from smtphooks.stream import MessageStream

log: Logger = Logger()

CONNECTIONS, MESSAGES, RECIPIENTS, OCTETS, FAILURES = "connections", "messages", "recipients", "octets", "auth failures"
CLIENT, USER, SENDER, RECIPIENT = "client", "user", "sender", "recipient"

# By whom each of them can be counted, and the hooks that it takes.
_COUNTED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    CONNECTIONS: ((CLIENT,), ("onConnect",)),
    MESSAGES: ((CLIENT, USER, SENDER, RECIPIENT), ("onRcptTo",)),
    RECIPIENTS: ((CLIENT, USER, SENDER), ("onRcptTo",)),
    OCTETS: ((CLIENT, USER, SENDER, RECIPIENT), ("onMailFrom", "onRcptTo", "filterData")),
    FAILURES: ((CLIENT, USER), ("onAuth", "onReply")),
}
_HOOKS = ("onConnect", "onAuth", "onMailFrom", "onRcptTo", "filterData", "onReply")

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}

_NUMBER = "[1-9][0-9]*(?:_[0-9]+)*"
_LIMIT = re.compile(
    f"(?P<limit>{_NUMBER}) (?P<what>connections?|messages?|recipients?|octets?|auth failures?)"
    f" per (?:(?P<units>{_NUMBER}) )?(?P<unit>second|minute|hour|day)s?"
    f" per (?P<per>client|user|sender|recipient)(?:, burst (?P<burst>{_NUMBER}))?"
)
_WANTS = 'it wants "100 messages per hour per client" or "50 recipients per 10 minutes per sender, burst 20"'

# Texts of replies.
_TOO_MANY = {
    CONNECTIONS: "Too many connections",
    MESSAGES: "Too many messages",
    RECIPIENTS: "Too many recipients",
    OCTETS: "Too much mail",
    FAILURES: "Too many failed authentications",
}
_BY = {CLIENT: "from your address", USER: "from this user", SENDER: "from this sender", RECIPIENT: "to this recipient"}
_TOO_LARGE = "Message is larger than the rate limit allows at any time"

# Octets are charged in steps of this size: a shared store is not asked for each chunk.
_OCTETS_AT_ONCE = 64 * 1024
# Keys are cut to this length: names come from clients, and there may be very many of them in memory.
_KEY_CHARACTERS = 256


class _Charge(NamedTuple):
    """
    Something that happens, for one count.

    @ivar what: one of C{_COUNTED}; C{per} whom it is counted for.
    """

    what: str
    per: str
    value: str
    cost: int
    limits: tuple[Limit, ...]

    @property
    def key(self) -> str:
        return f"{self.what} {self.per} {self.value}"[:_KEY_CHARACTERS]


@attrs.define(eq=False)
class _State:
    """
    @ivar counted: the envelope of the message that has been counted.
    @ivar attempt: what an attempt to authenticate will cost if it fails.
    """

    counted: Envelope | None = None
    attempt: list[_Charge] = attrs.field(factory=list)


@withOptions
class RateLimit:
    """
    A layer that limits rates, C{smtphooks.layers.RateLimit}.

    A message counts with its first recipient, so a transaction without one costs nothing.  Put this layer behind those
    that refuse recipients: what they refuse does not count then.  The null reverse-path has no limits as a sender, nor
    has a client without a user as a user.

    @ivar limits: such as C{"100 messages per hour per client"}.
    @ivar counts: where counts are kept; those of this machine unless given.
    """

    limits: Sequence[str] = listOf((), "a list of texts", isText)
    counts: Counts = objectWith("increment", "an object with methods check and increment")

    State = _State
    authenticates = False
    choosesRecipients = False

    def __attrs_post_init__(self) -> None:
        if self.counts is None:
            self.counts = countsOfMachine()
        if not self.limits:
            raise OptionError(f"option limits is empty, {_WANTS}", options=["limits"])
        self._limits: dict[str, dict[str, tuple[Limit, ...]]] = {}
        for text in self.limits:
            what, per, limit = _parse(text)
            limits = self._limits.setdefault(what, {})
            limits[per] = (*limits.get(per, ()), limit)
        needed = {hook for what in self._limits for hook in _COUNTED[what][1]}
        for hook in _HOOKS:
            if hook not in needed:
                setattr(self, hook, None)  # what is not limited costs nothing
        for name in ("onStart", "onStop", "metricValues"):
            if hasattr(self.counts, name):  # a store that is connected to
                setattr(self, name, getattr(self.counts, name))

    # --- hooks ---

    async def onConnect(self, session: Session) -> None:
        """
        Count the connection.

        @raise SMTPError: 421.
        """
        await self._take(self._charges(CONNECTIONS, 1, session), session, 421)

    async def onAuth(self, auth: Any, session: Session) -> None:
        """
        Look whether the client, or the user that it names, has failed too often.

        @raise SMTPError: 421, so that the client does not go on guessing on this connection.
        """
        charges = self._charges(FAILURES, 1, session, user=auth.username)
        await self._check(charges, session, 421)
        session.of(self).attempt = charges

    def onReply(self, verb: str, reply: Reply, session: Session) -> None:
        """Count a failed authentication; what this layer itself refused does not count."""
        if verb != "AUTH" or reply.code == 334:
            return
        state = session.of(self)
        attempt, state.attempt = state.attempt, []
        if reply.code != 535:
            return
        for charge in attempt:
            # Other connections may have failed meanwhile, so there may be no room any more; it counts nevertheless.
            result = self.counts.increment(charge.key, charge.cost, charge.limits, force=True)
            if not isinstance(result, Verdict):
                Deferred.fromCoroutine(coroutineOf(result)).addErrback(self._notCounted, session)

    async def onMailFrom(self, address: Address, session: Session) -> None:
        """
        Look whether there is room for the size that the client declares; octets are charged as they arrive.

        @raise SMTPError: 450, or 552 if it is larger than a whole burst.
        """
        if size := _declaredSize(address):
            await self._check(self._charges(OCTETS, size, session, sender=address), session, 450)

    async def onRcptTo(self, address: Address, session: Session) -> None:
        """
        Count the recipient, and the message with its first one.

        @raise SMTPError: 450, or 552 as with L{onMailFrom}.
        """
        state, envelope = session.of(self), session.envelope
        size = _declaredSize(envelope.mailFrom)
        if size and RECIPIENT in self._limits.get(OCTETS, ()):
            await self._check(self._charges(OCTETS, size, session, [address], only=RECIPIENT), session, 450)
        charges = self._charges(RECIPIENTS, 1, session)
        if state.counted is envelope:
            charges += self._charges(MESSAGES, 1, session, [address], only=RECIPIENT)
        else:
            charges += self._charges(MESSAGES, 1, session, [address])
        await self._take(charges, session, 450)
        state.counted = envelope

    async def filterData(self, stream: MessageStream, session: Session) -> AsyncIterator[bytes]:
        """
        Count octets.

        @raise SMTPError: 450, or 552 if there are more than a whole burst.
        """
        octets = uncounted = 0
        async for chunk in stream:
            octets += len(chunk)
            uncounted += len(chunk)
            if uncounted >= _OCTETS_AT_ONCE:
                await self._takeOctets(uncounted, octets, session)
                uncounted = 0
            yield chunk
        if uncounted:
            await self._takeOctets(uncounted, octets, session)

    # --- counting ---

    def _charges(
        self,
        what: str,
        cost: int,
        session: Session,
        recipients: Iterable[Address] = (),
        sender: Address | None = None,
        user: str | None = None,
        only: str | None = None,
    ) -> list[_Charge]:
        """What it costs, for each of those whom it is counted for."""
        charges = []
        for per, limits in self._limits.get(what, {}).items():
            if only is not None and per != only:
                continue
            if per == RECIPIENT:
                values = [canonicalAddress(address) for address in recipients]
            elif per == CLIENT:
                values = [networkOf(session.remoteAddress)]
            elif per == USER:
                values = [(user or "").lower() if what == FAILURES else _nameOf(session.user)]
            else:
                path = sender or session.envelope.mailFrom
                values = [canonicalAddress(path) if path else ""]
            charges += [_Charge(what, per, value, cost, limits) for value in dict.fromkeys(values) if value]
        return charges

    async def _check(self, charges: list[_Charge], session: Session, code: int) -> None:
        for charge in charges:
            verdict = await _known(self.counts.check(charge.key, charge.cost, charge.limits))
            if verdict.limit is not None:
                raise self._refusal(charge, verdict.limit, verdict.wait, session, code)

    async def _take(self, charges: list[_Charge], session: Session, code: int) -> None:
        """Take all of it, or nothing if one count refuses."""
        if len(charges) > 1:
            await self._check(charges, session, code)
        for charge in charges:
            verdict = await _known(self.counts.increment(charge.key, charge.cost, charge.limits))
            if verdict.limit is not None:
                raise self._refusal(charge, verdict.limit, verdict.wait, session, code)

    async def _takeOctets(self, octets: int, octetsOfMessage: int, session: Session) -> None:
        """
        @param octetsOfMessage: how many of the message have come.
        """
        charges = self._charges(OCTETS, octets, session, session.envelope.rcptTo)
        for charge in charges:
            for limit in charge.limits:
                if octetsOfMessage > limit.burst:
                    raise self._refusal(charge, limit, inf, session, 552)
        await self._take(charges, session, 450)

    # --- refusing ---

    def _refusal(self, charge: _Charge, limit: Limit, wait: float, session: Session, code: int) -> SMTPError:
        log.info(
            "over the limit of {limit}: {network} is told to wait {wait} [{session}]",
            session=session.id,
            peer=session.remoteAddress,
            network=networkOf(session.remoteAddress),
            limit=limit.name,
            wait="forever" if wait == inf else _duration(wait),
        )
        if wait == inf:
            return SMTPError(_TOO_LARGE, 552, "5.3.4")
        text = f"{_TOO_MANY[charge.what]} {_BY[charge.per]}, try again in {_duration(wait)}"
        return SMTPError(text, code, "4.7.0" if code == 421 else "4.7.1")

    def _notCounted(self, failure: Any, session: Session) -> None:
        log.failure(
            "a failed authentication cannot be counted [{session}]",
            failure,
            session=session.id,
            peer=session.remoteAddress,
        )


def _parse(text: str) -> tuple[str, str, Limit]:
    """
    What a limit counts, for whom, and the limit itself.

    @raise OptionError: if the text is no limit.
    """
    name = " ".join(text.split())
    found = _LIMIT.fullmatch(name)
    if found is None:
        raise OptionError("option limits has {!r}, " + _WANTS, text, options=["limits"])
    what, per, limit = found["what"].removesuffix("s") + "s", found["per"], int(found["limit"])
    known = _COUNTED[what][0]
    if per not in known:
        raise OptionError(
            f"option limits has {{!r}}, {what} are counted per {' or per '.join(known)}", text, options=["limits"]
        )
    seconds = int(found["units"] or 1) * _SECONDS[found["unit"]]
    return what, per, Limit(limit, seconds, int(found["burst"] or limit), name)


async def _known(result: Verdict | Awaitable[Verdict]) -> Verdict:
    return result if isinstance(result, Verdict) else await result


def _declaredSize(address: Address | None) -> int:
    """The parameter SIZE of MAIL (RFC 1870), 0 without one."""
    size = "" if address is None else str(address.args.get("SIZE", ""))
    return int(size) if size.isdecimal() else 0


def _nameOf(user: object) -> str:
    """A user as a key, C{""} for none; objects of users differ by their notation."""
    return "" if user is None else str(user).lower()


def _duration(seconds: float) -> str:
    """A time to wait, rounded up."""
    for unit, size in (("second", 1), ("minute", 60), ("hour", 3600)):
        number = ceil(seconds / size)
        if number < 120 or unit == "hour":
            return f"{number} {unit}" + ("" if number == 1 else "s")
    raise AssertionError("not reached")
