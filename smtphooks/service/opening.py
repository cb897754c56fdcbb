"""
Opening: the settings of a service in, the sockets of all its endpoints out.

Of those that are open already, the ones that are needed are taken on.
This module knows no worker, and does not serve what it opens.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from smtphooks.service.settings import Settings
from smtphooks.service.sockets import ListeningSockets, open_


class CannotOpen(Exception):
    """
    The sockets of an endpoint cannot be opened; the reason is its C{__cause__}.

    @ivar endpoint: its description.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.endpoint = endpoint


@attrs.frozen
class Opened:
    """
    The sockets of a service.

    @ivar listeners: those of each listener, in order.
    @ivar metrics: those of the metrics, if they are served.
    """

    listeners: Sequence[ListeningSockets] = ()
    metrics: Sequence[ListeningSockets] = ()

    @property
    def all(self) -> Sequence[ListeningSockets]:
        """All of them."""
        return [*self.listeners, *self.metrics]

    def close(self, kept: Opened) -> None:
        """Close all but those that are needed on."""
        _close(self.all, kept.all)


def openAll(settings: Settings, known: Opened) -> Opened:
    """
    The sockets that the settings ask for.

    @param known: those that are open already.
    @raise CannotOpen: if some cannot be opened; no new one is open then.
    """
    number = settings.workers.number
    endpoints = [(listener.endpoint, number) for listener in settings.listeners]
    if settings.metrics is not None:
        endpoints.append((settings.metrics, 1))
    opened: list[ListeningSockets] = []
    for position, (endpoint, most) in enumerate(endpoints):
        try:
            opened.append(open_(endpoint, position, most, known.all))
        except Exception as error:
            _close(opened, known.all)
            raise CannotOpen(endpoint) from error
    listeners = len(settings.listeners)
    return Opened(opened[:listeners], opened[listeners:])


def _close(sockets: Sequence[ListeningSockets], kept: Sequence[ListeningSockets]) -> None:
    for each in sockets:
        if all(each is not one for one in kept):
            each.close()
