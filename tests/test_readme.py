"""README.rst: every block of code and every command runs as it says."""

from __future__ import annotations

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

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
    assert sorted(FILES) == ["embedded.py", "layers.toml", "myhooks.py", "smtphooks.toml"]
    assert COMMANDS == [
        "make serve",
        "make test",
        "smtphooks --hooks myhooks:MyHooks",
        "smtphooks --config smtphooks.toml --check",
        "smtphooks --config smtphooks.toml",
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


def test_configuration(folder: Path) -> None:
    port = freePort()
    check = subprocess.run(
        COMMANDS[3].split(),
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        text=True,
        capture_output=True,
        check=True,
    )
    assert [listener["endpoint"] for listener in tomllib.loads(check.stdout)["listener"]] == [
        "tcp:2525",
        "unix:lmtp.sock:mode=660",
    ]
    file = folder / "smtphooks.toml"
    file.write_text(file.read_text().replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1"))
    with running(COMMANDS[4].split(), folder, port) as client:
        assert deliver(client, "user@example.org") == (250, b"2.0.0 Took 25 octets")
        with socket.socket(socket.AF_UNIX) as lmtp:
            lmtp.connect(str(folder / "lmtp.sock"))
            assert lmtp.recv(100) == b"220 mx.example.org LMTP\r\n"


def test_layers(folder: Path) -> None:
    port = freePort()
    file = folder / "layers.toml"
    file.write_text(file.read_text().replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1"))
    with running(["smtphooks", "--config", "layers.toml"], folder, port) as client:
        assert deliver(client, "ann@example.org")[0] == 250
        assert deliver(client, "anyone@example.net")[0] == 250
        assert deliver(client, "bob@example.org") == (550, b"5.1.1 Recipient address rejected: user unknown")
        assert deliver(client, "ann@example.com") == (550, b"5.7.1 Relay access denied")
    assert len(list((folder / "maildir" / "new").iterdir())) == 2


def test_embedded(folder: Path) -> None:
    port = freePort()
    text = FILES["embedded.py"].replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1")
    # The program itself logs nothing, so a line that says that it listens is added.
    text = text.replace("reactor.run()", 'reactor.callWhenRunning(print, "listening on", flush=True)\nreactor.run()')
    (folder / "embedded.py").write_text(text)
    with running([sys.executable, "embedded.py"], folder, port) as client:
        assert deliver(client, "user@example.org") == (250, b"2.0.0 Message queued as 123")
