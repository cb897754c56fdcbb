"""The supervisor: how it starts, reloads and ends, with workers in memory and real sockets."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from smtphooks.service import supervisor, workerpool
from smtphooks.service.control import Control
from smtphooks.service.ending import StartError
from smtphooks.service.handover import HandOver
from smtphooks.service.opening import Opened
from smtphooks.service.program import Program
from smtphooks.service.reading import readSettings
from smtphooks.service.settings import ConfigError, Settings
from smtphooks.service.supervisor import Supervisor
from smtphooks.service.workers import DRAINING, NOWHERE, READY
from tests.conftest import Logged
from tests.service.crew import Crew, RecordingTable, StandIn

KILLED = int(signal.SIGKILL)
LOOPBACK = "tcp:0:interface=127.0.0.1"


class Reactor(Clock):
    """A reactor that runs when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.isRunning = False
        self.stops = 0
        self._queue: list[Callable[[], object]] = []

    def callWhenRunning(self, function: Any, *arguments: Any) -> None:
        if self.isRunning:
            function(*arguments)
        else:
            self._queue.append(lambda: function(*arguments))

    def begin(self) -> None:
        self.isRunning = True
        for call in self._queue:
            call()

    def stop(self) -> None:
        if self.stops:
            raise ReactorNotRunning
        self.stops += 1


class Checks(Program):
    """A program whose check is made by the test."""

    made: list[Deferred[None]] = []

    def check(self, reactor: Any, timeout: float = 0.0) -> Any:
        checking: Deferred[None] = Deferred()
        self.made.append(checking)
        return checking


class ControlStandIn:
    """A control socket that is written down."""

    there: list[str] = []

    def __init__(self, path: str, operator: Any, reactor: Any) -> None:
        self.path = path
        self.operator = operator

    def start(self) -> None:
        if "wrong" in self.path:
            raise ConfigError(f"{self.path} cannot be made")
        self.there.append(self.path)

    def stop(self) -> Deferred[None]:
        self.there.remove(self.path)
        return succeed(None)


@attrs.define
class Service:
    """A supervisor, with what is around it."""

    folder: Path
    reactor: Reactor = attrs.field(factory=Reactor)
    crew: Any = None
    told: list[str] = attrs.field(factory=list)
    lines: list[str] = attrs.field(factory=list)
    supervisor: Any = None
    tables: list[Any] = attrs.field(factory=list)
    checks: list[Deferred[None]] = attrs.field(factory=list)
    controls: list[str] = attrs.field(factory=list)
    replaced: list[HandOver] = attrs.field(factory=list)

    def write(
        self, workers: int = 2, top: str = "", endpoints: tuple[str, ...] = (LOOPBACK,), options: str = ""
    ) -> None:
        listeners = "".join(f'[[listener]]\nendpoint = "{endpoint}"\n' for endpoint in endpoints)
        number = f"workers = {workers}\n" if workers else ""
        text = f"{number}{top}\n[options]\nauthOptional = true\n{options}\n{listeners}"
        (self.folder / "smtphooks.toml").write_text(text)

    def settings(self) -> Settings:
        return readSettings(str(self.folder / "smtphooks.toml"))

    def make(self, handedOver: HandOver | None = None) -> Supervisor:
        program = Checks([], str(self.folder))
        self.supervisor = Supervisor(self.settings, program, self.reactor, {}, None, handedOver)
        self.crew = Crew(self.reactor, self.supervisor.pool, self.tables[-1] if self.tables else None)
        return self.supervisor

    def start(self, handedOver: HandOver | None = None) -> list[StandIn]:
        """Start it as twistd does, until its workers have been started."""
        self.make(handedOver)
        self.supervisor.privilegedStartService()
        self.supervisor.startService()
        self.reactor.begin()
        return list(self.crew.started)

    def serve(self) -> list[StandIn]:
        """Start it until it serves."""
        workers = self.start()
        self.ready()
        return workers

    def ready(self) -> None:
        """All that start are ready."""
        for worker in [*self.crew.started]:
            if worker.status is None:
                worker.say("ready")

    def reload(self) -> list[StandIn]:
        """Reload, until new workers have been started."""
        before = len(self.crew.started)
        self.supervisor.reload()
        self.checked()
        return list(self.crew.started[before:])

    def checked(self) -> None:
        self.checks.pop(0).callback(None)

    def stop(self) -> list[object]:
        """Stop it; all workers end."""
        done: list[object] = []
        self.supervisor.stopService().addCallback(done.append)
        for worker in [*self.supervisor.pool.workers]:
            worker.died.callback(0)
        return done

    def make_(self, columns: int) -> RecordingTable:
        table = RecordingTable()
        self.tables.append(table)
        if self.crew is not None:
            self.crew.table = table
        return table


def openNow() -> set[str]:
    """What this process has open, where the system shows it; Twisted makes pipes when it is imported."""
    files = set()
    with suppress(FileNotFoundError):
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                files.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {file for file in files if not file.startswith("pipe:")}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.chdir(tmp_path)
    one = Service(tmp_path)
    one.write()

    class Tables:
        create = staticmethod(one.make_)

        @staticmethod
        def attach(descriptor: int, column: int | None) -> Any:
            if descriptor == 999:
                raise ValueError("the table was made by another version")
            return one.make_(8)

    def start(*arguments: Any) -> StandIn:
        worker: StandIn = one.crew.start(*arguments)
        return worker

    def replace(handOver: HandOver, *_: object) -> None:
        one.replaced.append(handOver)
        raise FileNotFoundError(2, "No such file or directory")

    def observe(event: Any) -> None:
        if str(event.get("log_namespace")).startswith("smtphooks.service"):
            one.lines.append(str(event["log_format"]).format(**event))

    monkeypatch.setattr(workerpool, "start", start)
    monkeypatch.setattr(supervisor, "Table", Tables)
    monkeypatch.setattr(supervisor, "notify", lambda state: one.told.append(state.partition("\n")[0]))
    monkeypatch.setattr(supervisor, "replaceProgram", replace)
    monkeypatch.setattr(supervisor, "Control", ControlStandIn)
    monkeypatch.setattr(ControlStandIn, "there", one.controls)
    monkeypatch.setattr(Checks, "made", one.checks)
    globalLogPublisher.addObserver(observe)
    before = openNow()
    yield one
    globalLogPublisher.removeObserver(observe)
    if one.supervisor is not None and one.supervisor.running:
        assert one.stop() == [None]
        assert one.reactor.getDelayedCalls() == []
        assert one.controls == []
    for table in one.tables:
        if not table.isClosed:
            os.close(table.fd)
    left = openNow() - before
    assert not left, f"left open: {left}"


def portOf(service: Service, number: int = 0) -> int:
    return int(service.supervisor._opened.listeners[number].getHost().port)


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


# --- the start ---


def test_it_is_ready_when_all_workers_are(service: Service) -> None:
    one, two = service.start()
    assert connects(portOf(service))
    one.say("ready")
    assert service.told == [] and service.supervisor._state() == "serving"
    two.say("ready")
    assert service.told == ["READY=1"]
    assert service.lines[-2:] == [
        f"listening on {LOOPBACK} (127.0.0.1:{portOf(service)})",
        "2 workers serve",
    ]
    assert service.supervisor.isReady()


def test_a_worker_that_never_is_ready_ends_the_service_with_a_failure(
    service: Service, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", registered.append)
    one, _ = service.start()
    one.end(256)
    assert service.reactor.stops == 1 and len(registered) == 1
    assert logged.takeTexts() == [
        "worker 1 has ended with status 1 before it was ready",
        "worker 1 has ended with status 1 before it was ready, see the log",
    ]


@pytest.mark.parametrize("what", ["process", "table"])
def test_what_is_not_to_be_had_at_the_start_ends_the_service_with_a_failure(
    what: str, service: Service, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", registered.append)
    error = OSError(errno.EMFILE, "Too many open files")
    service.make()
    if what == "process":
        service.crew.failing.append(error)
    else:
        monkeypatch.setattr(supervisor.Table, "create", lambda _: (_ for _ in ()).throw(error))
    service.supervisor.privilegedStartService()
    service.supervisor.startService()
    service.reactor.begin()
    assert service.reactor.stops == 1 and len(registered) == 1
    assert "workers cannot start: Too many open files, allow more (LimitNOFILE" in logged.takeTexts()[0]


def test_whatever_fails_at_the_start_ends_the_service_with_a_failure(
    service: Service, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", registered.append)
    monkeypatch.setattr(supervisor, "staffingOf", lambda *_: (_ for _ in ()).throw(ImportError("No module named 'x'")))
    service.start()
    assert service.reactor.stops == 1 and len(registered) == 1
    assert logged.takeTexts() == ["workers cannot start: ImportError: No module named 'x'"]


def test_metrics_that_cannot_be_made_keep_no_worker_from_starting(
    service: Service, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "Gathering", lambda *_: (_ for _ in ()).throw(ImportError("No module named 'x'")))
    service.write(top='metrics = "tcp:0:interface=127.0.0.1"')
    assert len(service.serve()) == 2
    assert "READY=1" in service.told
    assert len(logged.takeFailures(ImportError)) == 1


def test_an_endpoint_that_cannot_be_opened_is_one_sentence(service: Service, logged: Logged) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        service.write(endpoints=(LOOPBACK, f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"))
        service.make()
        with pytest.raises(StartError, match="Address already in use, free it or name another endpoint"):
            service.supervisor.privilegedStartService()
    assert len(logged.takeTexts()) == 1
    service.supervisor.running = 0


def test_one_that_is_stopped_before_the_reactor_runs_starts_no_worker(service: Service) -> None:
    service.make()
    service.supervisor.privilegedStartService()
    service.supervisor.startService()
    assert service.stop() == [None]
    service.reactor.begin()
    assert service.crew.started == [] and service.controls == []


def test_one_that_is_stopped_while_it_starts_ends_without_a_failure(service: Service) -> None:
    service.start()
    assert service.stop() == [None]
    assert service.reactor.stops == 0
    assert service.told == ["STOPPING=1"]


def test_a_stop_closes_sockets_and_then_waits_for_the_workers(service: Service) -> None:
    one, two = service.serve()
    port = portOf(service)
    done: list[object] = []
    service.supervisor.stopService().addCallback(done.append)
    assert one.signals == two.signals == [signal.SIGTERM]
    assert not connects(port) and not service.supervisor.isReady()
    one.end(0)
    assert done == []
    two.end(0)
    assert done == [None]
    assert service.told[-1] == "STOPPING=1"
    assert service.reactor.getDelayedCalls() == []


# --- a reload ---


def test_a_reload_tells_systemd_and_says_what_was_done(service: Service) -> None:
    old = service.serve()
    service.told.clear()
    new = service.reload()
    assert service.told == ["RELOADING=1"] and service.supervisor.isReloading
    assert service.supervisor._state() == "reloading"
    service.ready()
    assert service.told == ["RELOADING=1", "READY=1"]
    assert all(worker.state == READY for worker in new)
    assert all(worker.state == DRAINING for worker in old)
    assert service.lines[-1] == "2 new workers serve, those before them drain"
    assert service.supervisor._numbers()["smtphooks_reloads_total"] == {"done": 1, "refused": 0}


def refusals(service: Service, logged: Logged) -> list[str]:
    """The sentences of refused reloads, after which all is as it was."""
    assert service.told[-1] == "READY=1" and not service.supervisor.isReloading
    sentences = [text for text in logged.takeTexts() if text.startswith("cannot reload")]
    assert service.supervisor._numbers()["smtphooks_reloads_total"]["refused"] == len(sentences)
    return [text.removeprefix("cannot reload, all stays as it was: ") for text in sentences]


def test_a_configuration_that_is_wrong_changes_nothing(service: Service, logged: Logged) -> None:
    old = service.serve()
    (service.folder / "smtphooks.toml").write_text("workers =")
    service.supervisor.reload()
    assert "this is not TOML" in refusals(service, logged)[0]
    assert service.checks == [] and service.crew.started == old


def test_a_configuration_in_which_the_check_finds_something_wrong_changes_nothing(
    service: Service, logged: Logged
) -> None:
    old = service.serve()
    service.supervisor.reload()
    service.checks.pop().errback(ConfigError("smtphooks.toml: no"))
    assert refusals(service, logged) == ["smtphooks.toml: no"]
    assert service.crew.started == old


def test_a_check_that_breaks_is_logged_and_changes_nothing(service: Service, logged: Logged) -> None:
    service.serve()
    service.supervisor.reload()
    service.checks.pop().errback(RuntimeError("odd"))
    assert len(logged.takeFailures(RuntimeError)) == 1
    assert service.told[-1] == "READY=1" and len(service.crew.started) == 2


def test_workers_that_never_are_ready_change_nothing_and_leave_nothing(service: Service, logged: Logged) -> None:
    old = service.serve()
    port = portOf(service)
    before = openNow()
    service.write(4, endpoints=(LOOPBACK, LOOPBACK))
    new = service.reload()
    new[0].say("ready")
    new[1].end(256)
    assert refusals(service, logged) == ["worker 2 has ended with status 1 before it was ready, see the log"]
    for worker in new:
        if worker.status is None:
            assert worker.signals == [signal.SIGKILL]
            worker.end(KILLED)
    assert all(worker.state == READY for worker in old)
    assert openNow() <= before
    assert connects(port)
    assert service.supervisor.pool.workers == old


@pytest.mark.parametrize(("seconds", "isLate"), [(9, False), (11, True)])
def test_another_reload_gives_up_workers_that_wait_for_what_never_comes(
    seconds: float, isLate: bool, service: Service, logged: Logged
) -> None:
    old = service.serve()
    late = service.reload()
    late[0].say("ready")
    service.reactor.advance(seconds)
    service.supervisor.reload()
    assert [worker.signals for worker in late] == [[], [signal.SIGKILL] if isLate else []]
    late[1].end(KILLED)
    assert len(service.checks) == 1
    service.checked()
    service.ready()
    assert all(worker.state == DRAINING for worker in old)
    assert any("is given up for another reload" in line for line in service.lines) == isLate
    assert refusals(service, logged) == ["worker 2 was killed by SIGKILL before it was ready, see the log"]


def test_no_process_to_be_had_changes_nothing(service: Service, logged: Logged) -> None:
    old = service.serve()
    service.crew.failing.append(OSError(errno.EAGAIN, "Resource temporarily unavailable"))
    service.reload()
    assert "Resource temporarily unavailable" in refusals(service, logged)[0]
    assert service.supervisor.pool.workers == old


def test_an_endpoint_that_cannot_be_opened_changes_nothing(service: Service, logged: Logged) -> None:
    service.serve()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        service.write(endpoints=(LOOPBACK, f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"))
        assert service.reload() == []
    assert "Address already in use" in refusals(service, logged)[0]
    assert connects(portOf(service))


def test_a_reload_cannot_end_the_supervisor(service: Service, logged: Logged) -> None:
    service.serve()
    service.write(0)
    service.supervisor.reload()
    assert "workers is missing, restart the service to serve without workers" in refusals(service, logged)[0]


def test_a_reload_cannot_leave_the_machine_without_a_worker(service: Service, logged: Logged) -> None:
    service.write(3)
    service.serve()
    service.supervisor.pool.holdBack(1)
    service.write(1)
    service.supervisor.reload()
    assert "all workers would be out of service, let one go on" in refusals(service, logged)[0]
    assert len(service.crew.started) == 3


def test_what_is_new_listens_and_what_is_not_needed_is_closed(service: Service) -> None:
    service.serve()
    first = portOf(service)
    service.write(endpoints=(LOOPBACK, "tcp:0:interface=127.0.0.2"))
    service.reload()
    service.ready()
    assert portOf(service) == first
    assert service.lines[-2] == f"listening on tcp:0:interface=127.0.0.2 (127.0.0.2:{portOf(service, 1)})"
    service.write(endpoints=("tcp:0:interface=127.0.0.3",))
    service.reload()
    service.ready()
    assert not connects(first)


def test_sockets_for_more_workers_listen_when_these_are_ready(service: Service) -> None:
    service.write(1)
    service.serve()
    service.write(3)
    new = service.reload()
    (sockets,) = service.supervisor._opened.listeners
    assert (len(sockets.descriptors), sockets.listening) == (3, 1)
    service.ready()
    assert sockets.listening == 3
    assert [worker.serving for worker in new] == [[0], [1], [2]]


def test_sockets_that_do_not_listen_yet_are_served_by_nobody(service: Service) -> None:
    service.write(1)
    (old,) = service.serve()
    service.write(3)
    service.reload()
    old.end(KILLED)
    service.crew.last.say("ready")
    assert service.crew.last.serving == [0]
    service.ready()


def test_many_reloads_that_are_asked_for_are_one_after_that_which_goes_on(service: Service) -> None:
    service.serve()
    service.reload()
    for _ in range(5):
        service.supervisor.reload()
    assert service.checks == []
    service.ready()
    assert len(service.checks) == 1 and service.supervisor.isReloading
    service.checked()
    service.ready()
    assert service.checks == [] and not service.supervisor.isReloading
    assert service.supervisor._numbers()["smtphooks_reloads_total"]["done"] == 2


def test_a_reload_that_is_asked_for_during_the_start_comes_after_it(service: Service) -> None:
    service.start()
    service.supervisor.reload()
    assert service.checks == []
    service.ready()
    assert len(service.checks) == 1
    service.checked()
    service.ready()


def test_a_reload_waits_for_room(service: Service) -> None:
    old = service.serve()
    generations = [old]
    while service.supervisor.pool.hasRoomFor(2):
        generations.append(service.reload())
        service.ready()
    assert service.reload() == []
    assert service.lines[-1] == "the reload waits until workers of reloads before it have drained"
    old[0].end(0)
    assert len(service.crew.started) == 2 * len(generations)
    old[1].end(0)
    assert len(service.crew.started) == 2 * len(generations) + 2
    service.ready()
    assert not service.supervisor.isReloading


def test_many_more_workers_get_a_larger_table(service: Service) -> None:
    service.write(1)
    service.serve()
    service.write(20)
    assert len(service.reload()) == 20
    service.ready()
    assert not service.supervisor.isReloading
    assert len(service.tables) == 2


@pytest.mark.parametrize("what", ["endpoint", "start", "process"])
def test_a_larger_table_is_none_if_the_workers_for_it_never_are_ready(
    what: str, service: Service, logged: Logged
) -> None:
    service.write(1)
    service.serve()
    table = service.supervisor.pool.table
    if what == "process":
        service.crew.failing.append(OSError(errno.EAGAIN, "Resource temporarily unavailable"))
    service.write(20, endpoints=(LOOPBACK, "tcp:1:interface=192.0.2.1") if what == "endpoint" else (LOOPBACK,))
    service.reload()
    if what == "start":
        for worker in service.crew.started[1:]:
            worker.end(256)
    assert len(refusals(service, logged)) == 1
    service.crew.table = table
    service.supervisor.pool.workers[0].end(KILLED)
    assert service.crew.last.table is table
    assert service.supervisor.pool.columns == 4
    for other in service.tables:
        # The memory is given back when the last worker is gone, and the descriptor now.
        other.isClosed = other is not table
    logged.takeTexts()


# --- the end of a reload ---


@pytest.mark.parametrize("when", ["check", "room", "start", "ready"])
def test_a_stop_during_a_reload_ends_both(when: str, service: Service) -> None:
    service.serve()
    if when == "room":
        while service.supervisor.pool.hasRoomFor(2):
            service.reload()
            service.ready()
    service.supervisor.reload()
    if when != "check":
        service.checked()
    started = len(service.crew.started)
    if when == "ready":
        service.crew.last.say("ready")
    service.told.clear()
    done: list[object] = []
    service.supervisor.stopService().addCallback(done.append)
    if when == "ready":
        service.ready()
    if when == "check":
        service.checked()
    while service.supervisor.pool.workers:
        service.supervisor.pool.workers[0].died.callback(0)
    assert done == [None]
    assert len(service.crew.started) == started
    assert service.told == ["STOPPING=1"]
    assert service.reactor.getDelayedCalls() == []
    assert service.controls == []


def test_nothing_is_reloaded_after_the_stop(service: Service) -> None:
    service.serve()
    service.stop()
    service.supervisor.reload()
    service.supervisor.upgrade()
    assert service.checks == []


# --- the close timeout ---


@pytest.mark.parametrize(
    "options, own, seconds",
    [
        ("", "", 30.0),
        ("closeTimeout = 7", "", 7.0),
        ("closeTimeout = 7", "closeTimeout = 90", 90.0),
        ("closeTimeout = 0", "", 0.0),
    ],
)
def test_workers_have_the_longest_close_timeout(options: str, own: str, seconds: float, service: Service) -> None:
    service.write(options=options)
    with open(service.folder / "smtphooks.toml", "a") as file:
        file.write(own)
    service.serve()
    assert service.supervisor.pool.staffing.closeTimeout == seconds


# --- a new program ---


def test_what_is_handed_over_is_all_that_there_is(service: Service, logged: Logged) -> None:
    service.write(3)
    workers = service.serve()
    service.supervisor.pool.holdBack(3)
    service.supervisor.pool.refuse(True)
    service.supervisor.upgrade()
    service.checked()
    (handOver,) = service.replaced
    assert handOver.workers == workers
    assert (handOver.heldBack, handOver.isRefusing) == ([3], True)
    assert handOver.opened is service.supervisor._opened
    assert handOver.table[0] == service.crew.table.fd
    assert refusals(service, logged) == [
        "the program cannot be replaced: FileNotFoundError: [Errno 2] No such file or directory"
    ]


def test_an_upgrade_that_is_asked_for_during_a_reload_is_not_lost(service: Service, logged: Logged) -> None:
    service.serve()
    service.reload()
    service.supervisor.upgrade()
    service.supervisor.reload()
    service.ready()
    service.checked()
    assert len(service.replaced) == 1
    logged.takeTexts()


def handedOver(service: Service, *workers: StandIn, table: int = 3) -> HandOver:
    opened = supervisor.openAll(service.settings(), Opened())
    numbers = {"restarts": {"died": 3, "hung": 1}, "reloads": {"done": 2, "refused": 1}}
    return HandOver(opened, workers, (table, 8), [], False, [], numbers)


def standIn(number: int, column: int) -> StandIn:
    return StandIn(number, 3, column, 0.0, None, state=READY, hasBeaten=True)


def test_a_new_program_goes_on_with_the_workers_and_then_reloads(service: Service) -> None:
    one, two = standIn(1, 4), standIn(2, 5)
    assert service.start(handedOver(service, one, two)) == []
    assert (one.serving, two.serving) == ([0], [1])
    assert connects(portOf(service))
    service.checked()
    assert len(service.crew.started) == 2
    service.ready()
    assert one.state == two.state == DRAINING
    assert service.told[-1] == "READY=1"
    numbers = service.supervisor._numbers()
    assert numbers["smtphooks_reloads_total"] == {"done": 3, "refused": 1}
    assert numbers["smtphooks_worker_restarts_total"] == {"died": 3, "hung": 1}


def test_a_new_program_gives_nobodys_column_to_one_that_counts_in_another_table(service: Service) -> None:
    one, two, old = standIn(1, 4), standIn(2, 5), standIn(1, NOWHERE)
    old.state, old.generation = DRAINING, 2
    service.start(handedOver(service, one, two, old))
    table = service.supervisor.pool.table
    assert (one.table, two.table, old.table) == (table, table, None)
    old.end(0)
    assert NOWHERE not in service.crew.table.cleared


def test_a_new_program_whose_table_is_another_one_has_workers_count_in_a_new_one(service: Service) -> None:
    one, two = standIn(1, 4), standIn(2, 5)
    service.start(handedOver(service, one, two, table=999))
    service.checked()
    service.ready()
    one.end(0), two.end(0)
    assert {worker.generation for worker in service.supervisor.pool.workers} == {4}
    assert (one.column, two.column) == (NOWHERE, NOWHERE)


def test_a_new_program_serves_metrics_that_the_one_before_did_not_serve_after_its_reload(service: Service) -> None:
    given = handedOver(service, standIn(1, 0), standIn(2, 1))
    service.write(top='metrics = "tcp:0:interface=127.0.0.1"')
    service.start(given)
    assert service.supervisor._gathering is None
    service.write()
    service.checked()
    service.ready()


# --- the operator ---


def test_the_control_socket_moves_only_if_its_key_changes(service: Service) -> None:
    service.write(top='control = "one"')
    service.serve()
    assert service.controls == [str(service.folder / "one")]
    first = service.supervisor._control
    service.reload()
    service.ready()
    assert service.supervisor._control is first
    service.write(top='control = "two"')
    service.reload()
    service.ready()
    assert service.controls == [str(service.folder / "two")]


def test_a_control_socket_that_cannot_move_stays(service: Service, logged: Logged) -> None:
    service.write(top='control = "one"')
    service.serve()
    service.write(top='control = "wrong"')
    service.reload()
    service.ready()
    assert service.controls == [str(service.folder / "one")]
    (text,) = logged.takeTexts()
    assert text.startswith(f"smtphooks status and drain stay at {service.folder / 'one'}: ")
    assert service.supervisor._numbers()["smtphooks_reloads_total"]["done"] == 1


def test_a_control_socket_that_cannot_be_made_does_not_keep_the_service_from_its_work(
    service: Service, logged: Logged
) -> None:
    service.write(top='control = "wrong"')
    service.serve()
    assert logged.takeTexts()[0].startswith("smtphooks status and drain do not work: ")
    assert service.supervisor.isReady()
    service.write(top='control = "right"')
    service.reload()
    service.ready()
    assert service.controls == [str(service.folder / "right")]


def test_the_state_is_a_word(service: Service) -> None:
    service.start()
    assert service.supervisor._state() == "starting"
    service.ready()
    assert service.supervisor._state() == "serving"
    service.supervisor.pool.refuse(True)
    assert service.supervisor._state() == "draining"
    assert not service.supervisor.isReady()


# --- signals ---


def test_signals_mean_reload_upgrade_and_the_end(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[Any, Any] = {}
    monkeypatch.setattr(supervisor, "takeSignals", lambda _, handlers: taken.update(handlers))
    service.serve()
    taken[signal.SIGHUP]()
    assert len(service.checks) == 1
    service.checked()
    service.ready()
    taken[signal.SIGTERM]()
    taken[signal.SIGTERM]()
    assert service.reactor.stops == 1
    assert service.lines[-1] == "received SIGTERM, closing"
    assert set(taken) == {signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM}


def test_the_real_control_socket_is_what_stands_for_it_here() -> None:
    assert {"start", "stop"} <= {*dir(Control)} & {*dir(ControlStandIn)}
