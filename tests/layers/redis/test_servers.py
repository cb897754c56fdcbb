"""The servers of one Redis: the slots of a cluster."""

from __future__ import annotations

import pytest

from smtphooks.layers.redis.servers import slotOf


# As CLUSTER KEYSLOT says.
@pytest.mark.parametrize(
    "key, slot",
    [(b"", 0), (b"123456789", 12739), (b"foo", 12182), (b"{foo}bar", 12182), (b"a{foo}{bar}", 12182), (b"{}foo", 9500)],
)
def test_the_slot_of_a_key_is_that_of_its_tag(key: bytes, slot: int) -> None:
    assert slotOf(key) == slot
