"""Messages as a test looks at them, whatever their octets are."""

from __future__ import annotations

import copy
import smtplib
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtphooks import Envelope, Session
from smtphooks.testing import SMTPServerThread
from smtphooks.testing.messages import ReceivedMessage, frozen, receivedMessage


def received(octets: bytes) -> ReceivedMessage:
    return receivedMessage(octets, frozen(Session()))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\r\n",
        b"no header at all",
        b": \r\n\r\n",
        b"Subject: \xff\xfe\r\nDate: yesterday\r\nTo: <<>>, ;:@\r\n\r\n\x00\xff",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x",
        b"From: =?utf-8?q?=FF?= <\r\nContent-Type: ;;;\r\nMessage-ID: <\r\n\r\n",
    ],
)
def test_octets_that_are_no_good_message_are_one_all_the_same(octets: bytes) -> None:
    message = received(octets)
    assert message.octets == octets
    assert isinstance(message, EmailMessage)
    for name, value in message.items():
        assert message[name] is not None and str(value) is not None


@given(st.lists(st.sampled_from([b"To: ", b"From: ", b"Date: ", b"Content-Type: ", b"Message-ID: "]) | st.binary()))
def test_every_field_of_any_octets_can_be_looked_at(pieces: list[bytes]) -> None:
    message = received(b"\r\n".join(pieces))
    for _, value in message.items():
        str(value)


def test_a_message_has_parts_as_the_standard_library_makes_them() -> None:
    octets = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=x\r\n\r\n"
        b"--x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
        b"--x\r\nContent-Type: text/html\r\n\r\n<p>\r\n--x--\r\n"
    )
    message = received(octets)
    body = message.get_body(("plain",))
    assert type(message) is ReceivedMessage
    assert type(body) is EmailMessage
    assert body.get_content() == "Grüße"


def test_a_frozen_session_does_not_change_with_the_session() -> None:
    session = Session(user="ann", state={"a": 1})
    copied = frozen(session)
    session.user, session.envelope = None, Envelope()
    session.state["a"] = 2
    assert (copied.user, copied.state, copied.id) == ("ann", {"a": 1}, session.id)
    assert copied.envelope is not session.envelope


def test_a_message_can_be_copied_as_pythons_generator_does_for_some_charsets() -> None:
    [message] = _received(b"Subject: Hello\r\nContent-Type: text/plain; charset=nope\r\n\r\n\xff\r\n")
    copied = copy.deepcopy(message)
    del copied["Subject"]
    assert message["Subject"] == "Hello"
    assert copied.session is message.session
    with pytest.raises(LookupError, match="nope"):
        str(message)


def test_a_message_shows_its_envelope_and_its_subject() -> None:
    [message] = _received(b"Subject: Hello\r\n\r\n")
    assert repr(message) == "<ReceivedMessage from ann@example.org for bob@example.org: 'Hello'>"


def _received(octets: bytes) -> list[ReceivedMessage]:
    with SMTPServerThread() as server:
        with smtplib.SMTP(server.host, server.port) as client:
            client.sendmail("ann@example.org", "bob@example.org", octets)
        return server.messages
