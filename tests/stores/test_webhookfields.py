"""What a webhook is told of a message: ASCII whatever the client says, bounded, and nothing lost."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtphooks.session import Address, Envelope, Session
from smtphooks.stores.description import describe
from smtphooks.stores.webhookfields import digestsOf, partsOf
from tests.layers.scanners import Message
from tests.stores.webhooks import makeSession


class Layer:
    """A layer whose state has a summary."""

    def __init__(self, summary):
        self.State = lambda: type("State", (), {"summary": summary})()


def withVerdicts(session, **summaries):
    for name, summary in summaries.items():
        session.of(type(name, (Layer,), {})(summary))
    return session


def only(session):
    (part,) = partsOf(session)
    return part


def test_fields_tell_of_envelope_and_session():
    session = makeSession("ann@example.com", '"x, y"@example.com')
    assert only(session).fields == {
        "Content-Type": "message/rfc822",
        "Smtphooks-Id": f"{session.id}.1",
        "Smtphooks-Mail-From": "sender@example.org",
        "Smtphooks-Rcpt-To": "ann@example.com,%22x%2C%20y%22@example.com",
        "Smtphooks-Client": "192.0.2.1",
        "Smtphooks-Client-Name": "host.example.org",
        "Smtphooks-Helo": "client.example.org",
        "Smtphooks-Protocol": "ESMTP",
        "Smtphooks-Description": only(session).description,
    }


def test_the_description_is_that_of_all_stores():
    session = withVerdicts(makeSession("ann@example.com", SIZE="100"), Rspamd={"action": "reject", "score": 15.5})
    session.user = "ann"
    described = json.loads(only(session).description)
    assert described == {**describe(session), "verdictsLeftOut": []}
    fields = only(session).fields
    assert fields["Smtphooks-User"] == "ann"
    assert fields["Smtphooks-Verdict-Rspamd"] == '{"action":"reject","score":15.5}'


def test_the_null_reverse_path_is_an_empty_field():
    part = only(makeSession(mailFrom=""))
    assert part.fields["Smtphooks-Mail-From"] == ""
    assert json.loads(part.description)["envelope"]["mailFrom"] == ""


@given(st.text(), st.text(), st.text(), st.text())
@example("\x7f", "\x7f\r\nX: y", "a\x7f\0", "\x7f")
def test_no_value_can_be_another_field_or_be_lost(sender, recipient, name, verdict):
    session = withVerdicts(makeSession(recipient or "x", mailFrom=sender), Layer=verdict)
    session.hostNameAppearsAs = session.user = session.clientHostname = name
    part = only(session)
    for value in part.fields.values():
        assert value.isascii() and (value.isprintable() or not value)
    if not any(0xD800 <= ord(each) < 0xE000 for each in sender + recipient + name):
        assert unquote(part.fields["Smtphooks-Mail-From"]) == sender
        assert [unquote(each) for each in part.fields["Smtphooks-Rcpt-To"].split(",")] == [recipient or "x"]
        assert unquote(part.fields["Smtphooks-Helo"]) == name
    described = json.loads(part.description)
    assert described["envelope"]["rcptTo"] == [recipient or "x"]
    assert described["verdicts"]["Layer"] == verdict or described["verdictsLeftOut"] == ["Layer"]


@pytest.mark.parametrize("number", [1, 50, 130, 1000])
def test_all_recipients_are_told_once_and_no_request_has_too_large_a_header(number):
    recipients = [f"recipient-number-{index:04}@department-{index:04}.example.com" for index in range(number)]
    session = makeSession(*recipients)
    for index, address in enumerate(session.envelope.rcptTo):
        address.args["NOTIFY"] = str(index)
    parts = partsOf(session)
    assert [recipient for part in parts for recipient in part.recipients] == recipients
    told = [json.loads(part.description)["envelope"] for part in parts]
    assert [each for envelope in told for each in envelope["rcptTo"]] == recipients
    assert [each["NOTIFY"] for envelope in told for each in envelope["rcptParameters"]] == [*map(str, range(number))]
    assert len({json.loads(part.description)["id"] for part in parts}) == 1
    for part in parts:
        assert sum(len(f"{name}: {value}\r\n") for name, value in part.fields.items()) < 7100


def test_a_recipient_that_is_too_long_for_any_request_has_one_of_its_own():
    parts = partsOf(makeSession("a@example.com", "ä" * 2000 + "@example.com", "b@example.com"))
    assert [len(part.recipients) for part in parts] == [1, 1, 1]


def test_verdicts_that_are_too_long_are_left_out_and_named():
    session = withVerdicts(makeSession(), Long=["x" * 3000], Short="y", Half="z" * 1000, Other="z" * 1100)
    part = only(session)
    described = json.loads(part.description)
    assert described["verdicts"] == {"Short": "y", "Half": "z" * 1000}
    assert described["verdictsLeftOut"] == ["Long", "Other"]
    assert "Smtphooks-Verdict-Long" not in part.fields


def test_verdicts_that_are_no_JSON_are_left_out_and_named():
    circle: list[object] = []
    circle.append(circle)
    session = withVerdicts(makeSession(), Number=float("nan"), Circle=circle, Keys={(1, 2): 3}, Object={"x": {1}})
    described = json.loads(only(session).description)
    assert described["verdicts"] == {"Object": {"x": "{1}"}}
    assert described["verdictsLeftOut"] == ["Number", "Circle", "Keys"]


async def _digests(chunks, ours):
    return await digestsOf(Message(*chunks), ours)


@given(st.binary(max_size=20), st.binary(min_size=1, max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_the_digest_of_the_message_is_without_our_fields(front, message, first, second):
    whole = front + message
    cut = sorted((first % (len(whole) + 1), second % (len(whole) + 1)))
    chunks = [chunk for chunk in (whole[: cut[0]], whole[cut[0] : cut[1]], whole[cut[1] :]) if chunk]
    run = _digests(chunks, len(front))
    with pytest.raises(StopIteration) as ended:
        run.send(None)
    other = _digests([message], 0)
    with pytest.raises(StopIteration) as alone:
        other.send(None)
    assert ended.value.value.message == alone.value.value.body


def test_a_session_without_recipients_has_one_request():
    assert len(partsOf(Session(envelope=Envelope(Address("a@x"))))) == 1
