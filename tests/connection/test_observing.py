"""Observing: what an observer is told, in which order, and that the connection does what it did before."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address

from smtphooks import SMTPError
from tests.secrets import PASSWORD, plain
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Client, Transport, makeFactory

MESSAGE = ("DATA", "Subject: x", "", "text", ".")


class Diary(list[tuple[Any, ...]]):
    """An observer that notes what it is told, times left out."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.append((name, *(each for each in arguments if not isinstance(each, float))))

    def without(self, *names: str) -> list[tuple[Any, ...]]:
        return [event for event in self if event[0] not in names]


def observe(**given: Any) -> tuple[Diary, Client]:
    diary, factory = Diary(), makeFactory(**given)
    factory.observe(diary)
    return diary, Client(factory)


def test_a_connection_is_told_from_its_beginning_to_its_end() -> None:
    diary, client = observe(onData=lambda stream, session: None)
    client.say(*ENVELOPE, *MESSAGE, "QUIT")
    client.finish()
    assert diary.without("received", "sent") == [
        ("connectionMade",),
        ("replied", "", 220),
        ("replied", "EHLO", 250),
        ("replied", "MAIL", 250),
        ("replied", "RCPT", 250),
        ("replied", "DATA", 354),
        ("hookEnded", "onData", "", False),
        ("replied", "DATA", 250),
        ("messageEnded", 20, 1, 250),
        ("replied", "QUIT", 221),
    ]


def test_octets_are_told_as_they_come_and_go() -> None:
    diary, client = observe()
    diary.clear()
    client.feed(b"NO")
    client.feed(b"OP\r\n")
    (sent,) = [event for event in diary if event[0] == "sent"]
    assert [event for event in diary if event[0] == "received"] == [("received", 2), ("received", 4)]
    assert sent == ("sent", len(client.transport.writes[-1]))


@pytest.mark.parametrize("isLogged", [True, False])
def test_refusals_are_told_whether_they_are_logged_or_not(isLogged: bool) -> None:
    def refuse(address: Any, session: Any) -> None:
        raise SMTPError("No")

    diary, client = observe(onRcptTo=refuse, logRefusals=isLogged)
    client.say(HELLO, RCPT, MAIL, RCPT)
    assert [event for event in diary if event[0] == "refused"] == [
        ("refused", "server", "RCPT"),
        ("refused", "onRcptTo", "RCPT"),
    ]


def test_auth_is_told_once_for_each_attempt() -> None:
    diary, client = observe(onAuth=lambda auth, session: auth.username == "ann", allowInsecureAuth=True)
    client.say(HELLO)
    client.feed(f"AUTH PLAIN {plain('joe', PASSWORD)}\r\n".encode())
    client.clock.advance(10)
    client.feed(f"AUTH PLAIN\r\n{plain('ann', PASSWORD)}\r\n".encode())
    assert [event for event in diary if event[0] == "authenticated"] == [
        ("authenticated", "PLAIN", 535),
        ("authenticated", "PLAIN", 235),
    ]
    assert ("replied", "AUTH", 334) in diary


def test_a_failed_attempt_that_ends_the_connection_is_told_once() -> None:
    diary, client = observe(onAuth=lambda auth, session: None, allowInsecureAuth=True, maxErrors=1)
    client.say(HELLO)
    client.feed(f"AUTH PLAIN {plain('joe', PASSWORD)}\r\n".encode())
    client.clock.advance(10)
    client.feed(f"AUTH PLAIN {plain('joe', PASSWORD)}\r\n".encode())
    client.clock.advance(10)
    assert client.codes()[-1] == 421
    assert [event[2] for event in diary if event[0] == "authenticated"] == [535, 535]


def test_who_is_turned_away_is_told() -> None:
    diary, factory = Diary(), makeFactory(maxClientsPerAddress=1)
    factory.observe(diary)
    Client(factory)
    Client(factory)
    Client(factory, Transport(peerAddress=IPv4Address("TCP", "198.51.100.1", 5)))
    assert [event for event in diary if event[0] == "turnedAway"] == [("turnedAway", "maxClientsPerAddress")]


def test_a_transaction_without_a_message_is_told_once() -> None:
    diary, client = observe()
    client.say(*ENVELOPE, "NOOP", "RSET", "NOOP", "RSET")
    client.lose()
    assert diary.count(("transactionAbandoned",)) == 1


def test_the_time_to_the_reply_is_told_for_whole_messages_alone() -> None:
    times: list[float | None] = []

    class Timing(Diary):
        def messageEnded(self, octets: int, recipients: int, code: int, seconds: float | None) -> None:
            times.append(seconds)

    def refuse(stream: Any, session: Any) -> None:
        raise SMTPError("No")

    factory = makeFactory(onData=refuse)
    factory.observe(Timing())
    client = Client(factory)
    client.say(*ENVELOPE, *MESSAGE, MAIL, RCPT, "BDAT 3", "x")
    whole = times.pop(0)
    assert whole is not None and 0 <= whole < 60
    assert times == [None]
