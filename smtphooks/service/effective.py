"""
The effective configuration: what is in force after files, flags and defaults, as TOML (C{--check}).

In: a L{Configuration}.  Out: the text of a file that means the same.  No private key, secret or password is written.
This module checks nothing, and knows nothing of files, of twistd, or of the reactor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from smtphooks.options import Options, mustHide
from smtphooks.service.checking import Configuration, Listener
from smtphooks.service.reading import NOT_SHOWN, withoutKeys
from smtphooks.service.toml import table, toTOML


def describe(configuration: Configuration) -> str:
    """
    A configuration as TOML, with the value of every option: a file that means the same to L{configure}.

    Options with one value for all listeners stand in C{[options]}; but an option of what listeners share stands where
    it was set, as a listener that sets it shares no longer.  In the place of a private key, a secret or a checker
    stands C{"(not shown)"}.
    """
    each = [_optionsOf(listener) for listener in configuration.listeners]
    common = {
        name: value
        for name, value in each[0].items()
        if name not in Configuration.sharedNames and all(other.get(name) == value for other in each)
    }
    written = _written(configuration.shared)
    shared = {name: written[name] for name in Configuration.sharedNames if name in written}
    tables = [_top(configuration)]
    if configuration.hooks is not None and configuration.hooks.options:
        tables.append(table("[hooks-options]", configuration.hooks.options))
    tables.append(table("[options]", {**common, **shared}))
    if configuration.auth is not None:
        tables.append(table("[auth]", {"checkers": [NOT_SHOWN] * len(configuration.auth.checkers)}))
    for listener, options in zip(configuration.listeners, each, strict=True):
        tables += _tablesOf(listener, {name: value for name, value in options.items() if name not in common})
    return withoutKeys("\n".join(tables))  # the text of option cert may hold the key as well


def _top(configuration: Configuration) -> str:
    """The keys above all tables."""
    hooks = [] if configuration.hooks is None else [f"hooks = {toTOML(configuration.hooks.name)}\n"]
    return "".join([*hooks, "discard = true\n" if configuration.discard else ""])


def _tablesOf(listener: Listener, options: Mapping[str, Any]) -> list[str]:
    settings = listener.settings
    own: dict[str, Any] = {"endpoint": settings.endpoint}
    if settings.hooks is not None:
        own["hooks"] = settings.hooks.name
    if settings.discard is not None:
        own["discard"] = settings.discard
    tables = [table("[[listener]]", {**own, **options})]
    if settings.hooks is not None and settings.hooks.options:
        tables.append(table("[listener.hooks-options]", settings.hooks.options))
    return tables


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
