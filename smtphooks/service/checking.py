"""
Checking: settings in, listeners with their hooks and checked options out.

L{configure} makes objects of what a file or flags say.  Whatever is wrong is a L{ConfigError}, whose one sentence
says where it is wrong, what is wrong, and what to do.  No key and no password is part of such a sentence.
This module knows nothing of files, of twistd, or of the reactor.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs

from smtphooks.admission.clients import Clients
from smtphooks.admission.sharedclients import SharedClients
from smtphooks.composition import doubtsAbout
from smtphooks.errors import OptionError, OptionWarning
from smtphooks.factory import SMTPServerFactory
from smtphooks.options import Options, checkOption, makeOptions, optionsWith
from smtphooks.sasl.scram import UnknownUsers
from smtphooks.sasl.sharedfailures import SharedAuthFailures
from smtphooks.service.asking import maybeWarning
from smtphooks.service.checkers import makePortal
from smtphooks.service.endpoints import kindOf
from smtphooks.service.layering import Layers, makeLayers
from smtphooks.service.loading import loadExtensions, searchIn
from smtphooks.service.metering import requireExtra
from smtphooks.service.settings import (
    AuthSettings,
    ConfigError,
    HooksSettings,
    ListenerSettings,
    Settings,
    WorkerSettings,
)
from smtphooks.service.toml import toTOML
from smtphooks.sharedtable import Table, currentTable

# Limits on all listeners together where they stand in [options]; a listener may have a limit of its own beside them.
_SHARED = optionsWith("shared", "clients")

# Options of what listeners share unless one of them has such an option of its own: the count of failed AUTH, and the
# salts that SCRAM shows for unknown users.
_COUNTING = optionsWith("shared", "authFailures")
_SHOWING = optionsWith("shared", "unknownUsers")

# The name of what counts over all listeners, beside endpoints.
_ALL = "all"

# Endpoints with implicit TLS of their own; the second is that of the package txsni.
_WITH_TLS = ("ssl", "tls")


@attrs.frozen
class Listener:
    """
    A checked listener.

    @ivar settings: its settings, without those of all listeners.
    @ivar extensions: the names of its extensions.
    @ivar explain: makes a sentence of an error in its options, which says where the option stands.
    """

    settings: ListenerSettings
    extensions: Sequence[str]
    factory: SMTPServerFactory
    explain: Callable[[OptionError], ConfigError] = attrs.field(repr=False)

    @property
    def warning(self) -> str | None:
        """What the operator should know of it, None if nothing."""
        return maybeWarning(self.endpoint, self.factory)

    @property
    def doubts(self) -> list[str]:
        """What the operator probably did not mean."""
        return doubtsAbout(self.factory.options, self.factory.layers)

    @property
    def where(self) -> str:
        """Where its settings stand."""
        return self.settings.where

    @property
    def endpoint(self) -> str:
        """The description of its endpoint."""
        return self.settings.endpoint

    def hasOwn(self, names: Iterable[str]) -> bool:
        """Whether one of these options is set for this listener alone."""
        return any(name in self.settings.options for name in names)


@attrs.frozen
class Configuration:
    """
    A checked configuration; all listeners ask the same checkers.

    @cvar sharedNames: the options of what listeners share.
    @ivar layers: the layers of listeners without layers of their own; None if each has its own.
    @ivar clients: counts the clients of all listeners together.
    @ivar shared: the values of C{sharedNames} for all listeners; its other options mean nothing.
    @ivar auth: where the checkers stand, None without checkers.
    @ivar discard: a listener without C{onData} may accept messages and drop them.
    @ivar metrics: the endpoint where metrics are served, None if they are not.
    @ivar path: the file that all of it stands in, None without a file.
    @ivar workers: how many processes serve.
    """

    sharedNames: ClassVar[Sequence[str]] = (*_SHARED, *_COUNTING, *_SHOWING)

    layers: Sequence[HooksSettings] | None
    listeners: Sequence[Listener]
    clients: Clients
    shared: Options
    auth: AuthSettings | None = None
    discard: bool = False
    metrics: str | None = None
    path: str | None = None
    workers: WorkerSettings = attrs.field(factory=WorkerSettings)


def configure(settings: Settings) -> Configuration:
    """
    Load the hooks and check all options.

    @raise ConfigError: if no server could be started with them.
    """
    if settings.metrics is not None:
        requireExtra(str(settings.path))
    searchIn([folder for folder in (settings.folder, os.getcwd()) if folder is not None])
    areCommon = any(listener.layers is None for listener in settings.listeners)
    layers = makeLayers(settings.layers, settings.folder, settings.auth) if areCommon else None
    # Common options are checked by themselves first: a wrong one is found even if each listener overrides it.
    common = {**loadExtensions(settings.whereIs(["extensions"]) or "", settings.options), **settings.tls}
    for name, value in common.items():
        _checkAlone(settings.whereIs([name]), name, value)
    shared = makeOptions({name: common[name] for name in ("name", *Configuration.sharedNames) if name in common})
    clients = _clientsWith(*[common.pop(name, 0) for name in _SHARED])
    common["name"] = shared.name  # looking up this host's name can take a while, so it is done once
    if settings.auth is not None:
        common["portal"] = makePortal(settings.auth)
    listeners = [_makeListener(listener, settings, common, layers) for listener in settings.listeners]
    _share(listeners, clients)
    return Configuration(
        layers.settings if layers is not None else None,
        listeners,
        clients,
        shared,
        settings.auth,
        settings.discard,
        settings.metrics,
        settings.path,
        settings.workers,
    )


def _clientsWith(most: int, mostPerNetwork: int) -> Clients:
    """The count of the clients of all listeners together, of all workers if there are any."""
    table = currentTable()
    return Clients(most, mostPerNetwork) if table is None else SharedClients(most, mostPerNetwork, table, _ALL)


def _share(listeners: Sequence[Listener], clients: Clients) -> None:
    """Have listeners share counts, limits, log limits, and what SCRAM shows for unknown users."""
    table = currentTable()
    for listener in listeners:
        if table is not None:
            _shareWithWorkers(listener, table)
        listener.factory.server.admission.countIn(clients)
        listener.factory.server.shareLines(listeners[0].factory.server.lines)
    # An attacker may guess passwords at one listener as well as at another.
    counting = [listener.factory for listener in listeners if not listener.hasOwn(_COUNTING)]
    for factory in counting:
        factory.server.authFailures = counting[0].server.authFailures
    # A known user could be told from unknown ones at a listener that has not learnt what known users' salts look like.
    showing = [each.factory for each in listeners if not each.hasOwn(_SHOWING) and each.settings.layers is None]
    for factory in showing:
        factory.server.mechanisms.unknownUsers = showing[0].server.mechanisms.unknownUsers


def _shareWithWorkers(listener: Listener, table: Table) -> None:
    """
    Count over all workers, and show them alike what SCRAM shows for unknown users.

    The listener has the same name in each of them, its endpoint, and after a reload as well.
    """
    server = listener.factory.server
    server.admission.countOver(table, listener.endpoint)
    name = listener.endpoint if listener.hasOwn(_COUNTING) else _ALL
    server.authFailures = SharedAuthFailures(server.options.authFailuresPerAddress, table, name)
    options = server.options
    if options.scramSecret is None:
        # A user that has another salt at each worker would be known not to exist.
        secret = table.secretFor(b"SCRAM")
        server.mechanisms.unknownUsers = UnknownUsers(secret, options.scramIterations, options.scramSaltLength)


def _checkAlone(where: str | None, name: str, value: object) -> None:
    """Check an option by itself; how it fits others is only known at a listener."""
    try:
        checkOption(name, value)
    except OptionError as error:
        raise ConfigError(f"{where}: {error.said(toTOML)}") from None


def _makeListener(
    own: ListenerSettings, settings: Settings, common: Mapping[str, Any], layers: Layers | None
) -> Listener:
    if own.layers is not None or layers is None:
        layers = makeLayers(own.layers or (), settings.folder, settings.auth)
        own = attrs.evolve(own, layers=layers.settings)
    explain = partial(_explained, own=own, settings=settings)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptionWarning)  # the operator gets them as warnings of the listener
            factory = SMTPServerFactory(**layers.named, **{**common, **loadExtensions(own.where, own.options)})
    except OptionError as error:
        raise explain(error) from None
    if not layers.haveDelivery:
        factory.onData = None  # it may have a stand-in
    fault = (
        _endpointFault(own.endpoint, factory)
        or _refusalFault(own.endpoint, factory, layers)
        or _discardFault(layers, settings.discard if own.discard is None else own.discard)
    )
    if fault is not None:
        raise ConfigError(f"{own.where}: {fault}")
    extensions = {**settings.options, **own.options}.get("extensions", [])
    return Listener(own, extensions, factory, explain)


def _explained(error: OptionError, own: ListenerSettings, settings: Settings) -> ConfigError:
    """The error of a listener, at the table that has the option: its own, or one for all listeners."""
    names = error.options if error.host is None else ("sniOptions",)
    where = None if any(name in own.options for name in names) else settings.whereIs(names, error.host)
    if where is not None:
        return ConfigError(f"{where}: {error.said(toTOML)}")
    host = "" if error.host is None else f"in sniOptions of {error.host}: "
    return ConfigError(f"{own.where}: {host}{error.said(toTOML)}")


def _endpointFault(endpoint: str, factory: SMTPServerFactory) -> str | None:
    """Why the endpoint breaks the PROXY header, None if it does not."""
    kind = kindOf(endpoint)
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


def _discardFault(layers: Layers, mayDiscard: bool) -> str | None:
    """Why every message would be lost, None if none is, or if the operator has said so."""
    if layers.haveDelivery or mayDiscard:
        return None
    fix = "give it onData" if len(layers.settings) == 1 else "add a layer such as smtphooks.stores:Maildir"
    return (
        f"{layers.haveNo('onData')}, so every message would be accepted and dropped, {fix}, or set discard = true in"
        " the configuration, above all tables or in the [[listener]]"
    )


def _refusalFault(endpoint: str, factory: SMTPServerFactory, layers: Layers) -> str | None:
    """Why every message would be refused, None if that is not so."""
    options = factory.options
    hasImplicitTLS = options.secure or options.secured or kindOf(endpoint) in _WITH_TLS
    isSecure = hasImplicitTLS or not (options.hideSTARTTLS or "STARTTLS" in options.disabledCommands)
    if options.needsUpgrade and not isSecure:
        return (
            "option needsUpgrade is true and STARTTLS is hidden or disabled, so every message would be refused, offer"
            " STARTTLS or set secure = true"
        )
    if options.authOptional:
        return None
    if factory.onAuth is None:
        # One that can only refuse does not authenticate.
        nobody = "no layer authenticates" if factory.layersWith("onAuth") else layers.haveNo("onAuth")
        return (
            f"option authOptional is false and {nobody}, so nobody could authenticate and every"
            " message would be refused, set authOptional = true, or name checkers below [auth] or with --auth"
        )
    if not isSecure and not options.allowInsecureAuth:
        return (
            "option authOptional is false and AUTH wants TLS, which STARTTLS could not begin, so every message would be"
            " refused, offer STARTTLS, set secure = true or allowInsecureAuth = true"
        )
    return None
