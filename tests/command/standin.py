"""
A supervisor without workers, on a real control socket: it answers what a test has it answer.

It takes the path of the socket, and a file with the answers to C{status}, of which it repeats the last.  It prints what
it is told.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from smtphooks.service.channel import ChannelError
from smtphooks.service.control import Control


class Supervisor:
    """
    @ivar answers: to C{status}, the next first.
    """

    def __init__(self, answers: list[dict[str, Any]]) -> None:
        self.answers = answers

    async def statusOf(self) -> dict[str, Any]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def drain(self, number: int | None) -> None:
        if number == 7:
            raise ChannelError("there is no worker 7, they have the numbers 1 to 2")
        print("drain", number, flush=True)

    def resume(self, number: int | None) -> None:
        print("resume", number, flush=True)

    def reload(self) -> None:
        print("reload", flush=True)


def main(path: str, answers: str) -> None:
    from twisted.internet import reactor

    control = Control(path, Supervisor(json.loads(Path(answers).read_text())), reactor)
    control.start()
    reactor.addSystemEventTrigger("before", "shutdown", control.stop)  # type: ignore[attr-defined]
    reactor.callWhenRunning(print, "answers", flush=True)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(*sys.argv[1:])
