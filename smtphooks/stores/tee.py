"""
The store of two stores: each message goes to one, and then to another.

In: the stream of C{onData}, which is spooled.  Out: a stream of the whole message for each store.
Rule: the message is accepted only where both have accepted it; the second is not asked for what the first refused.
This module knows no commands, no transport and no options, and not what the stores do.
"""

from __future__ import annotations

import inspect
from typing import Any

from twisted.python.failure import Failure

from smtphooks.replies import SMTPError
from smtphooks.session import Session
from smtphooks.stream import MessageStream


class Tee:
    """
    Hooks that store every message twice, C{smtphooks.stores.Tee}.

    If the second store fails, the client sends the message again, and the first has it twice: none is lost.
    """

    def __init__(self, a: Any, b: Any) -> None:
        """
        @param a: an object with C{onData}, asked first.
        @param b: the other one.
        @raise TypeError: if one has no C{onData}.
        """
        for name, store in (("a", a), ("b", b)):
            if not callable(getattr(store, "onData", None)):
                raise TypeError(f"option {name} is {store!r}, it wants a store, an object with onData")
        self._stores = (a, b)

    async def onData(self, stream: MessageStream, session: Session) -> Any:
        """
        Store the message in both.

        @return: what the first answered; over LMTP for each recipient, or what the second refused.
        @raise SMTPError: what a store refuses; and as L{MessageStream.spool} does.
        """
        spool = await stream.spool()
        a, b = self._stores
        first = await _answerOf(a.onData(spool.open(), session))
        if _refusesAll(first):
            return first
        return _together(first, await _answerOf(b.onData(spool.open(), session)))


async def _answerOf(result: Any) -> Any:
    while inspect.isawaitable(result):
        result = await result
    if isinstance(result, Failure):
        result = result.value
    if isinstance(result, BaseException):
        raise result  # an exception that is returned counts as raised
    if result is False:
        raise TypeError("False is no answer, a refusal is a raised SMTPError")
    return result


def _refusesAll(answer: Any) -> bool:
    return (
        isinstance(answer, (list, tuple)) and bool(answer) and all(isinstance(each, BaseException) for each in answer)
    )


def _together(first: Any, second: Any) -> Any:
    """With LMTP a recipient's mail is stored if both have stored it."""
    if not isinstance(second, (list, tuple)):
        return first
    if not isinstance(first, (list, tuple)):
        first = [first] * len(second)
    if len(first) != len(second):
        raise SMTPError("The stores disagree on the number of recipients", 451, "4.3.0")
    return [_worse(one, other) for one, other in zip(first, second, strict=True)]


def _worse(one: Any, other: Any) -> Any:
    return other if isinstance(other, BaseException) and not isinstance(one, BaseException) else one
