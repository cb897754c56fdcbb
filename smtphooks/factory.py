"""
The factory: configuration, hooks and live connections.

L{SMTPServerFactory} checks its options when it is made, holds the hooks that every connection asks, and knows how to
end all of them.  What happens on a connection is the protocol's business.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.admission.clients import Clients
from smtphooks.admission.lookup import ReverseLookup
from smtphooks.connection.eventlog import LineLimit
from smtphooks.connection.runner import HookRunner
from smtphooks.dialogue.extensions import Extensions, builtInExtensions
from smtphooks.errors import OptionError
from smtphooks.hooks import HOOK_NAMES, faultOf, hookOf
from smtphooks.netaddress import bracketed, isPublic
from smtphooks.options import Options, isSecret, isSecretPath, makeOptions
from smtphooks.protocol import SMTPServerProtocol
from smtphooks.replies import Reply
from smtphooks.sasl.failures import AuthFailures
from smtphooks.sasl.mechanisms import Mechanisms
from smtphooks.sasl.portal import canCheck, onAuthOf
from smtphooks.sasl.scram import UnknownUsers
from smtphooks.session import Session
from smtphooks.syntax.networks import TrustedPeers
from smtphooks.tls.context import SecureContext

_log = Logger()

# Enough for any secret, and a device never ends.
_SECRET_FILE_OCTETS = 65536
# The path is not shown, for a secret may happen to look like one.
_WANTS_SECRET_FILE = (
    "it wants the path of a readable file with 16 octets or more; a secret that begins with / or . stands in a file"
)


class SMTPServerFactory(ServerFactory):
    """
    Makes SMTP or LMTP servers, to be listened on with any Twisted endpoint.

    Every hook is an attribute too: set later, it is called from the next event of every connection on.

    @param hooks: an object with hooks as methods; C{Hooks} may be its base, but need not.
    @param given: options and hooks by name; a hook given here wins over the object's.
    @ivar options: the L{Options} in force.
    @ivar connections: the live protocols.
    @ivar clients: how many of them there are, and may be; see C{countIn} for further counts.
    @ivar now: the time by which connections measure, in seconds; it moves once a second, and is never behind.
    @ivar authFailures: failed AUTH by network; several factories may share one.
    @ivar secureContext: what TLS begins with.
    @ivar clock: what times are measured with (C{IReactorTime}), the global reactor if None.
    @raise OptionError: for an unknown option, a wrong value, or a C{hooks} object that has no hook.
    """

    protocol = SMTPServerProtocol  # type: ignore[assignment]
    noisy = False

    onConnect: Callable[..., Any] | None = None
    onSecure: Callable[..., Any] | None = None
    onHelo: Callable[..., Any] | None = None
    onAuth: Callable[..., Any] | None = None
    onMailFrom: Callable[..., Any] | None = None
    onRcptTo: Callable[..., Any] | None = None
    onData: Callable[..., Any] | None = None
    onReset: Callable[..., Any] | None = None
    onVrfy: Callable[..., Any] | None = None
    onClose: Callable[..., Any] | None = None
    onError: Callable[..., Any] | None = None

    def __init__(self, hooks: object = None, **given: Any) -> None:
        named = {name: given.pop(name) for name in HOOK_NAMES if name in given}
        self.options: Options = makeOptions(given, ["hooks", *HOOK_NAMES])
        self.mechanisms = Mechanisms(
            self.options.authMethods, lambda: self.onAuth is not None, _unknownUsersOf(self.options)
        )
        self.authFailures = AuthFailures(self.options.authFailuresPerAddress, self._seconds)
        self.extensions = Extensions(builtInExtensions(self.options, self.mechanisms))
        self.secureContext = SecureContext(self.options)
        self.debugPeers = _peersOf("debugPeers", self.options.debugPeers) if self.options.debugPeers else None
        # What the hooks of every connection begin with.  That of the moment may be one of a connection: the reactor of
        # asyncio calls what is due in the context of the code that asked for it last.
        self.context = copy_context()
        self.refusalLines = LineLimit(self._seconds)
        self.authLines = LineLimit(self._seconds)
        self.proxies = _peersOf("useProxy", self.options.useProxy)
        self._proxyCommands = {
            "XCLIENT": _peersOf("useXClient", self.options.useXClient),
            "XFORWARD": _peersOf("useXForward", self.options.useXForward),
        }
        self._lookup: ReverseLookup | None = None
        self.now = 0.0
        self._tick: IDelayedCall | None = None
        self._nextLook = 0.0
        self._wakes: list[tuple[float, int, SMTPServerProtocol]] = []
        self._order = count()
        self.connections: set[SMTPServerProtocol] = set()
        self.clients = Clients(self.options.maxClients, self.options.maxClientsPerAddress)
        self._counts = [self.clients]
        self.clock: IReactorTime | None = None
        self._closed: list[Deferred[None]] = []
        self._timeout: IDelayedCall | None = None
        self.isClosing = False
        self._setHooks(hooks, named)
        if self.onAuth is None and self.options.portal is not None:
            self.onAuth = self._askPortal(self.options.portal)

    def _setHooks(self, hooks: object, named: dict[str, Any]) -> None:
        fault = faultOf(hooks, named)
        if fault is not None:
            raise OptionError(fault)
        for name in HOOK_NAMES:
            hook = named[name] if name in named else hookOf(hooks, name)
            if hook is not None:
                setattr(self, name, hook)

    def _askPortal(self, portal: Portal) -> Callable[..., Any]:
        for method in self.options.authMethods:
            if not isinstance(method, str) or not canCheck(portal, method):
                raise OptionError(
                    f"option authMethods holds {method}, it wants only mechanisms that option portal has a checker for,"
                    " or an onAuth hook",
                    options=["authMethods"],
                )
        return onAuthOf(portal)

    def updateSecureContext(self, **given: Any) -> None:
        """
        Use other certificates, or other TLS options, from the next handshake on; connections in progress go on.

        Without arguments the files that the options name are read again.

        @param given: options of TLS by name: C{key}, C{cert}, C{ca}, C{sniOptions} and so on.
        @raise OptionError: if one is wrong; all stays as it was.
        """
        self.secureContext.update(**given)

    def doStart(self) -> None:
        """Called by Twisted when the first port begins to listen."""
        super().doStart()  # type: ignore[no-untyped-call]
        self.isClosing = False
        if self.onData is None:
            _log.warn("there is no onData hook: every message will be accepted and dropped")
        if self.options.scramSecret is None and any(
            str(name).startswith("SCRAM-") for name in self.options.authMethods
        ):
            _log.info(
                "option scramSecret is not given: what SCRAM shows for unknown users will be different after a restart,"
                " which tells them from known ones"
            )

    def countIn(self, clients: Clients) -> None:
        """Count connections there too, and keep to its limits, from the first connection on."""
        self._counts.append(clients)

    def refusalOf(self, network: str) -> Reply | None:
        """Why one more client of that network cannot be served now, None if it can."""
        if any(clients.areTooMany for clients in self._counts):
            return replies.TOO_MANY_CLIENTS
        if any(clients.areTooManyOf(network) for clients in self._counts):
            return replies.TOO_MANY_CLIENTS_HERE
        return None

    def hostnameOf(self, address: str) -> str | Deferred[str]:
        """The name of a client in DNS, or its address in brackets."""
        options = self.options
        if options.disableReverseLookup or not address:
            return bracketed(address)
        if options.resolver is None and not isPublic(address):
            return bracketed(address)
        if self._lookup is None:
            self._lookup = ReverseLookup(options.resolver, self.reactor())
        return self._lookup.hostnameOf(address)

    def proxyCommandsOf(self, address: str) -> frozenset[str]:
        """The commands of trusted proxies that a peer may use."""
        return frozenset([verb for verb, peers in self._proxyCommands.items() if peers.trusts(address)])

    def remember(self, connection: SMTPServerProtocol) -> None:
        """A connection has been made."""
        self.connections.add(connection)
        for clients in self._counts:
            clients.addConnection()
        if self._tick is None:
            self._nextLook = 0
            self._watch()

    def wakeAt(self, time: float, connection: SMTPServerProtocol) -> None:
        """See at that time, and not up to a second later, whether the time of a connection is up."""
        if len(self._wakes) > 2 * len(self.connections):
            # Most have left since, and would be kept in memory until then.
            self._wakes = [wake for wake in self._wakes if wake[2] in self.connections]
            heapify(self._wakes)
        heappush(self._wakes, (time, next(self._order), connection))
        if self._tick is not None and time < self._tick.getTime():
            self._tick.reset(max(0, time - self.reactor().seconds()))

    def _watch(self) -> None:
        """
        See whose time is up: once a second of all connections, and of those that wait when they want.

        There is one timer for all of them, however many there are.
        """
        self._tick = None
        reactor = self.reactor()
        now = reactor.seconds()
        if now >= self._nextLook:
            # By the time of the next look, or who came just before it would lose a second.
            self.now = self._nextLook = now + 1
            self.refusalLines.flush()
            self.authLines.flush()
            for connection in list(self.connections):
                self._guard(connection, connection.look, now)
        while self._wakes and self._wakes[0][0] <= now:
            connection = heappop(self._wakes)[2]
            # It may have gone on by itself, or be gone.
            self._guard(connection, connection.look, now)
        if self.connections or self._hasLines:
            soonest = min(self._nextLook, self._wakes[0][0]) if self._wakes else self._nextLook
            self._tick = reactor.callLater(soonest - now, self._watch)
        else:
            self._wakes.clear()

    def doStop(self) -> None:
        """Called by Twisted when the last port has ended."""
        super().doStop()  # type: ignore[no-untyped-call]
        self._restIfIdle()

    def _restIfIdle(self) -> None:
        """Leave no timer behind without connections; but a number of refusals waits for its second to end."""
        if self.connections or self._tick is None:
            return
        if not self.numPorts:
            self.refusalLines.report()
            self.authLines.report()
        if not self._hasLines:
            self._tick.cancel()
            self._tick = None

    @property
    def _hasLines(self) -> bool:
        """There is a number of refusals that has still to be logged."""
        return self.refusalLines.hasMore or self.authLines.hasMore

    def tellError(self, failure: Failure) -> None:
        """Something went wrong before there was a session."""
        HookRunner(self, Session(self.options.name)).tell("onError", failure, None)

    def count(self, network: str) -> None:
        """A client of that network is on its way in."""
        for clients in self._counts:
            clients.addClient(network)

    def discount(self, network: str) -> None:
        """And has gone."""
        for clients in self._counts:
            clients.removeClient(network)

    def forget(self, connection: SMTPServerProtocol) -> None:
        """A connection has come to its end, its last hook included."""
        if connection in self.connections:
            self.connections.remove(connection)
            for clients in self._counts:
                clients.removeConnection()
        if not self.connections and self._tick is not None:
            self._wakes.clear()
            self._restIfIdle()
        # Who came since the factory listens again is not waited for.
        if self._closed and not any(other.isLeaving for other in self.connections):
            self._allGone()

    def close(self) -> Deferred[None]:
        """
        End all connections; stop listening first.

        Idle clients get 421 at once, a transaction in progress may go on for option C{closeTimeout}.

        @return: fires with None when the last connection is gone and its hooks have ended.
        """
        gone: Deferred[None] = Deferred()
        self._closed.append(gone)
        self.isClosing = True
        for connection in list(self.connections):
            self._guard(connection, connection.leave)
        if self.connections and self.options.closeTimeout and self._timeout is None:
            self._timeout = self.reactor().callLater(self.options.closeTimeout, self._abortAll)
        if not self.connections:
            self._allGone()
        return gone

    def reactor(self) -> IReactorTime:
        """What times are measured with."""
        if self.clock is None:
            from twisted.internet import reactor

            self.clock = IReactorTime(reactor)
        return self.clock

    def _guard(self, connection: SMTPServerProtocol, call: Callable[..., None], *arguments: object) -> None:
        """What one connection raises is not for the others to suffer (invariant 10)."""
        try:
            call(*arguments)
        except Exception:
            connection.crashed()

    def _seconds(self) -> float:
        return self.reactor().seconds()

    def _abortAll(self) -> None:
        self._timeout = None
        for connection in [connection for connection in self.connections if connection.isLeaving]:
            self._guard(connection, connection.endByForce)

    def _allGone(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        closed, self._closed = self._closed, []
        for gone in closed:
            gone.callback(None)


def _unknownUsersOf(options: Options) -> UnknownUsers:
    return UnknownUsers(_scramSecretOf(options), options.scramIterations, options.scramSaltLength)


def _scramSecretOf(options: Options) -> bytes | None:
    """
    The octets of option C{scramSecret}, None if it is not given.

    @raise OptionError: if it stands in a file that has none.
    """
    secret = options.scramSecret
    if not isinstance(secret, str):
        return secret
    if not isSecretPath(secret):
        return secret.encode()
    try:
        with open(secret, "rb") as file:
            octets = file.read(_SECRET_FILE_OCTETS).rstrip(b"\r\n")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no path"
        raise OptionError(
            f"option scramSecret is the path of a file that cannot be read ({why}), {_WANTS_SECRET_FILE}",
            options=["scramSecret"],
        ) from None
    if not isSecret(octets):
        raise OptionError(
            f"option scramSecret is the path of a file with too little in it, {_WANTS_SECRET_FILE}",
            options=["scramSecret"],
        )
    return octets


def _peersOf(name: str, value: object) -> TrustedPeers:
    try:
        return TrustedPeers(value)
    except OptionError as error:
        raise error.ofOption(name) from None
