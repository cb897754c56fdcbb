"""
Stores that do not keep what they promise, by which the matrix itself is tested: a run with one of them must fail.

This module knows no faults: a lie comes out by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater

from chaos import keeping
from chaos.deliveries import Arrived, Delivery, makeFolder
from chaos.place import Place
from smtphooks import MessageStream, Session
from smtphooks.currentreactor import currentReactor

# Longer than what a short round takes from a 250 to the fault.
_LATER = 1.0


class Hasty:
    """Answers 250 at once, and stores a second later."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    async def onData(self, stream: MessageStream, session: Session) -> None:
        octets = await stream.read()
        recipients = [str(address) for address in session.envelope.rcptTo]
        reactor: Any = currentReactor()
        deferLater(reactor, _LATER, keeping.keep, self._folder, recipients, octets)


class Careless(Hasty):
    """Stores what it has of a message from a client that leaves within it, and so would any cut message be stored."""

    async def onData(self, stream: MessageStream, session: Session) -> None:
        octets = b""
        try:
            async for chunk in stream:
                octets += chunk
        finally:
            keeping.keep(self._folder, [str(address) for address in session.envelope.rcptTo], octets)


class Frugal(Hasty):
    """Stores all but the last octet of a message."""

    async def onData(self, stream: MessageStream, session: Session) -> None:
        octets = await stream.read()
        recipients = [str(address) for address in session.envelope.rcptTo]
        keeping.keep(self._folder, recipients, octets[:-1])


class _Lying(Delivery):
    parts = frozenset({"receiver"})
    hooks: type[Hasty]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._folder = makeFolder(Path(place.kept) / "lies")

    def store(self) -> str:
        return f'use = "chaos.liar:{self.hooks.__name__}"\nfolder = "{self._folder}"\n'

    def arrived(self) -> Arrived:
        return keeping.takeAll(self._folder)


class ToHasty(_Lying):
    name = "Hasty"
    hooks = Hasty


class ToCareless(_Lying):
    name = "Careless"
    hooks = Careless


class ToFrugal(_Lying):
    name = "Frugal"
    hooks = Frugal


# Played only where they are asked for.
LIARS: list[type[Delivery]] = [ToHasty, ToCareless, ToFrugal]
