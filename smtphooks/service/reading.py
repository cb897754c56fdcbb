"""
Reading: a configuration file in, settings out, which are plain values that know where each of them stands.

Nothing is loaded here: no module is imported and no certificate read.  What is wrong regardless of that is a
L{ConfigError}, whose one sentence says where it is wrong, what is wrong, and what to do, and holds no key or password.
This module knows nothing of twistd, of its flags, or of the objects that are made of the settings.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from smtphooks.errors import unknownName
from smtphooks.options import HOST_OPTIONS, OPTION_NAMES, isPath
from smtphooks.service.toml import toTOML

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

DEFAULT_ENDPOINT = "tcp:2525:interface=127.0.0.1"
DEFAULT_MAILDIR = "maildir"

# The keys of a file, with the type of each, and the words for it.
_KEYS: dict[str, tuple[type, str]] = {
    "hooks": (str, 'a text, "package.module:Name"'),
    "hooks-options": (dict, "a table, [hooks-options]"),
    "discard": (bool, "true or false"),
    "options": (dict, "a table, [options]"),
    "tls": (dict, "a table, [tls]"),
    "auth": (dict, "a table, [auth]"),
    "listener": (list, "a list of tables, each under its own [[listener]]"),
}

# The keys that a [[listener]] may have too, beside its endpoint and options.
_LISTENER_KEYS = ("hooks", "hooks-options", "discard")

# Stands in the place of a key or a password.
NOT_SHOWN = "(not shown)"

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)


def withoutKeys(text: str) -> str:
    """A text without the private keys in it."""
    return _PRIVATE_KEY.sub(NOT_SHOWN, text)


class ConfigError(Exception):
    """Something in the configuration is wrong; the text is one sentence for the operator."""

    def __init__(self, sentence: str) -> None:
        # The sentence shows what stands in the wrong place, which may be a key.
        super().__init__(withoutKeys(sentence))


@attrs.frozen
class HooksSettings:
    """
    The hooks to use.

    @ivar where: where the setting stands.
    @ivar name: C{package.module:Name}.
    @ivar options: the arguments to call it with.
    @ivar table: where these stand.
    @ivar fix: what to do if the call fails.
    """

    where: str
    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    table: str = "[hooks-options]"
    fix: str = attrs.field(kw_only=True)

    @fix.default
    def _fix(self) -> str:
        return f"correct it or {self.table}"


@attrs.frozen
class ListenerSettings:
    """
    One listener.

    @ivar where: where the settings stand, endpoint included.
    @ivar options: options for this listener alone, as TOML values.
    @ivar hooks: its own hooks, None for the common ones.
    @ivar discard: its own setting, None for the common one.
    """

    where: str
    endpoint: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    hooks: HooksSettings | None = None
    discard: bool | None = None


@attrs.frozen
class AuthSettings:
    """
    The checkers to ask for users.

    @ivar where: where the setting stands.
    @ivar checkers: descriptions of checkers (C{twisted.cred.strcred}), which may hold passwords.
    """

    where: str
    checkers: Sequence[str] = attrs.field(repr=False)


@attrs.frozen
class Settings:
    """
    All settings.

    @ivar hooks: for every listener without hooks of its own.
    @ivar options: options for every listener, as TOML values.
    @ivar path: the file that they stand in, None without a file.
    @ivar tls: options for every listener, from C{[tls]}.
    @ivar auth: None without checkers: then only hooks authenticate users.
    @ivar discard: a listener without C{onData} may accept messages and drop them.
    """

    hooks: HooksSettings
    options: Mapping[str, Any]
    listeners: Sequence[ListenerSettings]
    path: str | None = None
    tls: Mapping[str, Any] = attrs.field(factory=dict)
    auth: AuthSettings | None = None
    discard: bool = False

    @property
    def folder(self) -> str | None:
        """The folder of the file: paths are relative to it, and modules are found in it."""
        return None if self.path is None else _folderOf(self.path)

    def whereIs(self, options: Sequence[str], host: str | None = None) -> str | None:
        """
        Where the first of these options stands that is set for every listener; None if none is.

        @param host: the options are those of this server name.
        """
        for name in options if host is None else ["sniOptions"]:
            if name in self.tls:
                return f"{self.path}: [tls]" if host is None else f"{self.path}: [tls.sni.{toTOML(host)}]"
            if name in self.options:
                if self.path is None:
                    return "the defaults"
                nested = "" if host is None else f".sniOptions.{toTOML(host)}"
                return f"{self.path}: [options{nested}]"
        return None


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
    return Settings(_defaultHooks(), {"authOptional": True}, _defaultListeners())


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
    folder = _folderOf(path)
    options = _checkNames(f"{path}: [options]", document.get("options", {}))
    tls = _readTLS(path, document.get("tls", {}))
    for name in tls:
        if name in options:
            raise ConfigError(f"{path}: option {name} stands in [options] and in [tls], leave one out")
    return Settings(
        _readHooks(f"{path}:", document, "[hooks-options]", "above all tables") or _defaultHooks(),
        _absolute(folder, options),
        [_readListener(path, *numbered) for numbered in enumerate(document.get("listener", []), 1)]
        or _defaultListeners(f"{path}: "),
        path,
        _absolute(folder, tls),
        _readAuth(path, document["auth"]) if "auth" in document else None,
        document.get("discard", False),
    )


def _folderOf(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


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
            raise ConfigError(f"{where}: {_unknown('option', name, known)}")


def _readAuth(path: str, table: Mapping[str, Any]) -> AuthSettings:
    where = f"{path}: [auth]"
    for key in table:
        if key != "checkers":
            raise ConfigError(f"{where}: {_unknown('key', key, ['checkers'])}")
    checkers = table.get("checkers")
    # The value may be a password.
    if not isinstance(checkers, list) or not checkers or not all(isinstance(checker, str) for checker in checkers):
        raise ConfigError(f'{where}: checkers are {NOT_SHOWN}, they want a list of texts such as ["file:passwd"]')
    return fileCheckers(AuthSettings(where, checkers), _folderOf(path))


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
        raise ConfigError(f"{path}: {_unknown('key', key, _KEYS)}")
    _checkKind(f"{path}:", key, value, _KEYS[key][1])


def _checkKind(where: str, key: str, value: object, wants: str) -> None:
    if not isinstance(value, _KEYS[key][0]):
        raise ConfigError(f"{where} {key} is {NOT_SHOWN if key == 'auth' else toTOML(value)}, it wants {wants}")


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    """As L{unknownName}; all known names are listed if none is near."""
    known = list(known)
    sentence = unknownName(what, name, known)
    return sentence if "did you mean" in sentence else f"{sentence}, known are {', '.join(known)}"


def _readHooks(where: str, keys: Mapping[str, Any], table: str, place: str) -> HooksSettings | None:
    if "hooks" in keys:
        return HooksSettings(f"{where} hooks", keys["hooks"], keys.get("hooks-options", {}), table)
    if "hooks-options" in keys:
        raise ConfigError(f'{where} {table} are there without hooks, add hooks = "package.module:Name" {place}')
    return None


def _readListener(path: str, number: int, table: object) -> ListenerSettings:
    where = f"{path}: listener {number}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is {toTOML(table)}, it wants a table under its own [[listener]]")
    options = dict(table)
    endpoint = options.pop("endpoint", None)
    if not isinstance(endpoint, str):
        shown = "missing" if endpoint is None else toTOML(endpoint)
        raise ConfigError(f'{where}: endpoint is {shown}, it wants a Twisted server endpoint such as "tcp:25"')
    where = f"{where} ({endpoint})"
    own = {key: options.pop(key) for key in _LISTENER_KEYS if key in options}
    for key, value in own.items():
        wants = "a table, [listener.hooks-options]" if key == "hooks-options" else _KEYS[key][1]
        _checkKind(f"{where}:", key, value, wants)
    return ListenerSettings(
        where,
        endpoint,
        _absolute(_folderOf(path), _checkNames(where, options, ["endpoint", *_LISTENER_KEYS])),
        _readHooks(f"{where}:", own, "[listener.hooks-options]", "to this [[listener]]"),
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


def cause(error: object) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
