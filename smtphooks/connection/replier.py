"""
The replier: what the server says, and who else learns of it.

Every reply goes to the writer as octets; a refusal goes to the event log as well, a breach of the protocol to
C{onError}, and all of it to the transcript of a peer that is debugged.
This module knows neither what is read next nor whose turn it is.
"""

from __future__ import annotations

from twisted.python.failure import Failure

from smtphooks.connection.eventlog import EventLog
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.transcript import Transcript
from smtphooks.connection.writer import ReplyWriter
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.steps import Challenge
from smtphooks.options import Options
from smtphooks.replies import BROKEN_PROTOCOL, FAULTS, Reply
from smtphooks.session import Envelope

# Stands for the recipient of a reply that is not one of several: with LMTP the only recipient, if there is only one.
_THE_ONLY_ONE = ""

# What observers see of any challenge (RFC 4954 section 4): what it says is between the client and the mechanism.
_CHALLENGE = Reply(334, "")


class Replier:
    """
    @ivar code: of the last reply, or the worst of several.
    @ivar decided: the envelope of the message that the replies are about; None for replies to a command.
    @ivar log: the event log of the connection.
    @ivar transcript: that of a peer that is debugged, or None.
    """

    __slots__ = (
        "_dialogue",
        "_hooks",
        "_isEnhanced",
        "_lmtp",
        "_runner",
        "_writer",
        "code",
        "decided",
        "log",
        "transcript",
    )

    def __init__(
        self,
        options: Options,
        dialogue: Dialogue,
        runner: HookRunner,
        writer: ReplyWriter,
        log: EventLog,
        transcript: Transcript | None,
    ) -> None:
        self._lmtp = options.lmtp
        self._isEnhanced = not options.hideENHANCEDSTATUSCODES
        self._dialogue = dialogue
        self._runner = runner
        self._hooks = runner.hooks
        self._writer = writer
        self.log: EventLog = log
        self.transcript: Transcript | None = transcript
        self.code: int = 0
        self.decided: Envelope | None = None

    def put(self, reply: Reply) -> None:
        """Write a reply that refuses nothing."""
        octets = reply.octets if self._isEnhanced and reply.isASCII else self._dialogue.encode(reply)
        if self.transcript is not None:
            self.transcript.reply(octets)
        self._writer.put(octets)
        if self._hooks.onReply is not None:
            self._tell(reply)

    def challenge(self, step: Challenge) -> None:
        """Write a challenge."""
        if self.transcript is not None:
            self.transcript.challenge()
        self._writer.put(step.octets)
        if self._hooks.onReply is not None:
            self._tell(_CHALLENGE)

    def reply(self, reply: Reply, recipient: str | None = _THE_ONLY_ONE, by: str | None = None) -> None:
        """
        Write a reply.

        @param recipient: the recipient that it is about, if it is one of several; None if that is not known.
        @param by: what makes it, if it is not from the dialogue: a hook's name or C{"server"}.
        """
        self.code = code = reply.code
        if code >= 400:
            if by is not None:
                self._runner.session.error = reply.oneLine()
            self._logRefusal(reply, recipient, by)
            self._reportBreach(reply)
        elif code == 235 and self._dialogue.attempt is not None:
            self.log.authentication(self._dialogue.attempt, reply)
        octets = reply.octets if self._isEnhanced and reply.isASCII else self._dialogue.encode(reply)
        if self.transcript is not None:
            self.transcript.reply(octets)
        self._writer.put(octets)
        if self._hooks.onReply is not None:
            self._tell(reply)

    def _tell(self, reply: Reply) -> None:
        """Tell an observer."""
        self._runner.notify("onReply", self._dialogue.knownVerb, reply, self._runner.session)

    def replyToEach(self, all: tuple[Reply, ...]) -> bool:
        """
        Write a reply for each recipient of a message.  True if one of them closes the connection.
        """
        *others, last = all
        recipients: list[str | None] = [*map(str, self.envelope.rcptTo)] if self._lmtp else []
        if len(recipients) != len(all):
            recipients = [None] * len(all)  # a hook has changed them
        for reply, recipient in zip(others, recipients, strict=False):
            if reply.code >= 400:
                self._logRefusal(reply, recipient)
            self.put(reply)
        for reply in {*others} - {last}:
            self._reportBreach(reply)
        self.reply(last, recipients[-1])
        self.code = max(reply.code for reply in all)
        return any(reply.closes for reply in all)

    @property
    def envelope(self) -> Envelope:
        """The envelope that replies are about; a hook may have put anything in its place."""
        envelope = self.decided or self._runner.session.envelope
        return envelope if isinstance(envelope, Envelope) else Envelope()

    def _logRefusal(self, reply: Reply, recipient: str | None, by: str | None = None) -> None:
        dialogue, envelope = self._dialogue, self.envelope
        verb, sender = "", None if envelope.mailFrom is None else str(envelope.mailFrom)
        if by is None:
            if dialogue.hasFailed and reply.code >= 500:
                return  # It has been logged as the result of AUTH.
            verb, by = dialogue.knownVerb, self._runner.nameOf(dialogue.refuser) if dialogue.refuser else "server"
            if verb == "MAIL":
                sender = dialogue.subject or sender
            elif verb == "RCPT":
                recipient = dialogue.subject
            elif self.decided is not None:
                by = "server" if reply in FAULTS else by
                if recipient == _THE_ONLY_ONE and self._lmtp and len(envelope.rcptTo) == 1:
                    recipient = str(envelope.rcptTo[0])
        self.log.refusal(verb, reply, by, sender, recipient or None)

    def _reportBreach(self, reply: Reply) -> None:
        """Tell C{onError} that the peer broke the protocol."""
        if reply in BROKEN_PROTOCOL:
            self.reportError(Failure(reply.asError()))

    def reportError(self, failure: Failure) -> None:
        """Give C{onError} what went wrong, which no hook has raised."""
        self._runner.notify("onError", failure, self._runner.session)
