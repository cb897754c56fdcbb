"""
What happens to the cluster: a receiver is killed, or cut off; Redis hangs, or is killed; and each is mended again.

In: a cluster that runs.  Out: a context within which something of it is broken, until HAProxy and the receivers know.
This module knows no load and no counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random
from typing import NamedTuple

from cluster.daemons import Cluster


class Broken(NamedTuple):
    """
    What an event breaks.

    @ivar receivers: the names of those that HAProxy must find dead; it must find no other dead.
    @ivar counts: how many counts there are of the messages of one client while it is broken: one is in Redis, and a
        receiver that cannot reach Redis has its own.
    """

    receivers: frozenset[str] = frozenset()
    counts: int = 1


Event = Callable[[Cluster, Random], AbstractContextManager[Broken]]


@contextmanager
def nothing(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """Nothing is broken."""
    yield Broken()


@contextmanager
def receiverKilled(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """A machine is switched off, and starts again."""
    receiver = chooser.choice(cluster.receivers)
    receiver.kill()
    cluster.health.waitFor(receiver.name, "DOWN")
    yield Broken(frozenset({receiver.name}))
    receiver.start()
    cluster.health.waitFor(receiver.name, "UP")


@contextmanager
def receiverCutOff(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """The cable of a machine is pulled, until HAProxy has given its sessions up; the machine itself goes on."""
    receiver = chooser.choice(cluster.receivers)
    receiver.machine.cut()
    cluster.health.waitFor(receiver.name, "DOWN")
    yield Broken(frozenset({receiver.name}), counts=2)
    cluster.health.waitUntilIdle(receiver.name)
    receiver.machine.join()
    cluster.health.waitFor(receiver.name, "UP")


@contextmanager
def redisHangs(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """Redis gets SIGSTOP, and later SIGCONT."""
    cluster.redis.freeze()
    yield Broken(counts=len(cluster.receivers))
    cluster.redis.thaw()


@contextmanager
def redisKilled(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """Redis gets SIGKILL, and begins again without any counts."""
    cluster.redis.kill()
    yield Broken(counts=len(cluster.receivers))
    cluster.redis.start()


# By the names that they have in the table, and after --only.
EVENTS: dict[str, Event] = {
    "nothing": nothing,
    "receiver killed": receiverKilled,
    "receiver cut off": receiverCutOff,
    "Redis hangs": redisHangs,
    "Redis killed": redisKilled,
}
