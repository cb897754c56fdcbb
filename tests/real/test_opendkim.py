"""Mail that OpenDKIM signs and Postfix sends, as SenderAuthentication sees it."""

from __future__ import annotations

import os
import smtplib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from smtphooks.layers import SenderAuthentication
from smtphooks.session import Address, Session
from smtphooks.stream import MessageStream
from tests.layers.signing import PRIVATE, RECORD
from tests.layers.zones import Zone, now, text
from tests.real.conftest import StartService
from tests.real.programs import Maildir, Program, eventually, freePort, requires, tcp, which
from tests.real.test_postfix import Postfix

pytestmark = [
    requires("opendkim", "postfix"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix"),
]

_CONFIG = """\
Mode s
Domain example.com
Selector test
KeyFile {key}
Socket inet:{port}@127.0.0.1
Canonicalization {form}
SignatureAlgorithm rsa-sha256
OversignHeaders From
PidFile {folder}/pid
Background no
Syslog no
UserID root
RequireSafeKeys no
"""


class OpenDKIM(Program):
    """
    A milter that signs the mail of example.com, and listens once it is constructed.

    @ivar port: its port.
    """

    def __init__(self, folder: Path, form: str = "relaxed/relaxed") -> None:
        """
        @param form: the canonicalization of header and body.
        """
        key, config, self.port = folder / "key", folder / "opendkim.conf", freePort()
        key.write_bytes(PRIVATE)
        key.chmod(0o600)
        config.write_text(_CONFIG.format(key=key, port=self.port, form=form, folder=folder))
        program = which("opendkim")
        assert program is not None
        super().__init__([program, "-f", "-x", str(config)], os.environ, folder)
        try:
            eventually(lambda: _accepts(self.port), "OpenDKIM listens")
        except AssertionError:
            self.kill()
            raise


@pytest.fixture(params=["simple/simple", "relaxed/relaxed"])
def signing(request: pytest.FixtureRequest, startService: StartService) -> Iterator[Postfix]:
    """A Postfix whose mail OpenDKIM signs, with a route into the Maildir."""
    with tempfile.TemporaryDirectory(prefix="real-") as path:
        folder = Path(path)
        # Postfix drops privileges, so its user must reach the folder.
        folder.chmod(0o755)
        place = freePort()
        startService(endpoint=tcp(place))
        opendkim = OpenDKIM(folder, request.param)
        try:
            postfix = Postfix(
                folder,
                {"there.example": f"[127.0.0.1]:{place}"},
                "smtp",
                smtpd_milters=f"inet:127.0.0.1:{opendkim.port}",
                milter_default_action="tempfail",
            )
            yield postfix
            postfix.stop()
        finally:
            opendkim.terminate()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_mail_that_opendkim_has_signed_passes(signing: Postfix, maildir: Maildir) -> None:
    message = (
        "From: Ann <ann@example.com>\r\nTo: bob@there.example\r\nSubject:  two  spaces \r\n and a fold\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        "..dots \t and sp\u00e4ces  \r\n.\r\n\r\n\r\n"
    )
    with smtplib.SMTP("127.0.0.1", signing.port) as client:
        client.sendmail("ann@example.com", ["bob@there.example"], message.encode(), ["BODY=8BITMIME"])
    (stored,) = maildir.waitFor(1)
    received = stored.content.replace(b"\n", b"\r\n")

    layer = SenderAuthentication(
        dmarc="reject",
        resolver=Zone(
            {"test._domainkey.example.com": [text(RECORD)], "_dmarc.example.com": [text("v=DMARC1;p=reject")]}
        ),
    )
    layer.clock = Clock()
    session = Session(remoteAddress="192.0.2.1", hostNameAppearsAs="postfix.example")
    now(Deferred.fromCoroutine(layer.onMailFrom(Address("ann@example.com", "ann", "example.com"), session)))
    stream = MessageStream()
    stream.append(received, isLast=True)
    now(Deferred.fromCoroutine(layer.inspectData(stream, session)))
    found = session.of(layer)
    assert [(result.result, result.reason) for result in found.dkim] == [("pass", "")]
    assert found.dmarc.result == "pass"
