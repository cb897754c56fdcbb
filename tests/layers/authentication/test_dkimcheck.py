"""DKIM: published examples and dkimpy's own, however the message is cut; and what is no valid signature."""

from __future__ import annotations

import re
from typing import Any

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.layers.authentication.dkimcheck import SIGNATURES, DKIMResult, checkDKIM, wantedHashes
from smtphooks.layers.authentication.messagescan import MessageScan, fieldsOf
from smtphooks.layers.authentication.questions import TemporaryFailure, Unknown
from tests.layers.authentication.signing import (
    KEYS,
    MESSAGE,
    PRIVATE,
    RECORD,
    answersOf,
    readData,
    readKey,
    rsaRecord,
    scanOf,
    signed,
)
from tests.support import cutUp

NAME = "test._domainkey.example.com"
CUTS = st.lists(st.integers(0, 10000), max_size=8)


def check(message: bytes, *pieces: bytes, records: dict[str, Any] | None = None, **options: Any) -> list[DKIMResult]:
    answers = answersOf({NAME: [RECORD]} if records is None else records)
    results = checkDKIM(scanOf(*(pieces or (message,))), answers, **options)
    assert not answers.missing
    return results


def resultsOf(message: bytes, *pieces: bytes, records: dict[str, Any] | None = None) -> list[str]:
    return [result.result for result in check(message, *pieces, records=records)]


# --- Examples ---

PUBLISHED: dict[str, Any] = {name: [record.encode()] for name, record in KEYS.items()}
GMAIL = (
    b"k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1Kd87/UeJjenpabgbFwh+eBCsSTrqmwIYYvywlbhbqoo2DymndFkbjOVIP"
    b"IldNs/m40KF+yzMn1skyoxcTUGCQs8g3FgD2Ap3ZB5DekAo5wMmk4wimDO+U8QzI3SD07y2+07wlNWwIt8svnxgdxGkVbbhzY8i+RQ9DpSVpPbF7yk"
    b"QxtKXkv/ahW3KjViiAH+ghvvIhkx4xYSIc9oSwVmAl5OctMEeWUwg8Istjqz8BZeTWbf41fbNhte7Y+YqZOwq1Sd0DbvYAD9NOZK9vlfuac0598HY+"
    b"vtSBczUiKERHv1yRbcaQtZFh5wtiRrN04BLUTD21MycBX5jYchHjPY/wIDAQAB"
)
EXAMPLES = [
    ("rfc6376.eml", PUBLISHED, ["pass"]),
    ("rfc8463.eml", PUBLISHED, ["pass", "pass"]),
    ("rfc6376.signed.msg", PUBLISHED, ["pass", "pass"]),
    ("rfc6376.signed.rsa.msg", PUBLISHED, ["pass"]),
    ("rfc6376.signed.no_t.msg", PUBLISHED, ["fail"]),
    ("rfc6376.w1258.msg", PUBLISHED, []),
    ("ed25519test2.msg", {"sed._domainkey.test.ex": [readKey("eximtest.dns")]}, ["pass"]),
    ("test2.message", {"20120113._domainkey.gmail.com": [GMAIL]}, ["pass"]),
    ("test.message.baddomain", {}, ["permerror"]),
    ("test.message", {}, []),
]


@pytest.mark.parametrize(("name", "records", "expected"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_the_examples_of_the_rfcs_and_of_dkimpy_have_their_results_however_they_are_cut(
    name: str, records: dict[str, Any], expected: list[str]
) -> None:
    message = readData(name)
    assert resultsOf(message, records=records) == expected
    for size in (1, 7, 100):
        assert resultsOf(message, *(message[i : i + size] for i in range(0, len(message), size)), records=records) == (
            expected
        )


def test_a_result_tells_whose_signature_it_is_about() -> None:
    [first, second] = check(readData("rfc8463.eml"), records=PUBLISHED)
    assert (first.domain, first.selector, first.algorithm) == ("football.example.com", "brisbane", "ed25519-sha256")
    assert (first.signature, second.signature) == ("/gCrinpc", "F45dVWDf")
    assert (second.selector, second.algorithm, second.reason) == ("test", "rsa-sha256", "")
    assert first.authenticates
    assert not first.isTesting


FORMS = [(header, body) for header in (b"simple", b"relaxed") for body in (b"simple", b"relaxed")]
BODIES = st.lists(st.sampled_from([b"\r\n", b" ", b"\t", b"  ", b"a", b"\xe4", b"text"])).map(b"".join)


@given(BODIES, CUTS, st.sampled_from(FORMS), st.booleans())
def test_what_dkimpy_signs_is_verified_however_it_is_cut(
    body: bytes, cuts: list[int], forms: tuple[bytes, bytes], length: bool
) -> None:
    message = signed(MESSAGE[: MESSAGE.index(b"\r\n\r\n") + 4] + body, canonicalize=forms, length=length)
    [result] = check(message, *cutUp(message, cuts))
    assert (result.result, result.coversBody) == ("pass", True)
    assert length or resultsOf(message + b"x") == ["fail"]


@pytest.mark.parametrize("selector", ["2048_testkey_wo_markers.pub.txt", "2048_testkey_wo_markers.pub.rsa.txt"])
def test_both_forms_of_rsa_keys_are_read(selector: str) -> None:
    message = bytes(dkim.sign(MESSAGE, b"test", b"example.com", readKey("2048_testkey.key"))) + MESSAGE
    assert resultsOf(message, records={NAME: [readKey(selector)]}) == ["pass"]


@pytest.mark.parametrize(
    ("change", "by"),
    [(b"test message", b"test massage"), (b"Subject: Testing", b"Subject: Tasting"), (b"From: Test", b"From: Toast")],
)
def test_a_message_that_was_changed_fails(change: bytes, by: bytes) -> None:
    message = signed(MESSAGE)
    assert resultsOf(message) == ["pass"]
    assert resultsOf(message.replace(change, by)) == ["fail"]


def test_another_from_fails() -> None:
    for field in (b"From: ceo@bank.example\r\n", b"from:ceo@bank.example\r\n"):
        assert resultsOf(field + signed(MESSAGE)) == ["fail"]


def test_fields_that_are_not_signed_may_be_added_and_changed() -> None:
    added = b"Received: from here\r\n\tby there\r\nno field\r\n"
    assert resultsOf(added + signed(MESSAGE).replace(b"Received: from localhost", b"Received: from elsewhere")) == [
        "pass"
    ]


# --- Signatures that are not acceptable ---


def altered(pattern: bytes, by: bytes) -> bytes:
    """A signed message, the signature in which has been changed."""
    end = len(signed(MESSAGE)) - len(MESSAGE)
    message = signed(MESSAGE)
    signature, count = re.subn(pattern, by, message[:end], count=1)
    assert count, signature
    return signature + message[end:]


@pytest.mark.parametrize(
    ("pattern", "by", "result", "reason"),
    [
        (rb"v=1", b"v=2", "permerror", "the signature is malformed"),
        (rb"v=1; ", b"", "permerror", "the signature is malformed"),
        (rb"a=rsa-sha256", b"a=rsa-sha1", "permerror", "rsa-sha1 is not accepted"),
        (rb"a=rsa-sha256", b"a=rsa-sha512", "permerror", "the algorithm of the signature is unknown"),
        (rb"a=rsa-sha256", b"a=ed25519-sha256", "permerror", "the key is not for the algorithm of the signature"),
        (rb"a=rsa-sha256; ", b"", "permerror", "the signature has no a="),
        (rb"c=relaxed/simple", b"c=relaxed/strict", "permerror", "the canonicalization of the signature is unknown"),
        (rb"c=relaxed/simple", b"c=lax/simple", "permerror", "the signature cannot be verified"),
        (rb"c=relaxed/simple", b"c=relaxed", "fail", "the signature is not by the key, or the header has been changed"),
        (rb"d=example.com", b"d=", "permerror", "the domain or the selector of the signature is not a domain name"),
        (rb"d=example.com", b"d=com", "permerror", "there is no key for the signature"),
        (rb"s=test", b"s=none", "permerror", "there is no key for the signature"),
        (rb"i=@example.com", b"i=@example.net", "permerror", "the identity i= is not in the domain d="),
        (rb"i=@example.com", b"i=@badexample.com", "permerror", "the identity i= is not in the domain d="),
        (rb"i=@example.com", b"i=example.com", "permerror", "the identity i= is not in the domain d="),
        (rb"h=message-id :", b"h=message-id", "fail", "the signature is not by the key"),
        (rb" from :", b" fro :", "fail", "the signature is not by the key"),
        (rb"from", b"to", "fail", "the signature is not by the key"),
        (rb"(?s)h=.*?;", b"h=subject;", "permerror", "the signature does not cover From"),
        (rb"(?s)h=.*?;", b"h=" + b"a:" * 256 + b"from;", "permerror", "the signature covers too many fields"),
        (rb"bh=....", b"bh=AAAA", "fail", "the body has been changed"),
        (rb"bh=.", b"bh=", "permerror", "bh= is not Base64"),
        (rb"bh=.", b"bh=*", "permerror", "bh= is not Base64"),
        (rb" b=....", b" b=AAAA", "fail", "the signature is not by the key, or the header has been changed"),
        (rb" b=....", b" b=", "fail", "the signature has not the length that the key requires"),
        (rb" b=.", b" b=\xe4", "permerror", "b= is not Base64"),
        (rb"t=\d+", b"t=x", "permerror", "t= is not a time"),
        (rb"t=\d+", b"t=99999999999", "permerror", "the signature is malformed"),
        (rb"t=\d+", b"t=1" + b"0" * 5000, "permerror", "t= is not a time"),
        (rb"t=\d+", b"t=1; x=2", "fail", "the signature has expired"),
        (rb"t=\d+", b"l=7; t=1", "fail", "the body has been changed"),
        (rb"t=\d+", b"l=99999; t=1", "permerror", "l= is more than the length of the body"),
        (rb"t=\d+", b"l=-1; t=1", "permerror", "l= is not a number"),
        (rb"t=\d+", b"l=" + b"9" * 5000, "permerror", "l= is not a number"),
        (rb"q=dns/txt", b"q=finger", "permerror", "the signature is malformed"),
        (rb"q=dns/txt", b"d=example.com", "permerror", "the signature is not a list of tags"),
        (rb"q=dns/txt", b"q", "permerror", "the signature is not a list of tags"),
        (rb"q=dns/txt", b"q=dns/txt;;", "permerror", "the signature is not a list of tags"),
        (rb"q=dns/txt", b"q=dns/txt; z=" + b"a" * 8192, "permerror", "the signature is too long"),
        (rb"q=dns/txt", b"q=dns/txt; b" + b" " * 100, "permerror", "the signature is too long"),
        (rb"q=dns/txt", b"q=dns/txt; b" + b"\r\n " * 50, "permerror", "the signature is too long"),
    ],
)
def test_an_unacceptable_signature_is_told_with_its_reason(pattern: bytes, by: bytes, result: str, reason: str) -> None:
    records: dict[str, Any] = {NAME: [RECORD], "test._domainkey.com": [], "none._domainkey.example.com": []}
    [found] = check(altered(pattern, by), records=records)
    assert (found.result, found.reason[: len(reason)]) == (result, reason)
    assert not found.authenticates


def test_white_space_in_base64_does_not_matter() -> None:
    message = signed(MESSAGE)
    assert resultsOf(re.sub(rb"(?s)( b=.*?)\r\n ", rb"\1", message, count=1)) == ["pass"]
    assert resultsOf(message.replace(b" b=", b" b= \r\n\t", 1)) == ["pass"]


def test_a_signature_expires_five_minutes_after_its_time() -> None:
    message = altered(rb"t=\d+", b"t=1000; x=2000")
    assert [result.reason for result in check(message, now=2301)] == ["the signature has expired"]
    assert [result.reason for result in check(message, now=2299)] != ["the signature has expired"]


# --- Signatures of a part of the body ---


def test_a_signature_of_the_beginning_of_the_body_passes_but_authenticates_nothing() -> None:
    message = signed(MESSAGE, length=True)
    [whole], [appended] = check(message), check(message + b"<h1>Buy!</h1>\r\n")
    assert (whole.result, whole.coversBody, whole.authenticates) == ("pass", True, True)
    assert (appended.result, appended.coversBody, appended.authenticates) == ("pass", False, False)
    assert appended.reason == "the signature covers only the beginning of the body"


# --- Keys ---

P = RECORD[RECORD.index(b"p=") :]
SHORT, LONG = rsaRecord(2**511 + 1), rsaRecord(2**4096 + 1)


@pytest.mark.parametrize(
    ("record", "result", "reason"),
    [
        (P, "pass", ""),
        (b" k = rsa ; " + P + b" ; ", "pass", ""),
        (b"v=DKIM1; h=sha1:sha256; s=email; t=x; n=note; " + P, "pass", ""),
        (b"s=*; " + P.replace(b"A", b"A \t", 3), "pass", ""),
        (b"v=DKIM2; " + P, "permerror", "the key record has an unknown version"),
        (readKey("badversion.txt"), "permerror", "the key record has an unknown version"),
        (readKey("badk.txt"), "permerror", "the key is not for the algorithm of the signature"),
        (readKey("test_bad.txt"), "permerror", "the key is malformed"),
        (b"v=spf1 -all", "permerror", "the key record has an unknown version"),
        (b"some text", "permerror", "the key record is not a list of tags"),
        (b"", "permerror", "the key is malformed"),
        (b"h=sha1; " + P, "permerror", "the key is not for the hash algorithm of the signature"),
        (b"s=tlsrpt; " + P, "permerror", "the key is not for mail"),
        (b"v=DKIM1; p=", "permerror", "the key has been revoked"),
        (b"v=DKIM1", "permerror", "the key is malformed"),
        (b"p=\xe4", "permerror", "the key is malformed"),
        (b"p=MIGf", "permerror", "the key is malformed"),
        (b"p=" + b"MIGf" * 500, "permerror", "the key is malformed"),
        (SHORT, "permerror", "the key has 512 bits, fewer than 1024"),
        (LONG, "permerror", "the key has more than 4096 bits, or a large exponent"),
        (rsaRecord(2**1023 + 1, 2**32), "permerror", "the key has more than 4096 bits, or a large exponent"),
        (rsaRecord(0), "permerror", "the key has 0 bits, fewer than 1024"),
        (rsaRecord(2**1023 + 1), "fail", "the signature is not by the key, or the header has been changed"),
        (rsaRecord(2**2047 + 1), "fail", "the signature has not the length that the key requires"),
        (b"t=s; " + P, "pass", ""),
    ],
)
def test_a_key_must_be_fit_for_the_signature(record: bytes, result: str, reason: str) -> None:
    [found] = check(signed(MESSAGE), records={NAME: [record]})
    assert (found.result, found.reason) == (result, reason)


def test_a_key_for_tests_is_told() -> None:
    [passed] = check(signed(MESSAGE), records={NAME: [b"t=y:s; " + P]})
    assert (passed.result, passed.isTesting, passed.authenticates) == ("pass", True, True)
    [failed] = check(signed(MESSAGE).replace(b"Testing", b"Tasting"), records={NAME: [b"t=y; " + P]})
    assert (failed.result, failed.isTesting) == ("fail", True)


def test_a_key_may_forbid_identities_in_subdomains() -> None:
    message = signed(MESSAGE, identity=b"me@sub.example.com")
    assert resultsOf(message) == ["pass"]
    [strict] = check(message, records={NAME: [b"t=s; " + P]})
    assert (strict.result, strict.reason) == ("permerror", "the key is not for subdomains in i=")


def test_several_key_records_are_tried_but_not_many() -> None:
    assert resultsOf(signed(MESSAGE), records={NAME: [b"some text", b"p=", RECORD]}) == ["pass"]
    assert resultsOf(signed(MESSAGE), records={NAME: [b"text", b"text", b"text", RECORD]}) == ["permerror"]


@pytest.mark.parametrize("kind", [b"", b"AAAA", b"A" * 44])
def test_an_ed25519_key_of_a_wrong_length_is_malformed(kind: bytes) -> None:
    message = bytes(
        dkim.sign(MESSAGE, b"test", b"example.com", readKey("rfc8032_7_1.key"), signature_algorithm=b"ed25519-sha256")
    )
    [found] = check(message + MESSAGE, records={NAME: [b"k=ed25519; p=" + kind]})
    assert found.result == "permerror"


# --- The DNS ---


def test_all_keys_are_asked_for_at_once() -> None:
    answers = answersOf({})
    assert checkDKIM(scanOf(readData("rfc8463.eml")), answers) == []
    assert list(answers.missing) == [
        ("brisbane._domainkey.football.example.com", "TXT"),
        ("test._domainkey.football.example.com", "TXT"),
    ]


def test_a_key_that_cannot_be_looked_up_now_is_a_temporary_error() -> None:
    records = {**PUBLISHED, "test._domainkey.football.example.com": TemporaryFailure("no answer")}
    [first, second] = check(readData("rfc8463.eml"), records=records)
    assert first.result == "pass"
    assert (second.result, second.reason) == ("temperror", "no answer")


def test_a_changed_body_needs_no_key() -> None:
    answers = answersOf({})
    [result] = checkDKIM(scanOf(signed(MESSAGE) + b"more\r\n"), answers)
    assert result.result == "fail"
    assert not answers.missing


def test_an_internationalized_domain_is_asked_for_by_its_a_label() -> None:
    message = altered(rb"d=example.com", "d=BÜCHER.example".encode()).replace(b" i=@example.com;", b"", 1)
    answers = answersOf({})
    checkDKIM(scanOf(message), answers)
    assert list(answers.missing) == [("test._domainkey.xn--bcher-kva.example", "TXT")]


# --- Bounds ---


def test_a_hundred_signatures_cost_no_more_than_ten() -> None:
    signature = signed(MESSAGE)[: -len(MESSAGE)]
    many = b"".join(signature.replace(b"s=test", b"s=test%d" % i) for i in range(100))
    answers = answersOf({})
    [rest] = checkDKIM(scanOf(many + MESSAGE), answers)
    assert len(answers.missing) == SIGNATURES
    assert (rest.result, rest.reason) == ("policy", "90 more signatures were not looked at")
    assert len(list(wantedHashes(fieldsOf(many)))) == SIGNATURES


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"Subject: " + b"a" * 262144 + b"\r\n", "the header has more than 262144 octets"),
        (signed(MESSAGE)[: -len(MESSAGE)] * 10000, "the header has more than 262144 octets"),
        (b"a:\r\n" * 1000, "the header has more than 1000 fields"),
        (b"X: y\rFrom: ceo@bank.example\r\n", "the header has a bare CR"),
    ],
)
def test_a_header_beyond_the_bounds_is_not_looked_at(header: bytes, reason: str) -> None:
    [result] = check(header + signed(MESSAGE))
    assert (result.result, result.reason) == ("permerror", reason)


def test_the_body_is_not_kept() -> None:
    scan = MessageScan(wantedHashes)
    scan.feed(signed(MESSAGE))
    for _ in range(100):
        scan.feed(b"text\r\n" * 10000)
    kept = [getattr(scan, name) for name in vars(scan)]
    assert len(repr(kept)) < 10000


# --- Anything ---

WORDS = b"""
DKIM-Signature: |v=1;|a=rsa-sha256;|a=ed25519-sha256;|c=relaxed/relaxed;|c=simple;|d=example.com;|s=test;|h=from:to;
h=:::;|bh=|b=|47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;|i=;|i=@;|l=0;|l=;|t=1;|x=;|q=dns/txt;|=|;|text|:| |\xff|\0
"""
PIECES = [
    *WORDS.strip().replace(b"\n", b"|").split(b"|"),
    *(b"\r\n", b"\r\n ", b"\r", b"\n", b"From: a@example.com\r\n", b"\r\n\r\n", b"A" * 172, b"A" * 86 + b"==;"),
]
TAGS = [
    *(b"v=DKIM1;|k=rsa;|k=ed25519;|p=|t=y;|s=*;|h=sha256;|=|;|\xff|MIGf| |0".split(b"|")),
    P + b";",
    SHORT[SHORT.index(b"p=") :],
    b"A" * 43 + b"=",
]
RECORDS = st.lists(st.lists(st.sampled_from(TAGS)).map(b"".join) | st.binary(max_size=40), max_size=3)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), RECORDS, CUTS)
def test_whatever_arrives_the_results_are_words(message: bytes, records: list[bytes], cuts: list[int]) -> None:
    answers = answersOf({NAME: records})
    results = checkDKIM(scanOf(*cutUp(b"DKIM-Signature: " + message, cuts)), answers)
    for result in results:
        assert result.result in ("pass", "fail", "policy", "permerror")
        assert (result.domain + result.selector + result.algorithm + result.signature + result.reason).isascii()


MUTATIONS = st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=4)


@given(MUTATIONS, RECORDS)
def test_no_change_of_a_signed_message_raises_anything(
    mutations: list[tuple[int, bytes, int]], records: list[bytes]
) -> None:
    message = signed(MESSAGE)
    for place, new, length in mutations:
        message = message[: place % len(message)] + new + message[place % len(message) + length :]
    answers = answersOf({NAME: [RECORD, *records]})
    try:
        checkDKIM(scanOf(message), answers)
    except Unknown:
        pytest.fail("a question was not caught")


def test_the_private_key_is_of_the_record() -> None:
    assert resultsOf(bytes(dkim.sign(MESSAGE, b"test", b"example.com", PRIVATE)) + MESSAGE) == ["pass"]
