"""Option debugPeers: the dialogue of a client in the log, and no secret in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.logger import LogEvent, globalLogPublisher

from smtphooks import Extension, SMTPServerFactory
from smtphooks.connection.transcript import Transcript
from smtphooks.errors import OptionError
from smtphooks.session import Session
from smtphooks.syntax.networks import TrustedPeers
from smtphooks.syntax.wire import LineFault
from tests.secrets import PASSWORD, WRONG_PASSWORD, encoded, plain
from tests.support import ENVELOPE, HELLO, Client, Pending, Transport, connect, makeFactory

pytestmark = pytest.mark.usefixtures("logged")

PEER = "192.0.2.7"


@pytest.fixture
def shown() -> Iterator[list[str]]:
    """What the log shows of dialogues: the side and the line."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"] == "smtphooks.connection.transcript":
            assert event["peer"] and event["session"]
            lines.append(f"{event['side']}: {event['line']}")

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_both_sides_of_a_dialogue_are_shown(shown: list[str]) -> None:
    client = connect(debugPeers=["192.0.2.0/24"], hideSMTPUTF8=True, hideCHUNKING=True, hideSize=True)
    client.say(*ENVELOPE, "DATA", "Subject: not shown", "", "nor this", ".", "QUIT")
    assert shown == [
        "S: 220 mx.test ESMTP",
        "C: EHLO client.test",
        "S: 250-mx.test Nice to meet you, [192.0.2.7]",
        "S: 250-PIPELINING",
        "S: 250-8BITMIME",
        "S: 250-STARTTLS",
        "S: 250 ENHANCEDSTATUSCODES",
        "C: MAIL FROM:<sender@client.test>",
        "S: 250 2.1.0 Sender OK",
        "C: RCPT TO:<user@mx.test>",
        "S: 250 2.1.5 Recipient OK",
        "C: DATA",
        "S: 354 End data with <CR><LF>.<CR><LF>",
        "C: (32 octets of a message)",
        "S: 250 2.0.0 Message accepted",
        "C: QUIT",
        "S: 221 2.0.0 Bye",
    ]


def test_chunks_are_shown_by_their_octets(shown: list[str]) -> None:
    client = connect(debugPeers=[PEER])
    client.say(*ENVELOPE)
    shown.clear()
    client.feed(b"BDAT 6\r\nabcdefBDAT 4 LAST\r\nghijBDAT 2\r\nkl")
    assert shown == [
        "C: BDAT 6",
        "C: (6 octets of a message)",
        "S: 250 2.0.0 6 octets received",
        "C: BDAT 4 LAST",
        "C: (10 octets of a message)",
        "S: 250 2.0.0 Message accepted",
        "C: BDAT 2",
        "C: (2 octets of a message)",
        "S: 503 5.5.1 Need MAIL and RCPT before the message",
    ]


def test_chunks_that_are_abandoned_are_not_counted_again(shown: list[str]) -> None:
    client = connect(debugPeers=[PEER])
    client.say(*ENVELOPE)
    client.feed(b"BDAT 6\r\nabcdefRSET\r\n")
    assert [line for line in shown if "octets of" in line] == ["C: (6 octets of a message)"]


def test_a_message_whose_client_leaves_before_its_reply_is_counted_once(shown: list[str]) -> None:
    onData = Pending()
    client = connect(debugPeers=[PEER], onData=onData)
    client.say(*ENVELOPE, "DATA", "0123456789", ".")
    client.lose()
    onData.decide()
    assert [line for line in shown if "octets of" in line] == ["C: (12 octets of a message)"]


def test_a_message_that_is_cut_is_counted(shown: list[str]) -> None:
    client = connect(debugPeers=[PEER])
    client.say(*ENVELOPE, "DATA")
    client.feed(b"0123456789\r\n")
    client.lose()
    assert shown[-1] == "C: (12 octets of a message)"


def test_secrets_are_blanked(shown: list[str]) -> None:
    client = connect(debugPeers=True, allowInsecureAuth=True, onAuth=lambda auth, session: None)
    client.say(HELLO)
    shown.clear()
    client.say(f"AUTH PLAIN {plain(password=WRONG_PASSWORD)}")
    client.clock.advance(1)
    client.say("AUTH LOGIN", encoded("ann"), encoded(PASSWORD))
    client.clock.advance(2)
    client.say(encoded(PASSWORD), f"AUTH {encoded(PASSWORD)}", f"AUTH  {PASSWORD}", f"{PASSWORD} x")
    assert shown == [
        "C: AUTH PLAIN (not shown)",
        "S: 535 5.7.8 Authentication credentials invalid",
        "C: AUTH LOGIN",
        "S: 334 (challenge)",
        "C: (response, 4 octets)",
        "S: 334 (challenge)",
        f"C: (response, {len(encoded(PASSWORD))} octets)",
        "S: 535 5.7.8 Authentication credentials invalid",
        f"C: (no known command, {len(encoded(PASSWORD))} octets)",
        "S: 500 5.5.2 Command not recognized",
        "C: AUTH (not shown)",
        "S: 504 5.5.4 Unrecognized authentication mechanism",
        "C: AUTH (not shown)",
        "S: 504 5.5.4 Unrecognized authentication mechanism",
        f"C: (no known command, {len(PASSWORD) + 2} octets)",
        "S: 500 5.5.2 Command not recognized",
    ]


def test_what_an_extension_makes_of_its_argument_is_not_known_and_not_shown(shown: list[str]) -> None:
    extension = Extension("XLOGIN", commands={"XLOGIN": lambda argument, session: None})
    client = connect(debugPeers=True, extensions=[extension])
    client.say(HELLO)
    shown.clear()
    client.say(f"XLOGIN {PASSWORD}")
    assert shown == [f"C: (no known command, {len(PASSWORD) + 7} octets)", "S: 250 2.0.0 OK"]


def test_lines_that_the_wire_refused_are_named(shown: list[str]) -> None:
    client = connect(debugPeers=True)
    shown.clear()
    client.feed(b"x" * 20000 + b"\r\n")
    assert shown == ["C: (too long)", "S: 500 5.5.2 Line too long"]


@pytest.mark.parametrize("peers", [[], ["192.0.2.8"], False])
def test_others_are_not_shown(peers: Any, shown: list[str]) -> None:
    connect(debugPeers=peers).say(*ENVELOPE)
    assert not shown


def test_behind_XCLIENT_it_is_the_client_that_counts(shown: list[str]) -> None:
    client = connect(debugPeers=["198.51.100.1"], useXClient=True)
    client.say(HELLO, "XCLIENT ADDR=198.51.100.1", HELLO, "QUIT")
    assert shown[0] == "S: 220 mx.test ESMTP"
    assert shown[1] == f"C: {HELLO}"
    assert shown[-1] == "S: 221 2.0.0 Bye"


def test_a_wrong_network_is_an_error() -> None:
    with pytest.raises(OptionError, match="option debugPeers is wrong"):
        SMTPServerFactory(debugPeers=["192.0.2.300"])


def test_the_beginning_of_TLS_is_shown(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtphooks.connection.encryption.record", lambda handle, session: None)
    from tests.connection.test_wrappers import Secure

    client = Client(makeFactory(debugPeers=True), Secure())
    client.protocol.handshakeCompleted()
    assert shown == ["-: TLS has begun", "S: 220 mx.test ESMTP"]


@given(st.binary() | st.sampled_from([*LineFault]), st.booleans())
def test_whatever_a_client_sends_is_one_printable_line(line: bytes | LineFault, isResponse: bool) -> None:
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_namespace"] == "smtphooks.connection.transcript":
            lines.append(str(event["line"]))

    globalLogPublisher.addObserver(observe)
    try:
        session = Session(remoteAddress=PEER)
        transcript = Transcript(session, TrustedPeers([PEER]), lambda verb: True, lambda name: True)
        (transcript.response if isResponse else transcript.command)(line)
    finally:
        globalLogPublisher.removeObserver(observe)
    (shown,) = lines
    assert shown.isprintable()


def test_a_peer_in_a_list_is_known_by_its_address(shown: list[str]) -> None:
    factory = makeFactory(debugPeers=["192.0.2.8"])
    for host in (PEER, "192.0.2.8"):
        Client(factory, Transport(peerAddress=IPv4Address("TCP", host, 50000)))
    assert shown == ["S: 220 mx.test ESMTP"]
