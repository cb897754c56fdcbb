"""
A transaction: MAIL, RCPT and the message on one connection (RFC 5321 section 3.3).

Rules: the message is acknowledged by nobody but the server, for each recipient by its own reply with LMTP; a message
whose source fails, or that is given up, never ends where it seems whole: the connection is closed before its end.
This module knows no pool, and not which connection it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from twisted.python.failure import Failure

from smtphooks.awaiting import Waiting
from smtphooks.client.connection import Connection
from smtphooks.client.content import DataEncoder
from smtphooks.client.errors import NotOffered, Refused, Unreachable
from smtphooks.client.parameters import Arguments, inUpperCase, mailLine, rcptLine
from smtphooks.client.reply import ReceivedReply
from smtphooks.client.sources import Content, Inlet, chunksOf
from smtphooks.client.timeouts import Timeouts

# A chunk has its reply before the next one is sent, so it should not be small.
_CHUNK_OCTETS = 256 * 1024

# With LMTP some recipients may have their reply when the connection is lost; the message is theirs, or not, already.
_NO_REPLY = ReceivedReply("451 4.4.2 The connection to the next server was lost before its reply for this recipient")


class Transaction:
    """
    One transaction, begun when MAIL was accepted.

    @ivar connection: the one that it is on.
    @ivar accepted: how many recipients the server has accepted.
    @ivar isInChunks: the message goes with BDAT (RFC 3030), since it is binary; any other one goes with DATA, which
        each server has.
    @ivar mailReply: what it has answered to MAIL.
    """

    def __init__(self, connection: Connection, timeouts: Timeouts, release: Callable[[Connection], object]) -> None:
        """
        @param release: called once, when the transaction has ended and the connection is quiet or closed.
        """
        self.connection: Connection = connection
        self.accepted: int = 0
        self.mailReply: ReceivedReply | None = None
        self._timeouts = timeouts
        self._release = release
        self.isInChunks: bool = False
        self._unanswered = 0  # recipients
        self._settled: Waiting[None] | None = None  # awaits the reply for each recipient
        self._isUTF8 = False
        self._isOver = False

    @property
    def extensions(self) -> dict[str, str]:
        """What the server offers: upper-case keyword to parameters."""
        return self.connection.extensions

    @property
    def isSecure(self) -> bool:
        """The connection is encrypted."""
        return self.connection.isSecure

    @property
    def isVerified(self) -> bool:
        """It is encrypted, and the certificate of the server is that of its name."""
        return self.connection.isVerified

    # --- the envelope ---

    def mail(self, address: str, arguments: Arguments) -> Waiting[ReceivedReply]:
        """
        Say MAIL; for whoever makes the transaction.

        @raise NotOffered: if the server does not offer what the message needs; nothing has been said then.
        @raise ValueError: if an argument cannot be said.
        """
        line = mailLine(address, arguments, self.extensions, self.isVerified)
        named = inUpperCase(arguments)
        self._isUTF8 = "SMTPUTF8" in named
        self.isInChunks = str(named.get("BODY", "")).upper() == "BINARYMIME"
        return self.connection.ask("MAIL", line, self._timeouts.command).addCallback(self._note)  # type: ignore[return-value]

    def _note(self, reply: ReceivedReply) -> ReceivedReply:
        self.mailReply = reply
        return reply

    def rcpt(self, address: str, arguments: Arguments | None = None) -> Waiting[ReceivedReply]:
        """
        Ask for a recipient.

        @param arguments: as C{Address.args} has them.
        @return: fires with the reply, a refusal as well; fails with L{Unreachable}.
        @raise ValueError: if the address or an argument cannot be said.
        """
        line = rcptLine(address, arguments or {}, self.extensions, self._isUTF8)
        self._mustGoOn()
        self._unanswered += 1
        asked = self.connection.ask("RCPT", line, self._timeouts.command)
        asked.addCallbacks(self._count, self._failed)
        return asked

    def _count(self, reply: ReceivedReply) -> ReceivedReply:
        self.accepted += 200 <= reply.code < 300
        self._settle()
        return reply

    def _failed(self, failure: Failure) -> Failure:
        self._settle()
        return failure

    def _settle(self) -> None:
        self._unanswered -= 1
        if self._settled is not None and not self._unanswered:
            settled, self._settled = self._settled, None
            if not settled.called:
                settled.callback(None)

    def _mustGoOn(self) -> None:
        if self._isOver:  # the connection may be that of another transaction by now
            raise Unreachable(f"the transaction with {self.connection.route} has ended")

    # --- the message ---

    async def data(self, content: Content) -> list[ReceivedReply]:
        """
        Send the message; the transaction is over then.

        @param content: the message, lines ending with CRLF: octets, an asynchronous iterator of them, or a producer.
        @return: the reply; with LMTP one for each accepted recipient, in order.  A recipient for which the connection
            was lost while others had their replies has C{451 4.4.2}.
        @raise Unreachable: if there is no reply.
        @raise NotOffered: if it has octets above 127, and the server takes none.
        @raise ValueError: if no recipient has been accepted.
        @raise BaseException: what the content raises; the server has no message then.
        """
        source = chunksOf(content)
        self._mustGoOn()
        if not self.accepted and not self._unanswered:
            self.abandon()
            raise ValueError("no recipient has been accepted")
        try:
            return await self.sendContent(source, None if self.isInChunks else await self.askData())
        finally:
            self._end()

    def askData(self) -> Waiting[ReceivedReply]:
        """Say DATA; where the server pipelines that may be before it has answered for each recipient."""
        self._mustGoOn()
        return self.connection.ask("DATA", b"DATA", self._timeouts.data)

    async def sendContent(self, source: AsyncIterator[bytes], start: ReceivedReply | None) -> list[ReceivedReply]:
        """
        Send the content, and end the transaction.

        @param start: the reply to DATA; None to send it in chunks.
        @return: as L{data}; nothing if no recipient was accepted.
        """
        try:
            if start is None:
                return await self._sendChunks(source)
            if start.code == 354:
                return await (self._sendLines(source) if self.accepted else self._sendNothing())
            if start.isPositive:
                raise Unreachable(f"{self.connection.route} answers DATA with {start}")
            return self._refused(start)
        except BaseException:
            self.connection.abort()
            raise
        finally:
            if isinstance(source, Inlet):
                source.stop()
            self._end()

    def _refused(self, reply: ReceivedReply) -> list[ReceivedReply]:
        """The server takes no content, and may not regard that as the end of the transaction."""
        self.abandon()
        return [reply] * self._replies

    @property
    def _replies(self) -> int:
        """How many replies a message has."""
        return self.accepted if self.connection.route.lmtp else min(self.accepted, 1)

    async def _sendNothing(self) -> list[ReceivedReply]:
        """End what the server has asked for, though it has refused each recipient (RFC 2920 section 3.1)."""
        connection = self.connection
        if connection.route.lmtp:  # one reply for each recipient (RFC 2033 section 4.2), so there is none
            connection.abort()
            return []
        waiting = connection.hear("the message", self._timeouts.message)
        connection.write(DataEncoder().finish())
        await waiting
        return []

    async def _sendLines(self, source: AsyncIterator[bytes]) -> list[ReceivedReply]:
        connection, encoder = self.connection, DataEncoder()
        replies = [connection.hear("the message", self._timeouts.message) for _ in range(self._replies)]
        connection.beginContent()
        takes8bit, isWhole = "8BITMIME" in self.extensions, False
        try:
            async for chunk in source:
                octets = encoder.encode(chunk)
                if encoder.is8bit and not takes8bit:
                    raise NotOffered("The next server takes no 8-bit message (8BITMIME)")
                if replies[0].called:
                    break
                connection.write(octets)
                await connection.drained()
            else:
                isWhole = not replies[0].called
        except BaseException as error:
            if not (isinstance(error, Unreachable) and replies[0].called):
                _dismiss(replies)
                raise
        if not isWhole:
            return self._answeredEarly(replies)
        connection.write(encoder.finish())
        connection.endContent()
        return await _all(replies)

    def _answeredEarly(self, replies: list[Waiting[ReceivedReply]]) -> list[ReceivedReply]:
        """
        The server answers before it has the message, or the connection is lost.

        It may refuse what it has not read to the end; what it says of a part of a message is never a yes.
        """
        found: list[Any] = []
        replies[0].addBoth(found.append)
        _dismiss(replies[1:])
        self.connection.abort()
        first = found[0]
        if not isinstance(first, ReceivedReply):
            first.raiseException()
        if first.isPositive:
            raise Unreachable(f"{self.connection.route} answers {first} before it has the whole message")
        return [first] * len(replies)

    async def _sendChunks(self, source: AsyncIterator[bytes]) -> list[ReceivedReply]:
        """Send the message with BDAT (RFC 3030)."""
        if self._unanswered:
            self._settled = Waiting()
            await self._settled
        if self.connection.lost is not None:
            raise self.connection.lost
        if not self.accepted:
            self.abandon()
            return []
        held = bytearray()
        async for piece in source:
            held += piece
            while len(held) > _CHUNK_OCTETS:
                (reply,) = await self._sendChunk(bytes(held[:_CHUNK_OCTETS]), isLast=False)
                del held[:_CHUNK_OCTETS]
                if reply.code != 250:
                    if reply.isPositive:
                        raise Unreachable(f"{self.connection.route} answers BDAT with {reply}")
                    return self._refused(reply)
        return await self._sendChunk(bytes(held), isLast=True)

    async def _sendChunk(self, chunk: bytes, isLast: bool) -> list[ReceivedReply]:
        connection, timeouts = self.connection, self._timeouts
        line = b"BDAT %d%b\r\n" % (len(chunk), b" LAST" if isLast else b"")
        seconds = timeouts.message if isLast else timeouts.block
        replies = [connection.hear("BDAT", seconds) for _ in range(self._replies if isLast else 1)]
        connection.beginContent()
        connection.write(line + chunk)
        try:
            await connection.drained()
            isEarly = connection.isPaused and replies[0].called
        except BaseException as error:
            isEarly = isinstance(error, Unreachable) and replies[0].called
            if not isEarly:
                _dismiss(replies)
                raise
        if isEarly:
            return self._answeredEarly(replies)
        connection.endContent()
        return await _all(replies)

    # --- the end ---

    def abandon(self) -> None:
        """
        End the transaction without a message: with RSET, or with the connection where that is in doubt.

        It may be called at any time, and more than once.
        """
        if self._isOver:
            return
        if not self.connection.isUsable:
            self.connection.abort()
            self._end()
            return
        self._isOver = True
        self.connection.ask("RSET", b"RSET", self._timeouts.command).addCallbacks(self._isReset, self._isLost)

    def _isReset(self, reply: ReceivedReply) -> None:
        if reply.code != 250:
            self.connection.abort()
        self._release(self.connection)

    def _isLost(self, failure: Any) -> None:
        self._release(self.connection)

    def _end(self) -> None:
        if not self._isOver:
            self._isOver = True
            if not self.connection.isUsable:
                self.connection.abort()
            self._release(self.connection)


async def _all(waiting: list[Waiting[ReceivedReply]]) -> list[ReceivedReply]:
    replies: list[ReceivedReply] = []
    try:
        for each in waiting:
            replies.append(await each)
    except BaseException as error:
        _dismiss(waiting[len(replies) :])
        if not (replies and isinstance(error, Unreachable)):
            raise
    return replies + [_NO_REPLY] * (len(waiting) - len(replies))


def _dismiss(waiting: list[Waiting[ReceivedReply]]) -> None:
    """Nobody waits for these any more."""
    for each in waiting:
        each.addErrback(lambda failure: None)


def mustBePositive(what: str, reply: ReceivedReply) -> None:
    """
    Go on only after a 2xx.

    @raise Refused: after another one.
    """
    if not 200 <= reply.code < 300:
        raise Refused(what, reply)
