"""Servers whose replies are cut: whatever the client calls whole is stored, and it always ends with a result."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest_twisted
from twisted.internet import reactor as anyReactor
from twisted.internet.protocol import Protocol
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer

from smtphooks.client import ClientError, SMTPClient
from tests.real.client.conftest import routeOf
from tests.real.client.test_every import MESSAGE, RECIPIENT, SENDER
from tests.real.mta.contained import Server
from tests.real.programs import eventually

reactor: Any = anyReactor

# OpenSMTPD takes its time to end a session that was cut; there a prime number hits all parts of replies.
STEPS = {"OpenSMTPD": 7}


class CutClient(ProxyClient):
    """The end of the proxy towards the server."""

    def dataReceived(self, data: bytes) -> None:
        proxy: Any = self.peer
        rest = proxy.factory.octets - proxy.passed
        proxy.passed += len(data[:rest])
        proxy.factory.seen = max(proxy.factory.seen, proxy.passed)
        proxy.transport.write(data[:rest])
        if len(data) >= rest:
            proxy.transport.loseConnection()
            self.transport.abortConnection()


class CutClientFactory(ProxyClientFactory):
    noisy = False
    protocol = CutClient


class CutServer(ProxyServer):
    """The end of the proxy towards the client."""

    clientProtocolFactory = CutClientFactory
    passed = 0


class Cutting(ProxyFactory):
    """Passes on so many octets of the server."""

    noisy = False
    protocol: type[Protocol] = CutServer

    def __init__(self, port: int) -> None:
        ProxyFactory.__init__(self, "127.0.0.1", port)
        self.octets = 100_000
        self.seen = 0


@pytest_twisted.ensureDeferred
async def test_what_the_client_calls_whole_is_stored_wherever_the_replies_are_cut(server: Server) -> None:
    factory = Cutting(server.port)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    route = attrs.evolve(routeOf(server, tls="none"), host="127.0.0.1", port=port.getHost().port)
    results: dict[int, bool] = {}
    try:
        assert await isWhole(route, 0)
        for octets in range(0, factory.seen, STEPS.get(type(server).__name__, 1)):
            factory.octets = octets
            results[octets] = await isWhole(route, octets + 1)
    finally:
        await port.stopListening()
    # The reply to the message is cut as well; that to QUIT, behind it, does not matter.
    assert {*results.values()} == {True, False}
    acknowledged = {octets + 1 for octets, isSaid in results.items() if isSaid}
    eventually(lambda: acknowledged <= numbersIn(server), "whatever was acknowledged is stored")


def numbersIn(server: Server) -> set[int]:
    """Those of the messages that are stored whole."""
    whole = re.compile(rb"X-Number: ([0-9]+)\r\n%b\Z" % re.escape(MESSAGE))
    return {int(found[1]) for found in (whole.search(each.content) for each in server.messages()) if found}


async def isWhole(route: Any, number: int) -> bool:
    """Send a message on a connection of its own."""
    client = SMTPClient(idleTimeout=0)
    try:
        delivery = await client.send(route, SENDER, [RECIPIENT], b"X-Number: %d\r\n%b" % (number, MESSAGE))
        return delivery.isWhole
    except ClientError:
        return False
    finally:
        await client.close()
