"""
Greylist: put off mail of clients that look like no mail server, until they try again as mail servers do (RFC 6647).

In: the session and the address of a RCPT command; conditions that say which clients it is about.  Out: None, or the
refusal 450 4.7.1 with the seconds to wait.  What it knows is kept in an SQLite file over restarts, or in a memory that
machines share.
Rule kept here: a file that cannot be used is a fault, and no client passes because of it; a shared memory without an
answer lets clients pass, and that is remembered of none.
This module knows no SQL, and not what else is decided about a client.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from smtphooks.errors import OptionError
from smtphooks.layers import triplets
from smtphooks.layers.database import SQLITE, Database
from smtphooks.layers.mailboxes import canonicalAddress
from smtphooks.layers.triplets import Triplets
from smtphooks.netaddress import maybeIP, unmapped
from smtphooks.optionkinds import count, isText, objectWith, option, withOptions
from smtphooks.replies import SMTPError
from smtphooks.session import Address, Session

log: Logger = Logger()

Condition = Callable[[Session], object]

NO_REVERSE_NAME, SPF_FAIL = "no-reverse-name", "spf-fail"

_DAY = 86400.0

# What in a reverse-path differs from mail to mail, or from day to day: the signature of BATV (prvs=0123abcdef=ann), a
# tag behind "+", and numbers, as in the VERP of mailing lists.
_BATV = re.compile(r"\Aprvs=[^=@]*=")
_TAG = re.compile(r"(?<=.)\+.*(?=@)")
_NUMBER = re.compile(r"[0-9]+")


def _positive(default: float) -> Any:
    def fits(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf

    return option(default, "a number of seconds above 0", fits)


def _toTuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else value


def _areConditions(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) > 0
        and all(callable(item) or (isText(item) and item in (NO_REVERSE_NAME, SPF_FAIL)) for item in value)
    )


class Memory(Protocol):
    """
    What a greylist remembers, in a place that machines share, such as L{RedisTriplets}.

    Its methods C{onStart} and C{onStop}, if it has them, are those of the layer.
    """

    def decide(
        self, network: str, mail: bytes, delay: float, window: float, remember: float
    ) -> Awaitable[float | None]:
        """
        Decide on a mail; see L{Greylist} for the times, in seconds.

        @return: seconds until it may come again, 0 if it is not put off; None if it is not known and may pass.
        """


class _File:
    """The memory in an SQLite file, with one connection in one thread."""

    def __init__(self, layer: Greylist) -> None:
        path = os.path.abspath(layer.path or "")
        problem = triplets.problemOf(path)
        if problem:
            raise OptionError(f"option path is wrong: {problem}", options=["path"])
        self._layer = layer
        self._triplets = Triplets(layer.delay, layer.window, layer.remember, layer.maxRows)
        # Transactions are begun by hand: sqlite3 would begin them too late.
        connect = {"database": path, "isolation_level": None}
        self._database = Database(f"the greylist {path}", SQLITE, connect, connections=1, prepare=triplets.prepare)

    def onStart(self, service: object) -> Deferred[None]:
        """
        Open the file.

        @raise DatabaseError: if it is damaged or cannot be used.
        """
        return self._database.run(triplets.check)

    def onStop(self, service: object) -> None:
        """Close the file."""
        self._database.close()

    def decide(self, network: str, mail: bytes, *times: float) -> Deferred[float]:
        """
        See L{Memory}.

        @raise DatabaseError: if the file cannot be used.
        """
        # The time of day, as the rows outlive the process and the machine's uptime.
        clock = self._layer.clock
        return self._database.run(
            self._triplets.decide, network, mail, time.time() if clock is None else clock.seconds()
        )


@withOptions
class Greylist:
    """
    A layer that puts off mail, C{smtphooks.layers.Greylist}; in TOML C{smtphooks.layers:Greylist}.

    A mail is known by the network of its client (/24 or /64), its reverse-path and its recipient.  It is put off at
    first, and accepted when it comes again between C{delay} and C{window} seconds later; from then on no mail of that
    network is put off, until it has sent none for C{remember} seconds.

    A file is written in one thread by one connection: each recipient is one transaction of SQLite, which waits for
    the disk, as the reactor must not.

    @ivar path: the path of the SQLite file, which is made if it is missing; or C{memory} is given.
    @ivar memory: L{RedisTriplets}, or another object with the method C{decide}.
    @ivar only: which clients it is about: those for whom one of these holds.  C{"no-reverse-name"}: DNS has no name
        for the client's address that leads back to it.  C{"spf-fail"}: the layer C{SenderAuthentication}, which must
        stand before this one, found that SPF fails.  A function of the L{Session}.
    @ivar delay: seconds for which a mail is put off.
    @ivar window: seconds in which it must come again.
    @ivar remember: seconds for which a network is known, counted from its last mail.
    @ivar maxRows: rows in the file; beyond that the oldest mails that were put off are forgotten.
    """

    @attrs.define
    class State:
        """
        What it knows of a connection.

        @ivar known: the network that is known, so that the file need not be asked again.
        """

        known: str | None = None

    choosesRecipients = False

    path: str | None = option(
        None,
        "the path of an SQLite file",
        lambda value: isText(value) and value != "",
        lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value,
        isPath=isText,
        byPosition=True,
    )
    only: tuple[str | Condition, ...] = option(
        attrs.NOTHING,
        'a list of "no-reverse-name" and "spf-fail", in Python also functions of the session',
        _areConditions,
        _toTuple,
    )
    delay: float = _positive(300)
    window: float = _positive(_DAY)
    remember: float = _positive(36 * _DAY)
    maxRows: int = count(200_000, "rows")
    memory: Memory | None = objectWith("decide", "an object with the method decide")

    clock: IReactorTime | None = attrs.field(default=None, init=False)
    _conditions: list[Condition] = attrs.field(init=False)
    _memory: Memory = attrs.field(init=False)
    _warned: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        if self.window <= self.delay:
            raise OptionError(
                "option window is {!r}, it wants more seconds than option delay, which is {!r}",
                self.window,
                self.delay,
                options=["window", "delay"],
            )
        words: dict[object, Condition] = {NO_REVERSE_NAME: _hasNoName, SPF_FAIL: self._failsSPF}
        self._conditions = [item if callable(item) else words[item] for item in self.only]
        if self.path is None and self.memory is None:
            raise OptionError(
                "option path is missing, it wants the path of an SQLite file; or give option memory", options=["path"]
            )
        if self.path is not None and self.memory is not None:
            raise OptionError("options path and memory are both given, leave one of them out", options=["memory"])
        self._memory = self.memory or _File(self)
        for name in ("onStart", "onStop", "metricValues"):
            if hasattr(self._memory, name):
                setattr(self, name, getattr(self._memory, name))

    def onRcptTo(self, address: Address, session: Session) -> Deferred[None] | None:
        """
        Put off the recipient, or pass it on.

        @raise SMTPError: 450 4.7.1 if it is put off.
        @raise DatabaseError: if the file cannot be used.
        """
        network = _networkOf(session.remoteAddress)
        if network is None or session.of(self).known == network:
            return None
        if not any(condition(session) for condition in self._conditions):
            return None
        return Deferred.fromCoroutine(self._decide(network, _mailOf(session.envelope.mailFrom, address), session))

    async def _decide(self, network: str, mail: bytes, session: Session) -> None:
        left = await self._memory.decide(network, mail, self.delay, self.window, self.remember)
        if left is None:
            return
        if left <= 0:
            session.of(self).known = network
            return
        raise SMTPError(f"Greylisted, please try again in {math.ceil(left)} seconds", 450, "4.7.1")

    def _failsSPF(self, session: Session) -> bool:
        # Not imported: the layer needs an extra, and if it is in use its module is loaded.
        layer = getattr(sys.modules.get("smtphooks.layers.senderauthentication"), "SenderAuthentication", None)
        state = None if layer is None else session.of(layer)
        if state is None and session.user is None and not self._warned:
            self._warned = True
            log.warn(
                '"spf-fail" in option only of Greylist holds for no client that SenderAuthentication has not checked'
                " before, such as {peer}: put that layer in front [{session}]",
                session=session.id,
                peer=session.remoteAddress,
            )
        spf = getattr(state, "spf", None)
        return spf is not None and spf.result == "fail"


def _hasNoName(session: Session) -> bool:
    name = session.clientHostname
    return name in ("", session.remoteAddress) or name.startswith("[")


def _networkOf(address: str) -> str | None:
    """The network that counts as one client, as the mail servers of one site take turns; None without an address."""
    ip = maybeIP(address)
    if ip is None:
        return None
    ip = unmapped(ip)
    hostBits = 8 if ip.version == 4 else 64
    kind = type(ip)
    return f"{kind(int(ip) >> hostBits << hostBits)}/{ip.max_prefixlen - hostBits}"


def _mailOf(sender: Address | None, recipient: Address) -> bytes:
    """The digest of reverse-path and recipient: of one length, whatever the client says."""
    path = "" if sender is None else canonicalAddress(sender)
    path = _NUMBER.sub("#", _TAG.sub("", _BATV.sub("", path)))
    return blake2b(f"{path}\0{canonicalAddress(recipient)}".encode("utf-8", "replace"), digest_size=16).digest()
