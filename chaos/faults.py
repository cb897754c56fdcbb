"""
What can be broken, and is mended again: the receiver, the other side, the network between them, the disk.

In: a delivery that runs.  Out: a context within which something of it is broken.
This module knows no clients, no messages and no counts.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random

from chaos.deliveries import Delivery

Fault = Callable[[Delivery, Random], AbstractContextManager[None]]


@contextmanager
def receiverKilled(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """The receiver is killed, and begins again."""
    delivery.receiver.kill()
    yield
    delivery.startReceiver()


@contextmanager
def receiverRestarted(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """The receiver is told to stop, and begins again."""
    assert delivery.receiver.terminate() == 0, delivery.receiver.output
    yield
    delivery.startReceiver()


@contextmanager
def otherKilled(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """The other side is killed, and begins again."""
    delivery.killOther()
    yield
    delivery.startOther()


@contextmanager
def otherRestarted(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """The other side is told to stop, and begins again."""
    delivery.stopOther()
    yield
    delivery.startOther()


@contextmanager
def otherFrozen(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """The other side does nothing for a while: its kernel accepts connections and octets, and nobody reads them."""
    delivery.signalOther(signal.SIGSTOP)
    yield
    delivery.signalOther(signal.SIGCONT)


@contextmanager
def networkCut(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """No packet gets through, and nobody is told."""
    delivery.place.network.cut(chooser)
    yield
    delivery.place.network.join()


@contextmanager
def networkDelayed(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """Packets are late, and some are lost."""
    delivery.place.network.delay()
    yield
    delivery.place.network.hasten()


@contextmanager
def networkReset(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """All connections to the other side are reset, twice."""
    delivery.place.network.reset()
    yield
    delivery.place.network.reset()


@contextmanager
def diskFull(delivery: Delivery, chooser: Random) -> Iterator[None]:
    """The disk on which messages end up is full."""
    delivery.place.disk.fill()
    yield
    delivery.place.disk.widen()


# By the names that they have in the table, and after --fault.
RECEIVER: dict[str, Fault] = {"receiver killed": receiverKilled, "receiver restarted": receiverRestarted}
OTHER: dict[str, Fault] = {
    "other side killed": otherKilled,
    "other side restarted": otherRestarted,
    "other side frozen": otherFrozen,
}
NETWORK: dict[str, Fault] = {
    "network cut": networkCut,
    "network delayed": networkDelayed,
    "network reset": networkReset,
}
DISK: dict[str, Fault] = {"disk full": diskFull}
FAULTS = {**RECEIVER, **OTHER, **NETWORK, **DISK}
ISOLATED = {*NETWORK, *DISK}
