"""Timeouts: how long client and hooks may take, against whom time counts, and that all share one timer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITLSTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from smtphooks import Extension, SMTPError
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
    reset,
    tcpPair,
)
from tests.test_limits import lines as lines  # a fixture

pytestmark = pytest.mark.usefixtures("logged")

TIMED_OUT = "421 4.4.2 Timeout, closing connection"
MESSAGE_TIMED_OUT = "421 4.4.2 Message takes too long, closing connection"
HOOK_TIMED_OUT = "451 4.3.0 Temporary server error, please try again later"


def pump(client: Client, seconds: float) -> None:
    """Let time pass, second by second."""
    whole = int(seconds)
    client.clock.pump([1] * whole + [seconds - whole])


def untilClosed(client: Client, most: int, each: Callable[[], object] = lambda: None) -> int:
    """How many seconds the connection lasts, if C{each} is called every second."""
    for second in range(most):
        if client.isClosed:
            return second
        each()
        pump(client, 1)
    raise AssertionError(f"the connection is open after {most} seconds")


# --- socketTimeout: the server waits for a command ---


@pytest.mark.parametrize(
    "said",
    [
        (),
        (HELLO,),
        (HELLO, MAIL),
        ENVELOPE,
        (*ENVELOPE, "DATA", "."),
        (*ENVELOPE, "BDAT 6", "text"),
        ("NOPE",),
    ],
)
def test_an_idle_client_gets_421_after_the_timeout(said: tuple[str, ...], lines: list[str]) -> None:
    diary = Diary()
    client = connect(socketTimeout=60, onClose=diary.hook("onClose"))
    client.say(*said) if said else client.replies()
    pump(client, 59.9)
    assert not client.isClosed
    pump(client, 2.1)
    assert client.replies() == [TIMED_OUT]
    assert client.isClosed
    assert [line.rpartition(": ")[2] for line in lines][-1] == TIMED_OUT
    assert len(lines) == 1 + (said == ("NOPE",))
    client.finish()
    assert diary == ["onClose"]
    assert not client.clock.getDelayedCalls()


@pytest.mark.parametrize("late", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("timeout", [1, 2, 0.5])
def test_no_client_is_cut_off_before_its_deadline(late: float, timeout: float) -> None:
    """Wherever between two ticks of the shared timer its connection begins."""
    factory = makeFactory(socketTimeout=timeout)
    Client(factory)
    assert isinstance(factory.clock, Clock)
    factory.clock.advance(late)
    client = Client(factory)
    client.clock.advance(timeout - 0.01)
    assert not client.isClosed
    pump(client, 3)
    assert client.isClosed


def test_dripped_octets_do_not_extend_the_deadline() -> None:
    client = connect(socketTimeout=60)
    client.say(HELLO)
    assert 60 <= untilClosed(client, 70, lambda: client.feed(b"N")) <= 62


def test_each_whole_command_extends_the_deadline() -> None:
    client = connect(socketTimeout=60)
    for _ in range(10):
        pump(client, 50)
        assert client.last("NOOP").startswith("250 ")


def test_a_response_of_AUTH_has_the_timeout_of_a_command() -> None:
    client = connect(socketTimeout=60, authMethods=["LOGIN"], onAuth=lambda *_: "ann", allowInsecureAuth=True)
    assert client.last(HELLO, "AUTH LOGIN").startswith("334 ")
    assert 60 <= untilClosed(client, 70, lambda: client.feed(b"A")) <= 62
    assert client.replies() == [TIMED_OUT]
    client.finish()


@pytest.mark.parametrize("name", HOOKS)
def test_the_timeout_does_not_run_while_a_hook_decides(name: str) -> None:
    hook = Pending()
    client = connect(socketTimeout=60, **{name: hook})
    client.feed("".join(f"{line}\r\n" for line in HOOKS[name][0]).encode())
    client.replies()
    pump(client, 500)
    assert client.replies() == []
    hook.decide()
    assert client.codes()[-1] < 400
    pump(client, 59)
    assert not client.isClosed
    pump(client, 3)
    assert client.replies() == [TIMED_OUT]


def test_without_timeouts_a_client_may_take_for_ever() -> None:
    client = connect(socketTimeout=0, dataTimeout=0)
    client.say(*ENVELOPE)
    pump(client, 5000)
    client.say("DATA")
    for _ in range(100):
        pump(client, 60)
        client.feed(b"x")
    assert not client.isClosed


def test_a_closing_connection_whose_client_does_not_read_is_cut_off() -> None:
    diary = Diary()
    client = connect(socketTimeout=60, onClose=diary.hook("onClose"))
    client.say("QUIT")
    pump(client, 59)
    assert not client.transport.disconnected
    pump(client, 3)
    assert client.transport.disconnected
    pump(client, 10)  # connectionLost may come some time after the abort
    client.finish()
    assert diary == ["onClose"]


def test_a_client_that_reads_no_replies_times_out() -> None:
    client = connect(socketTimeout=60)
    client.replies()
    client.pump.writer.pauseProducing()
    client.feed(b"NOOP\r\n")
    pump(client, 62)
    assert client.isClosed
    assert not client.transport.disconnected
    pump(client, 62)
    assert client.transport.disconnected


@implementer(ITLSTransport)
class TLSTransport(Transport):
    """A transport that offers TLS; the test itself reports the end of the handshake."""

    def startTLS(self, context: object) -> None:
        pass

    def getHandle(self) -> None:
        pass


def test_a_handshake_has_the_timeout_of_a_command() -> None:
    errors: list[Failure] = []
    factory = makeFactory(secure=True, socketTimeout=60, onError=lambda failure, session: errors.append(failure))
    client = Client(factory, TLSTransport())
    pump(client, 59)
    assert not client.transport.disconnected
    pump(client, 3)
    assert client.transport.disconnected
    assert client.replies() == []
    client.finish()
    assert len(errors) == 1


# --- a message: silence, rate and dataTimeout ---

BEGIN = [("DATA",), ("BDAT 900000",)]


@pytest.mark.parametrize("begin", BEGIN)
def test_within_a_message_each_octet_extends_the_deadline(begin: tuple[str, ...]) -> None:
    client = connect(socketTimeout=60)
    client.say(*ENVELOPE, *begin)
    for _ in range(5):
        pump(client, 55)
        client.feed(b"x" * 1000)
    assert not client.isClosed
    pump(client, 62)
    assert client.replies() == [MESSAGE_TIMED_OUT]
    client.finish()


@pytest.mark.parametrize("begin", BEGIN)
@pytest.mark.parametrize(("octets", "every"), [(1, 1), (1, 50), (200, 50)])
def test_a_client_that_drips_is_cut_off(begin: tuple[str, ...], octets: int, every: int, lines: list[str]) -> None:
    mailbox = Mailbox()
    client = connect(socketTimeout=60, onData=mailbox.onData)
    client.say(*ENVELOPE, *begin)
    ticks = iter(range(100000))
    lasted = untilClosed(client, 700, lambda: client.feed(b"x" * octets) if next(ticks) % every == 0 else None)
    assert 300 <= lasted <= (340 if octets < 200 else 560)
    assert client.replies() == [MESSAGE_TIMED_OUT]
    assert lines == [MESSAGE_TIMED_OUT]
    client.finish()
    assert (mailbox, len(mailbox.lost)) == ([], 1)


@pytest.mark.parametrize("begin", BEGIN)
def test_a_message_that_comes_fast_enough_may_take_its_time(begin: tuple[str, ...]) -> None:
    client = connect(socketTimeout=60, dataTimeout=0)
    client.say(*ENVELOPE, *begin)
    for _ in range(3000):
        client.feed(b"x" * 20)
        pump(client, 1)
    assert not client.isClosed


@pytest.mark.parametrize("begin", [*BEGIN, ("BDAT 0",)])
@pytest.mark.parametrize("isTaken", [True, False])
def test_a_whole_message_has_a_timeout(begin: tuple[str, ...], isTaken: bool) -> None:
    mailbox = Mailbox()
    client = connect(socketTimeout=60, dataTimeout=100, **({"onData": mailbox.onData} if isTaken else {}))
    client.say(*ENVELOPE, *begin)
    piece = b"BDAT 2000\r\n" + b"x" * 2000 if begin == ("BDAT 0",) else b"x" * 2000
    assert 100 <= untilClosed(client, 200, lambda: client.feed(piece)) <= 103
    assert client.replies()[-1].startswith("421 4.4.2 ")
    client.finish()
    assert mailbox == []


def test_the_timeout_of_a_message_runs_between_its_chunks_too() -> None:
    """Otherwise a client could hold a message open by nothing but NOOP."""
    client = connect(dataTimeout=100, onData=Mailbox().onData)
    client.say(*ENVELOPE, "BDAT 6", "text")
    assert 100 <= untilClosed(client, 200, lambda: client.feed(b"NOOP\r\n")) <= 103
    client.finish()


def test_the_next_message_has_a_timeout_of_its_own() -> None:
    client = connect(socketTimeout=60, dataTimeout=100, onData=Mailbox().onData)
    for begin, end in [("DATA", b"\r\n.\r\n"), ("BDAT 81", b"x" * 80 + b"BDAT 0 LAST\r\n")] * 3:
        client.say(*ENVELOPE, begin) if begin == "DATA" else client.say(*ENVELOPE)
        client.feed(b"" if begin == "DATA" else f"{begin}\r\n".encode())
        pump(client, 50)
        client.feed(b"x")
        pump(client, 40)
        client.feed(end)
        assert client.codes()[-1] == 250


@pytest.mark.parametrize("octets", [b"x" * 40000, b"\n" * 65536], ids=["one pull", "two pulls"])
@pytest.mark.parametrize("begin", BEGIN)
def test_the_time_of_a_slow_hook_does_not_count_against_the_client(begin: tuple[str, ...], octets: bytes) -> None:
    gates: list[Deferred[None]] = []

    async def onData(stream: Any, session: Any) -> None:
        async for _ in stream:
            gates.append(Deferred())
            await gates[-1]

    client = connect(socketTimeout=60, dataTimeout=100, onData=onData)
    client.say(*ENVELOPE, *begin)
    for _ in range(5):
        client.feed(octets)
        while client.transport.producerState == "paused":
            pump(client, 90)
            gates.pop(0).callback(None)
    assert not client.isClosed
    lasted = untilClosed(client, 200)
    assert 59 <= lasted <= 62
    client.finish()


def test_a_silent_client_times_out_between_chunks_though_the_hook_is_slow_too() -> None:
    gate: Deferred[None] = Deferred()

    async def onData(stream: Any, session: Any) -> str:
        await gate
        return str(len(await stream.read()))

    client = connect(socketTimeout=60, onData=onData)
    client.say(*ENVELOPE)
    client.feed(b"BDAT 20000\r\n" + b"x" * 20000)
    assert client.codes() == [250]
    pump(client, 62)
    assert client.replies() == [TIMED_OUT]
    client.finish()
    gate.callback(None)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("chunk", [b"x" * 20000, b"\n" * 32768], ids=["a full stream", "an overfull one"])
def test_a_client_whose_next_chunk_waits_for_a_slow_hook_does_not_time_out(together: bool, chunk: bytes) -> None:
    gate: Deferred[None] = Deferred()

    async def onData(stream: Any, session: Any) -> str:
        await gate
        return str(len((await stream.read()).replace(b"\r", b"")))

    client = connect(socketTimeout=60, onData=onData)
    client.say(*ENVELOPE)
    first, second = b"BDAT %d\r\n" % len(chunk) + chunk, b"BDAT 9 LAST\r\n"
    pieces = [first + second] if together else [first, second]
    pieces.append(b"x" * 9)
    for piece in pieces:
        if client.transport.producerState == "paused":
            pump(client, 90)
            gate.callback(None)
        client.feed(piece)
    if not gate.called:
        pump(client, 90)
        gate.callback(None)
    assert client.replies() == [f"250 2.0.0 {len(chunk)} octets received", f"250 2.0.0 {len(chunk) + 9}"]
    client.lose()


def test_time_between_chunks_is_never_counted_as_the_hooks() -> None:
    """A client whose chunks each fill the stream gets no more time for the whole message than any other."""
    gates: list[Deferred[None]] = []

    async def onData(stream: Any, session: Any) -> None:
        async for _ in stream:
            gates.append(Deferred())
            await gates[-1]

    client = connect(socketTimeout=60, dataTimeout=100, onData=onData)
    client.say(*ENVELOPE)
    for _ in range(5):
        if client.isClosed:
            break
        client.protocol.dataReceived(b"BDAT 70000\r\n" + b"x" * 70000)
        while gates:
            gates.pop(0).callback(None)
        pump(client, 50)
    else:
        raise AssertionError("the connection is open still")
    client.finish()


@pytest.mark.parametrize("said", [("BDAT 100000",), (HELLO, "BDAT 100000")])
def test_a_chunk_outside_of_a_message_has_the_timeout_of_a_message(said: tuple[str, ...]) -> None:
    client = connect(socketTimeout=60, dataTimeout=100)
    client.say(*said)
    assert 100 <= untilClosed(client, 200, lambda: client.feed(b"x")) <= 103
    client.finish()


def test_a_large_chunk_that_comes_fast_enough_does_not_time_out() -> None:
    client = connect(socketTimeout=60)
    client.say(HELLO)
    client.feed(b"BDAT 900000\r\n")
    for _ in range(800):
        client.feed(b"x" * 1000)
        pump(client, 1)
    assert not client.isClosed


# --- greetDelay ---


def test_the_greeting_and_the_hook_wait_for_the_delay() -> None:
    diary = Diary()
    client = connect(greetDelay=5, onConnect=diary.hook("onConnect"))
    client.clock.advance(4.9)
    assert (client.replies(), diary) == ([], [])
    client.clock.advance(0.1)
    assert client.replies() == ["220 mx.test ESMTP"]
    assert diary == ["onConnect"]
    assert client.last(HELLO).startswith("250 ")


@pytest.mark.parametrize("sent", [b"EHLO client\r\n", b"E", b"\r", b"\n", b"\0", b"GET / HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("at", [0, 3, 4.9])
def test_a_client_that_talks_before_the_greeting_is_refused(sent: bytes, at: float, lines: list[str]) -> None:
    diary = Diary()
    errors: list[SMTPError] = []
    client = connect(
        greetDelay=5,
        onConnect=diary.hook("onConnect"),
        onHelo=diary.hook("onHelo"),
        onClose=diary.hook("onClose"),
        onError=lambda failure, session: errors.append(failure.value),
    )
    client.clock.advance(at)
    client.feed(sent)
    assert client.replies() == ["554 5.5.1 You talked before my greeting"]
    assert client.isClosed
    client.protocol.dataReceived(b"EHLO client\r\n")
    client.clock.advance(5)
    client.finish()
    assert (client.replies(), diary) == ([], ["onClose"])
    assert [error.responseCode for error in errors] == [554]
    assert len(lines) == 1
    assert not client.clock.getDelayedCalls()


def test_TLS_before_the_greeting_is_refused() -> None:
    diary = Diary()
    client = connect(greetDelay=5, onConnect=diary.hook("onConnect"), onClose=diary.hook("onClose"))
    client.feed(b"\x16\x03\x01\x02\x00\x01")
    assert client.replies() == ["500 5.5.2 Command not recognized"]
    client.clock.advance(6)
    client.finish()
    assert (client.replies(), diary) == ([], ["onClose"])
    assert not client.clock.getDelayedCalls()


def test_a_client_that_leaves_before_the_greeting_leaves_nothing_behind() -> None:
    diary = Diary()
    client = connect(greetDelay=5, onConnect=diary.hook("onConnect"), onClose=diary.hook("onClose"))
    client.lose()
    assert diary == ["onClose"]
    assert not client.clock.getDelayedCalls()


def test_a_half_closed_client_still_gets_its_greeting() -> None:
    client = connect(greetDelay=5)
    client.halfClose()
    assert client.replies() == []
    client.clock.advance(5)
    assert client.codes() == [220]
    assert client.isClosed


def test_without_a_delay_a_client_that_talks_first_is_served() -> None:
    onConnect = Pending()
    client = connect(onConnect=onConnect)
    client.feed(b"EHLO client\r\n")
    onConnect.decide()
    assert client.codes() == [220, 250]


# --- hookTimeout ---

XTRA = "the handler of a command"
LIMITED: dict[str, tuple[tuple[str, ...], list[str]]] = {
    **{name: (said, [HOOK_TIMED_OUT]) for name, (said, _) in HOOKS.items()},
    "onAuth": ((HELLO, "AUTH PLAIN AGFubgB4"), [HOOK_TIMED_OUT]),
    "onReset": ((HELLO, MAIL, "RSET"), ["250 2.0.0 Flushed"]),
    XTRA: ((HELLO, "XTRA"), [HOOK_TIMED_OUT]),
}


def begun(name: str, hook: Any, **given: Any) -> tuple[Client, Diary]:
    """A client for which this hook is pending."""
    diary = Diary()
    hooks: dict[str, Any] = {"onClose": diary.hook("onClose")}
    if name == XTRA:
        given["extensions"] = [Extension("XTRA", commands={"XTRA": hook})]
    else:
        hooks[name] = hook
    client = connect(hookTimeout=10, allowInsecureAuth=True, **hooks, **given)
    client.feed("".join(f"{line}\r\n" for line in LIMITED[name][0]).encode())
    client.replies()
    return client, diary


@pytest.mark.parametrize("name", LIMITED)
def test_a_hook_that_takes_too_long_is_cancelled(name: str, lines: list[str]) -> None:
    hook = Pending()
    client, diary = begun(name, hook)
    pump(client, 9.9)
    assert (client.replies(), hook.cancelled) == ([], 0)
    pump(client, 2.1)
    assert client.replies() == LIMITED[name][1]
    assert hook.cancelled == 1
    assert len([line for line in lines if "took too long" in line]) == 1
    if name == "onConnect":
        assert client.isClosed
    else:
        assert client.last("NOOP") == "250 2.0.0 OK"
    client.lose(ConnectionDone())
    assert diary == ["onClose"]


@pytest.mark.parametrize("name", LIMITED)
def test_the_answer_of_a_hook_in_time_counts(name: str) -> None:
    hook = Pending()
    client, _ = begun(name, hook)
    pump(client, 9)
    hook.decide("ann" if name == "onAuth" else None)
    assert client.codes()[0] < 400
    pump(client, 30)
    assert not client.isClosed
    assert client.last("NOOP") == "250 2.0.0 OK"


@pytest.mark.parametrize("result", ["late", None, SMTPError("late", 421), ValueError("crash")])
@pytest.mark.parametrize("isGone", [False, True])
@pytest.mark.parametrize("name", LIMITED)
def test_a_late_answer_of_a_hook_that_ignores_its_cancellation_is_dropped(
    name: str, isGone: bool, result: Any, logged: Logged
) -> None:
    gate: Deferred[Any] = Deferred()

    async def stubborn(*_: Any) -> Any:
        for _ in range(2):
            try:
                await Deferred()
            except CancelledError:
                break
        return await gate

    client, diary = begun(name, stubborn)
    pump(client, 12)
    assert client.replies() == LIMITED[name][1]
    if not client.isClosed:
        assert client.last("NOOP") == "250 2.0.0 OK"
    if isGone:
        client.lose(ConnectionDone())
        assert diary == ["onClose"]
        assert not client.factory.connections
    gate.callback(Failure(result) if isinstance(result, Exception) else result)
    assert client.replies() == []
    if not isGone:
        client.lose(ConnectionDone())
    assert diary == ["onClose"]
    logged.takeFailures(ValueError)


@pytest.mark.parametrize("name", LIMITED)
def test_without_a_limit_a_hook_may_take_for_ever(name: str) -> None:
    hook = Pending()
    diary = Diary()
    given: dict[str, Any] = {"onClose": diary.hook("onClose"), "allowInsecureAuth": True}
    if name == XTRA:
        given["extensions"] = [Extension("XTRA", commands={"XTRA": hook})]
    else:
        given[name] = hook
    client = connect(**given)
    client.feed("".join(f"{line}\r\n" for line in LIMITED[name][0]).encode())
    pump(client, 4000)
    assert (hook.cancelled, client.isClosed) == (0, False)
    client.lose()
    if name != "onData":
        assert hook.cancelled == 1
        assert diary == ["onClose"]


def test_each_hook_has_a_timeout_of_its_own() -> None:
    onHelo, onReset = Pending(), Pending()
    client = connect(hookTimeout=10, onHelo=onHelo, onReset=onReset)
    client.feed(f"{HELLO}\r\n".encode())
    onHelo.decide()
    client.say(MAIL)
    client.feed(f"{HELLO}\r\n".encode())
    pump(client, 9)
    onHelo.decide()
    pump(client, 9)
    assert onReset.cancelled == 0
    pump(client, 3)
    assert onReset.cancelled == 1
    assert client.replies()[-1].startswith("250 ")


def test_the_hook_after_a_greet_delay_is_limited_too() -> None:
    onConnect = Pending()
    client = connect(hookTimeout=10, greetDelay=3, onConnect=onConnect)
    pump(client, 15)
    assert client.replies() == [HOOK_TIMED_OUT]
    assert onConnect.cancelled == 1
    client.finish()


def test_the_hook_after_a_handshake_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtphooks.connection.encryption.record", lambda handle, session: None)
    onSecure, diary = Pending(), Diary()
    factory = makeFactory(
        secure=True, hookTimeout=10, greetDelay=3, onSecure=onSecure, onConnect=diary.hook("onConnect")
    )
    client = Client(factory, TLSTransport())
    client.protocol.handshakeCompleted()
    pump(client, 9.9)
    assert not client.isClosed
    pump(client, 2.1)
    assert (client.replies(), onSecure.cancelled, diary) == ([HOOK_TIMED_OUT], 1, [])
    client.finish()


def test_a_client_that_talks_first_over_TLS_is_refused_after_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtphooks.connection.encryption.record", lambda handle, session: None)
    diary = Diary()
    factory = makeFactory(secure=True, greetDelay=3, onSecure=diary.hook("onSecure"), onConnect=diary.hook("onConnect"))
    client = Client(factory, TLSTransport())
    client.protocol.handshakeCompleted()
    client.feed(b"E")
    assert client.replies() == ["554 5.5.1 You talked before my greeting"]
    assert diary == ["onSecure"]
    client.finish()


@pytest.mark.parametrize("begin", ["DATA", "BDAT 200000 LAST"])
@pytest.mark.parametrize("lmtp", [False, True])
def test_on_data_is_limited_while_it_stalls_the_stream(begin: str, lmtp: bool, lines: list[str]) -> None:
    cancelled: list[bool] = []

    async def onData(stream: Any, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            cancelled.append(True)
            raise

    client = connect(hookTimeout=10, socketTimeout=60, lmtp=lmtp, onData=onData)
    client.say(*(LMTP_ENVELOPE if lmtp else ENVELOPE), RCPT)
    client.feed(f"{begin}\r\n".encode())
    client.replies()
    pump(client, 30)  # the hook does not stall the client as long as the stream has room
    assert cancelled == []
    client.feed(b"x" * 50000)
    pump(client, 9.9)
    assert (cancelled, client.transport.producerState) == ([], "paused")
    pump(client, 2.1)
    assert (cancelled, client.transport.producerState) == ([True], "producing")
    assert client.replies() == []
    client.feed(b"x" * 149998 + b"\r\n")
    if begin == "DATA":
        client.feed(b".\r\n")
    assert client.replies() == [HOOK_TIMED_OUT] * (2 if lmtp else 1)
    assert client.last("NOOP") == "250 2.0.0 OK"
    assert len([line for line in lines if "took too long" in line]) == 1


def test_a_hook_that_reads_slowly_but_steadily_does_not_time_out() -> None:
    gates: list[Deferred[None]] = []
    sizes: list[int] = []

    async def onData(stream: Any, session: Any) -> None:
        async for chunk in stream:
            sizes.append(len(chunk))
            gates.append(Deferred())
            await gates[-1]

    client = connect(hookTimeout=10, onData=onData)
    client.say(*ENVELOPE, "DATA")
    for _ in range(5):
        client.feed(b"x" * 32768)
        client.transport.producerState = "producing"
        pump(client, 8)
        while gates:
            gates.pop(0).callback(None)
    client.feed(b"\r\n.\r\n")
    while gates:
        gates.pop(0).callback(None)
    assert client.replies() == ["250 2.0.0 Message accepted"]
    assert sum(sizes) == 5 * 32768 + 2


class Stalled(StringTransport):
    """A consumer that takes one chunk and no more."""

    def write(self, data: bytes) -> None:
        super().write(data)
        assert self.producer is not None
        self.producer.pauseProducing()


def test_a_stalled_consumer_times_out_and_that_is_no_crash() -> None:
    consumer = Stalled()
    client = connect(hookTimeout=10, onData=lambda stream, session: stream.deliverTo(consumer))
    client.say(*ENVELOPE, "DATA")
    client.feed(b"x" * 20000)
    client.feed(b"x" * 20000)
    pump(client, 12)
    assert consumer.producer is None
    client.feed(b"\r\n.\r\n")
    assert client.replies() == [HOOK_TIMED_OUT]


def test_a_hook_whose_message_was_abandoned_is_limited() -> None:
    async def onData(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        finally:
            await Deferred()

    client = connect(hookTimeout=10, onData=onData)
    client.say(*ENVELOPE, "BDAT 6", "text", "RSET")
    pump(client, 12)
    assert client.replies() == ["250 2.0.0 Flushed"]
    assert client.last(*ENVELOPE).startswith("250 ")


def test_a_hook_of_a_client_that_has_left_is_limited_too() -> None:
    onData, diary = Pending(), Diary()
    client = connect(hookTimeout=10, onData=onData, onClose=diary.hook("onClose"))
    client.say(*ENVELOPE, "DATA", ".")
    client.lose()
    pump(client, 9)
    assert (onData.cancelled, diary) == (0, [])
    pump(client, 3)
    assert (onData.cancelled, diary) == (1, ["onClose"])
    assert not client.factory.connections


def test_a_hook_that_ignores_the_loss_of_its_client_is_limited_too() -> None:
    async def onVrfy(text: str, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            await Deferred()

    diary = Diary()
    client = connect(hookTimeout=10, onVrfy=onVrfy, onClose=diary.hook("onClose"))
    client.feed(b"VRFY x\r\n")
    client.lose()
    assert diary == []
    pump(client, 12)
    assert diary == ["onClose"]
    assert not client.factory.connections


@pytest.mark.parametrize("isStubborn", [False, True])
def test_on_close_is_limited_too_so_that_the_server_can_be_closed(isStubborn: bool, lines: list[str]) -> None:
    called: list[Any] = []
    gate: Deferred[None] = Deferred()

    async def onClose(session: Any) -> None:
        called.append(session)
        try:
            await Deferred()
        except CancelledError:
            if not isStubborn:
                raise
            await gate

    client = connect(hookTimeout=10, onClose=onClose, maxClientsPerAddress=2)
    client.say("QUIT")
    closed: list[None] = []
    client.factory.close().addCallback(closed.append)
    client.finish()
    pump(client, 9.9)
    assert closed == []
    pump(client, 2.1)
    assert closed == [None]
    gate.callback(None)
    assert len(called) == 1
    assert [line for line in lines if "hook" in line] == ["hook onClose took too long"]
    assert not client.factory.connections


def test_what_on_close_raises_after_its_time_is_logged(logged: Logged) -> None:
    gate: Deferred[None] = Deferred(lambda deferred: None)

    async def onClose(session: Any) -> None:
        try:
            await gate
        except CancelledError:
            raise SMTPError("It cannot refuse anything") from None

    client = connect(hookTimeout=10, onClose=onClose)
    client.lose()
    pump(client, 12)
    assert not client.factory.connections
    assert len(logged.takeFailures(SMTPError)) == 1


def test_a_timeout_of_a_hook_counts_as_no_error_of_the_client() -> None:
    hook = Pending()
    client = connect(hookTimeout=1, maxErrors=1, onVrfy=hook)
    for _ in range(5):
        client.feed(b"VRFY x\r\n")
        pump(client, 3)
    assert not client.isClosed


def test_a_hook_that_answers_at_once_leaves_no_deadline_behind() -> None:
    client = connect(hookTimeout=1, onRcptTo=lambda *_: "yes", onData=lambda *_: "stored")
    assert client.last(*ENVELOPE, "DATA", ".") == "250 2.0.0 stored"
    pump(client, 50)
    assert not client.isClosed


# --- one timer ---


@pytest.mark.parametrize(
    ("number", "given"), [(10000, {}), (100, {"hookTimeout": 5, "onConnect": lambda session: Deferred()})]
)
def test_any_number_of_connections_costs_one_timer(number: int, given: dict[str, Any]) -> None:
    factory = makeFactory(socketTimeout=60, **given)
    protocols = []
    for _ in range(number):
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        assert protocol is not None
        protocol.makeConnection(StringTransport())
        protocols.append(protocol)
    clock = factory.clock
    assert isinstance(clock, Clock)
    assert len(clock.getDelayedCalls()) == 1
    clock.pump([1] * 62)
    assert all(protocol.transport.disconnecting for protocol in protocols)  # type: ignore[union-attr]
    assert len(clock.getDelayedCalls()) == 1
    for protocol in protocols:
        protocol.connectionLost(Failure(ConnectionDone()))
    assert not clock.getDelayedCalls()


def test_the_timer_stops_with_the_last_connection_and_starts_with_the_next() -> None:
    factory = makeFactory(socketTimeout=60)
    clock = factory.clock
    assert isinstance(clock, Clock)
    Client(factory).lose()
    assert not clock.getDelayedCalls()
    clock.advance(1000)
    client = Client(factory)
    pump(client, 59)
    assert not client.isClosed
    pump(client, 3)
    assert client.isClosed


# --- a client that is lost unnoticed ---


def test_a_stopped_client_that_was_reset_is_noticed() -> None:
    hook, diary = Pending(), Diary()
    transport = Transport()
    here, there = tcpPair()
    with here:
        transport.socket = here  # type: ignore[attr-defined]
        client = Client(makeFactory(onVrfy=hook, onClose=diary.hook("onClose")), transport)
        client.feed(b"VRFY x\r\n" + b"NOOP\r\n" * 5000)
        assert transport.producerState == "paused"
        pump(client, 10)
        assert not transport.disconnected
        reset(there)
        pump(client, 1)
    assert transport.disconnected
    client.finish()
    assert (hook.cancelled, diary) == (1, ["onClose"])


def test_a_lost_client_is_not_checked_any_more() -> None:
    class Closed:
        def fileno(self) -> int:
            raise OSError("Bad file descriptor")

    onData = Pending()
    transport = Transport()
    client = Client(makeFactory(onData=onData), transport)
    client.say(*ENVELOPE)
    client.feed(b"DATA\r\n.\r\n" + b"NOOP\r\n" * 5000)
    assert transport.producerState == "paused"
    transport.socket = Closed()  # type: ignore[attr-defined]
    client.lose()
    pump(client, 5)
    onData.decide()
    assert not client.factory.connections
