"""
The rounds: a load, something that is broken and mended under it, and afterwards the account of every message.

In: deliveries, faults, a seed.  Out: a table with the counts of every cell, and whether all of it is as promised.
Rule: a cell is good if no copy that had a 250 is missing, none is there in part, every copy has an end, no client met a
reply that is none, no traceback is in the log of the receiver, and messages get through again after each fault.
This module knows no details of stores and none of faults.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chaos.deliveries import Delivery
from chaos.faults import DISK, NETWORK, OTHER, RECEIVER, Fault
from chaos.ledger import Counts, Ledger, Told
from chaos.load import PATIENCE, Load
from chaos.messages import recognize
from chaos.network import Network
from chaos.place import Place

_OF_PART = {"receiver": RECEIVER, "other": OTHER, "network": NETWORK, "disk": DISK}


# With the line that says where; its own lines are indented, as the log does it.
TRACEBACK = re.compile(r"^.*\n\s*Traceback .*\n(?:\s.*\n)*", re.MULTILINE)


class Size(NamedTuple):
    """
    How long a cell takes.

    @ivar rounds: how often something is broken.
    @ivar clients: connections with a load.
    @ivar before: the most copies with a 250 before something is broken, in each round.
    @ivar broken: the least and the most seconds until it is mended.
    """

    rounds: int = 3
    clients: int = 12
    before: int = 100
    broken: tuple[float, float] = (0.05, 3.0)


SHORT = Size(rounds=1, clients=6, before=10, broken=(0.05, 0.3))


class Result(NamedTuple):
    """What came of a cell; without complaints it is good."""

    delivery: str
    fault: str
    counts: Counts
    complaints: list[str]


def faultsOf(delivery: type[Delivery], wanted: Sequence[str]) -> dict[str, Fault]:
    """What of a delivery can be broken, by name; of these, what is wanted, or all."""
    faults: dict[str, Fault] = {}
    for part, ofPart in _OF_PART.items():
        if part in delivery.parts:
            faults |= ofPart
    return {name: fault for name, fault in faults.items() if not wanted or name in wanted}


def play(
    delivery: type[Delivery], faults: Mapping[str, Fault], folder: Path, network: Network | None, seed: int, size: Size
) -> Iterator[Result]:
    """Play all cells of a delivery, one after the other; the receiver and the other side go on from one to the next."""
    place = Place(folder, network)
    running = delivery(place)
    try:
        running.start()
        for name, fault in faults.items():
            yield _Cell(running, name, fault, seed, size).play()
    finally:
        running.close()
        place.close()


class _Cell:
    """One delivery, and one fault."""

    def __init__(self, delivery: Delivery, name: str, fault: Fault, seed: int, size: Size) -> None:
        self._delivery = delivery
        self._name = name
        self._fault = fault
        self._size = size
        self._cell = f"{seed}/{delivery.name}/{name}".replace(" ", "-")
        self._chooser = random.Random(self._cell)
        self._ledger = Ledger()
        self._load = Load(self._cell, delivery.ports, self._ledger, size.clients)
        self._complaints: list[str] = []

    def play(self) -> Result:
        self._load.start()
        try:
            for number in range(self._size.rounds):
                if not self._round():
                    self._complaints.append(f"nothing gets through in round {number + 1}")
                    break
        finally:
            self._load.stop()
        self._account()
        for traceback in TRACEBACK.findall(self._delivery.takeOutput()):
            self._complaints.append(f"the receiver logged\n{traceback}")
        complaints = [*self._complaints, *self._load.complaints(), *self._ledger.complaints()]
        return Result(self._delivery.name, self._name, self._ledger.counts(), complaints)

    def _round(self) -> bool:
        """Break something under load; whether messages get through before it and after."""
        taken = self._ledger.taken
        if not self._ledger.waitFor(taken + self._chooser.randint(1, self._size.before), PATIENCE):
            return False
        # Not at the very moment of a reply.
        time.sleep(self._chooser.uniform(0, 0.02))
        with self._fault(self._delivery, self._chooser):
            time.sleep(self._chooser.uniform(*self._size.broken))
        return self._ledger.waitFor(self._ledger.taken + self._size.clients, PATIENCE)

    def _account(self) -> None:
        """Note what has arrived."""
        deadline = time.monotonic() + self._delivery.settling
        while True:
            for recipients, octets in self._delivery.arrived():
                found = recognize(octets)
                # What had no 250 may come as late as in another cell.
                if found.identity.startswith(self._cell) or not found.isWhole:
                    self._ledger.find(found, recipients)
            if not self._ledger.missing() or time.monotonic() > deadline:
                return
            time.sleep(0.1)


HEADINGS = ["delivery", "what is broken", "sent", *(told.value for told in Told), "found", "again", "half", "lost"]


def table(results: Sequence[Result]) -> str:
    """The counts of all cells, and their sums, as a table of reStructuredText."""
    rows = [[result.delivery, result.fault, *_numbersOf(result.counts)] for result in results]
    sums = [str(sum(int(row[column]) for row in rows)) for column in range(2, len(HEADINGS))]
    rows = [HEADINGS, *rows, ["all", "", *sums]]
    return draw(rows, 2)


def draw(rows: Sequence[Sequence[str]], texts: int) -> str:
    """
    Rows as a table of reStructuredText.

    @param rows: the first has the headings.
    @param texts: how many of the first columns are no numbers.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if column >= texts else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "  ".join("=" * width for width in widths)
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _numbersOf(counts: Counts) -> list[str]:
    numbers = [counts.sent, *(counts.told[told] for told in Told)]
    return [str(number) for number in (*numbers, counts.found, counts.again, counts.half, counts.lost)]
