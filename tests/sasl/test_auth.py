"""The values that mechanisms and onAuth exchange: what they hold and compare, what they never show; strict base64."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.replies import SMTPError
from smtphooks.sasl import auth as auth_module
from smtphooks.sasl.auth import Auth, AuthResponse, decodeBase64
from tests.secrets import CRAM_DIGEST, CRAM_PASSWORD, PASSWORD, TOKEN, UNICODE_PASSWORD, WRONG_PASSWORD

# C0, DEL and C1.
CONTROLS = [*map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0))]

# --- Auth ---


def test_CRAMMD5_computes_as_in_the_example_of_its_RFC() -> None:
    # RFC 2195 section 2.
    auth = Auth(
        method="CRAM-MD5",
        username="tim",
        challenge="<1896.697170952@postoffice.reston.mci.net>",
        challengeResponse=CRAM_DIGEST,
    )
    assert auth.validatePassword(CRAM_PASSWORD)
    assert attrs.evolve(auth, challengeResponse=CRAM_DIGEST.upper()).validatePassword(CRAM_PASSWORD)
    assert not attrs.evolve(auth, challenge="<1896.697170953@postoffice.reston.mci.net>").validatePassword(
        CRAM_PASSWORD
    )


@pytest.mark.parametrize("digest", ["\u00e9" * 16, "\u00e9" * 32, "0" * 32])
def test_any_digest_is_compared_without_a_crash(digest: str) -> None:
    auth = Auth(method="CRAM-MD5", username="ann", challenge="<x@y>", challengeResponse=digest)
    assert not auth.validatePassword(PASSWORD)


@given(st.text(), st.sampled_from(["username", "authorizationId", "password", "accessToken", "challengeResponse"]))
def test_attempt_is_made_of_any_text_without_control_characters(text: str, name: str) -> None:
    given = {"method": "X", "username": "ann", name: text}
    if any(control in text for control in CONTROLS):
        with pytest.raises(SMTPError):
            Auth(**given)  # type: ignore[arg-type]
    else:
        assert getattr(Auth(**given), name) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [PASSWORD, UNICODE_PASSWORD])
def test_password_is_validated_as_text_and_as_octets(given: str) -> None:
    auth = Auth(method="PLAIN", username="ann", password=given)
    assert auth.validatePassword(given)
    assert auth.validatePassword(given.encode())
    assert not auth.validatePassword(given + "x")
    assert not auth.validatePassword(given[:-1])
    assert not auth.validatePassword(b"\xff")


def test_attempt_without_a_password_has_no_right_one() -> None:
    auth = Auth(method="XOAUTH2", username="ann", accessToken=TOKEN)
    for password in ("", TOKEN, "None"):
        assert not auth.validatePassword(password)


@pytest.mark.parametrize(
    "auth",
    [
        Auth(method="PLAIN", username="ann", password=PASSWORD),
        Auth(method="CRAM-MD5", username="ann", challenge="<x@y>", challengeResponse=CRAM_DIGEST),
    ],
    ids=lambda auth: auth.method,
)
def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, auth: Auth) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(auth_module.hmac, "compare_digest", compare)
    assert auth.validatePassword(PASSWORD) is False
    assert len(compared) == 1


def test_no_secret_stands_in_the_repr_of_an_attempt() -> None:
    auth = Auth(
        method="X",
        username="ann",
        password=PASSWORD,
        accessToken=TOKEN,
        challenge=WRONG_PASSWORD,
        challengeResponse=CRAM_DIGEST,
    )
    assert repr(auth) == "Auth(method='X', username='ann', authorizationId='')"
    assert TOKEN not in repr(AuthResponse(data=TOKEN))


def test_attempt_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Auth(method="X", username="ann").username = "joe"  # type: ignore[misc]


@pytest.mark.parametrize("code", [235, 399, 600, 0, True, "535", 535.0])
def test_response_code_is_that_of_a_refusal(code: Any) -> None:
    with pytest.raises(ValueError, match="a refusal has a number from 400 to 599"):
        AuthResponse(responseCode=code)


def test_user_may_have_the_code_of_success() -> None:
    for user in ("ann", {}, "", 0):
        assert AuthResponse(user, responseCode=235).responseCode == 235
    for nobody in (None, False):
        with pytest.raises(ValueError, match="responseCode is 235: a refusal has a number from 400 to 599"):
            AuthResponse(nobody, responseCode=235)
    for code in (200, 250, 334, 235.0):
        with pytest.raises(ValueError, match="responseCode is "):
            AuthResponse("ann", responseCode=code)  # type: ignore[arg-type]


@pytest.mark.parametrize("user", ["ann", True, {}, "", 0, 0.0, (), [], b""])
def test_user_counts_unless_it_is_None_or_False(user: Any) -> None:
    assert AuthResponse(user).accepts
    for nobody in (None, False):
        assert not AuthResponse(nobody, data={}).accepts


# --- Base64 ---


@given(st.binary())
def test_base64_decodes_as_it_was_encoded(octets: bytes) -> None:
    assert decodeBase64(b64encode(octets)) == decodeBase64(b64encode(octets).decode()) == octets


@pytest.mark.parametrize(
    "text", ["A", "AA", "AAA", "AA=", "AAAA=", "AAAA====", "AA==\n", "AA ==", "AA-_", "====", "\u00e9"]
)
def test_base64_of_any_other_form_is_refused(text: str) -> None:
    for response in (text, text.encode()):
        with pytest.raises(SMTPError) as caught:
            decodeBase64(response, "No")
        assert (caught.value.message, caught.value.responseCode, caught.value.enhancedCode) == ("No", 501, "5.5.2")
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text("AZaz09+/=\n -", max_size=12))
def test_base64_is_taken_only_in_its_one_form(text: str) -> None:
    try:
        octets = decodeBase64(text)
    except SMTPError:
        return
    assert octets == b64decode(text)
    assert len(b64encode(octets)) == len(text)
