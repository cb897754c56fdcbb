"""
Staffing: what a generation of workers is like, as the settings of a service ask for it.

This module starts no worker and opens no socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from smtphooks.options import Options
from smtphooks.service.opening import Opened
from smtphooks.service.settings import Settings
from smtphooks.service.sockets import ListeningSockets

_CLOSE_TIMEOUT: Any = attrs.fields(Options).closeTimeout.default


@attrs.frozen
class Staffing:
    """
    What a generation of workers is like.

    @ivar number: of workers.
    @ivar sockets: those of each listener.
    @ivar timeout: seconds without a sign of life after which a worker is ended, 0 for no limit.
    @ivar closeTimeout: seconds that a worker has to finish, 0 for no limit.
    """

    number: int
    sockets: Sequence[ListeningSockets]
    timeout: float
    closeTimeout: float


def staffingOf(settings: Settings, opened: Opened) -> Staffing:
    """
    What the settings ask for.

    @param opened: the sockets of these settings.
    """
    each: list[Any] = [
        {**settings.options, **listener.options}.get("closeTimeout", _CLOSE_TIMEOUT) for listener in settings.listeners
    ]
    closeTimeout = float(max(each)) if all(each) else 0.0
    return Staffing(settings.workers.number, opened.listeners, settings.workers.timeout, closeTimeout)
