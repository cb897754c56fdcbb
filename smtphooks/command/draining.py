"""
C{smtphooks drain}: take a machine, or one of its workers, out of service, or let it go on.

Flags and the number of a worker in, a sentence and an exit status out: 0 if the supervisor does so, else 1.
This module knows no socket, and not how a supervisor drains.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.python.usage import UsageError

from smtphooks.command import asking
from smtphooks.command.flags import flagsFirst
from smtphooks.service.settings import ConfigError
from smtphooks.service.tap import explained, oneSentence

# Seconds between two looks at connections that are waited for.
_LOOK = 1.0


class Options(asking.Options):
    """
    The flags of C{smtphooks drain}.

    @ivar number: that of a worker, None for all of them.
    """

    command = "smtphooks drain"
    synopsis = "Usage: smtphooks drain [--resume | --wait] [flags] [NUMBER]"
    longdesc: str = (
        "Without a number the machine drains: new clients get 421, /readyz is false, and connections go on.  With the"
        " number of a worker that worker ends when its connections have, and others take its place."
    )
    optFlags: list[list[str | None]] = [
        ["resume", None, "Go on."],
        ["wait", None, "End when no connection is left."],
    ]

    def __init__(self) -> None:
        asking.Options.__init__(self)  # type: ignore[no-untyped-call]
        self.number: int | None = None

    def parseArgs(self, number: str | None = None) -> None:
        """The number of a worker."""
        if number is None:
            return
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise UsageError(f"{number} is no number of a worker, smtphooks status shows them")
        self.number = int(number)

    def postOptions(self) -> None:
        """Check what can be checked without a supervisor."""
        if self["resume"] and self["wait"]:
            raise UsageError("--resume has nothing to wait for, leave --wait out")


def main(arguments: Sequence[str]) -> None:
    """
    Have it drained, or go on.

    @raise SystemExit: with a sentence if the supervisor cannot be asked, or refuses.
    """
    options = Options()
    with oneSentence():
        try:
            options.parseOptions(flagsFirst(options, arguments))  # type: ignore[no-untyped-call]
        except UsageError as error:
            raise UsageError(explained(options.command, options.synonyms, error)) from None
        path, number = options.path, options.number
        asking.ask(path, "resume" if options["resume"] else "drain", number=number)
        if not options["wait"]:
            print(_sentence(number, bool(options["resume"])))
            return
        try:
            print(_sentence(number, isResuming=False), flush=True)
            _wait(path, number)
        except KeyboardInterrupt:
            print("smtphooks: interrupted, it drains on", file=sys.stderr)
            raise SystemExit(130) from None  # as shells have it: 128, and the number of SIGINT


def _sentence(number: int | None, isResuming: bool) -> str:
    if number is None:
        return "new clients are served" if isResuming else "new clients get 421, connections go on"
    if isResuming:
        return f"worker {number} is in service"
    return f"worker {number} is out of service, its connections end within closeTimeout"


def _wait(path: str, number: int | None) -> None:
    while not _isDrained(asking.ask(path, "status"), number):
        time.sleep(_LOOK)
    print("no connection is left")


def _isDrained(status: Mapping[str, Any], number: int | None) -> bool:
    """
    Whether no connection is left.

    @raise ConfigError: if it does not drain any more.
    """
    workers = status["workers"]
    if number is not None:
        mine = [worker for worker in workers if worker["number"] == number]
        if any(worker["state"] in ("starting", "ready") for worker in mine):
            raise ConfigError(f"worker {number} is in service again")
        return not any("pid" in worker for worker in mine)
    if status["state"] != "draining":
        raise ConfigError(f"the machine does not drain any more, it is {status['state']}")
    return not any(worker.get("connections", 1) for worker in workers if "pid" in worker)
