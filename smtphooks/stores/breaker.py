"""
A circuit breaker: while the other side of a store is down, messages are refused at once, and only a few try.

In: what came of each attempt.  Out: whether there may be another one now.  After several failures in a row the breaker
is open: one attempt in so many seconds goes through on trial, and one that succeeds closes the breaker.  Nothing runs
meanwhile, the next message is the trial; and as time alone admits it, a trial that hangs holds up no other.
This module knows no protocol, no store, and not what a failure is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.logger import Logger

from smtphooks.hooks import Unavailable

log: Logger = Logger()


class Breaker:
    """
    The breaker of one other side.

    @ivar isOpen: attempts are refused, but for trials.
    """

    def __init__(self, name: str, failures: int, pause: float) -> None:
        """
        @param name: what errors and the log call the other side.
        @param failures: how many failures in a row open the breaker, 0 for none.
        @param pause: seconds until the first trial, and between trials.
        """
        self.isOpen: bool = False
        self._name = name
        self._mostFailures = failures
        self._pause = pause
        self._failures = 0  # in a row
        self._next = 0.0  # when there may be another trial

    @contextmanager
    def attempt(self, clock: Any, failure: type[BaseException]) -> Iterator[None]:
        """
        Make an attempt: it succeeds, unless an exception leaves the context.

        @param clock: a C{IReactorTime}.
        @param failure: an exception of this type is a failure; another one says nothing of the other side, for example
            that the client of the message has left.
        @raise Unavailable: if the breaker is open, and it is too early for a trial.
        """
        if self.isOpen:
            now = clock.seconds()
            if now < self._next:
                raise Unavailable(f"{self._name} is down, it will be tried again in {self._next - now:.1f} seconds")
            self._next = now + self._pause
        try:
            yield
        except failure:
            self._failed(clock)
            raise
        self._succeeded()

    def _failed(self, clock: Any) -> None:
        self._failures += 1
        if not self.isOpen and 0 < self._mostFailures <= self._failures:
            self.isOpen = True
            self._next = clock.seconds() + self._pause
            log.warn(
                "{name} has failed {failures} times in a row: it is tried every {pause:g} seconds, by one message,"
                " and others get 451",
                name=self._name,
                failures=self._failures,
                pause=self._pause,
            )

    def _succeeded(self) -> None:
        self._failures = 0
        if self.isOpen:
            self.isOpen = False
            log.info("{name} is back", name=self._name)
