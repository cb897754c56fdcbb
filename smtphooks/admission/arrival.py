"""
Arrival: who has come, before there is a session.

A trusted proxy says first whom it speaks for, clients that are too many are turned away, and the name of the others is
looked up.  Nothing of SMTP is read or said here, and no hook is called: it ends with the L{Client}, or with a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.netaddress import asPath, networkOf, unmappedText
from smtphooks.replies import Reply
from smtphooks.syntax.proxyheader import ProxyError, ProxyHeader

if TYPE_CHECKING:
    from smtphooks.factory import SMTPServerFactory

_log = Logger()


@attrs.define
class Client:
    """
    Who has come.

    @ivar network: what counts as one client for option C{maxClientsPerAddress}.
    @ivar hostname: its name in DNS, or its address in brackets.
    @ivar rest: octets that it has sent already.
    """

    remoteAddress: str
    remotePort: int
    localAddress: str
    localPort: int
    network: str = ""
    hostname: str = ""
    rest: bytes = b""


class Arrival:
    """One connection on its way in."""

    __slots__ = ("_admit", "_client", "_factory", "_header", "_isCounted", "_lookup", "_refuse", "_transport")

    def __init__(
        self,
        factory: SMTPServerFactory,
        transport: Any,
        admit: Callable[[Client], None],
        refuse: Callable[[Reply | None], None],
    ) -> None:
        """
        @param admit: called with who has come.
        @param refuse: called if nobody shall be let in, with what to say, if anything.
        """
        self._factory = factory
        self._transport = transport
        self._admit = admit
        self._refuse = refuse
        self._lookup: Deferred[str] | None = None
        self._isCounted = False
        remote, local = _hostAndPort(transport.getPeer()), _hostAndPort(transport.getHost())
        self._client = Client(*remote, *local)
        # Only who is listed may say that it is somebody else (invariant 8); and who is listed must say who it is.
        self._header = ProxyHeader() if factory.proxies.trusts(remote[0]) else None

    @property
    def wantsHeader(self) -> bool:
        """A trusted proxy has still to say whom it speaks for."""
        return self._header is not None

    @property
    def remoteAddress(self) -> str:
        """The client's address, as far as it is known."""
        return self._client.remoteAddress

    def begin(self) -> None:
        """The connection has been made."""
        if self._header is None:
            self._count()

    def receive(self, data: bytes) -> None:
        """Octets have arrived."""
        if self._header is None:
            self._client.rest += data
            return
        try:
            result = self._header.feed(data)
        except ProxyError as error:
            self._header = None
            peer = self._client.remoteAddress
            _log.warn("{peer} sent no valid PROXY header: {error}", peer=peer, error=str(error))
            self._factory.tellError(Failure(error))
            self._refuse(None)
            return
        if result is None:
            return
        self._header = None
        client = self._client
        client.rest = result.rest
        if result.remoteAddress is not None:
            client.remoteAddress, client.remotePort = result.remoteAddress, result.remotePort
        if result.localAddress is not None:
            client.localAddress, client.localPort = result.localAddress, result.localPort
        self._count()

    def end(self) -> None:
        """The connection is gone."""
        if self._header is not None:
            peer = self._client.remoteAddress
            _log.info("no PROXY header from {peer}, though option useProxy lists it", peer=peer)
        if self._isCounted:
            self._factory.discount(self._client.network)
        if self._lookup is not None:
            self._lookup.addErrback(lambda failure: None)
            self._lookup.cancel()

    def _count(self) -> None:
        client = self._client
        client.network = networkOf(client.remoteAddress)
        refusal = self._factory.refusalOf(client.network)
        if refusal is not None:
            if self._factory.options.logRefusals and self._factory.refusalLines.admits(client.remoteAddress):
                _log.warn("refused {peer}: {reply}", peer=client.remoteAddress, reply=str(refusal))
            self._refuse(refusal)
            return
        # From here on, or all who come while the first of them is looked up would be let in.
        self._isCounted = True
        self._factory.count(client.network)
        hostname = self._factory.hostnameOf(client.remoteAddress)
        if isinstance(hostname, str):
            self._named(hostname)
            return
        # It is short, and the client has nothing to say yet.
        self._transport.pauseProducing()
        self._lookup = hostname
        hostname.addCallback(self._foundOut)

    def _foundOut(self, hostname: str) -> None:
        self._lookup = None
        try:
            self._transport.resumeProducing()
        except Exception:
            _log.failure("the connection of {peer} crashed", peer=self._client.remoteAddress)
            self._refuse(None)
        else:
            self._named(hostname)

    def _named(self, hostname: str) -> None:
        self._client.hostname = hostname
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
