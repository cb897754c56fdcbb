"""
A how-to as a reader follows it: its files in a folder, and its commands there, on ports of the test.

This module knows no page.
"""

from __future__ import annotations

import os
import shlex
import smtplib
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.pages import blocksOf, write
from tests.real.programs import PATIENCE, ROOT, Program, Service, eventually, freePort, tcp

BIN = Path(sys.executable).parent


class Page:
    """
    The files of a page in a folder.

    @ivar folder: where they are.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self._page = f"howto/{name}.rst"
        self._endpoints: list[str] = []
        self._programs: list[Program] = []
        write(self._page, folder)

    def command(self, begin: str) -> list[str]:
        """The words of the command of the page that begins so; a backslash continues it on the next line."""
        console = "".join(block.text for block in blocksOf(self._page, "console")).replace("\\\n", "")
        lines = [line.removeprefix("$ ") for line in console.splitlines() if line.startswith("$ ")]
        found = [line for line in lines if line.startswith(begin)]
        assert found, f"no command of {self._page} begins with {begin}: {lines}"
        return shlex.split(found[0])

    def text(self, name: str) -> str:
        """The text of a file, as it is now."""
        return (self.folder / name).read_text()

    def change(self, name: str, old: str, new: object) -> None:
        """Replace what the file has for the test to run beside others."""
        text = self.text(name)
        assert old in text, f"{name} has no {old}"
        (self.folder / name).write_text(text.replace(old, str(new)))

    def listen(self, name: str, endpoint: str) -> int:
        """Put a free port in the place of that of an endpoint; the port."""
        port = freePort()
        self.change(name, f'"{endpoint}"', f'"{tcp(port)}"')
        self._endpoints.append(tcp(port))
        return port

    def start(self, command: str) -> Service:
        """Start the service by a command of the page, and wait until it listens."""
        program, *arguments = self.command(command)
        assert program == "smtphooks"
        return self.serve(arguments)

    def serve(self, arguments: Sequence[str]) -> Service:
        """Start the service with these flags, and wait until it listens."""
        service = Service(self.folder, arguments, self._endpoints)
        self._programs.append(service)
        return service

    def python(self, command: str, port: int, **more: str) -> Program:
        """Start a program of the page, and wait until something listens on its port."""
        program, *arguments = self.command(command)
        assert program == "python"
        environment = {**os.environ, "PYTHONPATH": f"{self.folder}:{ROOT}", "PYTHONUNBUFFERED": "1", **more}
        started = Program([sys.executable, *arguments], environment, self.folder)
        self._programs.append(started)
        eventually(lambda: _listens(port), f"a program that listens on port {port}")
        return started

    def run(self, begin: str, **changes: object) -> tuple[int, str]:
        """Run a command of the page to its end, with these words in the place of others; its status and output."""
        words = self.command(begin)
        path = f"{BIN}:{os.environ['PATH']}:/usr/sbin"
        for old, new in changes.items():
            assert any(old in word for word in words), f"no {old} in {words}"
            words = [word.replace(old, str(new)) for word in words]
        program = Program(words, {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}, self.folder)
        return program.wait(), program.output

    def stop(self) -> None:
        """Stop what was started; it must exit cleanly."""
        for program in self._programs:
            assert program.terminate() == 0, program.output
        self._programs.clear()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """The page that the module of the test names in C{PAGE}."""
    found = Page(request.module.PAGE, tmp_path)
    yield found
    found.stop()


def deliver(
    port: int,
    *recipients: str,
    message: bytes = b"Subject: hello\r\n\r\nhello\r\n",
    options: Sequence[str] = (),
    **more: Any,
) -> Any:
    """Send a message with smtplib; the reply after its end, or to the first RCPT that was refused."""
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE, **more) as client:
        client.ehlo("client.example")
        assert client.mail("sender@client.example", options)[0] == 250
        for recipient in recipients:
            reply = client.rcpt(recipient)
            if reply[0] != 250:
                return reply
        return client.data(message)
