"""
Asking: the factory of a listener in, words for what each of its hooks asks, and for what none of them decides, out.

C{--check} prints them as comments, and a listener logs its warning when it starts.
This module knows nothing of the configuration, and does not decide how layers are asked.
"""

from __future__ import annotations

from collections.abc import Iterator

from smtphooks.connection.runner import TOLD
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import HOOK_NAMES, nameOf
from smtphooks.layer import PASS, Layer
from smtphooks.service.endpoints import isBeyondLoopback

# In the order of life: a message is inspected and filtered before it is delivered.
_BEFORE = HOOK_NAMES[: HOOK_NAMES.index("onData")]
_AFTER = HOOK_NAMES[HOOK_NAMES.index("onData") :]
_ORDER = ("onStart", *_BEFORE, "inspectData", "filterData", *_AFTER, "onStop")
_LIFE = ("onStart", "onStop")

# Where no layer has these hooks.
_WITHOUT = {
    "onRcptTo": "no layer, every recipient is accepted",
    "onData": "no layer, every message is accepted and dropped",
}


def questions(factory: SMTPServerFactory) -> Iterator[str]:
    """For each hook the layers in the order in which they are asked, with conditions, timeouts and faults."""
    for hook in _ORDER:
        layers = factory.layersWith(hook)
        if hook == "onStop":
            layers.reverse()
        if layers:
            yield f"{hook}: {', '.join(_place(layer, hook, factory.options.hookTimeout) for layer in layers)}"
        elif hook == "onAuth" and factory.onAuth is not None:
            yield "onAuth: the checkers"
        elif hook in _WITHOUT:
            yield f"{hook}: {_WITHOUT[hook]}"


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
    if _decidesOnRecipients(factory) or not isBeyondLoopback(endpoint):
        return None
    client = "any client" if factory.options.authOptional else "any client that has authenticated"
    return (
        f"no layer decides on recipients: {client} may send to any address, add a layer with onRcptTo such as"
        " smtphooks.layers:Recipients"
    )


def _decidesOnRecipients(factory: SMTPServerFactory) -> bool:
    """Somebody has C{onRcptTo}, and not only layers that judge clients there, as DNSLists does, and say so."""
    layers = factory.layersWith("onRcptTo")
    return factory.onRcptTo is not None and (
        not layers or any(getattr(layer.hooks, "decidesOnRecipients", True) for layer in layers)
    )
