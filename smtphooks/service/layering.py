"""
Layering: the settings of objects of hooks in, the layers that are made of them out.

What is wrong is a L{ConfigError}, whose one sentence names the table of the layer.
This module knows nothing of listeners and of their options, and not how layers are asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from smtphooks.errors import OptionError
from smtphooks.hooks import authenticates, faultOf, hookOf
from smtphooks.hooktable import FURTHER, HOOK_NAMES
from smtphooks.layer import PASS, Layer
from smtphooks.service.hiding import scrubbedFor
from smtphooks.service.loading import lineOf, loadHooks, prepared
from smtphooks.service.settings import AuthSettings, ConfigError, HooksSettings, cause
from smtphooks.service.toml import toTOML

# Of these an object of hooks has one at least; beside them onStart and onStop may frame its life.
_HOOK_NAMES = (*HOOK_NAMES, *[name for name in FURTHER if name not in ("onStart", "onStop")])


@attrs.frozen
class Layers:
    """
    What decides for one or several listeners.

    @ivar settings: those of each layer, with absolute paths.
    @ivar named: the layers as a factory takes them, by name.
    @ivar haveDelivery: one of them takes messages.
    """

    settings: Sequence[HooksSettings]
    named: Mapping[str, Any]
    haveDelivery: bool

    def haveNo(self, hook: str) -> str:
        """The words for that no layer has a hook."""
        return f"{self.settings[0].title} has no {hook}" if len(self.settings) == 1 else f"no layer has {hook}"


def makeLayers(given: Sequence[HooksSettings], folder: str | None, auth: AuthSettings | None) -> Layers:
    """
    Load and make the objects of hooks.

    @param folder: where paths are relative to.
    @raise ConfigError: if one of them cannot be made, or if they do not fit together.
    """
    settings = [prepared(one, folder) for one in given]
    objects = [_makeHooks(one, auth) for one in settings]
    haveDelivery = _checkDelivery(settings, objects)
    if len(objects) == 1 and not settings[0].layer:
        return Layers(settings, {"hooks": objects[0]}, haveDelivery)
    named: dict[str, Any] = {"hooks": [_makeLayer(*made) for made in zip(settings, objects, strict=True)]}
    if not haveDelivery:
        named["onData"] = _standIn  # a factory of layers wants one; it has none where messages may be dropped
    return Layers(settings, named, haveDelivery)


def _standIn(stream: object, session: object) -> None:
    """In the place of C{onData}, while the factory is made."""


def _makeHooks(settings: HooksSettings, auth: AuthSettings | None) -> object:
    hooks = loadHooks(settings)
    try:
        # Every attribute that the factory will look at; a property may raise anything.
        for name in {*_HOOK_NAMES, *[name for name in dir(hooks) if name.startswith("on")]}:
            getattr(hooks, name, None)
    except Exception as error:
        sentence = (
            f"{settings.where}: {settings.name} has hooks that cannot be looked at, correct it:"
            f" {cause(error)}{lineOf(error)}"
        )
        raise ConfigError(scrubbedFor(sentence, settings)) from error
    found = {name for name in _HOOK_NAMES if hookOf(hooks, name)}
    if not found:
        raise ConfigError(f"{settings.where}: {settings.name} has no hook, give it a method such as onRcptTo or onData")
    fault = None if settings.layer is None else faultOf(hooks, {})
    if fault is not None:
        raise ConfigError(f"{settings.where}: {fault}")
    if auth is not None and authenticates(hooks):
        raise ConfigError(f"{auth.where} has checkers and {settings.title} has onAuth, leave one of them out")
    return hooks


def _checkDelivery(settings: Sequence[HooksSettings], objects: Sequence[object]) -> bool:
    """
    Whether one of the layers takes messages.

    @raise ConfigError: if more than one does, or if it might not be asked.
    """
    deliveries = [one for one, hooks in zip(settings, objects, strict=True) if hookOf(hooks, "onData")]
    if len(deliveries) > 1:
        first, second = deliveries[:2]
        raise ConfigError(
            f"{second.where}: {second.name} has onData, as {first.title} has, but one layer takes all messages, leave"
            " one of them out"
        )
    for one in deliveries:
        layer = one.layer or {}
        if layer.get("unless") or layer.get("onFault") == PASS:
            key = "unless" if layer.get("unless") else "onFault"
            raise ConfigError(
                f"{one.where}: {one.name} has onData, and {key} is {toTOML(layer[key])}, so messages could be accepted"
                f" and dropped, leave {key} out"
            )
    return bool(deliveries)


def _makeLayer(settings: HooksSettings, hooks: Any) -> Layer:
    try:
        return Layer(hooks, **(settings.layer or {}))
    except OptionError as error:
        raise ConfigError(f"{settings.where}: {error.said(toTOML)}") from None
