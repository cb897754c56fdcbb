"""
Pacing: whose turn it is, until when, and whether the client is paused meanwhile.

The connection says whose turn it is after each event; the deadline, the pausing of the transport (back-pressure, so
that memory stays bounded: invariant 6) and the accounting of a message's time follow from that here, and nowhere else.
Only an arrival, which has no turns, keeps a deadline of its own.
This module knows options, clock and transport, neither commands nor replies.
"""

from __future__ import annotations

import errno
import select
from enum import Enum
from socket import SO_ERROR, SOL_SOCKET
from typing import Any

from smtphooks.connection.message import MessageReceiver, Stage
from smtphooks.connection.registry import LiveConnections
from smtphooks.connection.state import ConnectionState, Phase, Want
from smtphooks.options import Options
from smtphooks.syntax.wire import Wire

_NEVER = float("inf")

# Octets that may wait behind a pending hook before the client is paused.
AHEAD = 16384

# Octets that may wait for onData while the client may still send a command, between two chunks of its message: with
# what is read then (at most 64 KiB), less than 128 KiB in all.
_BEHIND = 61440

# Seconds that hooks have to end after their connection was ended by force.
_LAST_WORDS = 1.0

# Seconds that a client has to read the last reply when the rest of its message is not read.
_FAREWELL = 1.0

# The rate in octets a second that a message must reach, once it has taken this many times option socketTimeout.
_LEAST_RATE = 10
_GRACE = 5

# An ICMP error about a lost packet: TCP sends the packet again (RFC 5461 section 2).
_SOFT_ERRORS = frozenset({0, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EPROTO})


class Turn(Enum):
    """Who must act next, and so whose time passes."""

    __hash__: Any = object.__hash__  # that of Enum is Python code

    NONE = "nobody"
    CLIENT = "client"  # the next command, a response, the rest of a handshake, the end of the connection
    MESSAGE = "message"  # the client's next octets of a message
    CHUNK = "chunk"  # the client's next chunk of a message
    HOOK = "hook"  # a hook decides, or does not read its message
    TIMER = "timer"  # the client is delayed
    FAREWELL = "farewell"  # the client reads its last reply


_TURNS = {
    Want.RESPONSE: Turn.CLIENT,
    Want.HOOK: Turn.HOOK,
    Want.HANDSHAKE: Turn.CLIENT,
    Want.TIMER: Turn.TIMER,
}


# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every message.
_OPEN, _CLOSING, _LINE, _MESSAGE = Phase.OPEN, Phase.CLOSING, Want.LINE, Want.MESSAGE
_NOBODY, _CLIENT, _HOOK, _MESSAGE_TURN, _READING = Turn.NONE, Turn.CLIENT, Turn.HOOK, Turn.MESSAGE, Stage.READING


def turnOf(state: ConnectionState, wire: Wire, message: MessageReceiver) -> Turn:
    """Whose turn it is."""
    if state.phase is _CLOSING:
        return _CLIENT if wire.messageEnded else Turn.FAREWELL
    if state.phase is not _OPEN:
        return _HOOK
    if state.want is _LINE:
        if message.delivery is None:
            return _CLIENT
        return Turn.CHUNK if hasRoom(state, message) else _HOOK
    if state.want is _MESSAGE:
        return _MESSAGE_TURN if message.stage is _READING and message.hasRoom else _HOOK
    return _TURNS[state.want]


def hasRoom(state: ConnectionState, message: MessageReceiver) -> bool:
    """More of a message may be read; between two chunks of one there is more room, for commands."""
    return message.hasRoom or (state.want is _LINE and message.buffered <= _BEHIND)


class Pacing:
    """
    @ivar turn: whose turn it is.
    @ivar deadline: when the turn must be over, by C{LiveConnections.now}; infinite without a limit.
    @ivar isPaused: the transport reads no more for now.
    """

    __slots__ = (
        "_dataTimeout",
        "_delay",
        "_hookSince",
        "_hookTimeout",
        "_live",
        "_messageBegan",
        "_socketTimeout",
        "_transport",
        "deadline",
        "isPaused",
        "turn",
    )

    def __init__(self, options: Options, live: LiveConnections, transport: Any) -> None:
        self._live = live
        self._transport = transport
        self._socketTimeout = options.socketTimeout or _NEVER
        self._dataTimeout = options.dataTimeout or _NEVER
        self._hookTimeout = options.hookTimeout or _NEVER
        self._messageBegan = 0.0  # moved on by the time that hooks have taken since
        self._hookSince = 0.0
        self.turn: Turn = _NOBODY
        self.deadline: float = _NEVER
        self._delay = 0.0
        self.isPaused: bool = False

    def clientsTurn(self) -> None:
        """A command was answered, and nothing is pending: L{turnTo} for the most frequent case."""
        self.turn = _CLIENT
        self.deadline = self._live.now + self._socketTimeout

    def turnTo(self, turn: Turn, *, isNew: bool, octets: int = 0) -> None:
        """
        Say whose turn it is now.

        @param isNew: a turn of the same kind begins anew; otherwise its deadline stays, so that bytes that drip in do
            not extend it.
        @param octets: how much of the message has arrived.
        """
        before = self.turn
        if turn is before and not isNew:
            return
        now = self._live.now
        if before is _HOOK and turn is not _HOOK:
            self._messageBegan += now - self._hookSince  # The time that a hook takes is not the client's.
        elif turn is _HOOK and before is not _HOOK:
            self._hookSince = now
        self.turn = turn
        self.deadline = self._deadlineOf(turn, now, octets)

    def _deadlineOf(self, turn: Turn, now: float, octets: int) -> float:
        if turn is _HOOK:
            return now + self._hookTimeout
        if turn is _CLIENT:
            return now + self._socketTimeout
        if turn is Turn.CHUNK:
            return min(now + self._socketTimeout, self._messageBegan + self._dataTimeout)
        if turn is _MESSAGE_TURN:
            # The client may neither fall silent nor drip: after a while the message must have arrived at some rate, and
            # in the end within some time.
            return min(
                now + self._socketTimeout,
                self._messageBegan + _GRACE * self._socketTimeout + octets / _LEAST_RATE,
                self._messageBegan + self._dataTimeout,
            )
        return self._live.seconds() + (self._delay if turn is Turn.TIMER else _FAREWELL)

    @property
    def isTimerDue(self) -> bool:
        """The delay of the client is over."""
        return self.turn is Turn.TIMER and self.deadline <= self._live.seconds()

    def delayClient(self, seconds: float) -> None:
        """The next L{Turn.TIMER} lasts that many seconds, even if another one has just ended."""
        self.turn = Turn.NONE
        self._delay = seconds

    def hurry(self) -> None:
        """The connection was ended by force: hooks that still run have a second."""
        self._hookTimeout = _LAST_WORDS

    def messageBegins(self) -> None:
        """The time of a message begins; see L{_deadlineOf}."""
        self._messageBegan = self._hookSince = self._live.now

    def pause(self, isPaused: bool) -> None:
        """Read no more from the client, or read on."""
        if isPaused is not self.isPaused:
            self.isPaused = isPaused
            if isPaused:
                self._transport.pauseProducing()
            else:
                self._transport.resumeProducing()

    @property
    def isBroken(self) -> bool:
        """The client is gone; a transport that reads nothing does not notice, so the socket is asked."""
        socket = getattr(self._transport, "socket", None)
        if socket is None:
            return False
        poll = select.poll()
        poll.register(socket, 0)  # what is asked for here is reported in any case
        event = sum(event for _, event in poll.poll(0))
        if event & select.POLLERR:
            return socket.getsockopt(SOL_SOCKET, SO_ERROR) not in _SOFT_ERRORS
        return event & select.POLLHUP != 0
