"""What a channel has yet to confirm: each outcome belongs to its message, in whatever order the broker tells them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError

from smtphooks.hooks import Unavailable
from smtphooks.stores.rabbitmqconfirms import Confirms, NotTaken, Publication, describeError


class Channel:
    """A channel, and what became of each message by its id."""

    def __init__(self, *ids):
        self.confirms = Confirms("mx.example")
        self.outcomes = {}
        self.publications = {}
        for id in ids:
            self.publish(id)

    def publish(self, id):
        publication = self.publications[id] = Publication(id)
        publication.outcome.addCallbacks(
            lambda _: self.outcomes.update({id: None}), lambda failure: self.outcomes.update({id: failure.value})
        )
        self.confirms.add(publication)

    @property
    def kinds(self):
        return {id: error and type(error) for id, error in self.outcomes.items()}


def test_numbers_begin_with_one():
    channel = Channel("a", "b")
    channel.confirms.confirmed(1, False, True)
    assert channel.kinds == {"a": None}
    channel.confirms.confirmed(0, False, True)
    channel.confirms.confirmed(1, False, True)
    channel.confirms.confirmed(3, False, True)
    assert channel.kinds == {"a": None}


def test_multiple_confirms_all_up_to_it_and_zero_all():
    channel = Channel(*"abcde")
    channel.confirms.confirmed(2, False, True)
    channel.confirms.confirmed(3, True, True)
    assert channel.kinds == dict.fromkeys("abc")
    channel.confirms.confirmed(0, True, False)
    assert channel.kinds == {**dict.fromkeys("abc"), **dict.fromkeys("de", NotTaken)}
    assert len(channel.confirms) == 0


def test_a_returned_message_fails_although_others_are_confirmed_before_it():
    channel = Channel(*"abcd")
    channel.confirms.returned("c", "NO_ROUTE")
    channel.confirms.confirmed(2, True, True)
    assert channel.kinds == {"a": None, "b": None}
    channel.confirms.confirmed(4, True, True)
    assert channel.kinds == {"a": None, "b": None, "c": NotTaken, "d": None}
    assert "NO_ROUTE" in str(channel.outcomes["c"])


def test_the_same_id_is_not_pending_twice_but_may_come_again():
    channel = Channel("a")
    with pytest.raises(ValueError):
        channel.publish("a")
    channel.confirms.confirmed(1, False, False)
    channel.publish("a")
    channel.confirms.confirmed(2, False, True)
    assert channel.kinds == {"a": None}


def test_what_was_given_up_is_confirmed_later_to_nobody():
    channel = Channel("a", "b")
    channel.confirms.giveUp(Unavailable("blocked"))
    channel.publish("c")
    channel.confirms.confirmed(3, True, True)
    assert channel.kinds == {"a": Unavailable, "b": Unavailable, "c": None}


def test_a_message_nobody_waits_for_keeps_its_number():
    channel = Channel("a", "b")
    ended = []
    channel.publications["a"].onEnd(lambda: ended.append("a"))
    channel.publications["a"].outcome.cancel()
    assert ended == ["a"]
    channel.confirms.confirmed(1, False, False)
    channel.confirms.confirmed(2, False, True)
    assert channel.kinds == {"a": CancelledError, "b": None}
    assert ended == ["a"]


def test_the_end_fails_what_is_left_once():
    channel = Channel("a", "b")
    channel.confirms.confirmed(1, False, True)
    channel.confirms.fail(Unavailable("lost"))
    channel.confirms.fail(Unavailable("lost"))
    assert channel.kinds == {"a": None, "b": Unavailable}


@given(st.lists(st.sampled_from(["publish", "return", "ack", "nack", "ackAll", "nackAll"]), max_size=60), st.data())
def test_every_outcome_is_that_of_its_message(events, data):
    """A broker that keeps its own books, and confirms in any order."""
    channel = Channel()
    pending, returned, expected = [], set(), {}
    number = 0
    for event in events:
        if event == "publish":
            number += 1
            channel.publish(str(number))
            pending.append(number)
            continue
        if not pending:
            continue
        tag = data.draw(st.sampled_from(pending))
        if event == "return":
            returned.add(tag)
            channel.confirms.returned(str(tag), "NO_ROUTE")
            continue
        multiple, isTaken = event.endswith("All"), event.startswith("ack")
        for each in [one for one in pending if one == tag or (multiple and one < tag)]:
            pending.remove(each)
            expected[str(each)] = None if isTaken and each not in returned else NotTaken
        channel.confirms.confirmed(tag, multiple, isTaken)
        assert channel.kinds == expected
    channel.confirms.fail(Unavailable("lost"))
    assert channel.kinds == {**{str(each): Unavailable for each in pending}, **expected}


def test_an_error_is_described_by_what_the_broker_says():
    class Closed(Exception):
        reply_text = "NOT_FOUND - no queue"

    assert describeError(Closed()) == "NOT_FOUND - no queue"
    assert describeError(ValueError("x" * 1000)) == "x" * 300
    assert describeError(CancelledError()) == "CancelledError"
