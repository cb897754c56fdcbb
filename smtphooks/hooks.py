"""
Hooks: what a user writes.

A new hook begins with its row in C{hooktable.py}, whose head says where else it is named, and ends with the call of it
where its event happens.  A hook returns a value, a Deferred or an awaitable, and may raise L{SMTPError}.
This module knows no dialogue and no transport, and not how a hook is called.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import AsyncIterable, Callable, Coroutine, Generator, Mapping
from types import CoroutineType
from typing import Any, TypeVar

from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from smtphooks.hooktable import ARGUMENTS
from smtphooks.hooktable import FURTHER as FURTHER
from smtphooks.hooktable import HOOK_NAMES as HOOK_NAMES
from smtphooks.hooktable import HOOKS as HOOKS
from smtphooks.hooktable import SITUATIONS as SITUATIONS
from smtphooks.hooktypes import (
    Delivery,
    Octets,
    OnAuth,
    OnClose,
    OnConnect,
    OnData,
    OnError,
    OnHelo,
    OnMailFrom,
    OnRcptTo,
    OnReply,
    OnReset,
    OnSecure,
    OnVrfy,
    ReplyText,
)
from smtphooks.replies import Reply
from smtphooks.sasl.auth import Auth
from smtphooks.session import Address, Session
from smtphooks.stream import MessageStream

_LIKE_A_HOOK = re.compile("on[A-Z]")


class ISMTPHooks(Interface):
    """
    All hooks, each of them optional.  A hook returns its result or a C{Deferred} of it, or is an C{async def}.

    While a hook is pending the dialogue waits.  L{SMTPError} refuses.  Any other exception is a fault of the hook: the
    client gets 451, the log a traceback, and C{onError} the failure.
    """

    def onConnect(session: Session, /) -> object:
        """A client has connected; the greeting is yet to come.  A refusal is 554 and closes.  The result is ignored."""

    def onSecure(transport: Any, session: Session, /) -> object:
        """
        A TLS handshake is done, of implicit TLS or of STARTTLS.

        C{transport.getPeerCertificate()} is the client's certificate.  A refusal is 554 and closes.  The result is
        ignored.
        """

    def onHelo(hostname: str, session: Session, /) -> ReplyText:
        """HELO, EHLO or LHLO.  The result is the text of the first reply line, or None."""

    def onAuth(auth: Auth, session: Session, /) -> object:
        """
        An attempt to authenticate; L{Auth}.

        The result is an L{AuthResponse} or the user itself; a false user refuses.
        """

    def onMailFrom(address: Address, session: Session, /) -> ReplyText:
        """MAIL FROM; L{Address}.  The result is the text of the 250 reply, or None."""

    def onRcptTo(address: Address, session: Session, /) -> ReplyText:
        """RCPT TO; L{Address}.  The result is the text of the 250 reply, or None."""

    def onData(stream: MessageStream, session: Session, /) -> Delivery:
        """
        A message begins; L{MessageStream}.

        The result is the text of the 250 reply or None; with LMTP it may be a list with an entry per recipient, each a
        text, None or an L{SMTPError}.
        """

    def onReset(session: Session, /) -> object:
        """A transaction ends without a message.  The result is ignored."""

    def onVrfy(text: str, session: Session, /) -> ReplyText:
        """VRFY.  The result is the text of the 250 reply, or None for 252."""

    def onClose(session: Session, /) -> object:
        """The connection is gone; called once, after all other hooks.  The result is ignored."""

    def onError(failure: Failure, session: Session | None, /) -> object:
        """
        A hook crashed, or the peer broke the protocol; a C{Failure}.  C{session} may be None.  The result is ignored.
        """

    def onReply(verb: str, reply: Reply, session: Session, /) -> object:
        """
        A reply was made to a command, or without one (C{verb} is empty then); it cannot be changed.

        C{reply.code}, C{reply.enhancedCode} and C{reply.lines} say what it is.  The result is ignored.
        """

    def inspectData(stream: MessageStream, session: Session, /) -> object:
        """
        Read the whole message, while it arrives, and refuse it or not; it goes on only then.

        C{stream} is a L{MessageStream} of its own.  The result is ignored.
        """

    def filterData(stream: MessageStream, session: Session, /) -> AsyncIterable[Octets]:
        """An asynchronous generator: it reads a L{MessageStream}, and yields the octets that go on."""

    def onStart(service: Any, /) -> object:
        """The service starts; it listens when the result is there, and does not start if this fails."""

    def onStop(service: Any, /) -> object:
        """The service has stopped, and the last connection has ended."""


@implementer(ISMTPHooks)
class Hooks:
    """
    A base class for an object of hooks.

    A method that a subclass does not override counts as absent, and is never called.
    """

    def onConnect(self, session: Session, /) -> object: ...
    def onSecure(self, transport: Any, session: Session, /) -> object: ...
    def onHelo(self, hostname: str, session: Session, /) -> ReplyText: ...
    def onAuth(self, auth: Auth, session: Session, /) -> object: ...
    def onMailFrom(self, address: Address, session: Session, /) -> ReplyText: ...
    def onRcptTo(self, address: Address, session: Session, /) -> ReplyText: ...
    def onData(self, stream: MessageStream, session: Session, /) -> Delivery: ...
    def onReset(self, session: Session, /) -> object: ...
    def onVrfy(self, text: str, session: Session, /) -> ReplyText: ...
    def onClose(self, session: Session, /) -> object: ...
    def onError(self, failure: Failure, session: Session | None, /) -> object: ...
    def onReply(self, verb: str, reply: Reply, session: Session, /) -> object: ...
    def inspectData(self, stream: MessageStream, session: Session, /) -> object: ...
    def filterData(self, stream: MessageStream, session: Session, /) -> AsyncIterable[Octets]:
        raise NotImplementedError

    def onStart(self, service: Any, /) -> object: ...
    def onStop(self, service: Any, /) -> object: ...


class HookAttributes:
    """The hooks of a factory, each an attribute that may be set at any time; None where a hook is absent."""

    onConnect: OnConnect | None = None
    onSecure: OnSecure | None = None
    onHelo: OnHelo | None = None
    onAuth: OnAuth | None = None
    onMailFrom: OnMailFrom | None = None
    onRcptTo: OnRcptTo | None = None
    onData: OnData | None = None
    onReset: OnReset | None = None
    onVrfy: OnVrfy | None = None
    onClose: OnClose | None = None
    onError: OnError | None = None
    onReply: OnReply | None = None


class Unavailable(Exception):
    """
    A hook cannot decide, as something that it needs is not there: a database, a scanner, a name server.

    It is a fault like any other exception, but one that the operator knows by its text: the log has one line of it and
    no traceback.
    """


class AsyncioCoroutine:
    """The result of a hook marked with L{asyncioHook}: a coroutine that must run as a task of asyncio."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine: Coroutine[Any, Any, Any] = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.coroutine.__await__()


_AsyncDef = TypeVar("_AsyncDef", bound=Callable[..., Coroutine[Any, Any, Any]])


def asyncioHook(hook: _AsyncDef) -> _AsyncDef:
    """
    Run an C{async def} hook as a task of asyncio, for C{asyncio.timeout}, task groups and libraries such as aiohttp.

    It needs Twisted's asyncio reactor.
    """

    @functools.wraps(hook)
    def call(*arguments: Any, **named: Any) -> Any:
        result = hook(*arguments, **named)
        return AsyncioCoroutine(result) if type(result) is CoroutineType else result

    return call  # type: ignore[return-value]


def hookOf(hooks: object, name: str) -> Callable[..., Any] | None:
    """The named hook of an object of hooks; None if the object has none, or only that of L{Hooks}."""
    hook = getattr(hooks, name, None)
    if not callable(hook) or getattr(hook, "__func__", None) is getattr(Hooks, name):
        return None
    return hook  # type: ignore[no-any-return]


def authenticates(hooks: object) -> bool:
    """May its C{onAuth} accept a user?  An object whose C{onAuth} only refuses says C{authenticates = False}."""
    return hookOf(hooks, "onAuth") is not None and getattr(hooks, "authenticates", True) is not False


def choosesRecipients(hooks: object) -> bool:
    """
    May its C{onRcptTo} refuse a recipient for not being one of ours?

    An object that looks at the client, at a rate or at the time alone says C{choosesRecipients = False}.
    """
    return hookOf(hooks, "onRcptTo") is not None and getattr(hooks, "choosesRecipients", True) is not False


def faultOf(hooks: object, named: Mapping[str, Any]) -> str | None:
    """
    What is wrong with an object of hooks, or with hooks given by name; None if nothing is.

    @param named: hooks by name, which replace those of the object.
    """
    if isinstance(hooks, type):
        return f"option hooks is {hooks!r}, it wants an instance of it"
    try:
        found = {} if hooks is None else {name: hookOf(hooks, name) for name in ARGUMENTS}
    except Exception as error:
        return f"option hooks is {hooks!r}, which raises {error!r} when its hooks are looked for"
    if hooks is not None and not any(found.values()):
        return f"option hooks is {hooks!r}, it wants an object with a method such as onRcptTo or onData"
    for name in dir(hooks):
        if _LIKE_A_HOOK.match(name) and name not in ARGUMENTS and _isMethod(hooks, name):
            near = difflib.get_close_matches(name, ARGUMENTS, n=1, cutoff=0)[0]
            return f"option hooks has a method {name}, which is no hook, did you mean {near}? (else begin it with _)"
    for name, hook in {**found, **named}.items():
        if hook is not None and not callable(hook):
            return f"option {name} is {hook!r}, it wants something that can be called"
        if hook is not None and not _takes(hook, ARGUMENTS[name]):
            wanted = f"{name}({', '.join(ARGUMENTS[name])})"
            return f"hook {name} is {nameOf(hook)}{_plainly(inspect.signature(hook))}, it is called as {wanted}"
    return None


def _isMethod(hooks: object, name: str) -> bool:
    try:
        return callable(getattr(hooks, name))
    except Exception:
        return False  # a property that raises is no method


def _takes(hook: Callable[..., Any], arguments: tuple[str, ...]) -> bool:
    """
    Can the hook be called with these arguments?

    A decorator may call the function that it wraps with more arguments, or fewer, than it takes itself.
    """
    return any(_binds(hook, arguments, isWrapped) for isWrapped in (True, False))


def _binds(hook: Callable[..., Any], arguments: tuple[str, ...], isWrapped: bool) -> bool:
    try:
        signature = inspect.signature(hook, follow_wrapped=isWrapped)
    except (TypeError, ValueError):
        return True  # some callables written in C have no signature
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _plainly(signature: inspect.Signature) -> inspect.Signature:
    """A signature without its annotations."""
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return inspect.Signature(parameters)


def nameOf(hook: object) -> str:
    """A hook's name, for the log and for errors."""
    return hook if isinstance(hook, str) else getattr(hook, "__qualname__", repr(hook))
