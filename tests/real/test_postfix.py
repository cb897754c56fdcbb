"""Postfix as a client: its load generator, and an instance that delivers over LMTP."""

from __future__ import annotations

import os
import smtplib
import tempfile
from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.real.conftest import StartService
from tests.real.mta.postfix import Postfix
from tests.real.programs import Maildir, freePort, requires, run, tcp

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
