"""
Measurements of a process by the kernel: CPU time, memory, open files; and the core that it runs on.

A server is a tree of processes with all of their threads.
This module knows processes; it knows neither SMTP nor comparisons.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROC = Path("/proc")
TIMEOUT = 30.0
# Seconds without CPU time after which a server is idle: a busy one uses some within them.
_STILLNESS = 0.03
_POLLING = 0.005

_PR_SET_PDEATHSIG = 1


def tree(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for task in (PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def cpuTime(pid: int) -> int:
    """CPU time of all threads of the tree in nanoseconds; exact for threads that sleep."""
    return sum(
        int((task / "schedstat").read_text().split()[0])
        for process in tree(pid)
        for task in (PROC / str(process) / "task").iterdir()
    )


def memory(pid: int) -> int:
    """Memory of the tree in octets; shared pages count proportionally (PSS)."""
    return sum(_pss(process) for process in tree(pid))


def _pss(pid: int) -> int:
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no Pss")


def openFiles(pid: int) -> int:
    """The number of files and sockets that the tree has open."""
    return sum(len(os.listdir(PROC / str(process) / "fd")) for process in tree(pid))


def awaitQuiet(pid: int, files: int) -> None:
    """
    Wait until the server uses no CPU time, and has no more files open than before.

    @param files: the result of L{openFiles} before the load.
    """
    end = time.monotonic() + TIMEOUT
    last, since = cpuTime(pid), time.monotonic()
    while time.monotonic() - since < _STILLNESS or openFiles(pid) > files:
        if time.monotonic() > end:
            raise TimeoutError(f"the server is not quiet, with {openFiles(pid) - files} connections still open")
        time.sleep(_POLLING)
        now = cpuTime(pid)
        if now != last:
            last, since = now, time.monotonic()


@functools.cache
def cores() -> tuple[int, int]:
    """
    The core of the load and that of the servers; they are the same if there is only one.

    The answer is the first one for good: the benchmark pins itself to the former, and may then use no other.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def checkCores(server: int) -> None:
    """
    Make sure that the load and a server run where they are measured.

    @param server: its process; the load is the process at hand, and its children.
    @raise RuntimeError: one of them runs elsewhere.
    """
    ours, theirs = cores()
    for process, core in ((0, ours), *((process, theirs) for process in tree(server))):
        if os.sched_getaffinity(process) != {core}:
            who = f"process {process} of a server" if process else "the load"
            raise RuntimeError(f"{who} may run on the cores {os.sched_getaffinity(process)}, and not on {core} alone")


def childOn(core: int) -> Callable[[], None]:
    """A C{preexec_fn} that pins a child to a core, and has the kernel kill it when the benchmark is killed."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


def raiseFileLimit() -> None:
    """Allow as many connections as this user may have; the servers inherit the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
