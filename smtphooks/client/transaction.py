"""
A transaction: MAIL, RCPT and the message on one connection (RFC 5321 section 3.3).

Rules: the message is acknowledged by nobody but the server, for each recipient by its own reply with LMTP; a message
whose source fails, or that is given up, never ends where it seems whole: the connection is closed before its end.
This module knows no pool, and not which connection it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

from smtphooks.awaiting import Waiting
from smtphooks.client.connection import Connection
from smtphooks.client.content import DataEncoder, piecesOf
from smtphooks.client.errors import NotOffered, Refused, Unreachable
from smtphooks.client.parameters import Arguments, mailLine, rcptLine
from smtphooks.client.reply import ReceivedReply
from smtphooks.client.timeouts import Timeouts

Content = "bytes | AsyncIterable[bytes]"

# A chunk has its reply before the next one is sent, so it should not be small.
_CHUNK_OCTETS = 256 * 1024


class Transaction:
    """
    One transaction, begun when MAIL was accepted.

    @ivar connection: the one that it is on.
    @ivar accepted: how many recipients the server has accepted.
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
        self._arguments: Arguments = {}
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
        self._arguments = arguments
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
        line = rcptLine(address, arguments or {}, self.extensions, "SMTPUTF8" in self._arguments)
        return self.connection.ask("RCPT", line, self._timeouts.command).addCallback(self._count)  # type: ignore[return-value]

    def _count(self, reply: ReceivedReply) -> ReceivedReply:
        self.accepted += 200 <= reply.code < 300
        return reply

    # --- the message ---

    async def data(self, content: bytes | AsyncIterable[bytes]) -> list[ReceivedReply]:
        """
        Send the message; the transaction is over then.

        @param content: the message, lines ending with CRLF; or what yields it.
        @return: the reply; with LMTP one for each accepted recipient, in order.
        @raise Unreachable: if there is no reply.
        @raise NotOffered: if it has octets above 127, and the server takes none.
        @raise BaseException: what the content raises; the server has no message then.
        """
        if not self.accepted:
            self.abandon()
            raise ValueError("no recipient has been accepted")
        source = piecesOf(content) if isinstance(content, bytes) else content.__aiter__()
        try:
            if str(self._arguments.get("BODY", "")).upper() == "BINARYMIME":
                return await self._sendChunks(source)
            start = await self.askData()
            return await self.sendContent(source, start)
        except BaseException:
            self.connection.abort()
            raise
        finally:
            self._end()

    def askData(self) -> Waiting[ReceivedReply]:
        """Say DATA."""
        return self.connection.ask("DATA", b"DATA", self._timeouts.data)

    async def sendContent(self, source: AsyncIterator[bytes], start: ReceivedReply) -> list[ReceivedReply]:
        """
        Send what DATA has announced.

        @param start: the reply to DATA.
        """
        count = self.accepted if self.connection.route.lmtp else 1
        if start.code != 354:
            if start.isPositive:
                raise Unreachable(f"{self.connection.route} answers DATA with {start}")
            return [start] * count
        connection, encoder = self.connection, DataEncoder()
        replies = [connection.hear("the message", self._timeouts.message) for _ in range(count)]
        connection.beginContent()
        takes8bit = "8BITMIME" in self.extensions
        try:
            async for chunk in source:
                octets = encoder.encode(chunk)
                if encoder.is8bit and not takes8bit:
                    raise NotOffered("The next server takes no 8-bit message (8BITMIME)")
                if replies and replies[0].called:
                    return await self._answeredEarly(replies)
                connection.write(octets)
                await connection.drained()
            if replies and replies[0].called:
                return await self._answeredEarly(replies)
            connection.write(encoder.finish())
            connection.endContent()
        except BaseException:
            _dismiss(replies)
            raise
        return await _all(replies)

    async def _answeredEarly(self, replies: list[Waiting[ReceivedReply]]) -> list[ReceivedReply]:
        """A server may refuse a message before it has it; what it says of a part of it is never a yes."""
        first = await replies[0]
        _dismiss(replies[1:])
        self.connection.abort()
        if first.isPositive:
            raise Unreachable(f"{self.connection.route} answers {first} before it has the whole message")
        return [first] * len(replies)

    async def _sendChunks(self, source: AsyncIterator[bytes]) -> list[ReceivedReply]:
        """Send the message with BDAT (RFC 3030)."""
        held = b""
        async for piece in source:
            held += piece
            while len(held) > _CHUNK_OCTETS:
                chunk, held = held[:_CHUNK_OCTETS], held[_CHUNK_OCTETS:]
                (reply,) = await self._sendChunk(chunk, isLast=False)
                if reply.code != 250:
                    if reply.isPositive:
                        raise Unreachable(f"{self.connection.route} answers BDAT with {reply}")
                    return [reply] * (self.accepted if self.connection.route.lmtp else 1)
        return await self._sendChunk(held, isLast=True)

    async def _sendChunk(self, chunk: bytes, isLast: bool) -> list[ReceivedReply]:
        connection, timeouts = self.connection, self._timeouts
        line = b"BDAT %d%b\r\n" % (len(chunk), b" LAST" if isLast else b"")
        count = self.accepted if isLast and connection.route.lmtp else 1
        seconds = timeouts.message if isLast else timeouts.block
        replies = [connection.hear("BDAT", seconds) for _ in range(count)]
        connection.beginContent()
        connection.write(line + chunk)
        try:
            await connection.drained()
        except BaseException:
            _dismiss(replies)
            raise
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


async def _all(replies: list[Waiting[ReceivedReply]]) -> list[ReceivedReply]:
    try:
        return [await reply for reply in replies]
    except BaseException:
        _dismiss(replies)
        raise


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
