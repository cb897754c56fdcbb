"""GNU SASL's client, which knows SCRAM with channel binding: a second opinion on ours."""

from __future__ import annotations

import pytest

from tests.real.conftest import Running, StartService
from tests.real.programs import Certificates, Maildir, requires, run
from tests.secrets import PASSWORD, WRONG_PASSWORD

pytestmark = requires("gsasl")

METHODS = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]


def start(
    startService: StartService,
    maildir: Maildir,
    certificates: Certificates | None,
    methods: list[str],
    **options: object,
) -> Running:
    given = {"authOptional": False, "authMethods": methods, **options}
    tls = None if certificates is None else {**certificates.server}
    return startService("KnownUsers", hooksOptions={"path": maildir.path}, options=given, tls=tls)


def login(running: Running, method: str, password: str, *arguments: str, status: int = 0) -> str:
    """Authenticate as ann, and return the dialogue."""
    done = run(
        *["gsasl", "--smtp", f"--connect=127.0.0.1:{running.port}", "--hostname=mx.example", "--service=smtp"],
        *["--authentication-id=ann", f"--password={password}", f"--mechanism={method}", *arguments],
        stdin=b"\n\n",  # gsasl asks for an authorization identity, and then for data to send
        status=status,
    )
    return done.stdout.decode()


@pytest.mark.parametrize("method", METHODS)
def test_password_is_proved_over_TLS(
    startService: StartService, certificates: Certificates, maildir: Maildir, method: str
) -> None:
    running = start(startService, maildir, certificates, METHODS)
    trust = [f"--x509-ca-file={certificates.authority}"]
    if method == "SCRAM-SHA-256":
        trust.append("--no-cb")  # otherwise gsasl sees that channel binding is offered, and gives up
    said = login(running, method, PASSWORD, *trust)
    assert "Session finished" in said or "Client authentication finished" in said
    assert "235 2.7.0 " in said
    refused = login(running, method, WRONG_PASSWORD, *trust, status=1)
    assert "535 5.7.8 " in refused


def test_SCRAM_needs_no_TLS(startService: StartService, maildir: Maildir) -> None:
    running = start(startService, maildir, None, ["SCRAM-SHA-256"], allowInsecureAuth=True, hideSTARTTLS=True)
    assert "235 2.7.0 " in login(running, "SCRAM-SHA-256", PASSWORD, "--no-starttls")
    assert "535 5.7.8 " in login(running, "SCRAM-SHA-256", WRONG_PASSWORD, "--no-starttls", status=1)


def test_without_TLS_no_binding_is_offered(startService: StartService, maildir: Maildir) -> None:
    running = start(startService, maildir, None, METHODS, allowInsecureAuth=True, hideSTARTTLS=True)
    said = login(running, "SCRAM-SHA-256", PASSWORD, "--no-starttls")
    assert "AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256\n" in said.replace("\r", "")
