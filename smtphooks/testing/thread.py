"""
C{SMTPServerThread}: a real server for the tests of a program that sends mail, in a thread beside them.

It is a factory, a private reactor in a thread, an inbox and a script of faults; a test needs to know none of them.
This module knows no octets, and not how anything goes wrong on demand.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, overload

from twisted.internet.interfaces import IListeningPort
from typing_extensions import Unpack

from smtphooks.factory import SMTPServerFactory
from smtphooks.layer import GivenHooks
from smtphooks.optiontypes import FactoryOptions
from smtphooks.testing.background import BackgroundReactor
from smtphooks.testing.configuration import Configuration
from smtphooks.testing.faults import Drop, Fail, Fault, Faults, Garble, Stall, verbsOf
from smtphooks.testing.gate import GateFactory
from smtphooks.testing.messages import Inbox, ReceivedMessage
from smtphooks.testing.scripting import Script

# Seconds that the hooks of connections that were cut have to end.
_GRACE = 1.0


def _end(reactor: Any, listening: IListeningPort, factory: SMTPServerFactory) -> None:
    """Cut all connections, and stop a reactor when they and their hooks have ended, at the latest after C{_GRACE}."""
    listening.stopListening()
    reactor.callLater(_GRACE, reactor.stop)
    for connection in tuple(factory.connections):
        connection.abort()
    factory.close().addCallback(lambda _: reactor.stop())


class SMTPServerThread:
    """
    An SMTP or LMTP server for a test.

    It takes every option and every hook of L{SMTPServerFactory}, and some of its own.  It is a context manager, which
    calls L{start} and L{stop}; after C{stop} its messages are still there, and it may start anew.

    Hooks run in the server's thread.  The layers and stores of smtphooks use its reactor.  Hooks of one's own may use
    of Twisted what needs no reactor: that of the process, which Twisted's C{deferToThread} and most clients look up, is
    not the server's, and may not run.

    As any server of smtphooks it answers a failed AUTH a second late, and later each time.

    Other defaults than those of a factory: C{name} is C{localhost}, C{authOptional} is True unless there are C{users},
    C{allowInsecureAuth} is True, as few tests bother with TLS, and there is no reverse look-up.

    @ivar host: what to connect to; of a UNIX socket its path, as C{smtplib.LMTP} takes it.
    @ivar port: what to connect to, known once it is started; 0 of a UNIX socket.
    @ivar path: of the UNIX socket, or None.
    """

    host: str
    port: int

    def __init__(
        self,
        hooks: GivenHooks = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix: str | os.PathLike[str] | bool = False,
        users: Mapping[str, str] | None = None,
        brokenTLS: str | None = None,
        faults: Iterable[Fault] = (),
        **given: Unpack[FactoryOptions],
    ) -> None:
        """
        @param hooks: as with L{SMTPServerFactory}; without an C{onData} hook among them, every message is accepted.
        @param host: the address to listen on.
        @param port: 0 for a free one.
        @param unix: listen on a UNIX socket with this path instead; if True, in a new folder.
        @param users: passwords by user name, for whatever option C{authMethods} holds.
        @param brokenTLS: C{"expired"} or C{"wrong name"} for a certificate like that, C{"cut"} to close the connection
            within the handshake.
        @param faults: what is to go wrong from the start: L{Fail}, L{Drop}, L{Stall} and L{Garble}.
        @param given: options and hooks by name.
        @raise OptionError: for a wrong one.
        """
        self.host, self.port, self.path = host, port, None if isinstance(unix, bool) else os.fspath(unix)
        self._wanted = host, port, unix
        self._configuration = Configuration(hooks, given, users, brokenTLS)
        options = self._configuration.options
        added = [verb for extension in options.extensions for verb in extension.commands]
        self._faults = Faults(verbsOf(options.lmtp, added), faults)
        self._inbox = Inbox()
        self._lock = threading.Lock()
        self._background: BackgroundReactor | None = None
        self._gates: GateFactory
        self._listening: IListeningPort
        self._folder: str | None = None

    # --- its life ---

    def start(self) -> SMTPServerThread:
        """
        Listen, from here on.

        @return: this server.
        @raise twisted.internet.error.CannotListenError: if it cannot, as the port is in use.
        @raise RuntimeError: if it is running.
        """
        with self._lock:
            if self._background is not None:
                raise RuntimeError("the server is running already")
            background = BackgroundReactor(type(self).__name__)
            try:
                self._gates = self._makeGates(background.reactor)
                self._listen(background.reactor)
            except BaseException:
                background.discard()
                self._removeFolder()
                raise
            self._background = background
            background.start()
        return self

    def _makeGates(self, reactor: Any) -> GateFactory:
        script = Script(self._inbox, self._faults, lambda session: gates.gateOf(session))
        factory = self._configuration.makeFactory(script, reactor)
        gates = GateFactory(factory, reactor, self._configuration.cutsHandshakes)
        return gates

    def _listen(self, reactor: Any) -> None:
        host, port, unix = self._wanted
        if unix is False:
            self._listening = reactor.listenTCP(port, self._gates, backlog=socket.SOMAXCONN, interface=host)
            address: Any = self._listening.getHost()
            self.port = address.port
            return
        if unix is True:
            self._folder = tempfile.mkdtemp(prefix="smtphooks-")
            self.path = os.path.join(self._folder, "socket")
        else:
            self.path = os.fspath(unix)
        self._listening = reactor.listenUNIX(self.path, self._gates)
        self.host, self.port = self.path, 0

    def stop(self) -> None:
        """
        Stop listening, and cut the connections that there are.

        It waits for the end of the thread; a hook that does not end when it is cancelled has one second for it.  One
        that blocks the thread is left behind after five, with a C{RuntimeWarning}.

        @raise RuntimeError: if a hook calls it.
        """
        with self._lock:
            background = self._background
            if background is not None and background.isCurrent:
                raise RuntimeError("a hook cannot stop the server that it runs in")
            self._background = None
        if background is None or background.isInherited:
            return
        gates, listening = self._gates, self._listening
        try:
            background.stop(lambda: _end(background.reactor, listening, gates.wrapped))
        finally:
            self._inbox.wake()
            self._removeFolder()

    def _removeFolder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> SMTPServerThread:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def certificate(self) -> str:
        """What a client is to trust, PEM text, as C{ssl.create_default_context(cadata=…)} takes it."""
        return self._configuration.certificate

    # --- what it has received ---

    @property
    def messages(self) -> list[ReceivedMessage]:
        """
        The messages that were accepted, in order; a list of its own for each caller.

        A message is there before its client has the positive reply, and is not there if there was no such reply: it was
        refused, its reply dropped, garbled or stalled until the client gave up, or the client was lost before.
        """
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
        @raise ValueError: for a C{count} below 0.
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
        given = {} if text is None else {"text": text}
        self._faults.add(Fail(verb, code, times, recipient, **given))

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
