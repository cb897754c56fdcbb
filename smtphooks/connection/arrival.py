"""
The arrival: the first stage of the protocol, before it is known who the client is.

A trusted proxy first says which client it speaks for, a client beyond a limit is refused, and the name of any other is
looked up.  It ends with the L{Client} that is let in, or with the connection.
This module reads no command, writes no reply but that refusal, and calls no hook but C{onError}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.connection.encryption import Encryption
from smtphooks.connection.registry import Live
from smtphooks.connection.server import Server
from smtphooks.connection.state import Phase
from smtphooks.connection.waits import CLOSE, NAME, PROXY
from smtphooks.netaddress import asPath, networkOf, unmappedText
from smtphooks.replies import SHUTTING_DOWN, Reply
from smtphooks.syntax.proxyheader import ProxyError, ProxyHeader

_log = Logger(__name__)

_NEVER = float("inf")

# What an observer is told in place of an option.
_DRAIN = "drain"

# To look a member up in its Enum costs as much as a call, before Python 3.12; these are looked up for every connection.
_OPEN, _CLOSING, _ENDED = Phase.OPEN, Phase.CLOSING, Phase.ENDED


@attrs.define
class Client:
    """
    The client of a connection.

    @ivar network: what counts as one client for option C{maxClientsPerAddress}.
    @ivar hostname: its name in DNS, or its address in brackets.
    @ivar rest: octets that it has sent already, beginning with the first after a PROXY header.
    @ivar inputEnded: it will send no more.
    """

    remoteAddress: str
    remotePort: int
    localAddress: str
    localPort: int
    network: str = ""
    hostname: str = ""
    rest: bytes = b""
    inputEnded: bool = False


class Arrival:
    """
    @ivar deadline: when a PROXY header must have come, or the transport have closed, by C{LiveConnections.now};
        infinite while neither is due.
    """

    session = None
    buffered = 0

    __slots__ = (
        "_admit",
        "_client",
        "_header",
        "_isCounted",
        "_isLate",
        "_lookup",
        "_owner",
        "_phase",
        "_server",
        "_transport",
        "deadline",
    )

    def __init__(self, server: Server, owner: Live, transport: Any, admit: Callable[[Client], None]) -> None:
        """
        @param admit: called with the client that is let in.
        """
        self._server = server
        self._owner = owner
        self._transport = transport
        self._admit = admit
        self._phase = _OPEN
        self._isCounted = False
        # One that was there before new clients are refused is let in, though its PROXY header comes after that.
        self._isLate = server.live.isRefusing
        self._lookup: Deferred[str] | None = None
        remote, remotePort = _hostAndPort(transport.getPeer())
        local, localPort = _hostAndPort(transport.getHost())
        self._client = Client(remote, remotePort, local, localPort)
        # Only a listed peer may say that it speaks for another (invariant 8); and a listed peer must say for whom.
        self._header = ProxyHeader() if server.admission.proxies.trusts(remote) else None
        self.deadline: float = _NEVER

    @property
    def peer(self) -> str:
        """The client's address, as far as it is known."""
        return self._client.remoteAddress

    @property
    def waitsFor(self) -> str:
        """What it waits for, in words."""
        if self._phase is not _OPEN:
            return CLOSE
        return PROXY if self._header is not None else NAME

    @property
    def _encryption(self) -> Encryption:
        # Most arrivals end as they open, and need none.
        return Encryption(self._transport)

    def open(self) -> None:
        """The connection has been made."""
        if self._header is None:
            self._count()
        else:
            self._setDeadline()

    def _setDeadline(self) -> None:
        self.deadline = self._server.live.now + (self._server.options.socketTimeout or _NEVER)

    # --- events of the transport ---

    def dataReceived(self, data: bytes) -> None:
        """Octets have arrived."""
        if self._phase is not _OPEN:
            return
        encryption = self._encryption
        if encryption.beganBelow and not encryption.isHandshakeDone:
            _log.warn("{peer} sent octets in the clear within a TLS handshake", peer=self.peer)
            self.abort()
            return
        if self._header is None:
            self._client.rest += data
            return
        try:
            result = self._header.feed(data)
        except ProxyError as error:
            self._header = None
            self._server.parts.turnedAway("useProxy")
            _log.warn("{peer} sent no valid PROXY header: {error}", peer=self.peer, error=str(error))
            self._server.reportError(Failure(error))
            self._turnAway(None)
            return
        if result is None:
            return
        self._header = None
        self.deadline = _NEVER
        client = self._client
        client.rest = result.rest
        if result.remoteAddress is not None:
            client.remoteAddress, client.remotePort = result.remoteAddress, result.remotePort
        if result.localAddress is not None:
            client.localAddress, client.localPort = result.localAddress, result.localPort
        self._count()

    def handshakeCompleted(self) -> None:
        """C{IHandshakeListener}: the connection looks for itself whether the handshake is done."""

    def readConnectionLost(self) -> None:
        """The peer will send no more."""
        self._client.inputEnded = True
        if self._header is not None:
            self._transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        """The transport is gone."""
        before, self._phase = self._phase, _ENDED
        if before is _ENDED:
            return  # The protocol has reported it already, as the transport could not be ended after a crash.
        encryption = self._encryption
        if before is _OPEN and encryption.beganBelow and not encryption.isHandshakeDone:
            why = encryption.explain(reason)
            _log.warn("TLS handshake with {peer} failed: {why}", peer=self.peer, why=why)
            self._server.reportError(reason)
        if self._header is not None:
            self._server.parts.turnedAway("useProxy")
            _log.info("no PROXY header from {peer}, though option useProxy lists it", peer=self.peer)
        if self._isCounted:
            self._server.admission.clientGoes(self._client.network)
        if self._lookup is not None:
            self._lookup.addErrback(lambda failure: None)
            self._lookup.cancel()
        self._owner.ended()

    # --- what the registry calls ---

    def leave(self) -> None:
        """End the connection: no transaction is in progress."""
        self.abort()

    def abort(self) -> None:
        """End the connection now."""
        self._beginClosing()
        self._transport.abortConnection()

    def endByForce(self) -> None:
        """End the connection now."""
        self.abort()

    def look(self, now: float) -> None:
        """See whether the deadline has passed.  A look-up has a limit of its own."""
        if self.deadline <= now:
            self.abort()

    def _beginClosing(self) -> None:
        if self._phase is _OPEN:
            self._phase = _CLOSING

    # --- who comes in ---

    def _count(self) -> None:
        client, admission = self._client, self._server.admission
        client.network = networkOf(client.remoteAddress)
        isDraining = self._isLate and self._server.live.isRefusing
        refusal = SHUTTING_DOWN if isDraining else admission.refusalOf(client.network)
        if refusal is not None:
            self._server.parts.turnedAway(_DRAIN if isDraining else admission.limitOf(refusal))
            if self._server.options.logRefusals and self._server.lines.refusals.admits(client.remoteAddress):
                _log.warn("refused {peer}: {reply}", peer=client.remoteAddress, reply=str(refusal))
            self._turnAway(refusal)
            return
        # From here on, or all clients that come while the first of them is looked up would be let in.
        self._isCounted = True
        admission.clientComes(client.network)
        hostname = admission.hostnameOf(client.remoteAddress)
        if isinstance(hostname, str):
            self._named(hostname)
            return
        # The look-up is short, and the client has nothing to say yet.
        self._transport.pauseProducing()
        self._lookup = hostname
        hostname.addCallback(self._foundOut)

    def _turnAway(self, refusal: Reply | None) -> None:
        """Close the connection before it costs anything, with a refusal where that can be read."""
        self._beginClosing()
        self._setDeadline()
        options = self._server.options
        if refusal is not None and not (options.secure or self._encryption.beganBelow):
            self._transport.write(refusal.encode(not options.hideENHANCEDSTATUSCODES))
        self._transport.loseConnection()

    def _foundOut(self, hostname: str) -> None:
        self._lookup = None
        try:
            self._transport.resumeProducing()
            self._named(hostname)
        except Exception:
            self._owner.crashed()

    def _named(self, hostname: str) -> None:
        self._client.hostname = hostname
        if self._phase is _OPEN:
            self._admit(self._client)


def _hostAndPort(address: Any) -> tuple[str, int]:
    """The numbers of a transport's end; a UNIX socket has a path at most."""
    if isinstance(address, UNIXAddress):
        name = address.name or ""
        text = name.decode(errors="replace") if isinstance(name, bytes) else name
        # A client may bind its socket to any path: this one goes into the log, and must not look like an IP address.
        return asPath(text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)), 0
    host = str(getattr(address, "host", ""))
    # A client that comes by IPv4 to an IPv6 socket is the client that its IPv4 address says.
    return unmappedText(host), getattr(address, "port", 0)
