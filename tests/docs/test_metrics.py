"""The page about metrics: its configuration and its program run as it says, and Prometheus takes what is for it."""

from __future__ import annotations

import os
import smtplib
import sys
import urllib.request
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
