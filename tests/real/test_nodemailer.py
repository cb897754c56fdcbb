"""nodemailer, a mail client for Node.js, which npm installs for these tests."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.real.conftest import StartService
from tests.real.programs import Certificates, Maildir, requires, run
from tests.secrets import PASSWORD, TOKEN, WRONG_PASSWORD

pytestmark = requires("node", "npm")

SCRIPT = """
const { transport, tls, ca } = JSON.parse(process.argv[2]);
const fs = require("fs");
const given = { host: "localhost", ...transport, tls: { ca: fs.readFileSync(ca), servername: "mx.example", ...tls } };
const client = require("nodemailer").createTransport(given);
const envelope = { from: "sender@here.example", to: "recipient@there.example" };
client.sendMail({ ...envelope, subject: "by Node", text: ".\\nthe end\\n" }).then(
  (sent) => console.log("SENT " + sent.response),
  (error) => console.log("FAILED " + error.code + " " + error.response),
);
"""


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nodemailer and the script in it."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "send.js").write_text(SCRIPT)
    quiet = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    try:
        done = run("npm", "install", *quiet, "--prefix", folder, "nodemailer@7", status=None, seconds=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install nodemailer in two minutes")
    if done.returncode or not (folder / "node_modules" / "nodemailer").is_dir():
        pytest.skip(f"npm cannot install nodemailer: {done.stdout.decode()[-200:]}")
    return folder


def send(folder: Path, certificates: Certificates, port: int, **transport: object) -> str:
    """Send the message; the outcome, as the script prints it."""
    given = {"transport": {"port": port, "requireTLS": True, **transport}, "tls": {}, "ca": certificates.authority}
    return run("node", folder / "send.js", json.dumps(given)).stdout.decode()


LOGINS = {
    method: ({"user": "ann", "pass": PASSWORD}, {"user": "ann", "pass": WRONG_PASSWORD})
    for method in ("PLAIN", "LOGIN", "CRAM-MD5")
}
LOGINS["XOAUTH2"] = (
    {"type": "OAuth2", "user": "ann", "accessToken": TOKEN},
    {"type": "OAuth2", "user": "ann", "accessToken": TOKEN[::-1]},
)


@pytest.mark.parametrize("secure", [False, True], ids=["STARTTLS", "implicit"])
@pytest.mark.parametrize("method", LOGINS)
def test_known_user_sends_and_another_one_does_not(
    startService: StartService, certificates: Certificates, maildir: Maildir, modules: Path, method: str, secure: bool
) -> None:
    running = startService(
        "KnownUsers",
        hooksOptions={"path": maildir.path},
        options={"authOptional": False, "authMethods": [*LOGINS]},
        tls=certificates.server,
        secure=secure,
    )
    right, wrong = LOGINS[method]
    said = send(modules, certificates, running.port, secure=secure, auth=right, authMethod=method)
    assert said.startswith("SENT 250 2.0.0 Stored as "), said
    message = maildir.message()
    assert message.content.endswith(b"\n\n.\nthe end\n")
    assert " with ESMTPSA id " in message.received
    refused = send(modules, certificates, running.port, secure=secure, auth=wrong, authMethod=method)
    assert refused.startswith("FAILED EAUTH"), refused
    assert len(maildir.files()) == 1


def test_server_with_another_certificate_gets_nothing(
    startService: StartService, certificates: Certificates, maildir: Maildir, modules: Path
) -> None:
    running = startService(tls=certificates.sni["mail.example.org"])
    assert send(modules, certificates, running.port).startswith("FAILED ESOCKET")
    assert maildir.files() == []
