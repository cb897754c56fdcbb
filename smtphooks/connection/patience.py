"""
Patience: until when a connection waits, for its client or for a hook.

One number for each connection, which the factory looks at once a second; so it costs nothing to set, and ten thousand
connections cost one timer.  Who is waited for is the protocol's to say, what happens when the time is up as well.
This module knows options and the clock, neither the wire nor replies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtphooks.factory import SMTPServerFactory

_NEVER = float("inf")

# Seconds that hooks have to end when their connection was ended by force.
_LAST_WORDS = 1

# Octets a second that a message must come with in the end, and how many times option socketTimeout that may take to
# show.
_LEAST_RATE = 10
_GRACE = 5


class Patience:
    """
    @ivar deadline: when the other side must have done what it owes, by C{factory.now}; infinite while nobody owes
        anything.
    @ivar isForced: the connection was ended though it was not done, and nobody waits long any more.
    """

    __slots__ = ("_dataTimeout", "_factory", "_fullSince", "_messageBegan", "_socketTimeout", "deadline", "isForced")

    def __init__(self, factory: SMTPServerFactory) -> None:
        self._factory = factory
        self._socketTimeout = factory.options.socketTimeout or _NEVER
        self._dataTimeout = factory.options.dataTimeout or _NEVER
        self._messageBegan = 0.0  # less the time that hooks have taken since
        self._fullSince: float | None = None
        self.deadline = _NEVER
        self.isForced = False

    def end(self) -> None:
        """Nobody is waited for."""
        self.deadline = _NEVER

    def forHook(self) -> None:
        """A hook is at work (option C{hookTimeout}); the client owes nothing."""
        seconds = _LAST_WORDS if self.isForced else self._factory.options.hookTimeout
        self.deadline = self._factory.now + (seconds or _NEVER)

    def forClient(self) -> None:
        """The client owes the next command, the rest of a handshake or the end of the connection."""
        self.deadline = self._factory.now + self._socketTimeout

    def forWait(self, seconds: float) -> None:
        """The client has to wait so long."""
        self.deadline = self._factory.reactor().seconds() + seconds

    def forMessage(self, octets: int) -> None:
        """
        The client owes the next octets of a message.

        It may not fall silent, and neither drip: after a while the whole message must have come at some rate, and in
        the end in some time.

        @param octets: what has come of it.
        """
        timeout = self._socketTimeout
        self.deadline = min(
            self._factory.now + timeout,
            self._messageBegan + _GRACE * timeout + octets / _LEAST_RATE,
            self._messageBegan + self._dataTimeout,
        )

    def forChunk(self) -> None:
        """The client owes the next chunk, and within the time of a message (option C{dataTimeout})."""
        if self.isHookSlow:
            self.hookIsBack(0)
        self.deadline = min(self._factory.now + self._socketTimeout, self._messageBegan + self._dataTimeout)

    def messageBegins(self) -> None:
        """From here on the message takes time."""
        self._messageBegan = self._factory.now
        self._fullSince = None

    @property
    def isHookSlow(self) -> bool:
        """The message waits for its hook."""
        return self._fullSince is not None

    def hookIsSlow(self) -> None:
        """There is no room for more of the message."""
        if not self.isHookSlow:
            self._fullSince = self._factory.now
            self.forHook()

    def hookIsBack(self, octets: int) -> None:
        """There is room again; the time that the hook took is not the client's."""
        assert self._fullSince is not None
        self._messageBegan += self._factory.now - self._fullSince
        self._fullSince = None
        self.forMessage(octets)
