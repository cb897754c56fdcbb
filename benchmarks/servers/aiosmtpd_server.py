"""aiosmtpd, which drops messages or, with the variant C{mailbox}, stores them (without syncing them to disk)."""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from pathlib import Path
from typing import Any

from aiosmtpd.handlers import Mailbox
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult


class Drop:
    """A handler that accepts every recipient, and drops the message, which it gets when it is complete."""

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        # A handler that accepts a recipient has to add it.
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 OK"


def anyone(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=True)


async def serve(port: str, mode: str, folder: str, variant: str = "drop") -> None:
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    handler = Mailbox(Path(folder, "mailbox")) if variant == "mailbox" else Drop()
    kind = LMTP if mode == "lmtp" else SMTP

    def protocol() -> SMTP:
        return kind(
            handler,
            hostname="mx.example",
            data_size_limit=1 << 25,
            tls_context=tls,
            authenticator=anyone,
            timeout=600,
            loop=loop,
        )

    server = await loop.create_server(protocol, "127.0.0.1", int(port), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    logging.disable()
    asyncio.run(serve(*sys.argv[1:]))
