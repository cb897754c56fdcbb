"""docs/moving/smtp-server.rst: names and defaults are true, and each program behaves as the page says."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
from operator import attrgetter
from pathlib import Path

import pytest

from smtphooks.hooks import FURTHER, HOOK_NAMES, Hooks
from smtphooks.options import Options
from smtphooks.replies import SMTPError
from smtphooks.testing import SMTPServerThread
from tests import support
from tests.certificates import Authority
from tests.docs.clients import clientOf
from tests.docs.moving.serving import MESSAGE, connect, listens, running, send, serving
from tests.docs.moving.tables import defaultOf, falseDefaults, rowsOf
from tests.pages import DOCS, blocksOf, define, write
from tests.real.programs import PATIENCE, eventually, freePort

PAGE = "moving/smtp-server.rst"
OPTIONS = rowsOf(PAGE, "Option")
FIELDS = list(Options.__annotations__)

# The options of smtp-server 3.21, as its type declarations list them, and those of TLS that its documentation names.
THEIRS = re.findall(
    r"\w+",
    """
    secure secured name banner heloResponse size hideSize rejectOversized authMethods authOptional authRequiredMessage
    disabledCommands hideSTARTTLS hidePIPELINING hide8BITMIME hideSMTPUTF8 hideENHANCEDSTATUSCODES hideDSN
    hideREQUIRETLS allowInsecureAuth disableReverseLookup resolver sniOptions needsUpgrade logger component maxClients
    useProxy ignoredHosts useXClient useXForward lmtp socketTimeout closeTimeout maxAllowedUnauthenticatedCommands
    maxCommandLength maxRecipients lenientAddressParsing
    key cert ca requestCert rejectUnauthorized minVersion maxVersion ciphers SNICallback
    """,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page."""
    write(PAGE, tmp_path)
    return tmp_path


# --- tables ---


def test_every_option_of_the_family_is_in_the_table() -> None:
    assert sorted(row[0].name for row in OPTIONS) == sorted(THEIRS)


def test_options_that_are_gone_are_not_ours_and_all_others_are() -> None:
    gone = {row[0].name for row in OPTIONS if row[2].text == "none"}
    assert gone == set(THEIRS) - set(FIELDS)


def test_stated_defaults_are_true() -> None:
    ours = [row for row in OPTIONS if row[2].text != "none"]
    assert falseDefaults((row[0], row[2]) for row in ours) == {}
    assert [row[0].name for row in ours if not row[2].literals] == ["name"]


def test_options_that_are_called_the_same_have_the_same_default() -> None:
    for name, theirs, ours, difference in OPTIONS:
        if difference.text == "same" and theirs.literals and theirs.text not in ("os.hostname()", "undefined"):
            assert theirs.text.lower() == ours.text.lower(), name


def test_options_that_only_we_have_are_all_named() -> None:
    found = re.search(r"Only smtphooks has these: (.*?)\.  ", (DOCS / PAGE).read_text(), re.DOTALL)
    assert found is not None
    assert sorted(re.findall(r"``(\w+)``", found[1])) == sorted(set(FIELDS) - set(THEIRS))


def test_hooks_have_the_arguments_of_the_table() -> None:
    named = []
    for hook, arguments, _ in rowsOf(PAGE, "Hook"):
        if len(arguments.literals) > 1:
            named += arguments.literals
            continue
        called = re.fullmatch(r"(\w+)\((.*)\)", arguments.name)
        name, stated = called.groups() if called else (hook.name, arguments.name)
        named.append(name)
        assert list(inspect.signature(getattr(Hooks, name)).parameters) == ["self", *stated.split(", ")]
    assert set(named) == {name for name in [*HOOK_NAMES, *FURTHER] if name.startswith("on")}


# --- what bites ---


def talk(*lines: str, **options: object) -> list[str]:
    """What a server says to these lines behind EHLO, the last line of each reply."""
    client = support.connect(**options)
    client.say("EHLO client.example")
    replies = []
    for line in lines:
        client.feed(line.encode() + b"\r\n")
        client.clock.advance(2)  # a failed AUTH has its reply after a second
        replies.append(client.replies()[-1])
    return replies


def test_auth_in_the_clear_needs_its_option_even_without_starttls() -> None:
    hooks = {"onAuth": lambda auth, session: auth.username}
    line = "AUTH PLAIN AGFubgBzZWNyZXQ="
    for hidden in ({"disabledCommands": ["STARTTLS"]}, {"hideSTARTTLS": True}):
        assert talk(line, **hooks, **hidden)[0].startswith("538 ")
        assert talk(line, **hooks, **hidden, allowInsecureAuth=True)[0].startswith("235 ")


@pytest.mark.parametrize("user", [{}, 0, ""])
def test_false_user_refuses(user: object) -> None:
    line = "AUTH PLAIN AGFubgBzZWNyZXQ="
    said = talk(line, onAuth=lambda auth, session: user, allowInsecureAuth=True)
    assert said == ["535 5.7.8 Authentication credentials invalid"]


def test_unknown_parameters_and_those_of_hidden_extensions_are_refused() -> None:
    lines = ["MAIL FROM:<a@b.example> FOO=1", "MAIL FROM:<a@b.example> RET=FULL", "MAIL FROM:<a@b.example> SIZE=1"]
    assert [reply[:3] for reply in talk(*lines, authOptional=True, hideSize=True)] == ["555", "555", "555"]
    assert talk(lines[1], authOptional=True, hideDSN=False)[0].startswith("250 ")


def test_malformed_base64_is_refused() -> None:
    said = talk("AUTH PLAIN AGFubgBzZWNyZXQ!", onAuth=lambda auth, session: "ann", allowInsecureAuth=True)
    assert said[0].startswith("501 ")


def test_exception_that_is_no_smtperror_is_not_shown() -> None:
    def onMailFrom(address: object, session: object) -> None:
        raise ValueError("secret")

    client = talk("MAIL FROM:<a@b.example>", authOptional=True, onMailFrom=onMailFrom)
    assert client[0].startswith("451 4.3.0 ") and "secret" not in client[0]


@pytest.mark.parametrize("code", [421, 550])
def test_refusal_of_onconnect_keeps_its_code_as_with_smtp_server(code: int) -> None:
    client = support.connect(onConnect=lambda session: SMTPError("Later", code))
    assert client.replies()[0].startswith(f"{code} ")
    assert support.connect(onConnect=lambda session: SMTPError("No")).replies()[0].startswith("554 ")


def test_onsecure_comes_before_onconnect_where_tls_begins_at_once() -> None:
    called: list[str] = []
    hooks = {name: lambda *_, name=name: called.append(name) for name in ("onConnect", "onSecure")}
    context = ssl._create_unverified_context()
    with (
        SMTPServerThread(secure=True, **hooks) as server,
        smtplib.SMTP_SSL(server.host, server.port, context=context, timeout=PATIENCE) as client,
    ):
        assert client.noop()[0] == 250
    assert called == ["onSecure", "onConnect"]


def test_domain_of_an_address_is_not_decoded() -> None:
    client = support.connect(authOptional=True)
    client.say("EHLO client.example", "MAIL FROM:<>", "RCPT TO:<ann@xn--mnchen-3ya.example>")
    assert [to.address for to in client.session.envelope.rcptTo] == ["ann@xn--mnchen-3ya.example"]


def test_addresses_beyond_ascii_need_smtputf8_and_quoted_ones_are_accepted() -> None:
    lines = ["MAIL FROM:<>", "RCPT TO:<\u00fc@x.example>", 'RCPT TO:<"a b"@example.org>']
    assert [reply[:3] for reply in talk(*lines, authOptional=True)] == ["250", "553", "250"]


def test_binarymime_goes_with_chunking() -> None:
    for hidden in (False, True):
        client = support.connect(authOptional=True, hideCHUNKING=hidden)
        client.feed(b"EHLO client.example\r\n")
        offered = " ".join(client.replies())
        assert ("CHUNKING" in offered, "BINARYMIME" in offered) == (not hidden, not hidden)


def test_reply_to_a_failed_auth_is_delayed_by_twice_as_long_each_time() -> None:
    client = support.connect(onAuth=lambda auth, session: None, allowInsecureAuth=True)
    client.say("EHLO client.example")
    for seconds in (1, 2, 4):
        before = len(client.replies())
        client.feed(b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n")
        client.clock.advance(seconds - 0.1)
        assert len(client.replies()) == before
        client.clock.advance(0.1)
        assert client.replies()[-1].startswith("535 ")


def test_fields_of_a_session_are_none_before_they_are_known() -> None:
    session = support.connect().session
    found = re.search(r"are ``None`` here: (.*?);", (DOCS / PAGE).read_text(), re.DOTALL)
    assert found is not None
    for name in re.findall(r"``([\w.]+)``", found[1]):
        assert attrgetter(name)(session) is None
    assert session.hostNameAppearsAs == ""


# --- programs ---


def test_each_program_has_a_before_and_an_after() -> None:
    kinds = [(block.kind, block.name) for block in blocksOf(PAGE) if block.name != "serve.py"]
    assert [kind for kind, _ in kinds] == ["javascript", "python"] * 10


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_javascript_is_well_formed(tmp_path: Path) -> None:
    for block in blocksOf(PAGE, "javascript"):
        (tmp_path / "before.js").write_text(block.text)
        subprocess.run(["node", "--check", "before.js"], cwd=tmp_path, check=True, timeout=PATIENCE)


def test_catch_all_prints_what_it_catches(folder: Path) -> None:
    with serving(folder, "catchall") as (port, program), connect(port) as client:
        assert send(client, "ann@example.org", "bob@example.org") == (250, "2.0.0 Caught")
        program.waitForLine("hello ['ann@example.org', 'bob@example.org']")


def test_users_of_the_table_authenticate(folder: Path) -> None:
    with serving(folder, "passwords") as (port, _):
        for method in ("PLAIN", "LOGIN", "CRAM-MD5"):
            with connect(port) as client:
                client.user, client.password = "ann", "correct horse"
                assert client.auth(method, getattr(client, f"auth_{method.lower().replace('-', '_')}"))[0] == 235
                assert send(client, "ann@example.org") == (250, "2.0.0 Thank you, user 7: 21 octets")
        with connect(port) as client, pytest.raises(smtplib.SMTPAuthenticationError, match="Wrong user name"):
            client.user, client.password = "ann", "wrong"
            client.auth("PLAIN", client.auth_plain)


def test_senders_and_recipients_are_checked(folder: Path) -> None:
    with serving(folder, "checks") as (port, _), connect(port) as client:
        assert send(client, "ANN@example.org")[0] == 250
        assert send(client, "joe@example.org") == (551, "5.1.6 No such user")
        client.rset()
        assert send(client, "ann@example.org", sender="joe@spam.example") == (550, "5.7.1 Not from you")


def test_each_recipient_has_a_size(folder: Path) -> None:
    large = b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" * 1000
    with serving(folder, "sizes") as (port, _), connect(port) as client:
        assert send(client, "ann@example.org", message=large) == (250, "2.0.0 OK")
        assert send(client, "ann@example.org", "bob@example.org", message=large)[0] == 552
        assert client.mail("you@example.net", ["SIZE=2000"])[0] == 250
        assert client.rcpt("bob@example.org")[0] == 552
        assert client.rcpt("ann@example.org")[0] == 250


def test_message_goes_to_a_file_and_a_cut_one_leaves_none(folder: Path) -> None:
    with serving(folder, "tofile") as (port, _):
        with connect(port) as client:
            code, text = send(client, "ann@example.org")
        stored = folder / text.removeprefix("2.0.0 Stored as ")
        assert (code, stored.read_bytes()) == (250, b"Subject: hello\r\n\r\n.\r\n")
        client = connect(port)
        client.mail("you@example.net")
        client.rcpt("ann@example.org")
        client.docmd("DATA")
        client.send(b"Subject: cut\r\n")
        client.close()
        with connect(port) as client:
            assert send(client, "ann@example.org")[0] == 250
    assert len(list(folder.glob("*.eml"))) == 2


def test_lmtp_has_a_reply_for_each_recipient(folder: Path) -> None:
    with serving(folder, "lmtp") as (port, _), socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        to = ["ann@example.org", "full@example.org", "ann@example.org"]
        client.sendall(
            "LHLO c\r\nMAIL FROM:<>\r\n{}DATA\r\n".format("".join(f"RCPT TO:<{a}>\r\n" for a in to)).encode()
        )
        replies = client.makefile()
        while not next(replies).startswith("354"):
            pass
        client.sendall(b"x\r\n.\r\n")
        assert [next(replies).rstrip() for _ in to] == [
            "250 2.0.0 Delivered to ann@example.org",
            "452 4.3.1 Mailbox full",
            "250 2.0.0 Delivered to ann@example.org",
        ]


def test_certificate_is_that_of_the_name(folder: Path) -> None:
    authority = Authority()
    for stem, name in {"org": "mail.example.org", "net": "mail.example.net"}.items():
        certificate = authority.server(name)
        (folder / f"{stem}-key.pem").write_text(certificate.key)
        (folder / f"{stem}-cert.pem").write_text(certificate.cert)
    context = ssl.create_default_context(cadata=authority.pem)
    with serving(folder, "sni") as (port, program):
        for name in ("mail.example.net", "mail.example.org"):
            plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
            with context.wrap_socket(plain, server_hostname=name) as client:
                assert client.recv(4) == b"220 "
                program.waitForLine(name, "TLSv1.3")


def test_auth_works_without_starttls(folder: Path) -> None:
    with serving(folder, "clear") as (port, _), connect(port) as client:
        assert not client.has_extn("starttls")
        assert client.login("ann", "anything")[0] == 235
        assert send(client, "ann@example.org")[0] == 250


def test_greeting_and_limits_are_those_of_the_page(folder: Path) -> None:
    with serving(folder, "limits") as (port, _):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            assert client.recv(100) == b"220 mx.example.org ESMTP No spam, please\r\n"
        with connect(port) as client:
            assert client.ehlo_resp.startswith(b"mx.example.org is glad to see you\n")
            assert send(client, *["ann@example.org"] * 3)[0] == 452
    refused = clientOf(define(PAGE, "limits.py", folder).factory, address="192.0.2.66", read=False)
    assert refused.replies() == ["554 5.7.1 Not you"]
    refused.finish()


def test_server_closes_when_transactions_have_ended(folder: Path) -> None:
    port = freePort()
    with running(folder, "closing.py", f"tcp:{port}:interface=127.0.0.1", port=port) as program:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            program.waitForLine("HTTP")
        last = connect(port)
        last.mail("you@example.net")
        os.kill(program.pid, signal.SIGTERM)
        eventually(lambda: not listens(port), "it does not listen any more")
        assert last.rcpt("ann@example.org")[0] == 250
        assert last.data(MESSAGE)[0] == 250
        assert last.getreply()[0] == 421
        last.close()
        program.wait()


def test_seconds_are_not_milliseconds() -> None:
    assert [defaultOf(name) for name in ("socketTimeout", "closeTimeout")] == [60, 30]
