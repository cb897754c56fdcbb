"""
The journal: one event for each message and for each connection, for who runs the server.

Every event has fields to search and count by: C{session}, C{peer}, C{verb}, C{code}, C{milliseconds}.  What a message
says, and any secret, is never among them; mail addresses are shown as they are, or as a hash (option C{logAddresses}).
This module knows what has happened, not how.
"""

from __future__ import annotations

import hashlib
from time import monotonic, time
from typing import Any

from twisted.logger import Logger, LogLevel

from smtphooks.replies import Reply
from smtphooks.session import Envelope, Session

_log = Logger()
_INFO = LogLevel.info

# A message for thousands makes no line for thousands; recipientCount says how many there are.
_MOST_NAMED = 20


def addressForLog(address: str, isShown: bool) -> str:
    """A mail address, or what stands for it always and tells it to nobody who does not know it already."""
    return address if isShown or not address else hashlib.sha256(address.encode("utf-8", "replace")).hexdigest()[:16]


def _info(text: str, **event: Any) -> None:
    """What C{Logger.info} does, which takes most of its time to sort all levels that there are, for each event."""
    event["log_logger"] = _log
    event["log_level"] = _INFO
    event["log_namespace"] = _log.namespace
    event["log_source"] = None
    event["log_format"] = text
    event["log_time"] = time()
    _log.observer(event)


class Journal:
    """What one connection has done so far."""

    __slots__ = ("_began", "_logAddresses", "_messageBegan", "_messages", "_octets", "_session", "commands", "refusals")

    def __init__(self, session: Session, logAddresses: bool) -> None:
        self._session = session
        self._logAddresses = logAddresses
        self._began = self._messageBegan = monotonic()
        self._messages = 0
        self._octets = 0
        self.commands = 0
        self.refusals = 0

    def messageBegins(self) -> None:
        """From here on the message takes time."""
        self._messageBegan = monotonic()

    def message(self, verb: str, envelope: Envelope, octets: int, code: int) -> None:
        """
        A message has been judged.

        @param verb: the command that ended it.
        @param code: of the reply, 0 if the client had left.
        """
        self._octets += octets
        self._messages += 1
        shown, sender = self._logAddresses, envelope.mailFrom
        recipients = [f"<{addressForLog(str(each), shown)}>" for each in envelope.rcptTo[:_MOST_NAMED]]
        _info(
            "message from <{sender}> for {recipients}: {octets} octets, {code} after {milliseconds} ms [{session}]",
            session=self._session.id,
            peer=self._session.remoteAddress,
            verb=verb,
            code=code,
            milliseconds=round((monotonic() - self._messageBegan) * 1000),
            protocol=self._session.transmissionType,
            sender=addressForLog(str(sender or ""), shown),
            recipients=", ".join(recipients),
            recipientCount=len(envelope.rcptTo),
            octets=octets,
        )

    def refusal(self, verb: str, reply: Reply) -> None:
        """
        The server itself has refused something that an operator wants to know of.

        @param verb: the command, empty if it is unknown.
        """
        _log.info(
            "{verb}: {reply} [{session}]" if verb else "{reply} [{session}]",
            session=self._session.id,
            peer=self._session.remoteAddress,
            verb=verb,
            code=reply.code,
            milliseconds=self._age(),
            reply=str(reply),
        )

    def trouble(self, text: str, **fields: object) -> None:
        """Something has gone wrong; the text is a format for the fields."""
        _log.warn(text, session=self._session.id, peer=self._session.remoteAddress, milliseconds=self._age(), **fields)

    def end(self) -> None:
        """The connection is over."""
        session = self._session
        _info(
            "connection of {peer} ended after {milliseconds} ms:"
            " {commands} commands, {refusals} refused, {messages} messages [{session}]",
            session=session.id,
            peer=session.remoteAddress,
            hostname=session.clientHostname,
            verb=session.openingCommand or "",
            code=int(session.error[:3]) if session.error else 0,
            milliseconds=self._age(),
            commands=self.commands,
            refusals=self.refusals,
            messages=self._messages,
            octets=self._octets,
            cipher=session.tlsOptions.name if session.tlsOptions else "",
            user=addressForLog(session.user, self._logAddresses) if isinstance(session.user, str) else "",
        )

    def _age(self) -> int:
        return round((monotonic() - self._began) * 1000)
