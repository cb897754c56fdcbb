"""
A node: one Redis server that is kept connected to, and known to be away or not.

In: calls.  Out: answers in time, or L{Away} at once.  Several failures in a row, or no connection, make the node away:
the log says so once, of all workers, and calls fail at once, so that no client waits for what does not answer.  It is
back with a connection on which it answers, or, where it had answered with errors, with the first call that succeeds:
one in each second is tried.
This module knows no script, and not what is done without Redis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.currentreactor import currentReactor
from smtphooks.hooks import Unavailable
from smtphooks.layers.redis.link import Argument, Link, describeError
from smtphooks.sharedlock import SharedLock

log: Logger = Logger()

# Seconds that a connection may take until the server has answered on it.
_CONNECT_SECONDS = 2.0
# Seconds between two attempts to connect: the first, and the most that doubling leads to.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 4.0
# Seconds after which a connection that is lost was one that could be used.
_STABLE_SECONDS = 5.0
# Seconds after which a node that is away may be given up.
_GIVE_UP_SECONDS = 600.0
# Failures in a row after which a node is away.
_FAILURES = 3
# Seconds between two calls on trial, while the connection is there and calls fail.
_TRIAL_SECONDS = 1.0
# With these errors the server says that it is not the one to ask: the address is looked up once more.
_NOT_THE_MASTER = ("READONLY", "MASTERDOWN", "LOADING", "NOAUTH")


Fits = Callable[[list[int]], bool]


class Away(Unavailable):
    """There is no answer from Redis now."""


class Redirected(Exception):
    """
    Another node of the cluster has the key (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).

    @ivar asking: for this one call alone.
    @ivar slot: the slot of the key; C{place} the address of the node, C{"host:port"}, where the host may be empty.
    """

    def __init__(self, asking: bool, slot: int, place: str) -> None:
        super().__init__(place)
        self.asking = asking
        self.slot = slot
        self.place = place


class Node:
    """
    @ivar name: what the log calls it.
    @ivar isAway: it cannot be used.
    @ivar isConnected: calls can be made on it.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[Callable[[Link, str], object]], Awaitable[Link]],
        without: str,
        giveUp: Callable[[Node], object] | None = None,
    ) -> None:
        """
        @param connect: opens a link to it, given what is to be told of the end of the link.
        @param without: completes the line of the log that says that it is away: what is done without it.
        @param giveUp: called when it has been away for ten minutes; then it connects no more.
        """
        self.name = name
        self.isAway: bool = False
        # Who has it says for all workers that the node is away, and that it is back.
        self._speaking = SharedLock(f"Redis at {name}; {without}")
        self._speaks = False
        self._connect = connect
        self._without = without
        self._giveUp = giveUp
        self._awaySince = 0.0
        self._link: Link | None = None
        self._attempt: Deferred[Any] | None = None
        self._timer: Any = None  # until the next attempt
        self._waiting: list[Deferred[None]] = []
        self._pause = _FIRST_PAUSE
        self._isStopped = False
        self._why = "it is not connected to yet"
        self._failures = 0
        self._since = 0.0  # when the link was opened
        self._hasServed = False  # a call on the link has succeeded
        self._mustProve = False  # it is back with a call that succeeds, not with a connection
        self._nextTrial = 0.0

    @property
    def isConnected(self) -> bool:
        return self._link is not None

    # --- calls ---

    async def run(
        self,
        script: bytes,
        keys: Sequence[bytes],
        arguments: Sequence[Argument],
        fits: Fits,
        seconds: float,
        asking: bool = False,
    ) -> list[int]:
        """
        The answer of a script.

        @param fits: whether an answer of whole numbers is one of this script.
        @param seconds: the longest time to wait for it.
        @raise Away: if there is none.
        @raise Redirected: if another node is to be asked.
        """
        reactor = currentReactor()
        deadline = reactor.seconds() + seconds
        if self._link is None and not self.isAway:
            await self.attempted(seconds)
        link = self._link
        if link is None:
            raise Away(f"Redis at {self.name} is away: {self._why}")
        if self.isAway:
            if reactor.seconds() < self._nextTrial:
                raise Away(f"Redis at {self.name} is away: {self._why}")
            self._nextTrial = reactor.seconds() + _TRIAL_SECONDS
        try:
            calling = link.run(script, keys, arguments, asking)
            answer = await calling.addTimeout(max(0.0, deadline - reactor.seconds()), reactor)
        except CancelledError:  # the client has left, which says nothing of Redis
            raise
        except TimeoutError:
            raise self._failed(link, f"it does not answer within {seconds:.2g} seconds", isUseless=True) from None
        except Exception as error:
            raise self._problem(link, error) from error
        if not (isinstance(answer, list) and all(isinstance(number, int) for number in answer) and fits(answer)):
            raise self._failed(link, "it gives a wrong answer", mustProve=True)
        self._succeeded()
        return answer

    def _problem(self, link: Link, error: Exception) -> Exception:
        text = describeError(error)
        words = text.split(" ")
        if words[0] in ("MOVED", "ASK") and len(words) == 3 and words[1].isdecimal():
            self._succeeded()
            return Redirected(words[0] == "ASK", int(words[1]), words[2])
        if not link.isOpen:  # the link has told of its end
            return Away(f"Redis at {self.name}: {text}")
        isUseless = any(word in text for word in _NOT_THE_MASTER)
        if isUseless:
            self._failures = _FAILURES
        return self._failed(link, text, isUseless, mustProve=True)

    def _failed(self, link: Link, why: str, isUseless: bool = False, mustProve: bool = False) -> Away:
        """
        @param isUseless: the connection is to be another one.
        @param mustProve: that it connects and answers will not tell that calls succeed.
        """
        self._failures += 1
        if self._failures >= _FAILURES and link is self._link:
            if isUseless:
                self._link = None
                link.close()
                self._schedule(self._pause)
            self._goAway(why, mustProve)
        return Away(f"Redis at {self.name}: {why}")

    def _succeeded(self) -> None:
        self._hasServed = True
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._comeBack()

    # --- connecting ---

    def start(self) -> None:
        """Connect, unless it is or does already, and keep connected."""
        self._isStopped = False
        if self._link is None and self._attempt is None and self._timer is None:
            self._begin()

    async def attempted(self, seconds: float) -> None:
        """Wait until an attempt to connect has ended, in whatever way, or for so many seconds."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self.start()
        if self._attempt is None:
            return
        ended: Deferred[None] = Deferred()
        self._waiting.append(ended)
        ended.addTimeout(seconds, currentReactor())
        try:
            await ended
        except TimeoutError:
            return
        finally:
            if ended in self._waiting:
                self._waiting.remove(ended)

    def _begin(self) -> None:
        self._timer = None
        attempt = Deferred.fromCoroutine(self._open())
        self._attempt = attempt
        attempt.addTimeout(_CONNECT_SECONDS, currentReactor())
        attempt.addBoth(self._ended, attempt)
        if attempt.called and self._attempt is attempt:  # it had ended before it was known
            self._attempt = None

    async def _open(self) -> Link:
        return await self._connect(self._lost)

    def _ended(self, result: Any, attempt: Deferred[Any]) -> None:
        self._attempt = None
        if isinstance(result, Failure):
            if self._isStopped:
                self._release()
                return
            error: Any = result.value
            isLate = isinstance(error, TimeoutError)
            why = f"it does not answer within {_CONNECT_SECONDS:g} seconds" if isLate else describeError(error)
            self._goAway(why, mustProve=self._mustProve)
            if self._giveUp is not None and currentReactor().seconds() - self._awaySince > _GIVE_UP_SECONDS:
                self._isStopped = True
                self._giveUp(self)
            self._schedule(self._pause)
        elif self._isStopped:
            result.close()
        else:
            self._link = result
            self._since, self._hasServed = currentReactor().seconds(), False
            self._failures = 0
            self._nextTrial = 0.0
            if not self._mustProve:
                self._comeBack()
        self._release()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)

    def _schedule(self, pause: float) -> None:
        if not self._isStopped and self._timer is None and self._attempt is None:
            self._timer = currentReactor().callLater(pause, self._begin)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _lost(self, link: Link, why: str) -> None:
        if link is not self._link:
            return
        self._link = None
        self._why = why
        lasted = currentReactor().seconds() - self._since
        if self._hasServed or lasted > _STABLE_SECONDS:
            # As when the server was restarted, or closes connections that are idle.
            self._schedule(self._pause if self.isAway else 0.0)
        else:
            self._goAway(why, mustProve=True)
            self._schedule(self._pause)

    async def stop(self) -> None:
        """Close the connection, and connect no more."""
        self._isStopped = True
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._speaks:
            self._stopSpeaking()

    # --- away and back ---

    def _goAway(self, why: str, mustProve: bool) -> None:
        self._why, self._mustProve = why, mustProve
        if not self._speaks:
            self._speaks = self._speaking.acquire()
            if self._speaks and not self.isAway:
                log.warn(
                    "Redis at {server} is away: {why}; {without}", server=self.name, why=why, without=self._without
                )
        if not self.isAway:
            self.isAway = True
            self._awaySince = currentReactor().seconds()
        self._nextTrial = currentReactor().seconds() + _TRIAL_SECONDS

    def _comeBack(self) -> None:
        self._mustProve = self.isAway = False
        if self._speaks:
            self._stopSpeaking()
            log.info("Redis at {server} is back", server=self.name)

    def _stopSpeaking(self) -> None:
        self._speaks = False
        self._speaking.release()
