"""
Loading: a name in a configuration in, the object of the operator's code that it names out.

Modules are found on C{sys.path} first and then in the operator's folders.  An error in that code is a L{ConfigError},
whose one sentence names the line.
This module knows no option by name, and of the objects only their type.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from twisted.internet import defer

from smtphooks.errors import OptionError, unknownName
from smtphooks.extension import Extension
from smtphooks.service.hiding import saysSecret, scrubbedFor
from smtphooks.service.settings import LAYER_OPTIONS, ConfigError, HooksSettings, cause, unknownOf
from smtphooks.service.toml import toTOML

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_TWISTED = os.path.dirname(os.path.dirname(os.path.abspath(defer.__file__))) + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
# Folders that libraries are installed in; the second is Debian's.
_INSTALLED = {"site-packages", "dist-packages"}


def searchIn(folders: Iterable[str]) -> None:
    """Find modules in these folders as well."""
    for folder in folders:
        if folder not in sys.path:
            # Last, so that no file in there shadows a module that other code imports.
            sys.path.append(folder)


def prepared(settings: HooksSettings, folder: str | None) -> HooksSettings:
    """
    The same settings, with what the class declares of its options applied to them.

    @param folder: where the paths among the options are relative to; None leaves them as they are.
    @raise ConfigError: if it cannot be loaded, or has no such option.
    """
    maker = _load(settings.where, settings.name)
    facts = _factsOf(maker, settings.layer is not None)
    if settings.layer is not None:
        _checkNames(settings, maker, facts)
    options = {
        name: _absolute(folder, value, facts.get(name, {})) if folder is not None else value
        for name, value in settings.options.items()
    }
    secrets = {name for name, value in options.items() if _mustHide(name, value, facts.get(name, {}))}
    objects = {name: prepared(one, folder) for name, one in settings.objects.items()}
    return attrs.evolve(settings, options=options, secrets=frozenset(secrets), objects=objects)


def _factsOf(maker: object, isLayer: bool) -> Mapping[str, Mapping[str, Any]]:
    """What a class declares of each of its options."""
    if not (isinstance(maker, type) and attrs.has(maker)):
        return {}
    # A private attribute may have the alias of an option.
    facts = {field.alias or field.name: dict(field.metadata) for field in attrs.fields(maker) if field.init}
    for one in facts.values():
        if isLayer and "isLayerPath" in one:
            one["isPath"] = one["isLayerPath"]
    return facts


def _checkNames(settings: HooksSettings, maker: object, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the names of a layer's options; its class knows nothing of the keys that may be meant by them."""
    if not callable(maker):
        return
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        return  # some callables written in C have no signature
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = {one.name: one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    given = [*settings.options, *settings.objects]
    for name in given:
        if name not in known and name in LAYER_OPTIONS:
            raise ConfigError(f"{settings.where}: {name} is a key of a layer, not of an object in it, remove it")
        if name not in known:
            raise ConfigError(f"{settings.where}: {unknownOf('option', name, known, LAYER_OPTIONS)}")
    for name, one in known.items():
        if name not in given and one.default is one.empty:
            wants = facts.get(name, {}).get("wants")
            raise ConfigError(f"{settings.where}: option {name} is missing" + (f", it wants {wants}" if wants else ""))


def _isPath(value: object, facts: Mapping[str, Any]) -> bool:
    return isinstance(value, str) and value != "" and "isPath" in facts and bool(facts["isPath"](value))


def _absolute(folder: str, value: Any, facts: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_absolute(folder, item, facts) for item in value]
    return os.path.join(folder, value) if _isPath(value, facts) else value


def _mustHide(name: str, value: object, facts: Mapping[str, Any]) -> bool:
    """Is this option a secret?  The path of a file that holds one may be shown."""
    return (bool(facts.get("isSecret")) or saysSecret(name)) and not _isPath(value, facts)


def loadHooks(settings: HooksSettings) -> object:
    """The hooks object; a class, or anything else that can be called, is called to make it."""
    hooks = _load(settings.where, settings.name)
    if not callable(hooks):
        if settings.options or settings.objects:
            what = settings.table if settings.layer is None else "its options"
            raise ConfigError(f"{settings.where}: {settings.name} cannot be called, so remove {what} or name a class")
        return hooks
    objects = {name: loadHooks(one) for name, one in settings.objects.items()}
    try:
        return hooks(**settings.options, **objects)
    except OptionError as error:
        table = f"{settings.table}: " if settings.layer is None else ""
        sentence = f"{settings.where}: {table}{error.said(toTOML)}"
        raise ConfigError(scrubbedFor(sentence, settings)) from None
    except Exception as error:
        sentence = f"{settings.where}: calling {settings.name} failed, {settings.fix}: {cause(error)}{lineOf(error)}"
        raise ConfigError(scrubbedFor(sentence, settings)) from error


def loadExtensions(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with extensions in place of their names."""
    names = options.get("extensions", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f'{where}: option extensions is {toTOML(names)}, it wants a list of "package.module:name"')
    extensions = [_load(f"{where}: extensions", name) for name in names]
    for name, extension in zip(names, extensions, strict=True):
        if not isinstance(extension, Extension):
            raise ConfigError(f"{where}: extensions: {name} is {extension!r}, it wants an Extension object")
    return {**options, "extensions": extensions} if "extensions" in options else dict(options)


def _load(where: str, name: str) -> object:
    """The object that C{package.module:Name} names."""
    moduleName, _, path = name.partition(":")
    if not all(part.isidentifier() for part in [*moduleName.split("."), *path.split(".")]):
        raise ConfigError(f'{where} is {toTOML(name)}, it wants "package.module:Name"')
    try:
        found: object = importlib.import_module(moduleName)
    except Exception as error:
        raise ConfigError(
            f"{where}: module {moduleName} cannot be imported, correct it, its name or PYTHONPATH:"
            f" {cause(error)}{lineOf(error)}"
        ) from error
    for part in path.split("."):
        near = [other for other in dir(found) if not inspect.ismodule(getattr(found, other, None))]
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(f"{where}: module {moduleName}: {unknownName('name', part, near)}") from None
    return found


def lineOf(error: Exception) -> str:
    """
    The line of the operator's code that failed, in parentheses; C{""} if the error did not come from there.

    It is the last line of the traceback outside smtphooks and all libraries; if the operator's code is installed as a
    library itself, the last one outside smtphooks, Twisted and the standard library.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    lines = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        # "<frozen …>" and "<attrs generated …>" are no files that the operator could open.
        if not frame.filename.startswith((_OURS, _TWISTED, "<")) and not _isStandard(frame.filename)
    ]
    lines = [frame for frame in lines if not _isInstalled(frame.filename)] or lines
    return f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""


def _isStandard(path: str) -> bool:
    return path.startswith(_STANDARD) and not _isInstalled(path)


def _isInstalled(path: str) -> bool:
    return not _INSTALLED.isdisjoint(path.split(os.sep))
