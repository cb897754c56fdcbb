"""
Loading: objects of the operator's own code, by the names that a configuration has for them.

Modules are found as Python finds them, and then in folders of the operator's.  What goes wrong in there is a
L{ConfigError}, whose one sentence shows the line of that code.
This module knows no options, and nothing of what the objects are for but their kind.
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

from smtphooks.errors import unknownName
from smtphooks.extension import Extension
from smtphooks.service.reading import ConfigError, HooksSettings, cause
from smtphooks.service.toml import toTOML

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep
# Folders that libraries are installed in; the second is Debian's.
_INSTALLED = {"site-packages", "dist-packages"}


def searchIn(folders: Iterable[str]) -> None:
    """Find modules in these folders too."""
    for folder in folders:
        if folder not in sys.path:
            # Last, so that nothing in there takes the place of a module that anything else imports.
            sys.path.append(folder)


def loadHooks(said: HooksSettings) -> object:
    """The object of hooks; what can be called is called for it."""
    hooks = _load(said.where, said.name)
    if not callable(hooks):
        if said.options:
            raise ConfigError(f"{said.where}: {said.name} cannot be called, so remove {said.table} or name a class")
        return hooks
    try:
        return hooks(**said.options)
    except Exception as error:
        raise ConfigError(
            f"{said.where}: calling {said.name} failed, {said.fix}: {cause(error)}{lineOf(error)}"
        ) from error


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
    """What C{package.module:Name} stands for."""
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
    Where the operator's code failed, an empty text if it was not there.

    That is the last line which is neither ours nor of any library, whoever raised the error in the end; and where the
    operator's code is itself installed as a library, the last line which is not of Python's own.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    lines = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        # What has no file ("<frozen …>", "<attrs generated …>") cannot be looked at.
        if not frame.filename.startswith((_OURS, "<")) and not _isStandard(frame.filename)
    ]
    lines = [frame for frame in lines if not _isInstalled(frame.filename)] or lines
    return f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""


def _isStandard(path: str) -> bool:
    return path.startswith(_STANDARD) and not _isInstalled(path)


def _isInstalled(path: str) -> bool:
    return not _INSTALLED.isdisjoint(path.split(os.sep))
