"""docs/howto/asyncio.rst: hooks use aiohttp, and a program of asyncio has the server in its loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.docs.howto.conftest import Page, deliver

PAGE = "asyncio"


class Service(ThreadingHTTPServer):
    """
    The HTTP service that the page asks.

    @ivar posted: path and body of each message.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: list[tuple[str, bytes]] = []


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self._answer({"/users/ann@example.org": 200, "/users/joe@example.org": 404}.get(self.path, 500))

    def do_POST(self) -> None:
        self.server.posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http() -> Iterator[Service]:
    with Service() as service:
        thread = Thread(target=service.serve_forever)
        thread.start()
        yield service
        service.shutdown()
        thread.join()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is of Python 3.11")
class TestWebhook:
    def test_recipients_are_asked_for_and_messages_posted(self, page: Page, http: Service) -> None:
        pytest.importorskip("aiohttp")
        port = page.listen("webhook.toml", "tcp:2525")
        page.change("webhook.toml", "8080", http.server_address[1])
        service = page.start("smtphooks --reactor asyncio")
        assert deliver(port, "joe@example.org") == (550, b"5.1.1 No such user")
        assert deliver(port, "max@example.org")[0] == 451
        assert deliver(port, "ann@example.org") == (250, b"2.0.0 Posted")
        assert http.posted == [("/messages?to=ann@example.org", b"Subject: hello\r\n\r\nhello\r\n")]
        assert "Unclosed" not in service.output

    def test_another_reactor_is_named_in_the_log(self, page: Page) -> None:
        pytest.importorskip("aiohttp")
        page.listen("webhook.toml", "tcp:2525")
        status, said = page.run("smtphooks --reactor asyncio", asyncio="epoll")
        assert status == 1 and "asyncio" in said


def test_a_program_of_asyncio_has_the_server_in_its_loop(page: Page) -> None:
    port = page.listen("inside.py", "tcp:2525")
    page.python("python inside.py", port)
    assert deliver(port, "ann@example.org")[0] == 250
    assert len(list((page.folder / "maildir" / "new").iterdir())) == 1
