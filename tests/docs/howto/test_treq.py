"""docs/howto/treq.rst: messages are streamed to an HTTP service, whole or not at all."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.real.programs import Client, freePort, requires

PAGE = "treq"

pytest.importorskip("treq")

_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Server(socketserver.ThreadingTCPServer):
    """
    An HTTP server that keeps what it is sent, and answers once the body has ended.

    @ivar requests: the octets of each connection.
    """

    daemon_threads = True
    status = b"201 Created"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.requests: list[bytes] = []
        self.begun = threading.Event()
        self.ended = threading.Event()


class Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Server)
        connection: socket.socket = self.request
        octets = b""
        while not octets.endswith(_LAST_CHUNK):
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                break
            octets += piece
            self.server.begun.set()
        self.server.requests.append(octets)
        if octets.endswith(_LAST_CHUNK):
            connection.sendall(
                b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 4\r\n\r\nText" % self.server.status
            )
        self.server.ended.set()


@pytest.fixture
def http() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@requires("swaks")
def test_a_message_is_uploaded_to_the_service_of_the_page(page: Page) -> None:
    pytest.importorskip("klein")
    port, archive = page.listen("upload.toml", "tcp:2525"), freePort()
    page.change("upload.toml", "8080", archive)
    page.change("archive.py", "8080", archive)
    page.python("python archive.py", archive)
    page.start("smtphooks --config upload.toml")
    status, said = page.run("swaks", **{"2525": port})
    assert status == 0 and "250 2.0.0 Archived as 1, from " in said


@pytest.mark.parametrize(
    ("status", "code"), [(b"201 Created", 250), (b"422 Unprocessable Entity", 554), (b"503 Unavailable", 451)]
)
def test_the_answer_of_the_service_decides(page: Page, http: Server, status: bytes, code: int) -> None:
    http.status = status
    port = page.listen("upload.toml", "tcp:2525")
    page.change("upload.toml", "8080", http.server_address[1])
    page.start("smtphooks --config upload.toml")
    assert deliver(port, "ann@example.org")[0] == code
    (request,) = http.requests
    assert b"\r\nX-Recipients: ann@example.org\r\n" in request or b"\r\nx-recipients: ann@" in request.lower()
    assert b"\r\nSubject: hello\r\n\r\nhello\r\n" in request and b"Received: from client.example" in request


def test_a_service_that_is_down_delays(page: Page) -> None:
    port = page.listen("upload.toml", "tcp:2525")
    page.change("upload.toml", "8080", freePort())
    service = page.start("smtphooks --config upload.toml")
    assert deliver(port, "ann@example.org")[0] == 451
    service.waitForLine("ConnectionRefusedError")


def test_a_message_that_breaks_off_never_looks_whole(page: Page, http: Server) -> None:
    port = page.listen("upload.toml", "tcp:2525")
    page.change("upload.toml", "8080", http.server_address[1])
    service = page.start("smtphooks --config upload.toml")
    with Client(port) as client:
        client.envelope(b"ann@example.org")
        client.say(b"DATA", 354)
        client.socket.sendall(b"Subject: hello\r\n\r\n" + b"x" * 70 + b"\r\n")
        assert http.begun.wait(30)  # a client that leaves before has no request made at all
    assert http.ended.wait(30)
    assert not http.requests[0].endswith(_LAST_CHUNK)
    page.stop()
    assert "Traceback" not in service.output and "http://" not in service.output


def test_a_message_above_size_gets_552_and_never_looks_whole(page: Page, http: Server) -> None:
    port = page.listen("upload.toml", "tcp:2525")
    page.change("upload.toml", "8080", http.server_address[1])
    page.change("upload.toml", "26_214_400", 1000)
    service = page.start("smtphooks --config upload.toml")
    assert deliver(port, "ann@example.org", message=b"Subject: x\r\n\r\n" + b"xx\r\n" * 1000)[0] == 552
    assert http.ended.wait(30)
    assert not http.requests[0].endswith(_LAST_CHUNK)
    page.stop()
    assert "Traceback" not in service.output and "http://" not in service.output
