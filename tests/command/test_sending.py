"""C{smtphooks send}: what it sends, shows and refuses, against a server that is another process."""

from __future__ import annotations

import base64
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress

from smtphooks.client.transports import isLocal
from smtphooks.command import client, sending
from smtphooks.testing import Drop, Fail, Garble, SMTPServerThread, Stall
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
        [*COMMAND, "send", *(each if isinstance(each, bytes) else str(each) for each in arguments)],
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
        f"smtphooks: the certificate of {address} is not trusted (it is signed by no authority that is trusted here),"
        " give --ca FILE, or --insecure to take any"
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
        (["--to", "a@b", "--from", "a\nb", "x:25"], "--from is a\\nb, it wants an address such as ann@example.org"),
        (["--to", "a@b", "nowhere"], "the target is nowhere, it wants HOST:PORT, or the path of a socket"),
        (["--to", "a@b", "--tls", "ssl"], "--tls is ssl, it wants one of auto, no, starttls, implicit"),
        (["--to", "a@b", "--file", "none"], "--file none cannot be read (No such file or directory), name another"),
        (["--too", "a@b"], "unknown flag --too, did you mean --to? (smtphooks send --help lists all)"),
        (["--to", "a@b", "/none"], "/none: No such file or directory"),
        (["--to", "a@b", "x:²"], "the target is x:², it wants HOST:PORT, or the path of a socket"),
        (["--to", "a@b", "x:65536"], "the target is x:65536, it wants HOST:PORT, or the path of a socket"),
        (["--to", "a@b", "x:" + "9" * 5000], "the target is x:999"),
        (["--to", "a@b", "x..y:25"], "the target is x..y:25, it wants HOST:PORT, or the path of a socket"),
        (["--to", "a@b", "-s", "a\r\nBcc: c"], "--subject is a\\r\\nBcc: c, it wants one line of text"),
        (["--to", "a@b", "-s", "a\u2028b"], "--subject is a\\u2028b, it wants one line of text"),
        (["--to", "a@b", "--helo", "a\r\nRSET"], "--helo is a\\r\\nRSET, it wants a name in ASCII"),
        (["--to", "a@b", "--helo", "ü"], "--helo is ü, it wants a name in ASCII such as mx.example.org"),
        (["--to", ""], "--to is empty, it wants an address such as ann@example.org"),
        (["--to", "a@b", "--from", "ann(x)@b"], "--from is ann(x)@b, it wants an address such as ann@example.org"),
        (["--to", "a@b", "--helo", "a b"], "--helo is a b, it wants a name in ASCII such as mx.example.org"),
        (["--to", "a@b", "x y:25"], "the target is x y:25, it wants HOST:PORT, or the path of a socket"),
        (["--to", "\x1b[2Ja@b"], "--to is \\x1b[2Ja@b, it wants an address such as ann@example.org"),
        (["--to", b"\xff@b"], "--to is \\udcff@b, it wants an address such as ann@example.org"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, arguments: list[str | bytes], said: str) -> None:
    assert sentence(tmp_path, *arguments).startswith(f"smtphooks: {said}")
    assert ran(tmp_path, *arguments, status=1).stdout == ""


def test_a_server_that_leaves_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        leaving = threading.Thread(target=lambda: listening.accept()[0].close())
        leaving.start()
        assert sentence(tmp_path, "--to", "a@b", address) == f"smtphooks: {address} has ended the connection"
        leaving.join()


def test_a_password_does_not_travel_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """But within this machine it may."""
    assert all(isLocal(IPv4Address("TCP", host, 25)) for host in ("127.0.0.1", "::ffff:127.0.0.1", "::1"))
    assert isLocal(UNIXAddress(None)) and not isLocal(IPv4Address("TCP", "192.0.2.1", 25))
    monkeypatch.setattr("smtphooks.client.connection.isLocal", lambda address: False)
    monkeypatch.setenv("SMTPHOOKS_PASSWORD", "secret")
    with SMTPServerThread(users={"ann": "secret"}, authMethods=["PLAIN", "LOGIN"]) as server:
        arguments = ["--to", "a@b", "--tls=no", "--user", "ann", f"127.0.0.1:{server.port}"]
        assert ended(arguments) == (
            "smtphooks: a password would be sent in the clear, have the server offer STARTTLS, or give --insecure"
        )
        assert ended([*arguments, "--insecure"]) == 0


def ended(arguments: list[str]) -> object:
    """The status of the command within this process, or the sentence by which it fails."""
    with pytest.raises(SystemExit) as ending:
        sending.main(arguments)
    return ending.value.code


def test_where_no_mechanism_will_do_those_of_the_server_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTPHOOKS_PASSWORD", "secret")
    with SMTPServerThread(users={"ann": "secret"}, authMethods=["XOAUTH2"]) as server:
        address = f"127.0.0.1:{server.port}"
        assert ended(["--to", "a@b", "--tls=no", "--user", "ann", address]) == (
            f"smtphooks: {address} offers XOAUTH2 for AUTH, and no mechanism for user ann"
        )


def test_a_password_is_proven_and_not_sent_where_the_server_offers_SCRAM(tmp_path: Path) -> None:
    pytest.importorskip("scramp")
    with SMTPServerThread(users={"ann": "geheim"}, authMethods=["PLAIN", "CRAM-MD5", "SCRAM-SHA-256"]) as server:
        sent = ["--to", "ann@mx.test", "--tls=no", "--user", "ann", f"127.0.0.1:{server.port}"]
        shown = lines(tmp_path, *sent, SMTPHOOKS_PASSWORD="geheim")
        assert [line for line in shown if line.startswith("> AUTH")] == ["> AUTH SCRAM-SHA-256 …"]
        assert shown.count("> …") == 2 and any(line.startswith("< 235") for line in shown)
        shown = lines(tmp_path, *sent, status=1, SMTPHOOKS_PASSWORD="wrong")
        assert any(line.startswith("< 535") for line in shown) and not any("MAIL" in line for line in shown)


def test_STARTTLS_must_be_offered_where_it_is_asked_for(tmp_path: Path) -> None:
    with SMTPServerThread(hideSTARTTLS=True) as server:
        address = f"127.0.0.1:{server.port}"
        said = sentence(tmp_path, "--to", "a@b", "--tls=starttls", "--insecure", address)
        assert said == f"smtphooks: {address} does not offer STARTTLS, which must be"
        assert lines(tmp_path, "--to", "a@b", address)


def test_with_a_CA_even_TLS_that_is_only_offered_must_be_trusted(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(Authority().pem)
    (tmp_path / "none.pem").write_text("none")
    with SMTPServerThread() as server:
        (tmp_path / "own.pem").write_text(server.certificate)
        address = f"127.0.0.1:{server.port}"
        assert lines(tmp_path, "--to", "a@b", "--ca", "own.pem", address)
        assert "is not trusted (" in sentence(tmp_path, "--to", "a@b", "--ca", "other.pem", address)
        said = sentence(tmp_path, "--to", "a@b", "--ca", "none.pem", address)
        assert said.startswith("smtphooks: --ca none.pem cannot be read (") and said.endswith("), name a PEM file")
    with SMTPServerThread(brokenTLS="wrong name") as server:
        (tmp_path / "own.pem").write_text(server.certificate)
        address = f"127.0.0.1:{server.port}"
        assert f"of {address} is not trusted (it is not for 127.0.0.1)" in sentence(
            tmp_path, "--to", "a@b", "--ca", "own.pem", address
        )
    with SMTPServerThread(brokenTLS="expired") as server:
        (tmp_path / "own.pem").write_text(server.certificate)
        said = sentence(tmp_path, "--to", "a@b", "--ca", "own.pem", f"127.0.0.1:{server.port}")
        assert "is not trusted (it has expired)" in said


def test_where_TLS_that_need_not_be_fails_the_dialogue_says_so_and_goes_on_without(tmp_path: Path) -> None:
    with SMTPServerThread(brokenTLS="cut") as server:
        address = f"127.0.0.1:{server.port}"
        shown = lines(tmp_path, "--to", "a@b", address)
        assert next(line for line in shown if line.startswith("!")).startswith(f"! {address}: TLS fails, ")
        assert shown.count("> STARTTLS") == 1 and len(server.messages) == 1
        assert sentence(tmp_path, "--to", "a@b", "--tls=starttls", address).startswith(
            f"smtphooks: {address}: TLS fails ("
        )


def test_what_a_server_does_not_take_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "mail.eml").write_bytes(b"Subject: x\n\n" + b"a" * 100)
    with SMTPServerThread(size=50) as server:
        address = f"127.0.0.1:{server.port}"
        said = sentence(tmp_path, "--to", "a@b", "--file", "mail.eml", address)
    assert said == f"smtphooks: {address}: the next server takes no message of more than 50 octets"


def test_a_traceback_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    said = ran(tmp_path, "--to", "a@b", "/none", "--traceback", status=1).stderr
    assert said.startswith("Traceback of FileNotFoundError:\n") and said.endswith(
        "smtphooks: /none: No such file or directory\n"
    )


# --- servers that go wrong ---


def test_a_reply_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    garbled = [b"hello\r\n", b"25\r\n", b"2" * 9000 + b"\r\n"]
    with SMTPServerThread(faults=[Garble("MAIL", octets, times=1) for octets in garbled]) as server:
        address = f"127.0.0.1:{server.port}"
        for _ in garbled:
            assert sentence(tmp_path, "--to", "ann@mx.test", address).startswith(
                f"smtphooks: {address}: it speaks no SMTP, for "
            )


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
def test_a_refusal_at_any_step_is_status_1_and_no_sentence(tmp_path: Path, verb: str) -> None:
    with SMTPServerThread(faults=[Fail(verb, 554), Fail("HELO", 554)]) as server:
        shown = lines(tmp_path, "--to", "ann@mx.test", f"127.0.0.1:{server.port}", status=1)
        assert any(line.startswith("< 554") for line in shown)
        assert not server.messages


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA"])
def test_a_connection_that_is_cut_at_any_step_is_one_sentence(tmp_path: Path, verb: str) -> None:
    with SMTPServerThread(faults=[Drop(verb)]) as server:
        address = f"127.0.0.1:{server.port}"
        assert sentence(tmp_path, "--to", "ann@mx.test", address) == f"smtphooks: {address} has ended the connection"


def test_what_a_server_says_cannot_control_the_terminal(tmp_path: Path) -> None:
    with SMTPServerThread(faults=[Garble("MAIL", b"550-\x1b[2J\x9b\r\n550 \xff\r\n")]) as server:
        shown = lines(tmp_path, "--to", "ann@mx.test", f"127.0.0.1:{server.port}", status=1)
    assert "< 550-\\x1b[2J\\x9b" in shown and "< 550 \\xff" in shown


def test_TLS_to_a_port_without_it_is_one_sentence(tmp_path: Path) -> None:
    with SMTPServerThread() as server:
        address = f"127.0.0.1:{server.port}"
        assert sentence(tmp_path, "--to", "ann@mx.test", "--tls=implicit", address).startswith(
            f"smtphooks: {address}: TLS fails ("
        )


def test_a_server_that_does_not_answer_has_not_ended_the_connection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that waits for TLS from the beginning."""
    monkeypatch.setattr(client, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(SystemExit) as ended:
        sending.main(["--to", "a@b", f"127.0.0.1:{listening.getsockname()[1]}"])
    assert "has not answered within " in str(ended.value) and "--tls implicit" in str(ended.value)
    assert "QUIT" not in capsys.readouterr().out


# --- AUTH ---


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("password", ["pässwörd €", "plain"])
def test_user_and_password_may_be_beyond_ASCII(tmp_path: Path, mechanism: str, password: str) -> None:
    with SMTPServerThread(users={"jörg": password}, authMethods=[mechanism], allowInsecureAuth=True) as server:
        address = f"127.0.0.1:{server.port}"
        sent = ["--to", "ann@mx.test", "--tls=no", "--user", "jörg", address]
        shown = lines(tmp_path, *sent, SMTPHOOKS_PASSWORD=password)
        assert f"> AUTH {mechanism} …" in shown
        assert sentence(tmp_path, *sent, SMTPHOOKS_PASSWORD="") == (
            "smtphooks: the password of --user is empty, set SMTPHOOKS_PASSWORD"
        )
        assert lines(tmp_path, *sent, status=1, SMTPHOOKS_PASSWORD="wrong")


def test_a_server_that_repeats_the_password_does_not_show_it(tmp_path: Path) -> None:
    response = base64.b64encode(b"\0ann\0geheim")
    echo = b"535 AUTH PLAIN " + response + b" geheim\r\n"
    with SMTPServerThread(
        users={"ann": "geheim"}, authMethods=["PLAIN"], allowInsecureAuth=True, faults=[Garble("AUTH", echo)]
    ) as server:
        sent = ["--to", "ann@mx.test", "--tls=no", "--user", "ann", f"127.0.0.1:{server.port}", "--traceback"]
        shown = lines(tmp_path, *sent, status=1, SMTPHOOKS_PASSWORD="geheim")
    assert "< 535 AUTH PLAIN … …" in shown


def test_a_password_that_nobody_can_be_asked_for_is_one_sentence(tmp_path: Path) -> None:
    """It is not read from stdin, where a message may be."""
    done = subprocess.run(
        [*COMMAND, "send", "--to", "a@b", "--user", "ann", "127.0.0.1:1"],
        input="geheim\n", capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=PATIENCE,
        start_new_session=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "smtphooks: there is no terminal to ask for the password of --user on, set SMTPHOOKS_PASSWORD\n"
    )


# --- the process ---


@pytest.mark.parametrize("redirection", [">&-", "> /dev/full", "| true"])
def test_the_message_is_sent_though_nobody_reads_the_dialogue(tmp_path: Path, redirection: str) -> None:
    with SMTPServerThread() as server:
        command = shlex.join([*COMMAND, "send", "--to", "ann@mx.test", f"127.0.0.1:{server.port}"])
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command} {redirection}"],
            capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=PATIENCE,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert len(server.messages) == 1


def test_an_interrupt_ends_it_at_once_with_one_sentence(tmp_path: Path) -> None:
    with SMTPServerThread(faults=[Stall("MAIL"), Stall("QUIT")]) as server:
        program = Program(
            [*COMMAND, "send", "--to", "ann@mx.test", f"127.0.0.1:{server.port}"], environment(), tmp_path
        )
        program.waitForLine("> MAIL")
        os.kill(program.pid, signal.SIGINT)
        program.waitForLine("smtphooks: interrupted")
        assert program.wait() == 130


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container."""

    def getuser() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", getuser)
    options = sending.Options()
    options.parseOptions(["--to", "a@b"])  # type: ignore[no-untyped-call]
    assert options.sender.startswith(f"uid{os.getuid()}@")


def test_an_address_is_sent_as_it_was_given(tmp_path: Path) -> None:
    with SMTPServerThread() as server:
        shown = lines(tmp_path, "--to", "ann(x)@mx.test", f"127.0.0.1:{server.port}", status=1)
    assert "> RCPT TO:<ann(x)@mx.test>" in shown


def test_an_address_beyond_ASCII_stands_in_the_header_as_it_is(tmp_path: Path) -> None:
    with SMTPServerThread() as server:
        lines(tmp_path, "--to", "jörg@mx.test", f"127.0.0.1:{server.port}")
        (message,) = server.messages
        assert "To: jörg@mx.test\r\n".encode() in message.octets


def test_the_versions_are_those_of_the_command() -> None:
    for arguments in (["send", "--version"], ["--version"]):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment(), check=True)
        assert done.stdout.startswith("smtphooks ")


def test_the_help_fits_a_screen() -> None:
    for arguments in (["send", "--help"], ["--help"]):
        done = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, env={**environment(), "COLUMNS": "80"}, check=True
        )
        shown = done.stdout.splitlines()
        assert len(shown) < 24 and all(len(line) <= 80 for line in shown)
