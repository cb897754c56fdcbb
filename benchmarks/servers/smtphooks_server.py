"""smtphooks: without hooks, with all hooks, on other reactors, or with the Maildir store."""

from __future__ import annotations

import sys
from typing import Any

from twisted.logger import globalLogBeginner

from smtphooks import MessageStream


class AllHooks:
    """A coroutine for every stage."""

    async def onConnect(self, session: Any) -> None: ...

    async def onSecure(self, transport: Any, session: Any) -> None: ...

    async def onHelo(self, hostname: str, session: Any) -> None: ...

    async def onMailFrom(self, address: Any, session: Any) -> None: ...

    async def onRcptTo(self, address: Any, session: Any) -> None: ...

    async def onData(self, stream: MessageStream, session: Any) -> None:
        async for _ in stream:
            pass

    async def onReset(self, session: Any) -> None: ...

    async def onClose(self, session: Any) -> None: ...


def installReactor(variant: str) -> None:
    if variant not in ("asyncio", "uvloop"):
        return
    from twisted.internet import asyncioreactor

    if variant == "uvloop":
        import uvloop

        asyncioreactor.install(uvloop.new_event_loop())
    else:
        asyncioreactor.install()


def hooksOf(variant: str, folder: str) -> object:
    if variant == "hooks":
        return AllHooks()
    if variant == "maildir":
        from smtphooks.stores import Maildir

        return Maildir(f"{folder}/maildir")
    return None


def main(port: str, mode: str, folder: str, variant: str = "none") -> None:
    installReactor(variant)
    from twisted.internet import endpoints, reactor

    from smtphooks import SMTPServerFactory

    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    factory = SMTPServerFactory(
        hooks=hooksOf(variant, folder),
        name="mx.example",
        lmtp=mode == "lmtp",
        authOptional=True,
        onAuth=lambda auth, session: auth.username,
        size=1 << 25,
        maxErrors=0,
        socketTimeout=600,
        disableReverseLookup=True,
        key=f"{folder}/key.pem",
        cert=f"{folder}/cert.pem",
    )
    endpoints.serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1:backlog=4096").listen(factory)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
