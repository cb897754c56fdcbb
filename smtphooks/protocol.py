"""
The protocol: the pump between transport, wire, dialogue and hooks.

It reads what the dialogue wants next, runs the hooks that the dialogue asks for, writes replies, and stops the client
when hooks or the client itself are slow.  What a command means is the dialogue's business, never looked at here.
"""

from __future__ import annotations

from collections.abc import Callable
from socket import SO_ERROR, SOL_SOCKET
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    ITLSTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks import replies
from smtphooks.arrival import Arrival, Client
from smtphooks.dialogue import Dialogue
from smtphooks.handshake import explainHandshakeFailure, record
from smtphooks.hooks import callHook
from smtphooks.journal import Journal
from smtphooks.patience import Patience
from smtphooks.receiver import Receiver
from smtphooks.replies import BROKEN_PROTOCOL, NOTEWORTHY, Reply, SMTPError
from smtphooks.runner import HOOK_TIMED_OUT, TOLD, HookRunner
from smtphooks.session import Session
from smtphooks.steps import (
    AbandonMessage,
    Ask,
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
from smtphooks.wire import Wire
from smtphooks.writer import ReplyWriter

if TYPE_CHECKING:
    from smtphooks.factory import SMTPServerFactory

_log = Logger()

# Octets that may wait behind an undecided hook before the client is stopped.
_AHEAD = 16384

# Octets that may wait for C{onData} while the client may still say something, between two chunks of its message: with
# what is read then (at most 64 KiB), less than 128 KiB in all.
_BEHIND = 61440

# A TLS record with a handshake in it (RFC 8446 section 5.1); no command begins so.
_TLS_HANDSHAKE = b"\x16\x03"

_YES_OR_NO = TOLD | {"onConnect", "onSecure", "onAuth"}


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class SMTPServerProtocol(Protocol):
    """
    One connection.

    @ivar session: what hooks see of it.
    @ivar patience: until when it waits for the client, or for a hook.
    @ivar isStopped: the transport reads no more for now.
    @ivar isLeaving: the server ends it as soon as no transaction is in progress.
    """

    factory: SMTPServerFactory

    def __init__(self) -> None:
        self._read: Callable[[SMTPServerProtocol], bool] | None = None  # how to get on; None: something is undecided
        self._question: Deferred[Any] | None = None  # the hook that the dialogue waits for
        self._pumping = False
        self.isStopped = False
        self._arrival: Arrival | None = None  # while it is not known who has come
        self._waiting: IDelayedCall | None = None  # the dialogue makes the client wait
        self._asked: object = None  # which hook that is
        self._code = 0  # of the last reply, or the worst of several
        self._isHandshaking = False
        self._aborted = False
        self._inputEnded = False
        self.isLeaving = False
        self._closing = False
        self._lost = False
        self._ended = False  # onClose has been called

    # --- the transport's side ---

    def connectionMade(self) -> None:
        """A client has connected."""
        self.patience = Patience(self.factory)
        self.factory.remember(self)
        self._arrival = Arrival(self.factory, self.transport, self._begin, self._turnAway)
        self.patience.forClient()
        self._arrival.begin()

    def _turnAway(self, refusal: Reply | None) -> None:
        """There is no room for this client, before it costs anything; or it is not who may come here."""
        self._closing = True
        if refusal is not None and not self.factory.options.secure:
            octets = refusal.encode(not self.factory.options.hideENHANCEDSTATUSCODES)
            self.transport.write(octets)  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]

    def _begin(self, client: Client) -> None:
        """The client is known and let in."""
        factory = self.factory
        self._arrival = None
        self._network = client.network
        self.session = self._newSession(client)
        self._wire = Wire(factory.options.bareNewline)
        self._dialogue = Dialogue(factory.options, factory.extensions, self.session, factory.mechanisms)
        self._writer = ReplyWriter(self.transport, self._pump)
        self._runner = HookRunner(factory, self.session)
        self._journal = Journal(self.session, factory.options.logAddresses)
        self._receiver = Receiver(self._wire, self._runner, factory.options, self._answerRead, self._receiverChanged)
        self._standStill()
        self._advance(self._dialogue.open)
        if factory.isClosing:
            self.leave()
        if client.rest:
            self._pass(client.rest)
        else:
            self._pump()

    def _pass(self, data: bytes) -> None:
        """Octets that came with a PROXY header belong to whoever reads now."""
        if self._isHandshaking:
            self.transport.protocol.dataReceived(data)  # type: ignore[union-attr]
        else:
            self.dataReceived(data)

    def _newSession(self, client: Client) -> Session:
        options = self.factory.options
        session = Session(options.name, options.lmtp, secure=options.secured)
        session.remoteAddress, session.remotePort = client.remoteAddress, client.remotePort
        session.localAddress, session.localPort = client.localAddress, client.localPort
        session.clientHostname = client.hostname
        session.proxies = self.factory.proxyCommandsOf(client.remoteAddress)
        return session

    def dataReceived(self, data: bytes) -> None:
        """Octets have arrived."""
        if self._closing or self._lost:
            return
        if self._arrival is not None:
            self._arrival.receive(data)
            return
        if data.startswith(_TLS_HANDSHAKE) and self._isUntouched():
            self._refuseTLS()
            return
        self._wire.receive(data)
        if self._waiting is not None and self._dialogue.state is State.CONNECTED:
            self._waiting.cancel()
            self._waited()
        self._pump()

    def _isUntouched(self) -> bool:
        """Has the client not said anything yet, neither in the clear nor by TLS?"""
        return self._dialogue.verb == "" and not self._wire.buffered and self.session.tlsOptions is None

    def _refuseTLS(self) -> None:
        why = "the client spoke TLS on a port that begins in the clear"
        self._journal.trouble("{why} [{session}]", why=why)
        self._runner.tell("onError", Failure(ConnectionLost(why)), self.session)
        self._say(replies.NOT_RECOGNIZED.closing())
        self._pump()

    def handshakeCompleted(self) -> None:
        """C{IHandshakeListener}: TLS is in force, and nothing has been read of it yet."""
        self._isHandshaking = False
        self.patience.end()
        record(self.transport.getHandle(), self.session)  # type: ignore[union-attr]
        self._advance(self._dialogue.answer, self.transport)
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
        self._lost = True
        if self._arrival is not None:
            self._arrival.end()
            self._end()
            return
        self.factory.discount(self._network)
        self.isStopped = False
        self._standStill()
        self._dialogue.close()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._isHandshaking:
            # Twisted's TLS does not tell who ended it.
            self._handshakeFailed(Failure(ConnectionAborted()) if self._aborted else reason)
        self._wire.clear()
        if self._receiver.hasMessage:
            # Always a ConnectionLost, even if the client left politely: mid-message that is no way to go.
            self._receiver.cut(Failure(ConnectionLost(f"the client left within the message: {reason.value}")))
        if self._question is not None:
            self._question.cancel()
        self._endIfDone()

    def _handshakeFailed(self, reason: Failure) -> None:
        why = explainHandshakeFailure(reason, self.transport.getHandle())  # type: ignore[union-attr]
        self._journal.trouble("TLS handshake with {peer} failed: {why} [{session}]", why=why)
        self._runner.tell("onError", reason, self.session)

    # --- what the factory calls ---

    def leave(self) -> None:
        """End the connection as soon as no transaction is in progress."""
        self.isLeaving = True
        if self._arrival is not None:
            self.abort()
        self._pump()

    def abort(self) -> None:
        """End the connection now; nothing that waits to be said is said any more."""
        self._aborted = self._closing = True
        self._read = None
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
        elif self._closing or self._isHandshaking or self._arrival is not None:
            self.abort()
        elif self._read is None or self.patience.isHookSlow:
            self._hookTimedOut()
        else:
            self._say(replies.MESSAGE_TIMED_OUT if self._read is _READ_MESSAGE else replies.TIMED_OUT)
            self._pump()

    def _hookTimedOut(self) -> None:
        """Option C{hookTimeout}: nobody shall wait any longer for a hook."""
        self.patience.end()
        hasEnded = self._ended  # and so it is onClose
        question, self._question = self._question, None
        if question is not None:
            self._runner.overdue(self._asked)
            question.cancel()
        if question is None or self._lost:
            self._receiver.overdue()
        if hasEnded:
            self._end()
        elif self._lost:
            self._endIfDone()
        elif question is not None:
            self._refuseLate()

    def _refuseLate(self) -> None:
        if self._asked in TOLD:
            self._advance(self._dialogue.answer, None)
        else:
            self._advance(self._dialogue.refuse, HOOK_TIMED_OUT)
        self._pump()

    def lookAfterClient(self) -> None:
        """A transport that reads nothing does not notice either that its client has gone, so ask the socket."""
        socket = getattr(self.transport, "socket", None)
        if socket is not None and socket.getsockopt(SOL_SOCKET, SO_ERROR):
            self.abort()

    def _standStill(self) -> None:
        """Something has to be decided before anything more is read; meanwhile the client owes nothing."""
        self._read = None
        self.patience.forHook()

    @property
    def buffered(self) -> int:
        """Octets of the client that this connection holds, read from the network and not used yet."""
        return self._wire.buffered + self._receiver.buffered

    # --- the pump ---

    def _pump(self) -> None:
        """Go on as far as input, hooks and the client allow."""
        if self._pumping or self._lost or self._arrival is not None:
            return
        self._pumping = True
        try:
            while self._read is not None and not self._writer.isChoked and self._read(self):
                continue
        finally:
            self._pumping = False
        if not self._aborted:
            self._writer.flush()
        if self._inputEnded and self._read is not None and not self._writer.isChoked and self._receiver.hasRoom:
            self._close()
        if self._read is not _READ_LINE or self._writer.isChoked or self.isStopped or self._receiver.hasMessage:
            self._shareTime()
            self._stopOrStart()

    def _shareTime(self) -> None:
        """A client that is stopped because its message waits for the hook owes nothing; the time is the hook's."""
        if self._read is None or self._closing:
            return
        if self._isFull:
            self.patience.hookIsSlow()
        elif self.patience.isHookSlow and self._read is _READ_MESSAGE:
            self.patience.hookIsBack(self._receiver.octets)
        elif self.patience.isHookSlow:
            self.patience.forChunk()

    @property
    def _isFull(self) -> bool:
        """So much of the message waits for the hook that the client must wait as well."""
        receiver = self._receiver
        return not receiver.hasRoom and (self._read is not _READ_LINE or receiver.buffered > _BEHIND)

    def _stopOrStart(self) -> None:
        """Stop the client while what it sent cannot be used yet, so that memory stays bounded (invariant 6)."""
        if self._closing:
            return
        stop = self._writer.isChoked or self._isFull or (self._read is None and self.buffered >= _AHEAD)
        if stop is not self.isStopped:
            self.isStopped = stop
            if stop:
                self.transport.pauseProducing()  # type: ignore[union-attr]
            else:
                self.transport.resumeProducing()  # type: ignore[union-attr]

    def _readLine(self) -> bool:
        if self.isLeaving and not self._dialogue.inTransaction:
            self._say(replies.SHUTTING_DOWN)
            return True
        line = self._wire.maybeLine(self._dialogue.lineLimit)
        if line is None:
            return False
        self._read = None
        self._journal.commands += 1
        self._advance(self._dialogue.receive, line)
        return not self._wire.isEmpty or self._read is not _READ_LINE or self.isLeaving

    def _readMessage(self) -> bool:
        receiver, patience = self._receiver, self.patience
        if not receiver.hasRoom:
            return False
        self._shareTime()
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

    def _advance(self, tell: Callable[..., Step], *value: object) -> None:
        """Tell the dialogue something, ask the hooks that it wants to hear, and do what it wants next."""
        if self._closing:
            return  # The server has given up meanwhile, and nothing may follow its last reply.
        try:
            step = tell(*value)
            while type(step) is Ask:
                hook = self._runner.find(step.hook)
                result = None if hook is None else callHook(hook, step.arguments)
                if isinstance(result, Deferred):
                    self._await(step, result)
                    return
                if self._closing:
                    self._runner.late(step.hook, result)
                    return
                step = self._dialogue.answer(None) if result is None else self._answer(step, result)
        except Exception:
            # An extension runs within the dialogue, and may crash as a hook may; but there is no way on from there.
            self._runner.refusal("(in the dialogue)", Failure())
            step = replies.HOOK_FAILED.closing()
        _STEPS[type(step)](self, step)

    def _say(self, reply: Reply) -> None:
        self._code = reply.code
        if self._code >= 400:
            self._note(reply)
        self._put(reply)
        if reply.closes:
            self._close()
            return
        self._read = _READ_LINE
        if self._dialogue.state is State.CHUNKS:
            self.patience.forChunk()
        else:
            self.patience.forClient()

    def _sayAll(self, all: tuple[Reply, ...]) -> None:
        if not all:
            self._read = _READ_LINE
            self.patience.forClient()
            return
        *others, last = all
        for reply in {reply for reply in others if reply.code >= 400} - {last}:
            self._note(reply)
        for reply in others:
            self._put(reply)
        # Each recipient has its reply, even if the first of them closes.
        self._say(last.closing() if any(reply.closes for reply in others) else last)
        self._code = max(reply.code for reply in all)

    def _put(self, reply: Reply) -> None:
        self._writer.put(self._dialogue.encode(reply))

    def _note(self, reply: Reply) -> None:
        """Let the log and the hooks know what went wrong, where it was the server itself who refused."""
        self._journal.refusals += 1
        if reply in NOTEWORTHY:
            self._journal.refusal(self._dialogue.knownVerb, reply)
        if reply in BROKEN_PROTOCOL:
            refusal = SMTPError(reply.lines[0], reply.code, reply.enhancedCode)
            self._runner.tell("onError", Failure(refusal), self.session)

    def _close(self) -> None:
        """Write what there is and end the connection."""
        if self._closing:
            return
        self._closing = True
        self._read = None
        self.patience.forClient()
        if self.isStopped:
            # TLS ends when the client has said so too.
            self.isStopped = False
            self.transport.resumeProducing()  # type: ignore[union-attr]
        self._writer.close()

    def _await(self, question: Ask, result: Deferred[Any]) -> None:
        self._question = result
        self._asked = question.hook
        self.patience.forHook()
        result.addBoth(self._answerLater, question, result)

    def _answerLater(self, result: object, question: Ask, awaited: Deferred[Any]) -> None:
        isOverdue = self._question is not awaited
        if not isOverdue:
            self._question = None
        if self._lost or self._closing or isOverdue:
            self._runner.late(question.hook, result)
        if self._lost:
            self._endIfDone()
        elif not isOverdue:
            self._advance(self._answer, question, result)
            self._pump()

    def _answer(self, question: Ask, result: object) -> Step:
        """Tell the dialogue what a hook has decided."""
        if result is False and question.hook not in _YES_OR_NO:
            # Somebody meant "no", in the words of another library; that must not let anybody in.
            result = Failure(TypeError("False is no answer, a refusal is a raised SMTPError"))
        if not isinstance(result, Failure):
            return self._dialogue.answer(result)
        refusal = self._runner.refusal(question.hook, result)
        return self._dialogue.answer(None) if question.hook in TOLD else self._dialogue.refuse(refusal)

    def _challenge(self, step: Challenge) -> None:
        self._writer.put(step.octets)
        self._read = _READ_RESPONSE
        self.patience.forClient()

    def _readResponse(self) -> bool:
        line = self._wire.maybeLine(self._dialogue.lineLimit)
        if line is None:
            return False
        self._standStill()
        self._advance(self._dialogue.answer, line)
        return True

    def _wait(self, step: Wait) -> None:
        self.patience.end()
        self._waiting = self.factory.reactor().callLater(step.seconds, self._waited)

    def _waited(self) -> None:
        self._waiting = None
        self._advance(self._dialogue.answer, self._wire.buffered > 0)
        self._pump()

    def _startTLS(self, step: StartTLS) -> None:
        transport = self.transport
        if not ITLSTransport.providedBy(transport):
            self._say(replies.NO_TLS_HERE)
            return
        if self._wire.clear():
            # Whatever it was, it was said before the client knew whom it speaks to.
            self._journal.trouble("commands behind STARTTLS in the clear [{session}]")
            self._say(replies.TALKED_BEFORE_TLS)
            return
        if step.reply is not None:
            self._put(step.reply)
        self._isHandshaking = True
        self.patience.forClient()
        self._writer.startTLS(self.factory.secureContext)

    def _receiveMessage(self, step: ReceiveMessage) -> None:
        # The client waits for this reply and sends nothing until it comes; the hook may take its time.
        self._put(step.reply)
        self._writer.flush()
        self._messageBegins()
        self._receive(self._receiver.message)

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
        envelope = self.session.envelope
        if not self._lost:
            self._advance(self._dialogue.answer, verdict)
        if verdict is not None:
            code = 0 if self._lost or self._aborted else self._code
            self._journal.message(self._dialogue.verb, envelope, verdict.octets, code)

    def _receiverChanged(self) -> None:
        """C{onData} has taken octets, or has ended."""
        if self._lost:
            self._endIfDone()
        else:
            self._pump()

    def _endIfDone(self) -> None:
        """The connection is gone; when its last hook has ended, C{onClose} follows."""
        if self._ended or self._question is not None or self._receiver.isBusy:
            return
        self._ended = True
        if self.session.logout is not None:
            self._logout(self.session.logout)
        self._journal.end()
        closing = self._runner.tell("onClose", self.session)
        if closing is None:
            self._end()
        else:
            self._question = closing
            self._asked = "onClose"
            self.patience.forHook()
            closing.addCallback(self._closed)

    def _logout(self, logout: Callable[[], object]) -> None:
        """Tell a Portal that its user has left."""
        self.session.logout = None
        try:
            logout()
        except Exception:
            _log.failure("logout crashed [{session}]", session=self.session.id, peer=self.session.remoteAddress)

    def _closed(self, _: None) -> None:
        if self._question is not None:
            self._end()

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
}
