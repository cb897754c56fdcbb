"""docs/howto/delivery-by-a-program.rst: Dovecot's program and one's own deliver as it says."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.howto.conftest import Page, deliver
from tests.real.programs import Program, eventually, requires

PAGE = "delivery-by-a-program"

LDA = "/usr/lib/dovecot/dovecot-lda"


@pytest.fixture
def dovecot(page: Page) -> Iterator[Path]:
    """Dovecot with the settings of the page, for the user C{nobody}; the folder of the mailboxes."""
    with tempfile.TemporaryDirectory(prefix="howto-") as path:
        folder = Path(path)
        # Its processes, and the program, have dropped privileges.
        folder.chmod(0o755)
        (folder / "mail").mkdir()
        (folder / "mail").chmod(0o777)
        (folder / "log").touch()
        (folder / "log").chmod(0o666)
        page.change("dovecot.conf", "protocols = imap", "protocols =")
        page.change("dovecot.conf", "uid=vmail gid=vmail home=/var/mail", f"uid=nobody gid=nogroup home={folder}/mail")
        page.change("dovecot.conf", "user = vmail", "user = nobody")  # of both sockets
        page.change("dovecot.conf", "/etc/dovecot/users", folder / "users")
        (folder / "users").write_text("ann@example.org:{PLAIN}x\n")
        settings = f"base_dir = {folder}/run\nstate_dir = {folder}/state\nlog_path = {folder}/log\nssl = no\n"
        (folder / "dovecot.conf").write_text(settings + page.text("dovecot.conf"))
        started = Program(["/usr/sbin/dovecot", "-F", "-c", f"{folder}/dovecot.conf"], {**os.environ}, folder)
        eventually((folder / "run" / "auth-userdb").exists, "the socket for users")
        page.change("lda.toml", '"-e"', f'"-c", "{folder}/dovecot.conf", "-e"')
        page.change("lda.toml", "vmail", "nobody")
        yield folder / "mail"
        started.terminate()


@requires("/usr/sbin/dovecot", LDA)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Dovecot and run programs as others")
def test_dovecot_delivers_for_each_recipient(page: Page, dovecot: Path) -> None:
    port = page.listen("lda.toml", "tcp:2525")
    status, said = page.run("smtphooks --config lda.toml --check")
    assert (status, "# onData: Command" in said) == (0, True)
    service = page.serve(["--config", "lda.toml"])
    message = b"Subject: hello\r\n\r\n" + b"x" * 70 * 1000 + b"\r\n"
    assert deliver(port, "ann@example.org", "ann@example.org", message=message)[0] == 250
    paths = [*(dovecot / "example.org" / "ann" / "Maildir" / "new").iterdir()]
    assert len(paths) == 2
    for path in paths:
        stored = path.read_bytes()
        assert b"Received: from client.example" in stored and stored.endswith(b"x\n")
    service.waitForLine(f"{LDA} exited with 0", "octets")
    assert deliver(port, "bob@example.org") == (550, b"5.1.1 User unknown")
    (dovecot / "example.org" / "ann" / "Maildir").rename(dovecot / "gone")
    (dovecot / "example.org" / "ann" / "Maildir").touch()
    assert deliver(port, "ann@example.org") == (451, b"4.3.0 Temporary failure")


def test_a_program_of_ones_own_files_mail_and_says_what_is_wrong_with_it(page: Page) -> None:
    tickets = page.folder / "tickets"
    (tickets / "7").mkdir(parents=True)
    port = page.listen("tickets.toml", "tcp:2525")
    page.change("tickets.toml", "/var/lib/tickets", tickets)
    service = page.start("smtphooks --config tickets.toml")
    status, said = page.run("smtphooks send", **{"2525": port})
    assert status == 0, said
    (path,) = (tickets / "7").iterdir()
    assert b"Subject: Re: [#7] it works\n" in path.read_bytes()
    service.waitForLine("python3 exited with 0: filed, with verdicts of 0 layers")
    to = "tickets@example.org"
    assert deliver(port, to) == (554, b"5.6.0 There is no ticket number in the subject")
    assert deliver(port, to, message=b"Subject: [#8]\r\n\r\n") == (550, b"5.1.1 There is no ticket 8")
    (tickets / "7").chmod(0o500)
    (tickets / "9").symlink_to("/proc/1")
    assert deliver(port, to, message=b"Subject: [#9]\r\n\r\n")[0] == 451
    service.waitForLine("python3 exited with 1: Traceback")
