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

    def listen(self) -> None:
        """
        Have those listen that were opened beside others of their endpoint, now that workers serve them.

        @raise OSError: if one cannot.
        """
        for each in self.all:
            each.listen()

    def close(self, kept: Opened) -> None:
        """Close all but those that are needed on, and of these the ones that have not come to listen."""
        _close(self.all, kept.all)


def openAll(settings: Settings, known: Opened) -> Opened:
    """
    The sockets that the settings ask for.

    @param known: those that are open already.
    @return: new ones, beside others of their endpoint that were known, do not listen yet: see L{Opened.listen}.
    @raise CannotOpen: if some cannot be opened; no new one is open then.
    """
    number = settings.workers.number
    endpoints = [(listener.endpoint, number) for listener in settings.listeners]
    if settings.metrics is not None:
        endpoints.append((settings.metrics, 1))
    opened: list[ListeningSockets] = []
    for position, (endpoint, most) in enumerate(endpoints):
        try:
            # Two endpoints cannot have the same socket.
            free = [one for one in known.all if all(one is not taken for taken in opened)]
            opened.append(open_(endpoint, position, most, free))
        except Exception as error:
            _close(opened, known.all)
            raise CannotOpen(endpoint) from error
    listeners = len(settings.listeners)
    return Opened(opened[:listeners], opened[listeners:])


def _close(sockets: Sequence[ListeningSockets], kept: Sequence[ListeningSockets]) -> None:
    for each in sockets:
        if all(each is not one for one in kept):
            each.close()
        else:
            each.shrink()
