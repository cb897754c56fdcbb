"""Postfix as a client: its load generator, and an instance that delivers over LMTP."""

from __future__ import annotations

import os
import shutil
import smtplib
import tempfile
from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.real.conftest import StartService
from tests.real.programs import Maildir, Program, eventually, freePort, requires, run, tcp, which

CONTENT = b"Subject: load\n\n" + b"".join(b"%s%d %s\n" % (b"." * (n % 4), n, b"x" * n) for n in range(100))


@requires("smtp-source")
@pytest.mark.parametrize("connections", [["-d"], []], ids=["keptConnections", "connectionPerMessage"])
@pytest.mark.parametrize("protocol", ["SMTP", "LMTP"])
def test_messages_of_twenty_parallel_sessions_are_all_stored_whole(
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
    # smtp-source appends an empty line to every message.
    assert {message.content for message in messages} == {CONTENT + b"\n"}
    # -N numbers the recipients: 500 different ones, so none is missing.
    assert len({message.deliveredTo[0] for message in messages}) == 500
    assert maildir.isTidy()


class Postfix:
    """
    An instance that accepts mail over SMTP and relays it to other servers, one for each domain.

    @ivar port: where it accepts mail.
    """

    def __init__(
        self, folder: Path, destinations: dict[str, str], transport: str = "lmtp", services: str = "", **more: object
    ) -> None:
        """
        @param destinations: domain to the address of its server, which need not listen yet.
        @param transport: the protocol of these servers, C{"lmtp"} or C{"smtp"}.
        @param services: further lines of master.cf.
        @param more: further settings of main.cf.
        """
        self.port = freePort()
        self._config = folder / "etc"
        for new in (self._config, folder / "spool", folder / "data"):
            new.mkdir()
        # Postfix requires that its own user owns the data directory.
        shutil.chown(folder / "data", "postfix")
        transports = ", ".join(f"{{ {domain} = {transport}:{place} }}" for domain, place in destinations.items())
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": folder / "spool",
            "data_directory": folder / "data",
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
            "relay_domains": ", ".join(destinations),
            "relay_recipient_maps": "",
            "transport_maps": f"inline:{{ {transports} }}",
            **more,
        }
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (self._config / "main.cf").write_text("".join(lines))
        (self._config / "master.cf").write_text(_SERVICES.format(port=self.port) + services)
        postfix = which("postfix")
        assert postfix is not None
        self._program = Program([postfix, "-c", str(self._config), "start-fg"], os.environ, folder)
        try:
            self._program.waitForLine("daemon started")
        except AssertionError:
            self.stop()
            raise

    def waitForLine(self, *parts: str) -> None:
        """Wait until its log has a line with all of these parts."""
        self._program.waitForLine(*parts)

    def flush(self) -> None:
        """Try again to deliver all that is in its queue."""
        run("postqueue", "-c", self._config, "-f")

    def waitUntilIdle(self) -> None:
        """Wait until its queue is empty."""
        eventually(self._isIdle, "an empty queue of Postfix")

    def _isIdle(self) -> bool:
        return b"queue is empty" in run("postqueue", "-c", self._config, "-p").stdout

    def stop(self) -> None:
        """Stop it, with all processes that it has started."""
        run("postfix", "-c", self._config, "stop", status=None)
        self._program.terminate()


# No service runs in a chroot, which would need copies of the system's files.
_SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
lmtp unix - - n - - lmtp
smtp unix - - n - - smtp
tlsmgr unix - - n 1000? 1 tlsmgr
error unix - - n - - error
retry unix - - n - - error
showq unix n - n - - showq
postlog unix-dgram n - n - 1 postlogd
"""


class Route(NamedTuple):
    """
    A domain whose mail Postfix delivers here.

    @ivar endpoint: where the service must listen for it.
    """

    postfix: Postfix
    domain: str
    endpoint: str


@pytest.fixture(scope="module")
def routes() -> Iterator[dict[str, Route]]:
    """One Postfix for all tests, with a route over TCP and one over a UNIX socket."""
    with tempfile.TemporaryDirectory(prefix="real-") as path:
        folder = Path(path)
        # Postfix drops privileges, so its user must reach the folder; and the path of a socket must be short.
        folder.chmod(0o755)
        port = freePort()
        socket = folder / "lmtp"
        postfix = Postfix(folder, {"inet.example": f"inet:127.0.0.1:{port}", "unix.example": f"unix:{socket}"})
        yield {
            "inet": Route(postfix, "inet.example", tcp(port)),
            "unix": Route(postfix, "unix.example", f"unix:{socket}:mode=666"),
        }
        postfix.stop()


@pytest.fixture(params=["inet", "unix"])
def route(
    request: pytest.FixtureRequest, routes: dict[str, Route], startService: StartService, maildir: Maildir
) -> Route:
    """A route from Postfix into the Maildir."""
    found = routes[request.param]
    startService("PickyMaildir", lmtp=True, endpoint=found.endpoint, hooksOptions={"path": maildir.path})
    return found


@requires("postfix", "postqueue")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix")
class TestDeliveryByPostfix:
    def test_refused_recipient_is_bounced_and_the_other_one_is_stored(self, route: Route, maildir: Maildir) -> None:
        sender, somebody, nobody = (f"{local}@{route.domain}" for local in ("sender", "somebody", "nobody"))
        message = b"Subject: both\r\n\r\n.\r\nfor one of two\r\n"
        with smtplib.SMTP("127.0.0.1", route.postfix.port) as client:
            assert client.sendmail(sender, [somebody, nobody], message) == {}
        found = {stored.deliveredTo[0]: stored for stored in maildir.waitFor(2)}

        assert found.keys() == {somebody, sender}
        assert found[somebody].returnPath == sender
        assert found[somebody].content.endswith(b"\n\n.\nfor one of two\n")
        assert found[sender].returnPath == ""
        report = message_from_bytes(found[sender].content, policy=policy.default)
        assert report.get_content_type() == "multipart/report"
        (status,) = [part for part in report.walk() if part.get_content_type() == "message/delivery-status"]
        assert f"Final-Recipient: rfc822; {nobody}" in status.as_string()
        assert "Diagnostic-Code: smtp; 550 5.1.1 No such user here" in status.as_string()
        route.postfix.waitUntilIdle()

    @requires("smtp-source")
    def test_every_message_of_a_busy_queue_is_delivered_once(
        self, route: Route, maildir: Maildir, tmp_path: Path
    ) -> None:
        file = tmp_path / "message"
        file.write_bytes(CONTENT)
        sender, recipient = f"sender@{route.domain}", f"recipient@{route.domain}"
        load = ["-d", "-s", "5", "-m", "50", "-r", "3", "-F", file]
        run("smtp-source", *load, "-f", sender, "-t", recipient, f"127.0.0.1:{route.postfix.port}")
        route.postfix.waitUntilIdle()

        messages = maildir.messages()
        # -r numbers the recipients of each message.
        counts = Counter(recipient for message in messages for recipient in message.deliveredTo)
        assert sorted(counts.values()) == [50, 50, 50]
        # Postfix prepends header fields, and smtp-source appends an empty line.
        body = CONTENT.partition(b"\n\n")[2] + b"\n"
        assert all(message.content.endswith(b"\n\n" + body) for message in messages)
