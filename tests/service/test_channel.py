"""The channel: lines of JSON in both directions, wherever they are cut, and answers that come late or never."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from smtphooks.service.channel import Channel, ChannelError
from tests.conftest import Logged

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
# Any name of a field but those of the channel itself.
FIELDS = st.dictionaries(st.text().filter(lambda name: name not in ("kind", "ask")), VALUES, max_size=4)


def connected(**handlers: Any) -> Channel:
    channel = Channel(handlers)
    channel.makeConnection(StringTransport())
    return channel


def written(channel: Channel) -> list[Any]:
    """What it has written since the last look, as objects."""
    transport: Any = channel.transport
    lines = transport.value().splitlines()
    transport.clear()
    return [json.loads(line) for line in lines]


def receive(channel: Channel, **fields: object) -> None:
    channel.dataReceived(json.dumps(fields).encode() + b"\n")


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- what is told ---


@given(st.lists(FIELDS, max_size=5), st.data())
def test_all_that_is_told_arrives_wherever_the_octets_are_cut(
    messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    taken: list[dict[str, Any]] = []
    ours, theirs = connected(), connected(note=lambda **fields: taken.append(fields))
    for fields in messages:
        ours.tell("note", **fields)
    transport: Any = ours.transport
    octets = transport.value()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
        theirs.dataReceived(octets[start:end])
    assert taken == messages
    assert written(theirs) == []


def test_a_line_whose_beginning_has_gone_to_another_program_is_skipped() -> None:
    taken: list[int] = []
    channel = connected(beat=lambda number: taken.append(number))
    for rest in (b"", b'"beat"}', b"3}", b"3", b'"kind"', b"[1, 2]", b"null", b'{"number": 3}', b"\xff\xfe", b"}" * 9):
        channel.dataReceived(rest + b"\n")
        receive(channel, kind="beat", number=4)
    assert taken == [4] * 10
    assert written(channel) == []


@pytest.mark.parametrize("kind", [None, 3, [], {}, ["beat"]])
def test_a_kind_that_is_no_text_is_skipped(kind: object) -> None:
    taken: list[str] = []
    channel = connected(beat=lambda: taken.append("beat"))
    receive(channel, kind=kind, ask=1)
    receive(channel, kind="beat")
    assert taken == ["beat"]


def test_lines_that_are_nested_too_deeply_are_skipped() -> None:
    taken: list[str] = []
    channel = connected(beat=lambda: taken.append("beat"))
    channel.dataReceived(b'{"kind": ' + b"[" * 200_000 + b"\n")
    receive(channel, kind="beat")
    assert taken == ["beat"]


def test_what_is_told_and_unknown_is_logged_and_gets_no_answer(logged: Logged) -> None:
    channel = connected()
    receive(channel, kind="later", value=1)
    assert written(channel) == []
    (failure,) = logged.takeFailures(ChannelError)
    assert "later is not known here" in failure.getErrorMessage()


def test_a_handler_that_fails_is_logged_and_the_next_line_is_heard(logged: Logged) -> None:
    taken: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    channel = connected(fail=fail, beat=lambda: taken.append("beat"))
    receive(channel, kind="fail")
    receive(channel, kind="beat")
    assert taken == ["beat"]
    assert len(logged.takeFailures(ValueError)) == 1


def test_fields_that_a_handler_does_not_take_are_logged(logged: Logged) -> None:
    channel = connected(beat=lambda: None)
    receive(channel, kind="beat", f=1)
    assert len(logged.takeFailures(TypeError)) == 1


def test_nothing_is_told_before_a_connection_or_after_its_end() -> None:
    channel = Channel({})
    channel.tell("early")
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.tell("beat")
    channel.connectionLost()
    channel.tell("late")
    assert transport.value() == b'{"kind": "beat"}\n'


# --- questions ---


@given(FIELDS, FIELDS)
def test_an_answer_comes_back_to_the_question(question: dict[str, Any], answer: dict[str, Any]) -> None:
    asked: list[dict[str, Any]] = []

    def answering(**fields: Any) -> dict[str, Any]:
        asked.append(fields)
        return answer

    question = {name: value for name, value in question.items() if name not in ("timeout", "clock")}
    ours, theirs = connected(), connected(status=answering)
    got: list[Any] = []
    ours.ask("status", 1.0, Clock(), **question).addCallback(got.append)  # type: ignore[arg-type]
    for line in written(ours):
        receive(theirs, **line)
    for line in written(theirs):
        receive(ours, **line)
    assert asked == [question]
    assert got == [answer]


def test_answers_may_come_in_another_order_than_the_questions(clock: Clock) -> None:
    later: Deferred[dict[str, Any]] = Deferred()

    async def slow() -> dict[str, Any]:
        return await later

    theirs = connected(slow=slow, quick=lambda: {"value": 2})
    ours = connected()
    got: list[Any] = []
    ours.ask("slow", 9.0, clock).addCallback(got.append)
    ours.ask("quick", 9.0, clock).addCallback(got.append)
    for line in written(ours):
        receive(theirs, **line)
    later.callback({"value": 1})
    for line in written(theirs):
        receive(ours, **line)
    assert got == [{"value": 2}, {"value": 1}]
    assert clock.getDelayedCalls() == []


def test_a_question_is_answered_with_an_empty_object_where_there_is_nothing_to_say() -> None:
    channel = connected(drain=lambda: None)
    receive(channel, kind="drain", ask=7)
    assert written(channel) == [{"kind": "answer", "ask": 7, "result": {}}]


def test_an_answer_that_is_too_late_is_not_waited_for_and_not_taken_for_another(clock: Clock) -> None:
    ours = connected()
    failed: list[Any] = []
    got: list[Any] = []
    ours.ask("status", 2.0, clock).addErrback(failed.append)
    clock.advance(2)
    assert failed[0].check(TimeoutError)
    assert ours._asked == {}
    ours.ask("status", 2.0, clock).addCallback(got.append)
    first, second = written(ours)
    receive(ours, kind="answer", ask=first["ask"], result={"number": 1})
    assert got == []
    receive(ours, kind="answer", ask=second["ask"], result={"number": 2})
    assert got == [{"number": 2}]
    assert clock.getDelayedCalls() == []


def test_a_second_answer_to_a_question_is_ignored(clock: Clock) -> None:
    ours = connected()
    got: list[Any] = []
    ours.ask("status", 2.0, clock).addCallback(got.append)
    for number in (1, 2):
        receive(ours, kind="answer", ask=1, result={"number": number})
    assert got == [{"number": 1}]


@pytest.mark.parametrize("number", [None, 99, "1", [], {}])
def test_an_answer_to_no_question_is_ignored(number: object, clock: Clock) -> None:
    ours = connected()
    got: list[Any] = []
    ours.ask("status", 2.0, clock).addCallback(got.append)
    receive(ours, kind="answer", ask=number, result={})
    receive(ours, kind="answer", ask=1, result={"number": 1})
    assert got == [{"number": 1}]


def test_a_sentence_of_the_other_side_fails_the_question(clock: Clock) -> None:
    def refuse() -> None:
        raise ChannelError("there is no\nworker 7")

    theirs, ours = connected(drain=refuse), connected()
    failed: list[Failure] = []
    ours.ask("drain", 2.0, clock).addErrback(failed.append)
    receive(theirs, **written(ours)[0])
    receive(ours, **written(theirs)[0])
    assert failed[0].check(ChannelError)
    assert failed[0].getErrorMessage() == "there is no worker 7"


def test_what_breaks_while_it_is_asked_is_logged_here_and_told_there(logged: Logged) -> None:
    def fail() -> None:
        raise ValueError("no")

    channel = connected(status=fail, odd=lambda: {"value": object()})
    receive(channel, kind="status", ask=1)
    receive(channel, kind="odd", ask=2)
    receive(channel, kind="unknown", ask=3)
    first, second, third = written(channel)
    assert first == {"kind": "answer", "ask": 1, "error": "no"}
    assert "not JSON serializable" in second["error"]
    assert third["error"] == "unknown is not known here, the two programs may be of different versions"
    assert len(logged.takeFailures(ValueError)) == 1
    assert len(logged.takeFailures(TypeError)) == 1


# --- the end ---


def test_questions_fail_when_the_other_side_ends(clock: Clock) -> None:
    lost: list[str] = []
    channel = Channel({}, lambda: lost.append("lost"))
    channel.makeConnection(StringTransport())
    failed: list[Failure] = []
    channel.ask("status", 2.0, clock).addErrback(failed.append)
    channel.connectionLost()
    channel.ask("status", 2.0, clock).addErrback(failed.append)
    assert [each.getErrorMessage() for each in failed] == ["the other process has ended"] * 2
    assert lost == ["lost"]
    assert clock.getDelayedCalls() == []


def test_a_question_before_there_is_a_connection_ends_in_time(clock: Clock) -> None:
    failed: list[Failure] = []
    Channel({}).ask("status", 2.0, clock).addErrback(failed.append)
    clock.advance(2)
    assert failed[0].check(TimeoutError)


def test_closing_fires_when_the_stream_has_ended() -> None:
    channel = connected()
    closed: list[object] = []
    channel.close().addCallback(closed.append)
    transport: Any = channel.transport
    assert transport.disconnecting and closed == []
    channel.connectionLost()
    assert closed == [None]


def test_closing_what_is_closed_or_was_never_open_fires_at_once() -> None:
    closed: list[object] = []
    Channel({}).close().addCallback(closed.append)
    channel = connected()
    channel.connectionLost()
    channel.close().addCallback(closed.append)
    assert closed == [None, None]


def test_an_answer_that_is_found_after_the_end_goes_nowhere() -> None:
    later: Deferred[dict[str, Any]] = Deferred()
    channel = connected(status=lambda: later)
    receive(channel, kind="status", ask=1)
    channel.connectionLost()
    later.callback({})
    assert written(channel) == []
