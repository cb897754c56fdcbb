"""Postfix as a client: its load generator, and an instance of the test's own that delivers over LMTP."""

from __future__ import annotations

import os
import smtplib
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from .conftest import StartService
from .programs import Maildir, Program, eventually, freePort, requires, run, tcp, which

CONTENT = b"Subject: load\n\n" + b"".join(b"%s%d %s\n" % (b"." * (n % 4), n, b"x" * n) for n in range(100))


@requires("smtp-source")
@pytest.mark.parametrize("connections", [["-d"], []], ids=["keptConnections", "connectionPerMessage"])
@pytest.mark.parametrize("protocol", ["SMTP", "LMTP"])
def test_messagesOfTwentyParallelSessionsAreAllStoredWhole(
    startService: StartService, maildir: Maildir, tmp_path: Path, protocol: str, connections: list[str]
) -> None:
    file = tmp_path / "message"
    file.write_bytes(CONTENT)
    lmtp = protocol == "LMTP"
    running = startService(lmtp=lmtp)
    run(
        "smtp-source",
        *["-s", "20", "-m", "500", "-M", "client.example", "-N", "-t", "recipient@there.example", "-F", file],
        *connections,
        *["-L"] * lmtp,
        f"127.0.0.1:{running.port}",
    )

    messages = maildir.messages()
    assert len(messages) == 500
    assert {message.content for message in messages} == {CONTENT}
    # -N numbers the recipients: none is there twice, so none is missing.
    assert len({message.deliveredTo[0] for message in messages}) == 500
    assert maildir.isTidy()


class Postfix:
    """
    An instance that takes mail over SMTP and hands all of it to one LMTP server.

    @ivar port: where it takes mail.
    """

    def __init__(self, folder: Path, destination: str) -> None:
        self.port = freePort()
        self._config = folder / "etc"
        self._config.mkdir()
        data = folder / "data"
        data.mkdir()
        # The owner of an instance's data has to be Postfix' own user.
        run("chown", "postfix", data)
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": folder / "spool",
            "data_directory": data,
            "maillog_file": "/dev/stdout",
            "myhostname": "postfix.example",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "disable_dns_lookups": "yes",
            "smtpd_peername_lookup": "no",
            "alias_maps": "",
            "local_recipient_maps": "",
            "notify_classes": "",
            "virtual_mailbox_domains": "here.example, there.example",
            "virtual_mailbox_maps": "static:all",
            "virtual_transport": f"lmtp:{destination}",
        }
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (self._config / "main.cf").write_text("".join(lines))
        (self._config / "master.cf").write_text(_SERVICES.format(port=self.port))
        postfix = which("postfix")
        assert postfix is not None
        self._program = Program([postfix, "-c", str(self._config), "start-fg"], os.environ, folder)
        self._program.waitForLine("daemon started")

    @property
    def output(self) -> str:
        """Its log."""
        return self._program.output

    def isIdle(self) -> bool:
        """Its queue is empty."""
        return b"queue is empty" in run("postqueue", "-c", self._config, "-p").stdout

    def stop(self) -> None:
        """End it, and all that it has started."""
        run("postfix", "-c", self._config, "stop", status=None)
        self._program.terminate()


# No service in it runs in a chroot: that would want copies of the system's files.
_SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
lmtp unix - - n - - lmtp
error unix - - n - - error
retry unix - - n - - error
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""

needsPostfix = [
    requires("postfix", "postqueue"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Postfix can only be started as root"),
]


@pytest.fixture(params=["inet", "unix"])
def postfix(
    request: pytest.FixtureRequest, startService: StartService, maildir: Maildir, publicFolder: Path
) -> Iterator[Postfix]:
    """Postfix that delivers to the service, over TCP and over a UNIX socket."""
    if request.param == "inet":
        port = freePort()
        endpoint, destination = tcp(port), f"inet:127.0.0.1:{port}"
    else:
        path = publicFolder / "lmtp"
        endpoint, destination = f"unix:{path}:mode=666", f"unix:{path}"
    startService("PickyMaildir", lmtp=True, endpoint=endpoint, hooksOptions={"path": maildir.path})
    instance = Postfix(publicFolder, destination)
    yield instance
    instance.stop()


class TestDeliveryByPostfix:
    pytestmark = needsPostfix

    def test_refusedRecipientIsBouncedAndTheOtherOneIsStored(self, postfix: Postfix, maildir: Maildir) -> None:
        message = b"Subject: both\r\n\r\n.\r\nfor one of two\r\n"
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            recipients = ["somebody@there.example", "nobody@there.example"]
            assert client.sendmail("sender@here.example", recipients, message) == {}

        found = {stored.deliveredTo[0]: stored for stored in maildir.waitFor(2)}
        assert found.keys() == {"somebody@there.example", "sender@here.example"}
        delivered = found["somebody@there.example"]
        assert delivered.returnPath == "sender@here.example"
        assert delivered.content.endswith(b"\n\n.\nfor one of two\n")
        bounce = found["sender@here.example"]
        assert bounce.returnPath == ""
        report = message_from_bytes(bounce.content, policy=policy.default)
        assert report.get_content_type() == "multipart/report"
        (status,) = [part for part in report.walk() if part.get_content_type() == "message/delivery-status"]
        assert "Final-Recipient: rfc822; nobody@there.example" in status.as_string()
        assert "Diagnostic-Code: smtp; 550 5.1.1 No such user here" in status.as_string()
        eventually(postfix.isIdle, "an empty queue of Postfix")

    @requires("smtp-source")
    def test_everyMessageOfABusyQueueIsDeliveredOnce(self, postfix: Postfix, maildir: Maildir, tmp_path: Path) -> None:
        file = tmp_path / "message"
        file.write_bytes(CONTENT)
        run(
            "smtp-source",
            *["-d", "-s", "5", "-m", "50", "-r", "3", "-N", "-F", file],
            *["-f", "sender@here.example", "-t", "recipient@there.example"],
            f"127.0.0.1:{postfix.port}",
        )
        eventually(postfix.isIdle, "an empty queue of Postfix")

        messages = maildir.messages()
        assert len(messages) == 150
        assert all(message.content.endswith(CONTENT.partition(b"\n\n")[2]) for message in messages)
        assert all(len(message.deliveredTo) == 1 for message in messages)
