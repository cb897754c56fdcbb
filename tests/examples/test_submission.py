"""examples/submission.py: SCRAM over TLS, and a Postfix whose word on a message is the last one."""

from __future__ import annotations

import os
import shutil
import smtplib
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from scramp import ScramClient

from tests.examples.conftest import EXAMPLES, Example, StartExample
from tests.real.conftest import StartService
from tests.real.mta.postfix import Postfix
from tests.real.programs import PATIENCE, ROOT, Certificates, Maildir, freePort, requires, run
from tests.secrets import PASSWORD, UNICODE_PASSWORD, WRONG_PASSWORD

ANN, JO, CONTENT = "ann@example.org", "jo@example.org", b"Subject: hello\r\n\r\n.\r\nhello\r\n"


# Recipients of whom Postfix says no.
REFUSALS = "{ {later@there.example = 450 4.2.1 Not now}, {never@there.example = 550 5.1.1 Never} }"


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of users, made by the example itself; the second password of ann is in force."""
    path = tmp_path_factory.mktemp("users") / "users.txt"
    for name, password in [(ANN, WRONG_PASSWORD), (JO, UNICODE_PASSWORD), (ANN, PASSWORD)]:
        subprocess.run(
            [sys.executable, EXAMPLES / "submission.py", path, "--add", name],
            input=password + "\n",
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
            timeout=PATIENCE,
            check=True,
        )
    return path


@pytest.fixture
def users(added: Path, tmp_path: Path) -> Path:
    """A copy of this file."""
    return Path(shutil.copy(added, tmp_path))


class Client(smtplib.SMTP):
    """A client that trusts the authority of the test, and logs in with SCRAM."""

    def __init__(self, port: int, certificates: Certificates) -> None:
        super().__init__("localhost", port, timeout=PATIENCE)
        context = ssl.create_default_context(cafile=certificates.authority)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self.starttls(context=context)
        self.ehlo()

    def scram(self, username: str, password: str) -> None:
        client = ScramClient(["SCRAM-SHA-256"], username, password)
        answers = iter([client.set_server_first, client.set_server_final])

        def answer(challenge: bytes | None = None) -> str:
            if challenge is None:
                return str(client.get_client_first())
            hear = next(answers)
            hear(challenge.decode())
            return str(client.get_client_final()) if hear == client.set_server_first else ""

        self.auth("SCRAM-SHA-256", answer)


def start(startExample: StartExample, certificates: Certificates, users: Path, port: int) -> Example:
    given = ["--key", certificates.server["key"], "--cert", certificates.server["cert"]]
    return startExample("submission.py", users, *given, "--upstream", f"127.0.0.1:{port}")


def test_the_file_holds_no_password_and_is_for_its_owner_only(users: Path) -> None:
    assert users.stat().st_mode & 0o777 == 0o600
    assert [line.split()[0] for line in users.read_text().splitlines()] == [ANN, JO, ANN]
    assert PASSWORD not in users.read_text()


@requires("gsasl")
@pytest.mark.parametrize("method", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
@pytest.mark.parametrize(("username", "password"), [(ANN, PASSWORD), (JO, UNICODE_PASSWORD)], ids=["ann", "jo"])
def test_users_log_in_with_the_password_that_was_added(
    startExample: StartExample, certificates: Certificates, users: Path, method: str, username: str, password: str
) -> None:
    port = start(startExample, certificates, users, freePort()).port
    command = ["gsasl", "--smtp", f"--connect=127.0.0.1:{port}", "--hostname=mx.example", "--service=smtp"]
    command += [f"--authentication-id={username}", f"--mechanism={method}", f"--x509-ca-file={certificates.authority}"]
    command += ["--no-cb"] * (method == "SCRAM-SHA-256")
    assert "235 2.7.0 " in run(*command, f"--password={password}", stdin=b"\n\n").stdout.decode()
    assert "535 5.7.8 " in run(*command, f"--password={WRONG_PASSWORD}", stdin=b"\n\n", status=1).stdout.decode()


def test_neither_AUTH_nor_MAIL_comes_before_TLS(
    startExample: StartExample, certificates: Certificates, users: Path
) -> None:
    example = start(startExample, certificates, users, freePort())
    with smtplib.SMTP("127.0.0.1", example.port) as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.mail(ANN)[0] == 530
        assert client.docmd("AUTH", "SCRAM-SHA-256 biwsbj1hLHI9Yg==")[0] == 530


def test_mail_needs_a_user_and_is_from_this_user(
    startExample: StartExample, certificates: Certificates, users: Path
) -> None:
    example = start(startExample, certificates, users, freePort())
    with Client(example.port, certificates) as client:
        assert client.mail(ANN)[0] == 530
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.scram("eve@example.org", PASSWORD)
        client.scram(ANN, PASSWORD)
        assert client.mail(JO)[0] == 553
        assert client.mail("")[0] == 553
        assert client.mail("Ann@Example.org")[0] == 250


def test_a_lost_upstream_and_a_lost_file_of_users_are_temporary_failures(
    startExample: StartExample, certificates: Certificates, users: Path
) -> None:
    example = start(startExample, certificates, users, freePort())
    with Client(example.port, certificates) as client:
        client.scram(ANN, PASSWORD)
        with pytest.raises(smtplib.SMTPDataError) as caught:
            client.sendmail(ANN, ["bob@there.example"], CONTENT)
        assert caught.value.smtp_code == 451
        example.waitForLine("the upstream server cannot be used", "refused")
    users.unlink()
    with Client(example.port, certificates) as client, pytest.raises(smtplib.SMTPAuthenticationError) as failed:
        client.scram(ANN, PASSWORD)
    assert failed.value.smtp_code == 451


@pytest.fixture
def upstream(startService: StartService) -> Iterator[Postfix]:
    """A Postfix that delivers to the Maildir of the test."""
    with tempfile.TemporaryDirectory(prefix="real-") as path:
        # Postfix drops privileges, so its user must reach the folder.
        Path(path).chmod(0o755)
        postfix = Postfix(
            Path(path),
            {"there.example": f"inet:127.0.0.1:{startService(lmtp=True).port}"},
            smtpd_recipient_restrictions=f"check_recipient_access inline:{REFUSALS}, permit_mynetworks, reject",
        )
        yield postfix
        postfix.stop()


@requires("postfix", "postqueue")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix")
class TestThroughPostfix:
    def test_mail_goes_on(
        self,
        startExample: StartExample,
        certificates: Certificates,
        users: Path,
        upstream: Postfix,
        maildir: Maildir,
    ) -> None:
        example = start(startExample, certificates, users, upstream.port)
        with Client(example.port, certificates) as client:
            client.scram(ANN, PASSWORD)
            assert client.sendmail(ANN, ["bob@there.example", "carl@there.example"], CONTENT) == {}
        found = maildir.waitFor(2)
        assert sorted(stored.deliveredTo[0] for stored in found) == ["bob@there.example", "carl@there.example"]
        for stored in found:
            assert stored.returnPath == ANN
            assert b" with ESMTPSA id " in stored.content
            assert stored.content.endswith(b"\n\n.\nhello\n")

    def test_mail_with_addresses_and_octets_beyond_ASCII_goes_on(
        self,
        startExample: StartExample,
        certificates: Certificates,
        users: Path,
        upstream: Postfix,
        maildir: Maildir,
    ) -> None:
        example = start(startExample, certificates, users, upstream.port)
        message = EmailMessage()
        message["Subject"] = "Grüße"
        message.set_content("Grüße\n", cte="8bit")
        with Client(example.port, certificates) as client:
            client.scram(JO, UNICODE_PASSWORD)
            client.send_message(message, JO, ["jürgen@there.example"])
        (stored,) = maildir.waitFor(1)
        assert stored.deliveredTo == ["jürgen@there.example"]
        assert "Grüße\n".encode() in stored.content

    def test_what_Postfix_says_is_what_the_client_is_told(
        self,
        startExample: StartExample,
        certificates: Certificates,
        users: Path,
        upstream: Postfix,
        maildir: Maildir,
    ) -> None:
        example = start(startExample, certificates, users, upstream.port)
        with Client(example.port, certificates) as client:
            client.scram(ANN, PASSWORD)
            for recipients, code, text in [
                (["later@there.example"], 450, b"Not now"),
                (["never@there.example"], 550, b"Never"),
                (["bob@there.example", "later@there.example"], 450, b"Not now"),
            ]:
                with pytest.raises(smtplib.SMTPDataError) as caught:
                    client.sendmail(ANN, recipients, CONTENT)
                assert caught.value.smtp_code == code
                assert text in caught.value.smtp_error
        upstream.waitUntilIdle()
        assert maildir.files() == []
