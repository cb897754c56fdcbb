"""
Greylist: put off mail of clients that look like no mail server, until they try again as mail servers do (RFC 6647).

In: the session and the address of a RCPT command; conditions that say which clients it is about.  Out: None, or the
refusal 450 4.7.1 with the seconds to wait.  What it knows is kept in an SQLite file over restarts.
Rule kept here: a file that cannot be used is a fault; no client passes because of it.
This module knows no SQL, and not what else is decided about a client.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

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
from smtphooks.optionkinds import count, isText, option, withOptions
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


@withOptions
class Greylist:
    """
    A layer that puts off mail, C{smtphooks.layers.Greylist}; in TOML C{smtphooks.layers:Greylist}.

    A mail is known by the network of its client (/24 or /64), its reverse-path and its recipient.  It is put off at
    first, and accepted when it comes again between C{delay} and C{window} seconds later; from then on no mail of that
    network is put off, until it has sent none for C{remember} seconds.

    The file is written in one thread by one connection: each recipient is one transaction of SQLite, which waits for
    the disk, as the reactor must not.

    @ivar path: the path of the SQLite file, which is made if it is missing.
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

    path: str = option(
        attrs.NOTHING,
        "the path of an SQLite file",
        lambda value: isText(value) and value != "",
        lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value,
        isPath=isText,
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

    clock: IReactorTime | None = attrs.field(default=None, init=False)
    _conditions: list[Condition] = attrs.field(init=False)
    _triplets: Triplets = attrs.field(init=False)
    _database: Database = attrs.field(init=False)
    _warned: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        if self.window <= self.delay:
            raise OptionError(
                "option window is {!r}, it wants more seconds than option delay, which is {!r}",
                self.window,
                self.delay,
                options=["window", "delay"],
            )
        path = os.path.abspath(self.path)
        problem = triplets.problemOf(path)
        if problem:
            raise OptionError(f"option path is wrong: {problem}", options=["path"])
        words: dict[object, Condition] = {NO_REVERSE_NAME: _hasNoName, SPF_FAIL: self._failsSPF}
        self._conditions = [item if callable(item) else words[item] for item in self.only]
        self._triplets = Triplets(self.delay, self.window, self.remember, self.maxRows)
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
        left = await self._database.run(self._triplets.decide, network, mail, self._now())
        if left <= 0:
            session.of(self).known = network
            return
        raise SMTPError(f"Greylisted, please try again in {math.ceil(left)} seconds", 450, "4.7.1")

    def _now(self) -> float:
        # The time of day, as the rows outlive the process and the machine's uptime.
        return time.time() if self.clock is None else self.clock.seconds()

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
