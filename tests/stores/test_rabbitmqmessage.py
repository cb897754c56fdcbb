"""What a message is told with: its headers, and parts of its recipients where they are too many for a frame."""

import json

import pytest

from smtphooks.replies import SMTPError
from smtphooks.session import Address, Envelope, Session
from smtphooks.stores.description import describe
from smtphooks.stores.rabbitmqmessage import partsOf


def description(*recipients, **state):
    envelope = Envelope(Address("ann@example.org"), [Address(each, args={"NOTIFY": "NEVER"}) for each in recipients])
    return describe(Session(localName="mx.example", remoteAddress="192.0.2.1", envelope=envelope, **state))


def octetsOf(part):
    pika = pytest.importorskip("pika")
    properties = pika.BasicProperties(
        content_type="message/external-body", message_id=part.id, timestamp=1, delivery_mode=2, headers=part.headers
    )
    return len(b"".join(properties.encode()))


def test_one_message_for_all():
    told = description("bob@mx.example", "eve@mx.example")
    (part,) = partsOf(told, b"digest", 100_000)
    assert part.id == told["id"]
    assert json.loads(part.headers["envelope"]) == told["envelope"]
    assert json.loads(part.headers["session"]) == told["session"]
    assert json.loads(part.headers["verdicts"]) == {}


@pytest.mark.parametrize("octets", [3000, 4000, 10_000, 50_000])
def test_parts_have_each_recipient_once_and_keep_to_the_room(octets):
    recipients = [f"user{number}@mx.example" for number in range(300)]
    parts = partsOf(description(*recipients), b"digest", octets)
    envelopes = [json.loads(part.headers["envelope"]) for part in parts]
    assert [each for envelope in envelopes for each in envelope["rcptTo"]] == recipients
    assert all(len(envelope["rcptTo"]) == len(envelope["rcptParameters"]) for envelope in envelopes)
    assert all(octetsOf(part) <= octets for part in parts)
    assert len({part.id for part in parts}) == len(parts)
    assert len({part.headers["idempotency-key"] for part in parts}) == len(parts)


def test_what_is_too_large_for_one_recipient_is_refused():
    with pytest.raises(SMTPError) as caught:
        partsOf(description("x" * 2000 + "@mx.example"), b"digest", 2000)
    assert caught.value.responseCode == 552


def test_the_key_is_that_of_envelope_and_octets():
    def key(*recipients, digest=b"digest"):
        (part,) = partsOf(description(*recipients), digest, 100_000)
        return part.headers["idempotency-key"]

    assert key("bob@mx.example") == key("bob@mx.example")
    assert len({key("bob@mx.example"), key("eve@mx.example"), key("bob@mx.example", digest=b"other")}) == 3


def test_other_characters_than_ascii_are_escaped():
    (part,) = partsOf(description("büb@mx.example"), b"digest", 100_000)
    assert all(value.isascii() for value in part.headers.values())
    assert json.loads(part.headers["envelope"])["rcptTo"] == ["büb@mx.example"]
