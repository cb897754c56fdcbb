"""swaks over TLS, with each mechanism of AUTH that it knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.conftest import Running, StartService
from tests.real.programs import Certificates, Maildir, requires, run
from tests.real.test_swaks import CONTENT, content, swaks
from tests.secrets import PASSWORD, WRONG_PASSWORD, encoded


def supports(feature: str) -> bool:
    """Whether swaks has the Perl modules for this."""
    return f"=== {feature} supported" in run("swaks", "--support").stdout.decode()


def needs(feature: str) -> None:
    if not supports(feature):
        pytest.skip(f"swaks lacks the Perl modules for {feature}")


pytestmark = requires("swaks")

inBothWays = pytest.mark.parametrize("flag", ["--tls", "--tls-on-connect"])


def start(
    startService: StartService, certificates: Certificates, maildir: Maildir, flag: str, **tls: object
) -> Running:
    return startService(
        "KnownUsers",
        hooksOptions={"path": maildir.path},
        options={"authOptional": False, "authMethods": ["PLAIN", "LOGIN", "CRAM-MD5", "EXTERNAL"]},
        tls={**certificates.server, **tls},
        secure=flag == "--tls-on-connect",
    )


def sent(folder: Path, running: Running, certificates: Certificates, *arguments: object, status: int = 0) -> str:
    fixed = ["--tls-verify", "--tls-ca-path", certificates.authority, "--to", "recipient@there.example"]
    return swaks(folder, running.port, *fixed, *arguments, status=status)


@inBothWays
def test_message_comes_over_TLS(
    startService: StartService, certificates: Certificates, maildir: Maildir, tmp_path: Path, flag: str
) -> None:
    needs("TLS")
    running = startService(tls=certificates.server, secure=flag == "--tls-on-connect")
    dialogue = sent(tmp_path, running, certificates, flag)

    assert "TLS started with cipher TLSv1.3" in dialogue
    assert dialogue.count("250-PIPELINING") == (2 if flag == "--tls" else 1)
    assert content(maildir) == [CONTENT]
    assert " with ESMTPS id " in maildir.message().received


@inBothWays
@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_user_authenticates_with_a_password(
    startService: StartService, certificates: Certificates, maildir: Maildir, tmp_path: Path, flag: str, method: str
) -> None:
    needs("TLS")
    needs("AUTH CRAM-MD5" if method == "CRAM-MD5" else "Basic AUTH")
    encoded(f"\0ann\0{PASSWORD}")  # so that the log is searched for this response
    running = start(startService, certificates, maildir, flag)
    user = ["--auth", method, "--auth-user", "ann", "--auth-password"]
    dialogue = sent(tmp_path, running, certificates, flag, *user, PASSWORD)

    assert " 235 2.7.0 Authentication successful" in dialogue
    assert " 250 2.1.0 ann may send" in dialogue
    assert content(maildir) == [CONTENT]
    assert " with ESMTPSA id " in maildir.message().received
    # Status 28 of swaks is failed authentication.
    refused = sent(tmp_path, running, certificates, flag, *user, WRONG_PASSWORD, status=28)
    assert " 535 5.7.8 " in refused


@inBothWays
def test_user_authenticates_with_a_certificate(
    startService: StartService, certificates: Certificates, maildir: Maildir, tmp_path: Path, flag: str
) -> None:
    needs("TLS")
    tls = {"ca": certificates.authority, "requestCert": True, "rejectUnauthorized": False}
    running = start(startService, certificates, maildir, flag, **tls)
    own = ["--tls-cert", certificates.client["cert"], "--tls-key", certificates.client["key"]]
    # swaks has no EXTERNAL, so the test sees only that it is advertised, and to a client with a certificate alone.
    assert "AUTH PLAIN LOGIN CRAM-MD5 EXTERNAL" in sent(tmp_path, running, certificates, flag, *own, status=23)
    assert "EXTERNAL" not in sent(tmp_path, running, certificates, flag, status=23)


def test_without_TLS_no_mechanism_is_offered_and_none_is_taken(
    startService: StartService, certificates: Certificates, maildir: Maildir, tmp_path: Path
) -> None:
    running = start(startService, certificates, maildir, "--tls")
    user = ["--auth", "PLAIN", "--auth-user", "ann", "--auth-password", PASSWORD]
    dialogue = swaks(tmp_path, running.port, "--to", "recipient@there.example", *user, status=28)
    assert "250-AUTH" not in dialogue and "250 AUTH" not in dialogue
    assert maildir.files() == []


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("source", ["memory", "file"])
def test_checkers_of_twisted_know_the_user(
    startService: StartService,
    certificates: Certificates,
    maildir: Maildir,
    tmp_path: Path,
    source: str,
    method: str,
) -> None:
    needs("TLS")
    needs("AUTH CRAM-MD5" if method == "CRAM-MD5" else "Basic AUTH")
    (tmp_path / "passwd").write_text(f"ann:{PASSWORD}\n")
    running = startService(
        options={"authOptional": False, "authMethods": ["PLAIN", "LOGIN", "CRAM-MD5"]},
        tls=certificates.server,
        checkers=["memory:joe:secret-of-joe", f"memory:ann:{PASSWORD}" if source == "memory" else "file:passwd"],
    )
    user = ["--auth", method, "--auth-user", "ann", "--auth-password"]
    assert " 235 2.7.0 " in sent(tmp_path, running, certificates, "--tls", *user, PASSWORD)
    assert content(maildir) == [CONTENT]
    assert " 535 5.7.8 " in sent(tmp_path, running, certificates, "--tls", *user, WRONG_PASSWORD, status=28)
    assert len(maildir.files()) == 1
