"""
Asking a supervisor: what C{smtphooks status} and C{smtphooks drain} have in common.

In: flags that say which supervisor is meant, and a question.  Out: its answer, or one sentence on why there is none.
It is a plain socket, for a question and its answer need no reactor.
This module knows no question, and not what is shown of an answer.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from twisted.python.usage import Options as UsageOptions

from smtphooks.command.client import printable
from smtphooks.command.versions import printVersions
from smtphooks.service.control import controlPath
from smtphooks.service.settings import ConfigError, folderOf

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

# Seconds for an answer: the supervisor waits for its workers, though not for long.
_TIMEOUT = 10.0

# Where the sample unit's runtime directory is, which the shell of an operator has no variable for.
_SYSTEM = "/run/smtphooks/smtphooks.control"

# The configuration that the service of this folder would be started with.
_WHERE = "name its configuration with --config, or its socket with --control"


class Options(UsageOptions):
    """The flags of a command that asks a supervisor."""

    optParameters: list[list[Any]] = [
        ["config", None, None, "Ask the supervisor that runs with this configuration file."],
        ["control", None, None, "Ask the supervisor that has this control socket."],
    ]

    def opt_version(self) -> None:
        """Print the versions, and exit."""
        printVersions()

    @property
    def path(self) -> str:
        """
        The control socket.

        @raise ConfigError: if there can be none, or if the file cannot be read.
        """
        if self["control"] is not None:
            return controlPath(self["control"], None)
        config = self["config"]
        given = None if config is None else _keyOf(config)
        path = controlPath(given, None if config is None else folderOf(config))
        if given is None and not os.path.exists(path) and os.path.exists(_SYSTEM):
            return _SYSTEM
        return path


def _keyOf(config: str) -> str | None:
    """The key C{control} of a configuration, of which nothing else needs to be right."""
    try:
        with open(config, "rb") as file:
            given = tomllib.load(file).get("control")
    except OSError as error:
        raise ConfigError(f"--config {printable(config)} cannot be read ({error.strerror}), name another") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{printable(config)} is not TOML ({error}), correct it or give --control") from error
    if given is not None and not isinstance(given, str):
        raise ConfigError(f"{printable(config)}: control is no text, correct it or give --control")
    return given


def ask(path: str, kind: str, **fields: object) -> dict[str, Any]:
    """
    Ask the supervisor of this socket.

    @return: its answer.
    @raise ConfigError: if there is none; its sentence says why, and what to do.
    """
    shown = printable(path)
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_TIMEOUT)
            asking.connect(path)
            asking.sendall(json.dumps({"kind": kind, "ask": 1, **fields}).encode() + b"\n")
            with asking.makefile("rb") as lines:
                line = lines.readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise ConfigError(f"no supervisor answers at {shown}, start one with workers, or {_WHERE}") from error
    except PermissionError as error:
        raise ConfigError(f"{shown} belongs to another user, run this as that user or as root") from error
    except TimeoutError as error:
        raise ConfigError(f"the supervisor at {shown} has not answered within {_TIMEOUT:.0f} seconds") from error
    except OSError as error:
        raise ConfigError(f"the supervisor at {shown} cannot be asked ({error.strerror}), {_WHERE}") from error
    return _resultOf(shown, line)


def _resultOf(shown: str, line: bytes) -> dict[str, Any]:
    if not line:
        raise ConfigError(f"the supervisor at {shown} has ended the connection, it may be restarting: ask again")
    try:
        answer = json.loads(line)
        if "error" in answer:
            raise ConfigError(printable(str(answer["error"])))
        result: dict[str, Any] = answer["result"]
        return result
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"what answers at {shown} is no supervisor of smtphooks, {_WHERE}") from error
