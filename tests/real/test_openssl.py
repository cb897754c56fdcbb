"""OpenSSL's own client, with STARTTLS and with implicit TLS."""

from __future__ import annotations

import pytest

from tests.real.conftest import StartService
from tests.real.programs import Certificates, Maildir, requires, run

pytestmark = requires("openssl")

inBothWays = pytest.mark.parametrize("way", ["STARTTLS", "implicit"])

COMMANDS = b"""\
EHLO client.example
MAIL FROM:<sender@here.example>
RCPT TO:<recipient@there.example>
DATA
Subject: by OpenSSL

..text
.
QUIT
"""


def connect(port: int, certificates: Certificates, *arguments: str, way: str, status: int | None = 0) -> str:
    """Send COMMANDS over TLS; the output of the program."""
    starttls = ["-starttls", "smtp", "-name", "client.example"] if way == "STARTTLS" else []
    fixed = ["-connect", f"127.0.0.1:{port}", "-CAfile", certificates.authority, "-verify_return_error"]
    # Without -ign_eof the program takes Q and R at the start of a line for commands of its own.
    done = run(
        "openssl",
        *["s_client", *fixed, "-verify_hostname", "mx.example", "-servername", "mx.example", "-crlf", "-ign_eof"],
        *[*starttls, *arguments],
        stdin=COMMANDS,
        status=status,
    )
    return done.stdout.decode()


@inBothWays
@pytest.mark.parametrize(("flag", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_message_comes_by_each_version_that_is_allowed(
    startService: StartService, certificates: Certificates, maildir: Maildir, way: str, flag: str, version: str
) -> None:
    running = startService(tls=certificates.server, secure=way == "implicit")
    said = connect(running.port, certificates, flag, way=way)

    assert "Verify return code: 0 (ok)" in said or "Verification: OK" in said
    assert "221 2.0.0 Bye" in said
    message = maildir.message()
    assert message.content == b"Subject: by OpenSSL\n\n.text\n"
    assert f" (using {version} with cipher " in message.received
    assert " with ESMTPS id " in message.received


@inBothWays
@pytest.mark.parametrize("flags", [["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"], ["-no_tls1_3", "-no_tls1_2"]])
def test_older_versions_are_refused_and_the_log_says_so(
    startService: StartService, certificates: Certificates, way: str, flags: list[str]
) -> None:
    running = startService(tls=certificates.server, secure=way == "implicit")
    said = connect(running.port, certificates, *flags, "-cipher", "DEFAULT:@SECLEVEL=0", way=way, status=1)

    assert "250 2.1.0" not in said
    running.service.waitForLine("TLS handshake with 127.0.0.1 failed: no version of TLS in common with the client")
    assert running.service.output.count("TLS handshake with") == 1
    connect(running.port, certificates, way=way)


@inBothWays
def test_the_certificate_of_the_name_is_given(startService: StartService, certificates: Certificates, way: str) -> None:
    running = startService(tls=certificates.server, sni=certificates.sni, secure=way == "implicit")
    for name in ("mail.example.org", "mx.example"):
        said = connect(running.port, certificates, "-servername", name, "-verify_hostname", name, way=way)
        assert "221 2.0.0 Bye" in said
        assert f"subject=CN = {name}" in said


@inBothWays
def test_client_certificates_are_asked_for_and_verified(
    startService: StartService, certificates: Certificates, way: str
) -> None:
    tls = {**certificates.server, "ca": certificates.authority, "requestCert": True}
    running = startService(tls=tls, secure=way == "implicit")
    own = certificates.client
    assert "221 2.0.0 Bye" in connect(running.port, certificates, "-cert", own["cert"], "-key", own["key"], way=way)
    assert "250 2.1.0" not in connect(running.port, certificates, way=way, status=None)
    running.service.waitForLine("TLS handshake with 127.0.0.1 failed: the client gave no certificate")


@inBothWays
def test_without_a_certificate_the_service_makes_a_self_signed_one(
    startService: StartService, certificates: Certificates, way: str
) -> None:
    running = startService(options={"name": "mx.example"}, secure=way == "implicit")
    said = connect(running.port, certificates, way=way, status=1)
    assert "self-signed certificate" in said or "self signed certificate" in said
    running.service.waitForLine("no certificate for mx.example: TLS uses a self-signed one")


def test_SIGHUP_brings_new_certificates_and_a_broken_one_keeps_the_old(
    startService: StartService, certificates: Certificates, maildir: Maildir
) -> None:
    running = startService(tls=certificates.server, secure=True)
    assert "221 2.0.0 Bye" in connect(running.port, certificates, way="implicit")
    before = certificates.serialOf(running.port)
    certificates.renew()
    running.service.hangUp()
    running.service.waitForLine("keys and certificates have been read again at tcp:")
    after = certificates.serialOf(running.port)
    assert before != after

    certificates.damage()
    running.service.hangUp()
    running.service.waitForLine("the old ones stay in force at tcp:", "option key is ")
    assert certificates.serialOf(running.port) == after
    assert len(maildir.files()) == 1
