"""
The observer: what is told of the connections of a factory, for metrics and the like.

L{Observer} lists the events.  An observer that raises is itself at fault: L{guarded} logs that, and the connection goes
on as if it had not.
This module knows neither where an event happens nor what is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Protocol, cast

from twisted.logger import Logger

_log = Logger()


class Observer(Protocol):
    """
    Is told, on the reactor's thread, what happens on the connections of a factory.

    What a method returns is ignored, and what it raises is logged.
    """

    def connectionMade(self) -> None:
        """A client has connected."""

    def turnedAway(self, option: str) -> None:
        """A client is not let in, because of this option."""

    def received(self, octets: int) -> None:
        """A client has sent that many octets, those of TLS itself not counted."""

    def sent(self, octets: int) -> None:
        """A client is sent that many octets, those of TLS itself not counted."""

    def replied(self, verb: str, code: int) -> None:
        """A reply; the verb is empty for a command that the server does not know, and where there was none."""

    def refused(self, by: str, verb: str) -> None:
        """A refusal, as the log has it: by a hook of this name, or by C{"server"}."""

    def authenticated(self, method: str, code: int) -> None:
        """An attempt to authenticate has come to its end, with a reply of this code."""

    def secured(self, version: str) -> None:
        """A TLS handshake is done; the version is such as C{"TLSv1.3"}."""

    def messageEnded(self, octets: int, recipients: int, code: int, seconds: float | None) -> None:
        """
        A message was accepted or refused, and its transaction has ended.

        @param octets: the size of the message.
        @param recipients: their number.
        @param code: of the reply, the worst of several; 0 if the client had left.
        @param seconds: from its last octet to the reply; None if it was refused before it was whole.
        """

    def transactionAbandoned(self) -> None:
        """A transaction has ended without a message."""

    def hookEnded(self, hook: str, layer: str, seconds: float, isFault: bool) -> None:
        """
        A hook has answered.

        @param layer: the name of the layer whose hook it is, empty if it is of no layer.
        @param seconds: from its call to its answer.
        @param isFault: it has raised something else than a refusal.
        """


_EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))


def guarded(observer: Observer) -> Observer:
    """An observer that tells this one, and never raises."""
    logged: set[str] = set()
    tellers = {event: partial(_tell, getattr(observer, event), event, logged) for event in _EVENTS}
    return cast(Observer, SimpleNamespace(**tellers))


def _tell(tell: Callable[..., object], event: str, logged: set[str], *arguments: object) -> None:
    try:
        tell(*arguments)
    except Exception:
        # Once: some events come with every packet.
        if event not in logged:
            logged.add(event)
            _log.failure("the observer failed at {event}, which is logged only once", event=event)
