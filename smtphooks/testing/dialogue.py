"""
The dialogue in memory: a client for unit tests of hooks, without a socket and without a running reactor.

C{Dialogue(hooks=MyHooks())} is a connection to a server that has these hooks; C{await dialogue("EHLO x")} says
something, and has the replies.  The server's time is that of the dialogue, which L{Dialogue.advance} lets pass.
This module knows no test framework, and works in any event loop or in none.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from email.message import Message
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from typing_extensions import Unpack

from smtphooks.client.reply import ReceivedReply
from smtphooks.errors import OptionError
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import AsyncioCoroutine
from smtphooks.hooktable import HOOK_NAMES
from smtphooks.layer import GivenHooks
from smtphooks.optiontypes import FactoryOptions
from smtphooks.session import Session
from smtphooks.testing.answer import Answer, NoReply, maybeLater
from smtphooks.testing.client import Client, Steps
from smtphooks.testing.configuration import DEFAULTS
from smtphooks.testing.memory import MemoryTransport

# The server delays the reply to a failed AUTH by 16 seconds at most.
_LONGEST_DELAY = 16


class _Call:
    """
    What one call of the dialogue says, and how far it has come.

    @ivar waitsFor: what the replies that are due are to, None before the first.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.waitsFor: str | None = None
        self.answer: Answer[list[ReceivedReply]]
        self.outcome: list[ReceivedReply] | Failure | None = None

    def step(self, replies: list[ReceivedReply]) -> None:
        """Go on with the replies that were due."""
        try:
            # A generator begins with None.
            self.waitsFor = self._steps.send(replies) if self.waitsFor is not None else next(self._steps)
        except StopIteration as end:
            self.outcome = end.value
        except Exception:
            self.outcome = Failure()

    def fail(self, error: Exception) -> None:
        """End it without the replies that were due."""
        self.outcome = Failure(error)


class Dialogue:
    """
    A client that is connected to a server of its own, in memory.

    @param hooks: an object with hooks, or a list of layers, as the factory takes them.
    @param peer: the IP address that the client comes from.
    @param timeout: seconds after which a command without a reply fails, where an event loop runs.
    @param options: options and hooks by name, as the factory takes them.  Unless they are given, C{authOptional} and
        C{allowInsecureAuth} are True, C{name} is C{"localhost"}, and no name is looked up in DNS.
    @ivar factory: the server.
    @ivar clock: the time of the server.
    @raise OptionError: for an option that is wrong.
    """

    def __init__(
        self,
        hooks: GivenHooks = None,
        *,
        peer: str = "192.0.2.7",
        timeout: float = 5.0,
        **options: Unpack[FactoryOptions],
    ) -> None:
        if options.get("secure"):
            raise OptionError(
                "option secure is True, and a Dialogue has no TLS: secured=True begins as if TLS was done",
                options=["secure"],
            )
        self.clock: Clock = Clock()
        # As with SMTPServerThread, so that a test of hooks may begin with one and go on with the other.
        given: FactoryOptions = {**DEFAULTS, "authOptional": True, **options}
        self.factory: SMTPServerFactory = SMTPServerFactory(hooks, **given)
        self.factory.clock = self.clock
        self._timeout = timeout
        self._asked: str | None = None  # the hook that was called last, since the last reply
        self._isAuthPending = False
        self._isRunning = False
        self._cancelRun: Callable[[], object] | None = None
        self._calls: deque[_Call] = deque()
        self._watchHooks()
        self._transport = MemoryTransport(peer, self._changed)
        self._client = Client(self._transport)
        self._protocol: Any = self.factory.buildProtocol(self._transport.getPeer())
        self._isRunning = True
        self._transport.connect(self._protocol)
        self._isRunning = False
        self._greeting = self._begin(self._client.greeting())

    # --- what a test says ---

    def __call__(self, *commands: str | bytes) -> Answer[list[ReceivedReply]]:
        """
        Say something: each command when the one before has its reply.

        @param commands: lines, without line ends.  After DATA they are lines of the message, up to C{"."}, and after
            BDAT the octets of the chunk; both may be given as C{bytes} too, which are sent as they are.
        @return: to be awaited: the replies, one for each command, and of LMTP one for each recipient of a message.
        """
        return self._begin(self._client.commands(commands))

    def say(self, *commands: str | bytes) -> list[ReceivedReply]:
        """
        As a call of the dialogue, for hooks that answer at once, and without C{await}.

        @raise NoReply: if a hook has not answered.
        """
        return self(*commands).now()

    def send(self, message: bytes | str | Message) -> Answer[list[ReceivedReply]]:
        """
        Send a whole message with DATA; its line ends, and dots at the beginning of lines, are seen to.

        @return: to be awaited: the reply to the message, of LMTP one for each recipient; or the refusal of DATA.
        """
        return self._begin(self._client.message(message))

    def advance(self, seconds: float) -> list[ReceivedReply]:
        """
        Let time pass for the server: its timeouts, and those of hooks that use L{clock}.

        @return: the replies that came without a command that waits for them, such as 421 for a timeout.
        """
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            self._run()
            seconds -= 1
        return self._transport.takeReplies()

    def close(self) -> Answer[None]:
        """
        Close the connection, as a client does that leaves without QUIT.

        @return: to be awaited: None when C{onClose} has ended.
        """
        closed: Answer[None] = Answer(self._run, lambda: f"the connection has not ended: {self._why()}")
        self._transport.loseConnection()
        self._run()
        self.factory.close().addCallback(closed.give)
        closed.limit(self._timeout)
        return closed

    # --- what it sees ---

    @property
    def greeting(self) -> ReceivedReply:
        """
        What the server said first.

        @raise NoReply: if C{onConnect} has not answered.
        """
        return self._greeting.now()[0]

    @property
    def session(self) -> Session:
        """The session, as hooks see it."""
        session: Session = self._protocol.session
        return session

    @property
    def isClosed(self) -> bool:
        """One of the two has closed the connection."""
        return self._transport.isClosed

    # --- how it goes on ---

    def _begin(self, steps: Steps) -> Answer[list[ReceivedReply]]:
        call = _Call(steps)
        call.answer = Answer(self._run, lambda: f"no reply to {self._calls[0].waitsFor}: {self._why()}")
        self._calls.append(call)
        self._run()
        call.answer.limit(self._timeout)
        return call.answer

    def _why(self) -> str:
        if self._asked is not None:
            return f"hook {self._asked} has not answered"
        return "the server waits for time to pass, see advance()"

    def _changed(self) -> None:
        """The server has done something by itself, as a hook has answered."""
        if self._isRunning or self._cancelRun is not None:
            return
        # Whoever is woken from here may say more at once, which the server reads only when it has done its part.
        self._cancelRun = maybeLater(0, self._run)
        if self._cancelRun is None:
            self._run()

    def _run(self) -> None:
        """Go on as far as the server has replied."""
        cancel, self._cancelRun = self._cancelRun, None
        if cancel is not None:
            cancel()
        while not self._isRunning:
            call = self._calls[0] if self._calls else None
            self._isRunning = True
            try:
                self._transport.pump()
                if call is None or not self._isDone(call):
                    return
            finally:
                self._isRunning = False
            self._calls.popleft()
            assert call.outcome is not None
            call.answer.give(call.outcome)  # which may call this method again

    def _isDone(self, call: _Call) -> bool:
        while call.outcome is None:
            replies: list[ReceivedReply] = []
            if call.waitsFor is not None:
                replies = self._takeReplies()
                if not replies and not self.isClosed:
                    return False
                if not replies:
                    call.fail(NoReply(f"no reply to {call.waitsFor}: the connection was closed"))
                    break
            call.step(replies)
            self._transport.pump()
        return True

    def _takeReplies(self) -> list[ReceivedReply]:
        replies = self._transport.takeReplies()
        if not replies and self._client.isWithinAuth and not self._isAuthPending:
            for _ in range(_LONGEST_DELAY):
                self.clock.advance(1)
                self._transport.pump()
                replies = self._transport.takeReplies()
                if replies:
                    break
        if replies and replies[-1].code != 354:  # or else onData has been called
            self._asked = None
        return replies

    # --- which hook is called ---

    def _watchHooks(self) -> None:
        for name in HOOK_NAMES:
            hook = getattr(self.factory, name)
            if hook is not None:
                setattr(self.factory, name, self._watched(name, hook))

    def _watched(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def ask(*arguments: Any) -> Any:
            self._asked = name
            result = hook(*arguments)
            return self._watchAuth(result) if name == "onAuth" else result

        return ask

    def _watchAuth(self, result: Any) -> Any:
        """Know when C{onAuth} has ended: after that a client that was refused waits for nothing but time."""
        self._isAuthPending = True

        def ended(result: Any) -> Any:
            self._isAuthPending = False
            self._changed()
            return result

        async def watch(awaitable: Awaitable[Any]) -> Any:
            try:
                return await awaitable
            finally:
                ended(None)

        if isinstance(result, Deferred):
            return result.addBoth(ended)
        if type(result) is AsyncioCoroutine:
            return AsyncioCoroutine(watch(result.coroutine))
        if asyncio.isfuture(result):
            result.add_done_callback(ended)
        elif inspect.isawaitable(result):
            return watch(result)
        else:
            self._isAuthPending = False
        return result
