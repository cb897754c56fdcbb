"""Mail that OpenDKIM signs and Postfix sends, as SenderAuthentication sees it."""

from __future__ import annotations

import json
import os
import re
import smtplib
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from tests.layers.authentication.signing import PRIVATE, RECORD
from tests.real.mta.postfix import Postfix
from tests.real.programs import ROOT, Maildir, Program, Service, eventually, freePort, requires, run, tcp, which

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


_SERVICE = """\
[options]
name = "mx.there.example"
authOptional = true

[[listener]]
endpoint = "{endpoint}"

[[layer]]
use = "smtphooks.layers:SenderAuthentication"
spf = "reject"
dmarc = "reject"
servers = ["{names}"]

[[layer]]
use = "smtphooks.stores:Maildir"
path = "{maildir}"
"""

_ZONE = {
    "example.com": ["v=spf1 ip4:127.0.0.1 -all"],
    "forged.example": ["v=spf1 -all"],
    "test._domainkey.example.com": [RECORD.decode()],
    "_dmarc.example.com": ["v=DMARC1; p=reject"],
}


@pytest.fixture
def programs() -> Iterator[ExitStack]:
    """Stops the programs of a test when it ends, the last one first."""
    with ExitStack() as stack:
        yield stack


def startNames(zone: Mapping[str, Sequence[str]], programs: ExitStack) -> tuple[Program, str]:
    """
    Start a DNS server; with its address.

    @param zone: texts and IPv4 addresses by name.
    """
    names = Program(
        [sys.executable, "-m", "tests.layers.authentication.zoneserver", json.dumps(zone)],
        {**os.environ, "PYTHONPATH": str(ROOT)},
        ROOT,
    )
    programs.callback(names.kill)
    names.waitForLine("DNS at")
    found = re.search(r"DNS at (\S+)", names.output)
    assert found is not None
    return names, found[1]


def startMX(folder: Path, maildir: Maildir, programs: ExitStack) -> int:
    """Start a service with the layer and a Maildir; its port."""
    port = freePort()
    config = folder / "smtphooks.toml"
    _, names = startNames(_ZONE, programs)
    config.write_text(_SERVICE.format(endpoint=tcp(port), names=names, maildir=maildir.path))
    service = Service(folder, ["--config", str(config)], [tcp(port)])
    programs.callback(service.terminate)
    return port


def startOpenDKIM(folder: Path, form: str, programs: ExitStack) -> int:
    """Start OpenDKIM; its port."""
    key, config, port = folder / "key", folder / "opendkim.conf", freePort()
    key.write_bytes(PRIVATE)
    key.chmod(0o600)
    config.write_text(_CONFIG.format(key=key, port=port, form=form, folder=folder))
    program = which("opendkim")
    assert program is not None
    opendkim = Program([program, "-f", "-x", str(config)], os.environ, folder)
    programs.callback(opendkim.terminate)
    eventually(lambda: _accepts(port), "OpenDKIM listens")
    return port


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


MESSAGE = (
    "From: Ann <ann@example.com>\r\nTo: bob@there.example\r\nSubject:  two  spaces \r\n and a fold\r\n"
    "Authentication-Results: mx.there.example; dkim=pass header.d=bank.example\r\n"
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    "..dots \t and sp\u00e4ces  \r\n.\r\n\r\n\r\n"
).encode()


@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
def test_mail_that_opendkim_signs_and_postfix_sends_passes(
    form: str, programs: ExitStack, tmp_path: Path, maildir: Maildir
) -> None:
    folder = Path(programs.enter_context(tempfile.TemporaryDirectory(prefix="real-")))
    # Postfix drops privileges, so its user must reach the folder.
    folder.chmod(0o755)
    place = startMX(tmp_path, maildir, programs)
    milter = startOpenDKIM(folder, form, programs)
    postfix = Postfix(
        folder,
        {"there.example": f"[127.0.0.1]:{place}"},
        "smtp",
        smtpd_milters=f"inet:127.0.0.1:{milter}",
        milter_default_action="tempfail",
    )
    programs.callback(postfix.stop)
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.sendmail("ann@example.com", ["bob@there.example"], MESSAGE, ["BODY=8BITMIME"])
    (stored,) = maildir.waitFor(1)
    fields = message_from_bytes(stored.content, policy=policy.default).get_all("Authentication-Results")
    (field,) = [" ".join(field.split()) for field in fields]
    assert field.startswith(
        "mx.there.example; spf=pass smtp.mailfrom=example.com; spf=none smtp.helo=postfix.example; "
        "dkim=pass header.d=example.com header.s=test header.a=rsa-sha256 header.b="
    )
    assert field.endswith("; arc=none; dmarc=pass header.from=example.com policy.dmarc=reject")


@requires("swaks")
def test_forged_mail_is_refused(programs: ExitStack, tmp_path: Path, maildir: Maildir) -> None:
    port = startMX(tmp_path, maildir, programs)

    def send(sender: str, author: str, status: int) -> bytes:
        given = ["--server", f"127.0.0.1:{port}", "--from", sender, "--to", "bob@there.example", "--h-From", author]
        return run("swaks", *given, status=status).stdout

    assert b"550 5.7.23 SPF: forged.example does not allow mail from" in send("a@forged.example", "a@b.example", 23)
    assert b"550 5.7.1 DMARC: example.com asks to refuse" in send("a@b.example", "ann@example.com", 26)
    assert b"250 " in send("ann@example.com", "ann@example.com", 0)
    assert len(maildir.waitFor(1)) == 1
