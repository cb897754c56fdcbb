"""
The connection: the second stage of the protocol, from the greeting to the end of the last hook.

Events of the transport, of hooks and of the timer only wake it; what came of them waits where it arose until the pump
pulls it.  After each pump one place derives whose turn it is, and so the deadline and whether the client is paused.
This module knows neither commands nor what a step of the dialogue is for.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.connection.arrival import Client
from smtphooks.connection.eventlog import EventLog
from smtphooks.connection.pacing import AHEAD, Turn, hasRoom, turnOf
from smtphooks.connection.pump import Pump
from smtphooks.connection.registry import Live
from smtphooks.connection.server import Server
from smtphooks.connection.state import ConnectionState, Phase, Want
from smtphooks.connection.waits import waitOf
from smtphooks.options import Options
from smtphooks.session import Session

_log = Logger(__name__)

# A TLS record with a handshake in it (RFC 8446 section 5.1); no command begins so.
_TLS_HANDSHAKE = b"\x16\x03"

# The client is to send something, and what it sends is read.
_INPUT = frozenset({Turn.CLIENT, Turn.MESSAGE, Turn.CHUNK})


# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every command.
_OPEN, _CLOSING, _LOST, _ENDED = Phase.OPEN, Phase.CLOSING, Phase.LOST, Phase.ENDED
_LINE, _HANDSHAKE = Want.LINE, Want.HANDSHAKE
_MESSAGE, _TIMER, _FAREWELL = Turn.MESSAGE, Turn.TIMER, Turn.FAREWELL


class Owner(Live, Protocol):
    """The protocol that has a connection as its stage: the registry lists it, and it ends a connection that crashes."""

    transport: Any


class Connection:
    """
    @ivar session: what hooks see of it.
    @ivar state: how far it has come, and what it waits for.
    """

    __slots__ = ("_isPumping", "_network", "_owner", "_pacing", "_pump", "_server", "session", "state")

    def __init__(self, server: Server, owner: Owner, client: Client) -> None:
        self._server = server
        self._owner = owner
        self._network = client.network
        self._isPumping = False
        self.session: Session = _newSession(server.options, client)
        self.state: ConnectionState = ConnectionState()
        self.state.inputEnded = client.inputEnded
        self._pump = Pump(server, owner.transport, self.session, self.state, self.wake)
        self._pacing = self._pump.pacing

    @property
    def peer(self) -> str:
        """The client's address."""
        return self.session.remoteAddress

    @property
    def buffered(self) -> int:
        """Octets of the client that are held here: read from the network, and not used yet."""
        return self._pump.wire.buffered + self._pump.message.buffered

    @property
    def log(self) -> EventLog:
        """What it has done so far."""
        return self._pump.replier.log

    @property
    def waitsFor(self) -> str:
        """What it waits for, in words."""
        return waitOf(self._pump)

    # --- events of the transport ---

    def open(self, rest: bytes = b"") -> None:
        """
        Begin the dialogue.

        @param rest: octets that came with a PROXY header.  They belong to the TLS layer if the connection begins with a
            handshake.
        """
        self._pump.open()
        if self._server.live.isClosing:
            self.state.isLeaving = True
        if rest and self.state.want is _HANDSHAKE and not self._pump.encryption.beganBelow:
            self._owner.transport.protocol.dataReceived(rest)
        elif rest:
            self.dataReceived(rest)
        # Octets that arrive after a refusal, or within a handshake that is not done, do not wake the connection.
        self.wake()

    def dataReceived(self, data: bytes) -> None:
        """Octets have arrived."""
        state = self.state
        if state.phase is not _OPEN:
            return
        if state.want is _HANDSHAKE and not self._pump.encryption.isDone and not self._noticeHandshake():
            return
        if data.startswith(_TLS_HANDSHAKE) and self._isUntouched():
            self._refuseTLS()
        else:
            self._pump.wire.feed(data)
        self.wake()

    def _isUntouched(self) -> bool:
        """The client has not sent anything yet, neither in the clear nor by TLS."""
        return self._pump.dialogue.verb == "" and not self._pump.wire.buffered and self.session.tlsOptions is None

    def _refuseTLS(self) -> None:
        why = "the client spoke TLS on a port that begins in the clear"
        self._pump.replier.log.warn("{why} [{session}]", why=why)
        self._pump.replier.reportError(Failure(ConnectionLost(why)))
        if self.state.phase is _OPEN:
            self._pump.say(replies.NOT_RECOGNIZED.closing(), by="server")

    def _noticeHandshake(self) -> bool:
        """Octets have arrived, though a wrapper has not passed on that the handshake is done.  False if it is not."""
        if not self._pump.encryption.isHandshakeDone:
            self._pump.replier.log.warn("{peer} sent octets in the clear within a TLS handshake [{session}]")
            self.abort()
            return False
        self.handshakeCompleted()
        return True

    def handshakeCompleted(self) -> None:
        """C{IHandshakeListener}: TLS is in force, and nothing has been read of it yet."""
        if self.state.want is _HANDSHAKE:
            self._pump.encryption.isDone = True
            self.wake()

    def readConnectionLost(self) -> None:
        """The client will send no more, but still gets its replies (C{printf … | nc})."""
        self.state.inputEnded = True
        self.wake()

    def connectionLost(self, reason: Failure) -> None:
        """The transport is gone."""
        state = self.state
        if state.phase is _LOST or state.phase is _ENDED:
            return  # The protocol has reported it already, as the transport could not be ended after a crash.
        state.phase = _LOST
        self._server.admission.clientGoes(self._network)
        self._pacing.isPaused = False
        self._pump.cut(reason)
        state.hasMoved = True
        try:
            if state.want is _HANDSHAKE and not self._pump.encryption.isDone:
                # Twisted's TLS does not tell which side ended the connection.
                self._handshakeFailed(Failure(ConnectionAborted()) if state.isAborted else reason)
        finally:
            self.wake()

    def _handshakeFailed(self, reason: Failure) -> None:
        why = self._pump.encryption.explain(reason)
        self._pump.replier.log.warn("TLS handshake with {peer} failed: {why} [{session}]", why=why)
        self._pump.replier.reportError(reason)

    # --- what the registry calls ---

    def leave(self) -> None:
        """End the connection as soon as no transaction is in progress."""
        self.state.isLeaving = True
        self.wake()

    def abort(self) -> None:
        """End the connection now; pending output is dropped."""
        self.state.isAborted = True
        if self.state.phase is _OPEN:
            self.state.phase = _CLOSING
        self._owner.transport.abortConnection()

    def endByForce(self) -> None:
        """End the connection now, and give its hooks no more than a second to be cancelled."""
        self._pacing.hurry()
        self.abort()
        self._pump.replier.log.warn("connection of {peer} ended by force [{session}]")
        self.state.hasMoved = True
        self.wake()

    def look(self, now: float) -> None:
        """See whether the deadline has passed, or a client that was paused is gone."""
        if self._pacing.deadline <= now:
            self._timeOut()
        elif self._pacing.isPaused and self._pacing.isBroken:
            self.abort()

    def _timeOut(self) -> None:
        turn, phase = self._pacing.turn, self.state.phase
        if turn is Turn.HOOK:
            self._timeHookOut()
        elif turn is Turn.TIMER:
            self.wake()
        elif phase is not _OPEN or self.state.want is _HANDSHAKE:
            self.abort()
        else:
            self._pump.say(replies.MESSAGE_TIMED_OUT if turn is Turn.MESSAGE else replies.TIMED_OUT, by="server")
            self.wake()

    def _timeHookOut(self) -> None:
        """Option C{hookTimeout}: the hook is not waited for any longer."""
        wasPending = self._pump.driver.timeOut()
        if not wasPending or self.state.phase is _LOST:
            self._pump.message.timeOut()
        self.state.hasMoved = True
        self.wake()

    def wake(self) -> None:
        """
        Something has happened: go on as far as input, hooks and the client allow.

        Whatever happens meanwhile is seen by the pump that runs already.
        """
        state = self.state
        state.isWoken = True
        if self._isPumping:
            return
        self._isPumping = True
        try:
            while state.isWoken:
                self._pump.run()
                if state.phase is _LOST:
                    self._finish()
                self._settle()
        except Exception:
            # Code of others, such as a transport, has raised where no hook runs: this is the end of the connection.
            self._isPumping = False
            self._owner.crashed()
            if state.phase is _LOST:
                self.wake()  # The transport, which is gone, will not: go on behind what has raised.
        finally:
            self._isPumping = False

    def _flush(self) -> None:
        """Write what has gathered, now that the turn of the reactor ends."""
        writer = self._pump.writer
        try:
            writer.flush()
        except Exception:
            self._owner.crashed()
        if writer.isChoked:
            self.wake()  # as the client is to be paused

    def _finish(self) -> None:
        """The transport is gone: when the last hook has ended C{onClose} follows, and then the connection is over."""
        driver = self._pump.driver
        if not self._pump.runOut():
            return
        if not driver.hasCalledOnClose:
            self._logOut()
            self.state.hasMoved = True
            try:
                self._pump.replier.log.connectionEnded()
            finally:
                driver.callOnClose()
        if not driver.isPending:
            self.state.phase = _ENDED
            self._owner.ended()
            self._pump.letGo()

    def _logOut(self) -> None:
        """Tell a Portal that its user has left."""
        logout, self.session.logout = self.session.logout, None
        if logout is None:
            return
        try:
            logout()
        except Exception:
            _log.failure("logout crashed [{session}]", session=self.session.id, peer=self.session.remoteAddress)

    # --- whose turn it is ---

    def _settle(self) -> None:
        """The one place that derives whose turn it is, and from it the deadline and the pausing of the client."""
        state, pump = self.state, self._pump
        writer, pacing = pump.writer, pump.pacing
        if writer.unwritten and state.phase is _OPEN:
            if writer.atEndOfTurn is None:
                writer.flush()
            else:
                writer.atEndOfTurn(self._flush)
        isHindered = writer.isChoked or pacing.isPaused or state.inputEnded
        if state.want is _LINE and state.phase is _OPEN and pump.message.delivery is None and not isHindered:
            if state.hasMoved:
                state.hasMoved = False
                pacing.clientsTurn()
            return
        turn = turnOf(state, pump.wire, pump.message)
        if turn is _MESSAGE and not isHindered:
            pacing.turnTo(turn, isNew=state.hasMoved, octets=pump.message.octets)
            state.hasMoved = False
            return
        isStarved = state.inputEnded and turn in _INPUT and state.want is not _HANDSHAKE
        if isStarved and state.phase is _OPEN and not writer.isChoked:
            pump.beginClosing()
            turn = turnOf(state, pump.wire, pump.message)
        pacing.turnTo(turn, isNew=state.hasMoved, octets=pump.message.octets)
        if state.hasMoved and (turn is _TIMER or turn is _FAREWELL):
            self._server.live.wakeAt(pacing.deadline, self._owner)
        state.hasMoved = False
        if state.phase is _OPEN:
            isAhead = turn not in _INPUT and self.buffered >= AHEAD
            isFull = turn is not _MESSAGE and not hasRoom(state, pump.message)
            if (writer.isChoked or isAhead or isFull) is not pacing.isPaused:
                pacing.pause(not pacing.isPaused)
        elif state.phase is _CLOSING and not (state.isAborted or writer.isClosed):
            # TLS ends only when the client has said so too, so it is read; but not the rest of a message.
            pacing.pause(turn is Turn.FAREWELL)
            writer.close()


def _newSession(options: Options, client: Client) -> Session:
    session = Session(options.name, options.lmtp, secure=options.secured)
    session.localAddress, session.localPort = client.localAddress, client.localPort
    session.remoteAddress, session.remotePort = client.remoteAddress, client.remotePort
    session.clientHostname = client.hostname
    return session
