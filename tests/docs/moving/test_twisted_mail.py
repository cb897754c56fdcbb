"""docs/moving/twisted-mail.rst: names and defaults are true, and programs before and after behave as the page says."""

from __future__ import annotations

import inspect
import re
import smtplib
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.mail import smtp

from smtphooks import Session
from smtphooks.hooks import Hooks
from smtphooks.options import Options
from tests import support
from tests.certificates import Authority
from tests.conftest import Logged
from tests.docs.moving.serving import connect, running, send
from tests.docs.moving.tables import defaultOf, rowsOf
from tests.pages import blocksOf, write
from tests.real.programs import PATIENCE, Maildir, freePort

PAGE = "moving/twisted-mail.rst"
ROWS = rowsOf(PAGE, "twisted.mail")
# What stands in the second column that is neither an option nor a hook.
OTHER = {"Extension", "SMTPError", "SMTPServerFactory", "ConnectionLost", "address", "async", "session"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page."""
    write(PAGE, tmp_path)
    return tmp_path


def start(folder: Path, name: str) -> tuple[Any, int]:
    """Run a program of the page; a context manager, and the port."""
    port = freePort()
    return running(folder, name, f"tcp:{port}:interface=127.0.0.1", port=port), port


# --- tables ---


def test_names_of_ours_exist() -> None:
    for row in ROWS:
        for text in row[1].literals:
            name = re.split(r"\W", text)[0]
            assert name in Options.__annotations__ or hasattr(Hooks, name) or name in OTHER, text
            if text.startswith("session."):
                assert hasattr(support.connect().session, re.split(r"\W", text)[1])
            called = re.fullmatch(r"(on\w+)\((.*)\)", text)
            if called is not None:
                assert list(inspect.signature(getattr(Hooks, called[1])).parameters) == ["self", *called[2].split(", ")]


def test_stated_defaults_are_true() -> None:
    stated = [re.fullmatch(r"(\w+)=(.*)", text) for row in ROWS for text in row[1].literals]
    given = {match[1]: match[2] for match in stated if match is not None and match[1] != "extensions"}
    assert {name: str(defaultOf(name)).replace("'", '"') for name in given} == given
    assert smtp.SMTPFactory.timeout == 600


def test_what_is_compared_exists_in_twisted() -> None:
    made = (smtp.ESMTP(), smtp.SMTPFactory(), smtp)
    called = (smtp.ESMTP, smtp.ESMTP.validateFrom, smtp.ESMTP.validateTo)
    known = {name for each in made for name in dir(each)}
    known |= {name for each in called for name in inspect.signature(each).parameters}
    known |= {*smtp.IMessageDelivery.names(), *smtp.IMessage.names()}
    for row in ROWS:
        for text in row[0].literals:
            if text not in ("do_XYZ", "ext_XYZ"):
                assert re.split(r"[^\w]", text.removeprefix("IMessage."))[0] in known, text


# --- what bites ---


def test_without_hooks_all_is_accepted() -> None:
    client = support.connect()
    assert client.last("EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<joe@anywhere.example>").startswith("250 ")


def test_onData_is_called_once_for_all_recipients() -> None:
    seen = []

    async def onData(stream: Any, session: Session) -> None:
        stream.prepend(session.receivedHeader().encode())
        seen.append(await stream.read())

    client = support.connect(onData=onData)
    client.say("EHLO c", "MAIL FROM:<>", "RCPT TO:<a@b.example>", "RCPT TO:<c@b.example>", "DATA")
    assert client.last("Subject: x", ".").startswith("250 ")
    assert len(seen) == 1 and seen[0].startswith(b"Received: from c")


def test_failure_of_onData_is_temporary(logged: Logged) -> None:
    async def onData(stream: Any, session: Session) -> None:
        raise OSError("no space")

    client = support.connect(onData=onData)
    client.say("EHLO c", "MAIL FROM:<>", "RCPT TO:<a@b.example>", "DATA")
    assert client.last("Subject: x", ".").startswith("451 4.3.0")
    assert len(logged.takeFailures(OSError)) == 1


# --- programs ---


@pytest.mark.parametrize("name", ["before/server.py", "server.py"])
def test_server_prints_what_is_for_its_domain(folder: Path, name: str) -> None:
    program, port = start(folder, name)
    with program as said, connect(port) as client:
        assert send(client, "joe@example.com")[0] == 550
        client.rset()
        assert send(client, "ann@example.org")[0] == 250
        said.waitForLine("Received:")
        said.waitForLine("Subject: hello")


@pytest.mark.parametrize(("name", "isClearAllowed"), [("before/portal.py", True), ("portal.py", False)])
def test_portal_knows_the_user(folder: Path, name: str, isClearAllowed: bool) -> None:
    authority = Authority()
    certificate = authority.server("localhost")
    (folder / "key.pem").write_text(certificate.key)
    (folder / "cert.pem").write_text(certificate.cert)
    program, port = start(folder, name)
    with program, smtplib.SMTP("localhost", port, timeout=PATIENCE) as client:
        client.ehlo()
        assert ("auth" in client.esmtp_features) == isClearAllowed
        client.starttls(context=ssl.create_default_context(cadata=authority.pem))
        client.ehlo()
        client.login("ann", "correct horse")
        code, text = send(client, "ann@example.org")
        assert code == 250
        assert name == "before/portal.py" or text == "2.0.0 Thank you, ann"


def test_lines_are_those_of_the_message(folder: Path) -> None:
    program, port = start(folder, "lines.py")
    message = b"Subject: x\r\n\r\n" + b"> quoted\r\nnot > quoted\r\n" * 9000
    with program, connect(port) as client:
        assert send(client, "ann@example.org", message=message) == (250, "2.0.0 9000 lines are quoted")


@pytest.mark.parametrize("name", ["before/mail.tac", "mail.tac"])
def test_application_runs_in_twistd(folder: Path, name: str) -> None:
    port = freePort()
    path = folder / name
    path.write_text(path.read_text().replace("tcp:2525", f"tcp:{port}"))
    twistd = str(Path(sys.executable).with_name("twistd"))
    with running(path.parent, twistd, "-ny", "mail.tac", "--pidfile=", port=port), connect(port) as client:
        assert send(client, "ann@example.org")[0] == 250
    if name == "mail.tac":
        assert len(Maildir(folder / "maildir").messages()) == 1


def test_before_and_after_stand_side_by_side() -> None:
    names = [block.name for block in blocksOf(PAGE, "python")]
    assert names == [
        "before/server.py",
        "server.py",
        "before/portal.py",
        "portal.py",
        "lines.py",
        "before/mail.tac",
        "mail.tac",
    ]
