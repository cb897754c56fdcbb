"""
A layer: an object of hooks in its place among others, with what holds for all its hooks.

In: the object, and the conditions, the time limit and the behaviour on faults that were configured for it.  Out: a
checked value.  This module knows no connection, and not how layers are asked one after the other.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs

from smtphooks.errors import OptionError
from smtphooks.hooks import hookOf, nameOf
from smtphooks.hooktypes import HooksOr, ObjectOfHooks
from smtphooks.optionkinds import isText, listOf, oneOf, seconds
from smtphooks.session import Session
from smtphooks.syntax.networks import peersOf

Condition = Callable[[Session], object]

TEMPFAIL, PASS = "tempfail", "pass"


def _isAuthenticated(session: Session) -> bool:
    return session.user is not None


def _isSecure(session: Session) -> bool:
    return session.secure


_WORDS: dict[str, Condition] = {"authenticated": _isAuthenticated, "secure": _isSecure}


@attrs.define(eq=False)
class Layer:
    """
    A layer.

    @ivar hooks: the object of hooks.
    @ivar name: what the log and C{--check} call it; the name of its class if none is given.
    @ivar unless: clients whom it decides nothing about: C{"authenticated"}, C{"secure"}, addresses and networks, and
        functions of the L{Session}.  Hooks that are only told of something are told of these clients too.
    @ivar hookTimeout: seconds that each of its hooks may take, 0 for no limit but that of option C{hookTimeout}.
    @ivar onFault: what becomes of a crash or a timeout of its hooks: C{"tempfail"}, 451 for the client, or C{"pass"},
        as if the layer had not been asked.
    @ivar exempts: whether a session meets one of the conditions; None without conditions.
    @raise OptionError: for a wrong value.
    """

    hooks: ObjectOfHooks
    name: str = attrs.field(default=attrs.Factory(lambda layer: type(layer.hooks).__name__, takes_self=True))
    unless: Sequence[str | Condition] = listOf(
        (),
        'a list of "authenticated", "secure", addresses and networks, in Python also functions of the session',
        lambda item: isText(item) or callable(item),
    )
    hookTimeout: float = seconds(0)
    onFault: str = oneOf(TEMPFAIL, '"tempfail" or "pass"', (TEMPFAIL, PASS))
    exempts: Condition | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.exempts = _conditionOf(self.unless) if self.unless else None


GivenHooks: TypeAlias = HooksOr[Layer | Sequence[ObjectOfHooks | Layer] | None]
"""What a factory takes as option C{hooks}."""


def _conditionOf(unless: Sequence[str | Condition]) -> Condition:
    """One condition for all of them; the cheap ones are asked first."""
    networks = [item for item in unless if isinstance(item, str) and item not in _WORDS]
    for item in networks:
        if near := difflib.get_close_matches(item.lower(), _WORDS, n=1):
            sentence = "option unless is wrong: {!r} is neither an address nor a network, did you mean {!r}?"
            raise OptionError(sentence, item, near[0], options=["unless"])
    peers = peersOf("unless", networks)
    conditions = [_WORDS[item] for item in unless if isinstance(item, str) and item in _WORDS]
    if networks:
        conditions.append(lambda session: peers.trusts(session.remoteAddress))
    conditions += [_answeringAtOnce(item) for item in unless if not isinstance(item, str)]
    if len(conditions) == 1:
        return conditions[0]
    return lambda session: any(condition(session) for condition in conditions)


def _answeringAtOnce(condition: Condition) -> Condition:
    """The condition, but a coroutine or a Deferred, which is never false, exempts no client: it is a fault."""

    def holds(session: Session) -> object:
        answer = condition(session)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()  # or else Python warns that it was never awaited
            raise TypeError(f"a condition of unless answered {answer!r}, it has to answer at once")
        return answer

    return holds


def labelIn(layer: Layer, hook: str) -> str:
    """What the log calls a hook of this layer where there are several layers."""
    return f"{hook} of {layer.name}"


def labelOf(hooks: object, hook: object) -> str:
    """
    What the log calls a hook: its name, and that of the layer that has it where there are several.

    @param hooks: those of a factory.
    """
    layers: Sequence[Layer] = getattr(hooks, "layers", ())
    function = getattr(hooks, hook, None) if isinstance(hook, str) and len(layers) > 1 else None
    if function is not None and isinstance(hook, str):
        return next((labelIn(layer, hook) for layer in layers if hookOf(layer.hooks, hook) == function), hook)
    return nameOf(hook)
