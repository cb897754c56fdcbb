"""A link that cannot be used takes no message, and knows that for certain; with a broker it is in tests/real."""

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import ensureDeferred as start
from twisted.internet.task import Clock

from smtphooks.hooks import Unavailable
from smtphooks.stores.rabbitmqaddress import addressOf
from smtphooks.stores.rabbitmqconfirms import NotTaken
from smtphooks.stores.rabbitmqlink import Link, Target

pika = pytest.importorskip("pika")


def makeLink(url="amqp://127.0.0.1:1"):
    return Link(addressOf(url), Target("", "mail", False, None, 30), Clock())


class Channel:
    def basic_publish(self, *arguments, **named):
        raise AssertionError("published")


@pytest.mark.parametrize("isOpen, blocked, why", [(True, "low on disk", "low on disk"), (False, None, "is lost")])
def test_a_link_that_is_blocked_or_lost_takes_no_message(isOpen, blocked, why):
    link = makeLink()
    link._channel = Channel()
    link.isOpen, link.blocked = isOpen, blocked
    with pytest.raises(NotTaken) as caught:
        link.publish("1", pika.BasicProperties(message_id="1"), b"text")
    assert why in str(caught.value)


def test_a_message_that_cannot_be_told_is_not_counted():
    link = makeLink()
    link._channel = Channel()
    link.isOpen = True
    with pytest.raises(NotTaken):
        link.publish("1", pika.BasicProperties(message_id="1"), b"text")
    assert len(link._confirms) == 0


@ensureDeferred
async def test_a_node_that_is_down_ends_the_link():
    link = makeLink()
    with pytest.raises(Unavailable) as caught:
        await link.open()
    assert "RabbitMQ at 127.0.0.1:1 cannot be used: " in str(caught.value)
    assert "refused" in await link.lost
    await link.close()


def test_an_opening_that_is_cancelled_ends_the_link():
    link = makeLink("amqp://192.0.2.1")
    opening = start(link.open())
    opening.cancel()
    assert opening.addErrback(lambda failure: failure.trap(Unavailable)).called
    assert link.lost.called
