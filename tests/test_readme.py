"""README.rst: every block of code and every command runs as it says."""

from __future__ import annotations

import io
import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docutils.core import publish_doctree

from tests.pages import tomllib as tomllib

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.rst").read_text()
BIN = Path(sys.executable).parent

BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n(?:    :name: (\S+)\n)?\n((?:    .*\n|\n)+)", re.MULTILINE)
BLOCKS = [(kind, name, textwrap.dedent(text)) for kind, name, text in BLOCK.findall(README)]
FILES = {name: text for _, name, text in BLOCKS if name}
COMMANDS = [line[2:] for kind, _, text in BLOCKS if kind == "console" for line in text.splitlines() if line.strip()]


def freePort() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def running(command: list[str], folder: Path, port: int, **more: str) -> Iterator[smtplib.SMTP]:
    """Run a program of the README, with a client as soon as it listens; it must exit cleanly at SIGTERM."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}", **more}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        said = ""
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        while "listening on" not in said:
            line = process.stdout.readline()
            assert line, f"{command} did not start: {said}"
            said += line
        watchdog.cancel()
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, said + rest
        assert "Traceback" not in said + rest
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def deliver(client: smtplib.SMTP, recipient: str) -> tuple[int, bytes]:
    client.ehlo("client.example")
    client.mail("sender@example.net")
    code, text = client.rcpt(recipient)
    if code != 250:
        return code, text
    return client.data(b"Subject: hello\r\n\r\nhello\r\n")


def test_every_block_is_known_to_this_file() -> None:
    assert sorted(FILES) == ["myhooks.py", "test_invitation.py"]
    assert COMMANDS == [
        "make serve",
        "make test",
        "smtphooks --hooks myhooks:MyHooks",
    ]
    assert {kind for kind, name, _ in BLOCKS if not name} == {"console"}


def make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout


def test_make_test_runs_the_whole_suite_with_coverage() -> None:
    last = make("test").splitlines()[-1]
    assert re.fullmatch(r"\S*python -m pytest( --cov\S*)+", last)


def test_make_serve_runs_the_plain_service(tmp_path: Path) -> None:
    command = make("serve").splitlines()[-1].split()
    assert Path(command[0]).name == "smtphooks" and command[1:] == []
    # The same command in a folder of the test, and on a free port: another server may hold the fixed one.
    port = freePort()
    program = [str(BIN / Path(command[0]).name), *command[1:], "--listen", f"tcp:{port}:interface=127.0.0.1"]
    with running(program, tmp_path, port) as client:
        assert deliver(client, "anyone@anywhere.example")[0] == 250
    (stored,) = (tmp_path / "maildir" / "new").iterdir()
    assert b"Delivered-To: anyone@anywhere.example\n" in stored.read_bytes()
    assert stored.read_bytes().endswith(b"\nSubject: hello\n\nhello\n")


def test_first_hook(folder: Path) -> None:
    port = freePort()
    program = [*COMMANDS[2].split(), "--listen", f"tcp:{port}:interface=127.0.0.1"]
    with running(program, folder, port) as client:
        assert deliver(client, "user@example.com")[0] == 550
        client.rset()
        assert deliver(client, "user@example.org") == (250, b"2.0.0 Took 25 octets")


def test_first_test(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_invitation.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


BASE = "https://smtphooks.readthedocs.io/en/latest/"
LINKS = re.findall(r"<(\S+)>`_", README)


def test_it_is_one_screen() -> None:
    assert len(README.splitlines()) <= 75


def test_all_its_links_are_absolute_so_that_they_work_on_the_package_index() -> None:
    assert len(LINKS) > 8
    assert [link for link in LINKS if not link.startswith(BASE)] == []
    assert len(re.findall(r"`_", README)) == len(LINKS)


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_to_a_page_and_to_an_anchor_of_it(link: str) -> None:
    page, _, anchor = link.removeprefix(BASE).partition("#")
    text = (ROOT / "docs" / f"{page.removesuffix('.html')}.rst").read_text()
    assert not anchor or f".. _{anchor}:" in text


def test_docutils_has_no_complaints() -> None:
    complaints = io.StringIO()
    settings = {"warning_stream": complaints, "report_level": 1, "syntax_highlight": "none"}
    publish_doctree(README, str(ROOT / "README.rst"), settings_overrides=settings)
    assert complaints.getvalue() == ""
