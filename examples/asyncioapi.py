"""
Under asyncio's reactor, with aiohttp: an HTTP API knows the recipients and takes the messages.

    python asyncioapi.py http://127.0.0.1:8000

RCPT asks GET /recipients/ann@example.org (200: there, 404: not there), and a message is POSTed to /messages while it
arrives.  Hooks marked with asyncioHook run as tasks of asyncio; when the client leaves, the task is cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
from twisted.internet import asyncioreactor

asyncioreactor.install(asyncio.new_event_loop())  # before anything imports the reactor

from twisted.internet.defer import Deferred  # noqa: E402
from twisted.internet.task import react  # noqa: E402
from twisted.logger import globalLogBeginner, textFileLogObserver  # noqa: E402

from smtphooks import (  # noqa: E402
    Address,
    MessageStream,
    Session,
    SMTPError,
    SMTPServerFactory,
    SMTPService,
    Unavailable,
    asyncioHook,
)

# For a connection and between two pieces of an answer; not for a whole message, which takes as long as its client.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


class API:
    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @asyncioHook
    async def onStart(self, service: object) -> None:
        """One session of aiohttp for all connections; it must be made while the loop runs."""
        self.http = aiohttp.ClientSession(timeout=TIMEOUT)

    @asyncioHook
    async def onStop(self, service: object) -> None:
        """Called when the last connection of SMTP has ended."""
        await self.http.close()

    @asyncioHook
    async def onRcptTo(self, address: Address, session: Session) -> None:
        try:
            async with self.http.get(f"{self.url}/recipients/{quote(address.address, safe='@')}") as response:
                status = response.status
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise Unavailable(f"the API cannot be asked: {error!r}") from error
        if status == 404:
            raise SMTPError("No such user here", 550, "5.1.1")
        if status != 200:
            raise Unavailable(f"the API answers {status} to a question for a recipient")

    @asyncioHook
    async def onData(self, stream: MessageStream, session: Session) -> str:
        envelope = {"from": str(session.envelope.mailFrom), "to": list(map(str, session.envelope.rcptTo))}
        try:
            # aiohttp reads the stream as it sends, so the client of SMTP is as fast as the API.
            async with self.http.post(f"{self.url}/messages", params=envelope, data=whole(stream)) as response:
                status = response.status
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            if stream.failure is not None:
                stream.failure.raiseException()  # the client has left: the API saw its request end early
            if stream.sizeExceeded:
                raise SMTPError("Message too large", 552) from error
            raise Unavailable(f"the API cannot take a message: {error!r}") from error
        if not 200 <= status <= 299:
            raise Unavailable(f"the API answers {status} to a message")
        return "Delivered"


async def whole(stream: MessageStream) -> AsyncIterator[bytes]:
    """The message; an error if it was cut at option size, or the request would end as if the message were whole."""
    async for chunk in stream:
        yield chunk
    if stream.sizeExceeded:
        raise SMTPError("Message too large", 552)


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description="Ask an HTTP API for recipients, and hand messages to it.")
    parser.add_argument("url", help="where the API is")
    parser.add_argument("--listen", default="tcp:2525:interface=127.0.0.1", help="an endpoint (%(default)s)")
    given = parser.parse_args()
    observer: Any = textFileLogObserver(sys.stdout)  # type checkers do not know the interfaces of zope
    globalLogBeginner.beginLoggingTo([observer])
    factory = SMTPServerFactory(
        hooks=API(given.url),
        authOptional=True,
        size=26214400,
        hookTimeout=300,  # for an API that reads no more
    )
    service = SMTPService(given.listen, factory)
    service.startService()
    # SIGTERM stops the service first: idle clients get 421, transactions finish, and then onStop is called.
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    await Deferred[None]()


if __name__ == "__main__":
    react(main)
