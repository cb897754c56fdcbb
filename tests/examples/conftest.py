"""The examples as a user starts them, each a process of its own that must end cleanly, and an HTTP server for them."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

# Fixtures, which pytest finds here.
from tests.real.conftest import certificates as certificates
from tests.real.conftest import maildir as maildir
from tests.real.conftest import startService as startService
from tests.real.programs import ROOT, Program, tcp
from tests.secrets import secretsIn

EXAMPLES = ROOT / "examples"


class Example(Program):
    """
    A program of the folder C{examples} that listens.

    @ivar mayLogTraceback: something else than smtphooks and the example itself logs a failure.
    @ivar cleanly: the exit status after SIGTERM.
    """

    mayLogTraceback = False
    cleanly = 0

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str], count: int) -> None:
        """
        @param count: on how many ports it listens.
        """
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        super().__init__(command, {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}, folder)
        try:
            for number in range(1, count + 1):
                self.waitForLines("listening on", number)
        except AssertionError:
            self.kill()
            raise

    def waitForLines(self, part: str, count: int) -> None:
        """Wait until so many lines have this part."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._count(part) >= count, 30)
            found = self._count(part) >= count
        assert found, f"not {count} times {part!r}:\n{self.output}"

    def _count(self, part: str) -> int:
        return sum(part in line for line in self._lines)

    @property
    def ports(self) -> list[int]:
        """The TCP ports that it listens on, in the order of its lines."""
        return [int(port) for port in re.findall(r"listening on .*(?:port=|:)(\d+)\)", self.output)]

    @property
    def port(self) -> int:
        """The first port."""
        return self.ports[0]


StartExample = Callable[..., Example]


@pytest.fixture
def startExample(tmp_path: Path) -> Iterator[StartExample]:
    """
    Start an example by the name of its file, on a free port, in a folder of the test.

    Those that the test leaves running are stopped at its end; all must exit cleanly, with no traceback and no secret
    in their output.
    """
    examples: list[Example] = []

    def start(name: str, *arguments: object, ports: int = 1, port: int = 0, **environment: str) -> Example:
        path = str(EXAMPLES / name)
        if name.endswith(".tac"):
            command = [str(Path(sys.executable).parent / "twistd"), "-ny", path]
        else:
            command = [sys.executable, path, "--listen", tcp(port), *map(str, arguments)]
        example = Example(tmp_path, command, environment, ports)
        if name.endswith(".tac"):
            example.cleanly = -signal.SIGTERM  # twistd ends itself with the signal that it got
        examples.append(example)
        return example

    yield start
    for example in examples:
        assert example.terminate() == example.cleanly, example.output
        assert example.mayLogTraceback or "Traceback" not in example.output, example.output
        assert "Unhandled" not in example.output, example.output
        assert not secretsIn(example.output), example.output


class Request(NamedTuple):
    """A request that the HTTP server got; C{body} is None if it was cut."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes | None

    def all(self, name: str) -> list[str]:
        """The values of a field, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class HTTPServer:
    """
    A backend of an example.

    @ivar requests: what it got.
    @ivar statuses: the status for each path; C{default} that for others.
    @ivar gate: bodies are read only while it is set.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.statuses: dict[str, int] = {}
        self.default = 200
        self.gate = threading.Event()
        self.gate.set()
        self.octets = 0
        ours = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                ours._connections.append(self.connection)

            def log_message(self, *arguments: object) -> None:
                pass

            def _answer(self) -> None:
                ours.gate.wait(30)
                body = self._body()
                ours.requests.append(Request(self.command, self.path, self.headers.items(), body))
                if body is None:
                    self.close_connection = True
                    return
                self.send_response(ours.statuses.get(self.path, ours.default))
                self.send_header("Content-Length", "0")
                self.send_header("Location", "/elsewhere")  # for those who follow a 3xx
                self.end_headers()

            do_GET = do_POST = _answer

            def _body(self) -> bytes | None:
                """The body, None if it is cut."""
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                pieces = []
                try:
                    while size := int(self.rfile.readline(), 16):
                        pieces.append(self.rfile.read(size))
                        ours.octets += size
                        self.rfile.readline()
                    self.rfile.readline()
                except (OSError, ValueError):
                    return None
                return b"".join(pieces)

        self._connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self._isUp = True

    def stop(self) -> None:
        """End all connections, and refuse others from now on."""
        if self._isUp:
            self._isUp = False
            self.gate.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            for connection in self._connections:
                with suppress(OSError):  # it has ended
                    connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def backend() -> Iterator[HTTPServer]:
    """An HTTP server on loopback."""
    server = HTTPServer()
    yield server
    server.stop()
