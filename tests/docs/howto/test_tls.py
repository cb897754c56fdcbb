"""docs/howto/tls.rst: its configurations serve TLS, and certificates are renewed as it says."""

from __future__ import annotations

import getpass
import os
import smtplib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.docs.howto.conftest import Page, deliver
from tests.pages import DOCS
from tests.real.programs import PATIENCE, eventually, requires

PAGE = "tls"


class Certificates:
    """The files that the page names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = Authority()
        self._write("ca.pem", self._authority.pem)
        self.context = ssl.create_default_context(cadata=self._authority.pem)
        for stem, name in (("", "mx.example.org"), ("net-", "mail.example.net")):
            self.issue(name, f"{stem}key.pem", f"{stem}cert.pem")
        ann = self._authority.client("ann")
        self._write("ann.pem", ann.cert)
        self._write("ann.key", ann.key)

    def issue(self, name: str, key: str, cert: str) -> None:
        pair = self._authority.issue(name, names=[name, "127.0.0.1"])
        self._write(key, pair.key)
        self._write(cert, pair.cert)

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def serialOf(self, port: int, name: str = "mx.example.org") -> object:
        """The number of the certificate that a client is shown with STARTTLS."""
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client._host = name  # type: ignore[attr-defined]
            client.starttls(context=self.context)
            assert isinstance(client.sock, ssl.SSLSocket)
            certificate = client.sock.getpeercert()
            assert certificate is not None
            return certificate["serialNumber"]


@pytest.fixture
def certificates(page: Page) -> Iterator[Certificates]:
    yield Certificates(page.folder)


@requires("openssl")
def test_starttls_implicit_tls_and_a_second_name(page: Page, certificates: Certificates) -> None:
    ports = {endpoint: page.listen("mx.toml", endpoint) for endpoint in ("tcp:25", "tcp:465")}
    page.start("smtphooks --config mx.toml")
    # TLS verifies the names of both.
    assert certificates.serialOf(ports["tcp:25"]) != certificates.serialOf(ports["tcp:25"], "mail.example.net")
    assert deliver(ports["tcp:25"], "joe@example.org")[0] == 250
    address = "127.0.0.1:{}"
    old, new = address.format(25), address.format(ports["tcp:25"])
    status, said = page.run("openssl s_client -connect 127.0.0.1:25 ", **{old: new})
    assert status == 0 and "Protocol version: TLSv1.3" in said
    old, new = address.format(465), address.format(ports["tcp:465"])
    status, said = page.run("openssl s_client -connect 127.0.0.1:465 ", **{old: new})
    assert status == 0 and "subject=CN = mail.example.net" in said


def test_version_and_ciphers_can_be_demanded(page: Page, certificates: Certificates) -> None:
    documented = (DOCS / "howto" / "tls.rst").read_text()
    for option, value in (("minVersion", "TLSv1.3"), ("ciphers", "ECDHE+AESGCM")):
        assert f':ref:`{option} <option-{option}>` ``= "{value}"``' in documented
        page.change("mx.toml", "[tls]\n", f'[tls]\n{option} = "{value}"\n')
    port = page.listen("mx.toml", "tcp:25")
    page.listen("mx.toml", "tcp:465")
    page.start("smtphooks --config mx.toml")
    certificates.serialOf(port)
    certificates.context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((OSError, smtplib.SMTPServerDisconnected)):
        certificates.serialOf(port)


def test_a_renewed_certificate_is_deployed_and_shown_without_a_restart(page: Page, certificates: Certificates) -> None:
    port = page.listen("mx.toml", "tcp:25")
    page.listen("mx.toml", "tcp:465")
    service = page.start("smtphooks --config mx.toml")
    before = certificates.serialOf(port)
    # What certbot has renewed; and systemctl, which is not there in a container, as the unit would reload.
    certificates.issue("mx.example.org", "renewed/privkey.pem", "renewed/fullchain.pem")
    (page.folder / "systemctl").write_text(f"#!/bin/sh\ntest \"$*\" = 'reload smtphooks' && kill -HUP {service.pid}\n")
    (page.folder / "systemctl").chmod(0o700)
    page.change("deploy.sh", "/etc/smtphooks", page.folder)
    page.change("deploy.sh", "-o smtphooks", f"-o {getpass.getuser()}")
    path = f"{page.folder}:{os.environ['PATH']}"
    environment = {"PATH": path, "RENEWED_LINEAGE": str(page.folder / "renewed")}
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as open_:
        subprocess.run(["sh", "deploy.sh"], cwd=page.folder, env=environment, check=True, timeout=PATIENCE)
        service.waitForLine("keys and certificates have been read again")
        assert certificates.serialOf(port) != before
        assert open_.noop()[0] == 250
    assert page.text("key.pem") == page.text("renewed/privkey.pem")


def test_a_damaged_certificate_changes_nothing_and_is_named_in_the_log(page: Page, certificates: Certificates) -> None:
    port = page.listen("mx.toml", "tcp:25")
    page.listen("mx.toml", "tcp:465")
    service = page.start("smtphooks --config mx.toml")
    before = certificates.serialOf(port)
    (page.folder / "cert.pem").write_text("damaged")
    service.hangUp()
    service.waitForLine("cert.pem")
    assert certificates.serialOf(port) == before


def test_a_program_renews_by_itself(page: Page, certificates: Certificates) -> None:
    port = page.listen("renewing.py", "tcp:2525")
    page.change("renewing.py", "3600", 0.05)
    program = page.python("python renewing.py", port)
    before = certificates.serialOf(port)
    (page.folder / "cert.pem").write_text("damaged")
    program.waitForLine("The old certificate stays: ")
    assert certificates.serialOf(port) == before
    certificates.issue("mx.example.org", "key.pem", "cert.pem")
    eventually(lambda: certificates.serialOf(port) != before, "the new certificate")


@requires("curl")
def test_a_machine_sends_with_its_certificate_and_no_other_client_does(page: Page, certificates: Certificates) -> None:
    port = page.listen("machines.toml", "tcp:465")
    service = page.start("smtphooks --config machines.toml")
    (page.folder / "message.txt").write_text("Subject: hello\n\nhello\n")
    assert page.run("curl --cacert", **{"127.0.0.1:465": f"127.0.0.1:{port}"})[0] == 0
    assert len(list((page.folder / "maildir" / "new").iterdir())) == 1
    with pytest.raises((OSError, smtplib.SMTPServerDisconnected)):
        smtplib.SMTP_SSL("127.0.0.1", port, timeout=PATIENCE, context=certificates.context).ehlo()
    service.waitForLine("TLS handshake with 127.0.0.1 failed: the client gave no certificate")
