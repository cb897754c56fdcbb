"""docs/howto/submission.rst: only users send, by PLAIN and by SCRAM, and only over TLS."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest

from tests.docs.howto.conftest import Page
from tests.docs.howto.test_tls import Certificates
from tests.real.programs import PATIENCE, requires, run

PAGE = "submission"
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def certificates(page: Page) -> Iterator[Certificates]:
    yield Certificates(page.folder)


def stored(page: Page) -> int:
    return len(list((page.folder / "outgoing" / "new").glob("*")))


@requires("swaks")
def test_a_user_of_the_file_sends_over_tls_alone(page: Page) -> None:
    port = page.listen("submission.toml", "tcp:587")
    page.listen("submission.toml", "tcp:465")
    service = page.start("smtphooks --config submission.toml")
    status, said = page.run("swaks", **{"587": port})
    assert status == 0 and " ~> MAIL FROM:<ann@example.org>" in said
    assert stored(page) == 1
    assert page.run("swaks", **{"587": port, PASSWORD: "wrong"})[0] != 0
    service.waitForLine('AUTH failed from 127.0.0.1 with PLAIN as "ann": 535')
    assert page.run("swaks", **{"587": port, "ann@example.org": "joe@example.org"})[0] != 0
    service.waitForLine("553 5.7.1 That is not your address")
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        assert client.docmd("AUTH PLAIN")[0] in (530, 538)
        code, text = client.mail("ann@example.org")
        assert code == 530 and b"STARTTLS" in text
    assert stored(page) == 1


def test_implicit_tls_takes_mail_of_users_alone(page: Page, certificates: Certificates) -> None:
    page.listen("submission.toml", "tcp:587")
    port = page.listen("submission.toml", "tcp:465")
    page.start("smtphooks --config submission.toml")
    with smtplib.SMTP_SSL("127.0.0.1", port, timeout=PATIENCE, context=certificates.context) as client:
        assert client.mail("ann@example.org")[0] == 503  # before EHLO
        client.ehlo()
        assert client.mail("ann@example.org")[0] == 530
        client.login("ann", PASSWORD)
        assert client.sendmail("ann@example.org", ["joe@example.net"], "Subject: hello\n\nhello\n") == {}


@requires("gsasl", "openssl")
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN"])
def test_a_user_of_the_hooks_proves_the_password_by_each_mechanism(page: Page, mechanism: str) -> None:
    pytest.importorskip("scramp")
    port = page.listen("scram.toml", "tcp:587")
    assert page.run("openssl rand")[0] == 0
    page.start("smtphooks --config scram.toml")
    arguments = [f"--connect=127.0.0.1:{port}", "--hostname=mx.example.org", "--service=smtp"]
    arguments += [f"--x509-ca-file={page.folder / 'ca.pem'}", *["--no-cb"] * (mechanism == "SCRAM-SHA-256")]
    for password, status, reply in ((PASSWORD, 0, "235 2.7.0 "), ("wrong", 1, "535 5.7.8 ")):
        user = ["--authentication-id=ann", f"--password={password}", f"--mechanism={mechanism}"]
        # gsasl asks for an authorization identity, and then for data to send.
        said = run("gsasl", "--smtp", *arguments, *user, stdin=b"\n\n", status=status).stdout.decode()
        assert reply in said
