"""The page about metrics: its configuration and its program run as it says, and Prometheus takes what is for it."""

from __future__ import annotations

import os
import signal
import smtplib
import sys
import urllib.request
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from tests.metrics.scrape import Scrape
from tests.pages import blocksOf, write
from tests.real.programs import PATIENCE, ROOT, Program, eventually, freePort, requires, run

PAGE = "metrics.rst"


@pytest.fixture
def ports() -> dict[str, int]:
    """Free ports in the place of those on the page."""
    return {"2525": freePort(), "9125": freePort()}


@pytest.fixture
def folder(tmp_path: Path, ports: dict[str, int]) -> Path:
    """The files of the page, with free ports."""
    write(PAGE, tmp_path)
    for path in tmp_path.iterdir():
        text = path.read_text()
        for shown, free in ports.items():
            text = text.replace(shown, str(free))
        path.write_text(text)
    return tmp_path


def start(folder: Path, *arguments: str) -> Program:
    return Program([sys.executable, *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}, folder)


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def answers(port: int) -> bool:
    try:
        return get(port, "/readyz") == "ok\n"
    except OSError:
        return False


@pytest.mark.parametrize(
    "arguments, listener", [(["-m", "smtphooks", "--config", "smtphooks.toml"], "tcp:"), (["embedded.py"], "mx")]
)
def test_what_the_page_shows_counts_a_message(
    folder: Path, ports: dict[str, int], arguments: list[str], listener: str
) -> None:
    program = start(folder, *arguments)
    try:
        eventually(lambda: answers(ports["9125"]), "the service is ready")
        with smtplib.SMTP("127.0.0.1", ports["2525"], timeout=PATIENCE) as client:
            client.sendmail("a@client.example", ["b@mx.example"], "Subject: x\r\n\r\ntext\r\n")
        scrape = Scrape(get(ports["9125"], "/metrics"))
    finally:
        program.terminate()
    ((label, result),) = scrape.of("smtphooks_messages_total", "listener", "result")
    assert label.startswith(listener)
    assert result == "accepted"
    assert scrape.one("process_open_fds") > 0


class Workers:
    """The service of the page with workers, and how it is scraped."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.ports = ports
        self.program = start(folder, "-m", "smtphooks", "--config", "workers.toml")

    def scrape(self) -> Scrape:
        return Scrape(get(self.ports["9125"], "/metrics"))

    def pids(self) -> set[int]:
        """The processes of the workers."""
        task = Path(f"/proc/{self.program.pid}/task/{self.program.pid}")
        return {int(pid) for pid in (task / "children").read_text().split()}

    def send(self, messages: int) -> None:
        for _ in range(messages):
            with smtplib.SMTP("127.0.0.1", self.ports["2525"], timeout=PATIENCE) as client:
                client.sendmail("a@client.example", ["b@mx.example"], "Subject: x\r\n\r\ntext\r\n")

    def become(self, name: str, label: str, value: str, number: int) -> None:
        eventually(lambda: self.scrape().of(name, label).get((value,)) == number, f"{name} of {value} is {number}")


@pytest.fixture
def workers(folder: Path, ports: dict[str, int]) -> Iterator[Workers]:
    service = Workers(folder, ports)
    try:
        eventually(lambda: answers(ports["9125"]), "the service is ready")
        yield service
    finally:
        service.program.terminate()


def test_workers_have_one_set_of_metrics_in_which_no_count_drops_when_one_dies_or_all_are_replaced(
    workers: Workers,
) -> None:
    workers.become("smtphooks_workers", "state", "ready", 2)
    workers.send(8)
    before = workers.scrape()
    assert before.of("smtphooks_messages_total", "result") == {("accepted",): 8}
    assert not [sample for sample in before.samples if "worker" in sample.labels]
    pids = workers.pids()
    os.kill(min(pids), signal.SIGSTOP)
    assert workers.scrape().of("smtphooks_messages_total") == {(): 8}, "it does not answer in time"
    os.kill(min(pids), signal.SIGKILL)
    workers.become("smtphooks_worker_restarts_total", "reason", "died", 1)
    workers.become("smtphooks_workers", "state", "ready", 2)
    assert workers.scrape().of("smtphooks_messages_total") == {(): 8}
    workers.send(4)
    pids |= workers.pids()
    os.kill(workers.program.pid, signal.SIGHUP)
    workers.become("smtphooks_reloads_total", "result", "done", 1)
    eventually(lambda: not workers.pids() & pids, "the old workers have ended")
    # What they had counted since the last scrape was their last word.
    after = workers.scrape()
    assert after.of("smtphooks_messages_total", "result") == {("accepted",): 12}
    for name in ("smtphooks_received_bytes_total", "smtphooks_final_dot_to_reply_seconds_sum"):
        assert after.one(name) > before.one(name) > 0


@requires("promtool")
def test_prometheus_has_nothing_to_say_against_the_metrics_of_workers(workers: Workers) -> None:
    workers.send(2)
    text = get(workers.ports["9125"], "/metrics").splitlines(keepends=True)
    ours = "".join(line for line in text if "smtphooks_" in line)
    assert run("promtool", "check", "metrics", stdin=ours.encode()).stdout == b""


@requires("promtool")
def test_prometheus_takes_the_configuration_of_the_page(folder: Path) -> None:
    (folder / "smtphooks.rules.yml").write_text((ROOT / "contrib/prometheus/smtphooks.rules.yml").read_text())
    run("promtool", "check", "config", folder / "prometheus.yml")


def test_the_probes_ask_the_paths_of_the_page() -> None:
    (pod,) = [yaml.safe_load(block.text) for block in blocksOf(PAGE, "yaml") if block.name == "pod.yaml"]
    (container,) = pod["spec"]["containers"]
    probes = {name: container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")}
    assert probes == {
        "livenessProbe": {"path": "/healthz", "port": 9125},
        "readinessProbe": {"path": "/readyz", "port": 9125},
    }
    assert pod["spec"]["terminationGracePeriodSeconds"] > 30 + 10


def test_the_extra_of_the_page_is_there() -> None:
    commands = [line for block in blocksOf(PAGE, "console") for line in block.text.splitlines()]
    assert commands == ["$ pip install 'smtphooks[metrics]'"]
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options.extras_require"]["metrics"].startswith("\nprometheus_client")
