"""
smtphooks with the two hooks that the peers have too; with none, with all, on other reactors, with the Maildir store, or
with layers.

The two hooks accept a recipient and read the message.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.logger import globalLogBeginner

from benchmarks.servers import reactors
from smtphooks import MessageStream


class NoHooks:
    """Takes no part in a dialogue without AUTH; with it, every user may log in, as in all servers here."""

    def onAuth(self, auth: Any, session: Any) -> str:
        return str(auth.username)


class TwoHooks(NoHooks):
    """What the callbacks of the peers do."""

    async def onRcptTo(self, address: Any, session: Any) -> None: ...

    async def onData(self, stream: MessageStream, session: Any) -> None:
        async for _ in stream:
            pass


class AllHooks(TwoHooks):
    """A coroutine for every stage."""

    async def onConnect(self, session: Any) -> None: ...

    async def onSecure(self, transport: Any, session: Any) -> None: ...

    async def onHelo(self, hostname: str, session: Any) -> None: ...

    async def onMailFrom(self, address: Any, session: Any) -> None: ...

    async def onReset(self, session: Any) -> None: ...

    async def onClose(self, session: Any) -> None: ...


class Agreeing:
    """A layer that accepts every recipient, with a plain function."""

    def onRcptTo(self, address: Any, session: Any) -> None: ...


class Dropping(NoHooks):
    """The delivery behind the layers."""

    async def onData(self, stream: MessageStream, session: Any) -> None:
        async for _ in stream:
            pass


def hooksOf(variant: str, folder: str) -> object:
    if variant.isdigit():
        return [*(Agreeing() for _ in range(int(variant))), Dropping()]
    if variant == "maildir":
        from smtphooks.stores import Maildir

        return Maildir(f"{folder}/maildir")
    return {"none": NoHooks, "all": AllHooks}.get(variant, TwoHooks)()


def optionsFor(mode: str, folder: str) -> dict[str, Any]:
    """The options of all variants, and of the service."""
    return {
        "name": "mx.example",
        "lmtp": mode == "lmtp",
        "authOptional": True,
        "size": 1 << 25,
        "maxErrors": 0,
        "socketTimeout": 600,
        "disableReverseLookup": True,
        "key": f"{folder}/key.pem",
        "cert": f"{folder}/cert.pem",
    }


def endpoint(port: str) -> str:
    return f"tcp:{port}:interface=127.0.0.1:backlog=4096"


def main(port: str, mode: str, folder: str, variant: str = "") -> None:
    reactors.install(variant)
    from twisted.internet import endpoints, reactor

    from smtphooks import SMTPServerFactory

    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    factory = SMTPServerFactory(hooks=hooksOf(variant, folder), **optionsFor(mode, folder))
    endpoints.serverFromString(reactor, endpoint(port)).listen(factory)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
