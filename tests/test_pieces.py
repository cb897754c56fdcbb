"""Pieces by themselves: nothing is lost or reordered by joining them as they come."""

from __future__ import annotations

import pytest

from smtphooks.pieces import Pieces


@pytest.mark.parametrize("count", [0, 1, 2, 1023, 1024, 1025, 3000, 5000])
def test_pieces_are_joined_in_their_order(count: int) -> None:
    pieces = Pieces()
    expected = [b"%d " % number for number in range(count)]
    for piece in expected:
        pieces.add(piece)
    assert pieces.octets == len(b"".join(expected))
    assert pieces.join() == b"".join(expected)


def test_cleared_pieces_can_be_collected_anew() -> None:
    pieces = Pieces()
    for _ in range(2000):
        pieces.add(b"old")
    pieces.clear()
    assert (pieces.octets, pieces.join()) == (0, b"")
    for _ in range(2000):
        pieces.add(b"new")
    assert (pieces.octets, pieces.join()) == (6000, b"new" * 2000)


@pytest.mark.parametrize("octets", [0, 1, 5, 6])
def test_the_first_octets_are_dropped(octets: int) -> None:
    pieces = Pieces()
    for piece in (b"ab", b"c", b"def"):
        pieces.add(piece)
    pieces.drop(octets)
    pieces.add(b"g")
    assert (pieces.octets, pieces.join()) == (7 - octets, b"abcdefg"[octets:])


def test_a_single_piece_is_not_copied() -> None:
    pieces = Pieces()
    piece = b"whole message"
    pieces.add(piece)
    assert pieces.join() is piece
