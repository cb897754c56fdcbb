"""
Signals: functions that are called on the reactor's thread when the process gets a signal.

A reactor that installs no signal handlers runs within another program, to which signals belong: none is taken then.
This module knows no service, and not what a signal means.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any


def takeSignals(reactor: Any, handlers: Mapping[Any, Callable[[], object] | None]) -> bool:
    """
    Handle signals from now on; call it when the reactor runs.

    @param handlers: by number of the signal; None ignores it.
    @return: whether they were taken.
    """
    if signal.getsignal(signal.SIGTERM) != getattr(reactor, "sigTerm", None):
        return False
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_IGN if handler is None else _onReactor(reactor, handler))
    return True


def _onReactor(reactor: Any, handler: Callable[[], object]) -> Callable[..., None]:
    def caught(*_: object) -> None:
        reactor.callFromThread(handler)

    return caught
