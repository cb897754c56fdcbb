"""ARC: chains of seals, unbroken and broken in each way, however the message is cut."""

from __future__ import annotations

import re
from collections.abc import Callable

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.layers.authentication.arccheck import INSTANCES, ARCResult, checkARC, wantedHashes
from smtphooks.layers.authentication.messagescan import fieldsOf
from smtphooks.layers.authentication.questions import TemporaryFailure
from tests.layers.authentication.signing import MESSAGE, PRIVATE, RECORD, answersOf, readData, scanOf
from tests.support import cutUp

NAME = "test._domainkey.example.com"
RECORDS = {NAME: [RECORD]}


def check(message: bytes, *pieces: bytes) -> ARCResult:
    answers = answersOf(RECORDS)
    result = checkARC(scanOf(*(pieces or (message,))), answers)
    assert not answers.missing
    return result


def sealed(message: bytes, chain: bytes = b"none") -> bytes:
    """The message with one more set, by a forwarder for which the chain so far has a result."""
    results = b"Authentication-Results: lists.example.org; arc=" + chain + b"; spf=pass smtp.mfrom=jqd@d1.example\r\n"
    # dkimpy seals with the results that it finds in the header.
    bare = re.sub(rb"Authentication-Results: .*\r\n", b"", message) if message.startswith(b"Auth") else message
    added = dkim.arc_sign(results + bare, b"test", b"example.com", PRIVATE, b"lists.example.org")
    return b"".join(added) + results + bare


ONE = sealed(MESSAGE)
TWO = sealed(b"X-List: one\r\n" + ONE.replace(b"Authentication-Results: lists", b"X-Old: lists"), b"pass")
THREE = sealed(b"X-List: two\r\n" + TWO.replace(b"Authentication-Results: lists", b"X-Old: lists"), b"pass")


@pytest.mark.parametrize(("message", "sets"), [(ONE, 1), (TWO, 2), (THREE, 3)])
def test_an_unbroken_chain_passes_however_it_is_cut(message: bytes, sets: int) -> None:
    assert check(message) == ARCResult("pass", "", ("example.com",) * sets)
    for size in (1, 7, 100):
        pieces = [message[i : i + size] for i in range(0, len(message), size)]
        assert check(message, *pieces).result == "pass"


@given(st.lists(st.integers(0, 10000), max_size=8), st.sampled_from([ONE, TWO, THREE]))
def test_any_cut_will_do(cuts: list[int], message: bytes) -> None:
    assert check(message, *cutUp(message, cuts)).result == "pass"
    assert check(message, *cutUp(message + b"x", cuts)) == ARCResult(
        "fail", "the body has been changed", check(message).sealers
    )


def test_a_message_without_a_chain_has_none() -> None:
    assert check(MESSAGE) == ARCResult("none")
    assert check(readData("rfc8463.eml")) == ARCResult("none")


def test_dkimpy_agrees() -> None:
    for message in (ONE, TWO, THREE):
        assert dkim.arc_verify(message, dnsfunc=lambda name, timeout: RECORD)[0] == b"pass"


def without(key: bytes, instance: int) -> Callable[[bytes], bytes]:
    pattern = rb"(?m)^%s: i=%d;.*\r\n(?:[ \t].*\r\n)*" % (key, instance)
    return lambda message: re.sub(pattern, b"", message)


def with_(pattern: bytes, by: bytes) -> Callable[[bytes], bytes]:
    return lambda message: re.sub(pattern, by, message, count=1)


def moved(old: int, new: int) -> Callable[[bytes], bytes]:
    return lambda message: message.replace(b": i=%d;" % old, b": i=%d;" % new)


def twice(message: bytes) -> bytes:
    return message[: message.index(b"ARC-Authentication-Results")] + message


AMS, AS, AAR = rb"ARC-Message-Signature", rb"ARC-Seal", rb"ARC-Authentication-Results"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda message: message + b"footer\r\n", "the body has been changed"),
        (with_(b"Subject: ", b"Subject: [list] "), "the last ARC-Message-Signature is not valid"),
        (with_(b"From: Test", b"From: Toast"), "the last ARC-Message-Signature is not valid"),
        (without(AAR, 1), "set 1 is not complete"),
        (without(AMS, 1), "set 1 is not complete"),
        (without(AS, 1), "set 1 is not complete"),
        (without(AAR, 3), "a set is not complete"),
        (without(AMS, 3), "a set is not complete"),
        (without(AS, 3), "a set is not complete"),
        (lambda m: without(AS, 2)(without(AMS, 2)(without(AAR, 2)(m))), "set 2 is not complete"),
        (lambda m: without(AS, 3)(without(AMS, 3)(without(AAR, 3)(m))), None),
        (twice, "set 3 has a field twice"),
        (moved(3, 4), "set 3 is not complete"),
        (moved(3, 0), "set 3 is not complete"),
        (moved(3, 100), "a field has no number of a set"),
        (with_(b"Results: i=3;", b"Results: j=3;"), "a field has no number of a set"),
        (with_(b"cv=pass", b"cv=fail"), "the last seal says that the chain was broken before it"),
        (with_(b"cv=pass", b"cv=none"), "the seal of set 3 has an invalid cv="),
        (with_(b"cv=pass", b"cv=maybe"), "the seal of set 3 has an invalid cv="),
        (with_(b" cv=pass;", b""), "the seal of set 3 has an invalid cv="),
        (with_(b"cv=none", b"cv=pass"), "the seal of set 1 has an invalid cv="),
        (with_(b"cv=pass;", b"cv=pass; h=from;"), "an ARC-Seal has h="),
        (with_(rb"(?s)(Message-Signature.*?)h=", rb"\1h=arc-seal:"), "an ARC-Message-Signature covers ARC-Seal"),
        (with_(rb"(?s)(ARC-Seal.*? b=)....", rb"\1AAAA"), "the seal of set 3 is not valid"),
        (with_(rb"(?s)(Message-Signature.*? b=)....", rb"\1AAAA"), "the last ARC-Message-Signature is not valid"),
        (with_(rb"Results: i=1; lists", b"Results: i=1; lasts"), "the seal of set 3 is not valid"),
        (with_(b"a=rsa-sha256", b"a=rsa-sha1"), "rsa-sha1 is not accepted"),
        (with_(rb"(?s)(ARC-Seal.*?)t=\d+", rb"\1t=1;; "), "the signature is not a list of tags"),
        (with_(rb"(?s)(Message-Signature.*?)t=\d+", rb"\1t=1; x=2"), "the signature has expired"),
        (
            with_(rb"(?s)(Message-Signature.*?)bh=[^;]*", rb"\1l=0; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
            "the last ARC-Message-Signature covers only the beginning of the body",
        ),
        (lambda message: b"a:\r\n" * 1000 + message, "the header has more than 1000 fields"),
    ],
)
def test_a_broken_chain_fails_with_its_reason(change: Callable[[bytes], bytes], reason: str | None) -> None:
    message = change(THREE)
    assert message != THREE
    if reason is None:
        assert check(message).result == "pass"
        return
    result = check(message)
    assert (result.result, result.reason) == ("fail", reason)


def test_an_older_signature_may_have_been_broken_but_no_seal() -> None:
    # The subject is changed between two forwarders, as a list does.
    changed = ONE.replace(b"Subject: Testing", b"Subject: [list] Testing")
    assert check(changed).result == "fail"
    assert check(sealed(changed.replace(b"Authentication-Results: lists", b"X-Old: lists"), b"pass")).result == "pass"


def test_the_last_seal_does_not_repair_an_older_one() -> None:
    broken = with_(rb"(?s)(ARC-Seal.*? b=)....", rb"\1AAAA")(TWO)
    again = sealed(broken.replace(b"Authentication-Results: lists", b"X-Old: lists"), b"pass")
    assert (check(again).result, check(again).reason) == ("fail", "the seal of set 2 is not valid")


def test_only_the_last_signature_needs_a_hash_of_the_body() -> None:
    assert list(wantedHashes(fieldsOf(THREE))) == [("relaxed", None)]
    assert list(wantedHashes(fieldsOf(MESSAGE))) == []
    assert list(wantedHashes(fieldsOf(twice(THREE)))) == []


def test_all_keys_are_asked_for_at_once() -> None:
    message = THREE.replace(b"s=test; t=", b"s=seal; t=", 1)
    answers = answersOf({})
    checkARC(scanOf(message), answers)
    assert set(answers.missing) == {(NAME, "TXT"), ("seal._domainkey.example.com", "TXT")}


@pytest.mark.parametrize(
    ("found", "result", "reason"),
    [
        (TemporaryFailure("no answer"), "temperror", "no answer"),
        ([], "fail", "there is no key for a signature of the chain"),
        ([b"p="], "fail", "the key has been revoked"),
        ([b"text"], "fail", "the key record is not a list of tags"),
    ],
)
def test_a_chain_needs_all_its_keys(found: list[bytes] | TemporaryFailure, result: str, reason: str) -> None:
    told = checkARC(scanOf(THREE), answersOf({NAME: found}))
    assert (told.result, told.reason) == (result, reason)


def test_a_chain_that_is_broken_in_any_case_is_not_a_temporary_error() -> None:
    message = THREE.replace(b"s=test; t=", b"s=seal; t=", 1).replace(b"Subject: ", b"Subject: [list] ")
    answers = answersOf({**RECORDS, "seal._domainkey.example.com": TemporaryFailure("no answer")})
    assert checkARC(scanOf(message), answers).result == "fail"


def test_more_than_fifty_sets_are_not_looked_at() -> None:
    sets = ONE[: ONE.index(b"Authentication-Results: lists")]
    many = b"".join(sets.replace(b"i=1;", b"i=%d;" % (number % 99)) for number in range(INSTANCES + 1))
    assert check(many + MESSAGE).reason == "the chain has more than 50 sets"


def test_very_long_sets_are_not_looked_at() -> None:
    message = ONE.replace(b"lists.example.org;", b"lists.example.org; " + b"a " * 49152)
    assert check(message).reason == "the chain has more than 98304 octets"


MUTATIONS = st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=4)


@given(MUTATIONS, st.sampled_from([ONE, TWO, THREE]))
def test_no_change_of_a_sealed_message_raises_anything(mutations: list[tuple[int, bytes, int]], message: bytes) -> None:
    for place, new, length in mutations:
        message = message[: place % len(message)] + new + message[place % len(message) + length :]
    answers = answersOf(RECORDS)
    result = checkARC(scanOf(message), answers)
    assert result.result in ("pass", "fail", "none") or answers.missing
