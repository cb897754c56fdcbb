"""
What happens to the cluster: a receiver is drained, killed, or cut off; Redis hangs, or is killed; and each is mended.

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

    One client's messages are counted by Redis, and by each receiver that cannot reach it: the limit holds for each of
    these counts.

    @ivar receivers: the names of those that HAProxy must find dead; it must find no other dead.
    @ivar cuts: whether connections may be cut.
    @ivar counts: how many counts there are while it is broken.
    @ivar countsMending: how many there are until it is mended: Redis, and those who do not know yet that it is back.
    """

    receivers: frozenset[str] = frozenset()
    cuts: bool = False
    counts: int = 1
    countsMending: int = 1


Event = Callable[[Cluster, Random], AbstractContextManager[Broken]]


@contextmanager
def nothing(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """Nothing is broken."""
    yield Broken()


@contextmanager
def receiverDrained(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """A machine is drained until its last session has ended by itself, and takes mail again."""
    receiver = chooser.choice(cluster.receivers)
    receiver.order("drain")
    cluster.health.waitFor(receiver.name, "DOWN")
    yield Broken(frozenset({receiver.name}))
    cluster.health.waitUntilIdle(receiver.name)
    receiver.order("drain", "--resume")
    cluster.health.waitFor(receiver.name, "UP")


@contextmanager
def receiverKilled(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """A machine is switched off, and starts again."""
    receiver = chooser.choice(cluster.receivers)
    receiver.kill()
    cluster.health.waitFor(receiver.name, "DOWN")
    yield Broken(frozenset({receiver.name}), cuts=True)
    receiver.start()
    cluster.health.waitFor(receiver.name, "UP")


@contextmanager
def receiverCutOff(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """The cable of a machine is pulled, until HAProxy has given its sessions up; the machine itself goes on."""
    receiver = chooser.choice(cluster.receivers)
    receiver.machine.cut()
    cluster.health.waitFor(receiver.name, "DOWN")
    yield Broken(frozenset({receiver.name}), cuts=True, countsMending=2)
    cluster.health.waitUntilIdle(receiver.name)
    receiver.machine.join()
    cluster.health.waitFor(receiver.name, "UP")
    receiver.waitUntilRedisIsBack()


@contextmanager
def redisHangs(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """Redis gets SIGSTOP, and later SIGCONT."""
    cluster.redis.freeze()
    yield _withoutRedis(cluster)
    cluster.redis.thaw()
    _withRedis(cluster)


@contextmanager
def redisKilled(cluster: Cluster, chooser: Random) -> Iterator[Broken]:
    """Redis gets SIGKILL, and begins again without any counts."""
    cluster.redis.kill()
    yield _withoutRedis(cluster)
    cluster.redis.start()
    _withRedis(cluster)


def _withoutRedis(cluster: Cluster) -> Broken:
    for receiver in cluster.receivers:
        receiver.waitUntilRedisIsAway()
    number = len(cluster.receivers)
    return Broken(counts=number, countsMending=number + 1)


def _withRedis(cluster: Cluster) -> None:
    for receiver in cluster.receivers:
        receiver.waitUntilRedisIsBack()


# By the names that they have in the table, and after --only.
EVENTS: dict[str, Event] = {
    "nothing": nothing,
    "receiver drained": receiverDrained,
    "receiver killed": receiverKilled,
    "receiver cut off": receiverCutOff,
    "Redis hangs": redisHangs,
    "Redis killed": redisKilled,
}
