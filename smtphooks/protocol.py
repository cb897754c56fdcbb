"""
The protocol: the pump between transport, wire, dialogue and hooks.

It reads what the dialogue wants next, runs the hooks that the dialogue asks for, writes replies, and stops the client
when hooks or the client itself are slow.  What a command means is the dialogue's business, never looked at here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ITLSTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks import replies
from smtphooks.delivery import Delivery
from smtphooks.dialogue import Dialogue
from smtphooks.handshake import (
    describe,
    explainHandshakeFailure,
    exporter,
    identityOf,
    serverName,
    verifiedCertificate,
)
from smtphooks.hooks import callHook
from smtphooks.replies import Reply, SMTPError
from smtphooks.session import Session
from smtphooks.steps import (
    AbandonMessage,
    Ask,
    Challenge,
    DiscardChunk,
    ReceiveChunk,
    ReceiveMessage,
    StartTLS,
    Step,
    Verdict,
    Wait,
)
from smtphooks.stream import MessageStream
from smtphooks.wire import Wire

if TYPE_CHECKING:
    from smtphooks.factory import SMTPServerFactory

# Octets that may wait behind an undecided hook, or replies behind a slow client, before the client is stopped.
_AHEAD = 16384

# These hooks only learn of something: what they raise is logged and answers nobody.
_TOLD = frozenset({"onReset", "onClose", "onError"})

# How a hook ends that was cancelled, or whose message was cut short.
_NO_NEWS = (CancelledError, asyncio.CancelledError, ConnectionLost)


# A TLS record with a handshake in it (RFC 8446 section 5.1); no command begins so.
_TLS_HANDSHAKE = b"\x16\x03"

_NEVER = float("inf")


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class SMTPServerProtocol(Protocol):
    """
    One connection.

    @ivar session: what hooks see of it.
    @ivar deadline: when the client must have done what it owes, by C{factory.now}; infinite while it owes nothing.
    @ivar isLeaving: the server ends it as soon as no transaction is in progress.
    """

    factory: SMTPServerFactory
    log = Logger()

    def __init__(self) -> None:
        self._read: Callable[[SMTPServerProtocol], bool] | None = None  # how to get on; None: something is undecided
        self._question: Deferred[Any] | None = None  # the hook that the dialogue waits for
        self._delivery: Delivery | None = None
        self._conclusion: Callable[[Delivery], Verdict | None] | None = None  # said when the delivery is decided
        self._lastChunk = True  # the message ends with what is being read
        self._out: list[bytes] = []
        self._outOctets = 0
        self._pumping = False
        self._choked = False  # the client does not read its replies
        self._stopped = False  # the transport reads no more for now
        self.deadline = _NEVER
        self._waiting: IDelayedCall | None = None  # the dialogue makes the client wait
        self._isHandshaking = False
        self._inputEnded = False
        self.isLeaving = False
        self._closing = False
        self._lost = False
        self._ended = False  # onClose has been called

    # --- the transport's side ---

    def connectionMade(self) -> None:
        """A client has connected."""
        factory = self.factory
        self.session = self._newSession()
        self._wire = Wire(factory.options.bareNewline)
        self._dialogue = Dialogue(factory.options, factory.extensions, self.session, factory.mechanisms)
        factory.remember(self)
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]
        self._advance(self._dialogue.open)
        if factory.isClosing:
            self.leave()
        self._pump()

    def _newSession(self) -> Session:
        options = self.factory.options
        session = Session(options.name, options.lmtp, secure=options.secured)
        peer, host = self.transport.getPeer(), self.transport.getHost()  # type: ignore[union-attr]
        session.remoteAddress, session.remotePort = _hostAndPort(peer)
        session.localAddress, session.localPort = _hostAndPort(host)
        session.clientHostname = f"[{session.remoteAddress}]" if session.remoteAddress else ""
        return session

    def dataReceived(self, data: bytes) -> None:
        """Octets have arrived."""
        if self._closing or self._lost:
            return
        if data.startswith(_TLS_HANDSHAKE) and self._isUntouched():
            self._refuseTLS()
            return
        self._wire.receive(data)
        self._pump()

    def _isUntouched(self) -> bool:
        """Has the client not said anything yet, neither in the clear nor by TLS?"""
        return self._dialogue.verb == "" and not self._wire.buffered and self.session.tlsOptions is None

    def _refuseTLS(self) -> None:
        error = ConnectionLost("the client spoke TLS on a port that begins in the clear")
        self.log.info("{error} [{session}]", error=str(error), session=self.session.id)
        self._tell("onError", Failure(error), self.session)
        self._say(replies.NOT_RECOGNIZED.closing())
        self._pump()

    def handshakeCompleted(self) -> None:
        """C{IHandshakeListener}: TLS is in force, and nothing has been read of it yet."""
        self._isHandshaking = False
        self.deadline = _NEVER
        connection = self.transport.getHandle()  # type: ignore[union-attr]
        session = self.session
        session.secure = True
        session.tlsOptions = describe(connection)
        session.servername = serverName(connection)
        session.channelBinding = exporter(connection)
        session.peerCertificate = verifiedCertificate(connection)
        if session.peerCertificate is not None:
            session.peerIdentity = identityOf(session.peerCertificate)
        self._advance(self._dialogue.answer, self.transport)
        self._pump()

    def readConnectionLost(self) -> None:
        """The client will send no more, but still gets its replies (C{printf … | nc})."""
        self._inputEnded = True
        self._pump()

    def writeConnectionLost(self) -> None:
        """The client takes no more; there is nothing left to be done for it."""
        self.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._lost = True
        self._read = None
        self.deadline = _NEVER
        self._dialogue.close()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._isHandshaking:
            self._handshakeFailed(reason)
        self._wire.clear()
        if self._delivery is not None:
            # Always a ConnectionLost, even if the client left politely: mid-message that is no way to go.
            self._delivery.cut(Failure(ConnectionLost(f"the client left within the message: {reason.value}")))
        if self._question is not None:
            self._question.cancel()
        self._endIfDone()

    def _handshakeFailed(self, reason: Failure) -> None:
        why = explainHandshakeFailure(reason, self.transport.getHandle())  # type: ignore[union-attr]
        self.log.info(
            "TLS handshake with {peer} failed: {why} [{session}]",
            peer=self.session.remoteAddress,
            why=why,
            session=self.session.id,
        )
        self._tell("onError", reason, self.session)

    def pauseProducing(self) -> None:
        """C{IPushProducer}: the client does not read its replies."""
        self._choked = True

    def resumeProducing(self) -> None:
        """C{IPushProducer}: it does again."""
        self._choked = False
        self._pump()

    def stopProducing(self) -> None:
        """C{IPushProducer}: the connection goes away; L{connectionLost} follows."""

    # --- what the factory calls ---

    def leave(self) -> None:
        """End the connection as soon as no transaction is in progress."""
        self.isLeaving = True
        self._pump()

    def abort(self) -> None:
        """End the connection now."""
        self.transport.abortConnection()  # type: ignore[union-attr]

    def timeUp(self) -> None:
        """The client has not done in time what it owes."""
        if self._closing or self._isHandshaking:
            self.abort()
            return
        self.log.info("no sign of the client in time [{session}]", session=self.session.id)
        self._say(replies.TIMED_OUT)
        self._pump()

    def _expect(self) -> None:
        """The client owes the next octets, or the end of the connection."""
        timeout = self.factory.options.socketTimeout
        self.deadline = self.factory.now + timeout if timeout else _NEVER

    # --- the pump ---

    def _pump(self) -> None:
        """Go on as far as input, hooks and the client allow."""
        if self._pumping or self._lost:
            return
        self._pumping = True
        try:
            while self._read is not None and not self._choked and self._read(self):
                if self._outOctets > _AHEAD:
                    self._flush()
        finally:
            self._pumping = False
        self._flush()
        if self._inputEnded and self._read is not None and not self._choked and self._hasRoom():
            self._close()
        self._stopOrStart()

    def _hasRoom(self) -> bool:
        return self._delivery is None or self._delivery.stream.hasRoom

    def _stopOrStart(self) -> None:
        """Stop the client while what it sent cannot be used yet, so that memory stays bounded (invariant 6)."""
        if self._closing:
            return
        stop = self._choked or not self._hasRoom()
        if not stop and self._read is None:
            waiting = self._wire.buffered + (self._delivery.stream.buffered if self._delivery else 0)
            stop = waiting >= _AHEAD
        if stop is not self._stopped:
            self._stopped = stop
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
        self._advance(self._dialogue.receive, line)
        return True

    def _readMessage(self) -> bool:
        delivery = self._delivery
        assert delivery is not None
        if not delivery.stream.hasRoom:
            self.deadline = _NEVER  # it is the hook that is slow
            return False
        wire = self._wire
        data = wire.maybeMessage()
        if data is not None:
            self._expect()
        if data:
            delivery.receive(data)
        elif data is None and not wire.messageEnded:
            return False
        if wire.messageEnded:
            self._read = None
            self.deadline = _NEVER
            self._chunkRead(delivery)
        elif wire.bareNewlineSeen:
            delivery.refuseBareNewline()
        return True

    def _readNothing(self) -> bool:
        """Read a chunk that belongs to no message."""
        if self._wire.maybeMessage() is None and not self._wire.messageEnded:
            return False
        self._expect()
        if self._wire.messageEnded:
            self._read = None
            self._advance(self._dialogue.answer, None)
        return True

    # --- steps of the dialogue ---

    def _advance(self, tell: Callable[..., Step], *value: object) -> None:
        """Tell the dialogue something, and do what it wants next."""
        try:
            step = tell(*value)
        except Exception:
            # An extension runs within the dialogue, and may crash as a hook may; but there is no way on from there.
            self._refusal("(in the dialogue)", Failure())
            step = replies.HOOK_FAILED.closing()
        _STEPS[type(step)](self, step)

    def _say(self, reply: Reply) -> None:
        self._put(reply)
        if reply.closes:
            self._close()
        else:
            self._read = _READ_LINE
            self._expect()

    def _sayAll(self, all: tuple[Reply, ...]) -> None:
        if not all:
            self._read = _READ_LINE
            self._expect()
            return
        *others, last = all
        for reply in others:
            self._put(reply)
        # Each recipient has its reply, even if the first of them closes.
        self._say(last.closing() if any(reply.closes for reply in others) else last)

    def _put(self, reply: Reply) -> None:
        octets = self._dialogue.encode(reply)
        self._out.append(octets)
        self._outOctets += len(octets)

    def _flush(self) -> None:
        """Write the replies that have gathered, all at once."""
        if self._out:
            octets = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._outOctets = 0
            self.transport.write(octets)  # type: ignore[union-attr]

    def _close(self) -> None:
        """Write what there is and end the connection."""
        if self._closing:
            return
        self._closing = True
        self._read = None
        self._expect()
        self._flush()
        # A transport waits for its producer to be done before it closes.
        self.transport.unregisterProducer()  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]

    def _ask(self, question: Ask) -> None:
        hook = getattr(self.factory, question.hook) if isinstance(question.hook, str) else question.hook
        if hook is None:
            self._advance(self._dialogue.answer, None)
            return
        result = callHook(hook, question.arguments)
        if not isinstance(result, Deferred):
            self._answer(question, result)
            return
        self._question = result
        self.deadline = _NEVER
        result.addBoth(self._answerLater, question)

    def _answerLater(self, result: object, question: Ask) -> None:
        self._question = None
        if self._lost:
            self._logLate(question.hook, result)
            self._endIfDone()
        else:
            self._answer(question, result)
            self._pump()

    def _answer(self, question: Ask, result: object) -> None:
        """Tell the dialogue what a hook has decided."""
        if not isinstance(result, Failure):
            self._advance(self._dialogue.answer, result)
            return
        refusal = self._refusal(question.hook, result)
        if question.hook in _TOLD:
            self._advance(self._dialogue.answer, None)
        else:
            self._advance(self._dialogue.refuse, refusal)

    def _challenge(self, step: Challenge) -> None:
        self._out.append(step.octets)
        self._outOctets += len(step.octets)
        self._read = _READ_RESPONSE
        self._expect()

    def _readResponse(self) -> bool:
        line = self._wire.maybeLine(self._dialogue.lineLimit)
        if line is None:
            return False
        self._read = None
        self._advance(self._dialogue.answer, line)
        return True

    def _wait(self, step: Wait) -> None:
        self.deadline = _NEVER
        self._waiting = self.factory.reactor().callLater(step.seconds, self._waited)

    def _waited(self) -> None:
        self._waiting = None
        self._advance(self._dialogue.answer, None)
        self._pump()

    def _startTLS(self, step: StartTLS) -> None:
        transport = self.transport
        if not ITLSTransport.providedBy(transport):
            self._say(replies.NO_TLS_HERE)
            return
        if self._wire.clear():
            # Whatever it was, it was said before the client knew whom it speaks to.
            self.log.warn("commands behind STARTTLS in the clear [{session}]", session=self.session.id)
            self._say(replies.TALKED_BEFORE_TLS)
            return
        if step.reply is not None:
            self._put(step.reply)
        self._flush()
        self._isHandshaking = True
        self._expect()
        transport.startTLS(self.factory.secureContext)

    def _receiveMessage(self, step: ReceiveMessage) -> None:
        self._say(step.reply)
        # The client waits for this reply and sends nothing until it comes; the hook may take its time.
        self._flush()
        self._wire.beginMessage()
        self._beginDelivery()
        self._lastChunk = True
        self._read = _READ_MESSAGE

    def _receiveChunk(self, step: ReceiveChunk) -> None:
        self._wire.beginChunk(step.octets, step.first, self.session.envelope.bodyType == "binarymime")
        if step.first:
            self._beginDelivery()
        self._lastChunk = step.last
        if self._wire.messageEnded:
            assert self._delivery is not None
            self._chunkRead(self._delivery)
        else:
            self._read = _READ_MESSAGE

    def _discardChunk(self, step: DiscardChunk) -> None:
        self._wire.beginChunk(step.octets, first=True, binary=True)
        self._read = _READ_NOTHING if step.octets else None
        if not step.octets:
            self._advance(self._dialogue.answer, None)

    def _abandonMessage(self, step: AbandonMessage) -> None:
        assert self._delivery is not None
        self._delivery.cut(Failure(ConnectionAborted("the client abandoned the message")))
        self._conclude(lambda delivery: None)

    # --- messages ---

    def _beginDelivery(self) -> None:
        options = self.factory.options
        stream = MessageStream(options.size, options.rejectOversized, self._pump)
        self._delivery = delivery = Delivery(stream, len(self.session.envelope.rcptTo) if options.lmtp else None)
        hook = self.factory.onData
        result = None if hook is None else callHook(hook, (stream, self.session))
        if isinstance(result, Deferred):
            delivery.hookRuns(result)
            result.addBoth(self._deliveredLater, delivery)
        else:
            self._delivered(result, delivery)

    def _deliveredLater(self, result: object, delivery: Delivery) -> None:
        self._delivered(result, delivery)
        if self._lost:
            self._endIfDone()
        else:
            self._concludeIfDecided()
            self._pump()

    def _delivered(self, result: object, delivery: Delivery) -> None:
        """C{onData} has ended."""
        if isinstance(result, Failure):
            if delivery.isCut:
                self._logLate("onData", result)
            else:
                result = self._refusal("onData", result)
        delivery.decide(result)

    def _chunkRead(self, delivery: Delivery) -> None:
        """The message has been read, or a chunk of it."""
        if self._lastChunk:
            rest = self._wire.endOfChunks()
            if rest:
                delivery.receive(rest)
        if self._wire.bareNewlineSeen:
            delivery.refuseBareNewline()
        if self._lastChunk:
            delivery.finish()
        if self._lastChunk or delivery.failed or delivery.fault(self.factory.options.rejectOversized):
            self._conclude(self._verdict)
        else:
            self._advance(self._dialogue.answer, None)

    def _verdict(self, delivery: Delivery) -> Verdict:
        return Verdict(delivery.results(self._logFault), delivery.fault(self.factory.options.rejectOversized))

    def _conclude(self, conclusion: Callable[[Delivery], Verdict | None]) -> None:
        """Tell the dialogue the conclusion as soon as C{onData} has ended."""
        self._conclusion = conclusion
        self._concludeIfDecided()

    def _concludeIfDecided(self) -> None:
        delivery, conclusion = self._delivery, self._conclusion
        if delivery is not None and delivery.decided and conclusion is not None:
            self._delivery = self._conclusion = None
            self._advance(self._dialogue.answer, conclusion(delivery))

    # --- hooks that fail, hooks that are only told ---

    def _refusal(self, hook: object, failure: Failure) -> SMTPError:
        """What the client gets for what a hook raised: its own words, or none of them (invariant 5)."""
        if isinstance(failure.value, SMTPError) and hook not in _TOLD:
            return failure.value
        self.log.failure("hook {hook} crashed [{session}]", failure, hook=_nameOf(hook), session=self.session.id)
        if hook != "onError":
            self._tell("onError", failure, self.session)
        return SMTPError(replies.HOOK_FAILED.lines[0], replies.HOOK_FAILED.code, replies.HOOK_FAILED.enhancedCode)

    def _logLate(self, hook: object, result: object) -> None:
        """A hook has ended for whose answer nobody waits any more; that it was cancelled or cut short is no news."""
        if isinstance(result, Failure) and not result.check(*_NO_NEWS):
            self._refusal(hook, result)

    def _logFault(self, fault: str) -> None:
        self.log.error("{fault} [{session}]", fault=fault, session=self.session.id)

    def _tell(self, name: str, *arguments: object) -> Deferred[None] | None:
        """Run a hook whose answer nobody waits for."""
        hook = getattr(self.factory, name)
        result = None if hook is None else callHook(hook, arguments)
        if isinstance(result, Deferred):
            return result.addBoth(self._told, name)
        self._told(result, name)
        return None

    def _told(self, result: object, name: str) -> None:
        if isinstance(result, Failure):
            self._refusal(name, result)

    def _endIfDone(self) -> None:
        """The connection is gone; when its last hook has ended, C{onClose} follows."""
        if self._ended or self._question is not None or (self._delivery is not None and not self._delivery.decided):
            return
        self._ended = True
        self._delivery = None
        if self.session.logout is not None:
            self._logout(self.session.logout)
        closing = self._tell("onClose", self.session)
        if closing is None:
            self._end()
        else:
            closing.addCallback(self._end)

    def _logout(self, logout: Callable[[], object]) -> None:
        """Tell a Portal that its user has left."""
        self.session.logout = None
        try:
            logout()
        except Exception:
            self.log.failure("logout crashed [{session}]", session=self.session.id)

    def _end(self, _: None = None) -> None:
        self.factory.forget(self)


def _hostAndPort(address: Any) -> tuple[str, int]:
    """The numbers of a transport's end; a UNIX socket has a path at most."""
    if isinstance(address, UNIXAddress):
        name = address.name or ""
        return (name.decode(errors="replace") if isinstance(name, bytes) else name), 0
    host = str(getattr(address, "host", ""))
    # A client that comes by IPv4 to an IPv6 socket is the client that its IPv4 address says.
    return host.removeprefix("::ffff:") if "." in host else host, getattr(address, "port", 0)


def _nameOf(hook: object) -> str:
    return hook if isinstance(hook, str) else getattr(hook, "__qualname__", repr(hook))


_READ_LINE = SMTPServerProtocol._readLine
_READ_MESSAGE = SMTPServerProtocol._readMessage
_READ_RESPONSE = SMTPServerProtocol._readResponse
_READ_NOTHING = SMTPServerProtocol._readNothing

_STEPS: dict[type, Callable[[SMTPServerProtocol, Any], None]] = {
    Reply: SMTPServerProtocol._say,
    tuple: SMTPServerProtocol._sayAll,
    Ask: SMTPServerProtocol._ask,
    ReceiveMessage: SMTPServerProtocol._receiveMessage,
    ReceiveChunk: SMTPServerProtocol._receiveChunk,
    DiscardChunk: SMTPServerProtocol._discardChunk,
    AbandonMessage: SMTPServerProtocol._abandonMessage,
    Challenge: SMTPServerProtocol._challenge,
    StartTLS: SMTPServerProtocol._startTLS,
    Wait: SMTPServerProtocol._wait,
}
