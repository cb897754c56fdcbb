"""
The current reactor: the one whose thread this is, for code that needs one and is handed none.

It is that of the process, unless a thread runs another one, as a server for tests does.  Hooks know no reactor, and an
import of that of the process would install it where there is none, and find one that does not run.
This module knows no mail, and never runs a reactor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

T = TypeVar("T")


class _Here(threading.local):
    reactor: Any = None


_here = _Here()


def setReactor(reactor: Any) -> None:
    """From here on this thread is that of another reactor than the process's."""
    _here.reactor = reactor


def currentReactor() -> Any:
    """The reactor of this thread."""
    if _here.reactor is not None:
        return _here.reactor
    from twisted.internet import reactor

    return reactor


def deferToThread(function: Callable[..., T], *arguments: object) -> Deferred[T]:
    """As Twisted's C{deferToThread}, in the thread pool of the current reactor."""
    reactor = currentReactor()
    result: Deferred[T] = deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)
    return result
