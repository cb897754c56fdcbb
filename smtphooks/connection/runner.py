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
from smtphooks.hooks import nameOf
from smtphooks.replies import SMTPError
from smtphooks.sasl.auth import AuthResponse
from smtphooks.session import Session

# These hooks only learn of something: what they raise is logged and answers nobody.
TOLD = frozenset({"onReset", "onClose", "onError"})

# The answer of these is ignored, or it may well be False.
_MAY_ANSWER_FALSE = TOLD | {"onConnect", "onSecure", "onAuth"}

HOOK_TIMED_OUT = replies.HOOK_TIMED_OUT.asError()

_log = Logger()

_CANCELLED = (CancelledError, asyncio.CancelledError)
# How a hook ends for which the connection, or its message, has come to an end.
_NO_NEWS = (*_CANCELLED, ConnectionLost, SMTPError)


class HookRunner:
    """
    @ivar session: what the hooks of this connection get.
    """

    __slots__ = ("_caller", "_hooks", "session")

    def __init__(
        self,
        hooks: object,
        session: Session,
        slowHook: float = 0,
        asyncioHooks: bool = False,
        context: Context | None = None,
    ) -> None:
        """
        @param hooks: has every hook as an attribute, None for one that is absent; looked at for each event.
        @param slowHook: seconds that a hook may hold the reactor before that is logged, 0 for no limit.
        @param asyncioHooks: every C{async def} hook runs as a task of asyncio.
        @param context: what the hooks run in; None for a copy of the one at hand.
        """
        self._hooks = hooks
        self._caller = HookCaller(slowHook, asyncioHooks, self._isSlow, self._cancellerRaised, context)
        self.session = session

    def ask(self, hook: str | Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """
        Call a hook.

        @param hook: its name; the handler of an extension's command stands for itself.
        @return: its answer, None if it is absent; a L{Failure} if it raised, or a L{PendingAnswer}.
        """
        function = getattr(self._hooks, hook) if isinstance(hook, str) else hook
        return None if function is None else self._caller.call(hook, function, arguments)

    def checked(self, hook: object, answer: Any) -> Any:
        """The answer, or a L{Failure} in the place of one that must not let anybody in."""
        if isinstance(answer, Failure):
            return _ofGroup(answer)
        if answer is False and hook not in _MAY_ANSWER_FALSE:
            # It was meant as a "no", in the words of another library.
            return Failure(TypeError("False is no answer, a refusal is a raised SMTPError"))
        if hook == "onAuth":
            user = answer.user if isinstance(answer, AuthResponse) else answer
            if _isNobody(user):
                return Failure(TypeError("onAuth answered a user that is an error, or that was not awaited"))
        return answer

    def refusal(self, hook: object, failure: Failure) -> SMTPError:
        """What the client gets for what a hook raised."""
        if isinstance(failure.value, SMTPError) and hook not in TOLD:
            return failure.value
        _log.failure(
            "hook {hook} crashed{hint} [{session}]",
            failure,
            hook=nameOf(hook),
            hint=f" ({WRONG_REACTOR})" if needsAsyncio(failure.value) else "",
            session=self.session.id,
            peer=self.session.remoteAddress,
        )
        if hook != "onError":
            self.tell("onError", failure, self.session)
        return replies.HOOK_FAILED.asError()

    def late(self, hook: object, result: object) -> None:
        """A hook has ended for whose answer nobody waits any more; that it was cancelled or cut short is no news."""
        if isinstance(result, Failure) and not _isNoNews(result):
            self.refusal(hook, result)

    def overdue(self, hook: object) -> None:
        """A hook has taken longer than it may; it is cancelled, and what it answers is of no interest any more."""
        _log.warn(
            "hook {hook} took too long [{session}]",
            hook=nameOf(hook),
            session=self.session.id,
            peer=self.session.remoteAddress,
        )

    def fault(self, text: str) -> None:
        """A hook has answered what it may not."""
        _log.error("{fault} [{session}]", fault=text, session=self.session.id, peer=self.session.remoteAddress)

    def tell(self, name: str, *arguments: object) -> PendingAnswer | None:
        """
        Run a hook whose answer nobody waits for.

        @return: None if it has ended.
        """
        answer = self.ask(name, arguments)
        if type(answer) is PendingAnswer:
            answer.then(self.told, name)
            return answer
        self.told(answer, name)
        return None

    def told(self, answer: object, name: str) -> None:
        """A hook has ended whose answer nobody waits for."""
        if isinstance(answer, Failure) and not answer.check(*_CANCELLED):
            self.refusal(name, answer)

    def _cancellerRaised(self, hook: object, failure: Failure) -> None:
        _log.failure(
            "the canceller of a Deferred raised, which hook {hook} waits for [{session}]",
            failure,
            hook=nameOf(hook),
            session=self.session.id,
            peer=self.session.remoteAddress,
        )

    def _isSlow(self, hook: object, seconds: float) -> None:
        _log.warn(
            "hook {hook} held the reactor for {milliseconds} ms, and all other connections with it [{session}]",
            hook=nameOf(hook),
            milliseconds=round(seconds * 1000),
            session=self.session.id,
            peer=self.session.remoteAddress,
        )


def _leavesOf(error: BaseException | None) -> list[BaseException]:
    """The exceptions in a group (PEP 654), groups in it included; of another exception itself."""
    members = getattr(error, "exceptions", None)
    if not isinstance(members, tuple):
        return [] if error is None else [error]
    return [leaf for member in members for leaf in _leavesOf(member)]


def _ofGroup(failure: Failure) -> Failure:
    """The refusal that a group of tasks has raised, for whoever raised it knew nothing of the group."""
    leaves = _leavesOf(failure.value)
    isRefusal = leaves != [failure.value] and all(isinstance(leaf, SMTPError) for leaf in leaves)
    return Failure(leaves[0]) if isRefusal else failure


def _isNobody(user: object) -> bool:
    """What is never meant as a user: an error, or something that should have been awaited."""
    if isinstance(user, CoroutineType):
        user.close()  # or else Python warns that it was never awaited
        return True
    isClass = isinstance(user, type) and issubclass(user, BaseException)
    return isClass or isinstance(user, (BaseException, Failure)) or inspect.isawaitable(user)


def _isNoNews(failure: Failure) -> bool:
    # Twisted's HTTP client wraps what its producer failed with.
    reasons = getattr(failure.value, "reasons", None)
    if isinstance(reasons, list):
        return any(reason.check(*_NO_NEWS) for reason in reasons if isinstance(reason, Failure))
    return all(isinstance(leaf, _NO_NEWS) for leaf in _leavesOf(failure.value))
