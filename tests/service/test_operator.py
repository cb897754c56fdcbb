"""The operator: what may be asked and ordered, and what is refused with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from smtphooks.service.channel import ChannelError
from smtphooks.service.operator import Operator
from smtphooks.service.workers import DRAINING
from tests.conftest import Logged
from tests.service.crew import Crew, makeCrew


@attrs.define
class Operated:
    crew: Crew
    operator: Operator
    reloads: list[str]


@pytest.fixture
def operated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    for crew in makeCrew(monkeypatch):
        reloads: list[str] = []
        operator = Operator(crew.pool, lambda: "serving", lambda found=reloads: found.append("reload"), crew.clock)
        yield Operated(crew, operator, reloads)


def test_a_worker_is_taken_out_of_service_and_serves_again(operated: Operated) -> None:
    _, two = operated.crew.begin(2)
    operated.operator.drain(2)
    assert two.state == DRAINING and operated.crew.pool.heldBack == {2}
    operated.operator.resume(2)
    assert operated.crew.last.number == 2 and operated.crew.pool.heldBack == set()


def test_the_last_worker_in_service_is_not_taken_out_of_it(operated: Operated) -> None:
    operated.crew.begin(2)
    operated.operator.drain(2)
    with pytest.raises(ChannelError, match="worker 1 is the last one in service, drain the machine without a number"):
        operated.operator.drain(1)
    assert operated.crew.pool.isServing
    operated.operator.drain(2)  # it is already


def test_the_only_worker_is_not_taken_out_of_service(operated: Operated) -> None:
    operated.crew.begin(1)
    with pytest.raises(ChannelError, match="is the last one in service"):
        operated.operator.drain(1)


def test_a_worker_is_not_taken_out_of_service_while_the_others_cannot_serve(operated: Operated, logged: Logged) -> None:
    _, two = operated.crew.begin(2)
    two.end(9)
    operated.crew.last.end(9)  # it is started again in a second
    with pytest.raises(ChannelError, match="worker 1 is the last one in service"):
        operated.operator.drain(1)
    assert operated.crew.pool.heldBack == set()
    operated.crew.clock.advance(1)
    operated.crew.last.say("ready")
    operated.operator.drain(1)
    assert operated.crew.last.serving == [0, 1]
    logged.takeTexts()


@pytest.mark.parametrize("number", [0, -1, 3])
def test_a_worker_that_is_not_there_is_a_sentence(number: int, operated: Operated) -> None:
    operated.crew.begin(2)
    for order in (operated.operator.drain, operated.operator.resume):
        with pytest.raises(ChannelError, match=f"^there is no worker {number}, there are 2$"):
            order(number)


def test_the_machine_turns_clients_away_and_lets_them_in_again(operated: Operated) -> None:
    one, two = operated.crew.begin(2)
    one.told(), two.told()
    operated.operator.drain(None)
    assert one.told() == two.told() == [("refuse", True)]
    operated.operator.resume(None)
    assert one.told() == two.told() == [("refuse", False)]


def test_to_go_on_means_all_that_were_taken_out_of_service(operated: Operated) -> None:
    operated.crew.begin(3)
    operated.operator.drain(1)
    operated.operator.drain(2)
    operated.operator.resume(None)
    assert [worker.number for worker in operated.crew.started[3:]] == [1, 2]


def test_the_status_has_a_word_and_those_out_of_service(operated: Operated) -> None:
    _, two = operated.crew.begin(2)
    operated.operator.drain(2)
    two.end(0)
    found: list[Any] = []
    operated.operator.statusOf().addCallback(found.append)  # type: ignore[attr-defined]
    operated.crew.clock.advance(2)
    assert found[0]["state"] == "serving"
    states = {each["number"]: each["state"] for each in found[0]["workers"]}
    assert states == {1: "ready", 2: "out of service"}


def test_a_reload_is_passed_on(operated: Operated) -> None:
    operated.operator.reload()
    assert operated.reloads == ["reload"]
