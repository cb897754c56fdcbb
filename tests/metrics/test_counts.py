"""Counts: each number is exact, whatever the log shows, and no label holds what a client has made up."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address

from smtphooks import AuthResponse, Hooks, SMTPError
from smtphooks.metrics import Metrics
from tests.conftest import Logged
from tests.metrics.scrape import Scrape, observed, scrape
from tests.secrets import PASSWORD, WRONG_PASSWORD, plain
from tests.support import ENVELOPE, HELLO, LMTP_ENVELOPE, MAIL, RCPT, Client, Pending, Transport, makeFactory

MESSAGE = ("DATA", "Subject: x", "", "text", ".")
OCTETS = len("Subject: x\r\n\r\ntext\r\n")


class Server:
    """An observed server, and its clients."""

    def __init__(self, **given: Any) -> None:
        self.factory = makeFactory(**given)
        self.metrics: Metrics = observed(self.factory)

    def client(self, transport: Transport | None = None) -> Client:
        return Client(self.factory, transport)

    def scrape(self) -> Scrape:
        return scrape(self.metrics)

    def results(self, name: str) -> dict[str, float]:
        return {result: value for (result,), value in self.scrape().of(name, "result").items()}


class Picky(Hooks):
    def onRcptTo(self, address: Any, session: Any) -> None:
        if address.local != "user":
            raise SMTPError("No", 550)

    def onAuth(self, auth: Any, session: Any) -> AuthResponse | None:
        if auth.username == "later":
            raise SMTPError("Later", 454)
        return AuthResponse(user="ann") if auth.password == PASSWORD else None


def test_connections_are_counted_as_they_come_and_go() -> None:
    server = Server()
    first, second = server.client(), server.client()
    first.lose()
    seen = server.scrape()
    assert seen.one("smtphooks_connections_total") == 2
    assert seen.one("smtphooks_open_connections") == 1
    second.lose()
    assert server.scrape().one("smtphooks_open_connections") == 0


def test_refused_connections_are_counted_by_the_option() -> None:
    server = Server(maxClients=2, maxClientsPerAddress=1)
    server.client()
    server.client()
    server.client(Transport(peerAddress=IPv4Address("TCP", "198.51.100.1", 5)))
    seen = server.scrape()
    assert seen.of("smtphooks_connections_refused_total", "option") == {
        ("maxClients",): 1,
        ("maxClientsPerAddress",): 1,
    }
    assert seen.one("smtphooks_connection_limit_used_ratio") == 1.5


@pytest.mark.parametrize("octets", [b"GET / HTTP/1.1\r\n\r\n", b""])
def test_a_proxy_without_its_header_is_counted_once(octets: bytes) -> None:
    server = Server(useProxy=["192.0.2.7"])
    client = server.client()
    if octets:
        client.feed(octets)
    client.lose()
    assert server.scrape().of("smtphooks_connections_refused_total", "option") == {("useProxy",): 1}


def test_replies_are_counted_by_known_verbs_and_codes() -> None:
    server = Server()
    server.client().say(*ENVELOPE, "NOOP", "noop", "XYZZY secret", "RCPT TO:<", *MESSAGE)
    assert server.scrape().of("smtphooks_replies_total", "verb", "code") == {
        ("", "220"): 1,
        ("EHLO", "250"): 1,
        ("MAIL", "250"): 1,
        ("RCPT", "250"): 1,
        ("NOOP", "250"): 2,
        ("", "500"): 1,
        ("RCPT", "501"): 1,
        ("DATA", "354"): 1,
        ("DATA", "250"): 1,
    }


def test_the_hook_that_observes_replies_still_does() -> None:
    seen: list[int] = []
    server = Server(onReply=lambda verb, reply, session: seen.append(reply.code))
    server.client().say(HELLO)
    assert seen == [220, 250]
    assert server.scrape().of("smtphooks_replies_total", "code") == {("220",): 1, ("250",): 1}


def test_octets_are_those_on_the_wire() -> None:
    server = Server()
    client = server.client()
    client.say(HELLO)
    seen = server.scrape()
    assert seen.one("smtphooks_received_bytes_total") == len(HELLO) + 2
    assert seen.one("smtphooks_sent_bytes_total") == sum(map(len, client.transport.writes))


def test_refusals_are_counted_by_who_gave_them_even_if_they_are_not_logged() -> None:
    server = Server(hooks=Picky(), logRefusals=False)
    server.client().say(HELLO, MAIL, RCPT, "RCPT TO:<a@b.test>", "RCPT TO:<c@b.test>", MAIL)
    assert server.scrape().of("smtphooks_refusals_total", "by", "verb") == {
        ("onRcptTo", "RCPT"): 2,
        ("server", "MAIL"): 1,
    }


def test_a_flood_of_refusals_is_counted_in_full() -> None:
    server = Server(maxErrors=0)
    server.client().say(HELLO, *[RCPT] * 50)
    assert server.scrape().of("smtphooks_refusals_total", "by", "verb") == {("server", "RCPT"): 50}


def test_auth_is_counted_by_method_and_result() -> None:
    server = Server(hooks=Picky(), allowInsecureAuth=True)
    client = server.client()
    client.say(HELLO)
    for user, password in (("ann", WRONG_PASSWORD), ("ann", WRONG_PASSWORD), ("later", PASSWORD), ("ann", PASSWORD)):
        client.feed(f"AUTH PLAIN {plain(user, password)}\r\n".encode())
        client.clock.advance(10)  # a failure takes its time
    seen = server.scrape()
    assert seen.of("smtphooks_auth_attempts_total", "method", "result") == {
        ("PLAIN", "failure"): 2,
        ("PLAIN", "tempfail"): 1,
        ("PLAIN", "success"): 1,
    }
    assert seen.of("smtphooks_refusals_total", "by") == {("onAuth",): 1}  # as in the log, without those that failed


def test_the_end_of_a_connection_is_no_attempt() -> None:
    server = Server(hooks=Picky(), allowInsecureAuth=True)
    client = server.client()
    client.say(HELLO, f"AUTH PLAIN {plain('ann', PASSWORD)}")
    server.factory.close()
    assert client.replies()[-1].startswith("421")
    assert server.scrape().of("smtphooks_auth_attempts_total", "result") == {("success",): 1}


class TestTransactions:
    def test_an_accepted_message(self) -> None:
        server = Server()
        server.client().say(HELLO, MAIL, RCPT, "RCPT TO:<other@mx.test>", *MESSAGE)
        seen = server.scrape()
        assert server.results("smtphooks_transactions_total") == {"accepted": 1}
        assert server.results("smtphooks_messages_total") == {"accepted": 1}
        assert seen.one("smtphooks_message_bytes_total") == OCTETS
        assert seen.one("smtphooks_message_recipients_total") == 2
        assert seen.one("smtphooks_final_dot_to_reply_seconds_count") == 1

    def test_a_refused_message(self) -> None:
        def refuse(stream: Any, session: Any) -> None:
            raise SMTPError("No", 554)

        server = Server(onData=refuse)
        server.client().say(*ENVELOPE, *MESSAGE)
        assert server.results("smtphooks_transactions_total") == {"refused": 1}
        assert server.results("smtphooks_messages_total") == {"refused": 1}
        seen = server.scrape()
        assert seen.of("smtphooks_refusals_total", "by", "verb") == {("onData", "DATA"): 1}
        assert seen.one("smtphooks_message_bytes_total") == 0
        assert seen.one("smtphooks_final_dot_to_reply_seconds_count") == 1

    def test_a_message_that_one_recipient_of_lmtp_refuses_is_refused(self) -> None:
        server = Server(lmtp=True, onData=lambda stream, session: ["yes", SMTPError("No", 550)])
        server.client().say(*LMTP_ENVELOPE, "RCPT TO:<other@mx.test>", *MESSAGE)
        assert server.results("smtphooks_transactions_total") == {"refused": 1}
        assert server.scrape().of("smtphooks_replies_total", "verb", "code").items() >= {
            (("DATA", "250"), 1),
            (("DATA", "550"), 1),
        }

    @pytest.mark.parametrize("line", ["RSET", HELLO, "QUIT"])
    def test_one_that_the_client_breaks_off_is_abandoned(self, line: str) -> None:
        server = Server()
        client = server.client()
        client.say(*ENVELOPE)
        assert server.results("smtphooks_transactions_total") == {}
        client.say(line)
        client.lose()
        assert server.results("smtphooks_transactions_total") == {"abandoned": 1}

    @pytest.mark.parametrize("lines", [ENVELOPE, (*ENVELOPE, "DATA", "half a"), (*ENVELOPE, "BDAT 3", "x")])
    def test_one_whose_client_is_lost_is_abandoned(self, lines: tuple[str, ...]) -> None:
        server = Server()
        client = server.client()
        client.say(*lines)
        client.lose()
        assert server.results("smtphooks_transactions_total") == {"abandoned": 1}
        assert server.results("smtphooks_messages_total") == {}

    def test_chunks_are_one_message(self) -> None:
        server = Server()
        client = server.client()
        client.say(*ENVELOPE, "BDAT 3", "x")
        client.feed(b"BDAT 0 LAST\r\n")
        assert client.codes()[-1] == 250
        assert server.results("smtphooks_transactions_total") == {"accepted": 1}
        assert server.results("smtphooks_messages_total") == {"accepted": 1}
        assert server.scrape().one("smtphooks_final_dot_to_reply_seconds_count") == 1

    def test_a_refusal_between_chunks_has_no_time_from_the_final_dot(self) -> None:
        def refuse(stream: Any, session: Any) -> None:
            raise SMTPError("No", 554)

        server = Server(onData=refuse)
        server.client().say(*ENVELOPE, "BDAT 3", "x")
        assert server.results("smtphooks_messages_total") == {"refused": 1}
        assert server.scrape().one("smtphooks_final_dot_to_reply_seconds_count") == 0

    def test_the_client_may_leave_before_the_reply(self) -> None:
        hook = Pending()
        server = Server(onData=hook)
        client = server.client()
        client.say(*ENVELOPE, *MESSAGE)
        client.lose()
        hook.decide()
        assert server.results("smtphooks_messages_total") == {"unanswered": 1}
        assert server.results("smtphooks_transactions_total") == {"abandoned": 1}
        assert server.scrape().one("smtphooks_message_bytes_total") == 0
        assert server.scrape().one("smtphooks_final_dot_to_reply_seconds_count") == 0


def test_octets_that_no_hook_takes_are_seen_while_they_are_held() -> None:
    hook = Pending()
    server = Server(onData=hook)
    client = server.client()
    client.say(*ENVELOPE, "DATA", "x" * 998)
    assert server.scrape().one("smtphooks_buffered_bytes") == 1000
    client.lose()
    assert server.scrape().one("smtphooks_buffered_bytes") == 0


def test_each_hook_and_layer_is_timed_and_its_faults_are_counted(logged: Logged) -> None:
    class Second(Hooks):
        def onRcptTo(self, address: Any, session: Any) -> None:
            if address.local == "user":
                raise ZeroDivisionError

        def onData(self, stream: Any, session: Any) -> None: ...

    server = Server(hooks=[Picky(), Second()])
    server.client().say(HELLO, MAIL, RCPT, "RCPT TO:<nobody@mx.test>")
    assert len(logged.takeFailures(ZeroDivisionError)) == 1
    seen = server.scrape()
    assert seen.of("smtphooks_hook_seconds_count", "hook", "layer") == {
        ("onRcptTo", "Picky"): 2,
        ("onRcptTo", "Second"): 1,
    }
    assert seen.of("smtphooks_hook_faults_total", "hook", "layer") == {("onRcptTo", "Second"): 1}


def test_what_may_happen_later_is_there_from_the_start() -> None:
    """Prometheus sees no increase of a number that was not there before."""
    samples = {(sample.name, sample.labels.get("result")): sample.value for sample in Server().scrape().samples}
    for result in ("accepted", "refused", "abandoned"):
        assert samples["smtphooks_transactions_total", result] == 0
