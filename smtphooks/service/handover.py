"""
The hand-over: a supervisor replaces its own program by a new version, which takes over sockets and workers.

The process stays the same (C{execve}), so workers remain its children, systemd sees no end, and no socket is closed.
File descriptors go to the new program by number, with what it must know of them in a file without a name, whose number
is in the environment variable C{SMTPHOOKS_SUPERVISOR}: a variable itself has room for 128 KiB (execve(2)), and what
workers have counted may be more.
This module knows no reactor, and does not decide when a program is replaced.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import attrs
from twisted.python.logfile import LogFile

from smtphooks.service.opening import Opened
from smtphooks.service.sockets import ListeningSockets
from smtphooks.service.workers import NOWHERE, STARTING, Streams, Worker, diedOf, known
from smtphooks.sharedtable import newFile

SUPERVISOR = "SMTPHOOKS_SUPERVISOR"

# Signals that the operator may send at any time, and that end a process which does not handle them.
_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@attrs.frozen
class HandOver:
    """
    What a supervisor gives to the program that replaces it.

    @ivar opened: the sockets.
    @ivar workers: those that serve or drain.
    @ivar table: the file descriptor of the table, and how many columns it has.
    @ivar heldBack: numbers of workers out of service.
    @ivar isRefusing: the machine drains.
    @ivar counted: what workers that have ended had counted.
    @ivar numbers: how often workers have been replaced (C{restarts}), and the service was reloaded (C{reloads}).
    """

    opened: Opened
    workers: Sequence[Worker]
    table: tuple[int, int]
    heldBack: Sequence[int]
    isRefusing: bool
    counted: list[dict[str, Any]]
    numbers: dict[str, dict[str, int]]

    def asJSON(self) -> str:
        """All of it; file descriptors as numbers."""
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(HandOver)}
        fields["opened"] = attrs.asdict(self.opened)
        fields["workers"] = [
            {
                **{name: getattr(worker, name) for name in ("number", "generation", "pid", "since", "state")},
                # There was another table before there were more workers; nobody else may lose a column for it.
                "column": worker.column if worker.table is None or worker.table.fd == self.table[0] else NOWHERE,
                "streams": attrs.asdict(worker.streams),
                "serving": worker.serving,
            }
            for worker in self.workers
        ]
        return json.dumps(fields)

    @property
    def descriptors(self) -> Iterable[int]:
        """All file descriptors."""
        for one in self.opened.all:
            yield from one.descriptors
        for worker in self.workers:
            yield from attrs.astuple(worker.streams)
        yield self.table[0]


def takeHandOver() -> HandOver | None:
    """What the program that was here before has given, None if there was none."""
    given = os.environ.pop(SUPERVISOR, None)
    if given is None:
        return None
    with open(int(given), "rb") as file:
        file.seek(0)
        fields: dict[str, Any] = json.load(file)
    if signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN:
        # A log file leaves it alone if it is not the default, and would never be rotated again.
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    workers = [
        Worker(**known(Worker, {**one, "streams": Streams(**one["streams"]), "died": diedOf(one["pid"])}))
        for one in fields["workers"]
    ]
    for worker in workers:
        worker.hasBeaten = worker.state != STARTING
    opened = {
        kind: [ListeningSockets(**known(ListeningSockets, one)) for one in those]
        for kind, those in fields["opened"].items()
    }
    fields |= {"opened": Opened(**known(Opened, opened)), "workers": workers}
    # A newer version may have given more, and an exception would end all workers.
    handOver = HandOver(**known(HandOver, fields))
    for descriptor in handOver.descriptors:
        os.set_inheritable(descriptor, False)
    return handOver


def replaceProgram(handOver: HandOver, twistd: Mapping[str, Any], folder: str) -> NoReturn:
    """
    Replace this program by that which is installed now, with the same arguments.

    @param twistd: the flags of twistd itself.
    @param folder: the working folder that this program was started in.
    @raise OSError: if there is no program to execute, or none that could begin; this one goes on then.
    """
    file = newFile()
    # A signal that came before the new program can handle it would end it.
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    pidfile = twistd.get("pidfile")
    before = os.getcwd()
    try:
        for descriptor in (file, *handOver.descriptors):
            os.set_inheritable(descriptor, True)
        with open(file, "wb", closefd=False) as writing:
            writing.write(handOver.asJSON().encode())
        os.chdir(folder)
        if (logfile := _maybeLogfile(twistd)) is not None:
            # The new program opens it, and would end if it cannot: the user may have been root at the start.
            LogFile.fromFullPath(logfile).close()
        if pidfile:
            # The new program writes it, and would end as it finds that another one, itself, runs.
            with suppress(FileNotFoundError):
                os.unlink(pidfile)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os.execve(sys.executable, _arguments(twistd), {**os.environ, SUPERVISOR: str(file)})
    except OSError:
        os.close(file)
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for descriptor in handOver.descriptors:
            os.set_inheritable(descriptor, False)
        if pidfile:
            with suppress(OSError), open(pidfile, "w") as again:
                again.write(str(os.getpid()))
        raise


def _maybeLogfile(twistd: Mapping[str, Any]) -> str | None:
    """The file that the new program logs to, None if there is none."""
    if twistd.get("syslog") or twistd.get("logger"):
        return None
    logfile = twistd.get("logfile") or ("-" if twistd.get("nodaemon", True) else "twistd.log")
    return None if logfile == "-" else str(logfile)


def _arguments(twistd: Mapping[str, Any]) -> list[str]:
    """The arguments of this process, for one that stays what it is: a daemon is one already."""
    arguments = [sys.executable, *sys.orig_argv[1:]]
    if twistd.get("nodaemon", True):
        return arguments
    place = next(number for number, each in enumerate(arguments) if os.path.basename(each) == "twistd") + 1
    logfile = [] if twistd.get("logfile") else ["--logfile", "twistd.log"]
    return [*arguments[:place], "--nodaemon", *logfile, *arguments[place:]]
