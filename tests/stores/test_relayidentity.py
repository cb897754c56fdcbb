"""What a server upstream is told of the client, where it is known and where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from smtphooks import Session
from smtphooks.stores.relayidentity import xClientOf, xForwardOf
from smtphooks.syntax.xclient import parseXClient, parseXForward

KNOWN: dict[str, Any] = {
    "remoteAddress": "192.0.2.1",
    "remotePort": 4711,
    "localAddress": "192.0.2.25",
    "localPort": 25,
    "clientHostname": "mx.example.org",
    "hostNameAppearsAs": "helo.example.org",
    "openingCommand": "EHLO",
    "user": "ann",
}


def test_all_that_is_known_is_told() -> None:
    assert dict(xClientOf(Session(**KNOWN))) == {
        "NAME": "mx.example.org",
        "ADDR": "192.0.2.1",
        "PORT": "4711",
        "PROTO": "ESMTP",
        "HELO": "helo.example.org",
        "LOGIN": "ann",
        "DESTADDR": "192.0.2.25",
        "DESTPORT": "25",
    }
    assert xForwardOf(Session(**KNOWN)).items() >= {"NAME": "mx.example.org", "PROTO": "ESMTPA"}.items()


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"user": None}, {"LOGIN": "[UNAVAILABLE]"}),
        ({"user": "a\nb"}, {"LOGIN": "[UNAVAILABLE]"}),
        ({"clientHostname": "[192.0.2.1]"}, {"NAME": "[TEMPUNAVAIL]"}),
        ({"clientHostname": ""}, {"NAME": "[TEMPUNAVAIL]"}),
        ({"remoteAddress": "2001:db8::1"}, {"ADDR": "IPV6:2001:db8::1"}),
        ({"remoteAddress": "::ffff:192.0.2.9"}, {"ADDR": "192.0.2.9"}),
        (
            {"remoteAddress": "/run/client", "clientHostname": "[/run/client]", "remotePort": 0},
            {"ADDR": "[UNAVAILABLE]", "NAME": "[UNAVAILABLE]", "PORT": "[UNAVAILABLE]"},
        ),
        ({"openingCommand": "HELO"}, {"PROTO": "SMTP"}),
        ({"hostNameAppearsAs": ""}, {"HELO": "[UNAVAILABLE]"}),
        ({"hostNameAppearsAs": "x" * 256}, {"HELO": "[UNAVAILABLE]"}),
        ({"localAddress": "", "localPort": 0}, {"DESTADDR": "[UNAVAILABLE]", "DESTPORT": "[UNAVAILABLE]"}),
    ],
)
def test_what_is_not_known_is_told_as_such(changed: dict[str, Any], expected: dict[str, str]) -> None:
    session = Session(**{**KNOWN, **changed})
    assert dict(xClientOf(session)).items() >= expected.items()
    # Our own server takes it.
    parseXClient(" ".join(f"{name}={value}" for name, value in xClientOf(session)))
    parseXForward(" ".join(f"{name}={value}" for name, value in xForwardOf(session).items()))


def test_what_came_by_xforward_is_told_on_and_nothing_of_the_filter() -> None:
    session = Session(**KNOWN, xForward={"ADDR": "198.51.100.1", "NAME": ""})
    assert xForwardOf(session) == {"ADDR": "198.51.100.1", "NAME": "[UNAVAILABLE]"}
