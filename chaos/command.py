"""
The command: all cells that are asked for are played, and the table is printed.

This module combines the others and does nothing else.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chaos.deliveries import Delivery
from chaos.faults import FAULTS, ISOLATED
from chaos.liar import LIARS
from chaos.matrix import DELIVERIES
from chaos.network import Network
from chaos.run import SHORT, Result, Size, faultsOf, play, table


def main(arguments: Sequence[str], reason: str | None) -> int:
    """
    Play.

    @param reason: why this process is not in namespaces of its own; None if it is.
    @return: 1 if a cell is not good, or none was played.
    """
    options = _parse(arguments)
    network = None if reason else Network()
    print(f"seed {options.seed}", flush=True)
    size = SHORT if options.short else Size(rounds=options.rounds)
    results: list[Result] = []
    for delivery in _deliveries(options.delivery):
        missing = delivery.missing()
        if missing:
            print(f"{delivery.name}: skipped, {missing}", flush=True)
            continue
        faults = faultsOf(delivery, options.fault)
        if reason:
            for name in faults.keys() & ISOLATED:
                print(f"{delivery.name}, {name}: skipped, no namespaces ({reason})", flush=True)
                del faults[name]
        if not faults:
            continue
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            for result in play(delivery, faults, Path(folder), network, options.seed, size):
                _show(result)
                results.append(result)
    if not results:
        print("there was nothing to play")
        return 1
    print(table(results))
    return int(any(result.complaints for result in results))


def _show(result: Result) -> None:
    counts = result.counts
    print(
        f"{result.delivery}, {result.fault}: {counts.sent} sent, {counts.found} found, {counts.lost} lost",
        *(f"  {complaint}" for complaint in result.complaints),
        sep="\n",
        flush=True,
    )


def _deliveries(wanted: Sequence[str]) -> list[type[Delivery]]:
    return [delivery for delivery in DELIVERIES + LIARS if delivery.name in wanted] if wanted else DELIVERIES


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description="break deliveries under load, lose nothing")
    names = [delivery.name for delivery in DELIVERIES + LIARS]
    parser.add_argument("--delivery", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--fault", action="append", choices=list(FAULTS), metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--rounds", type=int, default=Size().rounds, metavar="N", help="default: %(default)s")
    seed = random.randrange(1_000_000)
    parser.add_argument("--seed", type=int, default=seed, metavar="N", help="of all that is random; default: any")
    parser.add_argument("--short", action="store_true", help="one short round a cell, as the suite plays them")
    return parser.parse_args(arguments)
