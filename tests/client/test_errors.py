"""Errors of the client: what a client of ours is told, and what an operator reads."""

from __future__ import annotations

import pytest

from smtphooks.client import ClientError, NotOffered, ReceivedReply, Refused, Unreachable, errorOf


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["550 5.1.1 no such user"], (550, "5.1.1", "no such user")),
        (["550-5.1.1 no such", "550 5.1.1 user"], (550, "5.1.1", "no such user")),
        (["450 greylisted"], (450, None, "greylisted")),
        (["550"], (550, None, "Refused")),
        # A connection of the client is not closed because one of ours is.
        (["421 4.3.2 closing"], (451, "4.3.2", "closing")),
        (["421 closing"], (451, "4.3.2", "closing")),
        (["521 5.3.2 no mail here"], (554, "5.3.2", "no mail here")),
        # Nor is it the client who has to begin TLS, or to authenticate, with the other server.
        (["530 5.7.0 Must issue a STARTTLS command first"], (451, "4.3.5", "Must issue a STARTTLS command first")),
        # What refuses nothing is no acknowledgement here.
        (["250 2.0.0 ok"], (451, "4.3.0", "ok")),
        (["354 go on"], (451, "4.3.0", "go on")),
        (["250"], (451, "4.3.0", "Not now")),
        (["599 odd"], (599, None, "odd")),
        # The class of the code decides.
        (["450 5.1.1 what now"], (450, None, "5.1.1 what now")),
    ],
)
def test_a_reply_as_the_refusal_for_a_client_of_ours(lines: list[str], expected: tuple[int, str | None, str]) -> None:
    for error in (errorOf(ReceivedReply(*lines)), Refused("server refuses", ReceivedReply(*lines)).asError()):
        assert (error.responseCode, error.enhancedCode, error.message) == expected


def test_every_code_that_a_server_can_send_becomes_a_refusal() -> None:
    for code in range(200, 600):
        error = errorOf(ReceivedReply(f"{code} {code // 100}.1.1 text"))
        assert error.responseCode is not None
        assert error.responseCode >= 400
        assert error.responseCode not in (421, 521, 530)


def test_a_refusal_has_its_reply_and_says_who_refuses_what() -> None:
    reply = ReceivedReply("550-5.7.1 go", "550 5.7.1 away")
    error = Refused("mx.test:25 refuses MAIL", reply)
    assert error.reply is reply
    assert error.isPermanent
    assert not Refused("x", ReceivedReply("450 later")).isPermanent
    assert str(error) == "mx.test:25 refuses MAIL: 550-5.7.1 go 550 5.7.1 away"


def test_a_client_of_ours_is_not_told_which_server_cannot_be_reached() -> None:
    error = Unreachable("10.0.0.1:25 cannot be reached: Connection refused")
    assert (error.reply, error.isPermanent) == (None, False)
    refusal = error.asError()
    assert (refusal.responseCode, refusal.enhancedCode) == (451, "4.4.1")
    assert "10.0.0.1" not in refusal.message


def test_what_is_not_offered_is_permanent_unless_its_code_is_not() -> None:
    error = NotOffered("The next server takes no 8-bit message (8BITMIME)")
    assert error.isPermanent
    assert (error.asError().responseCode, error.asError().enhancedCode) == (554, "5.6.3")
    assert not NotOffered("no XCLIENT", 451, "4.3.5").isPermanent


@pytest.mark.parametrize("kind", [ClientError, Unreachable, NotOffered])
def test_an_error_is_one_printable_line_whatever_a_server_says(kind: type[ClientError]) -> None:
    assert str(kind("bad\r\n\x1b[2J\u2028\u202e reply ")) == "bad [2J reply"
    refused = Refused("x", ReceivedReply("550 \x1b]0;pwned\x07 \u0085"))
    assert str(refused).isprintable()
