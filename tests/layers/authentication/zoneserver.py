"""A DNS server of twisted.names on loopback, which answers from a dict over UDP and, what is too large, over TCP."""

from __future__ import annotations

import json
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.names import dns, server

from smtphooks.netaddress import maybeIP
from tests.layers.authentication.zones import Zone, text


class _Factory(server.DNSServerFactory):
    def sendReply(self, protocol: Any, message: Any, address: Any) -> None:
        if address is not None:
            message.maxSize = 512  # RFC 1035 section 4.2.1; what is longer is truncated
        super().sendReply(protocol, message, address)


class NameServer:
    """
    The server.

    @ivar zone: what it answers from, and what it was asked.
    @ivar address: its address and port, as an option C{servers} wants it.
    """

    def __init__(self, records: dict[str, list[Any]]) -> None:
        self.zone = Zone(records)
        self._factory = _Factory(clients=[self.zone])
        self._ports = self._listen()
        self.address = f"127.0.0.1:{self._ports[0].getHost().port}"

    def _listen(self) -> list[Any]:
        """Listen on the same port for both protocols."""
        listening: Any = reactor
        while True:
            tcp = listening.listenTCP(0, self._factory, interface="127.0.0.1")
            try:
                protocol = dns.DNSDatagramProtocol(self._factory)
                return [tcp, listening.listenUDP(tcp.getHost().port, protocol, interface="127.0.0.1")]
            except CannotListenError:
                tcp.stopListening()

    async def stop(self) -> None:
        for connection in list(self._factory.connections):
            connection.transport.abortConnection()
        await gatherResults([maybeDeferred(port.stopListening) for port in self._ports])


def _recordOf(value: str) -> Any:
    return text(value) if maybeIP(value) is None else dns.Record_A(value)


def main(zone: str) -> None:
    """
    Serve records until the process is stopped; prints its address.

    @param zone: a JSON object of names and lists, of texts and of IPv4 addresses.
    """
    records = {name: [_recordOf(value) for value in values] for name, values in json.loads(zone).items()}
    names = NameServer(records)
    print(f"DNS at {names.address}", flush=True)
    running: Any = reactor
    running.run()


if __name__ == "__main__":
    main(sys.argv[1])
