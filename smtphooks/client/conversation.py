"""
A conversation: commands in, octets for the server out; octets of the server in, each reply to whoever asked for it.

Rules: replies are told in the order of asking.  Where the server pipelines (RFC 2920), commands go out at once up to
one that must be the last of its group; where it does not, one goes out when the one before has its reply.
This module knows no transport, no clock, and not what commands mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from smtphooks.client.reply import NoReply, ReceivedReply, ReplyReader

# RFC 2920 section 3.1 lets these be nothing but the last command of a group, and others that change what follows
# (RFC 3207, RFC 4954, Postfix's XCLIENT) are no different.  The name of a chunk is followed by its octets.
_ENDS_GROUP = frozenset({b"EHLO", b"HELO", b"LHLO", b"DATA", b"STARTTLS", b"AUTH", b"XCLIENT", b"QUIT", b"NOOP"})


class Asked:
    """
    A reply that is due, or will be.

    @ivar label: what it is the reply to.
    @ivar seconds: how long the server may take for it.
    @ivar answered: called with the L{ReceivedReply}.
    """

    __slots__ = ("_endsGroup", "_octets", "answered", "label", "seconds")

    def __init__(
        self,
        label: str,
        seconds: float,
        answered: Callable[[ReceivedReply], object],
        octets: bytes = b"",
        endsGroup: bool = False,
    ) -> None:
        self.label: str = label
        self.seconds: float = seconds
        self.answered: Callable[[ReceivedReply], object] = answered
        self._octets = octets
        self._endsGroup = endsGroup


class Conversation:
    """
    One conversation.

    @ivar pipelines: the server offers PIPELINING.
    @ivar unasked: a reply that nobody has asked for, such as a 421 before the server closes an idle connection, or one
        before a message is complete; no more is read after it.
    """

    def __init__(self) -> None:
        self.pipelines: bool = False
        self.unasked: ReceivedReply | None = None
        self._isHalfway = False  # the last reply asks for more, so a command would be taken for that
        self._reader = ReplyReader()
        self._held: deque[Asked] = deque()  # not sent yet
        self._due: deque[Asked] = deque()

    # --- what is said ---

    def ask(self, label: str, line: bytes, seconds: float, answered: Callable[[ReceivedReply], object]) -> Asked:
        """
        Say a command, as soon as it is its turn.

        @param line: without its line end.
        @raise ValueError: if it is more than a line.
        """
        if b"\r" in line or b"\n" in line or b"\0" in line:
            raise ValueError(f"{label} would be more than one line")
        verb = line.split(b" ", 1)[0].upper()
        asked = Asked(label, seconds, answered, line + b"\r\n", verb in _ENDS_GROUP)
        self._held.append(asked)
        return asked

    def expect(self, label: str, seconds: float, answered: Callable[[ReceivedReply], object]) -> Asked:
        """A reply is due to what is no command: the greeting, to a message, to a chunk."""
        asked = Asked(label, seconds, answered)
        self._due.append(asked)
        return asked

    def octetsToSend(self) -> bytes:
        """The commands whose turn it is."""
        lines = []
        while self._held and self._mayGo():
            asked = self._held.popleft()
            self._due.append(asked)
            lines.append(asked._octets)
        return b"".join(lines)

    def _mayGo(self) -> bool:
        return not self._due or (self.pipelines and not self._due[-1]._endsGroup and not self.expectsContent)

    @property
    def expectsContent(self) -> bool:
        """The last reply that is due is to no command: what is sent next is the content of a message."""
        return bool(self._due) and not self._due[-1]._octets

    # --- what is heard ---

    @property
    def next(self) -> Asked | None:
        """The reply that is due next."""
        return self._due[0] if self._due else None

    @property
    def isQuiet(self) -> bool:
        """Nothing is due, neither from the server nor to it, and nothing has been heard that nobody asked for."""
        isDue = self._due or self._held or self._isHalfway
        return not isDue and self.unasked is None and self._reader.isEmpty

    @property
    def hasUnread(self) -> bool:
        """There are octets of the server that belong to no reply yet."""
        return not self._reader.isEmpty

    def receive(self, octets: bytes) -> None:
        """
        Octets of the server have arrived; those who asked are told.

        @raise NoReply: if they are no reply.  The conversation is over then.
        """
        self._reader.add(octets)
        while self.unasked is None:
            reply = self._reader.maybeReply()
            if reply is None:
                return
            if not self._due:
                self.unasked = reply
            else:
                self._isHalfway = 300 <= reply.code < 400
                self._due.popleft().answered(reply)


__all__ = ["Asked", "Conversation", "NoReply"]
