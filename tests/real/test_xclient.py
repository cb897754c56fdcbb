"""XCLIENT from swaks, and XFORWARD from Postfix, with smtphooks before its queue (as a proxy filter) and after it."""

from __future__ import annotations

import json
import os
import re
import smtplib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.conftest import Running, StartService
from tests.real.mta.postfix import Postfix
from tests.real.programs import PATIENCE, Certificates, Maildir, freePort, requires, tcp
from tests.real.test_swaks import CONTENT, content, swaks
from tests.real.test_swaks_tls import needs

SELF, CLIENT = "127.0.0.1", "127.0.0.9"

ATTRIBUTES = ["--xclient-name", "spike.example", "--xclient-addr", "203.0.113.5", "--xclient-port", "40000"]
RECEIVED = "Received: from spike (spike.example [203.0.113.5]) "


def serve(startService: StartService, maildir: Maildir, trusted: str = SELF, **more: object) -> Running:
    options = {"useXClient": [trusted], "useXForward": [trusted]}
    return startService("Witness", hooksOptions={"path": maildir.path}, options=options, **more)


@requires("swaks")
class TestSwaks:
    @pytest.mark.parametrize("delim", [[], ["--xclient-delim"]], ids=["one", "two"])
    def test_client_is_the_one_that_XCLIENT_names(
        self, startService: StartService, maildir: Maildir, tmp_path: Path, delim: list[str]
    ) -> None:
        port = serve(startService, maildir).port
        named = ["--xclient-helo", "spike", "--xclient-login", "ann", *delim, *ATTRIBUTES]
        dialogue = swaks(tmp_path, port, "--to", "recipient@there.example", *named)

        assert dialogue.count("<-  220 ") == 2 + len(delim)
        assert " 250 2.1.0 ann at 203.0.113.5 port 40000" in dialogue
        assert content(maildir) == [CONTENT]
        assert maildir.message().received.startswith(RECEIVED)
        assert " with ESMTPA id " in maildir.message().received

    def test_XCLIENT_works_over_TLS_too(
        self, startService: StartService, certificates: Certificates, maildir: Maildir, tmp_path: Path
    ) -> None:
        needs("TLS")
        port = serve(startService, maildir, tls=certificates.server).port
        for number, order in enumerate([[], ["--xclient-before-starttls"]], 1):
            arguments = ["--tls", "--xclient-helo", "spike", *ATTRIBUTES, *order]
            dialogue = swaks(tmp_path, port, "--to", "recipient@there.example", *arguments)

            assert " 250 2.1.0 None at 203.0.113.5 port 40000" in dialogue
            assert len(maildir.files()) == number
        for message in maildir.messages():
            assert message.received.startswith(RECEIVED)
            assert " with ESMTPS id " in message.received

    def test_unavailable_attributes_are_unknown(
        self, startService: StartService, maildir: Maildir, tmp_path: Path
    ) -> None:
        port = serve(startService, maildir).port
        attributes = "NAME=[TEMPUNAVAIL] ADDR=IPV6:2001:db8::5 HELO=[UNAVAILABLE] PORT=[UNAVAILABLE]"
        dialogue = swaks(tmp_path, port, "--to", "recipient@there.example", "--xclient", attributes)

        assert " 250 2.1.0 None at 2001:db8::5 port 0" in dialogue
        assert maildir.message().received.startswith("Received: from client.example ([IPv6:2001:db8::5]) ")

    def test_refused_LOGIN_authenticates_no_user_and_nothing_is_sent(
        self, startService: StartService, maildir: Maildir, tmp_path: Path
    ) -> None:
        port = serve(startService, maildir).port
        refused = ["--to", "recipient@there.example", "--xclient-login", "nobody", *ATTRIBUTES]
        # Status 33 of swaks is a refused XCLIENT.
        assert " 535 5.7.8 " in swaks(tmp_path, port, *refused, status=33)
        # With --xclient-optional, swaks goes on without XCLIENT.
        assert f" 250 2.1.0 None at {SELF} port " in swaks(tmp_path, port, *refused, "--xclient-optional")

    def test_unlisted_peer_is_not_offered_XCLIENT(
        self, startService: StartService, maildir: Maildir, tmp_path: Path
    ) -> None:
        port = serve(startService, maildir, trusted="192.0.2.1").port
        dialogue = swaks(tmp_path, port, "--to", "recipient@there.example", *ATTRIBUTES, status=33)
        assert "XCLIENT" not in re.sub("^(?!<).*$", "", dialogue, flags=re.MULTILINE)


StartPostfix = Callable[..., Postfix]


@pytest.fixture
def startPostfix() -> Iterator[StartPostfix]:
    """Start a Postfix with further settings."""
    started: list[Postfix] = []
    with tempfile.TemporaryDirectory(prefix="real-") as path:
        folder = Path(path)
        folder.chmod(0o755)

        def start(destinations: dict[str, str], **settings: object) -> Postfix:
            started.append(Postfix(folder, destinations, "smtp", **settings))
            return started[-1]

        yield start
        for postfix in started:
            postfix.stop()


def forwarded(running: Running) -> dict[str, str]:
    """The attributes that Postfix has forwarded with its only message."""
    running.service.waitForLine("forwarded ")
    (said,) = re.findall("forwarded ({.*})", running.service.output)
    attributes: dict[str, str] = json.loads(said)
    return attributes


def attributesOf(port: int) -> dict[str, str]:
    """The attributes that Postfix must forward for a client, without those that differ: NAME and IDENT."""
    return {
        "ADDR": CLIENT,
        "PORT": str(port),
        "PROTO": "ESMTP",
        "HELO": "client.example",
        "SOURCE": "REMOTE",
    }


def send(port: int) -> int:
    """Send Postfix a message; the port of the client that sent it."""
    with smtplib.SMTP("127.0.0.1", port, "client.example", PATIENCE, (CLIENT, 0)) as client:
        client.ehlo("client.example")
        assert client.sock is not None
        ours: int = client.sock.getsockname()[1]
        assert client.sendmail("sender@there.example", ["recipient@there.example"], b"Subject: x\r\n\r\ntext\r\n") == {}
    return ours


@requires("postfix", "postqueue")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start Postfix")
class TestPostfix:
    def test_filter_before_the_queue_learns_the_client(
        self, startService: StartService, startPostfix: StartPostfix, maildir: Maildir
    ) -> None:
        running = serve(startService, maildir)
        postfix = startPostfix({"there.example": "[127.0.0.1]:9"}, smtpd_proxy_filter=f"127.0.0.1:{running.port}")
        port = send(postfix.port)

        said = forwarded(running)
        assert said == {**attributesOf(port), "NAME": "", "IDENT": said["IDENT"]}
        # XFORWARD changes nothing in the session itself.
        assert f"([{SELF}])" in maildir.message().received

    def test_server_behind_the_queue_learns_the_original_client(
        self, startService: StartService, startPostfix: StartPostfix, maildir: Maildir
    ) -> None:
        port = freePort()
        postfix = startPostfix({"there.example": f"[127.0.0.1]:{port}"}, smtp_send_xforward_command="yes")
        running = serve(startService, maildir, endpoint=tcp(port))
        sentFrom = send(postfix.port)
        maildir.waitFor(1)

        said = forwarded(running)
        assert said == {**attributesOf(sentFrom), "IDENT": said["IDENT"]}
        assert said["IDENT"]
        postfix.waitUntilIdle()
