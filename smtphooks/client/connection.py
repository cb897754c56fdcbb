"""
A connection to a server: octets of the transport to the conversation, and time limits.

In: commands, and the content of messages.  Out: Deferreds of replies.  Rule: whatever ends the connection, all that
wait for a reply hear of it, and no timer is left.
This module knows no transaction, and not what is said.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHandshakeListener, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks.awaiting import Waiting
from smtphooks.client.conversation import Conversation
from smtphooks.client.errors import ClientError, NotOffered, Refused, TLSFailed, Unreachable, because
from smtphooks.client.opening import ENCRYPT, HEAR, Opened, Say, opening
from smtphooks.client.reply import NoReply, ReceivedReply
from smtphooks.client.route import Route
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.tls import Encryption, encryptionFor
from smtphooks.client.transcript import Redaction, Transcript
from smtphooks.client.transports import LOST, causeOf, isLocal

_QUIT_SECONDS = 5.0


@implementer(IHandshakeListener, IPushProducer)
class Connection(Protocol):
    """
    One connection.

    @ivar route: what it was made for.
    @ivar messages: transactions so far.
    @ivar lost: why it cannot be used any more, or None.
    @ivar hasFailedTLS: it was lost while TLS began.
    @ivar hasTimedOut: it was given up because the server took too long.
    @ivar isPaused: the server does not read as fast as is written.
    @ivar closed: fires with None when the transport is gone.
    """

    def __init__(
        self,
        route: Route,
        timeouts: Timeouts,
        clock: IReactorTime,
        transcript: Transcript | None = None,
        avoidsTLS: bool = False,
    ) -> None:
        """@param avoidsTLS: do without TLS that need not be, as it has failed with this server."""
        self.route: Route = route
        self.messages: int = 0
        self.lost: ClientError | None = None
        self.hasFailedTLS: bool = False
        self.hasTimedOut: bool = False
        self.isPaused: bool = False
        self.closed: Waiting[None] = Waiting()
        self.conversation: Conversation = Conversation()
        self._opened = Opened(avoidsTLS=avoidsTLS)
        self._timeouts = timeouts
        self._clock = clock
        self._shown = Redaction(transcript, route.password, route.token)
        self._waiting: dict[Waiting[Any], None] = {}
        self._deadline: Any = None
        self._handshake: Waiting[None] | None = None
        self._encryption: Encryption | None = None
        self._early: list[bytes] = []  # what has arrived with the end of the handshake
        self._room: Waiting[None] | None = None
        self._isSending = False  # the content of a message, to whose end the reply is due
        self._isLeaving = False  # one of the two has said goodbye
        self._isClosing = False  # TLS waits for the server to say that it closes as well

    @property
    def extensions(self) -> dict[str, str]:
        """What the server offers: upper-case keyword to parameters."""
        return self._opened.extensions

    @property
    def isSecure(self) -> bool:
        """It is encrypted."""
        return self._opened.isSecure

    @property
    def isVerified(self) -> bool:
        """It is encrypted, and the certificate of the server is that of its name."""
        return self.isSecure and self.route.mustVerify

    @property
    def isUsable(self) -> bool:
        """A transaction may begin."""
        return not self.isLeaving and self.conversation.isQuiet

    @property
    def isLeaving(self) -> bool:
        """It is lost, or about to be closed."""
        return self.lost is not None or self._isLeaving

    # --- what is said ---

    async def open(self) -> None:
        """
        Say and hear all that is before the first transaction.

        @raise ClientError: if that fails; the connection is closed then.
        """
        steps = opening(self.route, self._opened)
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._do(step))
        except StopIteration:
            self.conversation.pipelines = "PIPELINING" in self.extensions
        except BaseException as error:
            if isinstance(error, (Refused, NotOffered)):
                self.quit()
            else:
                self.abort()
            raise

    async def _do(self, step: Any) -> ReceivedReply | None:
        if step is ENCRYPT:
            await self._encrypt()
            return None
        if step is HEAR:
            return await self.hear("the greeting", self._timeouts.greeting)
        assert isinstance(step, Say)
        return await self.ask(step.label, step.line, self._timeouts.command, step.shown)

    def ask(self, label: str, line: bytes, seconds: float, shown: str | None = None) -> Waiting[ReceivedReply]:
        """
        Say a command.

        @param label: what an error calls it.
        @param shown: what the transcript is told in place of the line, which is secret.
        @return: fires with the reply; fails with L{Unreachable}.
        @raise ValueError: if it is more than a line.
        """
        waiting = self._newWaiting()
        if self.lost is None:
            isSecret = shown is not None
            if isSecret:
                words = line.decode("utf-8", "replace").split(" ")
                self._shown.add(*(words[2:] if len(words) > 1 else words))  # AUTH has a mechanism, a response has none
            self.conversation.ask(label, line, seconds, lambda reply: self._answer(waiting, reply, isSecret))
            self._shown.said(line.decode("utf-8", "replace") if shown is None else shown)
            self._flush()
        return waiting

    def hear(self, label: str, seconds: float) -> Waiting[ReceivedReply]:
        """A reply is due to what is no command; otherwise as L{ask}."""
        waiting = self._newWaiting()
        if self.lost is None:
            self.conversation.expect(label, seconds, lambda reply: self._answer(waiting, reply))
            self._restart()
        return waiting

    def beginContent(self) -> None:
        """What is written now is the content of a message; the reply to it is due when that has ended."""
        self._isSending = True
        self._restart()

    def endContent(self) -> None:
        """The message is complete."""
        self._isSending = False
        self._restart()

    def write(self, octets: bytes) -> None:
        """Write octets of a message."""
        transport: Any = self.transport
        if self.lost is None:
            transport.write(octets)

    async def drained(self) -> None:
        """
        Wait until the server reads on.

        @raise Unreachable: if it does not, within its time.
        """
        if self.lost is not None:
            raise self.lost
        if self.isPaused:
            self._room = self._newWaiting()
            self._restart()
            await self._room

    # --- how it ends ---

    def quit(self) -> None:
        """Say goodbye; the connection is closed with the reply (RFC 5321 section 4.1.1.10), or soon without."""
        if not self.isUsable:
            self.abort()
            return
        self._isLeaving = True
        self.ask("QUIT", b"QUIT", _QUIT_SECONDS).addCallbacks(lambda reply: self._leave(), lambda failure: None)

    def _leave(self) -> None:
        self._isClosing = True
        transport: Any = self.transport
        transport.unregisterProducer()  # as long as there is one, Twisted does not close TLS
        transport.loseConnection()

    def abort(self, reason: ClientError | None = None) -> None:
        """Close the connection at once; the server sees that a message is not complete."""
        self._lose(reason or Unreachable(f"{self.route}: the connection was given up"))
        transport: Any = self.transport
        # Twisted's TLS cannot abort a connection that it has told us is lost.
        if transport is not None and not self.closed.called:
            transport.abortConnection()

    def _lose(self, reason: ClientError) -> None:
        if self.lost is None:
            self.lost = reason
        self._relax()
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            if not each.called:
                each.errback(self.lost)

    # --- time ---

    def _restart(self) -> None:
        """The time of what is due next begins now."""
        self._relax()
        due = self.conversation.next
        if self.lost is not None:
            return
        if self._room is not None:
            self._start("read on", self._timeouts.block)
        elif self._handshake is not None:
            self._start("begun TLS", self._timeouts.connect)
        elif due is not None and not self._isSending:
            self._start(f"answered {due.label}", due.seconds)
        elif self._isClosing:
            self._start("closed the connection", _QUIT_SECONDS)

    def _start(self, what: str, seconds: float) -> None:
        if seconds:
            self._deadline = self._clock.callLater(seconds, self._timedOut, what, seconds)

    def _relax(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def _timedOut(self, what: str, seconds: float) -> None:
        self._deadline = None
        self.hasTimedOut = True
        self.hasFailedTLS = self._handshake is not None
        self.abort(because(Unreachable(f"{self.route} has not {what} within {seconds:g} seconds"), TimeoutError()))

    # --- TLS ---

    def _encrypt(self) -> Waiting[None]:
        if self.conversation.hasUnread:
            # RFC 3207 section 4.2: what stands behind the reply to STARTTLS in the clear is an attacker's.
            raise Unreachable(f"{self.route} sends octets in the clear behind its reply to STARTTLS")
        self._encryption = encryption = encryptionFor(self.route)
        waiting = self._newWaiting()
        transport: Any = self.transport
        if self.lost is None:
            self._handshake = waiting
            self._restart()
            # As Twisted's transports begin TLS, but on the reactor at hand, which need not be that of the process.
            factory = TLSMemoryBIOFactory(encryption, True, None, self._clock)  # type: ignore[arg-type]
            tls: Any = factory.protocol(factory, self, False)
            transport.unregisterProducer()
            self.transport = transport.protocol = tls
            tls.makeConnection(transport)
            tls.registerProducer(self, True)
        return waiting

    def handshakeCompleted(self) -> None:
        """
        C{IHandshakeListener}: Twisted may call this also where it has just ended the connection, and tells of the end
        in the next turn of the reactor.
        """
        clock: Any = self._clock
        clock.callLater(0, lambda: clock.callLater(0, self._isEncrypted))

    def _isEncrypted(self) -> None:
        handshake, encryption = self._handshake, self._encryption
        if handshake is None or encryption is None or self.lost is not None:
            return
        if not encryption.isAccepted:
            self._failTLS("its certificate was not verified")
            return
        self._handshake = None
        self._waiting.pop(handshake, None)
        self._restart()
        handshake.callback(None)
        early, self._early = self._early, []
        for octets in early:
            self.dataReceived(octets)

    def _failTLS(self, what: str) -> None:
        self.hasFailedTLS = True
        fault = self._encryption.fault if self._encryption is not None else None
        self.abort(TLSFailed(self.route, fault or what, isUntrusted=fault is not None))

    # --- the transport tells its protocol, and its producer ---

    def connectionMade(self) -> None:
        """C{IProtocol}."""
        transport: Any = self.transport
        self._opened.isPrivate = isLocal(transport.getPeer())
        transport.registerProducer(self, True)
        if self.lost is not None:
            transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """C{IProtocol}."""
        if self.lost is not None:
            return
        if self._handshake is not None:  # a server that greets at once may do so with the last octets of TLS
            self._early.append(data)
            return
        conversation, due = self.conversation, self.conversation.next
        try:
            conversation.receive(data)
        except NoReply as error:
            self.abort(because(Unreachable(f"{self.route} speaks no SMTP: {error}"), error))
            return
        if conversation.unasked is not None:
            self.abort(Unreachable(f"{self.route} has ended the connection: {conversation.unasked}"))
        elif conversation.next is not due:  # or else a server that drips octets would have all the time of the world
            self._restart()
            self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """C{IProtocol}."""
        due, cause = self.conversation.next, causeOf(reason)
        if self._handshake is not None and self.lost is None:
            self._failTLS(cause)
        what = f"{LOST} before the reply to {due.label}" if due is not None else LOST
        self._lose(because(Unreachable(f"{self.route}: {what} ({cause})"), reason.value))
        if not self.closed.called:
            self.closed.callback(None)

    def pauseProducing(self) -> None:
        """C{IPushProducer}."""
        self.isPaused = True

    def resumeProducing(self) -> None:
        """C{IPushProducer}."""
        self.isPaused = False
        self._makeRoom()

    def stopProducing(self) -> None:
        """C{IPushProducer}: the connection is about to be lost."""

    # --- inside ---

    def _makeRoom(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.called:
            self._waiting.pop(room, None)
            self._restart()
            room.callback(None)

    def _newWaiting(self) -> Waiting[Any]:
        waiting: Waiting[Any] = Waiting(self._cancelled)
        if self.lost is not None:
            waiting.errback(self.lost)
        else:
            self._waiting[waiting] = None
        return waiting

    def _cancelled(self, waiting: Any) -> None:
        """Whoever waits gives up: what the server does from now on is in doubt."""
        self._waiting.pop(waiting, None)
        self.abort()

    def _answer(self, waiting: Waiting[ReceivedReply], reply: ReceivedReply, isSecret: bool = False) -> None:
        self._waiting.pop(waiting, None)
        self._shown.heard(reply)
        # Some servers tell in an error what they do not understand; a challenge must stay what it is.
        if isSecret and reply.code != 334:
            reply = ReceivedReply(*self._shown.withoutSecrets(reply).split("\n"))
        self._isLeaving = self._isLeaving or reply.code == 421  # RFC 5321 section 3.8: it closes the connection now
        isEarly = self._isSending  # and not since whoever waits has heard this
        if not waiting.called:
            waiting.callback(reply)
        if isEarly:
            self._makeRoom()  # it has heard enough of the message, and may never read on

    def _flush(self) -> None:
        isIdle = self._deadline is None
        octets = self.conversation.octetsToSend()
        transport: Any = self.transport
        if octets and self.lost is None:
            transport.write(octets)
            if isIdle:
                self._restart()
