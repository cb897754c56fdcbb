"""The compiled build, which C{SMTPHOOKS_COMPILE=1} asks for: it speaks SMTP, and hooks and log are as without it."""

from __future__ import annotations

import os
import shlex
import shutil
import smtplib
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.real.programs import Program, freePort

ROOT = Path(__file__).parents[1]
PATIENCE = 600.0  # A compiler takes half a minute, and several times that on a busy machine.

HOOKS = """
from smtphooks import SMTPError
from smtphooks.dialogue import engine


class Refusal(SMTPError):
    def __init__(self):
        super().__init__("Not here", 550, "5.1.1")


class Hooks:
    async def onRcptTo(self, address, session):
        if address.local == "nobody":
            raise Refusal
        if address.local == "bug":
            raise ZeroDivisionError("a bug")

    async def onData(self, stream, session):
        octets = 0
        async for chunk in stream:
            octets += len(chunk)
        return f"Took {octets} octets"

    def onVrfy(self, text, session):
        return engine.__file__
"""


def missing() -> str:
    """What this machine lacks for the build."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"no compiler: {compiler}"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "no headers of Python"
    if find_spec("mypyc") is None or find_spec("mypy_zope") is None:
        return "no mypy, which is in the extra dev"
    return ""


def copySource(folder: Path) -> Path:
    folder.mkdir()
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.rst", "LICENSE", "pytest_smtphooks.py"):
        shutil.copy(ROOT / name, folder)
    for name in ("contrib", "smtphooks", "twisted"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    return folder


def python(*arguments: object, folder: Path, compiled: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with this value of C{SMTPHOOKS_COMPILE}."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "SMTPHOOKS_COMPILE": compiled, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the compiled build."""
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp("compiled")
    target = folder / "installed"
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target, ".")
    done = python(*pip, folder=copySource(folder / "source"), compiled="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (target / "myhooks.py").write_text(HOOKS)
    return target


@pytest.fixture
def server(installed: Path, tmp_path: Path) -> Iterator[tuple[Program, smtplib.SMTP]]:
    port = freePort()
    command = [sys.executable, "-m", "smtphooks", "--listen", f"tcp:{port}:interface=127.0.0.1"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    program = Program([*command, "--hooks", "myhooks:Hooks"], environment, tmp_path)
    try:
        program.waitForLine("listening on")
        client = smtplib.SMTP("127.0.0.1", port, timeout=30)
        yield program, client
        client.close()
        assert program.terminate() == 0
    finally:
        program.kill()


def test_a_compiled_server_takes_mail(server: tuple[Program, smtplib.SMTP]) -> None:
    """From EHLO to QUIT on a real connection, and what runs is the compiled code."""
    program, client = server
    assert client.ehlo("client.example")[0] == 250
    assert client.verify("x")[1].decode().endswith(tuple(EXTENSION_SUFFIXES))
    client.mail("sender@example.net")
    assert client.rcpt("nobody@example.org") == (550, b"5.1.1 Not here")
    assert client.rcpt("ann@example.org")[0] == 250
    assert client.data(b"Subject: x\r\n\r\n.y\r\n") == (250, b"2.0.0 Took 18 octets")
    assert client.quit()[0] == 221
    program.waitForLine("1 messages")


def test_the_log_of_a_compiled_server_names_the_fault_of_a_hook(server: tuple[Program, smtplib.SMTP]) -> None:
    """The namespace is that of the module, and the traceback leads to the line of the hook."""
    program, client = server
    client.ehlo("client.example")
    client.mail("sender@example.net")
    assert client.rcpt("bug@example.org")[0] == 451
    program.waitForLine("smtphooks.connection.runner", "hook onRcptTo crashed")
    program.waitForLine('myhooks.py", line 16, in onRcptTo')
    program.waitForLine("ZeroDivisionError: a bug")


def test_mypy_is_needed_only_to_compile(tmp_path: Path) -> None:
    """Without the variable the build asks for nothing more."""
    ask = "import setuptools.build_meta as backend; print(backend.get_requires_for_build_wheel())"
    source = copySource(tmp_path / "source")
    for compiled in ("", "0"):
        assert python("-c", ask, folder=source, compiled=compiled).stdout.splitlines()[-1] == "[]"
    wanted = python("-c", ask, folder=source, compiled="1").stdout.splitlines()[-1]
    assert all(f"'{name}" in wanted for name in ("mypy[mypyc]", "mypy-zope", "twisted[tls]", "attrs"))


def test_a_build_without_mypy_says_what_to_install(tmp_path: Path) -> None:
    build = (
        "import sys; sys.modules['mypyc'] = None\nimport setuptools.build_meta as backend; backend.build_wheel('dist')"
    )
    done = python("-c", build, folder=copySource(tmp_path / "source"), compiled="1")
    assert done.returncode != 0
    assert "pip install 'mypy[mypyc]' mypy-zope" in done.stderr
    assert "Traceback" not in done.stderr
