"""
A client that sends as much as it can, over several connections at a time, from one address; and what it may get.

In: a limit, such as C{"600 messages per minute per client, burst 60"}.  Out: when messages were accepted, and whether
in any span of time there were more than the limit allows.
A message counts where its first recipient is accepted, as it does for L{RateLimit <smtphooks.layers.RateLimit>}.
This module knows no machine and no fault.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from chaos.ledger import Copy, Ledger, Told
from chaos.load import Connection, toldBy
from chaos.messages import compose

_MOST = 2000  # octets of a message
_PAUSE = 0.05  # seconds after a refusal
_MESSAGES = 20  # of a connection


class Rate(NamedTuple):
    """
    Messages that a client may send.

    @ivar interval: seconds until another one may be sent.
    @ivar burst: how many at once.
    """

    interval: float
    burst: int


def rateOf(limit: str) -> Rate:
    """A limit as the configuration has it."""
    found = re.fullmatch(r"(\d+) messages per minute per client, burst (\d+)", limit)
    assert found, limit
    return Rate(60 / int(found[1]), int(found[2]))


class Asked(NamedTuple):
    """
    A first recipient, at the moments in which RCPT was sent and answered.  The server decided in between.
    """

    sent: float
    answered: float
    accepted: bool


def most(rate: Rate, seconds: float) -> int:
    """How many messages are accepted in so many seconds, whatever was before."""
    # What one server takes at the very end of a span may have come back within it.
    return int(rate.burst + seconds / rate.interval)


def excessOf(asked: Sequence[Asked], rate: Rate, times: int = 1) -> int:
    """
    By how many messages the worst of all spans of time exceeds so many times the limit; 0 if none does.

    @param times: how many counts there are.
    """
    accepted = sorted(each for each in asked if each.accepted)
    worst = 0
    for first, begin in enumerate(accepted):
        end = begin.answered
        for last in range(first, len(accepted)):
            end = max(end, accepted[last].answered)
            worst = max(worst, last - first + 1 - times * most(rate, end - begin.sent))
    return worst


class Eager:
    """Connections that send until they are told to stop."""

    def __init__(
        self, name: str, address: tuple[str, int], source: str, recipient: str, ledger: Ledger, clients: int
    ) -> None:
        self._name = name
        self._address = address
        self._source = source
        self._recipient = recipient
        self._ledger = ledger
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._complaints: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=[number], daemon=True) for number in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def asked(self) -> list[Asked]:
        """All that was asked so far."""
        with self._lock:
            return list(self._asked)

    def complaints(self) -> list[str]:
        """What was found wrong with the replies."""
        return self._complaints

    def _run(self, number: int) -> None:
        chooser = random.Random(f"{self._name}-{number}")
        count = 0
        while not self._stopping.is_set():
            try:
                with Connection(self._address, source=self._source) as connection:
                    for _ in range(_MESSAGES):
                        if self._stopping.is_set():
                            break
                        count += 1
                        self._send(connection, f"{self._name}-{number}-{count}", chooser)
            except OSError:
                self._stopping.wait(_PAUSE)
            except Exception as error:
                self._complaints.append(f"{self._name}: {error!r}")
                return

    def _send(self, connection: Connection, identity: str, chooser: random.Random) -> None:
        """Send a message, if it may be sent; what becomes of one that is refused for the limit is no news."""
        connection.send(b"MAIL FROM:<sender@here.example>\r\n")
        connection.reply()
        sent = time.monotonic()
        connection.send(b"RCPT TO:<%b>\r\n" % self._recipient.encode())
        code = connection.reply()
        with self._lock:
            self._asked.append(Asked(sent, time.monotonic(), code == 250))
        copy = Copy(identity, self._recipient)
        try:
            if code == 250:
                connection.send(b"DATA\r\n")
                if connection.reply() == 354:
                    content = compose(identity, chooser, _MOST)
                    connection.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
                    connection.reply()
                self._ledger.tell(copy, toldBy(connection.code))
            else:
                connection.send(b"RSET\r\n")
                connection.reply()
                time.sleep(_PAUSE)
        except TimeoutError:
            self._ledger.tell(copy, Told.SILENT)
            raise
        except OSError:
            if code == 250:
                self._ledger.tell(copy, Told.CUT)
            raise
