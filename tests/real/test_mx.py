"""
The MX of docs/layers.rst, among real programs: what it takes and refuses, and what becomes of mail while it is faulty.

Postfix sends it mail that OpenDKIM has signed, and keeps what it does not take.
"""

from __future__ import annotations

import os
import re
import signal
import smtplib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.layers.authentication.signing import RECORD
from tests.real.mta.postfix import Postfix
from tests.real.programs import (
    PATIENCE,
    ROOT,
    Client,
    Maildir,
    Program,
    Service,
    Stored,
    eventually,
    freePort,
    requires,
    run,
    tcp,
    toml,
)
from tests.real.test_clamav import VIRUSES, Clamd
from tests.real.test_opendkim import startNames, startOpenDKIM

pytestmark = [
    requires("postfix", "postqueue", "opendkim", "clamd", "swaks"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix"),
]

HONEST, OTHER = "honest@example.com", "other@example.net"
VIRUS = VIRUSES["Own.Text"]

_BLOCK = re.search(r"    :name: mx\.toml\n\n((?:    .*\n|\n)+)", (ROOT / "docs" / "layers.rst").read_text())
assert _BLOCK is not None
CONFIG = re.sub("^    ", "", _BLOCK[1], flags=re.MULTILINE)

LISTED = "9.9.9.9"
ZONE = {
    "2.0.0.127.zen.example.org": ["127.0.0.2"],
    "9.9.9.9.zen.example.org": ["127.0.0.2", "https://zen.example.org/why"],
    # The domain of an honest sender, whom others pretend to be.
    "example.com": ["v=spf1 ip4:192.0.2.1 -all"],
    "test._domainkey.example.com": [RECORD.decode()],
    "_dmarc.example.com": ["v=DMARC1; p=reject"],
}


class MX:
    """
    The service of the page, with a Postfix that sends to it, and all that both need.

    What the page says is changed only in places and times, and XCLIENT lets tests come from anywhere.
    """

    def __init__(self, folder: Path, programs: ExitStack) -> None:
        """
        @param programs: ends all programs.
        """
        self._folder = folder
        self._programs = programs
        self.port = freePort()
        self.maildir = Maildir(folder / "maildir")
        self.temporary = folder / "temporary"
        self.recipients = folder / "recipients.txt"
        for new in (self.temporary, folder / "clamd"):
            new.mkdir()
        self.recipients.write_text("".join(f"{name}@example.org\n" for name in ["ann", *FAULTS, *ENDS]))

        self.nameServer, nameServer = startNames(ZONE, programs)
        self.startClamd()
        (folder / "mx.toml").write_text(self._configuration(nameServer))
        self.start()
        milter = startOpenDKIM(folder, "relaxed/relaxed", programs)
        self.postfix = Postfix(
            folder,
            {"example.org": f"[127.0.0.1]:{self.port}"},
            "smtp",
            smtpd_milters=f"inet:127.0.0.1:{milter}",
            milter_default_action="tempfail",
        )
        programs.callback(self.postfix.stop)

    def _configuration(self, nameServer: str) -> str:
        text = CONFIG
        for said, changed in {
            '"tcp:25"': toml(tcp(self.port)),
            "authOptional = true": 'authOptional = true\nuseXClient = ["127.0.0.1"]\ncloseTimeout = 1',
            'servers = ["127.0.0.1"]': f"servers = [{toml(nameServer)}]\ntimeout = 2",
            '"unix:/run/clamav/clamd.ctl"': toml(self.clamd.unix),
            "hookTimeout = 60": "hookTimeout = 2",
            '"/var/mail/example.org"': toml(self.maildir.path),
        }.items():
            assert said in text
            text = text.replace(said, changed)
        return text

    def startClamd(self) -> None:
        self.clamd = Clamd(self._folder / "clamd")
        self._programs.callback(self.clamd.kill)

    def start(self) -> None:
        """Start the service."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(self.temporary))
            self.service = Service(self._folder, ["--config", "mx.toml"], [tcp(self.port)])
        self._programs.callback(self.service.kill)

    def send(self, recipient: str, content: bytes) -> None:
        """Hand Postfix a message of L{HONEST}, which it will send when it can."""
        header = b"From: %s\r\nTo: %s\r\nSubject: hello\r\n\r\n" % (HONEST.encode(), recipient.encode())
        with smtplib.SMTP("127.0.0.1", self.postfix.port, timeout=PATIENCE) as client:
            client.sendmail(HONEST, [recipient], header + content)

    def offer(self, author: str, content: bytes) -> int:
        """Send a message without a signature to the service itself, for ann; the code of its last reply."""
        message = b"From: %s\r\n\r\n%s\r\n" % (author.encode(), content)
        with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE) as client:
            try:
                client.sendmail(OTHER, ["ann@example.org"], message)
            except smtplib.SMTPDataError as refusal:
                return refusal.smtp_code
        return 250

    def storedFor(self, recipient: str) -> list[Stored]:
        return [stored for stored in self.maildir.messages() if recipient in stored.deliveredTo]


@pytest.fixture(scope="module")
def mx() -> Iterator[MX]:
    with tempfile.TemporaryDirectory(prefix="real-") as path, ExitStack() as programs:
        # Postfix drops privileges, so its user must reach the folder; and the path of a socket must be short.
        Path(path).chmod(0o755)
        mx = MX(Path(path), programs)
        yield mx
        assert mx.service.terminate() == 0, mx.service.output
        assert "Unhandled" not in mx.service.output


def swaks(mx: MX, *arguments: str, sender: str = OTHER, recipient: str = "ann@example.org", fails: bool = False) -> str:
    """Send a message to the service by swaks, from no one and nowhere in particular; the dialogue."""
    flags = ["--server", f"127.0.0.1:{mx.port}", "--helo", "client.example.net", "--suppress-data"]
    done = run("swaks", *flags, "-f", sender, "-t", recipient, *arguments, status=None)
    assert bool(done.returncode) == fails, done.stdout.decode()
    return done.stdout.decode()


def fromAddress(address: str) -> list[str]:
    """The flags of swaks for a client of this address."""
    return ["--xclient-addr", address, "--xclient-name", "[UNAVAILABLE]"]


# --- what it takes, and what it refuses ---


def test_signed_mail_by_postfix_is_stored_under_what_was_found_out(mx: MX) -> None:
    mx.send("ann@example.org", b"signed\r\n")
    mx.postfix.waitForLine("to=<ann@example.org>", "status=sent", "250 2.0.0 Stored as")
    (stored,) = mx.storedFor("ann@example.org")
    assert stored.returnPath == HONEST
    field = re.match(rb"Authentication-Results: mx\.example\.org;(?:\n?[ \t].*)+\n(?=\S)", stored.content)
    assert field is not None, stored.content
    results = field[0].split()
    assert {b"spf=fail", b"dkim=pass", b"dmarc=pass", b"header.d=example.com"} <= set(results)
    assert stored.content.endswith(b"\n\nsigned\n")


def test_mail_without_a_signature_by_an_allowed_client_is_stored(mx: MX) -> None:
    before = len(mx.maildir.files())
    assert "250 2.0.0 Stored as" in swaks(mx, *fromAddress("192.0.2.1"), sender=HONEST)
    assert len(mx.maildir.files()) == before + 1


def test_every_layer_refuses_what_it_is_there_for(mx: MX) -> None:
    before = len(mx.maildir.files())

    assert "<** 550 5.1.1 " in swaks(mx, recipient="nobody@example.org", fails=True)
    assert "<** 550 5.7.1 Relay access denied" in swaks(mx, recipient="ann@example.com", fails=True)
    listed = swaks(mx, *fromAddress(LISTED), fails=True)
    assert f"<** 550 5.7.1 Client {LISTED} is listed by zen.example.org: https://zen.example.org/why" in listed
    for sender in (OTHER, HONEST):
        forged = swaks(mx, "--h-From", HONEST, sender=sender, fails=True)
        assert "<** 550 5.7.1 DMARC: example.com asks to refuse" in forged
    assert "<** 550 5.7.1 Message refused, it contains Own.Text" in swaks(mx, "--body", VIRUS.decode(), fails=True)

    assert len(mx.maildir.files()) == before and mx.maildir.isTidy()


# --- faults ---

# Ends a fault.
Repair = Callable[[], None]


@contextmanager
def clamdKilled(mx: MX) -> Iterator[Repair]:
    mx.clamd.kill()
    yield mx.startClamd


@contextmanager
def stopped(program: Program) -> Iterator[Repair]:
    """A program that keeps its sockets, and answers nothing."""
    os.kill(program.pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(program.pid, signal.SIGCONT)
    finally:
        os.kill(program.pid, signal.SIGCONT)


def clamdStalled(mx: MX) -> AbstractContextManager[Repair]:
    return stopped(mx.clamd)


def nameServerSilent(mx: MX) -> AbstractContextManager[Repair]:
    return stopped(mx.nameServer)


@contextmanager
def full(folder: Path) -> Iterator[Repair]:
    """A disk of 64 KB in place of a folder, and then one of 10 MB."""
    if run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder, status=None).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield lambda: _grow(folder)
    finally:
        run("umount", "--lazy", folder)


def _grow(folder: Path) -> None:
    run("mount", "-o", "remount,size=10m", folder)


def maildirFull(mx: MX) -> AbstractContextManager[Repair]:
    mx.maildir.path.mkdir(exist_ok=True)
    return full(mx.maildir.path)


def spoolFull(mx: MX) -> AbstractContextManager[Repair]:
    return full(mx.temporary)


# What Postfix is told meanwhile.
FAULTS: dict[str, tuple[Callable[[MX], AbstractContextManager[Repair]], str]] = {
    "clamd-killed": (clamdKilled, "451 4.3.0"),
    "clamd-stalled": (clamdStalled, "451 4.3.0"),
    "dns-silent": (nameServerSilent, "451 4.7.1"),
    "maildir-full": (maildirFull, "452 4.3.1"),
    "spool-full": (spoolFull, "452 4.3.1"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_while_something_is_faulty_mail_waits_and_nothing_bad_passes(mx: MX, name: str) -> None:
    fault, reply = FAULTS[name]
    recipient = f"{name}@example.org"
    # More than the memory of a spool, less than clamd takes.
    content = (b"x" * 78 + b"\r\n") * 5000 + b"the end\r\n"
    with fault(mx) as repair:
        before = len(mx.maildir.files())
        mx.send(recipient, content)
        mx.postfix.waitForLine(f"to=<{recipient}>", "status=deferred", f"said: {reply}")
        assert mx.offer(OTHER, VIRUS) >= 400
        assert mx.offer(HONEST, b"forged") >= 400
        assert len(mx.maildir.files()) == before and mx.maildir.isTidy()

        repair()
        assertArrivesOnce(mx, recipient, content)


def assertArrivesOnce(mx: MX, recipient: str, content: bytes) -> None:
    """What Postfix has kept arrives when it tries again."""
    mx.postfix.flush()
    mx.postfix.waitForLine(f"to=<{recipient}>", "status=sent")
    mx.postfix.waitUntilIdle()
    (stored,) = mx.storedFor(recipient)
    assert stored.content.endswith(b"\n\n" + content.replace(b"\r\n", b"\n"))
    assert mx.maildir.isTidy()


def test_without_its_file_of_recipients_it_knows_those_that_it_knew(mx: MX) -> None:
    away = mx.recipients.with_suffix(".away")
    mx.recipients.rename(away)
    try:
        # It looks for the file at a RCPT, once a second.
        eventually(lambda: _isMissed(mx), "a line of the log about the file")
        assert "<** 550 5.1.1 " in swaks(mx, recipient="nobody@example.org", fails=True)
        assert "<** 550 5.7.1 Relay access denied" in swaks(mx, recipient="ann@example.com", fails=True)
        assert "250 2.0.0 Stored as" in swaks(mx)
    finally:
        away.rename(mx.recipients)


def _isMissed(mx: MX) -> bool:
    with Client(mx.port) as client:
        client.say(b"MAIL FROM:<other@example.net>", 250)
        client.say(b"RCPT TO:<ann@example.org>", 250)
    return "recipients.txt" in mx.service.output


ENDS = {"terminated": signal.SIGTERM, "killed": signal.SIGKILL}


@pytest.mark.parametrize("name", ENDS)
def test_a_service_that_ends_within_a_message_loses_none(mx: MX, name: str) -> None:
    recipient = f"{name}@example.org"
    before = len(mx.maildir.files())
    with stopped(mx.clamd):
        read = mx.service.output.count("dkim=pass")
        mx.send(recipient, b"hello\r\n")
        eventually(lambda: mx.service.output.count("dkim=pass") > read, "a message that waits for clamd")
        with Client(mx.port) as client:
            client.say(b"MAIL FROM:<other@example.net>", 250)
            client.say(b"RCPT TO:<ann@example.org>", 250)
            client.say(b"DATA", 354)
            client.socket.sendall(b"From: other@example.net\r\n\r\nhalf of it")
            os.kill(mx.service.pid, ENDS[name])
            assert (mx.service.wait() == 0) is (name == "terminated")
        mx.postfix.waitForLine(f"to=<{recipient}>", "status=deferred")
    assert len(mx.maildir.files()) == before and mx.maildir.isTidy()

    mx.start()
    assertArrivesOnce(mx, recipient, b"hello\r\n")
