"""
Asking: the factory of a listener in, words for what each of its hooks asks, and for what none of them decides, out.

C{--check} prints them as comments, and a listener logs its warning when it starts.
This module knows nothing of the configuration, and does not decide how layers are asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from smtphooks.composition import stagesOf
from smtphooks.connection.runner import TOLD
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import authenticates, choosesRecipients, nameOf
from smtphooks.hooktable import HOOK_NAMES
from smtphooks.layer import PASS, Layer
from smtphooks.service.endpoints import isBeyondLoopback

# In the order of life.
_ORDER = ("onStart", *HOOK_NAMES, "onStop")
_LIFE = ("onStart", "onStop")

# Where no layer has these hooks.
_WITHOUT = {
    "onRcptTo": "no layer, every recipient is accepted",
    "onData": "no layer, every message is accepted and dropped",
}


def questions(factory: SMTPServerFactory) -> Iterator[str]:
    """For each hook the layers in the order in which they are asked, with conditions, timeouts and faults."""
    for hook in _ORDER:
        if hook == "onData":
            yield from _stages(factory)
        layers = factory.layersWith(hook)
        if hook == "onStop":
            layers.reverse()
        if hook == "onAuth" and factory.onAuth is None:
            continue  # layers that could only refuse are not asked
        places = [_places(layers, hook, factory)] if layers else []
        if hook == "onAuth" and not any(authenticates(layer.hooks) for layer in layers):
            places.append("the checkers")
        if places:
            yield f"{hook}: {', '.join(places)}"
        elif hook in _WITHOUT:
            yield f"{hook}: {_WITHOUT[hook]}"


def _stages(factory: SMTPServerFactory) -> Iterator[str]:
    """What a message goes through before it is delivered; filters without an inspector in between share a line."""
    for hook, stages in groupby(stagesOf(factory.layers), itemgetter(0)):
        layers = [layer for _, those in stages for layer in those]
        areAtOnce = hook == "inspectData" and len(layers) > 1
        yield f"{hook}{', all at once' if areAtOnce else ''}: {_places(layers, hook, factory)}"


def _places(layers: Sequence[Layer], hook: str, factory: SMTPServerFactory) -> str:
    return ", ".join(_place(layer, hook, factory.options.hookTimeout) for layer in layers)


def _place(layer: Layer, hook: str, mostSeconds: float) -> str:
    """A layer, and in parentheses what holds for this hook of it."""
    holds = [] if hook in _LIFE else list(_conditions(layer, hook, mostSeconds))
    return f"{layer.name} ({'; '.join(holds)})" if holds else layer.name


def _conditions(layer: Layer, hook: str, mostSeconds: float) -> Iterator[str]:
    isTold = hook in TOLD
    if layer.unless and not isTold:
        yield f"unless {' or '.join(map(nameOf, layer.unless))}"
    if layer.hookTimeout:
        yield f"at most {min(layer.hookTimeout, mostSeconds or layer.hookTimeout):g} s"
    # A filter that fails has passed on a part of the message, so it fails the message whatever the layer says.
    if layer.onFault == PASS and not isTold and hook != "filterData":
        yield "a fault passes"


def maybeWarning(endpoint: str, factory: SMTPServerFactory) -> str | None:
    """What the operator should know of a listener that other hosts can connect to; None if nothing."""
    if not isBeyondLoopback(endpoint):
        return None
    layers = factory.layersWith("onRcptTo")
    # A function that was given by name is that of no layer.
    if any(choosesRecipients(layer.hooks) for layer in layers) or (factory.onRcptTo is not None and not layers):
        return None
    client = "any client" if factory.options.authOptional else "any client that has authenticated"
    return (
        f"no layer decides on recipients: {client} may send to any address, add a layer with onRcptTo such as"
        " smtphooks.layers:Recipients"
    )
