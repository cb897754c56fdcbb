"""
A link to one Redis server: one connection, on which any number of calls are under way.

In: scripts and commands.  Out: for each a Deferred with the answer, or with what the server or the connection said.
Rules: what is no answer to a call ends the link, since every later answer would be taken for that of another call; a
link that has ended is never used again.  txredisapi is imported when a link is opened, not before: it imports the
reactor.  Of it this takes the protocol with its commands; its reconnection gives up for good when a connection is lost
while it authenticates, and its Sentinel knows no TLS, so L{Node} does both.
This module knows neither mail nor other servers, and no time limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.protocol import Factory, connectionDone

from smtphooks.client.route import Route
from smtphooks.client.tls import Encryption, encryptionFor
from smtphooks.currentreactor import currentReactor
from smtphooks.hooks import Unavailable
from smtphooks.layers.redis.address import RedisAddress
from smtphooks.netaddress import maybeIP

# Calls whose answers are still to come: beyond these the server does not keep up, or hangs.
_MOST_CALLS = 2000

Argument = str | bytes | int


@attrs.frozen(repr=False)
class Trust:
    """
    TLS to a server.

    @ivar ca: what its certificate is verified by, PEM or the path of a file; None for what the system trusts.
    @ivar key: the key of our own certificate, as C{ca}; C{cert} that certificate.
    """

    ca: str | bytes | None = None
    key: str | bytes | None = None
    cert: str | bytes | None = None

    def routeTo(self, address: RedisAddress) -> Route:
        """The way to a server, as far as its TLS is concerned."""
        return Route(
            host=address.host, port=address.port, tls="implicit", ca=self.ca, key=self.key, cert=self.cert, name="-"
        )


@cache
def _protocolClass() -> Any:
    import txredisapi

    class Connection(txredisapi.RedisProtocol):  # type: ignore[misc]
        """
        txredisapi's, without its opening, and with an eye on answers that are none.

        @ivar whenLost: called with a text when the connection is lost.
        @ivar fault: why it was ended here.
        @ivar expected: how many answers there may be in the data that is being read.
        """

        whenLost: Callable[[str], object] = staticmethod(lambda why: None)
        fault: str | None = None
        expected = 0

        def callLater(self, *arguments: Any) -> Any:
            # txredisapi has that of the process's reactor, which a server in a thread is not run by.
            return currentReactor().callLater(*arguments)

        def connectionMade(self) -> None:
            self.connected = 1
            # A call is a few packets, each of which would wait for the acknowledgement of the one before.
            setTcpNoDelay = getattr(self.transport, "setTcpNoDelay", None)
            if setTcpNoDelay is not None:
                setTcpNoDelay(True)

        def dataReceived(self, data: bytes, unpause: bool = False) -> None:
            if self.fault is not None:
                return
            # A call that is made on the first of these answers cannot be what the second one is for.
            self.expected = len(self.replyQueue.waiting)
            try:
                super().dataReceived(data, unpause)
            except Exception:  # what is no UTF-8, or no octets of Redis at all
                self.endBecause("it sends what is no answer of Redis")

        def lineReceived(self, line: str) -> Any:
            if line and line[0] not in "$*+-:":
                self.endBecause("it sends what is no answer of Redis")
            elif self.fault is None:
                super().lineReceived(line)

        def replyReceived(self, reply: Any) -> None:
            self.expected -= 1
            if self.expected < 0:
                self.endBecause("it sends an answer to no call")
            else:
                super().replyReceived(reply)

        def endBecause(self, why: str) -> None:
            self.fault = self.fault or why
            self.transport.abortConnection()

        def connectionLost(self, reason: Any = connectionDone) -> None:
            # First, as the calls that fail now look whether it is lost.
            self.whenLost(self.fault or str(reason.getErrorMessage()).rstrip("."))
            self.expected = len(self.replyQueue.waiting)
            super().connectionLost(reason)

    return Connection


def _endpointOf(address: RedisAddress, reactor: Any) -> Any:
    if address.path:
        return UNIXClientEndpoint(reactor, address.path)
    ip = maybeIP(address.host)
    if ip is None:
        return HostnameEndpoint(reactor, address.host, address.port)
    # A HostnameEndpoint tells of a refusal only when it would have tried a second address.
    kind = TCP4ClientEndpoint if ip.version == 4 else TCP6ClientEndpoint
    return kind(reactor, address.host, address.port)


class Link:
    """
    @ivar address: that of the server.
    @ivar isOpen: calls can be made.
    """

    def __init__(self, address: RedisAddress, trust: Trust, whenLost: Callable[[Link, str], object]) -> None:
        """
        @param whenLost: called with this link and the reason, a text, when it has ended after it was opened.
        """
        self.address = address
        self.isOpen: bool = False
        self._trust = trust
        self._whenLost = whenLost
        self._protocol: Any = None
        self._encryption: Encryption | None = None

    # --- opening ---

    async def open(self) -> None:
        """
        Connect, authenticate, choose the database, and see that it answers.

        @raise Unavailable: if that fails; nothing is left open then, nor if it is cancelled.
        @raise CancelledError: if it is cancelled.
        """
        address = self.address
        try:
            await self._connect()
            if address.password or address.user:
                await self._authenticate()
            if address.database:
                await self.command("SELECT", address.database)
            await self.command("PING")
        except BaseException as error:
            fault = (self._encryption and self._encryption.fault) or getattr(self._protocol, "fault", None)
            self.close()
            if isinstance(error, CancelledError) or not isinstance(error, Exception):  # the coroutine was closed
                raise
            raise Unavailable(fault or describeError(error)) from error
        self.isOpen = True

    async def _authenticate(self) -> None:
        from txredisapi import ResponseError

        names = [self.address.user] if self.address.user else []
        try:
            await self.command("AUTH", *names, self.address.password)
        except ResponseError as error:
            # What does not know the command repeats its arguments.
            raise Unavailable(f"it does not take the password: {str(error).partition(' ')[0]}") from None

    async def _connect(self) -> None:
        address, reactor = self.address, currentReactor()
        endpoint = _endpointOf(address, reactor)
        if address.isSecure:
            self._encryption = encryptionFor(self._trust.routeTo(address))
            endpoint = wrapClientTLS(self._encryption, endpoint)
        protocol = self._protocol = _protocolClass()(convertNumbers=False)
        protocol.whenLost = self._lost
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        await endpoint.connect(factory)

    # --- calls ---

    def command(self, *arguments: Argument) -> Deferred[Any]:
        """
        The answer to a command.

        @raise Exception: what the server says (C{ResponseError} of txredisapi), or that there is no connection.
        """
        answer: Deferred[Any] = self._protocol.execute_command(*arguments)
        return answer

    def run(self, script: bytes, keys: Sequence[bytes], arguments: Sequence[Argument], asking: bool) -> Deferred[Any]:
        """
        The answer of a script: called by its digest, and sent whole where the server does not have it.

        @param asking: its slot is just being moved to this server of a cluster.
        @raise Exception: see L{command}.
        @raise Unavailable: if there are too many calls.
        """
        if len(self._protocol.replyQueue.waiting) >= _MOST_CALLS:
            raise Unavailable(f"{_MOST_CALLS} calls wait for an answer")
        if asking:
            # The permission holds for the next command alone, so it may not be one that fails for want of the script.
            self.command("ASKING").addErrback(lambda failure: None)
            return self.command("EVAL", script, len(keys), *keys, *arguments)
        answer: Deferred[Any] = self._protocol.eval(script, list(keys), list(arguments))
        return answer

    # --- the end ---

    def close(self, why: str = "") -> None:
        """End the connection at once; calls under way fail."""
        protocol, self.isOpen = self._protocol, False
        if protocol is not None and protocol.transport is not None:
            protocol.endBecause(why or "the connection was closed")

    def _lost(self, why: str) -> None:
        wasOpen, self.isOpen = self.isOpen, False
        if wasOpen or self._protocol.fault is not None:
            self._whenLost(self, why)


def describeError(error: BaseException) -> str:
    """An error in one line, which a server may have written."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in text)[:300]
