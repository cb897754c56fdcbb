"""The store that stores nothing."""

from __future__ import annotations

from smtphooks.stores import Discard
from tests.support import ENVELOPE, connect


def test_a_message_is_accepted_and_dropped() -> None:
    client = connect(hooks=[Discard()])
    assert client.last(*ENVELOPE, "DATA", "text", ".") == "250 2.0.0 Message accepted"
