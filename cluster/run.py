"""
The phases: a load over HAProxy, something that is broken and mended under it, and the account of every message.

In: a cluster, events, a seed.  Out: the counts of every phase, and whether all of it is as promised.
Rule: a phase is good if no copy that had a 250 is missing, none is there in part, every copy has an end, no receiver
logs a traceback, messages get through while something is broken and after it is mended, no connection is cut while all
machines are there, HAProxy finds dead the receiver that is, and no other, and one client never gets more messages
through than the limit allows.
This module knows no details of daemons and none of events.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from chaos.ledger import Counts, Ledger, Told
from chaos.load import PATIENCE, Load
from chaos.messages import recognize
from chaos.run import TRACEBACK, draw
from cluster.daemons import CLIENTS, EAGER, RECIPIENTS, Cluster
from cluster.eager import Asked, Eager, Rate, excessOf, most, rateOf
from cluster.events import Event

_CLIENTS, _EAGER_CLIENTS = 12, 6
# The most seconds between two messages of a client: with more of them, a machine on which all of this runs is so busy
# that Redis does not answer in time.
_PAUSE = 0.2
# Of what the eager client asks, the most that may be counted without Redis while it is there.
_FALLBACKS = 0.5


class Span(NamedTuple):
    """
    What the eager client got within a part of a phase.

    @ivar counts: how many counts of its messages there were; the limit holds for each of them.
    @ivar fallbacks: how often a receiver counted by itself, for any client.
    """

    name: str
    counts: int
    seconds: float
    asked: list[Asked]
    fallbacks: int

    @property
    def accepted(self) -> int:
        return sum(each.accepted for each in self.asked)

    def complaints(self, rate: Rate) -> Iterator[str]:
        """Sentences about what was more than the limit allows."""
        allowed = 0
        if self.counts == 1:
            # An answer of Redis may be late on a busy machine, and then the receiver counts that message by itself.
            allowed = self.fallbacks
            if allowed > _FALLBACKS * len(self.asked):
                yield f"{self.name}: receivers counted by themselves {allowed} times, though Redis was there"
        excess = excessOf(self.asked, rate, self.counts) - allowed
        if excess > 0:
            yield f"{self.name}: one client got {excess} messages more than the limit allows"


class Result(NamedTuple):
    """
    What came of a phase; without complaints it is good.

    @ivar states: for each receiver what HAProxy said of it, one after the other.
    """

    phase: str
    counts: Counts
    rate: Rate
    spans: list[Span]
    states: dict[str, list[str]]
    complaints: list[str]


def play(
    cluster: Cluster, events: Mapping[str, Event], seed: int, seconds: float, tell: Callable[[str], None]
) -> list[Result]:
    """
    Play one phase for each event, and then make the account of all.

    @param seconds: how long a phase goes on before something is broken, while it is, and afterwards; what HAProxy and
        the machines take for it comes on top.
    @param tell: is called with a sentence when something is done.
    """
    phases: list[_Phase] = []
    for name, event in events.items():
        phases.append(_Phase(cluster, name, event, seed))
        phases[-1].play(seconds)
        tell(f"{name}: {phases[-1].ledger.taken} had a 250")
        _account(cluster, phases)
    _account(cluster, phases)
    return [phase.result() for phase in phases]


def _account(cluster: Cluster, phases: Sequence[_Phase]) -> None:
    """Note what is in the queue: it may be of an earlier phase, where a receiver was late."""
    for recipients, octets in cluster.broker.arrived():
        found = recognize(octets)
        (of,) = [phase for phase in phases if found.identity.startswith(f"{phase.cell}-")] or phases[-1:]
        of.ledger.find(found, recipients)


class _Mark(NamedTuple):
    """A moment, or rather the time that it took to ask all receivers."""

    begin: float
    end: float
    fallbacks: Mapping[str, int | None]

    def fallbacksSince(self, before: _Mark) -> Iterator[int]:
        """How often each receiver counted by itself, as far as it says."""
        for name, number in self.fallbacks.items():
            known = before.fallbacks[name] or 0
            if number is not None:
                yield number - known if number >= known else number  # it has begun anew


class _Phase:
    """One event, and the load that it happens under."""

    def __init__(self, cluster: Cluster, name: str, event: Event, seed: int) -> None:
        self.cell = f"{seed}/{name}".replace(" ", "-")
        self.ledger = Ledger()
        self._cluster = cluster
        self._name = name
        self._event = event
        self._chooser = random.Random(self.cell)
        door = cluster.door
        self._load = Load(f"{self.cell}-load", door, self.ledger, _CLIENTS, CLIENTS, RECIPIENTS, _PAUSE)
        address = (door.host, door.smtp)
        self._eager = Eager(f"{self.cell}-eager", address, EAGER, RECIPIENTS[0], self.ledger, _EAGER_CLIENTS)
        self._rate = rateOf(cluster.limit)
        self._mayCut = False
        self._complaints: list[str] = []
        self._spans: list[Span] = []
        self._states: dict[str, list[str]] = {}

    def play(self, seconds: float) -> None:
        health = self._cluster.health
        health.waitUntilAllAreUp()
        health.take()
        logged = {receiver: len(receiver.output) for receiver in self._cluster.receivers}
        self._load.start()
        self._eager.start()
        try:
            self._break(seconds)
        finally:
            self._load.stop()
            self._eager.stop()
        for receiver, known in logged.items():
            for traceback in TRACEBACK.findall(receiver.output[known:]):
                self._complaints.append(f"receiver {receiver.name} logged\n{traceback}")
            self._complaints += receiver.complaints()

    def _break(self, seconds: float) -> None:
        self._goOn("at the beginning", 0)
        marks = [self._mark()]
        self._goOn("before", seconds)
        marks.append(self._mark())
        with self._event(self._cluster, self._chooser) as what:
            self._goOn("while it is broken", seconds)
            marks.append(self._mark(what.receivers))
        marks.append(self._mark())
        self._goOn("after it is mended", seconds)
        marks.append(self._mark())
        self._mayCut = what.cuts
        self._states = self._cluster.health.take()
        self._complaints += misjudged(self._states, what.receivers)
        asked = self._eager.asked()
        counts = {"before": 1, "meanwhile": what.counts, "until mended": what.countsMending, "afterwards": 1}
        for (name, number), begin, end in zip(counts.items(), marks, marks[1:], strict=False):
            # What was decided while a mark was made belongs to neither part.
            within = [each for each in asked if begin.end < each.sent and each.answered < end.begin]
            fallbacks = sum(end.fallbacksSince(begin))
            self._spans.append(Span(name, number, end.begin - begin.end, within, fallbacks))

    def _mark(self, dead: frozenset[str] = frozenset()) -> _Mark:
        begin = time.monotonic()
        fallbacks = {
            receiver.name: None if receiver.name in dead else receiver.fallbacks()
            for receiver in self._cluster.receivers
        }
        return _Mark(begin, time.monotonic(), fallbacks)

    def _goOn(self, when: str, seconds: float) -> None:
        """Let the load go on, and look whether messages get through."""
        time.sleep(seconds)
        if not self.ledger.waitFor(self.ledger.taken + _CLIENTS, PATIENCE):
            self._complaints.append(f"nothing gets through {when}")

    def result(self) -> Result:
        complaints = [*self._complaints, *self._load.complaints(), *self._eager.complaints()]
        for span in self._spans:
            complaints += span.complaints(self._rate)
        counts = self.ledger.counts()
        if counts.told[Told.CUT] and not self._mayCut:
            complaints.append(f"{counts.told[Told.CUT]} messages were cut, though no machine was gone")
        complaints += self.ledger.complaints()
        return Result(self._name, counts, self._rate, self._spans, self._states, complaints)


def misjudged(states: Mapping[str, Sequence[str]], dead: frozenset[str]) -> Iterator[str]:
    """Sentences about what HAProxy said of receivers, where it was wrong, or is still."""
    for name, said in states.items():
        wasDown = any(state.startswith("DOWN") for state in said)
        if wasDown != (name in dead) or said[-1] != "UP":
            yield f"HAProxy said of receiver {name}: {', '.join(said)}"


MESSAGES = ["phase", "sent", *(told.value for told in Told), "found", "twice", "half", "lost"]
LIMITS = ["phase", "when", "counts", "seconds", "asked", "accepted", "at most", "by itself"]
STATES = ["phase", "HAProxy said of one", "of two", "of three"]


def tables(results: Sequence[Result]) -> str:
    """The counts of messages, those of the client that sends too much, and the states of receivers."""
    messages = [MESSAGES]
    limits = [LIMITS]
    states = [STATES]
    for phase, counts, rate, spans, seen, _ in results:
        told = [counts.told[told] for told in Told]
        numbers = [counts.sent, *told, counts.found, counts.again, counts.half, counts.lost]
        messages.append([phase, *map(str, numbers)])
        for span in spans:
            allowed = span.counts * most(rate, span.seconds)
            numbers = [span.counts, round(span.seconds), len(span.asked), span.accepted, allowed, span.fallbacks]
            limits.append([phase, span.name, *map(str, numbers)])
        states.append([phase, *(", ".join(seen[name]) for name in ("one", "two", "three"))])
    sums = [sum(int(row[column]) for row in messages[1:]) for column in range(1, len(MESSAGES))]
    messages.append(["all", *map(str, sums)])
    return "\n\n".join([draw(messages, 1), draw(limits, 2), draw(states, len(STATES))])
