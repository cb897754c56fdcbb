"""Time limits: those of RFC 5321, and each is kept by the connection (test_connection.py)."""

from __future__ import annotations

import attrs

from smtphooks.client import Timeouts


def test_the_defaults_are_at_least_those_of_RFC_5321_for_what_it_names() -> None:
    """Section 4.5.3.2."""
    timeouts = Timeouts()
    assert timeouts.greeting >= 300
    assert timeouts.command >= 300  # MAIL and RCPT
    assert timeouts.data >= 120
    assert timeouts.block >= 180
    assert timeouts.message >= 600


def test_they_are_a_value() -> None:
    assert Timeouts(command=1) == Timeouts(command=1)
    assert {field.name for field in attrs.fields(Timeouts)} == {
        *("connect", "greeting", "command", "data", "block", "message", "turn")
    }
