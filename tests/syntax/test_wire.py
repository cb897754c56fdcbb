"""The wire: every input is fed whole, octet by octet, and cut anywhere; the result must be the same."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.syntax import wire as wireModule
from smtphooks.syntax.wire import ACCEPT, NORMALIZE, REJECT, LineFault, Wire

MODES = [NORMALIZE, REJECT, ACCEPT]
LIMIT = 40


def cutUp(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def feeds(data: bytes) -> list[list[bytes]]:
    """The octets whole, one by one, and cut in two at every place."""
    return [
        [data],
        [data[i : i + 1] for i in range(len(data))],
        *([data[:i], data[i:]] for i in range(1, len(data))),
    ]


def lines(pieces: list[bytes], mode: str, limit: int = LIMIT, lazily: bool = False) -> list[bytes | LineFault]:
    wire = Wire(mode)
    found: list[bytes | LineFault] = []
    for piece in pieces:
        wire.feed(piece)
        if not lazily:
            while (line := wire.maybeLine(limit)) is not None:
                found.append(line)
    while (line := wire.maybeLine(limit)) is not None:
        found.append(line)
    return found


def pull(wire: Wire) -> bytes:
    parts = []
    while not wire.messageEnded:
        part = wire.maybeMessage()
        if part is None:
            break
        parts.append(part)
    return b"".join(parts)


def message(pieces: list[bytes], mode: str) -> tuple[bytes, bool, bool, list[bytes | LineFault]]:
    """The message, whether it ended, whether a bare newline was seen, and the lines after it."""
    wire = Wire(mode)
    wire.beginMessage()
    content = b""
    found: list[bytes | LineFault] = []
    for piece in pieces:
        wire.feed(piece)
        content += pull(wire)
        while wire.messageEnded and (line := wire.maybeLine(LIMIT)) is not None:
            found.append(line)
    return content, wire.messageEnded, wire.bareNewlineSeen, found


def same(expected: list[bytes | LineFault]) -> dict[str, list[bytes | LineFault]]:
    return dict.fromkeys(MODES, expected)


LINES: list[tuple[bytes, dict[str, list[bytes | LineFault]]]] = [
    (b"NOOP\r\nQUIT\r\n", same([b"NOOP", b"QUIT"])),
    (b"\r\n", same([b""])),
    (b"NOOP\r\nQUI", same([b"NOOP"])),
    (
        b"NOOP\nQUIT\r\n",
        {NORMALIZE: [b"NOOP", b"QUIT"], ACCEPT: [b"NOOP", b"QUIT"], REJECT: [LineFault.BARE_LINE_END]},
    ),
    (b"\nQUIT\r\n", {NORMALIZE: [b"", b"QUIT"], ACCEPT: [b"", b"QUIT"], REJECT: [LineFault.BARE_LINE_END]}),
    (b"NO\rOP\r\n", {NORMALIZE: [b"NO\rOP"], ACCEPT: [b"NO\rOP"], REJECT: [LineFault.BARE_LINE_END]}),
    (b"NOOP\r\r\n", {NORMALIZE: [b"NOOP\r"], ACCEPT: [b"NOOP\r"], REJECT: [LineFault.BARE_LINE_END]}),
    (b"x" * 38 + b"\r\nQUIT\r\n", same([b"x" * 38, b"QUIT"])),
    (b"x" * 39 + b"\r\nQUIT\r\n", same([LineFault.TOO_LONG, b"QUIT"])),
    (b"x" * 200 + b"\r\nQUIT\r\n", same([LineFault.TOO_LONG, b"QUIT"])),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("data", "expected"), LINES, ids=[repr(data)[:40] for data, _ in LINES])
def test_lines_are_the_same_however_they_are_cut(data: bytes, expected: dict, mode: str) -> None:
    for pieces in feeds(data):
        assert lines(pieces, mode) == expected[mode]
        assert lines(pieces, mode, lazily=True) == expected[mode]


def test_an_endless_line_is_not_buffered() -> None:
    wire = Wire()
    for _ in range(1000):
        wire.feed(b"x" * 1000)
        assert wire.maybeLine(LIMIT) is None
        assert wire.buffered <= LIMIT
    wire.feed(b"\r\nQUIT\r\n")
    assert wire.maybeLine(LIMIT) is LineFault.TOO_LONG
    assert wire.maybeLine(LIMIT) == b"QUIT"


def test_cleared_octets_are_never_read() -> None:
    wire = Wire()
    wire.feed(b"EHLO a\r\nNO")
    wire.feed(b"OP\r\n")
    assert wire.maybeLine(LIMIT) == b"EHLO a"
    assert wire.clear() == 6
    assert wire.buffered == 0
    wire.feed(b"QUIT\r\n")
    assert wire.maybeLine(LIMIT) == b"QUIT"


def test_a_partial_line_is_cleared_too() -> None:
    wire = Wire()
    wire.feed(b"x" * 100)
    assert wire.maybeLine(LIMIT) is None
    assert wire.clear() == 1
    wire.feed(b"QUIT\r\n")
    assert wire.maybeLine(LIMIT) == b"QUIT"


# Each: octets after 354, the message by mode (None: it did not end), lines after it.
MESSAGES: list[tuple[bytes, dict[str, bytes | None], list[bytes]]] = [
    (b".\r\n", dict.fromkeys(MODES, b""), []),
    (b"a\r\n.\r\nQUIT\r\n", dict.fromkeys(MODES, b"a\r\n"), [b"QUIT"]),
    (b"..a\r\n..\r\n...\r\n.\r\n", dict.fromkeys(MODES, b".a\r\n.\r\n..\r\n"), []),
    (b".a\r\n.\r\n", dict.fromkeys(MODES, b"a\r\n"), []),
    (
        b"a\r\n.\r.\r\nb\r\n.\r\n",
        {ACCEPT: b"a\r\n\r.\r\nb\r\n", NORMALIZE: b"a\r\n .\r\nb\r\n", REJECT: b""},
        [],
    ),
    (b"a.\r\n.\r\n", dict.fromkeys(MODES, b"a.\r\n"), []),
    (b"\r\n.\r\n", dict.fromkeys(MODES, b"\r\n"), []),
    (b"a\r\n\r\n.\r\n", dict.fromkeys(MODES, b"a\r\n\r\n"), []),
    (b"a\nb\r\n.\r\n", {ACCEPT: b"a\nb\r\n", NORMALIZE: b"a\r\nb\r\n", REJECT: b""}, []),
    (b"a\rb\r\n.\r\n", {ACCEPT: b"a\rb\r\n", NORMALIZE: b"a b\r\n", REJECT: b""}, []),
    # As in Postfix: a bare LF is a line end before a stuffed dot, but not in the end of the message.
    (b"a\n..b\n.c\r\n.\r\n", {ACCEPT: b"a\n..b\n.c\r\n", NORMALIZE: b"a\r\n.b\r\nc\r\n", REJECT: b""}, []),
    (b"a\n.\r\nb\r\n.\r\n", {ACCEPT: b"a\n.\r\nb\r\n", NORMALIZE: b"a\r\n\r\nb\r\n", REJECT: b""}, []),
    (b"a\r\n.\nb\r\n.\r\n", {ACCEPT: b"a\r\n\nb\r\n", NORMALIZE: b"a\r\n\r\nb\r\n", REJECT: b""}, []),
    (b"a\r.b\r\n.\r\n", {ACCEPT: b"a\r.b\r\n", NORMALIZE: b"a .b\r\n", REJECT: b""}, []),
    (b"a\r\r\n.\r\n", {ACCEPT: b"a\r\r\n", NORMALIZE: b"a \r\n", REJECT: b""}, []),
    (b"a\r\n.\r\r\n.\r\n", {ACCEPT: b"a\r\n\r\r\n", NORMALIZE: b"a\r\n \r\n", REJECT: b""}, []),
    (b"a\r\n\0.\r\n.\r\n", dict.fromkeys(MODES, b"a\r\n\0.\r\n"), []),
    # Smuggling: none of these ends a message.
    *(
        (b"a" + end + b"MAIL FROM:<x>\r\n", dict.fromkeys(MODES), [])
        for end in [
            b"\n.\n",
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r",
            b"\r\n.\r",
            b"\r.\r\n",
            b"\n.\r",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
            b"\r\n .\r\n",
            b"\r\n.\r\r\n",
        ]
    ),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("data", "expected", "behind"), MESSAGES, ids=[repr(case[0])[:40] for case in MESSAGES])
def test_a_message_is_the_same_however_it_is_cut(
    data: bytes, expected: dict[str, bytes | None], behind: list[bytes], mode: str
) -> None:
    for pieces in feeds(data):
        content, ended, bareSeen, found = message(pieces, mode)
        assert ended is (expected[mode] is not None)
        assert found == behind
        if mode == REJECT and expected[REJECT] == b"" and expected[ACCEPT] != b"":
            assert bareSeen
        elif ended:
            assert content == expected[mode]
            assert not bareSeen


@pytest.mark.parametrize("tail", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n"])
def test_bare_lf_never_ends_a_message(tail: bytes) -> None:
    for mode in MODES:
        content, ended, _, behind = message([b"a" + tail + b"RSET\r\n", b".\r\nQUIT\r\n"], mode)
        assert (ended, behind) == (True, [b"QUIT"])
        assert b"RSET" in content


def reference(data: bytes, mode: str) -> bytes:
    """The message according to a slow and obvious implementation of the rules."""
    end = 0 if data.startswith(b".\r\n") else data.index(b"\r\n.\r\n") + 2
    found = data[:end]
    if mode == NORMALIZE:
        found = re.sub(rb"\r(?!\n)", b" ", re.sub(rb"(?<!\r)\n", b"\r\n", found))
    return re.sub(rb"(\A|\r\n)\.", rb"\1", found)


nasty = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\0", b"\xff"]), max_size=30).map(
    b"".join
)


@given(nasty, st.lists(st.integers(0, 200), max_size=8), st.sampled_from([NORMALIZE, ACCEPT]))
def test_any_cut_gives_the_message_of_the_obvious_implementation(body: bytes, cuts: list[int], mode: str) -> None:
    data = body + b"\r\n.\r\n"
    content, ended, _, _ = message(cutUp(data, cuts), mode)
    assert ended
    assert content == reference(data, mode)


@given(nasty, st.lists(st.integers(0, 200), max_size=8))
def test_reject_sees_each_bare_newline_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    data = body + b"\r\n.\r\n"
    _, ended, seen, _ = message(cutUp(data, cuts), REJECT)
    assert ended
    assert seen == bool(re.search(rb"\r(?!\n)|(?<!\r)\n", reference(data, ACCEPT)))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8), st.sampled_from(MODES), st.data())
def test_no_octets_make_the_wire_raise(data: bytes, cuts: list[int], mode: str, choose: st.DataObject) -> None:
    wire = Wire(mode)
    for piece in cutUp(data, cuts):
        wire.feed(piece)
        match choose.draw(st.integers(0, 2)):
            case 0:
                wire.beginMessage()
            case 1:
                wire.beginChunk(choose.draw(st.integers(0, 50)), first=True, binary=False)
        assert len(pull(wire)) <= 2 * len(data)
        wire.maybeLine(LIMIT)
        assert wire.buffered <= len(data)


def chunks(data: bytes, sizes: list[int], cuts: list[int], mode: str, binary: bool) -> tuple[bytes, bool]:
    wire = Wire(mode)
    content = b""
    remaining = data
    for number, size in enumerate([*sizes, len(data)]):
        chunk, remaining = remaining[:size], remaining[size:]
        wire.beginChunk(len(chunk), first=number == 0, binary=binary)
        content += pull(wire)
        for piece in cutUp(chunk, cuts):
            wire.feed(piece)
            content += pull(wire)
        assert wire.messageEnded
    return content + wire.endOfChunks(), wire.bareNewlineSeen


@given(nasty, st.lists(st.integers(0, 20), max_size=4), st.lists(st.integers(0, 200), max_size=4))
def test_chunks_are_normalized_across_their_borders_and_dots_stay(
    data: bytes, sizes: list[int], cuts: list[int]
) -> None:
    expected = re.sub(rb"\r(?!\n)", b" ", re.sub(rb"(?<!\r)\n", b"\r\n", data))
    assert chunks(data, sizes, cuts, NORMALIZE, binary=False) == (expected, False)
    bare = bool(re.search(rb"\r(?!\n)|(?<!\r)\n", data))
    assert chunks(data, sizes, cuts, REJECT, binary=False)[1] is bare


@given(
    nasty,
    st.lists(st.integers(0, 20), max_size=4),
    st.lists(st.integers(0, 200), max_size=4),
    st.sampled_from(MODES),
)
def test_a_binary_message_is_not_normalized(data: bytes, sizes: list[int], cuts: list[int], mode: str) -> None:
    assert chunks(data, sizes, cuts, mode, binary=True) == (data, False)


def test_a_line_follows_a_chunk() -> None:
    wire = Wire()
    wire.feed(b"abcNOOP\r\n")
    wire.beginChunk(3, first=True, binary=False)
    assert pull(wire) == b"abc"
    assert wire.maybeLine(LIMIT) == b"NOOP"


def test_a_pull_is_bounded_even_where_normalizing_doubles_it() -> None:
    wire = Wire()
    wire.beginMessage()
    wire.feed(b"\n" * 65536)
    first = wire.maybeMessage()
    assert first is not None
    assert len(first) == 65536
    assert wire.buffered == 32768


@pytest.mark.parametrize("octets", [40_000, 65_536])
def test_clean_octets_are_handed_out_in_one_pull(octets: int) -> None:
    wire = Wire()
    wire.beginMessage()
    body = (b"x" * 78 + b"\r\n") * (octets // 80) + b"y" * (octets % 80)
    wire.feed(body)
    assert (wire.maybeMessage(), wire.buffered) == (body, 0)


def test_a_bare_line_end_anywhere_bounds_the_pull() -> None:
    for bare in (b"\n", b"\r"):
        wire = Wire()
        wire.beginMessage()
        body = b"x" * 65_000 + bare + b"x" * 535
        wire.feed(body)
        assert wire.maybeMessage() == body[:32_768]
        assert wire.buffered == 32_768


@pytest.mark.parametrize("octetsBefore", [0, 1, 1000, 32_760, 40_000])
@pytest.mark.parametrize("dots", [0, 1, 7, 8, 9, 50])
def test_a_final_or_stuffed_dot_is_found_after_any_number_of_dots(dots: int, octetsBefore: int) -> None:
    wire = Wire()
    wire.beginMessage()
    head = b"x." * dots + b"x" * octetsBefore
    wire.feed(head + b"\r\n..hidden\r\n.\r\nNOOP\r\n")
    message = b""
    while not wire.messageEnded:
        message += wire.maybeMessage() or b""
    assert message == head + b"\r\n.hidden\r\n"
    assert wire.maybeLine(LIMIT) == b"NOOP"


@pytest.mark.parametrize("chunked", [False, True])
def test_no_pull_exceeds_its_limit_whatever_was_held_back(chunked: bool) -> None:
    wire = Wire()
    if chunked:
        wire.beginChunk(100_000, first=True, binary=False)
    else:
        wire.beginMessage()
    wire.feed(b"x\r")
    assert wire.maybeMessage() == b"x"
    wire.feed(b"\n" + b"y" * 65_535)
    assert [len(wire.maybeMessage() or b"") for _ in range(2)] == [65_536, 1]


def test_octets_after_a_message_are_not_scanned_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each of many short messages in one block would cost as much as all of them."""
    looked: list[int] = []
    isClean = wireModule._isClean

    def counting(octets: bytes) -> bool:
        looked.append(len(octets))
        return isClean(octets)

    monkeypatch.setattr(wireModule, "_isClean", counting)
    wire = Wire()
    messages = [b".\r\n", b"text\r\n.\r\n", b"bare\n\r\n.\r\n"] * 100
    wire.feed(b"".join(messages))
    for _ in messages:
        wire.beginMessage()
        while not wire.messageEnded:
            wire.maybeMessage()
    assert wire.isEmpty
    assert sum(looked) <= 2 * sum(map(len, messages))


class Counted(bytes):
    """Octets that count the searches in them."""

    searched = 0

    def find(self, *args):  # type: ignore[no-untyped-def]
        Counted.searched += len(self) - (args[1] if len(args) > 1 else 0)
        return super().find(*args)


@pytest.mark.parametrize("octets", [2000, 4000])
def test_a_line_that_arrives_octet_by_octet_is_searched_once(octets: int) -> None:
    Counted.searched = 0
    wire = Wire()
    for _ in range(octets):
        wire.feed(Counted(b"x"))
        assert wire.maybeLine(10 * octets) is None
    assert Counted.searched == octets
