"""
The factory: configuration, hooks and live connections.

L{SMTPServerFactory} checks its options when it is made, holds the hooks that every connection asks, and knows how to
end all of them.  What happens on a connection is the protocol's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

from smtphooks.extensions import Extensions, builtInExtensions
from smtphooks.hooks import HOOK_NAMES, hookOf
from smtphooks.options import OptionError, Options, makeOptions
from smtphooks.protocol import SMTPServerProtocol


class SMTPServerFactory(ServerFactory):
    """
    Makes SMTP or LMTP servers, to be listened on with any Twisted endpoint.

    Every hook is an attribute too: set later, it is called from the next event of every connection on.

    @param hooks: an object with hooks as methods; C{Hooks} may be its base, but need not.
    @param given: options and hooks by name; a hook given here wins over the object's.
    @ivar options: the L{Options} in force.
    @ivar connections: the live protocols.
    @ivar clock: what times are measured with (C{IReactorTime}), the global reactor if None.
    @raise OptionError: for an unknown option, a wrong value, or a C{hooks} object that has no hook.
    """

    protocol = SMTPServerProtocol  # type: ignore[assignment]
    noisy = False
    log = Logger()

    onConnect: Callable[..., Any] | None = None
    onHelo: Callable[..., Any] | None = None
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
        self.extensions = Extensions(builtInExtensions(self.options))
        self.connections: set[SMTPServerProtocol] = set()
        self.clock: IReactorTime | None = None
        self._closed: list[Deferred[None]] = []
        self._timeout: IDelayedCall | None = None
        self.isClosing = False
        self._setHooks(hooks, named)

    def _setHooks(self, hooks: object, named: dict[str, Any]) -> None:
        if isinstance(hooks, type):
            raise OptionError(f"option hooks is {hooks!r}, it wants an instance of it")
        found = {} if hooks is None else {name: hookOf(hooks, name) for name in HOOK_NAMES}
        if hooks is not None and not any(found.values()):
            raise OptionError(f"option hooks is {hooks!r}, it wants an object with a method such as onRcptTo or onData")
        for name, hook in {**found, **named}.items():
            if hook is not None:
                if not callable(hook):
                    raise OptionError(f"option {name} is {hook!r}, it wants something that can be called")
                setattr(self, name, hook)

    def doStart(self) -> None:
        """Called by Twisted when the first port begins to listen."""
        super().doStart()  # type: ignore[no-untyped-call]
        self.isClosing = False
        if self.onData is None:
            self.log.warn("there is no onData hook: every message will be accepted and dropped")

    def forget(self, connection: SMTPServerProtocol) -> None:
        """A connection has come to its end, its last hook included."""
        self.connections.discard(connection)
        if self.isClosing and not self.connections:
            self._allGone()

    def close(self) -> Deferred[None]:
        """
        End all connections; stop listening first.

        Idle clients get 421 at once, a transaction in progress may go on for option C{closeTimeout}.

        @return: fires with None when the last connection is gone and its hooks have ended.
        """
        gone: Deferred[None] = Deferred()
        self._closed.append(gone)
        if not self.isClosing:
            self.isClosing = True
            for connection in list(self.connections):
                connection.leave()
            if self.connections and self.options.closeTimeout:
                self._timeout = self._reactor().callLater(self.options.closeTimeout, self._abortAll)
        if not self.connections:
            self._allGone()
        return gone

    def _reactor(self) -> IReactorTime:
        if self.clock is None:
            from twisted.internet import reactor

            self.clock = IReactorTime(reactor)
        return self.clock

    def _abortAll(self) -> None:
        self._timeout = None
        for connection in list(self.connections):
            self.log.warn("connection [{session}] ended by force", session=connection.session.id)
            connection.abort()

    def _allGone(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        closed, self._closed = self._closed, []
        for gone in closed:
            gone.callback(None)
