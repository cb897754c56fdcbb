"""
RedisCounts: the counts of rate limits, shared by all machines that use one Redis.

In: a key, a cost, and limits.  Out: a verdict, by the algorithm and with the numbers of C{smtphooks.layers.counts}.
Rules: one script decides on all limits of a key at once, by the clock of Redis; its numbers are whole and below 2**53,
as Lua has doubles alone, so nothing drifts.  Without an answer of Redis the counts of this machine decide, which are
told of everything that Redis has let through.
This module knows no mail, no session and no reply, and not how Redis is reached.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import lru_cache, partial
from hashlib import blake2b
from math import inf

import attrs
from twisted.internet.defer import Deferred

from smtphooks.awaiting import Waiting
from smtphooks.client.place import waitingFor
from smtphooks.layers.counts import Counts, Limit, Verdict
from smtphooks.layers.machinecounts import countsOfMachine
from smtphooks.layers.redis.node import Away
from smtphooks.layers.redis.shared import OnRedis
from smtphooks.optionkinds import withOptions

# An arrival time is a whole number of microseconds since 1970 and a rest, in parts of a microsecond of which the limit
# is the number: 10 in 3 seconds come back every 300000 microseconds, 7 in a second every 142857 and 1/7.
SCRIPT = b"""\
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local mode, farthest = ARGV[1], now + 4503599627370496
local before = {}
for number in string.gmatch(redis.call('GET', KEYS[1]) or '', '%d+') do
    before[#before + 1] = tonumber(number)
end
local after, worst, wait, latest = {}, 0, 0, now
for i = 0, (#ARGV - 1) / 5 - 1 do
    local limit, cost, costRest, burst, burstRest = unpack(ARGV, 5 * i + 2, 5 * i + 6)
    limit, costRest, burst, burstRest = tonumber(limit), tonumber(costRest), tonumber(burst), tonumber(burstRest)
    local arrival, rest = before[2 * i + 1] or 0, before[2 * i + 2] or 0
    if arrival < now then
        arrival, rest = now, 0
    end
    arrival, rest = arrival + tonumber(cost), rest + costRest
    if rest >= limit then
        arrival, rest = arrival + 1, rest - limit
    end
    if arrival > farthest then
        arrival, rest = farthest, 0
    end
    local excess = arrival - now - burst
    if rest > burstRest then
        excess = excess + 1
    end
    if excess > wait then
        worst, wait = i + 1, excess
    end
    after[#after + 1] = string.format('%.0f %.0f', arrival, rest)
    latest = math.max(latest, arrival)
end
if mode == 'force' or (mode == 'take' and worst == 0) then
    local milliseconds = math.ceil((latest - now) / 1000) + 1
    redis.call('SET', KEYS[1], table.concat(after, ' '), 'PX', string.format('%.0f', milliseconds))
end
return {worst, wait}
"""

_MICROSECONDS = 10**6
# The most that a number may be, so that the sum of two of them and the time is exact in Lua: 142 years.
_MOST = 2**52
# Octets of a key; of a longer one its digest is taken.
_KEY_OCTETS = 512


@withOptions
class RedisCounts(OnRedis):
    """
    Counts on Redis, C{smtphooks.layers.RedisCounts}: the option C{counts} of C{RateLimit}.

    Layers whose counts have the same C{prefix} in the same Redis count together, on one machine or on several.
    """

    _without = "rates are limited by the counts of this machine alone"
    _use = "counts"
    _machine: Counts = attrs.field(factory=countsOfMachine, init=False, repr=False)

    def check(self, key: str, cost: int, limits: tuple[Limit, ...]) -> Waiting[Verdict]:
        """See L{Counts.check}."""
        return waitingFor(Deferred.fromCoroutine(self._decide("check", key, cost, limits)))

    def increment(self, key: str, cost: int, limits: tuple[Limit, ...], force: bool = False) -> Waiting[Verdict]:
        """See L{Counts.increment}."""
        return waitingFor(Deferred.fromCoroutine(self._decide("force" if force else "take", key, cost, limits)))

    async def _decide(self, mode: str, key: str, cost: int, limits: tuple[Limit, ...]) -> Verdict:
        tooLarge = next((limit for limit in limits if cost > limit.burst), None)
        if tooLarge is not None and mode != "force":
            return Verdict(tooLarge, inf)
        arguments = [mode, *_argumentsOf(cost, limits)]
        try:
            worst, wait = await self._run(SCRIPT, [self._keyOf(key, limits)], arguments, partial(_isAnswer, limits))
        except Away:
            return await self._byMachine(mode, key, cost, limits)
        if mode == "force" or (mode == "take" and worst == 0):
            # So that nobody begins anew when Redis goes away.
            await _known(self._machine.increment(key, cost, limits, force=True))
        if tooLarge is not None:
            return Verdict(tooLarge, inf)
        return Verdict(limits[worst - 1], wait / _MICROSECONDS) if worst else Verdict()

    async def _byMachine(self, mode: str, key: str, cost: int, limits: tuple[Limit, ...]) -> Verdict:
        if mode == "check":
            return await _known(self._machine.check(key, cost, limits))
        return await _known(self._machine.increment(key, cost, limits, force=mode == "force"))

    def _keyOf(self, key: str, limits: tuple[Limit, ...]) -> bytes:
        octets = key.encode("utf-8", "backslashreplace")
        if len(octets) > _KEY_OCTETS:
            octets = blake2b(octets, digest_size=16).hexdigest().encode()
        return b"%b:%b:%b" % (self.prefix.encode(), _nameOf(limits), octets)


@lru_cache(maxsize=256)
def _nameOf(limits: tuple[Limit, ...]) -> bytes:
    """A short name for limits: a key has another count for others."""
    text = ",".join(f"{limit.limit}/{limit.period}/{limit.burst}" for limit in limits)
    return blake2b(text.encode(), digest_size=4).hexdigest().encode()


@lru_cache(maxsize=256)
def _argumentsOf(cost: int, limits: tuple[Limit, ...]) -> tuple[str, ...]:
    """Of each limit its number, and what the cost and the burst take: whole microseconds, and the rest."""
    arguments: list[int] = []
    for limit in limits:
        period = max(1, limit.period // 1000)
        arguments.append(limit.limit)
        for units in (cost, limit.burst):
            whole, rest = divmod(units * period, limit.limit)
            arguments += (whole, rest) if whole < _MOST else (_MOST, 0)
    return tuple(map(str, arguments))


def _isAnswer(limits: tuple[Limit, ...], answer: list[int]) -> bool:
    """Is it the number of a limit, 0 for none, and a time to wait?"""
    return len(answer) == 2 and 0 <= answer[0] <= len(limits) and answer[1] >= 0


async def _known(result: Verdict | Awaitable[Verdict]) -> Verdict:
    return result if isinstance(result, Verdict) else await result
