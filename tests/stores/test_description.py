"""The description of a message: what JSON has of its envelope, its session and the verdicts of layers."""

from __future__ import annotations

import json

from smtphooks.session import Address, Envelope, Session, TLSInfo
from smtphooks.stores.description import describe


class Scanner:
    class State:
        transaction = 0
        summary: dict[str, object] | None = None


def makeSession() -> Session:
    sender = Address("ann@example.org", "ann", "example.org", {"BODY": "8BITMIME", "SMTPUTF8": True})
    return Session(envelope=Envelope(sender, [Address("bob@example.net"), Address("eve@example.net")]), user=b"ann")


def test_a_description_is_made_of_what_json_has() -> None:
    session = makeSession()
    session.tlsOptions = TLSInfo("a", "b", "TLSv1.3")
    described = describe(session)
    assert json.loads(json.dumps(described)) == described
    assert described["session"]["tls"]["version"] == "TLSv1.3"
    assert described["envelope"] == {
        "mailFrom": "ann@example.org",
        "rcptTo": ["bob@example.net", "eve@example.net"],
        "mailParameters": {"BODY": "8BITMIME", "SMTPUTF8": True},
        "rcptParameters": [{}, {}],
        "bodyType": "8bitmime",
        "smtpUtf8": True,
        "requireTLS": False,
    }


def test_the_id_tells_messages_of_one_session_apart() -> None:
    session = makeSession()
    first = describe(session)["id"]
    session.transaction += 1
    assert describe(session)["id"] != first


def test_verdicts_go_by_the_names_of_layers() -> None:
    session = makeSession()
    state = session.of(Scanner())
    state.summary, state.transaction = {"virus": None}, session.transaction
    session.of(object())
    assert describe(session)["verdicts"] == {"Scanner": {"virus": None}}


def test_a_verdict_on_the_message_before_is_left_out() -> None:
    session = makeSession()
    state = session.of(Scanner())
    state.summary, state.transaction = {"virus": None}, session.transaction
    session.transaction += 1
    assert describe(session)["verdicts"] == {}
