"""
The layer C{ClamAV}: each message is scanned for viruses by clamd while it arrives, and refused if one is found.

In: the stream and the session of C{inspectData}.  Out: a refusal, a fault, or nothing, and the name of the virus in the
layer's state.  The message goes to clamd with INSTREAM (clamd(8)), on a connection of its own.
This module knows no transport, no other scanner, and not what becomes of a fault.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import attrs
from twisted.internet.endpoints import clientFromString
from twisted.logger import Logger

from smtphooks.currentreactor import currentReactor
from smtphooks.layers.exchange import Answer, Request, ScannerFault, ask
from smtphooks.optionkinds import count, isText, line, option, seconds, withOptions
from smtphooks.replies import SMTPError
from smtphooks.session import Session
from smtphooks.stream import MessageStream

log: Logger = Logger()

# A client endpoint of Twisted; a colon within an argument is escaped.
_ARGUMENT = r"(?:\\.|[^\\:])+"
_ENDPOINT = re.compile(
    rf"(?:tcp:(?:host=)?{_ARGUMENT}:(?:port=)?(?P<port>[0-9]{{1,5}})|unix:(?:path=)?{_ARGUMENT})(?::timeout=[0-9]{{1,9}})?"
)

_FOUND = re.compile(r"stream: (.+) FOUND")
_CLEAN = "stream: OK"
_TOO_LARGE = "INSTREAM size limit exceeded. ERROR"
_ANSWER_OCTETS = 4096

_NOT_PRINTABLE = re.compile(r"[^ -~]")


def _isEndpoint(value: Any) -> bool:
    found = _ENDPOINT.fullmatch(value) if isText(value) else None
    return found is not None and 0 < int(found["port"] or 1) < 65536


@attrs.define
class ClamAVState:
    """
    What clamd said of the current message.

    @ivar isScanned: there is a verdict.
    @ivar virus: the name of the virus, or None.
    @ivar transaction: the number of the transaction whose message it is.
    """

    isScanned: bool = False
    virus: str | None = None
    transaction: int = 0

    @property
    def summary(self) -> dict[str, Any] | None:
        """For L{Session.verdicts}."""
        return {"virus": self.virus} if self.isScanned else None


@withOptions
class ClamAV:
    """
    A layer that has clamd scan each message.

    @ivar endpoint: where clamd listens, as a client endpoint of Twisted.
    @ivar sizeLimit: the octets of a message that are scanned, from its start; 0 for all.
    @ivar virusText: the text of the refusal; C{%s} stands for the name of the virus.
    @ivar timeout: seconds that clamd may take to accept the connection, to read on, and to answer at the end.
    @raise OptionError: for a wrong value.
    """

    endpoint: str = option(
        "unix:/run/clamav/clamd.ctl",
        'a client endpoint, such as "tcp:127.0.0.1:3310" or "unix:/run/clamav/clamd.ctl"',
        _isEndpoint,
    )
    sizeLimit: int = count(0, "octets")
    virusText: str = line("Message refused, it contains %s")
    timeout: float = seconds(150)
    clock: Any = attrs.field(default=None, init=False, repr=False)

    State = ClamAVState

    async def inspectData(self, stream: MessageStream, session: Session) -> None:
        """
        Scan the message.

        @raise SMTPError: 550 if it has a virus; 552 if it is larger than clamd takes.
        @raise ScannerFault: if clamd gives no verdict.
        @raise Exception: of the stream.
        """
        reactor = currentReactor()
        state = session.of(self)
        state.isScanned, state.virus, state.transaction = False, None, session.transaction
        request = Request(
            opening=b"zINSTREAM\0",
            before=struct.Struct(">L").pack,
            behind=b"",
            closing=b"\0\0\0\0",
            octets=self.sizeLimit,
            answerEnd=b"\0",
            answerOctets=_ANSWER_OCTETS,
        )
        answer = await ask(
            clientFromString(reactor, self.endpoint),
            request,
            stream,
            scanner=self._name,
            timeout=self.timeout,
            clock=self.clock or reactor,
        )
        virus = self._maybeVirus(answer)
        state.isScanned, state.virus = True, virus
        if virus is not None:
            log.info("clamd found {virus} [{session}]", session=session.id, peer=session.remoteAddress, virus=virus)
            raise SMTPError(self.virusText.replace("%s", virus), 550, "5.7.1")

    @property
    def _name(self) -> str:
        return f"clamd at {self.endpoint}"

    def _maybeVirus(self, answer: Answer) -> str | None:
        """The name of the virus; None if there is none."""
        text = _NOT_PRINTABLE.sub("?", answer.octets.decode("ascii", "replace"))
        found = _FOUND.fullmatch(text)
        if found:
            return found[1]
        if text == _TOO_LARGE:
            # A fault would be answered with 451, and the client would send the same message until it gives up.
            log.warn(
                "a message is larger than {scanner} takes, raise its StreamMaxLength or lower option size",
                scanner=self._name,
            )
            raise SMTPError("Message is too large to be scanned", 552, "5.3.4")
        if text != _CLEAN:
            raise ScannerFault(f"{self._name} answers {text[:200]!r}")
        if not answer.isOnAll:
            raise ScannerFault(f"{self._name} answers {text!r} before it has the whole message")
        return None
