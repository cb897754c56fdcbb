"""
The overview: what all workers of a supervisor do just now, as one answer for C{smtphooks status}.

In: the workers, each with the rates of what it has told.  Out: numbers and words, after each worker was asked; one that
does not answer in time is in it nevertheless.
This module knows neither how the answer is shown nor what the supervisor makes of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, inlineCallbacks, succeed

from smtphooks._version import __version__
from smtphooks.service.channel import Channel
from smtphooks.service.rates import Rates

# What a worker tells once a second that rates are made of; the last are seconds of the processor.
RATED = ("accepted", "messages", "processor")

# Seconds that a worker has to answer.
_PATIENCE = 2.0


class Supervised(Protocol):
    """
    A worker.

    @ivar since: when it was started, by the clock of the reactor.
    @ivar state: a word for the operator.
    @ivar rates: those of C{RATED}.
    """

    number: int
    generation: int
    pid: int
    since: float
    state: str
    channel: Channel
    rates: Rates


@inlineCallbacks
def overviewOf(workers: Collection[Supervised], heldBack: Iterable[int], clock: Any) -> Any:
    """
    Ask all workers.

    @param heldBack: numbers of workers that are out of service.
    @return: fires with C{version} and C{pid} of this process, C{workers} in order, and the numbers of connections by
        endpoint (C{listeners}).
    """
    asked = [(worker, _ask(worker, clock)) for worker in sorted(workers, key=lambda each: (each.number, each.since))]
    entries = []
    listeners: Counter[str] = Counter()
    for worker, asking in asked:
        answer: dict[str, Any] = yield asking
        listeners.update(answer.get("listeners", {}))
        entries.append({**_entryOf(worker, clock.seconds()), **answer})
    there = {worker.number for worker in workers}
    entries += [{"number": number, "state": "out of service"} for number in sorted({*heldBack} - there)]
    return {"version": __version__, "pid": os.getpid(), "workers": entries, "listeners": dict(listeners)}


def _ask(worker: Supervised, clock: Any) -> Deferred[dict[str, Any]]:
    if worker.state == "starting":  # it has no ear yet, and nothing to tell
        return succeed({})
    asking = worker.channel.ask("status", _PATIENCE, clock)
    # It may hang, or just be ending; what the supervisor knows of it is worth seeing then.
    return asking.addErrback(lambda _: {})


def _entryOf(worker: Supervised, now: float) -> dict[str, Any]:
    rates = worker.rates.perSecond(now)
    return {
        "number": worker.number,
        "generation": worker.generation,
        "pid": worker.pid,
        "state": worker.state,
        "seconds": round(now - worker.since),
        "perSecond": {name: round(rate, 2) for name, rate in rates.items()},
    }
