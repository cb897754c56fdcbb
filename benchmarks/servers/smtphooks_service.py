"""
smtphooks as an operator runs it: the program, a configuration file, and a log in a file, as text or as JSON.

The hooks and the options are those of L{smtphooks_server}, so the service and its log are all that differs.  This
program writes the configuration, and then becomes the service.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks.servers.smtphooks_server import TwoHooks, endpoint, optionsFor

COMMAND = (
    *(sys.executable, "-m", "smtphooks"),
    *("--config={config}", "--logfile={log}", "--log-format={format}"),
)


def configuration(port: str, mode: str, folder: str) -> str:
    """The configuration as TOML, whose strings, numbers and booleans are written as in JSON."""
    options = [f"{name} = {json.dumps(value)}" for name, value in optionsFor(mode, folder).items()]
    listener = ["[[listener]]", f"endpoint = {json.dumps(endpoint(port))}"]
    hooks = f'hooks = "benchmarks.servers.smtphooks_server:{TwoHooks.__name__}"'
    return "\n".join([hooks, "[options]", *options, *listener, ""])


def main(port: str, mode: str, folder: str, variant: str) -> None:
    config = Path(folder, f"{variant}.toml")
    config.write_text(configuration(port, mode, folder), encoding="utf-8")
    places = {"config": config, "log": Path(folder, f"{variant}.log"), "format": variant}
    command = [part.format_map(places) for part in COMMAND]
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
