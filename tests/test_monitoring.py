"""The alerts and the dashboard in contrib: Prometheus takes them, and each metric in them is scraped from a server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from smtphooks.metrics.families import FAMILIES, WORKER_FAMILIES
from smtphooks.metrics.merging import MergedMetrics
from tests.metrics import test_merging
from tests.metrics.scrape import Scrape
from tests.metrics.test_families import text
from tests.real.programs import ROOT, requires, run

RULES = ROOT / "contrib" / "prometheus" / "smtphooks.rules.yml"
DASHBOARD = json.loads((ROOT / "contrib" / "grafana" / "smtphooks.json").read_text())
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
# The dashboard asks for the listeners with a query of its own.
VARIABLES = [each["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]

_NAME = re.compile(r"\bsmtphooks_\w+")


@pytest.fixture(scope="module")
def scraped() -> dict[str, set[str]]:
    """The labels of each sample of a server, and of a supervisor, by name."""
    found: dict[str, set[str]] = {}
    for sample in (*Scrape(text()).samples, *test_merging.scrape(MergedMetrics()).samples):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("query", [*QUERIES, *VARIABLES, *(rule["expr"] for rule in ALERTS.values())])
def test_each_metric_and_label_of_a_query_is_scraped(query: str, scraped: dict[str, set[str]]) -> None:
    names = _NAME.findall(query)
    assert names or query == 'up{job="smtphooks"} == 0'
    labels = {"instance", "job", *(label for name in names for label in scraped[name])}
    asked = [each for those in re.findall(r"\b(?:by|without) \(([^)]*)\)", query) for each in those.split(", ")]
    asked += re.findall(r'(\w+)(?:=~|!~|!=|=)"', query)
    assert set(asked) <= labels


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for query in QUERIES for name in _NAME.findall(query)}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in shown} == {*FAMILIES, *WORKER_FAMILIES}


def test_the_dashboard_has_a_row_for_each_subject_and_panels_that_do_not_overlap() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Connections", "Transactions", "Refusals", "Time of hooks", "Latency", "Workers"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_alert_says_what_is_wrong_and_where() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"], name
        assert rule["annotations"]["description"].endswith("."), name


@requires("promtool")
def test_prometheus_takes_the_alerts() -> None:
    run("promtool", "check", "rules", RULES)


# For each alert: series of a server for which it fires, a value each minute, and the minute at which it does.
FIRING: dict[str, tuple[dict[str, str], int]] = {
    "SmtphooksDown": ({'up{job="smtphooks"}': "0x20"}, 5),
    "SmtphooksNotReady": ({"smtphooks_ready": "0x20"}, 10),
    "SmtphooksHookFaults": ({'smtphooks_hook_faults_total{hook="onRcptTo",layer="Box"}': "0 0 1x18"}, 5),
    "SmtphooksTemporaryFailures": (
        {
            'smtphooks_replies_total{code="451",verb="DATA"}': "0+20x40",
            'smtphooks_replies_total{code="250",verb="DATA"}': "0+100x40",
        },
        30,
    ),
    "SmtphooksSlowReplies": (
        {
            'smtphooks_final_dot_to_reply_seconds_bucket{le="10.0"}': "0+90x40",
            'smtphooks_final_dot_to_reply_seconds_bucket{le="30.0"}': "0+100x40",
            'smtphooks_final_dot_to_reply_seconds_bucket{le="+Inf"}': "0+100x40",
        },
        30,
    ),
    "SmtphooksSlowHook": (
        {
            'smtphooks_hook_seconds_bucket{hook="onRcptTo",layer="Box",le="5.0"}': "0+90x40",
            'smtphooks_hook_seconds_bucket{hook="onRcptTo",layer="Box",le="10.0"}': "0+100x40",
            'smtphooks_hook_seconds_bucket{hook="onRcptTo",layer="Box",le="+Inf"}': "0+100x40",
        },
        30,
    ),
    "SmtphooksBackPressure": ({"smtphooks_buffered_bytes": "100000000x40"}, 20),
    "SmtphooksNearMaxClients": ({"smtphooks_connection_limit_used_ratio": "0.9x40"}, 20),
    "SmtphooksAuthFailures": ({'smtphooks_auth_attempts_total{method="PLAIN",result="failure"}': "0+120x40"}, 20),
    "SmtphooksWorkersReplaced": ({'smtphooks_worker_restarts_total{reason="hung"}': "0 0 1x18"}, 5),
    "SmtphooksRedisAway": ({'smtphooks_redis_up{use="counts",server="redis:6379"}': "0x40"}, 20),
}

# A server with which all is well.
FINE = {
    'up{job="smtphooks"}': "1x40",
    "smtphooks_ready": "1x40",
    'smtphooks_hook_faults_total{hook="onRcptTo",layer="Box"}': "3x40",
    'smtphooks_replies_total{code="451",verb="DATA"}': "0+1x40",
    'smtphooks_replies_total{code="250",verb="DATA"}': "0+100x40",
    'smtphooks_final_dot_to_reply_seconds_bucket{le="10.0"}': "0+100x40",
    'smtphooks_final_dot_to_reply_seconds_bucket{le="+Inf"}': "0+100x40",
    'smtphooks_hook_seconds_bucket{hook="onData",layer="Box",le="5.0"}': "0+1x40",
    'smtphooks_hook_seconds_bucket{hook="onData",layer="Box",le="+Inf"}': "0+100x40",
    "smtphooks_buffered_bytes": "1000000x40",
    "smtphooks_connection_limit_used_ratio": "0.5x40",
    'smtphooks_auth_attempts_total{method="PLAIN",result="failure"}': "0+10x40",
    'smtphooks_worker_restarts_total{reason="died"}': "3x40",
    'smtphooks_redis_up{use="counts",server="redis:6379"}': "1x40",
}


def firing(series: dict[str, str], minute: int, folder: Path, expected: dict[str, bool]) -> None:
    """Have Prometheus say whether alerts fire at that minute."""
    labelled = {
        re.sub(r"\{|$", '{instance="mx:9125",', name, count=1).rstrip(",}") + "}": value
        for name, value in series.items()
    }
    tests: list[dict[str, Any]] = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in labelled.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if isFiring else [],
                }
                for alert, isFiring in expected.items()
            ],
        }
    ]
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    run("promtool", "test", "rules", path)


@requires("promtool")
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_for_what_it_is_for(alert: str, tmp_path: Path) -> None:
    series, minute = FIRING[alert]
    firing(series, minute, tmp_path, {name: name == alert for name in ALERTS})


@requires("promtool")
def test_no_alert_fires_while_all_is_well(tmp_path: Path) -> None:
    firing(FINE, 35, tmp_path, dict.fromkeys(ALERTS, False))


@requires("promtool")
@pytest.mark.parametrize("minute, fires", [(5, True), (25, False)])
def test_the_first_call_of_a_hook_may_be_the_one_that_fails(minute: int, fires: bool, tmp_path: Path) -> None:
    series = {'smtphooks_hook_faults_total{hook="onRcptTo",layer="Box"}': "_ _ 1x40"}
    firing(series, minute, tmp_path, {name: fires and name == "SmtphooksHookFaults" for name in ALERTS})
