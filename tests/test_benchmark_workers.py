"""The benchmark of workers: its servers, its bar, and one real run of each part, as short as possible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from benchmarks import bars, measure, report
from benchmarks.bars import BARS, Bar, verdictsOf
from benchmarks.load import SmtpSource
from benchmarks.peers import HASHING, STORING
from benchmarks.rounds import BUSY, RATE, Record
from benchmarks.servers import smtphooks_server, smtphooks_workers
from benchmarks.workloads import MACHINE, WORKLOADS, Capacity

ROOT = Path(__file__).parents[1]
BY_NAME = {workload.name: workload for workload in (*WORKLOADS, *MACHINE)}
(BAR,) = (bar for bar in BARS if bar.workload == "workers")
POSTFIX = shutil.which("smtp-source", path=f"{os.environ['PATH']}:/usr/sbin")


def recordOf(one: float, two: float) -> Record:
    rates = {HASHING[1].name: one, HASHING[2].name: two}
    return Record(BY_NAME["workers"], [{label: {RATE: rate, BUSY: 100.0} for label, rate in rates.items()}] * 9)


def pretendCores(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(measure, "allCores", lambda: tuple(range(number)))


# --- the bar ---


@pytest.mark.parametrize("two, held", [(171, True), (170, True), (169, False)])
def test_two_workers_carry_at_least_1_7_times_what_one_carries(
    two: float, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretendCores(monkeypatch, 2)
    (verdict,) = verdictsOf([BAR], {"workers": recordOf(100, two)})
    assert verdict.held is held
    assert verdict.isBehind is not held
    assert str(verdict).endswith(f"{two / 100:g}, at least 1.7")


def test_on_one_core_the_bar_of_two_workers_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(BY_NAME["workers"], [], {HASHING[2].name: "needs 2 cores, and may use 1"})
    pretendCores(monkeypatch, 1)
    (verdict,) = verdictsOf([BAR], {"workers": record})
    assert not verdict.isBehind
    assert not verdict.held
    assert str(verdict).startswith("  skip") and str(verdict).endswith("needs 2 cores, and may use 1")
    pretendCores(monkeypatch, 2)
    (verdict,) = verdictsOf([BAR], {"workers": record})
    assert verdict.isBehind


def test_a_check_plays_one_and_two_workers_alone() -> None:
    (played,) = bars.neededFor(WORKLOADS, [BAR])
    assert [turn.label for turn in played.turns] == [HASHING[1].name, HASHING[2].name]


def test_a_bar_is_a_maximum_where_it_has_no_minimum() -> None:
    assert Bar("1k", "CPU µs", "smtphooks", 0.5, "aiosmtpd").limit == "at most 0.5"


def test_a_table_compares_what_workers_carry() -> None:
    text = report.block(recordOf(80, 152))
    assert f"1.900 (1.900-1.900)  {HASHING[2].name} / {HASHING[1].name}" in text


# --- the servers ---


@pytest.mark.parametrize(
    "variant, expected",
    [
        ("hashing-0", {"hooks": "benchmarks.servers.smtphooks_workers:Hashing"}),
        (
            "hashing-2",
            {
                "hooks": "benchmarks.servers.smtphooks_workers:Hashing",
                "workers": 2,
                "control": "hashing-2.control",
            },
        ),
        (
            "maildir-1",
            {
                "workers": 1,
                "control": "maildir-1.control",
                "layer": [{"use": "smtphooks.stores:Maildir", "path": "/folder/maildir-1"}],
            },
        ),
    ],
)
def test_services_differ_by_their_number_of_workers_alone(variant: str, expected: dict[str, object]) -> None:
    text = smtphooks_workers.configurationOf("2525", "smtp", "/folder", variant)
    assert tomllib.loads(text) == {
        **expected,
        "options": smtphooks_server.optionsFor("smtp", "/folder"),
        "listener": [{"endpoint": smtphooks_server.endpoint("2525")}],
    }


def test_each_worker_has_a_load_of_its_own_to_carry() -> None:
    for name, peers in (("workers", HASHING), ("workers-maildir", STORING), ("workers-connections", STORING)):
        for (number, peer), turn in zip(peers.items(), BY_NAME[name].turns, strict=True):
            assert turn.peer is peer
            assert isinstance(turn.job, Capacity) and isinstance(turn.job.load, SmtpSource)
            # The kernel spreads sessions at random, with fewer of them a worker might have none.
            assert turn.job.load.sessions >= 16 * max(number, 1)
            assert turn.job.load.scaled(0.01).count >= turn.job.load.sessions


def test_a_service_with_workers_may_run_on_all_cores_and_another_one_on_that_of_the_servers() -> None:
    ours, theirs = measure.cores()
    assert measure.coresOf(True) == measure.allCores()
    assert measure.coresOf(False) == (theirs,)
    assert {ours, theirs} <= {*measure.allCores()}


LATE = r"""
import os, signal, socket, sys
client, _ = socket.create_server(("127.0.0.1", int(sys.argv[1]))).accept()
for reply in (b"220 early\r\n", b"250 early\r\n"):
    client.sendall(reply)
    client.recv(1024)
# The first worker has answered; now the second one comes.
late = [open("/dev/null") for _ in range(100)]
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.sendto(b"READY=1", chr(0) + os.environ["NOTIFY_SOCKET"][1:])
signal.pause()
"""

STARTED = f"""
import os
from dataclasses import replace
from benchmarks import measure
from benchmarks.peers import HASHING
from benchmarks.running import started
os.sched_setaffinity(0, {{measure.cores()[0]}})
peer = replace(HASHING[2], program=({sys.executable!r}, "-c", {LATE!r}))
with started([peer], "smtp") as servers:
    print(measure.openFiles(servers[peer].pid))
"""


def test_a_service_is_measured_once_all_of_its_workers_are_ready() -> None:
    done = subprocess.run([sys.executable, "-c", STARTED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


# --- real runs ---


def benchmark(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(POSTFIX is None, reason="Postfix is not installed")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
def test_a_quick_run_compares_two_workers_with_one(tmp_path: Path) -> None:
    text = benchmark("run", "--only", "workers", "--output", str(tmp_path))
    assert f"{HASHING[2].name} / {HASHING[1].name}" in text
    (played,) = json.loads((tmp_path / "results.json").read_text())["workloads"]["workers"]["rounds"]
    assert all(figures[RATE] > 0 and figures[BUSY] > 0 for figures in played.values())


@pytest.mark.skipif(POSTFIX is None, reason="Postfix is not installed")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
def test_a_quick_run_writes_how_much_this_machine_carries(tmp_path: Path) -> None:
    names = ["workers-maildir", "workers-memory"]
    only = [argument for name in names for argument in ("--only", name)]
    text = benchmark("machine", *only, "--output", str(tmp_path))
    written = (tmp_path / "workers.txt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["workers.txt"]
    for name in names:
        assert f"({name}, 1 rounds)" in text and f"({name}, 1 rounds)" in written
    assert written.count(f"{STORING[2].name} / {STORING[1].name}") == len(names)
    assert str(ROOT) not in written


def test_a_command_that_measures_nothing_leaves_the_results_of_others(tmp_path: Path) -> None:
    benchmark("run", "--only", "workers-memory", "--output", str(tmp_path))
    benchmark("machine", "--only", "1k", "--output", str(tmp_path))
    assert not [*tmp_path.iterdir()]
