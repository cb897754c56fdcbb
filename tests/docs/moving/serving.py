"""
Programs of the pages about moving, run as their readers run them.

This module knows no page.
"""

from __future__ import annotations

import os
import smtplib
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real.programs import PATIENCE, ROOT, Program, eventually, freePort

MESSAGE = b"Subject: hello\r\n\r\n.\r\n"


def listens(port: int) -> bool:
    """A connection to the port is accepted."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def hasEnded(program: Program) -> bool:
    """The process has ended; its status can still be asked for."""
    return os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@contextmanager
def running(folder: Path, *arguments: str, port: int) -> Iterator[Program]:
    """Run a program of Python in a folder, from when it listens until it has ended by SIGTERM without a traceback."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PYTHONUNBUFFERED": "1"}
    program = Program([sys.executable, *arguments], environment, folder)
    try:
        eventually(lambda: listens(port) or hasEnded(program), f"{arguments} listens")
        assert not hasEnded(program), program.output
        yield program
        program.terminate()
        assert "Traceback" not in program.output, program.output
    finally:
        program.kill()


@contextmanager
def serving(folder: Path, module: str) -> Iterator[tuple[int, Program]]:
    """Run a module with a C{factory} by the page's own C{serve.py}; the port, and the program."""
    port = freePort()
    with running(folder, "serve.py", module, f"tcp:{port}:interface=127.0.0.1", port=port) as program:
        yield port, program


def connect(port: int, kind: type[smtplib.SMTP] = smtplib.SMTP) -> smtplib.SMTP:
    client = kind("127.0.0.1", port, timeout=PATIENCE)
    client.ehlo("client.example")
    return client


def send(
    client: smtplib.SMTP,
    *recipients: str,
    sender: str = "you@example.net",
    message: bytes = MESSAGE,
) -> tuple[int, str]:
    """Send a message; the last reply, or the first refusal."""
    code, text = client.mail(sender)
    for recipient in recipients:
        if code == 250:
            code, text = client.rcpt(recipient)
    if code == 250:
        code, text = client.data(message)
    return code, text.decode()
