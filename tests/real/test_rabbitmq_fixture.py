"""The broker that tests start: it keeps what it has confirmed, and nothing of it is left running."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.real.programs import eventually
from tests.real.rabbitmq import RabbitMQ, brokers, needsRabbitMQ

pytestmark = needsRabbitMQ


def hasEnded(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_confirmed_message_outlives_kill_and_stop(rabbitmq: RabbitMQ) -> None:
    rabbitmq.declare("fixture.kept")
    rabbitmq.publish("fixture.kept", b"one")
    rabbitmq.kill()
    rabbitmq.start()
    rabbitmq.publish("fixture.kept", b"two")
    rabbitmq.stop()
    rabbitmq.start()
    assert [message.body for message in rabbitmq.waitFor("fixture.kept", 2)] == [b"one", b"two"]


def test_a_paused_broker_goes_on(rabbitmq: RabbitMQ) -> None:
    rabbitmq.declare("fixture.paused")
    rabbitmq.pause()
    eventually(lambda: "State:\tT" in Path(f"/proc/{rabbitmq.pid}/status").read_text(), "the broker stands still")
    rabbitmq.resume()
    rabbitmq.publish("fixture.paused", b"one")
    assert rabbitmq.count("fixture.paused") == 1


def test_a_broker_ends_with_its_port_mapper_even_if_it_is_paused(tmp_path: Path) -> None:
    with brokers(tmp_path) as start:
        broker = start()
        assert broker._epmd is not None
        pids = [broker.pid, broker._epmd.pid]
        broker.pause()
    assert all(map(hasEnded, pids))


def test_rabbitmqctl_speaks_to_this_broker(rabbitmq: RabbitMQ) -> None:
    rabbitmq.declare("fixture.listed")
    assert "fixture.listed\tquorum" in rabbitmq.ctl("list_queues", "name", "type")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_queue_is_taken_empty(rabbitmq: RabbitMQ, kind: str) -> None:
    name = f"fixture.{kind}"
    rabbitmq.declare(name, kind)
    rabbitmq.publish(name, b"one", message_id="1")
    (message,) = rabbitmq.waitFor(name, 1)
    assert (message.body, message.properties.message_id, message.routingKey) == (b"one", "1", name)
    assert rabbitmq.take(name) == []
