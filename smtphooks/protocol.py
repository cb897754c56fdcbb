"""
The protocol: the pump between transport, wire, dialogue and hooks.

It reads what the dialogue wants next, does what the dialogue wants done, and writes replies.  What a command means is
the dialogue's business, what a hook answers the exchange's, and when the client is stopped the flow's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, ISSLTransport, ITLSTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks import replies
from smtphooks.admission.arrival import Arrival, Client
from smtphooks.connection.driver import Exchange
from smtphooks.connection.eventlog import Journal
from smtphooks.connection.flow import Flow
from smtphooks.connection.message import Receiver
from smtphooks.connection.patience import Patience
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.transcript import Transcript
from smtphooks.connection.wrappers import isHandshakeDone, passOn
from smtphooks.connection.writer import ReplyWriter
from smtphooks.dialogue.engine import Dialogue
from smtphooks.dialogue.steps import (
    AbandonMessage,
    AuthFailed,
    Challenge,
    DiscardChunk,
    ReceiveChunk,
    ReceiveMessage,
    StartTLS,
    State,
    Step,
    Verdict,
    Wait,
)
from smtphooks.hooks import nameOf
from smtphooks.replies import BROKEN_PROTOCOL, FAULTS, SITUATIONS, Reply, SMTPError
from smtphooks.session import Envelope, Session
from smtphooks.syntax.wire import Wire
from smtphooks.tls.handshake import explainHandshakeFailure, record

if TYPE_CHECKING:
    from smtphooks.factory import SMTPServerFactory

_log = Logger()

# Seconds that a client has to read the last reply where the rest of its message is not read.
_FAREWELL = 1.0

# A TLS record with a handshake in it (RFC 8446 section 5.1); no command begins so.
_TLS_HANDSHAKE = b"\x16\x03"


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class SMTPServerProtocol(Protocol):
    """
    One connection.

    @ivar session: what hooks see of it.
    @ivar patience: until when it waits for the client, or for a hook.
    @ivar isLeaving: the server ends it as soon as no transaction is in progress.
    """

    factory: SMTPServerFactory

    def __init__(self) -> None:
        self._read: Callable[[SMTPServerProtocol], bool] | None = None  # how to get on; None: something is undecided
        self._pumping = False
        self._arrival: Arrival | None = None  # while it is not known who has come
        self._isWaiting = False  # the dialogue makes the client wait
        self._code = 0  # of the last reply, or the worst of several
        self._isHandshaking = False
        self._transcript: Transcript | None = None
        self._judged: Envelope | None = None  # while the replies to its message are said
        self._awaitsTLS = False  # the dialogue stands still until the handshake is done
        self._aborted = False
        self._inputEnded = False
        self.isLeaving = False
        self._closing = False
        self._lost = False
        self._ended = False  # onClose has been called

    # --- the transport's side ---

    def connectionMade(self) -> None:
        """A client has connected."""
        passOn(self.transport, self)
        # An endpoint such as ssl: has begun TLS already.
        self._beganWithTLS = ISSLTransport.providedBy(self.transport)
        self._isHandshaking = self._beganWithTLS and not isHandshakeDone(self.transport)
        self.patience = Patience(self.factory)
        self._arrival = Arrival(self.factory, self.transport, self._begin, self._turnAway)
        self.factory.remember(self)
        self.patience.forClient()
        self._arrival.begin()

    def _turnAway(self, refusal: Reply | None) -> None:
        """There is no room for this client, before it costs anything; or it is not who may come here."""
        self._closing = True
        if refusal is not None and not (self.factory.options.secure or self._beganWithTLS):
            octets = refusal.encode(not self.factory.options.hideENHANCEDSTATUSCODES)
            self.transport.write(octets)  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]

    def _begin(self, client: Client) -> None:
        """The client is known and let in."""
        if self._closing:
            return  # It was sent away while it was looked up.
        try:
            self._setUp(client)
            self._open(client)
        except Exception:
            self.crashed()

    def _setUp(self, client: Client) -> None:
        """Make all that a connection has; until all is there it is an arrival."""
        factory = self.factory
        self._network = client.network
        self.session = self._newSession(client)
        self._wire = Wire(factory.options.bareNewline)
        self._dialogue = Dialogue(
            factory.options, factory.extensions, self.session, factory.mechanisms, factory.authFailures
        )
        self._writer = ReplyWriter(self.transport, self._pump)
        options = factory.options
        self._runner = HookRunner(factory, self.session, options.slowHook, options.asyncioHooks, factory.context.copy())
        self._exchange = Exchange(self._dialogue, self._runner, self._resumed)
        self._journal = Journal(
            self.session, options.logAddresses, options.logRefusals, factory.refusalLines, factory.authLines
        )
        if factory.debugPeers is not None:
            self._transcript = Transcript(
                self.session, factory.debugPeers, self._dialogue.shows, self._dialogue.hasMechanism
            )
        self._receiver = Receiver(
            self._wire, self._runner, options, self._answerRead, self._receiverChanged, self._hangUp, self.crashed
        )
        self._flow = Flow(self.transport, self._wire, self._receiver, self._writer, self.patience)
        self._arrival = None

    def _open(self, client: Client) -> None:
        """Begin the dialogue."""
        self._standStill()
        self._do(self._exchange.tell(self._dialogue.open, self._beganWithTLS))
        if self.factory.isClosing:
            self.leave()
        if client.rest:
            self._pass(client.rest)
        else:
            self._pump()

    def _pass(self, data: bytes) -> None:
        """Octets that came with a PROXY header belong to whoever reads now."""
        if self._isHandshaking and not self._beganWithTLS:
            self.transport.protocol.dataReceived(data)  # type: ignore[union-attr]
        else:
            self.dataReceived(data)

    def _newSession(self, client: Client) -> Session:
        options = self.factory.options
        session = Session(options.name, options.lmtp, secure=options.secured)
        session.remoteAddress, session.remotePort = client.remoteAddress, client.remotePort
        session.localAddress, session.localPort = client.localAddress, client.localPort
        session.clientHostname = client.hostname
        return session

    def dataReceived(self, data: bytes) -> None:
        """Octets have arrived."""
        if self._closing:
            return
        if self._isHandshaking and not self._noticeHandshake():
            return
        if self._arrival is not None:
            self._arrival.receive(data)
            return
        if data.startswith(_TLS_HANDSHAKE) and self._isUntouched():
            self._refuseTLS()
            return
        self._wire.receive(data)
        if self._isWaiting and self._dialogue.state is State.CONNECTED:
            self._waited()
        self._pump()

    def _isUntouched(self) -> bool:
        """Has the client not said anything yet, neither in the clear nor by TLS?"""
        return self._dialogue.verb == "" and not self._wire.buffered and self.session.tlsOptions is None

    def _refuseTLS(self) -> None:
        why = "the client spoke TLS on a port that begins in the clear"
        self._journal.trouble("{why} [{session}]", why=why)
        self._runner.tell("onError", Failure(ConnectionLost(why)), self.session)
        self._say(replies.NOT_RECOGNIZED.closing(), by="server")
        self._pump()

    def _noticeHandshake(self) -> bool:
        """Octets have come, though a wrapper has not passed on that the handshake is done.  False if it is not."""
        if not isHandshakeDone(self.transport):
            self._trouble("{peer} sent octets in the clear within a TLS handshake")
            self.abort()
            return False
        self.handshakeCompleted()
        return True

    def handshakeCompleted(self) -> None:
        """C{IHandshakeListener}: TLS is in force, and nothing has been read of it yet."""
        self._isHandshaking = False
        if self._awaitsTLS:  # or else nothing has asked for it, and it answers no other question
            self._secured()

    def _secured(self) -> None:
        """The dialogue goes on with TLS."""
        self._awaitsTLS = False
        self.patience.end()
        record(self.transport.getHandle(), self.session)  # type: ignore[union-attr]
        if self._transcript is not None:
            self._transcript.secured()
        self._do(self._exchange.tell(self._dialogue.answer, self.transport))
        self._pump()

    def readConnectionLost(self) -> None:
        """The client will send no more, but still gets its replies (C{printf … | nc})."""
        self._inputEnded = True
        if self._arrival is not None and self._arrival.wantsHeader:
            self.transport.loseConnection()  # type: ignore[union-attr]
        self._pump()

    def writeConnectionLost(self) -> None:
        """The client takes no more; there is nothing left to be done for it."""
        self.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        if self._lost:
            return  # It was over already, for what should have ended it had crashed.
        wasClosing = self._closing
        self._lost = self._closing = True
        if self._arrival is not None:
            if self._isHandshaking and not wasClosing:
                self._handshakeFailed(reason)
            self._arrival.end()
            self._end()
            return
        self._isWaiting = False
        self.factory.discount(self._network)
        self._flow.isStopped = False
        self._standStill()
        self._exchange.end()
        if self._isHandshaking:
            # Twisted's TLS does not tell who ended it.
            self._handshakeFailed(Failure(ConnectionAborted()) if self._aborted else reason)
        self._wire.clear()
        self._exchange.cancel()
        if self._receiver.hasMessage:
            if self._transcript is not None:
                self._transcript.content(self._receiver.octets)
            # Always a ConnectionLost, even if the client left politely: mid-message that is no way to go.
            self._receiver.cut(Failure(ConnectionLost(f"the client left within the message: {reason.value}")))
        self._endIfDone()

    def _handshakeFailed(self, reason: Failure) -> None:
        why = explainHandshakeFailure(reason, self.transport.getHandle())  # type: ignore[union-attr]
        self._trouble("TLS handshake with {peer} failed: {why}", why=why)
        if self._arrival is None:
            self._runner.tell("onError", reason, self.session)
        else:
            self.factory.tellError(reason)

    def _trouble(self, text: str, **fields: object) -> None:
        """Log what has gone wrong, whether or not there is a session yet."""
        if self._arrival is None:
            self._journal.trouble(text + " [{session}]", **fields)
        else:
            _log.warn(text, peer=self._arrival.remoteAddress, **fields)

    # --- what the factory calls ---

    def leave(self) -> None:
        """End the connection as soon as no transaction is in progress."""
        self.isLeaving = True
        if self._arrival is not None:
            self.abort()
        self._pump()

    def abort(self) -> None:
        """End the connection now; nothing that waits to be said is said any more."""
        self._aborted = True
        self._giveUp()
        self.transport.abortConnection()  # type: ignore[union-attr]

    def endByForce(self) -> None:
        """End the connection now, and wait for none of its hooks any longer than it takes them to be cancelled."""
        self.patience.isForced = True
        self.abort()
        if self._arrival is None:
            self._journal.trouble("connection of {peer} ended by force [{session}]")
        if self._lost:
            self.patience.forHook()

    def timeUp(self) -> None:
        """The client has not done in time what it owes."""
        if self._arrival is not None and not (self._arrival.wantsHeader or self._closing):
            return  # it owes nothing while it is looked up, which has a limit of its own
        if self._lost:
            self._hookTimedOut()
        elif self._isWaiting:
            self._waited()
        elif self._closing or self._isHandshaking or self._arrival is not None:
            self.abort()
        elif self._read is None or self.patience.isHookSlow:
            self._hookTimedOut()
        else:
            self._say(replies.MESSAGE_TIMED_OUT if self._read is _READ_MESSAGE else replies.TIMED_OUT, by="server")
            self._pump()

    def _hookTimedOut(self) -> None:
        """Option C{hookTimeout}: nobody shall wait any longer for a hook."""
        self.patience.end()
        hasEnded = self._ended  # and so it is onClose
        wasAsked = self._exchange.overdue()
        if not wasAsked or self._lost:
            self._receiver.overdue()
        if hasEnded:
            self._end()
        elif self._lost:
            self._endIfDone()
        elif wasAsked:
            self._resumed(self._exchange.refuse())

    def look(self, now: float) -> None:
        """See whether the time is up, or a client that was stopped is gone."""
        if self.patience.deadline <= now:
            self.timeUp()
        elif self._arrival is None and self._flow.isStopped and self._flow.isBroken:
            self.abort()

    def _standStill(self) -> None:
        """Something has to be decided before anything more is read; meanwhile the client owes nothing."""
        self._read = None
        self.patience.forHook()

    @property
    def buffered(self) -> int:
        """Octets of the client that this connection holds, read from the network and not used yet."""
        return self._flow.buffered

    # --- the pump ---

    def _pump(self) -> None:
        """Go on as far as input, hooks and the client allow."""
        if self._pumping or self._lost or self._arrival is not None:
            return
        writer = self._writer
        self._pumping = True
        try:
            while (read := self._read) is not None and not writer.isChoked and read(self):
                continue
        finally:
            self._pumping = False
        if not self._closing:
            writer.flush()
        read = self._read
        if self._inputEnded and read is not None and not writer.isChoked and self._receiver.hasRoom:
            self._close()
        if read is not _READ_LINE or writer.isChoked or self._flow.isStopped or self._receiver.hasMessage:
            self._adjustFlow()

    def _adjustFlow(self) -> None:
        if not self._closing:
            self._flow.adjust(isDecided=self._read is not None, mayCommand=self._read is _READ_LINE)

    def _readLine(self) -> bool:
        if self.isLeaving and not self._dialogue.inTransaction:
            self._say(replies.SHUTTING_DOWN, by="server")
            return True
        line = self._wire.maybeLine(self._dialogue.lineLimit)
        if line is None:
            return False
        self._read = None
        self._journal.commands += 1
        if self._transcript is not None:
            self._transcript.command(line)
        self._do(self._exchange.tell(self._dialogue.receive, line))
        return not self._wire.isEmpty or self._read is not _READ_LINE or self.isLeaving

    def _readMessage(self) -> bool:
        receiver, patience = self._receiver, self.patience
        if not receiver.hasRoom:
            return False
        if patience.isHookSlow:
            patience.hookIsBack(receiver.octets)
        self._read = None
        hasRead = receiver.read()
        if self._closing or self._read is not None:
            return hasRead
        if not receiver.owesInput:
            patience.forHook()
            return hasRead
        self._read = _READ_MESSAGE
        if hasRead:
            patience.forMessage(receiver.octets)
        return hasRead

    # --- steps of the dialogue ---

    def _do(self, step: Step | None) -> None:
        """What the dialogue wants next, once the hooks have decided."""
        if step is not None:
            _STEPS[type(step)](self, step)
        elif self._exchange.isWaiting and not self._closing:
            self.patience.forHook()

    def _resumed(self, step: Step | None) -> None:
        """A hook has decided later, or was overdue."""
        try:
            if self._lost:
                self._endIfDone()
            else:
                self._do(step)
                self._pump()
        except Exception:
            # Raised further, it would end up in a Deferred of the hook, and this connection would stand still.
            self.crashed()

    def crashed(self) -> None:
        """
        Code of others, such as a transport, has raised where no hook runs: this is the end of the connection.

        Nothing is raised here.  Where even the end of it raises, the connection is forgotten.
        """
        isKnown = self._arrival is None
        _log.failure(
            "the connection of {peer} crashed [{session}]",
            peer=self.session.remoteAddress if isKnown else getattr(self._arrival, "remoteAddress", ""),
            session=self.session.id if isKnown else "",
        )
        ends: tuple[Callable[[], object], ...] = (self.abort, self._loseConnection, self._forget)
        for end in ends:
            try:
                end()
                return
            except Exception:
                _log.failure("a connection that has crashed cannot be ended")

    def _loseConnection(self) -> None:
        self.transport.loseConnection()  # type: ignore[union-attr]

    def _forget(self) -> None:
        """As if the transport had said that it is gone."""
        try:
            self.connectionLost(Failure(ConnectionAborted()))
        finally:
            self._end()

    def _say(self, reply: Reply, recipient: str | None = None, by: str | None = None) -> None:
        """
        Reply to a command.

        @param recipient: whom it is about, if it is one of several.
        @param by: whose reply it is, if it is none of the dialogue.
        """
        self._code = code = reply.code
        if code >= 400:
            if by is not None:
                self.session.error = reply.oneLine()
            self._note(reply, recipient, by)
            self._tellOfBreach(reply)
        elif code == 235 and self._dialogue.attempt is not None:
            self._journal.authentication(self._dialogue.attempt, reply)
        octets = self._dialogue.encode(reply)
        if self._transcript is not None:
            self._transcript.reply(octets)
        self._writer.put(octets)
        if reply.closes:
            self._close()
        if self._closing:
            return  # Or else onError, which was told of the refusal, has ended the connection.
        self._read = _READ_LINE
        if self._receiver.hasMessage:
            self.patience.forChunk()
        else:
            self.patience.forClient()

    def _sayAll(self, all: tuple[Reply, ...]) -> None:
        if not all:
            self._read = _READ_LINE
            self.patience.forClient()
            return
        *others, last = all
        recipients: list[str | None] = [*map(str, self._envelope.rcptTo)] if self.factory.options.lmtp else []
        if len(recipients) != len(all):
            recipients = [None] * len(all)  # a hook has changed them
        for reply, recipient in zip(others, recipients, strict=False):
            if reply.code >= 400:
                self._note(reply, recipient)
            self._put(reply)
        for reply in {*others} - {last}:
            self._tellOfBreach(reply)
        # Each recipient has its reply, even if the first of them closes.
        self._say(last.closing() if any(reply.closes for reply in others) else last, recipients[-1])
        self._code = max(reply.code for reply in all)

    def _put(self, reply: Reply) -> None:
        octets = self._dialogue.encode(reply)
        if self._transcript is not None:
            self._transcript.reply(octets)
        self._writer.put(octets)

    @property
    def _envelope(self) -> Envelope:
        """The envelope of what is being refused or judged; a hook may have put anything in its place."""
        envelope = self._judged or self.session.envelope
        return envelope if isinstance(envelope, Envelope) else Envelope()

    def _note(self, reply: Reply, recipient: str | None, by: str | None = None) -> None:
        """Let the log know of a refusal."""
        dialogue, envelope = self._dialogue, self._envelope
        verb, sender = "", None if envelope.mailFrom is None else str(envelope.mailFrom)
        if by is None:
            if dialogue.hasFailed and reply.code >= 500:
                return  # It has been logged as what AUTH came to.
            verb, by = dialogue.knownVerb, nameOf(dialogue.refuser) if dialogue.refuser else "server"
            if verb == "MAIL":
                sender = dialogue.subject or sender
            elif verb == "RCPT":
                recipient = dialogue.subject
            elif self._judged is not None:
                by = "server" if reply in FAULTS else by
                if self.factory.options.lmtp and len(envelope.rcptTo) == 1:
                    recipient = str(envelope.rcptTo[0])
        self._journal.refusal(verb, reply, by, sender, recipient)

    def _authFailed(self, step: AuthFailed) -> None:
        if self._dialogue.attempt is not None:
            self._journal.authentication(self._dialogue.attempt, step.reply)
        self._do(self._exchange.tell(self._dialogue.answer, None))

    def _hangUp(self, refusal: SMTPError) -> None:
        """C{onData} wants the connection closed between two chunks of its message."""
        if not self._closing:
            self._say(refusal.reply(SITUATIONS["onData"]), by="onData")

    def _tellOfBreach(self, reply: Reply) -> None:
        """Let the hooks know where the peer broke the protocol."""
        if reply in BROKEN_PROTOCOL:
            self._runner.tell("onError", Failure(reply.asError()), self.session)

    def _close(self) -> None:
        """Write what there is and end the connection."""
        if self._closing:
            return
        self._giveUp()
        if self._wire.messageEnded:
            self.patience.forClient()
            self._flow.start()
        else:
            # The rest of the message is not read; and TLS, which would read it to find its end, is not waited for long.
            self._flow.stop()
            self.patience.forWait(_FAREWELL)
            self.factory.wakeAt(self.patience.deadline, self)
        self._writer.close()

    def _giveUp(self) -> None:
        """From here on nothing the client says is of interest, and it is told nothing more."""
        self._closing = True
        self._read = None
        if self._arrival is None:  # else there is nothing that could be over
            self._exchange.isOver = True

    def _challenge(self, step: Challenge) -> None:
        if self._transcript is not None:
            self._transcript.challenge()
        self._writer.put(step.octets)
        self._read = _READ_RESPONSE
        self.patience.forClient()

    def _readResponse(self) -> bool:
        line = self._wire.maybeLine(self._dialogue.lineLimit)
        if line is None:
            return False
        if self._transcript is not None:
            self._transcript.response(line)
        self._standStill()
        self._do(self._exchange.tell(self._dialogue.answer, line))
        return True

    def _wait(self, step: Wait) -> None:
        self._isWaiting = True
        self.patience.forWait(step.seconds)
        self.factory.wakeAt(self.patience.deadline, self)

    def _waited(self) -> None:
        self._isWaiting = False
        self.patience.end()
        self._do(self._exchange.tell(self._dialogue.answer, self._wire.buffered > 0))
        self._pump()

    def _startTLS(self, step: StartTLS) -> None:
        if step.reply is None and self._beganWithTLS:
            self._awaitsTLS = True
            if self._isHandshaking:
                self.patience.forClient()
            else:
                self._secured()
            return
        if not ITLSTransport.providedBy(self.transport):
            self._say(replies.NO_TLS_HERE, by="server")
            return
        if self._wire.clear():
            # Whatever it was, it was said before the client knew whom it speaks to.
            self._journal.trouble("commands behind STARTTLS in the clear [{session}]")
            self._say(replies.TALKED_BEFORE_TLS, by="server")
            return
        if step.reply is not None:
            self._put(step.reply)
        self._awaitsTLS = self._isHandshaking = True
        self.patience.forClient()
        self._writer.startTLS(self.factory.secureContext)

    def _receiveMessage(self, step: ReceiveMessage) -> None:
        # The client waits for this reply and sends nothing until it comes; the hook may take its time.
        self._put(step.reply)
        self._writer.flush()
        self._messageBegins()
        self._receive(self._receiver.message, step)

    def _receiveChunk(self, step: ReceiveChunk) -> None:
        if step.first:
            self._messageBegins()
        self._receive(self._receiver.chunk, step)

    def _discardChunk(self, step: DiscardChunk) -> None:
        self._messageBegins()
        self._receive(self._receiver.discard, step)

    def _messageBegins(self) -> None:
        self.patience.messageBegins()
        self._journal.messageBegins()

    def _receive(self, begin: Callable[..., None], *step: object) -> None:
        self.patience.forHook()
        begin(*step)
        if self._receiver.owesInput:
            self._read = _READ_MESSAGE
            self.patience.forMessage(self._receiver.octets)

    def _abandonMessage(self, step: AbandonMessage) -> None:
        self.patience.forHook()
        self._receiver.abandon()

    def _answerRead(self, verdict: Verdict | None) -> None:
        """What the dialogue wanted to have read has been read, and decided if it was to be."""
        self._judged = envelope = self._envelope
        if self._transcript is not None and self._receiver.octets:
            self._transcript.content(self._receiver.octets)
        self._do(self._exchange.tell(self._dialogue.answer, verdict))
        self._judged = None
        if verdict is not None:
            code = 0 if self._lost or self._aborted else self._code
            self._journal.message(self._dialogue.verb, envelope, verdict.octets, code)

    def _receiverChanged(self) -> None:
        """C{onData} has taken octets, or has ended."""
        try:
            if self._lost:
                self._endIfDone()
            else:
                self._pump()
        except Exception:
            self.crashed()  # which is not for the hook that reads

    def _endIfDone(self) -> None:
        """The connection is gone; when its last hook has ended, C{onClose} follows."""
        if self._ended or self._exchange.isWaiting or self._receiver.isBusy:
            return
        self._ended = True
        if self.session.logout is not None:
            self._logout(self.session.logout)
        self._journal.end()
        self.patience.forHook()
        self._exchange.tellClosed(self._end)

    def _logout(self, logout: Callable[[], object]) -> None:
        """Tell a Portal that its user has left."""
        self.session.logout = None
        try:
            logout()
        except Exception:
            _log.failure("logout crashed [{session}]", session=self.session.id, peer=self.session.remoteAddress)

    def _end(self) -> None:
        self.factory.forget(self)


_READ_LINE = SMTPServerProtocol._readLine
_READ_MESSAGE = SMTPServerProtocol._readMessage
_READ_RESPONSE = SMTPServerProtocol._readResponse

_STEPS: dict[type, Callable[[SMTPServerProtocol, Any], None]] = {
    Reply: SMTPServerProtocol._say,
    tuple: SMTPServerProtocol._sayAll,
    ReceiveMessage: SMTPServerProtocol._receiveMessage,
    ReceiveChunk: SMTPServerProtocol._receiveChunk,
    DiscardChunk: SMTPServerProtocol._discardChunk,
    AbandonMessage: SMTPServerProtocol._abandonMessage,
    Challenge: SMTPServerProtocol._challenge,
    StartTLS: SMTPServerProtocol._startTLS,
    Wait: SMTPServerProtocol._wait,
    AuthFailed: SMTPServerProtocol._authFailed,
}
