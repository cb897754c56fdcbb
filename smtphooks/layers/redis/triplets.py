"""
RedisTriplets: what greylisting remembers, shared by all machines that use one Redis.

In: a network, the digest of a mail, and times.  Out: the seconds for which the mail is still put off, decided as by
C{smtphooks.layers.triplets}.
Rules: one script decides, by the clock of Redis, which forgets what is out of date; keys hold networks and digests, and
never an address; no network can take more than its share of the memory.
This module knows no session and no reply, and not how Redis is reached.
"""

from __future__ import annotations

from smtphooks.layers.redis.node import Away
from smtphooks.layers.redis.shared import OnRedis
from smtphooks.optionkinds import withOptions

# Mails of one network that wait; beyond these its oldest make room.
SHARE = 2000

SCRIPT = b"""\
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local known, waiting, mail = KEYS[1], KEYS[2], ARGV[1]
local delay, window, remember, share = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
if redis.call('PEXPIRE', known, remember) == 1 then
    return {0}
end
local first = redis.call('ZSCORE', waiting, mail)
first = first and tonumber(first)
if not (first and first <= now and now - first <= window) then
    redis.call('ZREM', waiting, mail)
    redis.call('ZREMRANGEBYSCORE', waiting, '-inf', string.format('%.0f', now - window - 1))
    redis.call('ZREMRANGEBYRANK', waiting, 0, -share)
    redis.call('ZADD', waiting, string.format('%.0f', now), mail)
    redis.call('PEXPIRE', waiting, string.format('%.0f', math.ceil(window / 1000) + 1))
    return {delay}
end
local left = first + delay - now
if left > 0 then
    return {left}
end
redis.call('SET', known, '1', 'PX', remember)
redis.call('DEL', waiting)
return {0}
"""

_MICROSECONDS = 10**6
# The longest time in microseconds, 71 years, as numbers of Lua are exact below 2**53.
_MOST = 2**51


@withOptions
class RedisTriplets(OnRedis):
    """
    The memory of greylisting on Redis, C{smtphooks.layers.RedisTriplets}: the option C{memory} of C{Greylist}.

    Layers whose memories have the same C{prefix} in the same Redis remember together, on one machine or on several.
    """

    _without = "greylisting puts off nothing"
    _use = "greylist"

    async def decide(self, network: str, mail: bytes, delay: float, window: float, remember: float) -> float | None:
        """
        Decide on a mail.

        @param delay: seconds for which it is put off; C{window} seconds in which it may come again; C{remember} seconds
            for which a network is known, as options of C{Greylist}.
        @return: seconds until it may come again, 0 if it is not put off; None if Redis gives no answer.
        """
        name = b"%b:greylist:{%b}:" % (self.prefix.encode(), network.encode())
        microseconds = [min(round(seconds * _MICROSECONDS), _MOST) for seconds in (delay, window, remember)]
        arguments: list[bytes | str | int] = [mail, *microseconds[:2], max(1, microseconds[2] // 1000), SHARE]
        try:
            (left,) = await self._run(SCRIPT, [name + b"known", name + b"waiting"], arguments, _isAnswer)
        except Away:
            return None
        return left / _MICROSECONDS


def _isAnswer(answer: list[int]) -> bool:
    return len(answer) == 1 and answer[0] >= 0
