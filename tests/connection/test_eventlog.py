"""The journal: one event for each message and each connection, with fields to search by, and nothing that is secret."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scramp import ScramMechanism
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import LogEvent, Logger, eventAsText, formatEvent, globalLogPublisher

from smtphooks import AuthResponse, Extension, SMTPError, SMTPServerProtocol
from smtphooks.connection import eventlog as journal
from smtphooks.connection.eventlog import addressForLog
from tests.conftest import Logged
from tests.secrets import PASSWORD, WRONG_PASSWORD, encoded, plain
from tests.support import ENVELOPE, HELLO, LMTP_ENVELOPE, MAIL, RCPT, Client, Pending, Transport, connect, makeFactory

ROOT = Path(journal.__file__).parents[2]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("smtphooks/**/*.py")}


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


def test_an_event_has_what_an_event_of_a_logger_has(events: Events) -> None:
    """It is made without C{Logger.info}; observers of Twisted count on all of these fields."""
    client = connect()
    client.say(*MESSAGE)
    leave(client)
    made: list[LogEvent] = []
    Logger("smtphooks.eventlog", observer=made.append).info("text")  # type: ignore[arg-type]
    made[0].update(log_time=0.0, log_format="", log_logger=None)
    for event in events:
        assert isinstance(event["log_time"], float) and isinstance(event["log_logger"], Logger)
        fields = {name: value for name, value in event.items() if name.startswith("log_")}
        assert {**fields, "log_time": 0.0, "log_format": "", "log_logger": None} == made[0]
    assert len(events) == 2


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
    (event,) = events.messages
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


@pytest.mark.parametrize("isShown", [True, False])
@pytest.mark.parametrize("names", [["joe@b.test"], ["joe@b.test", "eve@b.test"]])
def test_a_hook_may_have_set_texts_instead_of_addresses(names: list[str], isShown: bool, events: Events) -> None:
    def onData(stream: Any, session: Any) -> None:
        session.envelope.mailFrom, session.envelope.rcptTo = "ann@a.test", names

    connect(onData=onData, logAddresses=isShown).say(*MESSAGE)
    (event,) = events
    assert event["sender"] == addressForLog("ann@a.test", isShown)
    assert event["recipients"] == ", ".join(f"<{addressForLog(name, isShown)}>" for name in names)
    assert event["recipientCount"] == len(names)


def test_a_hook_may_have_emptied_the_envelope(events: Events) -> None:
    def onData(stream: Any, session: Any) -> None:
        session.envelope.mailFrom, session.envelope.rcptTo = None, []

    connect(onData=onData).say(*MESSAGE)
    (event,) = events
    assert (event["sender"], event["recipients"], event["recipientCount"]) == ("", "", 0)


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
        assert "session" in event or event["log_namespace"] == "smtphooks.connection.arrival", event
        assert event.get("session") != ""


def test_every_event_is_of_a_module_of_smtphooks(busy: Events) -> None:
    assert {event["log_namespace"] for event in busy} <= MODULES | {"smtphooks.eventlog"}


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
    assert {event["log_namespace"] for event in events} == {"smtphooks.connection.connection", "smtphooks.eventlog"}


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
    refusals = events.others
    assert [(refusal["verb"], refusal["code"]) for refusal in refusals] == [("AUTH", 502), ("", 500), ("", 421)]
    said = "192.0.2.7 refused by server: 421 4.7.0 Too many unrecognized commands"
    assert formatEvent(refusals[-1]) == f"{said} [{client.session.id}]"
    assert secret.upper() not in "".join(f"{event}" for event in events)


def test_what_a_message_says_is_not_logged(events: Events) -> None:
    for options in ({}, {"size": 1}, {"bareNewline": "reject"}):
        client = connect(**options)
        client.say(*ENVELOPE)
        client.feed(b"DATA\r\nSubject: hush\r\n\r\nhush\nhush\r\n.\r\n")
        leave(client)
    assert len(events.messages) == 3
    assert "hush" not in "".join(map(str, events))


# --- refusals ---


def refuseAll(*arguments: Any) -> None:
    raise SMTPError("Not that one", 550)


def refusalsOf(events: Events) -> list[LogEvent]:
    return [event for event in events if "by" in event]


def test_a_refusal_by_a_hook_says_all_that_is_known(events: Events) -> None:
    client = connect(onRcptTo=refuseAll)
    client.session.user = "ann"
    client.say(*ENVELOPE)
    (event,) = refusalsOf(events)
    fields = {name: event[name] for name in event if not name.startswith("log_")}
    assert isinstance(fields.pop("milliseconds"), int)
    assert fields == {
        "session": client.session.id,
        "peer": "192.0.2.7",
        "verb": "RCPT",
        "code": 550,
        "by": "onRcptTo",
        "reply": "550 5.1.1 Not that one",
        "user": "ann",
        "sender": "sender@client.test",
        "recipient": "user@mx.test",
    }
    assert formatEvent(event) == (
        "RCPT of 192.0.2.7 refused by onRcptTo: 550 5.1.1 Not that one,"
        f" user ann, from <sender@client.test>, to <user@mx.test> [{client.session.id}]"
    )


REFUSED = [
    ("onConnect", (), "", "onConnect", "", ""),
    ("onHelo", (HELLO,), "EHLO", "onHelo", "", ""),
    ("onMailFrom", (HELLO, MAIL), "MAIL", "onMailFrom", "sender@client.test", ""),
    ("onRcptTo", ENVELOPE, "RCPT", "onRcptTo", "sender@client.test", "user@mx.test"),
    ("onData", (*ENVELOPE, "DATA", "."), "DATA", "onData", "sender@client.test", ""),
    ("onData", (*ENVELOPE, "BDAT 0 LAST"), "BDAT", "onData", "sender@client.test", ""),
    ("onVrfy", (HELLO, MAIL, "VRFY x"), "VRFY", "onVrfy", "sender@client.test", ""),
    ("", ("NOPE",), "", "server", "", ""),
    ("", (HELLO, MAIL, MAIL), "MAIL", "server", "sender@client.test", ""),
    ("", (HELLO, MAIL, "RCPT TO:<a b@mx.test>"), "RCPT", "server", "sender@client.test", ""),
    ("", (*ENVELOPE, "DATA", "a too large message", "."), "DATA", "server", "sender@client.test", ""),
    ("", (HELLO, "MAIL FROM:<ann@a.test> SIZE=x"), "MAIL", "server", "ann@a.test", ""),
    ("", (HELLO, "MAIL FROM:<ann@a.test> SIZE=6"), "MAIL", "server", "ann@a.test", ""),
    ("", ("MAIL FROM:<ann@a.test>",), "MAIL", "server", "ann@a.test", ""),
    ("", (HELLO, "RCPT TO:<joe@mx.test>"), "RCPT", "server", "", "joe@mx.test"),
    ("", (*ENVELOPE, "RCPT TO:<one.more@mx.test>"), "RCPT", "server", "sender@client.test", "one.more@mx.test"),
]


@pytest.mark.parametrize("decide", [refuseAll, lambda *_: fail(SMTPError("no", 450)), lambda *_: 1 / 0])
@pytest.mark.parametrize(("hook", "said", "verb", "by", "sender", "recipient"), REFUSED)
def test_every_refusal_has_one_line_that_says_whose_it_is(
    hook: str,
    said: tuple[str, ...],
    verb: str,
    by: str,
    sender: str,
    recipient: str,
    decide: Any,
    events: Events,
    logged: Logged,
) -> None:
    client = connect(size=5, maxRecipients=1, **({hook: decide} if hook else {}))
    if said:
        client.say(*said)
    (event,) = refusalsOf(events)
    fields = [event[name] for name in ("verb", "by", "sender", "recipient")]
    assert fields == [verb, by, sender, recipient]
    logged.takeFailures(ZeroDivisionError)


def test_a_refusal_of_the_server_is_not_taken_for_that_of_the_hook_before_it(events: Events) -> None:
    client = connect(socketTimeout=60, onRcptTo=refuseAll)
    client.say(*ENVELOPE, "NOPE", RCPT, "\x01")
    client.clock.pump([1] * 62)
    assert [(event["code"], event["by"], event["recipient"]) for event in refusalsOf(events)] == [
        (550, "onRcptTo", "user@mx.test"),
        (500, "server", ""),
        (550, "onRcptTo", "user@mx.test"),
        (500, "server", ""),
        (421, "server", ""),
    ]
    assert refusalsOf(events)[-1]["verb"] == "", "no command has been refused"


def test_a_sender_that_may_not_send_without_authentication_is_named(events: Events) -> None:
    connect(authOptional=False, onAuth=lambda *_: None).say(HELLO, MAIL)
    assert [(event["code"], event["sender"]) for event in refusalsOf(events)] == [(530, "sender@client.test")]


@pytest.mark.parametrize("fault", ["x" * 3000, "NOOP \x01"])
def test_a_line_that_is_no_command_is_not_taken_for_the_one_before_it(fault: str, events: Events) -> None:
    connect().say(*ENVELOPE, fault)
    assert [(event["verb"], event["recipient"]) for event in refusalsOf(events)] == [("", "")]


def test_the_last_of_too_many_errors_is_the_servers(events: Events) -> None:
    def onAuth(auth: Any, session: Any) -> None:
        raise SMTPError("No such user", 535)

    client = connect(maxErrors=1, allowInsecureAuth=True, onAuth=onAuth)
    client.say(HELLO, "MAIL", f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    client.clock.advance(1)
    assert [(event["code"], event["by"]) for event in refusalsOf(events)] == [(501, "server"), (421, "server")]


@pytest.mark.parametrize(
    "decide", [lambda: AuthResponse(responseCode=454), lambda: fail(SMTPError("The database is away", 454))]
)
def test_a_refusal_of_AUTH_for_now_is_the_hooks(decide: Any, events: Events) -> None:
    client = connect(allowInsecureAuth=True, onAuth=lambda auth, session: decide())
    client.say(HELLO, f"AUTH PLAIN {plain('ann')}")
    assert [(event["code"], event["by"]) for event in refusalsOf(events)] == [(454, "onAuth")]


@pytest.mark.parametrize(("options", "code"), [({"size": 3}, 552), ({"bareNewline": "reject"}, 550)])
def test_what_the_server_has_against_a_message_is_the_servers(
    options: dict[str, Any], code: int, events: Events
) -> None:
    """Whatever its hook has answered for some of the recipients."""
    client = connect(lmtp=True, onData=lambda stream, session: [SMTPError("No", 554), None], **options)
    client.say(*LMTP_ENVELOPE, "RCPT TO:<other@mx.test>", "DATA")
    client.feed(b"a\nb\r\n.\r\n")
    assert [(event["code"], event["by"], event["recipient"]) for event in refusalsOf(events)] == [
        (554, "onData", "user@mx.test"),
        (code, "server", "other@mx.test"),
    ]


def test_with_LMTP_the_only_recipient_is_named_too(events: Events) -> None:
    client = connect(lmtp=True, onData=lambda stream, session: SMTPError("No", 554))
    client.say(*LMTP_ENVELOPE, "DATA", ".")
    assert [event["recipient"] for event in refusalsOf(events)] == ["user@mx.test"]


def test_the_handler_of_an_extension_is_named(events: Events) -> None:
    client = connect(extensions=[Extension("X", commands={"X": refuseAll})])
    client.say(HELLO, "X y")
    (event,) = refusalsOf(events)
    assert (event["verb"], event["by"]) == ("X", "refuseAll")


def test_of_LMTP_each_refused_recipient_has_its_line(events: Events) -> None:
    results: list[Any] = ["yes", SMTPError("no", 550), SMTPError("later", 451)]
    recipients = [f"RCPT TO:<{name}@mx.test>" for name in "abc"]
    client = connect(lmtp=True, onData=lambda stream, session: results)
    client.say("LHLO client.test", MAIL, *recipients, "DATA", ".")
    assert [(event["code"], event["recipient"], event["by"]) for event in refusalsOf(events)] == [
        (550, "b@mx.test", "onData"),
        (451, "c@mx.test", "onData"),
    ]


def test_addresses_and_users_of_refusals_are_shown_as_others_are(events: Events) -> None:
    client = connect(logAddresses=False, onRcptTo=refuseAll, allowInsecureAuth=True, onAuth=lambda auth, session: None)
    client.session.user = "ann"
    client.say(*ENVELOPE)
    other = Client(client.factory)
    other.say(HELLO, f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    other.clock.advance(1)
    texts = "".join(formatEvent(event) for event in events)
    assert not any(name in texts for name in ("ann", "sender@client.test", "user@mx.test"))
    assert len([event for event in events if event.get("user") == "49915e0d7d4b402e"]) == 2


def test_refusals_can_be_left_out_and_AUTH_cannot(events: Events) -> None:
    client = connect(logRefusals=False, maxClients=1, allowInsecureAuth=True, onAuth=lambda auth, session: None)
    client.say("NOPE", *ENVELOPE, f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}", "DATA", ".", MAIL, MAIL)
    Client(client.factory)  # one too many
    client.say("RSET", f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    client.clock.advance(1)
    assert not refusalsOf(events)
    assert [formatEvent(event).partition(" with")[0] for event in events.others] == ["AUTH failed from 192.0.2.7"]
    leave(client)
    assert events.connections[0]["refusals"] == 4


def test_an_address_writes_ten_lines_a_second_and_the_rest_is_counted(events: Events) -> None:
    factory = makeFactory(maxErrors=0, maxUnrecognizedCommands=0, onRcptTo=refuseAll)
    one, same = Client(factory), Client(factory)
    other = Client(factory, Transport(peerAddress=IPv4Address("TCP", "192.0.2.8", 50000)))
    one.say(*ENVELOPE, *[RCPT] * 5)
    same.say(*["NOPE"] * 30)
    other.say("NOPE")
    assert [event["peer"] for event in refusalsOf(events)] == ["192.0.2.7"] * 10 + ["192.0.2.8"]
    one.clock.advance(1)
    (event,) = [event for event in events if "count" in event]
    assert formatEvent(event) == "26 more refusals of 192.0.2.7 within a second"
    one.say("NOPE")
    assert len(refusalsOf(events)) == 12
    one.clock.advance(1)
    assert len([event for event in events if "count" in event]) == 1


def test_what_was_not_written_is_counted_though_the_last_client_has_left(events: Events) -> None:
    for isListening in (True, False):
        client = connect(maxUnrecognizedCommands=0)
        if isListening:
            client.factory.doStart()
        client.say(*["NOPE"] * 12)
        client.lose()
        if isListening:
            client.clock.advance(1)
        assert [event["count"] for event in events if "count" in event] == [2]
        assert not client.clock.getDelayedCalls()
        events.clear()


def test_a_server_that_has_stopped_leaves_no_timer_behind(events: Events) -> None:
    client = connect(maxUnrecognizedCommands=0)
    client.factory.doStart()
    client.say(*["NOPE"] * 12)
    client.lose()
    assert client.clock.getDelayedCalls()
    client.factory.doStop()
    assert not client.clock.getDelayedCalls()
    assert [event["count"] for event in events if "count" in event] == [2]


def test_a_server_that_has_closed_one_of_its_ports_still_writes_ten_lines_a_second(events: Events) -> None:
    factory = makeFactory(maxUnrecognizedCommands=0)
    for _ in range(2):
        factory.doStart()
    factory.doStop()
    for _ in range(3):
        client = Client(factory)
        client.say(*["NOPE"] * 12)
        client.lose()
    assert not [event for event in events if "count" in event]
    factory.doStop()
    assert [event["count"] for event in events if "count" in event] == [26]
    assert not client.clock.getDelayedCalls()


def test_a_second_does_not_end_with_the_last_connection(events: Events) -> None:
    factory = makeFactory()
    factory.doStart()
    for _ in range(20):
        client = Client(factory)
        client.say(*["NOPE"] * 5)
        client.lose()
    assert len(refusalsOf(events)) == 10
    client.clock.advance(1)
    assert [event["count"] for event in events if "count" in event] == [90]


def test_other_refusals_keep_no_failed_AUTH_from_the_log(events: Events) -> None:
    client = connect(maxUnrecognizedCommands=0, maxErrors=0, allowInsecureAuth=True, onAuth=lambda auth, session: None)
    client.say(HELLO, *["NOPE"] * 30, f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    assert [event["user"] for event in events if "method" in event] == ["ann"]


def test_ten_lines_a_second_are_ten_in_any_second(events: Events) -> None:
    client = connect(maxUnrecognizedCommands=0, maxErrors=0)
    client.factory.doStart()
    for seconds in (0.9, 0.2, 0.2, 0.9):
        client.say(*["NOPE"] * 10)
        client.clock.advance(seconds)
    assert len(refusalsOf(events)) == 20
    client.clock.advance(1)
    assert sum(event["count"] for event in events if "count" in event) == 20
    client.lose()


def test_a_clock_that_is_set_back_keeps_no_line_from_the_log(events: Events) -> None:
    now = [1000.0]
    limit = journal.LineLimit(lambda: now[0])
    assert [limit.admits("192.0.2.7") for _ in range(11)] == [True] * 10 + [False]
    now[0] = 10.0
    assert limit.admits("192.0.2.7")


def test_clients_too_many_write_ten_lines_a_second(events: Events) -> None:
    factory = makeFactory(maxClients=1)
    Client(factory)
    for _ in range(30):
        Client(factory).finish()
    assert len([event for event in events if event["log_format"].startswith("refused")]) == 10


def test_an_IPv6_network_counts_as_an_address(events: Events) -> None:
    factory = makeFactory(maxUnrecognizedCommands=0)
    for number in range(1, 4):
        client = Client(factory, Transport(peerAddress=IPv6Address("TCP", f"2001:db8::{number}", 50000)))
        client.say(*["NOPE"] * 6)
    assert len(refusalsOf(events)) == 10


# --- AUTH ---


def test_an_AUTH_that_failed_and_one_that_did_not_have_a_line_each(events: Events) -> None:
    client = connect(allowInsecureAuth=True, onAuth=lambda auth, session: auth.validatePassword(PASSWORD) and "ann")
    client.say(HELLO, f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    client.clock.advance(1)
    client.say(f"AUTH PLAIN {plain('ann')}")
    failed, succeeded = events.others
    session = client.session.id
    assert formatEvent(failed) == (
        f'AUTH failed from 192.0.2.7 with PLAIN as "ann": 535 5.7.8 Authentication credentials invalid [{session}]'
    )
    assert formatEvent(succeeded) == f'AUTH succeeded from 192.0.2.7 with PLAIN as "ann" [{session}]'
    for event, code in ((failed, 535), (succeeded, 235)):
        fields = [event[name] for name in ("session", "peer", "verb", "code", "method", "user")]
        assert fields == [session, "192.0.2.7", "AUTH", code, "PLAIN", "ann"]


def test_a_client_that_does_not_wait_for_its_535_has_its_line(events: Events) -> None:
    client = connect(allowInsecureAuth=True, onAuth=lambda auth, session: None)
    client.say(HELLO, f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    client.lose()
    failed, ended = events
    assert formatEvent(failed).startswith('AUTH failed from 192.0.2.7 with PLAIN as "ann": 535 ')
    assert ended["refusals"] == 1


@pytest.mark.parametrize("method", ["XOAUTH2", "OAUTHBEARER"])
def test_a_guess_that_a_challenge_has_answered_counts_and_is_logged(method: str, events: Events) -> None:
    responses = {
        "XOAUTH2": "user=ann\x01auth=Bearer x\x01\x01",
        "OAUTHBEARER": "n,a=ann,\x01auth=Bearer x\x01\x01",
    }
    factory = makeFactory(
        allowInsecureAuth=True,
        authMethods=[method],
        authFailuresPerAddress=3,
        onAuth=lambda auth, session: AuthResponse(data={"status": "401"}),
    )
    for _ in range(3):
        client = Client(factory)
        assert client.say(HELLO, f"AUTH {method} {encoded(responses[method])}")[-1].startswith("334 ")
        client.lose()
    assert [event["user"] for event in events if "method" in event] == ["ann"] * 3
    assert Client(factory).last(HELLO, f"AUTH {method} x").startswith("421 ")


def test_an_address_writes_ten_lines_a_second_about_failed_AUTH(events: Events) -> None:
    factory = makeFactory(
        allowInsecureAuth=True,
        authMethods=["XOAUTH2"],
        authFailuresPerAddress=0,
        onAuth=lambda *_: AuthResponse(data={"status": "401"}),
    )
    for _ in range(13):
        client = Client(factory)
        client.say(HELLO, "AUTH XOAUTH2 " + encoded("user=ann\x01auth=Bearer x\x01\x01"))
        client.lose()
    assert len([event for event in events if "method" in event]) == 10


def test_an_AUTH_is_logged_once_whatever_its_exchange(events: Events) -> None:
    client = connect(
        allowInsecureAuth=True, authMethods=["XOAUTH2"], onAuth=lambda *_: AuthResponse(data={"status": "401"})
    )
    client.say(HELLO, "AUTH XOAUTH2 " + encoded("user=ann\x01auth=Bearer x\x01\x01"), "")
    client.clock.advance(1)
    assert client.replies()[-1].startswith("535 ")
    assert len([event for event in events if "method" in event]) == 1
    assert not refusalsOf(events)


def test_what_SCRAM_hides_is_neither_counted_nor_logged_before_its_end(events: Events) -> None:
    """Or a client that breaks off could tell which users there are by what has been counted."""
    credentials = ScramMechanism("SCRAM-SHA-256").make_auth_info(PASSWORD)
    known = {"ann": AuthResponse(user="ann", data=credentials)}
    factory = makeFactory(
        allowInsecureAuth=True,
        authMethods=["SCRAM-SHA-256"],
        authFailuresPerAddress=2,
        onAuth=lambda auth, session: known.get(auth.username),
    )
    for user in ("ann", "joe"):
        for _ in range(3):
            client = Client(factory)
            line = f"AUTH SCRAM-SHA-256 {encoded(f'n,,n={user},r=abc')}"
            assert client.say(HELLO, line)[-1].startswith("334 ")
            assert client.last("*") == "501 5.7.0 Authentication cancelled"
            client.lose()
    assert not [event for event in events if "method" in event]
    assert {event["by"] for event in refusalsOf(events)} == {"server"}


@pytest.mark.parametrize("answer", [SMTPError("No such user", 535), AuthResponse(message="No such user"), None])
def test_SCRAM_that_has_failed_is_logged_once(answer: Any, events: Events) -> None:
    client = connect(allowInsecureAuth=True, authMethods=["SCRAM-SHA-256"], onAuth=lambda auth, session: answer)
    challenge = client.last(HELLO, f"AUTH SCRAM-SHA-256 {encoded('n,,n=joe,r=abc')}").removeprefix("334 ")
    nonce = b64decode(challenge).decode().partition(",")[0]
    client.say(encoded(f"c=biws,{nonce},p={encoded('x' * 32)}"))
    client.clock.advance(1)
    assert client.replies() == ["535 5.7.8 Authentication credentials invalid"]
    client.lose()
    assert [event["user"] for event in events if "method" in event] == ["joe"]
    assert not refusalsOf(events)
    assert events.connections[0]["refusals"] == 1


def test_the_last_error_of_a_client_does_not_hide_that_AUTH_failed(events: Events) -> None:
    client = connect(maxErrors=1, allowInsecureAuth=True, onAuth=lambda auth, session: None)
    client.say(HELLO, "MAIL", f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    client.clock.advance(1)
    assert client.replies() == ["421 4.7.0 Too many errors"]
    assert [event["user"] for event in events if "method" in event] == ["ann"]
    assert [event["code"] for event in refusalsOf(events)] == [501, 421]


@pytest.mark.parametrize(
    ("line", "code"), [("AUTH PLAIN !", 501), ("AUTH NONE", 504), ("AUTH PLAIN " + plain("a\nb"), 501)]
)
def test_an_AUTH_that_asked_no_hook_is_a_refusal_like_others(line: str, code: int, events: Events) -> None:
    client = connect(allowInsecureAuth=True, onAuth=lambda auth, session: None)
    client.say(HELLO, f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    client.clock.advance(1)
    client.say(line)
    (event,) = refusalsOf(events)
    assert (event["verb"], event["code"], event["by"]) == ("AUTH", code, "server")


def test_an_AUTH_that_cannot_be_judged_now_is_no_failure_for_fail2ban(events: Events) -> None:
    def onAuth(auth: Any, session: Any) -> None:
        raise SMTPError("The database is away", 454)

    client = connect(allowInsecureAuth=True, onAuth=onAuth)
    client.say(HELLO, f"AUTH PLAIN {plain('ann', WRONG_PASSWORD)}")
    (event,) = refusalsOf(events)
    assert (event["code"], event["by"]) == (454, "onAuth")


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
    success, event = events
    assert success["user"] == event["user"] == user
    assert f'AUTH succeeded from 192.0.2.7 with PLAIN as "{user}" [' in formatEvent(success)
    assert (user == "ann") is isShown


def test_a_user_that_is_no_text_is_not_shown(events: Events) -> None:
    client = connect()
    client.session.user = object()
    leave(client)
    assert events[0]["user"] == ""


def test_the_empty_address_has_no_hash() -> None:
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
