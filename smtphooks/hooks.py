"""
Hooks: what a user writes, and the one table that says what each hook is.

A new hook is a row of L{HOOKS}, a method of L{ISMTPHooks} and of L{Hooks}, an attribute of L{HookAttributes}, and the
call of it where its event happens.  A hook returns a value, a Deferred or an awaitable, and may raise L{SMTPError}.
This module knows no dialogue and no transport, and not how a hook is called.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Coroutine, Generator, Mapping
from types import CoroutineType
from typing import Any, TypeVar

import attrs
from zope.interface import Interface, implementer

from smtphooks.replies import Situation


@attrs.frozen
class Hook:
    """
    A row of the table.

    @ivar arguments: the names of what the hook is called with.
    @ivar situation: the codes of a refusal that names none.  None: the hook cannot refuse; what it raises is logged.
    @ivar isResultUsed: the result decides something, or is the text of a reply.
    @ivar mayAnswerFalse: False is a result like others.  Elsewhere it is a fault: other libraries refuse with it.
    """

    name: str
    arguments: tuple[str, ...]
    situation: Situation | None = None
    isResultUsed: bool = attrs.field(kw_only=True)
    mayAnswerFalse: bool = attrs.field(kw_only=True)

    @isResultUsed.default
    def _isResultUsed(self) -> bool:
        return self.situation is not None

    @mayAnswerFalse.default
    def _mayAnswerFalse(self) -> bool:
        return not self.isResultUsed


# In the order of a connection's life.  RFC 3463 and the registry of RFC 5248: one reply code means different things in
# different places (552 at RCPT is a full mailbox, after DATA a large message), hence enhanced codes for each hook.
_ROWS = (
    Hook(
        "onConnect",
        ("session",),
        Situation(554, {450: "4.7.1", 451: "4.7.1"}, closes=True),
        isResultUsed=False,
    ),
    Hook(
        "onSecure",
        ("transport", "session"),
        Situation(554, {450: "4.7.1", 451: "4.7.1", 550: "5.7.5", 554: "5.7.5"}, closes=True),
        isResultUsed=False,
    ),
    Hook("onHelo", ("hostname", "session"), Situation(550, {450: "4.7.1"})),
    Hook(
        "onAuth",
        ("auth", "session"),
        Situation(535, {450: "4.7.0", 451: "4.7.0", 454: "4.7.0", 534: "5.7.9", 550: "5.7.8", 554: "5.7.8"}),
        mayAnswerFalse=True,
    ),
    Hook(
        "onMailFrom",
        ("address", "session"),
        Situation(550, {450: "4.1.8", 451: "4.3.0", 452: "4.3.1", 552: "5.3.4", 553: "5.1.7"}),
    ),
    Hook(
        "onRcptTo",
        ("address", "session"),
        Situation(550, {450: "4.2.0", 452: "4.2.2", 550: "5.1.1", 551: "5.1.6", 552: "5.2.2", 553: "5.1.3"}),
    ),
    Hook("onData", ("stream", "session"), Situation(450, {450: "4.3.0", 452: "4.3.1", 552: "5.3.4", 554: "5.6.0"})),
    Hook("onReset", ("session",)),
    Hook("onVrfy", ("text", "session"), Situation(550, {550: "5.1.1", 551: "5.1.6", 553: "5.1.4"})),
    Hook("onClose", ("session",)),
    Hook("onError", ("failure", "session")),
    Hook("onReply", ("verb", "reply", "session")),
)

HOOKS = {hook.name: hook for hook in _ROWS}
HOOK_NAMES = tuple(HOOKS)
SITUATIONS = {hook.name: hook.situation for hook in _ROWS if hook.situation is not None}

# What else the server calls of an object of hooks, but which no function of its own can stand for: what a message goes
# through on its way to onData, and the life of the object.
FURTHER = {
    "inspectData": ("stream", "session"),
    "filterData": ("stream", "session"),
    "onStart": ("service",),
    "onStop": ("service",),
}
_ARGUMENTS = {**{hook.name: hook.arguments for hook in _ROWS}, **FURTHER}
_LIKE_A_HOOK = re.compile("on[A-Z]")


class ISMTPHooks(Interface):
    """
    All hooks, each of them optional.  A hook returns its result or a C{Deferred} of it, or is an C{async def}.

    While a hook is pending the dialogue waits.  L{SMTPError} refuses.  Any other exception is a fault of the hook: the
    client gets 451, the log a traceback, and C{onError} the failure.
    """

    def onConnect(session):  # type: ignore[no-untyped-def]
        """A client has connected; the greeting is yet to come.  A refusal is 554 and closes.  The result is ignored."""

    def onSecure(transport, session):  # type: ignore[no-untyped-def]
        """
        A TLS handshake is done, of implicit TLS or of STARTTLS.

        C{transport.getPeerCertificate()} is the client's certificate.  A refusal is 554 and closes.  The result is
        ignored.
        """

    def onHelo(hostname, session):  # type: ignore[no-untyped-def]
        """HELO, EHLO or LHLO.  The result is the text of the first reply line, or None."""

    def onAuth(auth, session):  # type: ignore[no-untyped-def]
        """
        An attempt to authenticate; L{Auth}.

        The result is an L{AuthResponse} or the user itself; a false user refuses.
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
        """A transaction ends without a message.  The result is ignored."""

    def onVrfy(text, session):  # type: ignore[no-untyped-def]
        """VRFY.  The result is the text of the 250 reply, or None for 252."""

    def onClose(session):  # type: ignore[no-untyped-def]
        """The connection is gone; called once, after all other hooks.  The result is ignored."""

    def onError(failure, session):  # type: ignore[no-untyped-def]
        """
        A hook crashed, or the peer broke the protocol; a C{Failure}.  C{session} may be None.  The result is ignored.
        """

    def onReply(verb, reply, session):  # type: ignore[no-untyped-def]
        """
        A reply was made to a command, or without one (C{verb} is empty then); it cannot be changed.

        C{reply.code}, C{reply.enhancedCode} and C{reply.lines} say what it is.  The result is ignored.
        """

    def inspectData(stream, session):  # type: ignore[no-untyped-def]
        """
        Read the whole message, while it arrives, and refuse it or not; it goes on only then.

        C{stream} is a L{MessageStream} of its own.  The result is ignored.
        """

    def filterData(stream, session):  # type: ignore[no-untyped-def]
        """An asynchronous generator: it reads a L{MessageStream}, and yields the octets that go on."""

    def onStart(service):  # type: ignore[no-untyped-def]
        """The service starts; it listens when the result is there, and does not start if this fails."""

    def onStop(service):  # type: ignore[no-untyped-def]
        """The service has stopped, and the last connection has ended."""


@implementer(ISMTPHooks)
class Hooks:
    """
    A base class for an object of hooks.

    A method that a subclass does not override counts as absent, and is never called.
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
    def onError(self, failure: Any, session: Any) -> Any: ...
    def onReply(self, verb: str, reply: Any, session: Any) -> Any: ...
    def inspectData(self, stream: Any, session: Any) -> Any: ...
    def filterData(self, stream: Any, session: Any) -> Any: ...
    def onStart(self, service: Any) -> Any: ...
    def onStop(self, service: Any) -> Any: ...


class HookAttributes:
    """The hooks of a factory, each an attribute that may be set at any time; None where a hook is absent."""

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
    onReply: Callable[..., Any] | None = None


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
        self.coroutine = coroutine

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
        found = {} if hooks is None else {name: hookOf(hooks, name) for name in _ARGUMENTS}
    except Exception as error:
        return f"option hooks is {hooks!r}, which raises {error!r} when its hooks are looked for"
    if hooks is not None and not any(found.values()):
        return f"option hooks is {hooks!r}, it wants an object with a method such as onRcptTo or onData"
    for name in dir(hooks):
        if _LIKE_A_HOOK.match(name) and name not in _ARGUMENTS and _isMethod(hooks, name):
            near = difflib.get_close_matches(name, _ARGUMENTS, n=1, cutoff=0)[0]
            return f"option hooks has a method {name}, which is no hook, did you mean {near}? (else begin it with _)"
    for name, hook in {**found, **named}.items():
        if hook is not None and not callable(hook):
            return f"option {name} is {hook!r}, it wants something that can be called"
        if hook is not None and not _takes(hook, _ARGUMENTS[name]):
            wanted = f"{name}({', '.join(_ARGUMENTS[name])})"
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
