"""
A reactor in the background: a private one, which runs in a thread of its own.

This module knows no SMTP.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

from smtphooks.currentreactor import setReactor
from smtphooks.privatereactor import privateReactor

# Seconds that the thread may take to end: longer only if a hook blocks it.
PATIENCE = 5.0


class BackgroundReactor:
    """
    A reactor, and the thread in which it runs once.

    @ivar reactor: until L{start} it may be used from the thread at hand, to listen; from then on only from its own.
    """

    def __init__(self, name: str) -> None:
        """
        @param name: of the thread.
        """
        self.reactor: Any = privateReactor()
        self._process = os.getpid()
        # A daemon: otherwise a test run that forgets to stop it would never end.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        setReactor(self.reactor)
        # Signals belong to the main thread.
        self.reactor.run(installSignalHandlers=False)

    def start(self) -> None:
        """Run it."""
        self._thread.start()

    def discard(self) -> None:
        """Close its descriptors; it was never started, and cannot be from here on."""
        self.reactor.closeDescriptors()

    @property
    def isInherited(self) -> bool:
        """This is a forked process: the thread is its parent's, and the descriptors are its parent's too."""
        return self._process != os.getpid()

    @property
    def isCurrent(self) -> bool:
        """This is its thread, which cannot wait for its own end."""
        return threading.current_thread() is self._thread

    def stop(self, end: Callable[[], object]) -> None:
        """
        Have its work ended, and wait for its thread.

        @param end: called in the thread; it is to stop the reactor.
        """
        self.reactor.callFromThread(end)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            warnings.warn(
                f"the thread {self._thread.name} is still there {PATIENCE:g} seconds after it was told to end:"
                " a hook blocks it",
                RuntimeWarning,
                stacklevel=4,
            )
            return
        # Not in the thread: it may have been told to end, and have ended, before callFromThread has woken it.
        self.reactor.closeDescriptors()
