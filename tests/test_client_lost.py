"""A connection that the transport has lost: its users are told, and what they still do does not reach the transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from smtphooks.client.connection import Connection
from smtphooks.client.errors import ClientError, Unreachable
from smtphooks.client.reply import ReceivedReply
from smtphooks.client.route import Route
from smtphooks.client.timeouts import Timeouts
from smtphooks.client.transaction import Transaction

LOST = Failure(ConnectionLost())


def connect() -> Connection:
    connection = Connection(Route(host="mx.example"), Timeouts(), Clock())
    connection.makeConnection(StringTransport())
    return connection


@pytest.mark.parametrize("end", [Connection.abort, Connection.quit])
def test_a_connection_over_TLS_that_is_lost_can_be_ended(end: Callable[[Connection], None]) -> None:
    connection = Connection(Route(host="mx.example"), Timeouts(), Clock())
    # A transport with TLS can do nothing any more once it is lost, not even abort.
    factory = TLSMemoryBIOFactory(optionsForClientTLS("mx.example"), True, Factory.forProtocol(lambda: connection))
    transport = factory.protocol(factory, connection)
    transport.makeConnection(StringTransport())
    transport.connectionLost(LOST)
    end(connection)
    assert isinstance(connection.lost, ClientError)
    assert "the connection was given up" not in str(connection.lost)


@pytest.mark.parametrize("isEnded", [False, True])
@pytest.mark.parametrize(
    ("happens", "what"),
    [
        (lambda connection: connection.connectionLost(LOST), "the connection is lost before the reply to the message"),
        (lambda connection: connection.dataReceived(b"250 Ok\r\n"), "answers 250 Ok before it has the whole message"),
    ],
)
def test_a_message_that_is_answered_or_lost_within_has_no_reply(
    happens: Callable[[Connection], None], what: str, isEnded: bool
) -> None:
    connection = connect()
    transaction = Transaction(connection, Timeouts(), lambda connection: None)
    transaction.accepted = 1
    more: Deferred[None] = Deferred()

    async def content() -> AsyncIterator[bytes]:
        yield b"Subject: hello\r\n"
        await more
        if not isEnded:
            yield b"\r\nHello.\r\n"

    sending = Deferred.fromCoroutine(transaction.sendContent(content(), ReceivedReply("354 Go on")))
    happens(connection)
    more.callback(None)
    failures: list[Failure] = []
    sending.addErrback(failures.append)
    (failure,) = failures
    assert failure.check(Unreachable)
    assert what in failure.getErrorMessage()
