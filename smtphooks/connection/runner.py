"""
The runner: the hooks of one connection, and what becomes of what they raise.

A refusal is the hook's own word to the client; anything else is a fault of the hook, of which the client learns nothing
(invariant 5), the log all, and C{onError} the failure.
This module knows neither the dialogue nor the transport, and not how a hook is called.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import Context
from types import CoroutineType
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.connection.calling import HookCaller, PendingAnswer, needsAsyncio
from smtphooks.connection.coroutines import WRONG_REACTOR
from smtphooks.hooks import Unavailable
from smtphooks.hooktable import HOOKS
from smtphooks.layer import labelOf
from smtphooks.replies import SMTPError
from smtphooks.sasl.auth import AuthResponse
from smtphooks.session import Session

# These hooks are only told of something: what they raise is logged, and the client gets no reply to it.
TOLD = frozenset(name for name, hook in HOOKS.items() if hook.situation is None)

# The answer of these is ignored, or it may well be False.
_MAY_ANSWER_FALSE = frozenset(name for name, hook in HOOKS.items() if hook.mayAnswerFalse)

_log = Logger(__name__)

_CANCELLED = (CancelledError, asyncio.CancelledError)
# How a hook ends after its connection, or its message, has come to an end.
_EXPECTED = (*_CANCELLED, ConnectionLost, SMTPError)


class HookRunner:
    """
    @ivar session: what the hooks of this connection get.
    @ivar hooks: has every hook as an attribute, None for one that is absent; looked at for each event.
    @ivar passage: what a message goes through on its way to C{onData}; None if nothing stands in between.
    """

    __slots__ = ("_caller", "hooks", "passage", "session")

    def __init__(
        self,
        hooks: Any,
        session: Session,
        slowHook: float = 0,
        asyncioHooks: bool = False,
        context: Context | None = None,
        caller: HookCaller | None = None,
    ) -> None:
        """
        @param slowHook: seconds that a hook may hold the reactor before that is logged, 0 for no limit.
        @param asyncioHooks: every C{async def} hook runs as a task of asyncio.
        @param context: what the hooks run in; None for a copy of the one at hand.
        @param caller: that of another runner of this connection, to be shared.
        """
        self.hooks: Any = hooks
        if caller is None:
            observer = _Observer(hooks, session)
            caller = HookCaller(slowHook, asyncioHooks, observer.isSlow, observer.cancellerRaised, context)
        self._caller = caller
        self.session: Session = session
        self.passage: Any = getattr(hooks, "passage", None)

    def ask(self, hook: str | Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """
        Call a hook.

        @param hook: its name; the handler of an extension's command stands for itself.
        @return: its answer, None if it is absent; a L{Failure} if it raised, or a L{PendingAnswer}.
        """
        function = getattr(self.hooks, hook) if isinstance(hook, str) else hook
        return None if function is None else self._caller.call(hook, function, arguments)

    @property
    def caller(self) -> HookCaller:
        """What calls the hooks of this connection."""
        return self._caller

    def nameOf(self, hook: object) -> str:
        """
        A hook's name, for the log.

        Where there are several layers it names the one that has the hook; of several that have it, the one to blame.
        """
        name, blamed = self._caller.blamed
        return blamed if name == hook else labelOf(self.hooks, hook)

    def checked(self, hook: object, answer: Any) -> Any:
        """The answer, or a L{Failure} in place of one that must not let a client in."""
        if isinstance(answer, Failure):
            return _ofGroup(answer)
        if answer is False and hook not in _MAY_ANSWER_FALSE:
            # It was meant as a "no", in the words of another library.
            return Failure(TypeError("False is no answer, a refusal is a raised SMTPError"))
        if hook == "onAuth":
            user = answer.user if isinstance(answer, AuthResponse) else answer
            if _isNoUser(user):
                return Failure(TypeError("onAuth answered a user that is an error, or that was not awaited"))
        return answer

    def refusalFor(self, hook: object, failure: Failure) -> SMTPError:
        """
        What the client gets for what a hook raised: its L{SMTPError}.

        Any other exception is a fault of the hook: it becomes 451 (C{replies.HOOK_FAILED}), and is logged and given to
        C{onError}.
        """
        if isinstance(failure.value, SMTPError) and hook not in TOLD:
            return failure.value
        self._logFault(hook, failure)
        if hook != "onError":
            self.notify("onError", failure, self.session)
        return replies.HOOK_FAILED.asError()

    def _logFault(self, hook: object, failure: Failure) -> None:
        error, name, session = failure.value, self.nameOf(hook), self.session
        if isinstance(error, Unavailable):
            _log.error(
                "hook {hook} cannot decide: {error} [{session}]",
                hook=name,
                error=error,
                session=session.id,
                peer=session.remoteAddress,
            )
            return
        _log.failure(
            "hook {hook} crashed{hint} [{session}]",
            failure,
            hook=name,
            hint=f" ({WRONG_REACTOR})" if needsAsyncio(error) else "",
            session=session.id,
            peer=session.remoteAddress,
        )

    def logLate(self, hook: object, result: object) -> None:
        """
        A hook has ended after its answer had become useless.

        That it was cancelled, or that its message was cut short, is expected and not logged.
        """
        if hook == "onClose":
            self.logFailure(hook, result)  # Nothing ends before it does.
        elif isinstance(result, Failure) and not isExpected(result):
            self.refusalFor(hook, result)

    def cancel(self, hook: object, pending: PendingAnswer) -> None:
        """Cancel a hook whose answer is of no use any more; what it still raises is logged."""
        pending.whenThere(lambda: self.logLate(hook, pending.result))
        pending.cancel()

    def logTimedOut(self, hook: object) -> None:
        """A hook has taken longer than option C{hookTimeout} allows."""
        _log.warn(
            "hook {hook} took too long [{session}]",
            hook=self.nameOf(hook),
            session=self.session.id,
            peer=self.session.remoteAddress,
        )

    def logFault(self, text: str) -> None:
        """A hook has answered what it may not."""
        _log.error("{fault} [{session}]", fault=text, session=self.session.id, peer=self.session.remoteAddress)

    def notify(self, name: str, *arguments: object) -> None:
        """Call a hook whose answer is ignored and not waited for."""
        answer = self.ask(name, arguments)
        if type(answer) is PendingAnswer:
            answer.whenThere(lambda: self.logFailure(name, answer.result))
        else:
            self.logFailure(name, answer)

    def logFailure(self, name: str, answer: object) -> None:
        """A hook whose answer is ignored has ended; it may have failed."""
        if isinstance(answer, Failure) and not answer.check(*_CANCELLED):
            self.refusalFor(name, answer)


class _Observer:
    """
    Logs what is noticed while a hook of a connection runs.

    It is no part of the runner, as the caller of hooks knows it: the two would keep each other in memory.
    """

    __slots__ = ("_hooks", "_session")

    def __init__(self, hooks: object, session: Session) -> None:
        self._hooks = hooks
        self._session = session

    def cancellerRaised(self, hook: object, failure: Failure) -> None:
        _log.failure(
            "the canceller of a Deferred raised, which hook {hook} waits for [{session}]",
            failure,
            hook=labelOf(self._hooks, hook),
            session=self._session.id,
            peer=self._session.remoteAddress,
        )

    def isSlow(self, hook: object, seconds: float) -> None:
        # A hook that several layers have knows which of them it was.
        function = getattr(self._hooks, hook, None) if isinstance(hook, str) else None
        slowest: str = getattr(function, "slowest", "")
        _log.warn(
            "hook {hook} held the reactor for {milliseconds} ms, and all other connections with it [{session}]",
            hook=slowest or labelOf(self._hooks, hook),
            milliseconds=round(seconds * 1000),
            session=self._session.id,
            peer=self._session.remoteAddress,
        )


def _leavesOf(error: BaseException | None) -> list[BaseException]:
    """The exceptions in a group (PEP 654), groups in it included; of another exception itself."""
    members = getattr(error, "exceptions", None)
    # An exception of other code may have the attribute as well, and nothing in it.
    if not isinstance(members, tuple) or not members:
        return [] if error is None else [error]
    return [leaf for member in members for leaf in _leavesOf(member)]


def _ofGroup(failure: Failure) -> Failure:
    """The first refusal of an exception group that holds nothing else: a task knows nothing of its group."""
    leaves = _leavesOf(failure.value)
    isRefusal = leaves != [failure.value] and all(isinstance(leaf, SMTPError) for leaf in leaves)
    return Failure(leaves[0]) if isRefusal else failure


def _isNoUser(user: object) -> bool:
    """It is never meant as a user: an error, or something that should have been awaited."""
    if isinstance(user, CoroutineType):
        user.close()  # or else Python warns that it was never awaited
        return True
    isClass = isinstance(user, type) and issubclass(user, BaseException)
    return isClass or isinstance(user, (BaseException, Failure)) or inspect.isawaitable(user)


def isExpected(failure: Failure) -> bool:
    """Is this how a hook ends after its connection, or its message, has come to an end?"""
    # Twisted's HTTP client wraps what its producer failed with.
    reasons = getattr(failure.value, "reasons", None)
    if isinstance(reasons, list):
        return any(reason.check(*_EXPECTED) for reason in reasons if isinstance(reason, Failure))
    return all(isinstance(leaf, _EXPECTED) for leaf in _leavesOf(failure.value))
