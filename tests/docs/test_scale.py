"""docs/scale.rst: its files are accepted, it says what can happen, and it quotes a run in which nothing was lost."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from chaos.ledger import Told
from cluster.daemons import CLIENTS, EAGER, PAGE
from cluster.events import EVENTS
from cluster.run import LIMITS, MESSAGES, STATES
from tests.pages import DOCS, blocksOf, rowsOf, sectionsOf, write
from tests.real.programs import Program, requires, run

FILES = {block.name: block.text for block in blocksOf(PAGE) if block.name}
DIAGRAM = next(block.text for block in blocksOf(PAGE, "text") if "PROXY" in block.text)


def tableOf(headings: list[str]) -> list[dict[str, str]]:
    """The rows of the quoted table with these headings."""
    for table in (DOCS / "cluster/table.txt").read_text().split("\n\n"):
        rows = [re.split(r" {2,}", line.strip()) for line in table.splitlines() if line[:1] != "="]
        if rows[0] == headings:
            return [dict(zip(headings, row, strict=True)) for row in rows[1:]]
    raise AssertionError(f"no table has {headings}")


# --- the files ---


def test_the_diagram_has_the_machines_of_the_files() -> None:
    addresses = set(re.findall(r"\b10\.77\.0\.\d+", "".join(map(str, FILES.values()))))
    assert addresses == set(re.findall(r"\b10\.77\.0\.\d+", DIAGRAM))
    assert set(re.findall(r"\b192\.0\.2\.\d+", FILES["haproxy.cfg"])) == {"192.0.2.25"}
    assert "192.0.2.25" in DIAGRAM and "192.0.2.25" not in [EAGER, *CLIENTS]


@requires("haproxy")
def test_haproxy_finds_nothing_wrong(folder: Path) -> None:
    write(PAGE, folder)
    assert run("haproxy", "-c", "-f", "haproxy.cfg").stdout.strip() == b"Configuration file is valid"


@requires("redis-server")
def test_redis_starts_with_its_file(folder: Path) -> None:
    write(PAGE, folder)
    path = folder / "redis.conf"
    path.write_text(path.read_text().replace("bind 10.77.0.22\nport 6379", f"port 0\nunixsocket {folder}/socket"))
    redis = Program(["redis-server", str(path)], os.environ, folder)
    try:
        redis.waitForLine("ready to accept connections at")
        said = run("redis-cli", "-s", folder / "socket", "-a", "secret", "--no-auth-warning", "config", "get", "max*y*")
        assert b"268435456" in said.stdout and b"volatile-lru" in said.stdout
    finally:
        redis.kill()


def test_a_check_comes_in_time_and_a_session_outlives_what_smtphooks_waits_for() -> None:
    """As the page says: two seconds until a machine is found dead, and eight until its sessions end."""
    balancer = FILES["haproxy.cfg"]
    assert "inter 1s fall 2 rise 2" in balancer
    idle, interval, count = (int(re.findall(rf"srvtcpka-{key} (\d+)", balancer)[0]) for key in ("idle", "intvl", "cnt"))
    assert idle + interval * count == 8
    assert re.findall(r"tcp-ut (\d+)s$", balancer, re.MULTILINE) == ["8"] * 3


# --- what it says ---


def test_the_page_says_what_happens_at_each_event() -> None:
    section = sectionsOf(PAGE)["What happens when one is gone"]
    text = section.astext()
    for event in set(EVENTS) - {"nothing"}:
        assert event in text


def test_the_page_says_where_each_limit_is_counted() -> None:
    said = {
        entries[0].astext(): entries[2].astext()
        for entries in rowsOf(sectionsOf(PAGE)["What is counted where"], "What")
    }
    for option in ("maxClients", "maxClientsPerAddress", "authFailuresPerAddress"):
        assert said[option].startswith("Each machine by itself")
    assert "over all machines" in said["RateLimit"]


# --- the quoted run ---


@pytest.mark.parametrize("headings", [MESSAGES, LIMITS, STATES], ids=["messages", "limits", "states"])
def test_the_quoted_tables_have_all_phases(headings: list[str]) -> None:
    phases = dict.fromkeys(row["phase"] for row in tableOf(headings))
    assert [phase for phase in phases if phase != "all"] == list(EVENTS)


def test_in_the_quoted_run_nothing_is_lost_half_or_silent() -> None:
    for row in tableOf(MESSAGES):
        counts = {name: int(number) for name, number in row.items() if name != "phase"}
        assert counts["250"] > 0
        assert counts["sent"] == sum(counts[told.value] for told in Told)
        assert counts["found"] >= counts["250"]
        assert (counts["lost"], counts["half"], counts["silent"]) == (0, 0, 0)


def test_in_the_quoted_run_the_limit_holds_over_the_three_machines() -> None:
    rows = tableOf(LIMITS)
    assert {row["counts"] for row in rows if row["phase"].startswith("Redis") and row["when"] == "meanwhile"} == {"3"}
    for row in rows:
        late = int(row["by itself"]) if row["counts"] == "1" else 0
        assert int(row["accepted"]) <= int(row["at most"]) + late, row
    assert any(int(row["asked"]) > int(row["at most"]) for row in rows)


def test_in_the_quoted_run_haproxy_finds_dead_what_is() -> None:
    for row in tableOf(STATES):
        down = [name for name in STATES[1:] if "DOWN" in row[name]]
        assert len(down) == row["phase"].startswith("receiver"), row


def test_in_the_quoted_run_connections_are_cut_only_where_a_machine_is_gone() -> None:
    assert {row["phase"] for row in tableOf(MESSAGES) if int(row["cut"])} <= {
        "receiver killed",
        "receiver cut off",
        "all",
    }
