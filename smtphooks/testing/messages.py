"""
Messages: what a server has received, as a test looks at it, and the inbox that they wait in.

In: the octets of a message, its envelope and its session.  Out: an C{EmailMessage}, whatever the octets are.
This module knows no server and no Twisted.
"""

from __future__ import annotations

import copy
import email
import threading
from collections import deque
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import EmailPolicy
from typing import Any, overload

from smtphooks.session import Envelope, Session


class _Tolerant(EmailPolicy):
    """C{email.policy.default}, but a field that Python's parser chokes on is given as it came."""

    def header_fetch_parse(self, name: str, value: str) -> Any:
        try:
            return super().header_fetch_parse(name, value)
        except Exception:
            # Some malformed addresses and dates raise IndexError, ValueError and others, depending on the version.
            return "".join(value.splitlines())


_POLICY = _Tolerant()


class ReceivedMessage(EmailMessage):
    """
    A message that the server has accepted.

    @ivar envelope: the L{Envelope}: C{mailFrom} and C{rcptTo}; of LMTP the recipients that were accepted.
    @ivar session: the L{Session} as it was when the message had come: C{user}, C{secure}, C{openingCommand} and so on.
    @ivar octets: the message as the client sent it, without hidden dots.
    """

    envelope: Envelope
    session: Session
    octets: bytes

    def __deepcopy__(self, memo: dict[int, Any]) -> ReceivedMessage:
        # Python's generator copies a message whose charset it does not know.  A session cannot be copied like that.
        copied = ReceivedMessage(_POLICY)
        for name, value in vars(self).items():
            isShared = name in ("envelope", "octets", "session")
            setattr(copied, name, value if isShared else copy.deepcopy(value, memo))
        return copied

    def __repr__(self) -> str:
        recipients = ", ".join(map(str, self.envelope.rcptTo))
        return f"<ReceivedMessage from {self.envelope.mailFrom} for {recipients}: {self['Subject']!r}>"


def frozen(session: Session) -> Session:
    """The session as it is now, for what happens to it later to change nothing."""
    copied = copy.copy(session)
    copied.state, copied.xClient, copied.xForward = dict(session.state), dict(session.xClient), dict(session.xForward)
    copied.envelope = Envelope(session.envelope.mailFrom, session.envelope.rcptTo)
    return copied


def receivedMessage(octets: bytes, session: Session) -> ReceivedMessage:
    """
    A message of octets that may be anything.

    @param session: a L{frozen} one, with the envelope of the message.
    """
    message = ReceivedMessage(_POLICY)
    # The class is that of the message, and not that of each of its parts, which a parser would make of it as well.
    message.__dict__.update(email.message_from_bytes(octets, policy=_POLICY).__dict__)
    message.octets, message.session, message.envelope = octets, session, session.envelope
    return message


class Inbox:
    """Messages, and refusals, in the order in which they came; for any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: list[ReceivedMessage] = []
        # The last of them say enough.
        self._refusals: deque[str] = deque(maxlen=20)

    @property
    def messages(self) -> list[ReceivedMessage]:
        """A list of its own for each caller."""
        with self._changed:
            return list(self._messages)

    def add(self, message: ReceivedMessage) -> None:
        """A message was accepted."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def addRefusal(self, text: str) -> None:
        """Something was refused; a test that waits for a message in vain wants to know."""
        with self._changed:
            self._refusals.append(text)

    @property
    def refusals(self) -> list[str]:
        """A list of its own for each caller."""
        with self._changed:
            return list(self._refusals)

    def clear(self) -> None:
        """Forget all of it."""
        with self._changed:
            self._messages.clear()
            self._refusals.clear()

    @overload
    def wait(self, count: None, timeout: float, isOver: Callable[[], bool]) -> ReceivedMessage: ...
    @overload
    def wait(self, count: int, timeout: float, isOver: Callable[[], bool]) -> list[ReceivedMessage]: ...
    def wait(
        self, count: int | None, timeout: float, isOver: Callable[[], bool]
    ) -> ReceivedMessage | list[ReceivedMessage]:
        """
        Wait for messages.

        @param count: how many; None for the first.
        @param timeout: in seconds.
        @param isOver: nothing more will come; whoever makes it true calls L{wake}.
        @raise AssertionError: if too few have come until then.
        @raise ValueError: for a number below 0.
        """
        if count is not None and count < 0:
            raise ValueError(f"count is {count}, it wants 0 or more")
        wanted = 1 if count is None else count
        with self._changed:
            self._changed.wait_for(lambda: len(self._messages) >= wanted or isOver(), timeout)
            if len(self._messages) < wanted:
                raise AssertionError(self._complaint(wanted, timeout, isOver()))
            return self._messages[0] if count is None else self._messages[:count]

    def wake(self) -> None:
        """Have those that wait look again."""
        with self._changed:
            self._changed.notify_all()

    def _complaint(self, wanted: int, timeout: float, isOver: bool) -> str:
        came = len(self._messages) or "none"
        when = "and the server is stopped" if isOver else f"within {timeout:g} seconds"
        said = "it has refused nothing" if not self._refusals else "it has refused: " + "; ".join(self._refusals)
        return f"the server was to receive {wanted} message{'s'[: wanted != 1]}, {came} came {when}; {said}"
