"""
Run the files of pages, each in a process of its own that is forked, so that imports are paid once.

Started as a program: it reads a list of C{[folder, kind, arguments]} as JSON, and writes a list of what each has said,
empty where it has succeeded, to the file that it is given.  In a forked process nothing runs for ever: the reactor's
C{run} returns at once, and a port is any free one of the loopback interface.
This module knows no page.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor, base, posixbase
from twisted.internet.protocol import ServerFactory
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError
from twisted.scripts._twistd_unix import ServerOptions

import smtphooks
import smtphooks.layers
import smtphooks.stores
from smtphooks.__main__ import Options as CommandOptions
from smtphooks.__main__ import main as command
from smtphooks.command import draining, sending, status
from smtphooks.command.flags import flagsFirst

PATIENCE = 15  # seconds, of which a block takes less than one


def python(name: str) -> None:
    """Run a module or program, without the reactor, and without what it guards by C{__name__}."""
    for kind in (base.ReactorBase, asyncioreactor.AsyncioSelectorReactor):
        kind.run = lambda self, *arguments, **named: None  # type: ignore[method-assign]
    listen = posixbase.PosixReactorBase.listenTCP

    def listenAnywhere(self: Any, port: int, factory: ServerFactory, backlog: int = 50, interface: str = "") -> Any:
        return listen(self, 0, factory, backlog, "127.0.0.1")

    posixbase.PosixReactorBase.listenTCP = listenAnywhere  # type: ignore[method-assign, assignment]
    runpy.run_path(name)


def toml(name: str) -> None:
    """Check a configuration."""
    with redirect_stdout(io.StringIO()):
        command(["--config", name, "--check"])


class Flags(CommandOptions):
    """The flags of the command, parsed and not acted on."""

    def postOptions(self) -> None: ...


class TwistdFlags(ServerOptions):
    """Those of twistd, with the plugins that are there."""

    def postOptions(self) -> None: ...


class SendFlags(sending.Options):
    """Those of C{smtphooks send}."""

    def postOptions(self) -> None: ...


COMMANDS: dict[str, Callable[[], UsageOptions]] = {
    "send": SendFlags,
    "status": status.Options,
    "drain": draining.Options,
}


def console(program: str, *arguments: str) -> None:
    """Parse the flags of a command."""
    given = [*arguments]
    flags: UsageOptions = TwistdFlags() if program == "twistd" else Flags()
    if program == "twistd":
        if "--reactor" in given:  # which twistd would install at once
            at = given.index("--reactor")
            del given[at : at + 2]
        if "smtphooks" in given:
            at = given.index("smtphooks")
            Flags().parseOptions(given[at + 1 :])
            given = given[:at]
    elif given and given[0] in COMMANDS:
        flags, given = COMMANDS[given[0]](), given[1:]
        given = flagsFirst(flags, given)
    elif given[:1] == ["completion"]:
        command(given)
        return
    try:
        flags.parseOptions(given)
    except UsageError as error:
        raise SystemExit(f"{program} {' '.join(arguments)}: {error}") from None


KINDS: dict[str, Callable[..., None]] = {"python": python, "toml": toml, "console": console}


def isolated(folder: str, kind: str, arguments: list[str]) -> str:
    """Do it in a process of its own; what that has said if it has failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(PATIENCE)
        said, status = "", 1
        try:
            os.chdir(folder)
            sys.path.insert(0, folder)
            sys.argv = arguments[:1]
            with redirect_stdout(io.StringIO()):
                KINDS[kind](*arguments)
            status = 0
        except SystemExit as end:
            status = 0 if not end.code else 1
            said = str(end.code)
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, said.encode()[-60000:])
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return "" if status == 0 else said or f"ended with status {status}"


if __name__ == "__main__":
    assert smtphooks.__version__
    Path(sys.argv[1]).write_text(json.dumps([isolated(*task) for task in json.load(sys.stdin)]))
