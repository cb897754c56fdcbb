"""
Configuration: TOML in, listeners with checked options and their hooks out.

What a file or a flag says is a plain value first (L{Settings}), which knows where each part was said; L{configure}
makes objects of it.  Whatever is wrong is a L{ConfigError}, whose one sentence names where, what, and what to do.
This module knows nothing of twistd, of its flags' syntax, or of the reactor.
"""

from __future__ import annotations

import datetime
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from smtphooks.extensions import Extension
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import HOOK_NAMES, hookOf
from smtphooks.options import OPTION_NAMES, OptionError, makeOptions, unknownName

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

DEFAULT_ENDPOINT = "tcp:2525:interface=127.0.0.1"
DEFAULT_MAILDIR = "maildir"

# What a file may hold: its keys, and what each one has to be.
_KEYS: dict[str, tuple[type, str]] = {
    "hooks": (str, 'a text, "package.module:Name"'),
    "hooks-options": (dict, "a table, [hooks-options]"),
    "options": (dict, "a table, [options]"),
    "listener": (list, "a list of tables, each under its own [[listener]]"),
}


class ConfigError(Exception):
    """Something in the configuration is wrong; its text is one sentence for people."""


@attrs.frozen
class HooksSettings:
    """
    Which hooks to use.

    @ivar where: what said so.
    @ivar name: C{package.module:Name}.
    @ivar options: what to call it with.
    @ivar fix: what to do if that fails.
    """

    where: str
    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    fix: str = "correct it or [hooks-options]"


@attrs.frozen
class ListenerSettings:
    """
    One listener.

    @ivar where: what said so; it holds the endpoint too.
    @ivar options: options for this listener alone, as TOML has them.
    """

    where: str
    endpoint: str
    options: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Settings:
    """
    All that was said, none of it tried yet.

    @ivar options: options for every listener, as TOML has them.
    @ivar where: what said these.
    """

    hooks: HooksSettings
    options: Mapping[str, Any]
    listeners: Sequence[ListenerSettings]
    where: str


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
    """Everything that a service needs; all listeners have the same hooks."""

    hooks: HooksSettings
    listeners: Sequence[Listener]


def maildirHooks(where: str, path: str) -> HooksSettings:
    """The Maildir store.  A daemon may leave its working folder, so the path is taken from the one of now."""
    options = {"path": os.path.abspath(path)}
    return HooksSettings(where, "smtphooks.maildir:MaildirHooks", options, "name another folder with --maildir")


def _defaultHooks() -> HooksSettings:
    return maildirHooks("the default Maildir", DEFAULT_MAILDIR)


def _defaultListeners() -> Sequence[ListenerSettings]:
    return [ListenerSettings(f"the default listener ({DEFAULT_ENDPOINT})", DEFAULT_ENDPOINT)]


def defaultSettings() -> Settings:
    """What is useful without any configuration: mail for anyone, taken from this host, and kept."""
    return Settings(_defaultHooks(), {"authOptional": True}, _defaultListeners(), "the defaults")


def readSettings(path: str) -> Settings:
    """
    Read a configuration file.

    @raise ConfigError: if it cannot be read, is no TOML, or holds what no configuration does.
    """
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read ({error.strerror}), check --config") from None
    except ValueError as error:  # not UTF-8 is one as well
        raise ConfigError(f"{path}: this is not TOML, correct it: {error}") from None
    for key, value in document.items():
        _checkKey(path, key, value)
    return Settings(
        _readHooks(path, document),
        _checkNames(f"{path}: [options]", document.get("options", {})),
        [_readListener(path, *numbered) for numbered in enumerate(document.get("listener", []), 1)]
        or _defaultListeners(),
        f"{path}: [options]",
    )


def _checkKey(path: str, key: str, value: object) -> None:
    if key in OPTION_NAMES:
        raise ConfigError(f"{path}: option {key} stands in no table, move it below [options]")
    if key not in _KEYS:
        raise ConfigError(f"{path}: {_unknown('key', key, _KEYS)}")
    kind, wants = _KEYS[key]
    if not isinstance(value, kind):
        raise ConfigError(f"{path}: {key} is {value!r}, it wants {wants}")


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Like L{unknownName}, with all that is known where none of it is near."""
    known = list(known)
    sentence = unknownName(what, name, known)
    return sentence if "did you mean" in sentence else f"{sentence}, known are {', '.join(known)}"


def _readHooks(path: str, document: Mapping[str, Any]) -> HooksSettings:
    if "hooks" in document:
        return HooksSettings(f"{path}: hooks", document["hooks"], document.get("hooks-options", {}))
    if "hooks-options" in document:
        raise ConfigError(
            f'{path}: [hooks-options] are there without hooks, add hooks = "package.module:Name" above all tables'
        )
    return _defaultHooks()


def _readListener(path: str, number: int, table: object) -> ListenerSettings:
    where = f"{path}: listener {number}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is {table!r}, it wants a table under its own [[listener]]")
    options = dict(table)
    endpoint = options.pop("endpoint", None)
    if not isinstance(endpoint, str):
        said = "missing" if endpoint is None else repr(endpoint)
        raise ConfigError(f'{where}: endpoint is {said}, it wants a Twisted server endpoint such as "tcp:25"')
    where = f"{where} ({endpoint})"
    return ListenerSettings(where, endpoint, _checkNames(where, options, ["endpoint"]))


def _checkNames(where: str, options: Mapping[str, Any], others: Iterable[str] = ()) -> Mapping[str, Any]:
    for name in options:
        if name in _KEYS:
            raise ConfigError(f"{where}: {name} is no option, move it above all tables")
        if name not in OPTION_NAMES:
            raise ConfigError(f"{where}: {unknownName('option', name, [*OPTION_NAMES, *others])}")
    return options


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
    # The common ones by themselves first, so that a wrong one is not looked for at a listener.
    common = _loadExtensions(settings.where, settings.options)
    try:
        # Finding this host's name can take a while, so it is done once.
        common["name"] = makeOptions(common).name
    except OptionError as error:
        raise ConfigError(f"{settings.where}: {error}") from None
    return Configuration(
        said,
        [_makeListener(listener, settings, common, hooks, found) for listener in settings.listeners],
    )


def _makeListener(
    said: ListenerSettings, settings: Settings, common: Mapping[str, Any], hooks: object, found: set[str]
) -> Listener:
    try:
        factory = SMTPServerFactory(hooks=hooks, **{**common, **_loadExtensions(said.where, said.options)})
    except OptionError as error:
        raise ConfigError(f"{said.where}: {error}") from None
    if not factory.options.authOptional and "onAuth" not in found:
        raise ConfigError(
            f"{said.where}: option authOptional is false and {settings.hooks.name} has no onAuth, so nobody could"
            " authenticate and every message would be refused, set authOptional = true"
        )
    extensions = {**settings.options, **said.options}.get("extensions", [])
    return Listener(said.where, said.endpoint, extensions, factory)


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


def cause(error: object) -> str:
    """What went wrong, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def toTOML(configuration: Configuration) -> str:
    """
    Write a configuration with every option that is in force, so that L{readSettings} makes the same of it.

    Options that are the same for all listeners stand in C{[options]}.
    """
    each = [_optionsOf(listener) for listener in configuration.listeners]
    common = {name: value for name, value in each[0].items() if all(other.get(name) == value for other in each)}
    hooks = configuration.hooks
    tables = [f"hooks = {_toTOML(hooks.name)}\n"]
    if hooks.options:
        tables.append(_table("[hooks-options]", hooks.options))
    tables.append(_table("[options]", common))
    for listener, options in zip(configuration.listeners, each, strict=True):
        own = {name: value for name, value in options.items() if name not in common}
        tables.append(_table("[[listener]]", {"endpoint": listener.endpoint, **own}))
    return "\n".join(tables)


def _optionsOf(listener: Listener) -> dict[str, Any]:
    options = attrs.asdict(listener.factory.options, recurse=False)
    # TOML has neither objects nor None.
    return {name: value for name, value in {**options, "extensions": listener.extensions}.items() if value is not None}


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
