"""Python's smtplib over TLS, with each mechanism that it knows."""

from __future__ import annotations

import smtplib
import ssl

import pytest

from tests.real.conftest import Running, StartService
from tests.real.programs import Certificates, Maildir
from tests.real.test_smtplib import MESSAGE, RECIPIENT, SENDER, stored
from tests.secrets import PASSWORD, WRONG_PASSWORD

inBothWays = pytest.mark.parametrize("way", ["STARTTLS", "implicit"])


def start(
    startService: StartService, certificates: Certificates, maildir: Maildir, way: str, *methods: str, **options: object
) -> Running:
    return startService(
        "KnownUsers",
        hooksOptions={"path": maildir.path},
        options={"authOptional": not methods, "authMethods": [*methods] or ["PLAIN"], **options},
        tls=certificates.server,
        secure=way == "implicit",
    )


def connect(port: int, certificates: Certificates, way: str) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=certificates.authority)
    if way == "implicit":
        return smtplib.SMTP_SSL("localhost", port, "client.example", context=context)
    client = smtplib.SMTP("localhost", port, "client.example")
    assert client.starttls(context=context)[0] == 220
    return client


@inBothWays
def test_message_is_stored_as_it_was_sent(
    startService: StartService, certificates: Certificates, maildir: Maildir, way: str
) -> None:
    running = start(startService, certificates, maildir, way)
    with connect(running.port, certificates, way) as client:
        assert client.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}
        assert not client.has_extn("starttls")
    message = maildir.message()
    assert message.content == stored(MESSAGE)
    assert " (using TLSv1.3 with cipher " in message.received and " with ESMTPS id " in message.received


@inBothWays
@pytest.mark.parametrize("method", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_user_authenticates_with_a_password(
    startService: StartService, certificates: Certificates, maildir: Maildir, way: str, method: str
) -> None:
    running = start(startService, certificates, maildir, way, method)
    with connect(running.port, certificates, way) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            client.login("ann", WRONG_PASSWORD)
        assert caught.value.smtp_code == 535
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail(SENDER, [RECIPIENT], MESSAGE)
        assert refused.value.smtp_code == 530
        assert client.login("ann", PASSWORD)[0] == 235
        assert client.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}
        assert client.docmd("AUTH", "PLAIN")[0] == 503
    assert " with ESMTPSA id " in maildir.message().received


def test_needs_upgrade_requires_TLS_before_any_mail(
    startService: StartService, certificates: Certificates, maildir: Maildir
) -> None:
    running = start(startService, certificates, maildir, "STARTTLS", needsUpgrade=True)
    with smtplib.SMTP("localhost", running.port) as client:
        with pytest.raises(smtplib.SMTPSenderRefused) as caught:
            client.sendmail(SENDER, [RECIPIENT], MESSAGE)
        assert caught.value.smtp_code == 530
        client.starttls(context=ssl.create_default_context(cafile=certificates.authority))
        assert client.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}


def test_REQUIRETLS_is_offered_over_TLS_alone(
    startService: StartService, certificates: Certificates, maildir: Maildir
) -> None:
    running = start(startService, certificates, maildir, "STARTTLS", hideREQUIRETLS=False)
    with smtplib.SMTP("localhost", running.port) as client:
        client.ehlo()
        assert not client.has_extn("requiretls")
        assert client.mail(SENDER, ["REQUIRETLS"])[0] == 555
        client.starttls(context=ssl.create_default_context(cafile=certificates.authority))
        client.ehlo()
        assert client.has_extn("requiretls")
        assert client.sendmail(SENDER, [RECIPIENT], MESSAGE, ["REQUIRETLS"]) == {}


def test_large_message_is_stored_whole(
    startService: StartService, certificates: Certificates, maildir: Maildir
) -> None:
    message = MESSAGE * (20_000_000 // len(MESSAGE))
    running = start(startService, certificates, maildir, "STARTTLS")
    with connect(running.port, certificates, "STARTTLS") as client:
        assert client.sendmail(SENDER, [RECIPIENT], message) == {}
    assert maildir.message().content == stored(message)


@pytest.mark.parametrize("way", ["STARTTLS"])
def test_LMTP_is_stored_as_it_was_sent(
    startService: StartService, certificates: Certificates, maildir: Maildir, way: str
) -> None:
    running = startService(lmtp=True, tls=certificates.server)
    with smtplib.LMTP("localhost", running.port, "client.example") as client:
        client.lhlo = client.ehlo  # type: ignore[attr-defined]
        client.starttls(context=ssl.create_default_context(cafile=certificates.authority))
        assert client.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}
    assert " with LMTPS id " in maildir.message().received
