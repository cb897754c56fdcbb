"""Content for DATA: read by the server's own decoder it is what was given, however both sides cut it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.client.content import DataEncoder
from smtphooks.syntax.wire import Wire
from tests.support import cutUp

PIECES = st.lists(st.sampled_from([b"a", b".", b"\r\n", b"\r", b"\n", b"..", b"\r\n.", b"\r\n.\r\n", b"\xe4", b"\0"]))
LINES = st.lists(st.sampled_from([b"", b".", b"..", b"text", b".dot", b"\xe4", b"QUIT"]))
CUTS = st.lists(st.integers(0))


def encode(pieces: list[bytes]) -> bytes:
    encoder = DataEncoder()
    return b"".join(map(encoder.encode, pieces)) + encoder.finish()


def decode(pieces: list[bytes]) -> tuple[bytes, int]:
    """What the server takes for the message, and how many octets it takes for what follows."""
    wire, message = Wire(), b""
    wire.beginMessage()
    for piece in pieces:
        wire.feed(piece)
        while not wire.messageEnded and (octets := wire.maybeMessage()) is not None:
            message += octets
    assert wire.messageEnded
    return message, wire.buffered


@given(LINES, CUTS, CUTS)
def test_the_servers_decoder_undoes_it_whatever_the_cuts(
    lines: list[bytes], cuts: list[int], otherCuts: list[int]
) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    assert decode(cutUp(encode(cutUp(message, cuts)), otherCuts)) == (message, 0)


@given(PIECES, CUTS)
def test_no_input_yields_a_bare_CR_or_LF_or_a_dot_that_ends_the_message_early(
    pieces: list[bytes], cuts: list[int]
) -> None:
    message = b"".join(pieces)
    encoded = encode(cutUp(message, cuts))
    assert encoded == encode([message])
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", encoded)
    whole = b"\r\n" + encoded
    assert whole.find(b"\r\n.\r\n") == len(whole) - 5
    assert not re.search(rb"\r\n\.(?!\.|\r\n\Z)", whole)


@given(PIECES)
def test_only_line_ends_are_changed_and_an_end_is_added_if_there_is_none(pieces: list[bytes]) -> None:
    message = b"".join(pieces)
    expected = re.sub(rb"\r(?!\n)", b" ", re.sub(rb"(?<!\r)\n", b"\r\n", message))
    if expected and not expected.endswith(b"\r\n"):
        expected += b"\r\n"
    assert decode([encode([message])]) == (expected, 0)


@pytest.mark.parametrize(
    ("message", "encoded"),
    [
        (b"", b".\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\n.\nQUIT\n", b"a\r\n..\r\nQUIT\r\n.\r\n"),
        (b"a\r", b"a \r\n.\r\n"),
        (b"\r", b" \r\n.\r\n"),
        (b"a\r.\r\nb", b"a .\r\nb\r\n.\r\n"),
    ],
)
def test_each_end_of_a_line(message: bytes, encoded: bytes) -> None:
    assert encode([message]) == encoded


def test_octets_above_127_are_noticed() -> None:
    encoder = DataEncoder()
    encoder.encode(b"ascii\r\n")
    assert not encoder.is8bit
    encoder.encode(b"\xe4")
    encoder.encode(b"ascii\r\n")
    assert encoder.is8bit
