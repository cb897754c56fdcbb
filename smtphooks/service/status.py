"""
Status: what a service does just now, in numbers and words for the operator.

A worker answers its supervisor with it, and tells some of the numbers once a second, so these cost little.
This module knows neither the supervisor nor how the numbers are shown.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from time import process_time
from typing import Any

from smtphooks.service.listeners import ListenerService


def totalsOf(listeners: Collection[ListenerService]) -> dict[str, float]:
    """
    Numbers of all listeners together.

    @return: C{connections} that are open; and how many were C{accepted}, how many C{messages} they have brought, and
        how many seconds of the C{processor} this process has used, so far.
    """
    factories = [listener.factory for listener in listeners]
    return {
        "connections": sum(len(factory.connections) for factory in factories),
        "accepted": sum(factory.accepted for factory in factories),
        "messages": sum(factory.messages for factory in factories),
        "processor": round(process_time(), 2),
    }


def statusOf(listeners: Collection[ListenerService]) -> dict[str, Any]:
    """
    These numbers, what connections wait for, and how many of them each listener has.

    @return: L{totalsOf}, the octets of C{memory} of this process where the system tells, and the numbers of connections
        by what they wait for (C{waits}), and by the description of an endpoint (C{listeners}).
    """
    waits: Counter[str] = Counter()
    connections: Counter[str] = Counter()
    for listener in listeners:
        waits += listener.factory.waits()
        connections[listener.endpointName] += len(listener.factory.connections)
    memory = {} if (octets := _maybeMemory()) is None else {"memory": octets}
    return {**totalsOf(listeners), **memory, "waits": dict(waits.most_common()), "listeners": dict(connections)}


def _maybeMemory() -> int | None:
    """Octets of memory that this process has, where the system tells (proc(5))."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
