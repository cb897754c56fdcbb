"""docs/howto/systemd.rst: systemd accepts its files, and hands sockets to the configuration."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.docs.howto.conftest import BIN, Page, deliver
from tests.real.programs import PATIENCE, ROOT, Program, freePort, requires, run, tcp, which

PAGE = "systemd"
UNITS = ["smtphooks.service", "smtphooks.socket"]

ONE = """\
discard = true

[options]
authOptional = true

[[listener]]
endpoint = "{endpoint}"
"""


def verified(page: Page) -> list[str]:
    """What systemd has to say about the unit and its changes."""
    for unit in UNITS:
        text = re.sub(r"/opt/smtphooks/bin/\w+", str(which("true")), (ROOT / "contrib" / unit).read_text())
        (page.folder / unit).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", page.folder / UNITS[0])
    return [line for line in done.stdout.decode().splitlines() if "smtphooks" in line]


@requires("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit_and_its_change(page: Page) -> None:
    assert verified(page) == []
    page.change("smtphooks.service.d/override.conf", "MemoryMax", "MemoryMaximum")
    done = run("systemd-analyze", "verify", "--man=no", page.folder / UNITS[0], status=None)
    assert b"MemoryMaximum" in done.stdout, "the change is read"


@requires("systemd-analyze")
def test_systemd_knows_the_type_that_waits_for_a_reload_from_version_253_on(page: Page) -> None:
    (page.folder / "reload.conf").rename(page.folder / "smtphooks.service.d" / "reload.conf")
    version = run("systemd-analyze", "--version").stdout.split()[1]
    complaints = verified(page)
    if int(version) >= 253:
        assert complaints == []
    else:
        # The unit stays as it is, but for its ExecReload.
        assert complaints
        assert all("Failed to parse service type, ignoring: notify-reload" in each for each in complaints)


def test_systemd_is_told_of_a_reload_with_workers_and_without(page: Page) -> None:
    (page.folder / "one.toml").write_text(ONE.format(endpoint=tcp(freePort())))
    (page.folder / "several.toml").write_text(f"workers = 2\n{ONE.format(endpoint=tcp(freePort()))}")
    for configuration in ("one.toml", "several.toml"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(page.folder / f"{configuration}.manager"))
            manager.settimeout(PATIENCE)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(manager.getsockname())}
            command = [sys.executable, "-m", "smtphooks", "--config", configuration]
            program = Program(command, environment, page.folder)
            try:
                assert manager.recv(100) == b"READY=1"
                os.kill(program.pid, signal.SIGHUP)
                assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(100))
                assert manager.recv(100) == b"READY=1"
                assert program.terminate() == 0
                assert manager.recv(100) == b"STOPPING=1"
            finally:
                program.kill()


@pytest.mark.parametrize("command", ["cp contrib/smtphooks.toml", "cp contrib/smtphooks.s", "cp contrib/smtphooks.so"])
def test_the_samples_are_there(page: Page, command: str) -> None:
    for word in page.command(command):
        assert not word.startswith("contrib/") or (ROOT / word).exists()


@requires("systemd-socket-activate")
def test_sockets_of_systemd_are_listened_on(page: Page) -> None:
    page.change("sockets.toml", "/var/lib/smtphooks/maildir", page.folder / "maildir")
    words = page.command("systemd-socket-activate")
    ports = [freePort(), freePort()]
    for old, new in zip(("127.0.0.1:2525", "127.0.0.1:4650"), ports, strict=True):
        words[words.index(old)] = f"127.0.0.1:{new}"
    words[words.index("smtphooks")] = str(BIN / "smtphooks")
    # It passes on no variable of its environment but those that it is told to.
    words.insert(1, f"--setenv=PYTHONPATH={ROOT}")
    program = Program(words, os.environ, Path(page.folder))
    try:
        # The service starts with the first client, which waits for it.
        program.waitForLine(f"Listening on 127.0.0.1:{ports[1]}")
        assert deliver(ports[0], "ann@example.org")[0] == 250
        program.waitForLine("listening on systemd:domain=INET:index=1")
        assert program.terminate() == 0
    finally:
        program.kill()
    assert len(list((page.folder / "maildir" / "new").iterdir())) == 1
