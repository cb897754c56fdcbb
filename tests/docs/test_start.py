"""docs/start.rst: its configurations run as it says; its program is in test_programs.py."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from pathlib import Path

from tests.pages import blocksOf, tomllib, write
from tests.test_readme import BIN, README, deliver, freePort, running

PAGE = "start.rst"
COMMANDS = [shlex.split(line[2:]) for block in blocksOf(PAGE, "console") for line in block.text.splitlines()]


def test_its_commands_are_known_to_this_file() -> None:
    assert [" ".join(command) for command in COMMANDS] == [
        "smtphooks --hooks myhooks:MyHooks",
        "smtphooks --config smtphooks.toml --check",
        "smtphooks --config smtphooks.toml",
    ]


def test_first_hook_is_that_of_the_readme() -> None:
    (block,) = [block for block in blocksOf(PAGE) if block.name == "myhooks.py"]
    assert block in blocksOf("../README.rst")
    assert "smtphooks --hooks myhooks:MyHooks" in README


def test_configuration(folder: Path) -> None:
    port = freePort()
    write(PAGE, folder)
    check = subprocess.run(
        COMMANDS[1],
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
    with running(COMMANDS[2], folder, port) as client:
        assert deliver(client, "user@example.org") == (250, b"2.0.0 Took 25 octets")
        with socket.socket(socket.AF_UNIX) as lmtp:
            lmtp.connect(str(folder / "lmtp.sock"))
            assert lmtp.recv(100) == b"220 mx.example.org LMTP\r\n"


def test_layers(folder: Path) -> None:
    port = freePort()
    write(PAGE, folder)
    file = folder / "layers.toml"
    file.write_text(file.read_text().replace("tcp:2525", f"tcp:{port}:interface=127.0.0.1"))
    with running(["smtphooks", "--config", "layers.toml"], folder, port) as client:
        assert deliver(client, "ann@example.org")[0] == 250
        assert deliver(client, "anyone@example.net")[0] == 250
        assert deliver(client, "bob@example.org") == (550, b"5.1.1 Recipient address rejected: user unknown")
        assert deliver(client, "ann@example.com") == (550, b"5.7.1 Relay access denied")
    assert len(list((folder / "maildir" / "new").iterdir())) == 2
