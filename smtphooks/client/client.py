"""
The client: messages in, the replies of servers out; it keeps connections and uses them again.

Rule: a message is tried a second time only where a connection that had been used before turned out to have gone stale,
before the first octet of the message was sent, and once.
This module knows no store and no hook.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import attrs

from smtphooks.awaiting import Waiting
from smtphooks.client.connection import Connection
from smtphooks.client.errors import Refused, Unreachable
from smtphooks.client.parameters import Arguments, attributeLines, inUpperCase, rcptLine
from smtphooks.client.pool import Pool
from smtphooks.client.reply import ReceivedReply
from smtphooks.client.route import Route
from smtphooks.client.sources import Content, chunksOf
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.transaction import Transaction, mustBePositive
from smtphooks.client.transcript import Transcript
from smtphooks.currentreactor import currentReactor


@attrs.frozen
class Delivery:
    """
    What became of a message.

    @ivar refused: the reply to RCPT of each recipient that was refused, by its number in the list, from 0.
    @ivar replies: the reply to the message; with LMTP one for each recipient that was not refused.
    """

    refused: Mapping[int, ReceivedReply]
    replies: Sequence[ReceivedReply]

    @property
    def isWhole(self) -> bool:
        """Every recipient has it."""
        return not self.refused and bool(self.replies) and all(200 <= each.code < 300 for each in self.replies)


class SMTPClient:
    """
    A client of SMTP and LMTP servers, C{smtphooks.client.SMTPClient}.

    One client keeps all connections of its user, by L{Route}.
    """

    def __init__(
        self,
        *,
        connections: int = 20,
        idleTimeout: float = 60.0,
        timeouts: Timeouts | None = None,
        reactor: Any = None,
        transcript: Transcript | None = None,
    ) -> None:
        """
        @param connections: the most connections to one server; others wait for their turn.  0 for no limit.
        @param idleTimeout: seconds that a connection is kept for the next message; 0 to close it at once.
        @param timeouts: None for those of RFC 5321 section 4.5.3.2.
        @param reactor: None for that of the current thread.
        @param transcript: is told of each line, as C{transcript(">", line)} and C{transcript("<", line)}, with C{"…"}
            in the place of secrets.
        """
        reactorOf = currentReactor if reactor is None else lambda: reactor
        self._timeouts = timeouts or Timeouts()
        self._pool = Pool(connections, idleTimeout, self._timeouts, reactorOf, transcript)

    async def begin(
        self,
        route: Route,
        mailFrom: str,
        mailArgs: Arguments | None = None,
        xForward: Mapping[str, str] | None = None,
    ) -> Transaction:
        """
        Begin a transaction: the server has accepted MAIL.

        @param mailFrom: the reverse-path without brackets, empty for the null one.
        @param mailArgs: parameters of MAIL, as C{Address.args} has them.
        @param xForward: attributes for XFORWARD, where the server offers it.
        @raise ClientError: if the server cannot be reached or refuses, or does not offer what the message needs.
        @raise ValueError: if an argument cannot be said.
        """
        connection, isUsed = await self._pool.take(route)
        try:
            return await self._begin(connection, mailFrom, mailArgs or {}, xForward)
        except (Unreachable, Refused) as error:
            if not (isUsed and _isStale(connection, error)):
                raise
        connection, _ = await self._pool.take(route, isFresh=True)
        return await self._begin(connection, mailFrom, mailArgs or {}, xForward)

    async def _begin(
        self, connection: Connection, mailFrom: str, mailArgs: Arguments, xForward: Mapping[str, str] | None
    ) -> Transaction:
        transaction = self._newTransaction(connection)
        try:
            await self._forward(connection, xForward)
            mustBePositive(f"{connection.route} refuses MAIL", await transaction.mail(mailFrom, mailArgs))
        except BaseException:
            transaction.abandon()
            raise
        return transaction

    def _newTransaction(self, connection: Connection) -> Transaction:
        connection.messages += 1
        return Transaction(connection, self._timeouts, self._pool.give)

    async def _forward(self, connection: Connection, attributes: Mapping[str, str] | None) -> None:
        """Tell with XFORWARD who the client is (Postfix's XFORWARD_README)."""
        offered = connection.extensions.get("XFORWARD", "")
        for line in attributeLines("XFORWARD", (attributes or {}).items(), offered):
            reply = await connection.ask("XFORWARD", line, self._timeouts.command)
            mustBePositive(f"{connection.route} refuses XFORWARD", reply)

    async def send(
        self,
        route: Route,
        mailFrom: str,
        rcptTo: Sequence[str],
        content: Content,
        *,
        mailArgs: Arguments | None = None,
        rcptArgs: Sequence[Arguments] = (),
        xForward: Mapping[str, str] | None = None,
    ) -> Delivery:
        """
        Send a message; it goes to those recipients that the server accepts.

        MAIL has SIZE, BODY=8BITMIME and SMTPUTF8 where the message that is given whole, or an address, wants them.
        Where the server pipelines, MAIL, RCPT and DATA go out at once (RFC 2920).

        @param rcptTo: one address at least.
        @param content: as C{Transaction.data} has it.
        @param rcptArgs: parameters of RCPT for each recipient, or none.
        @raise ClientError: if the server cannot be reached, or refuses MAIL, or the message has no reply.
        @raise ValueError: if an argument cannot be said; nothing of the message has been said then.
        @raise BaseException: what the content raises.
        """
        if isinstance(rcptTo, str) or not rcptTo:
            raise ValueError(f"the recipients are {rcptTo!r}, they want a list of one address at least")
        arguments = _argumentsFor(mailFrom, rcptTo, content, mailArgs or {})
        connection, isUsed = await self._pool.take(route)
        attempt = _Attempt(self, mailFrom, rcptTo, rcptArgs, arguments, xForward)
        try:
            return await attempt.run(self._newTransaction(connection), content)
        except (Unreachable, Refused) as error:
            if not isUsed or attempt.hasBegunContent or not _isStale(connection, error):
                raise
        connection, _ = await self._pool.take(route, isFresh=True)
        return await attempt.run(self._newTransaction(connection), content)

    async def close(self) -> None:
        """Close all connections; those with a transaction when that has ended."""
        await self._pool.close()


class _Attempt:
    """
    A whole message on one connection.

    @ivar hasBegunContent: the server has asked for the message.
    """

    def __init__(
        self,
        client: SMTPClient,
        mailFrom: str,
        rcptTo: Sequence[str],
        rcptArgs: Sequence[Arguments],
        mailArgs: Arguments,
        xForward: Mapping[str, str] | None,
    ) -> None:
        self.hasBegunContent: bool = False
        self._client = client
        self._mailFrom = mailFrom
        self._recipients = [(address, rcptArgs[i] if i < len(rcptArgs) else {}) for i, address in enumerate(rcptTo)]
        self._mailArgs = mailArgs
        self._xForward = xForward

    async def run(self, transaction: Transaction, content: Content) -> Delivery:
        """Say it all."""
        asked: list[Waiting[ReceivedReply]] = []
        try:
            source = chunksOf(content)
            isUTF8 = "SMTPUTF8" in self._mailArgs
            for address, arguments in self._recipients:  # for what they raise
                rcptLine(address, arguments, transaction.extensions, isUTF8)
            await self._client._forward(transaction.connection, self._xForward)
            mail = transaction.mail(self._mailFrom, self._mailArgs)
            asked.append(mail)
            if not transaction.connection.conversation.pipelines:
                return await self._byTurns(transaction, mail, source)
            asked += [transaction.rcpt(*each) for each in self._recipients]
            if not transaction.isInChunks:
                asked.append(transaction.askData())
            return await self._atOnce(transaction, asked, source)
        except BaseException:
            for each in asked:
                each.addErrback(lambda failure: None)
            transaction.abandon()
            raise

    async def _atOnce(
        self, transaction: Transaction, asked: Sequence[Waiting[ReceivedReply]], source: AsyncIterator[bytes]
    ) -> Delivery:
        """All has been said but the message."""
        route = transaction.connection.route
        mail = await asked[0]
        if mail.code == 421:
            mustBePositive(f"{route} refuses MAIL", mail)
        rcpt = [self._answered(route, await each) for each in asked[1 : len(self._recipients) + 1]]
        start = await asked[-1] if not transaction.isInChunks else None
        self.hasBegunContent = start is None or start.code == 354
        replies = await transaction.sendContent(source, start)
        mustBePositive(f"{route} refuses MAIL", mail)
        return Delivery(_refusedOf(rcpt), replies)

    async def _byTurns(
        self, transaction: Transaction, mail: Waiting[ReceivedReply], source: AsyncIterator[bytes]
    ) -> Delivery:
        """A command goes out when the one before it has its reply."""
        route = transaction.connection.route
        mustBePositive(f"{route} refuses MAIL", await mail)
        rcpt = [self._answered(route, await transaction.rcpt(*each)) for each in self._recipients]
        if not transaction.accepted:
            transaction.abandon()
            return Delivery(_refusedOf(rcpt), [])
        start = None if transaction.isInChunks else await transaction.askData()
        self.hasBegunContent = start is None or start.code == 354
        return Delivery(_refusedOf(rcpt), await transaction.sendContent(source, start))

    def _answered(self, route: Route, reply: ReceivedReply) -> ReceivedReply:
        """A reply to RCPT; one that ends the connection is no answer for the recipient."""
        if reply.code == 421:
            raise Refused(f"{route} ends the connection", reply)
        return reply


def _refusedOf(replies: Sequence[ReceivedReply]) -> dict[int, ReceivedReply]:
    return {i: reply for i, reply in enumerate(replies) if not 200 <= reply.code < 300}


def _isStale(connection: Connection, error: Unreachable | Refused) -> bool:
    """Has the server, or something on the way, ended a connection that was kept?  One that hangs has had its time."""
    return error.reply.code == 421 if error.reply is not None else not connection.hasTimedOut


def _argumentsFor(mailFrom: str, rcptTo: Sequence[str], content: Content, given: Arguments) -> dict[str, str | bool]:
    arguments = inUpperCase(given)
    if isinstance(content, (bytes, bytearray, memoryview)):
        octets = bytes(content)
        arguments.setdefault("SIZE", str(len(octets)))
        if not octets.isascii():
            arguments.setdefault("BODY", "8BITMIME")
    if not all(address.isascii() for address in (mailFrom, *rcptTo)):
        arguments.setdefault("SMTPUTF8", True)
    return arguments
