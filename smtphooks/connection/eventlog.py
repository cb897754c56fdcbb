"""
The event log: one event for each message, each connection, each refusal and each AUTH, for the operator.

Every event has fields to search and count by: C{session}, C{peer}, C{verb}, C{code}, C{milliseconds}.  What a message
says, and any secret, is never among them; mail addresses are shown as they are, or as a hash (option C{logAddresses}).
This module knows what has happened, not how.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic, time

from twisted.logger import Logger, LogLevel

from smtphooks.netaddress import networkOf
from smtphooks.options import Options
from smtphooks.replies import Reply
from smtphooks.sasl.auth import Auth
from smtphooks.session import Envelope, Session

_NAMESPACE = "smtphooks.eventlog"
_log = Logger(_NAMESPACE)
_INFO = LogLevel.info

# A message for thousands makes no line for thousands; recipientCount says how many there are.
_MOST_NAMED = 20


# Lines about refusals that an address may write in a second.
_MOST_LINES = 10


def addressForLog(address: str, isShown: bool) -> str:
    """A mail address, or a hash of it: the same address always has the same hash."""
    return address if isShown else _hashOf(address)


def _hashOf(address: object) -> str:
    text = str(address)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16] if text else ""


def _info(text: str, event: dict[str, object]) -> None:
    """What C{Logger.info} does, without its cost: for each event it sorts all log levels."""
    event["log_logger"] = _log
    event["log_level"] = _INFO
    event["log_namespace"] = _NAMESPACE
    event["log_source"] = None
    event["log_format"] = text
    event["log_time"] = time()
    _log.observer(event)


class LineLimit:
    """
    Limits the lines that an address causes within a second; of the rest only the number is logged.

    Of IPv6 a network of 64 bits counts as an address.  All listeners of a service share one.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        """
        @param seconds: what time it is.
        """
        self._seconds = seconds
        self._flushed = float("-inf")
        self._lines: dict[str, deque[float]] = {}  # times of the last ones, by network
        self._more: Counter[str] = Counter()

    @property
    def hasMore(self) -> bool:
        """A number has still to be logged."""
        return bool(self._more)

    def admits(self, address: str) -> bool:
        """May one more line be written?"""
        now = self.flush()
        network = networkOf(address)
        times = self._lines.setdefault(network, deque(maxlen=_MOST_LINES))
        if len(times) == _MOST_LINES and 0 <= now - times[0] < 1:
            self._more[network] += 1
            return False
        times.append(now)
        return True

    def flush(self) -> float:
        """Once a second, log the numbers and forget addresses that have fallen silent.  The time of now."""
        now = self._seconds()
        if not 0 <= now - self._flushed < 1:
            self._flushed = now
            self.report()
            self._lines = {network: times for network, times in self._lines.items() if 0 <= now - times[-1] < 1}
        return now

    def report(self) -> None:
        """Log how many lines there would have been more."""
        for network, count in self._more.items():
            _log.warn("{count} more refusals of {peer} within a second", peer=network, count=count)
        self._more.clear()


class LineLimits:
    """
    The limits of a server; several servers may share one.

    @ivar refusals: of the lines about refusals.
    @ivar authFailures: of those about failed AUTH, which no other refusal shall keep from being written.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.refusals: LineLimit = LineLimit(seconds)
        self.authFailures: LineLimit = LineLimit(seconds)

    @property
    def hasMore(self) -> bool:
        """A number has still to be logged."""
        return self.refusals.hasMore or self.authFailures.hasMore

    def flush(self) -> None:
        """Log the numbers of the seconds that are over."""
        self.refusals.flush()
        self.authFailures.flush()

    def report(self) -> None:
        """Log all numbers now."""
        self.refusals.report()
        self.authFailures.report()


class EventLog:
    """
    What one connection has done so far.

    @ivar messages: how many messages it has brought, refused ones included.
    """

    __slots__ = (
        "_began",
        "_limits",
        "_messageBegan",
        "_octets",
        "_options",
        "_session",
        "commands",
        "messages",
        "refusals",
    )

    def __init__(self, session: Session, options: Options, limits: LineLimits) -> None:
        self._session = session
        self._options = options
        self._limits = limits
        self._began = self._messageBegan = monotonic()
        self.messages: int = 0
        self._octets = 0
        self.commands: int = 0
        self.refusals: int = 0

    def messageBegins(self) -> None:
        """From here on the message takes time."""
        self._messageBegan = monotonic()

    def messageEnded(self, verb: str, envelope: Envelope, octets: int, code: int) -> None:
        """
        A message was accepted or refused.

        @param verb: the command that ended it.
        @param code: of the reply, 0 if the client had left.
        """
        self._octets += octets
        self.messages += 1
        session, recipients = self._session, envelope.rcptTo
        # Most messages have one recipient.  A hook may have set texts instead of addresses.
        shown = str if self._options.logAddresses else _hashOf
        _info(
            "message from <{sender}> for {recipients}: {octets} octets, {code} after {milliseconds} ms [{session}]",
            {
                "session": session.id,
                "peer": session.remoteAddress,
                "verb": verb,
                "code": code,
                "milliseconds": round((monotonic() - self._messageBegan) * 1000),
                "protocol": session.transmissionType,
                "sender": shown(envelope.mailFrom or ""),
                "recipients": f"<{shown(recipients[0])}>"
                if len(recipients) == 1
                else ", ".join([f"<{shown(each)}>" for each in recipients[:_MOST_NAMED]]),
                "recipientCount": len(recipients),
                "octets": octets,
            },
        )

    def refusal(self, verb: str, reply: Reply, by: str, sender: str | None, recipient: str | None) -> None:
        """
        Something was refused.

        @param verb: the command, empty if it is unknown.
        @param by: the name of the hook, or C{"server"}.
        @param sender: that of the transaction, if there is one, or the one refused.
        @param recipient: the one refused, if it was one.
        """
        self.refusals += 1
        if not self._options.logRefusals or not self._limits.refusals.admits(self._session.remoteAddress):
            return
        user, said = self._user(), {"user": "", "sender": "", "recipient": ""}
        text = "{verb} of {peer} refused by {by}: {reply}" if verb else "{peer} refused by {by}: {reply}"
        if user:
            said["user"] = user
            text += ", user {user}"
        if sender is not None:
            said["sender"] = addressForLog(sender, self._options.logAddresses)
            text += ", from <{sender}>"
        if recipient is not None:
            said["recipient"] = addressForLog(recipient, self._options.logAddresses)
            text += ", to <{recipient}>"
        _info(
            text + " [{session}]",
            {
                "session": self._session.id,
                "peer": self._session.remoteAddress,
                "verb": verb,
                "code": reply.code,
                "milliseconds": self._age(),
                "by": by,
                "reply": reply.oneLine(),
                **said,
            },
        )

    def authentication(self, attempt: Auth, reply: Reply) -> None:
        """
        A client has authenticated, or failed to.

        The text is for fail2ban: the address stands before anything that the client chooses.
        """
        isFailure = reply.code >= 400
        if isFailure:
            self.refusals += 1
            if not self._limits.authFailures.admits(self._session.remoteAddress):
                return
        _info(
            'AUTH failed from {peer} with {method} as "{user}": {reply} [{session}]'
            if isFailure
            else 'AUTH succeeded from {peer} with {method} as "{user}" [{session}]',
            {
                "session": self._session.id,
                "peer": self._session.remoteAddress,
                "verb": "AUTH",
                "code": reply.code,
                "milliseconds": self._age(),
                "method": attempt.method,
                "user": addressForLog(attempt.username, self._options.logAddresses),
                "reply": reply.oneLine(),
            },
        )

    def secured(self) -> None:
        """A TLS handshake is done; the line about the end of the connection names its cipher."""

    def _user(self) -> str:
        user = self._session.user
        return addressForLog(user, self._options.logAddresses) if isinstance(user, str) else ""

    def warn(self, text: str, **fields: object) -> None:
        """Something has gone wrong; the text is a format for the fields."""
        _log.warn(text, session=self._session.id, peer=self._session.remoteAddress, milliseconds=self._age(), **fields)

    def connectionEnded(self) -> None:
        """The connection is over."""
        session = self._session
        _info(
            "connection of {peer} ended after {milliseconds} ms:"
            " {commands} commands, {refusals} refused, {messages} messages [{session}]",
            {
                "session": session.id,
                "peer": session.remoteAddress,
                "hostname": session.clientHostname,
                "verb": session.openingCommand or "",
                "code": int(session.error[:3]) if session.error else 0,
                "milliseconds": round((monotonic() - self._began) * 1000),
                "commands": self.commands,
                "refusals": self.refusals,
                "messages": self.messages,
                "octets": self._octets,
                "cipher": session.tlsOptions.name if session.tlsOptions else "",
                "user": "" if session.user is None else self._user(),
            },
        )

    def _age(self) -> int:
        return round((monotonic() - self._began) * 1000)
