"""
The effective configuration: what is in force after files, flags and defaults, as TOML (C{--check}).

In: a L{Configuration}.  Out: the text of a file that means the same.  No private key, secret or password is written.
This module checks nothing, and knows nothing of files, of twistd, or of the reactor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from smtphooks.options import Options, mustHide
from smtphooks.service.asking import questions
from smtphooks.service.checking import Configuration, Listener
from smtphooks.service.hiding import withoutSecrets
from smtphooks.service.settings import NOT_SHOWN, HooksSettings, withoutKeys
from smtphooks.service.toml import pair, table


def describe(configuration: Configuration) -> str:
    """
    A configuration as TOML, with the value of every option: a file that means the same to L{configure}.

    Options with one value for all listeners stand in C{[options]}; but an option of what listeners share stands where
    it was set, as a listener that sets it shares no longer.  In the place of a private key, a secret or a checker
    stands C{"(not shown)"}.  Comments before the first key say what the hooks of each listener ask.
    """
    each = [_optionsOf(listener) for listener in configuration.listeners]
    common = {
        name: value
        for name, value in each[0].items()
        if name not in Configuration.sharedNames and all(other.get(name) == value for other in each)
    }
    written = _written(configuration.shared)
    shared = {name: written[name] for name in Configuration.sharedNames if name in written}
    tables = [_top(configuration), *_layerTables(configuration.layers or ())]
    tables.append(table("[options]", {**common, **shared}))
    if configuration.auth is not None:
        tables.append(table("[auth]", {"checkers": [NOT_SHOWN] * len(configuration.auth.checkers)}))
    for listener, options in zip(configuration.listeners, each, strict=True):
        tables += _tablesOf(listener, {name: value for name, value in options.items() if name not in common})
    asked = "".join(f"# {line}\n" for line in _asked(configuration.listeners))
    return withoutKeys("\n".join(filter(None, [asked, *tables])))  # the text of option cert may hold the key as well


def _asked(listeners: Sequence[Listener]) -> Iterator[str]:
    """What each hook asks, for all listeners or for each of them; and what the operator should know of them."""
    # A line of an endpoint's description would not be part of a comment.
    names = [f"listener {number} ({' '.join(each.endpoint.split())})" for number, each in enumerate(listeners, 1)]
    asked = [list(questions(each.factory)) for each in listeners]
    areAlike = all(lines == asked[0] for lines in asked)
    for name, lines in [("every listener", asked[0])] if areAlike else zip(names, asked, strict=True):
        yield f"The layers that {name} asks, in this order:"
        yield from lines
    yield from _warnings(names, listeners)


def _warnings(names: Sequence[str], listeners: Sequence[Listener]) -> Iterator[str]:
    for name, each in zip(names, listeners, strict=True):
        if each.warning is not None:
            yield f"warning: {name}: {each.warning}"
    doubted: dict[str, list[str]] = {}
    for name, each in zip(names, listeners, strict=True):
        for doubt in each.doubts:
            doubted.setdefault(doubt, []).append(name)
    for doubt, those in doubted.items():
        yield f"warning: {'every listener' if 1 < len(those) == len(listeners) else ', '.join(those)}: {doubt}"


def _top(configuration: Configuration) -> str:
    """The keys above all tables."""
    keys: dict[str, Any] = _hooksKey(configuration.layers)
    if configuration.discard:
        keys["discard"] = True
    if configuration.metrics is not None:
        keys["metrics"] = configuration.metrics
    workers = configuration.workers
    if workers.workers is not None:
        keys |= {"workers": workers.workers, "workerTimeout": workers.timeout}
        if workers.control is not None:
            keys["control"] = workers.control
    return "".join(f"{pair(*item)}\n" for item in keys.items())


def _tablesOf(listener: Listener, options: Mapping[str, Any]) -> list[str]:
    settings = listener.settings
    own: dict[str, Any] = {"endpoint": settings.endpoint, **_hooksKey(settings.layers)}
    if settings.discard is not None:
        own["discard"] = settings.discard
    return [table("[[listener]]", {**own, **options}), *_layerTables(settings.layers or (), "listener.")]


def _hooksKey(layers: Sequence[HooksSettings] | None) -> dict[str, Any]:
    """The key C{hooks}, where objects of hooks do not stand in tables of layers."""
    names = [one.name for one in layers or () if one.layer is None]
    return {"hooks": names[0] if len(names) == 1 else names} if names else {}


def _layerTables(layers: Sequence[HooksSettings], prefix: str = "") -> Iterator[str]:
    """The tables of layers, or of the options of C{hooks}."""
    for one in layers:
        if one.layer is not None:
            yield table(f"[[{prefix}layer]]", {**_objectTable(one), **one.layer})
        elif one.options:
            yield table(f"[{prefix}hooks-options]", withoutSecrets(one.options, one.secrets))


def _objectTable(one: HooksSettings) -> dict[str, Any]:
    """What makes an object of hooks, and those among its options."""
    objects = {name: _objectTable(inner) for name, inner in one.objects.items()}
    return {"use": one.name, **withoutSecrets(one.options, one.secrets), **objects}


def _optionsOf(listener: Listener) -> dict[str, Any]:
    options = {**_written(listener.factory.options), "extensions": listener.extensions}
    shared = [name for name in Configuration.sharedNames if not listener.hasOwn([name])]
    return {name: value for name, value in options.items() if name not in shared}


def _written(given: Options) -> dict[str, Any]:
    """Options as TOML can hold them, without objects and without None; and without secrets."""
    options = _withoutSecrets(attrs.asdict(given, recurse=False))
    del options["portal"]  # [auth] stands for it
    options["sniOptions"] = {host: _withoutSecrets(own) for host, own in options["sniOptions"].items()}
    return {name: value for name, value in options.items() if value is not None}


def _withoutSecrets(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: NOT_SHOWN if mustHide(name, value) else value for name, value in options.items()}
