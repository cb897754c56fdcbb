"""Abuse: whatever octets a hostile client sends, they do no harm.  Tested from outside, by replies and hooks."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from twisted.python.failure import Failure

from smtphooks import AuthResponse, Extension, SMTPError
from tests.support import ENVELOPE, HELLO, LMTP_ENVELOPE, MAIL, RCPT, Client, Diary, Mailbox, connect
from tests.test_limits import lines as lines  # a fixture

pytestmark = pytest.mark.usefixtures("logged")

NO_HTTP = "554 5.5.1 This is no HTTP server"
MODES = ["normalize", "reject", "accept"]


def inPieces(client: Client, data: bytes, size: int) -> list[str]:
    """Send octets in pieces of this size, as long as the server reads, and return the lines that came back."""
    for start in range(0, len(data), size):
        if client.isClosed:
            client.protocol.dataReceived(data[start : start + size])
        else:
            client.feed(data[start : start + size])
    return client.replies()


# --- HTTP ---

COMMANDS = "".join(f"{line}\r\n" for line in (*ENVELOPE, "DATA", "smuggled", ".", "QUIT")).encode()
FIELDS = b"Host: mx.test:25\r\nUser-Agent: browser\r\nContent-Type: text/plain\r\n\r\n"
REQUESTS = [
    b"GET / HTTP/1.1\r\n" + FIELDS,
    b"POST / HTTP/1.1\r\n" + FIELDS + COMMANDS,
    b"POST / HTTP/1.1\n" + FIELDS.replace(b"\r\n", b"\n") + COMMANDS,
    b"post /index.html?a=b HTTP/1.0\r\n\r\n" + COMMANDS,
    b"PUT / HTTP/1.1\r\n" + COMMANDS,
    b"OPTIONS * HTTP/1.1\r\n" + COMMANDS,
    b"CONNECT mx.test:25 HTTP/1.1\r\n\r\n" + COMMANDS,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + COMMANDS,
    # A request line that cannot be read as a command is recognized all the same.
    b"POST /" + b"x" * 700 + b" HTTP/1.1\r\n" + FIELDS + COMMANDS,
    b"POST /" + b"x" * 20000 + b" HTTP/1.1\r\n" + FIELDS + COMMANDS,
    b"POST /\xff HTTP/1.1\r\n" + FIELDS + COMMANDS,
    b"POST /\0 HTTP/1.1\r\n" + FIELDS + COMMANDS,
    b"POST\t/\tHTTP/1.1\r\n" + FIELDS + COMMANDS,
]


@pytest.mark.parametrize("size", [1, 7, 100000])
@pytest.mark.parametrize("request_", REQUESTS, ids=[str(request[:20]) for request in REQUESTS])
@pytest.mark.parametrize("given", [{}, {"lmtp": True}, {"authOptional": False}])
def test_a_browser_is_refused_and_no_line_of_its_body_is_a_command(
    request_: bytes, size: int, given: dict[str, Any], lines: list[str]
) -> None:
    diary = Diary()
    errors: list[SMTPError] = []
    names = ("onHelo", "onMailFrom", "onRcptTo", "onData")
    client = connect(
        **{name: diary.hook(name) for name in names},
        onError=lambda failure, session: errors.append(failure.value),
        **given,
    )
    client.replies()
    said = inPieces(client, request_, size)
    assert said[-1] == NO_HTTP
    assert all(line.startswith("500 ") for line in said[:-1])
    assert client.isClosed
    client.finish()
    assert diary == []
    assert [error.responseCode for error in errors] == [554]
    assert lines[-1].endswith(NO_HTTP)


@pytest.mark.parametrize(
    "line", ["HELP HTTP/1.1", "VRFY x HTTP/1.1", "NOOP / HTTP/1.1", "GET /", "GET", "HTTP/1.1 200 OK"]
)
def test_a_line_that_only_resembles_HTTP_is_an_ordinary_command(line: str) -> None:
    client = connect()
    assert client.last(HELLO, line)[:3] in ("214", "252", "250", "500")
    assert client.last("NOOP").startswith("250 ")


def test_an_extension_may_define_a_verb_of_HTTP() -> None:
    client = connect(extensions=[Extension("GET", commands={"GET": lambda argument, session: f"got {argument}"})])
    assert client.last("GET / HTTP/1.1") == "250 2.0.0 got / HTTP/1.1"


def test_a_stray_header_field_is_not_taken_for_HTTP() -> None:
    client = connect()
    assert client.last(HELLO, "Subject: x") == "500 5.5.2 Command not recognized"


# --- smuggling: one message is never read as two ---

ENDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\r\n\0",
    b"\0\r\n",
    b"\r\0\n",
    b"\x0b",
    b"\x0c",
    b"\x85",
    b"\xe2\x80\xa8",
    b"",
]
FORMS = [
    before + b"." + behind for before, behind in itertools.product(ENDS, ENDS) if (before, behind) != (b"\r\n", b"\r\n")
]
# Some forms contain a true end of a message.
FORMS = [form for form in FORMS if b"\r\n.\r\n" not in form]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 3, 100000])
@pytest.mark.parametrize("lmtp", [False, True])
def test_no_other_form_ends_a_message(mode: str, size: int, lmtp: bool) -> None:
    for form in FORMS:
        diary, mailbox = Diary(), Mailbox()
        client = connect(
            bareNewline=mode, lmtp=lmtp, onData=mailbox.onData, onMailFrom=diary.hook("onMailFrom"), maxErrors=0
        )
        envelope = LMTP_ENVELOPE if lmtp else ENVELOPE
        client.say(*envelope, "DATA")
        inner = b"".join(line.encode() + b"\r\n" for line in (*envelope[1:], "DATA"))
        [reply] = inPieces(client, b"one" + form + inner + b"two\r\n.\r\n", size)
        isBare = re.search(rb"(?<!\r)\n|\r(?!\n)", form) is not None
        refused = mode == "reject" and isBare
        assert reply.startswith("550 5.6.11 " if refused else "250 "), form
        assert len(mailbox) == (0 if refused else 1), form
        # The dialogue stays in step: each of the next commands has its own reply, and the next message is whole.
        assert [line[:3] for line in client.say("NOOP", *envelope[1:], "DATA")] == ["250", "250", "250", "354"], form
        assert client.last("three", ".").startswith("250 "), form
        assert mailbox[-1] == b"three\r\n"
        assert diary == ["onMailFrom"] * 2
        client.say("QUIT")
        client.finish()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 100000])
def test_only_what_follows_the_true_end_is_read_as_commands(mode: str, size: int) -> None:
    mailbox = Mailbox()
    client = connect(bareNewline=mode, onData=mailbox.onData)
    client.say(*ENVELOPE, "DATA")
    said = inPieces(client, b"one\r\n.\r\nNOOP\r\n.\r\nVRFY x\r\n", size)
    assert [line[:3] for line in said] == ["250", "250", "500", "252"]
    assert mailbox == [b"one\r\n"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("command", [b"DATA\n", b"DATA\r", b"DATA\r\r\n", b"DATA\n\r\n", b"DATA\0\r\n", b"DATA\r\n"])
def test_a_message_begins_behind_the_line_that_got_the_354(mode: str, command: bytes) -> None:
    """Client and server must agree on where the line of DATA ends, for the message begins there."""
    mailbox = Mailbox()
    client = connect(bareNewline=mode, onData=mailbox.onData)
    client.say(*ENVELOPE)
    client.feed(command)
    begun = client.codes() == [354]
    client.feed(b"\r\n" if command == b"DATA\r" else b"")
    if not begun:
        client.replies()
        return
    assert command == b"DATA\r\n" or (mode != "reject" and command.startswith(b"DATA\n"))
    client.feed(b"text\r\n.\r\n")
    assert client.codes() == [250]
    assert len(mailbox) == 1


@pytest.mark.parametrize("mode", MODES)
def test_octets_of_a_chunk_are_neither_commands_nor_an_end(mode: str) -> None:
    mailbox = Mailbox()
    client = connect(bareNewline=mode, onData=mailbox.onData)
    body = b"one\r\n.\r\nRSET\r\nQUIT\r\n.\r\n"
    client.say(*ENVELOPE)
    said = inPieces(client, b"BDAT %d LAST\r\n%sNOOP\r\n" % (len(body), body), 1)
    assert [line[:3] for line in said] == ["250", "250"]
    assert mailbox == [body]


@pytest.mark.parametrize("recipients", [1, 3])
@pytest.mark.parametrize("content", [b"a\nb", b"a\rb"])
def test_with_lmtp_a_bare_newline_is_refused_for_each_recipient_and_reported_once(
    recipients: int, content: bytes, lines: list[str]
) -> None:
    errors: list[Failure] = []
    client = connect(
        lmtp=True, bareNewline="reject", onError=lambda failure, session: errors.append(failure), onData=lambda *_: None
    )
    client.say("LHLO client.test", MAIL, *[RCPT] * recipients, "DATA")
    client.feed(content + b"\r\n.\r\n")
    assert [line[:10] for line in client.replies()] == ["550 5.6.11"] * recipients
    assert (len(errors), len(lines)) == (1, recipients)


# --- commands with control characters or eight bits ---

STRANGE = [
    "\0",
    "\x01",
    "\x07",
    "\x08",
    "\t",
    "\x0b",
    "\x0c",
    "\x1b[2J",
    "\x7f",
    "\x80",
    "\x85",
    "\xad",
    "\u200b",
    "\u2028",
    "\u202e",
    "\ufeff",
]


@pytest.mark.parametrize("where", ["{}HELO x", "HE{}LO x", "HELO{} x", "HELO {}", "HELO a{}b", "EHLO a{}b", "EHLO x{}"])
@pytest.mark.parametrize(
    "strange",
    [
        *(s.encode() for s in STRANGE),
        *(bytes([octet]) for octet in (*range(10), 11, 12, *range(14, 32), 127, 128, 255)),
    ],
    ids=ascii,
)
def test_no_control_character_passes_HELO(where: str, strange: bytes, lines: list[str]) -> None:
    diary = Diary()
    client = connect(onHelo=diary.hook("onHelo"))
    client.replies()
    client.feed(where.encode().replace(b"{}", strange) + b"\r\n")
    [reply] = client.replies()
    assert reply[:3] in ("500", "501")
    assert diary == []
    assert client.session.hostNameAppearsAs == ""
    assert reply.isascii() and reply.isprintable()
    assert client.last("NOOP") == "250 2.0.0 OK"
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "text", [*(s.encode() for s in ("\u00e4", "\u4f8b", "x\u00e4.test", "\U0001f4e7")), b"\xe4", b"\xff.test"]
)
@pytest.mark.parametrize(
    "command",
    [
        "HELO {}",
        "EHLO {}",
        "MAIL FROM:<{}@client.test>",
        "MAIL FROM:<a@{}>",
        "MAIL FROM:<a@b.test> ENVID={}",
        "{} x",
        "MA{}IL FROM:<a@b.test>",
    ],
)
def test_eight_bits_in_a_command_without_SMTPUTF8_are_refused(text: bytes, command: str) -> None:
    diary = Diary()
    client = connect(onMailFrom=diary.hook("onMailFrom"), hideDSN=False)
    client.say(HELLO)
    client.feed(command.encode().replace(b"{}", text) + b"\r\n")
    [reply] = client.replies()
    assert reply.startswith("5")
    assert reply.isascii()
    assert diary == []
    assert client.last("NOOP") == "250 2.0.0 OK"


@pytest.mark.parametrize("text", ["\u00e4", "\u4f8b"])
def test_eight_bits_in_a_recipient_without_SMTPUTF8_are_refused(text: str) -> None:
    diary = Diary()
    client = connect(onRcptTo=diary.hook("onRcptTo"))
    client.say(HELLO, MAIL)
    client.feed(f"RCPT TO:<{text}@mx.test>\r\nRCPT TO:<a@{text}.test>\r\n".encode())
    assert [reply[:1] for reply in client.replies()] == ["5", "5"]
    assert diary == []
    client.feed(f"RSET\r\nMAIL FROM:<a@b.test> SMTPUTF8\r\nRCPT TO:<{text}@mx.test>\r\n".encode())
    assert client.codes() == [250, 250, 250]


# --- over-long everything ---


@pytest.mark.parametrize(
    "line",
    [
        "x" * 100000,
        "x " * 50000,
        "NOOP " + "x" * 100000,
        "EHLO " + "x" * 300,
        "EHLO " + "x" * 100000,
        "MAIL FROM:<" + "x" * 243 + "@client.test>",
        "MAIL FROM:<a@" + "x" * 300 + ">",
        "MAIL FROM:<" + "x" * 100000,
        "MAIL FROM:<a@b.test> " + "X=1 " * 200,
        "MAIL FROM:<a@b.test> SIZE=" + "9" * 400,
        "MAIL FROM:<" + "@a.test," * 100 + ":a@b.test>",
        "RCPT TO:<" + "x" * 100000 + "@mx.test>",
        "VRFY " + "x" * 100000,
        "HELP " + "x" * 100000,
        "AUTH " + "x" * 100000,
        "AUTH PLAIN " + "x" * 100000,
        "RSET" + " " * 100000,
        "BDAT " + "9" * 100000,
    ],
    ids=lambda line: f"{line[:30]}... {len(line)}",
)
@pytest.mark.parametrize("size", [4096, 1000000])
def test_an_overlong_command_gets_one_short_reply_and_is_not_buffered(line: str, size: int) -> None:
    client = connect(onAuth=lambda *_: None, allowInsecureAuth=True)
    client.say(HELLO)
    [reply] = inPieces(client, line.encode() + b"\r\n", size)
    assert reply.startswith("50")
    assert len(reply) < 200
    assert client.protocol.buffered == 0
    assert client.last("NOOP") == "250 2.0.0 OK"


@pytest.mark.parametrize("number", ["9" * 21, "9" * 400, "-1", "0x10", "1e3", "", "\u0661"])
def test_an_invalid_chunk_length_ends_the_connection(number: str) -> None:
    mailbox = Mailbox()
    client = connect(onData=mailbox.onData)
    client.say(*ENVELOPE)
    client.feed(f"BDAT {number} LAST\r\nQUIT\r\n".encode())
    assert client.replies() == ["501 5.5.4 Syntax: BDAT size [LAST]"]
    assert client.isClosed
    client.finish()
    assert mailbox == []


def test_the_response_to_a_challenge_is_bounded_too() -> None:
    client = connect(onAuth=lambda *_: None, allowInsecureAuth=True, authMethods=["LOGIN"])
    assert client.last(HELLO, "AUTH LOGIN").startswith("334 ")
    client.feed(b"A" * 100000)
    assert client.protocol.buffered < 20000
    client.feed(b"\r\n")
    assert client.last("NOOP") == "250 2.0.0 OK"


# --- reply texts from hooks ---

NASTY = "a\r\n250 2.0.0 b\0c\x1b[2J\x7f\x85\u2028d\u202e"
SCRUBBED = re.compile(r"[245]\d\d[ -][ -~]*")


@pytest.mark.parametrize("isRefused", [False, True])
@pytest.mark.parametrize(
    "text", [NASTY, NASTY * 200, "x" * 5000, "\u00e4\u4f8b" * 500, "\r\n.\r\n", "\ud800"], ids=ascii
)
def test_no_text_of_a_hook_can_forge_a_reply(text: str, isRefused: bool) -> None:
    def hook(*_: Any) -> str:
        if isRefused:
            raise SMTPError(text)
        return text

    def onAuth(auth: Any, session: Any) -> AuthResponse:
        return AuthResponse(user=None if isRefused else "ann", message=text)

    for said, given in [
        ((HELLO,), {"onHelo": hook}),
        ((HELLO, MAIL), {"onMailFrom": hook}),
        (ENVELOPE, {"onRcptTo": hook}),
        ((*ENVELOPE, "DATA", "."), {"onData": hook}),
        ((*ENVELOPE, "BDAT 0 LAST"), {"onData": hook}),
        (("LHLO x", MAIL, RCPT, RCPT, "DATA", "."), {"onData": hook, "lmtp": True}),
        (("VRFY x",), {"onVrfy": hook}),
        (("XTRA",), {"extensions": [Extension("XTRA", commands={"XTRA": hook})]}),
        ((HELLO, "AUTH PLAIN AGFubgB4"), {"onAuth": onAuth, "allowInsecureAuth": True}),
    ]:
        client = connect(**given)
        client.say(*said[:-1]) if said[:-1] else client.replies()
        client.feed(f"{said[-1]}\r\n".encode())
        if client.clock.getDelayedCalls():
            client.clock.advance(1)  # the delay after a refused AUTH
        answer = client.replies()
        assert all(SCRUBBED.fullmatch(line) and len(line) <= 510 for line in answer)
        last = [line for line in answer if line[3] == " "]
        assert len(last) == (2 if given.get("lmtp") else 1)
        assert {line[:3] for line in answer} == {last[0][:3]}
        assert client.last("NOOP") == "250 2.0.0 OK"


def test_the_refusal_of_a_connection_is_scrubbed() -> None:
    def onConnect(session: Any) -> None:
        raise SMTPError(NASTY)

    client = connect(onConnect=onConnect)
    [reply] = client.replies()
    assert SCRUBBED.fullmatch(reply) and reply.startswith("554 5.7.1 a")
    assert client.isClosed
