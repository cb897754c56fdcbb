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
from contextlib import suppress
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
    for thread in _threads(pid):
        for child in (thread / "children").read_text().split():
            yield from tree(int(child))


def _threads(pid: int) -> Iterator[Path]:
    """The folders of the threads of a process, each named by the number of its thread."""
    return (PROC / str(pid) / "task").iterdir()


def cpuTime(pid: int) -> int:
    """CPU time of all threads of the tree in nanoseconds; exact for threads that sleep."""
    return sum(
        int((thread / "schedstat").read_text().split()[0]) for process in tree(pid) for thread in _threads(process)
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
def allCores() -> tuple[int, ...]:
    """
    All cores that the benchmark may use.

    The answer is the first one for good: the benchmark pins itself to one of them, and may then use no other.
    """
    return tuple(sorted(os.sched_getaffinity(0)))


def cores() -> tuple[int, int]:
    """The core of the load and that of the servers; they are the same if there is only one."""
    return allCores()[0], allCores()[-1]


def coresOf(everywhere: bool) -> tuple[int, ...]:
    """The cores of a server that runs on all of them, or else on that of the servers."""
    return allCores() if everywhere else cores()[1:]


def checkCores(server: int, everywhere: bool = False) -> None:
    """
    Make sure that the load and a server run where they are measured, with all of their threads.

    @param server: its process; the load is the process at hand.
    @param everywhere: whether the server is to run on all cores.
    @raise RuntimeError: one of them may run elsewhere.
    """
    checkLoad(os.getpid())
    for process in tree(server):
        _checkThreads(process, "a server", coresOf(everywhere))


def checkLoad(pid: int) -> None:
    """
    Make sure that a process of the load runs on the core of the load, with all of its threads.

    @raise RuntimeError: it may run elsewhere.
    """
    _checkThreads(pid, "the load", cores()[:1])


def _checkThreads(pid: int, who: str, cores: tuple[int, ...]) -> None:
    # Affinity belongs to a thread; a new thread has that of the thread which made it.
    for thread in _threads(pid):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            allowed = os.sched_getaffinity(int(thread.name))
            if allowed != {*cores}:
                raise RuntimeError(
                    f"thread {thread.name} of {who} may run on the cores {allowed}, and not on { ({*cores}) } alone"
                )


def childOn(*cores: int) -> Callable[[], None]:
    """A C{preexec_fn} that pins a child to cores, and has the kernel kill it when the benchmark is killed."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


def raiseFileLimit() -> None:
    """Allow as many connections as this user may have; the servers inherit the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
