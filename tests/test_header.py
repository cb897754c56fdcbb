"""Headers of messages: their end, their fields, and the separator after fields in front of a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.header import HeaderEnd, areFields, maybeSeparator, parseHeader
from tests.support import cutUp

# Octets that headers are made of, so that many examples are headers, or nearly so.
TEXT = st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"a", b"From ", b"\xe4", b"\0"])).map(
    b"".join
)
CUTS = st.lists(st.integers(0, 10000), max_size=8)


def endOf(*pieces: bytes) -> int | None:
    search = HeaderEnd()
    for piece in pieces:
        search.scan(piece)
    assert search.octets == sum(map(len, pieces))
    return search.end


@pytest.mark.parametrize(
    ("octets", "end"),
    [
        (b"A: b\r\n\r\ntext\r\n\r\n", 8),
        (b"A: b\n\ntext", 6),
        (b"A: b\n\r\ntext", 7),
        (b"A: b\r\n\ntext", 7),
        (b"\r\ntext", 2),
        (b"\ntext\r\n\r\n", 1),
        (b"A: b\r\n \r\n\r\n", 11),
        (b"A: b\r\r\n\n", 8),
    ],
)
def test_a_header_ends_with_the_first_empty_line(octets: bytes, end: int) -> None:
    assert endOf(octets) == end
    assert endOf(*(octets[i : i + 1] for i in range(len(octets)))) == end


@pytest.mark.parametrize("octets", [b"", b"\r", b"A: b\r\n", b"A: b\r\n\r", b"A: b\r\n \r\n", b"A: b\r\r", b"\r\r\n"])
def test_without_an_empty_line_it_has_not_ended(octets: bytes) -> None:
    assert endOf(octets) is None


@given(TEXT, CUTS)
def test_the_end_is_the_same_however_it_is_cut(octets: bytes, cuts: list[int]) -> None:
    lines = octets.split(b"\n")
    empty = next((number for number, line in enumerate(lines[:-1]) if line in (b"", b"\r")), None)
    expected = None if empty is None else sum(len(line) + 1 for line in lines[: empty + 1])
    assert endOf(octets) == endOf(*cutUp(octets, cuts)) == expected


# --- fields ---


def test_a_header_is_a_message_without_a_body() -> None:
    header = parseHeader(
        b"From: Ann <ann@example.org>\r\nSubject: a\r\n long one\r\nReceived: 1\r\nreceived: 2\r\n\r\n"
    )
    assert header["from"] == "Ann <ann@example.org>"
    assert header["Subject"] == "a\r\n long one"
    assert header.get_all("Received") == ["1", "2"]
    assert header["To"] is None


def test_a_bare_cr_makes_no_field() -> None:
    assert parseHeader(b"Subject: a\rBcc: b\r\n\r\n").items() == [("Subject", "a Bcc: b")]


@given(st.one_of(TEXT, st.binary()))
def test_parsing_any_header_raises_nothing(octets: bytes) -> None:
    for name, value in parseHeader(octets).items():
        assert name.isascii()
        assert isinstance(str(value), str)


# --- fields in front of a message ---


@pytest.mark.parametrize(
    "octets", [b"A: b\r\n", b"A: b\r\n\tc\r\n d\r\nE:\r\n", b"!~:x\r\n", "Subject: Grüße\r\n".encode(), b"A:b:c\r\n"]
)
def test_fields_are_whole_lines(octets: bytes) -> None:
    assert areFields(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\r\n",
        b"A: b",
        b"A: b\n",
        b"A: b\r\n\r\n",
        b"A: b\r\n\r\nC: d\r\n",
        b"A: b\nC: d\r\n",
        b"A: b\rC: d\r\n",
        b" A: b\r\n",
        b"\tA: b\r\n",
        b"A\r\n",
        b": b\r\n",
        b"A b: c\r\n",
        b"A : b\r\n",
        b"A: b\r\nC\r\n",
        b"A: b\r\n \r\n",
        b"A: b\r\n\r",
        b"\xe4: b\r\n",
        b"From ann@example.org Thu Jan  1 00:00:00 1970\r\n",
    ],
)
def test_other_octets_are_not_fields(octets: bytes) -> None:
    assert not areFields(octets)


@pytest.mark.parametrize(
    "octets", [b"A: b\r\n", b"A:", b"Received : from a\r\n", b"A \t:", b"\r\n", b"\nA", b"!~:", b"A" * 997 + b":", b""]
)
def test_no_separator_before_a_field_or_an_empty_line(octets: bytes) -> None:
    assert maybeSeparator(octets, more=False) == b""


@pytest.mark.parametrize(
    "octets",
    [
        b" for <ann@example.org>;\r\n",
        b"\tx",
        b" \r\n",
        b"text",
        b"text\r\nA: b",
        b"A b: c",
        b": b",
        b"\xe4: b",
        b"\0: b",
        b"\r",
        b"\rA: b",
        b"A" * 998 + b":",
        b"A" + b" " * 997 + b":",
        b"From ann@example.org Thu Jan  1 00:00:00 1970\r\nA: b\r\n",
        b"From: x"[:4],
    ],
)
def test_an_empty_line_before_anything_else(octets: bytes) -> None:
    assert maybeSeparator(octets, more=False) == b"\r\n"


@pytest.mark.parametrize("octets", [b"", b"\r", b"A", b"A ", b"A \t", b"A" * 997, b"A" + b" " * 996])
def test_the_separator_waits_for_a_possible_field(octets: bytes) -> None:
    assert maybeSeparator(octets, more=True) is None


@pytest.mark.parametrize("octets", [b"A" * 998, b"A" + b" " * 997, b"A" * 5000])
def test_the_separator_waits_no_longer_than_a_line(octets: bytes) -> None:
    assert maybeSeparator(octets, more=True) == b"\r\n"


@given(st.one_of(TEXT, st.integers(990, 1005).map(lambda count: b"a" * count + b":")), st.integers(0, 1006))
def test_an_answer_never_changes_with_more_octets(octets: bytes, known: int) -> None:
    early = maybeSeparator(octets[:known], more=True)
    late = maybeSeparator(octets, more=False)
    assert late in (b"", b"\r\n")
    assert early is None or early == late


@given(TEXT)
def test_prepended_fields_stay_unchanged(octets: bytes) -> None:
    separator = maybeSeparator(octets, more=False)
    assert separator is not None
    header = parseHeader(b"Received: ours\r\n" + separator + octets)
    assert header.items()[0] == ("Received", "ours")


@given(st.binary(max_size=200), st.sampled_from([b"", b"Content-Type: text/plain; charset=x-unknown\r\n"]))
def test_any_header_can_be_printed(octets: bytes, before: bytes) -> None:
    header = parseHeader(before + octets)
    assert header.get_payload() == ""
    str(header)
    bytes(header)


def test_a_line_that_is_not_a_field_does_not_affect_those_before_it() -> None:
    header = parseHeader(b"Subject: x\r\nContent-Type: text/plain; charset=x-unknown\r\n\xff\xfe no colon\r\n\r\n")
    assert header["Subject"] == "x"
    assert "Subject: x" in str(header)
