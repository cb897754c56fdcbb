"""A worker: what it tells its supervisor and what it does when it is told, with real sockets and a real channel."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from twisted.logger import capturedLogs, formatEvent

from smtphooks.privatereactor import privateReactor
from smtphooks.service import worker
from smtphooks.service.checking import configure
from smtphooks.service.reading import defaultSettings
from smtphooks.service.settings import ListenerSettings
from smtphooks.service.sockets import ListeningSockets, open_
from smtphooks.service.worker import WorkerService, takePlace
from smtphooks.service.workers import Place
from smtphooks.sharedtable import Table, currentTable, useTable
from tests.conftest import Logged
from tests.real.programs import PATIENCE

LOOPBACK = "tcp:0:interface=127.0.0.1"


class Slow:
    """Hooks that take their time to start."""

    def __init__(self) -> None:
        self.starting: Any = None

    def onStart(self, service: Any) -> Any:
        return self.starting


class Supervised:
    """A worker in this process, and the end of the supervisor."""

    def __init__(self, sockets: ListeningSockets, number: int = 1, endpoint: str = LOOPBACK, **options: Any) -> None:
        self.reactor: Any = privateReactor()
        self.sockets = sockets
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        self._read = b""
        self.told: list[Any] = []
        self.channel = theirs.detach()
        listeners = [ListenerSettings(endpoint, endpoint, options)]
        configuration = configure(attrs.evolve(defaultSettings(), listeners=listeners))
        place = Place(
            number, 0, [(sockets.family, sockets.isShared, [*map(os.dup, sockets.descriptors)])], self.channel, -1
        )
        self.service = WorkerService(configuration, self.reactor, place)
        self.factory = configuration.listeners[0].factory

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()
        self.reactor.startRunning(installSignalHandlers=False)

    def turn(self) -> None:
        self.reactor.iterate(0.01)
        try:
            while octets := self.ours.recv(65536):
                self._read += octets
        except OSError:
            pass
        *lines, self._read = self._read.split(b"\n")
        self.told += [json.loads(line) for line in lines]

    def until(self, isThere: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not isThere():
            assert time.monotonic() < deadline, self.told
            self.turn()

    def hears(self, kind: str) -> bool:
        return any(each["kind"] == kind for each in self.told)

    def tell(self, kind: str, **fields: object) -> None:
        self.ours.sendall(json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def ask(self, kind: str) -> Any:
        self.tell(kind, ask=5)
        self.until(lambda: self.hears("answer"))
        (answer,) = [each for each in self.told if each["kind"] == "answer"]
        self.told.remove(answer)
        return answer["result"]

    def greeting(self) -> bytes:
        """What a new client gets, b"" if nobody accepts for some turns."""
        host = self.sockets.getHost()
        with socket.create_connection((host.host, host.port)) as client:
            client.setblocking(False)
            for _ in range(20):
                self.turn()
                try:
                    return client.recv(1000)
                except BlockingIOError:
                    continue
        return b""

    def close(self) -> None:
        done: list[object] = []
        if self.service.running:
            self.service.stopService().addBoth(done.append)
            self.until(lambda: done)
        else:
            self.service._endpoints[0].close()
        self.ours.close()
        os.close(self.channel)
        assert not self.service._endpoints[0]._sockets[1], "a socket is left to a worker that has ended"


@pytest.fixture(autouse=True)
def folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sockets() -> Iterator[ListeningSockets]:
    one = open_(LOOPBACK, 0, 2, [])
    yield one
    one.close()


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """How often it has stopped its reactor."""
    found: list[object] = []
    monkeypatch.setattr(worker, "stopReactor", found.append)
    return found


@pytest.fixture
def supervised(sockets: ListeningSockets, stops: list[object]) -> Iterator[Supervised]:
    one = Supervised(sockets)
    yield one
    one.close()


# --- a worker serves ---


def test_it_says_when_it_is_ready_and_serves_what_it_is_told(supervised: Supervised) -> None:
    supervised.start()
    supervised.until(lambda: supervised.hears("ready") and supervised.hears("beat"))
    assert supervised.greeting() == b""
    supervised.tell("serve", sockets=[0, 1])
    supervised.turn()
    assert supervised.greeting().startswith(b"220 ")


class Broken:
    """An endpoint whose sockets cannot be served."""

    description = "unix:broken"

    def serve(self, sockets: list[int]) -> None:
        raise OSError("they are not to be had")

    def close(self) -> None:
        pass


def test_an_endpoint_that_cannot_be_served_keeps_no_other_from_it(supervised: Supervised, logged: Logged) -> None:
    supervised.start()
    endpoints: list[Any] = supervised.service._endpoints
    endpoints.insert(0, Broken())
    supervised.tell("serve", sockets=[0, 1])
    supervised.turn()
    assert supervised.greeting().startswith(b"220 ")
    endpoints.pop(0)
    assert len(logged.takeFailures(OSError)) == 1


def test_a_terminal_can_interrupt_it_once_its_reactor_runs(supervised: Supervised) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        supervised.service.privilegedStartService()
        supervised.service.startService()
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, {})
        supervised.reactor.startRunning(installSignalHandlers=False)
        supervised.until(lambda: supervised.hears("beat"))
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, {})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_beat_tells_numbers_and_the_status_what_connections_wait_for(supervised: Supervised) -> None:
    supervised.start()
    supervised.until(lambda: supervised.hears("beat"))
    (beat,) = [each for each in supervised.told if each["kind"] == "beat"]
    assert {"connections", "accepted", "messages", "processor"} <= set(beat)
    status = supervised.ask("status")
    assert status["listeners"] == {LOOPBACK: 0} and status["waits"] == {}


def test_without_metrics_it_has_none_to_tell(supervised: Supervised) -> None:
    supervised.start()
    assert supervised.ask("metrics") == {"snapshot": []}


def test_it_turns_clients_away_when_it_is_told(supervised: Supervised) -> None:
    supervised.start()
    supervised.tell("serve", sockets=[0, 1])
    supervised.tell("refuse", isRefusing=True)
    supervised.until(lambda: supervised.factory.isRefusing)
    assert supervised.greeting().startswith(b"421 ")
    supervised.tell("refuse", isRefusing=False)
    supervised.until(lambda: not supervised.factory.isRefusing)
    assert supervised.greeting().startswith(b"220 ")


def test_one_worker_says_what_holds_for_all(sockets: ListeningSockets, stops: list[object]) -> None:
    for number, speaks in ((1, True), (2, False)):
        one = Supervised(sockets, number)
        assert one.service.speaks is speaks
        one.close()


# --- the end ---


def test_the_last_word_is_what_it_has_counted(supervised: Supervised) -> None:
    supervised.start()
    supervised.until(lambda: supervised.hears("ready"))
    done: list[object] = []
    supervised.service.stopService().addCallback(done.append)
    supervised.until(lambda: done)
    supervised.turn()
    assert supervised.told[-1] == {"kind": "counted", "snapshot": []}
    assert supervised.ours.recv(10) == b""
    assert supervised.reactor.getDelayedCalls() == []


def test_it_drains_and_then_ends(supervised: Supervised, stops: list[object]) -> None:
    supervised.start()
    supervised.tell("serve", sockets=[0, 1])
    supervised.turn()
    host = supervised.sockets.getHost()
    with socket.create_connection((host.host, host.port)) as client:
        supervised.until(lambda: supervised.factory.connections)
        supervised.tell("drain")
        for _ in range(5):
            supervised.turn()
        assert stops == []
        assert supervised.greeting() == b""
        assert client.recv(1000).startswith(b"220 ")
        client.sendall(b"QUIT\r\n")
        supervised.until(lambda: stops)


def test_what_it_is_told_to_serve_while_it_drains_it_does_not_serve(
    supervised: Supervised, stops: list[object]
) -> None:
    supervised.start()
    supervised.tell("serve", sockets=[0])
    supervised.tell("drain")
    supervised.tell("serve", sockets=[0, 1])
    supervised.until(lambda: stops)
    assert supervised.greeting() == b""


def test_without_its_supervisor_it_closes(supervised: Supervised, stops: list[object], logged: Logged) -> None:
    supervised.start()
    supervised.until(lambda: supervised.hears("ready"))
    supervised.ours.close()
    supervised.until(lambda: stops)
    assert logged.takeTexts() == ["the supervisor has ended, closing"]


def test_one_that_has_not_started_can_be_stopped(sockets: ListeningSockets) -> None:
    one = Supervised(sockets)
    done: list[object] = []
    one.service.privilegedStartService()
    one.service.startService()
    one.service.stopService().addCallback(done.append)
    for _ in range(3):
        one.reactor.iterate(0)
    assert len(done) == 1
    one.close()


# --- its place ---


def test_a_process_without_a_place_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTPHOOKS_WORKER", raising=False)
    assert takePlace() is None
    assert currentTable() is None


def test_a_worker_counts_by_itself_if_the_table_is_that_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as channel, open(os.devnull) as table, capturedLogs() as events:
        place = Place(2, 3, [], channel.fileno(), table.fileno())
        monkeypatch.setattr(faulthandler, "enable", lambda _: None)
        monkeypatch.setenv("SMTPHOOKS_WORKER", json.dumps(attrs.asdict(place)))
        found = takePlace()
    assert found is not None and found.number == 2
    assert currentTable() is None
    assert formatEvent(events[0]) == "worker 2 counts by itself: the table was made by another version"


def test_a_worker_counts_in_its_column_and_what_it_starts_has_no_part_in_it(
    sockets: ListeningSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table.create(4)
    ours, theirs = socket.socketpair()
    place = Place(2, 3, [(sockets.family, False, sockets.descriptors)], theirs.fileno(), table.fd)
    given = [theirs.fileno(), table.fd, *sockets.descriptors]
    for descriptor in given:
        os.set_inheritable(descriptor, True)
    enabled: list[object] = []
    monkeypatch.setattr(faulthandler, "enable", enabled.append)
    monkeypatch.setenv("SMTPHOOKS_WORKER", json.dumps(attrs.asdict(place)))
    try:
        found = takePlace()
        current = currentTable()
        assert found is not None and current is not None
        assert (found.number, current.column, current.columns) == (2, 3, 4)
        assert "SMTPHOOKS_WORKER" not in os.environ
        assert not any(os.get_inheritable(descriptor) for descriptor in given)
        assert enabled == [2]
        current.close()
    finally:
        useTable(None)
        ours.close()
        theirs.close()
        table.close()
        os.close(table.fd)
