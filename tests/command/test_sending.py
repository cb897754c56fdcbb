"""C{smtphooks send}: what it sends, shows and refuses, against a server that is another process."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.real.programs import PATIENCE, Maildir, Program, freePort
from tests.test_reactor import environment

COMMAND = [sys.executable, "-m", "smtphooks"]
HOOKS = """
from smtphooks import AuthResponse, SMTPError
from smtphooks.stores import Maildir


class Hooks(Maildir):
    def __init__(self):
        super().__init__("maildir")

    def onAuth(self, auth, session):
        return AuthResponse(user=auth.username if auth.validatePassword("secret") else None)

    def onRcptTo(self, address, session):
        if address.local == "nobody":
            raise SMTPError("No such user")

    async def onData(self, stream, session):
        if not session.lmtp:
            return await super().onData(stream, session)
        await stream.read()
        return [None if address.local != "full" else SMTPError("Full", 452) for address in session.envelope.rcptTo]
"""

Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server with these options, in TOML; its address."""
    programs: list[Program] = []
    (tmp_path / "mine.py").write_text(HOOKS)

    def serve(options: str = "authOptional = true", endpoint: str | None = None) -> str:
        port = freePort()
        endpoint = endpoint or f"tcp:{port}:interface=127.0.0.1"
        (tmp_path / "mail.toml").write_text(
            f'hooks = "mine:Hooks"\n[options]\nname = "mx.test"\n{options}\n[[listener]]\nendpoint = "{endpoint}"\n'
        )
        programs.append(Program([*COMMAND, "--config", "mail.toml"], environment(), tmp_path))
        programs[-1].waitForLine("listening on")
        return f"127.0.0.1:{port}"

    yield serve
    for program in programs:
        program.kill()


def ran(
    folder: Path, *arguments: object, status: int = 0, stdin: bytes = b"", **more: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, "send", *map(str, arguments)],
        capture_output=True,
        input=stdin.decode(),
        text=True,
        cwd=folder,
        env={**environment(), **more},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def lines(folder: Path, *arguments: object, status: int = 0, **more: str) -> list[str]:
    """The dialogue that was shown."""
    done = ran(folder, *arguments, status=status, **more)
    assert done.stderr == ""
    return done.stdout.splitlines()


def sentence(folder: Path, *arguments: object, **more: str) -> str:
    """The one sentence by which the command fails."""
    (line,) = ran(folder, *arguments, status=1, **more).stderr.splitlines()
    return line


def test_a_message_is_sent_and_the_dialogue_shown(serve: Serve, tmp_path: Path) -> None:
    address = serve()
    shown = lines(tmp_path, "--to", "ann@mx.test", "--from", "joe@client.test", "-s", "Hello", address)
    assert shown[0] == "< 220 mx.test ESMTP"
    assert "> STARTTLS" in shown
    assert "> RCPT TO:<ann@mx.test>" in shown and "< 250 2.1.5 Recipient OK" in shown
    assert shown[-2:] == ["> QUIT", "< 221 2.0.0 Bye"]
    message = Maildir(tmp_path / "maildir").message()
    assert b"\nSubject: Hello\n" in message.content and b"\nTo: ann@mx.test\n" in b"\n" + message.content
    assert b"sent with smtphooks send" in message.content


def test_flags_may_stand_behind_the_target(serve: Serve, tmp_path: Path) -> None:
    address = serve()
    assert "> MAIL FROM:<>" in "\n".join(lines(tmp_path, address, "--tls=no", "--to", "ann@mx.test", "--from", "<>"))


def test_a_file_is_sent_as_it_is_but_for_its_line_ends(serve: Serve, tmp_path: Path) -> None:
    """Dots are hidden, and nothing is added; 8-bit octets are announced."""
    address = serve('authOptional = true\nbareNewline = "reject"')
    (tmp_path / "mail.eml").write_bytes(b"Subject: x\n\n.dot\r\n\xfcber\n")
    shown = lines(tmp_path, "--to", "ann@mx.test", "--file", "mail.eml", address)
    assert any(line.startswith("> MAIL FROM:") and line.endswith(" BODY=8BITMIME") for line in shown)
    ran(tmp_path, "--to", "ann@mx.test", "--file", "-", address, stdin=b"Subject: y\n\ntext\n")
    contents = {message.content for message in Maildir(tmp_path / "maildir").messages()}
    assert contents == {b"Subject: x\n\n.dot\n\xfcber\n", b"Subject: y\n\ntext\n"}


def test_a_refused_recipient_is_status_1_and_the_others_get_the_message(serve: Serve, tmp_path: Path) -> None:
    address = serve()
    shown = lines(tmp_path, "--to", "nobody@mx.test", "-t", "ann@mx.test", address, status=1)
    assert "< 550 5.1.1 No such user" in shown
    assert Maildir(tmp_path / "maildir").message()
    shown = lines(tmp_path, "--to", "nobody@mx.test", address, status=1)
    assert "> DATA" not in shown


def test_with_LMTP_every_recipient_has_its_reply(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    serve("authOptional = true\nlmtp = true", f"unix:{path}")
    shown = lines(tmp_path, "--lmtp", "--to", "full@mx.test", "--to", "ann@mx.test", path, status=1)
    assert shown[1].startswith("> LHLO ")
    assert [line[:5] for line in shown[-4:]] == ["< 452", "< 250", "> QUI", "< 221"]
    assert lines(tmp_path, "--lmtp", "--to", "ann@mx.test", path)


def test_a_password_is_never_shown(serve: Serve, tmp_path: Path) -> None:
    pair = Authority().server("127.0.0.1")
    (tmp_path / "key.pem").write_text(pair.key)
    (tmp_path / "cert.pem").write_text(pair.cert)
    address = serve('key = "key.pem"\ncert = "cert.pem"\nauthMethods = ["PLAIN", "LOGIN", "CRAM-MD5"]')
    sending = ["--to", "ann@mx.test", "--user", "ann", address]
    assert "is not trusted (" in sentence(tmp_path, *sending, SMTPHOOKS_PASSWORD="secret")
    shown = lines(tmp_path, *sending, "--insecure", SMTPHOOKS_PASSWORD="secret")
    assert [line for line in shown if "AUTH" in line and line.startswith(">")] == ["> AUTH CRAM-MD5 …"]
    assert "> …" in shown and "< 235 2.7.0 Authentication successful" in shown
    assert not any("secret" in line for line in shown)
    shown = lines(tmp_path, *sending, "--insecure", status=1, SMTPHOOKS_PASSWORD="wrong")
    assert any(line.startswith("< 535") for line in shown)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_is_checked_where_TLS_is_asked_for(serve: Serve, tmp_path: Path, tls: str) -> None:
    authority = Authority()
    pair = authority.server("127.0.0.1")
    (tmp_path / "key.pem").write_text(pair.key)
    (tmp_path / "cert.pem").write_text(pair.cert)
    (tmp_path / "ca.pem").write_text(authority.pem)
    secure = "\nsecure = true" if tls == "implicit" else ""
    address = serve(f'authOptional = true\nkey = "key.pem"\ncert = "cert.pem"{secure}')
    assert lines(tmp_path, "--to", "ann@mx.test", f"--tls={tls}", "--ca", "ca.pem", address)
    assert sentence(tmp_path, "--to", "ann@mx.test", f"--tls={tls}", address) == (
        f"smtphooks: the certificate of {address} is not trusted (unable to get local issuer certificate), give --ca"
        " FILE, or --insecure to take any"
    )
    assert lines(tmp_path, "--to", "ann@mx.test", f"--tls={tls}", "--insecure", address)


def test_addresses_beyond_ASCII_need_SMTPUTF8(serve: Serve, tmp_path: Path) -> None:
    shown = lines(tmp_path, "--to", "jörg@mx.test", serve())
    assert "> RCPT TO:<jörg@mx.test>" in shown
    assert any(line.startswith("> MAIL") and "SMTPUTF8" in line.upper() for line in shown)
    address = serve("authOptional = true\nhideSMTPUTF8 = true")
    assert sentence(tmp_path, "--to", "jörg@mx.test", address) == (
        "smtphooks: the server takes no address that is not ASCII, for it offers no SMTPUTF8"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x:25"], "there is no recipient, give --to ADDRESS (smtphooks send --help lists all)"),
        (["--to", "a b", "x:25"], "--to is a b, it wants an address such as ann@example.org"),
        (["--to", "a>", "x:25"], "--to is a>, it wants an address such as ann@example.org"),
        (["--to", "a@b", "--from", "a\nb", "x:25"], "--from is a b, it wants an address such as ann@example.org"),
        (["--to", "a@b", "nowhere"], "the target is nowhere, it wants HOST:PORT, or the path of a socket"),
        (["--to", "a@b", "--tls", "ssl"], "--tls is ssl, it wants one of auto, no, starttls, implicit"),
        (["--to", "a@b", "--file", "none"], "--file none cannot be read (No such file or directory), name another"),
        (["--too", "a@b"], "unknown flag --too, did you mean --to? (smtphooks send --help lists all)"),
        (["--to", "a@b", "/none"], "/none: No such file or directory"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    assert sentence(tmp_path, *arguments).startswith(f"smtphooks: {said}")


def test_a_server_that_leaves_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        leaving = threading.Thread(target=lambda: listening.accept()[0].close())
        leaving.start()
        assert sentence(tmp_path, "--to", "a@b", address) == f"smtphooks: {address} has ended the connection"
        leaving.join()


def test_a_password_does_not_travel_in_the_clear() -> None:
    """But within this machine it may."""
    from smtphooks.command.sending import _isLocal

    class Peer:
        family = socket.AF_INET

        def __init__(self, address: str) -> None:
            self.address = address

        def getpeername(self) -> tuple[str, int]:
            return (self.address, 25)

    assert _isLocal(Peer("127.0.0.1")) and _isLocal(Peer("::ffff:127.0.0.1"))
    assert not _isLocal(Peer("192.0.2.1"))


def test_a_traceback_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    said = ran(tmp_path, "--to", "a@b", "/none", "--traceback", status=1).stderr
    assert said.startswith("Traceback of FileNotFoundError:\n") and said.endswith(
        "smtphooks: /none: No such file or directory\n"
    )
