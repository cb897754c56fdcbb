"""The inspection: inspectors that look at one message at once, while it arrives, and what their layers filter then."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs, eventAsText

from smtphooks import Layer, SMTPError, disk
from tests.conftest import Logged
from tests.connection.test_passage import begin, crashingCondition, layer, send, tagging
from tests.support import ENVELOPE, HELLO, MAIL, RCPT, Client, Diary, Mailbox, Pending, connect
from tests.test_spool import Pool, pooled

pytestmark = pytest.mark.usefixtures("logged")


class Inspector:
    """An inspector that reads all and then waits for a decision."""

    def __init__(self, diary: list[str], name: str) -> None:
        self.diary = diary
        self.name = name
        self.decision: Deferred[None] = Deferred(lambda _: diary.append(f"{name} cancelled"))
        self.octets = b""

    async def inspectData(self, stream: Any, session: Any) -> None:
        self.diary.append(f"{self.name} begins")
        async for chunk in stream:
            self.octets += chunk
        self.diary.append(f"{self.name} has read")
        await self.decision


def inspected(*extra: Any, **given: Any) -> tuple[Client, Inspector, Inspector, Mailbox, list[str]]:
    diary: list[str] = []
    one, two, mailbox = Inspector(diary, "one"), Inspector(diary, "two"), Mailbox()
    client = connect(hooks=[one, layer(onRcptTo=lambda *arguments: None), two, *extra, mailbox], **given)
    return client, one, two, mailbox, diary


def test_inspectors_read_at_once_while_the_message_arrives_and_onData_afterwards() -> None:
    client, one, two, mailbox, diary = inspected()
    begin(client, "text")
    assert diary == ["one begins", "two begins"]
    assert one.octets == two.octets == b"text\r\n"
    client.say("more")
    assert one.octets == two.octets == b"text\r\nmore\r\n"
    assert client.say(".") == []
    assert diary[2:] == ["one has read", "two has read"]
    two.decision.callback(None)
    assert mailbox == []
    one.decision.callback(None)
    assert mailbox == [b"text\r\nmore\r\n"]
    assert client.codes() == [250]


def test_one_inspector_that_refuses_is_enough_and_the_others_are_cancelled() -> None:
    client, _, two, mailbox, diary = inspected()
    client.say(*ENVELOPE, "DATA", "text", ".")
    with capturedLogs() as events:
        two.decision.errback(SMTPError("infected", 554, "5.7.1"))
    assert client.replies() == ["554 5.7.1 infected"]
    assert diary[-1] == "one cancelled"
    assert mailbox == []
    assert [event["by"] for event in events if "by" in event] == ["inspectData of Inspector"]


def test_an_inspector_may_refuse_before_the_message_has_come() -> None:
    diary: list[str] = []
    one, mailbox = Inspector(diary, "one"), Mailbox()

    async def refuse(stream: Any, session: Any) -> None:
        raise SMTPError("no", 554)

    client = connect(hooks=[layer(inspectData=refuse), one, mailbox])
    begin(client, "text")
    assert diary[-1] != "one has read"
    assert client.last(".") == "554 5.6.0 no"
    assert mailbox == []


@pytest.mark.parametrize("onFault, code", [("tempfail", 451), ("pass", 250)])
def test_a_fault_of_an_inspector_is_a_fault_of_its_layer(onFault: str, code: int, logged: Logged) -> None:
    async def crash(stream: Any, session: Any) -> None:
        await stream.read()
        raise ValueError("crash")

    mailbox = Mailbox()
    client = connect(hooks=[Layer(layer("Scanner", inspectData=crash), onFault=onFault), mailbox])
    with capturedLogs() as events:
        assert send(client, "text").startswith(str(code))
    assert len(mailbox) == (code == 250)
    assert any("hook inspectData of Scanner crashed" in eventAsText(event) for event in events)
    assert len(logged.takeFailures(ValueError)) == 1


@pytest.mark.parametrize("onFault, code", [("tempfail", 451), ("pass", 250)])
@pytest.mark.parametrize("reads", [True, False])
def test_an_inspector_that_takes_too_long_is_cancelled_and_named(onFault: str, code: int, reads: bool) -> None:
    pending, mailbox = Pending(), Mailbox()

    async def stuck(stream: Any, session: Any) -> None:
        if reads:
            await stream.read()
        await pending()

    client = connect(hooks=[Layer(layer("Scanner", inspectData=stuck), onFault=onFault, hookTimeout=8), mailbox])
    client.say(*ENVELOPE, "DATA", "text", ".")
    with capturedLogs() as events:
        client.clock.pump([2] * 6)
    assert client.codes() == [code]
    assert pending.cancelled == 1
    assert len(mailbox) == (code == 250)
    assert any("hook inspectData of Scanner took too long" in eventAsText(event) for event in events)


def test_an_inspector_that_has_read_enough_does_not_hold_the_others_back() -> None:
    async def glance(stream: Any, session: Any) -> None:
        return

    diary: list[str] = []
    one, mailbox = Inspector(diary, "one"), Mailbox()
    client = connect(hooks=[layer(inspectData=glance), one, mailbox])
    begin(client)
    for _ in range(30):
        client.feed((b"x" * 76 + b"\r\n") * 100)
    one.decision.callback(None)
    client.feed(b".\r\n")
    assert client.codes() == [250]
    assert len(mailbox[0]) == 30 * 7800


def test_a_client_that_leaves_cancels_inspectors_that_do_not_read(logged: Logged) -> None:
    diary: list[str] = []
    pending = Pending()

    async def stuck(stream: Any, session: Any) -> None:
        await pending()

    mailbox = Mailbox()
    client = connect(
        hooks=[
            Inspector(diary, "one"),
            layer(inspectData=stuck),
            mailbox,
            layer(onClose=lambda session: diary.append("close")),
        ]
    )
    begin(client, "text")
    client.lose()
    assert pending.cancelled == 1
    assert [type(error) for error in mailbox.lost] == [ConnectionLost]
    assert diary == ["one begins", "close"]


def test_inspectors_look_at_what_a_filter_before_them_has_made_and_filter_when_all_have_agreed() -> None:
    diary: list[str] = []

    class Scanner:
        def __init__(self, name: str) -> None:
            self.name = name

        async def inspectData(self, stream: Any, session: Any) -> None:
            diary.append(f"{self.name} sees {(await stream.read()).decode()}")

        async def filterData(self, stream: Any, session: Any) -> Any:
            diary.append(f"{self.name} filters")
            yield self.name.encode()
            async for chunk in stream:
                yield chunk

    mailbox = Mailbox()
    client = connect(hooks=[tagging(b"x"), Scanner("1"), Scanner("2"), tagging(b"y"), Scanner("3"), mailbox])
    assert send(client, "t").startswith("250")
    assert diary[:2] == ["1 sees <x>t\r\n</x>", "2 sees <x>t\r\n</x>"]
    assert set(diary[2:4]) == {"1 filters", "2 filters"}
    assert diary[4:] == ["3 sees <y>21<x>t\r\n</x></y>", "3 filters"]
    assert mailbox == [b"3<y>21<x>t\r\n</x></y>"]


def test_a_message_beyond_the_size_passes_no_inspector() -> None:
    client, _, _, mailbox, diary = inspected(size=20)
    assert send(client, "x" * 50).startswith("552")
    assert mailbox == []
    assert "one has read" not in diary


def test_a_second_message_of_the_same_connection_goes_the_same_way() -> None:
    async def inspectData(stream: Any, session: Any) -> None:
        if b"bad" in await stream.read():
            raise SMTPError("bad", 554)

    mailbox = Mailbox()
    client = connect(hooks=[layer(inspectData=inspectData), tagging(b"a"), mailbox])
    client.say(HELLO)
    for text, code in (("good", 250), ("bad", 554), ("fine", 250)):
        assert client.last(MAIL, RCPT, "DATA", text, ".").startswith(str(code))
    assert mailbox == [b"<a>good\r\n</a>", b"<a>fine\r\n</a>"]


# --- clients that leave ---


def test_one_inspector_alone_that_does_not_read_is_cancelled() -> None:
    pending, diary, mailbox = Pending(), Diary(), Mailbox()

    async def stuck(stream: Any, session: Any) -> None:
        await pending()

    client = connect(hooks=[layer(inspectData=stuck, onClose=diary.hook("close")), mailbox])
    begin(client, "text")
    client.lose()
    assert (pending.cancelled, diary) == (1, ["close"])
    assert [type(error) for error in mailbox.lost] == [ConnectionLost]


@pytest.mark.parametrize("others", [0, 1])
def test_an_inspector_that_learns_it_by_its_stream_cleans_up_in_peace_and_onClose_waits(others: int) -> None:
    diary = Diary()
    cleaning: Deferred[None] = Deferred(lambda _: diary.append("cancelled"))

    async def cleanUp(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        finally:
            await cleaning
            diary.append("cleaned")

    async def stuck(stream: Any, session: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            diary.append("stuck")
            raise

    waiting = [layer(inspectData=stuck), layer(inspectData=lambda stream, session: stream.read())] * others
    client = connect(hooks=[layer(inspectData=cleanUp, onClose=diary.hook("close")), *waiting, Mailbox()])
    begin(client, "text")
    client.lose()
    assert diary == ["stuck"] * others
    cleaning.callback(None)
    assert diary == [*["stuck"] * others, "cleaned", "close"]


def test_what_an_inspector_raises_while_it_cleans_up_is_logged(logged: Logged) -> None:
    async def crash(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        finally:
            raise ValueError("crash")

    client = connect(hooks=[layer("Scanner", inspectData=crash), Mailbox()])
    begin(client, "text")
    with capturedLogs() as events:
        client.lose()
    assert any("hook inspectData of Scanner crashed" in eventAsText(event) for event in events)
    assert len(logged.takeFailures(ValueError)) == 1


# --- faults beside those of inspectors ---


@pytest.mark.parametrize("onFault, code", [("tempfail", 451), ("pass", 250)])
def test_a_condition_that_crashes_is_a_fault_of_the_layer(onFault: str, code: int, logged: Logged) -> None:
    diary: list[str] = []
    mailbox = Mailbox()
    exempt = Layer(Inspector(diary, "one"), name="Scanner", unless=[crashingCondition], onFault=onFault)
    client = connect(hooks=[exempt, mailbox])
    with capturedLogs() as events:
        assert send(client, "text").startswith(str(code))
    assert diary == []
    assert any("hook inspectData of Scanner crashed" in eventAsText(event) for event in events)
    assert [event["by"] for event in events if "by" in event] == ["inspectData of Scanner"] * (code == 451)
    assert len(logged.takeFailures(ValueError)) == 1


@pytest.fixture
def fullDisk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A thread pool in which every operation on a file fails."""

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.UnnamedFile, "_write", fail)
    with pooled() as pool:
        yield pool


@pytest.mark.parametrize("onFault", ["tempfail", "pass"])
def test_a_full_disk_is_452_whatever_inspectors_make_of_it(onFault: str, fullDisk: Pool, logged: Logged) -> None:
    pending, mailbox = Pending(), Mailbox()

    async def agree(stream: Any, session: Any) -> None: ...

    async def stuck(stream: Any, session: Any) -> None:
        await pending()

    async def crash(stream: Any, session: Any) -> None:
        try:
            await stream.read()
        except SMTPError:
            raise ValueError("the spool is gone") from None

    layers = [Layer(layer(inspectData=hook), onFault=onFault) for hook in (agree, stuck, crash)]
    client = connect(hooks=[*layers, mailbox], spoolMemory=10)
    begin(client, "x" * 100)
    fullDisk.run()
    with capturedLogs() as events:
        assert client.last(".").startswith("452 4.3.1")
    assert [event["by"] for event in events if "by" in event] == ["the spool of the message"]
    assert (pending.cancelled, mailbox) == (1, [])
    logged.takeFailures(ValueError)
    assert [text.startswith("a message cannot be spooled") for text in logged.takeTexts()] == [True]


# --- the spool ---


@pytest.mark.parametrize("memory, isFile", [(10, True), (1000, False)])
def test_inspectors_and_filters_spool_with_the_memory_of_the_option(memory: int, isFile: bool) -> None:
    spools: list[Any] = []

    class Spooling:
        async def inspectData(self, stream: Any, session: Any) -> None:
            spools.append(await stream.spool())

        async def filterData(self, stream: Any, session: Any) -> Any:
            spools.append(await stream.spool())
            async for chunk in spools[-1].open():
                yield chunk

    class Store(Mailbox):
        async def onData(self, stream: Any, session: Any) -> None:
            spools.append(await stream.spool())
            await super().onData(spools[-1].open(), session)

    store = Store()
    client = connect(hooks=[Spooling(), Spooling(), store], spoolMemory=memory)
    with pooled() as pool:
        begin(client, "x" * 98)
        pool.run()
        client.feed(b".\r\n")
        pool.run()
        assert client.codes() == [250]
        assert [len(message) for message in store] == [100]
        assert [spool._store._file is not None for spool in spools] == [isFile] * 5
        assert all(spool._isClosed for spool in spools)
