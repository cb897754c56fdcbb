"""The opening of a connection: what is said in which order, and what is believed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks.client import ClientError, NotOffered, ReceivedReply, Refused, Route, Unreachable
from smtphooks.client.opening import ENCRYPT, HEAR, Opened, Say, extensionsIn, opening
from tests.secrets import PASSWORD


class Script:
    """
    An opening, to which a server replies by a script.

    @ivar steps: what was done: lines, and the names of other steps.
    @ivar error: how it failed, None if it did not.
    """

    def __init__(self, route: Route, *replies: str, isPrivate: bool = False, avoidsTLS: bool = False) -> None:
        self.steps: list[str] = []
        self.error: ClientError | None = None
        self.opened = Opened(isPrivate=isPrivate, avoidsTLS=avoidsTLS)
        left = [*replies]
        try:
            self._run(opening(route, self.opened), left)
        except ClientError as error:
            self.error = error
        assert not left, f"not asked for: {left}"

    def _run(self, steps: Any, left: list[str]) -> None:
        reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration:
                return
            self.steps.append(step.line.decode() if isinstance(step, Say) else step.what)
            reply = None if step is ENCRYPT else ReceivedReply(*left.pop(0).split("\n"))


def route(**given: Any) -> Route:
    return Route(**{"host": "mx.test", "name": "client.test", **given})


EHLO = "EHLO client.test"
OFFERS = "250-mx.test\n250-SIZE 1000\n250 STARTTLS"
HI = "220 mx.test"


@pytest.mark.parametrize(
    "isLMTP, replies, sentence",
    [
        (False, ["500 what?", "500 what?"], "mx.test:25 refuses EHLO and HELO, as a server of LMTP does: 500 what?"),
        (True, ["500 what?"], "mx.test:25 refuses LHLO, as a server of SMTP does: 500 what?"),
        (True, ["550 not you"], "mx.test:25 refuses LHLO: 550 not you"),
    ],
)
def test_a_server_of_the_other_protocol_is_named(isLMTP: bool, replies: list[str], sentence: str) -> None:
    script = Script(route(tls="none", lmtp=isLMTP), HI, *replies)
    assert str(script.error) == sentence


def test_a_server_without_XCLIENT_is_an_error_that_says_what_to_do() -> None:
    script = Script(route(tls="none", xClient=[("NAME", "a.test")]), HI, OFFERS)
    assert str(script.error) == "mx.test:25 does not offer XCLIENT to this host, allow it there or leave it out"


def test_a_server_is_greeted_and_what_it_offers_is_known() -> None:
    script = Script(route(tls="none"), HI, OFFERS)
    assert script.steps == [HEAR.what, EHLO]
    assert script.opened.extensions == {"SIZE": "1000", "STARTTLS": ""}
    assert not script.opened.isSecure


def test_LMTP_has_LHLO_and_nothing_before_it() -> None:
    assert Script(route(tls="none", lmtp=True), HI, "250 mx.test").steps[1:] == ["LHLO client.test"]
    script = Script(route(tls="none", lmtp=True), HI, "500 what")
    assert isinstance(script.error, Refused)


@pytest.mark.parametrize("code", [500, 501, 502, 504])
def test_a_server_that_does_not_know_EHLO_is_greeted_with_HELO(code: int) -> None:
    """RFC 5321 section 3.2."""
    script = Script(route(tls="none"), HI, f"{code} what", "250 mx.test")
    assert script.steps[1:] == [EHLO, "HELO client.test"]
    assert script.opened.extensions == {}
    assert script.error is None


@pytest.mark.parametrize("code", [421, 450, 521, 550, 554])
def test_a_server_that_refuses_EHLO_is_left(code: int) -> None:
    script = Script(route(), HI, f"{code} no")
    assert str(script.error) == f"mx.test:25 refuses EHLO: {code} no"


@pytest.mark.parametrize("code", [250, 421, 554])
def test_another_greeting_than_220_is_a_refusal(code: int) -> None:
    script = Script(route(), f"{code} go away")
    assert str(script.error) == f"mx.test:25 does not want this connection: {code} go away"


# --- TLS ---


def test_nothing_that_was_said_in_the_clear_is_believed_after_STARTTLS() -> None:
    """RFC 3207 section 4.2."""
    for tls in ("opportunistic", "required"):
        script = Script(route(tls=tls), HI, OFFERS, "220 go", "250-mx.test\n250 8BITMIME")
        assert script.steps == [HEAR.what, EHLO, "STARTTLS", ENCRYPT.what, EHLO]
        assert script.opened.extensions == {"8BITMIME": ""}
        assert script.opened.isSecure
        assert script.opened.isPrivate


def test_implicit_TLS_comes_before_the_greeting() -> None:
    script = Script(route(tls="implicit"), HI, OFFERS)
    assert script.steps == [ENCRYPT.what, HEAR.what, EHLO]
    assert script.opened.isSecure


def test_TLS_that_must_be_is_not_done_without() -> None:
    missing = Script(route(tls="required"), HI, "250 mx.test")
    assert isinstance(missing.error, Unreachable)
    assert str(missing.error) == "mx.test:25 does not offer STARTTLS, which must be"
    old = Script(route(tls="required"), HI, "500 what", "250 mx.test")
    assert "does not offer STARTTLS" in str(old.error)
    refused = Script(route(tls="required"), HI, OFFERS, "454 4.7.0 not now")
    assert str(refused.error) == "mx.test:25 refuses STARTTLS: 454 4.7.0 not now"


def test_TLS_that_need_not_be_is_done_without_where_it_is_not_offered_or_refused() -> None:
    assert Script(route(), HI, "250 mx.test").steps[1:] == [EHLO]
    refused = Script(route(), HI, OFFERS, "454 4.7.0 not now")
    assert refused.steps[1:] == [EHLO, "STARTTLS"]
    assert refused.error is None
    assert not refused.opened.isSecure


def test_a_server_that_ends_the_connection_at_STARTTLS_is_not_talked_to_in_the_clear() -> None:
    assert isinstance(Script(route(), HI, OFFERS, "421 bye").error, Refused)


def test_TLS_that_has_failed_before_and_need_not_be_is_avoided() -> None:
    assert Script(route(), HI, OFFERS, avoidsTLS=True).steps[1:] == [EHLO]
    required = Script(route(tls="required"), HI, OFFERS, "220 go", "250 mx.test", avoidsTLS=True)
    assert required.opened.isSecure
    assert Script(route(tls="implicit"), HI, OFFERS, avoidsTLS=True).opened.isSecure


def test_a_password_goes_over_TLS_only() -> None:
    plain = "250-mx.test\n250-AUTH PLAIN\n250 STARTTLS"
    given = route(user="ann", password=PASSWORD)
    script = Script(given, HI, plain, "220 go", plain, "235 ok")
    assert script.steps[4] == EHLO
    assert script.steps[5].startswith("AUTH PLAIN ")
    for refused in (Script(given, HI, plain, "454 no"), Script(given, HI, plain, avoidsTLS=True)):
        assert "none that does not show a password in the clear" in str(refused.error)
        assert not any(step.startswith("AUTH") for step in refused.steps)
    assert Script(given, HI, "250-mx.test\n250 AUTH PLAIN", "235 ok", isPrivate=True).error is None


# --- XCLIENT ---


def test_XCLIENT_says_who_the_client_is_and_greets_as_that_client() -> None:
    given = route(tls="none", xClient=[("ADDR", "192.0.2.1"), ("HELO", "other.test"), ("NAME", "a b+c"), ("X", "y")])
    offers = "250-mx.test\n250 XCLIENT NAME ADDR HELO"
    script = Script(given, HI, offers, "220 ok", "250-mx.test\n250 SIZE")
    assert script.steps[2:] == ["XCLIENT ADDR=192.0.2.1 HELO=other.test NAME=a+20b+2Bc", "EHLO other.test"]
    assert script.opened.extensions == {"SIZE": ""}


@pytest.mark.parametrize("name", ["[UNAVAILABLE]", "[TEMPUNAVAIL]", "a b", "ä.test", ""])
def test_a_name_that_cannot_greet_is_replaced_with_ours(name: str) -> None:
    script = Script(route(tls="none", xClient=[("HELO", name)]), HI, "250-x\n250 XCLIENT HELO", "220 ok", "250 x")
    assert script.steps[3] == EHLO


def test_attributes_that_take_more_than_a_line_go_in_several() -> None:
    names = [f"A{i}" for i in range(10)]
    given = route(tls="none", xClient=[(name, "x" * 200) for name in names])
    script = Script(given, HI, f"250-x\n250 XCLIENT {' '.join(names)}", *["220 ok"] * 5, "250 x")
    lines = [step for step in script.steps if step.startswith("XCLIENT")]
    assert all(len(line) + 2 <= 512 for line in lines)
    assert " ".join(lines).replace("XCLIENT ", "") == " ".join(f"{name}={'x' * 200}" for name in names)
    long = Script(route(tls="none", xClient=[("A", "x" * 600)]), HI, "250-x\n250 XCLIENT A", "220 ok", "250 x")
    assert len([step for step in long.steps if step.startswith("XCLIENT")]) == 1


def test_a_server_that_offers_no_XCLIENT_gets_no_mail_of_a_client() -> None:
    script = Script(route(tls="none", xClient=[("ADDR", "192.0.2.1")]), HI, "250 mx.test")
    assert isinstance(script.error, NotOffered)
    assert not script.error.isPermanent
    refused = Script(route(tls="none", xClient=[("ADDR", "x")]), HI, "250-x\n250 XCLIENT ADDR", "550 no")
    assert str(refused.error) == "mx.test:25 refuses XCLIENT: 550 no"


@pytest.mark.parametrize(
    ("replies", "isOfIdentity"),
    [
        (["554 5.7.1 listed"], True),
        (["220 ok", "550 5.7.1 what a name"], True),
        (["421 4.3.2 bye"], False),
        (["220 ok", "421 4.3.2 bye"], False),
    ],
)
def test_what_a_server_says_of_the_client_that_XCLIENT_names_is_not_about_the_server(
    replies: list[str], isOfIdentity: bool
) -> None:
    given = route(tls="none", xClient=[("ADDR", "192.0.2.66")])
    error = Script(given, HI, "250-x\n250 XCLIENT ADDR", *replies).error
    assert isinstance(error, Refused)
    assert error.isOfIdentity is isOfIdentity
    before = Script(given, "554 no").error
    assert isinstance(before, Refused)
    assert not before.isOfIdentity


# --- what EHLO says ---


@pytest.mark.parametrize(
    ("lines", "extensions"),
    [
        (["250 mx.test"], {}),
        (["250-mx.test", "250 size 10"], {"SIZE": "10"}),
        (["250-SIZE 10", "250 8BITMIME"], {"8BITMIME": ""}),
        (["250-x", "250-AUTH PLAIN LOGIN", "250 AUTH=LOGIN"], {"AUTH": "PLAIN LOGIN LOGIN"}),
        (["250-x", "250 X-THING a=b c=d"], {"X-THING": "a=b c=d"}),
        (["250-x", "250 LIMITS RCPTMAX=10 MAILMAX=5"], {"LIMITS": "RCPTMAX=10 MAILMAX=5"}),
        (["250-x", "250-", "250- SIZE", "250-!?", "250 SIZE  5  "], {"SIZE": "5"}),
        (["250-x", "250 5.1.1 no"], {}),
    ],
)
def test_keywords_and_their_parameters(lines: list[str], extensions: dict[str, str]) -> None:
    assert extensionsIn(ReceivedReply(*lines)) == extensions


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=30), max_size=5))
def test_whatever_EHLO_says_keywords_are_words(texts: list[str]) -> None:
    for keyword in extensionsIn(ReceivedReply("250-x", *(f"250-{text}" for text in texts))):
        assert keyword == keyword.upper()
        assert " " not in keyword
