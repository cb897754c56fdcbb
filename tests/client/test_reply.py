"""Replies as they are read: however their octets are cut, and whatever a server sends."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.client.reply import NoReply, ReceivedReply, ReplyReader
from tests.support import cutUp

TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=40)
REPLIES = st.lists(st.tuples(st.integers(200, 599), st.lists(TEXTS, min_size=1, max_size=4)), min_size=1, max_size=5)


def readAll(pieces: list[bytes]) -> list[ReceivedReply]:
    reader, replies = ReplyReader(), []
    for piece in pieces:
        reader.add(piece)
        while (reply := reader.maybeReply()) is not None:
            replies.append(reply)
    return replies


def octetsOf(replies: list[tuple[int, list[str]]], newline: str = "\r\n") -> bytes:
    lines = []
    for code, texts in replies:
        lines += [f"{code}-{text}" for text in texts[:-1]] + [f"{code} {texts[-1]}"]
    return "".join(line + newline for line in lines).encode()


@given(REPLIES, st.lists(st.integers(0)), st.sampled_from(["\r\n", "\n"]))
def test_however_the_octets_are_cut_the_replies_are_the_same(
    replies: list[tuple[int, list[str]]], cuts: list[int], newline: str
) -> None:
    read = readAll(cutUp(octetsOf(replies, newline), cuts))
    assert [reply.code for reply in read] == [code for code, _ in replies]
    assert [str(reply) for reply in read] == [
        "\n".join([f"{code}-{text}" for text in texts[:-1]] + [f"{code} {texts[-1]}"]) for code, texts in replies
    ]


@given(st.binary(max_size=200), st.lists(st.integers(0)))
def test_whatever_octets_come_they_are_replies_or_NoReply_and_the_cuts_do_not_decide(
    octets: bytes, cuts: list[int]
) -> None:
    results = []
    for pieces in ([octets], cutUp(octets, cuts), [octets[i : i + 1] for i in range(len(octets))]):
        reader, replies = ReplyReader(), []
        try:
            for piece in pieces:
                reader.add(piece)
                while (reply := reader.maybeReply()) is not None:
                    replies.append(str(reply))
        except NoReply:
            replies.append("no reply")
        results.append(replies)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    "octets",
    [b"\r\n", b"hello\r\n", b"25 ok\r\n", b"2500 ok\r\n", b"250ok\r\n", b"150 ok\r\n", b"650 ok\r\n", b" 250 ok\r\n"],
)
def test_what_has_no_code_is_no_reply(octets: bytes) -> None:
    with pytest.raises(NoReply):
        readAll([octets])


def test_lines_with_different_codes_are_no_reply() -> None:
    with pytest.raises(NoReply, match="250 and 550"):
        readAll([b"250-one\r\n550 two\r\n"])


@pytest.mark.parametrize("octets", [b"250 " + b"x" * 8189, b"250 " + b"x" * 8189 + b"\r\n"])
def test_a_line_without_end_is_no_reply_and_is_not_kept(octets: bytes) -> None:
    with pytest.raises(NoReply, match="too long"):
        readAll([octets])


def test_a_reply_without_end_is_no_reply() -> None:
    with pytest.raises(NoReply, match="too long"):
        readAll([b"250-" + b"x" * 1000 + b"\r\n"] * 300)


def test_a_code_alone_is_a_reply() -> None:
    assert [(reply.code, reply.text) for reply in readAll([b"250\r\n", b"354 \r\n"])] == [(250, ""), (354, "")]


def test_the_enhanced_code_is_taken_from_each_line_that_has_it() -> None:
    (reply,) = readAll([b"550-5.1.1 no\r\n550-5.1.10 such\r\n550 5.1.1 user\r\n"])
    assert (reply.enhancedCode, reply.lines) == ("5.1.1", ("no", "5.1.10 such", "user"))
    assert reply.text == "no\n5.1.10 such\nuser"


@pytest.mark.parametrize("line", ["250 5.1.1 no", "550 2.0.0 yes", "550 51.1.1 no", "550 no 5.1.1", "550 5.1.1x"])
def test_what_only_looks_like_an_enhanced_code_is_text(line: str) -> None:
    reply = ReceivedReply(line)
    assert (reply.enhancedCode, reply.text) == (None, line[4:])


def test_an_enhanced_code_alone_is_one() -> None:
    reply = ReceivedReply("250 2.0.0")
    assert (reply.enhancedCode, reply.lines) == ("2.0.0", ("",))


def test_a_reply_knows_what_it_says() -> None:
    assert [ReceivedReply(f"{code} x").isPositive for code in (220, 354, 450, 550)] == [True, True, False, False]
    assert [ReceivedReply(f"{code} x").isPermanent for code in (250, 450, 550)] == [False, False, True]


def test_a_reader_is_empty_between_replies_only() -> None:
    reader = ReplyReader()
    states = []
    for piece in (b"", b"2", b"50-a\r\n", b"250 b\r", b"\n", b"250 c\r\n25"):
        reader.add(piece)
        reply = reader.maybeReply()
        states.append((reply is not None, reader.isEmpty))
    assert states == [(False, True), (False, False), (False, False), (False, False), (True, True), (True, False)]


def seconds(lines: int, isDripped: bool) -> float:
    octets = b"250-" + b"\r\n250-".join([b"x"] * lines) + b"\r\n"
    pieces = [octets[i : i + 2] for i in range(0, len(octets), 2)] if isDripped else [octets]
    began = time.process_time()
    readAll(pieces)
    return time.process_time() - began


@pytest.mark.parametrize("isDripped", [False, True])
def test_the_work_is_linear_in_the_number_of_lines(isDripped: bool) -> None:
    seconds(1000, isDripped)
    few, many = min(seconds(4000, isDripped) for _ in range(3)), min(seconds(40000, isDripped) for _ in range(3))
    assert many < 40 * few  # quadratic would be a hundred times as much
