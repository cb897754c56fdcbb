"""The mechanisms by themselves: what each accepts and refuses, what it asks the hook, and what it never tells."""

from __future__ import annotations

import hmac
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.replies import SMTPError
from smtphooks.sasl.auth import Auth, AuthResponse, Exchange
from smtphooks.sasl.mechanisms import MECHANISM_NAMES, NO_MECHANISMS, Mechanisms
from smtphooks.sasl.scram import ScramCredentials
from smtphooks.session import Session
from tests.secrets import PASSWORD, TOKEN, UNICODE_PASSWORD, WRONG_PASSWORD

BINDING = b"\x01" * 32


def makeSession(**given: Any) -> Session:
    return Session("mx.example.org", secure=True, **given)


class Attempt:
    """
    An exchange with a mechanism, up to its end.

    @ivar challenges: what the mechanism said.
    @ivar auth: what it asked the hook.
    @ivar response: what it returned.
    """

    def __init__(
        self,
        method: str,
        initial: bytes | None,
        *responses: bytes | SMTPError,
        decision: Any = "ann",
        session: Session | None = None,
        offered: tuple[str, ...] = MECHANISM_NAMES,
    ) -> None:
        session = session or makeSession(peerIdentity="ann@a.example", channelBinding=BINDING)
        mechanism = Mechanisms(offered, lambda: True).find(method, session)
        assert mechanism is not None
        self.challenges: list[bytes] = []
        self.auth: Auth | None = None
        self.response: AuthResponse | None = None
        waiting = list(responses)
        exchange = mechanism.exchange(initial, session)
        resume, answer = exchange.send, None
        try:
            while True:
                wanted: Any = resume(answer)
                if isinstance(wanted, Auth):
                    assert self.auth is None
                    self.auth = wanted
                    answer = decision if isinstance(decision, AuthResponse) else AuthResponse(user=decision)
                    resume = exchange.send
                else:
                    self.challenges.append(wanted)
                    answer = waiting.pop(0)
                    resume = exchange.throw if isinstance(answer, SMTPError) else exchange.send
        except StopIteration as end:
            self.response = end.value
        assert not waiting, "the mechanism ended early"

    @property
    def user(self) -> Any:
        assert self.response is not None
        return self.response.user


def asked(attempt: Attempt, **wanted: Any) -> bool:
    """Was the hook asked for exactly this?"""
    assert attempt.auth is not None
    return attrs.asdict(attempt.auth) == attrs.asdict(Auth(**wanted))


# --- PLAIN ---


@pytest.mark.parametrize("password", [PASSWORD, UNICODE_PASSWORD, " "])
@pytest.mark.parametrize("authorizationId", ["", "ann", "joe@b.example"])
@pytest.mark.parametrize("hasInitial", [True, False])
def test_PLAIN_brings_three_parts(password: str, authorizationId: str, hasInitial: bool) -> None:
    message = f"{authorizationId}\0ann\0{password}".encode()
    attempt = Attempt("PLAIN", message) if hasInitial else Attempt("PLAIN", None, message)
    assert attempt.challenges == ([] if hasInitial else [b""])
    assert asked(attempt, method="PLAIN", username="ann", password=password, authorizationId=authorizationId)
    assert attempt.user == "ann"


def test_PLAIN_without_a_user_takes_its_authorization_identity() -> None:
    attempt = Attempt("PLAIN", f"ann\0\0{PASSWORD}".encode())
    assert asked(attempt, method="PLAIN", username="ann", password=PASSWORD, authorizationId="ann")


PLAIN_MALFORMED = [b"", b"ann", b"\0ann", b"\0\0", b"\0ann\0", b"\0\0x", b"ann\0\0", b"\0ann\0x\0", b"\0ann\0x\0y"]


# --- LOGIN ---


@pytest.mark.parametrize("hasInitial", [True, False])
def test_LOGIN_asks_for_name_and_password(hasInitial: bool) -> None:
    initial, *responses = [b"ann", PASSWORD.encode()] if hasInitial else [None, b"ann", PASSWORD.encode()]
    attempt = Attempt("LOGIN", initial, *responses)  # type: ignore[arg-type]
    assert attempt.challenges == ([] if hasInitial else [b"Username:"]) + [b"Password:"]
    assert asked(attempt, method="LOGIN", username="ann", password=PASSWORD)
    assert attempt.user == "ann"


@pytest.mark.parametrize("responses", [(b"", b"x"), (b"ann", b""), (b"", b""), (b"\xff", b"x"), (b"ann", b"\xff")])
def test_LOGIN_without_name_or_password_is_malformed(responses: tuple[bytes, bytes]) -> None:
    assertMalformed("LOGIN", None, *responses)
    assertMalformed("LOGIN", *responses)


# --- CRAM-MD5 ---


def cramDigest(challenge: bytes, password: str = PASSWORD) -> str:
    return hmac.new(password.encode(), challenge, "md5").hexdigest()


def cram(respond: Any, decision: Any = "ann") -> Attempt:
    """An attempt whose response is a function of the challenge."""
    session = makeSession()
    mechanism = Mechanisms(["CRAM-MD5"], lambda: True).find("CRAM-MD5", session)
    assert mechanism is not None
    exchange = mechanism.exchange(None, session)
    challenge = next(exchange)
    assert isinstance(challenge, bytes)
    attempt = Attempt.__new__(Attempt)
    attempt.challenges = [challenge]
    wanted = exchange.send(respond(challenge))
    assert isinstance(wanted, Auth)
    attempt.auth = wanted
    with pytest.raises(StopIteration) as end:
        exchange.send(AuthResponse(user=decision))
    attempt.response = end.value.value
    return attempt


@pytest.mark.parametrize("username", ["ann", "Ann Other", "ann@a.example", "\u00e4nn"])
def test_CRAMMD5_brings_a_digest_of_its_challenge(username: str) -> None:
    attempt = cram(lambda challenge: f"{username} {cramDigest(challenge)}".encode())
    auth = attempt.auth
    assert auth is not None
    assert (auth.method, auth.username, auth.password) == ("CRAM-MD5", username, None)
    assert auth.challenge == attempt.challenges[0].decode()
    assert auth.validatePassword(PASSWORD)
    assert auth.validatePassword(PASSWORD.encode())
    assert not auth.validatePassword(WRONG_PASSWORD)
    assert not auth.validatePassword("")
    assert attempt.user == "ann"


def test_challenge_of_CRAMMD5_is_never_the_same_and_names_the_server() -> None:
    challenges = {cram(lambda challenge: b"ann " + b"0" * 32).challenges[0] for _ in range(50)}
    assert len(challenges) == 50
    # RFC 2195 section 2: in the form of a msg-id.
    assert all(each.startswith(b"<") and each.endswith(b"@mx.example.org>") for each in challenges)


CRAM_MALFORMED = [b"", b"ann", b"ann ", b" " + b"0" * 32, b"ann " + b"0" * 31, b"ann " + b"0" * 33, b"0" * 32, b"\xff"]


def test_CRAMMD5_takes_no_initial_response() -> None:
    for initial in (b"", b"ann " + b"0" * 32):
        assertMalformed("CRAM-MD5", initial)


# --- XOAUTH2 and OAUTHBEARER ---

# https://developers.google.com/gmail/imap/xoauth2-protocol, "Initial Client Response"; RFC 7628 section 4.1, with the
# token of these tests.
XOAUTH2 = f"user=someuser@example.com\1auth=Bearer {TOKEN}\1\1".encode()
OAUTHBEARER = f"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer {TOKEN}\1\1".encode()


@pytest.mark.parametrize("hasInitial", [True, False])
def test_XOAUTH2_brings_a_token(hasInitial: bool) -> None:
    attempt = Attempt("XOAUTH2", XOAUTH2) if hasInitial else Attempt("XOAUTH2", None, XOAUTH2)
    assert attempt.challenges == ([] if hasInitial else [b""])
    assert asked(attempt, method="XOAUTH2", username="someuser@example.com", accessToken=TOKEN)
    assert attempt.user == "ann"


@pytest.mark.parametrize("hasInitial", [True, False])
def test_OAUTHBEARER_brings_a_token(hasInitial: bool) -> None:
    attempt = Attempt("OAUTHBEARER", OAUTHBEARER) if hasInitial else Attempt("OAUTHBEARER", None, OAUTHBEARER)
    assert attempt.challenges == ([] if hasInitial else [b""])
    name = "user@example.com"
    assert asked(attempt, method="OAUTHBEARER", username=name, authorizationId=name, accessToken=TOKEN)
    assert attempt.user == "ann"


@pytest.mark.parametrize(
    "header, username",
    [
        ("n,,", ""),
        ("y,,", ""),
        ("n,a=ann=2Cjoe,", "ann,joe"),
        ("n,a=ann=3D2C,", "ann=2C"),
    ],
)
def test_header_of_OAUTHBEARER_names_the_user(header: str, username: str) -> None:
    attempt = Attempt("OAUTHBEARER", f"{header}\1AUTH=bearer  {TOKEN} \1\1".encode())
    assert asked(attempt, method="OAUTHBEARER", username=username, authorizationId=username, accessToken=TOKEN)


XOAUTH2_MALFORMED = [
    b"",
    b"user=ann",
    b"user=ann\1\1",
    b"auth=Bearer x\1\1",
    b"user=\1auth=Bearer x\1\1",
    b"user=ann\1user=joe\1auth=Bearer x\1\1",
    b"user=ann\1auth=Bearer\1\1",
    b"user=ann\1auth=Bearer  \1\1",
    b"user=ann\1auth=Basic x\1\1",
    b"user=\xff\1auth=Bearer x\1\1",
]
OAUTHBEARER_MALFORMED = [
    b"",
    b"\1auth=Bearer x\1\1",
    b"n,a=ann\1auth=Bearer x\1\1",
    b"n,ann,\1auth=Bearer x\1\1",
    b"n,a=ann,x\1auth=Bearer x\1\1",
    b"n,a=ann,,\1auth=Bearer x\1\1",
    b"n,a=ann=,\1auth=Bearer x\1\1",
    b"n,a=ann=41,\1auth=Bearer x\1\1",
    b"p=tls-exporter,a=ann,\1auth=Bearer x\1\1",
    b"N,a=ann,\1auth=Bearer x\1\1",
    b"n,a=ann,\1\1",
    b"n,a=ann,\1auth=\1\1",
    b"n,a=\xff,\1auth=Bearer x\1\1",
]

# Byte for byte: RFC 7628 section 4.3, and the page on XOAUTH2, "Error Response".
RFC_7628_ERROR = (
    b'{"status":"invalid_token","scope":"example_scope",'
    b'"openid-configuration":"https://example.com/.well-known/openid-configuration"}'
)
GOOGLE_ERROR = b'{"status":"401","schemes":"bearer mac","scope":"https://mail.google.com/"}'


@pytest.mark.parametrize(
    "data, challenge",
    [
        (
            {
                "status": "invalid_token",
                "scope": "example_scope",
                "openid-configuration": "https://example.com/.well-known/openid-configuration",
            },
            RFC_7628_ERROR,
        ),
        ({"status": "401", "schemes": "bearer mac", "scope": "https://mail.google.com/"}, GOOGLE_ERROR),
        (GOOGLE_ERROR, GOOGLE_ERROR),
        (GOOGLE_ERROR.decode(), GOOGLE_ERROR),
        ({}, b"{}"),
        ("", b""),
        ([], b"[]"),
    ],
)
@pytest.mark.parametrize("method, initial", [("XOAUTH2", XOAUTH2), ("OAUTHBEARER", OAUTHBEARER)])
@pytest.mark.parametrize("answer", [b"", b"\1", b"\xff", SMTPError("cancelled", 501)], ids=repr)
def test_reason_of_a_refused_token_is_a_challenge_with_any_answer(
    method: str, initial: bytes, data: Any, challenge: bytes, answer: Any
) -> None:
    answered = AuthResponse(message="No", data=data)
    attempt = Attempt(method, initial, answer, decision=answered)
    assert attempt.challenges == [challenge]
    assert attempt.response is answered


@pytest.mark.parametrize("method, initial", [("XOAUTH2", XOAUTH2), ("OAUTHBEARER", OAUTHBEARER)])
@pytest.mark.parametrize("answered", [AuthResponse(), AuthResponse(user="ann", data={"status": "fine"})], ids=repr)
def test_token_that_is_taken_or_refused_without_reason_needs_no_challenge(
    method: str, initial: bytes, answered: AuthResponse
) -> None:
    attempt = Attempt(method, initial, decision=answered)
    assert attempt.challenges == []
    assert attempt.response is answered


# --- EXTERNAL ---


@pytest.mark.parametrize(
    "initial, responses, authorizationId",
    [(b"", (), ""), (b"joe", (), "joe"), (None, (b"",), ""), (None, ("jo\u00eb".encode(),), "jo\u00eb")],
)
def test_EXTERNAL_brings_the_certificate(initial: bytes | None, responses: Any, authorizationId: str) -> None:
    certificate = object()
    session = makeSession(peerIdentity="ann@a.example", peerCertificate=certificate)
    attempt = Attempt("EXTERNAL", initial, *responses, session=session)
    assert attempt.challenges == [b""] * len(responses)
    assert attempt.auth == Auth(
        method="EXTERNAL", username="ann@a.example", authorizationId=authorizationId, certificate=certificate
    )
    assert attempt.user == "ann"


# --- What is malformed ---


def assertMalformed(method: str, initial: bytes | None, *responses: bytes) -> None:
    with pytest.raises(SMTPError) as caught:
        Attempt(method, initial, *responses)
    assert (caught.value.responseCode, caught.value.enhancedCode) == (501, "5.5.2")
    assert caught.value.message == "Malformed authentication data"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "method, message",
    [
        *[("PLAIN", message) for message in [*PLAIN_MALFORMED, b"\xff\0ann\0x", b"\0\xff\0x", b"\0ann\0\xff"]],
        *[("CRAM-MD5", message) for message in CRAM_MALFORMED],
        *[("XOAUTH2", message) for message in XOAUTH2_MALFORMED],
        *[("OAUTHBEARER", message) for message in OAUTHBEARER_MALFORMED],
        *[("EXTERNAL", message) for message in (b"\0", b"joe\0", b"\xff")],
        *[(method, message) for method in ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS") for message in (b"", b"\xff", b"n")],
    ],
)
def test_malformed_response_is_refused_before_the_hook_is_asked(method: str, message: bytes) -> None:
    assertMalformed(method, None, message)
    if method != "CRAM-MD5":
        assertMalformed(method, message)


# C0, DEL and C1; what lies just beside them is a letter, a space or a sign like any other.
CONTROLS = [*map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0))]
NO_CONTROLS = [" ", "~", "\u00a0", "\u00ad", "\u2028"]


def placedIn(text: str, control: str) -> list[str]:
    """The text with a control character before, within and behind it."""
    return [control + text, text[:1] + control + text[1:], text + control]


def responsesWith(control: str) -> list[tuple[str, bytes | None, bytes]]:
    """Attempts with a control character in everything that a hook could get of them: method, initial, response."""
    found: list[tuple[str, bytes | None, bytes]] = []

    def add(method: str, form: str, value: str, first: str | None = None) -> None:
        initial = None if first is None else first.encode()
        found.extend((method, initial, form.format(text).encode()) for text in placedIn(value, control))

    for form in ("{}\0ann\0" + PASSWORD, "\0{}\0" + PASSWORD, "{}\0\0" + PASSWORD):
        add("PLAIN", form, "ann")
    add("PLAIN", "\0ann\0{}", PASSWORD)
    add("LOGIN", "{}", PASSWORD, "ann")
    add("CRAM-MD5", "{} " + "0" * 32, "ann")
    add("CRAM-MD5", "ann {}", "0" * 31)
    add("XOAUTH2", "user={}\1auth=Bearer " + TOKEN + "\1\1", "ann")
    add("XOAUTH2", "user=ann\1auth=Bearer {}\1\1", TOKEN)
    add("OAUTHBEARER", "n,a={},\1auth=Bearer " + TOKEN + "\1\1", "ann")
    add("OAUTHBEARER", "n,a=ann,\1auth=Bearer {}\1\1", TOKEN)
    for method, flag in (("SCRAM-SHA-256", "n"), ("SCRAM-SHA-256-PLUS", "p=tls-exporter")):
        add(method, flag + ",,n={},r=x", "ann")
        add(method, flag + ",a={},n=ann,r=x", "joe")
    add("EXTERNAL", "{}", "joe")
    found += [("LOGIN", name.encode(), PASSWORD.encode()) for name in placedIn("ann", control)]
    return found


# NUL and ^A also divide the parts of some responses, and at an end of one only make it another.
_DIVIDERS = {"PLAIN": "\0", "XOAUTH2": "\1", "OAUTHBEARER": "\1"}


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_no_control_character_reaches_the_hook_by_any_mechanism(control: str) -> None:
    for method, initial, response in responsesWith(control):
        if _DIVIDERS.get(method) == control:
            continue
        assertMalformed(method, initial, response)
        if initial is None and method != "CRAM-MD5":
            assertMalformed(method, response)


@pytest.mark.parametrize("letter", NO_CONTROLS, ids=ascii)
def test_other_characters_are_left_to_the_hook(letter: str) -> None:
    name = f"a{letter}n"
    for method, response in (
        ("PLAIN", f"\0{name}\0{name}"),
        ("XOAUTH2", f"user={name}\1auth=Bearer {name}\1\1"),
        ("OAUTHBEARER", f"n,a={name},\1auth=Bearer {name}\1\1"),
    ):
        auth = Attempt(method, response.encode()).auth
        assert auth is not None
        assert (auth.username, auth.password or auth.accessToken) == (name, name)


def test_control_character_in_a_certificates_name_is_refused_too() -> None:
    with pytest.raises(SMTPError) as caught:
        Attempt("EXTERNAL", b"", session=makeSession(peerIdentity="ann\n"))
    assert (caught.value.responseCode, caught.value.enhancedCode) == (501, "5.5.2")


_octets = st.one_of(
    st.binary(max_size=60),
    st.text(st.sampled_from("\0\1,=anyuerpth Bb\u00e9"), max_size=60).map(str.encode),
    st.sampled_from([XOAUTH2, OAUTHBEARER, b"n,,n=ann,r=x", b"p=tls-exporter,,n=ann,r=x", b"c=biws,r=x,p=eA=="]),
)
STORED = ScramCredentials(b"salt", b"x" * 32, b"y" * 32, 4096)


@given(
    st.sampled_from(MECHANISM_NAMES),
    st.one_of(st.none(), _octets),
    st.lists(_octets, min_size=4, max_size=4),
    st.sampled_from([None, STORED]),
)
def test_any_octets_are_taken_or_refused_and_nothing_else(
    method: str, initial: bytes | None, responses: list[bytes], decision: Any
) -> None:
    session = makeSession(peerIdentity="ann", channelBinding=BINDING)
    mechanism = Mechanisms(MECHANISM_NAMES, lambda: True).find(method, session)
    assert mechanism is not None
    exchange = mechanism.exchange(initial, session)
    answer: Any = None
    try:
        for response in [*responses, b""]:
            wanted = exchange.send(answer)
            answer = AuthResponse(user=decision, data={}) if isinstance(wanted, Auth) else response
            if isinstance(wanted, Auth) and method.startswith("SCRAM"):
                answer = AuthResponse(user=decision)
    except StopIteration as end:
        assert isinstance(end.value, AuthResponse)
    except SMTPError as refusal:
        assert refusal.responseCode in (501, 535)


@pytest.mark.parametrize("method, initial", [("XOAUTH2", XOAUTH2), ("OAUTHBEARER", OAUTHBEARER)])
def test_no_reason_is_sent_where_a_false_user_is_accepted(method: str, initial: bytes) -> None:
    attempt = Attempt(method, initial, decision=AuthResponse(user={}, data={"status": "fine"}))
    assert (attempt.challenges, attempt.user) == ([], {})


# --- The mechanisms of a server ---


class Mine:
    """A user's own mechanism: the response is the name."""

    name = "X-Mine"

    def isAvailable(self, session: Session) -> bool:
        return session.remoteAddress == "192.0.2.1"

    def exchange(self, initial: bytes | None, session: Session) -> Exchange:
        message = yield b"Who?"
        response: AuthResponse = yield Auth(method=self.name, username=message.decode())
        return response


def test_mechanisms_are_shown_in_the_order_in_which_they_are_wanted() -> None:
    wanted = ["LOGIN", Mine(), "PLAIN"]
    mechanisms = Mechanisms(wanted, lambda: True)
    assert mechanisms.namesFor(makeSession(remoteAddress="192.0.2.1")) == ["LOGIN", "X-MINE", "PLAIN"]
    assert mechanisms.namesFor(makeSession()) == ["LOGIN", "PLAIN"]


def test_mechanisms_of_a_user_are_found_in_any_case() -> None:
    mine = Mine()
    mechanisms = Mechanisms([mine], lambda: True)
    assert mechanisms.find("x-mine", makeSession(remoteAddress="192.0.2.1")) is mine
    assert mechanisms.find("X-MINE", makeSession()) is None


def test_user_may_replace_a_built_in_mechanism() -> None:
    mine = Mine()
    mine.name = "PLAIN"
    mechanisms = Mechanisms([mine], lambda: True)
    assert mechanisms.find("PLAIN", makeSession(remoteAddress="192.0.2.1")) is mine


def test_mechanisms_are_available_to_clients_that_can_use_them() -> None:
    mechanisms = Mechanisms(MECHANISM_NAMES, lambda: True)
    always = [name for name in MECHANISM_NAMES if name not in ("SCRAM-SHA-256-PLUS", "EXTERNAL")]
    assert mechanisms.namesFor(makeSession()) == always
    assert mechanisms.namesFor(makeSession(channelBinding=BINDING)) == [*always, "SCRAM-SHA-256-PLUS"]
    assert mechanisms.namesFor(makeSession(peerIdentity="ann")) == [*always, "EXTERNAL"]
    assert mechanisms.find("EXTERNAL", makeSession()) is None


@pytest.mark.parametrize("name", ["LOG\u0131N", "PLA\u0131N", "", "PLAIN ", "NTLM"])
def test_unknown_name_finds_no_mechanism(name: str) -> None:
    assert Mechanisms(MECHANISM_NAMES, lambda: True).find(name, makeSession()) is None


def test_built_in_mechanisms_are_named_in_the_order_of_their_classes() -> None:
    wanted = "PLAIN LOGIN CRAM-MD5 XOAUTH2 OAUTHBEARER SCRAM-SHA-256 SCRAM-SHA-256-PLUS EXTERNAL"
    assert tuple(wanted.split()) == MECHANISM_NAMES


def test_server_without_mechanisms_has_none() -> None:
    assert not NO_MECHANISMS
    assert not NO_MECHANISMS.hasHook()
    assert NO_MECHANISMS.namesFor(makeSession()) == []
    assert Mechanisms(["PLAIN"], lambda: True)
