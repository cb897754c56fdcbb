"""Opening: what is known is taken on, what is new is opened, and it is all or nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtphooks.service.opening import CannotOpen, Opened, openAll
from smtphooks.service.settings import ListenerSettings, Settings, WorkerSettings

LOOPBACK = "tcp:0:interface=127.0.0.1"


def settings(*endpoints: str, metrics: str | None = None, workers: int = 2) -> Settings:
    listeners = [ListenerSettings(endpoint, endpoint) for endpoint in endpoints]
    return Settings([], {}, listeners, metrics=metrics, workers=WorkerSettings(workers))


def sockets() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return {each for each in found if each.startswith("socket:")}


@pytest.fixture(autouse=True)
def nothingStaysOpen() -> Iterator[None]:
    before = sockets()
    yield
    assert sockets() <= before


def anyPort() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_each_listener_has_sockets_in_order_and_the_metrics_have_one(tmp_path: Path) -> None:
    opened = openAll(settings(LOOPBACK, f"unix:{tmp_path / 'lmtp'}", metrics=LOOPBACK, workers=3), Opened())
    assert [one.isShared for one in opened.listeners] == [False, True]
    assert len(opened.listeners[0].descriptors) == 3
    assert len(opened.metrics[0].descriptors) == 1
    assert opened.all == [*opened.listeners, *opened.metrics]
    assert opened.listeners[0].getHost().port != opened.metrics[0].getHost().port
    opened.close(Opened())


def test_known_sockets_are_taken_on_whatever_their_order(tmp_path: Path) -> None:
    first, second, metrics = [f"tcp:{anyPort()}:interface=127.0.0.1" for _ in range(3)]
    before = openAll(settings(first, second, metrics=metrics), Opened())
    after = openAll(settings(second, first, f"unix:{tmp_path / 'lmtp'}", metrics=metrics), before)
    assert after.listeners[:2] == [before.listeners[1], before.listeners[0]]
    assert after.metrics == before.metrics
    before.close(after)
    assert all(one.descriptors for one in after.all)
    after.close(Opened())


def test_what_is_needed_no_more_is_closed(tmp_path: Path) -> None:
    before = openAll(settings(LOOPBACK, f"unix:{tmp_path / 'lmtp'}", metrics=LOOPBACK), Opened())
    after = openAll(settings(LOOPBACK), before)
    before.close(after)
    assert os.listdir(tmp_path) == []
    assert [len(one.descriptors) for one in before.all] == [2, 0, 0]
    after.close(Opened())


def test_it_is_all_or_nothing(tmp_path: Path) -> None:
    before = openAll(settings(LOOPBACK, workers=1), Opened())
    open_ = sockets()
    wrong = f"unix:{tmp_path / 'missing' / 'lmtp'}"
    with pytest.raises(CannotOpen) as caught:
        openAll(settings(LOOPBACK, f"unix:{tmp_path / 'lmtp'}", wrong, workers=4), before)
    assert caught.value.endpoint == wrong
    assert caught.value.__cause__ is not None
    assert sockets() == open_
    assert len(before.listeners[0].descriptors) == 1
    assert os.listdir(tmp_path) == []
    before.close(Opened())


def test_a_reload_that_is_given_up_closes_what_it_had_opened() -> None:
    before = openAll(settings(LOOPBACK, workers=1), Opened())
    open_ = sockets()
    after = openAll(settings(LOOPBACK, "tcp:0:interface=127.0.0.2", workers=4), before)
    after.close(before)
    assert sockets() == open_
    before.close(Opened())


def test_sockets_for_more_workers_listen_when_they_are_told_to() -> None:
    before = openAll(settings(LOOPBACK, workers=1), Opened())
    after = openAll(settings(LOOPBACK, LOOPBACK, workers=2), before)
    assert [one.listening for one in after.all] == [1, 2]  # a new endpoint has nobody to take clients from
    after.listen()
    assert [one.listening for one in after.all] == [2, 2]
    after.close(Opened())


def test_two_endpoints_do_not_have_the_same_socket() -> None:
    endpoint = f"tcp:{anyPort()}:interface=127.0.0.1"
    with pytest.raises(CannotOpen):
        openAll(settings(endpoint, endpoint), Opened())
    before = openAll(settings(endpoint), Opened())
    with pytest.raises(CannotOpen):
        openAll(settings(endpoint, endpoint), before)
    assert before.listeners[0].descriptors
    before.close(Opened())


def test_a_description_that_is_wrong_cannot_be_opened() -> None:
    with pytest.raises(CannotOpen) as caught:
        openAll(settings(LOOPBACK, "nothing:1"), Opened())
    assert caught.value.endpoint == "nothing:1"
