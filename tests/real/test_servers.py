"""The mail servers that tests start: each takes a message, dies and comes back, with clients that are not ours."""

from __future__ import annotations

import base64
import os
import smtplib
import socket
import ssl
import stat
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.real.mta.contained import DOMAIN, HOST, NOBODY, USER, Server, needsTLS, skipUnlessPossible, unpacked, whyNot
from tests.real.mta.dovecot import FULL, Dovecot
from tests.real.mta.exim import Exim
from tests.real.mta.opensmtpd import OpenSMTPD
from tests.real.mta.postfix import PostfixServer
from tests.real.programs import ROOT, eventually, requires, run
from tests.real.test_swaks_tls import needs
from tests.secrets import PASSWORD, WRONG_PASSWORD

SENDER, RECIPIENT = "sender@here.example", f"bob@{DOMAIN}"
MESSAGE = (
    b"Subject: hello\r\nDate: Thu, 26 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@here.example>\r\n\r\n.\r\nFrom all\r\n"
)

FIXTURES = ["postfixServer", "exim", "openSMTPD", "dovecot"]


@pytest.fixture(params=FIXTURES)
def server(request: pytest.FixtureRequest) -> Server:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


def connected(server: Server) -> smtplib.SMTP:
    kind = smtplib.LMTP if isinstance(server, Dovecot) else smtplib.SMTP
    client = kind("127.0.0.1", server.port, timeout=30)
    client.ehlo_or_helo_if_needed()
    return client


def send(server: Server, *recipients: str) -> dict[str, tuple[int, bytes]]:
    """
    Send the message.

    @return: the refused recipients with the replies, as of smtplib's C{sendmail}, which cannot do it over LMTP.
    """
    with connected(server) as client:
        assert client.mail(SENDER)[0] == 250
        replies = {name: client.rcpt(name) for name in recipients}
        refused = {name: reply for name, reply in replies.items() if reply[0] != 250}
        answers = [client.data(MESSAGE)]
        if isinstance(server, Dovecot):
            answers += [client.getreply() for _ in range(len(recipients) - len(refused) - 1)]
        assert {code for code, _ in answers} == {250}
        return refused


def trusting(server: Server) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.ca)


class TestEveryServer:
    def test_a_message_is_stored_with_its_envelope_and_every_octet(self, server: Server) -> None:
        assert send(server, RECIPIENT) == {}
        (stored,) = server.waitFor()
        assert (stored.sender, stored.recipients) == (SENDER, (RECIPIENT,))
        assert stored.content.endswith(b"\r\n" + MESSAGE)

    def test_a_recipient_is_refused_among_others(self, server: Server) -> None:
        refused = send(server, RECIPIENT, NOBODY, f"carol@{DOMAIN}")
        assert [code for code, _ in refused.values()] == [550]
        found = {name for stored in server.waitFor(1 if isinstance(server, Exim) else 2) for name in stored.recipients}
        assert found == {RECIPIENT, f"carol@{DOMAIN}"}

    @pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
    def test_its_certificate_is_of_its_authority(self, server: Server, implicit: bool) -> None:
        needsTLS(server)
        with socket.create_connection(("127.0.0.1", server.tlsPort if implicit else server.port), 30) as plain:
            if not implicit:
                with plain.makefile("rb") as file:
                    hello = b"LHLO" if isinstance(server, Dovecot) else b"EHLO"
                    for command in (hello + b" client.example\r\n", b"STARTTLS\r\n"):
                        while file.readline()[3:4] == b"-":
                            pass
                        plain.sendall(command)
                    while not (line := file.readline()).startswith(b"220"):
                        assert line.startswith(b"250")
            with trusting(server).wrap_socket(plain, server_hostname=HOST) as secure:
                secure.sendall(b"NOOP\r\n")
                assert secure.recv(3) in (b"220", b"250")

    def test_it_comes_back_on_its_port_with_its_messages_when_it_was_killed(self, server: Server) -> None:
        send(server, RECIPIENT)
        server.waitFor()
        client = connected(server)
        server.kill()
        assert not server.isRunning
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
            client.docmd("NOOP")
        with pytest.raises(ConnectionRefusedError):
            connected(server)
        server.restart()
        send(server, RECIPIENT)
        # One that dies between a delivery and its note of it delivers once more.
        assert len(server.waitFor(2)) >= 2

    def test_a_paused_one_takes_connections_and_says_nothing_until_it_resumes(self, server: Server) -> None:
        server.pause()
        with socket.create_connection(("127.0.0.1", server.port), 30) as client:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            server.resume()
            client.settimeout(30)
            assert client.recv(3) == b"220"

    def test_it_ends_by_itself_when_it_is_asked_to(self, server: Server) -> None:
        server.terminate()
        assert not server.isRunning

    def test_its_log_tells_of_a_message(self, server: Server) -> None:
        send(server, f"logged@{DOMAIN}")
        server.waitForLine(f"logged@{DOMAIN}")


@pytest.mark.parametrize("kind", [PostfixServer, Exim, OpenSMTPD, Dovecot])
def test_nothing_is_left_of_a_server_that_was_stopped(kind: type[Server]) -> None:
    skipUnlessPossible(kind)
    before = Path("/proc/self/mounts").read_text(), Path("/etc/passwd").read_text()
    with kind() as server:
        folder = server.folder
        assert processesOf(folder)
    assert not folder.exists()
    eventually(lambda: not processesOf(folder), "the end of its processes")
    assert (Path("/proc/self/mounts").read_text(), Path("/etc/passwd").read_text()) == before


def processesOf(folder: Path) -> list[str]:
    """The processes that name a folder in their command, or run in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if os.fsencode(folder) in command or (process / "cwd").readlink().is_relative_to(folder):
                found.append(f"{process.name}: {command!r}")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return found


class TestWhoMayAuthenticate:
    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
    @pytest.mark.parametrize("fixture", ["postfixServer", "exim"])
    @requires("swaks")
    def test_the_user_may_and_others_may_not(
        self, request: pytest.FixtureRequest, fixture: str, mechanism: str
    ) -> None:
        server = request.getfixturevalue(fixture)
        assert self.swaks(server, mechanism, PASSWORD).returncode == 0
        assert b"535" in self.swaks(server, mechanism, WRONG_PASSWORD).stdout

    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
    @requires("swaks")
    def test_OpenSMTPD_wants_TLS_first(self, openSMTPD: OpenSMTPD, mechanism: str) -> None:
        needs("TLS")
        needsTLS(openSMTPD)
        assert self.swaks(openSMTPD, mechanism, PASSWORD, "--tls").returncode == 0
        assert b"535" in self.swaks(openSMTPD, mechanism, WRONG_PASSWORD, "--tls").stdout
        assert b"did not advertise" in self.swaks(openSMTPD, mechanism, PASSWORD).stdout

    def test_a_token_is_good_until_it_expires(self, postfixServer: PostfixServer, dovecot: Dovecot) -> None:
        for seconds, code in ((60, 235), (-60, 535)):
            with connected(postfixServer) as client:
                response = f"user={USER}\1auth=Bearer {dovecot.token(USER, seconds)}\1\1"
                answer = client.docmd("AUTH", "XOAUTH2 " + base64.b64encode(response.encode()).decode())
                # A failure is told in a challenge, which the client answers with nothing.
                assert (client.docmd("") if answer[0] == 334 else answer)[0] == code

    @staticmethod
    def swaks(server: Server, mechanism: str, password: str, *more: str) -> CompletedProcess[bytes]:
        login = ["--auth", mechanism, "--auth-user", USER, "--auth-password", password, "--quit-after", "AUTH"]
        return run("swaks", "--server", f"127.0.0.1:{server.port}", *login, *more, status=None)


class TestDovecot:
    def test_who_is_over_quota_is_refused_after_the_message_and_others_have_it(self, dovecot: Dovecot) -> None:
        with connected(dovecot) as client:
            client.mail(SENDER)
            assert [client.rcpt(name)[0] for name in (RECIPIENT, FULL)] == [250, 250]
            assert client.data(MESSAGE)[0] == 250
            assert client.getreply()[0] == 552
        assert [stored.recipients for stored in dovecot.waitFor()] == [(RECIPIENT,)]

    def test_it_takes_mail_at_a_UNIX_socket(self, dovecot: Dovecot) -> None:
        assert dovecot.path is not None
        with smtplib.LMTP(dovecot.path) as client:
            client.sendmail(SENDER, [RECIPIENT], MESSAGE)
        assert [stored.recipients for stored in dovecot.waitFor()] == [(RECIPIENT,)]


class TestUnpacking:
    def test_the_folder_is_the_one_that_the_environment_names(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SMTPHOOKS_MTAS", str(tmp_path))
        assert unpacked() == tmp_path
        monkeypatch.setenv("SMTPHOOKS_MTAS", str(tmp_path / "missing"))
        assert unpacked() is None

    def test_who_misses_a_program_is_told_so(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        if whyNot():
            pytest.skip(whyNot())
        monkeypatch.setenv("SMTPHOOKS_MTAS", str(tmp_path))
        assert whyNot(*Exim.programs) == "usr/sbin/exim4 is not installed, or not unpacked by .ci/unpack-mtas"

    def test_a_folder_that_is_complete_is_not_unpacked_again(self) -> None:
        folder = unpacked()
        if folder is None:
            pytest.skip("nothing is unpacked")
        # "make test-compiled" runs in a copy without it, in a folder of the clone.
        scripts = [place / ".ci/unpack-mtas" for place in (ROOT, ROOT.parent)]
        script = next(filter(Path.is_file, scripts))
        before = folder.stat()
        done = run("env", f"SMTPHOOKS_MTAS={folder}", script)
        assert done.stdout == b""
        assert folder.stat() == before

    def test_no_program_in_it_gives_privileges(self) -> None:
        folder = unpacked()
        if folder is None:
            pytest.skip("nothing is unpacked")
        modes = {file: file.stat().st_mode for file in folder.rglob("*") if file.is_file()}
        assert [file for file, mode in modes.items() if mode & (stat.S_ISUID | stat.S_ISGID)] == []
