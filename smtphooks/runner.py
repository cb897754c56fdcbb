"""
The runner: calls the hooks of one connection, and decides what becomes of what they raise.

A refusal is the hook's own word to the client; anything else is a fault of the hook, of which the client learns nothing
(invariant 5), the log all, and C{onError} the failure.
This module knows neither the dialogue nor the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks import replies
from smtphooks.hooks import callHook
from smtphooks.replies import SMTPError
from smtphooks.session import Session

# These hooks only learn of something: what they raise is logged and answers nobody.
TOLD = frozenset({"onReset", "onClose", "onError"})

HOOK_TIMED_OUT = SMTPError(
    replies.HOOK_TIMED_OUT.lines[0], replies.HOOK_TIMED_OUT.code, replies.HOOK_TIMED_OUT.enhancedCode
)

_log = Logger()

_CANCELLED = (CancelledError, asyncio.CancelledError)
# How a hook ends for which the connection, or its message, has come to an end.
_NO_NEWS = (*_CANCELLED, ConnectionLost, SMTPError)


class HookRunner:
    """
    @ivar session: what the hooks of this connection get.
    """

    __slots__ = ("_hooks", "session")

    def __init__(self, hooks: object, session: Session) -> None:
        """
        @param hooks: has every hook as an attribute, None for one that is absent; looked at for each event.
        """
        self._hooks = hooks
        self.session = session

    def find(self, hook: str | Callable[..., Any]) -> Callable[..., Any] | None:
        """The hook of that name; the handler of an extension's command stands for itself."""
        return getattr(self._hooks, hook) if isinstance(hook, str) else hook

    def refusal(self, hook: object, failure: Failure) -> SMTPError:
        """What the client gets for what a hook raised."""
        if isinstance(failure.value, SMTPError) and hook not in TOLD:
            return failure.value
        _log.failure(
            "hook {hook} crashed [{session}]",
            failure,
            hook=_nameOf(hook),
            session=self.session.id,
            peer=self.session.remoteAddress,
        )
        if hook != "onError":
            self.tell("onError", failure, self.session)
        return SMTPError(replies.HOOK_FAILED.lines[0], replies.HOOK_FAILED.code, replies.HOOK_FAILED.enhancedCode)

    def late(self, hook: object, result: object) -> None:
        """A hook has ended for whose answer nobody waits any more; that it was cancelled or cut short is no news."""
        if isinstance(result, Failure) and not _isNoNews(result):
            self.refusal(hook, result)

    def overdue(self, hook: object) -> None:
        """A hook has taken longer than it may; it is cancelled, and what it answers is of no interest any more."""
        _log.warn(
            "hook {hook} took too long [{session}]",
            hook=_nameOf(hook),
            session=self.session.id,
            peer=self.session.remoteAddress,
        )

    def fault(self, text: str) -> None:
        """A hook has answered what it may not."""
        _log.error("{fault} [{session}]", fault=text, session=self.session.id, peer=self.session.remoteAddress)

    def tell(self, name: str, *arguments: object) -> Deferred[None] | None:
        """
        Run a hook whose answer nobody waits for.

        @return: fires with None when the hook has ended; None if it has already.
        """
        hook = self.find(name)
        result = None if hook is None else callHook(hook, arguments)
        if isinstance(result, Deferred):
            return result.addBoth(self._told, name)
        self._told(result, name)
        return None

    def _told(self, result: object, name: str) -> None:
        if isinstance(result, Failure) and not result.check(*_CANCELLED):
            self.refusal(name, result)


def _nameOf(hook: object) -> str:
    return hook if isinstance(hook, str) else getattr(hook, "__qualname__", repr(hook))


def _isNoNews(failure: Failure) -> bool:
    # Twisted's HTTP client wraps what its producer failed with.
    reasons = getattr(failure.value, "reasons", None)
    wrapped = reasons if isinstance(reasons, list) else [failure]
    return any(reason.check(*_NO_NEWS) for reason in wrapped if isinstance(reason, Failure))
