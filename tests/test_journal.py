"""The journal: one event for each message and each connection, with fields to search by, and nothing that is secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogEvent, eventAsText, formatEvent, globalLogPublisher

from smtphooks import SMTPError, SMTPServerProtocol, journal
from smtphooks.journal import addressForLog

from .secrets import WRONG_PASSWORD, encoded, plain
from .support import ENVELOPE, HELLO, LMTP_ENVELOPE, MAIL, RCPT, Client, Pending, Transport, connect, makeFactory

MODULES = {f"smtphooks.{path.stem}" for path in Path(journal.__file__).parent.glob("*.py")}


class Events(list[LogEvent]):
    """What smtphooks has logged."""

    @property
    def messages(self) -> list[LogEvent]:
        """The summaries of messages."""
        return [event for event in self if "recipientCount" in event]

    @property
    def connections(self) -> list[LogEvent]:
        """The summaries of connections."""
        return [event for event in self if "commands" in event]

    @property
    def others(self) -> list[LogEvent]:
        """What is no summary."""
        return [event for event in self if event not in self.messages and event not in self.connections]

    def codes(self) -> list[int]:
        """Of the messages."""
        return [event["code"] for event in self.messages]


@pytest.fixture
def events() -> Iterator[Events]:
    """What is logged by smtphooks from here on."""
    events = Events()

    def observe(event: LogEvent) -> None:
        if str(event.get("log_namespace")).startswith("smtphooks"):
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


def leave(client: Client) -> Client:
    """The client quits, and its connection ends."""
    assert client.last("QUIT").startswith("221 ")
    client.finish()
    return client


MESSAGE = (*ENVELOPE, "DATA", "Subject: x", "", "text", ".")


# --- messages ---


def test_a_message_is_one_event(events: Events) -> None:
    client = connect()
    client.say(*MESSAGE)
    (event,) = events
    fields = {name: event[name] for name in event if not name.startswith("log_")}
    assert isinstance(fields.pop("milliseconds"), int)
    assert fields == {
        "session": client.session.id,
        "peer": "192.0.2.7",
        "verb": "DATA",
        "code": 250,
        "protocol": "ESMTP",
        "sender": "sender@client.test",
        "recipients": "<user@mx.test>",
        "recipientCount": 1,
        "octets": 20,
    }
    assert re.fullmatch(
        r"message from <sender@client\.test> for <user@mx\.test>: 20 octets, 250 after \d+ ms \[\w+\]",
        formatEvent(event),
    )


def test_each_transaction_has_its_own(events: Events) -> None:
    client = connect()
    client.say(*MESSAGE, MAIL, RCPT, "RCPT TO:<other@mx.test>", "DATA", ".", MAIL, RCPT, "RSET")
    assert [(event["recipientCount"], event["octets"]) for event in events.messages] == [(1, 20), (2, 0)]


def test_a_message_in_chunks_is_one_event_and_began_with_the_first(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(journal, "monotonic", lambda: now[0])
    client = connect()
    client.say(*ENVELOPE, "BDAT 6", "text")
    now[0] += 1.5
    client.say("BDAT 6", "more")
    assert not events
    now[0] += 0.0206
    client.say("BDAT 0 LAST")
    (event,) = events
    assert (event["verb"], event["code"], event["octets"], event["milliseconds"]) == ("BDAT", 250, 12, 1521)


def test_a_refused_message_has_the_code_of_its_refusal(events: Events) -> None:
    def onData(stream: Any, session: Any) -> None:
        raise SMTPError("no", 554)

    client = connect(onData=onData, size=5)
    client.say(*MESSAGE)
    client.say(MAIL, RCPT, "BDAT 4", "xx", "BDAT 0 LAST", "RSET")
    connect(size=5).say(*MESSAGE)
    assert events.codes() == [554, 554, 552]


def test_of_LMTP_the_worst_of_the_codes_counts(events: Events) -> None:
    results: list[Any] = [SMTPError("no", 550), SMTPError("later", 451), "yes"]
    client = connect(lmtp=True, onData=lambda stream, session: results)
    client.say(*LMTP_ENVELOPE, RCPT, RCPT, "DATA", ".")
    (event,) = events
    assert (event["code"], event["recipientCount"], event["protocol"]) == (550, 3, "LMTP")


def test_a_client_that_did_not_wait_for_the_reply_has_the_code_0(events: Events) -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say(*MESSAGE)
    client.lose()
    assert not events
    onData.decide()
    (message,) = events.messages
    (connection,) = events.connections
    assert (message["code"], message["octets"], message["sender"]) == (0, 20, "sender@client.test")
    assert (connection["messages"], connection["octets"]) == (1, 20)


def test_a_message_that_was_cut_is_none(events: Events) -> None:
    client = connect()
    client.say(*ENVELOPE, "DATA", "half")
    client.lose()
    assert not events.messages
    assert len(events.connections) == 1


def test_the_null_sender_is_empty(events: Events) -> None:
    connect().say(HELLO, "MAIL FROM:<>", RCPT, "DATA", ".")
    (event,) = events
    assert event["sender"] == ""
    assert formatEvent(event).startswith("message from <> for <user@mx.test>:")


def test_of_many_recipients_some_are_named_and_all_are_counted(events: Events) -> None:
    client = connect()
    client.say(HELLO, MAIL, *[f"RCPT TO:<user{number}@mx.test>" for number in range(50)], "DATA", ".")
    (event,) = events
    assert event["recipientCount"] == 50
    assert event["recipients"].count("@") == 20


# --- connections ---


def test_a_connection_is_one_event(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(journal, "monotonic", lambda: now[0])
    client = connect()
    client.say(*MESSAGE, "NOOP", "XYZZY")
    now[0] += 2.0004
    leave(client)
    (event,) = events.connections
    fields = {name: event[name] for name in event if not name.startswith("log_")}
    assert fields == {
        "session": client.session.id,
        "peer": "192.0.2.7",
        "hostname": "[192.0.2.7]",
        "verb": "EHLO",
        "code": 500,
        "milliseconds": 2000,
        "commands": 7,
        "refusals": 1,
        "messages": 1,
        "octets": 20,
        "cipher": "",
        "user": "",
    }
    assert formatEvent(event) == (
        f"connection of 192.0.2.7 ended after 2000 ms: 7 commands, 1 refused, 1 messages [{client.session.id}]"
    )


def test_no_command_is_an_event_of_its_own(events: Events) -> None:
    client = connect(onVrfy=lambda text, session: None)
    client.say(HELLO, *["NOOP", "VRFY x", "HELP", "RSET", MAIL, RCPT, "RSET"] * 10)
    assert not events
    leave(client)
    assert len(events) == 1


def test_it_follows_the_last_hook_whose_connection_it_was(events: Events) -> None:
    onVrfy = Pending()
    client = connect(onVrfy=onVrfy)
    client.say(HELLO, "VRFY x")
    client.lose()
    assert len(events.connections) == 1
    assert onVrfy.cancelled == 1


def test_a_connection_without_a_word_is_one_event_too(events: Events) -> None:
    connect().lose()
    (event,) = events
    assert (event["verb"], event["code"], event["commands"]) == ("", 0, 0)


# --- a busy session ---


class Crash(Exception):
    """What a hook of these tests crashes with."""


@pytest.fixture
def busy(events: Events) -> Events:
    """All that smtphooks has to say of a few bad days."""

    def crash(*arguments: Any) -> None:
        raise Crash

    def refuse(*arguments: Any) -> None:
        raise SMTPError("no", 550)

    for hook in ("onHelo", "onMailFrom", "onRcptTo", "onData", "onReset", "onVrfy", "onClose", "onError"):
        client = connect(**{hook: crash})
        client.say(*ENVELOPE, "DATA", ".", MAIL, "RSET", "VRFY x", "BDAT ?")
        client.finish()
    connect(onConnect=crash).finish()
    connect(onMailFrom=refuse).say(HELLO, MAIL)
    connect(lmtp=True, onData=lambda stream, session: ["one", "two", object()]).say(*LMTP_ENVELOPE, "DATA", ".")
    connect(maxErrors=1).say("XYZZY", "XYZZY")
    connect(maxUnrecognizedCommands=1).say("XYZZY", "XYZZY")
    connect(authOptional=False, maxAllowedUnauthenticatedCommands=1).say("NOOP", "NOOP")
    connect(maxTransactions=1).say(*MESSAGE, MAIL)
    connect(maxRecipients=1).say(*ENVELOPE, RCPT)
    connect(size=1).say(*MESSAGE)
    connect(bareNewline="reject").feed(b"NOOP\nNOOP\r\n")
    connect().say("GET / HTTP/1.1")
    connect().feed(b"\x16\x03\x01\x00\x00")
    connect().say("x" * 5000)
    early = connect(greetDelay=1)
    early.say(HELLO)
    slow = connect(socketTimeout=5)
    slow.clock.pump([1] * 8)
    asked = connect(hookTimeout=5, onVrfy=Pending())
    asked.feed(b"VRFY x\r\n")
    asked.clock.pump([1] * 8)
    full = makeFactory(maxClients=1)
    for _ in range(2):
        Client(full)
    proxied = Client(makeFactory(useProxy=True))
    proxied.feed(b"no header\r\n")
    forced = connect(closeTimeout=5)
    forced.say(*ENVELOPE)
    forced.factory.close()
    forced.clock.pump([1] * 6)
    user = connect()
    user.session.logout = crash
    user.lose()
    return events


def test_every_event_says_of_which_session_and_peer_it_is(busy: Events) -> None:
    assert len(busy) > 40
    for event in busy:
        assert event["peer"] == "192.0.2.7", event
        # Who is turned away on the way in has no session yet.
        assert "session" in event or event["log_namespace"] == "smtphooks.arrival", event
        assert event.get("session") != ""


def test_every_event_is_of_a_module_of_smtphooks(busy: Events) -> None:
    assert {event["log_namespace"] for event in busy} <= MODULES


def test_so_it_is_for_a_protocol_of_the_users_own(events: Events) -> None:
    class Mine(SMTPServerProtocol):
        pass

    def crash() -> None:
        raise Crash

    factory = makeFactory()
    factory.protocol = Mine  # type: ignore[assignment]
    client = Client(factory)
    client.session.logout = crash
    client.lose()
    assert {event["log_namespace"] for event in events} == {"smtphooks.protocol", "smtphooks.journal"}


def test_numbers_are_whole(busy: Events) -> None:
    for event in busy:
        for name in ("milliseconds", "code", "octets", "commands"):
            assert type(event.get(name, 0)) is int, event


def test_refusals_of_the_server_have_verb_code_and_milliseconds(busy: Events) -> None:
    refusals = [event for event in busy.others if "reply" in event and "session" in event]
    assert {event["code"] for event in refusals} >= {421, 452, 500, 501, 552, 554}
    for event in refusals:
        assert event["reply"].startswith(str(event["code"]))
        assert {"verb", "milliseconds"} <= set(event)


def test_a_verb_is_one_that_is_known(busy: Events) -> None:
    assert {event["verb"] for event in busy if "verb" in event} <= {
        "",
        "EHLO",
        "LHLO",
        "MAIL",
        "RCPT",
        "DATA",
        "BDAT",
        "NOOP",
        "VRFY",
    }


def test_what_was_meant_as_a_password_is_not_logged_as_a_command(events: Events) -> None:
    """A client that does not look at replies sends the responses of AUTH wherever it stands."""
    client = connect(maxUnrecognizedCommands=1)
    secret = encoded(WRONG_PASSWORD)
    client.say(HELLO, "AUTH LOGIN", encoded("some-user-with-a-long-name"), secret)
    client.finish()
    (refusal,) = events.others
    assert (refusal["verb"], refusal["code"]) == ("", 421)
    assert formatEvent(refusal) == f"421 4.7.0 Too many unrecognized commands [{client.session.id}]"
    assert secret.upper() not in "".join(f"{event}" for event in events)


def test_what_a_message_says_is_not_logged(events: Events) -> None:
    for options in ({}, {"size": 1}, {"bareNewline": "reject"}):
        client = connect(**options)
        client.say(*ENVELOPE)
        client.feed(b"DATA\r\nSubject: hush\r\n\r\nhush\nhush\r\n.\r\n")
        leave(client)
    assert len(events.messages) == 3
    assert "hush" not in "".join(map(str, events))


# --- addresses ---


def textsIn(value: object) -> Iterator[str]:
    """All that stands in an event."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from textsIn(name)
            yield from textsIn(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from textsIn(item)
    else:
        yield str(value)


def test_addresses_can_be_hidden_everywhere(events: Events) -> None:
    def crash(*arguments: Any) -> None:
        raise Crash

    for given in ({}, {"size": 1}, {"onData": crash}, {"maxRecipients": 1}, {"maxErrors": 1}, {"onClose": crash}):
        client = connect(
            logAddresses=False, onAuth=lambda auth, session: auth.username, allowInsecureAuth=True, **given
        )
        client.say(
            HELLO, f"AUTH PLAIN {plain('ann@mx.test')}", "VRFY user@mx.test", MAIL, RCPT, RCPT, "DATA", "x@y", "."
        )
        client.lose()
    assert len(events.messages) == 6
    for event in events:
        texts = [*textsIn(event), eventAsText(event)]
        assert not [text for text in texts if re.search(r"[\w.]@[\w.]", text)]


def test_the_same_address_has_the_same_hash(events: Events) -> None:
    senders = ["ann@client.test", "joe@client.test", "ann@client.test", "\u00e4nn@client.test"]
    client = connect(logAddresses=False)
    for sender in senders:
        client.say(HELLO, f"MAIL FROM:<{sender}> SMTPUTF8", f"RCPT TO:<{sender}>", "DATA", ".")
    ann, joe, again, other = [event["sender"] for event in events.messages]
    assert ann == again
    assert len({ann, joe, other}) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", shown) for shown in (ann, joe, other))
    assert events.messages[0]["recipients"] == f"<{ann}>"


@pytest.mark.parametrize(("isShown", "user"), [(True, "ann"), (False, addressForLog("ann", False))])
def test_a_user_is_shown_as_addresses_are(events: Events, isShown: bool, user: str) -> None:
    client = connect(logAddresses=isShown, onAuth=lambda auth, session: auth.username, allowInsecureAuth=True)
    client.say(HELLO, f"AUTH PLAIN {plain('ann')}")
    leave(client)
    (event,) = events
    assert event["user"] == user
    assert (user == "ann") is isShown


def test_a_user_that_is_no_text_is_not_shown(events: Events) -> None:
    client = connect()
    client.session.user = object()
    leave(client)
    assert events[0]["user"] == ""


def test_nobody_has_no_hash() -> None:
    assert addressForLog("", False) == ""
    assert addressForLog("\udcff", False) != ""


# --- the end by force ---


def test_a_connection_ended_by_force_says_so(events: Events) -> None:
    client = Client(makeFactory(closeTimeout=2), Transport(peerAddress=IPv4Address("TCP", "198.51.100.1", 1)))
    client.say(*ENVELOPE)
    ended: list[None] = []
    client.factory.close().addCallback(ended.append)
    client.clock.pump([1] * 3)
    (event,) = events
    assert formatEvent(event) == f"connection of 198.51.100.1 ended by force [{client.session.id}]"
    client.finish()
    assert ended == [None]
    assert len(events.connections) == 1


def test_it_is_summed_up_even_if_a_hook_never_ends(events: Events) -> None:
    async def onVrfy(text: str, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            await Deferred()

    client = connect(closeTimeout=2, onVrfy=onVrfy)
    client.say("VRFY x")
    client.factory.close()
    client.clock.pump([1] * 3)
    client.lose()
    client.clock.pump([1] * 3)
    assert len(events.connections) == 1
    assert not client.factory.connections
