"""What the connections of one server have in common, and may have in common with those of another."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from smtphooks import SMTPError
from tests.support import HELLO, Client, makeFactory


def refuse(text: str, session: object) -> None:
    raise SMTPError("No")


def test_servers_that_share_limits_of_the_log_sum_up_what_any_of_them_has_left_out() -> None:
    one, other = makeFactory(onVrfy=refuse), makeFactory(onVrfy=refuse)
    clock = other.clock = one.clock
    assert isinstance(clock, Clock)
    other.server.shareLines(one.server.lines)
    client = Client(other)
    client.say(HELLO)
    with capturedLogs() as events:
        client.say(*["VRFY user"] * 13)
        clock.pump([1, 1])
    texts = [event["log_format"] for event in events]
    assert sum("refused by" in text for text in texts) == 10
    assert [event["count"] for event in events if "more refusals" in event["log_format"]] == [3]
