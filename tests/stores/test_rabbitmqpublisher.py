"""The publisher, with links of a test and a clock that stands still: which node is used, and when none is tried."""

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import Clock

from smtphooks.hooks import Unavailable
from smtphooks.stores.rabbitmqaddress import addressOf
from smtphooks.stores.rabbitmqconfirms import NotTaken
from smtphooks.stores.rabbitmqpublisher import Publisher, Room

NODES = ("amqp://one", "amqp://two", "amqp://three")


class Link:
    """A link that opens when the test says so."""

    def __init__(self, address):
        self.host = address.host
        self.lost = Deferred()
        self.blocked = None
        self.hasConfirmed = False
        self.opening = Deferred()
        self.isClosed = False

    async def open(self):
        try:
            await self.opening
        except CancelledError:
            raise Unavailable("cancelled") from None

    async def close(self):
        self.isClosed = True

    def fail(self):
        self.opening.errback(Unavailable(f"{self.host} is down"))


class Nodes:
    def __init__(self, *urls):
        self.clock = Clock()
        self.links = []
        self.publisher = Publisher(list(map(addressOf, urls or NODES)), self.make, self.clock, 10)

    def make(self, address):
        self.links.append(Link(address))
        return self.links[-1]

    def ask(self):
        return ensureDeferred(self.publisher.link())

    def opened(self):
        """A link that was asked for and is open."""
        asked = self.ask()
        self.links[-1].opening.callback(None)
        return got(asked)

    def downAll(self):
        asked = self.ask()
        for _ in NODES:
            self.links[-1].fail()
        return failed(asked)


def got(result):
    found = []
    result.addCallback(found.append)
    return found[0]


def failed(result, kind=Unavailable):
    found = []
    result.addErrback(found.append)
    assert found[0].check(kind)
    return str(found[0].value)


def test_all_that_ask_have_the_one_link():
    nodes = Nodes()
    asked = [nodes.ask() for _ in range(3)]
    nodes.links[0].opening.callback(None)
    assert [got(each) for each in [*asked, nodes.ask()]] == [nodes.links[0]] * 4


def test_the_next_node_is_tried_where_one_fails():
    nodes = Nodes()
    asked = nodes.ask()
    nodes.links[0].fail()
    nodes.links[1].opening.callback(None)
    assert got(asked).host == "two"


def test_a_node_that_does_not_answer_is_left_in_time():
    nodes = Nodes()
    asked = nodes.ask()
    nodes.clock.advance(10)
    nodes.links[1].opening.callback(None)
    assert got(asked).host == "two"


def test_all_nodes_down_are_tried_again_later_each_time_later():
    nodes = Nodes()
    assert nodes.downAll() == "one is down; two is down; three is down"
    for pause in (1, 2, 4, 8, 16, 30, 30):
        tried = len(nodes.links)
        assert f"next attempt in {pause} seconds" in failed(nodes.ask(), NotTaken)
        nodes.clock.advance(pause - 0.1)
        failed(nodes.ask())
        assert len(nodes.links) == tried
        nodes.clock.advance(0.1)
        nodes.downAll()
        assert len(nodes.links) == tried + 3


def test_a_lost_node_is_tried_last():
    nodes = Nodes()
    link = nodes.opened()
    nodes.clock.advance(60)
    link.lost.callback("killed")
    assert nodes.opened().host == "two"


def test_a_link_lost_early_is_not_opened_again_at_once():
    nodes = Nodes()
    nodes.opened().lost.callback("NOT_FOUND")
    assert "RabbitMQ at one:5672: NOT_FOUND; next attempt in 1 seconds" in failed(nodes.ask())
    nodes.clock.advance(1)
    nodes.opened().lost.callback("NOT_FOUND")
    assert "in 2 seconds" in failed(nodes.ask())
    nodes.clock.advance(2)
    link = nodes.opened()
    nodes.clock.advance(60)
    link.lost.callback("killed")
    assert nodes.opened()


def test_the_next_node_takes_the_place_of_one_that_has_worked_at_once():
    nodes = Nodes()
    nodes.opened().lost.callback("NOT_FOUND")
    nodes.clock.advance(1)
    link = nodes.opened()
    link.hasConfirmed = True
    link.lost.callback("killed")
    assert nodes.opened().host == "three"
    nodes.links[-1].lost.callback("NOT_FOUND")
    assert "in 1 seconds" in failed(nodes.ask())


def test_a_blocked_link_is_given_to_nobody():
    nodes = Nodes()
    link = nodes.opened()
    link.blocked = "low on disk"
    assert "low on disk" in failed(nodes.ask(), NotTaken)
    link.blocked = None
    assert got(nodes.ask()) is link


def test_who_leaves_takes_no_other_along():
    nodes = Nodes()
    leaving, staying = nodes.ask(), nodes.ask()
    leaving.cancel()
    failed(leaving, CancelledError)
    nodes.links[0].opening.callback(None)
    assert got(staying) is nodes.links[0]


def test_close_ends_an_attempt_and_a_link():
    nodes = Nodes()
    asked = nodes.ask()
    got(ensureDeferred(nodes.publisher.close()).addCallback(lambda _: True))
    assert failed(asked)
    assert len(nodes.links) == 1
    assert not nodes.clock.getDelayedCalls()
    assert "closed" in failed(nodes.ask())
    nodes = Nodes()
    link = nodes.opened()
    ensureDeferred(nodes.publisher.close())
    assert link.isClosed


def test_start_opens_a_link_and_raises_nothing():
    nodes = Nodes()
    nodes.publisher.start()
    nodes.links[0].opening.callback(None)
    assert got(nodes.ask()) is nodes.links[0]
    nodes = Nodes("amqp://one")
    nodes.publisher.start()
    nodes.links[0].fail()
    nodes.publisher.start()
    assert len(nodes.links) == 1


def test_an_error_of_our_own_is_logged_and_fails_who_asks(logged):
    nodes = Nodes("amqp://one")
    asked = nodes.ask()
    nodes.links[0].opening.errback(ZeroDivisionError())
    assert failed(asked)
    assert logged.takeFailures(ZeroDivisionError)


# --- room ---


def take(room, octets):
    done = []
    ensureDeferred(room.take(octets)).addCallbacks(lambda _: done.append(True), lambda failure: done.append(False))
    return done


def test_room_is_given_in_order():
    room = Room(10)
    assert take(room, 6) == [True]
    large, small = take(room, 5), take(room, 1)
    assert (large, small) == ([], [])
    room.give(6)
    assert (large, small) == ([True], [True])


def test_what_is_larger_than_the_room_has_it_alone():
    room = Room(10)
    first = take(room, 100)
    second = take(room, 1)
    assert (first, second) == ([True], [])
    room.give(100)
    assert second == [True]


def test_who_leaves_makes_room_for_the_next():
    room = Room(10)
    take(room, 6)
    leaving = ensureDeferred(room.take(9))
    waiting = take(room, 4)
    leaving.cancel()
    failed(leaving, CancelledError)
    assert waiting == [True]


@pytest.mark.parametrize("octets", [0, 5])
def test_room_that_was_given_back_is_all_there(octets):
    room = Room(5)
    for _ in range(3):
        assert take(room, octets) == [True]
        room.give(octets)


@pytest.mark.parametrize("isServed", [False, True])
@pytest.mark.parametrize("error", [CancelledError(), GeneratorExit()])
def test_who_is_ended_before_it_goes_on_gives_its_room_back(isServed, error):
    # A task of asyncio goes on some time after that for which it waits has come.
    room = Room(5)
    take(room, 5)
    task = room.take(5)
    task.send(None)
    waiting = take(room, 5)
    if isServed:
        room.give(5)
        assert waiting == []
    with pytest.raises(type(error)):
        task.throw(error)
    if not isServed:
        room.give(5)
    assert waiting == [True]
