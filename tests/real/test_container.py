"""The Containerfile, built and run by podman where that is, with an image of Python that is there already."""

from __future__ import annotations

import os
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.programs import PATIENCE, ROOT, Maildir, eventually, freePort, requires, run

pytestmark = requires("podman")

# An image of another name may be given, for a machine that cannot fetch this one.
PYTHON = os.environ.get("SMTPHOOKS_TEST_IMAGE", "python:3.13-slim")
NAME = "smtphooks-test"


@pytest.fixture(scope="module")
def image() -> str:
    if run("podman", "image", "exists", PYTHON, status=None).returncode:
        pytest.skip(f"podman has no image {PYTHON}; podman pull, or SMTPHOOKS_TEST_IMAGE names another")
    given = ["--pull=never", "--format=docker", f"--build-arg=PYTHON={PYTHON}"]
    run("podman", "build", *given, "--tag", NAME, ROOT, seconds=600)
    return NAME


@pytest.fixture
def port(image: str, tmp_path: Path) -> Iterator[int]:
    """The port of a server in a container that can write to its volume alone."""
    tmp_path.chmod(0o777)
    port = freePort()
    safe = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"]
    volume = f"{tmp_path}:/var/lib/smtphooks"
    run("podman", "run", "--detach", "--rm", *safe, "-p", f"127.0.0.1:{port}:2525", "-v", volume, "--name", NAME, image)
    yield port
    run("podman", "rm", "--force", NAME, status=None)


def isHealthy() -> bool:
    return run("podman", "healthcheck", "run", NAME, status=None).returncode == 0


def test_a_message_is_stored_without_root_on_a_read_only_file_system(port: int, tmp_path: Path) -> None:
    eventually(isHealthy, "the container is healthy", PATIENCE)
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.sendmail("ann@example.org", ["joe@example.org"], "Subject: x\r\n\r\ntext\r\n")
    assert b"Subject: x" in Maildir(tmp_path / "maildir").message().content
    assert run("podman", "exec", NAME, "id", "-u").stdout.strip() == b"2525"
    assert run("podman", "exec", NAME, "touch", "/x", status=None).returncode
    run("podman", "stop", "--time", "40", NAME)
