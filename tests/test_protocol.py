"""The protocol in memory: back-pressure, slow hooks, clients that leave, messages in every state."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IPushProducer
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from zope.interface.verify import verifyObject

from smtphooks import Extension, SMTPError
from smtphooks.connection.arrival import Arrival
from smtphooks.connection.connection import Connection
from smtphooks.connection.pump import Pump
from smtphooks.connection.runner import HookRunner
from smtphooks.connection.writer import ReplyWriter
from tests.conftest import Logged
from tests.support import (
    ENVELOPE,
    HELLO,
    HOOKS,
    LMTP_ENVELOPE,
    MAIL,
    RCPT,
    Client,
    Diary,
    Mailbox,
    Pending,
    Transport,
    connect,
    makeFactory,
)

pytestmark = pytest.mark.usefixtures("logged")

CRASHED = "451 4.3.0 Temporary server error, please try again later"
TOO_LARGE = "552 5.3.4 Message exceeds the fixed maximum size"
BARE = "550 5.6.11 Bare <CR> or <LF> in message, only <CR><LF> ends a line"


def octets(*lines: str) -> bytes:
    return "".join(line + "\r\n" for line in lines).encode()


def test_protocol_and_writer_provide_their_interfaces() -> None:
    protocol = connect().protocol
    assert verifyObject(IHalfCloseableProtocol, protocol)
    assert verifyObject(IHandshakeListener, protocol)
    assert verifyObject(IPushProducer, protocol._stage._pump.writer)


# --- a connection ---


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (IPv4Address("TCP", "192.0.2.1", 25), ("192.0.2.1", 25, "[192.0.2.1]")),
        (IPv6Address("TCP", "2001:db8::1", 25), ("2001:db8::1", 25, "[2001:db8::1]")),
        (IPv6Address("TCP", "::ffff:192.0.2.1", 25), ("192.0.2.1", 25, "[192.0.2.1]")),
        (UNIXAddress(None), ("", 0, "")),
        (UNIXAddress(b"/run/client"), ("/run/client", 0, "[/run/client]")),
        (UNIXAddress("/run/client"), ("/run/client", 0, "[/run/client]")),
        (object(), ("", 0, "")),
    ],
)
def test_the_session_knows_both_ends(peer: Any, expected: tuple[str, int, str]) -> None:
    session = Client(makeFactory(), Transport(IPv4Address("TCP", "198.51.100.1", 2525), peer)).session
    assert (session.remoteAddress, session.remotePort, session.clientHostname) == expected
    assert (session.localAddress, session.localPort) == ("198.51.100.1", 2525)


def test_quit_ends_the_connection_and_later_input_is_ignored() -> None:
    diary = Diary()
    client = connect(onVrfy=diary.hook("onVrfy"))
    assert client.say("QUIT", "VRFY x")[-1] == "221 2.0.0 Bye"
    assert client.isClosed
    client.protocol.dataReceived(octets("VRFY x"))
    assert (client.replies(), diary) == ([], [])
    assert client.transport.producer is None


def test_a_refused_connection_gets_the_refusal_instead_of_a_greeting() -> None:
    diary = Diary()

    def onConnect(session: Any) -> None:
        raise SMTPError("We do not talk to you")

    client = connect(onConnect=onConnect, onClose=diary.hook("onClose"))
    assert client.replies() == ["554 5.7.1 We do not talk to you"]
    assert client.isClosed
    client.finish()
    assert diary == ["onClose"]
    assert not client.factory.connections


def test_nothing_is_read_before_the_greeting() -> None:
    onConnect, diary = Pending(), Diary()
    client = connect(onConnect=onConnect, onHelo=diary.hook("onHelo"))
    assert client.say(HELLO) == []
    assert diary == []
    onConnect.decide()
    assert client.codes() == [220, 250]


# --- replies ---


def test_replies_to_pipelined_commands_are_written_at_once() -> None:
    client = connect(onData=Mailbox().onData)
    client.transport.writes.clear()
    client.feed(octets(*ENVELOPE, RCPT, "NOOP", "DATA"))
    assert len(client.transport.writes) == 1
    client.feed(octets("text", ".", "NOOP", "QUIT"))
    assert len(client.transport.writes) == 2
    assert client.codes() == [220, 250, 250, 250, 250, 250, 354, 250, 250, 221]


def test_replies_behind_a_slow_hook_are_written_at_once() -> None:
    onMailFrom = Pending()
    client = connect(onMailFrom=onMailFrom)
    client.feed(octets(*ENVELOPE, "NOOP"))
    client.transport.writes.clear()
    onMailFrom.decide()
    assert len(client.transport.writes) == 1


def test_many_replies_are_written_in_pieces_of_16_KiB() -> None:
    client = connect(maxJunkCommands=0)
    client.transport.writes.clear()
    client.feed(octets(*["NOOP"] * 10000))
    assert client.codes() == [220] + [250] * 10000
    sizes = [len(write) for write in client.transport.writes]
    assert max(sizes) < 16384 + 100
    assert len(sizes) < 10


@pytest.mark.parametrize("name", ["onHelo", "onMailFrom", "onRcptTo", "onData", "onReset", "onVrfy"])
def test_the_dialogue_stands_still_until_a_hook_has_decided(name: str) -> None:
    hook = Pending()
    client = connect(**{name: hook})
    client.feed(octets(HELLO, MAIL, RCPT, "VRFY x", "DATA", ".", MAIL, "RSET", "QUIT"))
    assert len(hook.undecided) == 1
    while hook.undecided:
        assert not client.isClosed
        hook.decide()
    assert client.replies()[-1] == "221 2.0.0 Bye"
    assert client.isClosed


# --- back-pressure ---


def test_a_client_that_reads_no_replies_is_not_served() -> None:
    diary = Diary()
    client = connect(onVrfy=diary.hook("onVrfy"))
    client.replies()
    client.pump.writer.pauseProducing()
    client.feed(octets("VRFY x", "VRFY x"))
    assert (diary, client.replies()) == ([], [])
    assert client.transport.flow == ["stop"]
    client.pump.writer.resumeProducing()
    assert (len(diary), client.codes()) == (2, [252, 252])
    assert client.transport.flow == ["stop", "go"]
    client.pump.writer.resumeProducing()
    assert client.transport.flow == ["stop", "go"]


def test_a_client_that_stops_reading_stops_the_pump_at_once() -> None:
    """The transport calls pauseProducing from within write."""

    class Narrow(Transport):
        def write(self, data: bytes) -> None:
            super().write(data)
            if self.producer is not None:
                self.producer.pauseProducing()

    client = Client(makeFactory(maxJunkCommands=0), Narrow())
    assert client.transport.flow == ["stop"]
    client.pump.writer.resumeProducing()
    assert client.transport.flow == ["stop", "go"]
    client.feed(octets(*["NOOP"] * 10000))
    served = len(client.codes())
    assert served < 2000
    for _ in range(10):
        client.pump.writer.resumeProducing()
    assert served + len(client.codes()) == 10001


def test_commands_behind_a_slow_hook_stop_the_client_at_16_KiB() -> None:
    onVrfy = Pending()
    client = connect(onVrfy=onVrfy, maxJunkCommands=0)
    client.feed(octets("VRFY x"))
    while client.transport.producerState == "producing":
        client.feed(octets(*["NOOP"] * 100))
    assert 16384 <= client.pump.wire.buffered < 16384 + 600
    onVrfy.decide()
    assert client.transport.flow == ["stop", "go"]
    assert client.pump.wire.buffered == 0


def test_a_hook_that_does_not_read_stops_the_client_and_reading_lets_it_go_on() -> None:
    seen: list[bytes] = []
    gate: Deferred[None] = Deferred()

    async def onData(stream: Any, session: Any) -> None:
        await gate
        async for chunk in stream:
            seen.append(chunk)

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    while client.transport.producerState == "producing":
        client.feed(b"x" * 998 + b"\r\n")
    assert client.transport.flow == ["stop"]
    gate.callback(None)
    assert client.transport.flow == ["stop", "go"]
    client.feed(b".\r\n")
    assert len(b"".join(seen)) == 17000
    assert client.codes() == [250]


def buffered(client: Client) -> int:
    return client.protocol.buffered


FILLINGS = {
    "bare LFs": b"\n" * 65536,
    "lines": (b"x" * 62 + b"\r\n") * 1024,
    "dots": b"..\r\n" * 16384,
    "no line end": b"x" * 65536,
    "carriage returns": b"\r" * 65536,
}


@pytest.mark.parametrize("filling", FILLINGS.values(), ids=FILLINGS)
@pytest.mark.parametrize("size", [1, 100, 8191, 16383, 65536])
@pytest.mark.parametrize("begin", [octets("DATA"), octets("BDAT 99999999")], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("mode", ["normalize", "reject", "accept"])
def test_at_most_128_KiB_of_an_unread_message_are_held(filling: bytes, size: int, begin: bytes, mode: str) -> None:
    hook = Pending()
    client = connect(onData=hook, onRcptTo=hook, bareNewline=mode)
    client.say(HELLO, MAIL)
    pieces = [octets(RCPT) + begin, *[filling[:size]] * min(4 * 65536 // size, 20000)]
    for number, piece in enumerate(pieces):  # noqa: B007
        if client.transport.producerState == "paused":
            break
        client.feed(piece)
        assert buffered(client) < 128 * 1024
        if buffered(client) > 16000 and len(hook.calls) == 1:
            hook.decide()
            assert buffered(client) < 128 * 1024
    assert len(hook.calls) in (1, 2)
    # In mode "reject" a message with a bare newline is read to its end and dropped.
    assert number < len(pieces) - 1 or mode == "reject"


def test_a_chunk_outside_of_a_transaction_is_dropped_as_it_comes() -> None:
    client = connect()
    client.feed(octets(HELLO, "BDAT 300000"))
    client.replies()
    for _ in range(4):
        client.feed(b"x" * 65536)
        assert client.pump.wire.buffered == 0
    client.feed(b"x" * (300000 - 4 * 65536) + octets("NOOP"))
    assert client.codes() == [503, 250]


@pytest.mark.parametrize("line", [b"x" * 65536, b"\r" * 65536, b"VRFY " + b"x" * 65531])
def test_an_endless_line_is_not_buffered(line: bytes) -> None:
    client = connect()
    for _ in range(10):
        client.feed(line)
        assert client.pump.wire.buffered < 3000
    assert client.last("", "NOOP") == "250 2.0.0 OK"


def test_a_closing_transport_is_not_paused() -> None:
    """TLS has to be read to its end; besides, StringTransport refuses to be paused once it is closing."""
    onVrfy = Pending()
    client = connect(onVrfy=onVrfy)
    client.say("VRFY x")
    while client.transport.producerState == "producing":
        client.feed(b"NOOP\r\n" * 1000)
    onVrfy.decide(SMTPError("bye", 421))
    assert client.replies() == ["421 4.3.2 bye"]
    assert client.transport.flow == ["stop", "go"]
    client.pump.writer.resumeProducing()
    client.pump.writer.stopProducing()
    client.finish()


# --- memory ---


class Sink(StringTransport):
    """A transport that keeps nothing of what is written."""

    def write(self, data: bytes) -> None:
        """C{ITransport}: drop it."""


def test_an_idle_connection_takes_less_than_four_kilobytes_of_memory() -> None:
    """A transport of Twisted takes its own share of the five that a connection may take."""
    factory = makeFactory()
    transports = [Sink(peerAddress=IPv4Address("TCP", "192.0.2.7", 50000)) for _ in range(201)]

    def serve(transport: StringTransport) -> Any:
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        protocol.makeConnection(transport)
        protocol.dataReceived(octets(HELLO))
        return protocol

    first = serve(transports.pop())
    gc.collect()
    tracemalloc.start()
    try:
        protocols = [*map(serve, transports)]
        gc.collect()
        assert 1000 < tracemalloc.get_traced_memory()[0] / len(protocols) < 4096
    finally:
        tracemalloc.stop()
    assert len(factory.connections) == len([first, *protocols])


def partsOfConnections() -> int:
    # The exception of a hook that was cancelled keeps the frames that called the hook, as long as it is kept itself.
    return sum(type(each) in (Arrival, Connection, Pump, HookRunner, ReplyWriter) for each in gc.get_objects())


@pytest.mark.parametrize("end", ["QUIT", "loss", "late hook", "PROXY", "refusal"])
def test_a_connection_that_is_over_is_freed_at_once(end: str) -> None:
    """It does not wait for the garbage collector, which would have to come more often."""
    late: Deferred[None] = Deferred()

    async def onVrfy(text: str, session: Any) -> None:
        if text == "refuse":
            raise SMTPError("No")
        try:
            await Deferred()
        except CancelledError:
            await late

    factory = makeFactory(useProxy=end == "PROXY", onVrfy=onVrfy)
    first = Client(factory)
    gc.collect()
    gc.disable()
    try:
        before = partsOfConnections()
        client = Client(factory)
        if end != "PROXY":
            client.say(HELLO, *{"QUIT": ["QUIT"], "late hook": ["VRFY x"], "refusal": ["VRFY refuse"]}.get(end, []))
        assert partsOfConnections() > before
        client.lose()
        client.transport.producer = None  # as a transport of Twisted does
        if end == "late hook":
            assert partsOfConnections() > before
            late.callback(None)
        assert partsOfConnections() == before
    finally:
        gc.enable()
    assert [*factory.connections] == [first.protocol]


@pytest.mark.parametrize("by", ["hook", "validator", "onData"])
def test_a_refusal_that_is_raised_again_and_again_keeps_no_connection_in_memory(by: str) -> None:
    """A hook may have its refusals as constants."""
    refusal = SMTPError("No")

    def validator(value: str | None) -> None:
        raise refusal

    async def onRcptTo(address: Any, session: Any) -> None:
        if by == "hook":
            raise refusal

    async def onData(stream: Any, session: Any) -> None:
        await stream.read()
        raise refusal

    extension = Extension("X-NO", mailParameters={"X-NO": validator})
    gc.collect()
    before = partsOfConnections()
    for _ in range(3):
        client = connect(onRcptTo=onRcptTo, onData=onData, extensions=[extension])
        sender = f"{MAIL} X-NO" if by == "validator" else MAIL
        client.say(HELLO, sender, RCPT, "DATA", *(["."] if by == "onData" else []))
        assert refusal.__traceback__ is None
        client.lose()
    del client
    gc.collect()
    assert partsOfConnections() == before


# --- the client leaves ---

STATES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "before the greeting": ((), "onConnect"),
    "greeted": ((), None),
    "in EHLO": ((HELLO,), "onHelo"),
    "identified": ((HELLO,), None),
    "in MAIL": ((HELLO, MAIL), "onMailFrom"),
    "after MAIL": ((HELLO, MAIL), None),
    "in RCPT": (ENVELOPE, "onRcptTo"),
    "after RCPT": (ENVELOPE, None),
    "in RSET": ((*ENVELOPE, "RSET"), "onReset"),
    "in the reset of a new EHLO": ((*ENVELOPE, HELLO), "onReset"),
    "in VRFY": (("VRFY x",), "onVrfy"),
    "message begun": ((*ENVELOPE, "DATA"), "onData"),
    "in the message": ((*ENVELOPE, "DATA", "text"), "onData"),
    "chunk begun": ((*ENVELOPE, "BDAT 100", "text"), "onData"),
    "between chunks": ((*ENVELOPE, "BDAT 6", "text"), "onData"),
    "in a refused chunk": ((HELLO, "BDAT 100", "text"), None),
    "in VRFY between chunks": ((*ENVELOPE, "BDAT 6", "text", "VRFY x"), "onVrfy"),
    "half a line": ((HELLO, "NO\nOP"), None),
}


@pytest.mark.parametrize("reason", [ConnectionLost(), ConnectionDone(), ConnectionAborted()])
@pytest.mark.parametrize(("lines", "name"), STATES.values(), ids=STATES)
def test_a_connection_lost_cancels_the_pending_hook_and_then_calls_on_close(
    lines: tuple[str, ...], name: str | None, reason: Exception
) -> None:
    diary, hook = Diary(), Pending()
    ended: list[Any] = []

    def pending(*arguments: Any) -> Deferred[Any]:
        return hook(*arguments).addBoth(lambda result: (diary.append("ended"), ended.append(result), result)[-1])

    hooks: dict[str, Any] = {"onClose": diary.hook("onClose"), "onReset": None}
    if name:
        hooks[name] = pending
    client = connect(**hooks)
    if lines:
        client.feed(octets(*lines))
    assert len(hook.calls) == (1 if name else 0)
    client.lose(reason)
    assert hook.cancelled == len(hook.calls)
    assert diary == ["ended"] * len(hook.calls) + ["onClose"]
    assert [failure.type for failure in ended] == [CancelledError] * len(hook.calls)
    assert not client.factory.connections


def test_a_client_that_leaves_before_its_hello_is_answered_has_said_it_all_the_same() -> None:
    """Nothing has refused it: C{onClose} and the log are told what it was."""
    client = connect(onHelo=Pending())
    session = client.session
    client.feed(octets(HELLO))
    with capturedLogs() as events:
        client.lose()
    assert (session.openingCommand, session.hostNameAppearsAs) == ("EHLO", "client.test")
    assert [event["verb"] for event in events if "commands" in event] == ["EHLO"]


@pytest.mark.parametrize(("lines", "name"), [state for state in STATES.values() if state[1]])
def test_a_hook_without_a_canceller_is_cancelled_too_and_on_close_called_once(
    lines: tuple[str, ...], name: str
) -> None:
    diary = Diary()
    client = connect(**{name: lambda *arguments: Deferred(), "onClose": diary.hook("onClose")})
    client.feed(octets(*lines)) if lines else None
    client.lose()
    assert diary == ["onClose"]


@pytest.mark.parametrize("name", [*HOOKS, "onReset"])
def test_on_close_waits_for_a_hook_that_delays_its_cancellation(name: str, logged: Logged) -> None:
    diary = Diary()
    cleanup: Deferred[None] = Deferred()

    async def stubborn(*arguments: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            await cleanup
            diary.append("cleaned up")
            raise ValueError("late") from None

    client = connect(**{name: stubborn, "onClose": diary.hook("onClose"), "onError": diary.hook("onError")})
    lines = (HELLO, MAIL, "RSET") if name == "onReset" else HOOKS[name][0]
    if name == "onData":
        lines = lines[:-1]
    client.feed(octets(*lines)) if lines else None
    client.lose()
    assert diary == []
    assert client.protocol in client.factory.connections
    cleanup.callback(None)
    assert diary == ["cleaned up", "onError", "onClose"]
    assert not client.factory.connections
    assert len(logged.takeFailures(ValueError)) == 1


@pytest.mark.parametrize("error", [SMTPError("no"), CancelledError(), ConnectionLost(), ConnectionAborted()])
def test_the_outcome_of_a_cancelled_hook_is_not_logged(error: Exception) -> None:
    async def onVrfy(text: str, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            raise error from None

    client = connect(onVrfy=onVrfy)
    client.say("VRFY x")
    client.lose()
    assert not client.factory.connections


def test_the_answer_of_a_cancelled_hook_is_dropped() -> None:
    async def onVrfy(text: str, session: Any) -> str:
        try:
            await Deferred()
        except CancelledError:
            return "too late"
        raise AssertionError

    client = connect(onVrfy=onVrfy)
    client.say("VRFY x", "NOOP")
    client.lose()
    assert client.replies() == []
    assert not client.factory.connections


def test_a_connection_counts_as_live_until_on_close_has_ended() -> None:
    onClose = Pending()
    client = connect(onClose=onClose)
    client.lose()
    assert client.factory.connections == {client.protocol}
    onClose.decide()
    assert not client.factory.connections


def test_on_reset_is_not_called_for_a_client_that_leaves() -> None:
    diary = Diary()
    client = connect(onReset=diary.hook("onReset"), onClose=diary.hook("onClose"))
    client.say(*ENVELOPE)
    client.lose()
    assert diary == ["onClose"]


def test_callbacks_of_the_transport_after_the_loss_are_ignored() -> None:
    client = connect()
    client.replies()
    writer = client.pump.writer
    client.lose()
    client.protocol.dataReceived(b"NOOP\r\n")
    writer.resumeProducing()
    client.protocol.readConnectionLost()
    client.protocol.leave()
    assert client.replies() == []
    assert not client.isClosed


def test_a_client_that_was_stopped_is_read_again_as_the_connection_ends() -> None:
    """Without that TLS would never end: the close_notify of the client has to be read."""
    client = connect()
    client.pump.writer.pauseProducing()
    client.protocol.dataReceived(octets("QUIT"))
    assert client.transport.producerState == "paused"
    client.pump.writer.resumeProducing()
    assert client.isClosed
    assert client.transport.producerState == "producing"


@pytest.mark.parametrize("result", [None, "text", SMTPError("no")])
def test_nothing_is_written_after_a_hook_has_aborted_the_connection(result: Any) -> None:
    def onMailFrom(address: Any, session: Any) -> Any:
        client.protocol.abort()
        if isinstance(result, Exception):
            raise result
        return result

    client = connect(onMailFrom=onMailFrom)
    client.say(HELLO)
    client.protocol.dataReceived(octets("NOOP", MAIL, "NOOP"))
    assert client.transport.value() == b""
    client.lose()
    assert not client.factory.connections


def test_nothing_is_written_after_the_connection_was_lost_within_a_hook() -> None:
    client = connect(onMailFrom=lambda address, session: client.lose())
    client.say(HELLO)
    client.protocol.dataReceived(octets("NOOP", MAIL, "NOOP"))
    assert client.transport.value() == b""
    assert not client.factory.connections


def test_no_later_command_is_read_after_on_error_has_aborted_the_connection(logged: Logged) -> None:
    def onMailFrom(address: Any, session: Any) -> None:
        raise RuntimeError("crash")

    client = connect(onMailFrom=onMailFrom, onError=lambda failure, session: client.protocol.abort())
    client.say(HELLO)
    client.protocol.dataReceived(octets(MAIL, "NOOP"))
    assert client.protocol.buffered == len(octets("NOOP"))
    assert client.transport.value() == b""
    assert logged.takeFailures(RuntimeError)


def test_the_pump_ends_when_on_error_aborts_while_the_server_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    def onError(failure: Any, session: Any) -> None:
        client.protocol.abort()
        client.factory.close()

    client = connect(bareNewline="reject", onError=onError)
    client.say(HELLO)
    said: list[bytes] = []

    def put(writer: ReplyWriter, octets: bytes) -> None:
        said.append(octets)
        assert len(said) < 5, "more replies than commands"

    monkeypatch.setattr(ReplyWriter, "put", put)
    client.protocol.dataReceived(b"NOOP\nNOOP\r\n")
    assert client.transport.value() == b""


@pytest.mark.parametrize("end", [b".\r\n", b""], ids=["whole", "cut"])
def test_text_in_the_place_of_an_address_in_the_envelope_does_no_harm(end: bytes) -> None:
    async def onData(stream: Any, session: Any) -> None:
        session.envelope.mailFrom = "bounce@mx.test"
        session.envelope.rcptTo.append("copy@mx.test")
        await stream.read()

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    client.feed(b"text\r\n" + end)
    assert client.codes() == [250] * bool(end)
    client.lose()
    assert not client.factory.connections


def test_an_envelope_that_a_hook_has_broken_does_not_keep_the_connection_alive() -> None:
    diary = Diary()
    client = connect(lmtp=True, onClose=diary.hook("onClose"))
    client.say(*LMTP_ENVELOPE, "DATA")
    client.session.envelope = None
    client.feed(octets("."))
    assert client.replies() == ["250 2.0.0 Message accepted"]
    client.lose()
    assert (diary, client.factory.connections) == (["onClose"], set())


def test_on_close_is_not_cancelled_when_a_client_leaves_within_a_message() -> None:
    onClose = Pending()
    client = connect(onData=Mailbox().onData, onClose=onClose)
    client.say(*ENVELOPE, "DATA", "text")
    client.lose()
    assert (len(onClose.calls), onClose.cancelled) == (1, 0)
    onClose.decide()
    assert not client.factory.connections


def test_a_client_that_closes_its_receiving_side_is_closed() -> None:
    client = connect()
    client.protocol.writeConnectionLost()
    assert client.isClosed


# --- the client leaves within or after a message ---

CUTS = {
    "before the message": ("DATA",),
    "in it": ("DATA", "text"),
    "at the dot": ("DATA", "text", ".\r."),
    "chunk begun": ("BDAT 100", "text"),
    "between chunks": ("BDAT 6", "text"),
    "between empty chunks": ("BDAT 0",),
    "last chunk begun": ("BDAT 6", "text", "BDAT 100 LAST", "text"),
}


@pytest.mark.parametrize("lines", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("lmtp", [True, False])
def test_a_message_that_was_cut_never_comes_whole(lines: tuple[str, ...], lmtp: bool) -> None:
    mailbox, diary = Mailbox(), Diary()
    client = connect(onData=mailbox.onData, onClose=diary.hook("onClose"), lmtp=lmtp)
    client.say(*(LMTP_ENVELOPE if lmtp else ENVELOPE), *lines)
    client.lose(ConnectionDone())
    assert mailbox == []
    assert [type(reason) for reason in mailbox.lost] == [ConnectionLost]
    assert diary == ["onClose"]


def test_the_consumer_of_a_message_that_was_cut_fails() -> None:
    consumer = StringTransport()
    reasons: list[Any] = []

    def onData(stream: Any, session: Any) -> Any:
        return stream.deliverTo(consumer).addErrback(lambda failure: reasons.append(failure.type))

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA", "half")
    client.lose()
    assert consumer.value() == b"half\r\n"
    assert reasons == [ConnectionLost]


def test_the_hook_of_a_message_that_was_cut_may_clean_up_before_on_close() -> None:
    diary = Diary()
    cleanup: Deferred[None] = Deferred()

    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        except ConnectionLost:
            await cleanup
            diary.append("cleaned up")
            raise

    client = connect(onData=onData, onClose=diary.hook("onClose"))
    client.say(*ENVELOPE, "DATA", "half")
    client.lose()
    assert diary == []
    cleanup.callback(None)
    assert diary == ["cleaned up", "onClose"]


@pytest.mark.parametrize("lines", [("DATA", "text", "."), ("BDAT 6 LAST", "text"), ("BDAT 0 LAST",)])
@pytest.mark.parametrize("lmtp", [True, False])
@pytest.mark.parametrize("result", ["stored", SMTPError("no"), ["stored"]])
def test_behind_the_final_dot_on_data_runs_to_its_end(lines: tuple[str, ...], lmtp: bool, result: Any) -> None:
    diary, onData = Diary(), Pending()
    client = connect(onData=onData, onClose=diary.hook("onClose"), lmtp=lmtp)
    client.say(*(LMTP_ENVELOPE if lmtp else ENVELOPE), *lines)
    client.lose()
    assert (onData.cancelled, diary) == (0, [])
    assert client.protocol in client.factory.connections
    onData.decide(result)
    assert diary == ["onClose"]


def test_a_crash_behind_the_final_dot_is_logged_though_the_client_has_left(logged: Logged) -> None:
    told, onData = Pending(), Pending()
    client = connect(onData=onData, onError=told)
    client.say(*ENVELOPE, "DATA", ".")
    client.lose()
    onData.decide(ValueError("disk"))
    assert len(logged.takeFailures(ValueError)) == 1
    assert len(told.calls) == 1


def test_a_hook_that_reads_slowly_still_gets_all_of_a_whole_message_when_the_client_has_left() -> None:
    """The dot was read, so the message is whole, even if it still waits in memory."""
    gate: Deferred[None] = Deferred()
    got: list[bytes] = []

    async def onData(stream: Any, session: Any) -> None:
        await gate
        got.append(await stream.read())

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA", "text", ".")
    client.lose()
    gate.callback(None)
    assert got == [b"text\r\n"]


# --- messages in chunks that are abandoned ---


@pytest.mark.parametrize("line", ["RSET", HELLO, "QUIT"])
def test_a_message_in_chunks_that_is_abandoned_never_comes_whole(line: str) -> None:
    mailbox = Mailbox()
    client = connect(onData=mailbox.onData)
    assert client.last(*ENVELOPE, "BDAT 6", "text") == "250 2.0.0 6 octets received"
    assert client.last(line)[:1] == "2"
    assert mailbox == []
    assert [type(reason) for reason in mailbox.lost] == [ConnectionAborted]
    if line != "QUIT":
        assert client.last(MAIL, RCPT, "BDAT 7 LAST", "whole").startswith("250")
        assert mailbox == [b"whole\r\n"]


@pytest.mark.parametrize("line", ["RSET", HELLO])
def test_the_reply_to_abandoning_waits_until_the_hook_has_ended(line: str) -> None:
    diary = Diary()
    cleanup: Deferred[None] = Deferred()

    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        finally:
            await cleanup
            diary.append("onData ended")

    client = connect(onData=onData, onReset=diary.hook("onReset"))
    client.say(*ENVELOPE, "BDAT 6", "text")
    assert client.say(line) == []
    cleanup.callback(None)
    assert client.replies()[-1].startswith("250 ")
    assert diary == ["onData ended", "onReset"]


def test_a_hook_that_waits_for_something_else_is_cancelled_when_its_message_is_abandoned() -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say(*ENVELOPE, "BDAT 6", "text")
    assert client.last("RSET") == "250 2.0.0 Flushed"
    assert onData.cancelled == 1


def test_a_crash_in_a_hook_whose_message_was_abandoned_is_logged_and_does_no_harm(logged: Logged) -> None:
    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        finally:
            raise ValueError("in the cleanup")

    client = connect(onData=onData)
    client.say(*ENVELOPE, "BDAT 6", "text")
    assert client.last("RSET") == "250 2.0.0 Flushed"
    assert len(logged.takeFailures(ValueError)) == 1


def test_a_client_that_leaves_while_its_message_is_being_abandoned_ends_cleanly() -> None:
    diary = Diary()

    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        finally:
            await Deferred()

    client = connect(onData=onData, onClose=diary.hook("onClose"))
    client.say(*ENVELOPE, "BDAT 6", "text", "RSET")
    client.lose()
    assert diary == ["onClose"]


# --- half-closed clients (printf | nc) ---


def test_a_half_closed_client_gets_all_replies() -> None:
    hook = Pending()
    client = connect(onMailFrom=hook, onData=hook)
    client.feed(octets(*ENVELOPE, "DATA", "text", ".", "NOOP"))
    client.halfClose()
    assert not client.isClosed
    hook.decide()
    assert not client.isClosed
    hook.decide("kept")
    assert client.codes() == [220, 250, 250, 250, 354, 250, 250]
    assert client.isClosed


def test_a_half_closed_client_without_pending_replies_is_closed() -> None:
    client = connect()
    client.halfClose()
    assert client.codes() == [220]
    assert client.isClosed


def test_a_client_that_half_closes_after_QUIT_is_closed_once() -> None:
    client = connect()
    client.say("QUIT")
    client.halfClose()
    assert client.isClosed
    client.finish()


def test_a_half_closed_client_that_reads_slowly_gets_all_replies() -> None:
    client = connect()
    client.pump.writer.pauseProducing()
    client.feed(octets("NOOP", "NOOP"))
    client.halfClose()
    assert not client.isClosed
    client.pump.writer.resumeProducing()
    assert client.codes() == [220, 250, 250]
    assert client.isClosed


@pytest.mark.parametrize("lines", CUTS.values(), ids=CUTS)
def test_a_half_closed_message_is_cut(lines: tuple[str, ...]) -> None:
    mailbox = Mailbox()
    client = connect(onData=mailbox.onData)
    client.say(*ENVELOPE, *lines)
    client.halfClose()
    assert client.isClosed
    client.finish()
    assert mailbox == []
    assert [type(reason) for reason in mailbox.lost] == [ConnectionLost]


def test_a_whole_message_in_memory_outlives_the_half_close() -> None:
    gate: Deferred[None] = Deferred()
    mailbox = Mailbox()

    async def onData(stream: Any, session: Any) -> None:
        await gate
        await mailbox.onData(stream, session)

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    client.feed(b"x" * 60000 + b"\r\n.\r\n")
    client.halfClose()
    assert not client.isClosed
    gate.callback(None)
    assert client.codes() == [250]
    assert client.isClosed
    assert [len(message) for message in mailbox] == [60002]


# --- messages ---

TEXT = b"Subject: x\r\n\r\n.dot\r\n"
SENT = [("DATA", b"DATA\r\n" + TEXT.replace(b"\r\n.", b"\r\n..") + b".\r\n"), ("BDAT", b"BDAT 20 LAST\r\n" + TEXT)]


@pytest.mark.parametrize(("kind", "sent"), SENT, ids=["DATA", "BDAT"])
def test_a_message_is_acknowledged_when_the_hook_has_succeeded(kind: str, sent: bytes) -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say(*ENVELOPE)
    client.feed(sent)
    assert client.codes() == ([354] if kind == "DATA" else [])
    [(stream, session)] = onData.calls
    assert session is client.session
    reading = Deferred.fromCoroutine(stream.read())
    assert client.replies() == []
    onData.decide("stored as 1")
    assert client.replies() == ["250 2.0.0 stored as 1"]
    assert reading.result == TEXT  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "sent"), SENT, ids=["DATA", "BDAT"])
def test_without_on_data_messages_are_dropped(kind: str, sent: bytes) -> None:
    client = connect()
    client.say(*ENVELOPE)
    client.feed(sent + octets("NOOP"))
    assert client.replies()[-2:] == ["250 2.0.0 Message accepted", "250 2.0.0 OK"]


@pytest.mark.parametrize("result", ["taken unread", SMTPError("not wanted", 554)])
@pytest.mark.parametrize("late", [True, False])
def test_a_hook_that_does_not_read_has_the_message_drained(result: Any, late: bool) -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA")
    if not late:
        onData.decide(result)
    for _ in range(20):
        if client.transport.producerState == "paused":
            onData.decide(result)
        client.feed(b"x" * 9998 + b"\r\n")
    assert client.replies() == []
    client.feed(b".\r\nNOOP\r\n")
    first, second = client.replies()
    assert first in ("250 2.0.0 taken unread", "554 5.6.0 not wanted")
    assert second == "250 2.0.0 OK"


def test_a_hook_that_stops_reading_has_the_rest_drained() -> None:
    async def onData(stream: Any, session: Any) -> str:
        async for chunk in stream:
            return f"first was {chunk.decode()}"
        raise AssertionError

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA", "one")
    client.feed(b"two\r\n" * 20000)
    assert client.last(".", "NOOP") == "250 2.0.0 OK"


def test_a_hook_that_refuses_a_chunk_refuses_the_message_there() -> None:
    async def onData(stream: Any, session: Any) -> None:
        async for chunk in stream:
            if b"virus" in chunk:
                raise SMTPError("We do not want that", 554)

    client = connect(onData=onData)
    client.say(*ENVELOPE)
    client.feed(b"BDAT 5\r\ncleanBDAT 5\r\nvirusBDAT 5 LAST\r\ncleanNOOP\r\n")
    assert client.codes() == [250, 554, 503, 250]
    assert client.session.envelope.mailFrom is None


def test_a_hook_that_crashes_between_chunks_refuses_the_next_one(logged: Logged) -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say(*ENVELOPE, "BDAT 0")
    onData.decide(ValueError())
    assert client.last("BDAT 0") == CRASHED
    assert client.last("BDAT 0 LAST").startswith("503 ")
    assert len(logged.takeFailures(ValueError)) == 1


def test_a_hook_that_has_ended_between_chunks_is_not_called_again() -> None:
    onData = Pending()
    client = connect(onData=onData)
    client.say(*ENVELOPE, "BDAT 5")
    client.feed(b"12345")
    onData.decide("enough")
    client.feed(b"BDAT 5\r\n12345BDAT 0 LAST\r\n")
    assert client.replies() == ["250 2.0.0 5 octets received", "250 2.0.0 5 octets received", "250 2.0.0 enough"]
    assert len(onData.calls) == 1


# --- size ---


@pytest.mark.parametrize("result", [None, "stored"])
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize(
    "sent", [b"DATA\r\n1234\r\n.\r\n", b"BDAT 6 LAST\r\n1234\r\n", b"BDAT 3\r\n123BDAT 9\r\n456789012"]
)
def test_a_message_over_the_size_is_552_whatever_the_hook_answers(result: Any, reads: bool, sent: bytes) -> None:
    seen: list[tuple[bytes, bool]] = []

    async def onData(stream: Any, session: Any) -> Any:
        if reads:
            message = await stream.read()
            seen.append((message, stream.sizeExceeded))
        return result

    client = connect(size=5, onData=onData)
    client.say(*ENVELOPE)
    client.feed(sent + b"NOOP\r\n")
    assert client.replies()[-2:] == [TOO_LARGE, "250 2.0.0 OK"]
    assert seen == ([(sent[sent.index(b"\n") + 1 :].replace(b"BDAT 9\r\n", b"")[:5], True)] if reads else [])


def test_without_a_hook_a_message_over_the_size_is_552_too() -> None:
    assert connect(size=3).last(*ENVELOPE, "DATA", "text", ".") == TOO_LARGE


def test_a_hook_may_refuse_an_oversized_message_in_its_own_words() -> None:
    async def onData(stream: Any, session: Any) -> None:
        await stream.read()
        if stream.sizeExceeded:
            raise SMTPError("Too much for me", 552)

    assert connect(size=3, onData=onData).last(*ENVELOPE, "DATA", "text", ".") == "552 5.3.4 Too much for me"


def test_the_chunk_that_passes_the_size_is_refused_and_later_ones_get_503() -> None:
    mailbox = Mailbox()
    client = connect(size=5, onData=mailbox.onData)
    client.say(*ENVELOPE)
    client.feed(b"BDAT 4\r\n1234BDAT 4\r\n5678BDAT 4 LAST\r\n1234NOOP\r\n")
    assert client.codes() == [250, 552, 503, 250]
    assert mailbox == []


def test_an_oversized_message_is_let_through_without_rejectOversized() -> None:
    mailbox = Mailbox()
    sizes: list[tuple[int, bool]] = []

    async def onData(stream: Any, session: Any) -> None:
        message = await stream.read()
        mailbox.append(message)
        sizes.append((stream.byteLength, stream.sizeExceeded))

    client = connect(size=3, rejectOversized=False, onData=onData)
    assert client.last(HELLO, MAIL + " SIZE=1000", RCPT, "DATA", "text", ".") == "250 2.0.0 Message accepted"
    assert (mailbox, sizes) == ([b"text\r\n"], [(6, True)])


def test_a_declared_size_over_the_limit_is_refused_at_once() -> None:
    assert connect(size=3).last(HELLO, MAIL + " SIZE=4") == TOO_LARGE


# --- bare newlines ---

BARE_MESSAGES = {
    "LF": b"one\ntwo\r\n",
    "CR": b"one\rtwo\r\n",
    "at the end": b"one\r\n\r",
    "at the start": b"\none\r\n",
    "CR CR LF": b"one\r\r\n",
}


@pytest.mark.parametrize("content", BARE_MESSAGES.values(), ids=BARE_MESSAGES)
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("lmtp", [True, False])
def test_in_reject_mode_a_bare_newline_is_550_whatever_the_hook_answers(
    content: bytes, chunked: bool, reads: bool, lmtp: bool
) -> None:
    mailbox = Mailbox()

    async def careless(stream: Any, session: Any) -> str:
        if reads:
            try:
                mailbox.append(await stream.read())
            except SMTPError as error:
                mailbox.lost.append(error)
        return "stored"

    client = connect(bareNewline="reject", onData=careless, lmtp=lmtp)
    client.say(*(LMTP_ENVELOPE if lmtp else ENVELOPE))
    if chunked:
        client.feed(b"BDAT %d LAST\r\n" % len(content) + content)
    else:
        client.feed(b"DATA\r\n" + content + b"\r\n.\r\n")
    assert [line for line in client.say("NOOP") if line[:3] != "354"] == [BARE, "250 2.0.0 OK"]
    assert mailbox == []
    assert [(error.responseCode, error.enhancedCode) for error in mailbox.lost] == [(550, "5.6.11")] * reads  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", BARE_MESSAGES.values(), ids=BARE_MESSAGES)
@pytest.mark.parametrize("chunked", [True, False])
def test_in_reject_mode_the_reply_is_550_and_the_connection_stays_in_step(content: bytes, chunked: bool) -> None:
    mailbox = Mailbox()
    client = connect(bareNewline="reject", onData=mailbox.onData)
    client.say(*ENVELOPE)
    if chunked:
        client.feed(b"BDAT %d LAST\r\n" % len(content) + content)
    else:
        client.feed(b"DATA\r\n" + content + b"\r\n.\r\n")
    client.feed(octets(MAIL, RCPT, "DATA", "good", "."))
    assert [line for line in client.replies() if line[:3] != "354"] == [
        BARE,
        "250 2.1.0 Sender OK",
        "250 2.1.5 Recipient OK",
        "250 2.0.0 Message accepted",
    ]
    assert mailbox == [b"good\r\n"]


def test_in_reject_mode_a_hook_may_refuse_in_its_own_words() -> None:
    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        except SMTPError:
            raise SMTPError("Mine", 554) from None

    client = connect(bareNewline="reject", onData=onData)
    assert client.last(*ENVELOPE, "DATA", "a\nb", ".") == "554 5.6.0 Mine"


def test_in_reject_mode_the_chunk_with_a_bare_newline_is_refused() -> None:
    client = connect(bareNewline="reject", onData=Mailbox().onData)
    client.say(*ENVELOPE)
    client.feed(b"BDAT 4\r\ngoodBDAT 3\r\na\nbBDAT 4 LAST\r\nmoreNOOP\r\n")
    assert client.codes() == [250, 550, 503, 250]


def test_in_reject_mode_binary_octets_are_not_lines() -> None:
    mailbox = Mailbox()
    client = connect(bareNewline="reject", onData=mailbox.onData)
    client.say(HELLO, MAIL + " BODY=BINARYMIME", RCPT)
    client.feed(b"BDAT 5 LAST\r\na\nb\rc")
    assert client.codes() == [250]
    assert mailbox == [b"a\nb\rc"]


def test_the_stream_fails_as_soon_as_the_bare_newline_is_there() -> None:
    mailbox = Mailbox()
    client = connect(bareNewline="reject", onData=mailbox.onData)
    client.say(*ENVELOPE, "DATA", "good")
    client.feed(b"bad\nstill coming\r\n")
    assert len(mailbox.lost) == 1
    assert client.replies() == []
    assert client.last(".") == BARE


# --- LMTP ---


def lmtp(*recipients: str, **given: Any) -> Client:
    client = connect(lmtp=True, **given)
    client.say("LHLO client.test", MAIL, *[f"RCPT TO:<{name}@mx.test>" for name in recipients])
    return client


def test_with_lmtp_there_is_a_reply_for_each_recipient_duplicates_included() -> None:
    results = ["for a", SMTPError("full", 452), None, SMTPError("gone", 550)]
    client = lmtp("a", "b", "a", "c", onData=lambda stream, session: results)
    assert client.say("DATA", ".", "NOOP") == [
        "354 End data with <CR><LF>.<CR><LF>",
        "250 2.0.0 for a",
        "452 4.3.1 full",
        "250 2.0.0 Message accepted",
        "550 5.7.1 gone",
        "250 2.0.0 OK",
    ]


@pytest.mark.parametrize(("results", "codes"), [([], [451, 451]), (["x"], [250, 451]), (["x"] * 3, [250, 250])])
def test_with_lmtp_a_list_of_the_wrong_length_loses_no_mail(
    results: list[Any], codes: list[int], logged: Logged
) -> None:
    client = lmtp("a", "b", onData=lambda stream, session: results)
    client.say("DATA")
    client.feed(b".\r\n")
    assert client.codes() == codes
    assert logged.takeTexts() == [f"onData answered {len(results)} results for 2 recipients [{client.session.id}]"]


def test_with_lmtp_only_the_last_chunk_has_a_reply_for_each_recipient() -> None:
    client = lmtp("a", "b", onData=Mailbox().onData)
    client.feed(b"BDAT 3\r\n123BDAT 3 LAST\r\n456")
    assert client.codes() == [250, 250, 250]


@pytest.mark.parametrize("given", [{"size": 2}, {"onData": lambda stream, session: SMTPError("no", 554)}])
def test_with_lmtp_a_refused_chunk_has_one_reply(given: dict[str, Any]) -> None:
    """Otherwise the client would take the second reply for that of its next command."""
    client = lmtp("a", "b", **given)
    client.feed(b"BDAT 3\r\n123BDAT 3 LAST\r\n456NOOP\r\n")
    assert client.codes()[1:] == [503, 250]


def test_with_lmtp_every_recipient_has_its_reply_before_421_closes() -> None:
    client = lmtp("a", "b", "c", onData=lambda stream, session: [None, SMTPError("enough", 421), "x"])
    assert client.say("DATA", ".", "NOOP")[1:] == [
        "250 2.0.0 Message accepted",
        "421 4.3.2 enough",
        "250 2.0.0 x",
    ]
    assert client.isClosed


@pytest.mark.parametrize("deed", [lambda envelope: envelope.rcptTo.clear(), lambda envelope: envelope.rcptTo.pop()])
def test_with_lmtp_the_replies_keep_their_number_whatever_the_hook_does_to_the_envelope(
    deed: Callable[[Any], Any],
) -> None:
    def onData(stream: Any, session: Any) -> None:
        deed(session.envelope)

    client = lmtp("a", "b", onData=onData)
    client.say("DATA")
    assert len(client.say(".", "NOOP")) == 3


@pytest.mark.parametrize(
    ("results", "reply"),
    [
        (["one", None], "250 2.0.0 one"),
        (["one", SMTPError("no", 550)], "550 5.7.1 no"),
        ([SMTPError("no", 550), SMTPError("later", 451)], "451 4.3.0 later"),
    ],
)
def test_with_smtp_a_list_makes_one_reply(results: list[Any], reply: str) -> None:
    client = connect(onData=lambda stream, session: results)
    assert client.last(*ENVELOPE, RCPT, "DATA", ".") == reply
    assert client.last("NOOP") == "250 2.0.0 OK"


def test_a_returned_exception_counts_as_raised(logged: Logged) -> None:
    client = connect(onData=lambda stream, session: ValueError("x"))
    assert client.last(*ENVELOPE, "DATA", ".") == CRASHED
    assert len(logged.takeFailures(ValueError)) == 1


# --- a hook that closes within the message ---

BUSY = "421 4.3.2 Too busy"


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("when", ["at once", "before the message", "within it"])
def test_421_within_a_message_is_sent_once_and_the_rest_is_not_read(when: str, lmtp: bool) -> None:
    pending = Pending()

    async def onData(stream: Any, session: Any) -> None:
        if when == "within it":
            async for _ in stream:
                raise SMTPError("Too busy", 421)
        if when == "before the message":
            await pending()
        raise SMTPError("Too busy", 421)

    client = connect(lmtp=lmtp, onData=onData)
    client.say(*(LMTP_ENVELOPE if lmtp else ENVELOPE), RCPT)
    said = client.say("DATA")
    if when == "before the message":
        pending.decide()
        said += client.replies()
    if when == "within it":
        client.protocol.dataReceived(b"Subject: x\r\n")
        said += client.replies()
    assert said[1:] == [BUSY]
    assert client.isClosed
    client.protocol.dataReceived(b"the rest\r\n.\r\nNOOP\r\n")
    assert client.replies() == []
    client.finish()
    assert not client.factory.connections


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("isAtOnce", [True, False])
def test_421_within_a_chunk_is_sent_once_and_the_rest_is_not_read(isAtOnce: bool, lmtp: bool) -> None:
    async def onData(stream: Any, session: Any) -> None:
        if not isAtOnce:
            async for _ in stream:
                break
        raise SMTPError("Too busy", 421)

    client = connect(lmtp=lmtp, onData=onData)
    client.say(*(LMTP_ENVELOPE if lmtp else ENVELOPE), RCPT)
    client.protocol.dataReceived(b"BDAT 1000\r\nSubject")
    assert client.replies() == [BUSY]
    assert client.isClosed
    client.finish()
    assert not client.factory.connections


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize("pending", ["", "VRFY x", "XTRA"])
def test_421_between_two_chunks_is_sent_once_and_cancels_the_pending_hook(pending: str, lmtp: bool) -> None:
    onData, other, onClose = Pending(), Pending(), Diary()
    extension = Extension("XTRA", commands={"XTRA": other})
    client = connect(lmtp=lmtp, onData=onData, onVrfy=other, extensions=[extension], onClose=onClose.hook("onClose"))
    client.say(*(LMTP_ENVELOPE if lmtp else ENVELOPE), RCPT)
    client.feed(b"BDAT 3\r\nabc" + pending.encode() + b"\r\n" * bool(pending))
    client.replies()
    onData.decide(SMTPError("Too busy", 421))
    assert client.replies() == [BUSY]
    assert client.isClosed
    client.finish()
    assert (other.cancelled, onClose) == (bool(pending), ["onClose"])
    assert client.session.error == BUSY
    assert not client.factory.connections


def test_the_rest_of_a_message_is_not_read_after_421() -> None:
    """TLS must not read on to find its close_notify either; the client has one second to read the reply."""

    class Lingering(Transport):
        def loseConnection(self) -> None:
            self.lingers = True

    client = Client(makeFactory(onData=lambda *_: SMTPError("Too busy", 421)), Lingering())
    client.say(*ENVELOPE, "DATA")
    assert client.transport.producerState == "paused"
    assert not client.transport.disconnected
    client.clock.advance(1)
    assert client.transport.disconnected


@pytest.mark.parametrize("error", [ValueError("crash"), SMTPError("Too busy", 421), SMTPError("No", 550)])
@pytest.mark.parametrize("begin", ["DATA", "BDAT 13 LAST", "BDAT 13"])
@pytest.mark.parametrize("lmtp", [False, True])
def test_what_a_hook_answers_before_a_bare_newline_does_not_depend_on_how_octets_are_cut(
    lmtp: bool, begin: str, error: Exception, logged: Logged
) -> None:
    async def onData(stream: Any, session: Any) -> None:
        async for _ in stream:
            raise error

    replies = []
    for cut in (0, 4):
        client = connect(lmtp=lmtp, bareNewline="reject", onData=onData)
        client.say(*(LMTP_ENVELOPE if lmtp else ENVELOPE), RCPT)
        message = b"text\r\nbare\n\r\n" + b".\r\n" * (begin == "DATA")
        client.feed(begin.encode() + b"\r\n" + message[:cut])
        if not client.isClosed:
            client.feed(message[cut:])
        replies.append(client.replies())
    assert replies[0] == replies[1]
    assert len(logged.takeFailures(ValueError)) == 2 * isinstance(error, ValueError)


def test_with_lmtp_421_after_the_message_is_sent_for_each_recipient() -> None:
    async def onData(stream: Any, session: Any) -> None:
        await stream.read()
        raise SMTPError("Too busy", 421)

    client = connect(lmtp=True, onData=onData)
    client.say(*LMTP_ENVELOPE, RCPT)
    assert client.say("DATA", "text", ".")[1:] == [BUSY, BUSY]
    assert client.isClosed


class Breaking(Transport):
    """A foreign transport, whose C{write} raises."""

    isBroken = False

    def write(self, data: bytes) -> None:
        if self.isBroken:
            raise OSError("broken")
        super().write(data)


@pytest.mark.parametrize("answer", [None, SMTPError("No", 550), SMTPError("Too busy", 421)])
@pytest.mark.parametrize("command", ["DATA", "BDAT 3", "BDAT 3 LAST"])
def test_a_transport_that_raises_at_the_reply_of_on_data_ends_the_connection(
    command: str, answer: Any, logged: Logged
) -> None:
    onData, onClose = Pending(), Diary()
    client = Client(makeFactory(onData=onData, onClose=onClose.hook("onClose")), Breaking())
    client.say(*ENVELOPE)
    client.feed(octets(command, "a", "."))
    client.transport.isBroken = True
    isAnswered = command != "BDAT 3" or "Too busy" in str(answer)
    onData.decide(answer)
    assert client.transport.disconnected == isAnswered
    assert len(logged.takeFailures(OSError)) == isAnswered
    client.lose()
    assert onClose == ["onClose"]
    assert not client.factory.connections


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("unprintable")


def test_an_envelope_that_cannot_be_logged_ends_the_connection(logged: Logged) -> None:
    pending: Deferred[None] = Deferred()

    async def onData(stream: Any, session: Any) -> None:
        await pending
        session.envelope.mailFrom = Unprintable()
        raise SMTPError("No", 550)

    client = connect(onData=onData)
    client.say(*ENVELOPE)
    client.feed(b"DATA\r\n.\r\n")
    pending.callback(None)
    assert client.transport.disconnected
    assert len(logged.takeFailures(ValueError)) == 1
    client.lose()
    assert not client.factory.connections


@pytest.mark.parametrize("isLost", [False, True])
def test_an_answer_that_cannot_even_be_logged_ends_the_connection(isLost: bool, logged: Logged) -> None:
    class Nameless:
        def __repr__(self) -> str:
            raise ValueError("nameless")

    onData, onClose = Pending(), Diary()
    client = connect(onData=onData, onClose=onClose.hook("onClose"), hookTimeout=0)
    client.say(*ENVELOPE, "DATA", ".")
    if isLost:
        client.lose()
    onData.decide([Nameless()])
    assert client.transport.disconnected
    if not isLost:
        client.lose()
    assert onClose == ["onClose"]
    assert not client.factory.connections
    assert len(logged.takeFailures(ValueError)) == 1


def test_an_envelope_that_cannot_be_logged_does_not_keep_a_connection_that_is_gone(logged: Logged) -> None:
    onData, onClose = Pending(), Diary()
    client = connect(onData=onData, onClose=onClose.hook("onClose"), hookTimeout=0)
    client.say(*ENVELOPE, "DATA", ".")
    client.lose()
    client.session.envelope.mailFrom = Unprintable()
    onData.decide()
    assert onClose == ["onClose"]
    assert not client.factory.connections
    assert logged.takeFailures(AttributeError)


def test_a_session_that_cannot_be_logged_does_not_keep_a_connection_that_is_gone(logged: Logged) -> None:
    onClose = Diary()
    client = connect(onClose=onClose.hook("onClose"), hookTimeout=0)
    client.session.error = "Spam"
    client.lose()
    assert onClose == ["onClose"]
    assert not client.factory.connections
    assert client.factory.clients.connections == 0
    assert logged.takeFailures(ValueError)


def test_on_data_is_not_asked_if_the_connection_is_lost_with_354() -> None:
    """It would wait for a message that can neither come nor fail."""

    class Sudden(Transport):
        def write(self, data: bytes) -> None:
            super().write(data)
            if b"354" in data:
                client.lose()

    diary = Diary()
    hooks = {name: diary.hook(name) for name in ("onData", "onClose")}
    client = Client(makeFactory(**hooks), Sudden())
    client.say(*ENVELOPE, "DATA")
    assert diary == ["onClose"]
    assert not client.factory.connections


# --- hooks that call back into the server ---


def test_a_consumer_that_crashes_is_451_and_does_no_harm(logged: Logged) -> None:
    class Full(StringTransport):
        def write(self, data: bytes) -> None:
            raise OSError("disk full")

    client = connect(onData=lambda stream, session: stream.deliverTo(Full()))
    client.say(*ENVELOPE, "DATA")
    assert client.last("text", ".") == CRASHED
    assert client.last("NOOP") == "250 2.0.0 OK"
    assert len(logged.takeFailures(OSError)) == 1


def test_a_consumer_that_the_hook_does_not_wait_for_never_gets_a_short_message_as_whole(logged: Logged) -> None:
    consumer = StringTransport()
    done: list[Any] = []

    def onData(stream: Any, session: Any) -> str:
        stream.deliverTo(consumer).addCallback(done.append)
        return "stored"

    client = connect(onData=onData)
    client.say(*ENVELOPE, "DATA", "text", ".")
    assert (consumer.value(), done) == (b"", [])
    assert len(logged.takeFailures(RuntimeError)) == 1


def test_the_same_fired_deferred_may_be_returned_again_and_again() -> None:
    decided = succeed(None)
    client = connect(onMailFrom=lambda *_: decided, onRcptTo=lambda *_: decided, onData=lambda *_: decided)
    assert client.last(*ENVELOPE, "DATA", ".", "NOOP") == "250 2.0.0 OK"


def test_a_transaction_finishes_after_a_hook_has_closed_the_factory() -> None:
    client = connect(onRcptTo=lambda address, session: client.factory.close() and None)
    assert client.last(*ENVELOPE).startswith("250")
    assert not client.isClosed
    assert client.say("DATA", ".")[-1] == "421 4.3.2 Server is shutting down"
    assert client.isClosed


# --- time ---


def silence(client: Client, seconds: int) -> None:
    client.clock.pump([1] * seconds)


def test_a_client_that_is_silent_after_a_slow_hook_has_made_room_times_out() -> None:
    gate: Deferred[None] = Deferred()

    async def onData(stream: Any, session: Any) -> None:
        await gate
        await stream.read()

    client = connect(onData=onData, socketTimeout=60)
    client.say(*ENVELOPE, "DATA")
    client.feed(b"x" * 16382 + b"\r\n")
    silence(client, 100)
    assert not client.isClosed
    gate.callback(None)
    silence(client, 59)
    assert not client.isClosed
    silence(client, 2)
    assert client.replies()[0].startswith("421 ")
    assert client.isClosed
    client.finish()


@pytest.mark.parametrize("lines", [("DATA", "."), ("BDAT 0 LAST",), ("BDAT 6", "text", "BDAT 0 LAST")])
def test_the_time_of_on_data_does_not_count_against_the_client(lines: tuple[str, ...]) -> None:
    onData = Pending()
    client = connect(onData=onData, socketTimeout=60)
    client.say(*ENVELOPE, *lines)
    silence(client, 200)
    assert client.replies() == []
    onData.decide("stored")
    assert client.replies() == ["250 2.0.0 stored"]


def test_the_time_of_a_hook_whose_message_was_abandoned_does_not_count_against_the_client() -> None:
    cleanup: Deferred[None] = Deferred()

    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        finally:
            await cleanup

    client = connect(onData=onData, socketTimeout=60)
    client.say(*ENVELOPE, "BDAT 6", "text", "RSET")
    silence(client, 200)
    assert not client.isClosed
    cleanup.callback(None)
    assert client.replies() == ["250 2.0.0 Flushed"]


@pytest.mark.parametrize("result", [None, SMTPError("no"), ValueError("crash")])
def test_the_answer_of_a_hook_after_the_last_reply_is_dropped(result: Any, logged: Logged) -> None:
    onConnect, diary = Pending(), Diary()
    client = connect(onConnect=onConnect, onHelo=diary.hook("onHelo"))
    client.feed(b"\x16\x03\x01\x02\x00" + octets(HELLO))
    assert client.isClosed
    assert len(client.replies()) == 1
    onConnect.decide(result)
    assert (client.replies(), diary) == ([], [])
    client.finish()
    assert not client.factory.connections
    logged.takeFailures(ValueError)
