"""Messages that pass by: the same fields and hashes, however they are cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.layers.authentication.messagescan import Field, MessageScan, fieldsOf
from tests.support import cutUp

TEXT = st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"a", b"From: x", b"\xe4", b"\0"])).map(
    b"".join
)


def bothForms(fields: Sequence[Field]) -> Iterable[tuple[str, int | None]]:
    return [("simple", None), ("relaxed", None), ("simple", 3)]


def scanned(*pieces: bytes) -> MessageScan:
    scan = MessageScan(bothForms)
    for piece in pieces:
        scan.feed(piece)
    scan.close()
    return scan


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (b"From: a\r\n\r\n", [(b"from", b"From", b" a\r\n")]),
        (b"From: a\n b\n\n", [(b"from", b"From", b" a\r\n b\r\n")]),
        (b"From: a\r\n\tb\r\nX:\r\n", [(b"from", b"From", b" a\r\n\tb\r\n"), (b"x", b"X", b"\r\n")]),
        (b"SUBJECT \t:a: b\r\n", [(b"subject", b"SUBJECT \t", b"a: b\r\n")]),
        (b"From: \xe4\r\x00\r\n", [(b"from", b"From", b" \xe4\r\x00\r\n")]),
        (b"From me\r\n to you\r\nA: b\r\nno field\r\n not of it\r\n", [(b"a", b"A", b" b\r\n")]),
        (b" not of a field\r\nA: b\r\n", [(b"a", b"A", b" b\r\n")]),
        (b": a\r\n\xe4: b\r\nA B: c\r\n", []),
        (b"", []),
    ],
)
def test_the_fields_of_a_header_are_kept_as_written(header: bytes, fields: list[tuple[bytes, bytes, bytes]]) -> None:
    assert fieldsOf(header) == fields


@given(TEXT, st.lists(st.integers(0, 10000), max_size=8))
def test_a_message_is_the_same_however_it_is_cut(message: bytes, cuts: list[int]) -> None:
    whole, cut = scanned(message), scanned(*cutUp(message, cuts))
    assert cut.fields == whole.fields
    for form, length in bothForms([]):
        assert cut.bodyHash(form, length) == whole.bodyHash(form, length)


def test_the_body_begins_behind_the_first_empty_line() -> None:
    scan = scanned(b"A: b\r\n\r\nB: c\r\n\r\ntext\r\n")
    assert [field.key for field in scan.fields] == [b"a"]
    assert scan.bodyHash("simple", None) == hashlib.sha256(b"B: c\r\n\r\ntext\r\n").digest()
    assert scan.bodyHash("simple", 3) == hashlib.sha256(b"B: ").digest()
    assert scan.bodyOctets("simple") == 14
    assert scan.bodyHash("relaxed", 3) is None


def test_a_message_without_an_empty_line_is_a_header() -> None:
    scan = scanned(b"A: b\r\nC: d")
    assert [field.key for field in scan.fields] == [b"a", b"c"]
    assert scan.bodyHash("simple", None) == hashlib.sha256(b"\r\n").digest()


def test_a_hash_that_was_not_wanted_is_not_there() -> None:
    scan = MessageScan(lambda fields: [])
    scan.feed(b"A: b\r\n\r\ntext")
    scan.close()
    assert scan.bodyHash("simple", None) is None
