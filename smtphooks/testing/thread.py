"""
C{SMTPServerThread}: a real server for the tests of a program that sends mail, in a thread beside them.

It is a factory, a private reactor in a thread and an inbox; a test needs to know none of the three.
This module knows no messages, and not how anything goes wrong on demand.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, overload

from twisted.internet.interfaces import IListeningPort

from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import HOOK_NAMES, hookOf
from smtphooks.layer import Layer
from smtphooks.testing.background import BackgroundReactor
from smtphooks.testing.faults import Drop, Fail, Fault, Faults, Garble, Stall, verbsOf
from smtphooks.testing.gate import GateFactory
from smtphooks.testing.messages import Inbox, ReceivedMessage
from smtphooks.testing.recording import takeAll
from smtphooks.testing.scripting import Script

# What a test wants and a server on the Internet must not have.  Twisted's look-ups would ask the process's own reactor.
_DEFAULTS = {"name": "localhost", "authOptional": True, "allowInsecureAuth": True, "disableReverseLookup": True}

# Seconds that the hooks of connections that were cut have to end.
_GRACE = 1.0


class SMTPServerThread:
    """
    An SMTP or LMTP server for a test.

    It takes every option and every hook of L{SMTPServerFactory}; hooks run in the server's thread.  It is a context
    manager, which calls L{start} and L{stop}; after C{stop} its messages are still there, and it may start anew.

    @ivar host: what to connect to; of a UNIX socket its path, as C{smtplib.LMTP} takes it.
    @ivar port: what to connect to, known once it is started; 0 of a UNIX socket.
    """

    def __init__(
        self,
        hooks: Any = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Iterable[Fault] = (),
        **given: Any,
    ) -> None:
        """
        @param hooks: as with L{SMTPServerFactory}; without an C{onData} hook among them, every message is accepted.
        @param host: the address to listen on.
        @param port: 0 for a free one.
        @param faults: what is to go wrong from the start: L{Fail}, L{Drop}, L{Stall} and L{Garble}.
        @param given: options and hooks by name.
        @raise OptionError: for a wrong one.
        """
        self.host = host
        self.port = self._wantedPort = port
        self._inbox = Inbox()
        self._hooks = hooks
        self._named = {name: given.pop(name) for name in HOOK_NAMES if given.get(name) is not None}
        self._options = {**_DEFAULTS, **given}
        if self._named.get("onData") is None and not any(hookOf(each, "onData") for each in self._objects):
            self._named["onData"] = takeAll
        # What is wrong is said of what was given, and at once.
        options = SMTPServerFactory(self._hooks, **self._options, **self._named).options
        added = [verb for extension in options.extensions for verb in extension.commands]
        self._faults = Faults(verbsOf(options.lmtp, added), faults)
        self._background: BackgroundReactor | None = None
        self._gates: GateFactory
        self._listening: IListeningPort

    @property
    def _layers(self) -> list[Any]:
        if self._hooks is None:
            return []
        return list(self._hooks) if isinstance(self._hooks, (list, tuple)) else [self._hooks]

    @property
    def _objects(self) -> list[object]:
        return [layer.hooks if isinstance(layer, Layer) else layer for layer in self._layers]

    # --- its life ---

    def start(self) -> SMTPServerThread:
        """
        Listen, from here on.

        @return: this server.
        @raise twisted.internet.error.CannotListenError: if it cannot, as the port is in use.
        @raise RuntimeError: if it is running.
        """
        if self._background is not None:
            raise RuntimeError("the server is running already")
        background = BackgroundReactor(type(self).__name__)
        try:
            self._gates = self._makeFactory(background.reactor)
            self._listen(background.reactor)
        except BaseException:
            background.discard()
            raise
        self._background = background
        background.start()
        return self

    def _listen(self, reactor: Any) -> None:
        self._listening = reactor.listenTCP(self._wantedPort, self._gates, interface=self.host)
        address: Any = self._listening.getHost()
        self.port = address.port

    def stop(self) -> None:
        """
        Stop listening, and cut the connections that there are.

        It waits for the end of the thread; a hook that does not end when it is cancelled has one second for it.
        """
        background, self._background = self._background, None
        if background is None:
            return
        try:
            background.stop(lambda: self._end(background.reactor))
        finally:
            self._inbox.wake()

    def _end(self, reactor: Any) -> None:
        factory = self._gates.wrapped
        self._listening.stopListening()
        reactor.callLater(_GRACE, reactor.stop)
        for connection in tuple(factory.connections):
            connection.abort()
        factory.close().addCallback(lambda _: reactor.stop() if reactor.running else None)

    def __enter__(self) -> SMTPServerThread:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _makeFactory(self, reactor: Any) -> GateFactory:
        """The factory that was asked for, with the hooks of the script around all others."""
        script = Script(self._inbox, self._faults, lambda session: gates.gateOf(session))
        hasDelivery = any(hookOf(each, "onData") for each in self._objects)
        onData = {} if hasDelivery else {"onData": self._named["onData"]}
        factory = SMTPServerFactory([script.recorder, *self._layers], **self._options, **onData)
        for name, hook in self._named.items():
            setattr(factory, name, hook)
        script.install(factory)
        factory.clock = reactor
        gates = GateFactory(factory, reactor, cutsHandshakes=False)
        return gates

    # --- what it has received ---

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages that were accepted, in order; a list of its own for each caller."""
        return self._inbox.messages

    @property
    def refusals(self) -> list[str]:
        """The last twenty replies that refused something, in order, each with the command that it was for."""
        return self._inbox.refusals

    @overload
    def waitFor(self, count: None = None, timeout: float = 5) -> ReceivedMessage: ...
    @overload
    def waitFor(self, count: int, timeout: float = 5) -> list[ReceivedMessage]: ...
    def waitFor(self, count: int | None = None, timeout: float = 5) -> ReceivedMessage | list[ReceivedMessage]:
        """
        Wait until there are messages.

        @param count: how many there are to be, since the start or L{clear}.
        @param timeout: how long, in seconds.
        @return: the first C{count} messages; without C{count} the first message itself.
        @raise AssertionError: if there are fewer by then; its text says how many, and what the server has refused.
        """
        return self._inbox.wait(count, timeout, lambda: self._background is None)

    def clear(self) -> None:
        """Forget the messages, and the refusals."""
        self._inbox.clear()

    # --- what goes wrong, from the next event on ---

    def fail(
        self, verb: str, code: int, times: int | None = None, recipient: str | None = None, text: str | None = None
    ) -> None:
        """
        Refuse a command; the arguments are those of L{Fail}.

        @raise OptionError: for a command that there is not, a code that refuses nothing, and so on; so with the others.
        """
        fault = Fail(verb, code, times, recipient)
        self._faults.add(fault if text is None else Fail(verb, code, times, recipient, text))

    def drop(self, after: str, times: int | None = None) -> None:
        """Close the connection in place of the reply to a command; the arguments are those of L{Drop}."""
        self._faults.add(Drop(after, times))

    def stall(self, verb: str, seconds: float | None = None, times: int | None = None) -> None:
        """Reply later to a command, or never; the arguments are those of L{Stall}."""
        self._faults.add(Stall(verb, seconds, times))

    def garble(self, verb: str, octets: bytes, times: int | None = None) -> None:
        """Send other octets in place of the reply to a command; the arguments are those of L{Garble}."""
        self._faults.add(Garble(verb, octets, times))

    def heal(self) -> None:
        """Nothing goes wrong any more, but for a reply that is late already."""
        self._faults.clear()
