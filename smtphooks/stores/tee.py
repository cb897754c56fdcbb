"""
The store of two stores: each message goes to one, and then to another.

In: the stream of C{onData}, which is spooled.  Out: a stream of the whole message for each store.
Rule: the message is accepted only where both have accepted it; the second is not asked for what the first refused.
This module knows no commands, no transport and no options, and not what the stores do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from smtphooks.errors import OptionError
from smtphooks.hooks import hookOf
from smtphooks.hooktable import FURTHER, HOOK_NAMES
from smtphooks.replies import SMTPError
from smtphooks.session import Session
from smtphooks.stream import MessageStream

# What it calls of its stores.
_CALLED = ("onData", "onStart", "onStop")


class Tee:
    """
    Hooks that store every message twice, C{smtphooks.stores.Tee}.

    If the second store fails, the client sends the message again, and the first has it twice: none is lost.
    Of the stores' other hooks only C{onStart} and C{onStop} are called.  A store that can do without the others that it
    has says C{needsOnlyData = True}.
    """

    # These are hooks only where one of the stores has them.
    onStart: Callable[[Any], Any] | None
    onStop: Callable[[Any], Any] | None

    def __init__(self, a: Any, b: Any) -> None:
        """
        @param a: an object with C{onData}, asked first.
        @param b: the other one.
        @raise OptionError: if one has no C{onData}, or a further hook that it needs, which would not be called.
        """
        for name, store in (("a", a), ("b", b)):
            if hookOf(store, "onData") is None:
                raise OptionError(
                    f"option {name} is {{!r}}, it wants a store, an object with onData; in a file"
                    ' {{use = "package.module:Name"}} with its options',
                    store,
                    options=[name],
                )
            for hook in (*HOOK_NAMES, *FURTHER):
                if hook not in _CALLED and hookOf(store, hook) and not _needsOnlyData(store):
                    raise OptionError(
                        f"option {name} has {hook}, which Tee would not call, put it into a layer of its own",
                        options=[name],
                    )
        self._stores = (a, b)
        self.onStart = self._start if self._having("onStart") else None
        self.onStop = self._stop if self._having("onStop") else None

    def _having(self, hook: str) -> list[Any]:
        return [store for store in self._stores if hookOf(store, hook)]

    async def _start(self, service: object) -> None:
        """Start both; if the second cannot start, the first is stopped again."""
        a, b = self._stores
        for store in self._having("onStart"):
            try:
                await _settled(store.onStart(service))
            except BaseException:
                if store is b and hookOf(a, "onStop"):
                    await _settled(a.onStop(service))
                raise

    async def _stop(self, service: object) -> None:
        """Stop both, the second first; one that fails does not keep the other from being stopped."""
        first, *rest = reversed(self._having("onStop"))
        try:
            await _settled(first.onStop(service))
        finally:
            for store in rest:
                await _settled(store.onStop(service))

    async def onData(self, stream: MessageStream, session: Session) -> Any:
        """
        Store the message in both.

        @return: what the first answered; over LMTP for each recipient, or what the second refused.
        @raise SMTPError: what a store refuses; and as L{MessageStream.spool} does.
        """
        spool = await stream.spool()
        a, b = self._stores
        first = await _answerOf(a, spool.open(), session)
        if isinstance(first, list) and first and all(isinstance(each, BaseException) for each in first):
            return first
        return _together(first, await _answerOf(b, spool.open(), session))


def _needsOnlyData(store: Any) -> bool:
    """Does it do without its other hooks?"""
    return getattr(store, "needsOnlyData", False) is True


async def _settled(result: Any) -> Any:
    """
    What a hook of a store answers in the end.

    @raise BaseException: what it raises or returns: that counts as raised.
    """
    while inspect.isawaitable(result):
        result = await result
    if isinstance(result, Failure):
        result = result.value
    if isinstance(result, BaseException):
        raise result
    return result


async def _answerOf(store: Any, stream: MessageStream, session: Session) -> Any:
    """
    What a store says about a message; a list if it has a result for each recipient.

    @raise TypeError: for what cannot be meant as a yes, such as False, or a generator, of which nothing has run.
    """
    answer = await _settled(store.onData(stream, session))
    if isinstance(answer, (list, tuple)):
        return [_resultOf(store, each) for each in answer]
    isClass = isinstance(answer, type) and issubclass(answer, BaseException)
    if answer is False or isClass or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        raise TypeError(f"{store!r} answered {answer!r}, a refusal is a raised SMTPError")
    return answer


def _resultOf(store: Any, result: Any) -> Any:
    if isinstance(result, Failure):
        result = result.value
    if result is None or isinstance(result, (str, BaseException)):
        return result
    raise TypeError(f"{store!r} answered {result!r} for a recipient, it takes a text, None or an SMTPError")


def _together(first: Any, second: Any) -> Any:
    """With LMTP a recipient's mail is stored if both have stored it."""
    if not isinstance(second, list):
        return first
    if not isinstance(first, list):
        first = [first] * len(second)
    if len(first) != len(second):
        raise SMTPError("The stores disagree on the number of recipients", 451, "4.3.0")
    return [_worse(one, other) for one, other in zip(first, second, strict=True)]


def _worse(one: Any, other: Any) -> Any:
    return other if isinstance(other, BaseException) and not isinstance(one, BaseException) else one
