"""
smtphooks as an operator runs it: the program, a configuration file, and a log in a file, as text or as JSON.

The hooks and the options are those of L{smtphooks_server}, so the service and its log are all that differs.  This
program writes the configuration, and then becomes the service.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.servers.smtphooks_server import TwoHooks, endpoint, optionsFor

COMMAND = (
    *(sys.executable, "-m", "smtphooks"),
    *("--config={config}", "--logfile={log}", "--log-format={format}"),
)


HOOKS = {"hooks": f"benchmarks.servers.smtphooks_server:{TwoHooks.__name__}"}


def configuration(port: str, mode: str, folder: str, top: Mapping[str, Any] = HOOKS) -> str:
    """
    The configuration as TOML, whose strings, numbers and booleans are written as in JSON.

    @param top: the keys outside of a table.
    """
    listener = ["[[listener]]", f"endpoint = {json.dumps(endpoint(port))}"]
    return "\n".join([*_lines(top), "[options]", *_lines(optionsFor(mode, folder)), *listener, ""])


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    return (f"{name} = {json.dumps(value)}" for name, value in values.items())


def become(folder: str, name: str, text: str, logFormat: str = "text") -> None:
    """Write the configuration C{text}, and replace this program by the service; its files have this C{name}."""
    config = Path(folder, f"{name}.toml")
    config.write_text(text, encoding="utf-8")
    places = {"config": config, "log": Path(folder, f"{name}.log"), "format": logFormat}
    command = [part.format_map(places) for part in COMMAND]
    os.execv(command[0], command)


def main(port: str, mode: str, folder: str, variant: str) -> None:
    become(folder, variant, configuration(port, mode, folder), variant)


if __name__ == "__main__":
    main(*sys.argv[1:])
