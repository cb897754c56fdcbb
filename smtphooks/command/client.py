"""
The client of C{smtphooks send}: that of this package on a reactor of its own, with a dialogue that is shown.

It says one thing after the other, though a server may offer PIPELINING, so that each reply stands below what it is to.
This module knows neither flags nor where a message comes from.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from smtphooks.client.client import SMTPClient
from smtphooks.client.errors import Refused
from smtphooks.client.reply import ReceivedReply
from smtphooks.client.route import Route
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.transaction import Transaction
from smtphooks.privatereactor import privateReactor

T = TypeVar("T")

# Seconds for each step; RFC 5321 section 4.5.3.2 has minutes, for a client that nobody waits for.
TIMEOUT = 60.0


def printable(text: str) -> str:
    """A text without what could control a terminal, which the other side may have chosen."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _show(direction: str, line: str) -> None:
    """Print a line of the dialogue; one who has seen enough of it, such as C{head}, does not end the sending."""
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "utf-8"
    shown = f"{direction} {printable(line)}".rstrip()
    try:
        print(shown.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError:
        # What is left in the buffer is written once more when Python ends, which would then fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def send(route: Route, sender: str, recipients: Sequence[str], content: bytes) -> bool:
    """
    Send a message; true if the server has taken it for every recipient.

    @raise ClientError: if it cannot be sent for another reason than a refusal, which has been shown.
    @raise KeyboardInterrupt: if the user has no patience; nothing more is said then, not even QUIT.
    """
    return _run(lambda reactor: _send(reactor, route, sender, recipients, content))


async def _send(reactor: Any, route: Route, sender: str, recipients: Sequence[str], content: bytes) -> bool:
    seconds = dict.fromkeys(("connect", "greeting", "command", "data", "block", "message"), TIMEOUT)
    client = SMTPClient(timeouts=Timeouts(**seconds), reactor=reactor, transcript=_show)
    arguments: dict[str, str | bool] = {"SIZE": str(len(content))}
    if not content.isascii():
        arguments["BODY"] = "8BITMIME"
    if not all(address.isascii() for address in (sender, *recipients)):
        arguments["SMTPUTF8"] = True
    try:
        transaction = await client.begin(route, sender, arguments)
        return await _finish(transaction, recipients, content)
    except Refused:
        return False
    finally:
        await client.close()


async def _finish(transaction: Transaction, recipients: Sequence[str], content: bytes) -> bool:
    try:
        replies = [await _recipient(transaction, address) for address in recipients]
        if transaction.accepted:
            replies += await transaction.data(content)
        return transaction.accepted > 0 and all(map(_isTaken, replies))
    finally:
        transaction.abandon()


async def _recipient(transaction: Transaction, address: str) -> ReceivedReply:
    """RCPT with an address as it was given, of whatever form: that is what a server may be tried out with."""
    reply = await transaction.connection.ask("RCPT", f"RCPT TO:<{address}>".encode(), TIMEOUT)
    transaction.accepted += _isTaken(reply)
    return reply


def _isTaken(reply: ReceivedReply) -> bool:
    return 200 <= reply.code < 300


def _run(begin: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """
    Run a coroutine on a reactor until it ends.

    @raise KeyboardInterrupt: if the user has no patience; the coroutine has been cancelled then.
    """
    reactor: Any = privateReactor()
    running: list[Deferred[T]] = []
    results: list[T | Failure] = []

    def start() -> None:
        running.append(Deferred.fromCoroutine(begin(reactor)))
        running[0].addBoth(end)

    def end(result: Any) -> None:
        results.append(result)
        reactor.crash()  # stop() would wait for a name that is still being looked up

    def interrupt(*_: object) -> None:
        reactor.callFromThread(lambda: running[0].cancel())

    reactor.callWhenRunning(start)
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        reactor.run(installSignalHandlers=False)
    finally:
        signal.signal(signal.SIGINT, previous)
    (result,) = results
    if isinstance(result, Failure):
        if result.check(CancelledError):
            raise KeyboardInterrupt
        result.raiseException()
    return result
