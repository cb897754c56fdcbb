"""
Configuration: settings in, listeners with checked options and their hooks out; and back again, for people to read.

L{configure} makes objects of what a file or flags say.  Whatever is wrong is a L{ConfigError}, whose one sentence
names where, what, and what to do.  No key and no password is ever part of a text that is made here.
This module knows nothing of files, of twistd, or of the reactor.
"""

from __future__ import annotations

import datetime
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from smtphooks.checkers import makePortal
from smtphooks.credentials import isPath
from smtphooks.extensions import Extension
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import HOOK_NAMES, hookOf
from smtphooks.options import OptionError, isSecretPath, makeOptions, unknownName
from smtphooks.settings import NOT_SHOWN, AuthSettings, ConfigError, HooksSettings, ListenerSettings, Settings, cause


@attrs.frozen
class Listener:
    """
    A listener that can be started.

    @ivar extensions: the names of the extensions in force.
    """

    where: str
    endpoint: str
    extensions: Sequence[str]
    factory: SMTPServerFactory


@attrs.frozen
class Configuration:
    """Everything that a service needs; all listeners have the same hooks, and ask the same checkers."""

    hooks: HooksSettings
    listeners: Sequence[Listener]
    auth: AuthSettings | None = None


def configure(settings: Settings) -> Configuration:
    """
    Load the hooks and check all options.

    @raise ConfigError: if no server could be started with them.
    """
    said = settings.hooks
    hooks = _loadHooks(said)
    found = {name for name in HOOK_NAMES if hookOf(hooks, name)}
    if not found:
        raise ConfigError(f"{said.where}: {said.name} has no hook, give it a method such as onRcptTo or onData")
    if settings.auth is not None and "onAuth" in found:
        raise ConfigError(f"{settings.auth.where} has checkers and {said.name} has onAuth, leave one of them out")
    # The common ones by themselves first, so that a wrong one is not looked for at a listener.
    common = {**_loadExtensions(settings.where, settings.options), **settings.tls}
    _checkEach(settings.where, {name: common[name] for name in settings.options})
    _checkEach(settings.tlsWhere, settings.tls)
    # Finding this host's name can take a while, so it is done once.
    common["name"] = makeOptions({name: common[name] for name in ("name",) if name in common}).name
    if settings.auth is not None:
        common["portal"] = makePortal(settings.auth)
    return Configuration(
        said,
        [_makeListener(listener, settings, common, hooks) for listener in settings.listeners],
        settings.auth,
    )


def _checkEach(where: str, options: Mapping[str, Any]) -> None:
    """Check options one by one: what they make together is only known at a listener."""
    for name, value in options.items():
        try:
            makeOptions({"name": "localhost", "key": "a pair", "cert": "a pair", name: value})
        except OptionError as error:
            raise ConfigError(f"{where}: {error}") from None


def _makeListener(said: ListenerSettings, settings: Settings, common: Mapping[str, Any], hooks: object) -> Listener:
    try:
        factory = SMTPServerFactory(hooks=hooks, **{**common, **_loadExtensions(said.where, said.options)})
    except OptionError as error:
        raise ConfigError(f"{said.where}: {error}") from None
    useless = _uselessness(factory, settings.hooks.name)
    if useless is not None:
        raise ConfigError(f"{said.where}: {useless}")
    extensions = {**settings.options, **said.options}.get("extensions", [])
    return Listener(said.where, said.endpoint, extensions, factory)


def _uselessness(factory: SMTPServerFactory, hooks: str) -> str | None:
    """Why every message would be refused, None if it is not so."""
    options = factory.options
    isSecure = options.secure or options.secured or not (options.hideSTARTTLS or "STARTTLS" in options.disabledCommands)
    if options.needsUpgrade and not isSecure:
        return (
            "option needsUpgrade is true and STARTTLS is hidden or disabled, so every message would be refused, offer"
            " STARTTLS or set secure = true"
        )
    if options.authOptional:
        return None
    if factory.onAuth is None:
        return (
            f"option authOptional is false and {hooks} has no onAuth, so nobody could authenticate and every message"
            " would be refused, set authOptional = true, or name checkers below [auth] or with --auth"
        )
    if not isSecure and not options.allowInsecureAuth:
        return (
            "option authOptional is false and AUTH wants TLS, which STARTTLS could not begin, so every message would be"
            " refused, offer STARTTLS, set secure = true or allowInsecureAuth = true"
        )
    return None


def _loadHooks(said: HooksSettings) -> object:
    hooks = _load(said.where, said.name)
    if not callable(hooks):
        if said.options:
            raise ConfigError(f"{said.where}: {said.name} cannot be called, so remove [hooks-options] or name a class")
        return hooks
    try:
        return hooks(**said.options)
    except Exception as error:
        raise ConfigError(f"{said.where}: calling {said.name} failed, {said.fix}: {cause(error)}") from error


def _loadExtensions(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with extensions in place of their names."""
    names = options.get("extensions", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f'{where}: option extensions is {names!r}, it wants a list of "package.module:name"')
    extensions = [_load(f"{where}: extensions", name) for name in names]
    for name, extension in zip(names, extensions, strict=True):
        if not isinstance(extension, Extension):
            raise ConfigError(f"{where}: extensions: {name} is {extension!r}, it wants an Extension object")
    return {**options, "extensions": extensions} if "extensions" in options else dict(options)


def _load(where: str, name: str) -> object:
    """What C{package.module:Name} stands for; modules are found in the working folder too, as with C{python -m}."""
    moduleName, _, path = name.partition(":")
    if not all(part.isidentifier() for part in [*moduleName.split("."), *path.split(".")]):
        raise ConfigError(f'{where} is {name!r}, it wants "package.module:Name"')
    folder = os.getcwd()
    if folder not in sys.path:
        # Last, so that nothing in there takes the place of a module that anything else imports.
        sys.path.append(folder)
    try:
        found: object = importlib.import_module(moduleName)
    except Exception as error:
        raise ConfigError(
            f"{where}: module {moduleName} cannot be imported, correct it, its name or PYTHONPATH: {cause(error)}"
        ) from error
    for part in path.split("."):
        near = [other for other in dir(found) if not inspect.ismodule(getattr(found, other, None))]
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(f"{where}: module {moduleName}: {unknownName('name', part, near)}") from None
    return found


def toTOML(configuration: Configuration) -> str:
    """
    Write a configuration with every option that is in force, so that L{readSettings} makes the same of it.

    Options that are the same for all listeners stand in C{[options]}.  In the place of a private key, of a secret, and
    of a checker, stands C{"(not shown)"}.
    """
    each = [_optionsOf(listener) for listener in configuration.listeners]
    common = {name: value for name, value in each[0].items() if all(other.get(name) == value for other in each)}
    hooks = configuration.hooks
    tables = [f"hooks = {_toTOML(hooks.name)}\n"]
    if hooks.options:
        tables.append(_table("[hooks-options]", hooks.options))
    tables.append(_table("[options]", common))
    if configuration.auth is not None:
        tables.append(_table("[auth]", {"checkers": [NOT_SHOWN] * len(configuration.auth.checkers)}))
    for listener, options in zip(configuration.listeners, each, strict=True):
        own = {name: value for name, value in options.items() if name not in common}
        tables.append(_table("[[listener]]", {"endpoint": listener.endpoint, **own}))
    return "\n".join(tables)


def _optionsOf(listener: Listener) -> dict[str, Any]:
    options = _withoutKeys(attrs.asdict(listener.factory.options, recurse=False))
    if options["scramSecret"] is not None and not isSecretPath(options["scramSecret"]):
        options["scramSecret"] = NOT_SHOWN
    del options["portal"]  # [auth] has made it
    options["sniOptions"] = {host: _withoutKeys(own) for host, own in options["sniOptions"].items()}
    # TOML has neither objects nor None.
    return {name: value for name, value in {**options, "extensions": listener.extensions}.items() if value is not None}


def _withoutKeys(options: Mapping[str, Any]) -> dict[str, Any]:
    key = options.get("key")
    return dict(options) if key is None or isPath(key) else {**options, "key": NOT_SHOWN}


def _table(header: str, values: Mapping[str, Any]) -> str:
    return "".join(f"{line}\n" for line in [header, *(_pair(name, value) for name, value in values.items())])


def _pair(name: str, value: object) -> str:
    return f"{name if re.fullmatch('[A-Za-z0-9_-]+', name) else _toTOML(name)} = {_toTOML(value)}"


def _toTOML(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but for DEL, which TOML alone wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(_pair(name, item) for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_toTOML, value)) + "]"
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else repr(value)
