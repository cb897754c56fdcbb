"""
Composition: layers in, the hooks of a factory out, made once.

A hook that one layer has is that layer's own method, and costs what it costs without layers; one that several have
becomes a L{Chain}.  What can be known to be wrong about layers is an L{OptionError} here.
This module knows no connection, and not how a chain asks its links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from smtphooks.connection.chain import Chain, Link, linkOf
from smtphooks.connection.passage import Passage
from smtphooks.errors import OptionError
from smtphooks.hooks import authenticates, faultOf, hookOf
from smtphooks.hooktable import HOOK_NAMES
from smtphooks.layer import PASS, Layer
from smtphooks.optionkinds import doubtsOf
from smtphooks.options import Options


def layersOf(hooks: object, named: Mapping[str, Any]) -> tuple[Layer, ...]:
    """
    The layers that are given as option C{hooks}: an object of hooks, a L{Layer}, or a list of both.

    @param named: hooks given by name beside them.
    @raise OptionError: if one is wrong by itself, or beside the others.
    """
    areMany = isinstance(hooks, (list, tuple))
    given: Sequence[Any] = hooks if areMany else () if hooks is None else [hooks]  # type: ignore[assignment]
    layers = tuple(each if isinstance(each, Layer) else Layer(each) for each in given)
    fault = faultOf(None, named) or next(filter(None, (faultOf(layer.hooks, {}) for layer in layers)), None)
    fault = fault or _deliveryFault(layers, named, areMany) or _authFault(layers)
    fault = fault or (_namedFault(layers, named) if areMany else None)
    if fault is not None:
        raise OptionError(fault, options=["hooks"])
    return layers


def _deliveryFault(layers: Sequence[Layer], named: Mapping[str, Any], areMany: bool) -> str | None:
    deliveries = [layer for layer in layers if hookOf(layer.hooks, "onData")]
    if len(deliveries) > 1:
        names = " and ".join(layer.name for layer in deliveries)
        return (
            f"option hooks has {len(deliveries)} layers with onData, {names}, it wants one of them, as one decides what"
            " becomes of a message; to store a message twice, use a store of stores such as smtphooks.stores.Tee"
        )
    if areMany and not deliveries and "onData" not in named:
        return "option hooks has no layer with onData, it wants one, last, that takes the messages"
    for layer in deliveries:
        if layer.unless or layer.onFault == PASS:
            which = "unless" if layer.unless else f'onFault = "{PASS}"'
            return (
                f"layer {layer.name} has onData and {which}, leave that out: a message that nobody stores would be lost"
            )
    return None


def _authFault(layers: Sequence[Layer]) -> str | None:
    """A layer that authenticates ends the question, so one behind it that only refuses would not be asked."""
    first: Layer | None = None
    for layer in layersWith(layers, "onAuth"):
        if authenticates(layer.hooks):
            first = first or layer
        elif first is not None:
            return (
                f"layer {layer.name} can only refuse in onAuth and stands behind layer {first.name}, which"
                " authenticates, put it in front"
            )
    return None


def _namedFault(layers: Sequence[Layer], named: Mapping[str, Any]) -> str | None:
    """A hook by name would silence the layers that have it, and so let in what they refuse."""
    for name in named:
        owner = next((layer for layer in layers if hookOf(layer.hooks, name)), None)
        if owner is not None:
            return (
                f"option {name} is given, and layer {owner.name} has {name}, put the function into a layer of its own"
            )
    return None


def doubtsAbout(options: Options, layers: Sequence[Layer]) -> list[str]:
    """What was probably not meant in the options of a factory, of its layers and of the objects in them."""
    doubts = [*doubtsOf(options)]
    for layer in layers:
        doubts += [f"layer {layer.name}: {doubt}" for part in (layer, layer.hooks) for doubt in doubtsOf(part)]
    return doubts + _doubtsOfOrder(layers)


def _doubtsOfOrder(layers: Sequence[Layer]) -> list[str]:
    """An object of hooks that has passed on by then what a hook behind it refuses says C{wantsToBeLast = True}."""
    isFirst = (i for i, layer in enumerate(layers) if getattr(layer.hooks, "wantsToBeLast", False) is True)
    first = next(isFirst, len(layers))
    behind = layersWith(layers[first + 1 :], "onRcptTo") or layersWith(layers[first + 1 :], "onMailFrom")
    if not behind:
        return []
    name = behind[0].name
    return [f"layer {name} stands behind layer {layers[first].name}, which passes on what {name} may refuse, swap them"]


def limitsOf(layers: Sequence[Layer]) -> dict[str, int]:
    """
    What layers want the server to advertise with LIMITS (RFC 9422), the least of each limit.

    An object of hooks has C{advertisedLimits} for that, a mapping of names of limits to numbers.
    """
    limits: dict[str, int] = {}
    for layer in layers:
        given = getattr(layer.hooks, "advertisedLimits", None)
        for name, limit in given.items() if isinstance(given, Mapping) else ():
            limits[name] = min(limit, limits.get(name, limit))
    return limits


def layersWith(layers: Sequence[Layer], name: str) -> list[Layer]:
    """Those of the layers that have a hook, or another method of hooks objects, of this name."""
    return [layer for layer in layers if hookOf(layer.hooks, name)]


def linksOf(layers: Sequence[Layer], name: str) -> list[Link]:
    """The hooks of this name that layers have, in order."""
    found = [(layer, hookOf(layer.hooks, name)) for layer in layers]
    return [linkOf(layer, name, hook) for layer, hook in found if hook is not None]


def maybePassage(layers: Sequence[Layer], clock: Callable[[], IReactorTime]) -> Passage | None:
    """What a message goes through on its way to C{onData}; None if nothing stands in between."""
    stages: list[Link | list[Link]] = []
    for name, those in stagesOf(layers):
        links = linksOf(those, name)
        stages += [links] if name == "inspectData" else links
    timeout = max([layer.hookTimeout for layer in layersWith(layers, "onData")], default=0.0)
    return Passage(stages, timeout, clock) if stages or timeout else None


def stagesOf(layers: Sequence[Layer]) -> list[tuple[str, list[Layer]]]:
    """
    The stages on the way of a message to C{onData}, in order: a hook, and the layers that it is asked of.

    Those of a stage of C{inspectData} look at the message at once; those of one of C{filterData} are put one into
    another.
    """
    stages: list[tuple[str, list[Layer]]] = []
    inspectors: list[Layer] = []
    for layer in layers:
        if hookOf(layer.hooks, "inspectData"):
            inspectors.append(layer)
        elif hookOf(layer.hooks, "filterData"):
            # What goes on behind this filter is another message, at which others can only look when it is there.
            stages += [*_inspection(inspectors), ("filterData", [layer])]
            inspectors = []
    return stages + _inspection(inspectors)


def _inspection(inspectors: list[Layer]) -> list[tuple[str, list[Layer]]]:
    """Layers that look at one message at once, and then filter it one after the other."""
    filters = layersWith(inspectors, "filterData")
    found = [("inspectData", inspectors), ("filterData", filters)]
    return [(name, those) for name, those in found if those]


def composed(layers: Sequence[Layer], chainOf: Callable[[str, list[Link]], Chain]) -> dict[str, Callable[..., Any]]:
    """The hooks of a factory by name."""
    hooks: dict[str, Callable[..., Any]] = {}
    for name in HOOK_NAMES:
        having = layersWith(layers, name)
        if not having:
            continue
        # What is to be done with a message is decided by one layer, whose limits the passage of the message keeps.
        isPlain = len(having) == 1 and (name == "onData" or not _isConditional(having[0]))
        hook = hookOf(having[0].hooks, name)
        hooks[name] = hook if isPlain and hook is not None else chainOf(name, linksOf(having, name))
    return hooks


def _isConditional(layer: Layer) -> bool:
    return bool(layer.unless or layer.hookTimeout or layer.onFault == PASS)
