"""
The command: the phases that are asked for are played, and the tables are printed.

This module combines the others and does nothing else.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from cluster.daemons import Cluster, missing
from cluster.events import EVENTS, Event
from cluster.run import Result, play, tables

_SHORT = 1.5
# Of the log of a receiver, after a failure.
_LINES = 20


def main(arguments: Sequence[str], reason: str | None) -> int:
    """
    Play.

    @param reason: why this process is not in namespaces of its own; None if it is.
    @return: 1 if a phase is not good, or none was played.
    """
    options = _parse(arguments)
    reason = f"no namespaces ({reason})" if reason else missing()
    if reason:
        print(f"skipped: {reason}")
        return 1
    # What has been started and made ends as after a failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    print(f"seed {options.seed}", flush=True)
    events = {name: EVENTS[name] for name in options.only or EVENTS}
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        results = _play(Path(folder), options, events)
    for result in results:
        for complaint in result.complaints:
            print(f"{result.phase}: {complaint}")
    print(tables(results))
    return int(any(result.complaints for result in results))


def _play(folder: Path, options: argparse.Namespace, events: Mapping[str, Event]) -> list[Result]:
    cluster = Cluster(folder)
    try:
        cluster.start()
        _tell("all receivers take mail")
        return play(cluster, events, options.seed, options.seconds, _tell)
    except AssertionError:
        for receiver in cluster.receivers:
            print(f"The last lines of receiver {receiver.name}:", *receiver.output.splitlines()[-_LINES:], sep="\n  ")
        raise
    finally:
        cluster.close()


def _tell(sentence: str) -> None:
    print(sentence, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster", description="lose machines under load, and no message")
    parser.add_argument("--only", action="append", choices=list(EVENTS), metavar="PHASE", help=", ".join(EVENTS))
    help = "of a phase before something is broken, while it is, and afterwards; default: %(default)s"
    parser.add_argument("--seconds", type=float, default=10.0, metavar="N", help=help)
    seed = random.randrange(1_000_000)
    parser.add_argument("--seed", type=int, default=seed, metavar="N", help="of all that is random; default: any")
    parser.add_argument("--short", dest="seconds", action="store_const", const=_SHORT, help="as the suite plays them")
    return parser.parse_args(arguments)
