"""docs/howto/containers.rst: its configuration works, in podman too where that has an image of Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.real.programs import PATIENCE, ROOT, Maildir, Service, eventually, freePort, requires, run, tcp
from tests.real.test_container import image

__all__ = ["image"]

PAGE = "containers"
NAME = "smtphooks-howto"


def isOurs(port: int) -> None:
    assert deliver(port, "ann@example.net") == (550, b"5.7.1 We take no mail for that domain")
    assert deliver(port, "ann@example.org")[0] == 250


def test_the_configuration_takes_mail_into_the_working_folder(page: Page) -> None:
    port = page.listen("etc/smtphooks.toml", "tcp:2525")
    volume = page.folder / "volume"
    volume.mkdir()
    arguments = page.command("podman run")
    arguments = arguments[arguments.index("smtphooks") + 1 :]
    arguments[-1] = arguments[-1].replace("/etc/smtphooks", str(page.folder / "etc"))
    service = Service(volume, arguments, [tcp(port)])
    try:
        isOurs(port)
        command = [word.replace("127.0.0.1:25", f"127.0.0.1:{port}") for word in page.command("smtphooks send")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", *command], env=environment, check=True, timeout=PATIENCE)
    finally:
        assert service.terminate() == 0
    assert len(Maildir(volume / "maildir").files()) == 2


def test_compose_says_the_same_as_the_command(page: Page) -> None:
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load(page.text("compose.yaml"))["services"]["mx"]
    words = page.command("podman run")
    at = words.index("smtphooks")
    assert service["command"] == words[at + 1 :] and service["image"] == words[at]
    assert service["volumes"] == [after for word, after in pairwise(words) if word == "-v"]
    assert service["ports"] == [words[words.index("-p") + 1]]
    assert service["read_only"] and service["tmpfs"] == [words[words.index("--tmpfs") + 1]]


@pytest.fixture
def port(page: Page, image: str) -> Iterator[int]:
    """The port of the container of the page."""
    port = freePort()
    volume = page.folder / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    changes = {
        "mx": NAME,
        "25:2525": f"127.0.0.1:{port}:2525",
        "mail:/var/lib/smtphooks": f"{volume}:/var/lib/smtphooks",
        "./etc:/etc/smtphooks:ro": f"{page.folder / 'etc'}:/etc/smtphooks:ro",
        "smtphooks": image,
    }
    run(*[changes.get(word, word) for word in page.command("podman run")])
    yield port
    run("podman", "rm", "--force", NAME, status=None)


@requires("podman")
def test_the_container_takes_mail_is_healthy_and_stops_cleanly(page: Page, port: int) -> None:
    eventually(lambda: run("podman", "healthcheck", "run", NAME, status=None).returncode == 0, "a healthy container")
    isOurs(port)
    assert len(Maildir(page.folder / "volume" / "maildir").files()) == 1
    run("podman", "kill", "--signal", "HUP", NAME)
    assert deliver(port, "ann@example.org")[0] == 250
    run("podman", "stop", "--time", "40", NAME)
