"""
Measuring: the hooks of a factory, with an observer told how long each takes to answer.

Connections look for hooks at L{MeasuredHooks} in the place of the factory.  It looks a hook up at the factory for each
event, so a hook that is set later is measured as well.  What a hook answers, raises or waits for is passed on as it is.
This module knows neither sessions nor what an answer means.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from time import perf_counter
from typing import Any

import attrs
from twisted.python.failure import Failure

from smtphooks.connection.calling import HookCaller, PendingAnswer, Rest
from smtphooks.connection.chain import Chain, Link
from smtphooks.connection.observer import Observer
from smtphooks.connection.passage import Passage
from smtphooks.connection.runner import isExpected
from smtphooks.hooks import hookOf
from smtphooks.hooktable import HOOK_NAMES

Tell = Callable[[float, bool], object]
"""Called when a hook has answered: how many seconds it took, and whether it raised something else than a refusal."""


class MeasuredHooks:
    """The hooks of a factory; every other attribute is the factory's own."""

    def __init__(self, hooks: Any, observer: Observer) -> None:
        """
        @param hooks: the factory.
        """
        self._hooks = hooks
        self._observer = observer
        self._known: dict[str, tuple[Any, Any]] = {}  # by name: the hook as it was last, and its measured form

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hooks, name)

    def measured(self, name: str) -> Any:
        """The measured form of a hook, or of the passage of messages; None where the factory has none."""
        value = getattr(self._hooks, name)
        if value is None:
            return None
        original, measured = self._known.get(name, (None, None))
        if original is not value and original != value:  # a bound method is another object each time, but equal
            measured = self._passage(value) if name == "passage" else self._hook(name, value)
            self._known[name] = (value, measured)
        return measured

    def _hook(self, name: str, hook: Any) -> Any:
        if isinstance(hook, Chain):
            return hook.withLinks([self._link(name, link) for link in hook.links], self)
        layer = next((layer.name for layer in self._hooks.layers if hookOf(layer.hooks, name) == hook), "")
        return Timed(name, hook, self._tell(name, layer))

    def _passage(self, passage: Passage) -> Passage:
        stages: list[Link | list[Link]] = []
        for stage in passage.stages:
            if isinstance(stage, Link):
                stages.append(attrs.evolve(stage, function=self._filter(stage)))
            else:
                stages.append([self._link("inspectData", link) for link in stage])
        return attrs.evolve(passage, stages=stages)

    def _link(self, name: str, link: Link) -> Link:
        return attrs.evolve(link, function=Timed(link.label, link.function, self._tell(name, link.layer)))

    def _filter(self, link: Link) -> Callable[..., Any]:
        return partial(_filter, link.function, self._tell("filterData", link.layer))

    def _tell(self, name: str, layer: str) -> Tell:
        return partial(self._observer.hookEnded, name, layer)


def _attribute(name: str) -> property:
    return property(lambda self: self.measured(name))


# Properties, as __getattr__ is called only after a search that fails: ten times the cost, for each event.
for _name in (*HOOK_NAMES, "passage"):
    setattr(MeasuredHooks, _name, _attribute(_name))


class Timed:
    """A hook that is timed.  It equals the hook itself: the log finds the layer of a hook by comparing."""

    __slots__ = ("_function", "_name", "_tell")

    def __init__(self, name: str, function: Callable[..., Any], tell: Tell) -> None:
        """
        @param name: what the log calls it.
        """
        self._name = name
        self._function = function
        self._tell = tell

    def __eq__(self, other: object) -> bool:
        return bool(self._function == other)

    def __hash__(self) -> int:
        return hash(self._function)

    def __call__(self, *arguments: Any) -> Any:
        began = perf_counter()
        try:
            result = self._function(*arguments)
        except BaseException:
            self._tell(perf_counter() - began, _isFault(Failure()))
            raise
        if result is None or type(result) is str:
            self._tell(perf_counter() - began, False)
            return result
        return Rest(_Waiting(self._name, result, began, self._tell))


class _Waiting:
    """What L{Rest} waits for, when a hook answers later, or something else than a text."""

    __slots__ = ("_answer", "_began", "_name", "_pending", "_result", "_tell")

    def __init__(self, name: str, result: Any, began: float, tell: Tell) -> None:
        self._answer: Any = None
        self._name = name
        self._result = result
        self._began = began
        self._tell: Tell | None = tell
        self._pending: PendingAnswer | None = None

    def goOn(self, caller: HookCaller) -> bool:
        """Begin; True if the answer is there."""
        result, self._result = self._result, None
        answer = caller.settle(self._name, result)
        if type(answer) is PendingAnswer:
            self._pending = answer
            return False
        self._ended(answer)
        answer = None  # A failure refers to this frame by its traceback; referring back would be a cycle.
        return True

    @property
    def answer(self) -> Any:
        """Its answer, once it is there.  It is read once, and not kept: that would be a cycle as well."""
        answer, self._answer = self._answer, None
        return answer

    def begin(self, fired: Callable[[Any], object], raised: Callable[[Failure], object]) -> None:
        """
        Wait for the answer.

        @param fired: called with it.
        @param raised: never called; a failure is an answer too.
        """
        pending = self._pending
        assert pending is not None

        def came() -> None:
            self._pending = None
            self._ended(pending.result)
            fired(self.answer)

        pending.whenThere(came)

    def cancel(self) -> None:
        """The answer is of no use any more."""
        if self._pending is not None:
            self._pending.cancel()
        # Who hangs for good, or goes on regardless, is the slowest of all, and would be told of last or never.
        self._tellOnce(False)

    def _ended(self, answer: Any) -> None:
        self._answer = answer
        self._tellOnce(isinstance(answer, Failure) and _isFault(answer))

    def _tellOnce(self, isFault: bool) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(perf_counter() - self._began, isFault)


def _filter(function: Callable[..., Any], tell: Tell, *arguments: Any) -> Any:
    generator = function(*arguments)
    return _Filtering(generator, tell) if hasattr(generator, "__aiter__") else generator


class _Filtering:
    """The asynchronous generator of a filter, timed to its end."""

    def __init__(self, generator: Any, tell: Tell) -> None:
        self._generator = generator
        self._octets: AsyncIterator[Any] = generator.__aiter__()
        self._tell: Tell | None = tell
        self._began = perf_counter()

    def __aiter__(self) -> _Filtering:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._octets.__anext__()
        except BaseException as error:
            self._ended(not isinstance(error, StopAsyncIteration) and _isFault(Failure()))
            raise

    async def aclose(self) -> None:
        self._ended(False)
        close = getattr(self._generator, "aclose", None)
        if close is not None:
            await close()

    def _ended(self, isFault: bool) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(perf_counter() - self._began, isFault)


def _isFault(failure: Failure) -> bool:
    """It is neither a refusal nor the end of a hook whose connection has ended."""
    return not isExpected(failure)
