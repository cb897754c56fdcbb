"""
The pump: reads what the dialogue wants next, does what the dialogue wants done, and goes on until something is missing.

What it waits for is the connection's one L{Want}; a result is pulled from where it arose: a line from the wire, an
answer from the driver of hooks, the fate of a message, the end of a handshake or of a delay.
This module knows neither when it is called nor whose turn it is afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.connection.driver import Driver
from smtphooks.connection.encryption import Encryption
from smtphooks.connection.message import MessageReceiver, Stage
from smtphooks.connection.pacing import Pacing
from smtphooks.connection.replier import Replier
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.server import Server
from smtphooks.connection.state import ConnectionState, Phase, Want
from smtphooks.connection.transcript import Transcript
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
from smtphooks.hooktable import SITUATIONS
from smtphooks.replies import Reply
from smtphooks.session import Session
from smtphooks.syntax.wire import Wire

# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every command.
_OPEN, _LOST, _LINE, _MESSAGE, _READING = Phase.OPEN, Phase.LOST, Want.LINE, Want.MESSAGE, Stage.READING


class Pump:
    """
    @ivar state: how far the connection has come, and what it waits for.
    @ivar wire: the octets of the client.
    @ivar dialogue: what they mean.
    @ivar driver: the hooks that the dialogue asks.
    @ivar message: the message that is being received.
    @ivar replier: writes replies, and logs them.
    @ivar writer: replies on their way to the client.
    @ivar pacing: deadlines and back-pressure.
    @ivar encryption: TLS on the connection.
    """

    __slots__ = (
        "_secureContext",
        "_transport",
        "dialogue",
        "driver",
        "encryption",
        "message",
        "pacing",
        "replier",
        "state",
        "wire",
        "writer",
    )

    def __init__(
        self,
        server: Server,
        transport: Any,
        session: Session,
        state: ConnectionState,
        wake: Callable[[], None],
    ) -> None:
        """
        @param wake: called when there may be something to pull.
        """
        options, parts = server.options, server.parts
        self._transport = transport
        self._secureContext = server.secureContext
        self.state: ConnectionState = state
        self.wire: Wire = parts.wire(options)
        self.dialogue: Dialogue = Dialogue(
            options, server.extensions, session, server.mechanisms, server.authFailures, server.hooks
        )
        runner = HookRunner(server.hooks, session, options.slowHook, options.asyncioHooks, server.context.copy())
        self.driver: Driver = Driver(self.dialogue, runner, state, wake)
        log = parts.log(session, options, server.lines)
        self.message: MessageReceiver = parts.message(self.wire, runner, options, wake, log)
        self.writer: ReplyWriter = parts.writer(transport, wake)
        self.pacing: Pacing = Pacing(options, server.live, transport)
        self.encryption: Encryption = Encryption(transport)
        transcript = None
        if server.debugPeers is not None:
            transcript = Transcript(session, server.debugPeers, self.dialogue.shows, self.dialogue.hasMechanism)
        self.replier: Replier = parts.replier(options, self.dialogue, runner, self.writer, log, transcript)

    def open(self) -> None:
        """Begin the dialogue."""
        self._do(self.driver.advance(self.dialogue.open, self.encryption.beganBelow))

    def run(self) -> None:
        """Go on as far as input, hooks and the client allow."""
        state, message = self.state, self.message
        state.isWoken = False
        while state.phase is _OPEN:
            if message.delivery is not None and state.want is not _MESSAGE:
                self._pullHangUp()
                if state.phase is not _OPEN:
                    break
            if not _PULLS[state.want](self):
                return
            state.isWoken = False  # what has happened until here is seen by the next pull
        self.driver.dropAnswer()

    # --- what is pulled ---

    def _pullHangUp(self) -> None:
        """Between two chunks of its message C{onData} may want the connection closed."""
        refusal = self.message.takeHangUp()
        if refusal is not None:
            self.say(refusal.asReply(SITUATIONS["onData"]), by="onData")

    def _pullLine(self) -> bool:
        state, wire, dialogue, replier = self.state, self.wire, self.dialogue, self.replier
        if self.writer.isChoked:
            return False
        if state.isLeaving and not dialogue.inTransaction:
            self.say(replies.SHUTTING_DOWN, by="server")
            return True
        line = None if wire.isEmpty else wire.maybeLine(dialogue.lineLimit)
        if line is None:
            return False
        replier.log.commands += 1
        if replier.transcript is not None:
            replier.transcript.command(line)
        self._do(self.driver.advance(dialogue.receiveLine, line))
        # Most clients wait for the reply, so that there is nothing more to be pulled.
        return not wire.isEmpty or state.want is not _LINE or state.isLeaving

    def _pullResponse(self) -> bool:
        if self.writer.isChoked:
            return False
        line = self.wire.maybeLine(self.dialogue.lineLimit)
        if line is None:
            return False
        if self.replier.transcript is not None:
            self.replier.transcript.response(line)
        self._do(self.driver.advance(self.dialogue.answer, line))
        return True

    def _pullMessage(self) -> bool:
        message = self.message
        if not message.poll():
            if message.stage is not _READING or self.wire.isEmpty or self.writer.isChoked or not message.read():
                return False
            self.state.hasMoved = True
            if not message.poll():
                return True
        self._concludeMessage(message.takeAnswer())
        return True

    def _pullAnswer(self) -> bool:
        if not self.driver.hasAnswer:
            return False
        self._do(self.driver.resume())
        return True

    def _pullHandshake(self) -> bool:
        if not self.encryption.isDone:
            return False
        self.encryption.record(self.dialogue.context.session)
        self.replier.log.secured()
        if self.replier.transcript is not None:
            self.replier.transcript.secured()
        self._do(self.driver.advance(self.dialogue.answer, self._transport))
        return True

    def _pullTimer(self) -> bool:
        hasTalked = self.wire.buffered > 0
        if not self.pacing.isTimerDue and not (hasTalked and self.dialogue.state is State.CONNECTED):
            return False
        self._do(self.driver.advance(self.dialogue.answer, hasTalked))
        return True

    # --- steps of the dialogue ---

    def _do(self, step: Step | None) -> None:
        """Do what the dialogue wants next; None if a hook is pending."""
        state = self.state
        state.hasMoved = True
        if type(step) is Reply and step.goesOn:
            self.replier.reply(step)
            state.want = _LINE
        elif step is None:
            state.want = Want.HOOK
        else:
            _STEPS[type(step)](self, step)

    def say(self, reply: Reply, by: str | None = None) -> None:
        """Make a reply, and wait for the next command unless it closes; the argument is that of L{Replier.reply}."""
        self.replier.reply(reply, by=by)
        self.state.hasMoved = True
        if reply.closes:
            self.beginClosing()
        else:
            self.state.want = _LINE

    def _sayAll(self, all: tuple[Reply, ...]) -> None:
        self.state.want = _LINE
        # Each recipient has its reply, even if the first of them closes.
        if all and self.replier.replyToEach(all):
            self.beginClosing()

    def _logFailedAuth(self, step: AuthFailed) -> None:
        if self.dialogue.attempt is not None:
            self.replier.log.authentication(self.dialogue.attempt, step.reply)
        self._do(self.driver.advance(self.dialogue.answer, None))

    def _challenge(self, step: Challenge) -> None:
        self.replier.challenge(step)
        self.state.want = Want.RESPONSE

    def _delay(self, step: Wait) -> None:
        self.pacing.delayClient(step.seconds)
        self.state.want = Want.TIMER

    def _startTLS(self, step: StartTLS) -> None:
        encryption = self.encryption
        if step.reply is None and encryption.beganBelow:
            self.state.want = Want.HANDSHAKE
            return
        if not encryption.canBegin:
            self.say(replies.NO_TLS_HERE, by="server")
            return
        if self.wire.clear():
            # Whatever it was, it was sent before the client knew which server it speaks to.
            self.replier.log.warn("commands behind STARTTLS in the clear [{session}]")
            self.say(replies.TALKED_BEFORE_TLS, by="server")
            return
        if step.reply is not None:
            self.replier.put(step.reply)
        encryption.isDone = False
        self.state.want = Want.HANDSHAKE
        self.writer.startTLS(self._secureContext)

    def _receiveMessage(self, step: ReceiveMessage) -> None:
        self.replier.put(step.reply)
        if self.writer.atEndOfTurn is None:
            # The client waits for this reply and sends nothing until it comes; the hook may take its time.
            self.writer.flush()
        if self.state.phase is _OPEN:  # or else the transport was lost as it wrote, and no octet will come
            self._messageBegins()
            self.message.beginMessage(step)

    def _receiveChunk(self, step: ReceiveChunk) -> None:
        if step.first:
            self._messageBegins()
        self.state.want = _MESSAGE
        self.message.beginChunk(step)

    def _discardChunk(self, step: DiscardChunk) -> None:
        self._messageBegins()
        self.message.discardChunk(step)

    def _abandonMessage(self, step: AbandonMessage) -> None:
        self.state.want = _MESSAGE
        self.message.abandon()

    def _messageBegins(self) -> None:
        self.state.want = _MESSAGE
        self.pacing.messageBegins()
        self.replier.log.messageBegins()

    def _concludeMessage(self, verdict: Verdict | None) -> None:
        """What the dialogue wanted to have read was read, and decided if that was due."""
        replier, state = self.replier, self.state
        replier.decided = envelope = replier.envelope
        if replier.transcript is not None:
            self._describeContent()
        self._do(self.driver.advance(self.dialogue.answer, verdict))
        replier.decided = None
        if verdict is not None:
            code = 0 if state.isAborted or state.phase is _LOST else replier.code
            replier.log.messageEnded(self.dialogue.context.command.verb, envelope, verdict.octets, code)

    def _describeContent(self) -> None:
        """Tell the transcript how much of a message has come."""
        if self.replier.transcript is not None and self.message.octets:
            self.replier.transcript.content(self.message.octets)

    # --- the end ---

    def beginClosing(self) -> None:
        """No further reply is made, and what the client sends from here on is ignored."""
        if self.state.phase is _OPEN:
            self.state.phase = Phase.CLOSING
            self.state.hasMoved = True

    def cut(self, reason: Failure) -> None:
        """The transport is gone: nothing more is read, and hooks learn that their answers are of no use."""
        self.dialogue.close()
        self.wire.clear()
        self.driver.cancel()
        delivery = self.message.delivery
        if delivery is not None:
            if not delivery.isWhole:  # a whole one is described when it is concluded
                self._describeContent()
            # Always a ConnectionLost, even after a clean close: the message is incomplete.
            self.message.cut(Failure(ConnectionLost(f"the client left within the message: {reason.value}")))

    def runOut(self) -> bool:
        """The transport is gone.  True when no hook is running any more."""
        self.driver.dropAnswer()
        if self.message.poll():
            self._concludeMessage(self.message.takeAnswer())
        return not self.driver.isPending and not self.message.isRunning

    def letGo(self) -> None:
        """
        The connection is over: no part of it is to wake it.

        A part that still could would keep the connection in memory until the garbage collector comes.
        """
        self.driver.letGo()
        self.message.letGo()
        self.writer.letGo()


_PULLS: dict[Want, Callable[[Pump], bool]] = {
    _LINE: Pump._pullLine,
    Want.RESPONSE: Pump._pullResponse,
    _MESSAGE: Pump._pullMessage,
    Want.HOOK: Pump._pullAnswer,
    Want.HANDSHAKE: Pump._pullHandshake,
    Want.TIMER: Pump._pullTimer,
}

_STEPS: dict[type, Callable[[Pump, Any], None]] = {
    Reply: Pump.say,
    tuple: Pump._sayAll,
    ReceiveMessage: Pump._receiveMessage,
    ReceiveChunk: Pump._receiveChunk,
    DiscardChunk: Pump._discardChunk,
    AbandonMessage: Pump._abandonMessage,
    Challenge: Pump._challenge,
    StartTLS: Pump._startTLS,
    Wait: Pump._delay,
    AuthFailed: Pump._logFailedAuth,
}
