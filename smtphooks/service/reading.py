"""
Settings: what a configuration file says, as plain values that know where each part was said.

None of it has been tried: no module has been imported and no certificate read.  Whatever can be told to be wrong
without that is a L{ConfigError}, whose one sentence names where, what, and what to do, and never holds a key or a
password.
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

# What a file may hold: its keys, and what each one has to be.
_KEYS: dict[str, tuple[type, str]] = {
    "hooks": (str, 'a text, "package.module:Name"'),
    "hooks-options": (dict, "a table, [hooks-options]"),
    "discard": (bool, "true or false"),
    "options": (dict, "a table, [options]"),
    "tls": (dict, "a table, [tls]"),
    "auth": (dict, "a table, [auth]"),
    "listener": (list, "a list of tables, each under its own [[listener]]"),
}

# Those that a [[listener]] may have for itself, beside its endpoint and options.
_LISTENER_KEYS = ("hooks", "hooks-options", "discard")

# What stands in the place of a key or a password.
NOT_SHOWN = "(not shown)"

_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)


def withoutKeys(text: str) -> str:
    """A text without the private keys in it."""
    return _PRIVATE_KEY.sub(NOT_SHOWN, text)


class ConfigError(Exception):
    """Something in the configuration is wrong; its text is one sentence for people."""

    def __init__(self, sentence: str) -> None:
        # What a file has in the wrong place is shown, and may be a key.
        super().__init__(withoutKeys(sentence))


@attrs.frozen
class HooksSettings:
    """
    Which hooks to use.

    @ivar where: what said so.
    @ivar name: C{package.module:Name}.
    @ivar options: what to call it with.
    @ivar table: where these stand.
    @ivar fix: what to do if that fails.
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

    @ivar where: what said so; it holds the endpoint too.
    @ivar options: options for this listener alone, as TOML has them.
    @ivar hooks: its own, None for those of all.
    @ivar discard: its own word on it, None for that of all.
    """

    where: str
    endpoint: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    hooks: HooksSettings | None = None
    discard: bool | None = None


@attrs.frozen
class AuthSettings:
    """
    Whom to ask for users.

    @ivar where: what said so.
    @ivar checkers: Twisted's checkers, as C{twisted.cred.strcred} describes them; they may hold passwords.
    """

    where: str
    checkers: Sequence[str] = attrs.field(repr=False)


@attrs.frozen
class Settings:
    """
    All that was said, none of it tried yet.

    @ivar hooks: those of every listener that has none of its own.
    @ivar options: options for every listener, as TOML has them.
    @ivar path: the file that said so, None if there is none.
    @ivar tls: further options for every listener, those of TLS.
    @ivar auth: None if there is nobody to ask but hooks.
    @ivar discard: a listener without onData may accept messages and drop them.
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
        """Of the file: paths are taken from it, and modules are found in it."""
        return None if self.path is None else _folderOf(self.path)

    def whereIs(self, options: Sequence[str], host: str | None = None) -> str | None:
        """
        What said the first of these options, None if nothing said it for every listener.

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
    """The Maildir store.  A daemon may leave its working folder, so the path is taken from the one of now."""
    options = {"path": os.path.abspath(path)}
    return HooksSettings(where, "smtphooks.stores:Maildir", options, fix="name another folder with --maildir")


def _defaultHooks() -> HooksSettings:
    return maildirHooks("the default Maildir", DEFAULT_MAILDIR)


def _defaultListeners(before: str = "") -> Sequence[ListenerSettings]:
    return [ListenerSettings(f"{before}the default listener ({DEFAULT_ENDPOINT})", DEFAULT_ENDPOINT)]


def defaultSettings() -> Settings:
    """What is useful without any configuration: mail for anyone, taken from this host, and kept."""
    return Settings(_defaultHooks(), {"authOptional": True}, _defaultListeners())


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
    """The options, with paths taken from a folder: that of the file, for a service may run in any."""
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
    # What it is may be a password, so that is not said.
    if not isinstance(checkers, list) or not checkers or not all(isinstance(checker, str) for checker in checkers):
        raise ConfigError(f'{where}: checkers are {NOT_SHOWN}, they want a list of texts such as ["file:passwd"]')
    return fileCheckers(AuthSettings(where, checkers), _folderOf(path))


def fileCheckers(auth: AuthSettings, folder: str) -> AuthSettings:
    """The same, with the paths of C{file} checkers taken from a folder."""
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
    """Like L{unknownName}, with all that is known where none of it is near."""
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
        said = "missing" if endpoint is None else toTOML(endpoint)
        raise ConfigError(f'{where}: endpoint is {said}, it wants a Twisted server endpoint such as "tcp:25"')
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
    """What went wrong, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
