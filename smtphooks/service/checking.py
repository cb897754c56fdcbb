"""
Configuration: settings in, listeners with checked options and their hooks out; and back again, for people to read.

L{configure} makes objects of what a file or flags say.  Whatever is wrong is a L{ConfigError}, whose one sentence
names where, what, and what to do.  No key and no password is ever part of a text that is made here.
This module knows nothing of files, of twistd, or of the reactor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from smtphooks.admission.clients import Clients
from smtphooks.errors import OptionError
from smtphooks.factory import SMTPServerFactory
from smtphooks.hooks import HOOK_NAMES, hookOf
from smtphooks.options import Options, checkOption, makeOptions, mustHide, optionsWith
from smtphooks.service.checkers import makePortal
from smtphooks.service.loading import lineOf, loadExtensions, loadHooks, searchIn
from smtphooks.service.reading import (
    NOT_SHOWN,
    AuthSettings,
    ConfigError,
    HooksSettings,
    ListenerSettings,
    Settings,
    cause,
    withoutKeys,
)
from smtphooks.service.toml import table, toTOML

# Options that hold over all listeners together where they are common, beside those of each listener alone.
_SHARED = optionsWith("shared", "clients")

# What listeners have in common unless one of them is told something of its own: the count of failed AUTH, and what
# SCRAM shows for unknown users.
_COUNTING = optionsWith("shared", "authFailures")
_SHOWING = optionsWith("shared", "unknownUsers")

# Endpoints that begin with TLS by themselves; the second is that of the package txsni.
_WITH_TLS = ("ssl", "tls")


@attrs.frozen
class Listener:
    """
    A listener that can be started.

    @ivar said: what was said of it alone.
    @ivar extensions: the names of the extensions in force.
    @ivar explain: an error of its options as a sentence that says where they stand.
    """

    said: ListenerSettings
    extensions: Sequence[str]
    factory: SMTPServerFactory
    explain: Callable[[OptionError], ConfigError] = attrs.field(repr=False)

    @property
    def where(self) -> str:
        """What said so."""
        return self.said.where

    @property
    def endpoint(self) -> str:
        """A description of Twisted's."""
        return self.said.endpoint

    def says(self, names: Iterable[str]) -> bool:
        """Has it one of these options of its own?"""
        return any(name in self.said.options for name in names)


@attrs.frozen
class Configuration:
    """
    Everything that a service needs; all listeners ask the same checkers.

    @ivar hooks: those of the listeners that have none of their own, None if all have.
    @ivar clients: counts those of all listeners together.
    @ivar shared: of the options of what else listeners have in common, those for all of them.
    @ivar discard: any listener may drop messages.
    """

    hooks: HooksSettings | None
    listeners: Sequence[Listener]
    clients: Clients
    shared: Options
    auth: AuthSettings | None = None
    discard: bool = False


def configure(settings: Settings) -> Configuration:
    """
    Load the hooks and check all options.

    @raise ConfigError: if no server could be started with them.
    """
    searchIn([folder for folder in (settings.folder, os.getcwd()) if folder is not None])
    areCommon = any(listener.hooks is None for listener in settings.listeners)
    hooks = _makeHooks(settings.hooks, settings.auth) if areCommon else None
    # The common ones by themselves first, so that a wrong one is found even if each listener has one of its own.
    common = {**loadExtensions(settings.whereIs(["extensions"]) or "", settings.options), **settings.tls}
    for name, value in common.items():
        _checkAlone(settings.whereIs([name]), name, value)
    clients = Clients(*[common.pop(name, 0) for name in _SHARED])
    shared = makeOptions({name: common[name] for name in ("name", *_COUNTING, *_SHOWING) if name in common})
    common["name"] = shared.name  # finding this host's name can take a while, so it is done once
    if settings.auth is not None:
        common["portal"] = makePortal(settings.auth)
    listeners = [_makeListener(listener, settings, common, hooks) for listener in settings.listeners]
    _share(listeners, clients)
    return Configuration(
        settings.hooks if areCommon else None, listeners, clients, shared, settings.auth, settings.discard
    )


def _share(listeners: Sequence[Listener], clients: Clients) -> None:
    """Give listeners what they have in common."""
    for listener in listeners:
        listener.factory.server.admission.countIn(clients)
        listener.factory.server.shareLines(listeners[0].factory.server.lines)
    # Passwords are guessed at one listener as well as at another,
    counting = [listener.factory for listener in listeners if not listener.says(_COUNTING)]
    for factory in counting:
        factory.server.authFailures = counting[0].server.authFailures
    # and a user whom one of them knows would be told by another that has not learnt how such users look.
    showing = [each.factory for each in listeners if not each.says(_SHOWING) and each.said.hooks is None]
    for factory in showing:
        factory.server.mechanisms.unknownUsers = showing[0].server.mechanisms.unknownUsers


def _makeHooks(said: HooksSettings, auth: AuthSettings | None) -> object:
    hooks = loadHooks(said)
    try:
        # All that the factory will look at; a property may do anything.
        for name in {*HOOK_NAMES, *[name for name in dir(hooks) if name.startswith("on")]}:
            getattr(hooks, name, None)
    except Exception as error:
        raise ConfigError(
            f"{said.where}: {said.name} has hooks that cannot be looked at, correct it: {cause(error)}{lineOf(error)}"
        ) from error
    found = {name for name in HOOK_NAMES if hookOf(hooks, name)}
    if not found:
        raise ConfigError(f"{said.where}: {said.name} has no hook, give it a method such as onRcptTo or onData")
    if auth is not None and "onAuth" in found:
        raise ConfigError(f"{auth.where} has checkers and {said.name} has onAuth, leave one of them out")
    return hooks


def _checkAlone(where: str | None, name: str, value: object) -> None:
    """Check an option by itself: what several make together is only known at a listener."""
    try:
        checkOption(name, value)
    except OptionError as error:
        raise ConfigError(f"{where}: {error.said(toTOML)}") from None


def _makeListener(said: ListenerSettings, settings: Settings, common: Mapping[str, Any], hooks: object) -> Listener:
    if said.hooks is not None:
        hooks = _makeHooks(said.hooks, settings.auth)
    explain = partial(_explained, said=said, settings=settings)
    try:
        factory = SMTPServerFactory(hooks=hooks, **{**common, **loadExtensions(said.where, said.options)})
    except OptionError as error:
        raise explain(error) from None
    useless = (
        _wrongEndpoint(said.endpoint, factory)
        or _uselessness(said.endpoint, factory, (said.hooks or settings.hooks).name)
        or _droppingOf(factory, said, settings)
    )
    if useless is not None:
        raise ConfigError(f"{said.where}: {useless}")
    extensions = {**settings.options, **said.options}.get("extensions", [])
    return Listener(said, extensions, factory, explain)


def _explained(error: OptionError, said: ListenerSettings, settings: Settings) -> ConfigError:
    """The error of a listener, at the table that has the option: its own, or one of all listeners."""
    names = error.options if error.host is None else ("sniOptions",)
    where = None if any(name in said.options for name in names) else settings.whereIs(names, error.host)
    if where is not None:
        return ConfigError(f"{where}: {error.said(toTOML)}")
    host = "" if error.host is None else f"in sniOptions of {error.host}: "
    return ConfigError(f"{said.where}: {host}{error.said(toTOML)}")


def _wrongEndpoint(endpoint: str, factory: SMTPServerFactory) -> str | None:
    """Why clients could not be served as they should behind this endpoint, None if they can."""
    kind = _kindOf(endpoint)
    if kind == "haproxy":
        return (
            "the endpoint haproxy: hides from smtphooks who its clients are, leave haproxy: out and list the proxies in"
            ' option useProxy, such as useProxy = ["192.0.2.1"]'
        )
    if kind in _WITH_TLS and factory.options.useProxy:
        return (
            f"option useProxy is {toTOML(factory.options.useProxy)} and the endpoint {kind}: begins with TLS, but the"
            " PROXY header comes before TLS, use an endpoint tcp: with secure = true"
        )
    return None


def _kindOf(endpoint: str) -> str:
    """What stands before the first colon, as Twisted reads it: in any case, and with escapes."""
    prefix = re.match(r"(?:\\.|[^:=\\])*", endpoint, re.DOTALL)
    return re.sub(r"\\(.)", r"\1", prefix[0] if prefix else "", flags=re.DOTALL).lower()


def _droppingOf(factory: SMTPServerFactory, said: ListenerSettings, settings: Settings) -> str | None:
    """Why every message would be lost, None if it is not so, or is wanted."""
    if factory.onData is not None or (settings.discard if said.discard is None else said.discard):
        return None
    hooks = said.hooks or settings.hooks
    return (
        f"{hooks.name} has no onData, so every message would be accepted and dropped, give it onData, or set"
        " discard = true in the configuration, above all tables or in the [[listener]]"
    )


def _uselessness(endpoint: str, factory: SMTPServerFactory, hooks: str) -> str | None:
    """Why every message would be refused, None if it is not so."""
    options = factory.options
    begins = options.secure or options.secured or _kindOf(endpoint) in _WITH_TLS
    isSecure = begins or not (options.hideSTARTTLS or "STARTTLS" in options.disabledCommands)
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


def describe(configuration: Configuration) -> str:
    """
    Write a configuration as TOML with every option that is in force, so that L{readSettings} makes the same of it.

    Options that are the same for all listeners stand in C{[options]}; but those by which a listener has something that
    the others have in common stand where they were said.  In the place of a private key, of a secret, and of a checker,
    stands C{"(not shown)"}.
    """
    each = [_optionsOf(listener) for listener in configuration.listeners]
    shared = dict(zip(_SHARED, (configuration.clients.most, configuration.clients.mostPerNetwork), strict=True))
    common = {
        name: value
        for name, value in each[0].items()
        if name not in (*_SHARED, *_COUNTING, *_SHOWING) and all(other.get(name) == value for other in each)
    }
    written = _written(configuration.shared)
    shared |= {name: written[name] for name in (*_COUNTING, *_SHOWING) if name in written}
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
    """All keys that stand in no table."""
    hooks = [] if configuration.hooks is None else [f"hooks = {toTOML(configuration.hooks.name)}\n"]
    return "".join([*hooks, "discard = true\n" if configuration.discard else ""])


def _tablesOf(listener: Listener, options: Mapping[str, Any]) -> list[str]:
    said = listener.said
    own: dict[str, Any] = {"endpoint": said.endpoint}
    if said.hooks is not None:
        own["hooks"] = said.hooks.name
    if said.discard is not None:
        own["discard"] = said.discard
    tables = [table("[[listener]]", {**own, **options})]
    if said.hooks is not None and said.hooks.options:
        tables.append(table("[listener.hooks-options]", said.hooks.options))
    return tables


def _optionsOf(listener: Listener) -> dict[str, Any]:
    options = {**_written(listener.factory.options), "extensions": listener.extensions}
    # A listener without a limit of its own has that of all.
    common = [name for name in (*_COUNTING, *_SHOWING) if not listener.says([name])]
    common += [name for name in _SHARED if not options[name]]
    return {name: value for name, value in options.items() if name not in common}


def _written(given: Options) -> dict[str, Any]:
    """Options as TOML has them, which has neither objects nor None, and without secrets."""
    options = _withoutSecrets(attrs.asdict(given, recurse=False))
    del options["portal"]  # [auth] has made it
    options["sniOptions"] = {host: _withoutSecrets(own) for host, own in options["sniOptions"].items()}
    return {name: value for name, value in options.items() if value is not None}


def _withoutSecrets(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: NOT_SHOWN if mustHide(name, value) else value for name, value in options.items()}
