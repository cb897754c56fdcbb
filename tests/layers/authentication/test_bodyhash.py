"""Hashes of bodies: the canonical forms are exactly those of RFC 6376 and of dkimpy, however the body is cut."""

from __future__ import annotations

import hashlib
import sys

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.layers.authentication.bodyhash import RELAXED, SIMPLE, BodyHash
from tests.support import cutUp

# Octets that make the canonical forms differ from the body.
BODIES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"\t", b"  ", b"a", b"\xe4", b"text"])).map(b"".join)
CUTS = st.lists(st.integers(0, 10000), max_size=8)


def hashOf(form: str, *pieces: bytes, lengths: tuple[int, ...] = ()) -> BodyHash:
    body = BodyHash(form, lengths)
    for piece in pieces:
        body.feed(piece)
    body.close()
    return body


def canonical(form: str, body: bytes) -> bytes:
    form_ = Relaxed if form == RELAXED else Simple
    return bytes(form_.canonicalize_body(body))


@pytest.mark.parametrize(
    ("form", "body", "expected"),
    [
        # RFC 6376 section 3.4.5
        (SIMPLE, b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n"),
        (RELAXED, b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
        # sections 3.4.3 and 3.4.4
        (SIMPLE, b"", b"\r\n"),
        (RELAXED, b"", b""),
        (SIMPLE, b"\r\n\r\n", b"\r\n"),
        (RELAXED, b" \t\r\n\r\n", b""),
        (SIMPLE, b"a", b"a\r\n"),
        (RELAXED, b"a", b"a\r\n"),
        (RELAXED, b"a\r\n\r\n\t\r\nb \r\n\r\n", b"a\r\n\r\n\r\nb\r\n"),
    ],
)
def test_the_canonical_forms_are_those_of_the_rfc(form: str, body: bytes, expected: bytes) -> None:
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        assert hashOf(form, *pieces).digest() == hashlib.sha256(expected).digest()
        assert hashOf(form, *pieces).octets == len(expected)


@given(st.sampled_from([SIMPLE, RELAXED]), BODIES, CUTS)
def test_the_hash_is_that_of_dkimpy_however_the_body_is_cut(form: str, body: bytes, cuts: list[int]) -> None:
    expected = canonical(form, body)
    hashed = hashOf(form, *cutUp(body, cuts))
    assert hashed.digest() == hashlib.sha256(expected).digest()
    assert hashed.octets == len(expected)


@given(st.sampled_from([SIMPLE, RELAXED]), BODIES, CUTS, st.lists(st.integers(0, 30), max_size=3))
def test_a_beginning_is_hashed_if_the_canonical_form_is_that_long(
    form: str, body: bytes, cuts: list[int], lengths: list[int]
) -> None:
    expected = canonical(form, body)
    hashed = hashOf(form, *cutUp(body, cuts), lengths=tuple(lengths))
    for length in lengths:
        isThere = length <= len(expected)
        assert hashed.digest(length) == (hashlib.sha256(expected[:length]).digest() if isThere else None)


@pytest.mark.parametrize("form", [SIMPLE, RELAXED])
def test_megabytes_of_white_space_are_neither_kept_nor_scanned_again(form: str) -> None:
    body = BodyHash(form)
    for piece in (b" \t" * 32768, b"\r\n" * 32768):
        for _ in range(40):
            body.feed(piece)
        assert sum(sys.getsizeof(getattr(body, name)) for name in ("_held", "_emptyLines")) < 200
    body.feed(b"text")
    body.close()
    spaces = b"" if form == RELAXED else b" \t" * 32768 * 40
    assert body.digest() == hashlib.sha256(spaces + b"\r\n" * 32768 * 40 + b"text\r\n").digest()
