"""
What the kernel knows of a server: the time that it has computed, its memory, its open files; and where it may run.

A server is all processes of its tree, with all of their threads.
This module knows processes, and neither SMTP nor what is compared with what.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROC = Path("/proc")
PATIENCE = 30.0
# Within it a server that still works shows at least one more reading of its time.
_STILLNESS = 0.03
_POLLING = 0.005

_PR_SET_PDEATHSIG = 1


def tree(pid: int) -> Iterator[int]:
    """That process, its children, and theirs."""
    yield pid
    for task in (PROC / str(pid) / "task").iterdir():
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def cpuTime(pid: int) -> int:
    """Nanoseconds that all threads of the tree have run; exact for those that sleep."""
    return sum(
        int((task / "schedstat").read_text().split()[0])
        for process in tree(pid)
        for task in (PROC / str(process) / "task").iterdir()
    )


def memory(pid: int) -> int:
    """Octets that the tree holds, where shared pages count by their part."""
    return sum(_pss(process) for process in tree(pid))


def _pss(pid: int) -> int:
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no Pss")


def openFiles(pid: int) -> int:
    """How many files and sockets the tree has open."""
    return sum(len(os.listdir(PROC / str(process) / "fd")) for process in tree(pid))


def awaitQuiet(pid: int, files: int) -> None:
    """
    Wait until the server computes nothing, and has no more open than it had.

    @param files: what L{openFiles} said before the load.
    """
    end = time.monotonic() + PATIENCE
    last, since = cpuTime(pid), time.monotonic()
    while time.monotonic() - since < _STILLNESS or openFiles(pid) > files:
        if time.monotonic() > end:
            raise TimeoutError(f"the server is not quiet, with {openFiles(pid) - files} connections that nobody uses")
        time.sleep(_POLLING)
        now = cpuTime(pid)
        if now != last:
            last, since = now, time.monotonic()


def cores() -> tuple[int, int]:
    """The core of the load and that of the servers: the same one where there is but one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def servantOf(core: int) -> Callable[[], None]:
    """What a child does before it runs its program: stay on that core, and die when the benchmark is killed."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


def raiseFileLimit() -> None:
    """As many connections as this user may have; the servers inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
