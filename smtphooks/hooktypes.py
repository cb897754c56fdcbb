"""
The types of hooks: what a type checker compares a user's hooks with.

A protocol for each hook says how it is called and what it may answer: L{OnRcptTo}, L{OnData} and so on, which fit
functions, methods, coroutine functions and whatever else can be called.  L{ObjectOfHooks} is any object that has one
of them.  Arguments are given by position, so a hook may name them as it likes.
This module is for type checkers only: it knows no factory, and nothing is checked with it at run time.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from twisted.python.failure import Failure
from typing_extensions import TypedDict

from smtphooks.replies import Reply
from smtphooks.sasl.auth import Auth
from smtphooks.session import Address, Session
from smtphooks.stream import MessageStream

# An exception that is returned counts as raised.  A Deferred and a future of asyncio are Awaitables.
_Text: TypeAlias = str | Exception | None
ReplyText: TypeAlias = _Text | Awaitable[_Text]
"""The text of the reply, None for the usual one, or what will be that."""

_Fate: TypeAlias = _Text | Sequence[_Text]
Delivery: TypeAlias = _Fate | Awaitable[_Fate]
"""L{ReplyText}, or with LMTP one of them for each recipient."""

Octets: TypeAlias = bytes | bytearray | memoryview
"""What a filter may yield."""


# --- A hook that is a function ---


class OnConnect(Protocol):
    """C{onConnect}; the result is ignored."""

    def __call__(self, session: Session, /) -> object: ...


class OnSecure(Protocol):
    """C{onSecure}; the result is ignored.  The transport is whichever of Twisted's the connection runs on."""

    def __call__(self, transport: Any, session: Session, /) -> object: ...


class OnHelo(Protocol):
    """C{onHelo}."""

    def __call__(self, hostname: str, session: Session, /) -> ReplyText: ...


class OnAuth(Protocol):
    """C{onAuth}; the result is an C{AuthResponse}, or the user, which may be any object."""

    def __call__(self, auth: Auth, session: Session, /) -> object: ...


class OnMailFrom(Protocol):
    """C{onMailFrom}."""

    def __call__(self, address: Address, session: Session, /) -> ReplyText: ...


class OnRcptTo(Protocol):
    """C{onRcptTo}."""

    def __call__(self, address: Address, session: Session, /) -> ReplyText: ...


class OnData(Protocol):
    """C{onData}."""

    def __call__(self, stream: MessageStream, session: Session, /) -> Delivery: ...


class OnReset(Protocol):
    """C{onReset}; the result is ignored."""

    def __call__(self, session: Session, /) -> object: ...


class OnVrfy(Protocol):
    """C{onVrfy}."""

    def __call__(self, text: str, session: Session, /) -> ReplyText: ...


class OnClose(Protocol):
    """C{onClose}; the result is ignored."""

    def __call__(self, session: Session, /) -> object: ...


class OnError(Protocol):
    """C{onError}; the result is ignored."""

    def __call__(self, failure: Failure, session: Session | None, /) -> object: ...


class OnReply(Protocol):
    """C{onReply}; the result is ignored."""

    def __call__(self, verb: str, reply: Reply, session: Session, /) -> object: ...


class InspectData(Protocol):
    """C{inspectData}; the result is ignored."""

    def __call__(self, stream: MessageStream, session: Session, /) -> object: ...


class FilterData(Protocol):
    """C{filterData}, an asynchronous generator."""

    def __call__(self, stream: MessageStream, session: Session, /) -> AsyncIterable[Octets]: ...


class OnStart(Protocol):
    """C{onStart} of an L{SMTPService}; the result is ignored."""

    def __call__(self, service: Any, /) -> object: ...


class OnStop(Protocol):
    """C{onStop} of an L{SMTPService}; the result is ignored."""

    def __call__(self, service: Any, /) -> object: ...


# --- An object with hooks: one that has this hook at least ---


class _HasOnConnect(Protocol):
    @property
    def onConnect(self) -> OnConnect: ...


class _HasOnSecure(Protocol):
    @property
    def onSecure(self) -> OnSecure: ...


class _HasOnHelo(Protocol):
    @property
    def onHelo(self) -> OnHelo: ...


class _HasOnAuth(Protocol):
    @property
    def onAuth(self) -> OnAuth: ...


class _HasOnMailFrom(Protocol):
    @property
    def onMailFrom(self) -> OnMailFrom: ...


class _HasOnRcptTo(Protocol):
    @property
    def onRcptTo(self) -> OnRcptTo: ...


class _HasOnData(Protocol):
    @property
    def onData(self) -> OnData: ...


class _HasOnReset(Protocol):
    @property
    def onReset(self) -> OnReset: ...


class _HasOnVrfy(Protocol):
    @property
    def onVrfy(self) -> OnVrfy: ...


class _HasOnClose(Protocol):
    @property
    def onClose(self) -> OnClose: ...


class _HasOnError(Protocol):
    @property
    def onError(self) -> OnError: ...


class _HasOnReply(Protocol):
    @property
    def onReply(self) -> OnReply: ...


class _HasInspectData(Protocol):
    @property
    def inspectData(self) -> InspectData: ...


class _HasFilterData(Protocol):
    @property
    def filterData(self) -> FilterData: ...


class _HasOnStart(Protocol):
    @property
    def onStart(self) -> OnStart: ...


class _HasOnStop(Protocol):
    @property
    def onStop(self) -> OnStop: ...


_Other = TypeVar("_Other")

# No type says "each of these methods, if it is there", so of an object that is not derived from Hooks one method that
# fits is all that a type checker asks for.  When none does, pyright explains the first few of these protocols, hence
# those first that people write first; and mypy explains only those that are not within an alias, hence the variable.
HooksOr: TypeAlias = (
    _HasOnRcptTo
    | _HasOnData
    | _HasOnMailFrom
    | _HasOnAuth
    | _HasFilterData
    | _HasOnHelo
    | _HasOnVrfy
    | _HasInspectData
    | _HasOnError
    | _HasOnReply
    | _HasOnSecure
    | _HasOnConnect
    | _HasOnReset
    | _HasOnClose
    | _HasOnStart
    | _HasOnStop
    | _Other
)
"""C{HooksOr[X]} is L{ObjectOfHooks}, or what it is given."""

ObjectOfHooks: TypeAlias = HooksOr[_HasOnStop]
"""An object that has hooks as methods, some of them or all."""


class HooksByName(TypedDict, total=False):
    """Hooks given by name, as arguments of a factory."""

    onConnect: OnConnect | None
    onSecure: OnSecure | None
    onHelo: OnHelo | None
    onAuth: OnAuth | None
    onMailFrom: OnMailFrom | None
    onRcptTo: OnRcptTo | None
    onData: OnData | None
    onReset: OnReset | None
    onVrfy: OnVrfy | None
    onClose: OnClose | None
    onError: OnError | None
    onReply: OnReply | None
