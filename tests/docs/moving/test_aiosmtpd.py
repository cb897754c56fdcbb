"""docs/moving/aiosmtpd.rst: names and defaults are true, and each program behaves as the page says."""

from __future__ import annotations

import inspect
import re
import smtplib
import ssl
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import smtphooks.testing
from smtphooks import Address
from smtphooks.hooks import Hooks
from smtphooks.options import Options
from tests import support
from tests.certificates import Authority
from tests.docs.moving.serving import connect, running, send
from tests.docs.moving.tables import falseDefaults, rowsOf
from tests.pages import blocksOf, write
from tests.real.programs import PATIENCE, Maildir, Service, freePort

PAGE = "moving/aiosmtpd.rst"
OPTIONS = [row for row in rowsOf(PAGE, "aiosmtpd") if len(row) == 5]

# The arguments of SMTP and Controller in aiosmtpd 1.4 but for the handler.
THEIRS = re.findall(
    r"\w+",
    """
    data_size_limit enable_SMTPUTF8 decode_data hostname ident tls_context require_starttls timeout auth_required
    auth_require_tls auth_exclude_mechanism auth_callback command_call_limit authenticator proxy_protocol_timeout loop
    port unix_socket ssl_context ready_timeout server_kwargs
    """,
)


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


def test_every_argument_is_in_the_table() -> None:
    assert sorted(row[0].name for row in OPTIONS) == sorted(THEIRS)


def test_options_of_ours_exist_and_have_the_stated_default() -> None:
    ours = [row for row in OPTIONS if row[2].text not in ("none", "onAuth")]
    assert {row[2].name for row in ours} <= set(Options.__annotations__)
    assert falseDefaults((row[2], row[3]) for row in ours) == {}
    assert [row[2].name for row in ours if not row[3].literals] == ["name"]


def test_arguments_of_aiosmtpd_have_the_stated_default() -> None:
    controller = pytest.importorskip("aiosmtpd.controller")
    smtp = pytest.importorskip("aiosmtpd.smtp")
    made = [smtp.SMTP, controller.Controller, controller.UnixSocketController, controller.BaseThreadedController]
    theirs = {name: parameter for each in made for name, parameter in inspect.signature(each).parameters.items()}
    for argument, default, *_ in OPTIONS:
        if argument.name not in ("ident", "loop", "hostname", "server_kwargs", "unix_socket"):
            assert default.text == str(theirs[argument.name].default), argument.name


def test_hooks_have_the_arguments_of_the_table() -> None:
    for _, hook, _ in rowsOf(PAGE, "Method of a handler"):
        found = re.fullmatch(r"(on\w+)\((.*)\)", hook.text)
        if found is None:
            assert hook.text == "none" or hook.text.startswith("Extension(")
        else:
            assert list(inspect.signature(getattr(Hooks, found[1])).parameters) == ["self", *found[2].split(", ")]


def test_fields_of_the_session_exist() -> None:
    session = support.connect().session
    fields = [text for row in rowsOf(PAGE, "aiosmtpd") if len(row) == 2 for text in row[1].literals]
    named = [match[0] for text in fields for match in re.finditer(r"\bsession(\.\w+)+", text)]
    assert len(named) > 10
    session.envelope.mailFrom = Address("ann@example.org", "ann", "example.org")
    for name in named:
        attrgetter(name.removeprefix("session."))(session)


# --- what bites ---


def test_a_text_that_looks_like_a_refusal_accepts() -> None:
    client = support.connect(onMailFrom=lambda address, session: "550 No")
    assert client.last("EHLO c", "MAIL FROM:<a@b.example>") == "250 2.1.0 550 No"


def test_null_sender_and_recipient_are_as_the_page_says() -> None:
    client = support.connect()
    client.say("EHLO c", "MAIL FROM:<>")
    assert client.session.envelope.mailFrom.address == ""
    assert client.last("RCPT TO:<>").startswith("501 ")


def test_long_lines_pass() -> None:
    async def onData(stream: Any, session: Any) -> str:
        return f"{len(await stream.read())}"

    client = support.connect(onData=onData)
    client.say("EHLO c", "MAIL FROM:<>", "RCPT TO:<a@b.example>", "DATA")
    assert client.last("x" * 1500, ".") == "250 2.0.0 1502"


# --- programs ---


def test_before_compiles(folder: Path) -> None:
    before = [block for block in blocksOf(PAGE, "python") if block.name and block.name.startswith("before/")]
    assert len(before) == 6
    for block in before:
        compile(block.text, str(block.name), "exec")


def test_before_runs_where_aiosmtpd_is(folder: Path) -> None:
    pytest.importorskip("aiosmtpd")
    for block in blocksOf(PAGE, "python"):
        if block.name and block.name.startswith("before/"):
            subprocess.run([sys.executable, "-c", block.text.split("if __name__")[0]], check=True, timeout=PATIENCE)


def test_handler_takes_mail_of_its_domain(folder: Path) -> None:
    program, port = start(folder, "handler.py")
    with program as said, connect(port) as client:
        assert send(client, "joe@example.com") == (550, "5.1.1 not relaying to that domain")
        client.rset()
        assert send(client, "ann@example.org", "bob@example.org") == (250, "2.0.0 Message accepted")
        said.waitForLine("127.0.0.1 you@example.net ['ann@example.org', 'bob@example.org'] 21")


def test_mail_needs_starttls_and_a_password(folder: Path) -> None:
    authority = Authority()
    certificate = authority.server("localhost")
    (folder / "key.pem").write_text(certificate.key)
    (folder / "cert.pem").write_text(certificate.cert)
    program, port = start(folder, "authenticated.py")
    with program, smtplib.SMTP("localhost", port, timeout=PATIENCE) as client:
        client.ehlo()
        assert client.mail("you@example.net")[0] == 530
        client.starttls(context=ssl.create_default_context(cadata=authority.pem))
        client.ehlo()
        assert client.mail("you@example.net")[0] == 530
        client.login("ann", "correct horse")
        assert send(client, "ann@example.org") == (250, "2.0.0 Thank you, ann")


def test_hook_is_a_task_of_asyncio(folder: Path) -> None:
    program, port = start(folder, "looped.py")
    with program, connect(port) as client:
        assert send(client, "ann@example.org") == (250, "2.0.0 Thank you for 21 octets")


def test_lmtp_stores_for_each_recipient(folder: Path) -> None:
    service = Service(folder, ["--config", "local.toml"], ["unix:lmtp.sock:mode=660"])
    try:
        with smtplib.LMTP(str(folder / "lmtp.sock"), timeout=PATIENCE) as client:
            client.ehlo("client.example")
            assert send(client, "ann@example.org", "bob@example.org")[0] == 250
            assert client.getreply()[0] == 250
    finally:
        assert service.terminate() == 0
    stored = Maildir(folder / "maildir").messages()
    assert sorted(message.deliveredTo for message in stored) == [["ann@example.org"], ["bob@example.org"]]


def test_command_of_its_own_is_advertised_and_answered(folder: Path) -> None:
    program, port = start(folder, "extended.py")
    with program as said, connect(port) as client:
        assert client.has_extn("xping")
        assert client.docmd("XPING") == (250, b"2.0.0 pong")
        assert send(client, "ann@example.org")[0] == 250
        said.waitForLine("Subject: hello")
        said.waitForLine("END MESSAGE")


@pytest.mark.skipif(not hasattr(smtphooks.testing, "SMTPServerThread"), reason="this comes with the server for tests")
def test_test_of_the_page_passes(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mail.py"],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout
