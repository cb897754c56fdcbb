"""curl as a client: mandatory STARTTLS, implicit TLS, and tokens of OAuth."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.real.conftest import Running, StartService
from tests.real.programs import Certificates, Maildir, requires, run
from tests.secrets import PASSWORD, TOKEN, WRONG_PASSWORD

pytestmark = requires("curl")

CONTENT = b"Subject: by curl\n\n.\n..two\nthe end\n"
METHODS = ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "SCRAM-SHA-256"]

inBothWays = pytest.mark.parametrize("scheme", ["smtp", "smtps"])


def start(
    startService: StartService, certificates: Certificates, maildir: Maildir, scheme: str, *methods: str
) -> Running:
    return startService(
        "KnownUsers",
        hooksOptions={"path": maildir.path},
        options={"authOptional": False, "authMethods": [*methods] or METHODS},
        tls=certificates.server,
        secure=scheme == "smtps",
    )


def send(folder: Path, running: Running, certificates: Certificates, scheme: str, *arguments: str, status: int) -> str:
    """Send the message with TLS required; the dialogue, without the lines of curl itself."""
    message = folder / "message"
    message.write_bytes(CONTENT.replace(b"\n", b"\r\n"))
    fixed = ["--ssl-reqd", "--cacert", certificates.authority, "--resolve", f"mx.example:{running.port}:127.0.0.1"]
    envelope = ["--mail-from", "sender@here.example", "--mail-rcpt", "recipient@there.example"]
    done: subprocess.CompletedProcess[bytes] = run(
        *["curl", "--silent", "--show-error", "--verbose", *fixed, *envelope, "--upload-file", message, *arguments],
        f"{scheme}://mx.example:{running.port}/client.example",
        status=status,
    )
    return done.stdout.decode(errors="replace")


@inBothWays
@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"])
@pytest.mark.parametrize("initial", [[], ["--sasl-ir"]], ids=["challenged", "initial"])
def test_user_authenticates_with_a_password(
    startService: StartService,
    certificates: Certificates,
    maildir: Maildir,
    tmp_path: Path,
    scheme: str,
    method: str,
    initial: list[str],
) -> None:
    if method.startswith("SCRAM") and "gsasl" not in run("curl", "--version").stdout.decode():
        pytest.skip("this curl is built without gsasl, and so without SCRAM")
    running = start(startService, certificates, maildir, scheme)
    login = ["--login-options", f"AUTH={method}", *initial, "--user"]
    dialogue = send(tmp_path, running, certificates, scheme, *login, f"ann:{PASSWORD}", status=0)
    assert f"> AUTH {method}" in dialogue and "< 250 2.1.0 ann may send" in dialogue
    assert maildir.message().content == CONTENT
    refused = send(tmp_path, running, certificates, scheme, *login, f"ann:{WRONG_PASSWORD}", status=67)
    assert "< 535 5.7.8 " in refused


@inBothWays
@pytest.mark.parametrize("method", ["XOAUTH2", "OAUTHBEARER"])
def test_user_authenticates_with_a_token(
    startService: StartService, certificates: Certificates, maildir: Maildir, tmp_path: Path, scheme: str, method: str
) -> None:
    # Of both, curl prefers OAUTHBEARER; so only one is offered.
    running = start(startService, certificates, maildir, scheme, method)
    login = ["--login-options", f"AUTH={method}", "--user", "ann", "--oauth2-bearer"]
    dialogue = send(tmp_path, running, certificates, scheme, *login, TOKEN, status=0)
    assert f"> AUTH {method}" in dialogue and "< 250 2.1.0 ann may send" in dialogue
    assert maildir.message().content == CONTENT
    assert " with ESMTPSA id " in maildir.message().received
    refused = send(tmp_path, running, certificates, scheme, *login, TOKEN[::-1], status=67)
    # The reason comes as a challenge first; curl does not answer that of XOAUTH2.
    assert "< 334 eyJ" in refused
    assert ("< 535 5.7.8 " in refused) is (method == "OAUTHBEARER")
    assert len(maildir.files()) == 1


def test_without_STARTTLS_curl_leaves_and_sends_nothing(
    startService: StartService, certificates: Certificates, maildir: Maildir, tmp_path: Path
) -> None:
    running = startService(options={"hideSTARTTLS": True})
    dialogue = send(tmp_path, running, certificates, "smtp", "--user", f"ann:{PASSWORD}", status=64)
    assert "> AUTH" not in dialogue and "> MAIL" not in dialogue
    assert maildir.files() == []


def test_client_certificate_names_the_user(
    startService: StartService, certificates: Certificates, maildir: Maildir, tmp_path: Path
) -> None:
    running = startService(
        "KnownUsers",
        hooksOptions={"path": maildir.path},
        options={"authOptional": False, "authMethods": ["EXTERNAL"]},
        tls={**certificates.server, "ca": certificates.authority, "requestCert": True},
    )
    own = ["--cert", certificates.client["cert"], "--key", certificates.client["key"]]
    login = ["--login-options", "AUTH=EXTERNAL", "--user", "ann:"]
    dialogue = send(tmp_path, running, certificates, "smtp", *own, *login, status=0)
    assert "> AUTH EXTERNAL" in dialogue and "< 250 2.1.0 ann may send" in dialogue
    assert maildir.message().content == CONTENT
