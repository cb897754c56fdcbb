"""
A place of a pool: one of the connections that a server may have, from the first attempt to reach it to its end.

In: a route.  Out: a connection that is open, or why there is none.  TLS that is only taken because it is there is given
up where it fails, with a new connection, as Postfix does: what the message would be sent with instead is no worse.  Not
so where there are credentials, which whoever makes TLS fail would see, or could guess a password from.
This module knows no other places.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from smtphooks.awaiting import Waiting
from smtphooks.client.connection import Connection
from smtphooks.client.errors import ClientError, Unreachable, because
from smtphooks.client.route import OPPORTUNISTIC, Route
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.transcript import Transcript

log: Logger = Logger()

T = TypeVar("T")

# The limit of an endpoint is that of each address, and not of the name's resolution.
_NO_LIMIT = 86400.0


class Place:
    """
    A place for one connection.

    @ivar route: what it is for.
    @ivar connection: the connection, as soon as there is one.
    @ivar isOpen: a transaction may have begun on it.
    """

    def __init__(
        self,
        route: Route,
        timeouts: Timeouts,
        reactor: Any,
        transcript: Transcript | None,
        free: Callable[[Place], object],
    ) -> None:
        """
        @param free: called once, when the connection is gone.
        """
        self.route: Route = route
        self.connection: Connection | None = None
        self.isOpen: bool = False
        self._timeouts = timeouts
        self._reactor = reactor
        self._transcript = transcript
        self._free = free
        self._connecting: Deferred[Any] | None = None
        self._reason: Unreachable | None = None

    async def open(self) -> Connection:
        """
        Connect.

        @raise ClientError: if that fails; the place is free then, or as soon as the connection is gone.
        """
        try:
            connection = await self._openOrRetry()
        except BaseException as error:
            if isinstance(error, ClientError):
                error.isOpening = True
            self._whenGone()
            raise
        self.isOpen = True
        self._whenGone()
        return connection

    def stop(self, reason: Unreachable) -> None:
        """End the attempt, or the connection."""
        self._reason = self._reason or reason
        if self._connecting is not None:
            self._connecting.cancel()
        elif self.connection is not None:
            self.connection.abort(reason)

    # --- inside ---

    def _whenGone(self) -> None:
        connection = self.connection
        if connection is None or connection.transport is None:
            self._free(self)
        else:
            connection.closed.addCallback(lambda _: self._free(self))

    async def _openOrRetry(self) -> Connection:
        try:
            return await self._attempt(avoidsTLS=False)
        except Unreachable as error:
            failed = self.connection
            mayDoWithout = self.route.tls == OPPORTUNISTIC and not self.route.mustVerify and self.route.user is None
            if failed is None or not failed.hasFailedTLS or not mayDoWithout:
                raise
            if self._transcript is not None:
                self._transcript("!", str(error))
            log.warn("{error}; the next attempt does without TLS, which need not be", error=error)
            gone: Waiting[None] = Waiting()
            failed.closed.addCallback(lambda _: None if gone.called else gone.callback(None))
            await gone
        return await self._attempt(avoidsTLS=True)

    async def _attempt(self, avoidsTLS: bool) -> Connection:
        connection = Connection(self.route, self._timeouts, self._reactor, self._transcript, avoidsTLS)
        self.connection = connection
        await self._connect(connection)
        await connection.open()
        return connection

    async def _connect(self, connection: Connection) -> None:
        route, seconds = self.route, self._timeouts.connect
        factory = Factory()
        factory.noisy = False
        factory.protocol = lambda: connection
        timer = None
        if seconds:
            reason = because(Unreachable(f"{route} cannot be reached within {seconds:g} seconds"), TimeoutError())
            timer = self._reactor.callLater(seconds, self.stop, reason)
        try:
            if self._reason is not None:
                raise self._reason
            self._connecting = self._endpoint().connect(factory)
            await self._connecting
        except Exception as error:
            connection.abort()
            if self._reason is not None:
                raise self._reason from self._reason.__cause__ or error
            if isinstance(error, (CancelledError, ConnectingCancelledError)):
                raise CancelledError from error
            what = " ".join(str(error).split()) or type(error).__name__
            raise Unreachable(f"{route} cannot be reached: {what}") from _asOSError(error)
        finally:
            self._connecting = None
            if timer is not None and timer.active():
                timer.cancel()

    def _endpoint(self) -> Any:
        if self.route.path is not None:
            return UNIXClientEndpoint(self._reactor, self.route.path, timeout=_NO_LIMIT)
        return HostnameEndpoint(self._reactor, self.route.host, self.route.port, timeout=_NO_LIMIT)


def _asOSError(error: Exception) -> Exception:
    """An error of Twisted's as that of Python which it stands for."""
    number = getattr(error, "osError", None)
    return OSError(number, os.strerror(number)) if isinstance(number, int) else error


def waitingFor(deferred: Deferred[T]) -> Waiting[T]:
    """What a Deferred fires with, for a task of asyncio as well."""
    waiting: Waiting[T] = Waiting(lambda _: deferred.cancel())
    deferred.addCallbacks(
        lambda result: None if waiting.called else waiting.callback(result),
        lambda failure: None if waiting.called else waiting.errback(failure),
    )
    return waiting
