"""
The store of two stores: each message goes to one, and then to another.

In: the stream of C{onData}, which is spooled, and the stores' other hooks.  Out: a stream of the whole message for each
store, and one hook for those that both have.
Rule: what is accepted was accepted by both; the second is not asked for what the first refused.
This module knows no commands, no transport and no options, and not what the stores do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from smtphooks.errors import OptionError
from smtphooks.hooks import choosesRecipients, hookOf
from smtphooks.hooktable import HOOKS
from smtphooks.replies import SMTPError
from smtphooks.session import Session
from smtphooks.stream import MessageStream

log: Logger = Logger()

# What it cannot call of two stores: one user is authenticated, and both store the same message.
_NOT_CALLED = ("onAuth", "inspectData", "filterData")


class Tee:
    """
    Hooks that store every message twice, C{smtphooks.stores.Tee}.

    If the second store fails, the client sends the message again, and the first has it twice: none is lost.
    A store's other hooks are called as those of a layer are, except C{onAuth}, C{inspectData} and C{filterData}.

    @ivar choosesRecipients: one of the stores does.
    @ivar wantsToBeLast: one of the stores does.
    @ivar advertisedLimits: the least of each limit of the stores.
    """

    # These are hooks only where one of the stores has them.
    onStart: Callable[[Any], Any] | None
    onStop: Callable[[Any], Any] | None

    def __init__(self, a: Any, b: Any) -> None:
        """
        @param a: an object with C{onData}, asked first.
        @param b: the other one.
        @raise OptionError: if one has no C{onData}, or a hook that would not be called.
        """
        for name, store in (("a", a), ("b", b)):
            if hookOf(store, "onData") is None:
                raise OptionError(
                    f"option {name} is {{!r}}, it wants a store, an object with onData; in a file"
                    ' {{use = "package.module:Name"}} with its options',
                    store,
                    options=[name],
                )
            for hook in _NOT_CALLED:
                if hookOf(store, hook):
                    raise OptionError(
                        f"option {name} has {hook}, which Tee would not call, put it into a layer of its own",
                        options=[name],
                    )
        self._stores = (a, b)
        self.choosesRecipients: bool = any(map(choosesRecipients, self._stores))
        self.wantsToBeLast: bool = any(getattr(store, "wantsToBeLast", False) is True for store in self._stores)
        self.advertisedLimits: dict[str, int] = {}
        for store in self._stores:
            given = getattr(store, "advertisedLimits", None)
            for limit, value in given.items() if isinstance(given, Mapping) else ():
                self.advertisedLimits[limit] = min(value, self.advertisedLimits.get(limit, value))
        self.onStart = self._start if self._having("onStart") else None
        self.onStop = self._stop if self._having("onStop") else None
        for hook in HOOKS:
            having = self._having(hook)
            # An attribute is a hook only where one of the stores has it.
            if hook != "onData" and having:
                setattr(self, hook, getattr(having[0], hook) if len(having) == 1 else self._hook(hook))

    def _hook(self, name: str) -> Callable[..., Any]:
        """One hook for those of both stores."""
        if name == "onReply":
            return self._reply
        isTold = HOOKS[name].situation is None
        return partial(self._tell if isTold else self._ask, name)

    async def _ask(self, name: str, *arguments: Any) -> Any:
        """
        Ask both.

        @return: the first text.
        @raise SMTPError: what one of them refuses.
        """
        a, b = self._stores
        first = _checked(a, name, await _settled(getattr(a, name)(*arguments)))
        try:
            second = _checked(b, name, await _settled(getattr(b, name)(*arguments)))
        except Exception:
            if name == "onMailFrom":  # a transaction has begun for the first alone, and does not go on
                await _reset([a], arguments[-1])
            raise
        return second if first is None else first

    async def _tell(self, name: str, *arguments: Any) -> None:
        """Tell both, also if the first fails."""
        a, b = self._stores
        try:
            await _settled(getattr(a, name)(*arguments))
        except Exception:
            await _settled(getattr(b, name)(*arguments))
            raise
        await _settled(getattr(b, name)(*arguments))

    def _reply(self, *arguments: Any) -> None:
        """Of all hooks this one cannot be waited for."""
        first, *rest = self._having("onReply")
        try:
            first.onReply(*arguments)
        finally:
            for store in rest:
                store.onReply(*arguments)

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
        unasked = [*self._stores]
        try:
            answer = await self._storeIn(unasked, stream, session)
        except Exception:
            await _reset(unasked, session)
            raise
        await _reset(unasked, session)
        return answer

    async def _storeIn(self, unasked: list[Any], stream: MessageStream, session: Session) -> Any:
        """Ask each store, and take it from the list."""
        spool = await stream.spool()
        first = await _answerOf(unasked.pop(0), spool.open(), session)
        if isinstance(first, list) and first and all(isinstance(each, BaseException) for each in first):
            return first
        return _together(first, await _answerOf(unasked.pop(), spool.open(), session))


async def _reset(stores: Sequence[Any], session: Session) -> None:
    """Tell stores that the transaction ends without a message for them; what they raise changes nothing."""
    for store in stores:
        if hookOf(store, "onReset"):
            try:
                await _settled(store.onReset(session))
            except Exception:
                log.failure("onReset of {store!r} has failed", store=store)


def _checked(store: Any, name: str, answer: Any) -> Any:
    """
    A store's answer to a hook other than C{onData}.

    @raise TypeError: for what cannot be meant as a yes.
    """
    if HOOKS[name].isResultUsed and not (answer is None or isinstance(answer, str)):
        raise TypeError(f"{name} of {store!r} answered {answer!r}, a refusal is a raised SMTPError")
    return answer


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
