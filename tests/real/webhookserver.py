"""
HTTP servers that take messages, each a process of its own: C{python -m tests.real.webhookserver KIND PORT}.

C{/mail} answers with the length and the SHA-256 of the body, without its first field, C{/small} takes 100,000 octets at
most, and C{/recipient} knows those of example.org.
This module knows nothing of smtphooks.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import sys
from pathlib import Path

_RECEIVED = re.compile(rb"Received: .*\r\n(?:\t.*\r\n)+")

SMALL = 100_000


def said(body: bytes) -> str:
    message = _RECEIVED.sub(b"", body, count=1)
    return f"{len(message)} {hashlib.sha256(message).hexdigest()}"


def statusOf(body: bytes) -> int:
    return 200 if json.loads(body)["recipient"].endswith("@example.org") else 404


def aiohttp(port: int, pair: str) -> None:
    from aiohttp import web

    async def mail(request: web.Request) -> web.Response:
        return web.Response(text=said(await request.read()))

    async def small(request: web.Request) -> web.Response:
        octets = 0
        async for chunk in request.content.iter_any():
            octets += len(chunk)
            if octets > SMALL:
                return web.Response(status=413, text="At most 100 kB")
        return web.Response(text=str(octets))

    async def recipient(request: web.Request) -> web.Response:
        return web.Response(status=statusOf(await request.read()))

    app = web.Application(client_max_size=2**30)
    app.add_routes([web.post("/mail", mail), web.post("/small", small), web.post("/recipient", recipient)])
    context = None
    if pair:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(f"{pair}.pem", f"{pair}.key")
    web.run_app(app, host="127.0.0.1", port=port, ssl_context=context, print=None)


def klein(port: int, pair: str) -> None:
    from klein import Klein

    app = Klein()

    @app.route("/mail", methods=["POST"])
    def mail(request):  # type: ignore[no-untyped-def]
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        return said(request.content.read())

    @app.route("/recipient", methods=["POST"])
    def recipient(request):  # type: ignore[no-untyped-def]
        request.setResponseCode(statusOf(request.content.read()))
        return b""

    app.run("127.0.0.1", port)


def flask(port: int, pair: str) -> None:
    from flask import Flask, Response, request

    app = Flask(__name__)

    @app.post("/mail")
    def mail() -> Response:
        return Response(said(request.get_data()), mimetype="text/plain")

    @app.post("/recipient")
    def recipient() -> Response:
        return Response(status=statusOf(request.get_data()))

    app.run("127.0.0.1", port)


if __name__ == "__main__":
    _, kind, number, *rest = sys.argv
    assert Path(__file__).exists()
    {"aiohttp": aiohttp, "klein": klein, "flask": flask}[kind](int(number), *(rest or [""]))
