"""The benchmark: its statistics, its bars, its measurements of a process; and one real run, as short as possible."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from benchmarks import bars, compare, measure, report
from benchmarks.bars import BARS, Bar, GrowthBar, verdictsOf
from benchmarks.compare import Summary
from benchmarks.load import CHUNKED, PIPELINED, SEQUENTIAL, Connection, Dialogue, SmtpSource
from benchmarks.peers import PEERS, environment
from benchmarks.profiling import COROUTINES, KERNEL, LOG, ORDER, OTHER, REACTOR, partOf
from benchmarks.rounds import CPU, RATE, Record, rotated
from benchmarks.running import makeCertificate
from benchmarks.servers import smtphooks_server, smtphooks_service
from benchmarks.workloads import WORKLOADS, Burst
from smtphooks.hooks import HOOKS

ROOT = Path(__file__).parents[1]
BY_NAME = {workload.name: workload for workload in WORKLOADS}


def roundsOf(values: Mapping[str, Sequence[float]]) -> list[dict[str, dict[str, float]]]:
    """Rounds in which each label had these costs, in order."""
    return [
        {label: {CPU: value, RATE: 1e6 / value} for label, value in zip(values, each, strict=True)}
        for each in zip(*values.values(), strict=True)
    ]


def recordOf(name: str, values: Mapping[str, Sequence[float]]) -> Record:
    return Record(BY_NAME[name], roundsOf(values))


# --- statistics ---


def test_ratios_are_paired_within_a_round() -> None:
    # The machine was twice as slow in the second round; the ratios must not show it.
    rounds = roundsOf({"a": [10, 20, 12], "b": [20, 40, 24]})
    assert compare.ratios(rounds, CPU, "a", "b") == [0.5, 0.5, 0.5]


def test_a_round_without_one_of_the_pair_is_left_out() -> None:
    rounds = [{"a": {CPU: 1.0}}, {"a": {CPU: 1.0}, "b": {CPU: 4.0}}]
    assert compare.ratios(rounds, CPU, "a", "b") == [0.25]
    assert compare.absolute(rounds, CPU, "b") == [4.0]


@pytest.mark.parametrize(
    "values, expected",
    [([3.0], Summary(3, 3, 3)), ([5, 1, 4, 2, 3], Summary(3, 2, 4)), ([1, 1, 1, 1, 100], Summary(1, 1, 1))],
)
def test_spread_is_the_middle_half(values: list[float], expected: Summary) -> None:
    assert Summary.of(values) == expected


def test_a_summary_needs_a_measurement() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Summary.of([])


@pytest.mark.parametrize(
    "costs, expected",
    [
        ((150, 1050, 10050), 1.0),  # 50, and 100 for each unit; the 50 are left out
        ((150, 1050, 19950), 2.0),
        ((150, 1050, 5100), 0.5),
    ],
)
def test_growth_leaves_out_the_fixed_cost(costs: tuple[float, ...], expected: float) -> None:
    rounds = roundsOf({"1": [costs[0]], "10": [costs[1]], "100": [costs[2]]})
    (growth,) = compare.growth(rounds, CPU, {"1": 1, "10": 10, "100": 100})
    assert growth == pytest.approx(expected, rel=0.01)


def test_each_server_goes_first_in_some_round() -> None:
    turns = BY_NAME["size"].turns
    orders = [[turn.label for turn in rotated(list(turns), number)] for number in range(len(turns))]
    assert {order[0] for order in orders} == {turn.label for turn in turns}
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


# --- bars ---

BAR = Bar("1k", CPU, "smtphooks", 0.5, "aiosmtpd")


@pytest.mark.parametrize("cost, held", [(49, True), (50, True), (51, False)])
def test_a_ratio_behind_its_bar_fails(cost: float, held: bool) -> None:
    record = recordOf("1k", {"smtphooks": [cost] * 9, "aiosmtpd": [100] * 9})
    (verdict,) = verdictsOf([BAR], {"1k": record})
    assert verdict.held is held
    assert ("BEHIND" in str(verdict)) is not held


def test_a_bar_without_its_measurements_fails() -> None:
    record = recordOf("1k", {"smtphooks": [1] * 9})
    record.skipped["aiosmtpd"] = "is not here: pip install aiosmtpd"
    for records in ({"1k": record}, {}):
        (verdict,) = verdictsOf([BAR], records)
        assert not verdict.held
    (verdict,) = verdictsOf([BAR], {"1k": record})
    assert "aiosmtpd is not here: pip install aiosmtpd" in str(verdict)


@pytest.mark.parametrize("last, held", [(100_000, True), (200_000, False), (10_000, True)])
def test_only_growth_counts_against_linear_cost(last: float, held: bool) -> None:
    record = recordOf("recipient-count", {"1": [100], "10": [1000], "100": [10_000], "1000": [last]})
    (verdict,) = verdictsOf([GrowthBar("recipient-count", CPU, "", 1.25)], {"recipient-count": record})
    assert verdict.held is held


def test_every_bar_names_turns_of_its_workload() -> None:
    for bar in BARS:
        assert set(bar.labels) <= {turn.label for turn in BY_NAME[bar.workload].turns}, str(bar)


def test_a_check_runs_only_what_its_bars_need() -> None:
    (played,) = bars.neededFor(WORKLOADS, [BAR])
    assert [turn.label for turn in played.turns] == ["smtphooks", "aiosmtpd", "canned replies"]


def test_a_verdict_shows_the_canned_replies_but_does_not_depend_on_them() -> None:
    record = recordOf("1k", {"smtphooks": [60] * 9, "aiosmtpd": [100] * 9, "canned replies": [55] * 9})
    (verdict,) = verdictsOf([BAR], {"1k": record})
    assert str(verdict).startswith("BEHIND")
    assert str(verdict).endswith("0.6, at most 0.5 (canned replies: 0.55)")


def test_a_table_names_both_sides_of_a_ratio() -> None:
    record = recordOf("1k", {"smtphooks": [10], "smtphooks, all hooks": [12], "aiosmtpd": [40]})
    text = report.block(record)
    assert "0.250 (0.250-0.250)  smtphooks / aiosmtpd" in text
    assert "1.200 (1.200-1.200)  smtphooks, all hooks / smtphooks" in text


def test_the_bars_of_the_plain_dialogue_name_every_peer_and_all_hooks_beside_none() -> None:
    """The headline of the bars is smtphooks with the two hooks, as the peers have callbacks."""
    wanted = {("smtphooks", peer.name) for peer in PEERS} | {("smtphooks, all hooks", "smtphooks, no hooks")}
    for name in ("1k", "50k", "recipients", "connections"):
        assert {bar.labels for bar in BARS if bar.workload == name} == wanted
        assert "canned replies" in {turn.label for turn in BY_NAME[name].turns}


def test_the_overview_has_only_workloads_with_peers() -> None:
    """The service is compared with smtphooks alone, and has no peer to fill a line with."""
    service = recordOf("service", {"smtphooks": [10], "smtphooks service, text log": [13]})
    plain = recordOf("1k", {"smtphooks": [10], "smtphooks, all hooks": [12], "aiosmtpd": [40]})
    lines = report.overview([service, plain]).splitlines()
    assert [line.partition("  ")[0] for line in lines[2:]] == ["1 KB, kept connections"]
    assert "1.300 (1.300-1.300)  smtphooks service, text log / smtphooks" in report.block(service)


# --- load ---


def test_bursts_are_whole_sessions() -> None:
    for workload in WORKLOADS:
        for turn in workload.turns:
            if isinstance(turn.job, Burst):
                load = turn.job.load
                assert isinstance(load, (Dialogue, SmtpSource))
                for scale in (1.0, 0.01):
                    assert load.scaled(scale).count >= load.sessions
                if isinstance(load, Dialogue):
                    assert load.count % load.sessions == 0


def test_a_step_awaits_a_reply_for_each_command() -> None:
    for steps in (SEQUENTIAL, PIPELINED, CHUNKED):
        assert [code for _, codes in steps for code in codes][-1] == 250
    assert PIPELINED[0][1] == (250, 250, 354)


# --- smtphooks as a server ---


@pytest.mark.parametrize(
    "variant, hooks",
    [
        ("", {"onRcptTo", "onData"}),
        ("twisted", {"onRcptTo", "onData"}),
        ("none", set()),
        (
            "all",
            {"onConnect", "onSecure", "onHelo", "onMailFrom", "onRcptTo", "onData", "onReset", "onClose"},
        ),
    ],
)
def test_a_variant_of_smtphooks_has_the_hooks_that_its_name_says(variant: str, hooks: set[str]) -> None:
    """Each is a coroutine; onAuth is there too, and takes no part in a dialogue without AUTH."""
    made = smtphooks_server.hooksOf(variant, "")
    assert {name for name in HOOKS if hasattr(made, name)} == hooks | {"onAuth"}
    assert all(inspect.iscoroutinefunction(getattr(made, name)) for name in hooks)


def awaited(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with suppress(ConnectionRefusedError):
            return Connection(port).close()
    raise AssertionError("the service does not start")


@pytest.mark.parametrize("variant", ["text", "json"])
def test_the_service_differs_from_the_server_by_its_log_alone(variant: str, tmp_path: Path) -> None:
    """It has the options and the hooks of the server, and writes a line for each message into a file."""
    makeCertificate(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    configuration = tomllib.loads(smtphooks_service.configuration(str(port), "smtp", str(tmp_path)))
    assert configuration == {
        "hooks": "benchmarks.servers.smtphooks_server:TwoHooks",
        "options": smtphooks_server.optionsFor("smtp", str(tmp_path)),
        "listener": [{"endpoint": smtphooks_server.endpoint(str(port))}],
    }
    command = [sys.executable, "-m", "benchmarks.servers.smtphooks_service", str(port), "smtp", str(tmp_path), variant]
    with subprocess.Popen(command, cwd=ROOT, env=environment()) as process:
        try:
            awaited(port, process)
            Dialogue(16, SEQUENTIAL).run(port)
        finally:
            process.terminate()
    lines = (tmp_path / f"{variant}.log").read_text().splitlines()
    assert sum("message from <sender@client.example>" in line for line in lines) == 16, lines
    assert variant == "text" or all(json.loads(line) for line in lines)


# --- what is measured of a process ---

BUSY = """
import os, sys, threading, time
def work():
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass
thread = threading.Thread(target=lambda: (work(), done.set(), threading.Event().wait()), daemon=True)
done = threading.Event()
thread.start()
done.wait()
if not os.fork():
    work()
    print("child", flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
"""


def test_cpu_time_counts_threads_and_children() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"child\n"
        pids = list(measure.tree(process.pid))
        measure.awaitQuiet(process.pid, measure.openFiles(process.pid))
        alone = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
        assert len(pids) == 2
        assert measure.cpuTime(process.pid) - alone > 0.19e9
        assert measure.memory(process.pid) > 1 << 20
        process.communicate(b"")


LATE = """
import sys
held = open("/dev/null")
print(flush=True)
sys.stdin.readline()
held.close()
sys.stdin.read()
"""


def test_a_process_is_not_quiet_before_its_connections_are_closed() -> None:
    with subprocess.Popen([sys.executable, "-c", LATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        files = measure.openFiles(process.pid) - 1
        timer = threading.Timer(0.1, os.write, [process.stdin.fileno(), b"\n"])
        timer.start()
        measure.awaitQuiet(process.pid, files)
        assert measure.openFiles(process.pid) == files
        timer.join()
        process.communicate(b"")


# --- a real run ---


def test_a_quick_run_writes_its_results(tmp_path: Path) -> None:
    names = ["pipelined", "handshakes", "latency"]
    only = [argument for name in names for argument in ("--only", name)]
    command = [sys.executable, "-m", "benchmarks", "--quick", *only, "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["workloads"]) == names
    (played,) = results["workloads"]["handshakes"]["rounds"]
    assert played["smtphooks"][CPU] > 0
    assert "twisted.mail" in played
    assert "twisted.mail does not offer PIPELINING" in done.stdout
    assert "smtphooks / twisted.mail" in (tmp_path / "results.txt").read_text()
    drawn = (tmp_path / "cpu.svg").exists()
    assert drawn or "pip install matplotlib" in done.stdout
    assert str(ROOT) not in "".join(path.read_text() for path in tmp_path.iterdir())


# --- the cores ---

PINNED = """
import os, subprocess, sys
from benchmarks import measure

ours, theirs = measure.cores()
os.sched_setaffinity(0, {ours})
assert measure.cores() == (ours, theirs), "the answer is the same once the load is pinned"
core = {"right": theirs, "wrong": ours}[sys.argv[1]]
server = subprocess.Popen(["sleep", "60"], preexec_fn=measure.childOn(core))
try:
    measure.checkCores(server.pid)
finally:
    server.kill()
    server.wait()
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
@pytest.mark.parametrize("where", ["right", "wrong"])
def test_load_and_servers_run_on_cores_of_their_own_or_nothing_is_measured(where: str) -> None:
    done = subprocess.run([sys.executable, "-c", PINNED, where], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode == 0) is (where == "right"), done.stderr
    assert ("may run on the cores" in done.stderr) is (where == "wrong")


ROGUE = """
import os, sys, threading
from benchmarks import measure
from benchmarks.servers import canned

class Rogue(canned.Canned):
    def dataReceived(self, data):
        # Another thread of the server, once the load has begun.
        if data.startswith(b"M") and threading.active_count() == 1:
            threading.Thread(target=self.leave, daemon=True).start()
            left.wait()
        super().dataReceived(data)

    def leave(self):
        os.sched_setaffinity(0, {int(sys.argv[1])})
        left.set()
        threading.Event().wait()

left = threading.Event()
canned.Canned = Rogue
canned.main(*sys.argv[2:])
"""

STRAYING = f"""
import os, sys
from dataclasses import replace
from benchmarks import measure
from benchmarks.load import SEQUENTIAL, Dialogue, SmtpSource
from benchmarks.peers import CANNED
from benchmarks.rounds import play
from benchmarks.running import started
from benchmarks.workloads import Burst, Turn, Workload

ours, theirs = measure.cores()
who = sys.argv[1]
os.environ["PATH"] += os.pathsep + "/usr/sbin"
os.sched_setaffinity(0, {{theirs if who == "the load" else ours}})
rogue = (sys.executable, "-c", {ROGUE!r}, str(ours))
wrapped = ("taskset", "-c", str(ours), *CANNED.program)
programs = {{"a thread of the server": rogue, "the server": wrapped}}
peer = replace(CANNED, program=programs.get(who, CANNED.program))
if who == "smtp-source":
    with started([peer], "smtp") as servers:
        os.sched_setaffinity(0, {{theirs}})
        SmtpSource(20, 1024).run(servers[peer].port)
else:
    job = Burst(Dialogue(8, SEQUENTIAL))
    play(Workload("1k", "", (Turn("one", peer, job),)), 1)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
@pytest.mark.parametrize("who", ["nothing", "the load", "smtp-source", "the server", "a thread of the server"])
def test_a_run_ends_where_the_load_or_a_thread_of_a_server_leaves_its_core(who: str) -> None:
    if who == "smtp-source" and not shutil.which("smtp-source", path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip("Postfix is not installed")
    done = subprocess.run([sys.executable, "-c", STRAYING, who], cwd=ROOT, capture_output=True, text=True, timeout=60)
    whose = {"the load": "the load", "smtp-source": "the load"}.get(who, "a server")
    assert ("may run on the cores" in done.stderr) is (who != "nothing"), done.stderr
    assert (f"of {whose} may run" in done.stderr) is (who != "nothing"), done.stderr


# --- the profile ---


@pytest.mark.parametrize(
    "frame, part",
    [
        ("untilConcludes (twisted/python/util.py:743)", KERNEL),
        ("Connection.doRead (twisted/internet/tcp.py:269)", KERNEL),
        ("DirectReactor.doPoll (smtphooks/reactor.py:41)", KERNEL),
        ("DirectTransport.write (smtphooks/connection/direct.py:75)", KERNEL),
        ("callWithLogger (twisted/python/log.py:85)", REACTOR),
        ("Deferred._runCallbacks (twisted/internet/defer.py:997)", COROUTINES),
        ("Logger.emit (twisted/logger/_logger.py:189)", LOG),
        ("EventLog.message (smtphooks/connection/eventlog.py:46)", LOG),
        ("lineOfJSON (smtphooks/service/jsonlog.py:62)", LOG),
        ("LogFile.write (twisted/python/logfile.py:171)", LOG),
        ("loadHooks (smtphooks/service/loading.py:40)", "service"),
        ("Wire._data (smtphooks/syntax/wire.py:226)", "syntax"),
        ("rcpt (smtphooks/dialogue/transaction.py:66)", "dialogue"),
        ("__init__ (<attrs generated methods smtphooks.session.Address>:31)", "connection"),
        ("main (elsewhere.py:1)", "connection"),
    ],
)
def test_a_sample_counts_for_the_innermost_part_that_is_known(frame: str, part: str) -> None:
    assert partOf(["main (server.py:1)", "Connection.pump (smtphooks/connection/connection.py:306)", frame]) == part


def test_a_sample_of_unknown_code_counts_as_other() -> None:
    assert partOf(["main (server.py:1)"]) == OTHER


def test_a_sample_in_a_module_counts_for_its_folder() -> None:
    package = ROOT / "smtphooks"
    for path in package.rglob("*.py"):
        part = partOf([f"f ({path.relative_to(ROOT)}:1)"])
        assert part in set(ORDER) - {OTHER}
        if path.parent != package:
            isLog = path.stem.endswith("log") or path.stem == "logfile"
            assert part == (LOG if isLog else path.relative_to(package).parts[0])
