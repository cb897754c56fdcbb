"""Authentication-Results: what is written can be read, whatever is in it; what is forged is removed, and only that."""

from __future__ import annotations

import authres
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from smtphooks.header import areFields
from smtphooks.layers.authentication.authenticationresults import Result, fieldOf, withField, withoutForged
from smtphooks.replies import SMTPError
from smtphooks.stream import MessageStream
from tests.layers.authentication.zones import now

OURS = b"Authentication-Results: mx.example.com; spf=pass\r\n"
FIELD = b"Authentication-Results: mx.example.com;\r\n\tspf=fail\r\n"


def parsed(field: bytes) -> authres.AuthenticationResultsHeader:
    assert areFields(field)
    return authres.AuthenticationResultsHeader.parse(field.decode("ascii").replace("\r\n", ""))


def test_a_field_has_its_results_one_a_line() -> None:
    results = [
        Result("spf", "pass", [("smtp", "mailfrom", "a.example"), ("smtp", "helo", "")]),
        Result("dkim", "fail", [("header", "d", "b.example"), ("header", "b", "a/b+c=")], reason="body has changed"),
    ]
    assert fieldOf("mx.example.com", results) == (
        b"Authentication-Results: mx.example.com;\r\n"
        b"\tspf=pass smtp.mailfrom=a.example;\r\n"
        b'\tdkim=fail reason="body has changed" header.d=b.example header.b="a/b+c="\r\n'
    )


def test_values_that_somebody_else_chose_keep_only_harmless_characters() -> None:
    properties = [("smtp", "helo", "[192.0.2.1];(x"), ("header", "i", "ü[b]@c"), ("header", "d", "x" * 999)]
    assert str(Result("dkim", "fail", properties, 'no @ "é"' + "x" * 999)) == (
        f'dkim=fail reason="no ? ???{"x" * 112}" smtp.helo="[192.0.2.1]??x" header.i=??b?@c header.d={"x" * 253}'
    )


def test_a_field_without_results_says_none() -> None:
    assert fieldOf("mx.example.com", []) == b"Authentication-Results: mx.example.com;\r\n\tnone\r\n"


@given(st.text(max_size=300), st.text(max_size=300), st.sampled_from(["", "@", ";", "\r\n", '"', "(", "\\"]))
def test_no_value_can_leave_its_place(value: str, reason: str, extra: str) -> None:
    field = fieldOf(
        "mx.example.com", [Result("spf", "fail", [("smtp", "helo", extra + value)], extra + reason), Result("x", "y")]
    )
    assert field.count(b"\r\n") == 3
    assert max(map(len, field.split(b"\r\n"))) < 998
    assert field.count(b";") == 2
    spf, other = parsed(field).results
    assert (spf.method, spf.result, other.method, other.result) == ("spf", "fail", "x", "y")
    assert len(spf.properties) <= 1


@pytest.mark.parametrize(
    "forged",
    [
        OURS,
        b"Authentication-Results: mx.example.com\r\n",
        b"authentication-RESULTS:MX.Example.COM;none\r\n",
        b"Authentication-Results : mx.example.com; spf=pass\r\n",
        b"Authentication-Results\t:\tmx.example.com 1; spf=pass\r\n",
        b"Authentication-Results:\r\n mx.example.com;\r\n\tspf=pass\r\n dkim=pass\r\n",
        b"Authentication-Results: \r\n\t \r\n\t(a comment (in \\) another) ;)\r\n () mx.example.com(x); spf=pass\r\n",
        b'Authentication-Results: "mx.example.com"; spf=pass\r\n',
        b'Authentication-Results: "mx\\.example.com"; spf=pass\r\n',
        b'Authentication-Results: "MX.example.com\r\n',
        b"Authentication-Results: mx.example.com; this is = no (result\r\n",
        b"Authentication-Results: mx.example.com; spf=pass\n",
        b"Authentication-Results: mx.example.com\n\t; spf=pass\n",
        b"Authentication-Results: Mail.Example.com; spf=pass\r\n",
        # No reader should take these for ours, and some do.
        b"Authentication-Results\r\n : mx.example.com; spf=pass\r\n",
        b"Authentication-Results: mx.example.com.; spf=pass\r\n",
        b"Authentication-Results: mx.example.com/1; spf=pass\r\n",
        b"Authentication-Results: mx.example.com, spf=pass\r\n",
        b"Authentication-Results: mx.example.com\0; spf=pass\r\n",
        b"Authentication-Results: mx.example.com\x7f; spf=pass\r\n",
        b"Authentication-Results:\x0b\x0cmx.example.com; spf=pass\r\n",
        b"Authentication-Results:\xc2\xa0mx.example.com; spf=pass\r\n",
        b"Authentication-Results: \xef\xbc\xadx\xe3\x80\x82example.com; spf=pass\r\n",
        b"Authentication-Results: mx.exa\xc2\xadmple.com; spf=pass\r\n",
        b'Authentication-Results: mx".example".com; spf=pass\r\n',
        b'Authentication-Results: "mx".example.com; spf=pass\r\n',
        b'Authentication-Results: "mx.example.com; spf=pass\r\n',
        b"Authentication-Results: mx.\\example.com; spf=pass\r\n",
        b"Authentication-Results: =?us-ascii?q?mx.example.com=3B_spf=3Dpass?=\r\n",
        b"Authentication-Results: mx.=?us-ascii?q?example?=.com; spf=pass\r\n",
        b"X: y\rAuthentication-Results: mx.example.com; spf=pass\r\n",
        b"X: y\r\rAuthentication-Results:\r mx.example.com;\r\n\tspf=pass\r\n",
        # Nobody can tell who wrote these.
        b"Authentication-Results: (other.example; spf=pass\r\n",
        b"Authentication-Results: ((((((other.example)))))) other.example; spf=pass\r\n",
    ],
)
@pytest.mark.parametrize("before, after", [(b"", b""), (b"A: b\r\n c\r\n", b"Subject: x\r\n"), (b"A: b\n", b"\r\n")])
def test_a_field_that_names_us_is_removed(forged: bytes, before: bytes, after: bytes) -> None:
    assert withoutForged(before + forged + after, ["mx.example.com", "mail.example.com"]) == before + after


@pytest.mark.parametrize("name", ["b\u00fccher.example", "b\u00fccher.example".upper(), "XN--bcher-kva.example"])
def test_an_international_name_is_ours_in_either_form(name: str) -> None:
    ours = ["xn--bcher-kva.example"]
    assert withoutForged(f"Authentication-Results: {name}; spf=pass\r\n".encode(), ours) == b""


@pytest.mark.parametrize(
    "field",
    [
        b"Authentication-Results: mx.example.com.evil.example; spf=pass\r\n",
        b"Authentication-Results: xmx.example.com; spf=pass\r\n",
        b"Authentication-Results: other.example; x=mx.example.com\r\n",
        b"Authentication-Results: (mx.example.com) other.example; spf=pass\r\n",
        b'Authentication-Results: "mx.example.com x"; spf=pass\r\n',
        b"Authentication-Results: mx.example.com-x; spf=pass\r\n",
        b"Authentication-Results: spf=pass smtp.mailfrom=mx.example.com; dkim=none\r\n",
        b"Authentication-Results: m\xc3\xbcx.example.com; spf=pass\r\n",
        b"X: y\rAuthentication-Results: other.example; x=mx.example.com\r\n",
        b"Authentication-Results:\r\n",
        b"Authentication-Results:",
        b"Authentication-Results",
        b"ARC-Authentication-Results: mx.example.com; spf=pass\r\n",
        b"X-Authentication-Results: mx.example.com; spf=pass\r\n",
        b"Subject: x\r\n Authentication-Results: mx.example.com; spf=pass\r\n",
        b"no field at all\r\n",
        b"\r\n",
        b"",
    ],
)
def test_other_fields_stay_as_they_are(field: bytes) -> None:
    assert withoutForged(field, ["mx.example.com"]) == field
    assert withoutForged(OURS + field + OURS, ["mx.example.com"]) in (field, field + OURS)


@given(st.lists(st.sampled_from([OURS, b"A: b\r\n", b" c\r\n", b"\r\n", b"\n", b"\r", b"x", b"\0", b":", b"("])))
def test_removing_leaves_every_other_octet(pieces: list[bytes]) -> None:
    header = b"".join(pieces)
    cleaned = withoutForged(header, ["mx.example.com"])
    if b"Authentication-Results" not in header:
        assert cleaned == header
    assert withoutForged(cleaned, []) == cleaned


@pytest.mark.parametrize(
    "octets",
    [
        b"(" * 200_000,
        b"()" * 100_000,
        b"(" + b"()" * 100_000,
        b"(((" + b"(())" * 50_000,
        b"(a" * 100_000,
        b"\\(" * 100_000,
        b"(" + b"\\" * 199_999,
        b'"' * 200_000,
        b'"' + b"\\" * 199_999,
        b" \r\n" * 60_000,
        b"(\r\n (\r\n )" * 20_000,
        b"\rAuthentication-Results:" * 10_000,
        b'""' * 100_000,
        b'"a' * 100_000,
        "ü".encode() * 100_000,
        b"=" * 200_000,
    ],
)
def test_a_hostile_field_takes_no_time(octets: bytes) -> None:
    # An algorithm that is quadratic in any of this would take minutes.
    withoutForged(b"Authentication-Results: " + octets + b"\r\n", ["mx.example.com"])


def filtered(message: bytes, chunk: int, size: int = 0) -> bytes:
    stream = MessageStream(size)

    async def run() -> bytes:
        return b"".join([octets async for octets in withField(stream, FIELD, ["mx.example.com"])])

    waiting = Deferred.fromCoroutine(run())
    for start in range(0, len(message), chunk):
        stream.append(message[start : start + chunk])
    stream.append(b"", isLast=True)
    result = now(waiting)
    assert isinstance(result, bytes)
    return result


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
@pytest.mark.parametrize(
    "message, result",
    [
        (b"A: b\r\n" + OURS + b"C: d\r\n\r\nbody\r\n", FIELD + b"A: b\r\nC: d\r\n\r\nbody\r\n"),
        (OURS + b"\r\nbody\r\n", FIELD + b"\r\nbody\r\n"),
        (OURS + OURS, FIELD),
        (OURS, FIELD),
        (b"", FIELD),
        (b"A: b", FIELD + b"A: b"),
        (b"A: b\r\n\r\n" + OURS, FIELD + b"A: b\r\n\r\n" + OURS),
        (b"A: b\n\n" + OURS, FIELD + b"A: b\n\n" + OURS),
        (b"\r\n" + OURS, FIELD + b"\r\n" + OURS),
        # No field at the beginning: all is body, and must not become a part of our field.
        (b"no field\r\n" + OURS, FIELD + b"\r\nno field\r\n" + OURS),
        (b" spf=pass\r\n" + OURS, FIELD + b"\r\n spf=pass\r\n" + OURS),
        (OURS + b"no field\r\n\r\n", FIELD + b"\r\nno field\r\n\r\n"),
        (b"A: b\r\nno field\r\n" + OURS + b"\r\n", FIELD + b"A: b\r\nno field\r\n\r\n"),
    ],
)
def test_a_message_gets_our_field_on_top_and_loses_forged_ones(message: bytes, result: bytes, chunk: int) -> None:
    assert filtered(message, chunk) == result


@pytest.mark.parametrize("chunk", [1, 4096, 1 << 20])
def test_a_body_passes_unchanged(chunk: int) -> None:
    message = b"A: b\r\n\r\n" + OURS * 500 + bytes(range(256)) * 20
    assert filtered(message, chunk) == FIELD + message


@pytest.mark.parametrize("ending", [b"\r\nbody", b""])
def test_a_header_beyond_its_limit_is_refused(ending: bytes) -> None:
    fields = b"A: b\r\n" * (262144 // 6)
    assert filtered(fields + b"\r\n" + b"x" * 100_000, 5000) == FIELD + fields + b"\r\n" + b"x" * 100_000
    with pytest.raises(SMTPError) as refused:
        filtered(fields + b"A: bbb\r\n" + ending, 5000)
    assert refused.value.responseCode == 552


def test_a_header_beyond_its_limit_is_not_received_whole() -> None:
    stream = MessageStream()
    waiting = Deferred.fromCoroutine(anext(withField(stream, FIELD, ["mx.example.com"])))
    for _ in range(5):
        stream.append(b"A: b\r\n" * 10_000)
    with pytest.raises(SMTPError):
        now(waiting)
