"""Mail sent with Python's smtplib is in the Maildir as it was sent."""

from __future__ import annotations

import smtplib
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from tests.real.conftest import StartService
from tests.real.programs import Maildir, joinLines

SENDER = "sender@here.example"
RECIPIENT = "recipient@there.example"
MESSAGE = joinLines(
    [
        b"Subject: hidden dots",
        b"",
        b".",
        b"..two",
        b"",
        b"a line of " + b"x" * 900,
        b"trailing blanks  \t",
        b".",
        b"",
        b"",
    ]
)


def stored(message: bytes) -> bytes:
    return message.replace(b"\r\n", b"\n")


def test_message_is_stored_as_it_was_sent(startService: StartService, maildir: Maildir) -> None:
    with smtplib.SMTP("127.0.0.1", startService().port, "client.example") as client:
        assert client.sendmail(SENDER, [RECIPIENT], MESSAGE) == {}

    message = maildir.message()
    assert message.content == stored(MESSAGE)
    assert message.returnPath == SENDER
    assert message.deliveredTo == [RECIPIENT]
    assert message.received.startswith("Received: from client.example ([127.0.0.1]) by ") or (
        message.received.startswith("Received: from client.example (localhost [127.0.0.1]) by ")
    )
    assert " with ESMTP id " in message.received
    assert f" for <{RECIPIENT}>; " in message.received
    assert maildir.isTidy()


def test_international_addresses_keep_their_letters(startService: StartService, maildir: Maildir) -> None:
    message = EmailMessage(policy.SMTPUTF8)
    message["From"] = "jürgen@exämple.example"
    message["To"] = "δοκιμή@παράδειγμα.example"
    message["Subject"] = "初めまして"
    message.set_content("Grüße, 世界\n", cte="8bit")
    with smtplib.SMTP("127.0.0.1", startService().port) as client:
        assert client.send_message(message) == {}

    found = maildir.message()
    assert found.returnPath == "jürgen@exämple.example"
    assert found.deliveredTo == ["δοκιμή@παράδειγμα.example"]
    assert " with UTF8SMTP id " in found.received
    parsed = message_from_bytes(found.content, policy=policy.default)
    assert parsed["From"] == message["From"]
    assert parsed["To"] == message["To"]
    assert parsed["Subject"] == message["Subject"]
    assert parsed.get_content() == "Grüße, 世界\n"


def test_every_octet_of_an_eight_bit_body_is_kept(startService: StartService, maildir: Maildir) -> None:
    octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    message = b"Subject: 8-bit\r\n\r\n" + octets + b"\r\n"
    with smtplib.SMTP("127.0.0.1", startService().port) as client:
        assert client.sendmail(SENDER, [RECIPIENT], message, mail_options=["BODY=8BITMIME"]) == {}

    assert maildir.message().content == stored(message)


def test_message_for_several_recipients_is_one_file_that_names_them_all(
    startService: StartService, maildir: Maildir
) -> None:
    recipients = [f"recipient{number}@there.example" for number in range(3)]
    with smtplib.SMTP("127.0.0.1", startService().port) as client:
        assert client.sendmail(SENDER, recipients, MESSAGE) == {}

    message = maildir.message()
    assert message.deliveredTo == recipients
    assert message.content == stored(MESSAGE)
    assert " for <" not in message.received


def test_refused_recipient_gets_nothing_and_the_others_the_message(
    startService: StartService, maildir: Maildir
) -> None:
    running = startService("PickyMaildir", hooksOptions={"path": maildir.path})
    recipients = ["first@there.example", "nobody@there.example", "last@there.example"]
    with smtplib.SMTP("127.0.0.1", running.port) as client:
        refused = client.sendmail(SENDER, recipients, MESSAGE)

    assert refused == {"nobody@there.example": (550, b"5.1.1 No such user here")}
    message = maildir.message()
    assert message.deliveredTo == ["first@there.example", "last@there.example"]
    assert message.content == stored(MESSAGE)


def test_messages_on_one_connection_stay_apart(startService: StartService, maildir: Maildir) -> None:
    bodies = [b"Subject: %d\r\n\r\n%b\r\n" % (number, b"." * number) for number in range(20)]
    with smtplib.SMTP("127.0.0.1", startService().port) as client:
        for body in bodies:
            assert client.sendmail(SENDER, [RECIPIENT], body) == {}

    assert sorted(message.content for message in maildir.messages()) == sorted(map(stored, bodies))


def test_large_message_is_stored_whole(startService: StartService, maildir: Maildir) -> None:
    message = MESSAGE * (20_000_000 // len(MESSAGE))
    with smtplib.SMTP("127.0.0.1", startService().port) as client:
        assert client.sendmail(SENDER, [RECIPIENT], message) == {}

    assert maildir.message().content == stored(message)


@pytest.mark.parametrize("sender", [SENDER, ""])
def test_message_over_lmtp_is_stored_as_it_was_sent(startService: StartService, maildir: Maildir, sender: str) -> None:
    with smtplib.LMTP("127.0.0.1", startService(lmtp=True).port, "client.example") as client:
        assert client.sendmail(sender, [RECIPIENT], MESSAGE) == {}

    message = maildir.message()
    assert message.returnPath == sender
    assert message.deliveredTo == [RECIPIENT]
    assert message.content == stored(MESSAGE)
    assert " with LMTP id " in message.received
