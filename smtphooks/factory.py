"""
The factory: configuration, hooks and live connections.

L{SMTPServerFactory} checks its options when it is made, holds the hooks that every connection asks, and knows how to
end all of them.  What happens on a connection is the protocol's business.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from typing_extensions import Unpack

from smtphooks.admission.admission import Admission
from smtphooks.admission.clients import Clients
from smtphooks.composition import composed, doubtsAbout, layersOf, layersWith, limitsOf, linksOf, maybePassage
from smtphooks.connection.chain import Chain, Link
from smtphooks.connection.eventlog import LineLimits
from smtphooks.connection.measuring import MeasuredHooks
from smtphooks.connection.observer import Observer, guarded
from smtphooks.connection.observing import Observed
from smtphooks.connection.passage import Passage
from smtphooks.connection.registry import LiveConnections
from smtphooks.connection.server import Server
from smtphooks.dialogue.builtin import builtInExtensions
from smtphooks.dialogue.extensions import Extensions
from smtphooks.errors import OptionError, OptionWarning
from smtphooks.hooks import HookAttributes, authenticates
from smtphooks.hooktable import HOOK_NAMES
from smtphooks.hooktypes import OnAuth
from smtphooks.layer import GivenHooks, Layer
from smtphooks.optionkinds import isSecret, isSecretPath
from smtphooks.options import Options, makeOptions
from smtphooks.optiontypes import FactoryOptions, TLSOptions
from smtphooks.protocol import SMTPServerProtocol
from smtphooks.sasl.failures import AuthFailures
from smtphooks.sasl.mechanisms import Mechanisms
from smtphooks.sasl.portal import canCheck, onAuthOf
from smtphooks.sasl.scram import UnknownUsers
from smtphooks.syntax.networks import peersOf
from smtphooks.tls.context import SecureContext

_log = Logger()

# Enough for any secret, and a device never ends.
_SECRET_FILE_OCTETS = 65536
# The path is not shown, for a secret may happen to look like one.
_WANTS_SECRET_FILE = (
    "it wants the path of a readable file with 16 octets or more; a secret that begins with / or . stands in a file"
)


class SMTPServerFactory(HookAttributes, ServerFactory):
    """
    Makes SMTP or LMTP servers, to be listened on with any Twisted endpoint.

    Every hook is an attribute too: set later, it is called from the next event of every connection on.

    @param hooks: an object with hooks as methods; C{Hooks} may be its base, but need not.  Or a list of such objects,
        and of L{Layer}s, which are all asked in order.
    @param given: options and hooks by name; a hook given here wins over the object's.
    @ivar options: the L{Options} in force.
    @ivar layers: the L{Layer}s that the hooks are made of.
    @ivar connections: the live protocols.
    @ivar clients: how many of them there are, and may be.
    @ivar server: what connections share: admission, TLS, limits, the registry of live connections.
    @ivar clock: what times are measured with (C{IReactorTime}), the global reactor if None.
    @raise OptionError: for an unknown option, a wrong value, or a C{hooks} object that has no hook.
    """

    layers: tuple[Layer, ...]
    passage: Passage | None
    protocol: Callable[..., Any] | None = SMTPServerProtocol
    noisy = False

    def __init__(self, hooks: GivenHooks = None, **given: Unpack[FactoryOptions]) -> None:
        options: dict[str, Any] = {**given}
        named = {name: options.pop(name) for name in HOOK_NAMES if name in options}
        named = {name: hook for name, hook in named.items() if hook is not None}
        self.options: Options = makeOptions(options, ["hooks", *HOOK_NAMES])
        self.clock: IReactorTime | None = None
        self.layers = layersOf(hooks, named)
        self.server: Server = self._makeServer(self.options)
        self._setHooks(named)
        if named.get("onAuth") is None and not any(authenticates(layer.hooks) for layer in self.layers):
            self.onAuth: OnAuth | None = self._maybePortalHook(self.options.portal)
        for doubt in doubtsAbout(self.options, self.layers):
            warnings.warn(doubt, OptionWarning, stacklevel=2)

    def _makeServer(self, options: Options) -> Server:
        mechanisms = Mechanisms(options.authMethods, lambda: self.onAuth is not None, _unknownUsersOf(options))
        lines = LineLimits(self._seconds)
        return Server(
            options,
            self,
            Extensions(builtInExtensions(options, mechanisms, limitsOf(self.layers))),
            mechanisms,
            AuthFailures(options.authFailuresPerAddress, self._seconds),
            Admission(options, self.reactor, peersOf("useProxy", options.useProxy)),
            LiveConnections(self.reactor, lines),
            lines,
            SecureContext(options),
            peersOf("debugPeers", options.debugPeers) if options.debugPeers else None,
            # What the hooks of every connection begin with.  That of the moment may be one of a connection: the reactor
            # of asyncio calls what is due in the context of the code that asked for it last.
            copy_context(),
        )

    @property
    def connections(self) -> set[SMTPServerProtocol]:
        """The live protocols."""
        return self.server.live.connections

    @property
    def accepted(self) -> int:
        """How many connections there have been so far."""
        return self.server.live.accepted

    @property
    def messages(self) -> int:
        """How many messages they have brought so far, refused ones included; added up when it is asked for."""
        # A connection may end meanwhile, when the garbage collector ends what its hook waits for; so it is a copy.
        return self.server.live.messages + sum([connection.log.messages for connection in tuple(self.connections)])

    def waits(self) -> Counter[str]:
        """How many connections wait for what, in words for the operator; found out when it is asked for."""
        return Counter(connection.waitsFor for connection in tuple(self.connections))

    @property
    def clients(self) -> Clients:
        """How many clients there are, and may be."""
        return self.server.admission.clients

    @property
    def authFailures(self) -> AuthFailures:
        """Failed AUTH by network; several factories may share that of one."""
        return self.server.authFailures

    @authFailures.setter
    def authFailures(self, failures: AuthFailures) -> None:
        self.server.authFailures = failures

    @property
    def isClosing(self) -> bool:
        """L{close} was called, and no port has begun to listen since."""
        return self.server.live.isClosing

    @property
    def isRefusing(self) -> bool:
        """New clients get 421, since L{refuse} or L{drain}."""
        return self.server.live.isRefusing

    def _setHooks(self, named: dict[str, Any]) -> None:
        self.passage = maybePassage(self.layers, self.reactor)
        for name, hook in {**composed(self.layers, self._chainOf), **named}.items():
            setattr(self, name, hook)

    def _chainOf(self, name: str, links: Sequence[Link]) -> Chain:
        return Chain(name, links, self, self.reactor, self.options.slowHook)

    def layersWith(self, name: str) -> list[Layer]:
        """The layers that have a hook, or another method of objects of hooks, of this name; in order."""
        return layersWith(self.layers, name)

    def _maybePortalHook(self, portal: Portal | None) -> Callable[..., Any] | None:
        """Ask the portal, after the layers that may only refuse; without a portal nobody could authenticate."""
        if portal is None:
            return None
        hook = self._askPortal(portal)
        refusing = linksOf(self.layersWith("onAuth"), "onAuth")
        if not refusing:
            return hook
        return self._chainOf("onAuth", [*refusing, Link("onAuth of the portal", hook, layer="the portal")])

    def _askPortal(self, portal: Portal) -> Callable[..., Any]:
        for method in self.options.authMethods:
            if not isinstance(method, str) or not canCheck(portal, method):
                raise OptionError(
                    f"option authMethods holds {method}, it wants only mechanisms that option portal has a checker for,"
                    " or an onAuth hook",
                    options=["authMethods"],
                )
        return onAuthOf(portal)

    def updateSecureContext(self, **given: Unpack[TLSOptions]) -> None:
        """
        Use other certificates, or other TLS options, from the next handshake on; connections in progress go on.

        Without arguments the files that the options name are read again.

        @param given: options of TLS by name: C{key}, C{cert}, C{ca}, C{sniOptions} and so on.
        @raise OptionError: if one is wrong; all stays as it was.
        """
        self.server.secureContext.update(**given)

    def observe(self, observer: Observer) -> None:
        """
        Have an observer told what happens on connections that are made from now on; C{Metrics.observe} calls it.

        What the observer raises is logged, and changes nothing else.

        @raise RuntimeError: if the factory has one already.
        """
        if self.server.hooks is not self:
            raise RuntimeError("this factory has an observer already")
        observer = guarded(observer)
        self.server.hooks = MeasuredHooks(self, observer)
        self.server.parts = Observed(observer)

    def doStart(self) -> None:
        """Called by Twisted when the first port begins to listen."""
        super().doStart()  # type: ignore[no-untyped-call]
        self.server.live.startListening()
        if self.onData is None:
            _log.warn("there is no onData hook: every message will be accepted and dropped")
        if self.options.scramSecret is None and any(
            str(name).startswith("SCRAM-") for name in self.options.authMethods
        ):
            _log.info(
                "option scramSecret is not given: what SCRAM shows for unknown users will be different after a restart,"
                " which tells them from known ones"
            )

    def doStop(self) -> None:
        """Called by Twisted when the last port has ended."""
        super().doStop()  # type: ignore[no-untyped-call]
        if not self.numPorts:
            self.server.live.stopListening()

    def refuse(self) -> None:
        """Refuse new clients with 421; connections that are there go on.  L{resume} ends that."""
        self.server.live.refuse()

    def drain(self) -> Deferred[bool]:
        """
        Refuse new clients, and let the connections that are there end by themselves.

        They go on for half of option C{closeTimeout}, so that a client may end its dialogue, several messages included;
        for the other half it is as with L{close}.  Without a limit they go on until the clients have left.

        @return: fires with True when the last connection is gone and its hooks have ended; with False if L{resume} was
            called.
        """
        return self.server.live.drain(self.options.closeTimeout)

    def resume(self) -> None:
        """Serve new clients again, after L{refuse} or L{drain}, unless the drain has come to its second half."""
        self.server.live.resume()

    def close(self) -> Deferred[None]:
        """
        End all connections; stop listening first.

        Idle clients get 421 at once, a transaction in progress may go on for option C{closeTimeout}.

        @return: fires with None when the last connection is gone and its hooks have ended.
        """
        return self.server.live.close(self.options.closeTimeout)

    def reactor(self) -> IReactorTime:
        """What times are measured with."""
        if self.clock is None:
            from twisted.internet import reactor

            self.clock = IReactorTime(reactor)
        return self.clock

    def _seconds(self) -> float:
        return self.reactor().seconds()


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
