"""Transactions: the envelope, the message, early replies, and how a connection is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from smtphooks.client import ClientError, NotOffered, Refused, Route, SMTPClient, Transaction, Unreachable
from tests.client.network import ESMTP, MESSAGE, ROUTE, Network, Outcome, Server, clientOf, nothingIsLeft

pytestmark = pytest.mark.usefixtures("logged")

LMTP = Route(path="/server", name="client.test", tls="none", lmtp=True)
BINARY = {"BODY": "BINARYMIME"}


class Begun:
    """A transaction with a server that has accepted MAIL, and recipients."""

    def __init__(self, *recipients: str, route: Route = ROUTE, mailArgs: Any = None, **given: Any) -> None:
        self.server = Server(lmtp=route.lmtp, **given)
        self.network = Network(self.server)
        self.client: SMTPClient = clientOf(self.network)
        self.transaction: Transaction = self.network.run(self.client.begin(route, "a@b.test", mailArgs)).value
        self.replies = [self.rcpt(each) for each in recipients]

    @property
    def line(self) -> Any:
        return self.network.lines[-1]

    def rcpt(self, address: str, **given: Any) -> Any:
        asked = Outcome(self.network, self.transaction.rcpt(address, **given))
        self.network.settle()
        return asked.value

    def data(self, content: Any = MESSAGE) -> Outcome:
        return self.network.run(self.transaction.data(content))

    def end(self) -> None:
        nothingIsLeft(self.network, self.client)

    @property
    def isIdle(self) -> bool:
        """The connection waits for the next transaction."""
        return bool(self.client._pool._idle)


class Source:
    """
    A content whose pieces come when the test says so.

    @ivar asked: how many have been asked for.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._next: Deferred[bytes]

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        self._next = Deferred()
        piece = await self._next
        if not piece:
            raise StopAsyncIteration
        return piece

    def give(self, piece: Any = b"") -> None:
        if isinstance(piece, Exception):
            self._next.errback(piece)
        else:
            self._next.callback(piece)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


# --- the envelope ---


def test_a_refused_recipient_is_a_reply_and_no_error() -> None:
    begun = Begun("x@y.test", "z@y.test", RCPT=["550 5.1.1 no such", "251 5.1.0 forwarded"])
    assert [reply.code for reply in begun.replies] == [550, 251]
    assert begun.transaction.accepted == 1
    assert [reply.code for reply in begun.data().value] == [250]
    begun.end()


def test_a_refused_MAIL_is_an_error_and_the_connection_goes_on() -> None:
    network = Network(Server(MAIL="550 5.7.1 not you"))
    client = clientOf(network)
    outcome = network.run(client.begin(ROUTE, "a@b.test"))
    assert isinstance(outcome.error, Refused)
    assert str(outcome.error) == "/server refuses MAIL: 550 5.7.1 not you"
    assert network.servers[0].heard[-1] == "RSET"
    assert client._pool._idle
    nothingIsLeft(network, client)


def test_what_the_server_does_not_offer_is_known_before_anything_is_said() -> None:
    network = Network(Server(extensions=()))
    client = clientOf(network)
    outcome = network.run(client.begin(ROUTE, "a@b.test", {"BODY": "8BITMIME"}))
    assert isinstance(outcome.error, NotOffered)
    assert not any(line.startswith("MAIL") for line in network.servers[0].heard)
    nothingIsLeft(network, client)


def test_the_transaction_tells_what_is_offered_and_how_safe_it_is() -> None:
    begun = Begun()
    assert begun.transaction.extensions["SIZE"] == "1000000"
    assert (begun.transaction.isSecure, begun.transaction.isVerified) == (False, False)
    begun.transaction.abandon()
    begun.network.settle()
    begun.end()


def test_a_recipient_that_cannot_be_said_leaves_the_transaction_as_it_is() -> None:
    begun = Begun("x@y.test")
    with pytest.raises(ValueError, match="is no address"):
        begun.transaction.rcpt("x@y.test> NOTIFY=NEVER")
    assert begun.data().value
    begun.end()


def test_a_message_without_a_recipient_is_not_sent() -> None:
    begun = Begun("x@y.test", RCPT="550 no")
    assert isinstance(begun.data().error, ValueError)
    assert "DATA" not in begun.server.heard
    assert begun.server.heard[-1] == "RSET"
    begun.end()


def test_a_transaction_that_has_ended_says_nothing_more() -> None:
    """The connection may be that of another one."""
    begun = Begun("x@y.test")
    begun.data()
    heard = len(begun.server.heard)
    for act in (lambda: begun.transaction.rcpt("x@y.test"), begun.transaction.askData):
        with pytest.raises(Unreachable, match="has ended"):
            act()
    assert isinstance(begun.data().error, Unreachable)
    begun.transaction.abandon()
    begun.network.settle()
    assert len(begun.server.heard) == heard
    assert begun.isIdle
    begun.end()


# --- the message ---


@pytest.mark.parametrize("content", [MESSAGE, bytearray(MESSAGE), memoryview(MESSAGE)])
def test_a_message_may_be_there_whole(content: Any) -> None:
    begun = Begun("x@y.test")
    assert [str(reply) for reply in begun.data(content).value] == ["250 2.0.0 taken 0"]
    assert begun.server.messages == [MESSAGE.replace(b"\r\n.", b"\r\n..")]
    assert begun.isIdle
    begun.end()


def test_a_large_message_is_written_at_the_pace_of_the_server() -> None:
    begun = Begun("x@y.test")
    begun.line.isReading = False
    outcome = begun.data(b"x" * 10_000_000)
    begun.line.isReading = True
    assert outcome.isPending
    assert len(begun.line.written) < 1000, "DATA was not even read"
    begun.line.isReading = True
    begun.transaction.abandon()
    begun.network.settle()
    begun.end()


def test_the_source_is_asked_for_more_only_while_the_server_reads() -> None:
    begun, source = Begun("x@y.test"), Source()
    outcome = begun.data(source)
    assert source.asked == 1
    begun.line.isReading = False
    source.give(b"one\r\n")
    begun.network.settle()
    assert source.asked == 1
    begun.line.isReading = True
    begun.line.producer.resumeProducing()
    begun.network.settle()
    assert source.asked == 2
    source.give()
    begun.network.settle()
    assert outcome.value
    begun.end()


def test_DATA_is_refused_and_the_next_transaction_does_not_begin_within_this_one() -> None:
    for route, count in ((ROUTE, 1), (LMTP, 2)):
        begun = Begun("x@y.test", "z@y.test", route=route, DATA="451 4.3.0 not now")
        assert [reply.code for reply in begun.data().value] == [451] * count
        assert begun.server.heard[-1] == "RSET"
        assert begun.isIdle
        begun.end()


@pytest.mark.parametrize("code", [220, 250, 334, 355])
def test_a_reply_to_DATA_that_makes_no_sense_is_no_yes(code: int) -> None:
    begun = Begun("x@y.test", DATA=f"{code} what")
    assert isinstance(begun.data().error, Unreachable)
    assert begun.server.messages == []
    begun.end()


def test_over_LMTP_each_recipient_has_its_reply() -> None:
    begun = Begun("x@y.test", "n@y.test", "z@y.test", route=LMTP, RCPT=["250 ok", "550 no", "250 ok"])
    assert [reply.text for reply in begun.data().value] == ["taken 0", "taken 1"]
    begun.end()


class SourceFailed(Exception):
    pass


@pytest.mark.parametrize("mailArgs", [None, BINARY])
def test_a_source_that_fails_leaves_the_server_without_a_message(mailArgs: Any) -> None:
    begun, source = Begun("x@y.test", mailArgs=mailArgs), Source()
    outcome = begun.data(source)
    source.give(b"begun\r\n")
    begun.network.settle()
    source.give(SourceFailed())
    begun.network.settle()
    assert isinstance(outcome.error, SourceFailed)
    assert begun.server.messages == []
    assert begun.line.wasAborted
    begun.end()


def test_a_message_beyond_ASCII_is_not_sent_to_a_server_that_takes_none() -> None:
    begun = Begun("x@y.test", extensions=("PIPELINING",))
    assert isinstance(begun.data("größe".encode()).error, NotOffered)
    assert begun.server.messages == []
    assert begun.line.wasAborted
    begun.end()


# --- early replies ---


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("route", [ROUTE, LMTP])
def test_a_server_may_refuse_a_message_before_it_has_it(route: Route, closes: bool) -> None:
    begun, source = Begun("x@y.test", "z@y.test", route=route), Source()
    outcome = begun.data(source)
    source.give(b"begun\r\n")
    begun.network.settle()
    begun.line.toClient(b"552 5.3.4 too large\r\n")
    begun.network.settle()
    if closes:
        begun.line.close()
        begun.network.settle()
    source.give(b"more\r\n")
    begun.network.settle()
    assert [reply.code for reply in outcome.value] == [552] * (2 if route.lmtp else 1)
    assert begun.server.messages == []
    assert not begun.network.open()
    begun.end()


def test_a_server_that_refuses_and_stops_reading_is_heard() -> None:
    begun, source = Begun("x@y.test"), Source()
    outcome = begun.data(source)
    begun.line.isReading = False
    source.give(b"begun\r\n")
    begun.network.settle()
    assert outcome.isPending
    begun.line.toClient(b"552 5.3.4 too large\r\n")
    begun.network.settle()
    source.give(b"more\r\n")
    begun.network.settle()
    assert [reply.code for reply in outcome.value] == [552]
    begun.end()


def test_a_yes_before_the_message_is_complete_is_none() -> None:
    for last in (b"", b"more\r\n"):
        begun, source = Begun("x@y.test"), Source()
        outcome = begun.data(source)
        source.give(b"begun\r\n")
        begun.network.settle()
        begun.line.toClient(b"250 2.0.0 taken\r\n")
        begun.network.settle()
        source.give(last)
        begun.network.settle()
        assert "before it has the whole message" in str(outcome.error)
        assert isinstance(outcome.error, Unreachable)
        assert begun.server.messages == []
        begun.end()


def test_a_connection_that_is_lost_within_the_message_is_noticed_with_the_next_piece() -> None:
    begun, source = Begun("x@y.test"), Source()
    outcome = begun.data(source)
    source.give(b"begun\r\n")
    begun.network.settle()
    begun.line.close()
    begun.network.settle()
    source.give(b"more\r\n")
    begun.network.settle()
    assert isinstance(outcome.error, Unreachable)
    assert source.asked == 2
    begun.end()


# --- chunks ---


def test_a_binary_message_goes_in_chunks_as_it_is() -> None:
    begun = Begun("x@y.test", mailArgs=BINARY)
    content = b"\r\n.\r\n\n\r\0" * 100_000
    assert [reply.code for reply in begun.data(content).value] == [250]
    assert begun.server.messages == [content]
    chunks = [line for line in begun.server.heard if line.startswith("BDAT")]
    assert [int(line.split(" ")[1]) for line in chunks[:-1]] == [262144] * 3
    assert chunks[-1].endswith(" LAST")
    assert begun.isIdle
    begun.end()


def test_an_empty_message_is_one_empty_chunk() -> None:
    begun = Begun("x@y.test", mailArgs=BINARY)
    assert [reply.code for reply in begun.data(b"").value] == [250]
    assert begun.server.heard[-1] == "BDAT 0 LAST"
    begun.end()


@pytest.mark.parametrize("route", [ROUTE, LMTP])
def test_a_refused_chunk_is_the_end_of_the_message(route: Route) -> None:
    """RFC 3030 section 2: the transaction is in no state that is known, and is reset."""
    begun = Begun("x@y.test", "z@y.test", route=route, mailArgs=BINARY, BDAT="552 5.3.4 too large")
    assert [reply.code for reply in begun.data(b"x" * 1_000_000).value] == [552] * (2 if route.lmtp else 1)
    assert begun.server.messages == []
    assert begun.server.heard[-1] == "RSET"
    begun.end()


@pytest.mark.parametrize("reply", ["354 go on", "251 what"])
def test_a_reply_to_a_chunk_that_makes_no_sense_is_no_yes(reply: str) -> None:
    begun = Begun("x@y.test", mailArgs=BINARY, BDAT=reply)
    assert isinstance(begun.data(b"x" * 300_000).error, Unreachable)
    begun.end()


@pytest.mark.parametrize(("reply", "isYes"), [("552 5.3.4 too large", False), ("250 2.0.0 taken", True)])
def test_a_reply_to_a_chunk_that_the_server_has_not_read(reply: str, isYes: bool) -> None:
    begun = Begun("x@y.test", mailArgs=BINARY)
    begun.line.isReading = False
    outcome = begun.data(b"x" * 1000)
    assert outcome.isPending
    begun.line.toClient(reply.encode() + b"\r\n")
    begun.network.settle()
    if isYes:
        assert isinstance(outcome.error, Unreachable)
    else:
        assert [each.code for each in outcome.value] == [552]
    assert begun.line.wasAborted
    begun.end()


@pytest.mark.parametrize("reply", [b"", b"552 5.3.4 too large\r\n"])
def test_a_connection_that_is_lost_within_a_chunk(reply: bytes) -> None:
    begun = Begun("x@y.test", mailArgs=BINARY)
    begun.line.isReading = False
    outcome = begun.data(b"x" * 1000)
    begun.line.toClient(reply)
    begun.line.close()
    begun.network.settle()
    if reply:
        assert [each.code for each in outcome.value] == [552]
    else:
        assert isinstance(outcome.error, Unreachable)
    begun.end()


def test_a_chunk_has_its_time_limit() -> None:
    begun = Begun("x@y.test", mailArgs=BINARY, BDAT=None)
    outcome = begun.data(b"x" * 300_000)
    begun.network.advance(15.1)
    begun.network.settle()
    assert str(outcome.error) == "/server has not answered BDAT within 15 seconds"
    begun.end()


# --- recipients that have no reply yet ---


@pytest.mark.parametrize("codes", [["250", "250"], ["550", "250"], ["550", "550"]])
@pytest.mark.parametrize("mailArgs", [None, BINARY])
@pytest.mark.parametrize("extensions", [ESMTP, ("8BITMIME", "CHUNKING", "BINARYMIME")])
def test_a_message_may_follow_recipients_that_have_no_reply_yet(
    extensions: tuple[str, ...], mailArgs: Any, codes: list[str]
) -> None:
    begun = Begun(mailArgs=mailArgs, extensions=extensions, RCPT=[f"{code} x" for code in codes])
    asked = [Outcome(begun.network, begun.transaction.rcpt(address)) for address in ("x@y.test", "z@y.test")]
    replies = begun.data().value
    assert [str(each.value.code) for each in asked] == codes
    assert [reply.code for reply in replies] == ([250] if "250" in codes else [])
    assert [message for message in begun.server.messages if message] == (
        [MESSAGE if mailArgs else MESSAGE.replace(b"\r\n.", b"\r\n..")] if "250" in codes else []
    )
    begun.end()


def test_354_though_each_recipient_was_refused_is_answered_with_a_lone_dot() -> None:
    """RFC 2920 section 3.1."""
    begun = Begun(RCPT="550 no")
    Outcome(begun.network, begun.transaction.rcpt("x@y.test"))
    assert begun.data().value == []
    assert begun.server.messages == [b""]
    assert begun.server.contents == 1, "the dot"
    assert begun.isIdle
    begun.end()


def test_over_LMTP_it_is_answered_with_the_end_of_the_connection() -> None:
    begun = Begun(route=LMTP, RCPT="550 no")
    Outcome(begun.network, begun.transaction.rcpt("x@y.test"))
    assert begun.data().value == []
    assert begun.server.messages == []
    assert begun.line.wasAborted
    begun.end()


# --- how it is left ---


def test_an_abandoned_transaction_is_reset_and_its_connection_used_again() -> None:
    begun = Begun("x@y.test")
    begun.transaction.abandon()
    begun.transaction.abandon()
    begun.network.settle()
    assert begun.server.heard[-1] == "RSET"
    assert begun.server.heard.count("RSET") == 1
    assert begun.isIdle
    begun.end()


@pytest.mark.parametrize("reply", ["500 what", "421 bye", b"nonsense\r\n", None])
def test_a_reset_that_fails_ends_the_connection(reply: Any) -> None:
    begun = Begun("x@y.test", RSET=reply)
    begun.transaction.abandon()
    begun.network.settle()
    begun.network.advance(14)
    begun.network.settle()
    assert not begun.network.open()
    begun.end()


def test_a_transaction_that_is_abandoned_while_a_reply_is_due_ends_the_connection() -> None:
    begun = Begun()
    asked = Outcome(begun.network, begun.transaction.rcpt("x@y.test"))
    begun.transaction.abandon()
    begun.network.settle()
    assert isinstance(asked.error, Unreachable)
    assert begun.line.wasAborted
    begun.end()


def test_a_message_that_is_abandoned_while_it_is_sent_does_not_end() -> None:
    begun, source = Begun("x@y.test"), Source()
    outcome = begun.data(source)
    source.give(b"begun\r\n")
    begun.network.settle()
    begun.transaction.abandon()
    begun.network.settle()
    assert begun.line.wasAborted
    source.give()
    begun.network.settle()
    assert isinstance(outcome.error, ClientError)
    assert begun.server.messages == []
    begun.end()


def test_no_command_is_said_where_the_server_waits_for_the_message() -> None:
    """As by one who asks for DATA, and gives up before the content."""
    begun = Begun("x@y.test")
    assert Outcome(begun.network, begun.transaction.askData()).isPending
    begun.network.settle()
    begun.transaction.abandon()
    begun.network.settle()
    assert begun.line.wasAborted
    assert begun.server.contents == 0
    begun.end()


def test_a_cancelled_recipient_ends_the_connection() -> None:
    begun = Begun("x@y.test", RCPT=["250 ok", None])
    asked = begun.transaction.rcpt("z@y.test")
    outcome = Outcome(begun.network, asked)
    begun.network.settle()
    asked.cancel()
    begun.network.settle()
    assert isinstance(outcome.error, CancelledError)
    assert begun.line.wasAborted
    assert isinstance(begun.data().error, Unreachable)
    begun.end()


def test_a_connection_on_which_the_server_says_more_than_it_was_asked_is_not_used_again() -> None:
    begun = Begun("x@y.test", message=b"250 2.0.0 taken\r\n421 4.3.2 bye\r\n")
    assert [reply.code for reply in begun.data().value] == [250]
    assert not begun.isIdle
    begun.network.settle()
    assert not begun.network.open()
    begun.end()


@pytest.mark.parametrize("content", [None, "text", 5, [b"x"]])
def test_what_is_no_content_is_a_TypeError_and_the_transaction_can_go_on(content: Any) -> None:
    begun = Begun("x@y.test")
    assert isinstance(begun.data(content).error, TypeError)
    assert begun.data().value
    begun.end()
