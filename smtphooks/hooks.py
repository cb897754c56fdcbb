"""
Hooks: what a user writes, where they may stand, and how one is called.

L{ISMTPHooks} is the reference of every hook; an object with some of its methods will do.  A hook answers with a value,
a Deferred or an awaitable, and may raise L{SMTPError}; L{callHook} makes one kind of answer of all of them.
This module knows no protocol and no transport.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import CoroutineType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

# The order of a connection's life.
HOOK_NAMES = (
    "onConnect",
    "onSecure",
    "onHelo",
    "onAuth",
    "onMailFrom",
    "onRcptTo",
    "onData",
    "onReset",
    "onVrfy",
    "onClose",
    "onError",
)


class ISMTPHooks(Interface):
    """
    All hooks.  None has to be there; each may return its result, a L{Deferred} of it, or be C{async def}.

    While a hook is undecided the dialogue stands still.  L{SMTPError} refuses; any other exception is a fault of the
    hook: the client gets 451, the log a traceback, and C{onError} the failure.
    """

    def onConnect(session):  # type: ignore[no-untyped-def]
        """A client has connected; no greeting has been sent.  A refusal is 554 and closes.  The result is ignored."""

    def onSecure(transport, session):  # type: ignore[no-untyped-def]
        """
        A TLS handshake is done, that of an implicit TLS port or of STARTTLS.

        C{transport.getPeerCertificate()} is the client's certificate.  A refusal is 554 and closes.  The result is
        ignored.
        """

    def onHelo(hostname, session):  # type: ignore[no-untyped-def]
        """HELO, EHLO or LHLO.  The result is the text of the first reply line, or None."""

    def onAuth(auth, session):  # type: ignore[no-untyped-def]
        """
        An attempt to authenticate; L{Auth}.

        The result is an L{AuthResponse}, or the user itself; a false user refuses.
        """

    def onMailFrom(address, session):  # type: ignore[no-untyped-def]
        """MAIL FROM; L{Address}.  The result is the text of the 250 reply, or None."""

    def onRcptTo(address, session):  # type: ignore[no-untyped-def]
        """RCPT TO; L{Address}.  The result is the text of the 250 reply, or None."""

    def onData(stream, session):  # type: ignore[no-untyped-def]
        """
        A message begins; L{MessageStream}.

        The result is the text of the 250 reply or None; with LMTP it may be a list with an entry per recipient, each a
        text, None or an L{SMTPError}.
        """

    def onReset(session):  # type: ignore[no-untyped-def]
        """A transaction that had begun ends without a message.  The result is ignored."""

    def onVrfy(text, session):  # type: ignore[no-untyped-def]
        """VRFY.  The result is the text of the 250 reply, or None for 252."""

    def onClose(session):  # type: ignore[no-untyped-def]
        """The connection is gone; called once, last.  The result is ignored."""

    def onError(failure, session):  # type: ignore[no-untyped-def]
        """
        A L{Failure}: a hook crashed or the peer broke the protocol.  C{session} may be None.  The result is ignored.
        """


@implementer(ISMTPHooks)
class Hooks:
    """
    A base for an object of hooks.

    A method that a subclass does not override counts as absent and costs nothing.
    """

    def onConnect(self, session: Any) -> Any: ...
    def onSecure(self, transport: Any, session: Any) -> Any: ...
    def onHelo(self, hostname: str, session: Any) -> Any: ...
    def onAuth(self, auth: Any, session: Any) -> Any: ...
    def onMailFrom(self, address: Any, session: Any) -> Any: ...
    def onRcptTo(self, address: Any, session: Any) -> Any: ...
    def onData(self, stream: Any, session: Any) -> Any: ...
    def onReset(self, session: Any) -> Any: ...
    def onVrfy(self, text: str, session: Any) -> Any: ...
    def onClose(self, session: Any) -> Any: ...
    def onError(self, failure: Failure, session: Any) -> Any: ...


def hookOf(hooks: object, name: str) -> Callable[..., Any] | None:
    """The named hook of an object of hooks, None if it has no such method of its own."""
    hook = getattr(hooks, name, None)
    if not callable(hook) or getattr(hook, "__func__", None) is getattr(Hooks, name):
        return None
    return hook  # type: ignore[no-any-return]


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _begin(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """
    Do what C{Deferred.fromCoroutine} does, but make the Deferred only when the coroutine first has to wait: most hooks
    know their answer at once, and then a Deferred costs more than the hook.
    """
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration as end:
        return end.value
    return Deferred.fromCoroutine(_goOn(coroutine, awaited, context))


def _goOn(coroutine: Coroutine[Any, Any, Any], awaited: Any, context: Context) -> Generator[Any, Any, Any]:
    """
    The rest of a coroutine that has come to its first await: what C{yield from} does (PEP 380), from there, and in the
    context in which it has begun.
    """
    while True:
        resume: Callable[[Any], Any]
        try:
            value = yield awaited
        except GeneratorExit:
            coroutine.close()  # and not thrown into it: it may have been closed already
            raise
        except BaseException as error:
            resume, value = coroutine.throw, error
        else:
            resume = coroutine.send
        try:
            awaited = context.run(resume, value)
        except StopIteration as end:
            return end.value


def callHook(hook: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """
    Call a hook.

    @return: its result, a L{Failure} if it raised, or a L{Deferred} if it has yet to decide.
    """
    try:
        result = hook(*arguments)
        if type(result) is CoroutineType:
            return _begin(result)
        if result is None or isinstance(result, (str, Deferred)):
            return result
        if asyncio.isfuture(result):
            return Deferred.fromFuture(result)
        if inspect.isawaitable(result):
            return Deferred.fromCoroutine(_await(result))
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            # Nothing of such a hook has run: to take it for a success would lose the message.
            raise TypeError(f"a hook answered {result!r}; a generator needs inlineCallbacks, an async def no yield")
    except BaseException:
        # Even SystemExit, as a Deferred has it: a hook harms its own connection only (invariant 10).
        return Failure()
    return result
