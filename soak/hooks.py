"""The hooks of C{make soak}: they accept every message, and VRFY returns what the server process holds."""

from __future__ import annotations

import gc
import json
import os
from typing import Any

from twisted.internet.protocol import BaseProtocol

from smtphooks import Session, SMTPServerProtocol


class Hooks:
    """Counts messages, and on VRFY the objects and descriptors of the process."""

    def __init__(self) -> None:
        self.messages = 0

    async def onData(self, stream: Any, session: Any) -> None:
        async for _ in stream:
            pass
        self.messages += 1

    def onAuth(self, auth: Any, session: Any) -> None:
        """Reject every user."""

    def onVrfy(self, text: str, session: Any) -> str:
        """The counts as JSON; they include the connection of this VRFY."""
        from twisted.internet import reactor

        gc.collect()
        objects = gc.get_objects()
        protocols = [found for found in objects if isinstance(found, BaseProtocol)]
        with open("/proc/self/statm") as memory:
            pages = int(memory.read().split()[1])
        return json.dumps(
            {
                "descriptors": len(os.listdir("/proc/self/fd")),
                "connections": sum(isinstance(found, SMTPServerProtocol) for found in protocols),
                "protocols": len(protocols),
                "calls": len(reactor.getDelayedCalls()),  # type: ignore[attr-defined]
                "sessions": sum(isinstance(found, Session) for found in objects),
                "messages": self.messages,
                "memory": pages * os.sysconf("SC_PAGE_SIZE"),
            }
        )
