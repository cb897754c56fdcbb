"""The gate between a server and its connection."""

from __future__ import annotations

import pytest

from smtphooks.testing.gate import splitReplies


@pytest.mark.parametrize("cut", range(40))
def test_replies_are_found_however_they_are_cut(cut: int) -> None:
    octets = b"220 x\r\n250-a\r\n250-b\r\n250 c\r\n334 \r\n354\r\n2"
    first, rest = splitReplies(octets[:cut])
    second, rest = splitReplies(rest + octets[cut:])
    assert first + second == [b"220 x\r\n", b"250-a\r\n250-b\r\n250 c\r\n", b"334 \r\n", b"354\r\n"]
    assert rest == b"2"
