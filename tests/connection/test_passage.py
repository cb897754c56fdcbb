"""The passage of a message through filters and inspectors into onData: who sees what, and what they answer together."""

from __future__ import annotations

import contextvars
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IConsumer
from twisted.logger import capturedLogs, eventAsText
from zope.interface import implementer

from smtphooks import Layer, SMTPError
from tests.conftest import Logged
from tests.support import ENVELOPE, HELLO, LMTP_ENVELOPE, MAIL, RCPT, Client, Diary, Mailbox, Pending, connect, cutUp

pytestmark = pytest.mark.usefixtures("logged")

REFUSED = SMTPError("Refused by a filter", 550, "5.7.1")


def layer(name: str = "Layer", **hooks: Callable[..., Any]) -> Any:
    """An object of hooks, whose class has this name."""
    return type(name, (), {hook: staticmethod(function) for hook, function in hooks.items()})()


def tagging(tag: bytes) -> Any:
    """A filter that puts a tag around the message."""

    async def filterData(stream: Any, session: Any) -> Any:
        yield b"<" + tag + b">"
        async for chunk in stream:
            yield chunk
        yield b"</" + tag + b">"

    return layer(f"Tagging{tag.decode().upper()}", filterData=filterData)


async def passOn(stream: Any, session: Any) -> Any:
    async for chunk in stream:
        yield chunk


def passing() -> Any:
    return layer("Passing", filterData=passOn)


def refusing(error: BaseException = REFUSED) -> Any:
    """A filter that passes all on, and then refuses."""

    async def filterData(stream: Any, session: Any) -> Any:
        async for chunk in stream:
            yield chunk
        raise error

    return layer("Refusing", filterData=filterData)


class Noting:
    """A filter that notes how it ended."""

    def __init__(self, notes: list[Any], name: str) -> None:
        self.notes = notes
        self.name = name

    async def filterData(self, stream: Any, session: Any) -> Any:
        try:
            async for chunk in stream:
                yield chunk
        except BaseException as error:
            self.notes.append((self.name, type(error)))
            raise
        self.notes.append((self.name, None))


def send(client: Client, *text: str) -> str:
    """The last reply line to a message."""
    return client.last(*ENVELOPE, "DATA", *text, ".")


def begin(client: Client, *text: str) -> None:
    """A message begins, and these lines of it arrive."""
    client.say(*ENVELOPE, "DATA", *text)


def crashingCondition(session: Any) -> bool:
    raise ValueError("crash")


# --- filters: order and content ---


def test_filters_are_nested_in_the_order_of_the_layers() -> None:
    mailbox = Mailbox()
    client = connect(hooks=[tagging(b"a"), mailbox, tagging(b"b")])
    assert send(client, "text").startswith("250")
    assert mailbox == [b"<b><a>text\r\n</a></b>"]


@settings(max_examples=150)
@given(
    text=st.lists(st.binary(max_size=50).map(lambda octets: octets.hex().encode()), max_size=20),
    cuts=st.lists(st.integers(0, 3000), max_size=10),
    filters=st.integers(1, 4),
    isRead=st.booleans(),
)
def test_what_filters_pass_on_arrives_octet_by_octet(
    text: list[bytes], cuts: list[int], filters: int, isRead: bool
) -> None:
    messages: list[bytes] = []

    async def onData(stream: Any, session: Any) -> None:
        messages.append(await stream.read() if isRead else b"".join([chunk async for chunk in stream]))

    client = connect(hooks=[*[passing() for _ in range(filters)], layer(onData=onData)])
    client.say(*ENVELOPE, "DATA")
    for piece in cutUp(b"".join(line + b"\r\n" for line in text) + b".\r\n", cuts):
        client.feed(piece)
    assert client.codes() == [250]
    assert messages == [b"".join(line + b"\r\n" for line in text)]


def test_the_message_may_come_by_bdat() -> None:
    mailbox = Mailbox()
    client = connect(hooks=[tagging(b"a"), mailbox])
    client.say(*ENVELOPE)
    client.feed(b"BDAT 3\r\nabcBDAT 2 LAST\r\nde")
    assert client.codes() == [250, 250]
    assert mailbox == [b"<a>abcde</a>"]


@pytest.mark.parametrize("octets", [bytearray(b"text"), memoryview(b"text")])
def test_a_filter_may_yield_other_kinds_of_octets(octets: Any) -> None:
    async def filterData(stream: Any, session: Any) -> Any:
        yield octets

    mailbox = Mailbox()
    send(connect(hooks=[layer(filterData=filterData), mailbox]), "x")
    assert mailbox == [b"text"]


def test_a_filter_may_put_fields_in_front_and_look_at_the_header() -> None:
    async def filterData(stream: Any, session: Any) -> Any:
        stream.prepend(b"X-Subject: " + (await stream.header())["Subject"].encode() + b"\r\n")
        async for chunk in stream:
            yield chunk

    mailbox = Mailbox()
    send(connect(hooks=[layer(filterData=filterData), passing(), mailbox]), "Subject: hello", "", "text")
    assert mailbox == [b"X-Subject: hello\r\nSubject: hello\r\n\r\ntext\r\n"]


def test_the_event_of_the_message_has_the_octets_that_the_client_sent() -> None:
    with capturedLogs() as events:
        send(connect(hooks=[tagging(b"a"), Mailbox()]), "text")
    assert [event["octets"] for event in events if event.get("verb") == "DATA"] == [6]


def test_a_client_that_a_condition_exempts_is_not_filtered() -> None:
    mailbox = Mailbox()
    exempt = Layer(tagging(b"a"), unless=["192.0.2.7"])
    send(connect(hooks=[exempt, tagging(b"b"), mailbox]), "text")
    assert mailbox == [b"<b>text\r\n</b>"]


def test_results_for_each_recipient_are_kept() -> None:
    class Store:
        async def onData(self, stream: Any, session: Any) -> Any:
            await stream.read()
            return ["one", SMTPError("full", 552)]

    client = connect(hooks=[passing(), Store()], lmtp=True)
    assert client.say(*LMTP_ENVELOPE, RCPT, "DATA", "x", ".")[-2:] == ["250 2.0.0 one", "552 5.3.4 full"]


# --- filters that fail ---


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_filter_that_refuses_makes_the_next_reader_fail(position: int) -> None:
    mailbox = Mailbox()
    layers: list[Any] = [passing(), passing(), mailbox]
    layers.insert(position, refusing())
    client = connect(hooks=layers)
    assert send(client, "text") == "550 5.7.1 Refused by a filter"
    assert mailbox == []
    assert mailbox.lost == [REFUSED]


def test_a_filter_that_crashes_is_named_and_the_client_tries_again(logged: Logged) -> None:
    told: list[Any] = []
    mailbox = Mailbox()
    crashing = refusing(ValueError("crash"))
    client = connect(hooks=[crashing, mailbox, layer(onError=lambda failure, session: told.append(failure.value))])
    with capturedLogs() as events:
        assert send(client, "text").startswith("451 4.3.0")
    assert mailbox == []
    assert any("hook filterData of Refusing crashed" in eventAsText(event) for event in events)
    assert [type(error) for error in told] == [ValueError]
    assert len(logged.takeFailures(ValueError)) == 1


def test_what_a_filter_refuses_is_refused_whatever_onData_makes_of_it() -> None:
    async def swallow(stream: Any, session: Any) -> str:
        with pytest.raises(SMTPError):
            await stream.read()
        return "stored"

    async def translate(stream: Any, session: Any) -> str:
        try:
            await stream.read()
        except SMTPError:
            raise SMTPError("cannot be stored", 452) from None
        return "stored"

    for onData in (swallow, translate, lambda stream, session: "stored"):
        for filters in ([refusing(), passing()], [passing(), passing(), refusing()], [refusing()]):
            client = connect(hooks=[*filters, layer(onData=onData)])
            assert send(client, "text") == "550 5.7.1 Refused by a filter"


def test_a_filter_that_refuses_within_a_message_leaves_those_before_it_waiting_for_nobody() -> None:
    notes: list[Any] = []

    async def refuseAtOnce(stream: Any, session: Any) -> Any:
        async for _ in stream:
            raise REFUSED
        yield b""

    async def swallow(stream: Any, session: Any) -> str:
        with pytest.raises(SMTPError):
            await stream.read()
        return "stored"

    client = connect(hooks=[Noting(notes, "a"), layer(filterData=refuseAtOnce), passing(), layer(onData=swallow)])
    begin(client)
    for _ in range(10):
        client.feed((b"x" * 76 + b"\r\n") * 100)
    assert notes == [("a", GeneratorExit)]
    assert client.last(".") == "550 5.7.1 Refused by a filter"


def test_the_refusal_in_the_log_names_the_filter() -> None:
    with capturedLogs() as events:
        send(connect(hooks=[passing(), refusing(), Mailbox()]), "text")
    assert [event["by"] for event in events if "by" in event] == ["filterData of Refusing"]


def test_a_fault_of_a_filter_refuses_even_if_the_layer_may_fail(logged: Logged) -> None:
    mailbox = Mailbox()
    client = connect(hooks=[Layer(refusing(ValueError("crash")), onFault="pass"), mailbox])
    assert send(client, "text").startswith("451")
    assert mailbox == []
    logged.takeFailures(ValueError)


async def noGenerator(stream: Any, session: Any) -> None: ...


async def yieldText(stream: Any, session: Any) -> Any:
    yield "text"


def crashAtOnce(stream: Any, session: Any) -> Any:
    raise ValueError("crash")


@pytest.mark.parametrize("filterData", [noGenerator, yieldText, crashAtOnce, lambda stream, session: None])
def test_what_is_no_filter_is_a_fault(filterData: Any, logged: Logged) -> None:
    mailbox = Mailbox()
    assert send(connect(hooks=[passing(), layer(filterData=filterData), mailbox]), "text").startswith("451")
    assert mailbox == []
    assert len(logged.takeFailures(TypeError)) + len(logged.takeFailures(ValueError)) == 1


def test_a_condition_that_crashes_is_a_fault(logged: Logged) -> None:
    mailbox = Mailbox()
    assert send(connect(hooks=[Layer(passing(), unless=[crashingCondition]), mailbox]), "x").startswith("451")
    assert mailbox == []
    assert len(logged.takeFailures(ValueError)) == 1


@pytest.mark.parametrize("onFault", ["tempfail", "pass"])
def test_a_condition_of_a_filter_that_crashes_names_its_layer(onFault: str, logged: Logged) -> None:
    mailbox = Mailbox()
    crashing = Layer(layer("Scanner", filterData=passOn), unless=[crashingCondition], onFault=onFault)
    client = connect(hooks=[crashing, mailbox])
    with capturedLogs() as events:
        assert send(client, "x").startswith("451")
    assert mailbox == []
    assert any("hook filterData of Scanner crashed" in eventAsText(event) for event in events)
    assert [event["by"] for event in events if "by" in event] == ["filterData of Scanner"]
    assert len(logged.takeFailures(ValueError)) == 1


def test_what_onData_raises_about_a_message_that_a_filter_refused_is_its_own_fault(logged: Logged) -> None:
    async def crash(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        except SMTPError:
            raise ValueError("crash") from None

    client = connect(hooks=[refusing(), layer("Store", onData=crash)])
    with capturedLogs() as events:
        assert send(client, "x").startswith("550")
    assert any("hook onData of Store crashed" in eventAsText(event) for event in events)
    assert [event["by"] for event in events if "by" in event] == ["filterData of Refusing"]
    assert len(logged.takeFailures(ValueError)) == 1


# --- filters and onData that end early ---


async def early(stream: Any, session: Any) -> Any:
    yield b"early\r\n"


def test_a_filter_that_ends_early_has_the_rest_drained() -> None:
    mailbox = Mailbox()
    client = connect(hooks=[layer(filterData=early), passing(), mailbox])
    assert send(client, "x" * 500, "y" * 500) == "250 2.0.0 Message accepted"
    assert mailbox == [b"early\r\n"]
    assert client.last("NOOP").startswith("250")


def test_a_filter_that_ends_early_waits_until_the_message_is_whole() -> None:
    mailbox = Mailbox()
    client = connect(hooks=[layer(filterData=early), mailbox])
    begin(client, "text")
    client.lose()
    assert mailbox == []
    assert [type(error) for error in mailbox.lost] == [ConnectionLost]


def test_a_filter_before_one_that_ends_early_may_still_refuse() -> None:
    mailbox = Mailbox()
    assert send(connect(hooks=[refusing(), layer(filterData=early), mailbox]), "x").startswith("550")
    assert mailbox == []


def test_a_filter_that_yields_nothing_makes_an_empty_message() -> None:
    async def silent(stream: Any, session: Any) -> Any:
        async for _ in stream:
            pass
        return
        yield

    mailbox = Mailbox()
    assert send(connect(hooks=[layer(filterData=silent), mailbox]), "x").startswith("250")
    assert mailbox == [b""]


@pytest.mark.parametrize("error", [ConnectionLost(), CancelledError()])
def test_a_filter_that_loses_a_connection_of_its_own_is_a_fault_of_it(error: Exception, logged: Logged) -> None:
    """Such an exception looks like that of a client who has left."""

    async def lose(stream: Any, session: Any) -> Any:
        raise error
        yield

    client = connect(
        hooks=[passing(), layer("Scanner", filterData=lose), layer(onData=lambda stream, session: "stored")]
    )
    with capturedLogs() as events:
        assert send(client, "text").startswith("451")
    assert any("hook onData" in eventAsText(event) or "of Scanner crashed" in eventAsText(event) for event in events)
    assert [event["by"] for event in events if "by" in event] == ["filterData of Scanner"]
    assert len(logged.takeFailures(type(error))) == 1


def test_a_filter_that_cleans_up_after_its_client_left_is_left_in_peace_when_one_behind_it_fails(
    logged: Logged,
) -> None:
    diary = Diary()
    cleaning: Deferred[None] = Deferred(lambda _: diary.append("cancelled"))
    failing = Pending()

    async def cleanUp(stream: Any, session: Any) -> Any:
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await cleaning
            diary.append("cleaned")

    client = connect(
        hooks=[
            layer(filterData=cleanUp, onClose=diary.hook("close")),
            layer(inspectData=lambda stream, session: failing()),
            Mailbox(),
        ]
    )
    begin(client, "text")
    client.lose()
    failing.decide(ValueError("crash"))
    assert diary == []
    cleaning.callback(None)
    assert diary == ["cleaned", "close"]
    assert len(logged.takeFailures(ValueError)) == 1


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_filter_that_refuses_early_is_enough_whatever_onData_makes_of_it(before: int) -> None:
    notes: list[Any] = []

    async def refuse(stream: Any, session: Any) -> Any:
        raise REFUSED
        yield

    async def swallow(stream: Any, session: Any) -> str:
        with pytest.raises(SMTPError):
            await stream.read()
        return "stored"

    for onData in (swallow, lambda stream, session: "stored"):
        noting = [Noting(notes, "before") for _ in range(before)]
        client = connect(hooks=[*noting, layer(filterData=refuse), layer(onData=onData)])
        assert send(client, "text") == "550 5.7.1 Refused by a filter"
        assert client.last("NOOP").startswith("250")
    assert {end for _, end in notes} <= {GeneratorExit, CancelledError}


def test_filters_run_to_their_end_when_onData_accepts_without_reading() -> None:
    notes: list[Any] = []
    client = connect(hooks=[Noting(notes, "a"), Noting(notes, "b"), layer(onData=lambda stream, session: "yes")])
    begin(client, "text")
    assert notes == []
    assert client.last(".") == "250 2.0.0 yes"
    assert notes == [("a", None), ("b", None)]


def test_an_acceptance_waits_for_a_filter_that_is_not_done() -> None:
    decision: Deferred[None] = Deferred()

    async def filterData(stream: Any, session: Any) -> Any:
        async for chunk in stream:
            yield chunk
        await decision

    client = connect(hooks=[layer(filterData=filterData), layer(onData=lambda stream, session: "yes")])
    assert client.say(*ENVELOPE, "DATA", "x", ".")[-1].startswith("354")
    decision.callback(None)
    assert client.codes() == [250]


def test_a_refusal_by_onData_does_not_wait_for_filters() -> None:
    notes: list[Any] = []

    async def stuck(stream: Any, session: Any) -> Any:
        try:
            await Deferred()
        except BaseException as error:
            notes.append(type(error))
            raise
        yield b""

    def refuse(stream: Any, session: Any) -> None:
        raise SMTPError("no", 554)

    client = connect(hooks=[layer(filterData=stuck), layer(onData=refuse)])
    assert send(client, "x").startswith("554")


# --- size ---


def test_a_filter_cannot_make_a_message_larger_than_the_option_allows() -> None:
    yielded: list[int] = []

    async def bomb(stream: Any, session: Any) -> Any:
        async for _ in stream:
            for _ in range(1_000_000):
                yielded.append(1024)
                yield b"x" * 1024

    mailbox = Mailbox()
    client = connect(hooks=[layer(filterData=bomb), passing(), mailbox], size=10_000)
    assert send(client, "x") == "552 5.3.4 Message exceeds the fixed maximum size"
    assert mailbox == []
    assert sum(yielded) <= 11_264
    assert client.last("NOOP").startswith("250")


def test_without_a_limit_a_bomb_is_only_as_fast_as_onData() -> None:
    pending, yielded = Pending(), []

    async def bomb(stream: Any, session: Any) -> Any:
        async for _ in stream:
            while True:
                yielded.append(1024)
                yield b"x" * 1024

    async def onData(stream: Any, session: Any) -> None:
        async for _ in stream:
            await pending()

    begin(connect(hooks=[layer(filterData=bomb), passing(), layer(onData=onData)]), "x")
    for _ in range(5):
        pending.decide()
    assert len(yielded) <= 8


def test_fields_in_front_do_not_count_for_the_size() -> None:
    async def filterData(stream: Any, session: Any) -> Any:
        stream.prepend(b"X-Long: " + b"x" * 500 + b"\r\n")
        async for chunk in stream:
            yield chunk

    mailbox = Mailbox()
    fields = layer(filterData=filterData)
    client = connect(hooks=[fields, passing(), fields, mailbox], size=100)
    assert send(client, "Subject: " + "x" * 89).startswith("250")
    assert [len(message) for message in mailbox] == [100 + 2 * 510]
    assert send(client, "Subject: " + "x" * 90).startswith("552")


def test_a_message_beyond_the_size_fails_in_filters_as_well() -> None:
    notes: list[Any] = []
    mailbox = Mailbox()
    client = connect(hooks=[Noting(notes, "a"), mailbox], size=20)
    assert send(client, "x" * 50).startswith("552")
    assert mailbox == []
    assert [str(error) for error in mailbox.lost] == ["Message exceeds the fixed maximum size"]


def test_hooks_decide_on_a_large_message_where_the_option_leaves_it_to_them() -> None:
    seen: list[Any] = []

    async def onData(stream: Any, session: Any) -> None:
        seen.append((len(await stream.read()), stream.sizeExceeded))

    client = connect(hooks=[passing(), layer(onData=onData)], size=20, rejectOversized=False)
    assert send(client, "x" * 50).startswith("250")
    assert seen == [(52, True)]


def test_a_bare_newline_fails_the_stream_of_filters() -> None:
    mailbox = Mailbox()
    client = connect(hooks=[passing(), mailbox], bareNewline="reject")
    client.say(*ENVELOPE, "DATA")
    client.feed(b"text\nmore\r\n.\r\n")
    assert client.replies()[0].startswith("550 5.6.11")
    assert mailbox == []


# --- memory and pace ---


@pytest.mark.parametrize("filters", [1, 3])
def test_a_slow_onData_stops_the_client_however_many_filters_there_are(filters: int) -> None:
    pending = Pending()
    received: list[int] = []

    async def onData(stream: Any, session: Any) -> None:
        async for chunk in stream:
            received.append(len(chunk))
            await pending()

    client = connect(hooks=[*[passing() for _ in range(filters)], layer(onData=onData)])
    begin(client)
    line = b"x" * 76 + b"\r\n"
    sent = 0
    while client.transport.producerState == "producing":
        client.feed(line * 100)
        sent += 7800
        assert sent < 1_000_000
    delivery: Any = client.pump.message.delivery
    streams = [running.stage.outlet.stream for running in delivery._passing._running]
    held = sent - sum(received)
    assert held <= 131_072
    assert sum(stream.buffered for stream in streams) == 0
    while pending.undecided:
        pending.decide()
    assert client.transport.producerState == "producing"
    client.feed(b".\r\n")
    while pending.undecided:
        pending.decide()
    assert client.codes() == [250]
    assert sum(received) == sent


# --- clients that leave ---


def test_a_client_that_leaves_is_known_to_all() -> None:
    notes: list[Any] = []
    mailbox, diary = Mailbox(), Diary()
    client = connect(hooks=[Noting(notes, "a"), Noting(notes, "b"), mailbox, layer(onClose=diary.hook("close"))])
    begin(client, "text")
    client.lose()
    assert notes == [("a", ConnectionLost), ("b", ConnectionLost)]
    assert [type(error) for error in mailbox.lost] == [ConnectionLost]
    assert (mailbox, diary) == ([], ["close"])


def test_a_filter_that_waits_for_something_else_is_cancelled_and_those_behind_it_are_told() -> None:
    notes: list[Any] = []
    mailbox, diary = Mailbox(), Diary()

    async def stuck(stream: Any, session: Any) -> Any:
        async for chunk in stream:
            try:
                await Deferred()
            except BaseException as error:
                notes.append(("stuck", type(error)))
                raise
            yield chunk

    client = connect(
        hooks=[
            Noting(notes, "a"),
            layer(filterData=stuck),
            Noting(notes, "b"),
            mailbox,
            layer(onClose=diary.hook("close")),
        ]
    )
    begin(client, "text")
    client.lose()
    assert sorted(notes, key=lambda note: str(note[0])) == [
        ("a", GeneratorExit),
        ("b", ConnectionLost),
        ("stuck", CancelledError),
    ]
    assert [type(error) for error in mailbox.lost] == [ConnectionLost]
    assert (mailbox, diary) == ([], ["close"])


def test_onData_that_waits_for_something_else_is_cancelled() -> None:
    notes: list[Any] = []
    pending = Pending()

    async def onData(stream: Any, session: Any) -> None:
        async for _ in stream:
            await pending()

    client = connect(hooks=[Noting(notes, "a"), layer(onData=onData)])
    begin(client, "text")
    client.lose()
    assert pending.cancelled == 1


def test_onClose_waits_for_a_filter_that_is_cleaning_up() -> None:
    cleaning: Deferred[None] = Deferred()
    diary = Diary()

    async def filterData(stream: Any, session: Any) -> Any:
        try:
            async for chunk in stream:
                yield chunk
        finally:
            await cleaning

    client = connect(hooks=[layer(filterData=filterData, onClose=diary.hook("close")), Mailbox()])
    begin(client, "text")
    client.lose()
    assert diary == []
    cleaning.callback(None)
    assert diary == ["close"]


def test_once_the_message_is_whole_filters_and_onData_run_to_their_end() -> None:
    first, second = Pending(), Pending()
    mailbox = Mailbox()

    async def filterData(stream: Any, session: Any) -> Any:
        async for chunk in stream:
            await first()
            yield chunk
        await second()

    client = connect(hooks=[layer(filterData=filterData), mailbox])
    client.say(*ENVELOPE, "DATA", "text", ".")
    client.lose()
    first.decide()
    second.decide()
    assert mailbox == [b"text\r\n"]
    assert first.cancelled == second.cancelled == 0


# --- time ---


def test_a_filter_that_takes_too_long_is_cancelled_and_named() -> None:
    pending, mailbox = Pending(), Mailbox()

    async def slow(stream: Any, session: Any) -> Any:
        async for chunk in stream:
            await pending()
            yield chunk

    client = connect(hooks=[Layer(layer("Slow", filterData=slow), hookTimeout=8), passing(), mailbox])
    client.say(*ENVELOPE, "DATA", "text", ".")
    client.clock.pump([2, 2, 2, 1.9])
    assert not client.replies()
    with capturedLogs() as events:
        client.clock.pump([2, 2])
    assert client.codes() == [451]
    assert (pending.cancelled, mailbox) == (1, [])
    assert any("hook filterData of Slow took too long" in eventAsText(event) for event in events)


def test_the_time_of_a_filter_does_not_pass_while_it_waits_for_the_client_or_for_onData() -> None:
    pending = Pending()

    async def onData(stream: Any, session: Any) -> None:
        async for _ in stream:
            await pending()

    client = connect(hooks=[Layer(passing(), hookTimeout=8), layer(onData=onData)])
    begin(client)
    client.clock.pump([2] * 20)
    client.say("text")
    client.clock.pump([2] * 20)
    pending.decide()
    assert client.say(".") == ["250 2.0.0 Message accepted"]


def test_the_limit_of_the_layer_with_onData_holds_for_it() -> None:
    pending = Pending()

    class Store:
        async def onData(self, stream: Any, session: Any) -> None:
            await stream.read()
            await pending()

    client = connect(hooks=Layer(Store(), hookTimeout=8))
    client.say(*ENVELOPE, "DATA", "text", ".")
    client.clock.pump([2] * 6)
    assert client.codes() == [451]
    assert pending.cancelled == 1


@implementer(IConsumer)
class Consumer:
    """Pauses at the first octets, until the test resumes it."""

    producer: Any = None
    octets = b""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None: ...

    def write(self, data: bytes) -> None:
        self.octets += data
        self.producer.pauseProducing()


@pytest.mark.parametrize("isFiltered", [False, True])
@pytest.mark.parametrize("hook", ["inspectData", "onData"])
def test_a_consumer_that_has_paused_does_not_wait_for_the_client(hook: str, isFiltered: bool) -> None:
    consumer = Consumer()
    slow = layer("Slow", **{hook: lambda stream, session: stream.deliverTo(consumer)})
    others = [passing()] * isFiltered + [Mailbox()] * (hook == "inspectData")
    client = connect(hooks=[*others, Layer(slow, hookTimeout=8)])
    begin(client, "text")
    client.clock.pump([2] * 3)
    client.say("more")
    consumer.producer.resumeProducing()
    client.clock.pump([2] * 3)
    assert consumer.octets == b"text\r\nmore\r\n"
    with capturedLogs() as events:
        client.clock.pump([2] * 3)
    assert any(f"hook {hook}" in eventAsText(event) and "took too long" in eventAsText(event) for event in events)
    assert client.last("the end", ".").startswith("451 4.3.0")


def test_a_consumer_that_has_taken_all_waits_for_the_client() -> None:
    mailbox, consumer = Mailbox(), Consumer()
    scanner = layer(inspectData=lambda stream, session: stream.deliverTo(consumer))
    client = connect(hooks=[Layer(scanner, hookTimeout=8), mailbox])
    begin(client, "text")
    consumer.producer.resumeProducing()
    client.clock.pump([2] * 20)
    client.say("more")
    consumer.producer.resumeProducing()
    assert client.last(".").startswith("250")
    assert mailbox == [b"text\r\nmore\r\n"]


def test_the_option_limits_all_of_it_and_names_what_holds_the_message_up() -> None:
    pending, mailbox = Pending(), Mailbox()

    async def slow(stream: Any, session: Any) -> Any:
        async for chunk in stream:
            await pending()
            yield chunk

    client = connect(hooks=[passing(), layer("Slow", filterData=slow), mailbox], hookTimeout=8)
    client.say(*ENVELOPE, "DATA", "text", ".")
    with capturedLogs() as events:
        client.clock.pump([2] * 6)
    assert client.codes() == [451]
    assert pending.cancelled == 1
    assert any("hook filterData of Slow took too long" in eventAsText(event) for event in events)
    assert mailbox == []


def test_what_goes_on_after_it_was_cancelled_does_not_wait_for_octets_that_will_not_come(logged: Logged) -> None:
    diary = Diary()

    async def regardless(stream: Any, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            await stream.read()
        finally:
            diary.append("ended")

    client = connect(hooks=[passing(), layer(onData=regardless)], hookTimeout=8)
    client.say(*ENVELOPE, "DATA", "text", ".")
    client.clock.pump([2] * 6)
    assert client.codes() == [451]
    assert diary == ["ended"]
    assert len(logged.takeFailures(RuntimeError)) == 1


def test_the_log_names_what_held_a_message_up_and_not_who_refused_the_one_before() -> None:
    pending, mailbox = Pending(), Mailbox()

    async def slow(stream: Any, session: Any) -> Any:
        octets = b"".join([chunk async for chunk in stream])
        if b"refuse" in octets:
            raise REFUSED
        if b"slow" in octets:
            await pending()
        yield octets

    class Store:
        async def onData(self, stream: Any, session: Any) -> None:
            await mailbox.onData(stream, session)
            await pending()

    client = connect(hooks=[layer("Slow", filterData=slow), Store()], hookTimeout=8)
    client.say(HELLO)
    for text, by in (("refuse", "filterData of Slow"), ("x", "onData of Store"), ("slow", "filterData of Slow")):
        client.say(MAIL, RCPT, "DATA", text, ".")
        with capturedLogs() as events:
            client.clock.pump([2] * 6)
            client.say(MAIL, RCPT, "DATA", "refuse", ".")
        if text != "refuse":
            assert any(f"hook {by} took too long" in eventAsText(event) for event in events)
            assert next(event["by"] for event in events if "by" in event) == by
    assert mailbox == [b"x\r\n"]


def test_timeouts_keep_no_connection_in_memory() -> None:
    sessions: list[Any] = []
    for hook in ("inspectData", "filterData"):
        pending = Pending()

        async def inspectData(stream: Any, session: Any, pending: Any = pending) -> None:
            await pending()

        async def filterData(stream: Any, session: Any, pending: Any = pending) -> Any:
            await pending()
            yield b""

        slow = layer(**{hook: inspectData if hook == "inspectData" else filterData})
        client = connect(hooks=[Layer(slow, hookTimeout=8), Mailbox()])
        client.say(*ENVELOPE, "DATA", "x", ".")
        client.clock.pump([2] * 6)
        assert client.codes() == [451]
        sessions.append(weakref.ref(client.session))
        client.lose()
        del client, pending, slow, inspectData, filterData
    gc.collect()
    assert [session() for session in sessions] == [None, None]


# --- context ---


def test_filters_and_onData_share_the_context_of_the_connection() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def filterData(stream: Any, session: Any) -> Any:
        variable.set(variable.get() + " filtered")
        async for chunk in stream:
            await succeed(None)
            yield chunk

    async def onData(stream: Any, session: Any) -> None:
        await stream.read()
        seen.append(variable.get())

    client = connect(
        hooks=[
            layer(onHelo=lambda *arguments: variable.set("greeted") and None, filterData=filterData),
            layer(onData=onData),
        ]
    )
    send(client, "text")
    assert seen == ["greeted filtered"]
    assert variable.get() == "unset"
