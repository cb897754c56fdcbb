"""The hooks of C{make soak}: they take every message, and say with VRFY what the server has in hand."""

from __future__ import annotations

import gc
import json
import os
from typing import Any

from twisted.internet.protocol import BaseProtocol

from smtphooks import Session, SMTPServerProtocol


class Hooks:
    """Counts what there is."""

    def __init__(self) -> None:
        self.messages = 0

    async def onData(self, stream: Any, session: Any) -> None:
        async for _ in stream:
            pass
        self.messages += 1

    def onAuth(self, auth: Any, session: Any) -> None:
        """Nobody is known."""

    def onVrfy(self, text: str, session: Any) -> str:
        """What is measured, the asking connection included."""
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
