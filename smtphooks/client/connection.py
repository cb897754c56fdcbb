"""
A connection to a server: octets of the transport to the conversation, and time limits.

In: commands, and the content of messages.  Out: Deferreds of replies.  Rule: whatever ends the connection, all that
wait for a reply hear of it, and no timer is left.
This module knows no transaction, and not what is said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks.awaiting import Waiting
from smtphooks.client.conversation import Conversation
from smtphooks.client.errors import ClientError, Unreachable
from smtphooks.client.opening import ENCRYPT, HEAR, Opened, Say, opening
from smtphooks.client.reply import NoReply, ReceivedReply
from smtphooks.client.route import Route
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.tls import creatorFor
from smtphooks.netaddress import maybeIP, unmapped

Transcript = Callable[[str, str], object]
"""Is told C{">"} and what is said, C{"<"} and each line of a reply; secrets are left out."""

LOST = "the connection is lost"

_QUIT_SECONDS = 5.0


@implementer(IHandshakeListener, IPushProducer)
class Connection(Protocol):
    """
    One connection.

    @ivar route: what it was made for.
    @ivar messages: transactions so far.
    @ivar lost: why it cannot be used any more, or None.
    @ivar closed: fires with None when the transport is gone.
    """

    def __init__(
        self, route: Route, timeouts: Timeouts, clock: IReactorTime, transcript: Transcript | None = None
    ) -> None:
        self.route: Route = route
        self.messages: int = 0
        self.lost: ClientError | None = None
        self.closed: Waiting[None] = Waiting()
        self.conversation: Conversation = Conversation()
        self._opened = Opened()
        self._timeouts = timeouts
        self._clock = clock
        self._transcript = transcript
        self._waiting: list[Waiting[Any]] = []
        self._deadline: Any = None
        self._handshake: Waiting[None] | None = None
        self._room: Waiting[None] | None = None
        self._isPaused = False
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
        return self.lost is None and not self._isLeaving and self.conversation.isQuiet

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
            if isinstance(error, ClientError):
                error.isOpening = True
            self.abort()
            raise

    async def _do(self, step: Any) -> ReceivedReply | None:
        if step is ENCRYPT:
            await self._encrypt()
            return None
        if step is HEAR:
            return await self.hear("the greeting", self._timeouts.greeting)
        assert isinstance(step, Say)
        shown = f"{step.label} …" if step.isSecret else step.line.decode("utf-8", "replace")
        return await self.ask(step.label, step.line, self._timeouts.command, shown)

    def ask(self, label: str, line: bytes, seconds: float, shown: str | None = None) -> Waiting[ReceivedReply]:
        """
        Say a command.

        @param label: what an error calls it.
        @param shown: what the transcript is told in place of the line.
        @return: fires with the reply; fails with L{Unreachable}.
        @raise ValueError: if it is more than a line.
        """
        waiting = self._newWaiting()
        if self.lost is None:
            self.conversation.ask(label, line, seconds, lambda reply: self._answer(waiting, reply))
            self._show(">", line.decode("utf-8", "replace") if shown is None else shown)
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
        if self._isPaused:
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
        transport.loseConnection()

    def abort(self, reason: ClientError | None = None) -> None:
        """Close the connection at once; the server sees that a message is not complete."""
        self._lose(reason or Unreachable(f"{self.route}: the connection was given up"))
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _lose(self, reason: ClientError) -> None:
        if self.lost is None:
            self.lost = reason
        self._relax()
        waiting, self._waiting = self._waiting, []
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
        self.abort(Unreachable(f"{self.route} has not {what} within {seconds:g} seconds"))

    # --- TLS ---

    def _encrypt(self) -> Deferred[None]:
        creator = creatorFor(self.route)
        if self.conversation.hasUnread:
            # RFC 3207 section 4.2: what stands behind the reply to STARTTLS in the clear is an attacker's.
            raise Unreachable(f"{self.route} sends octets in the clear behind its reply to STARTTLS")
        self._handshake = waiting = self._newWaiting()
        transport: Any = self.transport
        if self.lost is None:
            transport.startTLS(creator)
            # Twisted would delay small writes by the reactor of the process, which may not be the one that runs here.
            aggregator: Any = getattr(transport.protocol, "_aggregator", None)
            if hasattr(aggregator, "_clock"):
                aggregator._clock = self._clock
            self._restart()
        return waiting

    def handshakeCompleted(self) -> None:
        """
        C{IHandshakeListener}: Twisted calls this also where the certificate was not what it must be, and then ends the
        connection in the next turn of the reactor.
        """
        clock: Any = self._clock
        clock.callLater(0, self._isEncrypted)

    def _isEncrypted(self) -> None:
        handshake, self._handshake = self._handshake, None
        if handshake is not None and self.lost is None:
            self._restart()
            handshake.callback(None)

    # --- the transport tells its protocol, and its producer ---

    def connectionMade(self) -> None:
        """C{IProtocol}."""
        transport: Any = self.transport
        self._opened.isPrivate = _isLocal(transport.getPeer())
        transport.registerProducer(self, True)
        if self.lost is not None:
            transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """C{IProtocol}."""
        if self.lost is not None:
            return
        conversation, due = self.conversation, self.conversation.next
        try:
            conversation.receive(data)
        except NoReply as error:
            self.abort(Unreachable(f"{self.route} speaks no SMTP: {error}"))
            return
        if conversation.unasked is not None:
            self.abort(Unreachable(f"{self.route} has ended the connection: {conversation.unasked}"))
        elif conversation.next is not due:  # or else a server that drips octets would have all the time of the world
            self._restart()
            self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """C{IProtocol}."""
        due = self.conversation.next
        what = f"{LOST} before the reply to {due.label}" if due is not None else LOST
        if self._handshake is not None:
            what = "TLS fails"
        self._lose(Unreachable(f"{self.route}: {what} ({_causeOf(reason)})"))
        if not self.closed.called:
            self.closed.callback(None)

    def pauseProducing(self) -> None:
        """C{IPushProducer}: the server does not read as fast as a message is written."""
        self._isPaused = True

    def resumeProducing(self) -> None:
        """C{IPushProducer}: it reads on."""
        self._isPaused = False
        room, self._room = self._room, None
        if room is not None:
            self._restart()
            room.callback(None)

    def stopProducing(self) -> None:
        """C{IPushProducer}: the connection is about to be lost."""

    # --- inside ---

    def _newWaiting(self) -> Waiting[Any]:
        waiting: Waiting[Any] = Waiting(self._cancelled)
        if self.lost is not None:
            waiting.errback(self.lost)
        else:
            self._waiting = [each for each in self._waiting if not each.called]
            self._waiting.append(waiting)
        return waiting

    def _cancelled(self, waiting: Any) -> None:
        """Whoever waits gives up: what the server does from now on is in doubt."""
        self._waiting = [each for each in self._waiting if each is not waiting]
        self.abort()

    def _answer(self, waiting: Waiting[ReceivedReply], reply: ReceivedReply) -> None:
        for line in reply.split("\n"):
            self._show("<", line)
        self._isLeaving = self._isLeaving or reply.code == 421  # RFC 5321 section 3.8: it closes the connection now
        if not waiting.called:
            waiting.callback(reply)

    def _show(self, direction: str, line: str) -> None:
        if self._transcript is not None:
            self._transcript(direction, line)

    def _flush(self) -> None:
        isIdle = self._deadline is None
        octets = self.conversation.octetsToSend()
        transport: Any = self.transport
        if octets and self.lost is None:
            transport.write(octets)
            if isIdle:
                self._restart()


def _isLocal(address: Any) -> bool:
    """Does nothing that is said leave the machine?"""
    host = getattr(address, "host", None)
    ip = maybeIP(host) if host is not None else None
    return host is None or (ip is not None and unmapped(ip).is_loopback)


def _causeOf(reason: Failure) -> str:
    """What ended a connection, in one line."""
    error: Any = reason.value
    details = getattr(error, "args", ())
    if type(error).__module__.startswith("OpenSSL") and details and isinstance(details[0], list):
        return ", ".join(str(each[-1]) for each in details[0]) or "the connection has ended"
    return " ".join(str(error).split()) or type(error).__name__
