"""
Profile: the CPU time of one message by part of the server, from samples under load.

C{py-spy} takes the samples; the folder of a source file is its part.  This module measures no peers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks import measure
from benchmarks.load import SmtpSource
from benchmarks.peers import NO_HOOKS, SERVICE, SMTPHOOKS, Peer
from benchmarks.running import Server, started

# Samples per second, and seconds for each column.
_RATE = 500
_SECONDS = 8

KERNEL = "kernel: send, receive, poll, close"
REACTOR = "Twisted: reactor and transport"
COROUTINES = "Twisted: Deferreds, coroutines"
LOG = "log"
OTHER = "all else"

# Functions of Twisted and of smtphooks that spend nearly all of their time in the kernel.
_CALLS = (
    *("untilConcludes", "Connection.doRead", "DirectReactor.doPoll", "EPollReactor._add", "EPollReactor._remove"),
    "DirectTransport.write",
    *("Port.doRead", "_SocketCloser._closeSocket", "accept (socket"),
)
# Each folder is a part; the modules beside the folders are one part too.
_PACKAGE = Path(__file__).parents[1] / "smtphooks"
_ROOT = "smtphooks: protocol, factory, values"
_FOLDERS = tuple(sorted(path.parent.name for path in _PACKAGE.glob("*/__init__.py")))
# The events, and the observers that write them.
_LOGS = re.compile(r"smtphooks/(?:connection/eventlog|service/\w*log\w*)\.py$")
_OURS = re.compile(r"smtphooks/(?:(\w+)/(?:\w+/)*)?\w+\.py$")
ORDER = (KERNEL, REACTOR, COROUTINES, LOG, _ROOT, *_FOLDERS, OTHER)

_KEPT = SmtpSource(1500, 1024)
COLUMNS: dict[str, tuple[Peer, SmtpSource]] = {
    "1 KB, kept": (SMTPHOOKS, _KEPT),
    "without hooks": (NO_HOOKS, _KEPT),
    "50 KB, kept": (SMTPHOOKS, SmtpSource(500, 51200)),
    "a connection each": (SMTPHOOKS, SmtpSource(600, 1024, kept=False)),
    "service, text log": (SERVICE, _KEPT),
}


def partOf(stack: list[str]) -> str:
    """
    The part that a sample counts for.

    @param stack: frames such as C{"Wire._data (smtphooks/syntax/wire.py:226)"}, the innermost last.
    """
    for frame in reversed(stack):
        if frame.startswith(_CALLS):
            return KERNEL
        file = frame.rpartition("(")[2].rpartition(":")[0]
        if _LOGS.search(file):
            return LOG
        ours = _OURS.search(file)
        if ours is not None:
            return ours[1] or _ROOT
        if "twisted/logger" in file or file.endswith("twisted/python/logfile.py"):
            return LOG
        if "twisted/internet/defer" in file:
            return COROUTINES
        if "twisted/" in file:
            return REACTOR
        # Other libraries, and functions without a file, count for their caller.
    return OTHER


def profile() -> str:
    """A table of CPU time per message in microseconds: a column for each load, a row for each part."""
    if shutil.which("py-spy", path=str(Path(sys.executable).parent)) is None:
        return "No profile is made: pip install py-spy\n"
    columns = {}
    for name, (peer, load) in COLUMNS.items():
        with started([peer], "smtp") as servers:
            columns[name] = _sampled(servers[peer], load)
    lines = [f"{'µs of CPU per message':36}" + "".join(f"{name:>20}" for name in columns)]
    for part in (*ORDER, "together"):
        lines.append(f"{part:36}" + "".join(f"{column[part]:20.1f}" for column in columns.values()))
    return "\n".join(lines) + "\n"


def _sampled(server: Server, load: SmtpSource) -> dict[str, float]:
    load.run(server.port)
    with tempfile.NamedTemporaryFile() as file:
        command = [str(Path(sys.executable).parent / "py-spy"), "record", "--format", "raw", "--output", file.name]
        command += ["--rate", str(_RATE), "--duration", str(_SECONDS), "--pid", str(server.pid)]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        messages, before = 0, measure.cpuTime(server.pid)
        while spy.poll() is None:
            load.run(server.port)
            messages += load.count
        each = (measure.cpuTime(server.pid) - before) / 1000 / messages
        if spy.returncode:
            raise SystemExit(f"py-spy does not work here: {spy.stderr.read().strip() if spy.stderr else ''}")
        samples = Counter[str]()
        for line in Path(file.name).read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            samples[partOf(stack.split(";"))] += int(count)
    total = sum(samples.values())
    return {**{part: each * samples[part] / total for part in ORDER}, "together": each}
