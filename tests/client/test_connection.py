"""A connection: time limits, what ends it, and what those who wait hear of it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost

from smtphooks.client import Delivery, Refused, Route, Timeouts, Unreachable
from tests.client.network import ESMTP, MESSAGE, ROUTE, Network, Server, clientOf, nothingIsLeft

pytestmark = pytest.mark.usefixtures("logged")

PLAIN = ("8BITMIME",)


def send(network: Network, content: Any = MESSAGE, **given: Any) -> tuple[Any, Any]:
    """A message to two recipients: what comes of it, and the client."""
    client = clientOf(network, **given)
    return network.run(client.send(ROUTE, "a@b.test", ["c@d.test", "e@d.test"], content)), client


# --- time ---

SILENCES = [
    ("greeting", 12, "the greeting"),
    ("EHLO", 13, "EHLO"),
    ("MAIL", 13, "MAIL"),
    ("RCPT", 13, "RCPT"),
    ("DATA", 14, "DATA"),
    ("message", 16, "the message"),
]


@pytest.mark.parametrize("extensions", [ESMTP, PLAIN])
@pytest.mark.parametrize(("label", "seconds", "name"), SILENCES)
def test_each_reply_has_its_time_limit(label: str, seconds: int, name: str, extensions: tuple[str, ...]) -> None:
    network = Network(Server(extensions=extensions, **{label: None}))
    outcome, client = send(network)
    network.advance(seconds - 0.1)
    network.settle()
    assert outcome.isPending
    network.advance(0.2)
    network.settle()
    assert str(outcome.error) == f"/server has not answered {name} within {seconds} seconds"
    assert isinstance(outcome.error, Unreachable)
    assert len(network.lines) == 1, "it was no used connection"
    nothingIsLeft(network, client)


@pytest.mark.parametrize(("label", "seconds", "name"), SILENCES)
def test_octets_that_drip_do_not_extend_it(label: str, seconds: int, name: str) -> None:
    network = Network(Server(**{label: b"250-"}))
    outcome, client = send(network)
    for _ in range(seconds * 2):
        if not outcome.isPending:
            break
        network.lines[0].toClient(b"x")
        network.advance(0.9)
        network.settle()
    assert str(outcome.error) == f"/server has not answered {name} within {seconds} seconds"
    nothingIsLeft(network, client)


def test_each_of_several_replies_has_the_whole_time() -> None:
    server = Server(RCPT=None, extensions=PLAIN)
    network = Network(server)
    outcome, client = send(network)
    network.advance(12)
    network.lines[0].toClient(b"250 one\r\n")
    network.settle()
    network.advance(12)
    network.settle()
    assert outcome.isPending
    server.isSilent = False
    network.lines[0].toClient(b"250 two\r\n")
    network.settle()
    assert isinstance(outcome.value, Delivery)
    nothingIsLeft(network, client)


def test_no_limit_is_no_limit() -> None:
    timeouts = Timeouts(connect=0, greeting=0, command=0, data=0, block=0, message=0, turn=0)
    network = Network(Server(MAIL=None))
    outcome, client = send(network, timeouts=timeouts)
    network.advance(1e6)
    network.settle()
    assert outcome.isPending
    outcome.deferred.cancel()
    network.settle()
    assert isinstance(outcome.error, CancelledError)
    nothingIsLeft(network, client)


def test_a_server_that_does_not_read_has_a_limit_for_each_block() -> None:
    network = Network(Server())
    client = clientOf(network)
    begun = network.run(client.begin(ROUTE, "a@b.test"))
    transaction = begun.value

    async def talk() -> Any:
        await transaction.rcpt("c@d.test")
        return await transaction.data(stopReading())

    async def stopReading() -> Any:
        network.lines[0].isReading = False
        yield b"x" * 100
        raise AssertionError("asked for more than the server reads")

    outcome = network.run(talk())
    network.advance(14.9)
    network.settle()
    assert outcome.isPending
    network.advance(0.2)
    network.settle()
    assert str(outcome.error) == "/server has not read on within 15 seconds"
    assert network.lines[0].wasAborted
    nothingIsLeft(network, client)


def test_the_content_has_no_limit_of_its_own_while_the_server_reads() -> None:
    network = Network(Server())
    client = clientOf(network)

    async def slowly() -> Any:
        from twisted.internet.task import deferLater

        for _ in range(5):
            await deferLater(network, 1000, lambda: None)  # type: ignore[arg-type]
            yield b"line\r\n"

    outcome = network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], slowly()))
    for _ in range(5):
        network.advance(1000)
        network.settle()
    assert [str(reply) for reply in outcome.value.replies] == ["250 2.0.0 taken 0"]
    assert network.servers[0].messages == [b"line\r\n" * 5]
    nothingIsLeft(network, client)


def test_a_server_that_cannot_be_reached_in_time_is_given_up() -> None:
    network = Network(Server())
    network.hangs = True
    outcome, client = send(network)
    network.advance(10.9)
    assert outcome.isPending
    network.advance(0.2)
    network.settle()
    assert str(outcome.error) == "/server cannot be reached within 11 seconds"
    nothingIsLeft(network, client)


def test_a_server_that_refuses_connections_is_unreachable() -> None:
    network = Network(Server())
    network.refuses = 1
    outcome, client = send(network)
    assert isinstance(outcome.error, Unreachable)
    assert str(outcome.error) == "/server cannot be reached: Connection was refused by other side."
    nothingIsLeft(network, client)


# --- what a server may say ---


@pytest.mark.parametrize("extensions", [ESMTP, PLAIN])
@pytest.mark.parametrize("octets", [b"HTTP/1.0 400 Bad request\r\n", b"\r\n", b"\x16\x03\x01\n", b"250-a\r\n251 b\r\n"])
@pytest.mark.parametrize("label", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "message"])
def test_what_is_no_reply_ends_the_connection(label: str, octets: bytes, extensions: tuple[str, ...]) -> None:
    network = Network(Server(extensions=extensions, **{label: octets}))
    outcome, client = send(network)
    assert str(outcome.error).startswith("/server speaks no SMTP: ")
    assert network.lines[0].wasAborted
    nothingIsLeft(network, client)


@pytest.mark.parametrize("extensions", [ESMTP, PLAIN])
@pytest.mark.parametrize("label", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "message"])
def test_421_at_any_point_is_a_definite_result_and_ends_the_connection(label: str, extensions: tuple[str, ...]) -> None:
    network = Network(Server(extensions=extensions, **{label: "421 4.3.2 closing"}))
    outcome, client = send(network)
    if label in ("DATA", "message"):
        assert [reply.code for reply in outcome.value.replies] == [421]
    else:
        assert isinstance(outcome.error, Refused)
        assert outcome.error.reply.code == 421
        assert not outcome.error.isPermanent
    assert not network.open()
    assert len(network.lines) == 1
    nothingIsLeft(network, client)


@pytest.mark.parametrize("label", ["greeting", "EHLO"])
def test_a_server_that_refuses_is_told_goodbye(label: str) -> None:
    """RFC 5321 section 3.1: after a 554 the client says QUIT."""
    network = Network(Server(**{label: "554 5.7.1 not you"}))
    outcome, client = send(network)
    assert isinstance(outcome.error, Refused)
    assert outcome.error.isPermanent
    assert network.servers[0].heard[-1] == "QUIT"
    nothingIsLeft(network, client)


def test_a_thousand_recipients_are_one_group() -> None:
    network = Network(Server())
    client = clientOf(network)
    recipients = [f"user{i}@d.test" for i in range(5000)]
    outcome = network.run(client.send(ROUTE, "a@b.test", recipients, MESSAGE))
    assert outcome.value.isWhole
    nothingIsLeft(network, client)


def test_lines_of_the_transcript_are_those_of_the_dialogue() -> None:
    lines: list[tuple[str, str]] = []
    network = Network(Server(extensions=("SIZE",)))
    outcome, client = send(network, transcript=lambda direction, line: lines.append((direction, line)))
    assert outcome.value.isWhole
    assert lines[:5] == [
        ("<", "220 server.test ready"),
        (">", "EHLO client.test"),
        ("<", "250-server.test"),
        ("<", "250 SIZE"),
        (">", f"MAIL FROM:<a@b.test> SIZE={len(MESSAGE)}"),
    ]
    nothingIsLeft(network, client)


def test_no_secret_is_in_the_transcript_or_an_error_even_if_the_server_says_it_again() -> None:
    from tests.secrets import PASSWORD, plain, secretsIn

    lines: list[str] = []
    response = plain("ann", PASSWORD)
    network = Network(
        Server(extensions=("AUTH PLAIN",), AUTH=f'500 5.5.1 Command unrecognized: "AUTH PLAIN {response}"')
    )
    client = clientOf(network, transcript=lambda direction, line: lines.append(line))
    route = Route(path="/server", name="client.test", tls="none", user="ann", password=PASSWORD)
    outcome = network.run(client.send(route, "a@b.test", ["c@d.test"], MESSAGE))
    assert isinstance(outcome.error, Refused)
    assert f"AUTH PLAIN {response}" in network.servers[0].heard
    assert "AUTH PLAIN …" in lines
    assert not secretsIn("\n".join([*lines, str(outcome.error), repr(outcome.error), repr(outcome.error.reply)]))
    assert outcome.error.reply.code == 500
    nothingIsLeft(network, client)


# --- how it ends ---


def test_a_goodbye_that_is_not_answered_is_not_waited_for_long() -> None:
    network = Network(Server(QUIT=None))
    outcome, client = send(network, idleTimeout=0)
    assert outcome.value.isWhole
    assert network.open()
    network.advance(5)
    network.settle()
    assert not network.open()
    nothingIsLeft(network, client)


def test_a_server_that_answers_the_goodbye_and_does_not_close_is_closed() -> None:
    class Lingering(Server):
        def command(self, verb: str, text: str) -> None:
            if verb == "QUIT":
                self.say("QUIT", "221 bye")
            else:
                super().command(verb, text)

    network = Network(Lingering())
    outcome, client = send(network, idleTimeout=0)
    assert outcome.value.isWhole
    assert not network.open()
    nothingIsLeft(network, client)


@pytest.mark.parametrize("when", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "message"])
@pytest.mark.parametrize("extensions", [ESMTP, PLAIN])
def test_whoever_gives_up_leaves_nothing(when: str, extensions: tuple[str, ...]) -> None:
    network = Network(Server(extensions=extensions, **{when: None}))
    outcome, client = send(network)
    assert outcome.isPending
    outcome.deferred.cancel()
    network.settle()
    assert isinstance(outcome.error, CancelledError)
    assert not network.servers[0].messages or when == "message"
    assert not network.open()
    assert len(network.lines) == 1
    assert not network.getDelayedCalls()
    nothingIsLeft(network, client)


def test_whoever_gives_up_before_there_is_a_connection_leaves_nothing() -> None:
    network = Network(Server())
    network.hangs = True
    outcome, client = send(network)
    outcome.deferred.cancel()
    network.settle()
    assert isinstance(outcome.error, CancelledError)
    assert not network.getDelayedCalls()
    nothingIsLeft(network, client)


def test_whoever_gives_up_within_the_message_leaves_no_whole_one() -> None:
    network = Network(Server())
    client = clientOf(network)

    async def content() -> Any:
        from twisted.internet.defer import Deferred

        yield b"begun\r\n"
        await Deferred()

    outcome = network.run(client.send(ROUTE, "a@b.test", ["c@d.test"], content()))
    outcome.deferred.cancel()
    network.settle()
    assert isinstance(outcome.error, CancelledError)
    assert network.servers[0].contents == 1
    assert network.servers[0].messages == []
    assert network.lines[0].wasAborted
    nothingIsLeft(network, client)


def test_the_cause_of_the_end_is_told() -> None:
    network = Network(Server(MAIL=None))
    outcome, client = send(network)
    network.lines[0].close(ConnectionLost("reset by peer"))
    network.settle()
    assert "the connection is lost before the reply to MAIL" in str(outcome.error)
    assert "reset by peer" in str(outcome.error)
    nothingIsLeft(network, client)
