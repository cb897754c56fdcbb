"""DNS lists for tests: a resolver with prepared answers, which is also asked through a real DNS server on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IResolver
from twisted.names import common, dns, server
from twisted.names.error import DNSNameError, DNSQueryRefusedError, DNSServerError
from twisted.python.failure import Failure
from zope.interface import implementer

TTL = 300


@implementer(IResolver)
class Lists(common.ResolverBase):
    """
    What lists answer: addresses, an exception, or a Deferred that the test fires.

    @ivar asked: the names that were asked for, in order, those of texts with C{"TXT "} in front.
    @ivar cancelled: the names of look-ups that were cancelled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Any] = {}
        self.asked: list[str] = []
        self.cancelled: list[str] = []

    def has(self, name: str, *addresses: str, text: Any = None, ttl: int = TTL) -> Lists:
        """A listing; the name is that of the entry, list included."""
        records = [dns.RRHeader(name, dns.A, dns.IN, ttl, dns.Record_A(address, ttl)) for address in addresses]
        self.known[name] = records
        if isinstance(text, str):
            octets = text.encode()
            strings = [octets[start : start + 255] for start in range(0, len(octets), 255)]
            text = [dns.RRHeader(name, dns.TXT, dns.IN, ttl, dns.Record_TXT(*strings, ttl=ttl))]
        if text is not None:
            self.known[f"TXT {name}"] = text
        return self

    def isSilentAbout(self, name: str) -> Deferred[Any]:
        """The name is never answered, unless the Deferred is fired with records."""
        pending: Deferred[Any] = Deferred(lambda _: self.cancelled.append(name))
        self.known[name] = pending
        return pending

    def _lookup(self, name: bytes, cls: int, kind: int, timeout: Any) -> Deferred[Any]:
        question = ("TXT " if kind == dns.TXT else "") + name.decode()
        self.asked.append(question)
        answer = self.known.get(question, DNSNameError("no such name"))
        if isinstance(answer, Deferred):
            return answer
        if isinstance(answer, Exception):
            return fail(answer)
        return succeed((answer, [], []))


class ListServer(server.DNSServerFactory):
    """A DNS server whose failures have their own codes, and are not logged."""

    noisy = False

    def gotResolverError(self, failure: Failure, protocol: Any, message: dns.Message, address: Any) -> None:
        codes = {DNSNameError: dns.ENAME, DNSQueryRefusedError: dns.EREFUSED, DNSServerError: dns.ESERVER}
        self.sendReply(protocol, self._responseFromMessage(message=message, rCode=codes[failure.type]), address)


Serve = Callable[[Lists], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve these lists over UDP and TCP; the result is for option C{servers}."""
    ports: list[Any] = []

    def start(lists: Lists) -> str:
        net: Any = reactor
        factory = ListServer(clients=[lists])
        while True:
            udp = net.listenUDP(0, dns.DNSDatagramProtocol(factory), interface="127.0.0.1")
            ports.append(udp)
            number = udp.getHost().port
            try:
                ports.append(net.listenTCP(number, factory, interface="127.0.0.1"))
            except CannotListenError:
                continue  # another program has that port for TCP
            return f"127.0.0.1:{number}"

    yield start
    for port in ports:
        pytest_twisted.blockon(port.stopListening())
