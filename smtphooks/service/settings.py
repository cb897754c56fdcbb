"""
Settings: what a configuration says, as plain values that know where each of them stands; and the error of a wrong one.

A L{ConfigError} is one sentence, which says where something is wrong, what is wrong, and what to do, and holds no key
or password.
This module knows nothing of files, and nothing of the objects that are made of the settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from smtphooks.errors import unknownName
from smtphooks.service.toml import toTOML

# What the table of a layer may say of it, beside its options.
LAYER_OPTIONS = ("unless", "hookTimeout", "onFault")

# The number of workers is that of cores.
AUTO = "auto"
MOST_WORKERS = 64

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
    An object of hooks to use, and its place as a layer.

    @ivar where: where the setting stands.
    @ivar name: C{package.module:Name}.
    @ivar options: the arguments to call it with.
    @ivar objects: those arguments that are objects to be made as well, by name.
    @ivar table: where these stand.
    @ivar layer: what holds for all its hooks, from the table of its layer; None where it stands in no such table.
    @ivar secrets: the options that must not be shown, by name; None until it is loaded.
    @ivar fix: what to do if the call fails.
    """

    where: str
    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    table: str = "[hooks-options]"
    layer: Mapping[str, Any] | None = None
    secrets: frozenset[str] | None = None
    objects: Mapping[str, HooksSettings] = attrs.field(factory=dict, kw_only=True)
    fix: str = attrs.field(kw_only=True)

    @fix.default
    def _fix(self) -> str:
        return f"correct it or {self.table if self.layer is None else 'its options'}"

    @property
    def title(self) -> str:
        """What a sentence calls the object."""
        return self.name if self.layer is None else f"{self.table} ({self.name})"


@attrs.frozen
class ListenerSettings:
    """
    One listener.

    @ivar where: where the settings stand, endpoint included.
    @ivar options: options for this listener alone, as TOML values.
    @ivar layers: its own layers, None for the common ones.
    @ivar discard: its own setting, None for the common one.
    """

    where: str
    endpoint: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    layers: Sequence[HooksSettings] | None = None
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
class WorkerSettings:
    """
    How many processes serve, and who watches them.

    @ivar workers: their number, or C{"auto"}; None for this process alone, without a supervisor.
    @ivar timeout: seconds without a sign of life after which a worker is ended, 0 for no limit.
    @ivar control: the path of the UNIX socket for C{smtphooks status} and C{smtphooks drain}; None for the default.
    """

    workers: int | str | None = None
    timeout: float = 30.0
    control: str | None = None

    @property
    def number(self) -> int:
        """The number of workers; 0 without a supervisor."""
        if self.workers == AUTO:
            # Those that this process may use, where the system tells.
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            return min(cores, MOST_WORKERS)
        return int(self.workers or 0)


def workersFrom(what: str, value: object) -> int | str:
    """
    Check a number of workers.

    @param what: what has this value, for the sentence of an error.
    @raise ConfigError: if it is neither a number from 1 on nor C{"auto"}.
    """
    if value == AUTO or (type(value) is int and 1 <= value <= MOST_WORKERS):
        return value
    raise ConfigError(f'{what} is {toTOML(value)}, it wants a number from 1 to {MOST_WORKERS}, or "auto"')


@attrs.frozen
class Settings:
    """
    All settings.

    @ivar layers: for every listener without layers of its own.
    @ivar options: options for every listener, as TOML values.
    @ivar path: the file that they stand in, None without a file.
    @ivar tls: options for every listener, from C{[tls]}.
    @ivar auth: None without checkers: then only hooks authenticate users.
    @ivar discard: a listener without C{onData} may accept messages and drop them.
    @ivar metrics: the endpoint where metrics are served, None if they are not.
    @ivar workers: how many processes serve.
    """

    layers: Sequence[HooksSettings]
    options: Mapping[str, Any]
    listeners: Sequence[ListenerSettings]
    path: str | None = None
    tls: Mapping[str, Any] = attrs.field(factory=dict)
    auth: AuthSettings | None = None
    discard: bool = False
    metrics: str | None = None
    workers: WorkerSettings = attrs.field(factory=WorkerSettings)

    @property
    def folder(self) -> str | None:
        """The folder of the file: paths are relative to it, and modules are found in it."""
        return None if self.path is None else folderOf(self.path)

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


def unknownOf(what: str, name: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """
    As L{unknownName}; all known names are listed if none is near.

    @param others: names that may be meant as well, but are not listed.
    """
    known = list(known)
    sentence = unknownName(what, name, [*known, *others])
    return sentence if "did you mean" in sentence or not known else f"{sentence}, known are {', '.join(known)}"


def cause(error: object) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def folderOf(path: str) -> str:
    """The folder of a file."""
    return os.path.dirname(os.path.abspath(path))
