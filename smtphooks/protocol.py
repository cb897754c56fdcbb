"""
The protocol: what Twisted connects to a transport, and what the registry of live connections knows.

It only hands on what it is told to the stage that the connection is in: first an L{Arrival}, then a L{Connection}, and
in the end an L{Ended}.
What a stage does, neither it nor its callers need to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks.connection.arrival import Arrival, Client
from smtphooks.connection.connection import Connection
from smtphooks.connection.eventlog import EventLog
from smtphooks.connection.server import Server
from smtphooks.connection.waits import NOTHING
from smtphooks.connection.wrappers import passOn
from smtphooks.session import Session

_log = Logger()


class _Nothing:
    """What a connection has done while it is not known who the client is."""

    messages = 0


class Ended:
    """
    The last stage: the connection is over, and nothing that is still said to it matters.

    It takes the place of a stage that knows the protocol, so that their memory is free at once.
    """

    buffered = 0
    waitsFor = NOTHING

    __slots__ = ("peer", "session")

    def __init__(self, session: Session | None, peer: str) -> None:
        self.session: Session | None = session
        self.peer: str = peer

    def _ignore(self, *arguments: object) -> None:
        """Too late."""

    dataReceived: Callable[..., None] = _ignore
    handshakeCompleted: Callable[..., None] = _ignore
    readConnectionLost: Callable[..., None] = _ignore
    connectionLost: Callable[..., None] = _ignore
    look: Callable[..., None] = _ignore
    leave: Callable[..., None] = _ignore
    abort: Callable[..., None] = _ignore
    endByForce: Callable[..., None] = _ignore


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class SMTPServerProtocol(Protocol):
    """
    One connection.

    @ivar transport: that of Twisted.
    @ivar log: what it has done so far.
    """

    transport: Any
    # An attribute, as those of all connections are added up every second.
    log: EventLog | _Nothing = _Nothing()
    _stage: Arrival | Connection | Ended

    @property
    def _server(self) -> Server:
        factory: Any = self.factory
        server: Server = factory.server
        return server

    # --- the transport's side ---

    def connectionMade(self) -> None:
        """A client has connected."""
        passOn(self.transport, self)
        server = self._server
        self._stage = Arrival(server, self, self.transport, self._admit)
        server.admission.connectionBegins()
        server.parts.connectionMade()
        server.live.add(self)
        self._tell(self._stage.open)

    def _admit(self, client: Client) -> None:
        """The client is known and let in."""
        self._stage = connection = Connection(self._server, self, client)
        self.log = connection.log
        connection.open(client.rest)

    def _tell(self, event: Callable[..., None], *arguments: object) -> None:
        """Hand an event on to the stage, from which nothing is raised into Twisted."""
        try:
            event(*arguments)
        except Exception:
            self.crashed()

    def dataReceived(self, data: bytes) -> None:
        """Octets have arrived."""
        try:  # as _tell does, without a call more for each command
            self._stage.dataReceived(data)
        except Exception:
            self.crashed()

    def handshakeCompleted(self) -> None:
        """C{IHandshakeListener}: TLS is in force."""
        self._tell(self._stage.handshakeCompleted)

    def readConnectionLost(self) -> None:
        """C{IHalfCloseableProtocol}: the client will send no more."""
        self._tell(self._stage.readConnectionLost)

    def writeConnectionLost(self) -> None:
        """C{IHalfCloseableProtocol}: the client reads no more; there is nothing left to be done for it."""
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport is gone."""
        self._tell(self._stage.connectionLost, reason)

    # --- what hooks and the registry see ---

    @property
    def session(self) -> Session | None:
        """What hooks see of the connection; None until it is known who the client is."""
        return self._stage.session

    @property
    def buffered(self) -> int:
        """Octets of the client that are held: read from the network, and not used yet."""
        return self._stage.buffered

    @property
    def messages(self) -> int:
        """How many messages it has brought, refused ones included."""
        return self.log.messages

    @property
    def waitsFor(self) -> str:
        """What it waits for, in words for the operator."""
        return self._stage.waitsFor

    def look(self, now: float) -> None:
        """See whether the deadline has passed."""
        self._stage.look(now)

    def leave(self) -> None:
        """End the connection as soon as no transaction is in progress."""
        self._stage.leave()

    def abort(self) -> None:
        """End the connection now; pending output is dropped."""
        self._stage.abort()

    def endByForce(self) -> None:
        """End the connection now, and give its hooks no more than a second to be cancelled."""
        self._stage.endByForce()

    def crashed(self) -> None:
        """
        Code of others, such as a transport, has raised where no hook runs: this is the end of the connection.

        Nothing is raised here.  Where even the end of it raises, the connection is forgotten.
        """
        session = self.session
        _log.failure(
            "the connection of {peer} crashed [{session}]",
            peer=self._stage.peer,
            session="" if session is None else session.id,
        )
        ends: tuple[Callable[[], object], ...] = (self.abort, self.transport.loseConnection, self._forget)
        for end in ends:
            try:
                end()
                return
            except Exception:
                _log.failure("a connection that has crashed cannot be ended")

    def ended(self) -> None:
        """The connection is over, its last hook included."""
        self._stage = Ended(self._stage.session, self._stage.peer)
        self._server.forget(self)

    def _forget(self) -> None:
        """As if the transport had said that it is gone."""
        try:
            self.connectionLost(Failure(ConnectionAborted()))
        finally:
            self._server.forget(self)
