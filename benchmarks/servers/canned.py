"""
The least work of any server on Twisted: a fixed reply for the first letter of a command, written directly.

It has no callbacks, and runs on the reactor of smtphooks, so that it is a lower bound for smtphooks.
"""

from __future__ import annotations

import sys

from twisted.internet.protocol import Protocol, ServerFactory

from benchmarks.servers import reactors

_REPLIES = {
    b"E": b"250 mx.example\r\n",
    b"H": b"250 mx.example\r\n",
    b"M": b"250 2.1.0 Sender OK\r\n",
    b"R": b"250 2.1.5 Recipient OK\r\n",
    b"D": b"354 End data with <CR><LF>.<CR><LF>\r\n",
    b"Q": b"221 2.0.0 Bye\r\n",
}


class Canned(Protocol):
    """Assumes that each read is a whole command or ends a message, which holds for this load only."""

    _inMessage = False

    def connectionMade(self) -> None:
        self.transport.write(b"220 mx.example ESMTP\r\n")

    def dataReceived(self, data: bytes) -> None:
        if self._inMessage:
            if data.endswith(b".\r\n"):
                self._inMessage = False
                self.transport.writeSomeData(b"250 2.0.0 Message accepted\r\n")
            return
        letter = data[:1]
        self.transport.writeSomeData(_REPLIES[letter])
        self._inMessage = letter == b"D"
        if letter == b"Q":
            self.transport.loseConnection()


def main(port: str, mode: str, folder: str) -> None:
    reactors.install()
    from twisted.internet import endpoints, reactor

    factory = ServerFactory.forProtocol(Canned)
    factory.noisy = False
    endpoints.serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1:backlog=4096").listen(factory)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
