"""The store Relay in front of Postfix, Exim, OpenSMTPD and Dovecot, by the service as an operator starts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.mta.contained import DOMAIN, HOST, LATER, NOBODY, USER, Server, needsTLS
from tests.real.mta.dovecot import FULL, Dovecot
from tests.real.mta.opensmtpd import OpenSMTPD
from tests.real.mta.postfix import PostfixServer
from tests.real.programs import Service, freePort, requires, run, tcp
from tests.secrets import PASSWORD, WRONG_PASSWORD
from tests.stores.relays import Talk

RECIPIENT, CAROL = f"bob@{DOMAIN}", f"carol@{DOMAIN}"

Start = Callable[..., int]


@pytest.fixture(params=["postfixServer", "exim", "openSMTPD", "dovecot"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


class Relaying:
    """
    A service with a relay.

    @ivar port: where it listens.
    """

    def __init__(self, folder: Path, upstream: Server, server: dict[str, Any], options: dict[str, Any]) -> None:
        self.port = freePort()
        given = {
            "upstream": f"127.0.0.1:{upstream.port}",
            "lmtp": isinstance(upstream, Dovecot),
            "tls": "none",
            "ca": upstream.ca,
            "servername": HOST,
            "connectTimeout": 5,
            **options,
        }
        text = f'[[listener]]\nendpoint = "{tcp(self.port)}"\n'
        text = _table({"name": "relay.example", "authOptional": True, **server}, "[options]") + text
        text += _table({"use": "smtphooks.stores:Relay", **given}, "[[layer]]")
        (folder / "relay.toml").write_text(text)
        self.service = Service(folder, ["--config", "relay.toml"], [tcp(self.port)])
        self._clients: list[Talk] = []

    def client(self) -> Talk:
        self._clients.append(Talk(self.port))
        return self._clients[-1]

    def send(self, *recipients: str, **more: Any) -> str:
        return self.client().send(*(recipients or (RECIPIENT,)), **more)

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        assert self.service.terminate() == 0, self.service.output
        assert "Traceback" not in self.service.output


def _table(values: dict[str, Any], head: str) -> str:
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, (bool, int)) else repr(value)}"
        for name, value in values.items()
    ]
    return "\n".join([head, *lines, ""])


@pytest.fixture
def relaying(tmp_path: Path) -> Iterator[Callable[..., Relaying]]:
    started: list[Relaying] = []

    def start(behind: Server, server: dict[str, Any] | None = None, **options: Any) -> Relaying:
        started.append(Relaying(tmp_path, behind, server or {}, options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


Make = Callable[..., Relaying]


class TestEveryServer:
    def test_a_message_arrives_whole_behind_our_field(self, server: Server, relaying: Make) -> None:
        client = relaying(server).client()
        client.begin(RECIPIENT)
        # OpenSMTPD adds a date and an identifier where there is none.
        fields = ["Subject: dots", "Date: Thu, 26 Nov 2026 12:00:00 +0000", "Message-ID: <1@here.example>"]
        lines = [*fields, "", ".", "..two", "x" * 900, "." * 500, *[f"{n}" for n in range(20000)], ".end"]
        assert client.message(*["." + line if line.startswith(".") else line for line in lines]).startswith("250 2.")
        (stored,) = server.waitFor()
        assert (stored.sender, stored.recipients) == ("sender@client.test", (RECIPIENT,))
        assert stored.content.endswith(b"\r\n" + "\r\n".join(lines).encode() + b"\r\n")
        assert b"Received: from client.test ([127.0.0.1])\r\n\tby relay.example with ESMTP id" in stored.content

    def test_each_recipient_has_the_answer_of_the_server(self, server: Server, relaying: Make) -> None:
        client = relaying(server).client()
        replies = client.begin(RECIPIENT, NOBODY, LATER, CAROL)[2:]
        later = "2" if isinstance(server, OpenSMTPD) else "4"  # it cannot
        assert [reply[:1] for reply in replies] == ["2", "5", later, "2"]
        assert replies[1].startswith("550")
        assert client.message().startswith("250")
        found: set[str] = set()
        for stored in server.waitFor():
            found |= set(stored.recipients)
        assert NOBODY not in found

    def test_a_message_that_is_too_large_is_refused(self, server: Server, relaying: Make) -> None:
        if isinstance(server, Dovecot):
            pytest.skip("it has no limit on messages")
        client = relaying(server).client()
        client.begin(RECIPIENT)
        start = client.last("DATA")
        reply = start
        if start.startswith("354"):
            client.tell("Subject: large", "", *[b"x" * 998] * 9000, ".")
            reply = client.hear()
        assert reply[:1] in ("4", "5")
        assert client.send(RECIPIENT).startswith("250")
        assert len(server.waitFor()) == 1

    def test_over_verified_TLS(self, server: Server, relaying: Make) -> None:
        needsTLS(server)
        assert relaying(server, tls="required").send().startswith("250")
        server.waitFor()

    def test_a_certificate_of_another_name_is_no_server(self, server: Server, relaying: Make) -> None:
        needsTLS(server)
        started = relaying(server, tls="required", servername="other.example")
        assert started.client().begin()[1].startswith("451 4.3.0")
        started.service.waitForLine("hook onMailFrom cannot decide", f"127.0.0.1:{server.port}")

    def test_a_server_that_was_killed_is_used_again_when_it_is_back(self, server: Server, relaying: Make) -> None:
        started = relaying(server)
        client = started.client()
        assert client.send(RECIPIENT).startswith("250")
        server.kill()
        assert client.begin(RECIPIENT)[1].startswith("451 4.3.0")
        server.restart()
        assert client.send(RECIPIENT).startswith("250")

    def test_a_server_that_dies_within_a_transaction_is_asked_anew_for_the_message(
        self, server: Server, relaying: Make
    ) -> None:
        client = relaying(server).client()
        assert client.begin(RECIPIENT)[2].startswith("250")
        server.restart()
        assert client.message().startswith("250")
        server.waitFor()

    def test_a_server_that_hangs_is_a_temporary_error(self, server: Server, relaying: Make) -> None:
        started = relaying(server, timeout=1, connectTimeout=1, dataTimeout=1)
        client = started.client()
        client.begin(RECIPIENT)
        server.pause()
        assert client.message().startswith("451 4.3.0")
        assert client.begin(RECIPIENT)[1].startswith("451 4.3.0")
        server.resume()
        assert client.send(RECIPIENT).startswith("250")


class TestAuthentication:
    @pytest.mark.parametrize("fixture", ["postfixServer", "exim"])
    def test_as_a_user(self, request: pytest.FixtureRequest, fixture: str, relaying: Make) -> None:
        server = request.getfixturevalue(fixture)
        assert relaying(server, user=USER, password=PASSWORD).send().startswith("250")
        server.waitFor()

    @pytest.mark.parametrize("fixture", ["postfixServer", "exim"])
    def test_a_wrong_password_bounces_no_mail(
        self, request: pytest.FixtureRequest, fixture: str, relaying: Make
    ) -> None:
        started = relaying(request.getfixturevalue(fixture), user=USER, password=WRONG_PASSWORD)
        assert started.client().begin()[1].startswith("451 4.3.0")
        started.service.waitForLine("refuses AUTH", "535")


class TestPostfix:
    def test_XCLIENT_makes_the_client_its_own(self, postfixServer: PostfixServer, relaying: Make) -> None:
        started = relaying(postfixServer, {"useXClient": ["127.0.0.1"]}, xClient=True)
        client = started.client()
        client.say("EHLO proxy.example", "XCLIENT ADDR=192.0.2.7 PORT=4711 NAME=far.example HELO=helo.far.example")
        assert client.send(RECIPIENT, hello="EHLO").startswith("250 2.0.0 Ok: queued as")
        (stored,) = postfixServer.waitFor()
        assert b"from helo.far.example (far.example [192.0.2.7])\r\n\tby mx.example" in stored.content
        assert client.begin("joe@elsewhere.example")[2][:3] in ("454", "554")  # no client of its own network

    def test_clients_share_no_connection_with_XCLIENT(self, postfixServer: PostfixServer, relaying: Make) -> None:
        addresses = ["192.0.2.7", "192.0.2.8", "IPV6:2001:db8::7"]
        with PostfixServer(inet_protocols="all") as server:  # or it takes no address of IPv6
            started = relaying(server, {"useXClient": ["127.0.0.1"]}, xClient=True)
            for address in addresses:
                client = started.client()
                client.say("EHLO proxy.example", f"XCLIENT ADDR={address}")
                assert client.send(RECIPIENT).startswith("250")
            for address in addresses:
                server.waitForLine(f"client=unknown[{address.removeprefix('IPV6:')}]")

    def test_XFORWARD_tells_its_log(self, postfixServer: PostfixServer, relaying: Make) -> None:
        started = relaying(postfixServer, {"useXForward": ["127.0.0.1"]}, xForward=True)
        client = started.client()
        client.say("EHLO filter.example", "XFORWARD ADDR=192.0.2.7 NAME=far.example IDENT=4711ABC")
        client.say("MAIL FROM:<a@b.test>", f"RCPT TO:<{RECIPIENT}>")
        assert client.message().startswith("250")
        postfixServer.waitForLine("orig_queue_id=4711ABC", "orig_client=far.example[192.0.2.7]")

    def test_parameters_of_DSN_and_SMTPUTF8_arrive(self, postfixServer: PostfixServer, relaying: Make) -> None:
        client = relaying(postfixServer, {"hideDSN": False}).client()
        client.say("EHLO client.test", "MAIL FROM:<sender@here.example> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=a+2Bb")
        assert client.last(f"RCPT TO:<jürgen@{DOMAIN}> NOTIFY=SUCCESS ORCPT=rfc822;x@{DOMAIN}").startswith("250")
        assert client.message("Subject: grüße", "", "text").startswith("250")
        report = next(one for one in postfixServer.waitFor(2) if one.sender == "")
        assert b"Original-Envelope-Id: a+b" in report.content
        assert f"Original-Recipient: rfc822;x@{DOMAIN}".encode() in report.content

    @requires("smtp-source")
    def test_messages_of_twenty_parallel_sessions_all_arrive_whole_and_once(
        self, postfixServer: PostfixServer, relaying: Make, tmp_path: Path
    ) -> None:
        file = tmp_path / "message"
        file.write_bytes(b"Subject: load\n\n" + b"".join(b"%d %b\n" % (n, b"x" * n) for n in range(200)))
        started = relaying(postfixServer)
        load = ["-s", "20", "-m", "300", "-M", "client.example", "-N", "-d", "-t", RECIPIENT, "-F", file]
        run("smtp-source", *load, f"127.0.0.1:{started.port}")
        stored = postfixServer.waitFor(300)
        assert len(stored) == 300
        assert len({name for one in stored for name in one.recipients}) == 300
        assert len({one.content.partition(b"Subject: load")[2] for one in stored}) == 1


class TestDovecot:
    @pytest.mark.parametrize("place", ["inet", "unix"])
    def test_LMTP_to_LMTP_has_its_answer_for_each_recipient(self, dovecot: Dovecot, relaying: Make, place: str) -> None:
        upstream = {"unix": {"upstream": dovecot.path}, "inet": {}}[place]
        client = relaying(dovecot, {"lmtp": True}, **upstream).client()
        replies = client.begin(RECIPIENT, NOBODY, FULL, CAROL, hello="LHLO")[2:]
        assert [reply[:3] for reply in replies] == ["250", "550", "250", "250"]
        answers = [client.message(), client.hear(), client.hear()]
        assert [answer[:9] for answer in answers] == ["250 2.0.0", "552 5.2.2", "250 2.0.0"]
        assert sorted(one.recipients for one in dovecot.waitFor(2)) == [(RECIPIENT,), (CAROL,)]

    def test_SMTP_to_LMTP_has_the_worst(self, dovecot: Dovecot, relaying: Make) -> None:
        started = relaying(dovecot)
        assert started.send(RECIPIENT, FULL).startswith("552 5.2.2")
        assert started.send(RECIPIENT, CAROL).startswith("250")
