"""
The operator's questions and orders to a supervisor, which come from C{smtphooks status} and C{smtphooks drain}.

In: a question or an order.  Out: what the machine and its workers do, or an order to the pool of workers.
Rule kept here: the last worker in service is not taken out of it, as clients would wait for nobody.
This module knows no socket, and not how an order is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger

from smtphooks.service.channel import ChannelError
from smtphooks.service.overview import overviewOf
from smtphooks.service.workerpool import WorkerPool

_log = Logger()


class Operator:
    """What the control socket asks."""

    def __init__(self, pool: WorkerPool, state: Callable[[], str], reload: Callable[[], object], reactor: Any) -> None:
        """
        @param state: what the machine does, in a word.
        @param reload: called to read the configuration again.
        """
        self._pool = pool
        self._state = state
        self._reload = reload
        self._reactor = reactor

    @inlineCallbacks
    def statusOf(self) -> Generator[Deferred[Any], Any, dict[str, Any]]:
        """What this machine and its workers do just now."""
        overview = yield overviewOf(self._pool.workers, self._pool.heldBack, self._reactor)
        return {"state": self._state(), **overview}

    def drain(self, number: int | None) -> None:
        """
        Take a worker out of service, or with None turn new clients away on the whole machine.

        @raise ChannelError: if there is no such worker, or if it is the last one in service.
        """
        if number is None:
            _log.info("the machine drains: new clients get 421, until it goes on")
            self._pool.refuse(True)
            return
        self._check(number)
        # One that is started again later, as it has died at its start, serves nobody meanwhile.
        if number not in self._pool.heldBack and not self._pool.serving - {number}:
            raise ChannelError(f"worker {number} is the last one in service, drain the machine without a number")
        _log.info("worker {number} is taken out of service, until it goes on", number=number)
        self._pool.holdBack(number)

    def resume(self, number: int | None) -> None:
        """
        Have a worker serve again, or all with None.

        @raise ChannelError: if there is no such worker.
        """
        if number is not None:
            self._check(number)
        _log.info("{who} goes on", who="the machine" if number is None else f"worker {number}")
        self._pool.goOn(number)

    def reload(self) -> None:
        """Read the configuration again, and replace all workers."""
        self._reload()

    def _check(self, number: int) -> None:
        most = self._pool.staffing.number
        if not 1 <= number <= most:
            raise ChannelError(f"there is no worker {number}, there are {most}")
