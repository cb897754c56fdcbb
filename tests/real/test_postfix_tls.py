"""Postfix as a client that sends its mail over verified TLS only, and with AUTH."""

from __future__ import annotations

import os
import smtplib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.conftest import Running, StartService
from tests.real.mta.postfix import Postfix
from tests.real.programs import Certificates, Maildir, requires
from tests.secrets import PASSWORD, WRONG_PASSWORD

pytestmark = [
    requires("postfix", "postqueue"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix"),
]

SASL = [*Path("/usr/lib").glob("*/sasl2/libplain.so"), *Path("/usr/lib").glob("sasl2/libplain.so")]
needsSASL = pytest.mark.skipif(not SASL, reason="libsasl2-modules is not installed")

MakePostfix = Callable[..., Postfix]


@pytest.fixture
def makePostfix(certificates: Certificates) -> Iterator[MakePostfix]:
    """Make a Postfix that delivers to a service, if its certificate is the expected one."""
    made: list[Postfix] = []
    with tempfile.TemporaryDirectory(prefix="real-") as path:
        folder = Path(path)
        # Postfix drops privileges, so its user must reach the folder.
        folder.chmod(0o755)
        authority = folder / "ca.pem"
        authority.write_bytes(Path(certificates.authority).read_bytes())

        def make(running: Running, **settings: object) -> Postfix:
            given = {
                "smtp_tls_CAfile": authority,
                "smtp_tls_security_level": "secure",
                "smtp_tls_secure_cert_match": "mx.example",
                "smtp_tls_loglevel": 1,
                **settings,
            }
            place = f"[127.0.0.1]:{running.port}"
            made.append(Postfix(folder, {"there.example": place}, "smtp", **given))
            return made[-1]

        yield make
        for postfix in made:
            postfix.stop()


def asUser(running: Running, mechanism: str, password: str = PASSWORD) -> dict[str, object]:
    """Settings with which Postfix authenticates as the user ann."""
    return {
        "smtp_sasl_auth_enable": "yes",
        "smtp_sasl_password_maps": f"inline:{{ {{ [127.0.0.1]:{running.port} = ann:{password} }} }}",
        "smtp_sasl_mechanism_filter": mechanism,
        "smtp_sasl_security_options": "noanonymous",
        "smtp_sasl_tls_security_options": "noanonymous",
    }


def send(postfix: Postfix) -> None:
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        message = b"Subject: secure\r\n\r\nby Postfix\r\n"
        assert client.sendmail("sender@here.example", ["recipient@there.example"], message) == {}


@pytest.mark.parametrize("secure", [False, True], ids=["STARTTLS", "implicit"])
def test_mail_is_sent_over_verified_TLS(
    startService: StartService, certificates: Certificates, maildir: Maildir, makePostfix: MakePostfix, secure: bool
) -> None:
    running = startService(tls=certificates.server, secure=secure)
    postfix = makePostfix(running, smtp_tls_wrappermode="yes" if secure else "no")
    send(postfix)
    (message,) = maildir.waitFor(1)
    assert message.content.endswith(b"\n\nby Postfix\n")
    assert " (using TLSv1.3 with cipher " in message.received
    assert " with ESMTPS id " in message.received
    postfix.waitForLine("Verified TLS connection established to 127.0.0.1[127.0.0.1]")
    postfix.waitUntilIdle()


def test_mail_stays_in_the_queue_if_the_server_has_another_certificate(
    startService: StartService, certificates: Certificates, maildir: Maildir, makePostfix: MakePostfix
) -> None:
    running = startService(tls=certificates.sni["mail.example.org"])
    postfix = makePostfix(running)
    send(postfix)
    postfix.waitForLine("status=deferred (Server certificate not verified)")
    assert maildir.files() == []


@needsSASL
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"])
def test_mail_is_sent_by_an_authenticated_user(
    startService: StartService, certificates: Certificates, maildir: Maildir, makePostfix: MakePostfix, mechanism: str
) -> None:
    if mechanism.startswith("SCRAM") and not SASL[0].with_name("libscram.so").exists():
        pytest.skip("Cyrus SASL has no libscram.so here")
    running = startService(
        "KnownUsers",
        hooksOptions={"path": maildir.path},
        options={"authOptional": False, "authMethods": ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"]},
        tls=certificates.server,
    )
    postfix = makePostfix(running, **asUser(running, mechanism.lower()))
    send(postfix)
    (message,) = maildir.waitFor(1)
    assert " with ESMTPSA id " in message.received
    postfix.waitUntilIdle()


@needsSASL
def test_mail_stays_in_the_queue_if_the_password_is_wrong(
    startService: StartService, certificates: Certificates, maildir: Maildir, makePostfix: MakePostfix
) -> None:
    running = startService(
        options={"authOptional": False}, tls=certificates.server, checkers=[f"memory:ann:{PASSWORD}"]
    )
    postfix = makePostfix(running, **asUser(running, "plain", WRONG_PASSWORD))
    send(postfix)
    postfix.waitForLine("SASL authentication failed", "535 5.7.8 ")
    assert maildir.files() == []
