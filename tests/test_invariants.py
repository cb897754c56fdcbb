"""The invariants of section 3 of the design, a part for each that no other file tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport

from smtphooks import Extension, SMTPError
from tests.conftest import Logged
from tests.support import (
    ENVELOPE,
    HELLO,
    HOOKS,
    MAIL,
    RCPT,
    Client,
    Mailbox,
    Pending,
    Transport,
    connect,
    cutUp,
    makeFactory,
)

pytestmark = pytest.mark.usefixtures("logged")

MODES = ["normalize", "reject", "accept"]
SMUGGLED = b"MAIL FROM:<smuggled@client.test>\r\nRCPT TO:<user@mx.test>\r\nDATA\r\nsmuggled\r\n"
NOT_THE_END = [
    *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n"),
    *(b"\r\n .\r\n", b"\r\n. \r\n", b"\r\n.\r\r\n", b"\n\n.\n\n", b"\r\n..\r\n", b"\r\r\n.\n", b"\xe2\x80\xa8.\r\n"),
]


# --- 1: replies are in command order, one per command, however the input is cut ---


class Hooks:
    """
    Hooks whose decisions depend on their arguments, and not on time.

    @ivar clock: if it is given, decisions are delayed by C{delays}.
    @ivar seen: the arguments of all calls, and the messages that came whole.
    """

    def __init__(self, clock: Clock | None, delays: list[int]) -> None:
        self.clock = clock
        self.delays = delays
        self.seen: list[Any] = []

    async def wait(self) -> None:
        if self.clock is not None and self.delays:
            self.delays.append(self.delays.pop(0))
            if self.delays[0]:
                await deferLater(self.clock, self.delays[0])  # type: ignore[arg-type]

    async def decide(self, *question: str) -> str | None:
        self.seen.append(question)
        await self.wait()
        if "no" in question[-1]:
            raise SMTPError("Refused " + question[-1], 452)
        return f"Yes {question[-1]}" if "text" in question[-1] else None

    def onHelo(self, hostname: str, session: Any) -> Any:
        return self.decide("onHelo", hostname)

    def onMailFrom(self, address: Any, session: Any) -> Any:
        return self.decide("onMailFrom", address.address)

    def onRcptTo(self, address: Any, session: Any) -> Any:
        return self.decide("onRcptTo", address.address)

    def onVrfy(self, text: str, session: Any) -> Any:
        return self.decide("onVrfy", text)

    def onReset(self, session: Any) -> Any:
        return self.decide("onReset", "")

    def xtra(self, argument: str, session: Any) -> Any:
        return self.decide("XTRA", argument)

    async def onData(self, stream: Any, session: Any) -> Any:
        way = session.envelope.mailFrom.local
        if "early" in way:
            return "not read"
        if "refused" in way:
            raise SMTPError("not wanted", 554)
        await self.wait()
        if "consumer" in way:
            consumer = SlowConsumer(self.clock)
            await stream.deliverTo(consumer)
            message = consumer.value()
        elif "read" in way:
            message = await stream.read()
        else:
            message = b""
            async for chunk in stream:
                message += chunk
                await self.wait()
        await self.wait()
        self.seen.append((way, message, stream.sizeExceeded))
        if session.lmtp:
            answers = [f"message of {len(message)}", None, SMTPError("not for you", 550)]
            return (answers * len(session.envelope.rcptTo))[: len(session.envelope.rcptTo)]
        return f"message of {len(message)}"


class SlowConsumer(StringTransport):
    """A consumer that takes one chunk at a time."""

    def __init__(self, clock: Clock | None) -> None:
        super().__init__()
        self._clock = clock

    def write(self, data: bytes) -> None:
        super().write(data)
        if self._clock is not None:
            producer = self.producer
            producer.pauseProducing()
            self._clock.callLater(1, producer.resumeProducing)


ways = st.sampled_from(["reads", "iterates", "consumer", "early", "refused", "no", "text"])
bodies = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\0", b"\xff", b"QUIT\r\n", b"x" * 20000, b"\n" * 9000]
    ),
    max_size=8,
).map(b"".join)
names = st.sampled_from([b"user", b"no", b"text", b"other"])


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    body = draw(bodies)
    return b"BDAT %d%s\r\n%s" % (len(body), draw(st.sampled_from([b"", b" LAST"])), body)


lines = st.sampled_from(
    [
        *(b"NOOP\r\n", b"RSET\r\n", b"HELP\r\n", b"VRFY user\r\n", b"VRFY no\r\n", b"XTRA text\r\n", b"EXPN x\r\n"),
        *(b"EHLO text\r\n", b"LHLO text\r\n", b"HELO client\r\n", b"EHLO no.no\r\n", b"EHLO\r\n", b"\r\n", b"\xff\r\n"),
        *(
            b"x" * 3000 + b"\r\n",
            b"NO\rOP\r\n",
            b"NOOP\n",
            b"\n",
            b"NOOP\r\r\n",
            b"MAIL\r\n",
            b"MAIL FROM:<a@b> X=1\r\n",
        ),
        *(
            b"RCPT TO:<>\r\n",
            b"DATA now\r\n",
            b"BDAT\r\n",
            b"BDAT x LAST\r\n",
            b"STARTTLS\r\n",
            b"NOOP\0\r\n",
            b".\r\n",
        ),
    ]
)
transactions = st.builds(
    lambda way, recipients, message: (
        b"MAIL FROM:<%s@client.test>\r\n" % way.encode()
        + b"".join(b"RCPT TO:<%s@mx.test>\r\n" % name for name in recipients)
        + message
    ),
    ways,
    st.lists(names, max_size=3),
    bodies.map(lambda body: b"DATA\r\n" + body + b"\r\n.\r\n") | st.lists(chunks(), max_size=3).map(b"".join),
)
dialogues = st.lists(lines | transactions | transactions | chunks(), max_size=8).map(b"".join)


def run(
    data: list[bytes],
    cuts: list[bool],
    hooks: Hooks,
    clock: Clock,
    layers: Callable[[Hooks], Any] = lambda hooks: hooks,
    **options: Any,
) -> tuple[list[str], list[Any]]:
    """
    All replies to these octets, and what the hooks have seen.

    @param layers: what the server gets, made of the hooks.
    """
    extension = Extension("XTRA", commands={"XTRA": hooks.xtra})
    client = connect(hooks=layers(hooks), extensions=[extension], **{"size": 30000, **options})

    def advance() -> None:
        calls = clock.getDelayedCalls()
        assert calls, "no hook is pending, and yet the server does not go on"
        clock.advance(max(0, min(call.getTime() for call in calls) - clock.seconds()))

    for number, piece in enumerate(data):
        while client.transport.producerState == "paused" and not client.isClosed:
            advance()
        if not client.isClosed:
            client.feed(piece)
        if cuts and cuts[number % len(cuts)] and clock.getDelayedCalls():
            advance()
    while clock.getDelayedCalls():
        advance()
    client.halfClose()
    assert client.isClosed
    client.finish()
    return client.replies(), hooks.seen


CHUNK = b"MAIL FROM:<reads@client.test>\r\nRCPT TO:<user@mx.test>\r\nBDAT %d\r\n%s"


# These octets exceed option size and hold a bare newline: the cuts must not decide which of the two the hook sees.
@example(CHUNK % (40001, b"\r" + b"x" * 40000), [90], [], [], "reject", False)
@example(CHUNK % (40001, b"x" * 30000 + b"\n" * 10001), [31000], [], [], "reject", False)
@settings(max_examples=400)
@given(
    dialogues,
    st.lists(st.integers(0, 100000), max_size=12),
    st.lists(st.integers(0, 3), max_size=5),
    st.lists(st.booleans(), max_size=3),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_1_any_split_of_the_same_octets_gives_the_same_replies_and_messages(
    dialogue: bytes, cuts: list[int], delays: list[int], pauses: list[bool], mode: str, lmtp: bool
) -> None:
    data = (b"LHLO client\r\n" if lmtp else b"EHLO client\r\n") + dialogue
    options = {"bareNewline": mode, "lmtp": lmtp}
    expected = run([data], [], Hooks(None, []), Clock(), **options)
    assert run(cutUp(data, cuts), [], Hooks(None, []), Clock(), **options) == expected
    clock = Clock()
    assert run(cutUp(data, cuts), pauses, Hooks(clock, delays), clock, **options) == expected


class Agreeing:
    """A layer that agrees with everything, in its own time."""

    def __init__(self, clock: Clock | None, delays: list[int]) -> None:
        self.wait = Hooks(clock, delays).wait

    def onConnect(self, session: Any) -> None: ...

    async def onHelo(self, hostname: str, session: Any) -> None:
        await self.wait()

    def onMailFrom(self, address: Any, session: Any) -> Any:
        return self.wait()

    async def onRcptTo(self, address: Any, session: Any) -> None:
        await self.wait()

    def onVrfy(self, text: str, session: Any) -> None: ...

    async def onReset(self, session: Any) -> None:
        await self.wait()

    async def inspectData(self, stream: Any, session: Any) -> None:
        async for _ in stream:
            await self.wait()

    async def filterData(self, stream: Any, session: Any) -> Any:
        async for chunk in stream:
            await self.wait()
            yield chunk


@settings(max_examples=300)
@given(
    dialogues,
    st.lists(st.integers(0, 100000), max_size=12),
    st.lists(st.integers(0, 3), max_size=5),
    st.lists(st.booleans(), max_size=3),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_1_layers_that_agree_change_no_reply_and_no_message(
    dialogue: bytes, cuts: list[int], delays: list[int], pauses: list[bool], mode: str, lmtp: bool
) -> None:
    data = (b"LHLO client\r\n" if lmtp else b"EHLO client\r\n") + dialogue
    # Without a limit of the size: beyond it a stream behind a filter fails, where the client's own has ended.
    options = {"bareNewline": mode, "lmtp": lmtp, "size": 0}
    expected = run([data], [], Hooks(None, []), Clock(), **options)
    clock = Clock()

    def layers(hooks: Hooks) -> list[Any]:
        return [Agreeing(clock, [*delays]), hooks, Agreeing(clock, delays[::-1]), Agreeing(None, [])]

    assert run(cutUp(data, cuts), pauses, Hooks(clock, delays), clock, layers, **options) == expected


@pytest.mark.parametrize("lmtp", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_1_a_dialogue_may_come_octet_by_octet(lmtp: bool, late: bool) -> None:
    data = (
        (b"LHLO client\r\n" if lmtp else b"EHLO client\r\n")
        + b"MAIL FROM:<reads@client.test>\r\nRCPT TO:<user@mx.test>\r\nDATA\r\n..one\r\n.two\n.\n\r\n.\r\nNOOP\r\n"
        + b"MAIL FROM:<iterates@client.test>\r\nRCPT TO:<no@mx.test>\r\nRCPT TO:<user@mx.test>\r\nNOPE\r\n"
        + b"BDAT 9\r\none\r\ntwo\rBDAT 6 LAST\r\n\nthreeVRFY text\r\nQUIT\r\nNOOP\r\n"
    )
    clock = Clock()
    hooks = Hooks(clock, [0, 1, 2] if late else [])
    expected = run([data], [], Hooks(None, []), Clock(), lmtp=lmtp)
    assert run([data[i : i + 1] for i in range(len(data))], [True], hooks, clock, lmtp=lmtp) == expected
    replies, _ = expected
    assert replies[-1] == "221 2.0.0 Bye"


def test_1_a_later_command_never_overtakes_a_slow_one() -> None:
    onRcptTo = Pending()
    client = connect(onRcptTo=onRcptTo, onData=Mailbox().onData)
    client.say(HELLO)
    client.feed(f"{MAIL}\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n.\r\nQUIT\r\n".encode())
    assert client.codes() == [250]
    onRcptTo.decide(SMTPError("first"))
    assert client.replies() == ["550 5.1.1 first"]
    onRcptTo.decide("second")
    assert client.codes() == [250, 354, 250, 221]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_1_each_command_has_one_reply_and_with_lmtp_each_recipient_one(size: int) -> None:
    commands = [("LHLO client", 250), (MAIL, 250), ("NOPE", 500), *[(RCPT, 250)] * 3, ("VRFY", 501), ("DATA", 354)]
    data = "".join(line + "\r\n" for line, _ in commands).encode() + b"text\r\n.\r\n"
    expected = [220, *[code for _, code in commands], 250, 250, 250]
    data += f"{MAIL}\r\n{RCPT}\r\n{RCPT}\r\nBDAT 4\r\ntextBDAT 0 LAST\r\nQUIT\r\n".encode()
    expected += [250, 250, 250, 250, 250, 250, 221]
    client = connect(lmtp=True, onData=Mailbox().onData)
    for start in range(0, len(data), size):
        client.feed(data[start : start + size])
    assert client.codes() == expected


# --- 2: no message is acknowledged before onData succeeded, none is lost after, a cut one never comes ---

TWO_MESSAGES = (
    b"EHLO client\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<user@mx.test>\r\nDATA\r\n..one\r\n\r\n.\r\n"
    b"MAIL FROM:<b@client.test>\r\nRCPT TO:<user@mx.test>\r\nBDAT 6\r\nfirst\rBDAT 7 LAST\r\n\nsecondRSET\r\nQUIT\r\n"
)
WHOLE = [(TWO_MESSAGES.index(b"\r\n.\r\n") + 5, b".one\r\n\r\n"), (TWO_MESSAGES.index(b"RSET"), b"first\r\nsecond")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("politely", [True, False])
def test_2_wherever_a_connection_is_cut_only_whole_messages_come(mode: str, politely: bool) -> None:
    for end in range(len(TWO_MESSAGES) + 1):
        mailbox = Mailbox()
        client = connect(onData=mailbox.onData, bareNewline=mode)
        client.feed(TWO_MESSAGES[:end])
        if politely:
            client.halfClose()
        client.lose()
        assert mailbox == [message for length, message in WHOLE if length <= end]
        accepted = sum("Message accepted" in line for line in client.replies())
        assert accepted == len(mailbox)


@pytest.mark.parametrize("mode", MODES)
def test_2_a_consumer_is_told_of_its_end_only_when_the_message_is_whole(mode: str) -> None:
    for end in range(len(TWO_MESSAGES) + 1):
        whole: list[bytes] = []

        def onData(stream: Any, session: Any, whole: list[bytes] = whole) -> Any:
            consumer = StringTransport()
            return stream.deliverTo(consumer).addCallback(lambda _: whole.append(consumer.value()))

        client = connect(onData=onData, bareNewline=mode)
        client.feed(TWO_MESSAGES[:end])
        client.lose()
        assert whole == [message for length, message in WHOLE if length <= end]


@pytest.mark.parametrize("sent", [b"DATA\r\ntext\r\n.\r\nNOOP\r\n", b"BDAT 4 LAST\r\ntextNOOP\r\n"])
@pytest.mark.parametrize(
    ("result", "reply"),
    [
        (None, "250 2.0.0 Message accepted"),
        (SMTPError("no"), "450 4.3.0 no"),
        (ValueError(), "451 4.3.0 Temporary server error, please try again later"),
    ],
)
def test_2_the_reply_to_a_message_waits_for_the_hook_and_follows_its_result(
    sent: bytes, result: Any, reply: str, logged: Logged
) -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say(*ENVELOPE)
    client.feed(sent)
    assert [line for line in client.replies() if line[:3] != "354"] == []
    onData.decide(result)
    assert client.replies() == [reply, "250 2.0.0 OK"]
    logged.takeFailures(ValueError)


def test_2_a_message_that_was_read_whole_is_stored_though_the_client_has_left() -> None:
    gate: Deferred[None] = Deferred()
    mailbox = Mailbox()

    async def onData(stream: Any, session: Any) -> None:
        await gate
        await mailbox.onData(stream, session)

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA", "text", ".")
    client.lose()
    gate.callback(None)
    assert mailbox == [b"text\r\n"]


# --- 3: only CRLF.CRLF ends a message ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", NOT_THE_END)
@pytest.mark.parametrize("size", [1, 7, 100000])
def test_3_one_message_is_never_read_as_two(mode: str, end: bytes, size: int) -> None:
    mailbox = Mailbox()
    senders: list[str] = []
    client = connect(
        onData=mailbox.onData,
        onMailFrom=lambda address, session: senders.append(address.address),
        bareNewline=mode,
    )
    client.say(*ENVELOPE, "DATA")
    data = b"text" + end + SMUGGLED + b"\r\n.\r\n"
    for start in range(0, len(data), size):
        client.feed(data[start : start + size])
    [reply] = client.replies()
    assert senders == ["sender@client.test"]
    isBare = re.search(rb"(?<!\r)\n|\r(?!\n)", data) is not None
    if mode == "reject" and isBare:
        assert reply.startswith("550 5.6.11")
        assert mailbox == []
    else:
        assert reply.startswith("250")
        assert len(mailbox) == 1
        assert mailbox[0].endswith(b"smuggled\r\n\r\n")
    assert client.last("NOOP") == "250 2.0.0 OK"


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"x", b"\0", b"\r\n", b".\r\n", b"QUIT\r\n"]), max_size=20).map(
        b"".join
    ),
    st.lists(st.integers(0, 100), max_size=5),
    st.sampled_from(MODES),
)
@example(b".\r\n", [], "normalize")
def test_3_a_message_ends_where_its_octets_say_and_nowhere_else(body: bytes, cuts: list[int], mode: str) -> None:
    client = connect(onData=Mailbox().onData, bareNewline=mode)
    client.say(*ENVELOPE, "DATA")
    for piece in cutUp(body, cuts):
        client.feed(piece)
    assert bool(client.replies()) is (b"\r\n.\r\n" in b"\r\n" + body)


# --- 5: no reply contains a control character, or text from a crashed hook ---

REPLY = re.compile(r"[2-5]\d\d[ -][^\x00-\x1f\x7f-\x9f\u2028\u2029]*")


@given(st.text(max_size=600) | st.text(st.sampled_from("\r\n\0\t\x1b\x7f\x85\u2028 a"), max_size=60))
@example("250 OK\r\n550 no")
@example("\ud800\udfff")
def test_5_text_from_hooks_is_scrubbed(text: str) -> None:
    class Replying:
        def onHelo(self, *_: Any) -> str:
            return text

        onMailFrom = onRcptTo = onVrfy = onData = onHelo

    class Refusing:
        def onMailFrom(self, *_: Any) -> None:
            raise SMTPError(text, 450)

        onVrfy = onMailFrom

    for hooks, commands in [(Replying(), 8), (Refusing(), 8)]:
        client = connect(hooks=hooks)
        lines = client.say(HELLO, f"{MAIL} SMTPUTF8", RCPT, "VRFY user", "DATA", ".", "NOOP")
        assert all(REPLY.fullmatch(line) for line in lines), lines
        assert all(len(line.encode()) <= 510 for line in lines)
        finals = [line[:3] for line in lines if line[3] == " "]
        if hooks.__class__ is Replying:
            assert finals == ["220", "250", "250", "250", "250" if text else "252", "354", "250", "250"]
        else:
            assert finals == ["220", "250", "450", "503", "450", "503", "500", "250"]
        assert commands == 8


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("crash", [ValueError, KeyError, SystemExit, CancelledError])
def test_5_nothing_of_a_crash_reaches_the_client(name: str, crash: type[BaseException], logged: Logged) -> None:
    def hook(*arguments: Any) -> None:
        raise crash("password=hunter2")

    client = connect(**{name: hook})
    if HOOKS[name][0]:
        client.feed("".join(line + "\r\n" for line in HOOKS[name][0]).encode())
    replies = client.replies()
    assert replies[-1] == "451 4.3.0 Temporary server error, please try again later"
    assert "hunter2" not in "".join(replies)
    assert crash.__name__ not in "".join(replies)
    assert len(logged.takeFailures(crash)) == 1
    client.lose()


# --- 6: memory is bounded whatever the peer sends or refuses to read ---


def held(client: Client) -> int:
    protocol = client.protocol
    return protocol.buffered + protocol._stage._pump.writer.gathered


class Socket(Transport):
    """A transport that stops its producer when 64 KiB of replies wait, as Twisted's do."""

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.value()) > 65536 and self.producer is not None:
            self.producer.pauseProducing()


FLOODS = {
    "NOOP": b"NOOP\r\n",
    "EHLO": b"EHLO client\r\n",
    "empty lines": b"\n",
    "VRFY": b"VRFY " + b"x" * 500 + b"\r\n",
    "an endless line": b"x",
    "transactions": b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nx\r\n.\r\n",
    "chunks": b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 9\r\n123456789BDAT 0 LAST\r\n",
    "refused chunks": b"BDAT 100000\r\n" + b"x" * 100000,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_6_a_client_that_reads_no_replies_is_stopped(flood: bytes) -> None:
    client = Client(makeFactory(onData=Mailbox().onData, maxJunkCommands=0), Socket())
    client.feed(b"EHLO client\r\n")
    data = flood * (1_000_000 // len(flood))
    sent = 0
    while sent < len(data) and client.transport.producerState == "producing":
        client.feed(data[sent : sent + 65536])
        sent += 65536
        assert held(client) < 131072
        assert len(client.transport.value()) < 131072
    if flood not in (FLOODS["an endless line"], FLOODS["refused chunks"]):
        assert client.transport.producerState == "paused" or client.isClosed


@pytest.mark.parametrize("name", ["onMailFrom", "onRcptTo", "onVrfy", "onData"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_6_a_client_that_does_not_wait_for_a_slow_hook_is_stopped(name: str, flood: bytes) -> None:
    client = Client(makeFactory(**{name: Pending()}), Socket())
    client.feed("".join(line + "\r\n" for line in HOOKS[name][0]).encode())
    for _ in range(20):
        if client.transport.producerState == "paused":
            break
        client.feed((flood * (65536 // len(flood) + 1))[:65536])
        assert held(client) < 131072
    assert client.transport.producerState == "paused"


@pytest.mark.parametrize("filling", [b"\n", b"x", b"\r\n", b"\r", b"..\r\n"])
@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 9000000\r\n"])
def test_6_a_message_is_held_under_128_KiB_whatever_the_hook_reads(filling: bytes, begin: bytes) -> None:
    clock = Clock()
    got = 0

    async def onData(stream: Any, session: Any) -> None:
        nonlocal got
        async for chunk in stream:
            got += len(chunk)
            assert len(chunk) < 131072
            await deferLater(clock, 1)  # type: ignore[arg-type]

    client = connect(onData=onData)
    client.say(*ENVELOPE)
    client.feed(begin)
    block = (filling * 65536)[:65536]
    for _ in range(50):
        while client.transport.producerState == "paused":
            clock.advance(1)
        client.feed(block)
        assert held(client) < 131072
    assert got > 1_000_000
    client.lose()


# --- 10: a hook that crashes or hangs harms its own connection only ---


def hangs(*arguments: Any) -> Deferred[None]:
    return Deferred()


def crashes(*arguments: Any) -> None:
    raise ValueError("crash")


def exits(*arguments: Any) -> None:
    raise SystemExit(1)


async def crashesLater(*arguments: Any) -> None:
    await Deferred.fromCoroutine(_nothing())
    raise ValueError("crash")


async def _nothing() -> None: ...


def isNotAwaited(stream: Any, *arguments: Any) -> None:
    if hasattr(stream, "deliverTo"):
        stream.deliverTo(StringTransport()).addErrback(lambda _: None)


def breaksTheSession(*arguments: Any) -> None:
    arguments[-1].disabledCommands = [None]


@pytest.mark.parametrize("name", [*HOOKS, "onReset", "onClose", "onError"])
@pytest.mark.parametrize("deed", [hangs, crashes, exits, crashesLater, isNotAwaited, breaksTheSession])
def test_10_a_hook_harms_its_own_connection_only(name: str, deed: Callable[..., Any], logged: Logged) -> None:
    def hook(*arguments: Any) -> Any:
        return deed(*arguments) if arguments[-1] in bad else None

    bad: list[Any] = []
    mailbox = Mailbox()
    messages = {"onData": mailbox.onData} if name != "onData" else {}
    factory = makeFactory(**{name: hook}, **messages)
    other = Client(factory)
    victim = makeVictim(factory, bad)
    assert other.last(HELLO, MAIL) == "250 2.1.0 Sender OK"
    lines = HOOKS[name][0] if name in HOOKS else (*ENVELOPE, "RSET", MAIL)
    if not victim.isClosed:
        victim.protocol.dataReceived("".join(line + "\r\n" for line in [*lines, "RSET", "NOOP"]).encode())
    assert other.last(RCPT, "DATA", "text", ".") == "250 2.0.0 Message accepted"
    victim.lose()
    assert other.protocol in factory.connections
    assert other.last("VRFY x", "RSET", "QUIT") == "221 2.0.0 Bye"
    late = Client(factory)
    assert late.last(HELLO, *ENVELOPE[1:], "DATA", ".") == "250 2.0.0 Message accepted"
    logged.clear()


def makeVictim(factory: Any, bad: list[Any]) -> Client:
    """A client whose session is known to be bad from its first hook on."""

    class Protocol(factory.protocol):  # type: ignore[misc]
        def _newSession(self, client: Any) -> Any:
            session = super()._newSession(client)
            bad.append(session)
            return session

    protocol, factory.protocol = factory.protocol, Protocol
    try:
        return Client(factory)
    finally:
        factory.protocol = protocol


@pytest.mark.parametrize("deed", [hangs, crashes, exits])
def test_10_the_server_can_still_be_closed(deed: Callable[..., Any], logged: Logged) -> None:
    factory = makeFactory(onMailFrom=deed, closeTimeout=1)
    client = Client(factory)
    client.say(HELLO, MAIL)
    closed: list[None] = []
    factory.close().addCallback(closed.append)
    assert isinstance(factory.clock, Clock)
    factory.clock.advance(1)
    client.lose()
    assert closed == [None]
    logged.clear()
