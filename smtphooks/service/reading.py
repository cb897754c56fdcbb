"""
Reading: a configuration file in, settings out, which are plain values that know where each of them stands.

Nothing is loaded here: no module is imported and no certificate read.  What is wrong regardless of that is a
L{ConfigError}, whose one sentence says where it is wrong, what is wrong, and what to do, and holds no key or password.
This module knows nothing of twistd, of its flags, or of the objects that are made of the settings.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

import attrs

from smtphooks.errors import unknownName
from smtphooks.options import HOST_OPTIONS, OPTION_NAMES, isPath
from smtphooks.service.hiding import withoutSecrets
from smtphooks.service.settings import (
    LAYER_OPTIONS,
    NOT_SHOWN,
    AuthSettings,
    ConfigError,
    HooksSettings,
    ListenerSettings,
    Settings,
    WorkerSettings,
    folderOf,
    unknownOf,
    workersFrom,
)
from smtphooks.service.toml import toTOML

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

DEFAULT_ENDPOINT = "tcp:2525:interface=127.0.0.1"
DEFAULT_MAILDIR = "maildir"

# The keys of a file, with the types of each, and the words for it.
_KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "hooks": ((str, list), 'a text, "package.module:Name", or a list of them'),
    "hooks-options": (dict, "a table, [hooks-options]"),
    "discard": (bool, "true or false"),
    "options": (dict, "a table, [options]"),
    "tls": (dict, "a table, [tls]"),
    "auth": (dict, "a table, [auth]"),
    "listener": (list, "a list of tables, each under its own [[listener]]"),
    "layer": (list, "a list of tables, each under its own [[layer]]"),
    "metrics": (str, 'a Twisted server endpoint such as "tcp:9125:interface=127.0.0.1"'),
    "workers": (object, ""),
    "workerTimeout": ((int, float), "a number of seconds, 0 for no limit"),
    "control": (str, 'the path of a UNIX socket such as "/run/smtphooks/control"'),
}

# The keys that a [[listener]] may have too, beside its endpoint and options.
_LISTENER_KEYS = ("hooks", "hooks-options", "layer", "discard")

# The keys of a [[layer]], beside the options of its class.
_LAYER_KEYS = ("use", *LAYER_OPTIONS)


def maildirHooks(where: str, path: str) -> HooksSettings:
    """The Maildir store.  The path is made absolute now, as a daemon may leave the working folder."""
    options = {"path": os.path.abspath(path)}
    return HooksSettings(where, "smtphooks.stores:Maildir", options, fix="name another folder with --maildir")


def _defaultHooks() -> HooksSettings:
    return maildirHooks("the default Maildir", DEFAULT_MAILDIR)


def _defaultListeners(before: str = "") -> Sequence[ListenerSettings]:
    return [ListenerSettings(f"{before}the default listener ({DEFAULT_ENDPOINT})", DEFAULT_ENDPOINT)]


def defaultSettings() -> Settings:
    """The settings without file and flags: clients on this host, mail for anyone, stored in a Maildir."""
    return Settings([_defaultHooks()], {"authOptional": True}, _defaultListeners())


def readSettings(path: str) -> Settings:
    """
    Read a configuration file.

    @raise ConfigError: if it cannot be read, is not TOML, or has an unknown key, an unknown option or a wrong type.
    """
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read ({error.strerror}), check --config") from None
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ConfigError(f"{path}: this is not TOML, correct it: {error}") from None
    for key, value in document.items():
        _checkKey(path, key, value)
    folder = folderOf(path)
    options = _checkNames(f"{path}: [options]", document.get("options", {}))
    tls = _readTLS(path, document.get("tls", {}))
    for name in tls:
        if name in options:
            raise ConfigError(f"{path}: option {name} stands in [options] and in [tls], leave one out")
    return Settings(
        _readLayers(f"{path}:", document) or [_defaultHooks()],
        _absolute(folder, options),
        [_readListener(path, *numbered) for numbered in enumerate(document.get("listener", []), 1)]
        or _defaultListeners(f"{path}: "),
        path,
        _absolute(folder, tls),
        _readAuth(path, document["auth"]) if "auth" in document else None,
        document.get("discard", False),
        document.get("metrics"),
        _readWorkers(path, document),
    )


def _readWorkers(path: str, document: Mapping[str, Any]) -> WorkerSettings:
    where = f"{path}:"
    timeout = document.get("workerTimeout", 30.0)
    if isinstance(timeout, bool) or not 0 <= timeout < inf:
        raise ConfigError(f"{where} workerTimeout is {toTOML(timeout)}, it wants {_KEYS['workerTimeout'][1]}")
    workers = workersFrom(f"{where} workers", document["workers"]) if "workers" in document else None
    control = document.get("control")
    return WorkerSettings(workers, float(timeout), None if control is None else os.path.join(folderOf(path), control))


def _absolute(folder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with paths relative to the folder of the file: a service may run in any folder."""
    found = {name: os.path.join(folder, value) if isPath(name, value) else value for name, value in options.items()}
    hosts = found.get("sniOptions")
    if isinstance(hosts, Mapping):
        found["sniOptions"] = {
            host: _absolute(folder, own) if isinstance(own, Mapping) else own for host, own in hosts.items()
        }
    return found


def _readTLS(path: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    """C{[tls]} as options."""
    options = dict(table)
    hosts = options.pop("sni", None)
    _checkTLSNames(f"{path}: [tls]", options, [*HOST_OPTIONS, "sni"])
    if hosts is None:
        return options
    if not isinstance(hosts, dict) or not all(isinstance(own, dict) for own in hosts.values()):
        raise ConfigError(
            f'{path}: [tls]: sni is {toTOML(hosts)}, it wants a table per name, [tls.sni."mail.example.org"]'
        )
    for host, own in hosts.items():
        _checkTLSNames(f"{path}: [tls.sni.{toTOML(host)}]", own, HOST_OPTIONS)
    return {**options, "sniOptions": hosts}


def _checkTLSNames(where: str, options: Iterable[str], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            if name in OPTION_NAMES and name != "sniOptions":
                raise ConfigError(f"{where}: {name} is no option of TLS, move it below [options] or a [[listener]]")
            raise ConfigError(f"{where}: {unknownOf('option', name, known)}")


def _readAuth(path: str, table: Mapping[str, Any]) -> AuthSettings:
    where = f"{path}: [auth]"
    for key in table:
        if key != "checkers":
            raise ConfigError(f"{where}: {unknownOf('key', key, ['checkers'])}")
    checkers = table.get("checkers")
    # The value may be a password.
    if not isinstance(checkers, list) or not checkers or not all(isinstance(checker, str) for checker in checkers):
        raise ConfigError(f'{where}: checkers are {NOT_SHOWN}, they want a list of texts such as ["file:passwd"]')
    return fileCheckers(AuthSettings(where, checkers), folderOf(path))


def fileCheckers(auth: AuthSettings, folder: str) -> AuthSettings:
    """The same settings, with the paths of C{file} checkers relative to a folder."""
    paths = [checker.partition(":") for checker in auth.checkers]
    return attrs.evolve(
        auth,
        checkers=[
            f"{kind}:{os.path.join(folder, path)}" if kind == "file" and path else kind + colon + path
            for kind, colon, path in paths
        ],
    )


def _checkKey(path: str, key: str, value: object) -> None:
    if key in OPTION_NAMES:
        raise ConfigError(f"{path}: option {key} stands in no table, move it below [options]")
    if key not in _KEYS:
        raise ConfigError(f"{path}: {unknownOf('key', key, _KEYS)}")
    _checkKind(f"{path}:", key, value, _KEYS[key][1])


def _checkKind(where: str, key: str, value: object, wants: str) -> None:
    isWrong = not isinstance(value, _KEYS[key][0])
    if key == "hooks" and isinstance(value, list):
        isWrong = not value or not all(isinstance(name, str) for name in value)
    if isWrong or (key == "layer" and not value):
        shown = NOT_SHOWN if key == "auth" else toTOML(withoutSecrets(value))
        raise ConfigError(f"{where} {key} is {shown}, it wants {wants}")


def _readLayers(
    where: str, keys: Mapping[str, Any], prefix: str = "", place: str = "above all tables"
) -> Sequence[HooksSettings] | None:
    """
    The objects of hooks for all listeners, or for one.

    @param prefix: what the names of their tables begin with.
    @param place: where C{hooks} would stand.
    @return: None if there are none.
    """
    optionsTable, layerTable = f"[{prefix}hooks-options]", f"[[{prefix}layer]]"
    names = keys.get("hooks")
    for key in ("hooks", "hooks-options"):
        if "layer" in keys and key in keys:
            what = key if key == "hooks" else optionsTable
            raise ConfigError(f"{where} {what} and {layerTable} both say what hooks there are, leave one of them out")
    if "layer" in keys:
        return [_readLayer(where, layerTable, *numbered) for numbered in enumerate(keys["layer"], 1)]
    if names is None:
        if "hooks-options" in keys:
            raise ConfigError(
                f'{where} {optionsTable} are there without hooks, add hooks = "package.module:Name" {place}'
            )
        return None
    if isinstance(names, str):
        return [HooksSettings(f"{where} hooks", names, keys.get("hooks-options", {}), optionsTable)]
    if "hooks-options" in keys:
        raise ConfigError(
            f"{where} {optionsTable} are there with a list of hooks, write a {layerTable} for each of them, with its"
            " options beside its use"
        )
    return [
        HooksSettings(f"{where} hooks {number}", name, fix=f"correct it or give it a {layerTable} with options")
        for number, name in enumerate(names, 1)
    ]


def _readLayer(where: str, table: str, number: int, given: object) -> HooksSettings:
    place = f"{where} {table} {number}"
    if not isinstance(given, dict):
        raise ConfigError(f"{place} is {toTOML(withoutSecrets(given))}, it wants a table under its own {table}")
    options = dict(given)
    layer = {name: options.pop(name) for name in _LAYER_KEYS if name in options}
    name = layer.pop("use", None)
    if not isinstance(name, str):
        near = difflib.get_close_matches("use", options, n=1)
        missing = f"missing, but there is {near[0]}" if near else "missing"
        shown = missing if name is None else toTOML(name)
        raise ConfigError(f'{place}: use is {shown}, it wants a text, "package.module:Name"')
    return _withObjects(HooksSettings(f"{place} ({name})", name, options, f"{table} {number}", layer))


def _withObjects(settings: HooksSettings) -> HooksSettings:
    """The same settings; an option that is a table with C{use} is an object of its own."""
    options, objects = dict(settings.options), {}
    for key, given in settings.options.items():
        if isinstance(given, Mapping) and "use" in given:
            own = dict(options.pop(key))
            name = own.pop("use")
            if not isinstance(name, str):
                raise ConfigError(f'{settings.where}: {key}: use is {toTOML(name)}, it wants "package.module:Name"')
            objects[key] = _withObjects(HooksSettings(f"{settings.where}: {key} ({name})", name, own, key, {}))
    return attrs.evolve(settings, options=options, objects=objects)


def _readListener(path: str, number: int, table: object) -> ListenerSettings:
    where = f"{path}: listener {number}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is {toTOML(withoutSecrets(table))}, it wants a table under its own [[listener]]")
    options = dict(table)
    endpoint = options.pop("endpoint", None)
    if not isinstance(endpoint, str):
        shown = "missing" if endpoint is None else toTOML(endpoint)
        raise ConfigError(f'{where}: endpoint is {shown}, it wants a Twisted server endpoint such as "tcp:25"')
    where = f"{where} ({endpoint})"
    own = {key: options.pop(key) for key in _LISTENER_KEYS if key in options}
    for key, value in own.items():
        wants = _KEYS[key][1].replace("[hooks-options]", "[listener.hooks-options]")
        _checkKind(f"{where}:", key, value, wants.replace("[[layer]]", "[[listener.layer]]"))
    return ListenerSettings(
        where,
        endpoint,
        _absolute(folderOf(path), _checkNames(where, options, ["endpoint", *_LISTENER_KEYS])),
        _readLayers(f"{where}:", own, "listener.", "to this [[listener]]"),
        own.get("discard"),
    )


def _checkNames(where: str, options: Mapping[str, Any], others: Iterable[str] = ()) -> Mapping[str, Any]:
    for name in options:
        if name in _KEYS:
            orListener = " or into a [[listener]]" if name in _LISTENER_KEYS else ""
            raise ConfigError(f"{where}: {name} is no option, move it above all tables{orListener}")
        if name not in OPTION_NAMES:
            raise ConfigError(f"{where}: {unknownName('option', name, [*OPTION_NAMES, *others])}")
        if name == "portal":
            raise ConfigError(f"{where}: option portal is for Python alone, name checkers below [auth]")
    return options
