"""
The other side of Webhook: an HTTP server in a process of its own, which answers 204 once it has kept a message.

C{python -m chaos.endpoint HOST PORT FOLDER} runs it; it says C{ready} once it listens.
This module knows no faults: what is done to it is done from outside.
"""

from __future__ import annotations

import json
import os
import sys

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from chaos.keeping import keep


class Inbox(Resource):
    """Keeps what is posted.  Twisted calls it with whole requests only."""

    isLeaf = True

    def __init__(self, folder: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder = folder

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        try:
            keep(self._folder, recipientsOf(request), request.content.read())
        except OSError as error:
            request.setResponseCode(507)
            return f"{error.strerror}\n".encode()
        request.setResponseCode(204)
        return b""


def recipientsOf(request: Request) -> list[str]:
    """The recipients, as Webhook names them in a header."""
    header = request.getHeader("Smtphooks-Description")
    assert header is not None, "the request has no description"
    described = json.loads(header)
    return [str(recipient) for recipient in described["envelope"]["rcptTo"]]


def main() -> None:
    host, port, folder = sys.argv[1:]

    def failed(failure: Failure) -> None:
        failure.printTraceback()
        os._exit(1)

    endpoint = TCP4ServerEndpoint(reactor, int(port), interface=host)
    endpoint.listen(Site(Inbox(folder))).addCallbacks(lambda _: print("ready", flush=True), failed)
    reactor.run()


if __name__ == "__main__":
    main()
