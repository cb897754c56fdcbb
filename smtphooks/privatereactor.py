"""
A private reactor: one of Twisted's that is that of one thread, and not of the process.

The process may have a reactor of its own, running or not, or none, and an asyncio loop in any thread: none of them is
touched, and C{twisted.internet.reactor} is neither imported nor installed.
This module knows no mail, and no thread but those that a reactor calls for blocking work.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

try:
    from twisted.internet.epollreactor import EPollReactor as _Reactor
except ImportError:  # pragma: no cover
    from twisted.internet.pollreactor import PollReactor as _Reactor  # type: ignore[assignment]


class _PrivateReactor(_Reactor):
    """A reactor that runs once."""

    # Another reactor of the process, if there is one, runs in the thread that C{twisted.python.threadable} knows.
    _registerAsIOThread = False

    def _initThreadPool(self) -> None:
        super()._initThreadPool()
        # As the reactor's own thread may be one: a process that ends does not wait for a name to be looked up.
        pool: Any = self.threadpool
        pool.threadFactory = functools.partial(threading.Thread, daemon=True)

    def closeDescriptors(self) -> None:
        """Close what a reactor keeps open for the next time, which will not come."""
        for reader in self.removeAll():  # type: ignore[no-untyped-call]
            reader.connectionLost(None)
        # No reactor of Twisted's ever closes what wakes it.
        for reader in self._internalReaders:
            reader.connectionLost(None)
        poller: Any = self._poller
        if hasattr(poller, "close"):
            poller.close()


def privateReactor() -> Any:
    """
    A reactor that runs once, in the thread that calls its C{run}.

    It has one method more than others, C{closeDescriptors()}, to be called when it has run.
    """
    return _PrivateReactor()  # type: ignore[no-untyped-call]
