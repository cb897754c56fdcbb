"""The plugin for pytest: fixtures and mark, beside the other plugins that tests of mail run with."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0

# The plugin is installed with this source tree, or the tree is only on the path.
IS_INSTALLED = any(point.value == "pytest_smtphooks" for point in importlib.metadata.entry_points(group="pytest11"))
PLUGIN = [] if IS_INSTALLED else ["-p", "pytest_smtphooks"]

SEND = """\
import smtplib

import pytest


def send(server, client=smtplib.SMTP, recipients=("b@example.org",)):
    with client(server.host, server.port) as connection:
        return connection.sendmail("a@example.org", list(recipients), "Subject: hello\\r\\n\\r\\ntext")
"""


def runPytest(folder: Path, test: str, *flags: str) -> str:
    """What pytest says of a file of tests, which are all to pass; with no configuration but the flags."""
    done = runFailing(folder, test, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runFailing(folder: Path, test: str, *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "sending.py").write_text(SEND)
    (folder / "test_it.py").write_text("from sending import *\n\n" + test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGIN, "--strict-markers", "-p", "no:cacheprovider", *flags, "test_it.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_each_test_has_a_server_of_its_own(tmp_path: Path) -> None:
    test = """
ports = []

@pytest.mark.parametrize("number", [1, 2])
def test_smtp(smtp_server, number):
    send(smtp_server)
    (message,) = smtp_server.messages
    assert message["Subject"] == "hello"
    ports.append(smtp_server.port)

def test_they_have_been_stopped():
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            smtplib.SMTP("127.0.0.1", port)

def test_lmtp(lmtp_server, smtp_server):
    send(lmtp_server, smtplib.LMTP)
    assert len(lmtp_server.messages) == 1 and not smtp_server.messages
"""
    assert "4 passed" in runPytest(tmp_path, test, "-W", "error", "-p", "no:asyncio")


def test_the_closest_mark_wins(tmp_path: Path) -> None:
    test = """
pytestmark = pytest.mark.smtphooks(size=1000, name="module.test")

def seen(server):
    with smtplib.SMTP(server.host, server.port) as client:
        client.ehlo()
        return client.ehlo_resp.split()[0].decode(), client.esmtp_features["size"]

def test_of_the_module(smtp_server):
    assert seen(smtp_server) == ("module.test", "1000")

@pytest.mark.smtphooks(name="class.test")
class TestClass:
    def test_of_the_class(self, smtp_server):
        assert seen(smtp_server) == ("class.test", "1000")

    @pytest.mark.smtphooks(size=2000)
    @pytest.mark.smtphooks(size=3000)
    def test_of_the_test(self, smtp_server):
        assert seen(smtp_server) == ("class.test", "3000")
"""
    assert "3 passed" in runPytest(tmp_path, test)


def test_a_mark_takes_hooks_as_well(tmp_path: Path) -> None:
    test = """
def onRcptTo(address, session):
    from smtphooks import SMTPError
    raise SMTPError("Not here", responseCode=550)

@pytest.mark.smtphooks(onRcptTo=onRcptTo)
def test_it(smtp_server):
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(smtp_server)
    assert smtp_server.messages == []
"""
    assert "1 passed" in runPytest(tmp_path, test)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ("sise=1000", "OptionError: unknown option sise.*size"),
        ("1000", r"TypeError: the mark smtphooks takes options by name, and was given \(1000,\)"),
    ],
)
def test_a_mark_that_is_wrong_is_an_error_of_the_test(tmp_path: Path, arguments: str, error: str) -> None:
    test = f"@pytest.mark.smtphooks({arguments})\ndef test_it(smtp_server): pass\n"
    done = runFailing(tmp_path, test)
    assert "1 error" in done.stdout and re.search(error, done.stdout), done.stdout


def test_a_test_that_fails_shows_what_the_server_has_seen(tmp_path: Path) -> None:
    test = """
def onRcptTo(address, session):
    from smtphooks import SMTPError
    if address.domain != "example.org":
        raise SMTPError("Not here", responseCode=550)

@pytest.mark.smtphooks(onRcptTo=onRcptTo)
def test_it(smtp_server, lmtp_server):
    send(smtp_server, recipients=["b@example.org", "c@example.net"])
    assert len(smtp_server.messages) == 2
"""
    shown = runFailing(tmp_path, test).stdout
    assert "What smtp_server has seen" in shown and "What lmtp_server has seen" in shown
    assert "received from a@example.org for b@example.org: hello\n" in shown
    assert "refused 550 5.1.1 Not here (to RCPT)\n" in shown
    assert "\nnothing\n" in shown


def test_the_fixtures_and_the_mark_are_listed(tmp_path: Path) -> None:
    shown = runPytest(tmp_path, "def test_it(): pass", "--fixtures", "--markers")
    assert "@pytest.mark.smtphooks(**options)" in shown
    assert "smtp_server" in runPytest(tmp_path, "def test_it(): pass", "--fixtures")


def test_a_run_without_a_server_imports_nothing(tmp_path: Path) -> None:
    """Every run of pytest pays for what the plugin imports, and coverage misses what is imported before it begins."""
    test = """
def test_it():
    import sys
    assert "pytest_smtphooks" in sys.modules
    loaded = {name.split(".")[0] for name in sys.modules}
    assert not loaded & {"smtphooks", "twisted", "OpenSSL"}
"""
    assert "1 passed" in runPytest(tmp_path, test, "-p", "no:pytest_twisted", "-p", "no:twisted")


# --- beside other plugins ---


def test_beside_pytest_twisted(tmp_path: Path) -> None:
    test = """
import pytest_twisted
from twisted.internet.threads import deferToThread
from smtphooks.testing import Dialogue

@pytest_twisted.ensureDeferred
async def test_a_coroutine(smtp_server):
    await deferToThread(send, smtp_server)
    assert len(smtp_server.messages) == 1

@pytest_twisted.inlineCallbacks
def test_a_generator(lmtp_server):
    yield deferToThread(send, lmtp_server, smtplib.LMTP)
    assert len(lmtp_server.messages) == 1

@pytest_twisted.ensureDeferred
async def test_hooks():
    assert (await Dialogue()("EHLO x"))[0].code == 250

def test_a_function(smtp_server):
    send(smtp_server)
    assert len(smtp_server.messages) == 1
"""
    assert "4 passed" in runPytest(tmp_path, test, "-W", "error", "-p", "no:asyncio")


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_beside_pytest_asyncio(tmp_path: Path, mode: str) -> None:
    test = """
import asyncio
from smtphooks.testing import Dialogue

@pytest.mark.asyncio
@pytest.mark.smtphooks(size=1000)
async def test_a_coroutine(smtp_server):
    await asyncio.to_thread(send, smtp_server)
    assert len(smtp_server.messages) == 1

@pytest.mark.asyncio
async def test_hooks():
    async def onMailFrom(address, session):
        await asyncio.sleep(0.01)
    replies = await Dialogue(onMailFrom=onMailFrom)("EHLO x", "MAIL FROM:<a@example.org>")
    assert [reply.code for reply in replies] == [250, 250]

def test_a_function(smtp_server):
    send(smtp_server)
    assert len(smtp_server.messages) == 1
"""
    assert "3 passed" in runPytest(tmp_path, test, f"--asyncio-mode={mode}", "-p", "no:pytest_twisted")


def test_beside_pytest_asyncio_and_pytest_twisted_at_once(tmp_path: Path) -> None:
    test = """
import asyncio
import pytest_twisted

@pytest.mark.asyncio
async def test_asyncio(smtp_server):
    await asyncio.to_thread(send, smtp_server)
    assert len(smtp_server.messages) == 1

@pytest_twisted.ensureDeferred
async def test_twisted(smtp_server):
    assert smtp_server.port
"""
    assert "2 passed" in runPytest(tmp_path, test)


def test_beside_pytest_xdist(tmp_path: Path) -> None:
    test = """
import os

@pytest.mark.parametrize("number", range(20))
def test_it(smtp_server, number):
    assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == "2"
    send(smtp_server)
    assert len(smtp_server.messages) == 1
"""
    assert "20 passed" in runPytest(tmp_path, test, "-n", "2", "-p", "no:pytest_twisted")


def test_what_the_server_has_seen_is_shown_beside_pytest_xdist_too(tmp_path: Path) -> None:
    test = "def test_it(smtp_server):\n    send(smtp_server)\n    assert False\n"
    shown = runFailing(tmp_path, test, "-n", "2", "-p", "no:pytest_twisted").stdout
    assert "received from a@example.org for b@example.org: hello" in shown
